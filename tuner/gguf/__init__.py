"""A file's own words: parts, header, types, keys.

    header = read_header(path)          # of a split model all parts; raises FileError
    keys = Keys(header, "llama")        # the metadata of one architecture, typed

`part` parses one file, `header` puts parts together, `types` has the numbers of types.
"""

from tuner.gguf.header import Header, SkippedArray, TensorInfo, Value, read_header
from tuner.gguf.keys import Keys

__all__ = ["Header", "Keys", "SkippedArray", "TensorInfo", "Value", "read_header"]

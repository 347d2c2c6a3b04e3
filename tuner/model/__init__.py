"""What llama.cpp will build from a file.

    model = read_model(path)            # raises FileError where the engine would not load it
    model = describe(header)            # only where the file is no chat model

`architectures` has one row per architecture, `architecture` says what a row may state. By it
`load_hparams` reads the numbers of `hparams`, `layer_pattern` says which layers are of which kind,
`tensors` where each tensor goes; `chat_models` refuses what nobody can chat with, `vocabulary` and
`loadable` what llama.cpp's loader would refuse (`engine_reads` has what it asks for).
"""

from tuner.model.hparams import HParams
from tuner.model.model import Model, describe, read_model

__all__ = ["HParams", "Model", "describe", "read_model"]

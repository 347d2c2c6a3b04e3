"""The engine's functions, without what its Python package has beside them.

`import llama_cpp` also loads a chat of its own, with jinja2, which kvchat does not use: a quarter
of what a model process takes before it can begin.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec, module_from_spec

__all__ = ["llama_cpp"]

_PACKAGE = "llama_cpp"

_spec = None if _PACKAGE in sys.modules else find_spec(_PACKAGE)
if _spec is not None:
    sys.modules[_PACKAGE] = module_from_spec(_spec)  # its __init__ does not run
try:
    from llama_cpp import llama_cpp
finally:
    if _spec is not None:
        del sys.modules[_PACKAGE]  # whoever else wants the package gets all of it

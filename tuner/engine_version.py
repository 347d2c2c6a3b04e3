"""The engine that the tuner's arithmetic follows.

Every file of llama.cpp that a docstring names is the one vendored in this release of
llama-cpp-python, unless it says otherwise.
"""

from __future__ import annotations

ENGINE_VERSION = "0.3.36"

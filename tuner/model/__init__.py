"""What llama.cpp will build from a file.

    model = describe(header)            # raises FileError where the file is no chat model

`architectures` has one row per architecture, `architecture` says what a row may state. By it
`load_hparams` reads the numbers of `hparams`, `layer_pattern` says which layers are of which kind,
`tensors` where each tensor goes; `chat_models` refuses what nobody can chat with.
"""

from tuner.model.hparams import HParams
from tuner.model.model import Model, describe

__all__ = ["HParams", "Model", "describe"]

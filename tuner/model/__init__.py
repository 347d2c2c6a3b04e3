"""What llama.cpp will build from a file.

    model = describe(header)            # raises FileError where the file is no chat model

`architectures` has one row per architecture, `architecture` says what a row may state; `hparams`,
`layer_pattern` and `tensors` read a file by it, `chat_models` refuses what nobody can chat with.
"""

from tuner.model.hparams import HParams
from tuner.model.model import Model, describe

__all__ = ["HParams", "Model", "describe"]

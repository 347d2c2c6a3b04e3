"""One conversation and the answer that is being written.

`Chat` is the open conversation, `Generation` an answer as the engine's thread fills it, `Painter`
what takes its text, draws it and has it saved.
"""

from tui.answering.conversation import Chat
from tui.answering.generation import Generation
from tui.answering.painter import Painter

__all__ = ["Chat", "Generation", "Painter"]

"""One conversation and the answer that is being written.

`Chat` is the open conversation. `Answering` begins and ends its answers, one at a time: the
engine's thread fills a `Generation`, and a `Painter` takes its text, draws it and has it saved.
"""

from tui.answering.answering import Answering
from tui.answering.conversation import Chat
from tui.answering.generation import Generation
from tui.answering.painter import Painter

__all__ = ["Answering", "Chat", "Generation", "Painter"]

"""One conversation and the answer that is being written, without a screen.

`Chat` is the open conversation. The engine's thread fills a `Generation`; whoever shows the answer
empties it.
"""

from tui.answering.conversation import Chat
from tui.answering.generation import Generation

__all__ = ["Chat", "Generation"]

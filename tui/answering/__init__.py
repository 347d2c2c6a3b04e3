"""One conversation and the answer that is being written, without a screen.

`Chat` is the open conversation. The engine's thread fills a `Generation`; `Growing` takes from it
what came, for the conversation, for the store, and for whoever shows it.
"""

from tui.answering.conversation import Chat
from tui.answering.generation import Generation
from tui.answering.growing import Growing, Taken

__all__ = ["Chat", "Generation", "Growing", "Taken"]

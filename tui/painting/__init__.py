"""An answer on the screen.

`Answering` begins and ends answers, one at a time: a `Painter` takes the text of a generation,
draws it and has it saved.
"""

from tui.painting.answering import Answering
from tui.painting.painter import Painter

__all__ = ["Answering", "Painter"]

"""The parts of the chat's screen, from the transcript down to the hints.

`Transcript` holds the messages, each an `Entry` that may grow, `Prompt` what is being written;
`ActivityLine`, `StatusLine` and `Hints` are the lines below.
"""

from tui.widgets.entries import Entry, Item
from tui.widgets.plain import Plain
from tui.widgets.prompt import Prompt
from tui.widgets.status_lines import ActivityLine, Hints, StatusLine
from tui.widgets.transcript import Transcript

__all__ = ["ActivityLine", "Entry", "Hints", "Item", "Plain", "Prompt", "StatusLine", "Transcript"]

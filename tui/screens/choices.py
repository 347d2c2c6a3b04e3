"""What is chosen on a screen that opens over the chat."""

from __future__ import annotations

from dataclasses import dataclass

from tuner.settings import Settings


@dataclass(frozen=True, slots=True)
class Choice:
    """What is to be loaded. `keep`: it is the user's own, also for later launches; what kvchat
    would choose by itself is not. None: nothing is said of those."""

    settings: Settings
    keep: bool | None


@dataclass(frozen=True, slots=True)
class Opened:
    """The conversation to open, and where the words that were searched for stand in it."""

    conversation_id: str
    message_id: str | None = None
    words: str = ""

"""What a launch tells while it goes on, and a loaded model of its memory."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuner.launch.running import Running
    from tuner.settings import Settings


@dataclass(frozen=True, slots=True)
class Stage:
    """What the launch is doing now; `fraction` 0.0 to 1.0 where it is known."""

    text: str
    fraction: float | None = None


@dataclass(frozen=True, slots=True)
class Planned:
    """How the model is going to be loaded, in a few words, and the bytes of its file."""

    text: str
    n_ctx: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class Retry:
    """A way of loading failed, the next one is tried."""

    reason: str


@dataclass(frozen=True, slots=True)
class Ready:
    """The model answers now. The last event of a launch."""

    running: Running


@dataclass(frozen=True, slots=True)
class Look:
    """How a loaded model suits the memory that is free now."""

    tight: str = ""  # where other programs have nearly all of it
    settings: Settings | None = None  # that should be loaded in place of those that are,
    why: str = ""  # in a sentence
    offered: bool = False  # if the user wants


LaunchEvent = Stage | Planned | Retry | Ready

"""What a launch tells while it goes on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tuner.launch.running import Running


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


LaunchEvent = Stage | Planned | Retry | Ready

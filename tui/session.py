"""What the chat needs from a launched model, as shapes: the screens know nothing of the tuner."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from tuner.engine.protocol import Done, Message, PromptProgress, Sampling, Text
from tuner.settings import Settings


@dataclass(frozen=True)
class Stage:
    """What the launch is doing now; `fraction` 0.0 to 1.0 where it is known."""

    text: str
    fraction: float | None = None


@dataclass(frozen=True)
class Retry:
    """A way of loading failed, the next one is tried."""

    reason: str


@dataclass(frozen=True)
class Ready:
    """The model answers now. The last event of a launch."""

    running: Running


class LoadedModel(Protocol):
    """The facts about a model that the chat shows and saves."""

    @property
    def name(self) -> str: ...
    @property
    def architecture(self) -> str: ...
    @property
    def quantization(self) -> str: ...
    @property
    def n_ctx_train(self) -> int: ...
    @property
    def path(self) -> Path: ...
    @property
    def fingerprint(self) -> str: ...


class Running(Protocol):
    """A loaded model. Every method but `stop` blocks and belongs in a thread."""

    @property
    def model(self) -> LoadedModel: ...
    @property
    def settings(self) -> Settings: ...
    @property
    def warnings(self) -> tuple[str, ...]: ...
    @property
    def log_path(self) -> Path | None: ...

    def report_text(self, width: int) -> str: ...
    def status(self) -> str: ...
    def vram_used(self) -> tuple[int, int] | None: ...
    def generate(
        self, messages: Sequence[Message], sampling: Sampling, continue_last: bool = False
    ) -> Iterator[PromptProgress | Text | Done]: ...
    def count_tokens(self, messages: Sequence[Message]) -> int: ...
    def stop(self) -> None: ...
    def close(self) -> None: ...
    def reload(self) -> Iterator[Stage | Retry | Ready]: ...


class Launcher(Protocol):
    """Plans and loads one model file."""

    @property
    def path(self) -> Path: ...
    def start(self) -> Iterator[Stage | Retry | Ready]: ...
    def cancel(self) -> None: ...

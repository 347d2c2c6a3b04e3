"""How the model did since the program began: speeds, memory, heat, for small plots."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from tui.answering.figures import reading
from tui.storage import StoredMessage
from tuner.engine.protocol import Done

if TYPE_CHECKING:
    from tui.ports import Vitals

MOST = 512  # values that are kept of anything


class Series:
    """Values that came at equal times, from the first to the last. Where they are too many, two
    neighbours become the larger of both, and what comes later is taken by as many at once."""

    def __init__(self, most: int = MOST):
        """`most`: an even number."""
        self._most = most
        self._kept: list[float] = []
        self._coming: list[float] = []  # for the next value that is kept
        self._share = 1  # values that make one that is kept

    def add(self, value: float) -> None:
        """The next one."""
        self._coming.append(value)
        if len(self._coming) == self._share:
            self._kept.append(max(self._coming))
            self._coming.clear()
        if len(self._kept) == self._most:
            self._kept = list(map(max, self._kept[::2], self._kept[1::2]))
            self._share *= 2
            self._coming.clear()

    @property
    def values(self) -> tuple[float, ...]:
        """What is kept, the newest last."""
        return (*self._kept, *([max(self._coming)] if self._coming else ()))


class Session:
    """Bounded, however long it goes on."""

    def __init__(self) -> None:
        self.context, self.vram, self.ram = Series(), Series(), Series()  # tokens, bytes, bytes
        self.temperature = Series()  # °C
        self.speeds: deque[float] = deque(maxlen=MOST)  # tokens/s, of each answer
        self.reads: deque[float] = deque(maxlen=MOST)  # the same of prompts
        self.now: Vitals | None = None  # as they were read last
        self.last_reading = ""  # what of the last prompt had to be read

    def sample(self, vitals: Vitals | None, n_ctx_used: int | None) -> None:
        """How things stand now; None where it is not known. To be called at equal times."""
        self.now = vitals
        if n_ctx_used is not None:
            self.context.add(n_ctx_used)
        if vitals is None:
            return
        self.ram.add(vitals.ram[0])
        if vitals.vram is not None:
            self.vram.add(vitals.vram[0])
        if vitals.temperature is not None:
            self.temperature.add(vitals.temperature)

    def answered(self, answer: StoredMessage, done: Done) -> None:
        """An answer has come; `done`: as the engine counted what came last of it."""
        self.last_reading = reading(done)
        if answer.tokens_per_second:
            self.speeds.append(answer.tokens_per_second)
        fresh = (answer.n_prompt or 0) - (answer.n_reused or 0)
        if fresh > 0 and answer.prompt_seconds and done.n_decoded:  # else it may be half read
            self.reads.append(fresh / answer.prompt_seconds)

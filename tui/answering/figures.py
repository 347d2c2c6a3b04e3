"""How fast an answer comes, and the figures of one that is there."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable

from tui.storage import StoredMessage
from tuner.engine.protocol import Done
from tuner.units import count_text, seconds_text, tps_text

WINDOW_SECONDS = 5.0  # over which the speed of now is told,
LEAST_SECONDS = 0.5  # once so much of it is there


class Pace:
    """Tokens/s of now."""

    def __init__(self, clock: Callable[[], float] = time.monotonic):
        self._clock = clock
        self._noted: deque[tuple[float, int]] = deque()  # seconds, tokens by then

    def note(self, n_tokens: int) -> None:
        """So many tokens are written by now."""
        now = self._clock()
        self._noted.append((now, n_tokens))
        while now - self._noted[0][0] > WINDOW_SECONDS:
            self._noted.popleft()

    @property
    def tps(self) -> float | None:
        """None: nothing can be said yet."""
        if not self._noted:
            return None
        (began, before), (last, now) = self._noted[0], self._noted[-1]
        return (now - before) / (last - began) if last - began >= LEAST_SECONDS else None


def first_word(seconds: float | None) -> str:
    """How long the first word took; "" where that is not known."""
    return "" if seconds is None else f"first word {seconds_text(seconds)}"


def reading(done: Done) -> str:
    """What of a prompt had to be read, and why more than what is new in it, where that is so:
    reused 11,900 of 12,146 tokens; 246 new. "" where it was stopped before that was known."""
    if not done.n_prompt:
        return ""
    fresh = done.n_prompt - done.n_reused
    said = f"reused {done.n_reused:,} of {count_text(done.n_prompt, 'token')}; {fresh:,}"
    return f"{said} read: {done.read_again}" if done.read_again else f"{said} new"


def figures(answer: StoredMessage) -> str:
    """What is known of how an answer came: 412 tokens · 34 t/s · first word 0.6 s · read 246 new
    of 12,146. The tokens that are not new were in the cache."""
    speed, prompt, reused = answer.tokens_per_second, answer.n_prompt, answer.n_reused
    parts = (
        count_text(answer.n_tokens, "token") if answer.n_tokens else "",
        "" if speed is None else f"{tps_text(speed)} t/s",
        first_word(answer.first_seconds),
        "" if prompt is None or reused is None else f"read {prompt - reused:,} new of {prompt:,}",
    )
    return " · ".join(part for part in parts if part)

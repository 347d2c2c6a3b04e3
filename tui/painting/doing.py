"""What is going on while an answer comes, in a line."""

from __future__ import annotations

from tui.answering import Growing
from tui.answering.figures import first_word
from tui.status import gauge
from tuner.engine.patience import STILL_SECONDS
from tuner.engine.protocol import PromptProgress
from tuner.units import count_text, seconds_text, tps_text

BAR = 12  # cells
LONG_SECONDS = 1.0  # a reading that takes longer says for how long, and how fast it is


def doing(growing: Growing, progress: PromptProgress | None, tps: float | None) -> str:
    """Reading, thinking or writing, and how it gets on. `tps`: tokens/s of now."""
    generation = growing.generation
    still = generation.still
    if still >= STILL_SECONDS:
        return f"the engine has not got on for {still:.0f} s"
    if growing.n_tokens:
        what = "thinking" if growing.thinks else "writing"
        if tps is None:
            return what
        speed, first = f"{tps_text(tps)} t/s", first_word(generation.first_seconds)
        return " · ".join(filter(None, (what, count_text(growing.n_tokens, "token"), speed, first)))
    if progress is not None and progress.total and progress.done < progress.total:
        return _reading(progress, generation.seconds)
    return "thinking" if progress is None or not progress.total else "reading"


def _reading(progress: PromptProgress, seconds: float) -> str:
    done, total = progress.done, progress.total
    said = f"reading {done:,} of {total:,} tokens {gauge(done, total, BAR)}"
    if seconds < LONG_SECONDS or not done:
        return said
    return f"{said} · {tps_text(done / seconds)} t/s · {seconds_text(seconds)}"

"""The status line as text: the most important parts first, as many as the width takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.units import GIB

GAUGE = 8  # cells
SEPARATOR = " · "


@dataclass(frozen=True, slots=True)
class Status:
    """What the line can say; None where it is not known."""

    model: str
    settings: str = ""  # parts separated by " · ", the most important first
    n_ctx: int = 0
    n_ctx_used: int | None = None
    vram: tuple[int, int] | None = None  # bytes used, total
    tokens_per_second: float | None = None
    think: str = ""  # the level of thinking, where there is a choice


def gauge(used: int, total: int, cells: int = GAUGE) -> str:
    """A bar of `cells` cells; anything above nothing shows."""
    filled = min(cells, round(cells * used / total)) if total else 0
    filled = max(filled, 1) if used else filled
    return "━" * filled + "─" * (cells - filled)


# The order in which parts give way as the width shrinks; each step takes the next shorter form.
_STEPS = (
    "settings", "think", "context", "vram", "context", "model", "settings", "settings", "model",
    "vram", "settings", "speed", "context", "model", "context",
)  # fmt: skip


def compose(status: Status, width: int) -> str:
    """One line of at most `width` characters. Parts are shortened, then left out, the least
    important first; a number is never cut."""
    forms = {
        "model": _names(status.model),
        "settings": _settings(status.settings),
        "think": (f"thinking {status.think}", "") if status.think else ("",),
        "context": _context(status.n_ctx, status.n_ctx_used),
        "vram": _vram(status.vram),
        "speed": ("",)
        if status.tokens_per_second is None
        else (f"{status.tokens_per_second:.1f} tok/s", ""),
    }
    level = dict.fromkeys(forms, 0)

    def line() -> str:
        shown = (choices[level[part]] for part, choices in forms.items())
        return SEPARATOR.join(part for part in shown if part)

    for part in _STEPS:
        if len(line()) <= width:
            break
        level[part] = min(level[part] + 1, len(forms[part]) - 1)
    text = line()
    return text if len(text) <= width else ""


def _names(name: str) -> Sequence[str]:
    return name, *(_shortened(name, width) for width in (20, 12)), ""


def _settings(text: str) -> Sequence[str]:
    # The context has a part of its own in this line.
    parts = [part for part in text.split(SEPARATOR) if part and not part.startswith("ctx ")]
    fewer = [SEPARATOR.join(parts[:n]) for n in range(len(parts), 0, -1)]
    return *fewer[:4], *[""] * max(1, 5 - len(fewer))


def _context(total: int, used: int | None) -> Sequence[str]:
    if not total:
        return ("",)
    if used is None:
        return f"context {total:,}", f"ctx {total:,}", ""
    percent = f"{100 * used / total:.0f}%"
    numbers = f"{used:,}/{total:,}"
    bar = gauge(used, total)
    return (
        f"context {numbers} {bar} {percent}",
        f"{numbers} {bar} {percent}",
        f"{numbers} {percent}",
        percent,
        "",
    )


def _vram(vram: tuple[int, int] | None) -> Sequence[str]:
    if vram is None:
        return ("",)
    used, total = (size / GIB for size in vram)
    return f"VRAM {used:.1f}/{total:.1f} GiB", f"{used:.1f}/{total:.0f} GiB", ""


def _shortened(name: str, width: int) -> str:
    return name if len(name) <= width else name[: width - 1].rstrip(" -_") + "…"

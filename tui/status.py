"""The status line as text: the most important parts first, as many as the width takes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from tuner.cells import cells, clip
from tuner.units import size_text, tokens_text, tps_text

GAUGE = 8  # cells
FULL, EMPTY = "█", "░"  # of a gauge
WARNING = "!"
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
    cache: tuple[int, int] | None = None  # bytes that the tokens fill, and all that it has
    ram: tuple[int, int] | None = None  # bytes used, total
    temperature: int | None = None  # °C of the hottest GPU
    power: float | None = None  # W of the GPUs together
    word: str = ""  # what is not as it should be


def gauge(used: int, total: int, cells: int = GAUGE) -> str:
    """A bar of `cells` cells; anything above nothing shows."""
    filled = min(cells, round(cells * used / total)) if total else 0
    filled = max(filled, 1) if used else filled
    return FULL * filled + EMPTY * (cells - filled)


# The order in which parts give way as the width shrinks; each step takes the next shorter form.
_STEPS = (
    "heat", "ram", "settings", "context", "vram", "think", "ram", "heat", "settings", "model",
    "context", "settings", "settings", "vram", "model", "settings", "speed", "context", "model",
    "context", "word",
)  # fmt: skip


def compose(status: Status, width: int) -> str:
    """One line of at most `width` cells. Parts are shortened, then left out, the least
    important first; a number is never cut."""
    tps = status.tokens_per_second
    forms = {
        "word": (f"{WARNING} {status.word}", "") if status.word else ("",),
        "model": _names(status.model),
        "settings": _settings(status.settings),
        "think": (f"thinking {status.think}", "") if status.think else ("",),
        "context": _context(status),
        "vram": _memory("VRAM", status.vram),
        "ram": _memory("RAM", status.ram),
        "heat": _heat(status.temperature, status.power),
        "speed": ("",) if tps is None else (f"{tps_text(tps)} t/s", ""),
    }
    level = dict.fromkeys(forms, 0)

    def line() -> str:
        shown = (choices[level[part]] for part, choices in forms.items())
        return SEPARATOR.join(part for part in shown if part)

    shortened: list[str] = []
    for part in _STEPS:
        if cells(line()) <= width:
            break
        if level[part] + 1 < len(forms[part]):
            level[part] += 1
            shortened.append(part)
    for part in reversed(shortened):  # what went in vain, as more had to go all the same
        level[part] -= 1
        if cells(line()) > width:
            level[part] += 1
    text = line()
    return text if cells(text) <= width else ""


def of_bytes(used: int, total: int) -> str:
    """1.1 of 4.0 GiB, 12 of 90 MiB, 12 MiB of 1.1 GiB."""
    number, unit = size_text(used).split()
    whole = size_text(total)
    return f"{number} of {whole}" if whole.endswith(f" {unit}") else f"{number} {unit} of {whole}"


def heat_text(temperature: int | None, power: float | None) -> str:
    """64 °C 213 W, as far as they are known."""
    degrees = "" if temperature is None else f"{temperature} °C"
    watts = "" if power is None else f"{power:.0f} W"
    return " ".join(filter(None, (degrees, watts)))


def _names(name: str) -> Sequence[str]:
    return name, *(_shortened(name, width) for width in (20, 12)), ""


def _settings(text: str) -> Sequence[str]:
    # The context has a part of its own in this line.
    parts = [part for part in text.split(SEPARATOR) if part and not part.startswith("ctx ")]
    fewer = [SEPARATOR.join(parts[:n]) for n in range(len(parts), 0, -1)]
    return *fewer[:4], *[""] * max(1, 5 - len(fewer))


def _context(status: Status) -> Sequence[str]:
    used, total = status.n_ctx_used, status.n_ctx
    if not total:
        return ("",)
    if used is None:
        whole = tokens_text(total)
        return f"context {whole}", f"context {whole}", f"ctx {whole}", f"ctx {whole}", ""
    numbers = f"{tokens_text(used)} of {tokens_text(total)}"
    bar = gauge(used, total)
    return (
        f"{bar} {numbers}, {of_bytes(*status.cache)}" if status.cache else f"{bar} {numbers}",
        f"{bar} {numbers}",
        numbers,
        f"{100 * used / total:.0f}%",
        "",
    )


def _memory(name: str, memory: tuple[int, int] | None) -> Sequence[str]:
    if memory is None:
        return ("",)
    numbers = of_bytes(*memory)
    return f"{name} {gauge(*memory)} {numbers}", f"{name} {numbers}", ""


def _heat(temperature: int | None, power: float | None) -> Sequence[str]:
    return heat_text(temperature, power), heat_text(temperature, None), ""


def _shortened(name: str, width: int) -> str:
    return name if cells(name) <= width else clip(name, width)

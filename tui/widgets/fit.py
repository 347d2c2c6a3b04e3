"""The parts of the fit explorer: dials, memory, figures, other plans, and what a context costs."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import TYPE_CHECKING, Any

from tui.widgets.lines import Compose, Piece, Row
from tui.widgets.plots import column
from tuner.cells import cells, clip, pad, wrap
from tuner.machine.machine import Machine
from tuner.planning.speed import TURN_ANSWER, TURN_PROMPT, holds_turn
from tuner.report import bars
from tuner.safe_text import one_line
from tuner.settings import Settings
from tuner.units import GIB, seconds_text, size_text, tokens_text, tps_text

if TYPE_CHECKING:
    from tui.ports import Candidate, Dial

LABEL = 16  # cells for the name of a dial
VALUE = 18  # and for its value with the arrows
LEAST_DETAIL = 12
LEAST_SLIDER, MOST_SLIDER = 12, 40
LEAST_BAR = 8
LEAST_NOTE, MOST_NOTE = 4, 20
MOST_OFFER = 58  # cells that an offer takes without its layers
WIDEST_COLUMN = 6  # of the chart

# Of each part of a bar (`bars.PARTS`), from the theme.
_COLOURS = ("$primary", "$text-secondary", "$accent", "$warning", "$text-secondary", "$muted",
            "$muted", "$muted")  # fmt: skip


# ---------------------------------------------------------------- dials


def dials(
    rows: Sequence[Dial], settings: Settings, at: int, candidate: Candidate | None, n_layers: int
) -> Compose:
    """A line for each dial, the one at `at` under the cursor. `candidate`: what the settings give,
    as soon as it is known. `n_layers`: with experts."""

    def compose(width: int) -> list[Row]:
        lines: list[Row] = []
        for i, dial in enumerate(rows):
            here, now = i == at, dial.values.index(dial.value(settings))
            value = _value(dial, settings, n_layers)
            left = "◂ " if now else "  "
            right = " ▸" if now + 1 < len(dial.values) else "  "
            room = width - 2 - LABEL - VALUE
            detail = _detail(dial, settings, candidate, room) if room >= LEAST_DETAIL else ""
            lines.append(
                (
                    ("▌ " if here else "  ", "$primary"),
                    (pad(dial.label, LABEL), "bold" if here else "$muted"),
                    (left, "$primary" if here else "$muted"),
                    (value, "bold" if here else ""),
                    (right, "$primary" if here else "$muted"),
                    (" " * max(1, VALUE - cells(value) - 4) if detail else ""),
                    (detail, "$muted"),
                )
            )
        return lines

    return compose


def _value(dial: Dial, settings: Settings, n_layers: int) -> str:
    value: Any = dial.value(settings)
    if dial.names == ("gpus",):
        return _gpus(value, dial.values[-1])
    if dial.names == ("n_gpu_layers",):
        return f"{value} of {dial.values[-1]}"
    if dial.names == ("n_cpu_moe",):
        return f"{value} of {n_layers}"
    return f"{value:,}" if isinstance(value, int) else str(value)


def _gpus(used: tuple[str, ...], all_of_them: tuple[str, ...]) -> str:
    """Which GPUs are used, in a word or two."""
    left = [gpu for gpu in all_of_them if gpu not in used]
    if not used:
        return "none"
    if not left:
        return "all" if len(used) > 1 else used[0]
    return f"without {left[0]}" if len(left) == 1 else "+".join(used)


def _detail(dial: Dial, settings: Settings, candidate: Candidate | None, room: int) -> str:
    fixed = "  as the flag says" if dial.fixed else ""
    if dial.names == ("n_ctx",):
        most = f" {dial.values[-1]:,}"
        slider = min(MOST_SLIDER, room - len(most) - len(fixed))
        if slider < LEAST_SLIDER:
            return fixed.strip()
        at = round((slider - 3) * dial.values.index(settings.n_ctx) / max(1, len(dial.values) - 1))
        return f"├{'─' * at}●{'─' * (slider - 3 - at)}┤{most}{fixed}"
    said = ""
    if dial.names == ("n_gpu_layers",) and candidate and candidate.settings.tensor_split:
        said = "split " + ":".join(f"{share:g}" for share in candidate.settings.tensor_split)
    elif dial.names[-1] == "type_v" and candidate:
        quality = candidate.quality
        said = quality.text if len(quality.text) <= room - len(fixed) else quality.words
        said = said if quality.loss else "no loss"
    elif dial.names == ("n_ubatch",):
        said = "tokens read at once"
    elif dial.names == ("n_cpu_moe",):
        said = "layers"
    return (said + fixed).strip()


# ---------------------------------------------------------------- memory


def memory(machine: Machine, candidate: Candidate) -> Compose:
    """A bar for each pool of memory, and what the marks mean."""

    def compose(width: int) -> list[Row]:
        name = max(len(pool.name) for pool in machine.pools) + 1
        lines: list[Row] = []
        there = [0] * len(bars.PARTS)
        for pool in machine.pools:
            sizes = bars.sizes(pool, candidate.footprint)
            there = [a + b for a, b in zip(there, sizes, strict=True)]
            taken = sum(sizes[: len(bars.TAKEN)])
            over = taken > pool.budget
            numbers = f"  {(taken + pool.total - pool.free) / GIB:.1f} of {size_text(pool.total)}"
            room = width - name - len(numbers)
            pieces: list[Piece] = [(pad(pool.name, name), "$text-error" if over else "")]
            if room >= LEAST_BAR:
                pieces += _bar(sizes, pool.total, room)
            pieces.append((numbers, "bold $text-error" if over else ""))
            lines.append(tuple(pieces))
        legend: list[Piece] = [" " * name]
        for part, colour, size in zip(bars.PARTS, _COLOURS, there, strict=True):
            if size:
                legend += [(part.mark, colour), (f" {part.label}  ", "$muted")]
        return [*lines, tuple(legend)]

    return compose


def _bar(sizes: Sequence[int], total: int, width: int) -> list[Piece]:
    """The parts by their marks; what is beyond the total in the colour of errors."""
    lengths = bars.lengths(sizes, total, width)
    end = round(width * total / max(sum(sizes), total, 1))  # where the device ends
    pieces: list[Piece] = []
    at = 0
    for part, colour, length in zip(bars.PARTS, _COLOURS, lengths, strict=True):
        within = min(max(0, end - at), length)
        pieces += [(part.mark * within, colour), (part.mark * (length - within), "$error")]
        at += length
    return [piece for piece in pieces if piece[0]]


# ---------------------------------------------------------------- figures


def figures(candidate: Candidate) -> Compose:
    """How fast it answers, the more is in the cache, how fast it reads, and what a turn takes."""
    speed = candidate.speed
    about = "" if speed.source == "measured" else "~"
    reads = "" if speed.prompt_source == "measured" else "~"
    first, *others = speed.decode_tps_at.items()
    deeper = "".join(f" · {tps_text(tps)} at {tokens_text(depth)}" for depth, tps in others)
    tokens = f"{TURN_PROMPT:,} read, {TURN_ANSWER:,} written"
    turn = (
        ("    a turn  ", "$muted"),
        f"{about}{seconds_text(speed.turn_seconds)}",
        (f" ({tokens})", "$muted"),
    )

    def compose(width: int) -> list[Row]:
        return [
            (
                ("answers  ", "$muted"),
                f"{about}{tps_text(first[1])} t/s",
                (" at first", "$muted"),
                deeper,
            ),
            (
                ("reads    ", "$muted"),
                f"{reads}{tps_text(speed.prompt_tps)} t/s",
                *(turn if holds_turn(candidate.settings.n_ctx) else ()),
            ),
        ]

    return compose


def notes(said: Sequence[str]) -> Compose:
    """What to beware of."""

    def compose(width: int) -> list[Row]:
        lines = (cut for note in said for cut in wrap(f"! {one_line(note)}", max(1, width)))
        return [((text, "$text-warning"),) for text in lines]

    return compose


def verdict(candidate: Candidate, missing: str, *, exact: bool) -> Compose:
    """Whether it fits, and if not, what is missing."""

    def compose(width: int) -> list[Row]:
        if missing:
            return [((f"! does not fit: {missing}", "$text-error"),)]
        how = candidate.footprint.source if exact else "computing"
        return [(("fits", "$text-success"), (f" ({how})", "$muted"))]

    return compose


# ---------------------------------------------------------------- other plans


def offers(listed: Sequence[tuple[str, Candidate]], at: int | None, n_items: int) -> Compose:
    """A line for each plan that can be taken over: its key and what it has."""

    def compose(width: int) -> list[Row]:
        lines: list[Row] = []
        for i, (key, c) in enumerate(listed):
            s, here = c.settings, i == at
            pair = s.type_k if s.type_k == s.type_v else f"{s.type_k}/{s.type_v}"
            layers = f"{min(s.n_gpu_layers, n_items)}/{n_items}"
            text = f"{tps_text(c.speed.decode_tps):>5} t/s {s.n_ctx:>8,}  {pair:<9}"
            text += f" {layers:>7}" if width > MOST_OFFER else ""
            name = max(LEAST_NOTE, min(MOST_NOTE, width - 4 - cells(text)))
            note = one_line(c.note).replace("--", "") or "kvchat's own"
            lines.append(
                (
                    ("▌ " if here else "  ", "$primary"),
                    (f"{key} ", "$text-accent"),
                    (pad(clip(note, name), name), "bold" if here else "$muted"),
                    text,
                )
            )
        return lines

    return compose


# ---------------------------------------------------------------- what a context costs


def chart(points: Sequence[tuple[int, float]], mark: tuple[int, float], height: int) -> Compose:
    """Columns of tokens/s over contexts, the shortest first; `mark` is what is shown now, in its
    own colour where it stands. The columns are the best that fits for each context."""

    def compose(width: int) -> list[Row]:
        if not points:
            return []
        values = dict(points)
        contexts = sorted({*values, mark[0]})
        top = max(*values.values(), mark[1])
        scale = f"{tps_text(top)} ┤"
        room = width - len(scale)
        if room < len(contexts):
            return []
        each = min(WIDEST_COLUMN, room // len(contexts))
        top_of_mark = max(0, ceil((height - 1) * mark[1] / top) - 1)
        rows: list[Row] = []
        at = contexts.index(mark[0])
        for row in range(height - 2, -1, -1):
            columns = [
                column(values.get(n_ctx, 0.0) * (height - 1) / top - row, each)
                for n_ctx in contexts
            ]
            axis = scale if row == height - 2 else "│".rjust(len(scale))
            here = (columns[at], "$text-secondary")
            if row == top_of_mark:
                here = (pad("●", each), "bold $primary")
            rows.append(
                (
                    (axis + "".join(columns[:at]), "$muted"),
                    here,
                    ("".join(columns[at + 1 :]), "$muted"),
                )
            )
        return [*rows, ((_axis(contexts, each, len(scale), width), "$muted"),)]

    return compose


def _axis(contexts: Sequence[int], each: int, indent: int, width: int) -> str:
    """Contexts below their columns, as many as there is room for."""
    text = ""
    for i, n_ctx in enumerate(contexts):
        start, name = indent + i * each, tokens_text(n_ctx)
        if start >= len(text) + (1 if text else 0) and start + len(name) <= width:
            text = text.ljust(start) + name
    return text

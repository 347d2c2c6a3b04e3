"""The fit report: a plan as text for people."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any, NamedTuple

from tuner.cells import cells, clip, pad, wrap
from tuner.engine_version import other_engine_text
from tuner.errors import KvchatError
from tuner.machine.machine import Pool
from tuner.memory.footprint import ENGINE_KINDS, DeviceUse
from tuner.model.model import Model
from tuner.planning import Plan, difference_text
from tuner.profiles.actual import Actual, off_by
from tuner.safe_text import one_line
from tuner.settings import Settings
from tuner.units import size_text, tps_text

WIDTH = 80
LEAST_WIDTH = 20  # a narrower terminal wraps the lines itself
ROOMY = 40  # from here on names of settings have a column of their own
BILLION = 1e9
MIN_NAME = 16  # cells that a name gets at least beside other columns
MAX_NAME = 60  # and at most
MAX_PROCESSES = 3  # other processes named per GPU


class _Part(NamedTuple):
    """What fills a stretch of a device's bar."""

    label: str
    mark: str
    color: str  # ANSI
    kinds: tuple[str, ...] = ()  # of memory; none: what a plan does not take


# In the order of the bar. People are shown one cache, whatever it is made of.
_PARTS = (
    _Part("weights", "█", "34", ("weights",)),
    _Part("cache", "▓", "36", ("kv_cache", "recurrent_state")),
    _Part("compute", "▒", "35", ("compute",)),
    _Part("overhead", "░", "33", ("overhead",)),
)
_REST = (_Part("in use", "×", "31"), _Part("reserve", "-", "2"), _Part("free", "·", "2"))


# Settings that the report has words for; a new one goes by its name.
_PHRASED = frozenset({
    "n_ctx", "type_k", "type_v", "n_gpu_layers", "n_cpu_moe", "n_ubatch", "tensor_split",
    "flash_attn",
})  # fmt: skip


class Style:
    """ANSI colour, or nothing at all."""

    def __init__(self, color: bool) -> None:
        self.color = color

    def __call__(self, text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if self.color and text else text

    def head(self, text: str) -> str:
        return self(text, "1")


def report_text(
    plan: Plan, *, width: int = WIDTH, color: bool = False, actual: Actual | None = None
) -> str:
    """The report of one model, at most `width` columns wide."""
    style = Style(color)
    width = max(LEAST_WIDTH, width)
    lines = [*_wrap(model_line(plan.model), width, "", style.head), ""]
    for pool in plan.machine.pools:
        lines += _pool(pool, plan, width, style)
    title = "Chosen" if plan.chosen.fits else "Closest, but it does not fit"
    lines += ["", *_wrap(title, width, "", style.head), *_settings(plan, width)]
    if sampling := plan.sampling.lines():
        lines += ["", style.head("Sampling")]
        for line in sampling:
            lines += _wrap(one_line(line), width, "  ")
    if actual:
        lines += ["", style.head("Predicted and actual"), *_comparison(plan, actual, width, style)]
    if plan.reasons:
        lines += ["", style.head("Why")]
        for reason in plan.reasons:
            lines += _wrap(reason, width, "  - ")
    if plan.alternatives:
        title = "Also possible" if plan.chosen.fits else "What would fit"
        lines += ["", style.head(title), *_choices(plan, width, style)]
    gain = plan.one_more_gib and difference_text(plan.model, plan.chosen, plan.one_more_gib)
    if gain:
        lines += ["", *_wrap(f"With 1 GiB more: {gain}.", width, "")]
    for warning in plan.warnings:
        lines += ["", *_warning(warning, width, style)]
    return "\n".join(lines) + "\n"


def model_line(model: Model) -> str:
    """The model in a line."""
    parts = [model.name]
    if model.architecture not in model.name.lower():
        parts.append(model.architecture)
    experts = f", {model.n_expert} experts" if model.n_expert else ""
    parts += [
        f"{params_text(model.n_params)} parameters{experts}",
        model.quantization,
        size_text(model.size_bytes),
        f"{model.n_layer} layers",
        f"trained for {model.n_ctx_train:,} tokens",
    ]
    return one_line(" · ".join(parts))


def params_text(n: int) -> str:
    """35.0B, 135M."""
    return f"{n / BILLION:.1f}B" if n >= BILLION else f"{n / 1e6:.0f}M"


def _pool(pool: Pool, plan: Plan, width: int, style: Style) -> list[str]:
    """The bar of one pool: what all its devices put there."""
    devices = [plan.machine.devices[i] for i in pool.devices]
    uses = [plan.chosen.footprint.uses[i] for i in pool.devices]
    taken = sum(use.total for use in uses)
    in_use = max(0, pool.total - pool.free)
    left = max(0, pool.total - in_use - taken)
    reserve = min(pool.reserve, left)
    parts = [sum(_size(use, part) for use in uses) for part in _PARTS]
    sizes = (*parts, in_use, reserve, left - reserve)
    right = f"{size_text(pool.free)} free of {size_text(pool.total)}"
    name = f"{devices[0].id}  {devices[0].name}"
    if len(devices) > 1:
        name = f"{pool.name}  {devices[0].name} ({' and '.join(d.id for d in devices)})"
    room = width - len(right) - 2
    name = one_line(name)
    if room < min(cells(name), MIN_NAME):
        lines = [style.head(clip(name, width)), *_wrap(right, width, "  ")]
    else:
        lines = [style.head(pad(clip(name, room), room)) + "  " + right]
    lines.append("  " + _bar(sizes, pool.total, width - 4, style))
    shown = [
        f"{part.mark} {part.label} {size_text(size)}"
        for part, size in zip((*_PARTS, *_REST), sizes, strict=True)
        if size > 0 or part.label == "free"
    ]
    lines += _wrap("  ".join(shown), width, "  ", break_on="  ")
    if len(devices) > 1:
        shares = (
            f"{d.id} takes {size_text(use.total)} of at most {size_text(d.budget)}"
            for d, use in zip(devices, uses, strict=True)
        )
        lines += _wrap(", ".join(shares), width, "  ")
    ids = {device.id for device in devices}
    processes = [process for process in plan.machine.processes if process.device in ids]
    if processes:
        largest = sorted(processes, key=lambda p: (-p.used, p.pid))[:MAX_PROCESSES]
        named = ", ".join(f"{one_line(p.name)} ({p.pid}) {size_text(p.used)}" for p in largest)
        rest = len(processes) - len(largest)
        lines += _wrap(f"in use by {named}" + (f" and {rest} more" if rest else ""), width, "  ")
    return lines


def _bar(sizes: Sequence[int], total: int, width: int, style: Style) -> str:
    """Cells by largest remainder; what is there at all gets at least one cell."""
    shown = [max(0, s) for s in sizes]
    scale = max(sum(shown), total, 1)
    taken = [max(1, int(s / scale * width)) if s else 0 for s in shown]
    free = len(taken) - 1
    while sum(taken) > width:
        taken[taken.index(max(taken))] -= 1
    fill = free if taken[free] else taken.index(max(taken))
    taken[fill] += width - sum(taken)
    parts = zip((*_PARTS, *_REST), taken, strict=True)
    return "".join(style(part.mark * n, part.color) for part, n in parts)


def _size(use: DeviceUse, part: _Part) -> int:
    return sum(getattr(use, kind) for kind in part.kinds)


def _settings(plan: Plan, width: int) -> list[str]:
    c, model = plan.chosen, plan.model
    s = c.settings
    n_items = model.n_items
    rows = [
        ("context", f"{s.n_ctx:,} tokens"),
        ("KV cache", f"K {s.type_k}, V {s.type_v}"),
    ]
    if plan.machine.gpus:
        rows.append(("GPU layers", f"{min(s.n_gpu_layers, n_items)} of {n_items}"))
    if s.n_cpu_moe:
        rows.append(("experts", f"in RAM for the first {s.n_cpu_moe} layers (n_cpu_moe)"))
    if s.tensor_split:
        rows.append(("split", " : ".join(f"{x:g}" for x in s.tensor_split) + " (tensor_split)"))
    rows += [
        ("batch", f"n_ubatch {s.n_ubatch}, flash attention {s.flash_attn}"),
        *_others(s),
        (
            "speed",
            f"about {tps_text(c.speed.decode_tps)} tokens/s ({c.speed.source}), prompts "
            f"{tps_text(c.speed.prompt_tps)} ({c.speed.prompt_source})",
        ),
        ("cache loss", f"{c.quality.loss:.4f} nats/token against f16 ({c.quality.source})"),
        ("memory", f"{c.footprint.source}"),
    ]
    lines: list[str] = []
    for name, value in rows:
        if width < ROOMY:
            lines += _wrap(f"{name}: {value}", width, "  ")
        else:
            lines += _wrap(value, width, f"  {name:<11} ")
    return lines


def _others(settings: Settings) -> list[tuple[str, str]]:
    """The settings without a phrase of their own, by name, where they are not as usual."""
    return [
        (f.name, f"{getattr(settings, f.name)}")
        for f in fields(settings)
        if f.name not in _PHRASED and getattr(settings, f.name) != f.default
    ]


class _Column(NamedTuple):
    """A column of a table; numbers stand to the right."""

    head: str
    width: int  # cells
    right: bool = True
    gap: int = 1  # spaces before it


class _Row(NamedTuple):
    """A value for each column, or for the first ones and then a note."""

    values: Sequence[str]
    note: str = ""


def _table(
    columns: Sequence[_Column], rows: Sequence[_Row], width: int, style: Style, lead: str = ""
) -> list[str]:
    """The head and a line for each row; the first column takes what the others leave. Where that
    is too little: each row's first value, and below it the others behind their columns' heads."""
    first, *others = (_widened(c, rows, i) for i, c in enumerate(columns))
    room = width - len(lead) - sum(c.gap + c.width for c in others)
    if room < min(first.width, MIN_NAME):
        return [line for row in rows for line in _stacked(columns, row, width, style, lead)]
    columns = (first._replace(width=min(first.width, room)), *others)
    lines = [style.head(_line([c.head for c in columns], columns, lead))]
    for row in rows:
        line = _line(row.values, columns, lead)
        if row.note:
            line = f"{line} {style(clip(row.note, width - cells(line) - 1), '31')}"
        lines.append(line if row.note else line.rstrip())
    return lines


def _widened(column: _Column, rows: Sequence[_Row], index: int) -> _Column:
    """The column as wide as its widest value, but for the first, whose values may be cut."""
    values = [row.values[index] for row in rows if index < len(row.values)] if index else []
    return column._replace(width=max(column.width, *map(cells, values), 0))


def _line(values: Sequence[str], columns: Sequence[_Column], lead: str) -> str:
    pairs = zip(values, columns, strict=False)
    return lead + "".join(
        " " * c.gap + pad(clip(value, c.width), c.width, right=c.right) for value, c in pairs
    )


def _stacked(
    columns: Sequence[_Column], row: _Row, width: int, style: Style, lead: str
) -> list[str]:
    named = [f"{c.head} {v}".strip() for v, c in zip(row.values, columns, strict=False) if v]
    lines = [lead + style.head(clip(row.values[0] or named[0], width - len(lead)))]
    lines += _wrap(", ".join(named[1:]), width, f"{lead}  ") if named[1:] else []
    if row.note:
        lines += _wrap(row.note, width, f"{lead}  ", lambda line: style(line, "31"))
    return lines


def _choices(plan: Plan, width: int, style: Style) -> list[str]:
    """The chosen plan and its alternatives, a line each."""
    n_items = plan.model.n_items
    listed = (plan.chosen, *plan.alternatives) if plan.chosen.fits else plan.alternatives
    moe = any(c.settings.n_cpu_moe for c in (plan.chosen, *plan.alternatives))
    columns = [
        _Column("", 20, right=False, gap=0),
        _Column("tokens/s", 8),
        _Column("context", 9),
        _Column("K / V", 13, right=False, gap=2),
        _Column("layers", 7),
        *([_Column("RAM exp.", 8)] if moe else []),
        _Column("loss", 6),
    ]
    rows = []
    for c in listed:
        s = c.settings
        rows.append(
            _Row((
                "chosen" if c is plan.chosen else c.note,
                tps_text(c.speed.decode_tps),
                f"{s.n_ctx:,}",
                f"{s.type_k} / {s.type_v}",
                f"{min(s.n_gpu_layers, n_items)}/{n_items}",
                *([str(s.n_cpu_moe)] if moe else []),
                f"{c.quality.loss:.3f}",
            ))
        )  # fmt: skip
    return _table(columns, rows, width, style, "  ")


def _comparison(plan: Plan, actual: Actual, width: int, style: Style) -> list[str]:
    """Bytes and tokens/s; what a prediction is off by is a share of what came."""
    columns = (
        _Column("", 10, right=False, gap=0),
        _Column("", 10, right=False),
        _Column("predicted", 12),
        _Column("actual", 12),
        _Column("off by", 8),
    )
    rows = []
    pairs = zip(actual.expected.uses, actual.footprint.uses, strict=True)
    for i, (guess, real) in enumerate(pairs):
        for part in _PARTS:
            a, b = _size(guess, part), _size(real, part)
            if (a or b) and set(part.kinds) <= set(ENGINE_KINDS):
                rows.append(_compared(guess.device, part.label, a, b))
        if i < len(actual.vram_growth) and actual.vram_growth[i] is not None:
            rows.append(_compared(guess.device, "in all", guess.total, actual.vram_growth[i] or 0))
    if actual.decode_tps:
        guess_tps = plan.chosen.speed.decode_tps
        off = f"{off_by(guess_tps, actual.decode_tps):+.0%}"
        speeds = (tps_text(guess_tps), tps_text(actual.decode_tps))
        rows.append(_Row(("", "tokens/s", *speeds, off)))
    return _table(columns, rows, width, style, "  ")


def _compared(device: str, label: str, guess: int, real: int) -> _Row:
    off = f"{off_by(guess, real):+.1%}" if real else "-"
    return _Row((device, label, size_text(guess), size_text(real), off))


def overview_text(
    rows: Sequence[tuple[str, Plan | KvchatError]], *, width: int = WIDTH, color: bool = False
) -> str:
    """The table over several files, at most `width` columns wide: which of them fit, and how; then
    what holds for all."""
    style = Style(color)
    width = max(LEAST_WIDTH, width)
    others = (
        _Column("size", 9),
        _Column("layers", 7),
        _Column("context", 9),
        _Column("K / V", 11, right=False),
        _Column("tok/s", 6),
    )
    name = _Column("model", MAX_NAME, right=False, gap=0)
    table = [_overview_row(path, result) for path, result in rows]
    lines = _table((name, *others), table, width, style)
    engines = (p.machine.engine_version for _, p in rows if isinstance(p, Plan))
    for warning in dict.fromkeys(map(other_engine_text, engines)):
        lines += ["", *_warning(warning, width, style)] if warning else []
    return "\n".join(lines) + "\n"


def _overview_row(path: str, result: Plan | KvchatError) -> _Row:
    if isinstance(result, KvchatError):
        name = path.replace("\\", "/").rsplit("/", 1)[-1]
        return _Row((one_line(name),), one_line(str(result)))
    model, c = result.model, result.chosen
    s, n_items = c.settings, result.model.n_items
    named = (one_line(model.path.name), size_text(model.size_bytes))
    if not c.fits:
        return _Row(named, "does not fit")
    pair = s.type_k if s.type_k == s.type_v else f"{s.type_k}/{s.type_v}"
    layers = f"{min(s.n_gpu_layers, n_items)}/{n_items}"
    return _Row((*named, layers, f"{s.n_ctx:,}", pair, tps_text(c.speed.decode_tps)))


def _warning(warning: str, width: int, style: Style) -> list[str]:
    return _wrap(warning, width, "! ", lambda line: style(line, "33"))


def _wrap(
    text_: str, width: int, lead: str, paint: Any = str, break_on: str | None = None
) -> list[str]:
    """Wrapped to `width` cells, the first line led by `lead`, the others indented as far."""
    if break_on:  # keep each "mark label size" together
        text_ = break_on.join(p.replace(" ", "\u00a0") for p in text_.split(break_on))
    lines = wrap(text_, width - len(lead)) or [""]
    out = [(lead if i == 0 else " " * len(lead)) + paint(line) for i, line in enumerate(lines)]
    return [line.replace("\u00a0", " ") for line in out]

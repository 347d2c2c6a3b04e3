"""The fit report: a plan as text for people."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import fields

from tuner.cells import cells, clip, pad
from tuner.machine.machine import Device, Pool
from tuner.memory.beside import growth_on, most_beside
from tuner.memory.footprint import ENGINE_KINDS, DeviceUse
from tuner.model.model import Model
from tuner.planning import Plan, difference_text
from tuner.planning.advice import Advice
from tuner.planning.kept_states import KeptStates
from tuner.planning.plan import Candidate, Shape, Speed
from tuner.planning.speed import QUOTED_DEPTH, TURN_ANSWER, TURN_PROMPT, holds_turn, turn_depth
from tuner.profiles.actual import Actual, of_gpu, off_by
from tuner.report import bars
from tuner.report.advice import advice_lines
from tuner.report.bars import PARTS, TAKEN
from tuner.report.table import MIN_NAME, Column, Row, Style, table, wrapped
from tuner.safe_text import one_line
from tuner.settings import Settings
from tuner.units import rate_text, seconds_text, size_text, tps_text

WIDTH = 80
LEAST_WIDTH = 20  # a narrower terminal wraps the lines itself
ROOMY = 40  # from here on names of settings have a column of their own
BILLION = 1e9
NOTICED = 1.1  # a shape with less more context is not told
MAX_PROCESSES = 3  # other processes named per GPU


# Settings that the report has words for; a new one goes by its name.
_PHRASED = frozenset({
    "n_ctx", "type_k", "type_v", "n_gpu_layers", "n_cpu_moe", "n_ubatch", "tensor_split",
    "flash_attn",
})  # fmt: skip


def report_text(
    plan: Plan,
    *,
    width: int = WIDTH,
    color: bool = False,
    actual: Actual | None = None,
    advice: Advice | None = None,
) -> str:
    """The report of one model, at most `width` columns wide."""
    return "".join(
        report_parts(plan, width=width, color=color, actual=actual, advise=lambda: advice)
    )


def report_parts(
    plan: Plan,
    *,
    width: int = WIDTH,
    color: bool = False,
    actual: Actual | None = None,
    advise: Callable[[], Advice | None] = lambda: None,
) -> Iterator[str]:
    """The same part by part: the choice and why, then what else is possible, then what would help.
    What takes time is asked for when its part is."""
    style = Style(color)
    width = max(LEAST_WIDTH, width)
    lines = [*wrapped(model_line(plan.model), width, "", style.head), ""]
    for pool in plan.machine.pools:
        lines += _pool(pool, plan, width, style)
    if plan.machine.assumed:
        lines += wrapped(f"assumed: {'; '.join(plan.machine.assumed)}", width, "  ")
    for gpu in plan.machine.gpus:
        if gpu.kind == "rpc" and gpu.bandwidth_source == "measured":
            lines += wrapped(f"measured: {_server(gpu)}", width, "  ")
    title = "Chosen" if plan.chosen.fits else "Closest, but it does not fit"
    lines += ["", *wrapped(title, width, "", style.head), *_settings(plan, width)]
    if sampling := plan.sampling.lines():
        lines += ["", style.head("Sampling")]
        for line in sampling:
            lines += wrapped(one_line(line), width, "  ")
    if actual:
        lines += ["", style.head("Predicted and actual"), *_comparison(plan, actual, width, style)]
    if plan.reasons:
        lines += ["", style.head("Why")]
        for reason in plan.reasons:
            lines += wrapped(reason, width, "  - ")
    yield _joined(lines)
    lines = []
    if plan.alternatives:
        title = "Also possible" if plan.chosen.fits else "What would fit"
        lines += ["", style.head(title), *_choices(plan, width, style)]
    gain = plan.one_more_gib and difference_text(plan.model, plan.chosen, plan.one_more_gib)
    if gain:
        lines += ["", *wrapped(f"With 1 GiB more: {gain}.", width, "")]
    if plan.shapes:
        lines += ["", *wrapped(shapes_text(plan), width, "")]
    yield _joined(lines)
    lines, advice = [], advise()
    if told := advice_lines(plan, advice) if advice else []:
        lines += ["", style.head("What would help")]
        for line in told:
            lines += wrapped(line, width, "  - ")
    for warning in plan.warnings:
        lines += ["", *warning_lines(warning, width, style)]
    yield _joined(lines)


def _joined(lines: list[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


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


def _server(gpu: Device) -> str:
    """What a server over a network was found to reach."""
    return (
        f"{gpu.id} reads weights at {rate_text(gpu.bandwidth)}, answers within "
        f"{gpu.round_trip * 1000:.2g} ms, the way there takes {rate_text(gpu.pcie_bandwidth)}"
    )


def _pool(pool: Pool, plan: Plan, width: int, style: Style) -> list[str]:
    """The bar of one pool: what all its devices put there."""
    devices = [plan.machine.devices[i] for i in pool.devices]
    uses = [plan.chosen.footprint.uses[i] for i in pool.devices]
    sizes = bars.sizes(pool, plan.chosen.footprint)
    right = f"{size_text(pool.free)} free of {size_text(pool.total)}"
    name = f"{devices[0].id}  {devices[0].name}"
    if len(devices) > 1:
        name = f"{pool.name}  {devices[0].name} ({' and '.join(d.id for d in devices)})"
    room = width - len(right) - 2
    name = one_line(name)
    if room < min(cells(name), MIN_NAME):
        lines = [style.head(clip(name, width)), *wrapped(right, width, "  ")]
    else:
        lines = [style.head(pad(clip(name, room), room)) + "  " + right]
    bar = zip(PARTS, bars.lengths(sizes, pool.total, width - 4), strict=True)
    lines.append("  " + "".join(style(part.mark * n, part.color) for part, n in bar))
    shown = [
        f"{part.mark} {part.label} {size_text(size)}"
        for part, size in zip(PARTS, sizes, strict=True)
        if size > 0 or part.label == "free"
    ]
    lines += wrapped("  ".join(shown), width, "  ", break_on="  ")
    if len(devices) > 1:
        shares = (
            f"{d.id} takes {size_text(use.total)} of at most {size_text(d.budget)}"
            for d, use in zip(devices, uses, strict=True)
        )
        lines += wrapped(", ".join(shares), width, "  ")
    for device, use in zip(devices, uses, strict=True):
        if use.beside:
            whose = f" of {device.id}" if len(devices) > 1 else ""
            lines += wrapped(f"overhead{whose}: {_beside(device, use, plan)}", width, "  ")
    ids = {device.id for device in devices}
    processes = [process for process in plan.machine.processes if process.device in ids]
    if processes:
        largest = sorted(processes, key=lambda p: (-p.used, p.pid))[:MAX_PROCESSES]
        named = ", ".join(f"{one_line(p.name)} ({p.pid}) {size_text(p.used)}" for p in largest)
        rest = len(processes) - len(largest)
        lines += wrapped(f"in use by {named}" + (f" and {rest} more" if rest else ""), width, "  ")
    return lines


def _beside(device: Device, use: DeviceUse, plan: Plan) -> str:
    """What a GPU gives beside the engine's buffers, how sure that is, and what is free if it comes
    to the most."""
    model, n_ubatch = plan.model, plan.chosen.settings.n_ubatch
    growth = growth_on(device, model, n_ubatch)
    driver = _assumption(use.overhead, device.overhead_most, device.overhead_source)
    text = f"driver {driver}"
    if growth.most:
        more = _assumption(use.growth, growth.most, device.growth.source(n_ubatch))
        text += f", then {more} with the first long prompt"
    most = most_beside(device, model, n_ubatch)
    if most <= use.beside:
        return text
    left = device.free - use.total + use.beside - most
    said = f"leave {size_text(left)} free" if left >= 0 else f"lack {size_text(-left)}"
    return f"{text}; the most would {said}"


def _assumption(size: int, most: int, source: str) -> str:
    up_to = f", up to {size_text(most)}" if most > size else ""
    return f"{size_text(size)} ({source}{up_to})"


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
    if s.n_cpu_moe and model.moe_layers:
        rows.append(("experts", f"in RAM for the first {s.n_cpu_moe} layers (n_cpu_moe)"))
    if s.tensor_split:
        rows.append(("split", " : ".join(f"{x:g}" for x in s.tensor_split) + " (tensor_split)"))
    rows += [
        ("batch", f"n_ubatch {s.n_ubatch}, flash attention {s.flash_attn}"),
        *_others(s),
        ("speed", _decode_text(c.speed)),
        ("prompts", f"{tps_text(c.speed.prompt_tps)} tokens/s ({c.speed.prompt_source})"),
        *_turn(c),
        ("cache loss", c.quality.text),
        ("memory", f"{c.footprint.source}"),
        ("states", states_text(plan.kept)),
    ]
    lines: list[str] = []
    for name, value in rows:
        if width < ROOMY:
            lines += wrapped(f"{name}: {value}", width, "  ")
        else:
            lines += wrapped(value, width, f"  {name:<11} ")
    return lines


def states_text(kept: KeptStates) -> str:
    """What of a conversation may lie in RAM beside the plan."""
    up_to = f"up to {size_text(kept.size)} of RAM"
    if not kept.checkpoint:
        return f"{up_to}, of other branches of the conversation"
    n, each = kept.n_checkpoints, size_text(kept.checkpoint)
    checkpoints = f"{n} checkpoint{'s' if n > 1 else ''} of {each}"
    if kept.size < (n + 1) * kept.checkpoint:
        return f"{up_to}: {checkpoints}"
    return f"{up_to}: {checkpoints}, and of other branches"


def shapes_text(plan: Plan) -> str:
    """What the cache can become where the weights lie."""
    told: list[Shape] = []
    for shape in plan.shapes:
        if not told or shape.n_ctx >= NOTICED * told[-1].n_ctx:
            told.append(shape)
    first, *others = told
    then = "".join(f", then {shape.types} to {shape.n_ctx:,}" for shape in others)
    up_to = f"{first.types} up to {first.n_ctx:,} tokens"
    return f"With the weights where they are: a cache of {up_to}{then}."


def _decode_text(speed: Speed) -> str:
    """Tokens/s, and how they fall as the conversation grows."""
    deeper = [
        f"{tps_text(tps)} at {depth:,}"
        for depth, tps in speed.decode_tps_at.items()
        if depth > QUOTED_DEPTH
    ]
    text = f"about {tps_text(speed.decode_tps)} tokens/s ({speed.source})"
    return f"{text}; {', '.join(deeper)} tokens in the cache" if deeper else text


def _turn(candidate: Candidate) -> list[tuple[str, str]]:
    """What a turn takes, where the context holds one."""
    n_ctx, seconds = candidate.settings.n_ctx, candidate.speed.turn_seconds
    tokens = f"{TURN_PROMPT:,} tokens read, {TURN_ANSWER} written"
    text = f"{seconds_text(seconds)}: {tokens}, with {turn_depth(n_ctx):,} in the cache"
    return [("a turn", text)] if holds_turn(n_ctx) else []


def _others(settings: Settings) -> list[tuple[str, str]]:
    """The settings without a phrase of their own, by name, where they are not as usual."""
    named = [
        f"{f.name} {getattr(settings, f.name)}"
        for f in fields(settings)
        if f.name not in _PHRASED and getattr(settings, f.name) != f.default
    ]
    return [("other", ", ".join(named))] if named else []


def _choices(plan: Plan, width: int, style: Style) -> list[str]:
    """The chosen plan and its alternatives, a line each."""
    n_items = plan.model.n_items
    listed = (plan.chosen, *plan.alternatives) if plan.chosen.fits else plan.alternatives
    moe = any(c.settings.n_cpu_moe for c in (plan.chosen, *plan.alternatives))
    columns = [
        Column("", 20, right=False, gap=0),
        Column("tokens/s", 8),
        Column("context", 9),
        Column("K / V", 13, right=False, gap=2),
        Column("layers", 7),
        *([Column("RAM exp.", 8)] if moe else []),
        Column("loss", 6),
    ]
    rows = []
    for c in listed:
        s = c.settings
        rows.append(
            Row((
                "chosen" if c is plan.chosen else c.note,
                tps_text(c.speed.decode_tps),
                f"{s.n_ctx:,}",
                f"{s.type_k} / {s.type_v}",
                f"{min(s.n_gpu_layers, n_items)}/{n_items}",
                *([str(s.n_cpu_moe)] if moe else []),
                f"{c.quality.loss:.3f}",
            ))
        )  # fmt: skip
    return table(columns, rows, width, style, "  ")


def _comparison(plan: Plan, actual: Actual, width: int, style: Style) -> list[str]:
    """Bytes and tokens/s; what a prediction is off by is a share of what came."""
    columns = (
        Column("", 10, right=False, gap=0),
        Column("", 10, right=False),
        Column("predicted", 12),
        Column("actual", 12),
        Column("off by", 8),
    )
    rows = []
    pairs = zip(actual.expected.uses, actual.footprint.uses, strict=True)
    for i, (guess, real) in enumerate(pairs):
        for part in TAKEN:
            a, b = part.size(guess), part.size(real)
            if (a or b) and set(part.kinds) <= set(ENGINE_KINDS):
                rows.append(_compared(guess.device, part.label, a, b))
        taken, grown = of_gpu(actual.taken, i), of_gpu(actual.grown, i)
        if taken is not None:
            rows.append(_compared(guess.device, "in all", guess.total - guess.growth, taken))
        if grown is not None:
            rows.append(_compared(guess.device, "growth", guess.growth, grown))
    if actual.decode_tps:
        guess_tps = plan.chosen.speed.decode_tps
        off = f"{off_by(guess_tps, actual.decode_tps):+.0%}"
        speeds = (tps_text(guess_tps), tps_text(actual.decode_tps))
        rows.append(Row(("", "tokens/s", *speeds, off)))
    return table(columns, rows, width, style, "  ")


def _compared(device: str, label: str, guess: int, real: int) -> Row:
    off = f"{off_by(guess, real):+.1%}" if real else "-"
    return Row((device, label, size_text(guess), size_text(real), off))


def warning_lines(warning: str, width: int, style: Style) -> list[str]:
    """A warning, which stands out."""
    return wrapped(warning, width, "! ", lambda line: style(line, "33"))

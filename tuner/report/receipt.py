"""What plans were predicted to take and to do, and what they did: for people, and as one line of
JSON that can be pasted anywhere, since it names nobody."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from tuner.engine.protocol import Timed
from tuner.machine.machine import Device
from tuner.memory.footprint import ENGINE_KINDS, DeviceUse
from tuner.model.model import Model
from tuner.planning import Plan
from tuner.profiles.actual import Actual, of_gpu, off_by
from tuner.report.table import Column, Row, Style, table, wrapped
from tuner.report.text import WIDTH, model_line
from tuner.safe_text import cut
from tuner.units import count_text, size_text, tps_text

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Timing:
    """Tokens that were timed, beside the tokens/s that were predicted of them."""

    timed: Timed
    predicted: float

    @property
    def measured(self) -> float:
        """Tokens/s."""
        return self.timed.tps


@dataclass(frozen=True, slots=True)
class Receipt:
    """One plan that was loaded and timed."""

    plan: Plan  # whose choice it was
    actual: Actual
    prompts: tuple[Timing, ...]
    decodes: tuple[Timing, ...]
    left_out: tuple[int, ...]  # depths for which the time did not suffice, in tokens
    n_threads: int
    busy: bool  # other programs had the cores: the speeds are not the machine's


# ---------------------------------------------------------------- for people


def receipts_text(receipts: Sequence[Receipt], *, width: int = WIDTH, color: bool = False) -> str:
    """All receipts of one model, at most `width` columns wide."""
    style = Style(color)
    lines = wrapped(model_line(receipts[0].plan.model), width, "", style.head)
    for receipt in receipts:
        lines += ["", *wrapped(_heading(receipt), width, ""), *_table(receipt, width, style)]
        if receipt.left_out:
            depths = " and ".join(f"{depth:,}" for depth in receipt.left_out)
            left_out = f"Left out, since it would take too long: decoding at {depths} tokens."
            lines += wrapped(left_out, width, "")
        if receipt.busy:
            lines += wrapped(
                "Other programs had the cores for part of the time: the speeds say little, and "
                "nothing is learned of them.", width, "! ", lambda line: style(line, "33"),
            )  # fmt: skip
    return "\n".join(lines) + "\n"


def _heading(receipt: Receipt) -> str:
    plan, n_items = receipt.plan, receipt.plan.model.n_items
    s = plan.chosen.settings
    parts = [plan.chosen.note or "Chosen", f"{s.n_ctx:,} tokens", f"K {s.type_k}, V {s.type_v}"]
    if plan.machine.gpus:
        parts.append(f"{min(s.n_gpu_layers, n_items)} of {n_items} layers on GPUs")
    if s.n_cpu_moe:
        parts.append(f"experts of {s.n_cpu_moe} layers in RAM")
    threads = count_text(receipt.n_threads, "thread")
    return ", ".join([*parts, f"n_ubatch {s.n_ubatch}", threads])


def _table(receipt: Receipt, width: int, style: Style) -> list[str]:
    columns = (
        Column("", 8, right=False, gap=0),
        Column("", 22, right=False),
        Column("predicted", 10),
        Column("measured", 10),
        Column("off by", 8),
    )
    rows = [
        Row((device, kind, size_text(a), size_text(b), f"{off_by(a, b):+.1%}" if b else "-"))
        for device, kind, a, b in _memory(receipt)
    ]
    for name, paces in (("prompt", receipt.prompts), ("decode", receipt.decodes)):
        for pace in paces:
            t = pace.timed
            what = f"{t.n_tokens:,} tokens" if name == "prompt" else ""
            at = f"at {t.depth:,}" if t.depth or not what else ""
            speeds = f"{tps_text(pace.predicted)}/s", f"{tps_text(pace.measured)}/s"
            off = f"{off_by(pace.predicted, pace.measured):+.0%}"
            rows.append(Row((name, f"{what} {at}".strip(), *speeds, off)))
    return table(columns, rows, width, style, "  ")


def _memory(receipt: Receipt) -> Iterator[tuple[str, str, int, int]]:
    """(device, kind, predicted, measured) in bytes, of what there is at all."""
    actual = receipt.actual
    pairs = zip(actual.expected.uses, actual.footprint.uses, strict=True)
    for i, (guess, real) in enumerate(pairs):
        for kind in ENGINE_KINDS:
            a, b = getattr(guess, kind), getattr(real, kind)
            if a or b:
                yield guess.device, kind.replace("_", " "), a, b
        taken, grown = of_gpu(actual.taken, i), of_gpu(actual.grown, i)
        if taken is not None:
            yield guess.device, "in all", guess.total - guess.growth, taken
        if grown is not None:
            yield guess.device, "growth", guess.growth, grown


# ---------------------------------------------------------------- for an issue


def receipt_keys() -> tuple[tuple[str, str], ...]:
    """What a receipt's line says: (key, meaning), in its order."""
    return (
        ("kvchat_receipt", f"{SCHEMA}: the schema"),
        ("kvchat", "kvchat's version"),
        ("engine", "that of llama-cpp-python"),
        ("system", "the operating system and the kind of CPU"),
        (
            "model",
            "`name` (that the file gives itself), `architecture`, `quantization`, `n_params`, "
            "`n_layer`, `n_ctx_train`, `n_embd`, `n_vocab`, `n_expert`, `n_expert_used`, "
            "`size_bytes`, `fingerprint`",
        ),
        (
            "machine.devices[]",
            "`name`, `id`, `kind`, `backend`, `total`, `free`, `bandwidth` (bytes/s), "
            "`bandwidth_source`, `flops` (FLOP/s in f16), `n_sm`, `clock` (Hz), "
            "`compute_capability`, `pcie_bandwidth` (bytes/s), `round_trip` (seconds), "
            "`unified` (its memory is the RAM)",
        ),
        ("machine.physical_cores", "those that this process may use"),
        ("runs[].settings", "the plan's, as in a report"),
        ("runs[].n_threads", "CPU threads"),
        ("runs[].busy", "other programs had the cores: the speeds are not the machine's"),
        (
            "runs[].memory[]",
            "per device: `device`, `predicted` and `measured` (each weights, kv_cache, "
            "recurrent_state and compute), `overhead_predicted` (the driver's), `nvml_growth` "
            "(all that the load took of it, by NVML or the engine, or null), `growth_predicted` "
            "and `growth_measured` (what the first long prompt took more, or null)",
        ),
        (
            "runs[].prompts[]",
            "`depth` (tokens in the cache before), `n_tokens` (in one go), `seconds`, `cores` "
            "(that the threads had, on average; 0: not known), `predicted_tps`, `measured_tps`",
        ),
        ("runs[].decodes[]", "the same of tokens that were decoded one by one"),
        ("runs[].left_out[]", "depths for which the time did not suffice"),
    )


def receipts_json(receipts: Sequence[Receipt], version: str) -> dict[str, Any]:
    """All receipts of one model, without a path, a user, a host or an address in them. `version`:
    of kvchat. Sizes in bytes, speeds in tokens/s."""
    first = receipts[0].plan
    machine = first.machine
    return {
        "kvchat_receipt": SCHEMA,
        "kvchat": version,
        "engine": machine.engine_version,
        "system": f"{platform.system()} {platform.machine()}",
        "model": _model_json(first.model),
        "machine": {
            "devices": [_device_json(device) for device in machine.devices],
            "physical_cores": machine.physical_cores,
        },
        "runs": [_run_json(receipt) for receipt in receipts],
    }


def _model_json(model: Model) -> dict[str, Any]:
    names = (
        "architecture", "quantization", "n_params", "n_layer", "n_ctx_train", "n_embd", "n_vocab",
        "n_expert", "n_expert_used", "size_bytes", "fingerprint",
    )  # fmt: skip
    return {"name": _public_name(model), **{name: getattr(model, name) for name in names}}


def _public_name(model: Model) -> str:
    """The name that the file gives itself; some converters wrote a path there. A file without one
    is not named after itself: people call files as they like."""
    if model.name == model.path.stem:
        return ""
    return cut(model.name.replace("\\", "/").rstrip("/").rsplit("/", 1)[-1])


def _device_json(device: Device) -> dict[str, Any]:
    names = (
        "id", "kind", "backend", "total", "free", "bandwidth", "bandwidth_source", "flops", "n_sm",
        "clock", "compute_capability", "pcie_bandwidth", "round_trip", "unified",
    )  # fmt: skip
    # The engine names an RPC device by its address.
    name = "" if device.kind == "rpc" else cut(device.name)
    return {"name": name, **{key: getattr(device, key) for key in names}}


def _run_json(receipt: Receipt) -> dict[str, Any]:
    actual = receipt.actual
    uses = zip(actual.expected.uses, actual.footprint.uses, strict=True)
    return {
        "settings": asdict(receipt.plan.chosen.settings),
        "n_threads": receipt.n_threads,
        "busy": receipt.busy,
        "memory": [
            {
                "device": guess.device,
                "predicted": _kinds(guess),
                "measured": _kinds(real),
                "overhead_predicted": guess.overhead,
                "nvml_growth": of_gpu(actual.taken, i),
                "growth_predicted": guess.growth,
                "growth_measured": of_gpu(actual.grown, i),
            }
            for i, (guess, real) in enumerate(uses)
        ],
        "prompts": [_timing_json(pace) for pace in receipt.prompts],
        "decodes": [_timing_json(pace) for pace in receipt.decodes],
        "left_out": list(receipt.left_out),
    }


def _kinds(use: DeviceUse) -> dict[str, int]:
    return {kind: getattr(use, kind) for kind in ENGINE_KINDS}


def _timing_json(pace: Timing) -> dict[str, Any]:
    timed = asdict(pace.timed)
    timed.pop("n_threads")  # the receipt has it once, for all
    return {
        **timed,
        "predicted_tps": round(pace.predicted, 3),
        "measured_tps": round(pace.measured, 3),
    }

"""A plan as JSON for programs: schema 1 of docs/report.md. Sizes in bytes, speeds in tokens/s.

Each object is a table of its keys, from which both the JSON and its description are made. Keys may
be added; none is renamed within a schema.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any, NamedTuple

from tuner.errors import KvchatError
from tuner.machine.machine import Device, Machine
from tuner.memory.beside import most_beside
from tuner.memory.footprint import KINDS, DeviceUse
from tuner.model.model import Model
from tuner.planning import Candidate, Plan
from tuner.planning.advice import Advice
from tuner.planning.budgets import Budgets
from tuner.planning.from_disk import ASSUMED_DISK
from tuner.planning.kept_states import KeptStates
from tuner.planning.speed import CHAT_DEPTH, QUOTED_DEPTH, TURN_ANSWER, TURN_PROMPT
from tuner.settings import FIELDS

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class Key:
    """One key of an object."""

    name: str
    note: str = ""  # what its name does not say
    of: Callable[[Any], Any] | None = None  # None: the attribute of that name

    def value(self, thing: Any) -> Any:
        return self.of(thing) if self.of else getattr(thing, self.name)


class _Share(NamedTuple):
    """A plan's share of one device."""

    use: DeviceUse
    device: Device
    source: str
    model: Model
    n_ubatch: int


_NOTES = {
    "n_gpu_layers": "the output layer counts",
    "flash_attn": "on, off, auto",
    "overhead": "driver context",
    "growth": "what the first long prompt takes beside the buffers",
    "checkpoint": "of what a cache cannot go back to",
}


def _kind(name: str) -> Key:
    return Key(name, _NOTES.get(name, ""), lambda share: getattr(share.use, name))


_MODEL = (
    Key("path", of=lambda model: str(model.path)),
    Key("architecture"),
    Key("name"),
    Key("quantization"),
    Key("n_params"),
    Key("n_layer"),
    Key("n_ctx_train"),
    Key("size_bytes"),
    Key("fingerprint"),
    Key("n_embd"),
    Key("n_vocab"),
    Key("n_expert"),
    Key("n_expert_used"),
    Key("chat_template", "whether the file has one", lambda m: m.chat_template is not None),
)
_DEVICE = (
    Key("id", "GPU0, ..., host"),
    Key("kind", "gpu, host, rpc"),
    Key("backend"),
    Key("name"),
    Key("total"),
    Key("free"),
    Key("reserve"),
    Key("overhead"),
    Key("overhead_most", "what that may come to"),
    Key("overhead_source", "assumed, measured"),
    Key("bandwidth", "bytes/s"),
    Key("bandwidth_source", "stated, measured, computed, data sheet, assumed"),
    Key("n_sm", "multiprocessors of a CUDA card, 0: not known"),
    Key("clock", "Hz, their highest"),
    Key("compute_capability", "major and minor, or null"),
    Key("pcie_bandwidth", "bytes/s; of a server, its network"),
    Key("round_trip", "seconds until a server has answered"),
    Key("source"),
    Key("pool", "where its memory is"),
)
_POOL = (
    Key("name", "a GPU's id, or RAM"),
    Key("total"),
    Key("free"),
    Key("reserve"),
    Key("budget", "of all its devices together"),
)
_PROCESS = (Key("pid"), Key("name"), Key("device"), Key("used"))
_SETTINGS = tuple(Key(name, _NOTES.get(name, "")) for name in FIELDS)
_FOOTPRINT = (
    Key("device", of=lambda share: share.use.device),
    *map(_kind, KINDS),
    Key("total", of=lambda share: share.use.total),
    Key("budget", "free less reserve", lambda share: share.device.budget),
    Key("source"),
    Key(
        "growth_source",
        "assumed, measured",
        lambda share: share.device.growth.source(share.n_ubatch),
    ),
    Key(
        "at_most",
        "the total if overhead and growth come to the most",
        lambda share: (
            share.use.total
            - share.use.beside
            + max(share.use.beside, most_beside(share.device, share.model, share.n_ubatch))
        ),
    ),
)
_SPEED = (
    Key("decode_tps", f"with {QUOTED_DEPTH:,} tokens in the cache"),
    Key(
        "decode_tps_at",
        "by tokens in the cache, up to n_ctx",
        lambda s: {str(depth): tps for depth, tps in s.decode_tps_at.items()},
    ),
    Key("prompt_tps"),
    Key(
        "turn_seconds",
        f"to read {TURN_PROMPT:,} tokens and write {TURN_ANSWER:,}, with {CHAT_DEPTH:,} tokens or "
        "half of n_ctx in the cache, also where n_ctx holds less than that",
    ),
    Key(
        "bytes_per_token",
        f"read with {QUOTED_DEPTH:,} tokens in the cache: weights of layers, experts that run and "
        "cache, by device, and output_head",
        lambda s: s.reads and asdict(s.reads),
    ),
    Key("source"),
    Key("prompt_source"),
)
_QUALITY = (
    Key("loss", "KL divergence against an f16 cache in nats per token"),
    Key("noise", "what of it rounding alone makes"),
    Key("words", "the rest of it as people would say it"),
    Key("source", "assumed; measured by --measure"),
)
_STATES = (
    Key("size", "bytes of RAM that they may take, all together"),
    Key(
        "checkpoint",
        "bytes of one, which `footprint` has; 0: none is needed, or there is no room for one",
    ),
    Key("n_checkpoints", "that there is room for"),
)
_SHAPE = (
    Key("type_k"),
    Key("type_v"),
    Key("n_ctx", "the most"),
    Key("loss", "as of a plan", lambda shape: shape.quality.loss),
)
_QUANTIZATION = (
    Key("quantization", of=lambda other: other.name),
    Key("size_bytes", "of the file, about"),
    Key("whole", "on the GPUs"),
    Key("n_ctx", of=lambda other: other.candidate.settings.n_ctx),
    Key("decode_tps", of=lambda other: other.candidate.speed.decode_tps),
)
_WITHOUT = (Key("pid"), Key("name"), Key("used", "by device", lambda closed: dict(closed.used)))
_DISK = (
    Key("missing", "weights in RAM without room"),
    Key("per_token", "read from disk for each token, at least"),
    Key("disk", "bytes/s, assumed", lambda _: ASSUMED_DISK),
    Key("decode_tps", "at best"),
)


def report_json(plan: Plan, advice: Advice | None = None, rank: int = 1) -> dict[str, Any]:
    """The whole report of one model."""
    machine = plan.machine
    of = partial(candidate_json, model=plan.model, machine=machine)
    return {
        "schema": SCHEMA,
        "rank": rank,
        "model": _object(_MODEL, plan.model),
        "machine": {
            "devices": [_object(_DEVICE, device) for device in machine.devices],
            "pools": [_object(_POOL, pool) for pool in machine.pools],
            "processes": [_object(_PROCESS, process) for process in machine.processes],
            "physical_cores": machine.physical_cores,
            "assumed": list(machine.assumed),
        },
        "plan": of(plan.chosen),
        "alternatives": [of(c) for c in plan.alternatives],
        "fallbacks": [of(c) for c in plan.fallbacks],
        "one_more_gib": plan.one_more_gib and of(plan.one_more_gib),
        "shapes": [_object(_SHAPE, shape) for shape in plan.shapes],
        "advice": _advice(advice or Advice(), plan.model),
        "reasons": list(plan.reasons),
        "warnings": list(plan.warnings),
        "sampling": {
            name: {"value": value, "source": source}
            for name, (value, source) in plan.sampling.sources.items()
        },
    }


def _advice(advice: Advice, model: Model) -> dict[str, Any]:
    closed, disk = advice.without_process, advice.from_disk
    return {
        "smaller": advice.smaller and _object(_QUANTIZATION, advice.smaller),
        "larger": advice.larger and _object(_QUANTIZATION, advice.larger),
        "without_process": closed
        and {
            **_object(_WITHOUT, closed),
            "plan": candidate_json(closed.candidate, model, closed.machine),
        },
        "from_disk": disk and {**_object(_DISK, disk), "settings": asdict(disk.candidate.settings)},
    }


def candidate_json(candidate: Candidate, model: Model, machine: Machine) -> dict[str, Any]:
    """One plan: the choice or another."""
    footprint, n_ubatch = candidate.footprint, candidate.settings.n_ubatch
    return {
        "fits": candidate.fits,
        "settings": asdict(candidate.settings),
        "footprint": [
            _object(_FOOTPRINT, _Share(use, device, footprint.source, model, n_ubatch))
            for use, device in zip(footprint.uses, machine.devices, strict=True)
        ],
        "speed": _object(_SPEED, candidate.speed),
        "quality": _object(_QUALITY, candidate.quality),
        "states": _object(_STATES, KeptStates.of(footprint, Budgets.of(machine))),
        "note": candidate.note,
    }


def error_json(path: str, error: KvchatError, rank: int = 1) -> dict[str, Any]:
    """What stands in the place of a file that cannot be used."""
    return {
        "schema": SCHEMA,
        "rank": rank,
        "path": path,
        "error": {"kind": error.kind, "message": str(error)},
    }


def _object(keys: tuple[Key, ...], thing: Any) -> dict[str, Any]:
    return {key.name: key.value(thing) for key in keys}


# ------------------------------------------------------------------ the schema, described


def report_keys() -> Iterator[tuple[str, str]]:
    """(key, meaning) of the whole report, in order, as Markdown."""
    yield "schema", str(SCHEMA)
    yield "rank", "the place among the files of this run: 1 is the best to chat with here"
    yield "model", _listed(_MODEL)
    yield "machine.devices[]", _listed(_DEVICE)
    yield "machine.pools[]", f"memory, each byte of it once: {_listed(_POOL)}"
    yield "machine.processes[]", f"other processes on the GPUs: {_listed(_PROCESS)}"
    yield "machine.physical_cores", "those that this process may use, or that are stated"
    yield "machine.assumed[]", "what of it was neither measured nor stated, in a few words each"
    yield "plan", "the choice: see below"
    yield (
        "alternatives[]",
        "other plans that fit and are better in something; where nothing fits, the nearest that do",
    )
    yield "fallbacks[]", "what a launch tries, in order, if memory runs out all the same"
    yield (
        "one_more_gib",
        "a plan if every GPU had 1 GiB more: better in something, worse in nothing; or null",
    )
    yield (
        "shapes[]",
        "what the cache can become while the weights stay where they are, the most precise first, "
        f"each with more context than the one before: {_listed(_SHAPE)}",
    )
    yield (
        "advice.smaller",
        "another quantization of the model that would be whole on the GPUs; where nothing fits, "
        f"that would fit; or null: {_listed(_QUANTIZATION)}",
    )
    yield "advice.larger", "for a plan that is whole: the largest that would be too, or null"
    yield (
        "advice.without_process",
        "the process whose end would help most, or null: "
        f"{_listed(_WITHOUT)}, `plan` (the choice then)",
    )
    yield (
        "advice.from_disk",
        "where nothing fits: what a load from the mapped file would do, or null: "
        f"{_listed(_DISK)}, `settings`",
    )
    yield "reasons[]", "sentences"
    yield "warnings[]", "sentences"
    yield (
        "sampling.NAME",
        "`value` and `source` (flag, profile, file) of what is not as usual",
    )


def plan_keys() -> Iterator[tuple[str, str]]:
    """(key, meaning) of one plan of the report, in order, as Markdown."""
    yield "fits", "false: `footprint` shows what is missing, and the exit status is 4"
    yield "settings", _listed(_SETTINGS)
    yield "footprint[]", f"per device: {_listed(_FOOTPRINT)}"
    yield "speed", _listed(_SPEED)
    yield "quality", _listed(_QUALITY)
    yield "states", f"of a conversation, kept in RAM beside the plan: {_listed(_STATES)}"
    yield "note", "why an alternative is listed"


def _listed(keys: tuple[Key, ...]) -> str:
    """`name`, `name` (note), ..."""
    return ", ".join(f"`{key.name}`" + (f" ({key.note})" if key.note else "") for key in keys)

"""A logged load beside what kvchat predicts of the same load.

What the log says of how the model was loaded is taken as it is; what it does not say is the user's
wish, follows from the logged sizes, or is llama.cpp's default, and is told.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from tuner.logs.buffers import device_of, on_host
from tuner.logs.layers import Layers, Logged
from tuner.logs.loads import LoggedLoad
from tuner.logs.other_rules import OtherRule, built_on, other_rule
from tuner.logs.stated import Stated
from tuner.machine.backends import HOST_LAYOUT, of_engine
from tuner.machine.machine import Device, Machine
from tuner.memory.estimator import Estimator
from tuner.memory.footprint import ENGINE_KINDS, DeviceUse, Footprint
from tuner.memory.kv_cache import CacheSizes
from tuner.memory.mapped_weights import is_mapped, with_mapped_weights
from tuner.memory.placement import place
from tuner.memory.reported import device_index
from tuner.model.model import Model
from tuner.safe_text import cut, one_line
from tuner.settings import CONTEXT_PADDING, MAX_CONTEXT, Settings
from tuner.units import count_text
from tuner.wishes import Wishes

_PLENTY = 1 << 60  # bytes: what fits is not asked here
_USUAL_UBATCH, _USUAL_TYPE = 512, "f16"
_OTHER_WEIGHTS = 0.03  # off by more, they are not this file's
_CONTEXT = "context"  # what a table calls cache and states together
_CACHES = ("kv_cache", "recurrent_state", _CONTEXT)
_WEIGHTS_ALONE = frozenset({"weights"})


@dataclass(frozen=True, slots=True)
class Figure:
    """What one device takes of one kind: predicted, and logged give or take `step`, in bytes."""

    device: str  # as `label` has it, or "host"
    kind: str  # one of ENGINE_KINDS, or "context": cache and states together
    predicted: int
    logged: int | None  # None: the log has nothing of this kind
    step: int = 0

    @property
    def exact(self) -> bool:
        """As far as the log tells."""
        return self.logged is not None and abs(self.predicted - self.logged) <= 2 * self.step


@dataclass(frozen=True, slots=True)
class Compared:
    """One load of a log, beside the prediction."""

    load: LoggedLoad
    figures: tuple[Figure, ...] = ()
    machine: Machine | None = None
    settings: Settings | None = None
    n_slots: int = 1
    n_outputs: int = 1  # rows of logits
    assumed: tuple[str, ...] = ()  # what the log does not say, in a few words each
    notes: tuple[str, ...] = ()  # sentences
    problem: str = ""  # why there is nothing to compare: a sentence


def compared(model: Model, load: LoggedLoad, wishes: Wishes) -> Compared:
    """Each buffer of a load beside the predicted one. `wishes` stand in for what the log does not
    say."""
    problem = _other_model(model, load.stated)
    if not problem and not load.kinds:
        problem = "It has no buffers."
    return Compared(load, problem=problem) if problem else _Comparison(model, load, wishes).made()


def machine_of(load: LoggedLoad) -> Machine:
    """The GPUs that a log names and puts anything on, with memory without end."""
    stated = load.stated
    buffers = {device_of(size.device) for size in load.sizes if not on_host(size.device)}
    named: dict[str, str] = {}  # the engine's names for devices, and for their buffers
    for name, card in stated.gpus.items():
        of_server = sum(card == other for other in list(stated.gpus.values())[: len(named)])
        buffer = f"RPC{of_server}[{card}]"
        named[name] = buffer if buffer in buffers else name
    used = buffers | {name for name in stated.layers.values() if not on_host(name)}
    there = [(n, b) for n, b in named.items() if n in used or b in used]
    known = {name for pair in there for name in pair}
    there += [(name, name) for name in sorted(used - known)]
    gpus = tuple(
        Device(
            f"GPU{i}", "gpu", of_engine(name.partition("[")[0].rstrip("0123456789")).name,
            cut(stated.gpus.get(name, "")), _PLENTY, stated.free.get(name, _PLENTY), 0,
            engine_name=name, buffer_name=buffer,
        )
        for i, (name, buffer) in enumerate(there)
    )  # fmt: skip
    return Machine(gpus, Device("host", "host", "CPU", "host", _PLENTY, _PLENTY, 0))


def _other_model(model: Model, stated: Stated) -> str:
    """Why the log is of another model, as a sentence; "" where nothing says so."""
    known = {model.n_layer, model.n_layer_all}
    if stated.architecture and one_line(stated.architecture) != one_line(model.architecture):
        return f"It is of another model: {cut(stated.architecture)}, not {cut(model.architecture)}."
    if stated.n_layer and stated.n_layer not in known:
        return f"It is of another model, with {stated.n_layer} layers instead of {model.n_layer}."
    if stated.n_items and stated.n_items - 1 not in known:
        layers = stated.n_items - 1
        return f"It is of another model, with {layers} layers instead of {model.n_layer}."
    if stated.n_vocab and model.n_vocab and stated.n_vocab != model.n_vocab:
        return (
            f"It is of another model, with {stated.n_vocab:,} tokens in its vocabulary instead of "
            f"{model.n_vocab:,}."
        )
    return ""


class _Comparison:
    """One in the making."""

    def __init__(self, model: Model, load: LoggedLoad, wishes: Wishes):
        self._load, self._stated, self._wishes = load, load.stated, wishes
        self._machine = machine_of(load)
        self._assumed: list[str] = []
        self._slots = self._stated.n_seq_max or 1
        # one cache for each slot, or one for all; in that, windows of all slots lie side by side
        self._streams = self._stated.n_stream if self._stated.n_stream <= self._slots else 1
        hp = model.hparams
        if self._streams == 1 and self._slots > 1 and hp.n_swa:
            model = replace(model, hparams=replace(hp, n_swa=hp.n_swa * self._slots))
        self._model = model
        self._logged = self._by_device()

    def made(self) -> Compared:
        if self._stated.offloaded and not self._machine.gpus:
            return Compared(self._load, problem="It ends, or is cut, before the GPUs' buffers.")
        settings = self._settings()
        if isinstance(settings, str):
            return Compared(self._load, problem=settings)
        settings = self._with_layers(settings)
        n_outputs, footprint = self._nearest(settings)
        figures = tuple(self._figures(footprint))
        return Compared(
            self._load,
            figures,
            self._machine,
            settings if self._load.kinds != _WEIGHTS_ALONE else None,
            self._slots,
            min(n_outputs or settings.n_ubatch, settings.n_ubatch, settings.n_ctx),
            tuple(self._assumed),
            tuple(self._notes(settings, figures)),
        )

    # ------------------------------------------------------------------ how it was loaded

    def _settings(self) -> Settings | str:
        """All but where the layers are; or why there is nothing to compare."""
        stated, wishes = self._stated, self._wishes
        if self._load.kinds == _WEIGHTS_ALONE:  # which nothing of this changes
            return Settings(1)
        n_ubatch = stated.n_ubatch or wishes.n_ubatch
        type_k, type_v = stated.type_k or wishes.type_k, stated.type_v or wishes.type_v
        flash_attn = stated.flash_attn or wishes.flash_attn
        if n_ubatch is None:
            self._assumed.append(f"n_ubatch {_USUAL_UBATCH}")
        if type_k is None or type_v is None:
            self._assumed.append(f"K {type_k or _USUAL_TYPE}, V {type_v or _USUAL_TYPE}")
        if flash_attn is None:
            self._assumed.append("flash attention on")
        settings = Settings(
            1, type_k or _USUAL_TYPE, type_v or _USUAL_TYPE, n_ubatch=n_ubatch or _USUAL_UBATCH,
            flash_attn=flash_attn or "on",
            use_extra_bufts=any("REPACK" in size.device for size in self._load.sizes),
        )  # fmt: skip
        n_ctx = self._context(settings)
        if n_ctx is None:
            return "It does not say how large the context is: write --ctx N."
        return settings.with_context(n_ctx)

    def _context(self, settings: Settings) -> int | None:
        """Tokens of one slot's context, or of the one that all have together."""
        stated, streams = self._stated, self._streams
        if streams > 1 and (stated.n_ctx_seq or stated.cells):
            return stated.n_ctx_seq or stated.cells
        n_ctx = stated.n_ctx or stated.cells or self._wishes.n_ctx
        if n_ctx:
            return max(1, n_ctx // streams)
        n_ctx = self._context_of_cache(settings)
        if n_ctx:
            self._assumed.append(f"a context of {n_ctx:,} tokens, by the size of the cache")
        return n_ctx

    def _context_of_cache(self, settings: Settings) -> int | None:
        """The context whose cache is as large as the logged one."""
        both = self._total("kv_cache") or self._total(_CONTEXT)
        cache = CacheSizes(self._model.hparams)
        states = 0 if self._total("kv_cache") else cache.states[-1] * self._stated.n_states
        large = 1 << 22  # from here on nothing but the context makes a cache grow
        low, high = (
            cache.bytes(
                settings.with_context(n), self._flash(settings), HOST_LAYOUT, 0,
                self._model.n_layer_all,
            )
            for n in (large, 2 * large)
        )  # fmt: skip
        per_token = (high - low) / large
        if not both or per_token <= 0:
            return None
        n_ctx = round((both - states - (low - per_token * large)) / per_token)
        n_ctx = round(n_ctx / CONTEXT_PADDING) * CONTEXT_PADDING
        return n_ctx if 1 <= n_ctx <= MAX_CONTEXT else None

    def _with_layers(self, settings: Settings) -> Settings:
        """The same with the layers where the log says they are, else where they are closest."""
        gpus, stated, wishes = self._machine.gpus, self._stated, self._wishes
        if not gpus:
            return settings
        counts = self._counted()
        n_gpu_layers = stated.offloaded
        if counts is None and n_gpu_layers is None:
            n_gpu_layers = wishes.n_gpu_layers
        if counts is None and n_gpu_layers is not None and len(gpus) > 1:
            counts = self._wished(min(n_gpu_layers, self._model.n_items))
        said = [self._sizes_on(gpu) for gpu in range(len(gpus))]
        layers = Layers(
            self._model, self._machine, said, (self._streams, stated.n_states),
            flash=self._flash(settings),
        )  # fmt: skip
        if said[0] == (None, None) and counts is None:
            n = self._model.n_items if n_gpu_layers is None else n_gpu_layers
            counts = self._by_memory(min(n, self._model.n_items))
        found = layers.closest(settings, counts=counts, n_gpu_layers=n_gpu_layers)
        if counts is None and n_gpu_layers is None:
            self._assumed.append(
                f"{found.n_gpu_layers} of {self._model.n_items} layers on GPUs, which comes closest"
            )
        if counts is None and len(gpus) > 1:
            shares = ", ".join(f"{share:.0f}" for share in found.tensor_split)
            self._assumed.append(f"layers split {shares}, which comes closest")
        if stated.experts_on_host:
            return replace(found, n_cpu_moe=max(stated.experts_on_host) + 1)
        if wishes.n_cpu_moe is not None:
            return replace(found, n_cpu_moe=wishes.n_cpu_moe)
        with_experts = layers.with_experts(found) if self._has("weights") else found
        if with_experts.n_cpu_moe:
            self._assumed.append(
                f"experts of {count_text(with_experts.n_cpu_moe, 'layer')} in RAM, which comes "
                "closest"
            )
        return with_experts

    def _counted(self) -> list[int] | None:
        """Slots of each GPU, where the log assigns every one to its device."""
        layers = self._stated.layers
        if len(layers) != self._model.n_items:
            return None
        devices = list(layers.values())
        return [devices.count(gpu.engine_name) for gpu in self._machine.gpus]

    def _wished(self, n: int) -> list[int] | None:
        """Slots of each GPU by the user's wish."""
        split = self._wishes.tensor_split
        return self._shared(n, split) if split else None

    def _by_memory(self, n: int) -> list[int]:
        """Slots of each GPU as llama.cpp gives them out by itself, by free memory."""
        if len(self._machine.gpus) > 1:
            self._assumed.append("layers split by free memory")
        return self._shared(n, tuple(float(gpu.free) for gpu in self._machine.gpus))

    def _shared(self, n: int, split: tuple[float, ...]) -> list[int]:
        settings = Settings(1, n_gpu_layers=n, tensor_split=split)
        return list(place(self._model.n_layer_all, len(self._machine.gpus), settings).on_gpus)

    # ------------------------------------------------------------------ what is predicted

    def _nearest(self, settings: Settings) -> tuple[int, Footprint]:
        """The rows of logits, and the prediction with them: as the log says, else of one per slot
        and one per token whichever is nearer."""
        stated = self._stated.n_outputs_max
        tried = {
            n: self._predicted(settings, n) for n in ((stated,) if stated else (self._slots, 0))
        }
        n_outputs = min(tried, key=lambda n: self._compute_off(tried[n]))
        if stated is None and self._has("compute"):
            self._assumed.append(
                f"{count_text(n_outputs, 'row')} of logits" if n_outputs
                else "a row of logits for each token of a batch, which comes closest"
            )  # fmt: skip
        return n_outputs, tried[n_outputs]

    def _predicted(self, settings: Settings, n_outputs: int) -> Footprint:
        kept = max(1, self._stated.n_states // self._slots) - 1  # beside the last, of each slot
        estimator = Estimator(self._model, self._machine, n_outputs_max=n_outputs, n_rs_seq=kept)
        found = estimator.exact(settings)
        names = [s.device for s in self._load.sizes if s.kind == "weights"]
        if any(is_mapped(name) and on_host(name) for name in names):
            n_gpus = len(self._machine.gpus)
            found = with_mapped_weights(found, settings, self._model, n_gpus)
        return replace(
            found,
            uses=tuple(
                replace(
                    use,
                    kv_cache=use.kv_cache * self._streams,
                    recurrent_state=use.recurrent_state * self._stated.n_states,
                )
                for use in found.uses
            ),
        )

    def _compute_off(self, predicted: Footprint) -> int:
        logged = self._logged
        return sum(
            abs(use.compute - logged.get(place, {}).get("compute", use.compute))
            for place, use in enumerate(predicted.uses)
        )

    # ------------------------------------------------------------------ what was logged

    def _by_device(self) -> dict[int, dict[str, int]]:
        """Bytes by kind, by the device's place in the machine."""
        found: dict[int, dict[str, int]] = {}
        gpus = self._machine.gpus
        for size in self._load.sizes:
            at = device_index(device_of(size.device), gpus) if not on_host(size.device) else -1
            kinds = found.setdefault(at if at >= 0 else len(gpus), {})
            kinds[size.kind] = kinds.get(size.kind, 0) + size.size
        return found

    def _has(self, kind: str) -> bool:
        return kind in self._load.kinds and not (kind == "weights" and self._load.dry)

    def _all_compute(self) -> bool:
        """Whether the last compute buffer is there, which is the host's and is never empty."""
        return "compute" in self._logged.get(len(self._machine.gpus), {})

    def _total(self, kind: str) -> int:
        return sum(kinds.get(kind, 0) for kinds in self._logged.values())

    def _sizes_on(self, gpu: int) -> Logged:
        """Bytes of a GPU's caches and states, and of its weights, where the log has such."""
        kinds = self._logged.get(gpu, {})
        caches = [kind for kind in _CACHES if self._has(kind)]
        cache = sum(kinds.get(kind, 0) for kind in caches) if caches else None
        return cache, kinds.get("weights", 0) if self._has("weights") else None

    def _flash(self, settings: Settings) -> bool:
        return settings.flash_attn != "off" and not self._model.hparams.row.unfused

    def _figures(self, predicted: Footprint) -> Iterator[Figure]:
        """What there is of each device and kind, predicted or logged."""
        steps = {size.kind: size.step for size in self._load.sizes}
        names = [*map(label, self._machine.gpus), "host"]
        for at, (name, use) in enumerate(zip(names, predicted.uses, strict=True)):
            for kind in self._kinds():
                guess = _of_kind(use, kind)
                kinds = self._logged.get(at, {})
                # what a whole log does not mention is not there; a cut one may have lost the line
                behind = self._all_compute() if kind == "compute" else self._has("compute")
                said = self._has(kind) and (kind in kinds or behind)
                logged = kinds.get(kind, 0) if said else None
                if guess or logged:
                    yield Figure(name, kind, guess, logged, steps.get(kind, 0))

    def _is_unmarked(self) -> bool:
        """Whether nothing but what it lacks tells how old the engine is."""
        stated = self._stated
        return stated.build is None and bool(stated.n_ubatch) and stated.n_outputs_max is None

    def _other_rule(self, settings: Settings, build: int) -> OtherRule | None:
        devices, built = self._machine.devices, built_on(build)
        rules = (other_rule(self._model, device, settings, built, build) for device in devices)
        return next((rule for rule in rules if rule), None)

    def _kinds(self) -> tuple[str, ...]:
        if self._load.kinds == _WEIGHTS_ALONE:
            return ("weights",)
        if _CONTEXT in self._load.kinds:
            return ("weights", _CONTEXT, "compute")
        return ENGINE_KINDS

    def _notes(self, settings: Settings, figures: tuple[Figure, ...]) -> Iterator[str]:
        load, stated = self._load, self._stated
        if load.dry:
            yield "llama.cpp only tried these settings: the log has no weights."
        elif not self._has("compute"):
            yield "The log ends, or is cut, before the compute buffers of this load."
        elif not self._all_compute():
            yield "The log ends, or is cut, before the host's compute buffer of this load."
        elif not self._has("weights"):
            yield "The log begins, or is cut, after the weights of this load."
        weights = [f for f in figures if f.kind == "weights" and f.logged is not None]
        total = sum(f.logged or 0 for f in weights)
        off = sum(f.predicted for f in weights) / total - 1 if total else 0.0
        # without what comes behind, not all of the weights may be there
        if abs(off) > _OTHER_WEIGHTS and any(map(self._has, (*_CACHES, "compute"))):
            yield (
                f"The weights differ by {abs(off):.0%}: the log may be of another quantization or "
                "another model than this file."
            )
        if load.further_contexts:
            yield "Further contexts of this load (a draft's, or one made anew) are left out here."
        if stated.build is not None and (rule := self._other_rule(settings, stated.build)):
            yield (
                f"Build {stated.build} of llama.cpp is of another time than the one that kvchat "
                f"models: it {rule.what}, so that its compute buffers are of other sizes."
            )
        elif self._has("compute") and self._is_unmarked():
            yield (
                "An older llama.cpp wrote this log, since it has no n_outputs_max: its compute "
                "buffers may follow other rules than those that kvchat models."
            )
        whole = self._model.whole(settings.n_gpu_layers, settings.n_cpu_moe)
        if whole and len(self._machine.gpus) > 1 and stated.copies == 1:
            yield "The log's engine kept its inputs once, without a pipeline over the GPUs."
        experts = stated.experts_on_host
        if experts and experts != {il for il in self._model.moe_layers if il <= max(experts)}:
            yield "The log moves experts of other layers to RAM than the first ones."


def label(gpu: Device) -> str:
    """The engine's name for a GPU; one of a server, whose name may be another's too, by number."""
    return gpu.id if "[" in gpu.engine_name else gpu.engine_name


def _of_kind(use: DeviceUse, kind: str) -> int:
    if kind == _CONTEXT:
        return use.kv_cache + use.recurrent_state
    size: int = getattr(use, kind)
    return size

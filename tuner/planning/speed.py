"""Predicts tokens/s from what must be read and multiplied per token, at any depth.

Decoding one token reads every active weight and the filled part of the cache once, so its time is
bytes over bandwidth, summed over the devices, which work one after the other, and what each tensor,
each hand-over and the way to a server over a network costs beside its bytes. Prompt processing
multiplies many tokens with each weight it reads, so its time is arithmetic over FLOP/s, and, for
weights that stay in RAM while a GPU does the work, a copy of them over PCIe for every batch. What a
chat waits for is a turn of both.

A depth is the number of tokens that are in the cache already. The rates are those of `rates.py`,
attention is added up by `attended.py`; `Calibration` scales what is shown to what was measured of
this very model.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate, pairwise
from math import inf, prod

from tuner.gguf.header import TensorInfo
from tuner.gguf.types import GGML_NUMBERS
from tuner.machine.backends import backend
from tuner.machine.machine import ASSUMED_PCIE, Machine
from tuner.memory.cache_types import CACHE_TYPES
from tuner.memory.kv_cache import CacheSizes
from tuner.model.model import Model
from tuner.planning.attended import Attended, prefix
from tuner.planning.fastest_split import Space, least_seconds
from tuner.planning.host_kernels import TILED_COST, Pair, expert_cost, weight_cost, weight_seconds
from tuner.planning.plan import Reads, Speed
from tuner.planning.rates import NO_TIME, Rate, gpu_rate, host_rate, longer
from tuner.settings import Settings

QUOTED_DEPTH = 2_048  # tokens in the cache for which one speed is quoted
DEPTHS = (0, QUOTED_DEPTH, 8_192, 32_768, 131_072)  # and for which several are
CHAT_DEPTH = 8_192  # tokens that a conversation has come to; a turn of it is:
TURN_PROMPT = 1_500  # tokens that are read
TURN_ANSWER = 400  # tokens that are written

SECONDS_PER_TOKEN_GPU = 3e-4  # launching one graph
SECONDS_PER_HOP = 3e-5  # handing the hidden state from one device to another

F16_SPEEDUP = 1.24  # of prompts over weights that need no unpacking
ATTENTION_COST = 1.2  # FLOP of attention in those of a matrix product, on a GPU
# Of the experts in RAM only those that a batch uses are copied to the GPU: about all of them from
# this many tokens on, and fewer the smaller it is.
ALL_EXPERTS_UBATCH = 2_048
EXPERTS_GROWTH = 0.2
# Bytes that attention moves for each byte of an f16 cache where its kernel takes f16 only, so that
# the whole cache is copied at every step: what is stored is read, the copy written, the copy read.
COPIED = 3.0


@dataclass(frozen=True, slots=True)
class Calibration:
    """Measured over predicted tokens/s on this machine, from earlier loads (None: not yet)."""

    decode: float | None = None
    prompt: float | None = None


@dataclass(frozen=True, slots=True)
class Offload:
    """Which device computes what: `counts[g]` items (layers, the output last) on GPU g, in the
    engine's order, after those of the host."""

    n_gpu_layers: int
    n_cpu_moe: int
    counts: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Attention:
    """How attention meets a pair of cache types; f16 is read as it is."""

    copied: tuple[bool, ...] = ()  # by which GPUs, to f16 for every token; empty: by none
    unpacked: bool = False  # by the host, anew for every token of a prompt, as in decoding
    pair: Pair | None = ("f16", "f16")  # None: what the host is fastest with


AS_IT_IS = Attention()
LEAST = Attention(pair=None)


@dataclass(frozen=True, slots=True)
class _Depth:
    """Of each item and those before it, what a token at this depth costs beside the weights."""

    cache: list[float]  # bytes read
    steepest_dense: float  # bytes read per byte stored of any layer, at most, without its experts
    steepest_full: float  # and with them


class SpeedModel:
    """Decode and prompt speed of one model on one machine, for any offload, in microseconds.

    Items are the model's layers in order and, last, the output. Prefix sums over them hold the
    bytes read and the FLOP per token, and the bytes stored, experts apart.
    """

    def __init__(
        self,
        model: Model,
        machine: Machine,
        calibration: Calibration | None = None,
        cache: CacheSizes | None = None,
    ) -> None:
        """`cache`: that of the model, where it is at hand."""
        self.calibration = calibration or Calibration()
        self.n_items = model.n_items
        self._cache = cache or CacheSizes(model.hparams)
        self._n_embd = model.n_embd
        self._ids = [device.id for device in machine.devices]
        self._gpus = [gpu_rate(gpu) for gpu in machine.gpus]
        self._host = host_rate(machine)
        self._pcie = min((g.pcie_bandwidth or ASSUMED_PCIE for g in machine.gpus), default=0.0)
        # The first GPU that takes weights out of RAM to itself for large batches (`op_offload`).
        self._borrowed_from = machine.switches.offloaded
        self._borrower = next(
            (r for r, g in zip(self._gpus, machine.gpus, strict=True)
             if backend(g.backend).borrows_weights),
            None,
        )  # fmt: skip
        groups = model.tensors
        tied = (groups.tied,) if groups.tied else ()
        others = [*(layer.others for layer in groups.layers), (*groups.output, *tied)]
        experts = [*(layer.experts for layer in groups.layers), ()]
        used = model.n_expert_used / model.n_expert if model.n_expert else 1.0
        self._stored = prefix(_bytes(ts) for ts in others)
        self._expert_stored = prefix(_bytes(ts) for ts in experts)
        self._experts = [used * x for x in self._expert_stored]
        self._tensors = prefix(len(ts) for ts in others)
        self._expert_tensors = prefix(len(ts) for ts in experts)
        # Of one core of the host, with one token.
        self._core_seconds = prefix(_core_seconds(ts) for ts in others)
        self._expert_core_seconds = [used * x for x in prefix(_core_seconds(ts) for ts in experts)]
        # Of a prompt only the last token's logits are computed: the output costs nothing there.
        dense = [*others[:-1], ()]
        self._flops = prefix(_flops(ts) for ts in dense)
        self._host_flops = prefix(_host_flops(ts, weight_cost) for ts in dense)
        self._expert_flops = [used * x for x in prefix(_flops(ts) for ts in experts)]
        costly = prefix(_host_flops(ts, expert_cost) for ts in experts)
        self._host_expert_flops = [used * x for x in costly]
        self._depths: dict[int, _Depth] = {}
        self._takes: dict[tuple[Rate, int, int, bool], list[float]] = {}
        step = machine.host.f16_step
        self._attended = Attended(model.hparams, self._cache, self.n_items, step)

    def calibrated(self, calibration: Calibration) -> SpeedModel:
        """The same model with predictions scaled to what was measured."""
        other = copy.copy(self)
        other.calibration = calibration
        return other

    @property
    def copies_weights(self) -> bool:
        """Whether a GPU copies what it computes of the RAM's weights, for every batch."""
        return self._borrower is not None

    def _on_gpus(self, n_gpu_layers: int) -> int:
        """Items that GPUs compute: without one, none, however many are asked for."""
        return min(n_gpu_layers, self.n_items) if self._gpus else 0

    def without(self, place: int | None) -> SpeedModel:
        """The same where one part takes no time: a device (its place in `Machine.devices`), and
        behind them the host's attention to a quantized cache, which goes by other rules than its
        weights, and the waiting of its threads for each other. None: as it is."""
        if place is None:
            return self
        other = copy.copy(self)
        host, n_gpus = self._host, len(self._gpus)
        if place == n_gpus:
            other._host = replace(NO_TIME, attention=host.attention, barriers=host.barriers)
        elif place == n_gpus + 1:
            other._host = replace(host, attention=inf)
        elif place > n_gpus:
            other._host = replace(host, barriers=0.0)
        if place >= n_gpus:
            return other
        other._gpus = [NO_TIME if g == place else rate for g, rate in enumerate(self._gpus)]
        if self._borrower is self._gpus[place]:
            other._borrower = NO_TIME
        return other

    # ------------------------------------------------------------ one token, one turn

    def decode_seconds(
        self, offload: Offload, depth: int, attention: Attention = AS_IT_IS
    ) -> float:
        """Seconds per token at this depth, uncalibrated."""
        copied = attention.copied
        on_gpu = self._on_gpus(offload.n_gpu_layers)
        start = first = self.n_items - on_gpu
        cache = self._at(depth).cache
        stored, experts = self._stored, self._experts
        host_bytes = stored[first] + experts[first]
        moe = max(first, min(offload.n_cpu_moe, self.n_items))
        seconds = self._tensors_met(first, moe)
        seconds += self._host_attention(first, depth, attention.pair)
        core_seconds = self._core_seconds[first] + self._expert_core_seconds[moe]
        hops = (1 if first and on_gpu else 0) + 2 * (moe - first)
        for g, (rate, count) in enumerate(zip(self._gpus, offload.counts, strict=False)):
            end = min(start + count, self.n_items)
            if end <= start:
                continue
            hops += 1
            seconds += rate.round_trip + self._crossing(depth) / rate.link
            experts_from = min(max(start, moe), end)
            read = stored[end] - stored[start] + experts[end] - experts[experts_from]
            read += (COPIED if copied and copied[g] else 1.0) * (cache[end] - cache[start])
            host_bytes += experts[experts_from] - experts[start]
            launches = self._tensors[end] - self._tensors[start]
            launches += self._expert_tensors[end] - self._expert_tensors[experts_from]
            seconds += read / rate.bandwidth + launches * rate.per_tensor
            start = end
        if on_gpu:
            seconds += SECONDS_PER_TOKEN_GPU
        host = longer(host_bytes / self._host.bandwidth, core_seconds / self._host.cores)
        return seconds + host + hops * SECONDS_PER_HOP

    def _host_attention(self, first: int, depth: int, pair: Pair | None) -> float:
        """What a token's attention takes the host: its memory, and then its cores, which are as
        fast as at weights but where they unpack."""
        host, attended = self._host, self._attended
        read, worked = attended.read(depth, pair), attended.core_seconds(depth, pair)
        if pair is None:
            cores = max(host.cores, host.attention)
        else:
            packed = any(CACHE_TYPES[name].quantized for name in pair)
            cores = host.attention if packed else host.cores
        return read[first] / host.bandwidth + worked[first] / cores

    def _tensors_met(self, first: int, moe: int) -> float:
        """What the host's tensors take beside their weights, in a step of however many tokens:
        those of its own layers, and the experts of some more."""
        host = self._host
        n_tensors = self._tensors[first] + self._expert_tensors[moe]
        return n_tensors * (host.per_tensor + host.barriers)

    def prompt_seconds(
        self, offload: Offload, n_ubatch: int, depth: int, attention: Attention = AS_IT_IS
    ) -> float:
        """Seconds per token of a prompt that fills batches of `n_ubatch` tokens, at this depth,
        uncalibrated."""
        on_gpu = self._on_gpus(offload.n_gpu_layers)
        start = first = self.n_items - on_gpu
        moe = max(first, min(offload.n_cpu_moe, self.n_items))
        attended = self._attended.flop(depth)
        seconds = self._prompt_attention(first, depth, attention)
        for rate, count in zip(self._gpus, offload.counts, strict=False):
            end = min(start + count, self.n_items)
            if end > start:
                experts_from = min(max(start, moe), end)
                work = self._flops[end] - self._flops[start]
                work += ATTENTION_COST * (attended[end] - attended[start])
                work += self._expert_flops[end] - self._expert_flops[experts_from]
                seconds += work / rate.flops
                seconds += rate.round_trip / n_ubatch + self._crossing(depth) / rate.link
                start = end
        return seconds + self._host_prompt_seconds(first, moe, n_ubatch)

    def _crossing(self, depth: int) -> float:
        """Bytes per token that go to a server over a network and back: the hidden state both ways,
        and the row of the mask in f16 (`build_attn_inp_kq_mask`)."""
        return 8.0 * self._n_embd + 2.0 * depth

    def _network(self, rate: Rate, n_ubatch: int, depth: int) -> float:
        """Seconds of a turn that the way to a GPU takes."""
        way = (TURN_PROMPT + TURN_ANSWER) * self._crossing(depth) / rate.link
        return way + (TURN_PROMPT / n_ubatch + TURN_ANSWER) * rate.round_trip

    def _prompt_attention(self, first: int, depth: int, attention: Attention) -> float:
        """What the host's attention costs a token of a prompt."""
        if attention.unpacked:
            return self._attended.core_seconds(depth, attention.pair)[first] / self._host.attention
        return TILED_COST * self._attended.flop(depth)[first] / self._host.flops

    def _host_prompt_seconds(self, first: int, moe: int, n_ubatch: int) -> float:
        """What the weights in RAM cost: the engine copies them to a GPU for every batch, where one
        borrows them, whether that is quicker or not (`offload_op`, mostly 32 tokens or more)."""
        if self._borrower is None or n_ubatch < self._borrowed_from:
            flops = self._host_flops[first] + self._host_expert_flops[moe]
            return flops / self._host.flops + self._tensors_met(first, moe) / n_ubatch
        flops = self._flops[first] + self._expert_flops[moe]
        some = min(1.0, float((n_ubatch / ALL_EXPERTS_UBATCH) ** EXPERTS_GROWTH))
        copied = self._stored[first] + some * self._expert_stored[moe]
        return copied / (self._pcie * n_ubatch) + flops / self._borrower.flops

    def turn_seconds(
        self, offload: Offload, n_ubatch: int, depth: int, attention: Attention = AS_IT_IS
    ) -> float:
        """Seconds of one turn of a chat, uncalibrated."""
        prompt = self.prompt_seconds(offload, n_ubatch, depth, attention)
        return TURN_PROMPT * prompt + TURN_ANSWER * self.decode_seconds(offload, depth, attention)

    # ------------------------------------------------------------ bounds

    def least_turn(
        self,
        n_gpu_layers: int,
        n_cpu_moe: int,
        n_ubatch: int,
        depth: int,
        room: Sequence[float],
        met: Attention = LEAST,
    ) -> float:
        """No split of these layers has a shorter turn, where GPU g has `room[g]` bytes. `met`: how
        attention meets the cache, if its types are known."""
        on_gpu = self._on_gpus(n_gpu_layers)
        first = self.n_items - on_gpu
        moe = max(first, min(n_cpu_moe, self.n_items))
        attention = self._attended.flop(depth)
        work = self._flops[-1] - self._flops[first]
        work += ATTENTION_COST * (attention[-1] - attention[first])
        work += self._expert_flops[-1] - self._expert_flops[moe]
        fastest = max((rate.flops for rate in self._gpus), default=1.0)
        ways = (met,) if met.pair else (LEAST, replace(LEAST, unpacked=True))
        prompt = min(self._prompt_attention(first, depth, way) for way in ways) + work / fastest
        prompt += self._host_prompt_seconds(first, moe, n_ubatch)
        return TURN_PROMPT * prompt + TURN_ANSWER * self._least_decode(
            n_gpu_layers,
            n_cpu_moe,
            depth,
            room,
            met if all(met.copied) else replace(met, copied=()),
        )

    def _least_decode(
        self,
        n_gpu_layers: int,
        n_cpu_moe: int,
        depth: int,
        room: Sequence[float],
        met: Attention,
    ) -> float:
        """No split of these layers decodes a token faster.

        The fastest GPU is given what is read most per byte stored, as much as it has room for,
        then the next. Layers with and without their experts are told apart, not single ones. What
        copies of the cache take counts as if it were on the fastest.
        """
        on_gpu = self._on_gpus(n_gpu_layers)
        order = sorted(range(len(self._gpus)), key=lambda g: -self._gpus[g].bandwidth)
        counts = [0] * len(order)
        if order:
            counts[order[0]] = on_gpu
        offload = Offload(n_gpu_layers, n_cpu_moe, tuple(counts))
        seconds = self.decode_seconds(offload, depth, met)
        if len(order) <= 1 or not on_gpu:
            return seconds
        at, stored, experts = self._at(depth), self._stored, self._experts
        first, output = self.n_items - on_gpu, self.n_items - 1
        moe = max(first, min(n_cpu_moe, output))

        def dense(start: int, end: int) -> float:
            return stored[end] - stored[start] + at.cache[end] - at.cache[start]

        bare = dense(first, moe) + dense(output, self.n_items)
        full = dense(moe, output) + experts[output] - experts[moe]
        whole = left = bare + full
        seconds -= whole / self._gpus[order[0]].bandwidth
        ways = [rate.round_trip + self._crossing(depth) / rate.link for rate in self._gpus]
        seconds += min(ways) - ways[order[0]]
        least_launch = min(rate.per_tensor for rate in self._gpus)
        launches = self._tensors[-1] - self._tensors[first]
        launches += self._expert_tensors[-1] - self._expert_tensors[moe]
        seconds -= launches * (self._gpus[order[0]].per_tensor - least_launch)
        held = 0.0
        for g in order:
            held += max(0.0, room[g])
            bytes_bare = min(bare, held * at.steepest_dense)
            rest = held - bytes_bare / at.steepest_dense
            most = bytes_bare + min(full, rest * at.steepest_full)
            taken = left if g == order[-1] else most - (whole - left)
            seconds += taken / self._gpus[g].bandwidth
            left -= taken
        return seconds

    def least_of_splits(
        self,
        settings: Settings,
        depth: int,
        held: Sequence[int],
        spaces: Sequence[Space],
        attention: Attention,
    ) -> float:
        """Seconds of a turn that no split of these settings' layers over the GPUs is below; inf
        where no GPU has room for what is left by the others. `held`, `spaces`: as of
        `least_seconds`."""
        on_gpu = self._on_gpus(settings.n_gpu_layers)
        moe, copied = settings.n_cpu_moe, attention.copied or (False,) * len(self._gpus)
        takes = [
            self._taken(rate, moe, depth, slow)
            for rate, slow in zip(self._gpus, copied, strict=True)
        ]
        first = self.n_items - on_gpu
        hops = [
            TURN_ANSWER * SECONDS_PER_HOP + self._network(rate, settings.n_ubatch, depth)
            for rate in self._gpus
        ]
        alone = Offload(on_gpu, moe, (on_gpu,))
        beside = self.turn_seconds(alone, settings.n_ubatch, depth, attention)
        beside -= takes[0][-1] - takes[0][first] + hops[0]
        return beside + least_seconds(first, held, spaces, takes, hops)

    def _taken(self, rate: Rate, n_cpu_moe: int, depth: int, copied: bool) -> list[float]:
        """Seconds of a turn that the first 0, 1, 2, ... items take on a GPU."""
        key = (rate, n_cpu_moe, depth, copied)
        found = self._takes.get(key)
        if found is None:
            moe = min(n_cpu_moe, self.n_items)
            cache, attended = self._at(depth).cache, self._attended.flop(depth)
            decode, launch = TURN_ANSWER / rate.bandwidth, TURN_ANSWER * rate.per_tensor
            read_cache = (COPIED if copied else 1.0) * decode
            prompt = TURN_PROMPT / rate.flops
            found = self._takes[key] = [
                decode * (self._stored[i] + self._experts[at])
                + read_cache * cache[i]
                + launch * (self._tensors[i] + self._expert_tensors[at])
                + prompt * (self._flops[i] + ATTENTION_COST * attended[i] + self._expert_flops[at])
                for i, at in ((i, max(i, moe)) for i in range(self.n_items + 1))
            ]
        return found

    def weights_offloaded(self, n_gpu_layers: int, n_cpu_moe: int) -> float:
        """Bytes of weights on all GPUs together, without any padding."""
        first = self.n_items - self._on_gpus(n_gpu_layers)
        moe = max(first, min(n_cpu_moe, self.n_items))
        experts = self._expert_stored[-1] - self._expert_stored[moe]
        return self._stored[-1] - self._stored[first] + experts

    def weights_on_host(self, n_gpu_layers: int, n_cpu_moe: int) -> float:
        """Bytes of weights in RAM without any padding, what is there whatever is offloaded and the
        output left out."""
        output = self.n_items - 1
        first = min(self.n_items - self._on_gpus(n_gpu_layers), output)
        return self._stored[first] + self._expert_stored[max(first, min(n_cpu_moe, output))]

    # ------------------------------------------------------------ what is shown

    def predict(
        self, settings: Settings, offload: Offload, attention: Attention = AS_IT_IS
    ) -> Speed:
        """Calibrated speed of a whole decision."""
        known = self.calibration
        decoded, prompted = known.decode or 1.0, known.prompt or 1.0

        def decode(depth: int) -> float:
            return decoded / self.decode_seconds(offload, depth, attention)

        n_ctx = settings.n_ctx
        depth = turn_depth(n_ctx)
        seconds = self.prompt_seconds(offload, settings.n_ubatch, depth, attention)
        prompt = prompted / max(1e-9, seconds)  # a model without a matrix would take no time
        return Speed(
            decode(min(QUOTED_DEPTH, n_ctx)),
            prompt,
            "measured" if known.decode else "computed",
            "measured" if known.prompt else "computed",
            {at: decode(at) for at in DEPTHS if at <= n_ctx},
            TURN_PROMPT / prompt + TURN_ANSWER / decode(depth),
            self.reads(settings, offload, min(QUOTED_DEPTH, n_ctx)),
        )

    def reads(self, settings: Settings, offload: Offload, depth: int) -> Reads:
        """Bytes that one token at this depth reads."""
        on_gpu = self._on_gpus(offload.n_gpu_layers)
        first, output = self.n_items - on_gpu, self.n_items - 1
        moe = max(first, min(offload.n_cpu_moe, self.n_items))
        ends = [first, *(first + n for n in accumulate(offload.counts))] if on_gpu else [first]
        # of each GPU, then the host's; the output is told apart
        spans = [(min(a, output), min(b, output)) for a, b in (*pairwise(ends), (0, first))]
        experts = [self._experts[b] - self._experts[min(max(a, moe), b)] for a, b in spans[:-1]]
        ids = [*self._ids[: len(experts)], self._ids[-1]]
        caches = [float(self._cache.read(settings, a, b, depth)) for a, b in spans]
        return Reads(
            dict(zip(ids, (self._stored[b] - self._stored[a] for a, b in spans), strict=True)),
            dict(zip(ids, (*experts, self._experts[moe]), strict=True)),
            dict(zip(ids, caches, strict=True)),
            self._stored[-1] - self._stored[output],
        )

    # ------------------------------------------------------------ by depth

    def _at(self, depth: int) -> _Depth:
        """What a depth costs to read, for caches of any type the time of f16; what unpacking takes
        the host is `Attended.core_seconds`."""
        found = self._depths.get(depth)
        if found is None:
            cache = self._attended.read(depth)
            dense = [a + b for a, b in zip(self._stored, cache, strict=True)]
            full = [a + b for a, b in zip(dense, self._experts, strict=True)][:-1]
            both = [a + b for a, b in zip(self._stored, self._expert_stored, strict=True)][:-1]
            found = _Depth(cache, _steepest(dense, self._stored), _steepest(full, both))
            self._depths[depth] = found
        return found


def turn_depth(n_ctx: int) -> int:
    """Tokens in the cache at which a turn of a chat with such a context is judged."""
    return min(CHAT_DEPTH, n_ctx // 2)


def holds_turn(n_ctx: int) -> bool:
    """Whether there is room for such a turn behind what is in the cache."""
    return turn_depth(n_ctx) + TURN_PROMPT + TURN_ANSWER <= n_ctx


def _steepest(read: Sequence[float], stored: Sequence[float]) -> float:
    """The largest growth of one prefix sum against another, item by item."""
    steps = zip(pairwise(read), pairwise(stored), strict=True)
    return max(((b - a) / (d - c) for (a, b), (c, d) in steps if d > c), default=1.0)


def _bytes(tensors: Iterable[TensorInfo]) -> int:
    return sum(t.n_bytes for t in tensors)


_UNPACKED = frozenset(GGML_NUMBERS[name] for name in ("f16", "bf16"))


def _flops(tensors: Iterable[TensorInfo]) -> float:
    """Two per weight of every matrix that a token is multiplied with; of those that need no
    unpacking, as many of the others' as take the same time."""
    return sum(
        2.0 * prod(t.shape) / (F16_SPEEDUP if t.ggml_type in _UNPACKED else 1.0)
        for t in tensors
        if len(t.shape) > 1
    )


def _core_seconds(tensors: Iterable[TensorInfo]) -> float:
    """What one of the host's cores takes to multiply all of these with one token."""
    return sum(prod(t.shape) * weight_seconds(t.ggml_type) for t in tensors if len(t.shape) > 1)


def _host_flops(tensors: Iterable[TensorInfo], cost: Callable[[int], float]) -> float:
    """The same on the host, where types cost so much."""
    return sum(2.0 * prod(t.shape) * cost(t.ggml_type) for t in tensors if len(t.shape) > 1)

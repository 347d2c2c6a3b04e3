"""What the builders of all parts of a layer share: the inputs of a graph, products, norms."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import Literal, NamedTuple, TypeVar, cast

from tuner.gguf.header import TensorInfo
from tuner.machine.kernels import Asked, KernelRule
from tuner.memory.compute.graph import F16, F32, HOST, I32, I64, LEFT_TO_HOST, Graph, Node
from tuner.memory.compute.ops import Op
from tuner.memory.compute.replica.sparse_counts import Counts
from tuner.memory.kv_cache import ALL, WINDOW, Cells
from tuner.model.hparams import HParams

_ATTENDING = frozenset({"attn_qkv", "attn_q", "attn_k", "attn_v", "attn_output"})
# the order in which a layer's states lie in memory (`llama_memory_recurrent`)
COLUMNS, STATE, NGRAMS = range(3)
HADAMARD = 64  # the smallest rotation (src/llama-kv-cache.cpp)
T = TypeVar("T")
Tensors = dict[str, TensorInfo]  # of one layer or of the output, without "blk.N."
Layers = tuple[tuple[int, int, bool], ...]  # (layer, device, experts on the host)


class RopeFactors(NamedTuple):
    """The factors by which some models rotate, which all layers in one place share."""

    size: int  # bytes
    layers: frozenset[int]  # that rotate by them


@dataclass(frozen=True, slots=True)
class Shape:
    """What a graph is built for: `n_tokens` at once, caches of `cells` (by kind)."""

    n_tokens: int
    cells: tuple[tuple[Cells, int], ...]
    flash: bool
    overridden: bool  # tensor overrides are in force: no pipeline over several GPUs
    rotate_k: bool  # quantized keys are rotated (Hadamard) before they are stored
    rotate_v: bool
    k_bytes: float  # bytes per cached element
    v_bytes: float
    scratch: str = ""  # whose attention takes scratch memory: "CUDA", "SYCL", "Metal" or nobody's
    k_stride: float = 0.0  # Metal's: bytes per element of rows read as they lie; 0: of a copy
    staged: bool = False  # attention as oneDNN has it: through f16 copies of all but an f16 cache
    f16_k: bool = True
    f16_v: bool = True
    k_cached: float = 0.0  # bytes per cached key element, where the graph joins caches
    counts: Counts = ()  # what else the graph is built for
    # Where all layers are on GPUs, the engine keeps their norms there (`graph_get_cb`,
    # src/llama-context.cpp), but for a dry run, which forgets what was fixed before it looks for
    # memory (`ggml_backend_sched_reserve_size`, ggml-backend.cpp).
    keeps_norms: bool = False
    kernelless: frozenset[tuple[int, int]] = frozenset()  # heads of K and V that no GPU fuses
    n_rs_seq: int = 0  # states that are kept of earlier tokens, to go back to (a draft's)
    type_k: str = ""  # where a GPU's kernels go by it
    lacks: tuple[KernelRule, ...] = ()  # what each GPU has no kernel for; empty: none lacks any
    attends_by_copy: bool = False  # tokens attend to copies of what they picked (glm5_next.py)
    n_outputs: int = 1  # rows that become logits, of at most n_tokens


class GraphBuilder:
    """One graph in the making; `self.g.device` says where the current layer lives.

    Mirrors what `llm_graph_context` (src/llama-graph.h) has at hand: the inputs of a graph,
    products with weights, norms. What layers hand on to later ones, or share, is kept here without
    a word on what it is: `input`, `carried`, `once`.
    """

    def __init__(
        self,
        hp: HParams,
        shape: Shape,
        graph: Graph,
        layers: Layers = (),
        output_device: int = HOST,
        rope: RopeFactors | None = None,
    ):
        self.rope = rope
        self.keeps_norms = shape.keeps_norms  # on the device of their layer, whatever is around
        self.hp, self.shape, self.g = hp, shape, graph
        self.layers, self.output_device = layers, output_device
        self.traits = hp.row.graph
        self.layer_norm = self.traits.layer_norm
        if self.traits.rms_if_stated and hp.rms_norm:
            self.layer_norm = False
        self.n_tokens = n_tokens = shape.n_tokens
        self.cells = dict(shape.cells)
        self.counts = dict(shape.counts)
        self.tokens = graph.input(n_tokens)
        self.pos = graph.input(n_tokens * hp.positions, element=I32)
        self.out_ids = graph.input(shape.n_outputs, element=I32)
        states = graph.input(1, element=I32)
        self.ids = graph.view(states, 1)  # which state belongs to the sequence,
        self.no_ids = graph.view(states, 0)  # and which to others
        mask = F16 if shape.flash else F32
        self.masks = {
            k: graph.input(n, n_tokens, element=mask) for k, n in shape.cells if k in (ALL, WINDOW)
        }
        self.k_idxs = {k: graph.input(n_tokens, element=I64) for k in self.masks}
        wide = 1 if shape.flash else max(1, *hp.v_row)
        self.v_idxs = {k: graph.input(n_tokens * wide, element=I64) for k in self.masks}
        self.layer = 0  # the number of the current one
        self.experts_on_host = False
        self.cache_device = -1  # where a layer's cache is, if not with its weights
        self.owners: dict[Cells, int] = {}  # the device of the last cache of each kind,
        self.caches: dict[tuple[Cells, str], Node] = {}  # and its keys and values
        self.carried: dict[str, Node] = {}  # what earlier layers have made for later ones
        self.inputs: dict[tuple[int, str], Node] = {}  # by kind of cache and purpose
        # by what caches lie in: the layer of the newest, where its caches begin and end
        self._laid: dict[tuple[int, str], tuple[tuple[int, int], int, int]] = {}
        self._shared: dict[Callable[[GraphBuilder], object], object] = {}

    def at(self, device: int, experts_on_host: bool = False) -> None:
        """What follows is on this device, up to its experts."""
        self.g.device = device
        self.experts_on_host = experts_on_host and device != HOST

    def input(self, kind: int, purpose: str, *shape: int, element: int = I32) -> Node:
        """An input that all layers of a kind of cache share, as the first of them asks for it."""
        key = (kind, purpose)
        if key not in self.inputs:
            self.inputs[key] = self.g.input(*shape, element=element)
        return self.inputs[key]

    def once(self, make: Callable[[GraphBuilder], T]) -> T:
        """What layers of one kind share: made when the first of them asks for it."""
        if make not in self._shared:
            self._shared[make] = make(self)
        return cast(T, self._shared[make])

    def made(self, make: Callable[[GraphBuilder], T]) -> T | None:
        """The same, unless no layer has asked for it yet."""
        return cast("T | None", self._shared.get(make))

    def output_rows(self, x: Node) -> Node:
        """The rows of x that become logits: [n, n_tokens] -> [n, n_outputs]
        (`build_inp_out_ids`)."""
        return self.g.new(x.shape[0], self.shape.n_outputs, of=(x, self.out_ids), op="GET_ROWS")

    def has(self, t: Tensors, name: str) -> bool:
        return f"{name}.weight" in t

    def mm(self, t: Tensors, name: str, x: Node) -> Node:
        """The weight `name` times x, and its scale and its bias where it has them
        (`build_lora_mm`). x: [n_in, ...] -> [n_out, ...]."""
        y = self.bare_mm(t, name, x)
        if self.traits.scaled is not None and name not in self.traits.scaled:
            return y
        scaled = f"{name}.scale" in t and self._scales(name)
        after_bias = name.startswith("ffn_")
        if scaled and not after_bias:
            # a layer that runs another's weights still has scales of its own for attention
            own = self.cache_device if name in _ATTENDING else -1
            device = own if own >= 0 else None
            y = self.g.over(y, op="MUL", weight=t[f"{name}.scale"].n_bytes, device=device)
        if f"{name}.bias" in t and self.traits.biased:
            y = self.by(t, f"{name}.bias", y)
        return self.by(t, f"{name}.scale", y) if scaled and after_bias else y

    def bare_mm(self, t: Tensors, name: str, x: Node) -> Node:
        """The weight `name` times x and no more (`ggml_mul_mat`).
        x: [n_in, ...] -> [n_out, ...]."""
        w = t[f"{name}.weight"]
        g, rows = self.g, w.shape[1] if len(w.shape) > 1 else 1
        return g.reads(w, g.mm(rows, x, g.held(w), name=w.name))

    def _scales(self, name: str) -> bool:
        """Whether the architecture uses a scale of this weight, should a file have it."""
        row = self.hp.row
        if name in ("ffn_up", "ffn_gate", "ffn_down"):
            return row.scaled_ffn
        if name == "attn_gate":
            return row.scaled_gate
        return row.scaled_shared if name.endswith("_shexp") else True

    def by(self, t: Tensors, name: str, x: Node, op: Op = "") -> Node:
        """x times the weight of this very name, or plus it if that is a bias, or as `op` says; the
        shape stays."""
        op = op or ("ADD" if name.endswith(".bias") else "MUL")
        w = t[name]
        return self.g.reads(w, self.g.over(x, op=op, weight=w.n_bytes, name=name))

    def seen(self, w: TensorInfo, device: int | None = None) -> Node:
        """A weight to be looked at, by which it does not say where what reads it runs; on `device`
        if not on the current one."""
        at = self.g.device if device is None else device
        return self.g.reads(w, self.g.external(w.n_bytes, at), at)

    def seen_as(self, t: Tensors, name: str, *shape: int) -> Node:
        """`seen`, of the weight of this very name under another shape."""
        node = self.g.reshape(self.seen(t[name]), *shape)
        node.size = self.g.held(t[name])
        return node

    def lacks(self, asked: Asked) -> bool:
        """Whether the current device has no kernel for an operation; of the host's layers, which
        GPUs may compute too, whether some GPU has none."""
        rules, at = self.shape.lacks, self.g.device
        return any(rule(asked) for rule in (rules if at == HOST else rules[at - 1 : at]))

    def unless_lacking(self, node: Node, asked: Asked) -> Node:
        """The node, which is the host's where GPUs have no kernel for it."""
        if self.lacks(asked):
            node.device = LEFT_TO_HOST
            self.note_on_cpu(asked)
        return node

    def note_on_cpu(self, asked: Asked) -> None:
        """The host computes this operation; of a GPU's layer, that is worth a word."""
        if self.g.device != HOST:
            self.g.on_cpu.add((self.g.device, asked.op))

    def norm(self, t: Tensors, name: str, x: Node) -> Node:
        """x by its mean or its mean square, times a weight, plus a bias where there are such
        (`build_norm`); the shape stays."""
        g = self.g
        bias = f"{name}.bias" in t
        layer_norm = bias if self.layer_norm is None else self.layer_norm
        y = g.new(*x.shape, of=(x,), op="NORM") if layer_norm else g.over(x, op="RMS_NORM")
        if self.keeps_norms and (bias or self.has(t, name)):
            y.device = g.device
        if self.has(t, name):
            y = self.by(t, f"{name}.weight", y)
        return self.by(t, f"{name}.bias", y) if bias else y

    def cache(self, kind: str, which: int, device: int) -> Node:
        """One of the layer's caches on a device, the how manieth of its `kind`: these lie one
        behind the other, layer by layer."""
        key, layer = (device, kind), (self.g.scope, self.layer)
        last, first, end = self._laid.get(key, ((-1, -1), 0, 0))
        if last != layer:
            first = end
        at = first + which
        self._laid[key] = layer, first, max(end, at + 1)
        node = self.g.external(0, device)
        node.span = key, at, at + 1
        return node

    def gather(
        self, size: int, take: Callable[[Node], Node] | None = None, *, which: int | None = None
    ) -> Node:
        """A sequence's state of `size` elements, copied out of the cache, or what `take` makes of
        the cache; those of further sequences, none, are copied in place (`build_rs`). `which`: of
        the layer's states, as they lie in memory; None: that is not known."""
        g, home = self.g, self.g.device
        state = g.external(0, home) if which is None else self.cache("states", which, home)
        rows = g.reshape(state, size)
        g.expand(g.store(g.view(rows, size), into=state, op="SCALE"))
        if take is None:
            node = Node((size,), F32, (rows, self.ids), "GET_ROWS", device=g.device)
        else:
            node = take(rows)
        g.expand(node)
        others = Node((size, 0), F32, (rows, self.no_ids), "GET_ROWS", device=g.device)
        g.expand(g.store(others, g.view(state, size, 0), into=state))
        return node

    def keep(self, new: Node, old: Node, *shape: int) -> None:
        """Writes a new state where the old one was gathered, as a row unless a shape is stated."""
        state = old.srcs[0].root
        assert state is not None
        g = self.g
        g.expand(g.store(new, g.view(state, *(shape or (prod(new.shape),))), into=state))

    def rotated(self, x: Node) -> Node:
        """Queries or keys by position (`ggml_rope_ext`), in place. Factors in RAM are brought to
        the device that rotates; they do not say which it is."""
        factors: tuple[Node, ...] = ()
        if self.rope is not None and self.layer in self.rope.layers and self.g.device == HOST:
            factors = self.once(_factors)
        return self.g.over(x, self.pos, *factors, op="ROPE")

    def hadamard(self, x: Node, kind: int, which: Literal["k", "v"], head: int) -> Node:
        """A small matrix times x, whose shape stays (`llama_mul_mat_hadamard`): for keys as wide
        as divides the head, for values the smallest."""
        rot = max(HADAMARD, head & -head) if which == "k" else HADAMARD  # a power of two
        matrix = self.input(kind, f"rotation of {which}", rot, rot, element=F32)
        flat = (self.g.reshape if x.contiguous else self.g.cont)(x, rot, prod(x.shape) // rot)
        return self.g.reshape(self.g.new(*flat.shape, of=(matrix, flat), op="MUL_MAT"), *x.shape)


def _factors(b: GraphBuilder) -> tuple[Node, ...]:
    assert b.rope is not None
    return b.g.beside(b.rope.size)


def output_streams(b: GraphBuilder, x: Node) -> Node:
    """The rows that become logits where each token has several: [n_embd, streams, n_tokens]
    -> [n_embd, streams, n_outputs]."""
    n, streams, n_tokens = x.shape
    flat = b.g.reshape(x, n * streams, n_tokens)
    return b.g.reshape(b.output_rows(flat), n, streams, b.shape.n_outputs)

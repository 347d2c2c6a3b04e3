"""What the builders of all parts of a layer share: the inputs of a graph, products, norms."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from tuner.gguf.header import TensorInfo
from tuner.memory.compute.graph import F16, F32, I32, I64, Graph, Node
from tuner.memory.compute.replica.sparse_counts import Counts
from tuner.memory.kv_cache import ALL, WINDOW, Cells
from tuner.model.hparams import HParams

if TYPE_CHECKING:
    from tuner.memory.compute.replica.minimax_m3 import Blocks

_ATTENDING = frozenset({"attn_qkv", "attn_q", "attn_k", "attn_v", "attn_output"})
Tensors = dict[str, TensorInfo]
Layers = Sequence[tuple[int, int, bool]]  # (layer, device, experts on the host)


@dataclass(frozen=True, slots=True)
class Shape:
    """What a graph is built for: `u` tokens at once, caches of `cells` (by kind)."""

    u: int
    cells: tuple[tuple[Cells, int], ...]
    flash: bool
    overridden: bool  # tensor overrides are in force: no pipeline over several GPUs
    rotate_k: bool  # quantized keys are rotated (Hadamard) before they are stored
    rotate_v: bool
    k_bytes: float  # bytes per cached element
    v_bytes: float
    scratch: str = ""  # whose attention unpacks the cache to f16: "CUDA", "Metal" or nobody's
    f16_k: bool = True
    f16_v: bool = True
    k_cached: float = 0.0  # bytes per cached key element, where the graph joins caches
    counts: Counts = ()  # what else the graph is built for
    gathers: bool = False  # glm5_next.py


class Parts:
    """One graph in the making; `self.g.device` says where the current layer lives."""

    def __init__(self, hp: HParams, shape: Shape, graph: Graph):
        self.hp, self.shape, self.g = hp, shape, graph
        self.traits = hp.row.graph
        self.layer_norm = self.traits.layer_norm
        if self.traits.rms_if_stated and hp.rms_norm:
            self.layer_norm = False
        self.u = shape.u
        self.cells = dict(shape.cells)
        self.counts = dict(shape.counts)
        self.pos = graph.input(self.u * hp.positions, element=I32)
        self.out_ids = graph.input(1, element=I32)
        self.temperature = graph.input(1, 1, self.u)
        states = graph.input(1, element=I32)
        self.ids = graph.view(states, 1)  # which state belongs to the sequence,
        self.no_ids = graph.view(states, 0)  # and which to others
        mask = F16 if shape.flash else F32
        self.masks = {
            k: graph.input(n, self.u, element=mask) for k, n in shape.cells if k in (ALL, WINDOW)
        }
        self.k_idxs = {k: graph.input(self.u, element=I64) for k in self.masks}
        wide = 1 if shape.flash else max(1, *hp.v_row)
        self.v_idxs = {k: graph.input(self.u * wide, element=I64) for k in self.masks}
        self.rotations: dict[tuple[int, str], Node] = {}
        self.experts_on_host = False
        self.per_layer: Node | None = None  # embeddings of their own for each layer
        self.skip: Node | None = None  # the embeddings, added again behind every layer
        self.first_value: Node | None = None  # rwkv7: the first layer's, which all others blend in
        self.layer = 0  # the number of the current one
        self.cache_device = -1  # where a layer's cache is, if not with its weights
        self.owners: dict[Cells, int] = {}  # the device of the last cache of each kind
        self.inputs: dict[tuple[int, str], Node] = {}  # by kind of cache and purpose
        self.routed: Node | None = None  # experts that are chosen without a router
        self.fused = True  # hyper_connections.py
        # sparse attention (dsa.py)
        self.chosen: Node | None = None
        self.index_mask: Node | None = None
        self.index_rotation: Node | None = None
        self.index_rows: Node | None = None
        self.bank: Node | None = None  # what earlier layers keep for later ones (kimi_k3.py)
        self.blocks: Blocks | None = None  # what layers that pick blocks share (minimax_m3.py)
        self.decays: tuple[Node, ...] = ()  # of lightning attention (minimax_01.py)

    def has(self, t: Tensors, name: str) -> bool:
        return f"{name}.weight" in t

    def mm(self, t: Tensors, name: str, x: Node) -> Node:
        """x times the weight `name`, and its bias where it has one."""
        w = t[f"{name}.weight"]
        y = self.g.mm(w.shape[1] if len(w.shape) > 1 else 1, x, w.n_bytes)
        if self.cache_device >= 0 and name in _ATTENDING and f"{name}.scale" in t:
            # a layer that runs another's weights still has scales of its own
            y = Node(y.shape, F32, (y,), inplace=True, device=self.cache_device)
        return self.g.over(y, weighted=True) if f"{name}.bias" in t else y

    def norm(self, t: Tensors, name: str, x: Node) -> Node:
        g = self.g
        bias = f"{name}.bias" in t
        layer_norm = bias if self.layer_norm is None else self.layer_norm
        y = g.new(*x.shape, of=(x,)) if layer_norm else g.over(x)
        if self.has(t, name):
            y = g.over(y, weighted=True)
        return g.over(y, weighted=True) if bias else y

    def gather(self, size: int) -> Node:
        """A sequence's state, copied out of the cache; those of further sequences, none, are
        copied in place (`build_rs`)."""
        g = self.g
        node = Node((max(1, size),), 4, (self.ids,), device=g.device)
        g.expand(node)
        g.expand(g.store(Node((0,), 4, (self.no_ids,), device=g.device)))
        return node

    def hadamard(self, x: Node, kind: Cells, which: str, head: int) -> Node:
        """`llama_mul_mat_hadamard`: a small matrix times x."""
        rot = 64
        if which == "k":
            while head % (2 * rot) == 0:
                rot *= 2
        key = (kind, which)
        if key not in self.rotations:
            self.rotations[key] = self.g.input(rot, rot)
        flat = self.g.view(x, rot, prod(x.shape) // rot)
        y = self.g.new(*flat.shape, of=(self.rotations[key], flat))
        return self.g.view(y, *x.shape)

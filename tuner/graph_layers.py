"""The layers of a model as graph nodes: attention, feed-forward, experts.

Mirrors `llm_graph_context` (src/llama-graph.cpp: build_norm, build_qkv, build_attn, build_ffn,
build_moe_ffn) and what the architectures in src/models/*.cpp have in common; which parts a layer
has is read from its tensors, so an architecture needs no entry of its own unless it differs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING

from tuner.cache import ALL, WINDOW
from tuner.gguf_header import TensorInfo
from tuner.graph import F16, F32, HOST, I32, I64, Graph, Node
from tuner.graph_traits import SCALED_EXPERTS, rotates, traits
from tuner.hparams import HParams

if TYPE_CHECKING:
    from tuner.graph_msa import Blocks

_ATTENDING = frozenset({"attn_qkv", "attn_q", "attn_k", "attn_v", "attn_output"})
Tensors = dict[str, TensorInfo]


@dataclass(frozen=True, slots=True)
class Shape:
    """What a graph is built for: `u` tokens at once, caches of `cells` (by kind)."""

    u: int
    cells: tuple[tuple[int, int], ...]
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


class LayerBuilder:
    """Builds one graph's layers; `self.g.device` says where the current layer lives."""

    def __init__(self, hp: HParams, shape: Shape, graph: Graph):
        self.hp, self.shape, self.g = hp, shape, graph
        self.traits = traits(hp.architecture)
        self.layer_norm = self.traits.layer_norm and not (self.traits.rms_if_stated and hp.rms_norm)
        self.u = shape.u
        self.cells = dict(shape.cells)
        self.pos = graph.input(self.u * hp.positions, element=I32)
        self.out_ids = graph.input(1, element=I32)
        self.temperature = graph.input(1, 1, self.u)
        self.ids = graph.input(1, element=I32)  # which state belongs to the sequence
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
        self.owners: dict[int, int] = {}  # the device of the last cache of each kind
        self.inputs: dict[tuple[int, str], Node] = {}  # by kind of cache and purpose
        self.routed: Node | None = None  # experts that are chosen without a router
        self.fused = True  # graph_hyper.py
        # sparse attention (graph_sparse.py)
        self.chosen: Node | None = None
        self.index_mask: Node | None = None
        self.index_rotation: Node | None = None
        self.index_rows: Node | None = None
        self.bank: Node | None = None  # what earlier layers keep for later ones (graph_bank.py)
        self.blocks: Blocks | None = None  # what layers that pick blocks share (graph_msa.py)
        self.decays: tuple[Node, ...] = ()  # of lightning attention (graph_lightning.py)

    # ------------------------------------------------------------ small parts

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
        y = g.new(*x.shape, of=(x,)) if bias or self.layer_norm else g.over(x)
        if self.has(t, name):
            y = g.over(y, weighted=True)
        return g.over(y, weighted=True) if bias else y

    def gather(self, size: int) -> Node:
        """A sequence's state, copied out of the cache (`build_rs`)."""
        node = Node((max(1, size),), 4, (self.ids,), device=self.g.device)
        self.g.expand(node)
        return node

    def hadamard(self, x: Node, kind: int, which: str, head: int) -> Node:
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

    # -------------------------------------------------------------- attention

    def attention(self, t: Tensors, il: int, x: Node) -> Node:
        """Self-attention over a cache of K and V: x is the normed input."""
        g, hp, u = self.g, self.hp, self.u
        n, n_kv = hp.n_head[il], hp.n_head_kv[il]
        dk, dv = hp.head_k[il], hp.head_v[il]
        gate: Node | None = None
        k: Node | None
        v: Node | None
        if self.has(t, "attn_qkv"):
            qkv = self.mm(t, "attn_qkv", x)
            q = g.view(qkv, dk, n, u, contiguous=False)
            k = g.view(qkv, dk, n_kv, u, contiguous=False)
            v = g.view(qkv, dv, n_kv, u, contiguous=False)
        else:
            q_raw = self.mm(t, "attn_q", x)
            if q_raw.shape[0] == 2 * n * dk:  # each head's query and gate side by side
                gate = g.view(q_raw, dk, n, u, contiguous=False)
                q = g.view(q_raw, dk, n, u, contiguous=False)
            else:
                if self._wide(t, "attn_q_norm", q_raw):
                    q_raw = self.norm(t, "attn_q_norm", q_raw)
                q = g.view(q_raw, dk, n, u)
            shared = il >= hp.n_layer_kv  # this layer reads an earlier layer's cache
            k = None if shared else self.mm(t, "attn_k", x)
            v = None
            if k is not None:
                v = g.view(self.mm(t, "attn_v", x) if self.has(t, "attn_v") else k, dv, n_kv, u)
                if self._wide(t, "attn_k_norm", k):
                    k = self.norm(t, "attn_k_norm", k)
                k = g.view(k, dk, n_kv, u)
        if self.has(t, "attn_q_norm") and t["attn_q_norm.weight"].shape[0] == dk:
            q = self.norm(t, "attn_q_norm", q)
        if k is not None and self.has(t, "attn_k_norm") and t["attn_k_norm.weight"].shape[0] == dk:
            k = self.norm(t, "attn_k_norm", k)
        if v is not None and self.traits.norm_v:
            v = g.over(v)  # normed, without weights
        if rotates(self.hp, il):
            q = self._rope(q)
            k = self._rope(k) if k is not None else None
        elif self.traits.scaled_q:
            q = g.over(q, self.temperature)
        if gate is not None:
            gate = g.new(dk * n, u, of=(gate,))
        y = self.attend(il, q, k, v)
        if gate is not None:
            y = g.over(y, g.over(gate))
        elif self.has(t, "attn_gate"):
            gate = g.over(self.mm(t, "attn_gate", x))
            if gate.shape[0] == n != y.shape[0]:  # one for each head
                y = g.over(g.view(y, dv, n, u), g.view(gate, 1, n, u))
                y = g.view(y, dv * n, u)
            else:
                y = g.over(y, gate)
        if self.has(t, "attn_sub_norm"):
            y = self.norm(t, "attn_sub_norm", y)
        return self.mm(t, "attn_output", y) if self.has(t, "attn_output") else y

    def _wide(self, t: Tensors, name: str, x: Node) -> bool:
        """Whether a norm runs over all heads at once instead of over each."""
        return self.has(t, name) and t[f"{name}.weight"].shape[0] == x.shape[0] != self.hp.head_k[0]

    def _rope(self, x: Node) -> Node:
        return self.g.over(x, self.pos)

    def attend(
        self,
        il: int,
        q: Node,
        k: Node | None,
        v: Node | None,
        *,
        v_rows: int = 0,
        scale: int = 0,
        mask_of: Callable[[], Node] | None = None,
    ) -> Node:
        """Stores k and v, then q against the cache (`build_attn`, `build_attn_mha`). `v_rows`:
        the head size after the latent values are expanded, `scale` the expanding weight;
        `mask_of` makes the mask where it is not the common one."""
        g, hp, u = self.g, self.hp, self.u
        kind = WINDOW if hp.swa[il] else ALL
        n, n_kv = hp.n_head[il], max(1, hp.n_head_kv[il])
        dk, dv = q.shape[0], v.shape[0] if v is not None and hp.mla else hp.head_v[il]
        rotate_k = self.shape.rotate_k and not hp.mla
        rotate_v = self.shape.rotate_v and not hp.mla
        if rotate_k:
            q = self.hadamard(q, kind, "k", dk)
            k = self.hadamard(k, kind, "k", dk) if k is not None else None
        if rotate_v and v is not None:
            v = self.hadamard(v, kind, "v", dv)
        g.expand(q)
        kv = [x for x in ((k, v) if hp.n_swa else (v, k)) if x is not None]
        g.expand(*kv)
        home = self.cache_device if self.cache_device >= 0 else g.device
        stores = [(k, self.k_idxs[kind])] if k is not None else []
        if v is not None and not hp.mla:
            stores.append((v, self.v_idxs[kind]))
        for x, rows in stores:
            self.owners[kind] = home
            flat = g.view(x, prod(x.shape) // u, u)
            g.expand(Node((0,), 0, (flat, rows), external=True, device=home))

        mask = mask_of() if mask_of else self.masks[kind]
        cells = self.cells[kind]
        home = self.owners.get(kind, home)  # a layer may read an earlier layer's cache
        cached = [self._cached(int(cells * dk * n_kv * self.shape.k_bytes), home)]
        if not hp.mla:
            cached.append(self._cached(int(cells * dv * n_kv * self.shape.v_bytes), home))
        heads = g.view(g.view(q, dk, n, u), dk, u, n, contiguous=False)
        if self.shape.flash:
            y = g.new(dv, n, u, of=(heads, *cached, mask))
            y.size += self.scratch(cells, dk * n_kv, 0 if hp.mla else dv * n_kv, n, dv)
            if v_rows:
                y = g.mm(v_rows, g.view(y, dv, u, n, contiguous=False), scale)
                y = g.new(v_rows, n, u, of=(g.view(y, v_rows, n, u, contiguous=False),))
                dv = v_rows
            y = g.view(y, dv * n, u)
        else:
            kq = g.new(cells, u, n, of=(cached[0], heads))
            if self.traits.softcap:
                kq = g.over(g.over(g.over(kq)))
            kq = g.over(kq, mask)
            values = cached[-1]
            if hp.mla:  # the latent rows serve as values, once turned
                values = g.new(cells, dv, of=(values,), element=F16)
            y = g.new(dv, u, n, of=(values, kq))
            if v_rows:
                y = g.mm(v_rows, y, scale)
                dv = v_rows
            y = g.new(dv * n, u, of=(g.view(y, dv, n, u, contiguous=False),))
        g.expand(y)
        if rotate_v:
            y = self.hadamard(y, kind, "v", dv)
        return y

    def scratch(self, cells: int, k_row: int, v_row: int, n_head: int, dv: int) -> int:
        """What a GPU's fused attention needs beside its result: one layer's cache as f16.

        `ggml_cuda_flash_attn_ext_get_alloc_size` (ggml-cuda/fattn.cu) where it is not f16
        already, `ggml_metal_op_flash_attn_ext_extra_*` (ggml-metal-ops.cpp) always.
        """
        shape = self.shape
        if self.g.device == HOST and self.g.offload <= HOST:
            return 0
        if shape.scratch == "Metal":
            partial = 4 * min(self.u, 32) * n_head * 32 * (dv + 2)
            blocks = -(-self.u // 8) * -(-cells // 64)
            return 2 * cells * (k_row + v_row) + partial + blocks + 64
        if shape.scratch == "CUDA":
            k = 0 if shape.f16_k else 2 * cells * k_row + 128
            return k + (0 if shape.f16_v or not v_row else 2 * cells * v_row + 128)
        return 0

    def _cached(self, size: int, device: int) -> Node:
        """A layer's view of a cache. Unlike a weight, a cache elsewhere begins no new split."""
        node = self.g.view(self.g.outside(size, device), size)
        node.size = size
        return node

    # ----------------------------------------------------------- feed-forward

    def ffn(self, t: Tensors, x: Node, suffix: str = "") -> Node:
        """The dense feed-forward part (`build_ffn`)."""
        g = self.g
        up_name, gate_name, down_name = (f"ffn_{p}{suffix}" for p in ("up", "gate", "down"))
        up = self.mm(t, up_name, x)
        if self.has(t, gate_name):
            y = self._gated(self.mm(t, gate_name, x), up, self.hp.clamped_shared)
        elif self.has(t, down_name) and up.shape[0] == 2 * t[f"{down_name}.weight"].shape[0]:
            y = g.new(up.shape[0] // 2, *up.shape[1:], of=(up,))
        else:
            y = g.over(up)
        if self.has(t, "ffn_sub_norm"):
            y = self.norm(t, "ffn_sub_norm", y)
        return self.mm(t, down_name, y)

    def _gated(self, gate: Node, up: Node, clamped: tuple[bool, ...]) -> Node:
        """A gated unit: one operation, but for "situ" and limited ones, made of several."""
        g = self.g
        if any(clamped[self.layer : self.layer + 1]):
            return g.over(g.over(g.over(g.over(gate))), g.over(up))
        if self.traits.situ:
            bent = g.over(g.over(g.over(gate)))
            return g.over(g.over(bent, g.over(gate)), g.over(up))
        return g.new(*up.shape, of=(gate, up))

    def moe(self, t: Tensors, x: Node, logits: Node | None = None, kind: str = "exps") -> Node:
        """The routed experts (`build_moe_ffn`). `logits`: the router's word where it does not
        judge by x. `kind`: "chexps" for grovemoe's second, smaller experts, one for a group."""
        g, hp = self.g, self.hp
        n_expert, u = hp.n_expert, x.shape[-1]
        chunks = t[f"ffn_up_{kind}.weight"].shape[-1] if kind == "chexps" else n_expert
        used = min(hp.n_expert_used, chunks)
        if logits is None:
            logits = self.mm(t, "ffn_gate_inp", x)
        probs = logits if self.traits.expert_weights == "softmax" else g.over(logits)
        chosen = logits if hp.architecture == "llama4" else probs
        if "exp_probs_b.bias" in t or "exp_probs_b" in t:
            chosen = g.over(probs, weighted=True)
        if hp.architecture == "grovemoe":
            chosen = g.over(logits)
        if hp.n_expert_groups > 1:
            chosen = self._of_best_groups(chosen)
        order = g.new(n_expert, u, of=(chosen,), element=I32)
        top = self.routed or g.view(order, used, u, contiguous=False, stride=n_expert)
        if chunks != n_expert:  # from experts to groups, by way of a division in F32
            divided = g.over(g.new(used, u, of=(top,)))
            top = g.new(used, u, of=(divided,), element=I32)
        weights = g.new(1, used, u, of=(g.view(probs, 1, n_expert, u), top))
        sums_up = self.traits.expert_weights
        if sums_up == "softmax":
            weights = g.view(g.over(g.view(weights, used, u)), 1, used, u)
        elif sums_up == "sum" or (sums_up == "stated" and hp.expert_weights_norm):
            flat = g.view(weights, used, u)
            total = g.over(g.new(1, u, of=(flat,)))
            weights = g.view(g.over(flat, total), 1, used, u)
        g.expand(weights)
        x = g.view(x, x.shape[0], 1, u)
        n_embd = x.shape[0]
        if hp.architecture == "llama4":
            x = g.over(g.new(n_embd, used, u, of=(x,)), weights)
        if self.has(t, "ffn_gate_up_exps"):
            both = self._experts(t, "ffn_gate_up_exps", x, top)
            f = both.shape[0] // 2
            gate = g.view(both, f, used, u, contiguous=False)
            up = g.view(both, f, used, u, contiguous=False)
            y = g.new(f, used, u, of=(gate, up))
        else:
            up = self._experts(t, f"ffn_up_{kind}", x, top)
            if self.has(t, f"ffn_gate_{kind}"):
                gate = self._experts(t, f"ffn_gate_{kind}", x, top)
                y = self._gated(gate, up, hp.clamped)
            else:
                y = g.over(up)
        experts = self._experts(t, f"ffn_down_{kind}", y, top)
        if hp.architecture != "llama4":
            experts = g.over(experts, weights)
        g.expand(experts)
        parts = [
            g.view(experts, n_embd, u, contiguous=used == 1, stride=used * n_embd)
            for _ in range(hp.n_expert_used)
        ]
        g.expand(*parts)
        total = parts[0]
        for part in parts[1:]:
            total = Node((n_embd, u), F32, (total, part), inplace=True)
            g.expand(total)
        if hp.n_expert_used == 1:
            total = g.new(n_embd, u, of=(total,))
        return total

    def _of_best_groups(self, scores: Node) -> Node:
        """The scores of experts, all hidden but those of the groups with the best two."""
        g, n_groups, used = self.g, self.hp.n_expert_groups, self.hp.n_groups_used
        n_expert, u = scores.shape
        n = n_expert // n_groups
        grouped = g.view(scores, n, n_groups, u)
        order = g.new(n, n_groups, u, of=(grouped,), element=I32)
        best = g.new(1, 2, n_groups, u, of=(g.view(scores, 1, n, n_groups, u),
                                            g.view(order, 2, n_groups, u)))  # fmt: skip
        total = g.view(g.new(1, n_groups, u, of=(g.view(best, 2, n_groups, u),)), n_groups, u)
        order = g.new(n_groups, u, of=(total,), element=I32)
        chosen = g.view(order, used, u, contiguous=False, stride=n_groups)
        shown = g.new(n, used, u, of=(grouped, chosen))
        hidden = g.over(grouped)
        rows = Node((0,), 0, (shown, chosen, hidden), root=hidden)
        return g.view(rows, n_expert, u)

    def _experts(self, t: Tensors, name: str, x: Node, top: Node) -> Node:
        w = t[f"{name}.weight"]
        device = 0 if self.experts_on_host else None
        shape = (w.shape[1], top.shape[0], x.shape[-1])
        g, here = self.g, not self.experts_on_host
        y = g.weighted(shape, (x, top), w.n_bytes, device)
        if f"{name}.scale" in t and self.hp.architecture in SCALED_EXPERTS:
            factors = self.g.outside(t[f"{name}.scale"].n_bytes, y.device)
            scales = self.g.new(1, self.hp.n_expert, x.shape[-1], of=(factors,))
            y = g.over(y, g.new(1, *shape[1:], of=(scales, top)))
        return g.over(y, top, weighted=here) if f"{name}.bias" in t else y

    def feed_forward(self, t: Tensors, x: Node, logits: Node | None = None) -> Node | None:
        """Whatever feed-forward part a layer has: dense, experts, shared experts, both."""
        g = self.g
        routed = self.has(t, "ffn_gate_inp") and any(
            self.has(t, n) for n in ("ffn_up_exps", "ffn_gate_up_exps")
        )
        if routed and not self.traits.experts:
            return g.over(x)  # nothing but the activation
        y: Node | None
        if routed and self.has(t, "ffn_up_chexps"):
            logits = self.mm(t, "ffn_gate_inp", x)
            y = self.moe(t, x, logits)
            return g.over(y, g.over(self.moe(t, y, logits, "chexps")))
        y = None
        if routed:
            y = self.moe(t, x, logits)
            if self.has(t, "ffn_up_shexp"):
                shared = self.ffn(t, x, "_shexp")
                if self.has(t, "ffn_gate_inp_shexp"):
                    gate = g.over(g.mm(1, x))
                    shared = g.over(shared, gate)
                y = g.over(y, shared)
        if self.has(t, "ffn_up") and (y is None or self.traits.dense_beside_experts):
            dense = self.ffn(t, x)
            y = dense if y is None else g.over(dense, y)
        return y

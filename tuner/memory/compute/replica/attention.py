"""The layers of a model as graph nodes: attention, on top of feed-forward parts and experts.

Mirrors `llm_graph_context` (src/llama-graph.cpp: build_norm, build_qkv, build_attn, build_ffn,
build_moe_ffn) and what the architectures in src/models/*.cpp have in common; which parts a layer
has is read from its tensors, so an architecture needs no entry of its own unless it differs.
"""

from __future__ import annotations

from collections.abc import Callable
from math import prod

from tuner.memory.compute.graph import F16, HOST, Node
from tuner.memory.compute.replica.builder import Shape, Tensors
from tuner.memory.compute.replica.feed_forward import FeedForward
from tuner.memory.kv_cache import ALL, WINDOW, Cells
from tuner.model.architectures import architecture
from tuner.model.hparams import HParams

__all__ = ["LayerBuilder", "Shape", "Tensors"]


_FULL_PERIOD = 4  # every so many layers one is not like the others (src/models/*.cpp)


def rotates(hp: HParams, il: int) -> bool:
    """Whether a layer rotates queries and keys by position."""
    its = architecture(hp.architecture).graph
    if its.rope_n_layer is not None:
        return hp.n_layer == its.rope_n_layer
    match its.rope:
        case "window" if hp.n_swa > 0:
            return hp.swa[il] or (its.rope_in_lead and il < hp.n_layer_dense_lead)
        case "most_or_but_last" if not hp.n_swa:
            return il + 1 != hp.n_layer
        case "most" | "most_or_but_last":
            return (il + 1) % _FULL_PERIOD != 0
        case "stated":
            return hp.rope_finetuned
    return its.rope != "none"


class LayerBuilder(FeedForward):
    """Builds one graph's layers."""

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
            y.size += self.scratch((kind,), dk * n_kv, 0 if hp.mla else dv * n_kv, n, dv)
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

    def scratch(
        self, kinds: tuple[Cells, ...], k_row: int, v_row: int, n_head: int, dv: int
    ) -> int:
        """What a GPU's fused attention over caches of these kinds needs beside its result: one
        layer's cache as f16.

        `ggml_cuda_flash_attn_ext_get_alloc_size` (ggml-cuda/fattn.cu) where it is not f16
        already, `ggml_metal_op_flash_attn_ext_extra_*` (ggml-metal-ops.cpp) always.
        """
        shape = self.shape
        if self.g.device == HOST and self.g.offload <= HOST:
            return 0
        cells = sum(self.cells[kind] for kind in kinds)
        if shape.scratch == "Metal":
            partial = 4 * self.counts["vectors"] * n_head * 32 * (dv + 2)
            tiles = sum(self.counts[f"tiles of {kind}"] for kind in kinds)
            return 2 * cells * (k_row + v_row) + partial + tiles + 64
        if shape.scratch == "CUDA":
            k = 0 if shape.f16_k else 2 * cells * k_row + 128
            return k + (0 if shape.f16_v or not v_row else 2 * cells * v_row + 128)
        return 0

    def _cached(self, size: int, device: int) -> Node:
        """A layer's view of a cache. Unlike a weight, a cache elsewhere begins no new split."""
        node = self.g.view(self.g.outside(size, device), size)
        node.size = size
        return node

"""A whole model's graph: input, a choice of its layers, output."""

from __future__ import annotations

import re
from functools import partial

from tuner.memory.compute.graph import F32, HOST, Graph, Node
from tuner.memory.compute.replica.attention import LayerBuilder, Shape, Tensors, rotates
from tuner.memory.compute.replica.builder import Layers
from tuner.memory.compute.replica.dsa import LEFT_OUT, unread_zeros
from tuner.memory.compute.replica.gemma import (
    altup_layer,
    altup_narrowed,
    altup_widened,
    gemma4_experts,
    is_sparse_layer,
    per_layer_part,
    per_layer_rows,
)
from tuner.memory.compute.replica.hrm_text import block_of, cycled
from tuner.memory.compute.replica.hy_v4 import narrowed, streams_layer, widened
from tuner.memory.compute.replica.hyper_connections import hyper_model
from tuner.memory.compute.replica.kimi_k3 import banking_layer, blended
from tuner.memory.compute.replica.minimax_01 import lightning_layer
from tuner.memory.compute.replica.minimax_m3 import block_attention, in_blocks, unread_blocks
from tuner.memory.compute.replica.mla import latent_attention
from tuner.memory.compute.replica.qwen4exp import qsa_model
from tuner.memory.compute.replica.rwkv import rwkv_in_common_layer, rwkv_layer
from tuner.memory.compute.replica.state_space import mixer
from tuner.model.model import Model

_LAYER = re.compile(r"^blk\.\d+\.")


def _plain(name: str) -> str:
    """A tensor's name within its layer. plamo2 leaves ".weight" out of some norms' names."""
    plain = _LAYER.sub("", name)
    return f"{plain}.weight" if plain.endswith("_norm") else plain


class ModelGraph:
    """Builds graphs of one model."""

    def __init__(self, model: Model):
        self.model = model
        self.hp = model.hparams
        self.traits = self.hp.row.graph
        self.tensors: list[Tensors] = [
            {_plain(t.name): t for t in (*group.others, *group.experts)}
            for group in model.tensors.layers
        ]
        loops = len(self.tensors)
        physical = [t for t in self.tensors if t]
        if physical and "loops" in self.hp.row.reads:
            self.tensors = [physical[il % len(physical)] for il in range(loops)]
        if self.traits.builder == "cycles":
            self.tensors = [self.tensors[block_of(self.hp, il)] for il in range(loops)]
        self._output = {t.name: t for t in model.tensors.output}
        self.signatures = [self._signature(il) for il in range(self.hp.n_layer)]
        self.firsts: dict[int, int] = {}
        for il, signature in enumerate(self.signatures):
            self.firsts.setdefault(signature, il)

    def _signature(self, il: int) -> int:
        """Equal for layers that build equal graphs."""
        hp = self.hp
        shapes = tuple(sorted((name, t.shape) for name, t in self.tensors[il].items()))
        special = (
            self.traits.builder == "altup" and is_sparse_layer(il),
            self.traits.builder == "cycles" and il,
            hp.clamped[il],
            hp.clamped_shared[il],
        )
        return hash(
            (shapes, special, hp.swa[il], rotates(hp, il), hp.recurrent[il],
             hp.n_head[il], hp.n_head_kv[il], hp.indexer_full[il], hp.compress_ratios[il : il + 1],
             il >= hp.n_layer_kv, il == hp.n_layer - 1,
             hp.residual_block and il % hp.residual_block == 0)
        )  # fmt: skip

    def build(
        self,
        shape: Shape,
        layers: Layers,
        output_device: int,
        offload: int,
    ) -> Graph:
        """The graph of these layers, each on its device, between input and output."""
        hp, u = self.hp, shape.u
        g = Graph()
        g.offload = offload
        tokens = g.input(u)
        unused = g.input(hp.n_embd_inp, u)  # embeddings instead of tokens, were there any
        b = LayerBuilder(hp, shape, g)
        x = Node((hp.n_embd, u), F32, (tokens,), device=HOST)
        g.expand(x)
        g.leaves.insert(1, unused)
        if hp.scaled_input:
            x = g.over(x)
            g.expand(x)
        if self.traits.builder in ("hyper_connections", "qsa"):
            whole = hyper_model if self.traits.builder == "hyper_connections" else qsa_model
            x = whole(b, self.tensors, self._output, tokens, x, layers, output_device)
            g.expand(g.mm(hp.n_vocab, x, self._output_bytes()))
            return g
        if self.traits.scaled_input:
            x = g.over(x)
        if any(t.name == "position_embd.weight" for t in self.model.tensors.input):
            x = g.over(x, Node((hp.n_embd, u), F32, (b.pos,), device=HOST))
        if self.traits.embedding_skip:
            x = b.skip = g.over(x)
        if "per_layer_model_proj.weight" in self.tensors[0]:
            g.device = layers[0][1]
            b.per_layer = per_layer_rows(b, self.tensors[0], x)
        if self.traits.builder == "altup":
            x = altup_widened(b, self._output, x, output_device)
        if self.traits.builder == "residual_streams":
            x = widened(b, self.tensors[0], x)
        if self.traits.builder == "cycles":
            x = cycled(b, x, [device for _, device, _ in layers], partial(self._layer, b))
            layers = ()
        for il, device, experts_on_host in layers:
            if il == LEFT_OUT and hp.indexer_block:
                unread_blocks(b, device)
                continue
            if il == LEFT_OUT:
                g.leaves.append(unread_zeros(b, device))
                continue
            g.device = device
            b.experts_on_host = experts_on_host and device != HOST
            x = self._layer(b, il, x)
        g.device = output_device
        if self.traits.builder == "residual_streams":
            x = narrowed(b, self._output, x)
        elif self.traits.builder == "altup":
            x = g.new(hp.n_embd, 1, of=(altup_narrowed(b, self._output, x), b.out_ids))
        elif self.traits.builder == "residual_bank":
            x = g.new(hp.n_embd, 1, of=(blended(b, x), b.out_ids))
        picked = self.traits.logit_rows
        if picked == "before_norm":
            x = g.new(hp.n_embd, 1, of=(x, b.out_ids))
        x = b.norm(self._output, "output_norm", x)
        normed = x
        if picked == "after_norm":
            x = g.new(hp.n_embd, 1, of=(x, b.out_ids))
        if self.traits.host_output:
            g.device = HOST
        logits = g.mm(hp.n_vocab, x, self._output_bytes())
        g.expand(logits)
        if picked == "after_norm":  # all rows are kept, for a draft model
            g.expand(g.store(normed))
        return g

    def _output_bytes(self) -> int:
        groups = self.model.tensors
        if groups.tied is not None:
            return groups.tied.n_bytes
        return next((t.n_bytes for t in groups.output if t.name == "output.weight"), 0)

    def _layer(self, b: LayerBuilder, il: int, x: Node) -> Node:
        g, hp, t = b.g, self.hp, self.tensors[il]
        b.layer = il
        last = il == hp.n_layer - 1 and self.traits.logit_rows == "last_layer"
        bare = self.traits.bare_norms
        if not t:
            return x
        if self.traits.builder == "residual_streams":
            return streams_layer(b, t, il, x)
        if self.traits.builder == "residual_bank":
            return banking_layer(b, t, il, x)
        if self.traits.builder == "altup":
            return altup_layer(b, t, il, x)
        if self.traits.builder == "lightning":
            return lightning_layer(b, t, il, x, last)
        if b.has(t, "channel_mix_key"):
            return rwkv_layer(b, t, x, last)
        if b.has(t, "time_mix_key"):
            return rwkv_in_common_layer(b, t, x, last)
        residual = x
        router: Node | None = None
        if self.traits.early_router:
            router = b.mm(t, "ffn_gate_inp", x)
        # olmo2, exaone4 and grok's kin have no norm before attention
        pre_norm = b.has(t, "attn_norm") or bare
        normed = b.norm(t, "attn_norm", x) if pre_norm else x
        if self.traits.norm_first:
            g.expand(normed)
        parallel = self.traits.parallel
        if self.traits.parallel_if_stated and not hp.parallel_residual:
            parallel = None
        mixed = b.norm(t, "attn_norm_2", x) if b.has(t, "attn_norm_2") and parallel else normed
        y = self._mix(b, il, t, mixed, x)
        if y is not None:
            for name in ("post_attention_norm", "attn_output_norm"):
                if b.has(t, name) and not self._is_ffn_norm(t, name):
                    y = b.norm(t, name, y)
        beside = self.traits.parallel_without_norm and not b.has(t, "ffn_norm")
        if (parallel or beside) and y is not None:
            if last:
                y, residual, normed = (
                    g.new(v.shape[0], 1, of=(v, b.out_ids)) for v in (y, residual, normed)
                )
            if self.traits.parallel_if_stated:  # beside each other, but with a norm for each
                normed = b.norm(t, "ffn_norm", residual)
            ffn = b.feed_forward(t, normed)
            if ffn is None:
                return g.over(y, residual)
            if parallel is None:
                return g.over(ffn, g.over(y, residual))
            parts = {"ffn": ffn, "attention": y, "input": residual}
            first, second, third = (parts[p] for p in parallel)
            return g.over(g.over(first, second), third)
        if y is not None:
            if last:
                y = g.new(y.shape[0], 1, of=(y, b.out_ids))
                residual = g.new(residual.shape[0], 1, of=(residual, b.out_ids))
                if router is not None:
                    router = g.new(router.shape[0], 1, of=(router, b.out_ids))
            kept = "attention" in self.traits.residual_first
            x = g.over(residual, y) if kept else g.over(y, residual)
        normed = x
        for name in ("ffn_norm", "post_attention_norm", "attn_output_norm"):
            if b.has(t, name) and (name == "ffn_norm" or self._is_ffn_norm(t, name)):
                normed = b.norm(t, name, x)
                break
        else:
            if bare:
                normed = b.norm(t, "ffn_norm", x)
        if b.has(t, "ffn_norm_exps"):  # arctic: the experts read the layer's input
            dense = g.over(b.ffn(t, normed), x)
            return g.over(b.moe(t, b.norm(t, "ffn_norm_exps", residual)), dense)
        if b.has(t, "post_ffw_norm_1"):
            out: Node | None = gemma4_experts(b, t, x)
        else:
            read = normed if y is not None or not pre_norm else b.norm(t, "attn_norm", x)
            out = b.feed_forward(t, read, router)
        if out is None:
            return x
        if b.has(t, "post_ffw_norm"):
            out = b.norm(t, "post_ffw_norm", out)
        x = g.over(x, out) if "ffn" in self.traits.residual_first else g.over(out, x)
        if b.per_layer is not None and b.has(t, "inp_gate"):
            x = g.over(x, per_layer_part(b, t, x))
        if b.skip is not None:
            skip = g.new(hp.n_embd, 1, of=(b.skip, b.out_ids)) if last else b.skip
            x = g.over(x, g.over(skip, weighted=True))
        elif b.has(t, "layer_output_scale"):
            x = g.over(x, weighted=True)
        return x

    @staticmethod
    def _is_ffn_norm(t: Tensors, name: str) -> bool:
        """Some architectures name the norm before the feed-forward part after attention."""
        return (
            name in ("post_attention_norm", "attn_output_norm")
            and "ffn_norm.weight" not in t
            and "post_ffw_norm.weight" not in t
        )

    def _mix(self, b: LayerBuilder, il: int, t: Tensors, x: Node, raw: Node) -> Node | None:
        """What mixes tokens in this layer: attention, a recurrent state, both or neither. x is
        `raw` with its norm."""
        hp = self.hp
        if hp.recurrent[il]:
            if not hp.row.side_by_side:
                return mixer(b, t, x)
            attended = b.attention(t, il, x)  # both, side by side
            state = mixer(b, t, b.norm(t, "attn_norm", raw))  # the same norm, computed again
            return b.g.over(attended, state) if state else attended
        if hp.mla or "attn_kv_a_mqa.weight" in t:
            return latent_attention(b, t, il, x)
        if in_blocks(b, t):
            return block_attention(b, t, il, x)
        if "attn_q.weight" in t or "attn_qkv.weight" in t:
            return b.attention(t, il, x)
        return None

"""A whole model's graph: input, a choice of its layers, output.

Mirrors the constructors of the graphs in src/models/*.cpp, `build_inp_embd` (src/llama-graph.cpp)
and what stands behind the loop over layers: the last norm and the logits.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tuner.memory.compute.graph import F32, HOST, Borrower, Graph, Node
from tuner.memory.compute.replica import (
    gemma,
    hrm_text,
    hy_v4,
    hyper_connections,
    kimi_k3,
    minimax_01,
    qwen4exp,
)
from tuner.memory.compute.replica.attention import rotates
from tuner.memory.compute.replica.builder import GraphBuilder, Layers, RopeFactors, Shape, Tensors
from tuner.memory.compute.replica.common_layer import EMBEDDINGS, common_layer
from tuner.memory.compute.replica.dsa import LEFT_OUT, unread_zeros
from tuner.memory.compute.replica.minimax_m3 import unread_blocks
from tuner.memory.compute.replica.rwkv import rescales
from tuner.model.hparams import HParams
from tuner.model.model import Model

_LAYER = re.compile(r"^blk\.\d+\.")
# weights that graphs look at under another shape
_SEEN = frozenset(
    {
        *(f"ssm_conv1d_{of}.weight" for of in "qkv"), "ssm_a", "ple_conv1d.weight",
        *(f"ffn_{part}_exps.scale" for part in ("up", "gate", "down", "gate_up")),
        *(f"hc_{part}_{of}.weight" for part in ("attn", "ffn") for of in ("scale", "base")),
        "time_mix_w2.weight", "time_mix_r_k.weight",
    }
)  # fmt: skip


def _plain(name: str) -> str:
    """A tensor's name within its layer. plamo2 leaves ".weight" out of some norms' names."""
    plain = _LAYER.sub("", name)
    return f"{plain}.weight" if plain.endswith("_norm") else plain


def _beside_seen(tensors: Tensors) -> tuple[tuple[str, str, str], ...]:
    """What lies in the file right before and right behind each weight that is looked at, by which
    Metal goes."""
    seen = sorted(_SEEN & tensors.keys())
    if not seen:
        return ()
    first = {(t.part, t.offset): name for name, t in tensors.items()}
    last = {(t.part, t.offset + t.n_bytes): name for name, t in tensors.items()}
    found = []
    for name in seen:
        part, at = tensors[name].part, tensors[name].offset
        behind = first.get((part, at + tensors[name].n_bytes), "")
        found.append((last.get((part, at), ""), name, behind))
    return tuple(found)


# ------------------------------------------------------------------- the common way


def _as_embedded(b: GraphBuilder, tensors: Sequence[Tensors], output: Tensors, x: Node) -> Node:
    """The embeddings as they are."""
    return x


def _in_turn(b: GraphBuilder, x: Node, layer: Callable[[int, Node], Node]) -> Node:
    """Every layer on its device, one after the other."""
    for il, device, experts_on_host in b.layers:
        if il == LEFT_OUT:
            (unread_blocks if b.hp.indexer_block else unread_zeros)(b, device)
            continue
        b.at(device, experts_on_host)
        x = layer(il, x)
    return x


def _normed_rows(b: GraphBuilder, output: Tensors, x: Node) -> Node:
    """The last norm, before or after which the rows to output are picked, if not in the last
    layer."""
    if b.traits.logit_rows == "before_norm":
        x = b.output_rows(x)
    return b.norm(output, "output_norm", x)


def _own_block(hp: HParams, il: int) -> int:
    """Every layer has weights of its own."""
    return il


def _like_the_others(il: int) -> int:
    """Nothing but tensors and metadata tells layers apart."""
    return 0


@dataclass(frozen=True, slots=True)
class PartBuilders:
    """How a graph is built, part by part; in common graphs a row of n_embd elements for each
    token passes through the layers one after the other."""

    # from the embeddings, [n_embd, n_tokens], to what passes through the layers
    widened: Callable[[GraphBuilder, Sequence[Tensors], Tensors, Node], Node] = _as_embedded
    layer: Callable[[GraphBuilder, Tensors, int, Node, bool], Node] = common_layer
    run: Callable[[GraphBuilder, Node, Callable[[int, Node], Node]], Node] = _in_turn
    # from there to the rows that the output's weight is multiplied by, [n_embd, n_outputs], or all
    # of n_tokens where they are picked behind it
    head: Callable[[GraphBuilder, Tensors, Node], Node] = _normed_rows
    block_of: Callable[[HParams, int], int] = _own_block  # whose weights a layer runs
    differs: Callable[[int], int] = _like_the_others  # by number alone, not by tensors


BUILDERS: dict[str, PartBuilders] = {
    "common": PartBuilders(),
    "altup": PartBuilders(
        gemma.altup_widened,
        gemma.altup_layer,
        head=gemma.altup_head,
        differs=gemma.is_sparse_layer,
    ),
    "cycles": PartBuilders(
        run=hrm_text.cycled, head=hrm_text.head, block_of=hrm_text.block_of, differs=int
    ),
    "hyper_connections": PartBuilders(
        hyper_connections.widened, hyper_connections.layer, head=hyper_connections.head
    ),
    "lightning": PartBuilders(layer=minimax_01.layer),
    "qsa": PartBuilders(qwen4exp.widened, qwen4exp.layer, head=qwen4exp.head),
    "residual_bank": PartBuilders(layer=kimi_k3.layer, head=kimi_k3.head),
    "residual_streams": PartBuilders(hy_v4.widened, hy_v4.layer, head=hy_v4.head),
}


# -------------------------------------------------------------------- a whole model


class ModelGraph:
    """Builds graphs of one model."""

    def __init__(self, model: Model):
        self.model = model
        self.hp = hp = model.hparams
        self.traits = hp.row.graph
        self._builder = BUILDERS[self.traits.builder]
        blocks: list[Tensors] = [
            {_plain(t.name): t for t in (*group.others, *group.experts)}
            for group in model.tensors.layers
        ]
        if "loops" in hp.row.reads:
            stored = [t for t in blocks if t] or blocks
            blocks = [stored[il % len(stored)] for il in range(len(blocks))]
        self.tensors = [blocks[self._builder.block_of(hp, il)] for il in range(len(blocks))]
        self._output = {t.name: t for t in model.tensors.output}
        if hp.row.embedding_norm_last and "token_embd_norm.weight" in self._output:
            self._output["output_norm.weight"] = self._output["token_embd_norm.weight"]
        rope = model.tensors.rope  # of several, the context says which: they are of one size
        self._rope = (
            RopeFactors(rope[0].n_bytes, frozenset(model.tensors.rope_layers)) if rope else None
        )
        self.signatures = [self._signature(il) for il in range(hp.n_layer)]
        self.first_alike: dict[int, int] = {}
        for il, signature in enumerate(self.signatures):
            self.first_alike.setdefault(signature, il)

    def _signature(self, il: int) -> int:
        """Equal for layers that build equal graphs."""
        hp = self.hp
        shapes = tuple(sorted((name, t.shape) for name, t in self.tensors[il].items()))
        return hash(
            (shapes, _beside_seen(self.tensors[il]), self._builder.differs(il),
             hp.clamped[il], hp.clamped_shared[il], hp.swa[il], rotates(hp, il),
             hp.recurrent[il], hp.n_head[il], hp.n_head_kv[il],
             hp.indexer_full[il], hp.compress_ratios[il : il + 1], il >= hp.n_layer_kv,
             il == hp.n_layer - 1, hp.residual_block and il % hp.residual_block == 0,
             rescales(hp, il))
        )  # fmt: skip

    def build(self, shape: Shape, layers: Layers, output_device: int, offload: Borrower) -> Graph:
        """The graph of these layers, each on its device, between input and output. `offload`: the
        device that borrows the host's weights for large batches, if any. Raises LookupError
        and the like where the model's layers are like none that the builders know."""
        g = Graph()
        g.offload = offload
        b = GraphBuilder(self.hp, shape, g, layers, output_device, self._rope)
        x = self._builder.widened(b, self.tensors, self._output, self._embedded(b))

        def layer(il: int, x: Node) -> Node:
            t = self.tensors[il]
            if not t:
                return x
            b.layer = il
            # stand-ins share their first layer's tensors, but each has weights of its own; layers
            # that run in cycles do not
            g.scope = self._builder.block_of(self.hp, il) if self.hp.cycles[0] else g.scope + 1
            last = il == self.hp.n_layer - 1 and self.traits.logit_rows == "last_layer"
            return self._builder.layer(b, t, il, x, last)

        x = self._builder.run(b, x, layer)
        g.scope = -1
        b.at(output_device)
        b.keeps_norms = False
        x = normed = self._builder.head(b, self._output, x)
        if self.traits.logit_rows == "after_norm":
            x = b.output_rows(x)
        if self.traits.host_output:
            b.at(HOST)
        logits = g.mm(self.hp.n_vocab, x, self._output_bytes(g))
        if self.hp.scaled_logits:
            logits = g.over(logits, op="SCALE")
        if self.hp.capped_logits:
            logits = g.over(g.over(g.over(logits, op="SCALE"), op="TANH"), op="SCALE")
        g.expand(logits)
        if self.traits.logit_rows == "after_norm":  # all rows are kept, for a draft model
            normed.readers = 1  # who never comes
        return g

    def _embedded(self, b: GraphBuilder) -> Node:
        """The embeddings of the tokens, [n_embd, n_tokens], which the host looks up."""
        g, hp = b.g, self.hp
        unused = g.input(hp.n_embd_inp, b.n_tokens)  # embeddings instead of tokens, were there any
        x = Node((hp.n_embd, b.n_tokens), F32, (b.tokens,), "GET_ROWS", device=HOST)
        g.expand(x)
        g.leaves.insert(1, unused)
        if hp.scaled_input:
            x = g.over(x, op="SCALE")
            g.expand(x)
        if self.traits.scaled_input:
            x = g.over(x, op="SCALE")
        if any(t.name == "position_embd.weight" for t in self.model.tensors.input):
            places = Node((hp.n_embd, b.n_tokens), F32, (b.pos,), "GET_ROWS", device=HOST)
            x = g.add(x, places)
        if self.traits.embedding_skip:
            x = b.carried[EMBEDDINGS] = g.over(x, op="RMS_NORM")
        if b.has(self.tensors[0], "token_embd_norm"):
            b.at(b.layers[0][1])
            x = b.norm(self.tensors[0], "token_embd_norm", x)
        if "per_layer_model_proj.weight" in self.tensors[0]:
            b.at(b.layers[0][1])
            gemma.embed_per_layer(b, self.tensors[0], x)
        return x

    def _output_bytes(self, g: Graph) -> int:
        """Bytes of the weight that makes the logits."""
        groups = self.model.tensors
        if groups.tied is not None:
            return g.held(groups.tied)
        return next((g.held(t) for t in groups.output if t.name == "output.weight"), 0)

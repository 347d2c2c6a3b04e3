"""Sparse attention by an indexer as graph nodes: src/models/deepseek32.cpp, glm-dsa.cpp,
dots3note.cpp, hy-v4.cpp, and `build_attn` over `llm_graph_input_attn_k_dsa`
(src/llama-graph.cpp)."""

from __future__ import annotations

from tuner.machine.kernels import Asked
from tuner.memory.compute.graph import F16, F32, HOST, I32, I64, Node
from tuner.memory.compute.replica.builder import GraphBuilder, Tensors
from tuner.memory.compute.replica.extras import of_top
from tuner.memory.kv_cache import ALL
from tuner.model.hparams import HParams

PICKED = "picked tokens"  # carried to layers without an indexer of their own
LEFT_OUT = -1  # a layer of which only what the allocator places before all else is built


def is_sparse(hp: HParams, il: int) -> bool:
    """Whether a layer attends only to the tokens that an indexer has picked."""
    indexer = hp.row.indexer
    return (
        indexer is not None
        and indexer.picks == "tokens"
        and hp.indexer_top_k > 0
        and not hp.swa[il]
    )


def top_tokens(b: GraphBuilder, t: Tensors, x: Node, queries: Node) -> Node:
    """Scores every cached token for each new one and picks the best of them. A layer without an
    indexer of its own takes what the one before it picked. x: normed, [n_embd, n_tokens];
    `queries`: its low-rank projection -> [n_top, n_tokens]."""
    if not b.has(t, "indexer.attn_q_b") and PICKED in b.carried:
        return b.carried[PICKED]
    g, n_tokens, hp = b.g, b.n_tokens, b.hp
    head, cells = hp.indexer_head, b.cells[ALL]
    q = b.mm(t, "indexer.attn_q_b", queries)
    heads = q.shape[0] // head
    # rotated without the factors that other queries and keys may have
    q = g.over(g.reshape(q, head, heads, n_tokens), b.pos, op="ROPE")
    k = b.norm(t, "indexer.k_norm", b.mm(t, "indexer.attn_k", x))
    k = g.over(g.reshape(k, head, 1, n_tokens), b.pos, op="ROPE")
    if hp.row.indexer is not None and hp.row.indexer.rotated:
        rotation = b.input(ALL, "rotation of index keys", head, head, element=F32)
        q, k = (g.new(*y.shape, of=(rotation, y), op="MUL_MAT") for y in (q, k))
    cache = g.external(0, g.device)
    rows = b.input(ALL, "index rows", n_tokens, element=I64)
    g.expand(g.stored(g.view(k, head, n_tokens), rows, cache))
    weights = b.mm(t, "indexer.proj", x)
    keys = g.view(cache, head, 1, cells)
    keys.size = int(cells * head * b.shape.k_bytes)
    q = g.view(q, *q.shape)
    weights = g.over(g.view(weights, heads, n_tokens), op="SCALE")
    mask = b.input(ALL, "index mask", cells, n_tokens, element=F16)
    score = scored(b, q, keys, weights, mask)
    top = best(b, score, b.counts["top"])
    b.carried[PICKED] = g.new(*top.shape, of=(top,), op="CONT", element=I32)
    return b.carried[PICKED]


def scored(b: GraphBuilder, q: Node, keys: Node, weights: Node, mask: Node) -> Node:
    """Every cached row's score for each token. q: [head, heads, n_tokens], keys: [head, 1, rows],
    weights: [heads, n_tokens], mask: [rows, n_tokens] -> the same."""
    score = b.g.new(*mask.shape, of=(q, keys, weights, mask), op="LIGHTNING_INDEXER")
    head, heads, _ = q.shape
    type_k = "f32" if b.hp.indexer_kpool else b.shape.type_k  # keys of pools are sums
    return b.unless_lacking(score, Asked("LIGHTNING_INDEXER", head, heads, type_k))


def best(b: GraphBuilder, scores: Node, n: int) -> Node:
    """The places of the n best in each row, in no order (`ggml_top_k`): [n_row, ...] ->
    [n, ...]."""
    top = b.g.new(n, *scores.shape[1:], of=(scores,), op="TOP_K", element=I32)
    top.extra = of_top(b, top, scores)
    return top


def sparse_mask(b: GraphBuilder, top: Node) -> Node:
    """The causal mask with everything hidden but the chosen tokens (`build_attn` over
    `llm_graph_input_attn_k_dsa`): [n_top, n_tokens] -> [cells, n_tokens]."""
    g, n_tokens = b.g, b.n_tokens
    cells, n_top = b.cells[ALL], top.shape[0]
    mask = b.masks[ALL]
    element = F16 if b.shape.flash else F32
    hidden = Node((cells, n_tokens), element, (mask,), "FILL")
    zeros = Node((1, n_top, n_tokens), F32)  # a leaf, there from the start
    shown = g.over(zeros, op="FILL")
    # in the order of ggml_set_rows: what is written, where to, and only then what it goes into
    one_each = g.view(hidden, 1, cells, n_tokens)
    written = Node((1, cells, n_tokens), element, (shown, g.view(top, n_top, n_tokens), one_each),
                   "SET_ROWS", into=hidden, external=True)  # fmt: skip
    rows = Node((cells, n_tokens), element, (written,), "VIEW", root=hidden)
    return Node((cells, n_tokens), element, (rows, mask), "ADD", inplace=True)


def unread_zeros(b: GraphBuilder, device: int) -> None:
    """The zeros of a layer that the graph leaves out: the allocator places all of them first. They
    lie where the layer attends: beside its cache, or where large batches borrow its weights."""
    if device == HOST and b.g.offload.of and b.n_tokens >= b.g.offload.rows:
        device = b.g.offload.device
    b.g.leaves.append(Node((1, b.counts["top"], b.n_tokens), F32, device=device))

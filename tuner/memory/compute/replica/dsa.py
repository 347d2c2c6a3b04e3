"""Sparse attention by an indexer as graph nodes: src/models/deepseek32.cpp, glm-dsa.cpp,
dots3note.cpp, hy-v4.cpp, and `build_attn` over `llm_graph_input_attn_k_dsa`
(src/llama-graph.cpp)."""

from __future__ import annotations

from tuner.memory.compute.graph import F16, F32, I32, I64, Node
from tuner.memory.compute.replica.attention import LayerBuilder, Tensors
from tuner.memory.kv_cache import ALL
from tuner.model.hparams import HParams

LEFT_OUT = -1  # stands for a layer of which only the zeros are built


def is_sparse(hp: HParams, il: int) -> bool:
    """Whether a layer attends only to the tokens that an indexer has picked."""
    indexer = hp.row.indexer
    return (
        indexer is not None
        and indexer.picks == "tokens"
        and hp.indexer_top_k > 0
        and not hp.swa[il]
    )


def top_tokens(b: LayerBuilder, t: Tensors, x: Node, queries: Node) -> Node:
    """Scores every cached token for each new one and picks the best of them. A layer without an
    indexer of its own takes what the one before it picked."""
    if not b.has(t, "indexer.attn_q_b") and b.chosen is not None:
        return b.chosen
    g, u, hp = b.g, b.u, b.hp
    head = hp.indexer_head
    cells = b.cells[ALL]
    rotated = hp.row.indexer is not None and hp.row.indexer.rotated
    if b.index_mask is None:
        b.index_mask = g.input(cells, u, element=F16)
        b.index_rotation = g.input(head, head) if rotated else None
        b.index_rows = g.input(u, element=I64)
    assert b.index_rows is not None
    q = b.mm(t, "indexer.attn_q_b", queries)
    heads = q.shape[0] // head
    q = g.over(g.view(q, head, heads, u), b.pos)
    k = b.norm(t, "indexer.k_norm", b.mm(t, "indexer.attn_k", x))
    k = g.over(g.view(k, head, 1, u), b.pos)
    if b.index_rotation is not None:
        q = g.new(head, heads, u, of=(b.index_rotation, q))
        k = g.new(head, 1, u, of=(b.index_rotation, k))
    g.expand(g.store(g.view(k, head, u), b.index_rows))
    weights = g.view(b.mm(t, "indexer.proj", x), heads, u)
    weights = g.new(heads, u, of=(weights,))
    cached = g.outside(int(cells * head * b.shape.k_bytes), g.device)
    score = g.new(cells, u, of=(q, cached, weights, b.index_mask))
    n_top = b.counts["top"]
    top = g.new(n_top, u, of=(score,), element=I32)
    b.chosen = g.new(n_top, u, of=(top,), element=I32)
    return b.chosen


def sparse_mask(b: LayerBuilder, top: Node) -> Node:
    """The causal mask with everything hidden but the chosen tokens."""
    g, u = b.g, b.u
    cells = b.cells[ALL]
    mask = b.masks[ALL]
    element = F16 if b.shape.flash else F32
    hidden = Node((cells, u), element, (mask,))
    zeros = Node((top.shape[0], u), F32, device=g.device)  # a leaf, there from the start
    shown = Node(zeros.shape, F32, (zeros,), inplace=True)
    # in the order of ggml_set_rows: what is written, where to, and only then what it goes into
    written = Node((0,), 0, (shown, g.view(top, *top.shape), g.view(hidden, 1, cells, u)),
                   external=True)  # fmt: skip
    rows = Node((0,), 0, (written,), root=hidden)
    return Node((cells, u), element, (rows, mask), inplace=True)


def unread_zeros(b: LayerBuilder, device: int) -> Node:
    """The zeros of a layer that the graph leaves out: the allocator places all of them first."""
    return Node((b.counts["top"], b.u), F32, device=device)

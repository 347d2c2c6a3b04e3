"""Numbers that a graph has beside its batch and its cells, and that are no multiples of these.

Sparse attention rounds the context to blocks, picks no more of them than there are, and rounds
the batch likewise; Metal's attention works on tiles of both. Such numbers come with a graph's
shape, so that a graph that is traced with its sizes left open (`terms.py`) can leave them open
too.
"""

from __future__ import annotations

from collections.abc import Mapping

from tuner.memory.kv_cache import ALL, CSA, HCA, WINDOW, Cells
from tuner.model.hparams import HParams
from tuner.units import padded

Counts = tuple[tuple[str, int], ...]
_POOL_PADDING = 64  # of their number (`kpool_build_sizes` in src/llama-memory-hybrid-idx.cpp)
_FEW = 16  # the largest batch of which each token attends to a copy of what it picked


def counts(hp: HParams, n_tokens: int, cells: Mapping[Cells, int]) -> Counts:
    """By name, what the builders of a model's layers read of a batch of `n_tokens` and of caches
    with these cells."""
    indexer = hp.row.indexer
    match indexer.picks if indexer else None:
        case "rows":
            return _of_compressed(hp, n_tokens, cells)
        case "pools":
            return _of_pools(hp, cells[ALL])
        case "ratio_blocks":
            return _of_blocks(hp, cells[ALL])
        case _ if hp.indexer_top_k > 0 and ALL in cells:
            return (("top", min(cells[ALL], hp.indexer_top_k)),)
    return ()


def _of_compressed(hp: HParams, n_tokens: int, cells: Mapping[Cells, int]) -> Counts:
    """deepseek4.py: the rows that a batch completes, those that it leaves behind, and
    how many an indexer picks."""
    found = [(f"blocks of {ratio}", n_tokens // ratio + 1) for ratio in cells if ratio > 1]
    # twice the ratio where a row looks back at the tokens of the one before
    found += [(f"{rows} kept", min(n_tokens, rows)) for rows in (2 * CSA, int(HCA))]
    if CSA in cells:
        found.append(("top", min(cells[CSA], hp.indexer_top_k)))
    return tuple(found)


def _of_pools(hp: HParams, n: int) -> Counts:
    """glm5_next.py: pools of the context, with padding; those that are complete; how many an
    indexer picks."""
    kpool = hp.indexer_kpool
    if kpool < 1:
        return ()
    pools = padded(n // kpool + 1, _POOL_PADDING)
    return (
        ("pools", pools),
        ("complete", max(1, n // kpool)),
        ("top", min(pools, hp.indexer_top_k // kpool)),
    )


def _of_blocks(hp: HParams, n: int) -> Counts:
    """qwen4exp.py: blocks of the context, and the tokens that a query may see: whole blocks and
    the incomplete one."""
    found: list[tuple[str, int]] = []
    for ratio in sorted({r for r in hp.compress_ratios if r}):
        found.append((f"blocks of {ratio}", -(-n // ratio)))
        found.append((f"width at {ratio}", min(n, hp.indexer_top_k + ratio - 1)))
    return tuple(found)


def attends_by_copy(hp: HParams, n_tokens: int, cells: Mapping[Cells, int]) -> bool:
    """Whether the few tokens of a small batch attend to copies of what they picked (glm5-next)."""
    if hp.row.indexer is None or hp.row.indexer.picks != "pools" or hp.indexer_kpool < 1:
        return False
    return n_tokens <= _FEW and cells[ALL] > _of_pooled(hp, cells[ALL])


def _of_pooled(hp: HParams, n: int) -> int:
    """How many of n cells a token of glm5-next attends to."""
    top = dict(_of_pools(hp, n))["top"]
    return hp.indexer_kpool * top + (hp.indexer_kpool - 1 if hp.indexer_tail else 0)


# tokens and cells (OP_FLASH_ATTN_EXT_NQPSG, _NCPSG in ggml-metal-impl.h), and for few tokens
_TILE, _NARROW_TILE = (8, 64), (1, 32)
_FEW_TOKENS = 20  # fewer have a kernel of their own (`ggml_metal_op_flash_attn_ext_use_vec`)
_MOST_LISTED = 4096  # cells (`ggml_metal_op_flash_attn_ext_n_kv_max_sparse`)
_VECTORS = 32  # tokens for which partial results are kept at most


def metal_counts(hp: HParams, n_tokens: int, cells: Mapping[Cells, int]) -> Counts:
    """What `extras.of_attention` reads for Metal: the tiles of masks, by kind of cache, the
    tokens for which partial results are kept, and the cells that are listed for each token where it
    attends to no others (`ggml_metal_op_flash_attn_ext_extra_idx`)."""
    tokens, width = _TILE if n_tokens >= _FEW_TOKENS else _NARROW_TILE
    # minimax-m3 has a mask for each group of heads in layers that pick blocks
    masks = sorted({1, max(hp.n_head_kv)}) if hp.indexer_block else (1,)
    tiles = [
        (f"tiles of {k} x {kind}", padded(k * -(-n_tokens // tokens) * -(-n // width), 32))
        for kind, n in cells.items()
        for k in masks
    ]
    vectors = ("vectors", min(n_tokens, _VECTORS))
    if CSA in cells and WINDOW in cells:
        picked = min(cells[WINDOW], hp.n_swa) + min(cells[CSA], hp.indexer_top_k)
    elif hp.row.indexer and hp.row.indexer.picks == "tokens" and ALL in cells:
        picked = min(cells[ALL], hp.indexer_top_k)
    elif hp.row.indexer and hp.row.indexer.picks == "pools" and hp.indexer_kpool and ALL in cells:
        picked = _of_pooled(hp, cells[ALL])
    else:
        return (*tiles, vectors)
    listed = padded(picked, _NARROW_TILE[1]) if picked <= _MOST_LISTED else 0
    return (*tiles, vectors, ("listed", listed))

"""Which layers see a window only, and which keep a recurrent state instead of a cache.

The rules are those of `load_arch_hparams` in src/models/*.cpp; `architectures.py` says which of
them an architecture follows.
"""

from __future__ import annotations

from tuner.gguf.keys import Keys
from tuner.model.architecture import Architecture


def window(keys: Keys, row: Architecture, n_layer: int, n_all: int) -> tuple[int, tuple[bool, ...]]:
    """The window in tokens (0: none) and the layers that see no more than it."""
    none = 0, (False,) * n_all
    rule = row.window
    if rule is None or rule.n_layer not in (None, n_layer):
        return none
    stated = keys.value("attention.sliding_window")
    size = keys.integer("attention.sliding_window")
    if rule.optional and size <= 0:
        return none
    if rule.zero_is_none and stated is not None and size == 0:
        return none
    size = rule.fixed or size or rule.default
    if rule.layers == "all":
        return size, (True,) * n_all
    if rule.layers == "attending":
        kv = keys.per_layer("attention.head_count_kv", n_all, (0,) * n_all)
        return size, tuple(il < n_layer and kv[il] != 0 for il in range(n_all))

    listed = keys.array("attention.sliding_window_pattern")
    if listed is not None:
        swa = tuple(bool(v) for v in listed[:n_all])  # layers that are not listed have none
        return size, swa + (False,) * (n_all - len(swa))
    if rule.period is None:
        return none
    period = keys.integer("attention.sliding_window_pattern", rule.period)
    return size, tuple(
        il < n_layer and _in_window(il, period, rule.dense_first) for il in range(n_all)
    )


def _in_window(il: int, period: int, dense_first: bool) -> bool:
    """`set_swa_pattern` (src/llama-hparams.cpp)."""
    if period == 0:
        return True
    return il % period != 0 if dense_first else il % period < period - 1


def recurrent_layers(
    keys: Keys,
    row: Architecture,
    n_layer: int,
    n_all: int,
    *,
    n_head_kv: tuple[int, ...],
    n_ff: tuple[int, ...],
) -> tuple[bool, ...]:
    """`is_recr`: the layers with a recurrent state."""
    if row.memory == "state" or row.side_by_side:
        return (True,) * n_all
    if row.recurrent_interval is not None:
        listed = keys.value("attention.recurrent_layers")
        if listed is not None:
            stated = keys.per_layer("attention.recurrent_layers", n_all, ())
            return tuple(bool(v) for v in stated)
        every = keys.integer("full_attention_interval", row.recurrent_interval) or 1
        return tuple(il < n_layer and (il + 1) % every != 0 for il in range(n_all))
    stateful = row.memory == "hybrid"
    if row.memory == "stated":
        stateful = keys.value("ssm.state_size") is not None
    return tuple(
        stateful and il < n_layer and n_head_kv[il] == 0 and not (row.one_part and n_ff[il])
        for il in range(n_all)
    )

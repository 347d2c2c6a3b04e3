"""What is kept of the memory that loads took beside the engine's buffers, and what counts of it."""

from __future__ import annotations

import pytest

from tests.support.giants import LLAMA_8B, QWEN_30B_A3B, giant, gpu
from tuner.machine.held import Held
from tuner.machine.overheads import Shown
from tuner.machine.usable import Beside
from tuner.model.model import Model
from tuner.profiles.beside import (
    MEMORY,
    Grown,
    believable,
    beside_with,
    growths_with,
    overheads_with,
)
from tuner.units import GIB, MIB


@pytest.mark.parametrize(
    ("taken", "counts"),
    [
        ([300], 300),
        ([300, 3000], 300),  # another program took memory meanwhile
        ([3000, 300], 300),
        ([300, 0, 310, 3000, 305], 305),  # and one gave some back
        ([3000] * 3 + [300] * MEMORY, 300),  # what was wrong is forgotten
    ],
)
def test_one_disturbed_load_poisons_nothing(taken: list[int], counts: int) -> None:
    known: dict[str, tuple[int, ...]] = {}
    for size in taken:
        known = dict(overheads_with(known, {"a card": size * MIB}))
    found = beside_with(known, {}, giant(LLAMA_8B))
    assert found == {"a card": Beside(counts * MIB)}


def test_what_cannot_be_is_not_believed() -> None:
    """Less than nothing, but for rounding, or a quarter of the card."""
    card = gpu(8)
    assert [believable(card, size) for size in (-2 * MIB, 2 * GIB, None)] == [None] * 3
    assert [believable(card, size) for size in (-1000, 0, GIB)] == [0, 0, GIB]


def test_a_process_s_own_memory_is_told_from_that_of_others() -> None:
    """Where the driver tells it, others may come and go; else all that was taken meanwhile counts.
    What two tell is not compared."""
    before, after = Held(GIB, by="NVML"), Held(9 * GIB, 2 * GIB, "NVML")
    grown = Held(3 * GIB, 2 * GIB + 5, "NVML")
    assert (after.since(before), after.since(None), grown.more_than(after)) == (2 * GIB, 2 * GIB, 5)
    told = Held(3 * GIB, by="NVML")
    assert (told.since(before), told.since(None), told.more_than(after)) == (2 * GIB, None, None)
    assert Held(GIB).since(before) is None


def _grown(model: Model, n_ubatch: int, size: int, *, file: int = 0, name: str = "") -> Grown:
    return Grown(
        name or model.fingerprint, file or model.size_bytes, bool(model.moe_layers), n_ubatch,
        (size * MIB,),
    )  # fmt: skip


def test_growth_is_the_model_s_own_or_that_of_one_as_large() -> None:
    """What a smaller one took is the least; one without experts says nothing of one with them; a
    larger micro-batch never counts for less."""
    model, dense = giant(QWEN_30B_A3B), giant(LLAMA_8B)

    def known(*grown: Grown) -> Beside:
        growths: dict[str, tuple[Grown, ...]] = {}
        for one in grown:
            growths = dict(growths_with(growths, {"a card": one}))
        return beside_with({}, growths, model)["a card"]

    own = _grown(model, 512, 90)
    larger = _grown(model, 2048, 700, file=1 << 40, name="larger")
    smaller = _grown(model, 2048, 30, file=1 << 20, name="smaller")
    assert known(_grown(dense, 2048, 50)) == Beside()
    assert known(smaller) == Beside(at_least=30 * MIB)
    assert known(own, larger, smaller) == Beside(
        shown=(Shown(512, 90 * MIB), Shown(2048, 700 * MIB)), at_least=30 * MIB
    )
    assert known(own, _grown(model, 1024, 60)).shown == (
        Shown(512, 90 * MIB), Shown(1024, 90 * MIB),
    )  # fmt: skip
    again = known(own, _grown(model, 512, 900), _grown(model, 512, 95))
    assert again.shown == (Shown(512, 95 * MIB),)

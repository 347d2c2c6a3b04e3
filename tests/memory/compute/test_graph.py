"""The replay of ggml's allocator: sizes of graphs small enough to follow by hand."""

from __future__ import annotations

from tuner.memory.compute.allocator import peaks, replay
from tuner.memory.compute.graph import Graph, Node


def _chain(device: int = 0) -> tuple[Graph, Node]:
    g = Graph()
    g.device = device
    return g, g.input(64)  # 256 bytes


def test_a_result_takes_the_place_of_its_only_reader() -> None:
    """Three operations in place need one tensor; the input makes two."""
    g, x = _chain()
    y = g.new(64, of=(x, x))
    g.expand(g.over(g.over(y)))
    assert peaks(g, [32]) == [512]


def test_what_is_read_again_is_not_overwritten() -> None:
    g, x = _chain()
    y = g.new(64, of=(x, x))
    g.expand(g.new(64, of=(g.over(y), y)))
    assert peaks(g, [32]) == [768]


def test_nothing_is_taken_over_through_a_view() -> None:
    """ggml leaves the memory behind a view alone, however few readers it has."""
    g, x = _chain()
    y = g.new(64, of=(x, x))
    g.expand(g.store(g.over(g.view(y, 64)), x))
    assert peaks(g, [32]) == [768]


def test_the_best_fitting_hole_is_used() -> None:
    """A freed small tensor between two live ones is filled by the next of its size."""
    g, x = _chain()
    small, keep = g.new(32, of=(x,)), g.new(64, of=(x,))
    g.expand(small, keep)
    g.expand(g.store(small))
    late = g.new(32, of=(keep, x))
    g.expand(g.store(late, keep))
    assert peaks(g, [32]) == [256 + 128 + 256]


def test_sizes_are_aligned() -> None:
    g = Graph()
    g.expand(g.new(1, of=(g.input(1),)))
    assert peaks(g, [32]) == [64]


def test_another_device_gets_a_copy() -> None:
    """The input stays on the host, its copy and the results lie on the GPU."""
    g, x = _chain()
    g.device = 1
    g.expand(g.mm(64, g.mm(64, x)))
    assert peaks(g, [32, 32]) == [256, 512]


def test_pipeline_copies_are_kept_four_times() -> None:
    g, x = _chain()
    g.device = 1
    g.expand(g.mm(64, x))
    assert peaks(g, [32, 32], 4) == [4 * 256, 5 * 256]


def test_neighbours_without_weights_join_the_gpu() -> None:
    """A sum after the host's product and before the GPU's runs on the GPU."""
    g, x = _chain()
    y = g.mm(64, x)
    z = g.over(y, x)
    g.device = 1
    g.expand(g.mm(64, z))
    g.assign()
    assert z.device == 1


def test_a_borrowed_weight_is_on_the_gpu_for_a_moment() -> None:
    """op_offload: host weights are copied over one at a time, never two at once."""
    g, x = _chain()
    g.offload = 1
    g.expand(g.mm(64, g.mm(64, x, 4096), 4096))
    host, gpu = peaks(g, [32, 32])
    assert host == 256
    assert 4096 < gpu < 2 * 4096


def test_an_empty_tensor_keeps_free_memory_apart() -> None:
    """Given back amid taken memory it becomes a free block of no size, behind which the engine
    no longer sees that two blocks meet: 100 bytes then go behind the 64 that are free."""
    a, p, empty, q, wide, last = range(6)
    sizes = [32, 8, 0, 24, 32, 100]
    steps = [a, p, empty, q, ~p, ~q, wide, ~empty, ~a, ~wide, last]
    assert replay(steps, sizes, 1) == 164
    without = [0, 1, 2, ~1, ~2, 3, ~0, ~3, 4]
    assert replay(without, [32, 8, 24, 32, 100], 1) == 100

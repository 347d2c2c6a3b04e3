"""The replay of ggml's allocator: sizes of graphs small enough to follow by hand."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tuner.machine.backends import Offload
from tuner.memory.compute.alive import Alive
from tuner.memory.compute.allocator import peaks, replay
from tuner.memory.compute.graph import Borrower, Graph, Node
from tuner.memory.compute.scheduler import assign


def _chain(device: int = 0, rows: int = 1) -> tuple[Graph, Node]:
    g = Graph()
    g.device = device
    return g, g.input(64, rows)  # 256 bytes a row


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
    assign(g)
    assert z.device == 1


def test_what_is_computed_in_place_has_copies_of_its_operands() -> None:
    """It takes no memory of its own, but is no view: an input that it reads is brought to it. The
    last result lies where the copy of the first input was."""
    g, x = _chain(1)
    y, late = g.mm(64, x), g.input(64, 1)
    g.expand(g.mm(64, Node((64, 1), 4, (y, late), "ADD", root=y)))
    assert peaks(g, [32, 32]) == [2 * 256, 3 * 256]


def test_a_borrowed_weight_is_on_the_gpu_for_a_moment() -> None:
    """op_offload: host weights are copied over one at a time, never two at once."""
    g, x = _chain(rows=32)
    g.offload = Borrower(1, "all")
    g.expand(g.mm(64, g.mm(64, x, 65536), 65536))
    host, gpu = peaks(g, [32, 32])
    assert host == 32 * 256
    assert 65536 < gpu < 2 * 65536


@pytest.mark.parametrize(("of", "product", "sum_"), [("all", 1, 1), ("products", 1, 0), ("", 0, 0)])
@pytest.mark.parametrize(("rows", "large"), [(31, False), (32, True)])
def test_large_batches_alone_borrow(
    of: Offload, product: int, sum_: int, rows: int, large: bool
) -> None:
    """Products and other operations with a weight in RAM run on the GPU from 32 rows on, as the
    backend has it."""
    g, x = _chain(rows=rows)
    g.offload = Borrower(1 if of else -1, of)
    nodes = g.mm(64, x, 4096), g.over(x, weight=256)
    assert [n.device for n in nodes] == [product * large, sum_ * large]


def test_an_empty_tensor_keeps_free_memory_apart() -> None:
    """Given back amid taken memory it becomes a free block of no size, behind which the engine
    no longer sees that two blocks meet: 100 bytes then go behind the 64 that are free."""
    a, p, empty, q, wide, last = range(6)
    sizes = [32, 8, 0, 24, 32, 100]
    steps = [a, p, empty, q, ~p, ~q, wide, ~empty, ~a, ~wide, last]
    assert replay(steps, sizes, 1) == 164
    without = [0, 1, 2, ~1, ~2, 3, ~0, ~3, 4]
    assert replay(without, [32, 8, 24, 32, 100], 1) == 100


def _as_ggml_writes_it(steps: list[int], sizes: list[int]) -> int:
    """`ggml_dyn_tallocr_alloc` and `ggml_dyn_tallocr_free_bytes`, loop by loop."""
    blocks = [[0, 1 << 60]]  # address, size
    taken: list[tuple[int, int]] = []
    peak = 0
    for step in steps:
        if step >= 0:
            size = sizes[step]
            best, best_size = -1, 1 << 62
            for i in range(len(blocks) - 1):
                if size <= blocks[i][1] <= best_size:
                    best, best_size = i, blocks[i][1]
            block = blocks[best]  # the last resort is the last
            taken.append((block[0], size))
            peak = max(peak, block[0] + size)
            block[0] += size
            block[1] -= size
            if not block[1]:
                del blocks[best]
            continue
        at, size = taken[~step]
        for i, block in enumerate(blocks):
            if block[0] + block[1] == at:
                block[1] += size
                if i + 1 < len(blocks) and block[0] + block[1] == blocks[i + 1][0]:
                    block[1] += blocks.pop(i + 1)[1]
                break
            if at + size == block[0]:
                block[:] = at, block[1] + size
                if i and sum(blocks[i - 1]) == block[0]:
                    blocks[i - 1][1] += blocks.pop(i)[1]
                break
        else:
            i = next((i for i, block in enumerate(blocks) if block[0] >= at), len(blocks))
            blocks.insert(i, [at, size])
    return peak


@given(st.data())
@settings(max_examples=300, deadline=None, derandomize=True)
def test_the_replay_is_that_of_ggml(data: st.DataObject) -> None:
    """For any order of takes and gives, empty tensors among them."""
    sizes = data.draw(st.lists(st.integers(0, 4), min_size=1, max_size=5))
    steps = data.draw(_steps(len(sizes)))
    assert replay(steps, sizes, 1) == _as_ggml_writes_it(steps, sizes)


@st.composite
def _steps(draw: st.DrawFn, n_sizes: int) -> list[int]:
    """A tape of takes and gives."""
    steps: list[int] = []
    held: list[int] = []
    for n in range(draw(st.integers(1, 12))):
        steps.append(draw(st.integers(0, n_sizes - 1)))
        held.append(n)
        for block in draw(st.lists(st.sampled_from(held), unique=True)):
            held.remove(block)
            steps.append(~block)
    return steps


@given(st.data())
@settings(max_examples=200, deadline=None, derandomize=True)
def test_no_buffer_is_smaller_than_what_is_alive_at_once(data: st.DataObject) -> None:
    """It is the largest sum of what is taken and not given back, whatever open sizes stand for."""
    n = data.draw(st.integers(1, 5))
    sizes = [data.draw(st.tuples(st.integers(0, 4), st.integers(0, 4))) for _ in range(n)]
    steps = data.draw(_steps(n))
    alive = Alive(steps, [((0, a), (3, b)) for a, b in sizes], [0, 3])
    for values in ((1, 0), (0, 1), (3, 1), (1, 7)):
        plain = [a * values[0] + b * values[1] for a, b in sizes]
        held, taken, most = 0, [], 0
        for step in steps:
            if step >= 0:
                taken.append(plain[step])
            held += plain[step] if step >= 0 else -taken[~step]
            most = max(most, held)
        assert alive.least(values) == most <= replay(steps, plain, 1)

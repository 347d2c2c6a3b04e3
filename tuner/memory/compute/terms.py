"""Sizes of a graph's tensors as sums of products of what a shape leaves open.

Every size is a sum of terms like 4 x 5376 x batch or 2 x cells x batch, with whole coefficients
far below 2**63. A graph built with powers of 2**64 in place of the batch, of the cells and of the
bytes per cached element therefore has sizes whose digits in that base are the coefficients. So
one graph gives the sizes for every batch, context and cache type; only what a graph is made of
(fused attention, rotations, layers and where they are) needs graphs of its own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tuner.memory.compute.replica.builder import Shape

_BITS = 64
_DIGIT = (1 << _BITS) - 1
_BATCH = 3  # powers of the batch that are told apart: none, itself, its square

Terms = tuple[tuple[int, int], ...]  # (place of the digit, coefficient)


def symbolic(shape: Shape) -> Shape:
    """The shape with powers of 2**64 in place of what `products` gives values to. Rows of logits
    stay a number, unless there is one for each token."""
    places = [place for place, _ in _unknowns(shape)]
    u, *numbers = (1 << _BITS * place for place in places[:-2])
    k, v = (1 << _BITS * place for place in places[-2:])
    every = shape.n_outputs == shape.n_tokens > 1
    return replace(
        shape,
        n_tokens=u,
        n_outputs=u if every else shape.n_outputs,
        cells=tuple((kind, n) for (kind, _), n in zip(shape.cells, numbers, strict=False)),
        counts=tuple(
            (name, n)
            for (name, _), n in zip(shape.counts, numbers[len(shape.cells) :], strict=True)
        ),
        k_bytes=k if shape.k_bytes else 0.0,
        v_bytes=v if shape.v_bytes else 0.0,
        k_cached=k if shape.k_cached else 0.0,
    )


def _unknowns(shape: Shape) -> list[tuple[int, float]]:
    """What `symbolic` leaves open: the place of its digit, its value. The batch, the cells of each
    kind, other counts, bytes per element of K and of V."""
    values = [shape.n_tokens, *(n for _, n in shape.cells), *(n for _, n in shape.counts)]
    n = len(values)
    places = [1, *(_BATCH * i for i in range(1, n))]
    return [
        *zip(places, values, strict=True),
        (_BATCH * n, shape.k_bytes or shape.k_cached),
        (2 * _BATCH * n, shape.v_bytes),
    ]


def products(shape: Shape) -> list[float]:
    """The value of each place: a power of the batch, times the cells of one kind, another count
    or neither, times the bytes of K's or V's elements or neither."""
    u = shape.n_tokens
    batch = (1, u, u * u)
    numbers = (1, *(n for _, n in shape.cells), *(n for _, n in shape.counts))
    return [
        one * n * power
        for one in (1, shape.k_bytes or shape.k_cached, shape.v_bytes)
        for n in numbers
        for power in batch
    ]


def terms(size: int) -> Terms:
    """A size of a symbolic graph, term by term. Digits are signed: (batch - 1) x 4 has -4."""
    found = []
    place = 0
    while size:
        digit = size & _DIGIT
        if digit > _DIGIT >> 1:
            digit -= _DIGIT + 1
        if digit:
            found.append((place, digit))
        size = (size - digit) >> _BITS
        place += 1
    return tuple(found)


def value(of: Terms, by_place: Sequence[float]) -> int:
    """The size for the values of `products`. Raises IndexError where a size is of a form that
    the places do not have."""
    return int(sum(coefficient * by_place[place] for place, coefficient in of))

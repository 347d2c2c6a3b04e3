"""What a machine learns of its devices: laws of the arithmetic."""

from __future__ import annotations

from dataclasses import replace
from math import log

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.giants import gpu, machine
from tuner.engine.protocol import Timed
from tuner.machine.machine import Pace
from tuner.machine.usable import device_key
from tuner.profiles.paces import (
    KNOWN,
    LEAST,
    MEMORY,
    MOST,
    MOST_MODELS,
    UNKNOWN,
    Said,
    Time,
    attention_key,
    barriers_key,
    explained_by,
    heard,
    pace_of,
    paced,
    parts_of,
    said_by,
)

PACES = st.floats(LEAST, MOST)
SAYINGS = st.builds(Said, st.sampled_from("abcdefghijkl"), PACES, st.integers(1, MEMORY))


@given(st.lists(SAYINGS, max_size=40))
def test_each_model_has_one_say(said: list[Said]) -> None:
    """However often it is heard, and no more models than are to be kept; the newest is one."""
    known: tuple[Said, ...] = ()
    for one in said:
        known = heard(known, one)
        assert known[-1].model == one.model
        assert LEAST <= known[-1].pace <= MOST
        assert known[-1].n_tokens <= MEMORY
    assert len({one.model for one in known}) == len(known) <= MOST_MODELS


@given(SAYINGS, SAYINGS)
def test_a_model_s_later_word_moves_its_say_towards_it(first: Said, later: Said) -> None:
    """It lands between the two, the nearer to the later one the more tokens that rests on."""
    later = replace(later, model=first.model)
    (merged,) = heard(heard((), first), later)
    low, high = sorted((first.pace, later.pace))
    assert low * 0.999 <= merged.pace <= high * 1.001
    assert merged.n_tokens == min(MEMORY, first.n_tokens + later.n_tokens)


@given(st.lists(SAYINGS, min_size=1, max_size=8))
def test_the_pace_is_one_that_a_model_says(said: list[Said]) -> None:
    assert pace_of(said) in {one.pace for one in said}


@given(PACES, PACES, st.integers(1, MEMORY))
def test_one_model_does_not_speak_for_all(usual: float, odd: float, n_tokens: int) -> None:
    """Of three that rest on as many tokens, the one that differs is outvoted."""
    said = [Said("a", usual, n_tokens), Said("b", odd, n_tokens), Said("c", usual, n_tokens)]
    assert pace_of(said) == usual


def test_nothing_said_is_as_computed() -> None:
    assert pace_of(()) == 1.0
    where = machine(gpu(8))
    assert paced(where, {}, {}) == where


@given(st.lists(st.floats(0.0, 0.05), max_size=3), st.floats(0.2, 5), st.integers(0, 3))
def test_what_nearly_all_of_the_time_goes_to_explains_it(
    others: list[float], factor: float, at: int
) -> None:
    """A part that is really faster by a factor is found to be so; of small ones nothing is said."""
    place = at % (len(others) + 1)
    shares = [*others[:place], 1.0, *others[place:]]
    times = [Time(tuple(shares), 1 / factor + sum(others), 32)]
    found = explained_by(times, [UNKNOWN] * len(shares))
    assert [i for i, it in enumerate(found) if it] == [place]
    faster, n_tokens = found[place] or (0.0, 0)
    assert n_tokens == 32
    assert faster == pytest.approx(factor, rel=0.25)


@given(st.floats(0.5, 2))
def test_one_time_says_nothing_of_two_equal_parts(factor: float) -> None:
    """Unless one of them is known already: then it tells of the other."""
    assert explained_by([Time((1, 1), 2 / factor, 32)], [UNKNOWN, UNKNOWN]) == [None, None]
    known, other = explained_by([Time((1, 1), 1 + 1 / factor, 32)], [KNOWN, UNKNOWN])
    assert other is not None
    assert abs(log(other[0] / factor)) <= 0.4 * abs(log(factor)) + 1e-6
    assert known is None or 0.8 < known[0] < 1.25


def test_a_time_says_something_of_one_part() -> None:
    """Twice as slow as predicted, on a host known to be at 0.8 of what is computed: 0.4."""
    where = machine(gpu(8))
    parts = {0: 0.1, 1: 0.9}  # seconds per token on the GPU and the host

    def predicted(_: Timed, without: int | None) -> float:
        return sum(part for place, part in parts.items() if place != without)

    timed = [Timed(0, 64, 64 * (0.1 + 1.8), 1.0)] * 8
    gpus = (replace(where.gpus[0], pace=Pace(0.9)),)
    known = replace(where, gpus=gpus, host=replace(where.host, pace=Pace(0.8)))
    made_of = parts_of(known, "decode")
    said = dict(said_by(timed, "m", made_of, predicted))[device_key(where.host)]
    assert (said.model, said.n_tokens) == ("m", MEMORY)
    assert said.pace == pytest.approx(0.4, rel=0.1)
    assert not said_by([Timed(0, 0, 1.0, 1.0)], "m", made_of, predicted)


@given(st.floats(0.6, 1.7), st.floats(0.6, 1.7), st.permutations([0, 512, 1024]))
def test_times_of_one_measurement_explain_each_other(
    weights: float, attention: float, depths: list[int]
) -> None:
    """With an empty cache a time tells of the host's weights, what a later one takes longer of its
    attention, in whatever order they come."""
    where = machine()
    made_of = parts_of(where, "decode")

    def predicted(timed: Timed, without: int | None) -> float:
        return (without != 0) * 1.0 + (without != 1) * timed.depth / 512

    all_timed = [Timed(d, 8, 8 * (1 / weights + d / 512 / attention), 1.0) for d in depths]
    said = dict(said_by(all_timed, "m", made_of, predicted))
    assert said[device_key(where.host)].pace == pytest.approx(weights, rel=0.1)
    assert said[attention_key(where.host)].pace == pytest.approx(attention, rel=0.15)
    assert not said_by([t for t in all_timed if t.depth == 512], "m", made_of, predicted)


@given(st.floats(0.5, 1.5), st.floats(0.1, 0.4))
def test_two_numbers_of_threads_tell_waiting_from_work(weights: float, barriers: float) -> None:
    """One thread waits for nobody; what two take longer than half of its time they wait."""
    where = machine()

    def predicted(timed: Timed, without: int | None) -> float:
        return (without != 0) * 1.0 / timed.n_threads + (without != 2) * 0.1 * (timed.n_threads - 1)

    tried = [Timed(0, 12, 12 * (1 / weights / n + 0.1 * (n - 1) / barriers), n, n) for n in (1, 2)]
    said = dict(said_by(tried, "m", parts_of(where, "decode"), predicted))
    assert said[device_key(where.host)].pace == pytest.approx(weights, rel=0.1)
    assert said[barriers_key(where.host)].pace == pytest.approx(barriers, rel=0.3)


def test_the_machine_has_the_paces_of_its_devices() -> None:
    """By the key that names a device across runs; what was learned of another one is not used."""
    where = machine(gpu(8))
    decode = {
        device_key(where.host): (Said("m", 0.7, 9),),
        barriers_key(where.host): (Said("m", 0.2, 9),),
        "another": (Said("m", 0.1, 9),),
    }
    prompt = {
        device_key(where.gpus[0]): (Said("m", 1.3, 9),),
        attention_key(where.host): (Said("m", 0.6, 9),),
    }
    got = paced(where, decode, prompt)
    assert got.host.pace == Pace(0.7, 1.0, 0.6, 0.2)
    assert got.gpus[0].pace == Pace(1.0, 1.3)

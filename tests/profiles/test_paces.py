"""What a machine learns of its devices: laws of the arithmetic."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.support.giants import gpu, machine
from tuner.engine.protocol import Timed
from tuner.machine.machine import Pace
from tuner.machine.usable import device_key
from tuner.profiles.paces import (
    LEAST,
    LEAST_SHARE,
    MEMORY,
    MOST,
    MOST_MODELS,
    Said,
    attention_key,
    blamed,
    heard,
    pace_of,
    paced,
    parts_of,
    said_by,
)

PACES = st.floats(LEAST, MOST)
SAYINGS = st.builds(Said, st.sampled_from("abcdefghijkl"), PACES, st.integers(1, MEMORY))
SECONDS = st.floats(1e-6, 10)


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


@given(st.lists(SECONDS, min_size=1, max_size=4), SECONDS, st.floats(0.1, 10), st.integers(0, 3))
def test_what_nearly_all_of_the_time_goes_to_is_blamed(
    shares: list[float], rest: float, factor: float, at: int
) -> None:
    """A device that is really faster by a factor is found to be so, if all else is as predicted."""
    place = at % len(shares)
    total = sum(shares) + rest
    assume(shares[place] > LEAST_SHARE * total)
    measured = total - shares[place] + shares[place] / factor
    found = blamed(shares, rest, measured)
    assert found is not None
    assert found[0] == place
    assert found[1] == pytest.approx(factor, rel=1e-6)


@given(st.lists(SECONDS, min_size=1, max_size=4), SECONDS, SECONDS)
def test_nobody_is_blamed_for_a_part(shares: list[float], rest: float, measured: float) -> None:
    """And whoever is, gets a factor that is one: above 0 and finite, whatever was measured."""
    found = blamed(shares, rest, measured)
    assert (found is None) == (max(shares) <= LEAST_SHARE * (sum(shares) + rest))
    if found is not None:
        assert 0 < found[1] <= MOST * 1.001


def test_a_time_says_something_of_one_part() -> None:
    """Twice as slow as predicted, on a host known to be at 0.8 of what is computed: 0.4."""
    where = machine(gpu(8))
    parts = {0: 0.1, 1: 0.9}  # seconds per token on the GPU and the host

    def predicted(_: Timed, without: int | None) -> float:
        return sum(part for place, part in parts.items() if place != without)

    timed = Timed(0, 64, 64 * (0.1 + 1.8), 1.0)
    known = replace(where, host=replace(where.host, pace=Pace(0.8)))
    made_of = parts_of(known, "decode")
    ((key, said),) = said_by([timed], "m", made_of, predicted)
    assert key == device_key(where.host)
    assert (said.model, said.n_tokens) == ("m", 64)
    assert said.pace == pytest.approx(0.4)
    parts[0] = 0.9
    assert not said_by([timed], "m", made_of, predicted)


@given(st.floats(0.3, 3), st.floats(0.3, 3), st.permutations([0, 512, 1024]))
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
    assert said[device_key(where.host)].pace == pytest.approx(weights)
    if 1 / attention > 0.5:  # else it is too small a part to say something of
        assert said[attention_key(where.host)].pace == pytest.approx(attention)
    assert not said_by([t for t in all_timed if t.depth == 512], "m", made_of, predicted)


def test_the_machine_has_the_paces_of_its_devices() -> None:
    """By the key that names a device across runs; what was learned of another one is not used."""
    where = machine(gpu(8))
    decode = {device_key(where.host): (Said("m", 0.7, 9),), "another": (Said("m", 0.1, 9),)}
    prompt = {
        device_key(where.gpus[0]): (Said("m", 1.3, 9),),
        attention_key(where.host): (Said("m", 0.6, 9),),
    }
    got = paced(where, decode, prompt)
    assert got.host.pace == Pace(0.7, 1.0, 0.6)
    assert got.gpus[0].pace == Pace(1.0, 1.3)

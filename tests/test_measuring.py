"""What cache types cost is measured, kept and planned by; with a scripted model process."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.giants import LLAMA_8B, giant, giant_path, machine
from tests.support.launches import launcher
from tuner.errors import EngineCancelled, NoFitError, UsageError
from tuner.launch import Launcher, Stage
from tuner.machine import measure as devices
from tuner.machine.machine import Machine
from tuner.measuring import LEAST_TOKENS, Text, measured
from tuner.memory.cache_losses import CacheLosses
from tuner.planning.quality import Quality
from tuner.profiles.profiles import Profile, Profiles
from tuner.tuning import Tuning
from tuner.wishes import LaunchRequest, Wishes


def losses_of(start: Launcher, text: Text | None = None, n: int | None = None) -> CacheLosses:
    try:
        *_, losses = measured(start, text or Text.built_in(), n)
    finally:
        start.close()
    assert isinstance(losses, CacheLosses)
    return losses


def profile() -> Profile:
    found = Profiles().load(giant(LLAMA_8B).fingerprint)
    assert found
    return found


def test_every_pair_that_a_plan_could_choose_is_measured(tmp_path: Path, pretend: Machine) -> None:
    losses = losses_of(launcher(giant_path(LLAMA_8B), tmp_path))
    pairs = [(pair.type_k, pair.type_v) for pair in losses.pairs]
    assert pairs[0] == ("f16", "f16")
    assert set(pairs) >= {("q8_0", "q8_0"), ("q8_0", "q4_0"), ("q4_0", "q4_0")}
    assert len(set(pairs)) == len(pairs)
    assert losses.n_tokens == 512
    assert losses.engine_version


def test_what_was_measured_is_kept_and_planned_by(tmp_path: Path, pretend: Machine) -> None:
    """A model that breaks with every type but f16 is planned with f16, and the plan says that
    this was measured."""
    path = giant_path(LLAMA_8B)
    before = Tuning.of(LaunchRequest(path)).plan()
    assert before.chosen.settings.type_k == "q8_0"
    assert before.chosen.quality.source == "assumed"
    losses = losses_of(launcher(path, tmp_path, loss=0.5))
    assert profile().losses == losses
    assert profile().settings is None
    plan = Tuning.of(LaunchRequest(path)).plan()
    assert plan.chosen.settings.type_k == plan.chosen.settings.type_v == "f16"
    asked = Tuning.of(LaunchRequest(path, Wishes(type_k="q8_0", type_v="q8_0"))).plan()
    assert asked.chosen.quality == Quality(0.5, "measured", 0.004, precise=False)
    assert asked.chosen.quality.words == "much worse"


def test_a_later_load_keeps_what_was_measured(tmp_path: Path, pretend: Machine) -> None:
    """And a measurement leaves alone what a load taught."""
    path = giant_path(LLAMA_8B)
    losses = losses_of(launcher(path, tmp_path))
    start = launcher(path, tmp_path)
    list(start.start())
    start.close()
    loaded = profile()
    assert loaded.losses == losses
    assert loaded.settings
    losses_of(launcher(path, tmp_path, loss=0.02))
    assert replace(profile(), losses=losses) == loaded


def test_one_pair_replaces_itself_alone(tmp_path: Path, pretend: Machine) -> None:
    """Over another text all that was known before is gone."""
    path = giant_path(LLAMA_8B)
    before = losses_of(launcher(path, tmp_path))
    wish = Wishes(type_k="q8_0", type_v="q8_0")
    after = losses_of(launcher(path, tmp_path, wish, loss=0.3))
    changed = [a for a, b in zip(after.pairs, before.pairs, strict=True) if a != b]
    assert [(p.type_k, p.type_v, p.loss) for p in changed] == [("q8_0", "q8_0", 0.3)]
    other = losses_of(launcher(path, tmp_path, wish), Text("x" * 999, "other.txt"))
    assert [pair.type_k for pair in other.pairs] == ["f16", "q8_0"]


def test_what_another_engine_lost_is_not_planned_by(tmp_path: Path, pretend: Machine) -> None:
    path = giant_path(LLAMA_8B)
    losses = losses_of(launcher(path, tmp_path, loss=0.5))
    Profiles().save(replace(profile(), losses=replace(losses, engine_version="0.1.0")))
    assert Tuning.of(LaunchRequest(path)).plan().chosen.quality.source == "assumed"


def test_caches_are_side_by_side_as_far_as_memory_goes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where two do not fit beside the model, it says what is missing."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine(ram=8))
    with pytest.raises(NoFitError, match=r"lacks .*try fewer --tokens"):
        losses_of(launcher(giant_path(LLAMA_8B), tmp_path), n=65_536)


@pytest.mark.parametrize("n", [LEAST_TOKENS - 1, 1 << 19])
def test_tokens_beyond_what_the_model_knows(n: int, tmp_path: Path, pretend: Machine) -> None:
    with pytest.raises(UsageError, match="--tokens can be 32 to"):
        losses_of(launcher(giant_path(LLAMA_8B), tmp_path), n=n)


def test_a_text_that_is_too_short(tmp_path: Path, pretend: Machine) -> None:
    with pytest.raises(UsageError, match="5 tokens"):
        losses_of(launcher(giant_path(LLAMA_8B), tmp_path), Text("short", "s.txt"))


def test_f16_alone_is_nothing_to_compare(tmp_path: Path, pretend: Machine) -> None:
    start = launcher(giant_path(LLAMA_8B), tmp_path, Wishes(type_k="f16", type_v="f16"))
    with pytest.raises(UsageError, match="nothing to compare"):
        losses_of(start)


def test_a_measurement_can_be_cancelled(tmp_path: Path, pretend: Machine) -> None:
    """Nothing is kept then."""
    start = launcher(giant_path(LLAMA_8B), tmp_path, measure_seconds=60)
    events = measured(start, Text.built_in())
    for event in events:
        if isinstance(event, Stage) and event.text == "measuring":
            break
    start.cancel()
    with pytest.raises(EngineCancelled):
        list(events)
    start.close()
    assert Profiles().load(giant(LLAMA_8B).fingerprint) is None

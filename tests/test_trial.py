"""Plans that are loaded and timed, one after the other, with a scripted model process."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.giants import LLAMA_8B, giant, giant_path, machine
from tests.support.launches import launcher
from tuner.engine.protocol import Timed
from tuner.errors import EngineCancelled, EngineError
from tuner.launch import Stage
from tuner.launch.running import cores_were_taken
from tuner.machine import measure as devices
from tuner.machine.machine import Machine
from tuner.profiles.profiles import Profiles
from tuner.report.receipt import Receipt
from tuner.settings import Settings
from tuner.trial import DECODED, OTHERS, request_for, trial


def test_the_choice_is_timed(tiny_model: Path, tmp_path: Path, pretend: Machine) -> None:
    """One receipt, with what was measured at each depth beside a prediction; progress before it."""
    start = launcher(tiny_model, tmp_path, rate=50)
    *events, told = trial(start)
    start.client.close()
    assert isinstance(told, Receipt)
    assert [pace.timed.depth for pace in told.decodes] == [0, 2048, 4096 - DECODED]
    assert all(pace.measured == pytest.approx(50) for pace in told.decodes)
    assert all(pace.predicted > 0 for pace in (*told.prompts, *told.decodes))
    assert told.actual.footprint.total > 0
    assert any(isinstance(e, Stage) and "timing" in e.text for e in events)


def test_a_thorough_trial_leaves_the_profile_alone(tmp_path: Path, pretend: Machine) -> None:
    """Two alternatives are loaded and timed as well, each with a receipt of its own settings; the
    profile has the choice, which the next launch is to find."""
    start = launcher(giant_path(LLAMA_8B), tmp_path)
    told = [event for event in trial(start, thorough=True) if isinstance(event, Receipt)]
    start.client.close()
    settings = [receipt.plan.chosen.settings for receipt in told]
    assert 1 < len(set(settings)) == len(settings) <= 1 + OTHERS
    profile = Profiles().load(giant(LLAMA_8B).fingerprint)
    assert profile is not None
    assert profile.settings == settings[0]


def test_a_trial_teaches_the_machine(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Unless others had the cores: then the receipt says so, and nothing is learned."""
    monkeypatch.setattr(devices, "measure", lambda **_: machine())
    for cores, busy in ((0.5, True), (1.0, False)):
        start = launcher(tiny_model, tmp_path, rate=50, cpu_share=cores)
        *_, told = trial(start)
        start.client.close()
        assert isinstance(told, Receipt)
        assert told.busy is busy
        facts = Profiles().machine_facts()
        assert bool(facts.decode_paces and facts.prompt_paces) is not busy
        (profile,) = Profiles().list()
        assert profile.decode_tps == (None if busy else pytest.approx(50))


def test_a_cancelled_measurement_ends_at_once(
    tiny_model: Path, tmp_path: Path, pretend: Machine
) -> None:
    start = launcher(tiny_model, tmp_path, measure_seconds=60)
    events = trial(start)
    for event in events:
        if isinstance(event, Stage) and "timing" in event.text:
            break
    start.cancel()
    with pytest.raises(EngineCancelled):
        list(events)
    start.client.close()


def test_a_death_is_told(tiny_model: Path, tmp_path: Path, pretend: Machine) -> None:
    start = launcher(tiny_model, tmp_path, measure_seconds=60)
    events = trial(start)
    for event in events:
        if isinstance(event, Stage) and "timing" in event.text:
            break
    start.kill()
    with pytest.raises((EngineError, EngineCancelled)):
        list(events)


@pytest.mark.parametrize("n_ctx", [256, 1024, 2080, 8192, 131072])
def test_nothing_is_asked_for_beyond_the_context(n_ctx: int) -> None:
    request = request_for(Settings(n_ctx))
    assert list(request.depths) == sorted(set(request.depths))
    assert request.depths[0] == 0
    assert request.depths[-1] + request.n_decode <= n_ctx


def test_a_short_prompt_is_less_than_a_batch() -> None:
    assert request_for(Settings(4096, n_ubatch=64)).prompt == 32
    assert request_for(Settings(4096, n_ubatch=1)).prompt == 1


@pytest.mark.parametrize(
    ("cores", "n_gpu_layers", "busy"),
    [(1.9, 0, False), (1.2, 0, True), (1.2, 3, False), (0.0, 0, False)],
)
def test_others_at_the_cores_are_noticed(cores: float, n_gpu_layers: int, busy: bool) -> None:
    """Where GPUs compute, threads wait by themselves; 0 is not known."""
    timed = (Timed(0, 8, 1.0, 2.0), Timed(0, 8, 1.0, cores))
    assert cores_were_taken(Settings(4096, n_gpu_layers=n_gpu_layers), 2, timed) is busy

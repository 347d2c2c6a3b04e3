"""What was chosen in the fit explorer: loaded in place of what was there, kept, and given up."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.giants import LLAMA_8B, giant_path, gpu, machine
from tests.support.launches import ASK, launcher, loaded, run
from tuner.engine.protocol import Done, Sampling
from tuner.errors import EngineCancelled
from tuner.launch import Launcher, Ready, Retry, Stage
from tuner.launch.running import Running
from tuner.machine import measure as devices
from tuner.machine.machine import Machine
from tuner.private_files import STATES, kvchat_folder
from tuner.profiles.profiles import Profiles
from tuner.settings import Settings, on_gpus
from tuner.tuning import EXPLORED
from tuner.wishes import Wishes

Way = Callable[[Settings], Settings]

pytestmark = pytest.mark.usefixtures("pretend")


def changed(
    running: Running, settings: Settings, *, keep: bool = True
) -> tuple[list[str], Running]:
    """What was said on the way, and what is loaded in the end."""
    events, after = run(running.change(settings, keep=keep))
    return [e.reason for e in events if isinstance(e, Retry)], after


def started(path: Path, tmp_path: Path, **script: float) -> Running:
    return run(launcher(path, tmp_path, None, **script).start())[1]


def other(settings: Settings) -> Settings:
    """Nothing that kvchat would choose by itself."""
    return replace(settings, n_ctx=2048, type_k="q5_1", type_v="q4_1")


def elsewhere(settings: Settings) -> Settings:
    """The same, but most of the weights lie in RAM: they are to be loaded again."""
    return replace(other(settings), n_gpu_layers=1)


both_ways = pytest.mark.parametrize("way", [other, elsewhere])


@both_ways
def test_what_was_chosen_is_loaded_kept_and_told(
    tiny_model: Path, tmp_path: Path, way: Way
) -> None:
    """As it is, now and by the next launch without flags, although others are better; a launch with
    flags does as these say, and does not forget it."""
    running = started(tiny_model, tmp_path)
    choice = way(running.settings)
    said, after = changed(running, choice)
    after.close()
    assert not said
    assert after.settings == after.plan.chosen.settings == choice
    assert EXPLORED in after.plan.reasons
    assert not [reason for reason in after.plan.reasons if "The context" in reason]
    for wishes in (Wishes(), Wishes(n_ctx=1024), Wishes(prefer="quality"), Wishes()):
        again = run(launcher(tiny_model, tmp_path, wishes).start())[1]
        again.close()
        assert (again.settings == choice) is (wishes == Wishes())
        assert (EXPLORED in again.plan.reasons) is (wishes == Wishes())
        if wishes == Wishes():
            assert again.plan.reasons == after.plan.reasons


def test_a_choice_that_is_not_to_be_kept_takes_back_the_one_that_was(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Then kvchat plans by itself again: what the profile has is no longer a choice."""
    running = started(tiny_model, tmp_path)
    own = running.settings
    _, after = changed(running, other(own))
    _, back = changed(after, own, keep=False)
    back.close()
    assert back.settings == own
    assert EXPLORED not in back.plan.reasons
    again = loaded(tiny_model, tmp_path)
    assert again.settings == own
    assert EXPLORED not in again.plan.reasons


@pytest.mark.parametrize(
    ("more", "end"),
    [(0, "The model stays as it was."), (1, "The model is loaded again as it was.")],
)  # fmt: skip
def test_without_memory_for_it_all_is_as_before(tmp_path: Path, more: int, end: str) -> None:
    """The engine runs out of memory: one sentence, the old settings, the old choice; smaller plans,
    which nobody has chosen, are not tried."""
    path = giant_path(LLAMA_8B)
    running = started(path, tmp_path, oom_over_ctx=9000)
    before = running.settings
    kept = replace(before, n_ctx=4096)
    _, running = changed(running, kept)
    said, after = changed(
        running, replace(before, n_ctx=16_384, n_gpu_layers=before.n_gpu_layers - more)
    )
    assert len(said) == 1
    assert "memory" in said[0]
    assert said[0].endswith(f". {end}")
    assert after.settings == kept
    after.close()
    assert Profiles().list()[0].explored == kept


def test_what_does_not_fit_now_is_not_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Memory is measured anew before the load; by then others may have taken it. What was kept is
    planned again by the next launch, which says so."""
    path = giant_path(LLAMA_8B)
    running = started(path, tmp_path)
    choice = replace(running.settings, n_ctx=4096)
    _, running = changed(running, choice)
    monkeypatch.setattr(devices, "measure", lambda **_: machine(gpu(6.2)))
    said, after = changed(running, replace(choice, n_ctx=65_536))
    after.close()
    assert "short by" in said[0]
    assert after.settings == choice
    monkeypatch.setattr(devices, "measure", lambda **_: machine(gpu(4)))
    again = loaded(path, tmp_path)
    assert again.plan.chosen.fits
    assert [r for r in again.plan.reasons if "What was chosen in the fit explorer no longer" in r]


def test_what_another_backend_has_no_kernel_for_is_planned_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was chosen with another build of the engine would now run on the CPU in silence."""
    running = started(tiny_model, tmp_path)
    changed(running, other(running.settings))[1].close()
    metal = machine(replace(gpu(8), backend="Metal"))
    monkeypatch.setattr(devices, "measure", lambda **_: metal)
    again = loaded(tiny_model, tmp_path)
    assert again.settings != other(running.settings)
    assert [r for r in again.plan.reasons if "fit explorer cannot be used here now" in r]


@both_ways
def test_a_cancelled_change_is_taken_back(tiny_model: Path, tmp_path: Path, way: Way) -> None:
    start = launcher(tiny_model, tmp_path, None, load_seconds=0.5)
    running = run(start.start())[1]
    before, events = running.settings, []
    for event in running.change(way(before), keep=True):
        events.append(event)
        if (
            isinstance(event, Stage)
            and event.fraction
            and not any(isinstance(e, Retry) for e in events)
        ):
            running.stop()
    after = "stays" if way is other else "is loaded again"
    assert [e.reason for e in events if isinstance(e, Retry)] == [
        f"It was cancelled. The model {after} as it was."
    ]
    assert isinstance(events[-1], Ready)
    assert events[-1].running.settings == before
    assert start.request.settings is None  # the next load is planned, not pinned to these
    events[-1].running.close()
    assert Profiles().list()[0].explored is None


def test_a_change_that_is_cancelled_while_the_cache_is_saved(
    tiny_model: Path, tmp_path: Path
) -> None:
    """Nothing has ended yet: what runs runs on."""
    start = launcher(tiny_model, tmp_path)
    running = run(start.start())[1]
    pid, events = running._client.pid, []
    for event in running.change(elsewhere(running.settings), keep=True):
        events.append(event)
        if event == Stage("keeping what was read"):
            running.stop()
    assert events[-1] == Ready(running)
    assert running._client.pid == pid
    assert start.request.settings is None
    running.close()


def test_what_is_tried_out_binds_no_later_load(tiny_model: Path, tmp_path: Path) -> None:
    """Neither on the way there nor on the way back; a way back that is cancelled leaves no model,
    and what is loaded then is what was asked for before."""
    start = launcher(tiny_model, tmp_path, Wishes(type_k="f16"), load_seconds=0.2)
    own = run(start.start())[1]
    choice = replace(other(own.settings), type_k="f16")
    kept = changed(own, choice)[1]
    tried = run(kept.try_out(replace(choice, type_v="q4_0"), choice))[1]
    assert tried.settings.type_v == "q4_0"
    assert start.request.settings == choice
    back = tried.try_out(choice, None)
    while not getattr(next(back), "fraction", None):
        pass
    tried.stop()
    with pytest.raises(EngineCancelled):
        list(back)
    again = run(start.start())[1]
    assert again.settings == choice
    again.close()
    assert Profiles().list()[0].explored == choice


@both_ways
def test_leaving_ends_a_change(tiny_model: Path, tmp_path: Path, way: Way) -> None:
    """Nothing is loaded any more once the program closes the model."""
    running = started(tiny_model, tmp_path, load_seconds=0.5)
    events = running.change(way(running.settings), keep=True)
    while not getattr(next(events), "fraction", None):
        pass
    running.close()
    with pytest.raises(EngineCancelled):
        list(events)
    assert not running._client.alive


def test_before_a_load_it_begins_with_the_plan(tiny_model: Path, tmp_path: Path) -> None:
    """Then exactly what was chosen is loaded."""
    start: Launcher = launcher(tiny_model, tmp_path)
    explorer = start.explorer()
    assert explorer.weighed(explorer.start).settings == explorer.survey().chosen.settings
    start.choose(other(explorer.start), keep=True)
    _, running = run(start.start())
    running.close()
    assert running.settings == other(explorer.start)
    assert loaded(tiny_model, tmp_path).settings == running.settings


def test_the_explorer_knows_the_flags_after_a_change(
    tiny_model: Path, tmp_path: Path, pretend: Machine
) -> None:
    """What kvchat itself would choose is what keeps these, whatever is loaded."""
    _, running = run(launcher(tiny_model, tmp_path, Wishes(n_ctx=1024)).start())
    _, after = changed(running, other(running.settings))
    after.close()
    explorer = after.explorer()
    assert [d.label for d in explorer.dials if d.fixed] == ["context"]
    assert explorer.start == after.settings
    assert explorer.survey().chosen.settings == running.settings


def n_reused(running: Running) -> int:
    answer = list(running.generate(ASK, Sampling()))
    assert isinstance(answer[-1], Done)
    return answer[-1].n_reused


@pytest.mark.parametrize(("way", "on_disk"), [(other, True), (elsewhere, True), (elsewhere, False)])
def test_what_was_read_outlives_a_change(
    tiny_model: Path, tmp_path: Path, way: Way, on_disk: bool
) -> None:
    """Other settings, and the old ones again: the next answer reads only what is new. Where the
    weights can stay, so does the process; on the disk nothing is left, nor ever was where nothing
    is to be."""
    running = started(tiny_model, tmp_path)
    it = running._launcher
    it.request = replace(it.request, states_on_disk=on_disk)
    assert n_reused(running) == 0
    before, pid = running.settings, running._client.pid
    running = changed(running, way(before))[1]
    assert running.n_moved > 0
    assert running.in_place is (way is other)
    assert n_reused(running) > 0
    assert (running._client.pid == pid) is (way is other)
    tried = run(running.try_out(before, way(before)))[1]
    assert n_reused(tried) > 0
    tried.close()
    folder = kvchat_folder("data") / STATES
    assert folder.is_dir() is on_disk
    assert not folder.is_dir() or not [*folder.iterdir()]


def test_another_gpu_is_not_where_the_weights_lie(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As many layers on it are loaded there; on the same one they stay."""
    two = machine(gpu(4), gpu(4, 1))
    monkeypatch.setattr(devices, "measure", lambda **_: two)
    one, another = (gpu.id for gpu in two.gpus)
    running = started(tiny_model, tmp_path)
    alone = replace(running.settings, n_gpu_layers=1, tensor_split=())
    running = changed(running, on_gpus(alone, (one,)))[1]
    running = changed(running, on_gpus(other(alone), (one,)))[1]
    assert running.in_place
    said, running = changed(running, on_gpus(other(alone), (another,)))
    assert said == []
    assert not running.in_place
    assert [gpu.id for gpu in running.plan.machine.gpus] == [another]
    running.close()


def test_a_death_while_the_cache_changes(tiny_model: Path, tmp_path: Path) -> None:
    """The model is loaded again as it was."""
    running = started(tiny_model, tmp_path, load_seconds=0.5)
    before, events = running.settings, []
    for event in running.change(other(before), keep=True):
        events.append(event)
        if getattr(event, "fraction", None) and len([*filter(is_retry, events)]) == 0:
            running.kill()
            running._launcher._over = False  # it was not the user who left
    assert isinstance(events[-1], Ready)
    assert events[-1].running.settings == before
    events[-1].running.close()


def is_retry(event: object) -> bool:
    return isinstance(event, Retry)


def test_a_full_disk_only_means_that_it_is_read_again(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = started(tiny_model, tmp_path)
    n_reused(running)

    def full() -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tuner.launch.carrying.states_folder", full)
    said, running = changed(running, elsewhere(running.settings))
    assert not said
    assert n_reused(running) == 0
    running.close()
    assert "No space left" in (tmp_path / "engine.log").read_text()


@pytest.mark.parametrize("gpus", [("GPU0",), ("GPU1",), None])
def test_a_choice_of_gpus_is_loaded_and_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gpus: tuple[str, ...] | None
) -> None:
    """The others are left alone, now and by the next launch; also where kvchat itself would leave
    out another one, or none. Without that GPU it is planned again."""
    weak = replace(gpu(2, 1, bandwidth=30e9), engine_name="CUDA1")
    where = machine(replace(gpu(8), engine_name="CUDA0"), weak)
    monkeypatch.setattr(devices, "measure", lambda **_: where)
    path = giant_path(LLAMA_8B)
    running = started(path, tmp_path)
    assert [g.id for g in running.plan.machine.gpus] == ["GPU0"]  # the weak one is no help
    explorer = running.explorer()
    dial = next(d for d in explorer.dials if d.names == ("gpus",))
    assert dial.value(explorer.start) == ("GPU0",)
    n_layers = 0 if gpus == ("GPU1",) else 4
    few = replace(explorer.start, n_ctx=1024, n_gpu_layers=n_layers, n_ubatch=128)
    tried = explorer.exactly(explorer.weighed(explorer.know(on_gpus(few, gpus))))
    assert tried.fits
    _, after = changed(running, tried.settings)
    after.close()
    names = [g.id for g in where.gpus if gpus is None or g.id in gpus]
    assert after.settings == tried.settings
    assert [g.id for g in after.plan.machine.gpus] == names
    left_out = after.tuning.load_request(after.settings).left_out
    assert set(left_out) == {"CUDA0", "CUDA1"} - {f"CUDA{name[-1]}" for name in names}
    again = loaded(path, tmp_path)
    assert (again.settings, EXPLORED in again.plan.reasons) == (tried.settings, True)
    assert [g.id for g in again.plan.machine.gpus] == names
    monkeypatch.setattr(devices, "measure", lambda **_: machine())
    planned = loaded(path, tmp_path)
    assert not planned.plan.machine.gpus
    assert [r for r in planned.plan.reasons if "was for other GPUs: planned again" in r]

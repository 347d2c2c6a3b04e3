"""The engine leaves to other programs the cores that they keep busy."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.engine import free_cores
from tuner.engine.free_cores import LOOK_SECONDS, CoreTimes, FreeCores, cores_taken, measured_times


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """A machine whose load a test sets: cores that others keep busy, and that we do."""
    load = {"others": 0.0, "own": 0.0}
    now = {"clock": 0.0, "used": 0.0, "own": 0.0}

    def measured() -> CoreTimes:
        now["clock"] += LOOK_SECONDS
        now["used"] += LOOK_SECONDS * (load["others"] + load["own"])
        now["own"] += LOOK_SECONDS * load["own"]
        return CoreTimes(**now)

    monkeypatch.setattr(free_cores, "measured_times", measured)
    monkeypatch.setattr(time, "monotonic", lambda: now["clock"] + LOOK_SECONDS)
    return load


def test_all_cores_are_used_where_nothing_else_runs(machine: dict[str, float]) -> None:
    cores = FreeCores(8)
    machine["own"] = 8.0
    assert [cores.n_threads() for _ in range(3)] == [8, 8, 8]


def test_one_thread_fewer_for_each_core_that_others_keep_busy(machine: dict[str, float]) -> None:
    cores = FreeCores(8)
    machine.update(others=1.0, own=3.5)  # the barrier holds the rest back
    assert cores.n_threads() == 7
    machine.update(others=2.9, own=5.1)
    assert cores.n_threads() == 5
    machine.update(others=0.1, own=5.0)
    assert cores.n_threads() == 8


def test_one_thread_is_left_on_a_full_machine(machine: dict[str, float]) -> None:
    cores = FreeCores(2)
    machine.update(others=2.0, own=0.4)
    assert cores.n_threads() == 1


def test_a_number_that_was_asked_for_is_kept(machine: dict[str, float]) -> None:
    cores = FreeCores(2, exact=True)
    machine["others"] = 2.0
    assert cores.n_threads() == 2


def test_half_a_core_changes_nothing(machine: dict[str, float]) -> None:
    """Either way: no going to and fro while another program comes and goes."""
    cores = FreeCores(4)
    machine["others"] = 0.5
    assert cores.n_threads() == 4
    machine["others"] = 1.0
    assert cores.n_threads() == 3
    machine["others"] = 0.5
    assert cores.n_threads() == 3


@given(st.floats(-1, 300), st.integers(0, 300))
def test_what_is_taken_is_never_far_from_what_was_measured(others: float, before: int) -> None:
    taken = cores_taken(others, before)
    assert taken >= 0
    assert abs(taken - max(0.0, others)) <= 0.6 + 1e-9
    assert cores_taken(others, taken) == taken


def test_this_machine_says_its_times() -> None:
    first, second = measured_times(), measured_times()
    assert first.clock <= second.clock
    assert first.used <= second.used
    assert first.own <= second.own
    assert first.used > 0


def test_what_niced_programs_take_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """They give way within their own session alone."""
    cpu = SimpleNamespace(user=5.0, system=2.0, nice=30.0, idle=900.0)
    monkeypatch.setattr(psutil, "cpu_times", lambda percpu: [cpu])
    monkeypatch.setattr(psutil, "Process", lambda: SimpleNamespace(cpu_affinity=lambda: [0]))
    assert measured_times().used == 37.0


def test_a_system_that_tells_nothing_costs_no_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(percpu: bool) -> None:
        raise PermissionError("/proc/stat")

    monkeypatch.setattr(psutil, "cpu_times", forbidden)
    monkeypatch.setattr(free_cores, "LOOK_SECONDS", 1e-9)
    assert FreeCores(4).n_threads() == 4


_LOADED = """
import json, os, sys
from tuner.demo import demo_model_path
from tuner.engine import free_cores, llama, loaded_model, service
from tuner.engine.abort import AbortFlag
from tuner.engine.protocol import Generate, Load, Message, Sampling
from tuner.engine.voice import Voice
from tuner.settings import Settings

load, now = [0.0], [0.0, 0.0]
def measured():
    now[0] += 1; now[1] += load.pop(0) if len(load) > 1 else load[0]
    return free_cores.CoreTimes(now[0], now[1], 0.0)
free_cores.measured_times = measured
free_cores.LOOK_SECONDS = -1e9
used = []
use = llama.Context.use_threads
llama.Context.use_threads = lambda self, n: (used.append(n), use(self, n))[1]
settings = Settings(n_ctx=512, use_extra_bufts=False)
request = Load(str(demo_model_path()), settings, 2)
log, abort = llama.LogTap(2), AbortFlag()
model = loaded_model.LoadedModel(request, log, abort, Voice(open(os.devnull, "wb")))
def answer(seed, *others):
    load[:] = others
    used.clear()
    sampling = Sampling(temperature=0, max_tokens=4, seed=seed)
    done = model.generate(Generate((Message("user", "hi"),), sampling))
    return [done.n_decoded, sorted(set(used))]
print(json.dumps([answer(None, 0.0), answer(None, 1.0), answer(7, 1.0), answer(None, 0.0, 1.0)]))
model.close()
"""


def test_a_loaded_model_computes_on_what_is_free() -> None:
    """With all of its threads where a seed promises the same answer again, with one fewer from the
    moment on in which another program begins."""
    run = subprocess.run(
        [sys.executable, "-c", _LOADED], capture_output=True, text=True, check=True, timeout=60
    )
    assert json.loads(run.stdout) == [[4, [2]], [4, [1]], [4, [2]], [4, [1, 2]]]

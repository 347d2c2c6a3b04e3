"""Every wait for the model process has an end, whatever it does; and no process is left behind."""

from __future__ import annotations

import itertools
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from bench.oracle import rpc_available
from tests.support.scripted_worker import scripted_worker
from tests.support.standin_gpu import rpc_server
from tuner.demo import demo_model_path
from tuner.engine.client import EngineClient
from tuner.engine.patience import LIMITS, Limits, Patience, Watch
from tuner.engine.protocol import (
    Alive,
    Done,
    Event,
    Generate,
    Load,
    Loaded,
    Message,
    Progress,
    PromptProgress,
    Sampling,
    Text,
    TokenCount,
    encode,
)
from tuner.errors import EngineCancelled, EngineError
from tuner.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="stops processes by POSIX signals")

Start = Callable[..., EngineClient]

LOAD = Load("model.gguf", Settings(n_ctx=4096), n_threads=1)
ASK = Generate((Message("user", "Hello there"),), Sampling())
HASTY = Patience({name: Limits(1.5, 1.5) for name in LIMITS}, stop=0.6, stop_at_work=3)
# A busy machine takes its time to start a process.
QUICK = replace(HASTY, limits={**HASTY.limits, "start": Limits(20, 20)})


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Clients of scripted workers with little patience. None leaves a process behind."""
    clients: list[EngineClient] = []

    def make(**script: object) -> EngineClient:
        client = EngineClient(
            tmp_path / "engine.log", command=scripted_worker(**script), patience=QUICK
        )
        clients.append(client)
        return client

    before = set(psutil.Process().children(recursive=True))
    yield make
    for client in clients:
        client.close()
    left = set(psutil.Process().children(recursive=True)) - before
    assert not [process for process in left if process.status() != psutil.STATUS_ZOMBIE]


def loaded(client: EngineClient) -> EngineClient:
    assert isinstance(list(client.load(LOAD))[-1], Loaded)
    return client


def freeze(client: EngineClient) -> None:
    assert client.pid is not None
    os.kill(client.pid, signal.SIGSTOP)


def ends_in_time(client: EngineClient, act: Callable[[], object], words: str) -> None:
    """The process is killed and mourned in words, and the next load works."""
    began = time.monotonic()
    with pytest.raises(EngineError, match=words) as caught:
        act()
    assert time.monotonic() - began < 6
    assert caught.value.kind == "crashed"
    assert "engine.log" in str(caught.value)
    assert not client.alive
    client._command = scripted_worker()
    loaded(client)


# ------------------------------------------------------------------ hangs


def test_stopped_in_a_load(start: Start) -> None:
    client = start(load_seconds=2)
    stream = client.load(LOAD)
    next(stream)
    freeze(client)
    ends_in_time(client, lambda: list(stream), "did not answer for 1.5 seconds and was ended")


@pytest.mark.parametrize("where", [PromptProgress, Text])
def test_stopped_in_a_prompt_and_in_an_answer(start: Start, where: type) -> None:
    client = loaded(start(text="x" * 400, delay=0.05))
    stream = client.generate(ASK)
    assert any(isinstance(event, where) for event in stream)
    freeze(client)
    ends_in_time(client, lambda: list(stream), "did not answer")


def test_stopped_while_idle(start: Start) -> None:
    """Also where the question is larger than a pipe holds, so that it cannot even be sent."""
    client = loaded(start())
    freeze(client)
    huge = Generate((Message("user", "word " * 100_000),), Sampling())
    ends_in_time(client, lambda: list(client.generate(huge)), "did not answer")


@pytest.mark.parametrize("where", ["prompt", "generate"])
@pytest.mark.parametrize("silent", ["", "1"])
def test_stuck_in_an_answer(start: Start, where: str, silent: str) -> None:
    """Whether it still beats or not: where nothing moves, nothing will come."""
    client = loaded(start(stuck_in=where, silent=silent))
    words = "did not answer" if silent else "did not get on for 1.5 seconds"
    ends_in_time(client, lambda: list(client.generate(ASK)), words)


def test_stuck_in_a_load(start: Start) -> None:
    client = start(stuck_in="load")
    ends_in_time(client, lambda: list(client.load(LOAD)), "did not get on")


def test_a_start_without_a_word(tmp_path: Path) -> None:
    """A process that never speaks, and one that never ends a line."""
    for code in (
        "import time; time.sleep(600)",
        "print('x', end='', flush=True); import time; time.sleep(600)",
    ):
        command = (sys.executable, "-c", code)
        client = EngineClient(tmp_path / "engine.log", command=command, patience=HASTY)
        ends_in_time(client, lambda c=client: list(c.load(LOAD)), "did not answer")  # type: ignore[misc]
        client.close()


# ------------------------------------------------------------------ stops that are not heard


def test_a_load_that_hears_no_stop_is_cancelled_all_the_same(start: Start) -> None:
    client = start(stuck_in="load", deaf="1")
    stream = client.load(LOAD)
    next(stream)
    client.stop()
    began = time.monotonic()
    with pytest.raises(EngineCancelled):
        list(stream)
    assert time.monotonic() - began < 2
    assert not client.alive


def test_an_answer_that_hears_no_stop(start: Start) -> None:
    """A process that writes on is given more time than one that is stuck, then none."""
    client = loaded(start(text="x" * 4000, delay=0.02, deaf="1"))
    stream = client.generate(ASK)
    next(stream)
    client.stop()
    ends_in_time(client, lambda: list(stream), "did not stop within 3 seconds and was ended")


def test_a_stuck_answer_hears_no_stop(start: Start) -> None:
    client = loaded(start(stuck_in="generate", text="x" * 40, deaf="1"))
    stream = client.generate(ASK)
    for event in stream:
        if isinstance(event, Text):
            client.stop()
            break
    ends_in_time(client, lambda: list(stream), "did not stop within 0.6 seconds")


def test_an_abandoned_answer_that_hears_no_stop(start: Start) -> None:
    """Closing the iterator returns, and the next request says what happened."""
    client = loaded(start(stuck_in="generate", text="x" * 40, deaf="1"))
    stream = client.generate(ASK)
    assert any(isinstance(event, Text) for event in stream)
    began = time.monotonic()
    stream.close()
    assert time.monotonic() - began < 3
    with pytest.raises(EngineError, match="did not stop"):
        client.count_tokens(ASK.messages)


def test_a_state_that_is_written_is_waited_for(start: Start, tmp_path: Path) -> None:
    """A disk may be slow, and the engine writes in one piece: a stop ends no process for that."""
    client = loaded(start(save_seconds=1.2))
    threading.Timer(0.1, client.stop).start()
    began = time.monotonic()
    assert client.save_state(tmp_path / "c.state", 1 << 20).n_bytes
    assert time.monotonic() - began > QUICK.stop
    assert client.alive


def test_close_while_stopped(start: Start) -> None:
    client = loaded(start())
    freeze(client)
    began = time.monotonic()
    client.close()
    assert time.monotonic() - began < 2
    assert not client.alive


def test_kill_asks_nobody(start: Start) -> None:
    """As an interrupt does it: the answer's iterator closes at once, then."""
    client = loaded(start(stuck_in="generate", text="x" * 40, deaf="1"))
    stream = client.generate(ASK)
    next(stream)
    began = time.monotonic()
    client.kill()
    stream.close()
    assert time.monotonic() - began < 0.5
    assert not client.alive


# ------------------------------------------------------------------ what is no answer


def test_an_answer_to_nothing_is_ignored_and_logged(start: Start, tmp_path: Path) -> None:
    """A second Done for the same question does not end the next one."""
    client = loaded(start(text="{n}: {last}", chunk=2, late="1"))
    for n in (1, 2, 3):
        said = list(client.generate(ASK))
        assert "".join(e.text for e in said if isinstance(e, Text)) == f"{n}: Hello there"
        assert isinstance(said[-1], Done)
    log = (tmp_path / "engine.log").read_text()
    assert log.count("an answer to nothing: 2 Done(") == 1


@pytest.mark.parametrize(
    "garbage",
    [b"[" * 20_000 + b"\n", b"\n", b'{"type": "Failed", "n": 2, "kind": {}, "message": []}\n'],
    ids=lambda line: repr(line[:30]),
)
def test_garbage_is_a_clear_death(start: Start, garbage: bytes) -> None:
    client = loaded(start(garbage=garbage))
    words = r"said what cannot be understood \(not a message: .*\) and was ended"
    ends_in_time(client, lambda: list(client.generate(ASK)), words)


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("w(b'x' * (5 << 20))", "a line without an end"),
        ("w(b'[' * 200_000 + b'\\n')", "not a message"),
        ('w(b\'{"type": "Loaded"}\')', "ended unexpectedly with exit status 3"),
    ],
    ids=["endless", "brackets", "cut"],
)
def test_a_process_that_is_none_of_ours(tmp_path: Path, code: str, words: str) -> None:
    """Megabytes without an end, a bomb, a line that a death cut short."""
    code = f"import sys; w = sys.stdout.buffer.write; {code}; sys.stdout.flush(); sys.exit(3)"
    client = EngineClient(
        tmp_path / "engine.log", command=(sys.executable, "-c", code), patience=QUICK
    )
    ends_in_time(client, lambda: list(client.load(LOAD)), words)
    client.close()


def test_a_flood_of_answers_to_nothing_is_a_silence(tmp_path: Path) -> None:
    """Whatever else it says, the answer does not come."""
    flood = (
        "import sys, time; sys.path.insert(0, '.')\n"
        "from tuner.engine.protocol import Text, encode\n"
        "line = encode(Text('x', 1), 99)\n"
        "while True: sys.stdout.buffer.write(line); sys.stdout.flush(); time.sleep(0.001)"
    )
    client = EngineClient(
        tmp_path / "engine.log", command=(sys.executable, "-c", flood), patience=HASTY
    )
    ends_in_time(client, lambda: list(client.load(LOAD)), "did not answer for 1.5 seconds")
    log = (tmp_path / "engine.log").read_text()
    assert 1 <= log.count("an answer to nothing: 99 Text(") <= 20
    client.close()


def test_an_answer_of_another_kind_is_a_clear_death(start: Start) -> None:
    """Not the end of an answer without a word."""
    client = loaded(start(garbage=encode(TokenCount(3), 2)))
    ends_in_time(client, lambda: list(client.generate(ASK)), "answered with TokenCount and was")


# ------------------------------------------------------------------ for real

# Loads take their time on a busy machine; answers are watched closely.
CLOSE = Patience({**LIMITS, "connect": Limits(2, 2), "answer": Limits(2, 2)}, stop=1)
DEMO = Load(str(demo_model_path()), Settings(n_ctx=512, use_extra_bufts=False), 1)
ENDLESS = Generate(ASK.messages, Sampling(temperature=2.0, top_k=0, top_p=1, min_p=0, seed=1))
needs_rpc = pytest.mark.skipif(not rpc_available(), reason="the engine was built without RPC")


@pytest.fixture
def real(tmp_path: Path) -> Iterator[EngineClient]:
    with EngineClient(tmp_path / "engine.log", patience=CLOSE) as client:
        yield client


def test_the_real_worker_beats_while_it_computes(real: EngineClient) -> None:
    """Nothing is heard of it but its heart while it reads a prompt in one piece, and that moves."""
    list(real.load(DEMO))
    said: list[Event] = []
    heard = Watch.heard

    def listen(watch: Watch, event: Event) -> None:
        said.append(event)
        heard(watch, event)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Watch, "heard", listen)
        list(real.generate(Generate((Message("user", "word " * 400),), Sampling(max_tokens=40))))
    beats = [event for event in said if isinstance(event, Alive)]
    assert [beat for beat, _ in itertools.groupby(beats, lambda b: b.doing)] == [
        "", "template", "prompt", "answer"
    ]  # fmt: skip
    works = [work for work, _ in itertools.groupby(beat.work for beat in beats)]
    assert len(works) > 2
    assert works == sorted(works)


def test_the_real_worker_stopped_in_an_answer(real: EngineClient) -> None:
    list(real.load(DEMO))
    stream = real.generate(ENDLESS)
    assert any(isinstance(event, Text) for event in stream)
    freeze(real)
    ends_in_time(real, lambda: list(stream), "did not answer for 2 seconds")


@needs_rpc
def test_a_silent_rpc_server(real: EngineClient) -> None:
    """It takes the connection and says nothing."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        address = f"127.0.0.1:{server.getsockname()[1]}"
        remote = replace(DEMO, rpc_servers=(address,))
        words = rf"did not get on for 2 seconds \(its RPC servers: {address}\) and was ended"
        ends_in_time(real, lambda: list(real.load(remote)), words)


@needs_rpc
def test_a_stopped_rpc_server(real: EngineClient) -> None:
    """It stops in the middle of an answer: the process here beats on, and nothing moves."""
    settings = Settings(n_ctx=512, n_gpu_layers=20, use_extra_bufts=False)
    with rpc_server() as remote:
        list(real.load(replace(DEMO, settings=settings, rpc_servers=(remote.address,))))
        stream = real.generate(ENDLESS)
        assert any(isinstance(event, Text) for event in stream)
        server = psutil.Process(remote.process.pid)
        server.suspend()
        ends_in_time(real, lambda: list(stream), "did not get on for 2 seconds")
        server.resume()


@needs_rpc
def test_a_stopped_rpc_server_hears_no_stop(real: EngineClient) -> None:
    settings = Settings(n_ctx=512, n_gpu_layers=20, use_extra_bufts=False)
    with rpc_server() as remote:
        list(real.load(replace(DEMO, settings=settings, rpc_servers=(remote.address,))))
        stream = real.generate(ENDLESS)
        assert any(isinstance(event, Text) for event in stream)
        server = psutil.Process(remote.process.pid)
        server.suspend()
        threading.Timer(0.5, real.stop).start()  # by then the process waits for it
        ends_in_time(real, lambda: list(stream), "did not stop within 1 second")
        server.resume()


# ------------------------------------------------------------------ the limits themselves


def test_slow_but_honest_work_is_waited_for() -> None:
    """Hours of a load that moves, if only by pages that are read, are none too many."""
    watch = Watch(Patience(), "start")
    work = 0.0
    for _ in range(100_000):
        work += 0.002
        watch.heard(Alive("load", work))
        assert watch.waited(0.1, stopping=False) == ""
    for _ in range(100):  # nothing is computed, but the load tells of another percent
        for _ in range(1000):
            watch.heard(Alive("load", work))
            assert watch.waited(0.1, stopping=False) == ""
        watch.heard(Progress(0.5))


def test_what_is_done_decides_how_long_is_waited() -> None:
    """A load may be silent for longer than an answer, a stop makes both short."""

    def given_up(doing: str, stopping: bool = False) -> float:
        watch, waited = Watch(Patience(), ""), 0.0
        watch.heard(Alive(doing, 1.0))
        while not watch.waited(0.1, stopping):
            waited += 0.1
        return waited

    assert given_up("load") == pytest.approx(30, abs=0.2)
    assert given_up("answer") == pytest.approx(10, abs=0.2)
    assert given_up("what is that?") == pytest.approx(10, abs=0.2)
    assert given_up("load", stopping=True) == pytest.approx(2, abs=0.2)


@pytest.mark.parametrize(
    ("doing", "beats", "moves", "seconds"),
    [
        ("answer", True, True, 10), ("answer", True, False, 2), ("answer", False, False, 2),
        ("prompt", True, False, 10), ("prompt", False, False, 2), ("load", True, True, 10),
        ("state", True, False, 60),
    ],
)  # fmt: skip
def test_how_long_a_stop_is_waited_for(
    doing: str, beats: bool, moves: bool, seconds: float
) -> None:
    """The longer, the more likely it is that the process will hear it; a disk may be slow."""
    watch, waited, work = Watch(Patience(), "", at_file=doing == "state"), 0.0, 1.0
    watch.heard(Alive(doing, work))
    while not watch.waited(0.1, stopping=True):
        waited += 0.1
        work += moves
        if beats:
            watch.heard(Alive(doing, work))
    assert waited == pytest.approx(seconds, abs=0.2)

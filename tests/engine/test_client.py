"""The client against scripted workers: what it does when the process stops, hangs or dies."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.scripted_worker import scripted_worker
from tuner.engine.client import EXTRA_BUFTS_WARNING, EngineClient
from tuner.engine.log import default_log_path, last_fatal_line, rotate
from tuner.engine.log_lines import last_words
from tuner.engine.protocol import (
    AnswerEvent,
    Done,
    Generate,
    Load,
    Loaded,
    Message,
    Progress,
    Sampling,
    Text,
)
from tuner.engine.worker_process import WorkerDiedError
from tuner.errors import EngineCancelled, EngineError, ExitCode
from tuner.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="the script dies by POSIX signals")

Start = Callable[..., EngineClient]

LOAD = Load("model.gguf", Settings(n_ctx=4096), n_threads=1)
ASK = Generate((Message("user", "Hello there"),), Sampling())


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    clients: list[EngineClient] = []

    def make(**script: object) -> EngineClient:
        client = EngineClient(tmp_path / "engine.log", command=scripted_worker(**script))
        clients.append(client)
        return client

    yield make
    for client in clients:
        client.close()


def loaded(client: EngineClient, request: Load = LOAD) -> Loaded:
    last = list(client.load(request))[-1]
    assert isinstance(last, Loaded)
    return last


def text_of(events: list[AnswerEvent]) -> str:
    return "".join(e.text for e in events if isinstance(e, Text))


def test_load_and_answer(start: Start) -> None:
    """A load ends in Loaded after rising progress; an answer arrives whole, Done last."""
    client = start(text="Grüße, 世界! 🙂", chunk=3)
    events = list(client.load(LOAD))
    fractions = [e.fraction for e in events if isinstance(e, Progress)]
    assert fractions == sorted(fractions)
    assert fractions[-1] == 1.0
    assert isinstance(events[-1], Loaded)
    answer = list(client.generate(ASK))
    assert text_of(answer) == "Grüße, 世界! 🙂"
    assert isinstance(answer[-1], Done)
    assert answer[-1].reason == "end"
    assert client.count_tokens(ASK.messages) == answer[-1].n_prompt


def test_nothing_loaded(start: Start) -> None:
    """A question before any load is an error in words, not a hang."""
    with pytest.raises(EngineError, match="no model is loaded") as caught:
        next(iter(start().generate(ASK)))
    assert caught.value.kind == "not_loaded"


def test_stop_keeps_the_partial_answer(start: Start) -> None:
    """Stop from another thread ends the stream with Done("stopped"); the next one is whole."""
    client = start(text="x" * 4000, delay=0.005)
    loaded(client)
    events: list[AnswerEvent] = []
    for event in client.generate(ASK):
        events.append(event)
        if len(text_of(events)) >= 40:
            client.stop()
    assert isinstance(events[-1], Done)
    assert events[-1].reason == "stopped"
    assert 40 <= len(text_of(events)) < 400
    short = Generate(ASK.messages, Sampling(max_tokens=3))
    assert text_of(list(client.generate(short))) == "x" * 12


def test_stop_when_idle_does_not_hit_the_next_request(start: Start) -> None:
    """A stop that comes after the end of an answer cancels nothing."""
    client = start(text="whole")
    loaded(client)
    list(client.generate(ASK))
    client.stop()
    assert text_of(list(client.generate(ASK))) == "whole"


def test_cancelled_load(start: Start) -> None:
    """A load can be stopped; the same client loads again."""
    client = start(load_seconds=3)
    began = time.monotonic()
    stream = client.load(LOAD)
    next(stream)
    client.stop()
    with pytest.raises(EngineCancelled) as caught:
        list(stream)
    assert time.monotonic() - began < 2
    assert caught.value.exit_code is ExitCode.INTERRUPTED
    assert client.alive


def test_stop_before_the_process_is_up(start: Start) -> None:
    """A stop during the start of the process is not lost."""
    client = start(load_seconds=2)

    def stop_at_once() -> None:
        while not client._busy:
            time.sleep(0)
        client.stop()

    stopper = threading.Thread(target=stop_at_once)
    stopper.start()
    with pytest.raises(EngineCancelled):
        list(client.load(LOAD))
    stopper.join()


def test_abandoned_answer(start: Start) -> None:
    """Closing the iterator early stops the generation and leaves the client usable."""
    client = start(text="y" * 400, delay=0.005)
    loaded(client)
    stream = client.generate(ASK)
    next(stream)
    stream.close()
    assert text_of(list(client.generate(Generate(ASK.messages, Sampling(max_tokens=1))))) == "yyyy"


@pytest.mark.parametrize("kind", ["load_failed", "refused", "out_of_memory"])
def test_failed_load(start: Start, kind: str) -> None:
    """A failure keeps its kind and reason, and names the log."""
    client = start(fail_load=f"{kind}:the reason")
    with pytest.raises(
        EngineError, match=r"the reason; the engine's log is .*engine\.log"
    ) as caught:
        list(client.load(LOAD))
    assert caught.value.kind == kind


def test_death_while_answering(start: Start) -> None:
    """A process that dies mid-answer: what it said stays, the error names signal and log."""
    client = start(text="z" * 40, die_in="generate")
    loaded(client)
    first_pid = client.pid
    events: list[AnswerEvent] = []
    with pytest.raises(EngineError, match=r"SIGKILL.*engine\.log") as caught:
        events.extend(client.generate(ASK))
    assert caught.value.kind == "crashed"
    assert text_of(events) == "z" * 20
    assert not client.alive
    with pytest.raises(EngineError, match="SIGKILL"):
        client.count_tokens(ASK.messages)
    loaded(client)
    assert client.count_tokens(ASK.messages) > 0
    assert client.pid not in (None, first_pid)


@pytest.mark.parametrize("signal_name", ["SIGILL", "SIGSEGV"])
def test_death_by_instruction_is_survived(start: Start, signal_name: str) -> None:
    """A load that dies on a missing instruction runs again without extra buffers, says so,
    and later loads do not try them again."""
    client = start(die_in="extra_bufts", die_by=signal_name)
    first = loaded(client)
    assert first.use_extra_bufts is False
    assert EXTRA_BUFTS_WARNING in first.warnings
    pid = client.pid
    assert loaded(client).use_extra_bufts is False
    assert client.pid == pid


@pytest.mark.parametrize("signal_name", ["SIGILL", "SIGSEGV", "SIGBUS", "SIGABRT"])
def test_one_death_teaches_nothing(tmp_path: Path, signal_name: str) -> None:
    """A signal from outside, once: the load is tried again as it was, but for an illegal
    instruction, which no signal from outside is taken for."""
    once = tmp_path / "once"
    command = scripted_worker(die_in="load", die_by=signal_name, die_once=once)
    with EngineClient(tmp_path / "engine.log", command=command) as client:
        if signal_name == "SIGABRT":  # an abort that names no assertion is nobody's fault
            with pytest.raises(EngineError, match="SIGABRT"):
                list(client.load(LOAD))
            once.touch()
        first = loaded(client)
        assert first.use_extra_bufts is (signal_name != "SIGILL")
        assert first.extra_bufts_died_by == ("SIGILL" if signal_name == "SIGILL" else "")
        client._command = scripted_worker()
        assert loaded(client).use_extra_bufts is (signal_name != "SIGILL")


WAYS_TO_LACK_MEMORY = [
    "ggml_aligned_malloc: insufficient memory (attempted to allocate 512.00 MB)",
    "ggml.c:1644: GGML_ASSERT(ctx->mem_buffer != NULL) failed",
    "ggml-alloc.c:500: GGML_ASSERT(galloc->node_allocs != NULL) failed",
    "ggml_malloc: failed to allocate 12.00 MB",
    "graph allocation: failed to reserve memory",
    "alloc_tensor_range: failed to allocate CUDA0 buffer of size 4294967296",
    "CUDA error: out of memory",
    "ggml_vulkan: Device memory allocation of size 4294967296 failed.\n"
    "ggml_vulkan: vk::Device::allocateMemory: ErrorOutOfDeviceMemory",
    "VK_ERROR_OUT_OF_HOST_MEMORY",
    "hipErrorOutOfMemory",
    "cublas: CUBLAS_STATUS_ALLOC_FAILED",
    "cudaErrorMemoryAllocation",
    "terminate called after throwing an instance of 'std::bad_alloc'",
    "OpenBLAS error: Memory allocation still failed after 10 retries, giving up.",
    "OpenBLAS : Program is Terminated. Because you tried to allocate too many memory regions.",
    "OpenBLAS: malloc failed in dgetrf",
    "OpenBLAS blas_thread_init: pthread_create failed for thread 1 of 2",
    "libgomp: Out of memory allocating 4096 bytes",
    "libgomp: Thread creation failed: Resource temporarily unavailable",
    "mmap failed: Cannot allocate memory",
    "ImportError: libllama.so: failed to map segment from shared object",
    "RuntimeError: can't start new thread",
    "MemoryError",
]


@pytest.mark.parametrize("words", WAYS_TO_LACK_MEMORY)
def test_every_way_to_lack_memory_is_known(words: str) -> None:
    """Whatever is said after it."""
    last = ("ggml.c:9: GGML_ASSERT(something else) failed", "llama: error: it failed")
    said = last_words([*words.splitlines(), *last])
    assert words.splitlines()[0][:40] in said
    assert WorkerDiedError("died", "SIGABRT", said).by_memory


@pytest.mark.parametrize("signal_name", ["SIGABRT", "SIGSEGV"])
def test_memory_is_looked_at_first(start: Start, signal_name: str) -> None:
    """Whatever signal it ends in: out of memory, so that the next smaller settings are tried."""
    said = "MemoryError\nggml.c:9: GGML_ASSERT(something else) failed\nllama: error: it failed"
    client = start(die_in="load", die_by=signal_name, last_words=said)
    with pytest.raises(EngineError, match="MemoryError") as caught:
        list(client.load(LOAD))
    assert caught.value.kind == "out_of_memory"


@pytest.mark.parametrize(
    ("before", "after", "told"),
    [
        (0, 1, r"SIGKILL \(from the kernel, since memory ran out\)"),
        (1, 1, r"SIGKILL \(from the system, if memory ran out, or from somebody\)"),
        (None, None, r"SIGKILL \(from the system, if memory ran out, or from somebody\)"),
    ],
)
def test_who_killed_it_is_told_where_the_kernel_says_so(
    start: Start,
    monkeypatch: pytest.MonkeyPatch,
    before: int | None,
    after: int | None,
    told: str,
) -> None:
    """The kernel counts what it kills for want of memory: since the request began it was one
    more, or not."""
    counts = [before]
    monkeypatch.setattr("tuner.engine.worker_process.oom_kills", lambda: counts[-1])
    client = start(die_in="generate")
    loaded(client)
    events = client.generate(ASK)
    next(events)
    counts.append(after)
    with pytest.raises(EngineError, match=told):
        list(events)


def test_memory_that_once_was_short_explains_no_later_death(start: Start, tmp_path: Path) -> None:
    """The log is read from the beginning of the request that died."""
    client = start(die_in="generate", die_by="SIGSEGV")
    loaded(client)
    with (tmp_path / "engine.log").open("a") as log:
        log.write("cudaMalloc failed: out of memory\n")
    with pytest.raises(EngineError, match="SIGSEGV") as caught:
        list(client.generate(ASK))
    assert "out of memory" not in str(caught.value)


def test_other_deaths_are_not_blamed_on_extra_buffers(start: Start) -> None:
    """A load killed from outside ends as out of memory, without a second try."""
    client = start(die_in="load")
    with pytest.raises(EngineError) as caught:
        list(client.load(LOAD))
    assert caught.value.kind == "out_of_memory"


def test_second_death_ends_it(start: Start) -> None:
    """Where the second try dies as well, the error comes out: no endless restarts."""
    client = start(die_in="load", die_by="SIGILL")
    with pytest.raises(EngineError, match="SIGILL") as caught:
        list(client.load(LOAD))
    assert caught.value.kind == "crashed"


def test_a_load_that_dies_anyway_teaches_nothing(tmp_path: Path) -> None:
    """Where a load dies with and without extra buffers, they are not to blame: the next load,
    of another file, may use them."""
    client = EngineClient(
        tmp_path / "engine.log", command=scripted_worker(die_in="load", die_by="SIGSEGV")
    )
    with pytest.raises(EngineError):
        list(client.load(LOAD))
    client._command = scripted_worker()
    assert loaded(client).use_extra_bufts is True
    client.close()


@pytest.mark.parametrize(("signal_name", "kept"), [("SIGILL", False), ("SIGSEGV", True)])
def test_death_by_instruction_while_answering(start: Start, signal_name: str, kept: bool) -> None:
    """An illegal instruction met in an answer turns extra buffers off for the next load;
    another death does not."""
    client = start(die_in="generate", die_by=signal_name)
    loaded(client)
    with pytest.raises(EngineError, match=signal_name):
        list(client.generate(ASK))
    assert loaded(client).use_extra_bufts is kept


def test_close_ends_a_hanging_process(start: Start) -> None:
    """A process that does not leave is killed in about a second."""
    client = start(hang=30)
    loaded(client)
    began = time.monotonic()
    client.close()
    assert time.monotonic() - began < 3
    assert not client.alive


def test_close_while_answering(start: Start) -> None:
    """Closing from another thread ends the stream at once, as a cancellation."""
    client = start(text="w" * 4000, delay=0.01)
    loaded(client)
    stream = client.generate(ASK)
    next(stream)
    threading.Timer(0.05, client.close).start()
    began = time.monotonic()
    with pytest.raises(EngineCancelled):
        list(stream)
    assert time.monotonic() - began < 2
    with pytest.raises(EngineError, match="no model is loaded"):  # it was closed, it did not die
        client.count_tokens(ASK.messages)


def test_death_while_idle(start: Start) -> None:
    """A process that died between two questions is told as such by the next one."""
    client = start()
    loaded(client)
    assert client.pid is not None
    os.kill(client.pid, signal.SIGKILL)
    while client.alive:
        time.sleep(0.01)
    with pytest.raises(EngineError, match="SIGKILL") as caught:
        list(client.generate(ASK))
    assert caught.value.kind == "crashed"
    loaded(client)


def test_dry_run(start: Start) -> None:
    """A dry run gives buffers and needs no load."""
    done = start().dry_run(Load("model.gguf", Settings(n_ctx=512), 1))
    assert [b.kind for b in done.buffers] == ["compute"]


def test_unstartable_process(tmp_path: Path) -> None:
    """A worker that cannot even start is an error in words."""
    client = EngineClient(tmp_path / "engine.log", command=(str(tmp_path / "missing"),))
    with pytest.raises(EngineError, match="could not be started"):
        list(client.load(LOAD))


def test_python_failure_names_its_reason(tmp_path: Path) -> None:
    """A worker without its engine installed ends in the import's own words, not in silence."""
    command = (sys.executable, "-c", "raise ImportError('Error: no module llama_cpp')")
    client = EngineClient(tmp_path / "engine.log", command=command)
    with pytest.raises(EngineError, match=r"exit status 1 .*llama_cpp") as caught:
        list(client.load(LOAD))
    assert caught.value.kind == "crashed"


def test_log_rotation(tmp_path: Path) -> None:
    """Three files of 2 MiB are kept, the newest as engine.log."""
    log = tmp_path / "engine.log"
    for content in (b"1", b"2", b"3", b"4"):
        log.write_bytes(content * (2 << 20))
        rotate(log)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["engine.log.1", "engine.log.2"]
    assert (tmp_path / "engine.log.1").read_bytes()[:1] == b"4"
    log.write_bytes(b"small")
    rotate(log)
    assert log.read_bytes() == b"small"


def test_the_last_fatal_line_is_of_this_run(tmp_path: Path) -> None:
    """A reason from an earlier run of the same log is not quoted for this one."""
    log = tmp_path / "engine.log"
    log.write_text("GGML_ASSERT(old) failed\n")
    start = log.stat().st_size
    assert last_fatal_line(log, start) == ""
    with log.open("a") as file:
        file.write("fine\nggml.c:1: GGML_ASSERT(new) failed\nlater\n")
    assert last_fatal_line(log, start) == "ggml.c:1: GGML_ASSERT(new) failed"


def test_log_folder_by_environment(tmp_path: Path) -> None:
    """$KVCHAT_LOG_DIR moves the log."""
    assert default_log_path({"KVCHAT_LOG_DIR": str(tmp_path)}) == tmp_path / "engine.log"
    assert default_log_path({}).name == "engine.log"

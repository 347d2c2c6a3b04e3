"""The engine end to end, with the real SmolLM2 in a real child process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bench.oracle import rpc_available
from tests.support.standin_gpu import standin_gpu
from tuner.demo import demo_model_path
from tuner.engine.client import EXTRA_BUFTS_WARNING, EngineClient
from tuner.engine.protocol import (
    AnswerEvent,
    Done,
    Generate,
    Load,
    Loaded,
    LossesMeasured,
    MeasureLosses,
    MeasureSpeed,
    Message,
    Progress,
    PromptProgress,
    Sampling,
    SpeedMeasured,
    Text,
)
from tuner.engine.worker_process import WORKER_COMMAND
from tuner.errors import EngineCancelled, EngineError, UsageError
from tuner.measuring import Text as SampleText
from tuner.memory.cache_losses import CacheLosses
from tuner.settings import Settings
from tuner.units import MIB

# Extra buffers off: a virtual machine may announce an AMX unit that it does not have.
SETTINGS = Settings(n_ctx=2048, n_ubatch=64, use_extra_bufts=False)
GREEDY = Sampling(temperature=0, max_tokens=24)
WILD = Sampling(temperature=2.0, top_k=0, top_p=1, min_p=0, seed=1)  # never finds an end
CAPITAL = (Message("user", "What is the capital of France? Answer with one word."),)
ASK = (Message("user", "Why is the sky blue?"),)  # answered at length
LONG = (Message("user", "The quick brown fox jumps over the lazy dog. " * 25),)  # 250 tokens

posix_signals = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")

Answer = list[AnswerEvent]


def load(settings: Settings = SETTINGS, *servers: str, path: str | None = None) -> Load:
    # One thread: with two on busy cores each step waits for the one that lost its core. Nothing is
    # kept beside the cache, so that other prompts are forgotten.
    return Load(path or str(demo_model_path()), settings, 1, servers, kept_bytes=0)


def text_of(events: Answer) -> str:
    return "".join(e.text for e in events if isinstance(e, Text))


def done_of(events: Answer) -> Done:
    assert isinstance(events[-1], Done)
    return events[-1]


def loaded_by(client: EngineClient, request: Load) -> Loaded:
    last = list(client.load(request))[-1]
    assert isinstance(last, Loaded)
    return last


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EngineClient]:
    """One loaded model for the tests that only ask it things."""
    with EngineClient(tmp_path_factory.mktemp("log") / "engine.log") as client:
        loaded_by(client, load())
        yield client


@pytest.fixture
def own(tmp_path: Path) -> Iterator[EngineClient]:
    """A client for a test that loads or breaks its process."""
    with EngineClient(tmp_path / "engine.log") as client:
        yield client


def test_load_reports_progress_and_buffers(own: EngineClient) -> None:
    """A real load: rising progress up to 1, and the engine's own buffer sizes. The cache of
    30 layers x 3 heads x 64, K and V at f16, is exact; weights are the file's tensors."""
    events = list(own.load(load()))
    fractions = [e.fraction for e in events if isinstance(e, Progress)]
    assert fractions == sorted(fractions)
    assert len(fractions) > 10
    assert fractions[-1] == 1.0
    loaded = events[-1]
    assert isinstance(loaded, Loaded)
    assert loaded.n_ctx == 2048
    assert loaded.chat_template == "file"
    assert loaded.use_extra_bufts is False
    sizes = {b.kind: b.size for b in loaded.buffers}
    assert sizes["kv_cache"] == 2048 * 30 * 3 * 64 * 2 * 2
    assert sizes["weights"] == pytest.approx(demo_model_path().stat().st_size, rel=0.03)
    assert 0 < sizes["compute"] < 32 * MIB  # one row of logits, not 512


def test_answer(client: EngineClient) -> None:
    """A real answer to a real question, in text batches whose tokens add up."""
    events = list(client.generate(Generate(CAPITAL, Sampling(temperature=0, max_tokens=60))))
    assert "Paris" in text_of(events)
    done = done_of(events)
    assert done.reason == "end"
    assert sum(e.n_tokens for e in events if isinstance(e, Text)) == done.n_decoded
    assert done.n_prompt == client.count_tokens(CAPITAL)
    assert done.prompt_seconds > 0
    assert done.decode_seconds > 0


def test_greedy_answers_are_reproducible(own: EngineClient) -> None:
    """Temperature 0 and a fixed seed say the same after every load."""
    answers = []
    for _ in range(2):
        loaded_by(own, load())
        greedy = text_of(list(own.generate(Generate(ASK, GREEDY))))
        drawn = Sampling(temperature=1.2, seed=7, max_tokens=24)
        answers.append((greedy, text_of(list(own.generate(Generate(ASK, drawn))))))
    assert answers[0] == answers[1]
    assert answers[0][0] != answers[0][1]


def test_seeds_differ(client: EngineClient) -> None:
    """Another seed draws another answer: sampling is not greedy in disguise."""
    texts = set()
    for seed in (1, 2, 3):
        sampling = Sampling(temperature=1.5, top_k=0, top_p=1, min_p=0, seed=seed, max_tokens=12)
        texts.add(text_of(list(client.generate(Generate(ASK, sampling)))))
    assert len(texts) == 3


def test_second_turn_processes_only_what_is_new(client: EngineClient) -> None:
    """The cache keeps the first turn: only the answer's end and the new question are read,
    and the answer is what a fresh cache would have said."""
    first = list(client.generate(Generate(ASK, GREEDY)))
    conversation = (
        *ASK,
        Message("assistant", text_of(first)),
        Message("user", "Thank you. Now say hello."),
    )
    second = list(client.generate(Generate(conversation, GREEDY)))
    done = done_of(second)
    assert done.n_reused >= done_of(first).n_prompt + 10
    assert done.n_prompt - done.n_reused < 30
    progress = [e for e in second if isinstance(e, PromptProgress)]
    assert progress[-1] == PromptProgress(
        n_new := done.n_prompt - done.n_reused, n_new, done.n_reused
    )
    assert done.n_ctx_used >= done.n_prompt
    # Cutting back works too: the first question again reuses all but its last token.
    again = done_of(list(client.generate(Generate(ASK, GREEDY))))
    assert again.n_reused == again.n_prompt - 1


def test_two_numbers_of_threads_are_tried(own: EngineClient) -> None:
    """Which one is faster depends on who else is here; the model answers in any case."""
    loaded = loaded_by(own, replace(load(), other_threads=2))
    assert loaded.faster_threads in {0, 1, 2}
    assert "Paris" in text_of(list(own.generate(Generate(CAPITAL, GREEDY))))


def test_a_measurement(client: EngineClient) -> None:
    """Prompts and decoding are timed at the depths that were asked for, and the next answer is what
    it would have been without."""
    before = text_of(list(client.generate(Generate(ASK, GREEDY))))
    *progress, measured = client.measure_speed(MeasureSpeed(40, (0, 100), 4, 60.0))
    assert isinstance(measured, SpeedMeasured)
    assert [(t.depth, t.n_tokens) for t in measured.prompts] == [(0, 40), (4, 96)]
    assert [(t.depth, t.n_tokens) for t in measured.decodes] == [(0, 4), (100, 4)]
    assert all(t.seconds > 0 and t.cores > 0 for t in (*measured.prompts, *measured.decodes))
    assert progress
    after = list(client.generate(Generate(ASK, GREEDY)))
    assert (text_of(after), done_of(after).n_reused) == (before, 0)


def losses_of(client: EngineClient, *pairs: tuple[str, str], text: str = "") -> CacheLosses:
    request = MeasureLosses(text or SampleText.built_in().text, 40, 4, 16, 2, pairs)
    *progress, measured = client.measure_losses(request)
    assert isinstance(measured, LossesMeasured)
    assert progress
    return measured.losses


def test_losses_of_caches(client: EngineClient) -> None:
    """f16 beside f16 loses nothing, q4_0 much more than q8_0, whose loss is what rounding makes;
    the next answer is what it would have been without."""
    before = text_of(list(client.generate(Generate(ASK, GREEDY))))
    pairs = (("f16", "f16"), ("q8_0", "q8_0"), ("q4_0", "q4_0"))
    losses = losses_of(client, *pairs)
    f16, again, q8_0, q4_0 = losses.pairs
    assert (f16.loss, f16.same_top) == (again.loss, again.same_top) == (0.0, 1.0)
    assert 0 < q8_0.loss < 0.02 < q4_0.loss < 0.5
    assert q4_0.same_top < 1
    assert q4_0.loss == pytest.approx((q4_0.loss_first + q4_0.loss_second) / 2)
    assert 0 <= losses.noise < 0.02
    assert 10 < losses.perplexity < 500
    assert all(pair.decode_tps > 0 for pair in losses.pairs)
    assert text_of(list(client.generate(Generate(ASK, GREEDY)))) == before


def test_losses_by_too_short_a_text(client: EngineClient) -> None:
    with pytest.raises(UsageError, match="44 are needed"):
        losses_of(client, ("q8_0", "q8_0"), text="Short.")


def test_losses_can_be_stopped(client: EngineClient) -> None:
    text = SampleText.built_in().text
    stream = client.measure_losses(MeasureLosses(text, 1000, 4, 64, 1, (("q8_0", "q8_0"),)))
    next(stream)
    client.stop()
    with pytest.raises(EngineCancelled):
        list(stream)
    assert "Paris" in text_of(list(client.generate(Generate(CAPITAL, GREEDY))))


def test_a_measurement_can_be_stopped(client: EngineClient) -> None:
    """Amid filling the cache; the model then answers as before."""
    stream = client.measure_speed(MeasureSpeed(40, (0, 1900), 4, 600.0))
    next(stream)
    client.stop()
    with pytest.raises(EngineCancelled):
        list(stream)
    assert "Paris" in text_of(list(client.generate(Generate(CAPITAL, GREEDY))))


def test_continue(client: EngineClient) -> None:
    """A partial answer is continued, word by word as the model would have gone on."""
    whole = text_of(list(client.generate(Generate(ASK, GREEDY))))
    part = text_of(list(client.generate(Generate(ASK, Sampling(temperature=0, max_tokens=8)))))
    assert whole.startswith(part)
    conversation = (*ASK, Message("assistant", part))
    limit = Sampling(temperature=0, max_tokens=8)
    rest = list(client.generate(Generate(conversation, limit, continue_last=True)))
    assert whole.startswith(part + text_of(rest))
    assert len(text_of(rest)) > 3


def test_stop_while_generating(client: EngineClient) -> None:
    """Stop ends a generation within 100 ms and keeps what was said."""
    events: Answer = []
    asked = 0.0
    endless = Generate(ASK, WILD)
    for event in client.generate(endless):
        events.append(event)
        if not asked and len(text_of(events)) > 20:
            asked = time.monotonic()
            client.stop()
    assert time.monotonic() - asked < 0.1
    assert done_of(events).reason == "stopped"
    assert len(text_of(events)) > 20


def test_stop_while_reading_the_prompt(client: EngineClient) -> None:
    """Stop ends a long prompt within 100 ms. What was read stays usable: the same prompt
    afterwards reuses whole parts of it and answers as if it had never been stopped."""
    other = Generate(ASK, Sampling(max_tokens=1))  # so that both begin with the same cache
    list(client.generate(other))
    reference = list(client.generate(Generate(LONG, GREEDY)))
    list(client.generate(other))
    stream = client.generate(Generate(LONG, GREEDY))
    for event in stream:
        if isinstance(event, PromptProgress) and event.done >= 128:
            break
    time.sleep(0.1)  # in the middle of a chunk
    asked = time.monotonic()
    client.stop()
    stopped = done_of(list(stream))
    assert time.monotonic() - asked < 0.1
    assert stopped.reason == "stopped"
    assert stopped.n_decoded == 0
    assert 128 < stopped.n_ctx_used < stopped.n_prompt
    again = list(client.generate(Generate(LONG, GREEDY)))
    assert done_of(again).n_reused >= stopped.n_ctx_used - 1
    assert text_of(again) == text_of(reference)


def test_prompt_that_does_not_fit(client: EngineClient) -> None:
    """Too long a conversation fails in words with both numbers, and harms nothing."""
    too_long = (Message("user", "word " * 3000),)
    with pytest.raises(
        EngineError, match=r"has [\d,]+ tokens and the context holds 2,048"
    ) as caught:
        list(client.generate(Generate(too_long, GREEDY)))
    assert caught.value.kind == "context_full"
    assert text_of(list(client.generate(Generate(ASK, GREEDY))))


def test_context_full_while_generating(own: EngineClient) -> None:
    """A full context ends the answer as such, at exactly the context's size."""
    loaded_by(own, load(Settings(n_ctx=256, use_extra_bufts=False)))
    nearly_full = (Message("user", "The quick brown fox jumps over the lazy dog. " * 18),)
    done = done_of(list(own.generate(Generate(nearly_full, WILD))))
    assert 180 < done.n_prompt < 250
    assert done.reason == "context_full"
    assert done.n_ctx_used == 256


def test_characters_stay_whole(client: EngineClient) -> None:
    """Continuing an emoji text at high temperature: every batch is valid on its own, and no
    replacement character appears at a batch's edge where the next one goes on."""
    ask = (Message("user", "Repeat: 🙂🙃 日本語 Übergröße"), Message("assistant", "🙂🙃 日本語 Ü"))
    sampling = Sampling(temperature=0, max_tokens=40)
    events = list(client.generate(Generate(ask, sampling, continue_last=True)))
    batches = [e.text for e in events if isinstance(e, Text)]
    assert batches
    assert all("\ufffd" not in batch for batch in batches[:-1])


def test_cancelled_load(own: EngineClient) -> None:
    """A load that is stopped ends as cancelled; the next one works."""
    stream = own.load(load())
    next(stream)
    own.stop()
    with pytest.raises(EngineCancelled):
        list(stream)
    assert loaded_by(own, load()).n_ctx == 2048


@pytest.mark.parametrize(
    ("content", "reason"),
    [(b"", ""), (b"GGUF" + b"\xff" * 64, ""), (b"no model at all", "magic")],
    ids=["empty", "damaged", "foreign"],
)
def test_unusable_file(own: EngineClient, tmp_path: Path, content: bytes, reason: str) -> None:
    """A file that the engine cannot read: its own reason and the log's name, and it lives on."""
    path = tmp_path / "broken.gguf"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=rf"could not load the model.*{reason}.*engine\.log") as e:
        list(own.load(load(path=str(path))))
    assert e.value.kind == "load_failed"
    assert own.alive


@pytest.mark.skipif(os.name == "nt", reason="POSIX")
@pytest.mark.parametrize("dry", [True, False])
def test_what_is_no_file_is_never_read(own: EngineClient, tmp_path: Path, dry: bool) -> None:
    """A pipe would be waited for, a device read for ever."""
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(EngineError, match=r"is not a file\."):
            own.dry_run(load(path=str(path))) if dry else list(own.load(load(path=str(path))))
    assert own.alive


def test_refused_settings(own: EngineClient) -> None:
    """What the engine will not do is told as refused, with its reason."""
    bad = Settings(n_ctx=512, type_v="q8_0", flash_attn="off", use_extra_bufts=False)
    with pytest.raises(EngineError, match="quantized V cache requires flash_attn") as caught:
        list(own.load(load(bad)))
    assert caught.value.kind == "refused"


def test_quantized_cache_and_window_settings(own: EngineClient) -> None:
    """K and V types reach the engine separately: the cache has their exact size, and answers."""
    settings = Settings(n_ctx=512, type_k="q8_0", type_v="q4_0", use_extra_bufts=False)
    loaded = loaded_by(own, load(settings))
    cache = sum(b.size for b in loaded.buffers if b.kind == "kv_cache")
    assert cache == pytest.approx(512 * 30 * 192 * (34 + 18) / 32, abs=0.01 * MIB)
    assert text_of(list(own.generate(Generate(ASK, GREEDY))))


def test_dry_run_equals_the_load(own: EngineClient) -> None:
    """The dry run's cache and compute figures are the real load's, and it needs no load."""
    dry = own.dry_run(Load(str(demo_model_path()), SETTINGS, 1))
    real = loaded_by(own, load())
    for kind in ("kv_cache", "compute"):
        expected = sum(b.size for b in real.buffers if b.kind == kind)
        found = sum(b.size for b in dry.buffers if b.kind == kind)
        assert found == pytest.approx(expected, abs=0.01 * MIB)


@posix_signals
def test_killed_while_answering(own: EngineClient) -> None:
    """kill -9 in the middle of an answer: an error that names it, and a new load works."""
    loaded_by(own, load())
    stream = own.generate(Generate(ASK, WILD))
    for event in stream:
        if isinstance(event, Text):
            break
    assert own.pid is not None
    os.kill(own.pid, signal.SIGKILL)
    with pytest.raises(EngineError, match=r"SIGKILL.*engine\.log") as caught:
        list(stream)
    assert caught.value.kind == "crashed"
    loaded_by(own, load())
    assert text_of(list(own.generate(Generate(ASK, GREEDY))))


# Stands before the real worker and dies as a CPU without AMX does, where asked to repack.
AMX_DEATH = """
import json, os, signal, subprocess, sys
line = sys.stdin.buffer.readline()
if json.loads(line)["settings"]["use_extra_bufts"]:
    os.kill(os.getpid(), signal.SIGILL)
worker = subprocess.Popen(sys.argv[1:], stdin=subprocess.PIPE)
while line:
    worker.stdin.write(line)
    worker.stdin.flush()
    line = sys.stdin.buffer.readline()
worker.stdin.close()
sys.exit(worker.wait())
"""


@posix_signals
def test_missing_instruction_is_survived(tmp_path: Path) -> None:
    """A load that dies by SIGILL comes up by itself without extra buffers, says so, and
    answers: the user does nothing."""
    command = (sys.executable, "-c", AMX_DEATH, *WORKER_COMMAND)
    with EngineClient(tmp_path / "engine.log", command=command) as client:
        loaded = loaded_by(client, load(Settings(n_ctx=512)))
        assert loaded.use_extra_bufts is False
        assert EXTRA_BUFTS_WARNING in loaded.warnings
        assert "Paris" in text_of(list(client.generate(Generate(CAPITAL, GREEDY))))


@posix_signals
def test_interrupt_is_not_for_the_model(own: EngineClient) -> None:
    """Ctrl-C's signal leaves the process and its model alone."""
    loaded_by(own, load())
    assert own.pid is not None
    assert os.getpgid(own.pid) != os.getpgid(0)
    os.kill(own.pid, signal.SIGINT)
    assert text_of(list(own.generate(Generate(ASK, GREEDY))))


def test_death_of_the_program_ends_the_model(tmp_path: Path) -> None:
    """When the program is gone, its end of stdin too, the model process leaves at once."""
    with (tmp_path / "engine.log").open("wb") as log:
        process = subprocess.Popen(
            WORKER_COMMAND, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log
        )
    assert process.stdin is not None
    process.stdin.close()
    assert process.wait(5) == 0


def test_nothing_on_the_terminal(tmp_path: Path) -> None:
    """A program that loads, answers and fails a load prints nothing of the engine's: its own
    stdout and stderr stay empty, and the log holds the engine's words."""
    log = tmp_path / "engine.log"
    script = f"""
from pathlib import Path
from tests.engine.test_engine import ASK, GREEDY, load
from tuner.engine.client import EXTRA_BUFTS_WARNING, EngineClient
from tuner.engine.protocol import Generate
from tuner.errors import EngineError
with EngineClient(Path({str(log)!r})) as client:
    list(client.load(load()))
    list(client.generate(Generate(ASK, GREEDY)))
    try:
        list(client.load(load(path={str(tmp_path / "none.gguf")!r})))
    except EngineError:
        pass
"""
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=root, capture_output=True, check=True, timeout=60
    )
    assert (done.stdout, done.stderr) == (b"", b"")
    assert b"load_tensors" in log.read_bytes()


def test_close_from_another_thread(own: EngineClient) -> None:
    """Closing while the model reads a long prompt ends it in about a second."""
    loaded_by(own, load())
    stream = own.generate(Generate(LONG, GREEDY))
    next(stream)
    threading.Timer(0.1, own.close).start()
    began = time.monotonic()
    with pytest.raises(EngineCancelled):
        list(stream)
    assert time.monotonic() - began < 2
    assert not own.alive


needs_rpc = pytest.mark.skipif(not rpc_available(), reason="the engine was built without RPC")


@needs_rpc
def test_layers_on_the_standin_gpu(own: EngineClient) -> None:
    """With 20 of 31 layers on a stand-in GPU the buffers lie there as asked, and the answer is
    a real one. The cache follows its layers: 19 of 30 (the 20th is the output layer)."""
    settings = Settings(n_ctx=512, n_gpu_layers=20, use_extra_bufts=False)
    with standin_gpu() as server:
        dry = own.dry_run(Load(str(demo_model_path()), settings, 1, (server,)))
        loaded = loaded_by(own, load(settings, server))
        answer = list(own.generate(Generate(CAPITAL, GREEDY)))
    remote = {b.kind: b.size for b in loaded.buffers if b.device.startswith("RPC")}
    assert remote["kv_cache"] == pytest.approx(19 * 512 * 192 * 4, abs=0.01 * MIB)
    assert remote["weights"] > 50 * MIB
    assert remote["compute"] > 0
    planned = {b.kind: b.size for b in dry.buffers if b.device.startswith("RPC")}
    for kind in ("weights", "kv_cache", "compute"):
        assert planned[kind] == pytest.approx(remote[kind], abs=0.01 * MIB)
    assert "Paris" in text_of(answer)


@needs_rpc
def test_silent_rpc_server(own: EngineClient) -> None:
    """A server that does not answer is named; the engine itself would abort its process."""
    with pytest.raises(
        EngineError, match=r"no RPC server runs at 127\.0\.0\.1:9: the connection is refused"
    ) as caught:
        list(own.load(load(SETTINGS, "127.0.0.1:9")))
    assert caught.value.kind == "load_failed"
    assert own.alive


@needs_rpc
def test_real_out_of_memory(own: EngineClient) -> None:
    """A device that has too little memory: out_of_memory, so that a caller can go down its
    ladder, and the same process loads smaller settings."""
    with standin_gpu(memory=200 * MIB) as server:
        large = Settings(n_ctx=8192, n_gpu_layers=99, use_extra_bufts=False)
        with pytest.raises(EngineError) as caught:
            list(own.load(load(large, server)))
        assert caught.value.kind == "out_of_memory"
        small = Settings(n_ctx=512, n_gpu_layers=4, use_extra_bufts=False)
        assert loaded_by(own, load(small, server)).n_ctx == 512

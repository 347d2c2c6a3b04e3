"""Prompt and decode speed: kvchat's whole way (child process, template, sampling, JSON, streaming)
beside a bare loop of llama.cpp's own calls, with the same settings, prompt and sampler, in turns.

    python -m bench.decode [MODEL.gguf] [--threads N] [--prompt N] [--tokens N] [--runs N]
        [--pause S] [--most N]

The bare loop is what a program in C would do: decode the prompt, then for each token sample, write
the piece, decode. It is called through llama_cpp's ctypes functions, some 15 microseconds a token
where the CPU's caches are cold. Both are timed over the same tokens: kvchat's prompt from the
request to the last of its progress, its answer from there to the last event, as the parent reads
them. Each prompt is a new one, so that nothing of it is in a cache.

Prints tokens/s of each pair of runs, the median of their ratios, and the CPU time that all threads
of either take for a token. Pairs in which other programs took more than a tenth of a core are
marked, made up for by others as far as `--most` allows, and left out of the medians where five
others are left. On Linux, `chrt -f 1 python -m bench.decode --pause 1.5 --prompt 60 --tokens 64` is
alone on the cores whoever else is there, if root says it: the pauses, since the system takes a
twentieth of each second from such programs. Status 1 where a ratio is under 0.97.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import psutil

from tuner.demo import demo_model_path
from tuner.engine.client import EngineClient
from tuner.engine.protocol import Done, Generate, Load, Message, PromptProgress, Sampling
from tuner.errors import EngineError
from tuner.settings import Settings

GOAL = 0.97
N_CTX, N_BATCH = 4096, 512
_ENOUGH = 5  # pairs that nothing disturbed
_DISTURBED = 0.1  # cores that others take
_WORDS = "The sky is blue by day, red in the evening, and black at night; why is that so? "


class Pace(NamedTuple):
    """What one run took."""

    prompt: float  # tokens/s
    decode: float  # tokens/s
    cpu: float  # ms of all threads, of the processes that take part, for a decoded token
    n_prompt: int
    n_decoded: int


def asked(run: int, words: int) -> tuple[Message, ...]:
    """A conversation that begins like no other."""
    text = f"Explain at length: {_WORDS * (words // 20)}"
    return Message("system", f"{run} is your number."), Message("user", text)


def sampling(tokens: int) -> Sampling:
    return Sampling(temperature=0.8, seed=1, max_tokens=tokens)


def kvchat_pace(client: EngineClient, run: int, words: int, tokens: int) -> Pace:
    """As the parent sees it."""
    assert client.pid is not None
    worker = psutil.Process(client.pid)
    started = read = time.perf_counter()
    cpu, done = 0.0, None
    for event in client.generate(Generate(asked(run, words), sampling(tokens))):
        if isinstance(event, PromptProgress):
            read, cpu = time.perf_counter(), _cpu_seconds(worker) + time.process_time()
        if isinstance(event, Done):
            done = event
    if done is None:
        raise EngineError("decode_failed", "no answer")
    ended = time.perf_counter()
    cpu = _cpu_seconds(worker) + time.process_time() - cpu
    n = done.n_decoded
    prompt = (done.n_prompt - done.n_reused) / (read - started)
    return Pace(prompt, n / (ended - read), 1000 * cpu / n, done.n_prompt, n)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


class Others:
    """How many cores other programs than these take."""

    def __init__(self, *pids: int):
        self._ours = [psutil.Process(pid) for pid in pids]
        self._last = self._now()

    def _now(self) -> tuple[float, float]:
        all_ = psutil.cpu_times()
        used = all_.user + all_.system + getattr(all_, "nice", 0.0)
        return time.perf_counter(), used - sum(map(_cpu_seconds, self._ours))

    def cores(self) -> float:
        """On average since the last call."""
        (began, before), self._last = self._last, self._now()
        return max(0.0, (self._last[1] - before) / (self._last[0] - began))


class BareLoop:
    """The bare loop in a process of its own, loaded once and asked once per run."""

    def __init__(self, path: str, threads: int, words: int, tokens: int):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.decode", "--bare", path,
             "--threads", str(threads), "--tokens", str(tokens), "--prompt", str(words)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self._answer()

    @property
    def pid(self) -> int:
        return self._process.pid

    def pace(self, run: int) -> Pace:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{run}\n")
        self._process.stdin.flush()
        return Pace(*self._answer())

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> list[Any]:
        assert self._process.stdout is not None
        answer: list[Any] = json.loads(self._process.stdout.readline())
        return answer


def serve_bare_loop(path: str, threads: int, words: int, tokens: int) -> None:
    """Loads as kvchat does, then answers each line of stdin, the number of a run, with a `Pace`."""
    import llama_cpp as lib  # noqa: PLC0415 - this process alone needs it

    from tuner.engine.templates import ChatTemplate  # noqa: PLC0415

    lib.llama_backend_init()
    model_params = lib.llama_model_default_params()
    model_params.use_extra_bufts = False
    model = lib.llama_model_load_from_file(path.encode(), model_params)
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_outputs_max = N_CTX, N_BATCH, N_BATCH, 1
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type, params.swa_full = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED, False
    context = lib.llama_init_from_model(model, params)
    vocab = lib.llama_model_get_vocab(model)
    template = lib.llama_model_chat_template(model, None)
    chat = ChatTemplate(template and template.decode(), {})
    piece = ctypes.create_string_buffer(256)
    one = (lib.llama_token * 1)()
    batch = lib.llama_batch_get_one(one, 1)
    print("[]", flush=True)
    for line in sys.stdin:
        text = chat.render(asked(int(line), words)).text.encode()
        prompt = (lib.llama_token * (len(text) + N_BATCH))()
        n_prompt = lib.llama_tokenize(vocab, text, len(text), prompt, len(prompt), False, True)
        sampler = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        wish = sampling(tokens)
        for part in (
            lib.llama_sampler_init_top_k(wish.top_k),
            lib.llama_sampler_init_top_p(wish.top_p, 1),
            lib.llama_sampler_init_min_p(wish.min_p, 1),
            lib.llama_sampler_init_temp(wish.temperature),
            lib.llama_sampler_init_dist(wish.seed),
        ):
            lib.llama_sampler_chain_add(sampler, part)
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        started = time.perf_counter()
        for at in range(0, n_prompt, N_BATCH):
            part = (lib.llama_token * N_BATCH).from_buffer(prompt, at * 4)
            lib.llama_decode(context, lib.llama_batch_get_one(part, min(N_BATCH, n_prompt - at)))
        lib.llama_synchronize(context)
        read, cpu, n = time.perf_counter(), time.process_time(), 0
        while n < tokens:
            token = lib.llama_sampler_sample(sampler, context, -1)
            if lib.llama_vocab_is_eog(vocab, token):
                break
            n += 1
            lib.llama_token_to_piece(vocab, token, piece, 256, 0, False)
            if n < tokens:
                one[0] = token
                lib.llama_decode(context, batch)
        ended, cpu = time.perf_counter(), 1000 * (time.process_time() - cpu) / n
        pace = Pace(n_prompt / (read - started), n / (ended - read), cpu, n_prompt, n)
        print(json.dumps(pace), flush=True)
        lib.llama_sampler_free(sampler)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", nargs="?")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--prompt", type=int, default=400, help="words of each, at most 2500")
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument(
        "--most", type=int, default=0, help="pairs in all, where some are disturbed"
    )
    parser.add_argument("--pause", type=float, default=0, help="seconds before each run")
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    path = options.model or str(demo_model_path())
    many = options.threads, options.prompt, options.tokens
    if options.bare:
        serve_bare_loop(path, *many)
        return 0
    pairs: list[tuple[Pace, Pace]] = []
    undisturbed: list[tuple[Pace, Pace]] = []
    with tempfile.TemporaryDirectory() as folder, EngineClient(Path(folder) / "log") as client:
        settings = Settings(n_ctx=N_CTX, n_ubatch=N_BATCH, use_extra_bufts=False)
        for _ in client.load(Load(path, settings, options.threads)):
            pass
        bare = BareLoop(path, *many)
        assert client.pid is not None
        others = Others(os.getpid(), client.pid, bare.pid)
        print(f"{Path(path).name}, {options.threads} threads; tokens/s of kvchat, and bare")
        while len(undisturbed) < options.runs and len(pairs) < max(options.most, options.runs):
            run = len(pairs)
            if not run:
                kvchat_pace(client, -1, *many[1:]), bare.pace(-1)
            taken, pair = 0.0, {}
            for whose in ("ours", "theirs") if run % 2 else ("theirs", "ours"):
                time.sleep(options.pause)
                others.cores()
                mine = whose == "ours"
                pair[mine] = kvchat_pace(client, run, *many[1:]) if mine else bare.pace(run)
                taken = max(taken, others.cores())
            our, their = pair[True], pair[False]
            pairs.append((our, their))
            undisturbed += [(our, their)] if taken < _DISTURBED else []
            print(
                f"  prompt of {our.n_prompt} {our.prompt:7.1f} {their.prompt:7.1f}"
                f"   answer of {our.n_decoded} {our.decode:7.2f} {their.decode:7.2f}"
                f" ({their.n_decoded})   {our.decode / their.decode:.3f}"
                + (f"   others: {taken:.1f} cores" if taken >= _DISTURBED else "")
            )
        bare.close()
    counted = undisturbed if len(undisturbed) >= _ENOUGH else pairs
    print(f"{len(counted)} pairs, {len(undisturbed)} of them undisturbed")
    ratios = []
    for n, name in enumerate(("prompt", "decode", "CPU ms per decoded token")):
        ratios.append(statistics.median(our[n] / their[n] for our, their in counted))
        ours, theirs = (statistics.median(pair[which][n] for pair in counted) for which in (0, 1))
        print(f"{name}: kvchat {ours:.2f}, bare loop {theirs:.2f}, ratio {ratios[-1]:.3f}")
    return 0 if min(ratios[:2]) >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())

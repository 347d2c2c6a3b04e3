"""Decode speed: kvchat's whole way (child process, sampling, JSON, streaming) beside a bare loop
of llama.cpp's own calls, with the same settings, prompt and sampler, in turns.

    python -m bench.decode [MODEL.gguf] [--threads N] [--tokens N] [--runs N]

The bare loop is what a program in C would do for each token: sample, write the piece, decode.
It is called through llama_cpp's ctypes functions, some 3 microseconds a token. Both are timed
over the same tokens: kvchat's from the end of the prompt to the last event read by the parent.
Prints tokens/s of each pair of runs and the median of their ratios (other programs disturb both
of a pair alike); status 1 where it is under 0.95.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

from tuner.demo import demo_model_path
from tuner.engine.client import EngineClient
from tuner.engine.protocol import Done, Generate, Load, Message, PromptProgress, Sampling
from tuner.errors import EngineError
from tuner.settings import Settings

GOAL = 0.95
PROMPT = (Message("user", "Why is the sky blue? Explain it at length."),)


def sampling(tokens: int) -> Sampling:
    return Sampling(temperature=0.8, seed=1, max_tokens=tokens)


def kvchat_rate(client: EngineClient, tokens: int) -> tuple[float, int]:
    """Tokens per second as the parent sees them, and how many."""
    read = time.perf_counter()
    done: Done | None = None
    for event in client.generate(Generate(PROMPT, sampling(tokens))):
        if isinstance(event, PromptProgress):
            read = time.perf_counter()
        if isinstance(event, Done):
            done = event
    if done is None:
        raise EngineError("decode_failed", "no answer")
    return done.n_decoded / (time.perf_counter() - read), done.n_decoded


class BareLoop:
    """The bare loop in a process of its own, loaded once and asked once per run."""

    def __init__(self, path: str, threads: int, tokens: int):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "bench.decode", "--bare", path,
             "--threads", str(threads), "--tokens", str(tokens)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        )  # fmt: skip
        self._answer()

    def rate(self) -> tuple[float, int]:
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        rate, n = self._answer()
        return float(rate), int(n)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _answer(self) -> list[float]:
        assert self._process.stdout is not None
        answer: list[float] = json.loads(self._process.stdout.readline())
        return answer


def serve_bare_loop(path: str, threads: int, tokens: int) -> None:
    """Loads as kvchat does, then answers each line of stdin with [tokens/s, tokens]."""
    import llama_cpp as lib  # noqa: PLC0415 - this process alone needs it

    from tuner.engine.templates import ChatTemplate  # noqa: PLC0415

    lib.llama_backend_init()
    model_params = lib.llama_model_default_params()
    model_params.use_extra_bufts = False
    model = lib.llama_model_load_from_file(path.encode(), model_params)
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_ubatch, params.n_outputs_max = 2048, 512, 512, 1
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type, params.swa_full = lib.LLAMA_FLASH_ATTN_TYPE_ENABLED, False
    context = lib.llama_init_from_model(model, params)
    vocab = lib.llama_model_get_vocab(model)
    template = lib.llama_model_chat_template(model, None)
    chat = ChatTemplate(template and template.decode(), {})
    text = chat.render(PROMPT).text.encode()
    chat.close()
    prompt = (lib.llama_token * (len(text) + 8))()
    n_prompt = lib.llama_tokenize(vocab, text, len(text), prompt, len(prompt), False, True)
    piece = ctypes.create_string_buffer(256)
    one = (lib.llama_token * 1)()
    batch = lib.llama_batch_get_one(one, 1)
    print("[0, 0]", flush=True)
    for _ in sys.stdin:
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
        lib.llama_decode(context, lib.llama_batch_get_one(prompt, n_prompt))
        lib.llama_synchronize(context)
        start, n = time.perf_counter(), 0
        while n < tokens:
            token = lib.llama_sampler_sample(sampler, context, -1)
            if lib.llama_vocab_is_eog(vocab, token):
                break
            n += 1
            lib.llama_token_to_piece(vocab, token, piece, 256, 0, False)
            if n < tokens:
                one[0] = token
                lib.llama_decode(context, batch)
        print(json.dumps([n / (time.perf_counter() - start), n]), flush=True)
        lib.llama_sampler_free(sampler)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model", nargs="?")
    parser.add_argument("--threads", type=int, default=psutil.cpu_count(logical=False) or 1)
    parser.add_argument("--tokens", type=int, default=96)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--bare", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    path = options.model or str(demo_model_path())
    if options.bare:
        serve_bare_loop(path, options.threads, options.tokens)
        return 0
    ours: list[float] = []
    theirs: list[float] = []
    with tempfile.TemporaryDirectory() as folder, EngineClient(Path(folder) / "log") as client:
        settings = Settings(n_ctx=2048, use_extra_bufts=False)
        for _ in client.load(Load(path, settings, options.threads)):
            pass
        bare = BareLoop(path, options.threads, options.tokens)
        kvchat_rate(client, 8)
        print(f"{Path(path).name}, {options.threads} threads")
        for run in range(options.runs):
            (our_rate, our_n), (their_rate, their_n) = (
                (kvchat_rate(client, options.tokens), bare.rate())
                if run % 2
                else (bare.rate(), kvchat_rate(client, options.tokens))[::-1]
            )
            ours.append(our_rate)
            theirs.append(their_rate)
            print(
                f"  kvchat {our_rate:7.2f} t/s ({our_n})   bare {their_rate:7.2f} t/s ({their_n})"
                f"   {our_rate / their_rate:.3f}"
            )
        bare.close()
    ratio = statistics.median(a / b for a, b in zip(ours, theirs, strict=True))
    print(
        f"median: kvchat {statistics.median(ours):.2f} t/s, bare loop "
        f"{statistics.median(theirs):.2f} t/s, ratio {ratio:.3f} (goal {GOAL})"
    )
    return 0 if ratio >= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())

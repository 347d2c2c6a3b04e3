"""A model process without a model: speaks the engine's protocol by script.

Give it to a client in place of the real worker:

    from tests.support.scripted_worker import scripted_worker
    client = EngineClient(log_path=tmp_path / "engine.log", command=scripted_worker(text="Hi!"))

What it does, each a keyword of `scripted_worker` (and a flag of the script):

    text             the answer; "{n}" stands for the number of the question, "{last}" for the
                     last message's content (default: "Hello, **world**.")
    chunk            characters per Text event, each counted as one token (default 4)
    delay            seconds between Text events (default 0.01)
    save_seconds     how long a state takes to be written
    load_seconds     how long a load, or a change of the cache, takes, in ten Progress steps
                     (default 0)
    fail_load        "KIND:MESSAGE": the load ends in Failed
    fail_generate    "KIND:MESSAGE": a generation ends in Failed
    die_in           "load" | "generate" | "extra_bufts": when it dies; the last dies in a load
                     whose settings have use_extra_bufts true. In "generate" half of the text
                     is streamed first
    die_by           the signal's name, default "SIGKILL"
    die_once         dies only while this file is not there, and makes it
    last_words       what it writes to its log before it dies
    cpu_share        of one core, that decoding and what is measured took; 0: not known
    changed          so many loads end in Failed("changed")
    warn             a warning in Loaded
    n_ctx            what Loaded reports; default: what the settings asked for
    template         chat_template of Loaded and Done, default "file"
    think            the levels of thinking that it offers, with commas between them
    oom_over_ctx     a load with more n_ctx than this ends in Failed("out_of_memory")
    hang             ignores Quit and the end of stdin for this many seconds (default 0)
    stuck_in         "load" | "prompt" | "generate": lives, but nothing moves from there on; in
                     "generate" half of the text is streamed first. Stop is not heard
    silent           the same without a heartbeat
    deaf             Stop is not heard
    late             every answer to a generation is followed by another Done for it
    rate             tokens/s that are measured, at every depth (default 100)
    faster_threads   which of two numbers of threads is the faster; 0: it cannot tell
    measure_seconds  how long a measurement takes, in ten Progress steps (default 0)
    loss             nats per token that every pair of cache types loses (default 0.01)
    vram_free        bytes that are free on every device that it is asked for, one time after the
                     other with commas between them, the last from then on; default: none answers
    garbage          these bytes (a Python literal) come in place of an answer

It counts a token per four characters of the conversation. Stop acts at once: a load ends in
Cancelled, a measurement too, a generation in Done("stopped") with what was streamed so far.
"""

from __future__ import annotations

import argparse
import ast
import os
import queue
import signal
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.append(str(Path(__file__).resolve().parents[2]))

from tuner.engine.lifeline import end_with_parent
from tuner.engine.protocol import (
    AskDevices,
    Cancelled,
    CountTokens,
    DeviceMemory,
    DevicesAsked,
    Done,
    DryRunDone,
    Failed,
    Generate,
    Load,
    Loaded,
    LossesMeasured,
    MeasureLosses,
    MeasureSpeed,
    Message,
    Progress,
    PromptProgress,
    Quit,
    Reshape,
    RestoreState,
    SaveState,
    SpeedMeasured,
    StateRestored,
    StateSaved,
    Stop,
    Text,
    Timed,
    TokenCount,
    decode,
)
from tuner.engine.voice import Voice
from tuner.memory.cache_losses import CacheLosses, PairLoss
from tuner.memory.footprint import Buffer
from tuner.settings import Settings


def scripted_worker(**script: object) -> tuple[str, ...]:
    """The command for EngineClient(command=...). Keywords as in the module's docstring."""
    flags = (f"--{name.replace('_', '-')}={value}" for name, value in script.items())
    return (sys.executable, str(Path(__file__).resolve()), *flags)


def _count(messages: tuple[Message, ...]) -> int:
    return 1 + sum(len(m.content) for m in messages) // 4


class _Script:
    def __init__(self, options: argparse.Namespace):
        self.options = options
        self.stop = threading.Event()
        self.send = Voice(sys.stdout.buffer)
        self.requests: queue.SimpleQueue[Any] = queue.SimpleQueue()
        self.questions = 0
        self.cached = 0
        self.untouched: tuple[DeviceMemory, ...] | None = None
        self.vram_free = [int(free) for free in options.vram_free.split(",") if free]

    def listen(self) -> None:
        for line in sys.stdin.buffer:
            number, message = decode(line)
            if isinstance(message, Stop):
                if not self.options.deaf:
                    self.stop.set()
                continue
            if isinstance(message, Quit):
                break
            self.stop.clear()
            self.requests.put((number, message))
        if self.options.hang:
            time.sleep(self.options.hang)
        os._exit(0)

    def die(self) -> None:
        once = self.options.die_once and Path(self.options.die_once)
        if once and once.exists():
            return
        if once:
            once.touch()
        print(self.options.last_words, file=sys.stderr, flush=True)
        sys.stdout.buffer.flush()
        if os.name == "nt":
            os._exit(3)
        os.kill(os.getpid(), getattr(signal, self.options.die_by))
        time.sleep(10)

    def stick(self) -> None:
        if self.options.silent:
            self.send.rest()
        time.sleep(600)

    def fail(self, spec: str) -> None:
        kind, _, message = spec.partition(":")
        self.send(Failed(kind, message))

    def load(self, request: Load) -> None:
        settings, options = request.settings, self.options
        for step in range(11):
            if not self.step(step):
                return
            if step == 5 and options.stuck_in == "load":
                self.stick()
            if step == 5 and (
                options.die_in == "load"
                or (options.die_in == "extra_bufts" and settings.use_extra_bufts)
            ):
                self.die()
        if self.options.changed:
            self.options.changed -= 1
            self.send(Failed("changed", "The file is another one."))
            return
        if options.fail_load:
            self.fail(options.fail_load)
            return
        if not self.has_room(settings):
            return
        self.cached = 0
        threads = options.faster_threads if request.other_threads else 0
        untouched = self.untouched or ()
        loaded = self.loaded(settings)
        self.send(replace(loaded, faster_threads=threads, untouched=untouched))

    def memory(self, names: tuple[str, ...]) -> tuple[DeviceMemory, ...]:
        """What is free now."""
        if not (self.vram_free and names):
            return ()
        free, *later = self.vram_free
        self.vram_free = later or [free]
        return tuple(DeviceMemory(name, free, free) for name in names)

    def step(self, step: int) -> bool:
        """One of ten steps of a load; False where it was stopped."""
        if self.stop.wait(self.options.load_seconds / 10 if step else 0):
            self.send(Cancelled())
            return False
        self.send(Progress(step / 10))
        return True

    def has_room(self, settings: Settings) -> bool:
        most = self.options.oom_over_ctx
        if most and settings.n_ctx > most:
            self.send(Failed("out_of_memory", "cudaMalloc failed: out of memory"))
        return not most or settings.n_ctx <= most

    def loaded(self, settings: Settings) -> Loaded:
        options = self.options
        buffers = (
            Buffer("CPU", "weights", 64 << 20),
            Buffer("CPU", "kv_cache", 8 << 20),
            Buffer("CPU", "compute", 16 << 20),
        )
        n_ctx = options.n_ctx or settings.n_ctx
        warnings = (options.warn,) if options.warn else ()
        think = tuple(options.think.split(",")) if options.think else ()
        loaded = Loaded(n_ctx, buffers, 0.1, options.template, warnings, think=think)
        return replace(loaded, n_moved=self.cached)

    def reshape(self, request: Reshape) -> None:
        if all(self.step(step) for step in range(11)) and self.has_room(request.settings):
            self.send(self.loaded(request.settings))

    def generate(self, request: Generate) -> None:
        options = self.options
        self.questions += 1
        total = _count(request.messages)
        reused = min(self.cached, total - 1)
        self.send(PromptProgress(0, total - reused, reused))
        if options.stuck_in == "prompt":
            self.stick()
        self.send(PromptProgress(total - reused, total - reused, reused))
        if options.garbage:
            sys.stdout.buffer.write(ast.literal_eval(options.garbage))
            sys.stdout.buffer.flush()
        if options.fail_generate:
            self.fail(options.fail_generate)
            return
        text = options.text.replace("{n}", str(self.questions))
        text = text.replace("{last}", request.messages[-1].content if request.messages else "")
        pieces = [text[i : i + options.chunk] for i in range(0, len(text), options.chunk)]
        limit = request.sampling.max_tokens
        reason, sent, started = "end", 0, time.monotonic()
        for piece in pieces:
            if self.stop.wait(options.delay):
                reason = "stopped"
                break
            if limit is not None and sent >= limit:
                reason = "max_tokens"
                break
            if options.die_in == "generate" and sent >= len(pieces) // 2:
                self.die()
            if options.stuck_in == "generate" and sent >= len(pieces) // 2:
                self.stick()
            self.send(Text(piece, 1))
            sent += 1
        self.cached = total + sent
        took = time.monotonic() - started
        cpu = options.cpu_share * took
        done = Done(reason, total, reused, sent, 0.01, took, self.cached, cpu, options.template)
        self.send(done)
        if options.late:
            self.send(done)

    def measured(self) -> bool:
        """Takes the time of a measurement; False where it was stopped."""
        for step in range(11):
            if self.stop.wait(self.options.measure_seconds / 10 if step else 0):
                self.send(Cancelled())
                return False
            self.send(Progress(step / 10))
        return True

    def measure_losses(self, request: MeasureLosses) -> None:
        if len(request.text) < request.n_tokens:  # each character is a token
            self.send(Failed("usage", f"the text has {len(request.text)} tokens"))
        elif self.measured():
            rate, loss = self.options.rate, self.options.loss
            pairs = [PairLoss(*pair, loss, loss, loss, 0.9, rate) for pair in request.pairs]
            first = PairLoss("f16", "f16", 0.0, 0.0, 0.0, 1.0, rate)
            losses = CacheLosses((first, *pairs), 0.004, 12.0, request.n_tokens)
            self.send(LossesMeasured(losses))

    def measure(self, request: MeasureSpeed) -> None:
        if not self.measured():
            return

        def timed(depth: int, n_tokens: int) -> Timed:
            return Timed(depth, n_tokens, n_tokens / self.options.rate, self.options.cpu_share)

        decodes = tuple(timed(depth, request.n_decode) for depth in request.depths)
        self.send(SpeedMeasured((timed(0, request.prompt),), decodes, 1))

    def run(self) -> None:
        threading.Thread(target=self.listen, daemon=True).start()
        self.send.rest()
        while True:
            number, request = self.requests.get()
            with self.send.serving(number):
                self.answer(request)

    def answer(self, request: object) -> None:
        if isinstance(request, Load) and self.untouched is None:
            self.untouched = self.memory(request.looks_at)
        match request:
            case Load(dry=True):
                self.send(DryRunDone((Buffer("CPU", "compute", 16 << 20),), 0.0))
            case Load():
                self.load(request)
            case CountTokens():
                self.send(TokenCount(_count(request.messages)))
            case AskDevices():
                self.send(DevicesAsked(self.memory(request.names)))
            case Generate():
                self.generate(request)
            case SaveState():
                time.sleep(self.options.save_seconds)  # and hears nothing
                Path(request.path).write_text(str(self.cached))
                self.send(StateSaved(self.cached, 4096, 0.0))
            case RestoreState():
                self.cached = int(Path(request.path).read_text())
                self.send(StateRestored(self.cached, 0.0))
            case Reshape():
                self.reshape(request)
            case MeasureSpeed():
                self.measure(request)
            case MeasureLosses():
                self.measure_losses(request)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--text", default="Hello, **world**.")
    parser.add_argument("--chunk", type=int, default=4)
    parser.add_argument("--delay", type=float, default=0.01)
    parser.add_argument("--load-seconds", type=float, default=0.0)
    parser.add_argument("--save-seconds", type=float, default=0.0)
    parser.add_argument("--fail-load", default="")
    parser.add_argument("--fail-generate", default="")
    parser.add_argument("--die-in", default="", choices=["", "load", "generate", "extra_bufts"])
    parser.add_argument("--die-by", default="SIGKILL")
    parser.add_argument("--die-once", default="")
    parser.add_argument("--last-words", default="")
    parser.add_argument("--cpu-share", type=float, default=0.0)
    parser.add_argument("--changed", type=int, default=0)
    parser.add_argument("--warn", default="")
    parser.add_argument("--n-ctx", type=int, default=0)
    parser.add_argument("--template", default="file")
    parser.add_argument("--think", default="")
    parser.add_argument("--oom-over-ctx", type=int, default=0)
    parser.add_argument("--hang", type=float, default=0.0)
    parser.add_argument("--stuck-in", default="", choices=["", "load", "prompt", "generate"])
    parser.add_argument("--silent", default="")
    parser.add_argument("--deaf", default="")
    parser.add_argument("--late", default="")
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--faster-threads", type=int, default=0)
    parser.add_argument("--measure-seconds", type=float, default=0.0)
    parser.add_argument("--loss", type=float, default=0.01)
    parser.add_argument("--vram-free", default="")
    parser.add_argument("--garbage", default="")
    end_with_parent()
    if os.name == "posix":
        signal.signal(signal.SIGINT, signal.SIG_IGN)
    _Script(parser.parse_args()).run()


if __name__ == "__main__":
    main()

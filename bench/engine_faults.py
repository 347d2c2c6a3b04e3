"""Faults for `bench/faults.py` in what the model process does: a real engine with tiny models of
every memory, beside an RPC server now and then, at moments that a seed chooses. POSIX only."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import cache, partial
from math import inf
from pathlib import Path
from typing import Any

import psutil

from bench import mishaps
from bench.kills import LostError
from bench.mishaps import RemoteGpu
from bench.oracle import rpc_available
from tests.support.tiny_models import hybrid, model, recurrent, windowed
from tuner.demo import demo_model_path
from tuner.engine.client import EngineClient
from tuner.engine.patience import WAIT_SECONDS, Patience
from tuner.engine.protocol import Done, Generate, Load, Message, Sampling, Text
from tuner.errors import KvchatError
from tuner.launch import Launcher, Ready
from tuner.launch.events import LaunchEvent
from tuner.launch.running import Running
from tuner.settings import Settings
from tuner.wishes import LaunchRequest, Wishes

FAULTS = 6  # in one conversation
MOST_SECONDS = 10.0  # without a word from a fault on
HASTE = 0.25  # of the usual patience, so that a process that is stopped is not waited for so long
STILL_SECONDS = 2.0  # for which a server stands still
TEXT = "Tell me of the fox, and of the dog that does not mind. "
SAMPLING = Sampling(temperature=0, max_tokens=12)
# Of what a cache holds, with a seed only what was read as it stands counts: the answer is to be
# that of a model that has read the conversation for the first time.
EXACT = replace(SAMPLING, seed=1)
SHAPES: tuple[dict[str, Any], ...] = (
          {}, {"type_k": "q8_0", "type_v": "q8_0"}, {"n_ctx": 4096}, {"type_v": "q8_0"},
          {"n_ubatch": 64})  # fmt: skip
_UBATCHES = (512, 64, 32)  # that a conversation is read anew in
ALONE = "without a load by hand"
_rpc = cache(rpc_available)


class Play:
    """One conversation. The demo model is one in four, since it is slow; an RPC server too."""

    def __init__(self, seed: int, folder: Path, gpu: RemoteGpu | None) -> None:
        self._chance = chance = random.Random(seed)
        kind = chance.choice((None, windowed, hybrid, recurrent))
        self._path = model(folder / "model.gguf", kind) if kind else demo_model_path()
        self._gpu = gpu
        client = EngineClient(folder / "engine.log", patience=Patience().times(HASTE))
        request = LaunchRequest(
            self._path,
            Wishes(n_ctx=2048, n_gpu_layers=99 if gpu else None),
            rpc_servers=(gpu.address,) if gpu else (),
            threads=1,
            use_profile=False,
        )
        self._launcher = Launcher(request, client)
        self._state = folder / "conversation.state"
        self._anew = Anew(folder / "anew.log", self._path)
        self._talk: list[Message] = []
        self._usual: dict[str, float] = {}  # seconds that a thing takes
        self.outcomes: list[str] = []
        self._silent = self._silence = 0.0  # seconds: now, and the longest since the fault
        threading.Thread(target=self._listen, daemon=True).start()
        self._running = self._load()

    def run(self) -> None:
        """Raises LostError where something is lost, hangs or is left over."""
        try:
            for _ in range(FAULTS):
                self._one()
        finally:
            self._launcher.close()
            self._anew.close()

    def _one(self) -> None:
        """Something is done, and meanwhile something goes wrong; then a question is answered."""
        do = self._chance.choice(
            (self._answer, self._answer, self._long, self._reshape, self._save, self._restore,
             self._reload, self._rest)
        )  # fmt: skip
        moment = do.__name__.strip("_")
        name, fault = self._chance.choice([*self._faults()])
        where = f"{name} in {moment}"
        try:
            took = self._disturbed(do, moment, fault)
            self._mend()
            if took > MOST_SECONDS:
                raise LostError(f"{took:.0f} s without a word")
            alone = self._launcher.client.alive
            if alone:
                began = time.monotonic()
                try:
                    self._goes_on()
                except KvchatError:  # what happened after the end of a thing, the next one tells
                    alone = False
                    if time.monotonic() - began > MOST_SECONDS:
                        raise
            if not alone:
                self._running = self._load()
                self._goes_on()
        except (KvchatError, LostError) as error:
            raise LostError(f"{where}: {error}") from error
        how = ALONE if alone else "after a load"
        self.outcomes += [f"{name}: {how}", f"in {moment}: {how}"]

    def _disturbed(self, do: Callable[[], None], moment: str, fault: Callable[[], object]) -> float:
        """Does it, and at a moment that falls inside mostly, this happens. Returns the longest time
        from then to its end in which nothing was heard."""
        began, since = time.monotonic(), inf

        def happens() -> None:
            nonlocal since
            since = time.monotonic()
            self._silent = self._silence = 0.0
            fault()

        usual = self._usual.get(moment, 0.3)
        timer = threading.Timer(self._chance.uniform(0, 1.1) * usual, happens)
        timer.start()
        with contextlib.suppress(KvchatError):  # one sentence, which is what there is to be told
            do()
        ended = time.monotonic()
        self._usual[moment] = min(3.0, ended - began if since == inf else usual * 1.3)
        timer.cancel()
        timer.join()
        if since == inf:
            happens()
            return 0.0
        self._heard()
        return self._silence

    def _heard(self) -> None:
        """Of what is done: something, or its end."""
        self._silence = max(self._silence, self._silent)
        self._silent = 0.0

    def _listen(self) -> None:
        """Counts silence as `Patience` does: not what a busy machine keeps this program from."""
        while True:
            time.sleep(WAIT_SECONDS)
            self._silent += WAIT_SECONDS

    def _faults(self) -> Iterator[tuple[str, Callable[[], object]]]:
        chance, client = self._chance, self._launcher.client
        pid, drawn = client.pid, random.Random(chance.randrange(1 << 30))
        for one in (signal.SIGKILL, signal.SIGSTOP, signal.SIGSEGV):
            yield one.name, partial(mishaps.send, pid, one)
        yield "a stop by the user", self._launcher.cancel
        yield "a damaged state", partial(self._damage, drawn)
        yield "a full disk", partial(mishaps.limit, pid, psutil.RLIMIT_FSIZE, 4096)
        yield "no memory", partial(mishaps.no_memory, pid, drawn.choice(mishaps.SLACK))
        yield (
            "the template's process",
            lambda: mishaps.send(
                mishaps.template_child(pid), drawn.choice((signal.SIGKILL, signal.SIGSTOP))
            ),
        )
        process = client._worker._process if client._worker else None
        if process and process.stdin and process.stdout:
            for where, pipe in (("from", process.stdout), ("to", process.stdin)):
                inode = os.fstat(pipe.fileno()).st_ino
                what = mishaps.garbage(drawn)
                yield f"garbage {where} it", partial(mishaps.into_pipe, pid, inode, what)
        if mishaps.clock_jumps():
            yield "a clock that jumps", partial(mishaps.jump, drawn)
        if self._gpu is not None:
            there = self._gpu.pid
            for _ in range(2):
                yield "a server that ends", self._gpu.kill
                slack = drawn.choice(mishaps.SLACK)
                yield "a server without memory", partial(mishaps.no_memory, there, slack)
                yield "a server that stands still", partial(self._stand_still, there)

    def _stand_still(self, pid: int) -> None:
        mishaps.send(pid, signal.SIGSTOP)
        threading.Timer(STILL_SECONDS, mishaps.send, (pid, signal.SIGCONT)).start()

    def _mend(self) -> None:
        """Whatever was missing is there again; a process that was stopped, and not ended for it,
        goes on."""
        pid = self._launcher.client.pid
        mishaps.send(pid, signal.SIGCONT)
        mishaps.send(mishaps.template_child(pid), signal.SIGCONT)
        mishaps.lift_limits(pid)
        if self._gpu is not None:
            self._gpu.mend()

    def _damage(self, drawn: random.Random) -> None:
        """One byte of the state that is on the disk, or its end."""
        try:
            data = bytearray(self._state.read_bytes())
        except FileNotFoundError:
            return
        if data:
            data[drawn.randrange(len(data))] ^= 0xFF
        self._state.write_bytes(data[: drawn.randrange(2 * len(data) + 1)])

    def _goes_on(self) -> None:
        """The conversation, with what it had read or without. Where nothing was rounded to other
        types, the answer is that of a model that reads it for the first time."""
        if self._chance.random() < 0.5:  # noqa: PLR2004
            self._running.restore_state(self._state)
        if not self._talk or self._talk[-1].role == "assistant":
            self._ask()
        said = self._said(EXACT)
        settings = self._running.settings
        if settings.type_k == settings.type_v == "f16" and self._gpu is None:
            anew: set[str] = set()
            for n_ubatch in _UBATCHES:
                cut = replace(settings, n_ubatch=n_ubatch)
                anew.add(self._anew.answer(cut, self._talk))
                # Cut otherwise, sums are rounded otherwise: then nothing is known.
                if said in anew or len(anew) > 1:
                    break
            else:
                raise LostError(f"it answers {said!r}, and from the beginning {anew.pop()!r}")
        self._talk.append(Message("assistant", said or "…"))

    # ------------------------------------------------------------ what is done

    def _ask(self, most: int = 4) -> None:
        words = TEXT * self._chance.randint(1, most)
        self._talk.append(Message("user", f"{len(self._talk)}: {words}"[: 50 * most]))
        while len(self._talk) > 8 or sum(len(m.content) for m in self._talk) > 1500:  # noqa: PLR2004
            del self._talk[:2]  # the context is small

    def _said(self, sampling: Sampling = SAMPLING) -> str:
        said, done = "", None
        for event in self._running.generate(self._talk, sampling):
            self._heard()
            if isinstance(event, Text):
                said += event.text
            elif isinstance(event, Done):
                done = event
        if done is None or done.n_reused >= done.n_prompt:
            raise LostError(f"an answer without an end, or of nothing: {done}")
        return said

    def _answer(self, most: int = 4) -> None:
        self._ask(most)
        if len(self._talk) > 1 and self._talk[-2].role == "user":
            self._talk.insert(-1, Message("assistant", "…"))
        self._talk.append(Message("assistant", self._said() or "…"))

    def _long(self) -> None:
        """A prompt that takes time."""
        self._answer(most=24)

    def _rest(self) -> None:
        """Nothing."""
        time.sleep(0.05)

    def _reshape(self) -> None:
        self._change(self._chance.choice(SHAPES))

    def _change(self, changes: dict[str, Any]) -> None:
        settings = replace(self._running.settings, **changes)
        self._comes(self._running.change(settings, keep=None))

    def _reload(self) -> None:
        settings: Settings = self._running.settings
        way = self._launcher.start(), self._running, settings, self._launcher.request
        self._comes(self._launcher._instead(*way))

    def _comes(self, events: Iterator[LaunchEvent]) -> None:
        """A model in place of the one that runs."""
        for event in events:
            self._heard()
            if isinstance(event, Ready):
                self._running = event.running

    def _save(self) -> None:
        self._running.save_state(self._state, 1 << 30)

    def _restore(self) -> None:
        self._running.restore_state(self._state)

    def _load(self) -> Running:
        for event in self._launcher.start():
            if isinstance(event, Ready):
                return event.running
        raise LostError("a load without an end")


class Anew:
    """The same model in a process that nothing happens to."""

    def __init__(self, log: Path, path: Path) -> None:
        self._client = EngineClient(log)
        self._path = path

    def answer(self, settings: Settings, talk: list[Message]) -> str:
        """To a conversation that it has never read."""
        for _ in self._client.load(Load(str(self._path), settings, 1)):
            pass
        events = self._client.generate(Generate(tuple(talk), EXACT))
        return "".join(event.text for event in events if isinstance(event, Text))

    def close(self) -> None:
        self._client.close()


def play_engine(seed: int) -> list[str]:
    """Lets things go wrong while a model loads, reads, answers, changes its cache, saves and
    restores what it has read: each time that is told within seconds, the model is there again, and
    the conversation goes on as if nothing had been. Returns how each fault ended, twice: by its
    kind, and by what was done."""
    with tempfile.TemporaryDirectory(prefix="faults-") as name:
        folder = Path(name)
        for each in ("CONFIG", "DATA", "LOG"):
            os.environ[f"KVCHAT_{each}_DIR"] = str(folder / each.lower())
        with mishaps.remote_gpu(random.Random(-1 - seed).random() < 0.25 and _rpc()) as gpu:  # noqa: PLR2004
            play = Play(seed, folder, gpu)
            play.run()
        left = mishaps.left_over("KVCHAT_DATA_DIR", str(folder / "data"))
        if left := psutil.wait_procs(left, timeout=3)[1]:
            raise LostError(f"left over: {[process.cmdline() for process in left]}")
    return play.outcomes


def shares(counts: Counter[str]) -> Iterator[str]:
    """Of each kind of fault, how many the conversation outlived without a load by hand. A case in
    which an exception came out has no kind here."""
    kinds: dict[str, Counter[str]] = {}
    for outcome, n in sorted(counts.items()):
        kind, told, how = outcome.rpartition(": ")
        if told:
            kinds.setdefault(kind, Counter())[how] += n
    for kind, of in kinds.items():
        n = sum(of.values())
        yield f"{n:6} {kind}: {of[ALONE] / n:.0%} {ALONE}, the others after one"
    yield f"{counts['EXCEPTION']:6} conversations in which something was lost"

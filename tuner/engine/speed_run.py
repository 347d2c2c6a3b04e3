"""Times a loaded model: a short prompt, then filling the cache and decoding at some depths."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Protocol

from tuner.engine.protocol import MeasureSpeed, Timed

_REPEATS = 3  # of the short prompt, of which the fastest counts,
_REPEAT_SHARE = 0.1  # while they take no more than this share of the time
_DECODE_SHARE = 0.2  # of the time, that one depth may take to decode
_LEAST_DECODED = 4  # tokens that are decoded in any case
_SLOWER = 1.25  # how much longer a token of a prompt may take when the cache is fuller
_STRIDE = 7919  # between tokens: a prime, so that they differ, and with them the experts used


class Engine(Protocol):
    """What is timed; both raise to end the measurement."""

    def compute(self, tokens: Sequence[int]) -> None:
        """Appends tokens to the cache, and returns when that is done."""

    def clear(self) -> None: ...


class SpeedRun:
    """One measurement. `run` may take a little longer than it is to: what has begun is ended."""

    def __init__(
        self,
        engine: Engine,
        request: MeasureSpeed,
        *,
        chunk: int,
        n_ctx: int,
        n_vocab: int,
        tell: Callable[[float], None],
    ) -> None:
        """`chunk`: tokens that are computed at once. `tell` hears how far it has come."""
        self._engine, self._request = engine, request
        self._chunk, self._n_ctx, self._n_vocab = chunk, n_ctx, n_vocab
        self._tell = tell
        self._ends_at = time.monotonic() + request.seconds
        self._at = 0  # tokens in the cache
        self._told = 0.0
        self.prompts: list[Timed] = []
        self.decodes: list[Timed] = []

    def run(self) -> None:
        request = self._request
        self.prompts.append(self._short_prompt(min(request.prompt, self._n_ctx)))
        self._clear()
        for depth in request.depths:
            if depth + request.n_decode > self._n_ctx:
                return
            to_read = depth - self._at
            if to_read > 0:
                last = self.prompts[-1]
                expected = _SLOWER * to_read * last.seconds / last.n_tokens
                if expected > self._ends_at - time.monotonic():
                    return
                self.prompts.append(self._read(to_read))
            self.decodes.append(self._decode(request.n_decode))

    def _clear(self) -> None:
        self._engine.clear()
        self._at = 0

    def _short_prompt(self, n_tokens: int) -> Timed:
        until = time.monotonic() + _REPEAT_SHARE * self._request.seconds
        best: Timed | None = None
        for _ in range(_REPEATS):
            self._clear()
            timed = self._read(n_tokens)
            best = timed if best is None else min(best, timed, key=lambda t: t.seconds)
            if time.monotonic() > until:
                break
        assert best is not None
        return best

    def _read(self, n_tokens: int) -> Timed:
        began, cpu, depth = time.perf_counter(), time.process_time(), self._at
        end = depth + n_tokens
        while self._at < end:
            self._compute(min(self._chunk, end - self._at))
            self._get_on()
        return _timed(depth, n_tokens, time.perf_counter() - began, time.process_time() - cpu)

    def _decode(self, n_tokens: int) -> Timed:
        """Token by token; the median speaks for all, since other programs disturb some."""
        until = time.monotonic() + _DECODE_SHARE * self._request.seconds
        depth, wall, cpu = self._at, list[float](), list[float]()
        while len(wall) < n_tokens and (len(wall) < _LEAST_DECODED or time.monotonic() < until):
            start, start_cpu = time.perf_counter(), time.process_time()
            self._compute(1)
            wall.append(time.perf_counter() - start)
            cpu.append(time.process_time() - start_cpu)
        self._get_on()
        return _timed(depth, len(wall), len(wall) * median(wall), len(wall) * median(cpu))

    def _compute(self, n_tokens: int) -> None:
        places = range(self._at, self._at + n_tokens)
        self._engine.compute([place * _STRIDE % self._n_vocab for place in places])
        self._at += n_tokens

    def _get_on(self) -> None:
        """Tells how far it is, by time or by depth, whichever is further."""
        request = self._request
        deepest = (request.depths or (0,))[-1] + request.n_decode
        gone = 1.0 - (self._ends_at - time.monotonic()) / request.seconds
        self._told = min(1.0, max(self._told, gone, self._at / deepest))
        self._tell(self._told)


def _timed(depth: int, n_tokens: int, seconds: float, cpu: float) -> Timed:
    return Timed(depth, n_tokens, seconds, cpu / seconds if seconds else 0.0)

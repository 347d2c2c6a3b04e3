"""What the model process says: events of the request that it serves, and that it lives."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import BinaryIO

from tuner.engine.patience import BEAT_SECONDS
from tuner.engine.protocol import Alive, Event, encode


class Voice:
    """Writes events; may be called from any thread."""

    def __init__(self, pipe: BinaryIO):
        """Beats at once, as at work: the process is starting."""
        self._doing = "start"
        self._work = 0.0
        self._pipe = pipe
        self._lock = threading.Lock()
        self._number = 0
        self._at_work = threading.Event()
        self._at_work.set()
        threading.Thread(target=self._beat, daemon=True).start()

    def __call__(self, event: Event) -> None:
        with self._lock:
            try:
                self._pipe.write(encode(event, self._number))
                self._pipe.flush()
            except (OSError, ValueError):  # nobody reads any more
                os._exit(0)

    def doing(self, what: str) -> None:
        """Another piece of work begins: a row of `patience.LIMITS`."""
        self._doing = what
        self(Alive(what, self._work))

    @contextmanager
    def serving(self, number: int) -> Iterator[None]:
        """Inside, events answer this request, and a heart beats."""
        self._number = number
        self.doing("")
        self._at_work.set()
        try:
            yield
        finally:
            self._at_work.clear()

    def rest(self) -> None:
        """The process has started and waits for its first request."""
        self._at_work.clear()

    def _beat(self) -> None:
        while True:
            self._at_work.wait()
            with suppress(MemoryError):  # the next beat may find some
                self._work = _work()
                self(Alive(self._doing, self._work))
            time.sleep(BEAT_SECONDS)


def _work() -> float:
    """Grows while anything moves in this process, this thread apart: CPU seconds, and pages that
    were read from a disk (weights that are mapped)."""
    return time.process_time() - time.thread_time() + _pages_read()


def _pages_read() -> int:
    try:
        import resource  # noqa: PLC0415 - POSIX
    except ImportError:
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_majflt

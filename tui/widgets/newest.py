"""Work in a thread for the newest wish: what is overtaken while it waits is left out."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, Generic, TypeVar

from textual.dom import DOMNode

T = TypeVar("T")


class Newest(Generic[T]):
    """One thread at most, however many wishes come. `work` blocks and never raises."""

    def __init__(self, host: DOMNode, work: Callable[[T], Any], group: str):
        self._host = host
        self._work = work
        self._group = group
        self._lock = threading.Lock()  # guards the two below
        self._wanted: T | None = None
        self._busy = False

    def ask(self, wanted: T) -> None:
        """Does the work for this, as soon as what is being done is done."""
        with self._lock:
            self._wanted = wanted
            begin, self._busy = not self._busy, True
        if begin:
            self._host.run_worker(self._run, thread=True, group=self._group)

    @property
    def overtaken(self) -> bool:
        """A newer wish waits for this one to be done."""
        return self._wanted is not None

    def _run(self) -> None:
        while True:
            with self._lock:
                wanted, self._wanted = self._wanted, None
                if wanted is None:
                    self._busy = False
                    return
            self._work(wanted)

"""Python's garbage collector, kept out of the way of typing."""

from __future__ import annotations

import ctypes
import gc
import sys

from textual._styles_cache import StylesCache

# Objects made before the youngest generation is collected, and rounds before the older ones are.
_RARE = (20_000, 20, 1000)


class RareCollections:
    """Between `begin` and `end`, full collections are rare and pass over what was there at the
    beginning. One walks every widget: up to 200 ms in a long chat. What was let go, and widgets
    are circles that nothing else takes apart, is collected once there is time."""

    def __init__(self) -> None:
        self._usual = gc.get_threshold()
        self._due = False

    def begin(self) -> None:
        self._usual = gc.get_threshold()
        gc.collect()
        gc.freeze()
        gc.set_threshold(*_RARE)

    def end(self) -> None:
        gc.set_threshold(*self._usual)
        gc.unfreeze()

    def let_go(self) -> None:
        """Much was let go just now."""
        self._due = True

    def idle(self) -> None:
        """Nobody types and nothing is drawn: the time for what is due."""
        if self._due:
            self._due = False
            # Meant for colours, it holds the drawn lines of the last 1024 widgets that were shown,
            # gone or not: Textual's lru_cache on a method (textual/_styles_cache.py).
            StylesCache.get_inner_outer.cache_clear()
            gc.collect()
            _give_back()


def _give_back() -> None:
    """Free memory goes back to the system. glibc keeps what lies below anything still in use, and
    in a chat something always is (malloc_trim(3)); others have no such call, nor need of it."""
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(ctypes.c_size_t(0))

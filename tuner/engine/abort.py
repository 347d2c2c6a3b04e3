"""How one thread tells the engine's compute threads to stop."""

from __future__ import annotations

import ctypes
import sys


class CancelledError(Exception):
    """The abort flag was set during a load or a measurement."""


class AbortFlag:
    """A byte that both Python and the engine look at. Any thread may set it.

    The engine asks its abort callback after every node of the graph. A Python callback would
    cost a tenth of the decode speed and wait for the interpreter's lock, so the callback is C's
    own `strlen` on this flag: 0 for an empty string, 1 once the first byte is set."""

    def __init__(self) -> None:
        self._bytes = ctypes.create_string_buffer(2)
        # msvcrt: untested, no Windows at hand.
        libc = ctypes.CDLL("msvcrt") if sys.platform == "win32" else ctypes.CDLL(None)
        self.function = libc.strlen
        self.address = ctypes.cast(self._bytes, ctypes.c_void_p)

    def set(self) -> None:
        self._bytes[0] = b"\x01"

    def clear(self) -> None:
        self._bytes[0] = b"\x00"

    def __bool__(self) -> bool:
        return self._bytes[0] != b"\x00"

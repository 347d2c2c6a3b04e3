"""The end of the program, whatever hangs: no model process left, the terminal as it was."""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections.abc import Callable

try:
    import termios
except ImportError:  # Windows
    termios = None  # type: ignore[assignment]

SETTLE_SECONDS = 1.0  # that leaving waits for an answer to stop before its process is killed,
KEEP_SECONDS = 5.0  # for what the model has read to be saved, where that is worth it,
CLOSE_SECONDS = 1.5  # for the model process to end by itself,
SAVE_SECONDS = 10.0  # for the last save, since another program may hold the database,
END_SECONDS = 1.5  # and for everything else

# What Textual's driver turns on, off again (textual/drivers/linux_driver.py): reports of mouse,
# focus, size and keys, bracketed paste; then line wrap, the cursor, the usual screen.
_AS_IT_WAS = (
    "\x1b[?1000l\x1b[?1002l\x1b[?1003l\x1b[?1006l\x1b[?1015l\x1b[?1004l\x1b[?2048l\x1b[?2004l"
    "\x1b[<u\x1b[?7h\x1b[?25h\x1b[?1049l"
)


class Parachute:
    """Made before the screen is taken. Once armed, the process ends after some seconds however
    busy or stuck its threads are; who ends in order is gone before that."""

    def __init__(self, last_act: Callable[[], object], *, screen_taken: bool = True):
        """`last_act`: called first, must not wait for anything. `screen_taken`: the program draws
        on the whole screen."""
        self._last_act = last_act
        self._timer: threading.Timer | None = None
        self._lock = threading.RLock()  # a signal handler may arm it, whatever it interrupts
        self._attributes = None
        self.screen_taken = screen_taken  # whether there is something to give back
        if termios is not None:
            with contextlib.suppress(termios.error, OSError, ValueError, AttributeError):
                self._attributes = termios.tcgetattr(sys.__stdin__.fileno())  # type: ignore[union-attr]

    def arm(self, seconds: float, status: int) -> None:
        """Opens in `seconds`; a later call sets another time."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = threading.Timer(seconds, self._open, (status,))
            self._timer.daemon = True
            self._timer.start()

    def fold(self) -> None:
        """The program lives on."""
        with self._lock:
            if self._timer is not None:
                self._timer.cancel()
            self._timer = None

    def _open(self, status: int) -> None:
        threading.Thread(target=self._last_act, daemon=True).start()
        # A terminal that takes no more text must not keep the process either.
        words = threading.Thread(target=self._restore, daemon=True)
        words.start()
        words.join(0.3)
        os._exit(status)

    def _restore(self) -> None:
        if self.screen_taken:
            self._give_back_the_screen()
        if termios is not None and self._attributes is not None:
            with contextlib.suppress(termios.error, OSError, ValueError, AttributeError):
                termios.tcsetattr(
                    sys.__stdin__.fileno(),  # type: ignore[union-attr]
                    termios.TCSANOW,
                    self._attributes,
                )

    def _give_back_the_screen(self) -> None:
        with contextlib.suppress(OSError, ValueError, AttributeError):
            os.write(sys.__stderr__.fileno(), _AS_IT_WAS.encode())  # type: ignore[union-attr]

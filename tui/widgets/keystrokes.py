"""When the user types, so that drawing can keep out of the way."""

from __future__ import annotations

import asyncio
import time

TYPING_SECONDS = 0.6  # after a key for so long another one is expected,
HOLD_SECONDS = 0.3  # and drawing waits for it, but no longer than this
OUT_SECONDS = 0.004  # for Textual's thread to write the frame: drawing would keep it waiting


class Keystrokes:
    """Drawing a long answer takes longer than a key may wait, and it cannot be interrupted. But
    right after a key the next one is some 100 ms away: that gap is the time to draw."""

    def __init__(self) -> None:
        self._last = float("-inf")
        self._shown = asyncio.Event()

    def key(self) -> None:
        """A key came; what it does is yet to be drawn."""
        self._last = time.monotonic()

    def key_shown(self) -> None:
        """What a key did is on the screen."""
        self._shown.set()

    def rest(self) -> None:
        """The message is sent: no key is expected now, and its answer should appear at once."""
        self._last = float("-inf")

    @property
    def expected(self) -> bool:
        """The user is typing: another key may come at any moment."""
        return time.monotonic() - self._last <= TYPING_SECONDS

    async def gap(self) -> None:
        """Returns at once if nobody types, else right after the next key."""
        if not self.expected:
            return
        self._shown.clear()
        try:
            async with asyncio.timeout(HOLD_SECONDS):
                await self._shown.wait()
        except TimeoutError:
            return
        await asyncio.sleep(OUT_SECONDS)

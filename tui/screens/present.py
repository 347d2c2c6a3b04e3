"""Whether the open conversation is open in another kvchat, too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from textual.screen import Screen

from tui.answering import Chat
from tui.answering.elsewhere import ALSO_OPEN
from tui.storage import Presence


class Present:
    """Lives on the screen's thread; files are locked in others."""

    def __init__(
        self,
        screen: Screen[Any],
        presence: Presence,
        chat: Callable[[], Chat],
        warn: Callable[[str], Awaitable[None]],
    ):
        """`chat`: the one that is open now."""
        self.also_open = ""  # what is said of that, if it is: again where that was cleared away
        self._screen = screen
        self._presence = presence
        self._chat = chat
        self._warn = warn

    def tell(self) -> None:
        """Lets other kvchats know what is open here, and hears whether it is open there."""
        self._screen.run_worker(self._tell(), group="presence", exclusive=True)

    async def _tell(self) -> None:
        chat, self.also_open = self._chat(), ""
        if not chat.path:
            await asyncio.to_thread(self._presence.leave)
            return
        others = await asyncio.to_thread(self._presence.enter, chat.conversation.id)
        if others and chat is self._chat():
            self.also_open = ALSO_OPEN
            await self._warn(ALSO_OPEN)

    def close(self) -> None:
        """Leaves, for good."""
        self._presence.close()

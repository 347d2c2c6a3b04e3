"""Which conversation is open, and through which of its versions it is shown."""

from __future__ import annotations

import asyncio

from textual import work

from tui.answering import Chat
from tui.answering.words import version_text
from tui.screens import opening
from tui.screens.choices import Opened
from tui.screens.talk import TalkScreen
from tui.widgets.entries import Item
from tuner.errors import KvchatError
from tuner.safe_text import one_line


class SwitchingScreen(TalkScreen):
    """Goes from one conversation, or version, to another; what is being written of an answer is
    stopped and kept before."""

    async def _show_chat(self) -> None:
        await self.show_again()
        self._rewrite(None)
        self._composing.show(self.chat)
        if not self.chat.path:
            await self._welcome()
        self._present.tell()

    async def _welcome(self) -> None:
        model = self.running_model
        if model is None:
            title, how = one_line(self._loads.launcher.path.name), ""
        else:
            parts = (one_line(model.model.name), model.model.quantization)
            title, how = " · ".join(part for part in parts if part), f"\n{model.status()}"
        await self._transcript.notice(f"{title}{how}\n\n{self._keymap.welcome()}", "welcome")

    # ------------------------------------------------------------ conversations

    @work(group="open", exclusive=True)
    async def action_new_chat(self) -> None:
        await self._new_chat()

    async def _new_chat(self) -> None:
        """Begins a new conversation, with the same system prompt."""
        if await self.settle():
            self._warmth.left()
            self.chat = Chat(self.chat.conversation.system_prompt)
            await self._show_chat()
            self.set_focus(self._prompt)

    def action_conversations(self) -> None:
        def chosen(opened: Opened | None) -> None:
            if opened is not None:
                self._open(opened)

        self.app.push_screen(opening.conversations(self._store, self._keymap), chosen)

    @work(group="open", exclusive=True)
    async def _open(self, opened: Opened) -> None:
        """Shows a conversation, through the message that was found in it."""
        if not await self.settle():
            return
        other = opened.conversation_id != self.chat.conversation.id
        if other:
            try:
                conversation = await asyncio.to_thread(self._store.get, opened.conversation_id)
                messages = await asyncio.to_thread(self._store.messages, opened.conversation_id)
            except KvchatError as error:
                await self._transcript.notice(str(error), "error")
                return
            if conversation is None:
                return
            self._warmth.left()
            self.chat = Chat(None, conversation, messages)
            self._warmth.opened(self.chat)
        found = opened.message_id if opened.message_id in self.chat.tree else None
        if found is not None:
            self.chat.tree.show(found)
        if other:
            await self._show_chat()
            self._measure(count=True)
        elif found is not None:
            await self.show_again()
        if found is not None:
            self._transcript.mark(opened.words)
            self._transcript.scroll_to_item(Item(found))

    @work(group="forget")
    async def forget(self, conversation_id: str) -> None:
        """A conversation was deleted; if it is the open one, a new one begins."""
        self._warmth.read.forget(conversation_id)
        if conversation_id == self.chat.conversation.id:
            self._composing.moves_on()
            await self.action_new_chat().wait()

    # ------------------------------------------------------------ versions

    @work(group="open", exclusive=True)
    async def action_version(self, step: int) -> None:
        await self._show_version(step)

    async def _show_version(self, step: int) -> None:
        """Another version of the last message that has several."""
        tree, forked = self.chat.tree, self.chat.forked
        if forked is None:
            self._lines.say("no message has another version")
            return
        if not await self.settle():
            return
        there = tree.version(forked, step) or forked.id
        await self.show_through(there)
        self._lines.say(f"version {version_text(tree, tree[there])}")

    def action_branches(self) -> None:
        def chosen(message_id: str | None) -> None:
            if message_id is not None:
                self._show_through(message_id)

        self.app.push_screen(opening.branches(self.chat.tree, self._keymap), chosen)

    @work(group="open", exclusive=True)
    async def _show_through(self, message_id: str) -> None:
        if await self.settle():
            await self.show_through(message_id)

"""The Textual program: the chat, which loads the model, and an orderly end."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, ClassVar

from textual import events, work
from textual.app import App, SystemCommand
from textual.binding import BindingType
from textual.screen import Screen

from tui.answering.conversation import opened
from tui.keymap import Keymap, Place, Show
from tui.parachute import (
    CLOSE_SECONDS,
    END_SECONDS,
    KEEP_SECONDS,
    SAVE_SECONDS,
    SETTLE_SECONDS,
    Parachute,
)
from tui.ports import ModelLauncher, RunningModel
from tui.screens import opening
from tui.screens.bindings import bindings
from tui.screens.chat import ChatScreen
from tui.storage import Conversations, Recorder
from tui.when_full import Way
from tui.widgets.tones import tones
from tui.widgets.transcript import WIDTH
from tuner.engine.protocol import Sampling
from tuner.errors import ExitCode, KvchatError
from tuner.safe_text import pasted

if TYPE_CHECKING:
    from tui.screens.conversations import ConversationsScreen


ORDER_SECONDS = 0.5  # for which a key waits for those before it, should one of them hang


class KvchatApp(App[None]):
    """Loads the launcher's model and opens the chat. After `run()`, `return_code` is the exit
    status and `error` what went wrong, if anything did."""

    TITLE = "kvchat"
    CSS_PATH: ClassVar[list[str]] = [  # type: ignore[assignment]
        "styles/chat.tcss",
        "styles/messages.tcss",
        "styles/lists.tcss",
        "styles/compare.tcss",
        "styles/explorer.tcss",
    ]
    BINDINGS: ClassVar[list[BindingType]] = bindings(Place.APP)

    def __init__(
        self,
        launcher: ModelLauncher,
        store: Conversations,
        sampling: Sampling | None = None,
        system_prompt: str | None = None,
        resume: str | None = None,
        keymap: Keymap | None = None,
        warnings: Sequence[str] = (),
        parachute: Parachute | None = None,
        choose: bool = False,
        width: int = WIDTH,
        when_full: Way | None = None,
        idle_seconds: float | None = None,
    ):
        """`sampling`: in place of the launch's. `warnings`: what the user should hear once the
        chat is open. `parachute`: ends the program where leaving takes too long. `choose`: the
        settings are chosen in the fit explorer before anything is loaded. `width`: the most columns
        that text takes. `idle_seconds`: after which the model's memory is let go; None: never."""
        super().__init__()
        self.error: KvchatError | None = None
        self._launcher = launcher
        self._store = store
        self._sampling = sampling
        self._system_prompt = system_prompt
        self._resume = resume
        self._keys = keymap or Keymap()
        self._warnings = tuple(warnings)
        self._chat_screen: ChatScreen | None = None
        self._keys_screen: Screen[None] | None = None  # opened last
        self._leaving = False
        self._skip = asyncio.Event()  # what the model has read is not to be saved any more
        self._parachute = parachute
        self._choose = choose
        self._width = width
        self._when_full = when_full
        self._idle_seconds = idle_seconds
        self._recorder = Recorder(store, self._not_saved, self._saved_again)

    def get_css_variables(self) -> dict[str, str]:
        return super().get_css_variables() | tones(self.current_theme)

    @property
    def unsaved(self) -> str:
        """Why something of the conversation was not saved at the end; "" where all of it was."""
        return self._recorder.problem

    def _not_saved(self, problem: str) -> None:
        self.post_message(ChatScreen.NotSaved(problem))

    def _saved_again(self, word: str) -> None:
        self.post_message(ChatScreen.Saved(word))

    async def on_event(self, event: events.Event) -> None:
        if isinstance(event, events.Paste):
            event.text = pasted(event.text)
        await super().on_event(event)

    async def _check_bindings(self, key: str, priority: bool = False) -> bool:
        if priority and self._overtakes(key):
            await self._typed_before()
        return await super()._check_bindings(key, priority)

    def _overtakes(self, key: str) -> bool:
        """It is heard here, and not by the widget that has the focus, where keys wait in line."""
        return any(
            binding.priority
            for _, bindings in self.screen._binding_chain
            for binding in bindings.key_to_bindings.get(key, ())
        )

    async def _typed_before(self) -> None:
        """Waits until the keys that came before have done what they do: written what is to be
        cleared or sent, or asked for an answer that is to be stopped."""
        focused = self.focused or self.screen
        with suppress(TimeoutError):
            async with asyncio.timeout(ORDER_SECONDS):
                # The key itself, then what it says to those above: each has its own queue.
                for node in (focused, *focused.ancestors_with_self):
                    done = asyncio.Event()
                    if node is not self and node.call_later(done.set):
                        await done.wait()

    async def on_mount(self) -> None:
        self.set_keymap(self._keys.for_textual())
        if self._choose:
            self._explore()
        else:
            await self._begin()

    @work(group="explore")
    async def _explore(self) -> None:
        """Asks how to load the model, then loads it."""
        screen = opening.explorer(self._launcher.explorer, self._keys)
        choice = await self.push_screen_wait(screen)
        if choice is None:
            self.error = screen.error
            await self._leave(self.error.exit_code if self.error else ExitCode.OK)
        else:
            self._launcher.choose(choice.settings, keep=choice.keep)
            await self._begin()

    async def _begin(self) -> None:
        """Opens the chat, which loads the model."""
        chat, problem = await asyncio.to_thread(
            opened, self._store, self._system_prompt, self._resume
        )
        self._chat_screen = ChatScreen(
            self._launcher,
            chat,
            self._store,
            self._recorder,
            self._sampling,
            self._keys,
            warnings=(problem, *self._warnings),
            width=self._width,
            when_full=self._when_full,
            idle_seconds=self._idle_seconds,
        )
        await self.push_screen(self._chat_screen)

    def on_chat_screen_not_saved(self, message: ChatScreen.NotSaved) -> None:
        if self._chat_screen is not None:
            self._chat_screen.show_problem(message.problem)

    def on_chat_screen_saved(self, message: ChatScreen.Saved) -> None:
        if self._chat_screen is not None:
            self._chat_screen.show_saved(message.word)

    def on_conversations_screen_deleted(self, message: ConversationsScreen.Deleted) -> None:
        if self._chat_screen is not None:
            self._chat_screen.forget(message.conversation_id)

    def leave_by_signal(self) -> None:
        """The system or another program wants it to end. On the screen's thread."""
        self.run_worker(self._leave(ExitCode.INTERRUPTED), group="leave")

    async def action_quit(self) -> None:
        """Stops, saves, closes the model, ends. Within a second or two, whatever hangs; what a long
        conversation's state takes longer, another quit skips."""
        screen = self._chat_screen
        if screen is not None and screen.load_error is not None:
            self.error = screen.load_error
            await self._leave(self.error.exit_code)
        else:
            there_was_one = screen is not None and screen.running_model is not None
            await self._leave(ExitCode.OK if there_was_one else ExitCode.INTERRUPTED)

    async def _leave(self, exit_code: int) -> None:
        if self._leaving:
            self._skip.set()
            return
        self._leaving = True
        self._arm(SETTLE_SECONDS + CLOSE_SECONDS + END_SECONDS, exit_code)
        screen, model = self._chat_screen, None
        if screen is not None:
            model = await screen.finish(SETTLE_SECONDS)
        if screen is not None and screen.keeps_read():
            self._arm(KEEP_SECONDS + CLOSE_SECONDS + END_SECONDS, exit_code)
            # In a worker, so that keys are heard meanwhile.
            self.run_worker(self._end(model, exit_code, screen), group="leave")
        else:
            await self._end(model, exit_code)

    async def _end(
        self, model: RunningModel | None, exit_code: int, keeping: ChatScreen | None = None
    ) -> None:
        """Closes the model and ends. `keeping`: which saves what the model has read."""
        if keeping is not None:
            await keeping.read_kept(KEEP_SECONDS, self._skip)
            self._arm(CLOSE_SECONDS + END_SECONDS, exit_code)
        if model is None:
            self._launcher.kill()
        else:
            try:
                async with asyncio.timeout(CLOSE_SECONDS):
                    await asyncio.to_thread(model.close)
            except (TimeoutError, KvchatError):
                pass  # the model process ends with this one
        self._arm(SAVE_SECONDS, exit_code)
        await asyncio.to_thread(self._recorder.close)
        self._arm(END_SECONDS, exit_code)
        self.exit(return_code=int(exit_code))

    def _arm(self, seconds: float, exit_code: int) -> None:
        if self._parachute is not None:
            self._parachute.arm(seconds, int(exit_code))

    def action_keys(self) -> None:
        """Shows all keys, or goes back from there."""
        if self.screen is self._keys_screen:
            self.screen.dismiss()
        else:
            self._keys_screen = opening.keys(self._keys)
            self.push_screen(self._keys_screen)

    def get_system_commands(self, screen: Screen[object]) -> Iterable[SystemCommand]:
        for row in self._keys.shown(Show.PALETTE, Place.CHAT, Place.APP):
            target = self if row.place is Place.APP else screen
            if target is self or isinstance(screen, ChatScreen):
                run = partial(self.run_action, row.action, target)
                yield SystemCommand(row.title, f"{row.does[:-1]} ({self._keys.label(row.id)})", run)
        for command in super().get_system_commands(screen):
            if command.title == "Theme":
                yield command

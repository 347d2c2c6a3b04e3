"""One question answered under two settings, side by side."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Protocol

from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Container, Vertical
from textual.screen import Screen
from textual.widgets import Input

from tui.answering import Chat, Growing, advice
from tui.answering.comparing import EXAMPLE, Setting, setting_of, trial, with_system_prompt
from tui.answering.differing import Spans, differences
from tui.answering.figures import figures
from tui.answering.generation import Generation
from tui.answering.words import version_text
from tui.keymap import Keymap, Place, Show
from tui.painting import Answering
from tui.ports import RunningModel
from tui.screens.bindings import bindings
from tui.screens.lines import load_text
from tui.screens.loads import Loads
from tui.storage import StoredMessage
from tui.widgets import ActivityLine, Hints, Plain, Transcript
from tui.widgets.keystrokes import Keystrokes
from tuner.errors import KvchatError, UsageError
from tuner.safe_text import one_line
from tuner.sampling import Sampling
from tuner.settings import Settings

LOOK_SECONDS = 0.1  # between two looks at a load
CHARS = 400  # of the question that are shown
SIDES = ("left", "right")


class Talk(Protocol):
    """What of the chat this needs."""

    @property
    def chat(self) -> Chat: ...
    def usual_sampling(self) -> Sampling: ...
    def save_changes(self, *messages: StoredMessage) -> None: ...
    async def show_again(self, message_id: str | None = None) -> None: ...
    def ask_aside(self, generation: Generation) -> None:
        """Runs it once the model has time for it. In a thread."""

    async def explain(self, model: RunningModel, error: KvchatError) -> None:
        """An answer failed: says so in the chat, and how it goes on there."""


class Column(Vertical):
    """How an answer is asked for, the answer, and how it came."""

    def __init__(self, words: str):
        super().__init__()
        self.field = Input(words, placeholder=EXAMPLE, select_on_focus=False, compact=True)
        self.transcript = Transcript()
        self.line = ActivityLine()
        self.answering = Answering(self.transcript, None, Keystrokes())
        self.setting: Setting | None = None  # of the answer
        self.growing: Growing | None = None

    def compose(self) -> ComposeResult:
        yield self.field
        yield self.transcript
        yield self.line

    @property
    def answer(self) -> StoredMessage | None:
        """The answer that is there, whole or stopped; None: none is, or it is being written."""
        growing = self.growing
        if growing is None or self.answering.active or not growing.answer.content.strip():
            return None
        return growing.answer

    async def clear(self) -> None:
        """Takes the answer away."""
        self.growing = self.setting = None
        self.line.activity = ""
        self.transcript.mark_differing({})
        await self.transcript.show(())

    async def ask(
        self,
        asked: Chat,
        model: RunningModel,
        setting: Setting,
        think: str,
        run: Callable[[Generation], None],
    ) -> KvchatError | None:
        """Has it answered by `run`, in a thread; what went wrong, if anything did."""
        painter = await self.answering.begin(asked, model, setting.sampling, think)
        self.setting, self.growing = setting, painter.growing
        generation = painter.growing.generation
        self.run_worker(partial(run, generation), thread=True, group="engine")
        try:
            await painter.run(self.line)
        finally:
            self.answering.end()
        self.line.activity = figures(painter.growing.answer)
        for notice in generation.notices:
            await self.transcript.notice(notice, "warning")
        if generation.error is not None:
            await self.transcript.notice(str(generation.error), "error")
        return generation.error


class CompareScreen(Screen[None]):
    """The two are asked for one after the other. Where they differ in the types of the cache, the
    model is loaded again before the second, and as it was afterwards."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Place.COMPARE)

    HORIZONTAL_BREAKPOINTS = [(0, "-narrow"), (100, "-wide")]  # noqa: RUF012

    def __init__(
        self,
        talk: Talk,
        loads: Loads,
        path: Sequence[StoredMessage],
        think: str,
        keymap: Keymap,
    ):
        """`path`: what leads to the question, which is its last message. `think`: the level of
        thinking. The model must be loaded."""
        super().__init__()
        self._talk, self._loads = talk, loads
        self._path, self._think, self._keymap = path, think, keymap
        words = self._usual().words
        self._columns = (Column(words), Column(words))
        self._line = ActivityLine()
        self._busy = self._stopped = self._going_back = False

    # ------------------------------------------------------------ layout

    def compose(self) -> ComposeResult:
        yield Plain(one_line(self._path[-1].content[:CHARS]), id="compare-question")
        yield Container(*self._columns, id="compare")
        yield self._line
        yield Hints()

    def on_mount(self) -> None:
        self.query_one(Hints).keys = self._keymap.hints(Show.IDLE, Place.COMPARE)
        self._columns[1].field.focus()
        self._say(f"for example: {EXAMPLE}")

    def on_unmount(self) -> None:
        # However the program ends, no thread may wait for the engine.
        for column in self._columns:
            column.answering.stop()

    def _say(self, text: str) -> None:
        self._line.activity = text

    def _usual(self) -> Setting:
        """How the chat would ask."""
        model, conversation = self._model, self._talk.chat.conversation
        cache = model.settings
        usual = self._talk.usual_sampling()
        return Setting(usual, conversation.system_prompt, cache.type_k, cache.type_v)

    @property
    def _model(self) -> RunningModel:
        model = self._loads.model
        assert model is not None
        return model

    # ------------------------------------------------------------ asking

    def action_run(self) -> None:
        if self._busy:
            self._say(f"still answering · {self._keymap.label('compare.leave')} stops it")
            return
        if not self._loads.ready:
            self._say("the model is not loaded")
            return
        settings: list[Setting] = []
        for side, column in zip(SIDES, self._columns, strict=True):
            try:
                settings.append(setting_of(column.field.value, self._usual()))
            except UsageError as error:
                column.field.focus()
                self._say(f"{side}: {error}")
                return
        self._busy, self._stopped = True, False
        self._compare(settings)

    @work(group="compare")
    async def _compare(self, settings: Sequence[Setting]) -> None:
        before = self._model.settings
        try:
            for column in self._columns:
                await column.clear()
            said = ""
            for column, setting in zip(self._columns, settings, strict=True):
                said = await self._ask(column, setting, before)
                if said:
                    break
            self._going_back = True
            if self._loads.ready:
                said = await self._load(before, None) or said
            found = await self._mark()
            self._say(" · ".join(part for part in (said, found) if part))
        finally:
            self._busy = self._going_back = False

    async def _ask(self, column: Column, setting: Setting, before: Settings) -> str:
        """Loads what it takes and has the question answered; why that is all, if it is. `before`:
        as the chat has the model."""
        if said := await self._load(setting.loaded(before), before):
            return said
        if self._stopped:
            return "stopped"
        self._say(f"{self._keymap.label('compare.leave')} stops it")
        model = self._model
        asked = trial(self._talk.chat.conversation, self._path, setting)
        error = await column.ask(asked, model, setting, self._think, self._talk.ask_aside)
        if error is not None and advice.is_death(error):
            await self._talk.explain(model, error)
        if error is not None:
            return str(error)
        return "stopped" if self._stopped else ""

    async def _load(self, settings: Settings, before: Settings | None) -> str:
        """Loads the model with these types of K and V, unless it is, or else those from `before`;
        why it is not, if so. On the way back there are no others: a cancelled load is no model, and
        the next one is the chat's own."""
        if _types(self._model.settings) == _types(settings):
            return ""
        self._loads.start(partial(self._model.try_out, settings, before))
        while self._loads.active:
            self._say(load_text(self._loads, self._keymap.label("compare.leave")))
            await asyncio.sleep(LOOK_SECONDS)
        if not self._loads.ready:
            return str(self._loads.error or "the load was cancelled")
        if _types(self._model.settings) != _types(settings):
            return self._loads.said or "the model is loaded with another cache"
        return ""

    async def _mark(self) -> str:
        """Marks where the answers differ, and says how far they do; "" where there are not two.
        They are read from the top."""
        if not all(column.answer for column in self._columns):
            return ""
        sides = [column.transcript.answer_lines() for column in self._columns]
        left, right = ([text for _, text in lines] for lines in sides)
        found = await asyncio.to_thread(differences, left, right)
        for column, lines, spans in zip(
            self._columns, sides, (found.left, found.right), strict=True
        ):
            column.transcript.mark_differing(_by_number(lines, spans))
            await column.transcript.to_start()
        return str(found)

    # ------------------------------------------------------------ actions

    def action_leave(self) -> None:
        """Stops what is asked for, or goes back; on the way back to the model as it was, at
        once."""
        if not self._busy or self._going_back:
            self.dismiss()
        elif not self._stopped:
            self._stopped = True
            if not self._loads.stop():
                for column in self._columns:
                    column.answering.stop()
            self._say("stopping")

    def action_interrupt(self) -> None:
        selected = self.get_selected_text()
        if selected:
            self.app.copy_to_clipboard(selected)
            self.clear_selection()
            self._say("copied")
        else:
            self.action_leave()

    def action_switch(self) -> None:
        left, right = self._columns
        (left if self.focused is right.field else right).field.focus()

    def action_page(self, direction: int) -> None:
        for column in self._columns:
            rows = max(1, column.transcript.size.height - 2)
            column.transcript.scroll_relative(y=direction * rows, animate=False)

    async def action_keep(self, side: int) -> None:
        column, chat = self._columns[side], self._talk.chat
        answer, setting = column.answer, column.setting
        if answer is None or setting is None:
            writes = column.answering.active
            self._say("it is still being written" if writes else f"nothing is at the {SIDES[side]}")
        else:
            if answer.id not in chat.tree:
                if setting.system_prompt != chat.conversation.system_prompt:
                    answer = with_system_prompt(answer, setting)
                self._talk.save_changes(chat.keep(answer))
                await self._talk.show_again()
            self._say(f"kept in the conversation {version_text(chat.tree, answer)}")


def _types(settings: Settings) -> tuple[str, str]:
    return settings.type_k, settings.type_v


def _by_number(lines: Sequence[tuple[int, str]], spans: Spans) -> Spans:
    """The spans by the numbers that the transcript gives its lines."""
    return {lines[n][0]: found for n, found in spans.items()}

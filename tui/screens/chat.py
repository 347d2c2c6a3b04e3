"""The chat's own screen: its keys, how it opens and how it ends."""

from __future__ import annotations

import asyncio
import gc
from dataclasses import dataclass
from functools import partial
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.widgets import Tooltip

from tui.answering.shaping import of_tokens, of_types
from tui.composing.commands import UnknownCommandError
from tui.keymap import Action, Place
from tui.ports import RunningModel
from tui.screens import opening
from tui.screens.bindings import bindings
from tui.screens.model import ModelScreen
from tui.screens.weighing import Weighing
from tui.widgets import Prompt, Transcript
from tui.widgets.reading.warming import warm_up
from tuner.errors import UsageError

VRAM_SECONDS = 2.0
BALANCE_SECONDS = 4.0  # between two looks at what other programs take
QUIT_SECONDS = 3.0  # within which the second Ctrl+C must come
LOAD_SECONDS = 1.0  # between two looks at whether a load gets on


class ChatScreen(ModelScreen):
    """It is open while the model loads: what is sent then is answered when the model is there."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Place.CHAT)

    VERTICAL_BREAKPOINTS = [(0, "-short"), (14, "-tall")]  # noqa: RUF012

    @dataclass(eq=False)
    class NotSaved(Message):
        """A conversation could not be saved. Sent to the app, from any thread."""

        problem: str

    class Saved(Message):
        """Saving works again, or the store has something to say, which "" is not. Sent to the
        app, from any thread."""

        def __init__(self, word: str) -> None:
            super().__init__()
            self.word = word

    def compose(self) -> ComposeResult:
        yield self._transcript
        lines = self._lines
        prompt, notes = self._prompt, self._composing.notes
        below = (prompt.offers, prompt, lines.status, lines.hints)
        yield Vertical(lines.activity, self._full, notes, *below, id="bottom")

    async def on_mount(self) -> None:
        # Tooltips are drawn as markup, and a table's are the model's own text.
        await self.query(Tooltip).remove()
        self._changing.start()
        await self._show_chat()
        await self._warn(*self._warnings)
        self._prompt.focus()
        self.set_interval(VRAM_SECONDS, self._measure)
        self.set_interval(LOAD_SECONDS, self._tell_of_a_standstill)
        self.set_interval(LOAD_SECONDS, self._rest_in_time)
        self.set_interval(BALANCE_SECONDS, self._look_around)
        self.once_drawn(partial(self.run_worker, warm_up, thread=True, group="lexers"))
        gc.freeze()  # what is there stays: collections need not walk it

    def on_unmount(self) -> None:
        # However the program ends, no thread may wait for the engine.
        self._answering.stop()
        self._loads.stop()
        self._present.close()
        self._warmth.read.close()
        gc.unfreeze()

    def show_problem(self, problem: str) -> None:
        """Why the conversation is not saved now."""
        self._lines.saved = False
        self.run_worker(self._transcript.notice(problem, "warning"))

    def show_saved(self, word: str) -> None:
        """All of the conversation is saved; `word`: what the store says of it, if anything."""
        self._lines.saved = self._store.saved and not self._recorder.problem
        if word:
            self.run_worker(self._transcript.notice(word, "warning"))

    async def finish(self, seconds: float) -> RunningModel | None:
        """Stops, within `seconds`, and saves; the model that is to be closed, if there is one."""
        self._leaving = True
        self._composing.keep()
        await self.settle(seconds)
        if self._loads.active:  # nothing waits for what it has not begun to do
            self._loads.launcher.kill()
        return self.running_model

    def keeps_read(self) -> bool:
        """Begins to save what the model has read, or goes on with it; False: there is nothing to
        save."""
        keeps = self._warmth.begin_to_keep()
        if keeps:
            self._tell_of_warmth()
        return keeps

    async def read_kept(self, seconds: float, skip: asyncio.Event) -> None:
        """Waits until it is saved, so long at most."""
        await self._warmth.kept(seconds, skip)

    # ------------------------------------------------------------ what is written

    def on_text_area_changed(self) -> None:
        self._warmth.idle.done()
        self._full.draft_changed()
        self._composing.changed()

    def on_prompt_said(self, message: Prompt.Said) -> None:
        self._lines.say(message.text)

    async def on_prompt_submitted(self) -> None:
        if self._leaving:
            return
        try:
            command = self._composing.command()
        except UnknownCommandError as problem:
            self._lines.say(str(problem))
            return
        if command is not None:
            self._prompt.wipe()
            await self._run(*command)
        elif self.still_answering():
            return
        elif self._loads.active and self._sent:
            self._lines.say("what was sent before is answered first")
        elif not (self._loads.active or self._loads.ready or self._loads.rests):
            key = self._key("model.reload")
            self._lines.say(f"the model is not running · {key} loads it")
        elif (question := self._composing.question()) is not None:
            await self._send(question)

    async def on_weighing_weighed(self, message: Weighing.Weighed) -> None:
        question = self._composing.weighed(message.weight)
        if question is not None and not self.generating:
            await self._send(question)

    async def _run(self, command: Action, rest: str) -> None:
        """Does what a command names, where its key would; `rest`: what follows it."""
        if rest:
            self._reshape(command.id, rest)
            return
        of = {Place.APP: self.app, Place.PROMPT: self._prompt}.get(command.place, self)
        await self.app.run_action(command.action, of)

    def action_edit(self) -> None:
        self._composing.edit()

    def action_history(self) -> None:
        """Searches what was asked before."""
        asked = self._prompt.asked

        def chosen(question: str | None) -> None:
            if question is not None:
                self._prompt.recall(question)
                self.set_focus(self._prompt)

        screen = opening.history(asked(everywhere=False), asked(everywhere=True), self._keymap)
        self.app.push_screen(screen, chosen)

    def action_context(self) -> None:
        """Shows what fills the context, and the ways to room in it."""
        self._full.choose()

    def _reshape(self, action_id: str, asked: str) -> None:
        """Gives the cache another shape, as it is asked for after a command."""
        try:
            shape = {"model.context": of_tokens, "model.cache": of_types}[action_id](asked)
        except UsageError as error:
            self._lines.say(str(error))
            return
        self._changing.shape(shape)

    def action_cache(self) -> None:
        """Says what shapes the cache could have."""
        self._changing.tell_shapes()

    # ------------------------------------------------------------ answers

    def action_stop(self) -> None:
        if self._answering.stop():
            self._lines.doing("stopping")
        elif self._loads.stop():
            self._lines.say_load()
        elif self._rewritten is not None:
            self._rewrite(None)
            self._lines.say("a new question")
        else:
            self._full.later()

    async def action_interrupt(self) -> None:
        selected = self.get_selected_text() or self._prompt.selected_text
        if selected:
            self.app.copy_to_clipboard(selected)
            self.clear_selection()
            self._lines.say("copied")
        elif self.generating:
            self.action_stop()
        elif self._prompt.wipe():
            self._rewrite(None)
            self._lines.say(f"cleared · {self._key('prompt.undo')} brings it back")
        elif self._quit_asked:
            await self.app.action_quit()
        else:
            self._quit_asked = True
            self._lines.say(f"{self._key('chat.interrupt')} again quits")
            self.set_timer(QUIT_SECONDS, self._forget_quit)

    def _forget_quit(self) -> None:
        self._quit_asked = False
        if not self.generating:
            self._lines.idle()

    @work(group="regenerate", exclusive=True)
    async def action_regenerate(self) -> None:
        if not await self._may_answer():
            return
        if self.chat.path and self.chat.path[-1].role == "assistant":
            await self.ask_again(self.chat.path[-1])
        elif self.chat.waits_for_answer:
            await self._transcript.clear_notices()
            await self._answer()

    @work(group="regenerate", exclusive=True)
    async def action_go_on(self) -> None:
        if not await self._may_answer():
            return
        if not self.chat.may_go_on:
            self._lines.say("the last answer is whole")
            return
        await self._transcript.clear_notices()
        await self._answer(go_on=True)

    def action_think(self) -> None:
        """The next of the levels of thinking that the template offers."""
        model = self.running_model
        if model is None:
            self._lines.say("the model is not loaded yet")
            return
        levels = model.think_levels
        if not levels:
            self._lines.say("this model's template offers no choice of thinking")
            return
        now = self._lines.thinking(self._think)
        after = levels.index(now) + 1 if now in levels else 0
        self._think = levels[after % len(levels)]
        self._lines.status.change(think=self._lines.thinking(self._think))
        remember = partial(model.remember_think, self._think)
        self.run_worker(remember, thread=True, group="think", exclusive=True)
        self._lines.say(f"thinking {self._think}, from the next answer on")

    def action_copy_answer(self) -> None:
        answer = self.chat.last_answer
        if answer is None:
            self._lines.say("there is no answer to copy")
        else:
            self.app.copy_to_clipboard(answer.content)
            self._lines.say("answer copied")

    def action_compare(self) -> None:
        self.compare()

    # ------------------------------------------------------------ the transcript

    def action_to_messages(self) -> None:
        if self.focused is self._transcript:
            self._transcript.action_move_message(-1)
        else:
            self.set_focus(self._transcript)  # now: the next key is for a message

    def action_details(self) -> None:
        lines = self._lines
        self.app.push_screen(opening.details(lines.session, lines.status, self._keymap))

    def action_page(self, direction: int) -> None:
        rows = max(1, self._transcript.size.height - 2)
        self._transcript.scroll_relative(y=direction * rows, animate=False)

    def action_fold_thought(self) -> None:
        if not self._transcript.fold():
            self._lines.say("no thought is in this conversation")

    def action_wrap_code(self) -> None:
        wrapped = self._transcript.wrap_code()
        self._lines.say(f"long lines of code are {'wrapped' if wrapped else 'cut'}")

    def action_shift_code(self, direction: int) -> None:
        if not self._transcript.shift_code(direction):
            self._lines.say("no line in view is longer than the screen")

    async def action_to_start(self) -> None:
        await self._transcript.to_start()

    async def action_to_end(self) -> None:
        await self._transcript.to_end()

    def on_transcript_moved(self) -> None:
        self.update_below()

    def on_transcript_link_clicked(self, event: Transcript.LinkClicked) -> None:
        self._links.clicked(self.app, event.href)

    async def on_activity_line_below_clicked(self) -> None:
        await self.action_to_end()

    # ------------------------------------------------------------ the model

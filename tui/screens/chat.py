"""The chat: what the user asks, what the model answers, and what happens in between."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial
from typing import ClassVar

from textual import work
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Vertical
from textual.message import Message
from textual.screen import Screen
from textual.widgets import Markdown, Tooltip

from tui.answering import Answering, Chat, Painter
from tui.keymap import Keymap, Place, Show
from tui.ports import RunningModel
from tui.screens import advice
from tui.screens.bindings import bindings
from tui.screens.conversations import ConversationsScreen
from tui.screens.explorer import Choice, ExplorerScreen
from tui.screens.garbage import RareCollections
from tui.screens.links import Links
from tui.screens.measuring import Measuring
from tui.screens.reloading import Reloading
from tui.screens.report import ReportScreen
from tui.status import Status
from tui.storage import Conversations, Recorder
from tui.widgets import ActivityLine, Hints, Prompt, StatusLine, Transcript
from tuner.engine.protocol import Sampling
from tuner.engine.thinking import nearest
from tuner.errors import KvchatError
from tuner.safe_text import one_line

VRAM_SECONDS = 2.0
TIDY_SECONDS = 1.0
STOP_SECONDS = 12.0  # more than the engine's client itself waits before it ends the process
KILL_SECONDS = 2.0  # for what was written to be saved, after the process was ended
QUIT_SECONDS = 3.0  # within which the second Ctrl+C must come
_NOT_SAVED = "not saved"


class ChatScreen(Screen[None]):
    """Everything here runs on the screen's thread; what blocks goes to thread workers, whose
    results come back as messages."""

    BINDINGS: ClassVar[list[BindingType]] = bindings(Place.CHAT)

    VERTICAL_BREAKPOINTS = [(0, "-short"), (14, "-tall")]  # noqa: RUF012

    class NotSaved(Message):
        """A conversation could not be saved. Sent to the app, from any thread."""

        def __init__(self, problem: str) -> None:
            super().__init__()
            self.problem = problem

    class Saved(Message):
        """Saving works again, or the store has something to say, which "" is not. Sent to the
        app, from any thread."""

        def __init__(self, word: str) -> None:
            super().__init__()
            self.word = word

    def __init__(
        self,
        running: RunningModel,
        chat: Chat,
        store: Conversations,
        recorder: Recorder,
        sampling: Sampling,
        keymap: Keymap,
        *,
        warnings: Sequence[str] = (),
    ):
        super().__init__()
        self.running_model = running
        self.chat = chat
        self._store = store
        self._recorder = recorder
        self._sampling = sampling
        self._think = running.think
        self._keymap = keymap
        self._warnings = (*warnings, store.warning or "", *running.warnings)
        self._transcript = Transcript()
        self._activity = ActivityLine()
        self._prompt = Prompt(keymap, placeholder="Write a message")
        self._status = StatusLine()
        self._hints = Hints()
        self._answering = Answering(self._transcript, recorder, self._prompt.keystrokes)
        self._dead = False
        self._measuring = Measuring(self)
        self._reloading = Reloading(self)
        self._quit_asked = False
        self._saved = store.saved
        self._garbage = RareCollections()
        self._links = Links()

    @property
    def generating(self) -> bool:
        """An answer is being written."""
        return self._answering.active

    # ------------------------------------------------------------ layout

    def compose(self) -> ComposeResult:
        yield self._transcript
        yield Vertical(self._activity, self._prompt, self._status, self._hints, id="bottom")

    async def on_mount(self) -> None:
        # Tooltips are drawn as markup, and a table's are the model's own text.
        await self.query(Tooltip).remove()
        self._set_status()
        await self._show_chat()
        for warning in self._warnings:
            if warning:
                await self._transcript.notice(warning, "warning")
        self._idle()
        self._prompt.focus()
        self.set_interval(VRAM_SECONDS, self._measure)
        self.set_interval(TIDY_SECONDS, self._tidy)
        self._garbage.begin()
        self._measure(count=bool(self.chat.path))

    def on_unmount(self) -> None:
        # However the program ends, no thread may wait for the engine.
        self._answering.stop()
        self._garbage.end()

    async def _show_chat(self) -> None:
        await self._transcript.show(self.chat.path)
        self._prompt.set_history([m.content for m in self.chat.path if m.role == "user"])
        if not self.chat.path:
            model = self.running_model.model
            name = " · ".join(part for part in (one_line(model.name), model.quantization) if part)
            await self._transcript.notice(
                f"{name}\n{self.running_model.status()}\n\n{self._keymap.welcome()}", "welcome"
            )
        last = self.chat.last_answer
        self._status.change(
            n_ctx_used=last.n_ctx_used if last else None,
            tokens_per_second=last.tokens_per_second if last else None,
        )

    # ------------------------------------------------------------ the lines below

    def _key(self, action_id: str) -> str:
        return self._keymap.label(action_id)

    def _set_status(self) -> None:
        model, settings = self.running_model.model, self.running_model.settings
        self._status.status = Status(
            model=one_line(model.name),
            settings=self.running_model.status(),
            think=self._thinking,
            n_ctx=settings.n_ctx,
        )

    @property
    def _thinking(self) -> str:
        """The level of thinking of the next answer; "" where there is no choice or none was made
        and the template's own has no name."""
        levels, usual = self.running_model.think_levels, self.running_model.usual_think
        return nearest(self._think, levels, usual) or (usual if levels else "")

    def _measure(self, count: bool = False) -> None:
        prompt = self.chat.prompt() if count else None
        self._measuring.start(self.running_model, prompt, self._think)

    def on_measuring_measured(self, message: Measuring.Measured) -> None:
        self._status.change(vram=message.vram)
        if message.n_ctx_used is not None and not self.generating:
            self._status.change(n_ctx_used=message.n_ctx_used)

    def _idle(self) -> None:
        """Shows what can be done now."""
        self._idle_activity()
        self._hint(Show.DEAD if self._dead else Show.IDLE)

    def _idle_activity(self) -> None:
        self._activity.activity = "" if self._saved else _NOT_SAVED

    def _hint(self, where: Show) -> None:
        self._hints.keys = self._keymap.hints(where, Place.CHAT, Place.PROMPT, Place.APP)

    def on_transcript_trimmed(self) -> None:
        self._garbage.let_go()

    def _tidy(self) -> None:
        if not self.generating and not self._prompt.keystrokes.expected:
            self._garbage.idle()

    def on_transcript_moved(self) -> None:
        self.update_below()

    def update_below(self) -> None:
        """The marker that there is more text below the view."""
        at_end = self._transcript.at_end
        new = "new text" if self.generating else "more"
        self._activity.below = "" if at_end else f"↓ {new} below · {self._key('view.end')}"

    def on_markdown_link_clicked(self, event: Markdown.LinkClicked) -> None:
        event.stop()
        self._links.clicked(self.app, event.href)

    async def on_activity_line_below_clicked(self) -> None:
        await self.action_to_end()

    def show_problem(self, problem: str) -> None:
        """Why the conversation is not saved now."""
        self._saved = False
        self._activity.activity = _NOT_SAVED
        self.run_worker(self._transcript.notice(problem, "warning"))

    def show_saved(self, word: str) -> None:
        """All of the conversation is saved; `word`: what the store says of it, if anything."""
        self._saved = self._store.saved and not self._recorder.problem
        if self._saved and self._activity.activity == _NOT_SAVED:
            self._idle_activity()
        if word:
            self.run_worker(self._transcript.notice(word, "warning"))

    # ------------------------------------------------------------ asking and answering

    async def on_prompt_submitted(self) -> None:
        if self.generating:
            self._activity.activity = f"still answering · {self._key('answer.stop')} stops it"
        elif self._reloading.active:
            self._activity.activity = f"still loading · {self._key('answer.stop')} cancels"
        elif self._dead:
            key = self._key("model.reload")
            self._activity.activity = f"the model is not running · {key} loads it again"
        else:
            message = self.chat.add_user(self._prompt.take())
            self._recorder.save(self.chat.record(), message)
            await self._transcript.clear_notices()
            await self._transcript.add(message)
            await self._answer()

    async def _answer(self) -> None:
        """Lets the model answer the conversation as it stands."""
        painter = await self._answering.begin(
            self.chat, self.running_model, self._sampling, self._think
        )
        self._hint(Show.ANSWERING)
        self.run_worker(painter.generation.run, thread=True, group="engine")
        self.run_worker(self._write(painter), group="painter")

    async def _write(self, painter: Painter) -> None:
        try:
            await painter.run(self._activity)
            await self._finish_answer(painter)
        finally:
            self._answering.end()
            self._idle()
            self.update_below()

    async def _finish_answer(self, painter: Painter) -> None:
        generation, answer = painter.generation, painter.answer
        done, error = generation.done, generation.error
        for notice in generation.notices:
            await self._transcript.notice(notice, "warning")
        if answer.content.strip() or answer.reasoning or (error is None and generation.stopped):
            self._recorder.save(self.chat.record(), answer)
        else:  # nothing came: the question waits for another try
            self.chat.drop_answer()
            await self._transcript.drop_last()
            if error is None:
                again = f"{self._key('answer.regenerate')} asks it again"
                await self._transcript.notice(f"The model said nothing. {again}.")
        if done is not None:
            self._status.change(
                settings=self.running_model.status(),
                n_ctx_used=answer.n_ctx_used,
                tokens_per_second=answer.tokens_per_second,
            )
            if done.reason == "context_full":
                await self._context_full("The context is full: the answer ends here")
        if error is not None:
            await self._explain(error)

    async def _explain(self, error: KvchatError) -> None:
        if error.kind == "context_full":
            await self._context_full("The conversation no longer fits the context")
        else:
            self._dead = advice.is_death(error)
            text = advice.failure(error, self.running_model, self._keymap)
            await self._transcript.notice(text, "error")

    async def _context_full(self, what: str) -> None:
        text = advice.context_full(what, self.running_model, self._keymap)
        await self._transcript.notice(text, "warning")

    async def _settle(self, seconds: float = STOP_SECONDS) -> bool:
        """Stops what is being written and waits until it is saved; a process that does not stop
        within `seconds` is killed. False: even that did not end it."""
        if self.generating:
            self._activity.activity = "stopping"
        if await self._answering.settle(seconds):
            return True
        self.running_model.kill()
        return await self._answering.settle(KILL_SECONDS)

    async def finish(self, seconds: float) -> RunningModel:
        """Stops, within `seconds`, and saves; the model that is to be closed."""
        await self._settle(seconds)
        return self.running_model

    # ------------------------------------------------------------ actions

    def action_stop(self) -> None:
        if self._answering.stop() or self._reloading.stop():
            self._activity.activity = "stopping"

    async def action_interrupt(self) -> None:
        selected = self.get_selected_text() or self._prompt.selected_text
        if selected:
            self.app.copy_to_clipboard(selected)
            self.clear_selection()
            self._activity.activity = "copied"
        elif self.generating:
            self.action_stop()
        elif self._quit_asked:
            await self.app.action_quit()
        else:
            self._quit_asked = True
            self._activity.activity = f"{self._key('chat.interrupt')} again quits"
            self.set_timer(QUIT_SECONDS, self._forget_quit)

    def _forget_quit(self) -> None:
        self._quit_asked = False
        if not self.generating:
            self._idle()

    @work(group="open", exclusive=True)
    async def action_new_chat(self) -> None:
        if not await self._settle():
            return
        self.chat = Chat(self.chat.conversation.system_prompt)
        await self._show_chat()
        self._prompt.focus()

    @work(group="regenerate", exclusive=True)
    async def action_regenerate(self) -> None:
        if not await self._settle() or self._dead:
            return
        if self.chat.drop_answer() is not None:
            await self._transcript.drop_last()
        if self.chat.waits_for_answer:
            await self._transcript.clear_notices()
            await self._answer()

    def action_conversations(self) -> None:
        def chosen(conversation_id: str | None) -> None:
            if conversation_id is not None and conversation_id != self.chat.conversation.id:
                self._open(conversation_id)

        self.app.push_screen(ConversationsScreen(self._store, self._keymap), chosen)

    @work(group="open", exclusive=True)
    async def _open(self, conversation_id: str) -> None:
        if not await self._settle():
            return
        try:
            conversation = await asyncio.to_thread(self._store.get, conversation_id)
            messages = await asyncio.to_thread(self._store.messages, conversation_id)
        except KvchatError as error:
            await self._transcript.notice(str(error), "error")
            return
        if conversation is not None:
            self.chat = Chat(None, conversation, messages)
            await self._show_chat()
            self._measure(count=True)

    @work(group="forget")
    async def forget(self, conversation_id: str) -> None:
        """A conversation was deleted; if it is the open one, a new one begins."""
        if conversation_id == self.chat.conversation.id:
            await self.action_new_chat().wait()

    def action_think(self) -> None:
        """The next of the levels of thinking that the template offers."""
        levels = self.running_model.think_levels
        if not levels:
            self._activity.activity = "this model's template offers no choice of thinking"
            return
        now = self._thinking
        after = levels.index(now) + 1 if now in levels else 0
        self._think = levels[after % len(levels)]
        self._status.change(think=self._thinking)
        remember = partial(self.running_model.remember_think, self._think)
        self.run_worker(remember, thread=True, group="think", exclusive=True)
        self._activity.activity = f"thinking {self._think}, from the next answer on"

    def action_copy_answer(self) -> None:
        answer = self.chat.last_answer
        if answer is None:
            self._activity.activity = "there is no answer to copy"
        else:
            self.app.copy_to_clipboard(answer.content)
            self._activity.activity = "answer copied"

    def action_report(self) -> None:
        self.app.push_screen(ReportScreen(self.running_model, self._keymap))

    def action_page(self, direction: int) -> None:
        rows = max(1, self._transcript.size.height - 2)
        self._transcript.scroll_relative(y=direction * rows, animate=False)

    async def action_to_start(self) -> None:
        await self._transcript.to_start()

    async def action_to_end(self) -> None:
        await self._transcript.to_end()

    # ------------------------------------------------------------ loaded anew

    def action_reload(self) -> None:
        if self._dead:
            self._reloading.start(self.running_model, self.running_model.reload)

    def action_explore(self) -> None:
        if self._reloading.active:
            self._activity.activity = f"still loading · {self._key('answer.stop')} cancels"
            return
        screen = ExplorerScreen(
            self.running_model.explorer,
            self._keymap,
            loaded=not self._dead,
            busy=lambda: self.generating,
        )

        def chosen(choice: Choice | None) -> None:
            if choice is not None:
                self._change(choice)

        self.app.push_screen(screen, chosen)

    @work(group="change", exclusive=True)
    async def _change(self, choice: Choice) -> None:
        """Loads the model with what was chosen; what is written of an answer is kept."""
        if await self._settle():
            self._dead = True
            model = self.running_model
            change = partial(model.change, choice.settings, keep=choice.keep)
            self._reloading.start(model, change)

    def on_reloading_progressed(self, message: Reloading.Progressed) -> None:
        self._activity.activity = f"{message.text} · {self._key('answer.stop')} cancels"

    async def on_reloading_failed(self, message: Reloading.Failed) -> None:
        self._reloading.ended()
        self._dead = True
        self._idle()
        key = self._key("model.reload")
        await self._transcript.notice(f"{message.error}\n{key} tries again.", "error")

    async def on_reloading_loaded(self, message: Reloading.Loaded) -> None:
        self._reloading.ended()
        self._dead = False
        self.running_model = message.running
        self._set_status()
        self._idle()
        await self._transcript.clear_notices()
        if message.said:
            await self._transcript.notice(message.said, "warning")
        if self.chat.waits_for_answer:
            await self._answer()
        elif not message.said:
            key = self._key("answer.regenerate")
            await self._transcript.notice(
                f"The model is loaded again: {message.running.settings.n_ctx:,} tokens of context, "
                f"{message.running.status()}.\nGo on, or {key} for another answer."
            )

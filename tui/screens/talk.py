"""The open conversation on a screen: what is asked and what is answered. What other parts of the
chat need of it is here, too."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from functools import partial

from textual.screen import Screen

from tui.answering import Chat, Growing, advice
from tui.answering.comparing import path_to_question
from tui.answering.elsewhere import taken_in, written
from tui.answering.generation import Generation
from tui.answering.making_room import NoRoomError
from tui.answering.view import View, prompt_of, view_of
from tui.composing.parts import Question, asked
from tui.keymap import Keymap, Place, Show
from tui.painting import Answering, Painter
from tui.ports import ModelLauncher, RunningModel
from tui.screens import opening
from tui.screens.balance import Balance
from tui.screens.changing import Changing
from tui.screens.choices import Choice
from tui.screens.composing import Composing
from tui.screens.direct import DirectScreen
from tui.screens.footers import Footers
from tui.screens.full_context import FullContext, Waits
from tui.screens.lines import LinesBelow
from tui.screens.links import Links
from tui.screens.loads import Loads
from tui.screens.making_room import MakingRoom
from tui.screens.measuring import Measuring
from tui.screens.messages import Messages
from tui.screens.present import Present
from tui.screens.warmth import LOOK_SECONDS, Warmth
from tui.screens.weighing import Moment
from tui.storage import Conversations, Presence, Recorder, StoredMessage
from tui.when_full import Way
from tui.widgets import Prompt
from tui.widgets.entries import Item
from tui.widgets.transcript import WIDTH
from tuner.engine.protocol import Sampling
from tuner.errors import KvchatError
from tuner.settings import Settings

STOP_SECONDS = 12.0  # more than the engine's client itself waits before it ends the process
KILL_SECONDS = 2.0  # for what was written to be saved, after the process was ended


class TalkScreen(DirectScreen):
    """Everything here runs on the screen's thread; what blocks goes to thread workers, whose
    results come back as messages."""

    def __init__(
        self,
        launcher: ModelLauncher,
        chat: Chat,
        store: Conversations,
        recorder: Recorder,
        sampling: Sampling | None,
        keymap: Keymap,
        *,
        warnings: Sequence[str] = (),
        width: int = WIDTH,
        when_full: Way | None = None,
        idle_seconds: float | None = None,
    ):
        """`sampling`: in place of the launch's. `width`: the most columns that text takes.
        `when_full`: how room is made in a full context without asking. `idle_seconds`: after which
        the model's memory is let go; None: it is not."""
        super().__init__()
        self.chat = chat
        self._store = store
        self._recorder = recorder
        self._present = Present(self, Presence(store.path), lambda: self.chat, self._warn)
        self._sampling = sampling
        self._think = ""
        self._keymap = keymap
        self._warnings = (*warnings, store.warning or "")
        self._transcript = Messages(self, keymap, width)
        self._footers = Footers(self._transcript)
        self._prompt = Prompt(keymap, placeholder="Write a message")
        self._loads = Loads(self, launcher)
        self._lines = LinesBelow(keymap, self._loads, saved=store.saved)
        self._answering = Answering(self._transcript, recorder, self._prompt.keystrokes)
        self._measuring = Measuring(self)
        self._balance = Balance(self)
        self._warmth = Warmth(self, store, self._loads, idle_seconds)
        self._changing = Changing(
            self, self, self._loads, self._lines, self._transcript, self._balance
        )
        self._leaving = False
        room = MakingRoom(self, self._answering, recorder, self._lines.doing, self.ask_aside)
        self._full = FullContext(self, room, self._transcript, self._prompt, keymap, when_full)
        self._quit_asked = False
        self._rewritten: StoredMessage | None = None  # the question that the next one stands beside
        self._sent = False  # a question that this session has yet to answer
        self._goes_on = False  # with the answer that ran out of memory, once there is a model
        self._links = Links()
        self._comparing: Screen[None] | None = None  # opened last
        self._composing = Composing(
            self,
            self._prompt,
            store,
            recorder,
            now=self._moment,
            say=self._lines.say,
            full=self._full,
            unfold_key=self._key("prompt.unfold"),
        )

    @property
    def generating(self) -> bool:
        """An answer is being written."""
        return self._answering.active

    def still_answering(self) -> bool:
        """The same, where a key must wait for its end: it is said then."""
        if self.generating:
            self._lines.say(f"still answering · {self._key('answer.stop')} stops it")
        return self.generating

    @property
    def running_model(self) -> RunningModel | None:
        """The last that was loaded, dead or not; None before the first."""
        return self._loads.model

    @property
    def ready(self) -> RunningModel | None:
        """The model, where it can be asked something."""
        return self.running_model if self._loads.ready else None

    @property
    def think(self) -> str:
        """The level of thinking of the next answer."""
        return self._think

    @property
    def load_error(self) -> KvchatError | None:
        """Why there has not been a model."""
        return self._loads.error if self.running_model is None else None

    # ------------------------------------------------------------ what is shown

    async def _warn(self, *warnings: str) -> None:
        for warning in filter(None, warnings):
            await self._transcript.notice(warning, "warning")

    async def show_again(self, message_id: str | None = None) -> None:
        """Shows the path; the cursor is on this message then."""
        await self._transcript.show(self.chat.path)
        self._footers.mark(self.chat)
        self._full.shown()
        self._lines.set_counts(self.chat)
        if message_id is not None:
            self._transcript.cursor.put(Item(message_id))

    async def show_through(self, message_id: str, *, cursor: bool = False) -> None:
        """Lets the path lead through a message; `cursor`: which is on it then."""
        self.chat.tree.show(message_id)
        self.save_changes()
        await self.show_again(message_id if cursor else None)

    def on_transcript_cursor_moved(self) -> None:
        self._footers.cursor_moved(self.chat)

    def _key(self, action_id: str) -> str:
        return self._keymap.label(action_id)

    def say(self, text: str) -> None:
        """A word on what a key has done."""
        self._lines.say(text)

    def idle(self) -> None:
        """Nothing is being done any more."""
        self._lines.idle()

    def busy(self) -> None:
        """Something is being done that can be stopped."""
        self._lines.hint(Show.ANSWERING)

    def update_below(self) -> None:
        """The marker that there is more text below the view."""
        self._lines.below(at_end=self._transcript.at_end, growing=self.generating)

    # ------------------------------------------------------------ asking and answering

    @property
    def next_view(self) -> View:
        """What the model would see of the conversation with what is asked next."""
        path, old = self.chat.path, self._rewritten
        before = (n for n, each in enumerate(path) if old is not None and each.id == old.id)
        return view_of(path[: next(before, len(path))])

    def _moment(self) -> Moment:
        """What the draft would be sent to now."""
        ready = self._loads.ready and not self.generating
        model = self.running_model if ready else None
        view = self.next_view
        return Moment(
            model,
            prompt_of(self.chat.conversation.system_prompt, view),
            self._think,
            model.settings.n_ctx if model is not None else 0,
            tuple(m.n_ctx_used for m in view.messages if m.n_ctx_used),
        )

    async def _send(self, question: Question) -> None:
        """Adds a question, or another wording of one, and has it answered."""
        of, known = self.chat.conversation.id, self.chat.tree.ids
        messages = await asyncio.to_thread(written, self._store, of, known)
        if news := taken_in(self.chat, messages):
            await self.show_again()
            await self._transcript.notice(news, "warning")
            self._lines.say(f"{self._key('prompt.send')} sends yours after that")
            return
        first = not self.chat.path
        draft, old = self._prompt.take(), self._rewritten
        content, parts = question.content, question.parts
        add = partial(self.chat.edit, old) if old else self.chat.add_user
        message = add(content, parts)
        self._rewrite(None)
        self._transcript.mark("")
        self._recorder.save(self.chat.record(), message)
        self._composing.sent(self.chat, draft)
        self._sent = True
        if first:
            self._present.tell()
        await self._transcript.clear_notices()
        if old:
            await self.show_again()
        else:
            await self._transcript.add(message)
        if self._loads.ready:
            await self._answer()
        elif self._loads.rests:
            self._changing.start()

    async def _answer(self, sampling: Sampling | None = None, *, go_on: bool = False) -> None:
        """Lets the model answer the conversation as it stands, or go on with its last answer."""
        model = self.running_model
        assert model is not None
        if self._leaving:
            return
        self._sent = False
        self._warmth.read.asked(self.chat.conversation.id)
        begin = self._answering.go_on if go_on else self._answering.begin
        painter = await begin(self.chat, model, sampling or self.usual_sampling(), self._think)
        self._lines.hint(Show.ANSWERING)
        run = partial(self._warmth.read.before, painter.growing.generation)
        self.run_worker(run, thread=True, group="engine")
        self.run_worker(self._write(painter, model), group="painter")

    async def _write(self, painter: Painter, model: RunningModel) -> None:
        try:
            await painter.run(self._lines.activity, self._lines.live)
            await self._finish_answer(painter.growing, model)
        finally:
            self._answering.end()
            self._warmth.idle.done()
            self._composing.weigh()
            self._lines.idle()
            self.update_below()
            self._footers.mark(self.chat)
        await self._full.answered()

    async def _finish_answer(self, growing: Growing, model: RunningModel) -> None:
        generation, answer = growing.generation, growing.answer
        done, error = generation.done, generation.error
        for notice in generation.notices:
            await self._transcript.notice(notice, "warning")
        if not growing.end():
            await self._transcript.drop_last()
            if error is None:
                again = f"{self._key('answer.regenerate')} asks it again"
                await self._transcript.notice(f"The model said nothing. {again}.")
        if done is not None:
            done = self._warmth.read.cold(done, len(self.chat.path))
            self._warmth.deaths.answered()
            self._warmth.read.answered(model, self.chat.conversation.id, done)
            self._lines.status.change(settings=model.status())
            self._lines.answered(answer, done)
            self._full.counted(answer.n_ctx_used, model.settings.n_ctx)
            self._full.wait(Waits.ANSWER if done.reason == "context_full" else None)
        if error is not None and error.kind == "context_full":
            await self._full.take_back()
        elif error is not None:
            await self.explain(model, error)

    async def explain(self, model: RunningModel, error: KvchatError) -> None:
        """Says why an answer failed, and how it goes on from there."""
        comes_back, less = False, advice.ran_out(error)
        if less or advice.is_death(error):
            self._sent = self.chat.waits_for_answer
            self._goes_on = less and self.chat.may_go_on
            why = advice.what_failed(error, model)
            lives = less and model.alive
            comes_back = self._warmth.died(why, may_return=not self._leaving, lives=lives)
        text = advice.failure(error, model, self._keymap, comes_back=comes_back)
        await self._transcript.notice(text, "error")
        if comes_back:
            self._changing.start(partial(model.less, str(error)) if less else None)

    def ask_aside(self, generation: Generation) -> None:
        """Has the model write what is no turn of the conversation, once it can. In a thread."""
        self._warmth.read.before(generation, aside=True)

    async def failed(self, error: KvchatError) -> None:
        """Tells what was in the way of something that the model should do."""
        if isinstance(error, NoRoomError):
            await self._warn(str(error))
        elif self.running_model is not None:
            await self.explain(self.running_model, error)

    async def settle(self, seconds: float = STOP_SECONDS) -> bool:
        """Stops what is being written and waits until it is saved; a process that does not stop
        within `seconds` is killed. False: even that did not end it."""
        if self.generating:
            self._lines.doing("stopping")
        if await self._answering.settle(seconds):
            return True
        if self.running_model is not None:
            self.running_model.kill()
        return await self._answering.settle(KILL_SECONDS)

    async def _may_answer(self) -> bool:
        """Stops what is written, and brings back a model that rests; False, with a word, where
        there is none to answer. In a worker."""
        if not await self.settle():
            return False
        if self._loads.rests:
            self._changing.start()
            while self._loads.active:
                await asyncio.sleep(LOOK_SECONDS)
        if not self._loads.ready:
            self._lines.say("the model is not loaded")
        return self._loads.ready and not self.generating

    async def go_on(self) -> None:
        """Goes on with the last answer."""
        await self._answer(go_on=True)

    def _measure(self, count: bool = False) -> None:
        if self._loads.ready and self.running_model is not None:
            prompt = self.chat.prompt() if count else None
            self._measuring.start(self.running_model, prompt, self._think)

    def recount(self) -> None:
        """Counts what is in the context."""
        self._measure(count=True)

    # ------------------------------------------------------------ for the messages, and others

    def usual_sampling(self) -> Sampling:
        """How answers are drawn where nothing else is asked for."""
        model = self.running_model
        return self._sampling or (model.sampling if model is not None else Sampling())

    async def ask_again(self, answer: StoredMessage, sampling: Sampling | None = None) -> None:
        """Asks for another version of an answer."""
        if not self._loads.ready:
            self._lines.say_no_model()
            return
        self.chat.ask_again(answer)
        await self.show_again()
        await self._answer(sampling)

    def rewrite(self, question: StoredMessage) -> None:
        """Puts a question into the composer; sent, it stands beside the old one."""
        self._prompt.put(asked(question.content, question.parts))
        self._rewrite(question)
        self.leave_messages()

    def _rewrite(self, question: StoredMessage | None) -> None:
        """The next question stands beside this one; None: after all that is shown."""
        self._rewritten = question
        key = self._key("answer.stop")
        self._prompt.show_purpose(f"in other words · {key}: a new question" if question else "")

    def save_changes(self, *messages: StoredMessage) -> None:
        """The path, or what is on it, is another."""
        self._recorder.save(self.chat.record(), *messages)

    def open_text(self, text: str, suffix: str) -> None:
        """Shows it in the user's editor."""
        self._composing.lend(text, suffix)

    def leave_messages(self) -> None:
        """Back to the composer."""
        self.set_focus(self._prompt)

    def page_text(self, text: str) -> None:
        """Shows it in the user's pager."""
        self._composing.page(text)

    def chosen(self, place: Place | None) -> None:
        """The keys are those of a message, or of selecting in one, or no longer."""
        if place is not None:
            self._lines.hint_place(place)
        elif self.generating:
            self._lines.hint(Show.ANSWERING)
        else:
            self._lines.hint_idle()

    def compare(self, message: StoredMessage | None = None) -> None:
        """Asks a question under two settings: the one that is, or led to, this message, or the
        last."""
        path = path_to_question(self.chat.path, message)
        if self.still_answering():
            return
        if not self._loads.ready or not path:
            if path:
                self._lines.say_no_model()
            else:
                self._lines.say("nothing was asked yet")
        else:
            self._comparing = opening.compare(self, self._loads, path, self._think, self._keymap)
            self.app.push_screen(self._comparing, self._back)

    def _back(self, _: None) -> None:
        """From a screen in which the model may have been asked, or loaded."""
        self._lines.idle()
        self.chosen(Place.MESSAGE if self.focused is self._transcript else None)

    # ------------------------------------------------------------ what the model has read

    def forget_read(self) -> None:
        """What was read of the conversation is not to be kept: some of it was deleted."""
        self._warmth.read.forget(self.chat.conversation.id)

    def load(self, settings: Settings) -> None:
        """Loads the model with these; what later launches load stays as it was chosen."""
        self._changing.change(Choice(settings, keep=None))

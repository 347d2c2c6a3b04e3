"""How full the context is: the line above the composer, and what is done about it."""

from __future__ import annotations

from enum import Enum, auto
from typing import Protocol

from textual import work
from textual.worker import Worker

from tui.answering import Chat
from tui.answering.room import NEARLY_FULL, Situation
from tui.answering.view import View
from tui.composing.draft import Draft
from tui.composing.parts import asked, shown
from tui.keymap import Keymap
from tui.ports import RunningModel
from tui.screens import opening
from tui.screens.making_room import MakingRoom
from tui.screens.weighing import Weight
from tui.storage import StoredMessage
from tui.when_full import Way
from tui.widgets import Plain, Prompt, Transcript
from tuner.errors import KvchatError
from tuner.safe_text import cut
from tuner.settings import Settings

NAMED = 24  # characters of a question that names a turn
GROWN = 0.1  # of the context, by which it grows until a word that was put off is said again


class Waits(Enum):
    """What waits for room in the context."""

    QUESTION = auto()  # in the composer: it does not fit
    ANSWER = auto()  # the last one, to be gone on with


class Talk(Protocol):
    """What of the chat this needs."""

    @property
    def chat(self) -> Chat: ...
    @property
    def generating(self) -> bool: ...
    def still_answering(self) -> bool:
        """The same, and says so where it is."""

    @property
    def ready(self) -> RunningModel | None:
        """The model, where it can be asked something."""

    @property
    def think(self) -> str: ...
    @property
    def next_view(self) -> View:
        """What the model would see of the conversation with what is asked next."""

    def say(self, text: str) -> None: ...
    def busy(self) -> None: ...
    def idle(self) -> None: ...
    async def failed(self, error: KvchatError) -> None:
        """Tells of it in the conversation."""

    def recount(self) -> None:
        """Counts what is in the context."""

    def save_changes(self, *messages: StoredMessage) -> None: ...
    async def show_again(self) -> None:
        """Shows the path."""

    def rewrite(self, question: StoredMessage) -> None:
        """What is sent next stands beside this question."""

    def load(self, settings: Settings) -> None: ...
    async def go_on(self) -> None:
        """Goes on with the last answer."""


class FullContext(Plain):
    """Says nothing while there is room. `always`: what is done without asking where there is
    none."""

    def __init__(
        self,
        talk: Talk,
        room: MakingRoom,
        transcript: Transcript,
        prompt: Prompt,
        keymap: Keymap,
        always: Way | None = None,
    ):
        super().__init__(id="context-line")
        self._talk = talk
        self._room = room
        self._transcript = transcript
        self._prompt = prompt
        self._keymap = keymap
        self._always = always
        self._waits: Waits | None = None
        self._weight: Weight | None = None  # of what is written
        self._refused = Draft()  # the question that waits
        self._used = self._n_ctx = 0  # tokens
        self._total = 0  # in use with what is written, as it was told last
        self._leaving: tuple[StoredMessage, ...] = ()  # what would make room for what is written
        self._making: Worker[None] | None = None
        self._grows = False  # a larger context is being loaded
        self._done = ""  # what is to be said of it, once what waited for it is answered
        self._put_off_at = 0  # tokens in use when the user put it off; 0: not put off

    def on_mount(self) -> None:
        self._tell()

    # ------------------------------------------------------------ what is said

    def counted(self, used: int | None, n_ctx: int) -> None:
        """So much of the context is in use; None: that is not known."""
        self._used, self._n_ctx = used or 0, n_ctx
        self._tell()

    def weighed(self, weight: Weight | None) -> None:
        """What is written comes to this; None: nothing is written."""
        self._weight = weight
        if weight is not None and weight.moment.n_ctx:
            self._n_ctx = weight.moment.n_ctx
        self._tell()

    def draft_changed(self) -> None:
        """What is written is another question than the one that waits."""
        if self._waits is Waits.QUESTION and self._prompt.draft != self._refused:
            self.wait(None)

    def refuse(self) -> None:
        """What is written was to be sent, and does not fit."""
        self.wait(Waits.QUESTION)
        self._make_at_once()

    def later(self) -> bool:
        """The user does not want to hear of it now, nor of what is being counted or planned;
        False: nothing was said."""
        if self._making is not None and self._making.is_running:
            self._making.cancel()
            self._talk.idle()
            return True
        said = self.display
        self._put_off_at = self._total
        self.wait(None)
        return said

    def wait(self, for_what: Waits | None) -> None:
        """Something waits for room from now on, or nothing does any more."""
        self._waits, self._refused = for_what, self._prompt.draft
        self._tell()

    @property
    def _current(self) -> Weight | None:
        """The weight of what is written now."""
        weight = self._weight
        return weight if weight and weight.draft == self._prompt.draft else None

    def _tell(self) -> None:
        weight = self._current
        leaving = _holding(self._talk.next_view, weight.pushed_out if weight else 0)
        if leaving != self._leaving:
            self._leaving = leaving
            self._fade()
        total = (weight and weight.n_total) or self._used
        if total < NEARLY_FULL * self._n_ctx:
            self._put_off_at = 0
        put_off = self._put_off_at > 0 and total < self._put_off_at + GROWN * self._n_ctx
        text = "" if put_off and self._waits is None else self._text(total, weight)
        self.display = bool(text)
        self.show(text)
        self._total = total

    def _text(self, total: int, weight: Weight | None) -> str:
        with_this = " with this" if weight and weight.n_total else ""
        of_all = f"{total:,} of {self._n_ctx:,} tokens{with_this}"
        key, esc = (self._keymap.label(name) for name in ("model.context", "answer.stop"))
        if self._waits is Waits.ANSWER:
            return f"! the context is full: the answer stopped · {key} makes room and goes on"
        if self._waits is Waits.QUESTION or (weight and weight.too_many):
            then = " and sends it" if self._waits else ""
            return f"! {of_all}, {self._too_many(weight)} · {key} makes room{then}"
        if self._n_ctx and total >= NEARLY_FULL * self._n_ctx:
            left = f"{self._n_ctx - total:,} are left" if total < self._n_ctx else "no more fits"
            return f"! {of_all}: {left} · {key} makes room · {esc} later"
        return ""

    def _too_many(self, weight: Weight | None) -> str:
        """How many tokens there are too many, and which turns are as long."""
        if weight is None or not weight.too_many:
            return "and what is written does not fit"
        questions = [m for m in self._leaving if m.role == "user"]
        if not questions:
            return f"{weight.too_many:,} too many"
        last = cut(shown(questions[-1].content, questions[-1].parts).strip(), NAMED)
        n = len(questions)
        turns = f"turn, “{last}”, holds" if n == 1 else f"{n} turns, to “{last}”, hold"
        return f"{weight.too_many:,} too many (the oldest {turns} as much)"

    # ------------------------------------------------------------ what is done

    def shown(self) -> None:
        """Another path is shown, of this conversation or another one."""
        self._leaving = ()
        self._fade()
        self._used = 0  # until it is counted
        self.wait(None)

    def _fade(self) -> None:
        """What is out of the model's view, and what would have to go for what is written."""
        chat = self._talk.chat
        n_gone = len(chat.view.gone)
        if self._leaving:
            n_gone = max(n_gone, len(self._talk.next_view.gone) + len(self._leaving))
        self._transcript.fade(chat.path, n_gone)

    async def take_back(self) -> None:
        """The last question does not fit: it is no part of the conversation, and waits in the
        composer. One that was answered before is shown with its answer again; an answer that was
        to be gone on with waits where it is."""
        talk = self._talk
        question, tree = talk.chat.path[-1], talk.chat.tree
        if question.role != "user":
            self.wait(Waits.ANSWER)
            return
        versions = [i for i in tree.versions(question) if i != question.id]
        tree.show(question.id)
        if tree.head != question.id:
            talk.save_changes()
            await talk.show_again()
        else:
            tree.remove(question.id)
            talk.save_changes(tree[question.id])
            await talk.show_again()
            back, written = asked(question.content, question.parts), self._prompt.draft
            if versions:
                talk.rewrite(tree[versions[-1]])
            text = "\n\n".join(filter(None, (back.text, written.text)))
            self._prompt.put(Draft(text, {**written.folds, **back.folds}))
            self.wait(Waits.QUESTION)
        talk.recount()

    async def answered(self) -> None:
        """An answer has ended. If it met the end of the context, or its question did, room is made,
        where that needs no asking."""
        if self._done:
            await self._transcript.notice(self._done)
            self._done = ""
        self._make_at_once()

    def _make_at_once(self) -> None:
        if self._waits is not None and self._always is not None:
            self._making = self._make(self._always)

    def choose(self) -> None:
        """Shows the ways to room, and goes the one that is chosen."""
        situation = self._situation()
        if self._talk.still_answering():
            return
        if situation is None:
            self._talk.say("the model is not loaded yet")
        else:
            self.app.push_screen(opening.context(situation, self._keymap), self._chosen)

    def _chosen(self, way: Way | None) -> None:
        if way is not None:
            self._making = self._make(way)

    @work(group="room", exclusive=True)
    async def _make(self, way: Way) -> None:
        talk = self._talk
        chat, situation = talk.chat, self._situation()
        if situation is None or talk.generating:
            return
        talk.busy()
        try:
            made = await self._room.make(way, chat, situation)
        except KvchatError as error:
            talk.idle()
            await talk.failed(error)
            return
        talk.idle()
        if isinstance(made, Settings):
            self._grows = True
            talk.load(made)
        elif made and chat is talk.chat:
            self._fade()
            self._used = 0  # until it is counted
            self._done = made
            if self._waits is None:
                talk.recount()
                await self.answered()
            else:
                talk.say(made)
            await self._go_on()

    def _situation(self) -> Situation | None:
        """What is in the context or is to come there; None: no model runs."""
        chat, model = self._talk.chat, self._talk.ready
        if model is None:
            return None
        goes_on = self._waits is Waits.ANSWER
        weight = self._current
        draft = weight.question.content if weight else self._prompt.draft.whole
        system, think = chat.conversation.system_prompt, self._talk.think
        if goes_on:
            return Situation(model, system, chat.view, think, goes_on=True)
        return Situation(model, system, self._talk.next_view, think, draft)

    async def loaded(self, *, as_planned: bool) -> None:
        """A load has ended: perhaps that of a larger context."""
        grows, self._grows = self._grows, False
        if grows and as_planned:
            await self._go_on()

    async def _go_on(self) -> None:
        """There is room now for what waited for it."""
        waits = self._waits
        self.wait(None)
        if waits is Waits.QUESTION:
            self._prompt.action_send()
        elif waits is Waits.ANSWER:
            await self._talk.go_on()


def _holding(view: View, n_turns: int) -> tuple[StoredMessage, ...]:
    """The oldest messages that are seen, to the end of so many turns (`Weight.pushed_out`)."""
    ends = [at for at, message in enumerate(view.messages, 1) if message.n_ctx_used]
    return view.messages[: ends[n_turns - 1]] if 0 < n_turns <= len(ends) else ()

"""What a draft comes to with its files, in a thread: read, counted, held against the context."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

from textual.message import Message as ScreenMessage
from textual.screen import Screen

from tui.answering.view import with_question
from tui.composing.attaching import Attached, Attaching
from tui.composing.commands import as_text
from tui.composing.draft import Draft
from tui.composing.parts import Question, composed
from tui.ports import RunningModel
from tui.widgets.newest import Newest
from tuner.engine.protocol import Message

_KNOWN = 64  # texts whose tokens are kept
_ONE = "x"  # a single token


@dataclass(frozen=True, slots=True)
class Moment:
    """What a draft would be sent to. `running`: None where nothing can be counted now."""

    running: RunningModel | None = None
    before: tuple[Message, ...] = ()
    think: str = ""
    n_ctx: int = 0
    turns: tuple[int, ...] = ()  # the tokens in the context after each answer


@dataclass(frozen=True, slots=True)
class Weight:
    """What a draft comes to. The counts are tokens; None: not counted."""

    draft: Draft
    moment: Moment
    attached: Attached
    question: Question
    n_files: tuple[int | None, ...] = ()  # of each file
    n_question: int | None = None
    n_total: int | None = None  # of the conversation with it
    n_folds: Mapping[str, int] = field(default_factory=dict)  # of those whose label does not say
    exact: bool = False  # as it would be sent

    @property
    def too_many(self) -> int:
        """The tokens by which it does not fit, one for an answer among them; 0 where it does, or
        where nothing is known."""
        return max(0, self.n_total + 1 - self.moment.n_ctx) if self.n_total else 0

    @property
    def pushed_out(self) -> int:
        """How many of the oldest questions hold, with their answers, as many tokens as are too
        many; 0: not even all of them, or nothing is too much."""
        held = (n for n, tokens in enumerate(self.moment.turns, 1) if tokens >= self.too_many)
        return next(held, 0) if self.too_many else 0


@dataclass(frozen=True, slots=True)
class Wanted:
    """A draft to be weighed. `uncounted`: folds whose tokens are asked for, too; `exact`: with all
    of the conversation, as it would be sent."""

    draft: Draft
    uncounted: Mapping[str, str]
    moment: Moment
    exact: bool = False


class Weighing:
    """Weighs the newest draft and tells the screen by a message."""

    @dataclass(eq=False)
    class Weighed(ScreenMessage):
        """What the draft comes to."""

        weight: Weight

    def __init__(self, screen: Screen[Any], attaching: Attaching):
        self._screen = screen
        self._attaching = attaching
        self._newest: Newest[Wanted] = Newest(screen, self._weigh, "weigh")
        self._known: dict[tuple[int, str], int] = {}  # by model and text
        self._base: tuple[object, int] = (None, 0)  # a conversation, and its tokens

    def ask(self, wanted: Wanted) -> None:
        """Weighs this in place of what still waits."""
        self._newest.ask(wanted)

    def _weigh(self, wanted: Wanted) -> None:
        draft, moment = wanted.draft, wanted.moment
        attached = self._attaching.attach(draft.text)
        text = Draft(as_text(draft.text), draft.folds)
        plain = composed(text, [(file, None) for file in attached.files])
        n_files = (None,) * len(attached.files)
        weight = Weight(draft, moment, attached, plain, n_files, exact=wanted.exact)
        if moment.running is not None and draft.text:
            with suppress(Exception):  # what cannot be counted shows no number
                weight = self._counted(moment.running, weight, text, wanted)
        self._screen.post_message(self.Weighed(weight))

    def _counted(
        self, running: RunningModel, weight: Weight, text: Draft, wanted: Wanted
    ) -> Weight:
        files, moment = weight.attached.files, weight.moment
        n_files = tuple(self._tokens(running, file.block) for file in files)
        question = composed(text, list(zip(files, n_files, strict=True)))
        n_question = self._tokens(running, question.content)
        if wanted.exact:
            n_total = self._of_all(running, moment, question.content)
        else:
            n_total = self._before(running, moment) + n_question
        n_folds = {name: self._tokens(running, text) for name, text in wanted.uncounted.items()}
        return replace(
            weight,
            question=question,
            n_files=n_files,
            n_question=n_question,
            n_total=n_total,
            n_folds=n_folds,
        )

    def _of_all(self, running: RunningModel, moment: Moment, content: str) -> int:
        return running.count_tokens(with_question(moment.before, content), moment.think)

    def _before(self, running: RunningModel, moment: Moment) -> int:
        """The tokens of the conversation without the question's own, counted once: a long one is
        not read again with every word."""
        of = (running, moment.before, moment.think)
        if self._base[0] != of:
            self._base = (of, self._of_all(running, moment, _ONE) - 1)
        return self._base[1]

    def _tokens(self, running: RunningModel, text: str) -> int:
        """The tokens of a text alone: what a message of it has more than one of a single token."""
        key = (id(running), text)
        if key not in self._known:
            while len(self._known) >= _KNOWN:
                del self._known[next(iter(self._known))]
            one, all_of_it = (
                running.count_tokens((Message("user", content),)) for content in (_ONE, text)
            )
            self._known[key] = max(0, all_of_it - one + 1)
        return self._known[key]

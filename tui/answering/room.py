"""How full a context is: which turns must go, and a summary that stands in for them. What
counts tokens blocks and belongs in a thread."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from tui.answering.view import View, cuts, longest, prompt_of, with_question
from tui.ports import RunningModel
from tui.storage import StoredMessage
from tuner.engine.protocol import Message, Sampling
from tuner.safe_text import one_line

NEARLY_FULL = 0.8  # of the context, from which on a word is said
_KEPT = 1 / 2  # of the context, that what stays may take: room for some turns to come
_SUMMARY = 1 / 8  # of it, that a summary may take,
_OWN_WORDS = 1 / 16  # and what the user asked, word for word, beside it

_ASK = (
    "Please stop here and summarise our conversation so far, for yourself to go on from: what it "
    "is about, what was decided, the facts, names, numbers and code that matter, and what is still "
    "open. Write nothing but the summary, in the language of the conversation, in at most {} words."
)
_ASK_LATER = (
    "Please stop here and summarise our conversation up to my message that begins with “{}”, for "
    "yourself to go on from there: what it is about, what was decided, the facts, names, numbers "
    "and code that matter, and what is still open. What came from that message on stays as it is. "
    "Write nothing but the summary, in the language of the conversation, in at most {} words."
)
_NAMED = 80  # characters of a message by which it is told
_WORDS_FIRST = "[Earlier in this conversation I wrote, word for word:]"
_IN_SHORT = "[In short, what was said until here:]"
_GOES_ON = "[From here on it is given in full.]"


@dataclass(frozen=True, slots=True)
class Situation:
    """What fills the context. `draft`: what is to be asked next, if it is known. `goes_on`: the
    last answer is to be gone on with, so that it must be seen."""

    running: RunningModel
    system_prompt: str | None
    view: View
    think: str = ""
    draft: str = ""
    goes_on: bool = False

    @property
    def n_ctx(self) -> int:
        """Tokens that the context holds."""
        return self.running.settings.n_ctx

    @property
    def asks(self) -> bool:
        """A question is to be answered: the draft, or the one that waits."""
        return bool(self.draft) or bool(
            self.view.messages and self.view.messages[-1].role == "user"
        )

    def n_tokens(self, view: View) -> int:
        """Tokens of the conversation with the draft where only this is seen of it."""
        prompt = prompt_of(self.system_prompt, view)
        asked = with_question(prompt, self.draft) if self.draft else prompt
        return self.running.count_tokens(asked, self.think)

    def cut(self, *, for_summary: bool = False) -> View | None:
        """What is seen once the oldest turns are gone: as many stay as take half of the context, or
        less where a summary is to come. None: nothing can go, or what is left is too much."""
        views = tuple(cuts(self.view, whole=not self.goes_on))
        kept = _KEPT - (_SUMMARY if for_summary else 0)
        found = longest(views, lambda view: self.n_tokens(view) <= kept * self.n_ctx)
        if found is None and views and self.n_tokens(views[-1]) < self.n_ctx:
            return views[-1]  # the last turn alone is that long
        return found

    # ------------------------------------------------------------ a summary

    def going(self, cut: View) -> tuple[StoredMessage, ...]:
        """The messages that are seen now and no more after a cut."""
        return cut.gone[len(self.view.gone) :]

    def asked_for_summary(self, cut: View) -> tuple[Message, ...]:
        """What the model is given to summarise what is going: the conversation as far as it has
        read it before, and the wish. Where its cache cannot go back to that, so that it would read
        it once more, all that it has read, if that has room for a summary. Blocks."""
        n_words = max(20, round(_SUMMARY * self.n_ctx / 2))  # a word may take two tokens
        seen = self.view.messages
        answered = seen[:-1] if seen and seen[-1].role == "user" else seen
        stays = [message for message in cut.messages if message in answered]
        if stays and not self.running.goes_back:
            wish = _ASK_LATER.format(one_line(stays[0].content[:_NAMED]), n_words)
            whole = prompt_of(self.system_prompt, replace(self.view, messages=answered))
            asked = (*whole, Message("user", wish))
            if self.running.count_tokens(asked, self.think) + self._most < self.n_ctx:
                return asked
        going = replace(self.view, messages=self.going(cut))
        return (*prompt_of(self.system_prompt, going), Message("user", _ASK.format(n_words)))

    @property
    def _most(self) -> int:
        """Tokens of a summary."""
        return max(1, round(_SUMMARY * self.n_ctx))

    def sampling_of_summary(self) -> Sampling:
        """As the model's own, without what a grammar or a stop text would make of it."""
        return replace(self.running.sampling, max_tokens=self._most, grammar="", stop=())

    def summarised(self, cut: View, summary: str) -> View:
        """The cut with what stands in for all that is gone."""
        room = round(_OWN_WORDS * self.n_ctx)

        def n_tokens(text: str) -> int:
            return self.running.count_tokens((Message("user", text),))

        asked = [message.content for message in cut.gone if message.role == "user"]
        words = newest_that_fit(asked, n_tokens, room)
        return replace(cut, stands_in=standing_in(words, summary))


def newest_that_fit(texts: Sequence[str], size: Callable[[str], int], room: int) -> tuple[str, ...]:
    """The newest of some texts, each whole, that together take no more than the room; one that is
    too long for what is left is passed over. The oldest first."""
    kept: list[str] = []
    for text in reversed(texts):
        taken = size(text)
        if taken <= room:
            room -= taken
            kept.append(text)
    return tuple(reversed(kept))


def standing_in(words: Iterable[str], summary: str) -> str:
    """What the model is given in place of what is gone, as if the user had written it."""
    quoted = ["\n".join(f"> {line}" for line in text.splitlines()) for text in words]
    first = [_WORDS_FIRST, *quoted] if quoted else []
    return "\n\n".join((*first, _IN_SHORT, summary.strip(), _GOES_ON))

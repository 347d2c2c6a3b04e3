"""Room made in a context, in one of several ways: what the chat on a screen and the one in lines
share. What counts tokens or plans blocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tui.answering.conversation import Chat
from tui.answering.generation import Generation
from tui.answering.room import Situation
from tui.answering.view import View
from tui.storage import StoredMessage
from tuner.engine.protocol import WasThought
from tuner.errors import KvchatError
from tuner.units import count_text

if TYPE_CHECKING:
    from tui.ports import Candidate

Made = tuple[
    StoredMessage, str
]  # the message that is to be saved, and what was done, in a sentence


_OFF, _HIGH = "off", "high"  # of THINK_LEVELS


class NoRoomError(KvchatError):
    """There is no room to be made in this way; `str()` says why."""

    kind = "no_room"


def larger_context(situation: Situation) -> tuple[Candidate, str]:
    """A plan with a larger context, and how it differs from what is loaded. Blocks. Raises
    KvchatError."""
    explorer = situation.running.explorer()
    needed = situation.n_tokens(situation.view) + 1 if situation.asks else 0
    found = explorer.larger(needed)
    if found is None:
        raise NoRoomError("No larger context fits, neither the memory nor the model.")
    return found, explorer.difference(found)


def room(situation: Situation, *, for_summary: bool = False) -> View:
    """What is seen once the oldest turns are gone. Blocks. Raises KvchatError."""
    cut = situation.cut(for_summary=for_summary)
    if cut is not None:
        return cut
    if situation.asks:
        raise NoRoomError("What is written is too long by itself for this context.")
    raise NoRoomError("There are no older turns that could be let go.")


def let_go(chat: Chat, situation: Situation, cut: View) -> Made:
    """Takes what a cut takes out of the model's view."""
    last = chat.let_go(chat.tree[cut.gone[-1].id], cut.stands_in)
    n = count_text(len(situation.going(cut)), "message")
    if cut.stands_in != situation.view.stands_in:
        return last, f"The oldest {n} are summarised for the model; they are kept here."
    return last, f"The oldest {n} are out of the model's view; they are kept here."


def bring_back(chat: Chat) -> Made:
    """Brings back what was let go last. Raises NoRoomError where nothing was."""
    before = len(chat.view.gone)
    last = chat.bring_back()
    if last is None:
        raise NoRoomError("Nothing was let go: the model sees all of this conversation.")
    return last, f"The model sees {count_text(before - len(chat.view.gone), 'message')} again."


class Summary:
    """One that the model writes of what a cut takes away. `generation.run` belongs in a thread."""

    def __init__(self, situation: Situation, cut: View):
        """Blocks. Raises KvchatError."""
        # How much it thinks is told at the beginning of a prompt: with another level, the model
        # would read all of the conversation again. But the most of it may leave no summary.
        levels = situation.running.think_levels
        least = levels[0] if levels else ""
        stays = least != _OFF and situation.think != _HIGH
        self.generation = Generation(
            situation.running,
            situation.asked_for_summary(cut),
            situation.sampling_of_summary(),
            think=situation.think if stays else least,
            rest_returns=True,
        )
        self.doing = ""  # how far it is, in words
        self._situation = situation
        self._cut = cut
        self._n_messages = len(situation.going(cut))
        self._parts: list[str] = []  # without its thoughts
        self._n_tokens = 0

    def take(self) -> bool:
        """Takes in what came since the last call; whether that was all."""
        generation = self.generation
        finished = generation.finished  # before the text is taken, so that none is missed
        said, progress = generation.take()
        for event in said:
            if isinstance(event, WasThought):
                self._parts.clear()
                continue
            self._n_tokens += event.n_tokens
            if not event.thought:
                self._parts.append(event.text)
        if generation.stopped:
            generation.stop()  # again: the first may have come before the engine began
        elif not self._n_tokens and progress is not None and progress.done < progress.total:
            self.doing = f"reading {progress.done:,}/{progress.total:,} tokens to summarise"
        else:
            what = count_text(self._n_messages, "message")
            self.doing = f"summarising {what} · {count_text(self._n_tokens, 'token')}"
        return finished

    def written(self) -> View | None:
        """The cut with what stands in for all that is gone, once it is finished; None: it was
        stopped. Blocks. Raises KvchatError; all is as it was then."""
        if (error := self.generation.error) is not None:
            too_long = NoRoomError("There is no room to write a summary in; let turns go.")
            raise too_long if error.kind == "context_full" else error
        if self.generation.stopped:
            return None
        text = "".join(self._parts).strip()
        if not text:
            raise NoRoomError("The model wrote no summary; everything is as it was.")
        return self._situation.summarised(self._cut, text)

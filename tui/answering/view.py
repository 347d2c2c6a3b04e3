"""What the model sees of a conversation: all of it, or its end.

The last message of those that were let go says so itself (`StoredMessage.let_go`), so that whatever
follows it, in any version, is seen without them. They stay in the conversation.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from tui.storage import StoredMessage
from tuner.engine.protocol import Message


@dataclass(frozen=True, slots=True)
class View:
    """The messages of a path. `stands_in`: what the model is given in place of those that are
    gone."""

    gone: tuple[StoredMessage, ...]
    messages: tuple[StoredMessage, ...]
    stands_in: str = ""


def view_of(path: Sequence[StoredMessage]) -> View:
    """What is seen of a path. Its last question always is."""
    end = len(path) - 1 if path and path[-1].role == "user" else len(path)
    for n in range(end, 0, -1):
        stands_in = path[n - 1].let_go
        if stands_in is not None:
            return View(tuple(path[:n]), tuple(path[n:]), stands_in)
    return View((), tuple(path))


def cuts(view: View, *, whole: bool = True) -> Iterator[View]:
    """The views with fewer messages, the longest first: a question stays with its answer. `whole`:
    all may go where no question waits."""
    path, n_gone = (*view.gone, *view.messages), len(view.gone)
    for n in range(n_gone + 1, len(path) + 1):
        turn_ends = path[n - 1].role == "assistant"
        if turn_ends and (path[n].role == "user" if n < len(path) else whole):
            yield View(path[:n], path[n:], view.stands_in)


def longest(views: Sequence[View], fits: Callable[[View], bool]) -> View | None:
    """The first of some views, each shorter than the one before, that fits; None: none does."""
    at = bisect_left(views, True, key=fits)
    return views[at] if at < len(views) else None


def prompt_of(system_prompt: str | None, view: View) -> tuple[Message, ...]:
    """What the model is given of a view: the system prompt, then questions and answers in turn, as
    many templates insist, from a question on. An answer that was cut in its thought is left out.
    What was thought goes beside what was said: some templates show it to the model again."""
    system = (Message("system", system_prompt),) if system_prompt else ()
    return (*system, *_in_turn(view))


def with_question(before: tuple[Message, ...], content: str) -> tuple[Message, ...]:
    """What the model is given of a view, with a question at its end; one that waits for its answer
    is joined with it, as roles alternate."""
    if before and before[-1].role == "user":
        return (*before[:-1], Message("user", f"{before[-1].content}\n\n{content}"))
    return (*before, Message("user", content))


def _in_turn(view: View) -> Iterator[Message]:
    last = Message("user", view.stands_in) if view.stands_in else None
    for message in view.messages:
        if not message.content or (last is None and message.role != "user"):
            continue
        if last is not None and last.role == message.role:
            content = f"{last.content}\n\n{message.content}"
            last = replace(last, content=content, reasoning=message.reasoning or last.reasoning)
            continue
        if last is not None:
            yield last
        last = Message(message.role, message.content, message.reasoning)
    if last is not None:
        yield last

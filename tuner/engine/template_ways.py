"""How a chat template wants to be called: found out by trying a whole conversation at the load.

Templates are written for one caller, and differ in what they take for granted: content as a text or
as a list of parts, a system message or none, what stands for "no tools". A `Way` is one set of such
habits; `choose` finds the nearest to the usual one in which everything that was said comes out.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tuner.engine.protocol import Message
from tuner.engine.template_process import Call, TemplateError

DEFAULT_SYSTEM = "You are a helpful assistant."
REASONING_FIELDS = ("reasoning_content", "reasoning", "thinking")  # as templates call it


@dataclass(frozen=True, slots=True)
class Way:
    """How to call a template; the defaults are Transformers' own way, except that it states tools
    and documents as None where there are none."""

    content: str = "text"  # "text" | "parts": [{"type": "text", ...}] | "user parts": of his only
    system: str = "own"  # "own" | "empty", "default": never without one | "folded": into the user's
    nothing: str = "absent"  # no tools, no documents: "absent" | "none" | "none called": nor there
    lenient: bool = False  # what is not given counts as an empty text
    reasoning: str = "fields"  # of earlier answers: "fields" | "parts" of content | "left out"

    def call(self, messages: Sequence[Message], variables: Mapping[str, Any], now: float) -> Call:
        """A conversation as the template's input. `variables`: what else it is given."""
        none = {} if self.nothing == "absent" else dict.fromkeys(("tools", "documents"), None)
        said = tuple(self._message(message) for message in self._turns(messages))
        return Call(said, {**none, **variables}, now, self.lenient)

    def _turns(self, messages: Sequence[Message]) -> Sequence[Message]:
        if self.system == "folded":
            return fold_system(messages)
        if self.system == "own" or any(m.role == "system" for m in messages):
            return messages
        content = DEFAULT_SYSTEM if self.system == "default" else ""
        return (Message("system", content), *messages)

    def _message(self, message: Message) -> dict[str, Any]:
        in_parts = self.content == "parts" or (
            self.content == "user parts" and message.role == "user"
        )
        content: Any = message.content
        if in_parts:
            content = [{"type": "text", "text": message.content}]
        if message.reasoning and self.reasoning == "parts":
            thought = {"type": "thinking", "thinking": message.reasoning}
            content = [thought, {"type": "text", "text": message.content}]
        given: dict[str, Any] = {"role": message.role, "content": content}
        if self.nothing == "none called":
            given["tool_calls"] = None
        if message.reasoning and self.reasoning == "fields":
            given |= dict.fromkeys(REASONING_FIELDS, message.reasoning)
        return given


# A template's prompt of a conversation in some way. Raises TemplateError.
Say = Callable[[Way, Sequence[Message]], str]

# What each habit costs: the fewer and the smaller the departures from the usual, the sooner tried.
_COSTS: Mapping[str, Mapping[Any, int]] = {
    "content": {"text": 0, "parts": 1, "user parts": 2},
    "system": {"own": 0, "folded": 2, "empty": 2, "default": 3},
    "nothing": {"absent": 0, "none": 1, "none called": 2},
    "lenient": {False: 0, True: 2},
}


def _ways() -> tuple[Way, ...]:
    """All combinations, the nearest to the usual first."""
    combinations = itertools.product(*(costs.items() for costs in _COSTS.values()))
    found = [
        (sum(cost for _, cost in habits), dict(zip(_COSTS, (v for v, _ in habits), strict=True)))
        for habits in combinations
    ]
    found.sort(key=lambda one: one[0])
    return tuple(Way(**habits) for _, habits in found)


WAYS = _ways()

# Words that no template writes by itself, and that survive trimming and changes of case.
_SYSTEM, _FIRST, _SECOND = "dromedary", "aardvark", "cormorant"
_ANSWER, _THOUGHT = "bandicoot", "echidna"


@dataclass(frozen=True, slots=True)
class _Trial:
    """A conversation, and what a template that fails on it fails on."""

    what: str
    messages: tuple[Message, ...]

    @property
    def marks(self) -> tuple[tuple[str, str], ...]:
        """Each word that must come out, and whose it is."""
        return tuple((m.content, m.role) for m in self.messages)


_S, _U1, _U2 = Message("system", _SYSTEM), Message("user", _FIRST), Message("user", _SECOND)
_A = Message("assistant", _ANSWER)
_TRIALS = (
    _Trial("a question", (_U1,)),
    _Trial("a system prompt", (_S, _U1)),
    _Trial("an earlier answer", (_U1, _A, _U2)),
    _Trial("a system prompt with an earlier answer", (_S, _U1, _A, _U2)),
)
_REASONED = (_U1, replace(_A, reasoning=_THOUGHT), _U2)
_OWNERS = {"system": "the system prompt", "user": "what the user says",
           "assistant": "what the assistant said"}  # fmt: skip
# A list of parts that was printed as Python or JSON writes it.
_RAW_PART = re.compile(r"""['"](text|thinking)['"]: ['"]""")


@dataclass(frozen=True, slots=True)
class Failure:
    """A kind of conversation that a template has no way to say."""

    what: str  # "an earlier answer"
    reason: str  # the template's own word, or what is missing
    rejected: bool  # it raises; else something is left out


@dataclass(frozen=True, slots=True)
class Choice:
    """The best way found, and what does not work even so. `usable`: a question at least does."""

    way: Way
    failures: tuple[Failure, ...]

    @property
    def usable(self) -> bool:
        return all(failure.what != _TRIALS[0].what for failure in self.failures)


def choose(say: Say, expired: Callable[[], bool] = lambda: False) -> Choice:
    """The nearest way in which a template says whole conversations. `expired`: no more time to
    try."""
    best = Choice(Way(), _failures(say, Way()))
    for way in WAYS[1:]:
        if not best.failures or expired():
            break
        found = Choice(way, _failures(say, way))
        if len(found.failures) < len(best.failures):
            best = found
    if not best.usable or expired():
        return best
    way = _with_reasoning(say, _saying_least(say, best.way, len(best.failures)))
    return replace(best, way=way)


def other_ways(way: Way) -> tuple[Way, ...]:
    """What is tried where a conversation is rejected in the chosen way: the same format still."""
    changes: tuple[dict[str, Any], ...] = (
        {},
        {"reasoning": "left out"},
        {"lenient": True},
        {"system": "folded"},
        {"system": "folded", "reasoning": "left out", "lenient": True},
    )
    return tuple(dict.fromkeys(replace(way, **change) for change in changes))


def _failures(say: Say, way: Way) -> tuple[Failure, ...]:
    """A template that fails on a question fails on everything."""
    found: list[Failure] = []
    for trial in _TRIALS:
        failure = _failure(say, way, trial)
        if failure is not None:
            found.append(failure)
            if trial is _TRIALS[0]:
                return tuple(replace(failure, what=each.what) for each in _TRIALS)
    return tuple(found)


def _failure(say: Say, way: Way, trial: _Trial) -> Failure | None:
    try:
        text = say(way, trial.messages)
    except TemplateError as error:
        return Failure(trial.what, str(error), rejected=True)
    folded = text.casefold()
    if way.content != "text" and _RAW_PART.search(folded):
        return Failure(trial.what, "it takes no parts", rejected=False)
    missing = [_OWNERS[role] for word, role in trial.marks if word not in folded]
    if missing:
        return Failure(trial.what, f"it leaves out {missing[-1]}", rejected=False)
    return None


def _saying_least(say: Say, way: Way, n_failures: int) -> Way:
    """Some templates speak of tools where these are None, others where they are absent: of two
    ways that work, the one that says less is the one without tools."""
    if way.nothing != "absent":
        return way
    other = replace(way, nothing="none")
    if len(_failures(say, other)) > n_failures:
        return way
    return other if len(say(other, (_U1,))) < len(say(way, (_U1,))) else way


def _with_reasoning(say: Say, way: Way) -> Way:
    """How a thought of an earlier answer is given: where fields do not show it, and parts of its
    content do, as those. A template that shows none of either is free to."""

    def shows(given: Way, *words: str) -> bool:
        try:
            text = say(given, _REASONED).casefold()
        except TemplateError:
            return False
        raw = given.reasoning == "parts" and _RAW_PART.search(text)
        return not raw and all(word in text for word in words)

    if shows(way, _THOUGHT):
        return way
    parts = replace(way, reasoning="parts")
    if shows(parts, _THOUGHT, _ANSWER):
        return parts
    return way if shows(way) else replace(way, reasoning="left out")


def fold_system(messages: Sequence[Message]) -> tuple[Message, ...]:
    """System messages put in front of the first user turn."""
    system = "\n\n".join(m.content for m in messages if m.role == "system")
    rest = [m for m in messages if m.role != "system"]
    if not system:
        return tuple(rest)
    for i, message in enumerate(rest):
        if message.role == "user":
            rest[i] = Message("user", f"{system}\n\n{message.content}")
            return tuple(rest)
    return (Message("user", system), *rest)


def merge_turns(messages: Sequence[Message]) -> tuple[Message, ...]:
    """Neighbours of one role as one turn, and the first turn the user's: what templates that
    insist on alternating roles accept."""
    merged: list[Message] = []
    for message in messages:
        if merged and merged[-1].role == message.role:
            before = merged[-1]
            merged[-1] = Message(
                message.role,
                f"{before.content}\n\n{message.content}",
                "\n\n".join(filter(None, (before.reasoning, message.reasoning))),
            )
        else:
            merged.append(message)
    first = next((n for n, message in enumerate(merged) if message.role != "system"), None)
    if first is not None and merged[first].role == "assistant":
        merged.insert(first, Message("user", ""))
    return tuple(merged)

"""The marks between which models think: a table of families, and which of them a model uses.

A row is used where its model's file states it, in the template's text or as a control or
user-defined token of the vocabulary. The forms are those of the makers' own templates; llama.cpp
has them in common/chat.cpp, common/parsers/ and common/chat-diff-analyzer.cpp.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum, auto
from functools import cache
from itertools import islice


class Kind(Enum):
    """What a mark does."""

    OPEN = auto()  # a thought begins
    CLOSE = auto()  # it ends, the answer follows
    ANSWER = auto()  # an answer begins that is wrapped in marks of its own
    ANSWERED = auto()  # and ends
    BEGIN = auto()  # a section's header begins, as of a channel
    BODY = auto()  # the header ends, the section's text follows
    END = auto()  # a section ends


@dataclass(frozen=True, slots=True)
class Family:
    """How one family of models marks its thoughts: with tags (`opens`, `closes`), or with sections
    whose header says what they are (`begins`, `bodies`, `ends`)."""

    name: str
    opens: tuple[str, ...] = ()
    closes: tuple[str, ...] = ()
    answer: tuple[str, ...] = ()  # around the answer: opening and closing marks in turn
    begins: tuple[str, ...] = ()
    bodies: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    closers: tuple[str, ...] = ()  # those of `begins` whose header only ends a section
    thought: str = ""  # how sections open a thought,
    between: str = ""  # close it,
    final: str = ""  # and open the answer

    @property
    def opening(self) -> str:
        """How a thought is opened after a prompt that opens none."""
        return self.thought or self.opens[0]

    @property
    def closing(self) -> str:
        """How a thought is closed and the answer opened."""
        return self.between + self.final or self.closes[0]

    def stated(self, states: Callable[[str], bool]) -> bool:
        """Whether a file that states these marks speaks of this family."""
        if self.begins:
            return all(states(m) for m in (self.begins[0], *self.bodies[:2]) if m.strip())
        return any(map(states, self.opens + self.closes))

    def kinds(self) -> Iterator[tuple[str, Kind]]:
        """All its marks."""
        for marks, kind in (
            (self.opens, Kind.OPEN),
            (self.closes, Kind.CLOSE),
            (self.answer[::2], Kind.ANSWER),
            (self.answer[1::2], Kind.ANSWERED),
            (self.begins, Kind.BEGIN),
            (self.bodies, Kind.BODY),
            (self.ends, Kind.END),
        ):
            yield from ((mark, kind) for mark in marks)


def _tags(names: Iterable[str], form: str = "<{}>") -> tuple[str, ...]:
    return tuple(form.format(name) for name in names)


_KIN = ("think", "thinking", "thought", "reasoning", "Thought")
_WRAPS = ("answer", "response", "output", "Output", "solution")

# DeepSeek R1, Qwen3, GLM, MiniMax M2, Nemotron, Phi-4, EXAONE, Reka, and whoever learned from them.
# Hunyuan, ERNIE and Granite 3.3 wrap their answer, too; where no file says so, such a wrap is what
# the user asked for.
KIN = Family(
    "think",
    _tags(_KIN),
    _tags(_KIN, "</{}>"),
    tuple(mark for name in _WRAPS for mark in (f"<{name}>", f"</{name}>")),
)

FAMILIES = (
    Family("Magistral", ("[THINK]",), ("[/THINK]",)),
    Family("Seed-OSS", ("<seed:think>",), ("</seed:think>",)),
    Family("MiniMax-M3", ("<mm:think>",), ("</mm:think>",)),
    Family(
        "Command",  # A and R7B; North Code says TEXT for RESPONSE
        ("<|START_THINKING|>",),
        ("<|END_THINKING|>",),
        ("<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>"),
    ),
    Family(
        "OpenThinker",
        ("<|begin_of_thought|>",),
        ("<|end_of_thought|>",),
        ("<|begin_of_solution|>", "<|end_of_solution|>"),
    ),
    Family("Kimi-VL", ("◁think▷",), ("◁/think▷",)),
    Family("Apertus", ("<|inner_prefix|>",), ("<|inner_suffix|>",)),
    Family(
        "Granite 3.2",
        ("Here is my thought process:", "Here's my thought process:"),
        ("Here is my response:", "Here's my response:"),
    ),
    Family(
        "Apriel",
        ("Here are my reasoning steps:",),
        ("[BEGIN FINAL RESPONSE]",),
        ("[BEGIN FINAL RESPONSE]", "[END FINAL RESPONSE]"),
    ),
    Family(
        "Harmony",  # gpt-oss; Muse has the recipient "self" for a thought, and no channels
        begins=("<|start|>", "<|channel|>"),
        bodies=("<|message|>",),
        ends=("<|end|>", "<|eom|>"),
        thought="<|channel|>analysis<|message|>",
        between="<|end|><|start|>assistant",
        final="<|channel|>final<|message|>",
    ),
    Family(
        "Gemma 4",
        begins=("<|channel>",),
        bodies=("\n",),
        ends=("<channel|>",),
        thought="<|channel>thought\n",
        between="<channel|>",
    ),
    Family(
        "Solar Open",
        begins=("<|begin|>",),
        bodies=("<|think|>", "<|content|>", "<|tool_calls|>"),
        ends=("<|end|>",),
        thought="<|think|>",
        between="<|end|><|begin|>assistant",
        final="<|content|>",
    ),
    Family(
        "Kimi K3",
        begins=("<|open|>", "<|close|>"),
        bodies=("<|sep|>",),
        closers=("<|close|>",),
        thought="<|open|>think<|sep|>",
        between="<|close|>think<|sep|>",
        final="<|open|>response<|sep|>",
    ),
)

_THOUGHTS = {"analysis", "think", "thinking", "thought", "reasoning", "tool_calls", "tools"}
_OTHERS = {"user", "system", "developer", "tool", "functions"}
_LISTENERS = {"user", "assistant", "all"}  # to whom an answer is said; else it is a tool call


class Section(Enum):
    """What a section's header makes of its text."""

    THOUGHT = auto()
    ANSWER = auto()
    OTHERS = auto()  # the model plays another's part: its own is over


def section(family: Family, header: str, body: str) -> Section:
    """What follows a header, which begins with its first mark, and the mark that ends it:
    `<|start|>assistant<|channel|>commentary to=functions.f <|constrain|>json`, `<|message|>`.

    The last channel counts: gpt-oss now and then begins with one that it does not use."""
    if header.startswith(family.closers):
        return Section.ANSWER
    parts = [part for part in re.split("|".join(map(re.escape, family.begins)), header) if part]
    words = [re.findall(r"[\w=.-]+", part) for part in parts]
    first = next((w for w in words if w), [""])
    last = words[-1] if words and words[-1] else [""]
    if first[0].partition(".")[0] in _OTHERS:
        return Section.OTHERS
    said_to = [w[3:] for w in (*last, *(first if len(words) > 1 else ())) if w.startswith("to=")]
    told = [name for name in said_to if name not in _LISTENERS]
    names = {last[0], *re.findall(r"\w+", body)}
    return Section.THOUGHT if told or names & _THOUGHTS else Section.ANSWER


# ---------------------------------------------------------------- which of them a model uses

_BRACKETED = re.compile(r"<[^<>\s'\"]{3,40}>|\[[^\[\]\s'\"]{3,40}\]|◁[^◁▷\s]{3,40}▷")
_END_OF_PROMPT = 400  # characters of a prompt in which its last marks are looked for
_MOST_UNKNOWN = 16  # pairs that are looked for in every token: a file could state a million
_PLAIN = {"<>", "[]", "◁▷"}  # brackets of tags
_NO_BRACKET = re.compile(r"[\w/:.-]+")
_WORD = re.compile(r"[a-z]+")
_ABOUT_THINKING = {
    "think", "thinking", "thought", "thoughts", "reason", "reasoning", "cot", "scratchpad",
    "monologue", "analysis", "reflection", "rationale",
}  # fmt: skip
_BESIDE = {"inner", "internal"}
_BEGINNINGS = {"begin", "start", "open", "prefix", "of"}
_ENDINGS = {"end", "stop", "close", "suffix"}


def pairs(texts: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Opening and closing marks that speak of thinking and differ only in that: by a slash, or by
    words such as begin and end. Of a plain tag one is enough: templates often name only the one
    that they write."""
    opens: dict[tuple[str, ...], str] = {}
    closes: dict[tuple[str, ...], str] = {}
    for text in texts:
        space, _, name = text[1:-1].strip("|｜/").lower().rpartition(":")
        words = _WORD.findall(name)
        left = [word for word in words if word not in _BEGINNINGS | _ENDINGS]
        if not set(left) & _ABOUT_THINKING or not set(left) <= _ABOUT_THINKING | _BESIDE:
            continue
        brackets = _NO_BRACKET.sub("", text)
        closing = bool(set(words) & _ENDINGS) or "/" in text[1:3]
        key = (brackets, space, *left)
        (closes if closing else opens).setdefault(key, text)
        if brackets in _PLAIN and len(left) == len(words):
            bare = text.replace("/", "", 1)
            opens.setdefault(key, bare)
            closes.setdefault(key, f"{bare[0]}/{bare[1:]}")
    for key, mark in opens.items():
        if key in closes:
            yield mark, closes[key]


class Marks:
    """The marks of one model."""

    def __init__(self, families: Sequence[Family], tokens: Mapping[str, bool], stated: bool):
        """`tokens`: the control (true) and user-defined (false) tokens of its vocabulary. `stated`:
        its file speaks of marks; else they are those that most models learned."""
        self.families = tuple(families)
        self.tokens = tokens
        self.stated = stated
        self.found: dict[str, tuple[Kind, Family]] = {}
        for family in self.families:
            for mark, kind in family.kinds():
                if mark.strip():  # a line's end is a mark in a header only
                    self.found.setdefault(mark, (kind, family))
        by_length = sorted(self.found, key=len, reverse=True)
        self.pattern = re.compile("|".join(map(re.escape, by_length)))
        self.first_letters = frozenset(mark[0] for mark in self.found)
        self._longest = len(by_length[0])
        self._beginnings = {mark[:n] for mark in self.found for n in range(1, len(mark))}
        self._at_end = re.compile(_at_the_end_of_a_prompt(self.families))

    def __deepcopy__(self, _: object) -> Marks:
        """Itself: nothing of it ever changes, and a vocabulary is large."""
        return self

    def in_header(self, family: Family) -> re.Pattern[str]:
        """The marks of a family that its headers know."""
        return _in_header(family)

    def control(self, mark: str) -> bool:
        """Whether it is a control token, which text is never taken for."""
        return self.tokens.get(mark, False)

    def ends_section(self, mark: str | None) -> bool:
        """Whether it ends a section, after which another may come."""
        return mark is not None and self.found[mark][0] is Kind.END

    def may_begin_at(self, text: str) -> int:
        """Where the end of a text may be the beginning of a mark; its length: nowhere."""
        for n in range(min(self._longest - 1, len(text)), 0, -1):
            if text[-n:] in self._beginnings:
                return len(text) - n
        return len(text)

    def may_grow(self, mark: str) -> bool:
        """Whether another mark begins like this one."""
        return mark in self._beginnings

    def end_of(self, prompt: str) -> str:
        """The marks that a prompt ends with: what they opened is open still."""
        match = self._at_end.search(prompt, max(0, len(prompt) - _END_OF_PROMPT))
        return match[0] if match else ""


def _at_the_end_of_a_prompt(families: Sequence[Family]) -> str:
    """A pattern of the marks, with nothing between them but space and the names in headers."""
    one = [rf"(?:{_any(m for f in families if not f.begins for m, _ in f.kinds())})\s*"]
    for family in families:
        if family.begins:
            ends = rf"(?:(?:{_any(family.ends)})\s*)?"
            body = rf"(?:(?:{_any(family.bodies)})\s*{ends})?"
            one.append(rf"(?:{_any(family.begins)})[^<\n]{{0,80}}{body}")
    marks = "|".join(one)
    # Some begin the thought: with how much is to be thought, or with its first word.
    begun = rf"(?:{_any(mark for family in families for mark in family.opens)})\s*[\w-]{{1,24}}\s*"
    return rf"(?:{marks})*(?:{marks}|{begun})$"


@cache
def _in_header(family: Family) -> re.Pattern[str]:
    return re.compile(_any(mark for mark in (*family.bodies, *family.ends, *family.begins)))


def _any(marks: Iterable[str]) -> str:
    return "|".join(map(re.escape, marks))


def marks_of(template: str, tokens: Mapping[str, bool]) -> Marks:
    """What a model's file states. `tokens`: the control (true) and user-defined (false) tokens of
    its vocabulary."""

    def states(mark: str) -> bool:
        return mark in tokens or mark in template

    wraps = zip(KIN.answer[::2], KIN.answer[1::2], strict=True)
    kin = replace(
        KIN,
        opens=tuple(sorted(KIN.opens, key=states, reverse=True)),
        closes=tuple(sorted(KIN.closes, key=states, reverse=True)),
        answer=tuple(mark for wrap in wraps if all(map(states, wrap)) for mark in wrap),
    )
    families = [family for family in (kin, *FAMILIES) if family.stated(states)]
    known = {mark for family in (kin, *families) for mark, _ in family.kinds()}
    written = dict.fromkeys((*tokens, *_BRACKETED.findall(template)))
    for opening, closing in islice(pairs(written), _MOST_UNKNOWN):
        if opening not in known and closing not in known:
            families.append(Family(opening, (opening,), (closing,)))
    return Marks(tuple(dict.fromkeys((*families, kin))), tokens, bool(families))

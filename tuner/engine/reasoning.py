"""Tells what a model thinks from what it answers, while its text streams in."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from enum import Enum, auto

from tuner.engine.reasoning_marks import KIN, Kind, Marks, Section, section

_FENCES = ("```", "~~~")
_INDENT = 4  # of code
_HEADER = 200  # characters: a longer one is none
_QUOTES = {"`": "`", '"': '"', "'": "'", "“": "”", "‘": "’", "«": "»"}
_GOES_ON = ",;:-–—([{<=+/\\|&#"  # what no sentence ends with
_RECIPIENT = "to="


@dataclass(frozen=True, slots=True)
class Part:
    """Text that is new, of a thought or of the answer. `moved`, without text: all that was given
    out as answer was a thought; the mark that ends it came without one that begins it."""

    text: str
    thought: bool
    moved: bool = False


class _Place(Enum):
    ANSWER = auto()
    THOUGHT = auto()
    HEADER = auto()


class Splitter:
    """Splits one answer; however its text is cut into pieces, the joined parts are the same.

    A control token is a mark wherever it stands. Marks that are written as text begin a thought
    where the answer begins and, if the model is one that thinks, after any sentence that is not in
    code: an answer may speak of them."""

    def __init__(self, marks: Marks, prompt: str = "", said: str = ""):
        """`prompt`: what the answer follows; what the marks at its end open is open. `said`: what
        the model has said of this answer already, its marks included (`resumed`)."""
        self._marks = marks
        self._place = _Place.ANSWER
        self._held = ""  # not read yet: it may become a mark
        self._lead = ""  # space at a section's beginning, which may come to nothing
        self._text = _Markdown()  # of this section
        self._family = KIN  # that of the header
        self._header = ""
        self._around: tuple[_Place, _Markdown] | None = None  # the section that it interrupts
        self._thinks = marks.stated
        self._parted = False  # a mark has parted thought and answer
        self._wrapped = False
        self._n_spoken_of = 0  # opening marks that were text: as many closing ones are, too
        self._spelled = False  # the mark that began this thought was written as text
        self._ends = {True: "", False: ""}  # the last character of the thoughts, and of the answer
        self._over = False
        self._given = True  # this text: the engine makes tokens of all its marks
        self._opened = False  # the header, by the prompt: the model may know nothing of it
        self.feed(marks.end_of(prompt))
        self._header += self._held
        self._held = ""
        self._opened = self._place is _Place.HEADER
        if said:
            self._held = said
            self._read(final=True)
        self._given = False

    @property
    def thinking(self) -> bool:
        """What comes next is a thought, as far as can be seen."""
        return self._place is _Place.THOUGHT

    @property
    def answering(self) -> bool:
        """What comes next is the answer, neither a thought nor a section's header."""
        return self._place is _Place.ANSWER

    @property
    def calm(self) -> bool:
        """What comes next is text, until one of the `first_letters` does."""
        return not self._held and self._place is not _Place.HEADER and not self._over

    @property
    def first_letters(self) -> Collection[str]:
        """Those that marks begin with."""
        return self._marks.first_letters

    @property
    def may_think(self) -> bool:
        """A thought comes next, its header, or the rest of what may become its mark; of a model
        that thinks."""
        return self._thinks and (bool(self._held) or not self.answering)

    @property
    def over(self) -> bool:
        """The model goes on in the name of another: its answer is at its end."""
        return self._over

    def resumed(self, reasoning: str, content: str) -> str:
        """What is to follow the prompt for the model to go on with a thought, or with an answer
        after its thought, as if it had just said so itself. Only before anything is fed."""
        in_header = self._place is _Place.HEADER
        thinking, closed = self.thinking, self._parted and not self.thinking
        family = self._family if in_header else self._marks.families[0]
        if closed or not (reasoning or thinking):
            return (family.final if in_header and content else "") + content
        thought = reasoning if thinking else family.opening + reasoning
        return f"{thought}{family.closing}{content}" if content else thought

    def feed(self, text: str) -> list[Part]:
        """Takes more text; holds back what may be half a mark."""
        self._held += text
        return self._read(final=False)

    def mark(self, token: str) -> list[Part]:
        """Takes a control token."""
        parts: list[Part] = []
        if self._place is _Place.HEADER:
            self._header += self._held
            self._held = ""
            self._mark_in_header(token)
        else:
            parts = self._read(final=True)
            if token in self._marks.found:
                self._counts(token, parts, control=True)
        return parts

    def finish(self) -> list[Part]:
        """The rest, at the end of an answer. Half a header is nobody's text."""
        parts = self._read(final=True)
        if self._lead and not self._parted:
            parts.append(Part(self._lead, thought=False))
        return parts

    # ------------------------------------------------------------ reading

    def _read(self, final: bool) -> list[Part]:
        parts: list[Part] = []
        while not self._over:
            read = self._read_header if self._place is _Place.HEADER else self._read_text
            if not read(parts, final):
                break
        return parts

    def _read_text(self, parts: list[Part], final: bool) -> bool:
        """Reads as far as it can. True at a mark: what follows is read in another way."""
        while match := self._marks.pattern.search(self._held):
            mark = match[0]
            self._say(self._held[: match.start()], parts)
            self._held = self._held[match.start() :]
            if not final and mark == self._held and self._may_change(mark):
                return False
            counts = self._counts(mark, parts, self._given and self._marks.control(mark))
            self._held = self._held[len(mark) :]
            if counts:
                return True
            self._say(mark, parts)
        end = len(self._held) if final else self._marks.may_begin_at(self._held)
        self._say(self._held[:end], parts)
        self._held = self._held[end:]
        return False

    def _may_change(self, mark: str) -> bool:
        """What a mark is depends on what comes after it."""
        return self._marks.may_grow(mark) or self._text.last in _QUOTES

    def _read_header(self, parts: list[Part], final: bool) -> bool:
        match = self._marks.in_header(self._family).search(self._held)
        end = match.start() if match else self._marks.may_begin_at(self._held)
        if self._opened and not _names_recipient(self._held[:end]):
            self._enter(_Place.ANSWER)
        elif match and end <= _HEADER:
            self._header += self._held[:end]
            self._held = self._held[match.end() :]
            self._mark_in_header(match[0])
        elif end > _HEADER or (final and (self._opened or self._around)):
            self._no_header(parts)
        else:
            return False
        self._opened = False
        return True

    def _no_header(self, parts: list[Part]) -> None:
        """It is text that speaks of one."""
        self._enter(_Place.ANSWER)
        if self._around is not None:
            self._place, self._text = self._around
            self._say(self._header, parts)

    def _mark_in_header(self, mark: str) -> None:
        self._opened = False
        if mark in self._family.bodies:
            follows = section(self._family, self._header, mark)
            self._over = follows is Section.OTHERS
            self._part(_Place.THOUGHT if follows is Section.THOUGHT else _Place.ANSWER)
        elif mark in self._family.ends:
            self._part(_Place.ANSWER)
        else:
            self._header += mark

    # ------------------------------------------------------------ marks

    def _counts(self, mark: str, parts: list[Part], control: bool = False) -> bool:
        """Whether a mark in a text is one, and does what it says."""
        kind, family = self._marks.found[mark]
        thinking, fresh = self.thinking, self._text.empty
        if kind is Kind.OPEN:
            if thinking:
                return fresh or control  # again, where the prompt has opened it
            if not (fresh or control or (self._thinks and self._stands())):
                self._n_spoken_of += 1
                return False
            self._part(_Place.THOUGHT)
            self._spelled = not control
        elif kind is Kind.CLOSE:
            if not thinking and not fresh:
                if self._parted:
                    return control
                if not control and (self._n_spoken_of or not self._stands()):
                    self._n_spoken_of = max(0, self._n_spoken_of - 1)
                    return False
                parts.append(Part("", thought=False, moved=True))
                self._ends = {True: self._ends[False], False: ""}
            elif thinking and not control and self._quoted(mark):
                return False
            self._part(_Place.ANSWER)
            self._wrapped = mark in family.answer
        elif kind is Kind.ANSWER:
            if thinking and mark not in self._marks.tokens:
                return False
            if not thinking and not fresh:
                return control
            self._part(_Place.ANSWER)
            self._wrapped = True
        elif kind is Kind.ANSWERED:
            if thinking or not self._wrapped or (self._text.in_code and not control):
                return control
            self._wrapped = False
        elif kind is Kind.BEGIN:
            if not (control or fresh or (not self._quoted(mark) if thinking else self._stands())):
                return False
            self._around = None if control or fresh else (self._place, self._text)
            self._enter(_Place.HEADER)
            self._family, self._header, self._spelled = family, mark, not control
        elif kind is Kind.END:
            if not control and (self._quoted(mark) if thinking else self._text.in_code):
                return False
            self._part(_Place.ANSWER)
        else:  # a body without a header
            return control
        return True

    def _part(self, place: _Place) -> None:
        self._parted = True
        self._thinks = self._thinks or place is _Place.THOUGHT
        self._enter(place)

    def _enter(self, place: _Place) -> None:
        self._place = place
        self._lead = ""
        self._text = _Markdown()

    def _stands(self) -> bool:
        """A mark that is written here is meant, not spoken of."""
        text = self._text
        if text.in_code or text.last in _QUOTES:
            return False
        return text.at_line_start or (self._thinks and text.at_sentence_end)

    def _quoted(self, mark: str) -> bool:
        """A thought speaks of the mark that would end it."""
        unlike = self._marks.control(mark) and not self._spelled  # the mark that began it
        if unlike and not self._text.at_line_start:
            return True
        close = _QUOTES.get(self._text.last)
        return close is not None and self._held[len(mark) :].startswith(close)

    # ------------------------------------------------------------ text

    def _say(self, text: str, parts: list[Part]) -> None:
        if not text:
            return
        thought = self.thinking
        if self._text.empty:
            self._lead += text
            if self._lead.isspace():
                return
            text = self._beginning(self._lead, thought)
            self._lead = ""
        self._text.add(text)
        self._ends[thought] = text[-1]
        parts.append(Part(text, thought))

    def _beginning(self, text: str, thought: bool) -> str:
        """A section's first text: what parts it from a mark goes, what parts it from the section
        of its kind before is there."""
        begun = text.lstrip()
        space = text[: len(text) - len(begun)]
        before = self._ends[thought]
        if before:
            if before.isspace():
                return text.lstrip("\n")
            return text if space and not thought else f"\n\n{begun}"
        if thought:
            return text.lstrip("\n")
        if not self._parted:
            return text
        return text[space.rfind("\n") + 1 :] if "\n" in space else begun


class _Markdown:
    """As much of a text's form as tells whether it speaks of a mark or means it."""

    def __init__(self) -> None:
        self.empty = True
        self.last = ""  # character
        self._solid = ""  # the last that is no space
        self._fenced = False
        self._new_line()

    def _new_line(self) -> None:
        self._indent = 0
        self._head = ""  # as much of the line as a fence has
        self._ticks = 0
        self._says = False  # it has a letter: more than a list's number or bullet

    def add(self, text: str) -> None:
        self.empty = False
        self.last = text[-1]
        solid = text.rstrip()
        self._solid = solid[-1] if solid else self._solid
        for n, part in enumerate(text.split("\n")):
            if n:
                self._fenced ^= self._head in _FENCES
                self._new_line()
            if not self._head:
                space = part[: len(part) - len(part.lstrip())]
                self._indent += len(space.expandtabs(_INDENT))
            if len(self._head) < len(_FENCES[0]):
                self._head = (self._head + part).lstrip()[: len(_FENCES[0])]
            self._ticks += part.count("`")
            self._says = self._says or any(map(str.isalpha, part))

    @property
    def in_code(self) -> bool:
        return self._fenced or self._ticks % 2 == 1 or self._indent >= _INDENT

    @property
    def at_line_start(self) -> bool:
        return not self._head

    @property
    def at_sentence_end(self) -> bool:
        return self._says and not self._solid.isalnum() and self._solid not in _GOES_ON


def _names_recipient(text: str) -> bool:
    """Whether a header can go on like this after its role: not at all, or to whom it speaks."""
    begun = text.lstrip()
    return begun.startswith(_RECIPIENT) or _RECIPIENT.startswith(begun)

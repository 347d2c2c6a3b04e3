"""A regular expression of JSON Schema (ECMA-262) as a grammar of llama.cpp (GBNF), over the
characters of a JSON string, where quotes, backslashes and line ends need a backslash."""

from __future__ import annotations

import json
from collections.abc import Iterable

# What may stand in a JSON string: as it is, or escaped.
CHARACTER = r'[^"\\\x7F\x00-\x1F] | "\\" (["\\/bfnrt] | "u" [0-9a-fA-F]{4})'

MAX_DEPTH = 32  # of groups in groups
_MOST = 2000  # MAX_REPETITION_THRESHOLD (src/llama-grammar.cpp)
_LAST = 0x10FFFF
_ESCAPED = (*range(0x20), 0x22, 0x5C, 0x7F)  # characters that are not written as they are
_DIGITS = ((0x30, 0x39),)
_WORDS = ((0x30, 0x39), (0x41, 0x5A), (0x5F, 0x5F), (0x61, 0x7A))
_SPACES = ((0x09, 0x0D), (0x20, 0x20), (0xA0, 0xA0), (0x2028, 0x2029), (0xFEFF, 0xFEFF))
_LINES = ((0x0A, 0x0A), (0x0D, 0x0D), (0x2028, 0x2029))
_SETS = {"d": _DIGITS, "w": _WORDS, "s": _SPACES}
_CONTROLS = {"n": 0x0A, "t": 0x09, "r": 0x0D, "f": 0x0C, "v": 0x0B, "0": 0}

_Ranges = tuple[tuple[int, int], ...]


class PatternError(ValueError):
    """What a pattern says that a grammar cannot, as the rest of a sentence about it."""


_NOTHING = '""'  # the text without a character


def literal(text: str) -> str:
    """A text in quotes, as GBNF writes it."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c.isprintable() else f"\\U{ord(c):08X}" for c in escaped) + '"'


class Pattern:
    """Reads one pattern from left to right."""

    def __init__(self, text: str):
        self._text, self._at, self._depth = text, 0, 0

    def grammar(self) -> str:
        """Raises PatternError. A pattern holds of any part of a string, unless it says otherwise:
        then anything may stand around it."""
        ways = self._ways(top=True)
        if self._at < len(self._text):
            raise PatternError("closes a group that it has not opened")
        return ways if ways == _NOTHING else f"({ways})"

    def _ways(self, *, top: bool = False) -> str:
        found = [self._sequence(top)]
        while self._next("|"):
            found.append(self._sequence(top))
        # llama.cpp takes no repetition of a group that has nothing for one of its ways.
        some = [way for way in found if way != _NOTHING]
        if len(some) == len(found):
            return " | ".join(found)
        return f"({' | '.join(some)})?" if some else _NOTHING

    def _sequence(self, top: bool) -> str:
        parts: list[str] = []
        from_start, to_end = self._next("^"), False
        while self._at < len(self._text) and self._text[self._at] not in "|)":
            if self._next("$"):
                to_end = True
                if self._at < len(self._text) and self._text[self._at] not in "|)":
                    raise PatternError("has something behind its end")
                break
            atom, quantifier = self._atom(), self._quantifier()
            if atom != _NOTHING:
                parts.append(atom + quantifier)
        if not top and (from_start or to_end):
            raise PatternError("has ^ or $ inside a group")
        if top and not from_start:
            parts.insert(0, "char*")
        if top and not to_end:
            parts.append("char*")
        return " ".join(parts) or _NOTHING

    def _atom(self) -> str:
        c = self._take()
        if c == "(":
            return self._group()
        if c == "[":
            return self._class()
        if c == ".":
            return _written(_LINES, without=True)
        if c == "\\":
            ranges, without = self._escape()
            return _written(ranges, without=without)
        if c in "*+?^{":
            raise PatternError(f"has '{c}' where nothing is that it could be about")
        return _written(((ord(c), ord(c)),))

    def _group(self) -> str:
        if self._next("?"):
            if self._next("<") and self._text[self._at : self._at + 1] not in ("=", "!"):
                end = self._text.find(">", self._at)
                if end < 0:
                    raise PatternError("has a group whose name has no end")
                self._at = end + 1
            elif not self._next(":"):
                raise PatternError("looks ahead or behind, which a grammar cannot")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise PatternError("has too many groups in groups")
        ways = self._ways()
        self._depth -= 1
        if not self._next(")"):
            raise PatternError("has a group without an end")
        return f"({ways})"

    def _class(self) -> str:
        without = self._next("^")
        ranges: list[tuple[int, int]] = []
        while not self._next("]"):
            low = self._member()
            if isinstance(low, int) and self._text[self._at : self._at + 1] == "-" and (
                self._text[self._at + 1 : self._at + 2] != "]"
            ):  # fmt: skip
                self._at += 1
                high = self._member()
                if not isinstance(high, int) or high < low:
                    raise PatternError("has a range of characters without an order")
                ranges.append((low, high))
            else:
                ranges += [(low, low)] if isinstance(low, int) else low
        return _written(tuple(ranges), without=without)

    def _member(self) -> int | _Ranges:
        c = self._take()
        if c != "\\":
            return ord(c)
        if self._text[self._at : self._at + 1] == "b":
            self._at += 1
            return 0x08
        ranges, without = self._escape()
        if without:
            return _others(ranges)
        return ranges[0][0] if len(ranges) == 1 and ranges[0][0] == ranges[0][1] else ranges

    def _escape(self) -> tuple[_Ranges, bool]:
        """The characters of an escape, and whether it is all others."""
        c = self._take()
        if c.lower() in _SETS:
            return _SETS[c.lower()], c.isupper()
        if c in _CONTROLS:
            code = _CONTROLS[c]
        elif c in "xu":
            digits = self._text[self._at : self._at + (2 if c == "x" else 4)]
            self._at += len(digits)
            try:
                code = int(digits, 16)
            except ValueError:
                raise PatternError(f"has \\{c} without a number") from None
        elif c.isalnum():
            raise PatternError(f"has \\{c}, which a grammar cannot say")
        else:
            code = ord(c)
        return ((code, code),), False

    def _quantifier(self) -> str:
        found = ""
        for mark in "*+?":
            if self._next(mark):
                found = mark
        if not found and self._text[self._at : self._at + 1] == "{":
            end = self._text.find("}", self._at)
            least, comma, most = self._text[self._at + 1 : max(end, 0)].partition(",")
            digits = least.isdecimal() and (not most or most.isdecimal())
            if end < 0 or not digits or len(least) > 6 or len(most) > 6:  # noqa: PLR2004 - digits
                raise PatternError("has { without a count behind it")
            if max(int(least), int(most or 0)) > _MOST or int(most or least) < int(least):
                raise PatternError(f"repeats something more than {_MOST:,} times, or less than 0")
            found, self._at = f"{{{least}{comma}{most}}}", end + 1
        if found:
            self._next("?")  # lazy: the same texts
            if self._text[self._at : self._at + 1] in ("*", "+", "?", "{"):
                raise PatternError("repeats a repetition")
        return found

    def _take(self) -> str:
        if self._at >= len(self._text):
            raise PatternError("ends too early")
        self._at += 1
        return self._text[self._at - 1]

    def _next(self, mark: str) -> bool:
        """Whether this is what comes; it is passed."""
        if self._text[self._at : self._at + 1] != mark:
            return False
        self._at += 1
        return True


def _others(ranges: _Ranges) -> _Ranges:
    """All characters that are not in these, but those that are written with a backslash."""
    found, at = [], 0x20
    for low, high in sorted(ranges):
        if low > at:
            found.append((at, low - 1))
        at = max(at, high + 1)
    return (*found, (at, _LAST)) if at <= _LAST else tuple(found)


def _written(ranges: _Ranges, *, without: bool = False) -> str:
    """One character of these, or `without` of all others, as a JSON string has it."""
    ways: list[str] = []
    if without:
        excluded = _class_text((*ranges, (0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F)))
        ways.append(f"[^{excluded}]")
        escaped: Iterable[int] = (0x22, 0x5C)
    else:
        plain = _plain(ranges)
        if plain:
            ways.append(f"[{_class_text(plain)}]")
        escaped = _ESCAPED
    for code in escaped:
        if any(low <= code <= high for low, high in ranges) != without:
            ways.append(literal(json.dumps(chr(code))[1:-1]))
    if not ways:
        raise PatternError("has a set of no characters")
    return ways[0] if len(ways) == 1 else f"({' | '.join(ways)})"


def _plain(ranges: _Ranges) -> _Ranges:
    """The ranges without the characters that are written with a backslash, and halves of pairs."""
    found = list(ranges)
    for gap in ((0, 0x1F), (0x22, 0x22), (0x5C, 0x5C), (0x7F, 0x7F), (0xD800, 0xDFFF)):
        parts = []
        for low, high in found:
            parts += [(low, min(high, gap[0] - 1)), (max(low, gap[1] + 1), high)]
        found = [(low, high) for low, high in parts if low <= high]
    return tuple(found)


def _class_text(ranges: _Ranges) -> str:
    return "".join(
        f"\\U{low:08X}" if low == high else f"\\U{low:08X}-\\U{high:08X}" for low, high in ranges
    )

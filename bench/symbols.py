"""Expressions as text, put together by a reader of sources: Python that can be evaluated later.

    logical("&", "(i < n_layer)", "1")      # "(i < n_layer)"
    pick("(n_head(0) > 0)", "n_embd", "0")  # "pick((n_head(0) > 0), n_embd, 0)"

Conditions are comparisons, joined by `&` and `|`; what is not known is `unknown`.
"""

from __future__ import annotations

import re

from tuner.model.architectures import KNOWN

UNKNOWN = "unknown"


_BARE = re.compile(r"\w+|\w+\(\w*\)")
_COMPARED = re.compile(
    r"^(?:has\w*\('[^']*'\)|\(.* (?:<|>|<=|>=|==|!=|&|\|) .*\)|is_\w+\(\w*\))$", re.S
)


def truth(text: str) -> str:
    """A value as a condition."""
    if text == UNKNOWN or text in ("0", "1"):
        return text
    if text.startswith("'"):
        return "1"
    if re.fullmatch(r"[\d.]+", text):
        return "1" if float(text) else "0"
    return text if _COMPARED.match(text) else f"({text} != 0)"


def negated(condition: str) -> str:
    """The opposite of a condition."""
    if condition == UNKNOWN:
        return UNKNOWN
    if condition in ("0", "1"):
        return "1" if condition == "0" else "0"
    back = re.fullmatch(r"\((.*) (==|!=) 0\)", condition)
    if back and _balanced(back[1]):
        if back[2] == "==" and _COMPARED.match(back[1]):
            return back[1]
        if _BARE.fullmatch(back[1]):
            return f"({back[1]} {'!=' if back[2] == '==' else '=='} 0)"
    return f"({condition} == 0)"


def words(text: str) -> set[str]:
    """The names in a text, but for those in quotes inside of it."""
    return set(re.findall(r"\b[a-zA-Z_]\w*\b", re.sub(r"'[^']*'", "", text)))


def _balanced(text: str) -> bool:
    depth = 0
    for c in text:
        depth += (c == "(") - (c == ")")
        if depth < 0:
            return False
    return depth == 0


def logical(op: str, a: str, b: str) -> str:
    """Two conditions, joined by `&` or `|`."""
    zero, one = ("0", "1") if op == "&" else ("1", "0")
    if zero in (a, b):
        return zero
    if a == one:
        return b
    if b in (one, a):
        return a
    return f"({a} {op} {b})"


def combined(op: str, a: str, b: str) -> str:
    """Two values; a comparison with an architecture that is none to chat with is settled here."""
    if UNKNOWN in (a, b):
        return UNKNOWN
    if op in ("==", "!=") and "arch" in (a, b) and b.strip("'") not in KNOWN:
        return "0" if op == "==" else "1"
    if op == "|" and "0" in (a, b):
        return b if a == "0" else a
    if op == "|" and a == b:
        return a
    text = f"({a} {op} {b})"
    if re.fullmatch(r"\(-?\d+ \S+ -?\d+\)", text) or re.fullmatch(
        r"\('[^']*' [=!]= '[^']*'\)", text
    ):
        return str(int(eval(text, {})))
    return text


def pick(condition: str, yes: str, no: str) -> str:
    """One of two values, by a condition."""
    if yes == no:
        return yes
    if condition in ("0", "1"):
        return yes if condition == "1" else no
    return UNKNOWN if condition == UNKNOWN else f"pick({condition}, {yes}, {no})"

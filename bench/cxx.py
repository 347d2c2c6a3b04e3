"""Reads the plain part of C++ in which llama.cpp's loader is written.

    body = statements("if (n > 0) { create_tensor(tn(X, \"weight\"), {n}, 0); }")
    node = Expression("n > 0").parse()      # ("binary", ">", ("name", "n"), ("num", "0"))

Blocks, branches, loops, lambdas and expressions by precedence; types are only told apart from
names. What is beyond it raises Unreadable.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_TOKEN = re.compile(
    r"""\s*(?:(?P<str>"(?:\\.|[^"\\])*")|(?P<num>\d+(?:\.\d*)?(?:e[-+]?\d+)?[uUlLf]*)"""
    r"""|(?P<name>[A-Za-z_]\w*(?:::~?[A-Za-z_]\w*)*)"""
    r"""|(?P<op><<=|>>=|->|\+\+|--|<=|>=|==|!=|&&|\|\||<<|>>|[-+*/%|&^]=|[-+*/%<>=!&|^~?:.,;(){}\[\]]))"""
)
_LEVELS = (
    ("||",), ("&&",), ("|",), ("^",), ("&",), ("==", "!="), ("<", ">", "<=", ">="),
    ("<<", ">>"), ("+", "-"), ("*", "/", "%"),
)  # fmt: skip
CASTS = frozenset(
    {"int", "int32_t", "int64_t", "uint32_t", "uint64_t", "size_t", "float", "double", "bool"}
)

Node = tuple[Any, ...]


class Unreadable(Exception):  # noqa: N818 - no error: what it stops at is taken as unknown
    """C++ beyond this reader."""


def tokens_of(text: str) -> list[tuple[str, str]]:
    found, at = [], 0
    text = text.strip()
    while at < len(text):
        match = _TOKEN.match(text, at)
        if not match:
            raise Unreadable(text[at : at + 40])
        found.append((str(match.lastgroup), match[match.lastgroup or 0]))
        at = match.end()
        while at < len(text) and text[at].isspace():
            at += 1
    return found


class Expression:
    """A parser of expressions, by precedence."""

    def __init__(self, text: str):
        self.tokens, self.at = tokens_of(text), 0

    def parse(self) -> Node:
        node = self.assignment()
        if self.at < len(self.tokens):
            raise Unreadable(str(self.tokens[self.at :]))
        return node

    def peek(self, ahead: int = 0) -> str:
        at = self.at + ahead
        return self.tokens[at][1] if at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        found = self.peek()
        if not found or (expected and found != expected):
            raise Unreadable(f"{found!r} for {expected!r}")
        self.at += 1
        return found

    def assignment(self) -> Node:
        left = self.choice()
        if self.peek() in ("=", "|=", "+=", "-=", "*=", "/="):
            op = self.take()
            return ("assign", op, left, self.assignment())
        return left

    def choice(self) -> Node:
        condition = self.binary(0)
        if self.peek() != "?":
            return condition
        self.take("?")
        yes = self.assignment()
        self.take(":")
        return ("choice", condition, yes, self.assignment())

    def binary(self, level: int) -> Node:
        if level == len(_LEVELS):
            return self.unary()
        left = self.binary(level + 1)
        while self.peek() in _LEVELS[level]:
            op = self.take()
            left = ("binary", op, left, self.binary(level + 1))
        return left

    def unary(self) -> Node:
        if self.peek() in ("!", "-", "+", "*", "&", "~", "++", "--"):
            return ("unary", self.take(), self.unary())
        if self.peek() == "(" and self.peek(1) in CASTS and self.peek(2) == ")":
            self.at += 3
            return self.unary()
        return self.postfix()

    def postfix(self) -> Node:
        node = self.primary()
        while True:
            match self.peek():
                case "(":
                    node = ("call", node, self.list_until("(", ")"))
                case "[":
                    self.take("[")
                    node = ("index", node, self.assignment())
                    self.take("]")
                case "." | "->":
                    self.take()
                    node = ("member", node, self.take())
                case "++" | "--":
                    node = ("unary", self.take(), node)
                case _:
                    return node

    def list_until(self, start: str, end: str) -> list[Node]:
        self.take(start)
        items: list[Node] = []
        while self.peek() != end:
            items.append(self.assignment())
            if self.peek() == ",":
                self.take()
        self.take(end)
        return items

    def primary(self) -> Node:
        if self.peek() == "(":
            self.take("(")
            node = self.assignment()
            self.take(")")
            return node
        if self.peek() == "{":
            return ("braces", self.list_until("{", "}"))
        kind, text = self.tokens[self.at] if self.at < len(self.tokens) else ("", "")
        if kind not in ("num", "str", "name"):
            raise Unreadable(text)
        self.take()
        if text in ("static_cast", "std::max", "std::min") and self.peek() == "<":
            while self.take() != ">":
                pass
        return (kind, text)


@dataclass
class Statement:
    """`kind`: if, for, switch, other (a loop that is not understood), plain, lambda."""

    kind: str
    text: str = ""
    body: list[Statement] = field(default_factory=list)
    other: list[Statement] = field(default_factory=list)
    params: dict[str, str] = field(default_factory=dict)


def source(path: Path) -> str:
    """A source file, without its comments."""
    return without_comments(path.read_text())


def without_comments(text: str) -> str:
    return re.sub(
        r'"(?:\\.|[^"\\])*"|//[^\n]*|/\*.*?\*/',
        lambda m: m[0] if m[0].startswith('"') else " ",
        text,
        flags=re.S,
    )


def closing(text: str, at: int) -> int:
    """Where the bracket that opens at `at` closes."""
    pairs, depth = {"(": ")", "{": "}", "[": "]"}, 0
    opening, end = text[at], pairs[text[at]]
    while at < len(text):
        if text[at] == '"':
            at = _end_of_string(text, at)
        elif text[at] == opening:
            depth += 1
        elif text[at] == end:
            depth -= 1
            if not depth:
                return at
        at += 1
    raise Unreadable("no end")


def cut(text: str, start: str) -> str:
    """From `start`, a regular expression, to the end of the braces that follow, and what comes up
    to the next semicolon where it is no function. Raises LookupError."""
    match = re.search(start, text, re.MULTILINE)
    if match is None:
        raise LookupError(start)
    end = closing(text, text.index("{", match.end() - 1)) + 1
    tail = re.compile(r"\s*;").match(text, end)
    return text[match.start() : tail.end() if tail else end] + "\n"


def _end_of_string(text: str, at: int) -> int:
    found = re.compile(r'"(?:\\.|[^"\\])*"').match(text, at)
    if not found:
        raise Unreadable(text[at : at + 40])
    return found.end() - 1


def statements(text: str) -> list[Statement]:
    found: list[Statement] = []
    at = 0
    while True:
        while at < len(text) and (text[at].isspace() or text[at] == ";"):
            at += 1
        if at >= len(text):
            return found
        statement, at = _statement(text, at)
        found.append(statement)


def _statement(text: str, at: int) -> tuple[Statement, int]:
    if text[at] == "{":
        end = closing(text, at)
        return Statement("if", "true", statements(text[at + 1 : end])), end + 1
    head = re.compile(r"(if constexpr|if|for|while|switch|try|catch|do)\b\s*").match(text, at)
    if head:
        word, at = head[1], head.end()
        condition = ""
        if at < len(text) and text[at] == "(":
            end = closing(text, at)
            condition, at = text[at + 1 : end], end + 1
        while text[at].isspace():
            at += 1
        if word == "switch":
            end = closing(text, at)
            body = re.sub(r"\b(case\s+[\w:]+|default)\s*:|\bbreak\s*;", " ", text[at + 1 : end])
            return Statement("switch", condition, statements(body)), end + 1
        inner, at = _statement(text, at)
        inside = inner.body if inner.kind == "if" and inner.text == "true" else [inner]
        if not word.startswith("if"):
            return Statement("for" if word == "for" else "other", condition, inside), at
        rest = re.compile(r"\s*else\b\s*").match(text, at)
        other: list[Statement] = []
        if rest:
            branch, at = _statement(text, rest.end())
            other = branch.body if branch.kind == "if" and branch.text == "true" else [branch]
        return Statement("if", condition, inside, other), at
    function = re.compile(r"(?:const\s+)?auto\s+(\w+)\s*=\s*\[[^\]]*\]\s*\(").match(text, at)
    if function:
        end = closing(text, function.end() - 1)
        params = params_of(text[function.end() : end])
        start = text.index("{", end)
        end = closing(text, start)
        lines = statements(text[start + 1 : end])
        return Statement("lambda", function[1], lines, params=params), end + 1
    start = at
    while text[at] != ";":
        at = closing(text, at) if text[at] in "({[" else at
        if text[at] == '"':
            at = _end_of_string(text, at)
        at += 1
        if at >= len(text):
            break
    return Statement("plain", text[start:at].strip()), at + 1


def params_of(text: str) -> dict[str, str]:
    """The types of parameters by their names."""
    found = (re.search(r"([\w:]+)[\s&*]+(\w+)\s*(?:=.*)?$", one.strip()) for one in text.split(","))
    return {one[2]: one[1] for one in found if one}


def lvalue(node: Node) -> str:
    match node:
        case ("name", name):
            return str(name)
        case ("member", inner, name):
            outer = lvalue(inner)
            return f"{outer}.{name}" if outer else ""
        case ("index", inner, _):
            return lvalue(inner)
    return ""

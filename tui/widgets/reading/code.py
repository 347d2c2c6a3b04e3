"""The words of a program in their colours."""

from __future__ import annotations

from functools import lru_cache

from pygments.lexer import Lexer
from pygments.lexers import get_lexer_by_name
from pygments.token import Token, _TokenType
from pygments.util import ClassNotFound

from tui.widgets.reading.lines import Span

# The nearest of these above a token's type says which style it has.
_STYLES = {
    Token.Comment: "comment",
    Token.Keyword: "keyword",
    Token.Literal.String: "string",
    Token.Literal.Number: "number",
    Token.Name.Function: "function",
    Token.Name.Class: "class",
    Token.Name.Decorator: "function",
    Token.Name.Builtin: "builtin",
    Token.Name.Exception: "class",
    Token.Name.Tag: "keyword",
    Token.Name.Attribute: "builtin",
    Token.Name.Variable: "builtin",
    Token.Operator.Word: "keyword",
    Token.Generic.Deleted: "deleted",
    Token.Generic.Inserted: "inserted",
    Token.Generic.Heading: "keyword",
}


@lru_cache(maxsize=64)
def _lexer(language: str) -> Lexer | None:
    try:
        return get_lexer_by_name(language, stripnl=False, ensurenl=True)
    except ClassNotFound:
        return None


@lru_cache(maxsize=512)
def _style(kind: _TokenType) -> str:
    while kind is not Token and kind is not None:
        if kind in _STYLES:
            return _STYLES[kind]
        kind = kind.parent
    return ""


def coloured(code: str, language: str) -> list[list[Span]]:
    """The spans of each line. None where the language is not known: it is not guessed, which would
    ask every lexer there is."""
    spans: list[list[Span]] = [[] for _ in range(code.count("\n") + 1)]
    lexer = _lexer(language.lower()) if language else None
    if lexer is None:
        return spans
    line = column = 0
    for kind, text in lexer.get_tokens(code):
        style = _style(kind)
        for n, part in enumerate(text.split("\n")):
            if n:
                line, column = line + 1, 0
            if style and part and line < len(spans):
                spans[line].append(Span(column, column + len(part), style))
            column += len(part)
    return spans

"""The flags of the sampling, made from its rows, and what they state."""

from __future__ import annotations

import argparse
import math
import re
from typing import Any

from tui.command.grammar import grammar
from tui.command.numbers import number, whole
from tuner.errors import UsageError
from tuner.safe_text import utf8
from tuner.sampling import (
    FORBIDDEN,
    MAX_TEXT,
    MAX_TEXTS,
    SAMPLERS,
    LogitBias,
    Value,
    acceptable,
    sampler_names,
    values,
)

TITLE = (
    "how the answer is drawn: by flag, else as the model's profile has it from the last time, else "
    "as its file recommends, else as here"
)

_ESCAPE = re.compile(r"""\\([ntr'"\\]|x[0-9a-fA-F]{2})""")
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "'": "'", '"': '"', "\\": "\\"}
_BIAS = re.compile(r"(\d{1,18})([+-](?:\d{0,18}\.?\d{1,18}|inf))")


def add(group: argparse._ArgumentGroup) -> None:
    """A flag for each row, and those for grammars."""
    for value in values():
        action = "append" if value.kind is tuple and value.name != "samplers" else "store"
        group.add_argument(
            *value.row.flags.split(),
            dest=value.name,
            metavar=value.row.metavar,
            action=action,
            help=_help(value),
        )
    group.add_argument("--json-schema", metavar="FILE", help="the answer is JSON of this schema")
    group.add_argument("--grammar", metavar="FILE", help="the answer is of this GBNF grammar")


def stated(args: argparse.Namespace) -> dict[str, Any]:
    """What the flags state of the sampling, by the names of `Sampling`. Raises UsageError."""
    found: dict[str, Any] = {}
    for value in values():
        text = getattr(args, value.name)
        if text is not None:
            found[value.name] = _sampling_value(value, text)
    rules = grammar(args.grammar, args.json_schema)
    return {**found, "grammar": rules} if rules else found


def _sampling_value(value: Value, text: str | list[str]) -> Any:
    flag = value.row.flags.split()[0]
    if isinstance(text, list):
        if value.name == "logit_bias":
            return tuple(map(_logit_bias, text))
        return _texts(value, text)
    if value.name == "samplers":
        names = sampler_names(text)
        if len(names) != len([word for word in text.split(";") if word.strip()]):
            known = ";".join(SAMPLERS)
            raise UsageError(f"{flag} takes some of {known}, not '{text}'.")
        return names
    if value.kind is int:
        return whole(flag, text, int(value.least), int(value.most))
    return number(flag, text, value.least, value.most)


def _texts(value: Value, texts: list[str]) -> tuple[str, ...]:
    """Texts with \\n, \\t and the like understood; a breaker "none" stands for none at all."""
    if value.name == "dry_sequence_breakers" and texts == ["none"]:
        return ()
    found = tuple(unescaped(utf8(text)) for text in texts)
    if not acceptable({value.name: found}):
        raise UsageError(
            f"{value.row.flags} takes 1 to {MAX_TEXT:,} characters, {MAX_TEXTS} times at most."
        )
    return found


def unescaped(text: str) -> str:
    """\\n, \\t, \\r, \\\\, quotes and \\x41 as what they stand for, as llama.cpp reads its texts
    (`string_process_escapes`, common/common.cpp); any other backslash stays."""
    return _ESCAPE.sub(lambda m: _ESCAPES.get(m[1]) or chr(int(m[1][1:], 16)), text)


def _logit_bias(text: str) -> LogitBias:
    """A token's id and what is added, as llama.cpp writes them: 15043+1 (common/arg.cpp)."""
    match = _BIAS.fullmatch(text.strip())
    if not match:
        raise UsageError(
            f"--logit-bias takes a token's id and what is added, like 15043+1 or 15043-inf, not "
            f"'{text}'."
        )
    token = whole("--logit-bias", match[1], 0)
    bias = number("--logit-bias", match[2], -math.inf, math.inf)
    return LogitBias(token, max(FORBIDDEN, min(-FORBIDDEN, bias)))


def _help(value: Value) -> str:
    """With the usual value behind it."""
    usual = value.default
    if isinstance(usual, (int, float)):
        return f"{value.row.help} ({usual:g})"
    return value.row.help

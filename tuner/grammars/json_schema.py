"""A JSON Schema as a grammar of llama.cpp (GBNF): whatever is written by it is JSON that the schema
accepts, though not all that it accepts can be written.

Properties come in the schema's order; those that it does not name only where it says that there may
be others. `oneOf` is taken for `anyOf`; formats other than dates, times and UUIDs are no rules, nor
are keywords that JSON Schema does not know. What a grammar cannot say is refused by name.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from math import ceil, floor
from typing import Any
from urllib.parse import unquote

from tuner.grammars.json_pattern import CHARACTER, Pattern, PatternError, literal
from tuner.safe_text import cut

MAX_SCHEMAS = 5000  # that one schema may be made of
MAX_DEPTH = 64
MAX_REPEAT = 2000  # MAX_REPETITION_THRESHOLD (src/llama-grammar.cpp): beyond it "any number"
_DIGITS = 16  # of the longest number

_REFUSED = (
    "not", "if", "then", "else", "patternProperties", "propertyNames", "minProperties",
    "maxProperties", "dependencies", "dependentRequired", "dependentSchemas", "contains",
    "uniqueItems", "unevaluatedItems", "unevaluatedProperties", "$dynamicRef", "$recursiveRef",
)  # fmt: skip
_LEADS = {  # a keyword that is about one type stands for it
    "properties": "object", "required": "object", "additionalProperties": "object",
    "items": "array", "prefixItems": "array", "minItems": "array", "maxItems": "array",
    "pattern": "string", "minLength": "string", "maxLength": "string",
    "minimum": "number", "maximum": "number", "exclusiveMinimum": "number",
    "exclusiveMaximum": "number", "multipleOf": "number",
}  # fmt: skip
_LIMITS = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}
_TYPES = ("object", "array", "string", "number", "integer", "boolean", "null")

_BUILT_IN = {
    "ws": r'| " " | "\n" [ \t]{0,20}',
    "char": CHARACTER,
    "string": r'"\"" char* "\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": 'integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,2})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "member": 'string ws ":" ws value',
    "object": '"{" ws (member ws ("," ws member ws)*)? "}"',
    "array": '"[" ws (value ws ("," ws value ws)*)? "]"',
    "value": "object | array | string | number | boolean | null",
    "date-day": '[0-9]{4} "-" ("0" [1-9] | "1" [0-2]) "-" ("0" [1-9] | "1" [0-9] | "2" [0-8])',
    "time-day": '([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9] ":" [0-5] [0-9] ("." [0-9]{1,6})? '
    '("Z" | [+-] ([01] [0-9] | "2" [0-3]) ":" [0-5] [0-9])',
    "date": r'"\"" date-day "\""',
    "time": r'"\"" time-day "\""',
    "date-time": r'"\"" date-day "T" time-day "\""',
    "uuid": r'"\"" [0-9a-f]{8} ("-" [0-9a-f]{4}){3} "-" [0-9a-f]{12} "\""',
}
_FORMATS = ("date", "time", "date-time", "uuid")


class SchemaError(ValueError):
    """What a schema says that is wrong, or that no grammar can say, and where."""


def grammar_of(schema: object) -> str:
    """The grammar of a parsed schema. Raises SchemaError."""
    return _Converter(schema).grammar()


class _Converter:
    """One schema; its rules by name."""

    def __init__(self, schema: object):
        self._root = schema
        self._rules: dict[str, str] = {}
        self._refs: dict[str, str] = {}  # the rule of each reference
        self._seen = 0

    def grammar(self) -> str:
        self._rules["root"] = self._body(self._root, "#", 0)
        rules = {**_BUILT_IN, **self._rules}
        return "".join(f"{name} ::= {body}\n" for name, body in rules.items())

    def _rule(self, body: str) -> str:
        """The name of a rule with this body."""
        name = f"r{len(self._rules)}"
        self._rules[name] = body
        return name

    def _of(self, schema: object, at: str, depth: int) -> str:
        """A name that stands for a schema."""
        body = self._body(schema, at, depth)
        return body if body in _BUILT_IN or body in self._rules else self._rule(body)

    def _body(self, schema: object, at: str, depth: int) -> str:
        self._seen += 1
        if self._seen > MAX_SCHEMAS or depth > MAX_DEPTH:
            raise SchemaError(f"it is larger or deeper than a grammar can be (at {cut(at)})")
        if schema is True:
            return "value"
        if not isinstance(schema, dict):
            what = "allows nothing" if schema is False else "has no schema where one belongs"
            raise SchemaError(f"it {what} at {cut(at)}")
        for keyword in _REFUSED:
            if schema.get(keyword, False) is not False:
                raise SchemaError(f"a grammar cannot say '{keyword}' (at {cut(at)})")
        for keyword in ("$ref", "allOf", "anyOf", "oneOf"):
            if keyword in schema:
                rest = {name: value for name, value in schema.items() if name != keyword}
                return self._combined(keyword, schema[keyword], rest, at, depth)
        if "const" in schema:
            return _constant(schema["const"], at)
        if "enum" in schema:
            found = _list(schema, "enum", at)
            if not found:
                raise SchemaError(f"it allows nothing at {cut(at)}")
            return " | ".join(_constant(value, at) for value in found)
        kinds = schema.get("type")
        if kinds is None:
            kinds = next((kind for word, kind in _LEADS.items() if word in schema), None)
        if kinds is None and schema.get("format") in _FORMATS:
            kinds = "string"
        if kinds is None:
            return "value"
        if isinstance(kinds, list) and kinds:
            return " | ".join(self._of({**schema, "type": kind}, at, depth + 1) for kind in kinds)
        if kinds not in _TYPES:
            raise SchemaError(f"'{cut(str(kinds))}' is no type (at {cut(at)})")
        return self._typed(kinds, schema, at, depth)

    def _typed(self, kind: str, schema: Mapping[str, Any], at: str, depth: int) -> str:
        if kind == "object":
            return self._object(schema, at, depth)
        if kind == "array":
            return self._array(schema, at, depth)
        if kind == "string":
            return self._string(schema, at)
        if kind in ("number", "integer") and _LIMITS & schema.keys():
            return _number(kind, schema, at)
        return kind

    # ------------------------------------------------------------ schemas of schemas

    def _combined(
        self, keyword: str, found: object, rest: dict[str, Any], at: str, depth: int
    ) -> str:
        if keyword == "$ref":
            if not isinstance(found, str):
                raise SchemaError(f"$ref is no text (at {cut(at)})")
            if not _says_something(rest):
                return self._reference(found, at, depth)
            return self._body(_merged(self._target(found, at), rest, at), at, depth + 1)
        if not isinstance(found, list) or not found:
            raise SchemaError(f"{keyword} is no list of schemas (at {cut(at)})")
        if keyword == "allOf":
            whole: Any = rest
            for part in found:
                whole = _merged(whole, self._resolved(part, at), at)
            return self._body(whole, at, depth + 1)
        plain = not _says_something(rest)
        parts = found if plain else [_merged(rest, self._resolved(p, at), at) for p in found]
        names = (self._of(p, f"{at}/{keyword}/{i}", depth + 1) for i, p in enumerate(parts))
        return " | ".join(dict.fromkeys(names))

    def _reference(self, ref: str, at: str, depth: int) -> str:
        """The rule of what a reference names, made before its body: it may name itself."""
        if ref not in self._refs:
            target = self._target(ref, at)
            name = self._refs[ref] = self._rule("")
            self._rules[name] = self._body(target, ref, depth + 1)
        return self._refs[ref]

    def _resolved(self, schema: Any, at: str) -> Any:
        """A part that is to be merged: what it names in place of a reference."""
        for _ in range(MAX_DEPTH):
            if not isinstance(schema, dict) or "$ref" not in schema:
                return schema
            rest = {name: value for name, value in schema.items() if name != "$ref"}
            schema = _merged(self._target(schema["$ref"], at), rest, at)
        raise SchemaError(f"a reference names itself (at {cut(at)})")

    def _target(self, ref: object, at: str) -> Any:
        """What lies at "#/$defs/name" (RFC 6901)."""
        if not isinstance(ref, str) or (ref != "#" and not ref.startswith("#/")):
            raise SchemaError(f"only references within it are followed, not {cut(str(ref))}")
        found: Any = self._root
        for step in ref.split("/")[1:]:
            key = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and key.isdecimal() and int(key) < len(found):
                found = found[int(key)]
            elif isinstance(found, dict) and key in found:
                found = found[key]
            else:
                raise SchemaError(f"there is nothing at {cut(ref)} (named at {cut(at)})")
        return found

    # ------------------------------------------------------------ objects and arrays

    def _object(self, schema: Mapping[str, Any], at: str, depth: int) -> str:
        properties = schema.get("properties", {})
        if not isinstance(properties, dict):
            raise SchemaError(f"properties is no object (at {cut(at)})")
        required = _list(schema, "required", at)
        if not all(isinstance(name, str) for name in required):
            raise SchemaError(f"required lists what is no name (at {cut(at)})")
        others = schema.get("additionalProperties", not properties and not required)
        unnamed = [name for name in dict.fromkeys(required) if name not in properties]
        if unnamed and others is False and "additionalProperties" in schema:
            raise SchemaError(f"it requires {cut(unnamed[0])} and forbids it (at {cut(at)})")
        rest = others if isinstance(others, dict) else True
        members = {**properties, **dict.fromkeys(unnamed, rest)}
        if not members and others is True:
            return "object"
        names = [
            (
                self._rule(
                    f'{_constant(name, at)} ws ":" ws '
                    + self._of(value, f"{at}/properties/{name}", depth + 1)
                ),
                name in required,
            )
            for name, value in members.items()
        ]
        other = None
        if others is not False:
            value = self._of(others, f"{at}/additionalProperties", depth + 1)
            other = self._rule(f'{self._other_name(members)} ws ":" ws {value}')
        return f'"{{" ws {self._members(names, other)} "}}"'

    def _members(self, names: Sequence[tuple[str, bool]], other: str | None) -> str:
        """Members in their order, those that are not required or not, with commas between: a rule
        for each place, before which there was a member or not."""
        after = self._rule(f'("," ws {other} ws)*') if other else '""'
        first = self._rule(f"({other} ws {after})?") if other else '""'
        for name, required in reversed(names):
            more = f'"," ws {name} ws {after}'
            begun = f"{name} ws {after}"
            first = self._rule(begun if required else f"{begun} | {first}")
            after = self._rule(more if required else f"{more} | {after}")
        return first

    def _other_name(self, names: Iterable[str]) -> str:
        """A string that is none of these names."""
        plain = [name for name in names if json.dumps(name, ensure_ascii=False)[1:-1] == name]
        return rf'"\"" {self._unlike(plain)} "\""'

    def _unlike(self, names: Sequence[str]) -> str:
        """Characters without escapes that spell none of these."""
        firsts = dict.fromkeys(name[0] for name in names if name)
        excluded = "".join(f"\\U{ord(c):08X}" for c in firsts)
        ways = [rf'[^"\\\x7F\x00-\x1F{excluded}] [^"\\\x7F\x00-\x1F]*']
        ways += [
            f"{literal(c)} {self._unlike([name[1:] for name in names if name[:1] == c])}"
            for c in firsts
        ]
        if "" not in names:
            ways.append('""')
        return self._rule(" | ".join(ways))

    def _array(self, schema: Mapping[str, Any], at: str, depth: int) -> str:
        items = schema.get("items", True)
        first = items if isinstance(items, list) else _list(schema, "prefixItems", at)
        if isinstance(items, list):
            items = schema.get("additionalItems", True)
        least, most = _count(schema, "minItems", 0, at), _count(schema, "maxItems", None, at)
        if most is not None and most < (least or 0):
            raise SchemaError(f"maxItems is less than minItems (at {cut(at)})")
        least = least or 0
        first = first[:most]
        parts = [self._of(s, f"{at}/prefixItems/{i}", depth + 1) for i, s in enumerate(first)]
        # After those that are listed none is needed: one that any schema would do for is left out.
        least, most = max(0, least - len(parts)), None if most is None else most - len(parts)
        if items is False or (parts and "items" not in schema and not least):
            if least:
                raise SchemaError(f"minItems asks for more than it has (at {cut(at)})")
            most = 0
        sequence = ' "," ws '.join(f"{part} ws" for part in parts)
        if most == 0:
            return f'"[" ws {sequence} "]"'
        item = self._of(items, f"{at}/items", depth + 1)
        if parts:
            return f'"[" ws {sequence} ("," ws {item} ws){_times(least, most)} "]"'
        more = _times(max(0, least - 1), None if most is None else most - 1)
        some = f'{item} ws ("," ws {item} ws){more}'
        return f'"[" ws {some} "]"' if least else f'"[" ws ({some})? "]"'

    # ------------------------------------------------------------ strings

    def _string(self, schema: Mapping[str, Any], at: str) -> str:
        long = "minLength" in schema or "maxLength" in schema
        form = schema.get("format")
        known = form if form in _FORMATS else None
        if sum((long, known is not None, "pattern" in schema)) > 1:
            raise SchemaError(
                f"a grammar cannot say a pattern, a format and a length at once (at {cut(at)})"
            )
        if known:
            return str(known)
        if "pattern" in schema:
            pattern = schema["pattern"]
            if not isinstance(pattern, str):
                raise SchemaError(f"pattern is no text (at {cut(at)})")
            try:
                body = Pattern(pattern).grammar()
            except PatternError as error:
                raise SchemaError(f"the pattern {cut(pattern)} {error} (at {cut(at)})") from error
            return rf'"\"" {body} "\""'
        if long:
            least, most = _count(schema, "minLength", 0, at), _count(schema, "maxLength", None, at)
            if most is not None and most < (least or 0):
                raise SchemaError(f"maxLength is less than minLength (at {cut(at)})")
            return rf'"\"" char{_times(least or 0, most)} "\""'
        return "string"


def _says_something(schema: Mapping[str, Any]) -> bool:
    """Whether there is a rule in it, not notes alone."""
    rules = {*_LEADS, *_REFUSED, "type", "enum", "const", "format", "$ref", "allOf", "anyOf",
             "oneOf"}  # fmt: skip
    return any(word in rules for word in schema)


def _merged(one: Any, other: Any, at: str) -> Any:
    """A schema that says what both say. Raises SchemaError where one cannot be made."""
    if one is True or other is True:
        return other if one is True else one
    if not isinstance(one, dict) or not isinstance(other, dict):
        raise SchemaError(f"it has no schema where one belongs, or one for nothing (at {cut(at)})")
    whole = dict(one)
    for word, value in other.items():
        if word not in whole or whole[word] == value:
            whole[word] = value
        elif word == "properties" and isinstance(value, dict) and isinstance(whole[word], dict):
            both = {n: _merged(whole[word].get(n, True), s, at) for n, s in value.items()}
            whole[word] = {**whole[word], **both}
        elif word == "required" and isinstance(value, list) and isinstance(whole[word], list):
            whole[word] = [*whole[word], *value]
        elif _says_something({word: value}):
            raise SchemaError(f"a grammar cannot say two of '{word}' at once (at {cut(at)})")
    return whole


def _list(schema: Mapping[str, Any], word: str, at: str) -> list[Any]:
    found = schema.get(word, [])
    if not isinstance(found, list):
        raise SchemaError(f"{word} is no list (at {cut(at)})")
    return found


def _count(schema: Mapping[str, Any], word: str, default: int | None, at: str) -> int | None:
    found = schema.get(word, default)
    if isinstance(found, float) and found.is_integer():
        found = int(found)
    if found is not None and (type(found) is not int or found < 0):
        raise SchemaError(f"{word} is no count (at {cut(at)})")
    if found is not None and found > MAX_REPEAT:
        raise SchemaError(f"{word} can be {MAX_REPEAT:,} at most in a grammar (at {cut(at)})")
    return found


def _times(least: int, most: int | None) -> str:
    return f"{{{least},{'' if most is None else most}}}"


def _constant(value: object, at: str) -> str:
    """JSON of a value, written in one way."""
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
        text.encode()
    except ValueError:
        raise SchemaError(f"it lists what is no value of JSON (at {cut(at)})") from None
    return literal(text)


# ------------------------------------------------------------------ numbers


def _number(kind: str, schema: Mapping[str, Any], at: str) -> str:
    """A number within limits, without an exponent."""
    unit = schema.get("multipleOf", 1 if kind == "integer" else None)
    if unit not in (1, None):
        raise SchemaError(f"a grammar cannot say 'multipleOf' (at {cut(at)})")
    least, above = _limit(schema, "minimum", "exclusiveMinimum", max, at)
    most, below = _limit(schema, "maximum", "exclusiveMaximum", min, at)
    ways: list[str] = []
    if unit == 1:
        low = None if least is None else floor(least) + 1 if above else ceil(least)
        high = None if most is None else ceil(most) - 1 if below else floor(most)
        if high is None or high >= 0:
            ways += _naturals(max(0, low or 0), high)
        if low is None or low < 0:
            ways += [f'"-" {way}' for way in _naturals(max(1, -high) if high else 1, low and -low)]
    else:
        if most is None or most >= 0:
            ways += _decimals(max(0, least or 0), above and (least or 0) >= 0, most, below)
        if least is None or least < 0:
            far = None if least is None else -least
            near = max(0, -most) if most is not None else 0
            ways += [f'"-" {way}' for way in _decimals(near, below and near > 0, far, above)]
    if not ways:
        raise SchemaError(f"a grammar cannot say a number within its limits (at {cut(at)})")
    return " | ".join(ways)


def _limit(
    schema: Mapping[str, Any], word: str, strict: str, tighter: Any, at: str
) -> tuple[float | None, bool]:
    """A limit, and whether it is itself excluded; in draft 4 the strict one is a flag."""
    plain, other = schema.get(word), schema.get(strict)
    for value in (plain, other):
        if value is not None and not isinstance(value, (int, float)):
            raise SchemaError(f"{word} is no number (at {cut(at)})")
        if value is not None and abs(value) >= 10**_DIGITS:
            raise SchemaError(f"{word} can have {_DIGITS} digits in a grammar (at {cut(at)})")
    if isinstance(other, bool):
        return plain, other
    if plain is None or other is None:
        return (plain, False) if other is None else (other, True)
    return tighter(plain, other), tighter(plain, other) == other


def _decimals(least: float, above: bool, most: float | None, below: bool) -> list[str]:
    """Numbers from `least`, 0 or more: whole parts that any decimals may follow, and the ends."""
    low, high = ceil(least), None if most is None else floor(most)
    ways: list[str] = []
    if high is not None and high < low:
        return ways
    if above and low == least:
        if high is None or high > low:
            ways.append(f'"{low}." [0-9]{{0,15}} [1-9]')
        elif not below and high == low:
            return ways
        low += 1
    if high is None or high > low:
        rest = _naturals(low, None if high is None else high - 1)
        ways += [f'({way}) ("." [0-9]{{1,16}})?' for way in rest]
    if high is not None and high >= low and not (below and high == most):
        ways.append(f'"{high}"')
    return ways


def _naturals(least: int, most: int | None) -> list[str]:
    """Whole numbers from `least`, 0 or more, to `most`, by their count of digits."""
    ways = []
    last = _DIGITS if most is None else len(str(most))
    for n in range(len(str(least)), last + 1):
        low = str(least) if n == len(str(least)) else "1" + "0" * (n - 1)
        high = str(most) if most is not None and n == len(str(most)) else "9" * n
        if low <= high:
            ways.append(_between(low, high))
    return ways


def _between(low: str, high: str) -> str:
    """Digits between two rows of as many digits."""
    n = len(low)
    if low == "0" * n and high == "9" * n:
        return f"[0-9]{{{n}}}"
    if low == high:
        return f'"{low}"'
    if low[0] == high[0]:
        return f'"{low[0]}" {_between(low[1:], high[1:])}'
    if n == 1:
        return f"[{low}-{high}]"
    a, b = int(low[0]), int(high[0])
    ways = []
    if low[1:] != "0" * (n - 1):
        ways.append(f'"{a}" {_between(low[1:], "9" * (n - 1))}')
        a += 1
    if high[1:] != "9" * (n - 1):
        ways.append(f'"{b}" {_between("0" * (n - 1), high[1:])}')
        b -= 1
    if a <= b:
        ways.append(f"[{a}-{b}] [0-9]{{{n - 1}}}")
    return f"({' | '.join(ways)})"

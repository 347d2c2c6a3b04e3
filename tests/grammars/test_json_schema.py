"""A schema as a grammar: what the engine lets a model write by it, and what is refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support.native import matches
from tuner.grammars.json_pattern import Pattern
from tuner.grammars.json_schema import MAX_DEPTH, SchemaError, grammar_of

PERSON = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer"}, "x": {"type": "null"}},
    "required": ["age"],
}
TREE = {
    "$defs": {"node": {"properties": {"kids": {"items": {"$ref": "#/$defs/node"}}}}},
    "$ref": "#/$defs/node",
}
OPEN = {"properties": {"ab": {"type": "null"}}, "additionalProperties": {"type": "integer"}}

ALLOWED: list[tuple[Any, list[str], list[str]]] = [
    (True, ['{"a": [1, "x"]}', "null", "-1.5e3"], ["{", "nul", "'a'"]),
    ({"type": "string"}, ['""', '"ü\\n\\u00e9"'], ['"a\nb"', '"a', "a", '"\\x"']),
    ({"type": "integer"}, ["0", "-12"], ["01", "1.5", "1e3"]),
    ({"type": "number"}, ["0.5", "-3", "1e-9"], [".5", "1.", "+1"]),
    ({"type": ["null", "boolean"]}, ["null", "true"], ["1", '""']),
    ({"enum": ['a"b\\', 1, None, {"k": [1]}]}, ['"a\\"b\\\\"', "null", '{"k": [1]}'], ["2"]),
    ({"const": "ü"}, ['"ü"'], ['"u"']),
    (PERSON, ['{"age":1}', '{"name": "A", "age": 1}', '{ "age":1,"x":null }'],
     ["{}", '{"age":1,}', '{"age":"1"}', '{"age":1,"y":2}', '{"name":"A"}']),
    (OPEN, ["{}", '{"ab":null,"abc":1}', '{"a":1, "b":2}', '{"":1}'],
     ['{"ab":1}', '{"a":null}', '{"a":1,"ab":1}']),
    ({"required": ["k"]}, ['{"k": []}'], ["{}"]),
    ({"type": "object"}, ["{}", '{"a": {}}'], ["[]"]),
    ({"items": {"type": "integer"}, "minItems": 1, "maxItems": 2}, ["[1]", "[1, 2]"],
     ["[]", "[1,2,3]", "[null]"]),
    ({"prefixItems": [{"type": "null"}, {"type": "integer"}], "items": False}, ["[null,1]"],
     ["[null]", "[1,null]", "[null,1,1]"]),
    ({"items": True, "maxItems": 0}, ["[]"], ["[1]"]),
    ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"a\\n"'], ['"a"', '"abcd"']),
    ({"anyOf": [{"type": "null"}, {"$ref": "#/anyOf/0"}, {"type": "integer"}]}, ["null", "7"],
     ["true"]),
    ({"allOf": [PERSON, {"required": ["x"]}, {"properties": {"z": {}}}]},
     ['{"age":1,"x":null}', '{"age":1,"x":null,"z":[]}'], ['{"age":1}']),
    ({"type": "object", "properties": {"k": {"const": 1}}, "anyOf": [{"required": ["k"]}]},
     ['{"k":1}'], ["{}"]),
    (TREE, ['{"kids":[{"kids":[]},{}]}', "{}"], ['{"kids":[1]}', '{"kid":[]}']),
    ({"format": "date"}, ['"2024-02-28"'], ['"2024-13-01"', '"24-1-1"']),
    ({"type": "string", "format": "uuid"}, ['"01234567-89ab-cdef-0123-456789abcdef"'], ['"x"']),
    ({"type": "integer", "minimum": -5, "maximum": 120}, ["-5", "0", "99", "120"],
     ["-6", "121", "1200"]),
    ({"type": "integer", "exclusiveMinimum": 3}, ["4", "1000000"], ["3", "-4"]),
    ({"type": "integer", "maximum": -10}, ["-10", "-123"], ["-9", "10", "0"]),
    ({"type": "number", "minimum": 0, "maximum": 1}, ["0", "0.25", "1"], ["1.5", "-0.1", "2"]),
    ({"type": "number", "exclusiveMinimum": 0}, ["0.001", "7", "12.5"], ["0", "0.0", "-1"]),
    ({"type": "number", "minimum": -2, "exclusiveMaximum": 2}, ["-2", "-1.5", "1.9"],
     ["2", "-2.5"]),
    ({"pattern": "^[A-Z]{2}\\d+$"}, ['"AB1"', '"ZZ007"'], ['"A1"', '"AB"', '"xAB1"']),
    ({"pattern": "b+|^c"}, ['"abba"', '"cd"'], ['"dc"']),
    ({"pattern": '^(a|"|\\\\)\\.[^x]?$'}, ['"a."', '"\\"."', '"\\\\.y"'], ['"b."', '"a.x"']),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "good", "bad"), ALLOWED, ids=lambda v: json.dumps(v)[:40])
def test_the_engine_writes_what_the_schema_allows(
    schema: Any, good: list[str], bad: list[str]
) -> None:
    grammar = grammar_of(schema)
    assert [text for text in good if not matches(grammar, text)] == []
    assert [text for text in bad if matches(grammar, text)] == []


@given(st.integers(-3000, 3000), st.integers(-3000, 3000), st.integers(-4000, 4000))
def test_whole_numbers_within_limits(least: int, most: int, number: int) -> None:
    """Limits anywhere: just the numbers between them."""
    least, most = min(least, most), max(least, most)
    grammar = grammar_of({"type": "integer", "minimum": least, "maximum": most})
    assert matches(grammar, str(number)) == (least <= number <= most)


REFUSED: list[tuple[Any, str]] = [
    ({"not": {}}, "'not'"),
    ({"properties": {"a": {"if": {}}}}, "'if' (at #/properties/a)"),
    ({"type": "array", "uniqueItems": True}, "'uniqueItems'"),
    ({"type": "number", "multipleOf": 0.5}, "'multipleOf'"),
    ({"type": "number", "minimum": 0.2, "maximum": 0.8}, "within its limits"),
    ({"type": "integer", "minimum": 5, "maximum": 4}, "within its limits"),
    (False, "allows nothing"),
    ([], "no schema where one belongs"),
    ({"type": "text"}, "'text' is no type"),
    ({"$ref": "#/$defs/x"}, "nothing at #/$defs/x"),
    ({"$ref": "https://example.com/s.json"}, "only references within it"),
    ({"$ref": 1}, "no text"),
    ({"allOf": [{"$ref": "#"}]}, "deeper than a grammar"),
    ({"allOf": [{"type": "string"}, {"type": "null"}]}, "two of 'type'"),
    ({"anyOf": []}, "no list of schemas"),
    ({"enum": []}, "allows nothing"),
    ({"enum": [float("nan")]}, "no value of JSON"),
    ({"required": "a"}, "no list"),
    ({"type": "string", "maxLength": 100_000}, "2,000 at most"),
    ({"minItems": 3, "maxItems": 2}, "less than minItems"),
    ({"type": "string", "minLength": "a"}, "no count"),
    ({"pattern": "(?=a)"}, "looks ahead"),
    ({"pattern": r"\bword"}, r"\b, which a grammar cannot say"),
    ({"pattern": "(a"}, "without an end"),
    ({"pattern": "a{3,2}"}, "repeats"),
    ({"pattern": "a{1,100000}"}, "repeats"),
    ({"pattern": "a)"}, "closes a group"),
    ({"pattern": "["}, "ends too early"),
    ({"pattern": "(" * 5000}, "too many groups"),
    ({"pattern": "a", "minLength": 1}, "at once"),
]


@pytest.mark.parametrize(("schema", "why"), REFUSED, ids=lambda v: str(v)[:40])
def test_what_a_grammar_cannot_say_is_refused(schema: Any, why: str) -> None:
    with pytest.raises(SchemaError) as error:
        grammar_of(schema)
    assert why in str(error.value)


def test_a_schema_in_a_schema_without_end() -> None:
    schema: Any = {}
    for _ in range(MAX_DEPTH + 5):
        schema = {"items": schema}
    with pytest.raises(SchemaError, match="deeper"):
        grammar_of(schema)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3),
    max_leaves=6,
)
WORDS = st.sampled_from(
    ["type", "properties", "items", "enum", "const", "required", "minimum", "maximum", "pattern",
     "anyOf", "allOf", "$ref", "minItems", "maxLength", "additionalProperties", "format", "$defs"]
)  # fmt: skip
SCHEMAS = st.recursive(
    JSON, lambda inner: st.dictionaries(WORDS, inner | st.lists(inner, max_size=3)), max_leaves=8
)


@given(SCHEMAS)
def test_any_json_is_a_schema_or_the_one_error(schema: Any) -> None:
    """And what it becomes is a grammar that the engine understands."""
    try:
        grammar = grammar_of(schema)
    except SchemaError:
        return
    assert not matches(grammar, "@")


@given(st.text(st.sampled_from('ab"\\^$|()[]{}?*+.-,12dwsSnxu'), max_size=12))
def test_any_pattern_is_a_grammar_or_the_one_error(pattern: str) -> None:
    try:
        grammar = Pattern(pattern).grammar()
    except ValueError:
        return
    matches(f"root ::= {grammar}\nchar ::= [a-z]\n", "a")

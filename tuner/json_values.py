"""JSON as dataclasses: every value of the type that its field states, or ValueError.

What a file or a pipe holds follows from the dataclass alone; `dataclasses.asdict` is the way back.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

T = TypeVar("T")

_LARGEST = 1e300  # of a number that may become a float


def from_json(kind: type[T], value: Any) -> T:
    """The dataclass `kind` that a parsed JSON object describes. A field that is missing takes its
    default, a key that is no field is passed over: files outlive versions. Fields may be str, int,
    float, bool, Any, dataclasses, tuples and string-keyed mappings of these, or one of them or
    None. Raises ValueError where a value is missing or of another type."""
    built: T = _value(kind, value)
    return built


@cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Each field's type, and whether it must be there."""
    hints = get_type_hints(kind)
    return {
        f.name: (hints[f.name], f.default is MISSING and f.default_factory is MISSING)
        for f in fields(kind)
    }


def _object(kind: Any, value: Any) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.80} is not a JSON object")
    found: dict[str, Any] = {}
    for name, (hint, required) in _fields(kind).items():
        if name in value:
            found[name] = _value(hint, value[name])
        elif required:
            raise ValueError(f"{name} is missing")
    return kind(**found)


def _value(hint: Any, value: Any) -> Any:
    if hint is Any:
        return value
    if is_dataclass(hint):
        return _object(hint, value)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is UnionType:
        one_of = [a for a in arguments if a is not NoneType]
        return None if value is None else _value(one_of[0], value)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], one) for one in value)
    if origin is Mapping and isinstance(value, dict):
        return {key: _value(arguments[1], one) for key, one in value.items()}
    # Not isinstance: JSON's true is no integer.
    if hint is float and type(value) in (int, float):
        if abs(value) <= _LARGEST and isfinite(value):
            return float(value)
    elif type(value) is hint:
        return value
    raise ValueError(f"{value!r:.80} is not {getattr(hint, '__name__', hint)}")

"""JSON as dataclasses: every value of the type and within the bounds that its field states, or
ValueError.

What a file or a pipe holds follows from the dataclass alone; `dataclasses.asdict` is the way back.
A field states its bounds in its type: `Annotated[int, within(1, 8)]`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import cache
from math import isfinite
from types import NoneType, UnionType
from typing import Annotated, Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Bound:
    """What must be true of a field's value, and how it is said."""

    holds: Callable[[Any], bool]
    text: str


@dataclass(frozen=True, slots=True)
class Range(Bound):
    """A number from `least` to `most`."""

    least: float
    most: float


def within(least: float, most: float) -> Range:
    """A number from `least` to `most`."""
    said = f"from {least:g} to {most:g}"
    return Range(lambda value: bool(least <= value <= most), said, least, most)


def one_of(*names: str) -> Bound:
    """One of these names."""
    return Bound(lambda value: value in names, f"one of {', '.join(names)}")


Bytes = Annotated[int, within(0, (1 << 63) - 1)]  # as much as an int64_t counts
Speed = Annotated[float, within(1e-6, 1e12)]  # tokens/s

_LARGEST = 1e300  # of a number that may become a float


def from_json(kind: type[T], value: Any, *, bounded: bool = True) -> T:
    """The dataclass `kind` that a parsed JSON object describes. A field that is missing takes its
    default, a key that is no field is passed over: files outlive versions. Fields may be str, int,
    float, bool, Any, dataclasses, tuples and string-keyed mappings of these, or one of them or
    None. Raises ValueError where a value is missing, of another type, or out of bounds. What this
    program itself has just written need not be `bounded`."""
    built: T = _value(kind, value, bounded)
    return built


@cache
def _fields(kind: Any) -> dict[str, tuple[Any, bool]]:
    """Each field's type, and whether it must be there."""
    hints = get_type_hints(kind, include_extras=True)
    return {
        f.name: (hints[f.name], f.default is MISSING and f.default_factory is MISSING)
        for f in fields(kind)
    }


def _object(kind: Any, value: Any, bounded: bool) -> Any:
    if not isinstance(value, dict):
        raise ValueError(f"{value!r:.80} is not a JSON object")
    found: dict[str, Any] = {}
    for name, (hint, required) in _fields(kind).items():
        if name in value:
            found[name] = _value(hint, value[name], bounded)
        elif required:
            raise ValueError(f"{name} is missing")
    return kind(**found)


def _value(hint: Any, value: Any, bounded: bool) -> Any:
    if hint is Any or (type(value) is hint and hint is not float):
        return value
    if is_dataclass(hint):
        return _object(hint, value, bounded)
    origin, arguments = get_origin(hint), get_args(hint)
    if origin is Annotated:
        found = _value(arguments[0], value, bounded)
        for bound in arguments[1:]:  # what is no bound is about something else
            if bounded and isinstance(bound, Bound) and not bound.holds(found):
                raise ValueError(f"{value!r:.80} is not {bound.text}")
        return found
    if origin in (UnionType, Union):
        plain = next(a for a in arguments if a is not NoneType)
        return None if value is None else _value(plain, value, bounded)
    if origin is tuple and isinstance(value, list):
        return tuple(_value(arguments[0], one, bounded) for one in value)
    if origin is Mapping and isinstance(value, dict):
        return {key: _value(arguments[1], one, bounded) for key, one in value.items()}
    # Not isinstance: JSON's true is no integer.
    number = hint is float and type(value) in (int, float)
    if number and abs(value) <= _LARGEST and isfinite(value):
        return float(value)
    raise ValueError(f"{value!r:.80} is not {getattr(hint, '__name__', hint)}")

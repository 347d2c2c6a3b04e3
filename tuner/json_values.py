"""Takes values out of a JSON object, of the right type or not at all."""

from __future__ import annotations

from collections.abc import Iterable
from math import isfinite
from typing import Any, TypeVar

T = TypeVar("T")


class Fields:
    """One JSON object. Every method raises ValueError where the value is not what it should be;
    a default stands in for a value that is missing."""

    def __init__(self, body: Any):
        if not isinstance(body, dict):
            raise ValueError("not a JSON object")
        self._body: dict[str, Any] = body

    def text(self, key: str, default: str | None = None) -> str:
        return self._get(key, str, default)

    def flag(self, key: str, default: bool | None = None) -> bool:
        return self._get(key, bool, default)

    def integer(self, key: str, default: int | None = None) -> int:
        return self._get(key, int, default)

    def number_or_none(self, key: str) -> float | None:
        value = self._body.get(key)
        return None if value is None else float(self.all_numbers([value])[0])

    def mapping(self, key: str) -> dict[str, Any]:
        return self._get(key, dict, {})

    def integers(self, key: str) -> dict[str, int]:
        values = self.mapping(key)
        if any(type(value) is not int for value in values.values()):
            raise ValueError(f"{key} holds something else than integers")
        return values

    def numbers(self, key: str) -> dict[str, float]:
        values = self.mapping(key)
        return dict(zip(values, map(float, self.all_numbers(values.values())), strict=True))

    def objects(self, key: str) -> list[Fields]:
        return [Fields(one) for one in self._get(key, list, [])]

    @staticmethod
    def all_numbers(values: Iterable[Any]) -> list[int | float]:
        numbers = list(values)
        for value in numbers:
            if type(value) not in (int, float) or abs(value) > 1e300 or not isfinite(value):
                raise ValueError(f"{value!r} is not a number")
        return numbers

    def _get(self, key: str, kind: type[T], default: T | None) -> T:
        value = self._body.get(key, default)
        # Not isinstance: JSON's true is no integer.
        if type(value) is not kind:
            raise ValueError(f"{key} is {value!r}")
        return value

"""A value that is found when it is first asked for."""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock
from typing import Generic, TypeVar

T = TypeVar("T")


class Later(Generic[T]):
    """Finds its value once, for whoever asks first; threads that ask meanwhile wait for it. Equal
    to what has the same value."""

    def __init__(self, find: Callable[[], T]) -> None:
        self._find: Callable[[], T] | None = find
        self._lock = Lock()

    @classmethod
    def known(cls, value: T) -> Later[T]:
        """One that need not be found."""
        return cls(lambda: value)

    @property
    def value(self) -> T:
        with self._lock:
            if self._find is not None:
                self._value = self._find()
                self._find = None
            return self._value

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Later) and self.value == other.value

    def __hash__(self) -> int:
        return hash(self.value)

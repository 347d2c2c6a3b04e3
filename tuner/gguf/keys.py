"""The metadata of one architecture, read as llama.cpp reads it, every number within limits."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from tuner.errors import FileError
from tuner.gguf.header import Header, Scalar, SkippedArray, Value
from tuner.gguf.limits import limit
from tuner.safe_text import cut

# what a next step may be where a file is not what llama.cpp needs
ANOTHER_FILE = "take another GGUF of this model, or convert it again"
_MAX_LISTED = 512  # elements of an array that the loader keeps (LLAMA_MAX_LAYERS)
# elements that an array may have where one of these is wanted
_ELEMENTS = {"u32": ("u32", "i32", "bool"), "i32": ("u32", "i32", "bool"), "?": ()}


def mismatch(header: Header, name: str, form: str, n: int | None = None) -> str | None:
    """What keeps llama.cpp's loader from taking a value, in words; None where it would, or where
    there is none.

    `form` is what it asks for: a type ("u32"), "each u32" (that or an array of `n`,
    `get_key_or_arr`), "one u32" (the same, where only the former is read), "array u32" and "list
    u32" (what is no array counts as not there, `get_arr`), "any array" (`get_arr_n`). "?" is any
    type. Nothing is converted: a u64 is no u32 (`GGUFMeta::GKV`, src/llama-model-loader.cpp).
    """
    found = header.value_types.get(name)
    if found is None:
        return None
    how, _, kind = form.rpartition(" ")
    listed = found.startswith("arr")
    if form == "any array":
        return None if listed else f"is {_named(found)} and must be a list"
    if how in ("array", "list") and not listed:
        return None
    if not listed or not how:
        return None if kind in (found, "?") else f"is {_named(found)} and must be {_named(kind)}"
    if how == "one":
        return None
    value = header.metadata[name]
    length = value.length if isinstance(value, SkippedArray) else len(cast(tuple[Scalar], value))
    if how == "each" and n is not None and n != length:
        return f"lists {length} values and must list {n}"
    element = found[4:-1]
    allowed = _ELEMENTS.get(kind, (kind,))
    if allowed and (element not in allowed or (element == "bool" and how == "list")):
        return f"lists {element} and must list {kind}"
    if how != "list" and length > _MAX_LISTED:
        return f"lists {length} values, more than {_MAX_LISTED}"
    return None


def _named(kind: str) -> str:
    if kind.startswith("arr"):
        return "a list"
    return {"str": "a text", "bool": "true or false"}.get(kind, f"a number of type {kind}")


class Keys:
    """Typed access to the metadata of one architecture: `%s.key` becomes `key`.

    Whole numbers are within the limits of their key (`limits.py`). Raises FileError where a value
    is not what its key needs. A key that the engine reads for some architectures only goes by
    `optional`: what cannot be used there counts as not stated, since most files that have it are
    none that it matters to.
    """

    def __init__(self, header: Header, architecture: str):
        self._metadata: Mapping[str, Value | SkippedArray] = header.metadata
        self.path: Path = header.path
        self.architecture = architecture

    def value(self, key: str) -> Value | SkippedArray | None:
        """As the file has it; None where it has no such key."""
        return self._metadata.get(f"{self.architecture}.{key}")

    def integer(self, key: str, default: int = 0) -> int:
        """A whole number; of an array, its first element."""
        found = self.value(key)
        if isinstance(found, tuple):
            found = found[0] if found else None
        if found is None or isinstance(found, (SkippedArray, tuple)):
            return default
        return self._bounded(key, found)

    def optional(self, key: str, default: int = 0) -> int:
        """The same; the default also where the value is none that the key could have."""
        try:
            return self.integer(key, default)
        except FileError:
            return default

    def flag(self, key: str) -> bool:
        """Whether the file says so; what is no number says nothing."""
        found = self.value(key)
        return isinstance(found, (int, float)) and bool(found)

    def number(self, key: str, default: float = 0.0) -> float:
        """A number of any kind; the default where there is none."""
        found = self.value(key)
        return float(found) if isinstance(found, (int, float)) else default

    def array(self, key: str) -> tuple[int, ...] | None:
        """The elements as whole numbers, where the key holds an array of numbers."""
        found = self.value(key)
        if not isinstance(found, tuple):
            return None
        numbers = [v for v in found if not isinstance(v, str)]
        if len(numbers) < len(found):
            return None
        if not all(map(math.isfinite, numbers)):
            raise self.wrong(key, "lists what is no number")
        whole = tuple(map(int, numbers))
        least, most = limit(key)
        if whole and not least <= min(whole) <= max(whole) <= most:
            odd = next(n for n in whole if not least <= n <= most)
            raise self.wrong(key, f"lists {odd}, and may list {least:,} to {most:,}")
        return whole

    def per_layer(self, key: str, n: int, default: tuple[int, ...]) -> tuple[int, ...]:
        """One number per layer, stated once or as an array (`get_key_or_arr`)."""
        found = self.value(key)
        if found is None:
            return default
        if isinstance(found, SkippedArray):
            raise self.wrong(key, f"lists {found.length} layers, the model has {n}")
        if isinstance(found, tuple):
            values = self.array(key)
            if values is None or len(values) < n:
                raise self.wrong(key, f"lists {len(found)} layers, the model has {n}")
            return values[:n]
        return (self.integer(key),) * n

    def wrong(self, key: str, what: str) -> FileError:
        """The error to raise where a key's value cannot be used."""
        name = cut(f"{self.architecture}.{key}")
        return FileError(
            "malformed",
            self.path,
            f"{self.path}: the metadata key {name} {what}; {ANOTHER_FILE}.",
        )

    def _bounded(self, key: str, found: float | str) -> int:
        """A value as a whole number within the limits of its key."""
        if isinstance(found, str):
            raise self.wrong(key, "is a text where a number is expected")
        if isinstance(found, float) and not found.is_integer():  # nor is NaN or infinity one
            raise self.wrong(key, "is not a whole number")
        least, most = limit(key)
        if not least <= found <= most:
            raise self.wrong(key, f"is {found:.0f}, and may be {least:,} to {most:,}")
        return int(found)

"""Reads the header of a GGUF file: its metadata and its tensor table, nothing of the weights."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

Scalar = bool | int | float | str
Value = Scalar | tuple[Scalar, ...]


@dataclass(frozen=True, slots=True)
class SkippedArray:
    """An array that was stepped over (token lists, merges): its element type and length."""

    element_type: int  # enum gguf_type
    length: int


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """One row of the tensor table. `shape` is in ggml's order (ne[0] first: the row length)."""

    name: str
    shape: tuple[int, ...]
    ggml_type: int  # enum ggml_type
    offset: int  # bytes from the start of the data section of its part
    n_bytes: int  # ggml_nbytes: no padding
    part: int = 0  # index of the split file that holds it


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says about itself; of a split model, all parts together."""

    path: Path  # the file that was asked for (of a split model, the first part)
    version: int
    metadata: Mapping[str, Value | SkippedArray]
    tensors: tuple[TensorInfo, ...]
    file_sizes: tuple[int, ...]  # bytes, one per part
    data_offsets: tuple[int, ...]  # where each part's tensor data starts

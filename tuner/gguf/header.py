"""Reads the header of a GGUF file: its metadata and its tensor table, nothing of the weights."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from tuner.errors import FileError
from tuner.gguf.part import (
    MAX_TENSORS,
    Part,
    Scalar,
    SkippedArray,
    TensorInfo,
    Value,
    read_part,
)
from tuner.gguf.pieces import PART_NAME, fetched_beside
from tuner.safe_text import quoted

__all__ = ["Header", "Scalar", "SkippedArray", "TensorInfo", "Value", "read_header"]


@dataclass(frozen=True, slots=True)
class Header:
    """What a GGUF file says about itself; of a split model, all parts together."""

    path: Path  # the model's: the file that was asked for, of a split model its first part
    version: int
    metadata: Mapping[str, Value | SkippedArray]
    value_types: Mapping[str, str]  # of each key: "u32", of an array "arr[str]"
    tensors: tuple[TensorInfo, ...]
    file_sizes: tuple[int, ...]  # bytes, one per part
    data_offsets: tuple[int, ...]  # where each part's tensor data starts


def read_header(path: Path | str) -> Header:
    """The header of a GGUF file (version 2 or 3, little-endian).

    Of a split model any part may be given: all are read, the first one's metadata is the
    model's. Arrays of strings and long arrays are stepped over, not built. Raises FileError,
    with `offset` where the fault lies at a byte. Checks what gguf.cpp and
    llama-model-loader.cpp check, so that the form of a file accepted here suits the engine too.
    """
    path = Path(path)
    part = read_part(path)
    count = _split_value(part, "split.count", default=1)
    if count <= 1:
        return _join([part])
    paths = _part_paths(part, count)
    parts: list[Part] = []
    for p in paths:
        parts.append(part if p == part.path else read_part(p))
        if sum(len(each.tensors) for each in parts) > MAX_TENSORS:
            raise FileError(
                "malformed",
                path,
                f"{path} and its other parts hold more than {MAX_TENSORS:,} tensors, which no "
                "model does; download all parts again.",
            )
    return _join(parts)


def files_of(header: Header) -> list[Path]:
    """The files that a header was read from, in order. Raises FileError where one is gone."""
    count = len(header.file_sizes)
    if count == 1:
        return [header.path]
    paths = _sibling_paths(header.path, count)
    _require_all(paths, header.path)
    return paths


def models_of(paths: Iterable[Path]) -> list[Path]:
    """The paths of models: in place of the parts of a split model that are given, its first part
    once, or the first that is given where that is not there. Other paths as they are."""
    models: list[Path] = []
    seen: set[Path] = set()
    for path in paths:
        first = _first_part(path)
        if first is None:
            models.append(path)
        elif first not in seen:
            seen.add(first)
            models.append(first if first.exists() else path)
    return models


def named_parts(path: Path) -> list[Path]:
    """All files of the model whose first, or only, one this is, by its name alone."""
    match = PART_NAME.fullmatch(path.name)
    return _sibling_paths(path, int(match["count"])) if match else [path]


def _first_part(path: Path) -> Path | None:
    """The first part of the model that a file is a part of; None where it is none."""
    match = PART_NAME.fullmatch(path.name)
    if not match:
        return None
    first = _sibling(path, 1, int(match["count"]))
    if first == path:
        return first
    try:
        count = _split_value(read_part(path), "split.count", default=1)
    except FileError:
        return None  # what is wrong with it is said where it is read
    return first if count == int(match["count"]) else None


# ---------------------------------------------------------------- split models


_PADDING = 1 << 16  # bytes between two parts, at the most


def _split_value(part: Part, key: str, default: int) -> int:
    value = part.metadata.get(key, default)
    if not isinstance(value, int):
        raise FileError(
            "malformed",
            part.path,
            f"{part.path} has a damaged {key}, so its other parts cannot be found; "
            "download it again.",
        )
    return int(value)


def _part_paths(part: Part, count: int) -> list[Path]:
    """Where all parts of the split model that one belongs to must lie."""
    path = part.path
    if not _is_named(path, count) and _is_named(path.resolve(), count):
        path = path.resolve()  # a link to a part
    if not _is_named(path, count):
        _refuse_glued(part, count)
        raise FileError(
            "malformed",
            path,
            f"{path} is one of {count} parts of a model but its name does not say which; "
            f"name the parts NAME-00001-of-{count:05d}.gguf and so on.",
        )
    paths = _sibling_paths(path, count)
    if not all(p.exists() for p in paths):
        _refuse_glued(part, count)
    _require_all(paths, path)
    return paths


def _is_named(path: Path, count: int) -> bool:
    match = PART_NAME.fullmatch(path.name)
    return match is not None and int(match["count"]) == count


def _sibling_paths(path: Path, count: int) -> list[Path]:
    """All parts of the model that a file is named as a part of."""
    return [_sibling(path, n, count) for n in range(1, count + 1)]


def _sibling(path: Path, n: int, count: int) -> Path:
    """Part `n` of `count`, beside another part (`llama_split_path`, src/llama.cpp)."""
    match = PART_NAME.fullmatch(path.name)
    stem = match["stem"] if match else path.stem
    return path.with_name(f"{stem}-{n:05d}-of-{count:05d}.gguf")


def _require_all(paths: list[Path], path: Path) -> None:
    missing = [p.name for p in paths if p != path and not p.exists()]
    if missing:
        shown = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if missing[3:] else "")
        what = "download all parts into one folder"
        if any(fetched_beside(path.with_name(name)) for name in missing):
            what = "let the download that lies there finish"
        raise FileError(
            "missing_part",
            path,
            f"{path} is one of {len(paths)} parts of a model and beside it {shown} "
            f"{'is' if len(missing) == 1 else 'are'} missing; {what}.",
        )


def _refuse_glued(part: Part, count: int) -> None:
    """Raises FileError where another part follows in the same file: they were joined as bytes."""
    try:
        with part.path.open("rb") as file:
            file.seek(part.end)
            behind = file.read(_PADDING)
    except OSError:
        return
    if not behind.lstrip(b"\0").startswith(b"GGUF"):
        return
    first = f"NAME-00001-of-{count:05d}.gguf"
    raise FileError(
        "in_pieces",
        part.path,
        f"{part.path} is parts of a split model glued together, which llama.cpp cannot read; name "
        f"the first of the {count} parts as they were downloaded, or join them with "
        f"`llama-gguf-split --merge {first} NAME.gguf`.",
    )


def _join(parts: list[Part]) -> Header:
    """All parts as one header, after checking that they belong together."""
    first = parts[0]
    seen: set[str] = set()
    tensors: list[TensorInfo] = []
    for index, part in enumerate(parts):
        number = _split_value(part, "split.no", default=-1) if len(parts) > 1 else index
        if number != index:
            where = (
                f"it is part {number + 1}; name it so"
                if 0 <= number < len(parts)
                else "download this part again"
            )
            raise FileError(
                "malformed",
                part.path,
                f"{part.path} is not part {index + 1} of its model, as its name says: {where}.",
            )
        for tensor in part.tensors:
            if tensor.name in seen:
                raise FileError(
                    "malformed",
                    part.path,
                    f"{part.path} holds the tensor {quoted(tensor.name)}, which an earlier part "
                    "holds too; download all parts again.",
                )
            seen.add(tensor.name)
        tensors += part.tensors if index == 0 else [replace(t, part=index) for t in part.tensors]
    if len(parts) > 1:  # of a whole model nobody reads it
        expected = _split_value(first, "split.tensors.count", default=len(tensors))
        if expected != len(tensors):
            raise FileError(
                "malformed",
                first.path,
                f"{first.path} and its other parts hold {len(tensors)} tensors instead of "
                f"{expected}; download all parts again.",
            )
    return Header(
        path=first.path,
        version=first.version,
        metadata=first.metadata,
        value_types=first.value_types,
        tensors=tuple(tensors),
        file_sizes=tuple(part.size for part in parts),
        data_offsets=tuple(part.data_offset for part in parts),
    )

"""Whether llama.cpp's loader would take a file, by what its header tells: nothing is refused here
that is not sure to be refused there. `engine_reads` says what it asks for."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

from tuner.errors import FileError
from tuner.gguf.header import Header
from tuner.gguf.keys import mismatch
from tuner.model.engine_reads import (
    NOT_REQUIRED,
    RESHAPED,
    UNKNOWN,
    Names,
    TensorRow,
    certain,
    incompatible,
    possible,
    rows_of,
    table,
)
from tuner.model.hparams import HParams
from tuner.safe_text import cut, quoted

_MAX_DIMS = 4
# parts of a model for images or sound, which llama.cpp has in a file of their own (mmproj)
_TOWERS = ("v.", "a.", "mm.")


def require_keys(header: Header, architecture: str, hparams: HParams | None = None) -> None:
    """Raises FileError where a key that the loader needs is missing, or one that it reads is of
    another type. Without `hparams`, of those alone that it reads in any case."""
    names = Names(header, architecture, hparams)
    for row in rows_of(architecture).keys:
        if not certain(names.of(row.when)):
            continue
        name = row.key[1:] if row.key.startswith("/") else f"{architecture}.{row.key}"
        n = names.of(row.n) if row.n else None
        wrong = mismatch(header, name, row.form, n if isinstance(n, int) else None)
        if wrong:
            raise incompatible(header, f"its metadata key {cut(name)} {wrong}")
        found = header.value_types.get(name, "")
        needs_list = row.form.startswith(("array", "list"))
        missing = not found.startswith("arr") if needs_list else not found
        if missing and certain(names.of(row.required)):
            what = "list" if found else "key"
            raise incompatible(header, f"its metadata lack the {what} {cut(name)}")
    scaling = header.metadata.get(f"{architecture}.rope.scaling.type", "linear")
    if scaling not in table()["rope_scalings"]:
        raise incompatible(
            header,
            f"its metadata key {cut(architecture)}.rope.scaling.type is {quoted(str(scaling))}, "
            "which is not known to this one",
            newer=True,
        )


def require_tensors(header: Header, hparams: HParams) -> None:
    """Raises FileError where a tensor is missing, has another shape than the metadata ask for, or
    is none that a model of this architecture has."""
    architecture = hparams.architecture
    rows = rows_of(architecture)
    names = Names(header, architecture, hparams)
    for layers, words, when in rows.refusals:
        for _ in names.layers(layers):
            if certain(names.of(when)):
                why = f" ({words})" if words and "%" not in words else ""
                raise incompatible(header, f"its numbers make no {cut(architecture)} model{why}")
    present = {_without_layer(tensor.name) for tensor in header.tensors}
    taken: set[str] = set()
    for layers in ("tensors", "layers", "all_layers"):
        all_rows: tuple[TensorRow, ...] = getattr(rows, layers)
        of_part = [row for row in all_rows if row.required or row.name in present]
        for _ in names.layers(layers):
            for row in of_part:
                _require_tensor(header, names, row, taken)
    foreign = [tensor.name for tensor in header.tensors if tensor.name not in taken]
    if foreign:
        raise _foreign(header, architecture, foreign)


def _without_layer(name: str) -> str:
    """A tensor's name as the table has it."""
    return f".{name.split('.', 2)[-1]}" if name.startswith("blk.") else name


def _require_tensor(header: Header, names: Names, row: TensorRow, taken: set[str]) -> None:
    """One tensor, of the layer `i`."""
    name = names.full_name(row.name)
    tensor = names.tensors.get(name)
    if tensor is None and not row.required:
        return
    when = names.of(row.when)
    if not possible(when):
        return
    sure, flags = certain(when), names.of(row.flags)
    if tensor is None:
        if sure and flags is not UNKNOWN and not flags & NOT_REQUIRED:
            raise incompatible(header, f"it lacks the tensor {name}")
        return
    taken.add(name)
    wanted = names.of(row.shape)
    if not sure or wanted is UNKNOWN or wanted == tensor.shape:  # what is unknown equals anything
        return
    sizes, sought = ((*shape, *(1,) * (_MAX_DIMS - len(shape))) for shape in (tensor.shape, wanted))
    if flags is UNKNOWN or flags & RESHAPED:  # their number alone must be the same
        sizes, sought = (prod(sizes),), (prod(sought, start=1),)
    if any(want is not UNKNOWN and want != size for size, want in zip(sizes, sought, strict=True)):
        shape = " x ".join("?" if n is UNKNOWN else str(n) for n in wanted)
        raise incompatible(
            header,
            f"its tensor {name} is {' x '.join(map(str, tensor.shape))}, where its metadata make "
            f"it {shape}",
        )


def _foreign(header: Header, architecture: str, foreign: Sequence[str]) -> FileError:
    """The error for tensors that the loader would not ask for (`done_getting_tensors`)."""
    towers = sorted({name.partition(".")[0] + ".*" for name in foreign if name.startswith(_TOWERS)})
    if towers:
        return FileError(
            "incompatible",
            header.path,
            f"{header.path} holds the part for images or sound too (its tensors "
            f"{' and '.join(towers)}), which llama.cpp does not take: it was made for Ollama; take "
            "the model's GGUF in two files, the model and its mmproj.",
        )
    others = f" and {len(foreign) - 1:,} more" if foreign[1:] else ""
    return incompatible(
        header,
        f"it holds the tensor {quoted(foreign[0])}{others}, which a {cut(architecture)} model of "
        "such metadata does not have",
        newer=True,
    )

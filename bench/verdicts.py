"""What kvchat says of edited headers beside what the engine says: who takes which, as a table.

    python -m bench.verdicts [--only NAME ...] [--per-file 200] [--seed 1] [FOLDER]

The seeds are the tests' archive of headers of all architectures, or the files in FOLDER. Each key
and each tensor of a header is changed in turn: left out, renamed, of another type or shape; tensors
are added that the architecture does not have. The engine's word is its dry run, load and context.
Told one by one: what is refused and the engine takes, which makes the exit status 1 (but for models
that nobody can chat with), and what is taken and the engine refuses or dies of. Needs an engine
built with GGML_RPC=ON on x86-64 Linux.
"""

from __future__ import annotations

import argparse
import random
import re
import struct
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from bench.fuzz import write
from bench.memory_accuracy import stretched
from bench.mutants import Key, Parts, Row
from bench.oracle import Oracle, available
from tests.support.headers import unpacked
from tuner.errors import FileError
from tuner.gguf.header import read_header
from tuner.model.model import read_model
from tuner.settings import Settings

_U32, _F32, _BOOL, _STRING, _ARRAY, _U64, _F64 = 4, 6, 7, 8, 9, 10, 12
_TEXT = struct.pack("<Q", 1) + b"8"
_FOREIGN = ("v.patch_embd.weight", "mm.0.weight", "blk.0.extra.weight", "blk.0.attn_q.scales")
_LARGE = 4096  # bytes of an array from which on only its presence and type are tried


def edits(parts: Parts) -> Iterator[tuple[str, Parts]]:
    """Each edit with its kind."""
    yield "nothing", parts
    yield from blocks_ahead(parts)
    for i, key in enumerate(parts.keys):
        for kind, new in _values(key):
            keys = (*parts.keys[:i], *new, *parts.keys[i + 1 :])
            yield f"{kind}: {_short(key.name, parts)}", replace(parts, keys=keys)
    for i, row in enumerate(parts.rows):
        for kind, new_row in _shapes(row):
            rows = (*parts.rows[:i], *new_row, *parts.rows[i + 1 :])
            yield f"{kind}: {_general(row.name)}", replace(parts, rows=rows)
    layered = [row for row in parts.rows if row.name.startswith(b"blk.0.")]
    for name in _FOREIGN:
        yield (
            f"tensor added: {name}",
            replace(parts, rows=(*parts.rows, Row(name.encode(), (32, 2), 0))),
        )
    if layered:
        beyond = replace(layered[0], name=b"blk.99" + layered[0].name[5:])
        yield "tensor added: of no layer", replace(parts, rows=(*parts.rows, beyond))


def blocks_ahead(parts: Parts) -> Iterator[tuple[str, Parts]]:
    """With a block that predicts ahead (multi-token prediction): one more than there were, with
    and without its own tensors or any; or the last one."""
    layers = [int(m[1]) for row in parts.rows if (m := re.match(rb"blk\.(\d+)\.", row.name))]
    if not layers:
        return
    n = max(layers) + 1
    last = b"blk.%d." % (n - 1)
    block = tuple(
        replace(row, name=b"blk.%d." % n + row.name[len(last) :])
        for row in parts.rows
        if row.name.startswith(last)
        and not row.name.endswith(b"scale")  # loaded with their tensors
    )
    width = next((row.dims[0] for row in parts.rows if row.name == b"token_embd.weight"), 64)
    own = tuple(
        Row(b"blk.%d.nextn.%s.weight" % (n, name), dims, 0)
        for name, dims in (
            (b"eh_proj", (2 * width, width)),
            (b"enorm", (width,)),
            (b"hnorm", (width,)),
            (b"shared_head_norm", (width,)),
        )
    )
    one = Key(parts.architecture + b".nextn_predict_layers", _U32, struct.pack("<I", 1))
    others = tuple(key for key in parts.keys if key.name != one.name)
    keys = tuple(_longer(key, n, parts) for key in others)
    for kind, rows in (("whole", block + own), ("without its own", block), ("left out", ())):
        yield f"block ahead: {kind}", replace(parts, keys=(*keys, one), rows=(*parts.rows, *rows))
    yield "block ahead: the last layer", replace(parts, keys=(*others, one))


def _longer(key: Key, n: int, parts: Parts) -> Key:
    """A key of a model that has one layer more than `n`."""
    if key.name == parts.architecture + b".block_count":
        return replace(key, body=struct.pack("<I", n + 1))
    if key.type != _ARRAY or not key.name.startswith(parts.architecture):
        return key
    element, length = struct.unpack_from("<IQ", key.body)
    if length != n or element == _STRING:
        return key
    size = (len(key.body) - 12) // n
    body = struct.pack("<IQ", element, n + 1) + key.body[12:] + key.body[-size:]
    return replace(key, body=body)


def _values(key: Key) -> Iterator[tuple[str, tuple[Key, ...]]]:
    yield "key left out", ()
    yield "key renamed", (replace(key, name=key.name + b"x"),)

    def as_type(kind: int, body: bytes) -> tuple[str, tuple[Key, ...]]:
        return f"key of type {kind}", (replace(key, type=kind, body=body),)

    if key.type == _ARRAY:
        element, n = struct.unpack_from("<IQ", key.body)
        yield as_type(_U32, struct.pack("<I", 1))
        if len(key.body) < _LARGE and element != _STRING and n:
            size = (len(key.body) - 12) // n
            longer = struct.pack("<IQ", element, n + 1) + key.body[12:] + bytes(size)
            yield "list longer", (replace(key, body=longer),)
            yield (
                "list shorter",
                (replace(key, body=struct.pack("<IQ", element, n - 1) + key.body[12:-size]),),
            )
            other = {4: 5, 5: 4, 6: 4}.get(element)
            if other is not None:
                yield (
                    "list of another type",
                    (replace(key, body=struct.pack("<IQ", other, n) + key.body[12:]),),
                )
        return
    yield as_type(_STRING, _TEXT)
    if key.type != _U32:
        yield as_type(_U32, struct.pack("<I", 1))
    if key.type != _BOOL:
        yield as_type(_BOOL, b"\1")
    if key.type == _U32:
        (value,) = struct.unpack("<I", key.body)
        yield as_type(_U64, struct.pack("<Q", value))
        yield as_type(5, struct.pack("<i", min(value, (1 << 31) - 1)))
        yield as_type(_F32, struct.pack("<f", value))
        yield as_type(_ARRAY, struct.pack("<IQI", _U32, 1, value))
        for number in (0, 1, value + 1, 2 * value):
            if number != value and number < 1 << 32:
                yield f"key is {number}", (replace(key, body=struct.pack("<I", number)),)
    if key.type == _F32:
        (real,) = struct.unpack("<f", key.body)
        yield as_type(_F64, struct.pack("<d", real))


def _shapes(row: Row) -> Iterator[tuple[str, tuple[Row, ...]]]:
    yield "tensor left out", ()
    yield "tensor renamed", (replace(row, name=row.name + b"x"),)
    if len(row.dims) > 1:
        yield "tensor transposed", (replace(row, dims=row.dims[::-1], type=0),)
    yield "tensor longer", (replace(row, dims=(*row.dims[:-1], row.dims[-1] + 32)),)
    yield "tensor of more dimensions", (replace(row, dims=(*row.dims, 2)),)


def _short(name: bytes, parts: Parts) -> str:
    return name.removeprefix(parts.architecture + b".").decode()


def _general(name: bytes) -> str:
    return re.sub(r"\d+", "N", name.decode())


NOT_TRIED = "is not asked: none to chat with"


def compare(path: Path, oracle: Oracle) -> tuple[str, str]:
    """What each says: nothing where it takes the file."""
    try:
        read_model(path)
        ours = ""
    except FileError as error:
        ours = str(error).replace(str(path), "")
        if error.kind == "not_a_chat_model":
            return ours, NOT_TRIED
    return ours, oracle.ask(path, Settings(256)).error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("folder", type=Path, nargs="?")
    parser.add_argument("--only", nargs="+", default=[], metavar="NAME")
    parser.add_argument("--per-file", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    if not available():
        print("needs an engine built with GGML_RPC=ON on x86-64 Linux", file=sys.stderr)
        return 5
    table: Counter[tuple[str, str]] = Counter()
    with tempfile.TemporaryDirectory() as scratch, Oracle(n_gpus=0) as oracle:
        if options.folder:
            files = list(stretched(options.folder, Path(scratch)))
        else:
            files = list(unpacked()[0].values())
        target = Path(scratch) / "edited.gguf"
        for file in sorted(files):
            if options.only and not any(name in file.name for name in options.only):
                continue
            chance = random.Random(f"{options.seed} {file.name}")
            with file.open("rb") as stream:
                parts = Parts.of(stream.read(read_header(file).data_offsets[0]))
            found = list(edits(parts))
            if len(found) > options.per_file:
                # what is tried of each: nothing at all, and blocks that predict ahead
                always = [edit for edit in found if edit[0].startswith(("nothing", "block ahead"))]
                rest = [edit for edit in found if edit not in always]
                found = always + chance.sample(rest, max(0, options.per_file - len(always)))
            for kind, edited in found:
                write(target, *edited.packed())
                ours, theirs = compare(target, oracle)
                died = theirs.startswith("the engine died")
                row = "refused" if ours else "taken"
                column = "dies" if died else "refuses" if theirs else "takes"
                if theirs == NOT_TRIED:
                    column = NOT_TRIED
                table[row, column] += 1
                if ours and not theirs:
                    print(f"{file.name}: {kind}: refused, the engine takes it:{ours}", flush=True)
                if theirs and not ours:
                    why = re.sub(r"\d+", "N", theirs.splitlines()[-1])[:120]
                    print(f"  {file.name}: {kind}: taken, the engine: {why}", flush=True)
    for (row, column), n in sorted(table.items()):
        print(f"{n:8,}  {row}, the engine {column}")
    return 1 if table["refused", "takes"] else 0


if __name__ == "__main__":
    sys.exit(main())

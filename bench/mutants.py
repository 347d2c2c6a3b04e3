"""Damaged GGUF headers: a header taken apart, changed at random, and put together again.

    seed = Parts.of(data)        # a header's bytes
    damaged, file_size, parts = mutant(seed, random.Random(7), Words.of([seed]))

Damage is of two kinds. Structural: a value of a key (extreme, infinite, of another type, another
length), a key that is renamed, doubled, missing or another architecture's, and the same of a
tensor's name, dimensions, type and place; lengths and offsets still agree, so that the damage is
met far behind the reader. Bytewise: bits, words, cuts and insertions anywhere. The same random
numbers give the same mutant.
"""

from __future__ import annotations

import math
import random
import re
import struct
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from math import prod

from tuner.gguf.limits import MAX_LAYERS
from tuner.gguf.types import GGML_TYPES

_FORMATS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<B", 10: "<Q", 11: "<q",
    12: "<d",
}  # fmt: skip
_UINT32, _INT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _UINT64, _FLOAT64 = 4, 5, 6, 7, 8, 9, 10, 12
_WHOLE = (0, 1, 2, 3, 4, 5, 10, 11)  # types of whole numbers

_EXTREMES = (
    0, 1, 2, 3, 5, 7, 31, 64, 100, 255, 256, 511, 512, 513, 1024, 3705, 65_535, 65_536, 1 << 20,
    (1 << 24) + 1, (1 << 31) - 1, 1 << 31, (1 << 32) - 1, 1 << 32, (1 << 62) + 1, (1 << 63) - 1,
    1 << 63, (1 << 64) - 1, -1, -2, -64, -(1 << 31), -(1 << 63),
)  # fmt: skip
_REALS = (0.0, -0.0, -1.0, 0.5, 1.5, 1e-300, 1e300, float("inf"), float("-inf"), float("nan"))
_TEXTS = ("", "eight", "\x1b]52;c;AAAA\x07", "a" * 300, "\u202eevil", "lora")
_BOUND = 1 << 62  # bytes: no file system holds more


@dataclass(frozen=True, slots=True)
class Key:
    """One entry of the metadata: the value as its bytes, as they lie in the file."""

    name: bytes
    type: int
    body: bytes  # of an array with its element type and length in front


@dataclass(frozen=True, slots=True)
class Row:
    """One row of the tensor table. `offset` None: where it belongs."""

    name: bytes
    dims: tuple[int, ...]
    type: int
    offset: int | None = None

    @property
    def n_bytes(self) -> int:
        kind = GGML_TYPES.get(self.type)
        return prod(self.dims) // kind.block * kind.block_bytes if kind else 0


@dataclass(frozen=True, slots=True)
class Parts:
    """A header taken apart."""

    keys: tuple[Key, ...]
    rows: tuple[Row, ...]
    architecture: bytes = b""

    @classmethod
    def of(cls, data: bytes) -> Parts:
        """Of a sound header, version 2 or 3."""
        n_rows, n_keys = struct.unpack_from("<QQ", data, 8)
        at = 24

        def text() -> bytes:
            nonlocal at
            (n,) = struct.unpack_from("<Q", data, at)
            at += 8 + n
            return data[at - n : at]

        keys, rows = [], []
        for _ in range(n_keys):
            name = text()
            (kind,) = struct.unpack_from("<I", data, at)
            at += 4
            start = at
            if kind == _STRING:
                text()
            elif kind == _ARRAY:
                element, n = struct.unpack_from("<IQ", data, at)
                at += 12
                if element == _STRING:
                    for _ in range(n):
                        text()
                else:
                    at += n * struct.calcsize(_FORMATS[element])
            else:
                at += struct.calcsize(_FORMATS[kind])
            keys.append(Key(name, kind, data[start:at]))
        for _ in range(n_rows):
            name = text()
            (n_dims,) = struct.unpack_from("<I", data, at)
            dims = struct.unpack_from(f"<{n_dims}Q", data, at + 4)
            at += 4 + 8 * n_dims
            (kind,) = struct.unpack_from("<I", data, at)
            at += 12
            rows.append(Row(name, dims, kind))
        named = next((k.body[8:] for k in keys if k.name == b"general.architecture"), b"")
        return cls(tuple(keys), tuple(rows), named)

    def packed(self) -> tuple[bytes, int]:
        """The header's bytes, and those of a file that holds all its tensors."""
        out = bytearray(b"GGUF" + struct.pack("<IQQ", 3, len(self.rows), len(self.keys)))
        for key in self.keys:
            out += struct.pack("<Q", len(key.name)) + key.name
            out += struct.pack("<I", key.type) + key.body
        position = 0
        for row in self.rows:
            out += struct.pack("<Q", len(row.name)) + row.name
            out += struct.pack(f"<I{len(row.dims)}Q", len(row.dims), *row.dims)
            offset = position if row.offset is None else row.offset
            out += struct.pack("<IQ", row.type, offset & ((1 << 64) - 1))
            position += -(-row.n_bytes // 32) * 32
        if self.rows:
            out += bytes(-len(out) % 32)
        return bytes(out), min(len(out) + position, _BOUND)


@dataclass(frozen=True, slots=True)
class Words:
    """What keys and tensors are called, over all seeds: a key by its name without architecture."""

    architectures: tuple[bytes, ...]
    keys: tuple[Key, ...]
    tensors: tuple[bytes, ...]  # without "blk.N."

    @classmethod
    def of(cls, seeds: Iterable[Parts]) -> Words:
        architectures: dict[bytes, None] = {}
        keys: dict[bytes, Key] = {}
        tensors: dict[bytes, None] = {}
        for seed in seeds:
            architectures[seed.architecture] = None
            for key in seed.keys:
                if key.name.startswith(seed.architecture + b"."):
                    name = key.name[len(seed.architecture) + 1 :]
                    keys.setdefault(name, replace(key, name=name))
            for row in seed.rows:
                name = row.name.split(b".", 2)[-1] if row.name.startswith(b"blk.") else row.name
                tensors[name] = None
        return cls(tuple(architectures), tuple(keys.values()), tuple(tensors))


# ------------------------------------------------------------------- values


def _scalar(chance: random.Random, old: int = 0) -> tuple[int, bytes]:
    """A value of any type and its type."""
    match chance.randrange(8):
        case 0:
            return _FLOAT32, struct.pack("<f", _as_f32(chance.choice(_REALS)))
        case 1:
            return _FLOAT64, struct.pack("<d", chance.choice(_REALS))
        case 2:
            text = chance.choice(_TEXTS).encode()
            return _STRING, struct.pack("<Q", len(text)) + text
        case 3:
            return _BOOL, bytes([chance.randrange(2)])
        case _:
            number = _number(chance, old)
            fitting = [k for k in _WHOLE if _fits(k, number)]
            usual = _UINT32 in fitting and chance.randrange(5)
            kind = _UINT32 if usual else chance.choice(fitting)
            return kind, struct.pack(_FORMATS[kind], number)


def _number(chance: random.Random, old: int) -> int:
    """A whole number: an extreme one, one near the old one, any."""
    match chance.randrange(4):
        case 0:
            near = (old + 1, old - 1, 2 * old, 3 * old, old // 2, -old, old + (1 << 32))
            found = chance.choice(near)
        case 1:
            found = chance.randrange(1 << chance.randrange(1, 20))
        case _:
            found = chance.choice(_EXTREMES)
    return max(-(1 << 63), min(found, (1 << 64) - 1))


def _fits(kind: int, number: int) -> bool:
    try:
        struct.pack(_FORMATS[kind], number)
    except struct.error:
        return False
    return True


def _as_f32(value: float) -> float:
    return min(value, 3e38) if math.isfinite(value) else value


def _array(chance: random.Random, key: Key) -> tuple[int, bytes]:
    """An array: the old one with another length or another element, or a new one."""
    if key.type == _ARRAY and chance.randrange(3):
        element, n = struct.unpack_from("<IQ", key.body)
        if element in _FORMATS and n <= 1 << 16:
            size = struct.calcsize(_FORMATS[element])
            items = [key.body[12 + i * size : 12 + (i + 1) * size] for i in range(n)]
            if items and chance.randrange(5) > 1:
                number = _number(chance, 4)
                if element in _WHOLE and _fits(element, number):
                    new = struct.pack(_FORMATS[element], number)
                elif element == _FLOAT32:
                    new = struct.pack("<f", _as_f32(chance.choice(_REALS)))
                else:
                    new = bytes(size)
                items[chance.randrange(n)] = new
            else:
                n = max(0, chance.choice((n - 1, n + 1, 0, 1, 2 * n, 600)))
                items = [items[i % len(items)] if items else bytes(size) for i in range(n)]
            return _ARRAY, struct.pack("<IQ", element, len(items)) + b"".join(items)
    kind, body = _scalar(chance)
    n = chance.choice((0, 1, 2, 4, 32, 48, 512, 1025))
    return _ARRAY, struct.pack("<IQ", kind, n) + body * n


def _value(chance: random.Random, key: Key) -> Key:
    old = 0
    if key.type in _WHOLE:
        (old,) = struct.unpack(_FORMATS[key.type], key.body)
    lists = key.type == _ARRAY or not chance.randrange(7)
    kind, body = _array(chance, key) if lists else _scalar(chance, old)
    return replace(key, type=kind, body=body)


# ------------------------------------------------------------------- structural damage


def _change_value(p: Parts, chance: random.Random, words: Words) -> Parts:
    own = [i for i, k in enumerate(p.keys) if k.name.startswith(p.architecture + b".")]
    places = own if own and chance.randrange(10) else range(len(p.keys))
    if not places:
        return p
    i = chance.choice(places)
    return replace(p, keys=(*p.keys[:i], _value(chance, p.keys[i]), *p.keys[i + 1 :]))


def _add_key(p: Parts, chance: random.Random, words: Words) -> Parts:
    """A key that some other architecture has, or one that says what the file is."""
    marks = (b"general.type", b"adapter.type", b"split.count", b"split.no",
             b"split.tensors.count", b"general.alignment", b"general.file_type")  # fmt: skip
    if not chance.randrange(10):
        key = Key(chance.choice(marks), _UINT32, struct.pack("<I", 1))
    else:
        key = chance.choice(words.keys)
        key = replace(key, name=p.architecture + b"." + key.name)
    if chance.randrange(3):
        key = _value(chance, key)
    kept = tuple(k for k in p.keys if k.name != key.name)
    return replace(p, keys=(*kept, key))


def _drop_key(p: Parts, chance: random.Random, words: Words) -> Parts:
    i = chance.randrange(max(1, len(p.keys)))
    return replace(p, keys=p.keys[:i] + p.keys[i + 1 :])


def _rename_key(p: Parts, chance: random.Random, words: Words) -> Parts:
    if not p.keys:
        return p
    i, other = chance.randrange(len(p.keys)), chance.choice(p.keys).name
    name = chance.choice((other, other + b"x", b"", b"k" * 40_000, b"\xff\x1b[2J"))
    return replace(p, keys=(*p.keys[:i], replace(p.keys[i], name=name), *p.keys[i + 1 :]))


def _another_architecture(p: Parts, chance: random.Random, words: Words) -> Parts:
    """The same numbers and tensors under another architecture's rules."""
    old, new = p.architecture, chance.choice((*words.architectures, b"unheard-of"))
    keys = []
    for key in p.keys:
        if key.name == b"general.architecture":
            key = replace(key, body=struct.pack("<Q", len(new)) + new)  # noqa: PLW2901
        elif key.name.startswith(old + b"."):
            key = replace(key, name=new + key.name[len(old) :])  # noqa: PLW2901
        keys.append(key)
    return replace(p, keys=tuple(keys), architecture=new)


def _change_row(p: Parts, chance: random.Random, words: Words) -> Parts:
    if not p.rows:
        return p
    i = chance.randrange(len(p.rows))
    row = p.rows[i]
    dims = list(row.dims)
    match chance.randrange(7):
        case 0 | 1:
            if dims:
                place = chance.randrange(len(dims))
                dims[place] = _number(chance, dims[place]) & ((1 << 64) - 1)
        case 2:
            dims = dims[: chance.randrange(len(dims) + 1)]
        case 3:
            dims.append(chance.choice((1, 2, 8)))
        case 4:
            row = replace(row, type=chance.choice((*GGML_TYPES, 4, 31, 99)))
        case 5:
            row = replace(row, offset=_number(chance, 32))
        case _:
            row = replace(row, name=_tensor_name(p, chance, words))
    return replace(p, rows=(*p.rows[:i], replace(row, dims=tuple(dims)), *p.rows[i + 1 :]))


def _tensor_name(p: Parts, chance: random.Random, words: Words) -> bytes:
    layer = chance.choice((0, 0, 1, 2, 31, 511, 512, 10**30))
    odd = (chance.choice(p.rows).name, b"", b"t" * 63, b"t" * 64, b"\x1b]0;x\x07")
    if not chance.randrange(3):
        return chance.choice(odd)
    return b"blk.%d.%s" % (layer, chance.choice(words.tensors))


def _add_rows(p: Parts, chance: random.Random, words: Words) -> Parts:
    dims = tuple(chance.choice((1, 2, 8, 64, 256)) for _ in range(chance.randrange(5)))
    n = 1 if chance.randrange(20) else 3000
    names = [_tensor_name(p, chance, words) for _ in range(1)]
    names += [b"blk.%d.many_%d.weight" % (i % 40, i) for i in range(n - 1)]
    return replace(p, rows=(*p.rows, *(Row(name, dims, 0) for name in names)))


def _drop_rows(p: Parts, chance: random.Random, words: Words) -> Parts:
    if chance.randrange(2):
        i = chance.randrange(max(1, len(p.rows)))
        return replace(p, rows=p.rows[:i] + p.rows[i + 1 :])
    return replace(p, rows=tuple(r for r in p.rows if chance.randrange(5)))


def _many_layers(p: Parts, chance: random.Random, words: Words) -> Parts:
    """Up to as many layers as llama.cpp takes, made of the ones there are: all alike, or some or
    all of a width or a kind of their own."""
    stem = re.compile(rb"blk\.(\d+)\.(.+)", re.DOTALL)
    found: dict[int, list[Row]] = {}
    others = []
    for row in p.rows:
        match = stem.fullmatch(row.name)
        if match and len(match[1]) < 4:  # noqa: PLR2004
            found.setdefault(int(match[1]), []).append(replace(row, name=match[2], offset=None))
        else:
            others.append(replace(row, offset=None))
    if not found:
        return p
    n, kinds = chance.choice((33, 64, 100, 200, MAX_LAYERS)), sorted(found)
    widths = {size for row in found[kinds[0]] for size in row.dims if size % 256 == 0}
    width, step = chance.choice(sorted(widths or {0})), chance.choice((0, 256, 256, 512))
    distinct = chance.choice((1, 2, 3, 7, n, n))
    in_turn = chance.randrange(2)
    rows = []
    for il in range(n):
        wider = width + il % distinct * step
        kind = kinds[il % len(kinds)] if in_turn else chance.choice(kinds)
        rows += [
            replace(
                row,
                name=b"blk.%d.%s" % (il, row.name),
                dims=tuple(wider if size == width else size for size in row.dims),
            )
            for row in found[kind]
        ]
    count = p.architecture + b".block_count"
    keys = [
        replace(key, type=_UINT32, body=struct.pack("<I", n)) if key.name == count else
        _per_layer(key, max(kinds) + 1, n)
        for key in p.keys
    ]  # fmt: skip
    return replace(p, keys=tuple(keys), rows=(*others, *rows))


def _per_layer(key: Key, n_old: int, n: int) -> Key:
    """A list with an element for each layer, for `n` of them; other keys as they are."""
    if key.type != _ARRAY:
        return key
    element, length = struct.unpack_from("<IQ", key.body)
    if length != n_old or element not in _FORMATS:
        return key
    items = key.body[12:] * -(-n // n_old)
    size = struct.calcsize(_FORMATS[element])
    return replace(key, body=struct.pack("<IQ", element, n) + items[: n * size])


_STRUCTURAL: tuple[tuple[Callable[[Parts, random.Random, Words], Parts], int], ...] = (
    (_change_value, 12),
    (_add_key, 4),
    (_drop_key, 2),
    (_rename_key, 1),
    (_another_architecture, 1),
    (_change_row, 5),
    (_add_rows, 1),
    (_drop_rows, 1),
    (_many_layers, 1),
)


# ------------------------------------------------------------------- bytewise damage


def _damaged(data: bytes, chance: random.Random) -> bytes:
    out = bytearray(data)
    for _ in range(chance.randrange(1, 5)):
        at = chance.randrange(4, max(5, len(out) - 8))
        match chance.randrange(6):
            case 0:
                out[at] = chance.randrange(256)
            case 1:
                out[at] ^= 1 << chance.randrange(8)
            case 2:
                out[at : at + 4] = chance.randrange(64).to_bytes(4, "little")
            case 3:
                number = chance.choice(_EXTREMES) & ((1 << 64) - 1)
                out[at : at + 8] = number.to_bytes(8, "little")
            case 4:
                out[at:at] = chance.randbytes(chance.randrange(1, 9))
            case _:
                del out[at : at + chance.randrange(1, 9)]
    return bytes(out)


def structural(seed: Parts, chance: random.Random, words: Words) -> Parts:
    """A header whose parts are wrong, in one to four ways."""
    changes, weights = zip(*_STRUCTURAL, strict=True)
    for change in chance.choices(changes, weights, k=chance.choice((1, 1, 1, 2, 2, 3, 4))):
        seed = change(seed, chance, words)
    return seed


def mutant(seed: Parts, chance: random.Random, words: Words) -> tuple[bytes, int, Parts | None]:
    """A damaged header, the size of its file, and its parts where they still can be told."""
    bytewise = not chance.randrange(4)
    if not bytewise:
        parts = structural(seed, chance, words)
        return *parts.packed(), parts
    data, size = seed.packed()
    out = _damaged(data, chance)
    if not chance.randrange(10):
        out = out[: chance.randrange(len(out))]
        size = len(out)
    return out, size, None

"""The fuzzer in its short form: no damaged header makes the program fall, and it would see it."""

from __future__ import annotations

import math
import random
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from bench import fuzz
from bench.fuzz import MACHINES, Fuzzer, smallest, try_file, write
from bench.mutants import Key, Parts, Row, Words, mutant
from tests.support.gguf_files import tiny_llama
from tuner.planning import make_plan
from tuner.wishes import Wishes

FALLEN = sorted((Path(__file__).parents[1] / "data" / "fallen").iterdir())


@pytest.fixture(autouse=True)
def _builders_that_know() -> None:
    """Layers that no builder knows are what a fuzzer makes."""


def test_no_damaged_header_makes_it_fall(tmp_path: Path) -> None:
    """From the reader to the report, on several machines; `python -m bench.fuzz` has more."""
    fuzzer = Fuzzer(tmp_path, 1, small=True)
    for number in range(150):
        fuzzer.one(number)
    assert fuzzer.falls == {}, fuzzer.first
    assert fuzzer.verdicts["fits"] > 30
    assert fuzzer.verdicts["does not fit"] > 2
    assert fuzzer.verdicts["refused: malformed"] > 30


@pytest.mark.parametrize("file", FALLEN, ids=lambda file: file.name)
def test_what_once_fell_stands(tmp_path: Path, file: Path) -> None:
    """One header of each kind, as small as it could be made, on every machine."""
    path = tmp_path / "m.gguf"
    write(path, file.read_bytes(), int(file.name.rpartition("@")[2]))
    for make in MACHINES.values():
        for wishes in (Wishes(), Wishes(max_ctx=True), Wishes(type_k="q8_0", n_ctx=4096)):
            assert try_file(path, make(), wishes).fell == ()


def _much(kind: str) -> Parts:
    """A small model with as much of something as a file may have, or more."""
    with TemporaryDirectory() as folder:
        sound = Parts.of(tiny_llama(Path(folder) / "m.gguf").read_bytes())
    numbers = struct.pack("<IQ", 4, 1000) + bytes(4000)
    text = "\U0001f600".encode() * 225_000
    match kind:
        case "keys":
            more = [Key(b"k%d" % n, 9, numbers) for n in range(16_000)]
        case "names":
            more = [Key(b"%060000d" % n, 7, b"\1") for n in range(60)]
        case "texts":
            more = [Key(b"t%d" % n, 8, struct.pack("<Q", len(text)) + text) for n in range(12)]
        case _:
            rows = [
                Row(b"blk.%d.many_%d.weight" % (n % 2, n), (32,), 0) for n in range(40_000)
            ]  # a busy machine takes twice the time
            return replace(sound, rows=(*sound.rows, *rows))
    return replace(sound, keys=(*sound.keys, *more))


@pytest.mark.parametrize(
    ("kind", "verdict"),
    [
        ("keys", "fits"),
        ("names", "fits"),
        ("texts", "fits"),
        ("tensors", "refused: incompatible"),  # planned all the same, within the same limits
    ],
)
def test_much_of_something_takes_little(tmp_path: Path, kind: str, verdict: str) -> None:
    path = tmp_path / "m.gguf"
    write(path, *_much(kind).packed())
    found = try_file(path, MACHINES["CUDA 24"](), Wishes())
    assert (found.verdict, found.fell) == (verdict, ())


def _endless() -> None:
    while True:
        pass


def _large() -> None:
    bytearray(100 << 20).decode("latin-1")


def _crash() -> None:
    raise KeyError("x")


@pytest.mark.parametrize(
    ("fault", "fall"),
    [(_endless, "endless in ?"), (_large, "over 64 MiB"), (_crash, "KeyError in ?")],
)
def test_a_fall_is_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: Callable[[], None], fall: str
) -> None:
    plan = make_plan

    def faulty(*args: Any, **kwargs: Any) -> Any:
        fault()
        return plan(*args, **kwargs)

    monkeypatch.setattr(fuzz, "make_plan", faulty)
    path = tiny_llama(tmp_path / "m.gguf")
    endless = 0.3 if fault is _endless else fuzz.ENDLESS
    found = try_file(path, MACHINES["CUDA 24"](), Wishes(), endless)
    assert found.fell[0].replace("_fuzz.py", "?").startswith(fall)


@pytest.mark.parametrize(
    ("number", "fall"),
    [
        (-1, "negative"),
        (-0.5, "negative"),
        (1 << 63, "over 2^63:"),
        (math.inf, "no number:"),
        (math.nan, "no number:"),
    ],
)
def test_numbers_that_a_report_may_not_have_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: float, fall: str
) -> None:
    monkeypatch.setattr(fuzz, "report_json", lambda *_: {"plan": [{"kv_cache": number}]})
    path = tiny_llama(tmp_path / "m.gguf")
    fell = try_file(path, MACHINES["no GPU"](), Wishes()).fell
    assert fell == (f"{fall} plan[].kv_cache",)


def test_the_same_seed_gives_the_same_mutants(tmp_path: Path) -> None:
    seed = Parts.of(tiny_llama(tmp_path / "m.gguf").read_bytes())
    words = Words.of([seed])
    once, again = ([mutant(seed, random.Random(n), words) for n in range(50)] for _ in range(2))
    assert once == again
    assert len({data for data, _, _ in once}) > 40


def test_a_header_put_together_again_is_the_same(tmp_path: Path) -> None:
    path = tiny_llama(tmp_path / "m.gguf")
    data, size = Parts.of(path.read_bytes()).packed()
    assert path.read_bytes().startswith(data)
    assert size == path.stat().st_size


def test_what_fell_is_made_small(tmp_path: Path) -> None:
    """Two keys and a tensor matter: the rest goes."""
    seed = Parts.of(tiny_llama(tmp_path / "m.gguf").read_bytes())
    names = {seed.keys[2].name, seed.keys[5].name, seed.rows[3].name}

    def falls(parts: Parts) -> bool:
        return names <= _names(parts)

    assert _names(smallest(seed, falls, 10)) == names


def _names(parts: Parts) -> set[bytes]:
    return {key.name for key in parts.keys} | {row.name for row in parts.rows}

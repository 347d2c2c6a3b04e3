"""The metadata of an architecture: what a file may say of a key, and what it may not."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest

from tests.support.gguf_files import ARRAY, UINT32, UINT64, Typed, write_gguf
from tuner.errors import FileError
from tuner.gguf.header import Header, SkippedArray, read_header
from tuner.gguf.keys import Keys, mismatch
from tuner.gguf.limits import LIMITS

BOOL = 7  # enum gguf_type
LONG = SkippedArray(BOOL, 70_000)


def keys(**values: Any) -> Keys:
    metadata = {f"llama.{name}": value for name, value in values.items()}
    header = Header(Path("m.gguf"), 3, {**metadata, "other.a": 9}, {}, (), (0,), (0,))
    return Keys(header, "llama")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(5, 5), (5.0, 5), (True, 1), ((7, 8), 7), ((7.0,), 7), ((), 3), (LONG, 3), (0, 0)],
)
def test_a_whole_number(value: object, expected: int) -> None:
    """As it stands, or the first of an array; the default where there is nothing to take."""
    assert keys(a=value).integer("a", 3) == expected


def test_keys_of_other_architectures_are_not_read() -> None:
    assert keys().integer("a", 3) == 3
    assert keys().value("a") is None


@pytest.mark.parametrize("bad", ["eight", 1.5, math.nan, math.inf, -math.inf, ("a",), (math.nan,)])
def test_what_is_no_whole_number_is_named(bad: object) -> None:
    """The file is called malformed, with the key, whatever kind of nonsense it is."""
    with pytest.raises(FileError, match=r"m\.gguf: the metadata key llama\.a is"):
        keys(a=bad).integer("a")
    assert keys(a=bad).optional("a", 3) == 3, "where it may matter to nobody"
    if not isinstance(bad, tuple):
        with pytest.raises(FileError, match=r"llama\.a"):
            keys(a=bad).per_layer("a", 2, ())


@pytest.mark.parametrize(
    ("value", "expected"),
    [(0.5, 0.5), (2, 2.0), ("no", 1.0), (None, 1.0), ((2.0,), 1.0), (LONG, 1.0)],
)
def test_a_number_of_any_kind(value: object, expected: float) -> None:
    assert keys(a=value).number("a", 1.0) == expected


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ((1, 2), (1, 2)),
        ((True, False), (1, 0)),
        ((1.0,), (1,)),
        ((), ()),
        (3, None),
        (("a",), None),
    ],
)
def test_an_array(value: object, expected: tuple[int, ...] | None) -> None:
    """Of numbers; anything else is no array."""
    assert keys(a=value).array("a") == expected
    assert keys(a=LONG).array("a") is None


@pytest.mark.parametrize("bad", [(1.0, math.nan), (math.inf,)])
def test_an_array_of_no_numbers_is_malformed(bad: tuple[float, ...]) -> None:
    with pytest.raises(FileError, match=r"llama\.a lists what is no number"):
        keys(a=bad).array("a")


@pytest.mark.parametrize(
    ("value", "expected"),
    [(4, (4, 4, 4)), ((1, 2, 3), (1, 2, 3)), ((1, 2, 3, 4), (1, 2, 3)), (None, (9, 9, 9))],
)
def test_one_number_per_layer(value: object, expected: tuple[int, ...]) -> None:
    """Stated once for all, or for each of them and perhaps for more."""
    given = {} if value is None else {"a": value}
    assert keys(**given).per_layer("a", 3, (9, 9, 9)) == expected


@pytest.mark.parametrize(
    ("bad", "listed"), [((1, 2), 2), ((), 0), (("a", "b", "c"), 3), (LONG, 70_000)]
)
def test_too_few_layers_are_malformed(bad: object, listed: int) -> None:
    """The message says how many there are and how many it takes."""
    with pytest.raises(FileError, match=f"lists {listed} layers, the model has 3"):
        keys(a=bad).per_layer("a", 3, ())


@pytest.mark.parametrize("bad", [-1, -1.0, 1 << 32, 1 << 64, 1e300, (-1, 4), (1 << 32, 4)])
def test_what_the_engines_type_does_not_hold_is_malformed(bad: object) -> None:
    """uint32_t, where nothing else is said."""
    with pytest.raises(FileError, match=r"llama\.a (is|lists) -?\d+, and may (be|list) 0 to 4,294"):
        keys(a=bad).per_layer("a", 2, ())
    with pytest.raises(FileError, match=r"llama\.a is -?\d+, and may be 0 to 4,294"):
        keys(a=bad).integer("a")
    assert keys(a=(1 << 32) - 1).integer("a") == (1 << 32) - 1


@pytest.mark.parametrize("key", sorted(LIMITS))
def test_every_key_has_its_limits(key: str) -> None:
    """The least and the most are taken, one beyond them is not, alone and in a list."""
    least, most = LIMITS[key]
    assert [keys(**{key: n}).integer(key) for n in (least, most)] == [least, most]
    for beyond in (least - 1, most + 1):
        with pytest.raises(FileError, match="may be"):
            keys(**{key: beyond}).integer(key)
        with pytest.raises(FileError, match="may list"):
            keys(**{key: (least, beyond)}).array(key)


@pytest.mark.parametrize(
    ("value", "expected"),
    [(True, True), (1, True), (0.0, False), ("yes", False), (None, False), ((1,), False)],
)
def test_a_flag(value: object, expected: bool) -> None:
    assert keys(a=value).flag("a") is expected


@pytest.mark.parametrize(
    ("form", "value", "found"),
    [
        ("u32", 7, None),
        ("u32", Typed(7, UINT64), "is a number of type u64 and must be a number of type u32"),
        ("u32", [7], "is a list and must be a number of type u32"),
        ("f32", 7, "is a number of type u32 and must be a number of type f32"),
        ("str", True, "is true or false and must be a text"),
        ("?", "anything", None),
        ("each u32", 7, None),
        ("each u32", [1, 2], None),
        ("each u32", [True, False], None),
        ("each u32", [1, 2, 3], "lists 3 values and must list 2"),
        ("each u32", [1.0, 2.0], "lists f32 and must list u32"),
        ("each f32", Typed([1, 2], ARRAY, UINT32), "lists u32 and must list f32"),
        ("one u32", [1, 2, 3], None),
        ("one u32", 1.5, "is a number of type f32 and must be a number of type u32"),
        ("array u32", 1.5, None),  # counts as not there
        ("array u32", [1] * 513, "lists 513 values, more than 512"),
        ("list u32", [1] * 513, None),
        ("list u32", [True], "lists bool and must list u32"),
        ("array u64", [1], "lists u32 and must list u64"),
        ("any array", ["a"], None),
        ("any array", "a", "is a text and must be a list"),
    ],
)
def test_what_the_loader_takes_of_a_value(
    tmp_path: Path, form: str, value: object, found: str | None
) -> None:
    """As `get_key`, `get_key_or_arr`, `get_arr` and `get_arr_n` have it: nothing is converted."""
    header = read_header(write_gguf(tmp_path / "m.gguf", {"k": value}))
    assert mismatch(header, "k", form, 2) == found
    assert mismatch(header, "another", form) is None

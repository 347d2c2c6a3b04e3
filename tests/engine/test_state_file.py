"""States on disk: what was written comes back, and nothing else does."""

from __future__ import annotations

import stat
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tuner.engine import state_file
from tuner.engine.abort import CancelledError
from tuner.engine.blocks import Block
from tuner.engine.state_file import Layout, Source, StateFile, StateFileError

LAYOUT = Layout("a model", "0.3.36", "f16", "q8_0", flash_attn=True, swa_full=False)
TOKENS = [1, 2, 3, 70000]


def source(n_tokens: int, data: bytes) -> Source:
    def write(block: Block) -> bool:
        with block.view() as target:
            target[:] = data
        return True

    return Source(n_tokens, len(data), write)


def saved(path: Path, *parts: bytes, most: int = 1 << 20) -> int:
    sources = [source(len(TOKENS) - i, part) for i, part in enumerate(parts)]
    return state_file.write(path, LAYOUT, TOKENS, 2, sources, most)


def found(path: Path) -> tuple[list[int], list[tuple[int, bytes]]]:
    file = StateFile(path)
    states = []
    for n_tokens, block in file.states():
        with block.view() as data:
            states.append((n_tokens, bytes(data)))
    return file.tokens, states


def test_what_was_written_comes_back(tmp_path: Path) -> None:
    path = tmp_path / "c.state"
    path.write_bytes(b"something older")
    n_bytes = saved(path, b"whole" * 1000, b"part")
    assert n_bytes == path.stat().st_size
    assert found(path) == (TOKENS, [(4, b"whole" * 1000), (3, b"part")])
    described = StateFile(path).described
    assert (described.layout, described.n_exact) == (LAYOUT, 2)
    assert [*tmp_path.iterdir()] == [path]
    if sys.platform != "win32":
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@given(at=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7), cut=st.booleans())
def test_damage_is_seen(
    tmp_path_factory: pytest.TempPathFactory, at: float, bit: int, cut: bool
) -> None:
    """One bit anywhere, or an end that is missing."""
    path = tmp_path_factory.getbasetemp() / "damaged.state"
    saved(path, b"whole" * 10, b"part")
    data = bytearray(path.read_bytes())
    place = int(at * len(data))
    if cut:
        del data[place:]
    else:
        data[place] ^= 1 << bit
    path.write_bytes(data)
    with pytest.raises(StateFileError):
        found(path)


def test_one_that_is_too_large_is_not_kept(tmp_path: Path) -> None:
    """Nor what was there before: it is older than the conversation."""
    path = tmp_path / "c.state"
    saved(path, b"small")
    with pytest.raises(StateFileError, match="larger"):
        saved(path, b"large" * 100, most=100)
    assert not [*tmp_path.iterdir()]


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Block:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Block, "of_file", full)
    with pytest.raises(StateFileError, match="No space left"):
        saved(tmp_path / "c.state", b"data")
    assert not [*tmp_path.iterdir()]


def test_a_writer_that_fails(tmp_path: Path) -> None:
    with pytest.raises(StateFileError):
        state_file.write(
            tmp_path / "c.state", LAYOUT, TOKENS, 4, [Source(4, 8, lambda _: False)], 1000
        )
    assert not [*tmp_path.iterdir()]


def test_one_that_is_stopped(tmp_path: Path) -> None:
    """Midway, as it is written or as it is read: nothing half done is left."""

    def stopped() -> None:
        raise CancelledError

    path = tmp_path / "c.state"
    source = Source(4, 8, lambda _: True)
    with pytest.raises(CancelledError):
        state_file.write(path, LAYOUT, TOKENS, 4, [source], 1000, between=stopped)
    assert not [*tmp_path.iterdir()]
    saved(path, b"whole")
    with pytest.raises(CancelledError):
        next(StateFile(path).states(stopped))


@pytest.mark.parametrize(
    ("other", "fits"),
    [({"type_k": "q4_0", "type_v": "f16"}, True), ({"fingerprint": "another"}, False),
     ({"engine": "0.3.37"}, False), ({"swa_full": True}, False), ({"flash_attn": False}, False)],
)  # fmt: skip
def test_what_must_be_the_same(other: dict[str, object], fits: bool) -> None:
    """All but the types, which can be converted."""
    assert (not LAYOUT.fits(replace(LAYOUT, **other))) is fits  # type: ignore[arg-type]


def test_no_file_and_no_plain_file(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        StateFile(tmp_path / "none")
    with pytest.raises(StateFileError):
        StateFile(tmp_path)
    (tmp_path / "empty").touch()
    with pytest.raises(StateFileError):
        StateFile(tmp_path / "empty")

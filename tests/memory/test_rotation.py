"""Which caches the engine rotates."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import pytest

from tests.support.gguf_files import tiny_llama
from tests.support.headers import made_up
from tuner.engine.client import EngineClient
from tuner.engine.protocol import Load
from tuner.memory.rotation import Rotation, rotation
from tuner.model.model import read_model
from tuner.settings import Settings

NOTHING, BOTH = Rotation(k=False, v=False), Rotation(k=True, v=True)


def test_heads_of_whole_blocks_are_rotated(tmp_path: Path) -> None:
    """64 elements of a head are the least; keys and values have sizes of their own."""
    hp = made_up(tmp_path / "m.gguf").hparams
    assert rotation(hp, {}) == BOTH
    n = len(hp.head_k)
    assert rotation(replace(hp, head_k=(96,) * n, head_v=(96,) * n), {}) == NOTHING
    assert rotation(replace(hp, head_k=(192,) * n, head_v=(80,) * n), {}) == Rotation(True, False)


def test_latent_attention_is_not_rotated(tmp_path: Path) -> None:
    """Its graph never asks for it, though 576 divides by 64."""
    hp = made_up(tmp_path / "m.gguf").hparams
    assert rotation(replace(hp, mla=True, head_k=(576,) * len(hp.head_k)), {}) == NOTHING


def test_states_beside_windows_are_not_rotated(tmp_path: Path) -> None:
    hp = made_up(tmp_path / "m.gguf").hparams
    n = len(hp.swa)
    windowed = replace(hp, swa=(True,) * n)
    assert rotation(windowed, {}) == BOTH
    assert rotation(replace(windowed, recurrent=(True,) * n), {}) == NOTHING


@pytest.mark.parametrize(
    ("value", "expected"), [("1", NOTHING), (" 01x", NOTHING), ("0", BOTH), ("", BOTH), ("x", BOTH)]
)
def test_the_engine_s_own_switch(tmp_path: Path, value: str, expected: Rotation) -> None:
    hp = made_up(tmp_path / "m.gguf").hparams
    assert rotation(hp, {"LLAMA_ATTN_ROT_DISABLE": value}) == expected


@pytest.mark.parametrize(
    ("n_head", "env"), [(4, {}), (8, {}), (2, {}), (4, {"LLAMA_ATTN_ROT_DISABLE": "1"})]
)
def test_the_engine_says_the_same(n_head: int, env: dict[str, str], tmp_path: Path) -> None:
    """Heads of 64, 32 and 128 elements, and the switch."""
    path, log = tiny_llama(tmp_path / "m.gguf", n_head=n_head), tmp_path / "engine.log"
    with EngineClient(log, env=env) as client:
        client.dry_run(Load(str(path), Settings(512, "q8_0", "q4_0"), 1))
        said = re.findall(r"attn_rot_([kv]) = (\d)", log.read_text())
    expected = rotation(read_model(path).hparams, env)
    assert dict(said) == {"k": str(int(expected.k)), "v": str(int(expected.v))}

"""Sampling: one row per value, and which source counts."""

from __future__ import annotations

import json
import math
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

import pytest

from tests.support.gguf_files import FLOAT64, UINT8, Typed, tiny_llama
from tui.command import options, sampling_flags
from tui.command.cli import main
from tuner.errors import UsageError
from tuner.gguf.header import read_header
from tuner.json_values import from_json
from tuner.model.model import describe
from tuner.sampling import (
    FORBIDDEN,
    SAMPLERS,
    LogitBias,
    Sampling,
    SamplingChoice,
    acceptable,
    restated,
    sampler_names,
    values,
)


def stated(*flags: str) -> dict[str, object]:
    return sampling_flags.stated(options.parser().parse_args(["m.gguf", *flags]))


def test_every_value_but_the_grammar_has_a_row() -> None:
    assert {v.name for v in values()} == {f.name for f in fields(Sampling)} - {"grammar"}


def test_what_is_usual_is_within_its_bounds() -> None:
    found = asdict(Sampling())
    found = {k: list(v) if isinstance(v, tuple) else v for k, v in found.items()}
    assert from_json(Sampling, found) == Sampling()


def test_no_flag_states_nothing() -> None:
    assert stated() == {}


@pytest.mark.parametrize(
    ("flags", "found"),
    [
        (("--temperature", "0.2"), {"temperature": 0.2}),
        (("--temp", "0"), {"temperature": 0.0}),
        (("--presence-penalty", "-1.5"), {"presence_penalty": -1.5}),
        (("--top-nsigma", "-1"), {"top_n_sigma": -1.0}),
        (("--stop", "a\\n", "--stop", "\\\\n\\q\\x41"), {"stop": ("a\n", "\\n\\qA")}),
        (("--logit-bias", "7+1.5"), {"logit_bias": (LogitBias(7, 1.5),)}),
        (("--logit-bias", "7-inf"), {"logit_bias": (LogitBias(7, FORBIDDEN),)}),
        (("--samplers", "temp;top-k;minp"), {"samplers": ("temperature", "top_k", "min_p")}),
        (("--dry-sequence-breaker", "none"), {"dry_sequence_breakers": ()}),
        (("--dry-sequence-breaker", "\\n"), {"dry_sequence_breakers": ("\n",)}),
    ],
)  # fmt: skip
def test_flags(flags: tuple[str, ...], found: dict[str, object]) -> None:
    assert stated(*flags) == found
    assert Sampling(**found)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "flags",
    [
        ("--temperature", "nan"), ("--temperature", "101"), ("--repeat-penalty", "0"),
        ("--repeat-last-n", "-1"), ("--mirostat", "3"), ("--samplers", "top_k;best"),
        ("--logit-bias", "a+1"), ("--logit-bias", "1"), ("--logit-bias", "1+"),
        ("--stop", ""), ("--stop", "x" * 1001), ("--seed", "4294967296"), ("--top-k", "1.5"),
        ("--logit-bias", "99999999999+1"), ("--logit-bias", "1+nan"),
    ],
)  # fmt: skip
def test_a_value_that_makes_no_sense(flags: tuple[str, ...]) -> None:
    with pytest.raises(UsageError, match=flags[0]):
        stated(*flags)


def test_a_flag_counts_before_the_profile_before_the_file() -> None:
    choice = SamplingChoice(
        {"temperature": 0.1}, {"temperature": 0.2, "top_k": 5}, {"top_k": 6, "min_p": 0.3}
    )
    found = choice.sampling
    assert (found.temperature, found.top_k, found.min_p, found.top_p) == (0.1, 5, 0.3, 0.95)
    assert choice.lines() == [
        "temperature 0.1 (by flag)",
        "top_k 5 (from the profile)",
        "min_p 0.3 (from the file)",
    ]
    assert SamplingChoice({"grammar": "root ::= 1"}).lines() == [
        "the answer is of a grammar (by flag)"
    ]
    assert choice.kept == {"temperature": 0.1, "top_k": 5}


def test_what_is_for_one_run_is_not_kept() -> None:
    flags = stated("--seed", "1", "--stop", "x", "--logit-bias", "1+1", "--max-tokens", "3")
    assert SamplingChoice(flags).kept == {}


def test_a_file_s_defaults(tmp_path: Path) -> None:
    """Every key of llama.cpp's, whatever type of number it has."""
    keys = {
        "general.sampling.temp": 0.6,
        "general.sampling.top_k": Typed(20.0, FLOAT64),
        "general.sampling.top_p": Typed(1, UINT8),
        "general.sampling.penalty_repeat": 1.05,
        "general.sampling.penalty_last_n": 256,
        "general.sampling.mirostat_tau": 4.0,
        "general.sampling.sequence": "top_k;nucleus;temp;unheard",
    }
    model = describe(read_header(tiny_llama(tmp_path / "m.gguf", metadata=keys)))
    assert model.sampling == {
        "temperature": 0.6, "top_k": 20, "top_p": 1.0, "repeat_penalty": 1.05,
        "repeat_last_n": 256, "mirostat_ent": 4.0, "samplers": ("top_k", "top_p", "temperature"),
    }  # fmt: skip
    assert SamplingChoice({}, {}, model.sampling).sampling.temperature == 0.6


def test_a_report_says_where_each_value_is_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tiny_llama(tmp_path / "m.gguf", metadata={"general.sampling.temp": 0.6})
    asked = [
        str(path),
        "--explain",
        "--ram",
        "8GiB",
        "--vram",
        "0",
        "--stop",
        "\x1b[31m",
        "--top-k",
        "3",
    ]
    assert main(asked) == 0
    told = capsys.readouterr().out
    assert "top_k 3, stop '\\x1b[31m' (by flag)" in told
    assert "temperature 0.6 (from the file)" in told
    assert main([*asked, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["sampling"] == {
        "temperature": {"value": 0.6, "source": "file"},
        "top_k": {"value": 3, "source": "flag"},
        "stop": {"value": ["\x1b[31m"], "source": "flag"},
    }


def test_samplers_of_which_none_is_known_are_none_at_all(tmp_path: Path) -> None:
    keys = {"general.sampling.sequence": "best;worst"}
    assert describe(read_header(tiny_llama(tmp_path / "m.gguf", metadata=keys))).sampling == {}


@pytest.mark.parametrize("odd", [math.nan, math.inf, -1.0, 1e9, True, "hot", [1, 2]])
def test_a_default_that_makes_no_sense_is_passed_over(tmp_path: Path, odd: object) -> None:
    keys = {"general.sampling.temp": odd, "general.sampling.top_k": 3}
    model = describe(read_header(tiny_llama(tmp_path / "m.gguf", metadata=keys)))
    assert model.sampling == {"top_k": 3}


def test_names_of_samplers_are_spelt_as_llama_cpp_lets_them() -> None:
    assert sampler_names("Top-K; topp ;typ;;top_k") == ("top_k", "top_p", "typ_p")
    assert sampler_names(";".join(SAMPLERS)) == SAMPLERS
    assert not acceptable({"samplers": ("top_k", "top_k")})


@pytest.mark.parametrize(
    ("text", "changes"),
    [
        ("temperature 1.2", {"temperature": 1.2}),
        ("--temp 1.2 --top-p=0.9", {"temperature": 1.2, "top_p": 0.9}),
        ("top_k: 5, seed 7", {"top_k": 5, "seed": 7}),
    ],
)
def test_a_sampling_can_be_said_in_words(text: str, changes: dict[str, Any]) -> None:
    """By the names of the flags or the fields; what is not said stays."""
    base = Sampling(min_p=0.2)
    assert restated(text, base) == replace(base, **changes)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Say it as"), ("warm", "Say it as"), ("warmth 3", "'warmth' is none of"),
        ("temp hot", "is a number"), ("top-p 7", "from 0 to 1"), ("samplers top_k", "is none of"),
        ("temp nan", "from 0 to 100"),
    ],
)  # fmt: skip
def test_what_is_no_sampling_is_said(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        restated(text, Sampling())

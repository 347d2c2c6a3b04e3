"""Commands of llama.cpp's own programs, against what these say of their arguments."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import asdict, replace
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.carried import NAMES, carried, options, split, words
from tests.support.giants import GEMMA_27B, LLAMA_8B, QWEN_30B_A3B, gpu
from tuner.engine_version import ENGINE_VERSION
from tuner.memory.cache_types import CACHE_TYPES
from tuner.model.chat_templates import TemplateChoice
from tuner.report.emit.carried import Carried
from tuner.report.emit.targets import TARGETS
from tuner.sampling import SAMPLERS, LogitBias
from tuner.settings import FIELDS, MAX_CONTEXT, MAX_UBATCH
from tuner.units import INT32
from tuner.wishes import Wishes

DATA = Path(__file__).parents[2] / "data" / "arguments.json"
SAMPLING: dict[str, Any] = {
    "temperature": 0.6, "top_p": 0.9, "top_k": 20, "min_p": 0.01, "seed": 7, "max_tokens": 99,
    "typical_p": 0.5, "top_n_sigma": 1.0, "xtc_probability": 0.1, "xtc_threshold": 0.2,
    "dynatemp_range": 0.1, "dynatemp_exponent": 2.0, "repeat_last_n": 32, "repeat_penalty": 1.1,
    "presence_penalty": -0.5, "frequency_penalty": 0.25, "dry_multiplier": 0.8, "dry_base": 2.0,
    "dry_allowed_length": 3, "dry_penalty_last_n": 128, "dry_sequence_breakers": ("\n", '"', "-"),
    "mirostat": 2, "mirostat_ent": 4.0, "mirostat_lr": 0.2, "samplers": ("top_k", "temperature"),
    "logit_bias": (LogitBias(5, -1e9), LogitBias(6, 0.5)), "stop": ("</s>\n", "a\\nb"),
    "grammar": "root ::= \"a\" # '$x'\n",
}  # fmt: skip


@cache
def recorded() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = json.loads(DATA.read_text())
    return found


_NUMBER = re.compile(r"-?\d+(\.\d+)?(e[+-]?\d+)?")
# What the help says follows a flag, and whether a word is that.
FORMS: dict[str, Callable[[str], object]] = {
    "N": _NUMBER.fullmatch,
    "SEED": _NUMBER.fullmatch,
    "N0,N1,N2,...": lambda word: all(map(_NUMBER.fullmatch, word.split(","))),
    "FNAME": str.strip,
    "<dev1,dev2,..>": re.compile(r"\w+(,\w+)*").fullmatch,
    "SERVERS": re.compile(r"[\w.]+:\d+(,[\w.]+:\d+)*").fullmatch,
    "SAMPLERS": lambda word: set(word.split(";")) <= set(SAMPLERS),
    "TOKEN_ID(+/-)BIAS": re.compile(r"\d+[+-][\d.e+]+").fullmatch,
    "PROMPT": str,
    "STRING": str,
    "GRAMMAR": str,
    "JINJA_TEMPLATE": str,
    "JINJA_TEMPLATE_FILE": str.strip,
}


def check(program: str, given: list[str], known: dict[str, Any]) -> None:
    """Each flag is one of the program's, and followed by what its help says, or by nothing."""
    at = 0
    while at < len(given):
        flag = given[at]
        assert flag in known["flags"], f"{program} has no {flag}"
        form, at = known["flags"][flag], at + 1
        if form is None:
            continue
        word, at = given[at], at + 1
        if choices := known["allowed"].get(flag) or _choices(form):
            assert word in choices, (flag, word)
        else:
            assert FORMS[form](word), (flag, form, word)


def _choices(form: str) -> list[str]:
    """Of "[on|off|auto]" or "{none,layer}"; none for other forms."""
    listed = re.fullmatch(r"[\[{]([\w|,]+)[\]}]", form)
    return re.split(r"[|,]", listed[1]) if listed else []


CASES: dict[str, Callable[[], Carried]] = {
    "one GPU": lambda: carried(LLAMA_8B, 24.0),
    "two GPUs": lambda: carried(QWEN_30B_A3B, 12.0, 8.0),
    "experts in RAM": lambda: carried(QWEN_30B_A3B, 8.0),
    "a window": lambda: carried(GEMMA_27B, 16.0),
    "no GPU": lambda: carried(LLAMA_8B),
    "nothing as usual": lambda: carried(QWEN_30B_A3B, 24.0, 24.0, settings=asdict(split())),
    "sampling": lambda: carried(LLAMA_8B, 24.0, sampling=SAMPLING),
    "servers": lambda: carried(LLAMA_8B, 24.0, rpc_servers=("a.b:50052", "10.0.0.1:1")),
    "ChatML": lambda: carried(LLAMA_8B, 24.0, template=TemplateChoice("chatml")),
    "a template": lambda: carried(
        LLAMA_8B, 24.0, template=TemplateChoice(source="{{ x }}"), template_file="/a b.jinja"
    ),
    "no breakers": lambda: carried(LLAMA_8B, 24.0, sampling={"dry_sequence_breakers": ()}),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("name", recorded())
def test_every_flag_is_one_that_the_program_has(case: str, name: str) -> None:
    """As the real programs' --help lists them, of this engine's llama.cpp and of older ones, with
    values of the kind that it says."""
    program, *_ = name.split()
    check(program, words(program, CASES[case]()), recorded()[name])


@pytest.mark.parametrize("cache_type", CACHE_TYPES)
@pytest.mark.parametrize("name", recorded())
def test_every_cache_type_is_one_that_the_program_has(cache_type: str, name: str) -> None:
    program, *_ = name.split()
    one = carried(LLAMA_8B, 24.0, settings={"type_k": cache_type, "type_v": cache_type})
    check(program, words(program, one), recorded()[name])


@settings(max_examples=25, deadline=None)
@given(
    st.fixed_dictionaries({
        "n_ctx": st.integers(1, MAX_CONTEXT),
        "type_k": st.sampled_from([*CACHE_TYPES]),
        "type_v": st.sampled_from([*CACHE_TYPES]),
        "n_gpu_layers": st.integers(0, INT32),
        "n_cpu_moe": st.integers(0, INT32),
        "n_ubatch": st.integers(1, MAX_UBATCH),
        "tensor_split": st.lists(st.floats(1e-6, 1e6), max_size=2).map(tuple),
        "flash_attn": st.sampled_from(["on", "off", "auto"]),
        "swa_full": st.booleans(),
        "use_extra_bufts": st.booleans(),
    }),
    st.text(st.characters(exclude_characters="\0/", codec="utf-8"), max_size=20),
    st.sampled_from(["llama-server", "llama-cli"]),
)  # fmt: skip
def test_any_plan_is_a_command_that_the_program_takes(
    chosen: dict[str, Any], stem: str, program: str
) -> None:
    """Whatever the settings and the name: known flags, values of their kind, and the path."""
    given_words = words(program, carried(settings=chosen, file_name=f"{stem}.gguf"))
    check(program, given_words, recorded()[_of_engine()[program]])
    assert given_words[1] == f"/models/{stem}.gguf"


def _of_engine() -> dict[str, str]:
    """The recorded programs of this engine's own llama.cpp, by program."""
    source = f"llama-cpp-python {ENGINE_VERSION}"
    return {name.partition(" ")[0]: name for name in recorded() if source in name}


def test_the_recorded_programs_are_of_this_engine() -> None:
    """The arguments are recorded again with each engine; beside it, a program that is in use."""
    assert [*_of_engine()] == ["llama-server", "llama-cli"]


SPELT = {
    "n_ctx": ("--ctx-size", "12345"), "type_k": ("--cache-type-k", "q8_0"),
    "type_v": ("--cache-type-v", "q5_1"), "n_gpu_layers": ("--gpu-layers", "40"),
    "n_cpu_moe": ("--n-cpu-moe", "7"), "n_ubatch": ("--ubatch-size", "1024"),
    "tensor_split": ("--tensor-split", "3,1.5"), "flash_attn": ("--flash-attn", "auto"),
    "swa_full": ("--swa-full",), "use_extra_bufts": ("--no-repack",),
}  # fmt: skip


@pytest.mark.parametrize("program", ["llama-server", "llama-cli"])
@pytest.mark.parametrize("field", FIELDS)
def test_every_setting_arrives(program: str, field: str) -> None:
    """A field that `Settings` gets one day is missing above until it is written down."""
    found = options(program, carried(QWEN_30B_A3B, 24.0, 24.0, settings=asdict(split())))
    flag, *value = SPELT[field]
    assert found[flag] == value


def test_what_would_change_the_memory_is_stated() -> None:
    """One conversation, no fitting by itself, no cache of prompts, only these devices, these
    threads: defaults that are others."""
    found = options("llama-server", carried(QWEN_30B_A3B, 12.0, 8.0))
    assert found["--parallel"] == ["1"]
    assert found["--fit"] == ["off"]
    assert found["--cache-ram"] == ["0"]
    assert found["--device"] == ["CUDA0,CUDA1"]
    assert found["--batch-size"] == ["512"]
    assert found["--threads"] == found["--threads-batch"] == ["8"]
    assert "--parallel" not in options("llama-cli", carried(LLAMA_8B, 24.0))  # one by itself


def test_a_plan_without_a_gpu_uses_none() -> None:
    """Though the machine that it runs on may have one: --gpu-layers 0 alone would use it."""
    found = options("llama-server", carried(LLAMA_8B))
    assert (found["--device"], found["--gpu-layers"]) == (["none"], ["0"])


def test_devices_without_a_name_are_told() -> None:
    """Of GPUs that were stated, llama.cpp's name may not be known: it takes what it finds."""
    one = carried(LLAMA_8B, 24.0)
    nameless = replace(one.plan.machine, gpus=(replace(gpu(24.0), engine_name=""),))
    one = replace(one, plan=replace(one.plan, machine=nameless))
    assert "--device" not in options("llama-server", one)
    assert "# The GPUs of this plan were stated" in TARGETS["llama-server"](one)


@pytest.mark.parametrize("program", ["llama-server", "llama-cli", "koboldcpp"])
@pytest.mark.parametrize("file_name", NAMES)
def test_any_file_name_is_one_word(program: str, file_name: str) -> None:
    """Whatever a file is called, the program gets its path, and nothing else is run or shown."""
    one = carried(LLAMA_8B, 24.0, file_name=file_name)
    given = words(program, one)
    assert given[:2] == ["--model", f"/models/{file_name}"]
    text = TARGETS[program](one)
    assert all(line.isprintable() for line in text.splitlines())
    assert text.isprintable() or set(text) - {"\n"} <= {c for c in text if c.isprintable()}


def test_a_name_in_the_file_ends_no_comment() -> None:
    """The model's own name is a comment's text, in every program's language."""
    one = carried(LLAMA_8B, 24.0)
    model = replace(one.plan.model, name="x\n--evil\r\u2028\u2029\x85rm")
    evil = replace(one, plan=replace(one.plan, model=model))
    for program, emit in TARGETS.items():
        assert len(emit(evil).splitlines()) == len(emit(one).splitlines()), program


def test_texts_are_as_llama_cpp_reads_them_back() -> None:
    r"""It reads \n in stop texts and breakers (string_process_escapes), so they are spelt so."""
    given = words("llama-server", carried(LLAMA_8B, 24.0, sampling=SAMPLING))
    after = [word for flag, word in pairwise(given) if flag == "--reverse-prompt"]
    assert after == [r"</s>\n", r"a\\nb"]
    assert given[given.index("--grammar") + 1] == SAMPLING["grammar"]


def test_what_is_taken_beyond_the_plan_is_told() -> None:
    """Checkpoints, of models alone that need them."""
    assert "checkpoints" in TARGETS["llama-server"](carried(GEMMA_27B, 16.0))
    assert "checkpoints" not in TARGETS["llama-server"](carried(LLAMA_8B, 16.0))


def test_a_wish_is_carried() -> None:
    """What the user fixed is what is printed."""
    found = options("llama-cli", carried(LLAMA_8B, 24.0, wishes=Wishes(n_ctx=4096, type_k="f16")))
    assert (found["--ctx-size"], found["--cache-type-k"]) == (["4096"], ["f16"])


def test_every_program_takes_every_plan() -> None:
    """No program stumbles over what it cannot be told."""
    for case in CASES.values():
        for emit in TARGETS.values():
            assert emit(case()).endswith("\n")

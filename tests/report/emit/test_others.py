"""Settings and commands of programs that are not llama.cpp's own, against what these are documented
to take."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from typing import Any

import pytest

from tests.report.emit.test_llama_server import SAMPLING, check, recorded
from tests.support.carried import NAMES, carried, options, split
from tests.support.giants import LLAMA_8B, QWEN_30B_A3B, giant
from tuner.memory.cache_types import CACHE_TYPES
from tuner.model.chat_templates import TemplateChoice
from tuner.report.emit.carried import Carried
from tuner.report.emit.targets import TARGETS
from tuner.safe_text import utf8
from tuner.sampling import values
from tuner.units import size_text


def names(text: str) -> frozenset[str]:
    return frozenset(text.split())


# ---------------------------------------------------------------- ollama

# api/types.go: the JSON names of `Runner` and `Options`; envconfig/config.go
OLLAMA_PARAMETERS = names(
    "num_ctx num_batch num_gpu main_gpu use_mmap num_thread draft_num_predict num_keep seed "
    "num_predict top_k top_p min_p typical_p repeat_last_n temperature repeat_penalty "
    "presence_penalty frequency_penalty stop"
)
# common/arg.cpp: `set_env`
LLAMA_ENVIRONMENT = names(
    "LLAMA_ARG_CACHE_TYPE_K LLAMA_ARG_CACHE_TYPE_V LLAMA_ARG_N_CPU_MOE LLAMA_ARG_TENSOR_SPLIT "
    "LLAMA_ARG_SWA_FULL LLAMA_ARG_REPACK"
)
OLLAMA_ENVIRONMENT = names("OLLAMA_NUM_PARALLEL OLLAMA_FLASH_ATTENTION OLLAMA_KV_CACHE_TYPE")


def modelfile(text: str) -> tuple[str, list[tuple[str, str]]]:
    """FROM and PARAMETERs, as parser/parser.go reads them: a comment ends with its line, what does
    not print is dropped, a text in three quotes goes on to the next three."""
    kept = "".join(c for c in text if c == "\n" or c.isprintable())
    kept = re.sub(r"^#.*\n", "", kept, flags=re.MULTILINE)
    source, parameters = "", []
    entry = re.compile(r'(FROM|PARAMETER) (.*?"""[\s\S]*?"""|.*)\n')
    at = 0
    while at < len(kept):
        found = entry.match(kept, at)
        assert found, kept[at:]
        at = found.end()
        if found[1] == "FROM":
            source = found[2].strip()
        else:
            name, _, value = found[2].partition(" ")
            parameters.append((name, value.removeprefix('"""').removesuffix('"""')))
    return source, parameters


def environment(text: str) -> dict[str, str]:
    """What the printed `ollama serve` is started with."""
    (line,) = re.findall(r"^# +(.*) ollama serve$", text, re.MULTILINE)
    return dict(word.split("=") for word in line.split())


def test_ollama_takes_the_plan() -> None:
    """What a Modelfile can say, and for the server's environment what it cannot."""
    text = TARGETS["ollama"](carried(QWEN_30B_A3B, 12.0, 8.0))
    source, parameters = modelfile(text)
    assert source == f"/models/{QWEN_30B_A3B}"
    plan = carried(QWEN_30B_A3B, 12.0, 8.0).settings
    assert dict(parameters) == {
        "num_ctx": str(plan.n_ctx), "num_batch": str(plan.n_ubatch), "num_gpu": "49",
        "num_thread": "8",
    }  # fmt: skip
    assert environment(text) == {
        "OLLAMA_NUM_PARALLEL": "1",
        "OLLAMA_FLASH_ATTENTION": "1",
        "OLLAMA_KV_CACHE_TYPE": plan.type_k,
        "LLAMA_ARG_TENSOR_SPLIT": ",".join(f"{share:g}" for share in plan.tensor_split),
    }


def test_ollama_is_told_of_what_it_has_no_word_for() -> None:
    """Its llama-server reads the rest from the environment that it inherits; an older ollama
    cannot, which is said."""
    text = TARGETS["ollama"](carried(QWEN_30B_A3B, 24.0, 24.0, settings=asdict(split())))
    assert environment(text) == {
        "OLLAMA_NUM_PARALLEL": "1",
        "LLAMA_ARG_CACHE_TYPE_K": "q8_0",
        "LLAMA_ARG_CACHE_TYPE_V": "q5_1",
        "LLAMA_ARG_N_CPU_MOE": "7",
        "LLAMA_ARG_TENSOR_SPLIT": "3,1.5",
        "LLAMA_ARG_SWA_FULL": "1",
        "LLAMA_ARG_REPACK": "0",
    }
    assert environment(text).keys() <= LLAMA_ENVIRONMENT | OLLAMA_ENVIRONMENT
    assert "does not hold for them" in text
    assert "does not hold for them" not in TARGETS["ollama"](carried(LLAMA_8B, 24.0))


def test_ollama_samples_as_stated() -> None:
    """Each value by its own name, texts as often as there are; what it has not is named."""
    text = TARGETS["ollama"](carried(LLAMA_8B, 24.0, sampling=SAMPLING))
    _, parameters = modelfile(text)
    assert {name for name, _ in parameters} <= OLLAMA_PARAMETERS
    assert ("num_predict", "99") in parameters
    assert [v for name, v in parameters if name == "stop"] == ["</s>\n", "a\\nb"]
    lost = re.search(r"A Modelfile has no ([\s\S]*?)\.\n", text)
    assert lost is not None
    named = set(re.findall(r"\w+", lost[1]))
    assert {"grammar", "dry_base", "mirostat", "xtc_probability"} <= named
    assert not named & {"temperature", "top_k", "stop"}


@pytest.mark.parametrize("file_name", NAMES)
def test_any_file_name_in_a_modelfile(file_name: str) -> None:
    """The path arrives, or, where the parser would lose some of it, how to link the file."""
    text = TARGETS["ollama"](carried(LLAMA_8B, 24.0, file_name=file_name))
    source, parameters = modelfile(text)
    assert len(parameters) == 4
    if file_name.isprintable():
        assert source == f"/models/{file_name}"
    else:
        assert source == "./model.gguf"
        assert "ln -s $'/models/" in text


@pytest.mark.parametrize("stem", ["big", "b\udcff"])
def test_all_files_of_a_split_model_are_named(stem: str) -> None:
    """ollama and LM Studio copy or link them, each by its name; the others open the first."""
    one = carried(LLAMA_8B, 24.0, file_name=f"{stem}-00001-of-00003.gguf")
    names = [f"{stem if stem == 'big' else 'model'}-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    folder = "/models" if stem == "big" else "."
    found = re.findall(r"^FROM (.*)$", TARGETS["ollama"](one), re.MULTILINE)
    assert found == [f"{folder}/{name}" for name in names]
    imported = re.findall(r"lms import .* (\S+)$", TARGETS["lmstudio"](one), re.MULTILINE)
    assert [file.rsplit("/", 1)[-1] for file in imported] == names
    assert module(one)[0] == f"kvchat/models/{names[0]}"
    for program in ("ollama", "lmstudio"):
        assert TARGETS[program](one).count("ln -s") == (0 if stem == "big" else 3)
    assert options("koboldcpp", one)["--model"] == [f"/models/{stem}-00001-of-00003.gguf"]


def test_a_context_that_ollama_cuts_is_told() -> None:
    longer = carried(LLAMA_8B, 24.0, settings={"n_ctx": 200_000})
    assert "cuts the context to the 131,072 tokens" in " ".join(
        TARGETS["ollama"](longer).replace("\n#", "").split()
    )


# ---------------------------------------------------------------- LM Studio

# @lmstudio/sdk 2.0.0, dist/index.d.ts: `LLMLoadModelConfig`, `GPUSetting`,
# `LLMLlamaCacheQuantizationType`, `LLMPredictionConfigInput`
LMSTUDIO_CONFIG = names(
    "contextLength evalBatchSize physicalBatchSize flashAttention llamaKCacheQuantizationType "
    "llamaVCacheQuantizationType gpu gpuStrictVramCap offloadKVCacheToGpu maxParallelPredictions "
    "tryMmap llamaCppArgumentsOverride"
)
LMSTUDIO_GPU = names("ratio numCpuExpertLayersRatio mainGpu splitStrategy disabledGpus")
LMSTUDIO_TYPES = names("f32 f16 q8_0 q4_0 q4_1 iq4_nl q5_0 q5_1")
LMSTUDIO_PREDICTION = names(
    "maxTokens temperature stopStrings contextOverflowPolicy topKSampling repeatPenalty "
    "presencePenalty minPSampling topPSampling xtcProbability xtcThreshold cpuThreads"
)


def module(one: Carried) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The model's name, its load config and that of its prediction, out of the module."""
    text = TARGETS["lmstudio"](one)
    decode = json.JSONDecoder().raw_decode
    after = text.partition("client.llm.load(")[2]
    key, end = decode(after)
    load, _ = decode(after[end + 2 :])
    prediction, _ = decode(text.partition('respond("Hello!", ')[2])
    return key, load["config"], prediction


def server_words(config: dict[str, Any]) -> Iterator[str]:
    """What is added to the arguments of its llama-server."""
    for one in config["llamaCppArgumentsOverride"]["overrideParameters"]:
        yield one["key"]
        if one["value"]:
            yield one["value"]


def test_lmstudio_takes_the_plan() -> None:
    """By the SDK's own keys, and as its server's arguments where there is none."""
    key, config, prediction = module(
        carried(QWEN_30B_A3B, 24.0, 24.0, settings=asdict(split()), sampling=SAMPLING)
    )
    assert key == f"kvchat/models/{QWEN_30B_A3B}"
    assert config.keys() <= LMSTUDIO_CONFIG
    assert config["gpu"].keys() <= LMSTUDIO_GPU
    assert prediction.keys() <= LMSTUDIO_PREDICTION
    assert (config["contextLength"], config["evalBatchSize"]) == (12_345, 1024)
    assert config["physicalBatchSize"] == 1024
    assert config["llamaVCacheQuantizationType"] == "q5_1"
    assert config["gpu"] == {"ratio": 40 / 49, "numCpuExpertLayersRatio": 7 / 48}
    words = list(server_words(config))
    check("llama-server", words, recorded()[next(iter(recorded()))])
    given = " ".join(words)
    for part in (
        "--gpu-layers 40", "--n-cpu-moe 7", "--tensor-split 3,1.5", "--flash-attn auto",
        "--swa-full", "--no-repack", "--fit off", "--device CUDA0,CUDA1", "--threads 8",
    ):  # fmt: skip
        assert part in given
    assert prediction["stopStrings"] == list(SAMPLING["stop"])


@pytest.mark.parametrize("name", CACHE_TYPES)
def test_lmstudio_has_names_for_most_cache_types(name: str) -> None:
    """The others are its server's arguments."""
    _, config, _ = module(carried(LLAMA_8B, 24.0, settings={"type_k": name, "type_v": "f16"}))
    if name in LMSTUDIO_TYPES:
        assert config["llamaKCacheQuantizationType"] == name
    else:
        assert "llamaKCacheQuantizationType" not in config
        assert f"--cache-type-k {name}" in " ".join(server_words(config))


@pytest.mark.parametrize(("gibs", "ratio"), [((24.0,), "max"), ((), "off")])
def test_lmstudio_has_words_for_all_and_none(gibs: tuple[float, ...], ratio: str) -> None:
    _, config, _ = module(carried(LLAMA_8B, *gibs))
    assert config["gpu"] == {"ratio": ratio}


@pytest.mark.parametrize("file_name", NAMES)
def test_any_file_name_in_a_module(file_name: str) -> None:
    """Plain ASCII, whatever the file is called, but for what prints in the comment."""
    one = carried(LLAMA_8B, 24.0, file_name=file_name)
    key, _, _ = module(one)
    assert key == f"kvchat/models/{'model.gguf' if utf8(file_name) != file_name else file_name}"
    text = TARGETS["lmstudio"](one)
    assert all(line.isprintable() for line in text.splitlines())
    assert all(line.startswith("//") for line in text.partition("import {")[0].splitlines())


# ---------------------------------------------------------------- KoboldCpp

# koboldcpp.py 1.117.1, its argparse: what follows each flag
KOBOLDCPP: dict[str, str] = {
    "--model": r".+", "--contextsize": r"\d+",
    "--blasbatchsize": r"16|32|64|128|256|512|1024|2048|4096",
    "--quantkv": r"f16|bf16|q8_0|q5_1|q4_0|0|1|2|3", "--noflashattention": "",
    "--usecublas": r"([0-3]|all)?", "--usevulkan": r"(\d+( \d+)*)?", "--usecpu": "",
    "--gpulayers": r"-?\d+", "--moecpu": r"\d+", "--tensor_split": r"[\d.]+( [\d.]+)*",
    "--device": r"\w+(,\w+)*", "--rpcmode": r"disabled|connect|host",
    "--rpctargets": r"[\w.]+:\d+(,[\w.]+:\d+)*", "--noswa": "", "--usemmap": "",
    "--threads": r"\d+", "--jinja": "", "--jinjatemplate": r".+", "--gendefaults": r"\{.*\}",
}  # fmt: skip
# The parameters of its generate API, by which --gendefaults goes.
KOBOLDCPP_API = names(
    "temperature top_p top_k min_p typical sampler_seed max_length nsigma xtc_probability "
    "xtc_threshold dynatemp_range dynatemp_exponent rep_pen rep_pen_range presence_penalty "
    "dry_multiplier dry_base dry_allowed_length dry_penalty_last_n dry_sequence_breakers mirostat "
    "mirostat_tau mirostat_eta stop_sequence grammar"
)


KOBOLDCPP_CASES: dict[str, Callable[[], Carried]] = {
    "no GPU": lambda: carried(LLAMA_8B),
    "two GPUs": lambda: carried(QWEN_30B_A3B, 12.0, 8.0),
    "nothing as usual": lambda: carried(QWEN_30B_A3B, 24.0, 24.0, settings=asdict(split())),
    "Vulkan": lambda: carried(LLAMA_8B, 24.0, backend="Vulkan", rpc_servers=("a:1", "b:2")),
    "Metal": lambda: carried(LLAMA_8B, 24.0, backend="Metal"),
    "sampling": lambda: carried(LLAMA_8B, 24.0, settings={"flash_attn": "off"}, sampling=SAMPLING),
    "a template": lambda: carried(
        LLAMA_8B, 24.0, template=TemplateChoice(source="x"), template_file="/t t"
    ),
}


@pytest.mark.parametrize("case", KOBOLDCPP_CASES)
def test_every_flag_is_one_of_koboldcpp(case: str) -> None:
    for flag, given in options("koboldcpp", KOBOLDCPP_CASES[case]()).items():
        assert re.fullmatch(KOBOLDCPP[flag], " ".join(given)), (flag, given)


def test_koboldcpp_takes_the_plan() -> None:
    found = options("koboldcpp", carried(QWEN_30B_A3B, 24.0, 24.0, settings=asdict(split())))
    assert found["--contextsize"] == ["12345"]
    assert found["--gpulayers"] == ["40"]
    assert found["--moecpu"] == ["7"]
    assert found["--tensor_split"] == ["3", "1.5"]
    assert found["--blasbatchsize"] == ["1024"]
    assert "--noswa" in found
    assert "--usecublas" in found
    assert options("koboldcpp", carried(LLAMA_8B))["--usecpu"] == []


@pytest.mark.parametrize(
    ("type_k", "type_v", "taken"),
    [
        ("f16", "f16", "0"), ("q8_0", "q8_0", "1"), ("q4_0", "q4_0", "2"), ("q5_1", "q5_1", "q5_1"),
        ("f16", "q8_0", "1"), ("q8_0", "q5_0", "2"), ("q5_1", "q8_0", "q5_1"),
        ("f32", "f32", "bf16"),
    ],
)  # fmt: skip
def test_koboldcpp_has_one_type_for_both(type_k: str, type_v: str, taken: str) -> None:
    """The most precise that takes no more than planned; that it is another is told."""
    one = carried(LLAMA_8B, 24.0, settings={"type_k": type_k, "type_v": type_v})
    found = options("koboldcpp", one)["--quantkv"]
    assert found == [taken] or {taken, *found} <= {"0", "bf16"}  # as many bits
    alike = type_k == type_v and type_k != "f32"
    assert ("one type for K and V" in TARGETS["koboldcpp"](one)) is not alike


@pytest.mark.parametrize(
    ("settings", "flag", "value", "words"),
    [
        ({"n_ubatch": 300}, "--blasbatchsize", "256", "n_ubatch 300"),
        ({"n_ubatch": 1}, "--blasbatchsize", "16", "n_ubatch 1 "),
        ({"n_ctx": 1_000_000}, "--contextsize", "524288", "1,000,000 tokens"),
        ({"n_ctx": 100}, "--contextsize", "256", "100 tokens"),
    ],
)
def test_koboldcpp_stays_within_what_it_takes(
    settings: dict[str, int], flag: str, value: str, words: str
) -> None:
    """The nearest value that it has, and a sentence."""
    one = carried(LLAMA_8B, 24.0, settings=settings)
    assert options("koboldcpp", one)[flag] == [value]
    assert words in TARGETS["koboldcpp"](one)


def test_koboldcpp_takes_more_than_the_plan() -> None:
    """How much is told, and by which flag a plan has room for it where this one has not."""
    told = " ".join(TARGETS["koboldcpp"](carried(LLAMA_8B, 24.0)).replace("\n#", "").split())
    assert "Beyond the plan it takes up to" in told
    logits = size_text(4 * giant(LLAMA_8B).n_vocab * 512)
    assert f"the logits of a whole batch ({logits})" in told
    assert "--reserve" not in told
    tight = TARGETS["koboldcpp"](carried(LLAMA_8B, 6.0)).replace("\n#", "")
    assert re.search(r"plan with --reserve \d{3,4}MiB", " ".join(tight.split()))


def test_koboldcpp_samples_as_stated() -> None:
    """As JSON of its API's names; what it has not is named."""
    one = carried(LLAMA_8B, 24.0, sampling=SAMPLING)
    (defaults,) = options("koboldcpp", one)["--gendefaults"]
    found = json.loads(defaults)
    assert found.keys() <= KOBOLDCPP_API
    assert found["stop_sequence"] == list(SAMPLING["stop"])
    assert found["grammar"] == SAMPLING["grammar"]
    assert "no frequency_penalty, samplers, logit_bias" in " ".join(
        TARGETS["koboldcpp"](one).replace("\n#", "").split()
    )


# ---------------------------------------------------------------- all


@pytest.mark.parametrize("program", TARGETS)
def test_a_gpu_that_is_left_out_and_servers_are_told_or_said(program: str) -> None:
    """Each program is told which devices to use, or the comment says that it cannot be."""
    one = carried(LLAMA_8B, 24.0, rpc_servers=("host.a:50052",))
    small = replace(one.plan.machine.gpus[0], id="GPU9", engine_name="CUDA9")
    machine = replace(one.plan.machine, unusable=(small,))
    text = TARGETS[program](replace(one, plan=replace(one.plan, machine=machine)))
    assert "host.a:50052" in text
    assert "CUDA0" in text or "GPU9" in text


def test_every_value_of_the_sampling_is_known_or_named() -> None:
    """A value that `Sampling` gets one day is told to a program, or named as one that it lacks."""
    for value in values():
        stated = {value.name: SAMPLING[value.name]}
        usual = carried(LLAMA_8B, 24.0)
        for program, emit in TARGETS.items():
            assert emit(carried(LLAMA_8B, 24.0, sampling=stated)) != emit(usual), program

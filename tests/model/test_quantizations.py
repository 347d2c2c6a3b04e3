"""What a model would be in another quantization, against llama.cpp's own words."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.support.giants import AYA_35B, GEMMA_27B, LLAMA_8B, QWEN_30B_A3B, giant
from tests.support.headers import machine, real_model, unpacked
from tests.support.quantizer import quantizer
from tuner.gguf.types import GGML_NUMBERS, GGML_TYPES
from tuner.memory.estimator import Estimator
from tuner.model.model import Model
from tuner.model.quantizations import MIXES, Mix, in_mix, is_native, tensors_of
from tuner.settings import Settings

# Bits per weight of Llama-3.1-8B, as tools/quantize/README.md has them.
BITS = {
    "Q8_0": 8.5008, "Q6_K": 6.5633, "Q5_K_M": 5.7036, "Q4_K_M": 4.8944, "IQ4_XS": 4.4597,
    "Q3_K_M": 3.9960, "IQ3_M": 3.7628, "IQ3_XXS": 3.2548, "IQ2_M": 2.9294, "IQ2_XS": 2.5882,
}  # fmt: skip
WITH_MATRIX = ("IQ3_XXS",)  # as it is made with an importance matrix, which the engine lacks here
FURTHER_RULES = ("falcon", "glm5-next")


def bits(model: Model) -> float:
    return 8 * sum(t.n_bytes for t in tensors_of(model)) / model.n_params


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.name)
def test_bits_per_weight_are_those_that_llama_cpp_states(mix: Mix) -> None:
    assert bits(in_mix(giant(LLAMA_8B), mix)) == pytest.approx(BITS[mix.name], abs=5e-5)


@pytest.mark.parametrize("name", sorted(unpacked()[0]))
def test_types_are_those_that_the_engine_would_choose(name: str) -> None:
    """Tensor for tensor, for a model of nearly every architecture."""
    engine = quantizer()
    if engine is None:
        pytest.skip("this engine's library does not export its choice")
    model = real_model(name)
    if model.architecture in FURTHER_RULES:
        return
    tensors = tensors_of(model)
    for mix in MIXES:
        if mix.name not in WITH_MATRIX:
            assert mix.types(tensors, model) == engine.types(model, tensors, mix.name), mix.name


@pytest.mark.parametrize("name", [LLAMA_8B, AYA_35B, GEMMA_27B, QWEN_30B_A3B])
def test_a_file_in_its_own_quantization_is_what_it_is(name: str) -> None:
    """Every one of these was made as Q4_K_M: the same size to half a percent, within which lie
    tensors that other tools keep in more bits."""
    model = giant(name)
    (mix,) = (m for m in MIXES if m.name == model.quantization)
    assert in_mix(model, mix).size_bytes == pytest.approx(model.size_bytes, rel=0.005)


@pytest.mark.parametrize("name", [LLAMA_8B, QWEN_30B_A3B])
def test_smaller_names_are_smaller_files_and_take_less(name: str) -> None:
    """The table is from the largest to the smallest, and memory is counted of the other types."""
    model = giant(name)
    made = [in_mix(model, mix) for mix in MIXES]
    sizes = [m.size_bytes for m in made]
    assert sizes == sorted(sizes, reverse=True)
    assert [m.quantization for m in made] == list(BITS)
    weights = [
        sum(use.weights for use in Estimator(m, machine()).footprint(Settings(4096)).uses)
        for m in made
    ]
    assert weights == sorted(weights, reverse=True)
    assert weights[0] > 2 * weights[-1]


def test_a_tied_embedding_stays_one_with_the_output() -> None:
    """What counts twice is the same tensor in both places."""
    made = in_mix(giant(GEMMA_27B), MIXES[1])
    assert made.tensors.tied in made.tensors.input
    assert made.tensors.tied is not None
    assert GGML_TYPES[made.tensors.tied.ggml_type].name == "q6_K"


def test_what_was_trained_in_few_bits_is_native() -> None:
    model = giant(LLAMA_8B)
    assert not is_native(model)
    first = model.tensors.layers[0]
    kept = replace(first.others[0], ggml_type=GGML_NUMBERS["mxfp4"])
    layers = (replace(first, others=(kept, *first.others[1:])), *model.tensors.layers[1:])
    assert is_native(replace(model, tensors=replace(model.tensors, layers=layers)))

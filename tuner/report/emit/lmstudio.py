"""LM Studio: the load config of its SDK (@lmstudio/sdk 2.0: `LLMLoadModelConfig`).

Its engine is llama.cpp's llama-server; what the config has no key for is added to the arguments of
that (`llamaCppArgumentsOverride`, which the SDK calls experimental).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tuner.model.chat_templates import CHATML
from tuner.report.emit.carried import WIDTH, Carried, command, comment, number
from tuner.safe_text import utf8

_FOLDER = "kvchat/models"  # of LM Studio's own folder of models
_CACHE_TYPES = frozenset({"f32", "f16", "q8_0", "q4_0", "q4_1", "iq4_nl", "q5_0", "q5_1"})
# Keys of `LLMPredictionConfigInput` by the names of `Sampling`; the others it does not have.
_SAMPLING = {
    "temperature": "temperature", "top_p": "topPSampling", "top_k": "topKSampling",
    "min_p": "minPSampling", "repeat_penalty": "repeatPenalty",
    "presence_penalty": "presencePenalty", "max_tokens": "maxTokens", "stop": "stopStrings",
    "xtc_probability": "xtcProbability", "xtc_threshold": "xtcThreshold",
}  # fmt: skip


def lmstudio(carried: Carried) -> str:
    """A module for Node that loads the model as planned and answers once; its config names what
    the app's own dialog has too."""
    load = _literal({"config": _config(carried)})
    key = json.dumps(f"{_FOLDER}/{Path(_files(carried)[0]).name}")
    lines = [
        *comment(_sentences(carried), "//"),
        'import { LMStudioClient } from "@lmstudio/sdk";',
        "",
        "const client = new LMStudioClient();",
        f"const model = await client.llm.load({key}, {load});",
        f'const answer = await model.respond("Hello!", {_literal(_prediction(carried))});',
        "console.log(answer.content);",
    ]
    return "\n".join(lines) + "\n"


def _sentences(carried: Carried) -> Iterator[str]:
    yield from carried.head()
    yield "Settings of LM Studio's SDK, @lmstudio/sdk 2.0; a module for Node. First:"
    if not _can_be_named(carried.path):
        yield from carried.linked()
    for file in _files(carried):
        yield command("lms", "import", "--symbolic-link", "--user-repo", _FOLDER, file)
    yield (
        "llamaCppArgumentsOverride, which the SDK calls experimental, says what has no key of its "
        "own. In the app's dialog these are Context Length, GPU Offload "
        f"({carried.n_gpu_layers} layers), Evaluation Batch Size, Flash Attention, and K and V "
        "Cache Quantization Type. `lms ls` tells the model's name if it is another than below."
    )
    if carried.chat_template.source or carried.chat_template.name not in ("", CHATML):
        yield "The chat template is set in the app, under Prompt Template."
    if lost := [name for name in carried.sampling if name not in _SAMPLING]:
        yield f"Its predictions have no {', '.join(lost)}."


def _config(carried: Carried) -> dict[str, Any]:
    s, model = carried.settings, carried.plan.model
    ratio: float | str = carried.n_gpu_layers / model.n_items
    ratio = "max" if carried.everything_offloaded else ratio or "off"
    gpu: dict[str, Any] = {"ratio": ratio}
    if s.n_cpu_moe:
        gpu["numCpuExpertLayersRatio"] = min(1.0, s.n_cpu_moe / model.n_layer)
    return {
        "contextLength": s.n_ctx,
        "evalBatchSize": s.n_batch,
        "physicalBatchSize": s.n_ubatch,
        "flashAttention": s.flash_attn != "off",
        **_cache("llamaKCacheQuantizationType", s.type_k),
        **_cache("llamaVCacheQuantizationType", s.type_v),
        "gpu": gpu,
        "gpuStrictVramCap": False,
        "offloadKVCacheToGpu": True,
        "maxParallelPredictions": 1,
        "tryMmap": True,
        "llamaCppArgumentsOverride": {
            "enabled": True,
            "disabledParameters": [],
            "overrideParameters": [
                {"key": key, "value": value} for key, value in _arguments(carried)
            ],
            "excludeAllConfig": False,
        },
    }


def _cache(key: str, name: str) -> dict[str, str]:
    return {key: name} if name in _CACHE_TYPES else {}


def _arguments(carried: Carried) -> Iterator[tuple[str, str]]:
    """Arguments of llama-server, each with a value or with none."""
    s = carried.settings
    yield "--gpu-layers", str(carried.n_gpu_layers)
    yield "--fit", "off"
    yield "--threads", str(carried.n_threads)
    if s.flash_attn == "auto":
        yield "--flash-attn", "auto"
    for flag, name in (("--cache-type-k", s.type_k), ("--cache-type-v", s.type_v)):
        if name not in _CACHE_TYPES:
            yield flag, name
    if s.n_cpu_moe:
        yield "--n-cpu-moe", str(s.n_cpu_moe)
    if s.tensor_split:
        yield "--tensor-split", ",".join(map(number, s.tensor_split))
    if carried.rpc_servers:
        yield "--rpc", ",".join(carried.rpc_servers)
    if carried.devices or not carried.plan.machine.gpus:
        yield "--device", ",".join(carried.devices) or "none"
    if s.swa_full:
        yield "--swa-full", ""
    if not s.use_extra_bufts:
        yield "--no-repack", ""
    if carried.chat_template.name == CHATML:
        yield "--chat-template", CHATML


def _prediction(carried: Carried) -> dict[str, Any]:
    return {_SAMPLING[name]: value for name, value in carried.sampling.items() if name in _SAMPLING}


def _literal(value: Any, indent: str = "") -> str:
    """JSON, on one line where that is short."""
    line = json.dumps(value)
    if not isinstance(value, (dict, list)) or len(indent) + len(line) <= WIDTH - 20:
        return line
    inner = indent + "  "
    if isinstance(value, list):
        parts = [_literal(one, inner) for one in value]
    else:
        parts = [f"{json.dumps(key)}: {_literal(one, inner)}" for key, one in value.items()]
    start, end = ("[", "]") if isinstance(value, list) else ("{", "}")
    return f"{start}\n{inner}" + f",\n{inner}".join(parts) + f"\n{indent}{end}"


def _files(carried: Carried) -> list[str]:
    return carried.parts if _can_be_named(carried.path) else carried.links


def _can_be_named(path: str) -> bool:
    """Whether JSON, which has text alone, can name a file."""
    return utf8(path) == path

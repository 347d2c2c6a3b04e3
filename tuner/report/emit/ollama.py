"""ollama: a Modelfile (docs/modelfile.mdx, api/types.go: `Runner`, `Options`) and the environment
of its server (envconfig/config.go).

Since 2026 ollama starts llama.cpp's own llama-server (llm/llama_server.go), which inherits that
environment and reads from it whatever it is not told (`LLAMA_ARG_*`, common/arg.cpp).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuner.report.emit.carried import Carried, command, comment, number

_CACHE_TYPES = ("f16", "q8_0", "q4_0")  # that OLLAMA_KV_CACHE_TYPE is documented for
# PARAMETER names of `Options` by those of `Sampling`; the others it does not have.
_SAMPLING = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p",
    "typical_p": "typical_p", "seed": "seed", "max_tokens": "num_predict",
    "repeat_last_n": "repeat_last_n", "repeat_penalty": "repeat_penalty",
    "presence_penalty": "presence_penalty", "frequency_penalty": "frequency_penalty",
    "stop": "stop",
}  # fmt: skip


def ollama(carried: Carried) -> str:
    """A Modelfile, how it is used, and what the server's environment must say."""
    links = [f"./{link}" for link in carried.links]
    files = carried.parts if _can_be_written(carried.path) else links
    lines = [*comment(_sentences(carried), "#"), *(f"FROM {file}" for file in files)]
    lines += [f"PARAMETER {name} {value}" for name, value in _parameters(carried)]
    return "\n".join(lines) + "\n"


def _sentences(carried: Carried) -> Iterator[str]:
    s, plan = carried.settings, carried.plan
    yield from carried.head()
    yield "This is a Modelfile. The server is started with what it cannot say, for all its models:"
    yield command(*_environment(carried), "ollama", "serve")
    yield command("ollama", "create", "my-model", "-f", "Modelfile")
    if any(word.startswith("LLAMA_ARG_") for word in _environment(carried)):
        yield (
            "LLAMA_ARG_... is read by the llama-server that ollama starts since 2026; older ones "
            "cannot be told that, and this plan does not hold for them."
        )
    if not _can_be_written(carried.path):
        yield from carried.linked()
    if s.flash_attn == "auto":
        yield "Without OLLAMA_FLASH_ATTENTION, which has no auto, ollama decides by the card."
    if 0 < plan.model.n_ctx_train < s.n_ctx:
        yield f"It cuts the context to the {plan.model.n_ctx_train:,} tokens that were trained."
    if carried.left_out:
        yield f"Hide {', '.join(carried.left_out)} from it, as with CUDA_VISIBLE_DEVICES."
    if carried.rpc_servers:
        yield f"It cannot be told of RPC servers ({', '.join(carried.rpc_servers)})."
    if carried.chat_template.source or carried.chat_template.name:
        yield "Its TEMPLATE is Go's, not Jinja: the chat template is the one that ollama chooses."
    if lost := [name for name in carried.sampling if name not in _SAMPLING]:
        yield f"A Modelfile has no {', '.join(lost)}."


def _environment(carried: Carried) -> list[str]:
    s = carried.settings
    words = ["OLLAMA_NUM_PARALLEL=1"]
    if s.flash_attn != "auto":
        words.append(f"OLLAMA_FLASH_ATTENTION={int(s.flash_attn == 'on')}")
    if s.type_k == s.type_v and s.type_k in _CACHE_TYPES:
        words.append(f"OLLAMA_KV_CACHE_TYPE={s.type_k}")
    else:
        words += [f"LLAMA_ARG_CACHE_TYPE_K={s.type_k}", f"LLAMA_ARG_CACHE_TYPE_V={s.type_v}"]
    if s.n_cpu_moe:
        words.append(f"LLAMA_ARG_N_CPU_MOE={s.n_cpu_moe}")
    if s.tensor_split:
        words.append(f"LLAMA_ARG_TENSOR_SPLIT={','.join(map(number, s.tensor_split))}")
    if s.swa_full:
        words.append("LLAMA_ARG_SWA_FULL=1")
    if not s.use_extra_bufts:
        words.append("LLAMA_ARG_REPACK=0")
    return words


def _parameters(carried: Carried) -> Iterator[tuple[str, str]]:
    s = carried.settings
    yield "num_ctx", str(s.n_ctx)
    yield "num_batch", str(s.n_ubatch)
    yield "num_gpu", str(carried.n_gpu_layers)
    yield "num_thread", str(carried.n_threads)
    for name, value in carried.sampling.items():
        if name in _SAMPLING:
            for one in value if isinstance(value, tuple) else (value,):
                yield _SAMPLING[name], _value(one)


def _value(value: Any) -> str:
    """As its parser reads it back (parser/parser.go: `unquote`): a text in three quotes goes on to
    the next three."""
    return f'"""{value}"""' if isinstance(value, str) else number(value)


def _can_be_written(path: str) -> bool:
    """Its parser drops what does not print and trims spaces, and takes quotes at the beginning for
    its own."""
    return path.isprintable() and path == path.strip() and not path.startswith('"')

"""llama-cpp-python's high-level class: arguments of `Llama` (llama_cpp/llama.py).

It swallows arguments that it does not have, and leaves some of llama.cpp's own out. Those are set
where it takes its defaults from, in structs whose fields it does not touch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

from tuner.engine_version import ENGINE_VERSION
from tuner.memory.cache_types import CACHE_TYPES
from tuner.model.chat_templates import CHATML
from tuner.model.tensors import EXPERT_TENSORS
from tuner.report.emit.carried import Carried, comment, number
from tuner.safe_text import utf8

# What `create_chat_completion` calls a value of `Sampling`; the others it does not have.
_SAMPLING = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p",
    "typical_p": "typical_p", "seed": "seed", "max_tokens": "max_tokens",
    "repeat_penalty": "repeat_penalty", "presence_penalty": "presence_penalty",
    "frequency_penalty": "frequency_penalty", "mirostat": "mirostat_mode",
    "mirostat_ent": "mirostat_tau", "mirostat_lr": "mirostat_eta", "stop": "stop",
    "logit_bias": "logit_bias", "grammar": "grammar",
}  # fmt: skip

_HOOK = """\
{name} = lib.llama_{kind}_default_params


def {kind}_params():
    params = {name}()
{body}
    return params


lib.llama_{kind}_default_params = {kind}_params
"""
_OVERRIDES = """\
class Override(ctypes.Structure):  # struct llama_model_tensor_buft_override
    _fields_ = [("pattern", ctypes.c_char_p), ("buft", ctypes.c_void_p)]


lib._lib.ggml_backend_cpu_buffer_type.restype = ctypes.c_void_p
in_ram = (Override * 2)(Override({pattern}, lib._lib.ggml_backend_cpu_buffer_type()))
"""


class _Argument(NamedTuple):
    """An argument of a call, on a line of its own."""

    name: str
    value: str  # Python
    note: str = ""


def llama_cpp_python(carried: Carried) -> str:
    """A program that loads the model and answers once."""
    parts = (
        "\n".join(comment(_sentences(carried), "#")),
        _imports(carried),
        *_hooks(carried),
        _call("llm = Llama", _arguments(carried)) + "\n",
        _call("answer = llm.create_chat_completion", _answering(carried)),
        'print(answer["choices"][0]["message"]["content"])\n',
    )
    return "\n".join(parts)


def _sentences(carried: Carried) -> Iterator[str]:
    yield from carried.head()
    yield f"For llama-cpp-python {ENGINE_VERSION}."
    if not _can_be_opened(carried.path):
        yield from carried.linked()
    if carried.left_out:
        yield (
            f"The plan leaves {', '.join(carried.left_out)} out, which Llama cannot: hide it, as "
            "with CUDA_VISIBLE_DEVICES."
        )
    if carried.rpc_servers:
        yield f"Llama cannot be told of RPC servers ({', '.join(carried.rpc_servers)})."
    if carried.settings.flash_attn == "auto":
        yield "Llama has flash attention on or off: on, where the plan has auto."
    choice = carried.chat_template
    if choice.source or choice.name not in ("", CHATML):
        yield (
            "The chat template of the plan is another than the file's: give Llama a chat_handler, "
            "llama_cpp.llama_chat_format.Jinja2ChatFormatter(...).to_chat_handler()."
        )
    if lost := [name for name in carried.sampling if name not in _SAMPLING]:
        yield f"create_chat_completion has no {', '.join(lost)}."


def _imports(carried: Carried) -> str:
    names = "Llama, LlamaGrammar" if "grammar" in carried.sampling else "Llama"
    first = "import ctypes\n\n" if carried.settings.n_cpu_moe else ""
    return f"{first}from llama_cpp import {names}\nfrom llama_cpp import llama_cpp as lib\n"


def _hooks(carried: Carried) -> Iterator[str]:
    """What Llama has no arguments for."""
    s = carried.settings
    yield "# What Llama has no arguments for is set in the structs that it begins with.\n"
    model = []
    if s.n_cpu_moe:
        layers = "|".join(map(str, range(s.n_cpu_moe)))
        pattern = rf"blk\.({layers}){EXPERT_TENSORS}".encode()
        yield _OVERRIDES.format(pattern=repr(pattern))
        model.append(
            "    params.tensor_buft_overrides = ctypes.cast(in_ram, ctypes.c_void_p)"
            f"  # n_cpu_moe {s.n_cpu_moe}"
        )
    if not s.use_extra_bufts:
        model.append("    params.use_extra_bufts = False")
    if model:
        yield _HOOK.format(name="model_defaults", kind="model", body="\n".join(model))
    # Logits of a batch's last token, not of all: safe as long as `logits_all` is not asked for.
    body = "    params.n_outputs_max = 1  # the logits of a batch's last token; not with logits_all"
    yield _HOOK.format(name="context_defaults", kind="context", body=body)


def _arguments(carried: Carried) -> Iterator[_Argument]:
    s = carried.settings
    path = carried.path if _can_be_opened(carried.path) else carried.links[0]
    yield _Argument("model_path", repr(path))
    yield _Argument("n_ctx", str(s.n_ctx))
    yield _Argument("n_batch", str(s.n_batch))
    yield _Argument("n_ubatch", str(s.n_ubatch))
    yield _Argument("type_k", str(CACHE_TYPES[s.type_k].ggml), s.type_k)
    yield _Argument("type_v", str(CACHE_TYPES[s.type_v].ggml), s.type_v)
    yield _Argument("flash_attn", str(s.flash_attn != "off"))
    yield _Argument("swa_full", str(s.swa_full))
    yield _Argument("n_gpu_layers", str(carried.n_gpu_layers))
    if not carried.plan.machine.gpus:  # `llama_prepare_model_devices` (src/llama.cpp)
        yield _Argument("split_mode", "lib.LLAMA_SPLIT_MODE_NONE")
        yield _Argument("main_gpu", "-1", "no GPU, whatever there is")
    elif s.tensor_split:
        yield _Argument("tensor_split", f"[{', '.join(map(number, s.tensor_split))}]")
    yield _Argument("n_threads", str(carried.n_threads))
    yield _Argument("n_threads_batch", str(carried.n_threads))
    # Its own defaults would take the place of what the file says.
    for name in ("yarn_attn_factor", "yarn_beta_fast", "yarn_beta_slow"):
        yield _Argument(name, "-1.0", "as the file has it")
    if carried.chat_template.name == CHATML:
        yield _Argument("chat_format", repr(CHATML))
    yield _Argument("verbose", "False")


def _answering(carried: Carried) -> Iterator[_Argument]:
    yield _Argument("messages", '[{"role": "user", "content": "Hello!"}]')
    for name, value in carried.sampling.items():
        if name in _SAMPLING:
            yield _Argument(_SAMPLING[name], _value(name, value))


def _value(name: str, value: Any) -> str:
    match name:
        case "grammar":
            return f"LlamaGrammar.from_string({value!r})"
        case "logit_bias":
            return repr({one.token: one.bias for one in value})
        case "stop":
            return repr(list(value))
        case _:
            return repr(value)


def _can_be_opened(path: str) -> bool:
    """Whether Llama, which takes every path for UTF-8, opens this one."""
    return utf8(path) == path


def _call(start: str, arguments: Iterable[_Argument]) -> str:
    return "\n".join((f"{start}(", *map(_line, arguments), ")"))


def _line(argument: _Argument) -> str:
    note = f"  # {argument.note}" if argument.note else ""
    return f"    {argument.name}={argument.value},{note}"

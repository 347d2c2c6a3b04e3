"""llama.cpp's own programs: flags of common/arg.cpp (`common_params_parser_init`).

Both serve one conversation through tools/server, whose context has one row of logits per slot
(`server_output_limits`), as the plan has it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from tuner.model.chat_templates import CHATML
from tuner.report.emit.carried import Carried, number
from tuner.report.emit.shell import Words, script
from tuner.sampling import LogitBias, values

# Values of `Sampling` whose flag is another than kvchat's own.
_OTHERS = {"max_tokens": "--predict", "stop": "--reverse-prompt"}
_ESCAPED = {"stop", "dry_sequence_breakers"}  # texts in which llama.cpp reads \n


def llama_server(carried: Carried) -> str:
    """A command that serves the model. Without --parallel it would serve four conversations, with
    their logits (tools/server/server.cpp)."""
    return script(_sentences(carried), "llama-server", _flags(carried, ("--parallel", "1")))


def llama_cli(carried: Carried) -> str:
    """A command that chats in the terminal."""
    return script(_sentences(carried), "llama-cli", _flags(carried))


def _sentences(carried: Carried) -> Iterator[str]:
    plan = carried.plan
    yield from carried.head()
    if not carried.devices and plan.machine.gpus:
        yield (
            "The GPUs of this plan were stated: llama.cpp takes all that it finds, in its order; "
            "--list-devices shows them, --device picks."
        )
    if plan.model.hparams.n_swa or any(u.recurrent_state for u in plan.chosen.footprint.uses):
        yield (
            "Beyond the plan, in RAM: up to 32 checkpoints of the window or the recurrent state, "
            "to go back to in a conversation; --ctx-checkpoints N keeps fewer."
        )
    yield "--cache-ram 0: no earlier conversations in RAM; without it, up to 8 GiB of them."


def _flags(carried: Carried, slots: Words = ()) -> Iterator[Words]:
    s = carried.settings
    yield "--model", carried.path
    yield "--ctx-size", str(s.n_ctx), *slots
    yield "--batch-size", str(s.n_batch), "--ubatch-size", str(s.n_ubatch)
    yield "--cache-type-k", s.type_k, "--cache-type-v", s.type_v, "--flash-attn", s.flash_attn
    if carried.rpc_servers:
        yield "--rpc", ",".join(carried.rpc_servers)  # before the devices that it adds
    yield from _placement(carried)
    # By itself it would fit what is not stated to the memory that is free.
    yield "--fit", "off", "--cache-ram", "0"
    if s.swa_full:
        yield ("--swa-full",)
    if not s.use_extra_bufts:
        yield ("--no-repack",)
    yield "--threads", str(carried.n_threads), "--threads-batch", str(carried.n_threads)
    yield from _template(carried)
    for name, value in carried.sampling.items():
        yield tuple(_sampling(name, value))


def _placement(carried: Carried) -> Iterator[Words]:
    s = carried.settings
    devices = ",".join(carried.devices) if carried.plan.machine.gpus else "none"
    yield "--gpu-layers", str(carried.n_gpu_layers), *(("--device", devices) if devices else ())
    if s.n_cpu_moe:
        yield "--n-cpu-moe", str(s.n_cpu_moe)
    if s.tensor_split:
        yield "--split-mode", "layer", "--tensor-split", ",".join(map(number, s.tensor_split))


def _template(carried: Carried) -> Iterator[Words]:
    """The template that the user chose. Of several in a file llama.cpp takes no other than the one
    for chat, so its text is given."""
    choice = carried.chat_template
    if carried.template_file:
        yield "--jinja", "--chat-template-file", carried.template_file
    elif choice.name == CHATML and CHATML not in carried.plan.model.chat_templates:
        yield "--chat-template", CHATML
    elif choice.name:
        yield "--jinja", "--chat-template", carried.plan.model.chat_templates[choice.name]


def _sampling(name: str, value: Any) -> Iterator[str]:
    flag = _flag(name)
    for one in _arguments(name, value):
        yield from (flag, one)


def _flag(name: str) -> str:
    rows = {value.name: value.row for value in values()}
    return _OTHERS.get(name) or (rows[name].flags.split()[0] if name in rows else f"--{name}")


def _arguments(name: str, value: Any) -> list[str]:
    """What follows the flag, once for each time that it is given."""
    if name == "samplers":
        return [";".join(value)]
    if name in _ESCAPED:
        return [_escaped(text) for text in value] or ["none"]
    if name == "logit_bias":
        biases: tuple[LogitBias, ...] = value
        return [f"{one.token}{one.bias:+.9g}" for one in biases]
    return [value if isinstance(value, str) else number(value)]


def _escaped(text: str) -> str:
    """As `string_process_escapes` (common/common.cpp) reads it back."""
    for char, spelt in (("\\", r"\\"), ("\n", r"\n"), ("\r", r"\r"), ("\t", r"\t")):
        text = text.replace(char, spelt)
    return text

"""Flags of llama.cpp's programs, and what kvchat calls the same."""

from __future__ import annotations

from collections.abc import Iterable

# As `llama-cli --help` has them (common/arg.cpp); those that are the same here are not in it.
CALLED = {
    "-c": "--ctx", "--ctx-size": "--ctx", "-ncmoe": "--n-cpu-moe",
    "-ngl": "--gpu-layers", "--n-gpu-layers": "--gpu-layers",
    "-ub": "--ubatch", "--ubatch-size": "--ubatch",
    "-fa": "--flash-attn", "-ts": "--tensor-split",
    "-ctk": "--type-k", "--cache-type-k": "--type-k",
    "-ctv": "--type-v", "--cache-type-v": "--type-v",
    "-t": "--threads", "-n": "--max-tokens", "--predict": "--max-tokens",
    "--n-predict": "--max-tokens", "-s": "--seed", "-sys": "--system",
    "--system-prompt": "--system",
}  # fmt: skip
_NAMED = "the model is named without a flag: kvchat model.gguf"
_OTHERWISE = {
    "-m": _NAMED, "--model": _NAMED,
    "-cmoe": "--n-cpu-moe 99 keeps the experts of every layer in RAM",
    "--cpu-moe": "--n-cpu-moe 99 keeps the experts of every layer in RAM",
    "-cnv": "a chat is what kvchat opens", "--conversation": "a chat is what kvchat opens",
    "-f": "a question from a file comes through a pipe: kvchat model.gguf < question.txt",
    "--file": "a question from a file comes through a pipe: kvchat model.gguf < question.txt",
}  # fmt: skip


def meant(unknown: Iterable[str]) -> str:
    """What the first of these that is known elsewhere is called here, as a sentence; "" where none
    is."""
    for argument in unknown:
        flag = argument.partition("=")[0]
        if called := CALLED.get(flag):
            return f"{flag} is {called} here"
        if how := _OTHERWISE.get(flag):
            return f"there is no {flag} here: {how}"
    return ""

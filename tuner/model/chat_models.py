"""Tells a model one can chat with from everything else that comes as GGUF."""

from __future__ import annotations

from pathlib import Path

from tuner.engine_version import ENGINE_VERSION
from tuner.errors import FileError
from tuner.gguf import package_names
from tuner.gguf.header import Header
from tuner.model.architectures import KNOWN
from tuner.safe_text import quoted

EMBEDDING = frozenset(
    {
        "bert", "modern-bert", "nomic-bert", "nomic-bert-moe", "neo-bert", "jina-bert-v2",
        "jina-bert-v3", "eurobert", "gemma-embedding", "llama-embed", "t5encoder",
    }
)  # fmt: skip
OTHERS = {
    "clip": "a vision projector (mmproj): it goes beside a chat model, not in its place",
    "controlvector": "a control vector, not a model",
    "wavtokenizer-dec": "an audio decoder",
    "qwen3tts": "a speech model",
    "pockettts": "a speech model",
    "eagle3": "a draft model: it only speeds up the model that it was made for",
    "dflash": "a draft model: it only speeds up the model that it was made for",
    "gemma4-assistant": "a draft model: it only speeds up the model that it was made for",
    "dream": "a diffusion model: llama.cpp does not generate text from it token by token",
    "llada": "a diffusion model: llama.cpp does not generate text from it token by token",
    "llada-moe": "a diffusion model: llama.cpp does not generate text from it token by token",
    "rnd1": "a diffusion model: llama.cpp does not generate text from it token by token",
    "t5": "an encoder-decoder model, which cannot chat",
    "gptj": "a GPT-J model, which llama.cpp cannot load",
}
_TYPES = {
    "adapter": "a LoRA adapter: it changes a model, it is none",
    "imatrix": "an importance matrix, a tool of quantization",
    "mmproj": "a vision projector (mmproj): it goes beside a chat model, not in its place",
}
# enum llama_pooling_type (include/llama.h); the unspecified value is -1 as unsigned
_EMBEDS = frozenset({1, 2, 3})  # mean, cls, last
MAX_NAME = 64  # characters of an architecture; the longest that llama.cpp knows has 20
_RERANK = 4


def require_chat_model(header: Header) -> str:
    """The architecture of a file that can chat.

    Raises FileError("not_a_chat_model") in one sentence that says what the file is. An
    architecture that this program has never heard of passes.
    """
    metadata = header.metadata
    architecture = metadata.get("general.architecture")
    named = isinstance(architecture, str) and 0 < len(architecture) <= MAX_NAME
    # The engine does not look at such marks: a file that has layers all the same is a model.
    marked = not named or f"{architecture}.block_count" not in metadata
    kind = metadata.get("general.type")
    if marked and isinstance(kind, str) and kind in _TYPES:
        raise _refuse(header.path, _TYPES[kind])
    if not isinstance(architecture, str) or not named:
        if any(key.startswith("imatrix.") for key in metadata):
            raise _refuse(header.path, _TYPES["imatrix"])
        raise _refuse(header.path, "a GGUF file that names no model architecture")
    if marked and "adapter.type" in metadata:
        raise _refuse(header.path, _TYPES["adapter"])
    if architecture in OTHERS:
        raise _refuse(header.path, OTHERS[architecture])
    if architecture == "imatrix":
        raise _refuse(header.path, _TYPES["imatrix"])

    pooling = metadata.get(f"{architecture}.pooling_type")
    if pooling == _RERANK:
        raise _refuse(header.path, "a reranker: it scores texts, it does not write them")
    causal = metadata.get(f"{architecture}.attention.causal", True)
    if architecture in EMBEDDING or pooling in _EMBEDS or causal is False:
        raise _refuse(header.path, "an embedding model: it turns text into vectors")
    if not header.tensors:
        raise _refuse(header.path, "a vocabulary without a model (no tensors)")
    return architecture


def unknown_architecture(header: Header, name: str) -> FileError:
    """The error for a name that is no architecture of llama.cpp's."""
    same = next((known for known in sorted(KNOWN) if _letters(known) == _letters(name)), None)
    if package_names.is_architecture(name):
        what = "it is newer; update kvchat, or take a model of an architecture that it knows"
    elif same:
        what = (
            f"it is another program's name for {same} (Ollama's differ); take the model's GGUF "
            "for llama.cpp"
        )
    else:
        what = (
            "it is newer, or another program's; take the model's GGUF for llama.cpp, or update "
            "kvchat"
        )
    return FileError(
        "unknown_architecture",
        header.path,
        f"{header.path} is of the architecture {quoted(name)}, which llama.cpp "
        f"({ENGINE_VERSION}) does not know: {what}.",
    )


def _letters(name: str) -> str:
    return "".join(filter(str.isalnum, name.lower()))


def _refuse(path: Path, what: str) -> FileError:
    return FileError("not_a_chat_model", path, f"{path} is {what}.")

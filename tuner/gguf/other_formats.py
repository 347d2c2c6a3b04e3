"""What people give in place of a GGUF file, recognised by how it begins."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import NamedTuple

from tuner.safe_text import cut

HEAD = 4096  # bytes that are looked at
_SAFETENSORS_HEADER = 100_000_000  # bytes at the most, as safetensors has it

_UNPACK = "not a GGUF file; unpack it and name the .gguf file inside"
_CONVERT = (
    "not a GGUF file; take a GGUF of this model, or convert it with llama.cpp's "
    "convert_hf_to_gguf.py"
)
_OLD = "in the old GGML format, which llama.cpp no longer reads; take a GGUF of this model"


class Format(NamedTuple):
    """A format by its magic; `what` completes "PATH is"."""

    magic: bytes
    what: str
    at: int = 0  # bytes before the magic


FORMATS = (
    Format(
        b"version https://git-lfs",
        "a Git LFS pointer that stands for the model; run `git lfs pull` in its folder",
    ),
    Format(b"\x1f\x8b\x08", f"a gzip archive, {_UNPACK}"),
    Format(b"\xfd7zXZ\0", f"an xz archive, {_UNPACK}"),
    Format(b"BZh", f"a bzip2 archive, {_UNPACK}"),
    Format(b"\x28\xb5\x2f\xfd", f"a zstd archive, {_UNPACK}"),
    Format(b"\x04\x22\x4d\x18", f"an lz4 archive, {_UNPACK}"),
    Format(b"LZIP", f"an lzip archive, {_UNPACK}"),
    Format(b"\x5d\0\0", f"an lzma archive, {_UNPACK}"),
    Format(b"\x1f\x9d", f"a compressed file (.Z), {_UNPACK}"),
    Format(b"7z\xbc\xaf\x27\x1c", f"a 7-Zip archive, {_UNPACK}"),
    Format(b"Rar!\x1a\x07", f"a RAR archive, {_UNPACK}"),
    Format(b"PK\x05\x06", "an empty zip archive, not a GGUF file; download the model again"),
    Format(b"lmgg", _OLD),
    Format(b"fmgg", _OLD),
    Format(b"tjgg", _OLD),
    Format(b"ggml", _OLD),  # as big-endian machines wrote it
    Format(b"ggmf", _OLD),
    Format(b"ggjt", _OLD),
    Format(b"algg", "a LoRA adapter in the old GGML format, not a model; name the model itself"),
    Format(b"nsgg", "a saved session of llama.cpp, not a model; name the model itself"),
    Format(b"qsgg", "a saved state of llama.cpp, not a model; name the model itself"),
    Format(b"PWRI", "a model for PowerInfer; run it there, or take a GGUF made for llama.cpp"),
    Format(b"TFL3", f"a TensorFlow Lite model, {_CONVERT}", at=4),
    Format(b"\x89HDF\r\n\x1a\n", f"an HDF5 file (Keras), {_CONVERT}"),
    Format(b"\x93NUMPY", f"a NumPy array, {_CONVERT}"),
    Format(b"\x80\x02", f"a PyTorch file (pickle), {_CONVERT}"),
    Format(b"\x80\x03", f"a PyTorch file (pickle), {_CONVERT}"),
    Format(b"\x80\x04", f"a PyTorch file (pickle), {_CONVERT}"),
    Format(b"\x80\x05", f"a PyTorch file (pickle), {_CONVERT}"),
    Format(
        b"MZqFpD",
        "a llamafile, a program with a model inside, not a GGUF file; unpack it (unzip) and name "
        "the .gguf file inside",
    ),
    Format(b"MZ", "a program, not a GGUF file; name a model in GGUF format"),
    Format(b"\x7fELF", "a program, not a GGUF file; name a model in GGUF format"),
    Format(
        b"\x00\x05\x16\x07",
        "macOS's note about a file, not the file; name the one without ._ before its name",
    ),
    Format(b"%PDF", "a PDF document, not a GGUF file; name a model in GGUF format"),
    Format(b"\x89PNG", "a picture, not a GGUF file; name a model in GGUF format"),
    Format(b"\xff\xd8\xff", "a picture, not a GGUF file; name a model in GGUF format"),
    Format(b"SQLite format 3\0", "a database, not a GGUF file; name a model in GGUF format"),
    Format(b"d8:announce", "a torrent, not the model; download what it describes"),
)

# JSON that lies beside models, or comes in their place, by what it mentions.
_JSON = (
    (
        b'"weight_map"',
        "the index of a model in several files (safetensors or PyTorch), " + _CONVERT,
    ),
    (b'"error"', "an error message of a server, not the model; download the .gguf file itself"),
    (b'"architectures"', "the configuration of a model, not the model; name the .gguf file"),
    (b'"model_type"', "the configuration of a model, not the model; name the .gguf file"),
    (b'"added_tokens"', "a tokenizer, not the model; name the .gguf file"),
)
_MANIFEST = b"application/vnd.ollama.image.model"
_MODEL_LAYER = re.compile(re.escape(_MANIFEST) + rb'"\s*,\s*"digest"\s*:\s*"sha256:([0-9a-f]+)"')
_ONNX = re.compile(
    rb"\x08[\x03-\x20](\x12.|\x3a)", re.DOTALL
)  # ModelProto: ir_version, then a name
_CONTROLS = set(range(0x20)) - set(b"\t\n\r\f\x1b")  # that no text has
_MARKUP = re.compile(rb"<[!?/A-Za-z]")


def other_format(head: bytes, path: Path) -> str | None:
    """What completes "PATH is", with the next step, where the first `HEAD` bytes show a format
    that is not GGUF; None where they show none that is known."""
    found = next((f.what for f in FORMATS if head.startswith(f.magic, f.at)), None)
    if found:
        return found
    if head.startswith(b"PK\x03\x04"):
        return _zip(head)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < _SAFETENSORS_HEADER:
        return f"a safetensors file, {_CONVERT}"
    if _is_tar(head):
        return f"a tar archive, {_UNPACK}"
    text = _text(head)
    if text is not None:
        return _of_text(text, path)
    if path.suffix.lower() == ".onnx" or _ONNX.match(head):
        return f"an ONNX model, {_CONVERT}"
    return None


def zeros(head: bytes) -> str | None:
    """The same for a file that begins with nothing but zeros."""
    if any(head):
        return None
    return (
        "not a GGUF file: it begins with zeros, room that was set aside for a download that never "
        "filled it; download it again"
    )


def _zip(head: bytes) -> str:
    """PyTorch's files are zip archives, whose first entry is its pickle."""
    length = int.from_bytes(head[26:28], "little")
    entry = head[30 : 30 + length].decode("utf-8", "replace")
    if entry.endswith((".pkl", "/version", "/byteorder")):
        return f"a PyTorch file, {_CONVERT}"
    if entry.endswith(".npy"):
        return f"NumPy arrays, {_CONVERT}"
    if entry.endswith(".gguf"):
        return f"a zip archive, not a GGUF file; unpack it and name {cut(entry)}"
    return (
        "a zip archive or a PyTorch file, not a GGUF file; unpack it and name the .gguf file "
        "inside, or take a GGUF of this model"
    )


def _is_tar(head: bytes) -> bool:
    import tarfile  # noqa: PLC0415

    try:
        tarfile.TarInfo.frombuf(head[: tarfile.BLOCKSIZE], "utf-8", "replace")
    except (tarfile.HeaderError, ValueError):
        return False
    return True


def _text(head: bytes) -> bytes | None:
    """The head without what may stand before a text; None where it is no text."""
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not text or not _CONTROLS.isdisjoint(text):
        return None
    try:
        codecs.getincrementaldecoder("utf-8")().decode(text)  # the last character may be cut
    except UnicodeDecodeError:
        return None
    return text


def _of_text(text: bytes, path: Path) -> str:
    if _MARKUP.match(text):
        return (
            "a web page saved in place of the model; download the .gguf file itself (on Hugging "
            "Face its address has /resolve/ where the page's has /blob/)"
        )
    if text[:1] in (b"{", b"["):
        if _MANIFEST in text:
            return _manifest(text, path)
        default = "JSON, not a GGUF file; name a model in GGUF format"
        return next((what for mark, what in _JSON if mark in text), default)
    first = cut(text.splitlines()[0].decode("utf-8", "replace"))
    return f'a text that begins "{first}", not a GGUF file; download the .gguf file itself'


def _manifest(text: bytes, path: Path) -> str:
    """Ollama keeps models as MODELS/blobs/sha256-..., beside MODELS/manifests/..."""
    what = "a manifest of Ollama, not the model"
    layer = _MODEL_LAYER.search(text)
    if layer:
        blob = f"blobs/sha256-{layer[1].decode()}"
        models = next((p for p in path.resolve().parents if (p / blob).is_file()), None)
        if models:
            return f"{what}; name {models / blob}"
    return f"{what}; name the blob of its layer {_MANIFEST.decode()}"

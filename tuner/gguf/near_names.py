"""What to say where a path leads to no model file: nothing there, an address, or a folder."""

from __future__ import annotations

import difflib
import glob
import os
import re
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from tuner.gguf.pieces import MAX_ENTRIES, PART_NAME, fetched_beside
from tuner.safe_text import shell_quoted

_SCHEME = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]+):/+(?P<rest>.*)", re.I | re.S)
_HUGGING_FACE = re.compile(
    r"(?:(?:www\.)?(?:huggingface\.co|hf\.co)/)?(?P<repo>[\w.-]+/[\w.-]+?)"
    r"(?::(?P<quant>[\w.-]+))?(?:/(?:(?:blob|resolve|raw)/[^/]+/)?(?P<file>[^?#]+))?(?:[?#].*)?"
)
_REPOSITORY = re.compile(r"(?:hf\.co/|huggingface\.co/)?[\w.-]+/[\w.-]+(?::[\w.-]+)?")
_TAG = re.compile(r"[\w.-]+:[\w.-]+")
_DEPTH = 4  # folders below the one that was named; a cache of Hugging Face has three
_SHOWN = 3


def missing(path: Path) -> str:
    """Why nothing lies at a path, and what to do: one sentence."""
    try:
        return _missing(path)
    except (OSError, ValueError, RuntimeError):  # no name, no access, no home
        return f"{path} does not exist; check the path of the model file."


def _missing(path: Path) -> str:
    text = str(path)
    address = _address(text)
    if address:
        return f"{text} {address}"
    if path.is_symlink():
        return f"{path} is a link to {os.readlink(path)}, where no file lies; download it again."
    if glob.has_magic(path.name):
        return f"{path} stands for no file: none in {path.parent} has such a name."
    expanded = path.expanduser()
    if expanded != path and expanded.exists():
        return f"{path} does not exist; write {expanded}, or ~ outside quotes."
    download = fetched_beside(path)
    if download:
        return (
            f"{path} does not exist yet: {download} is a download that has not finished; let it "
            "finish, then try again."
        )
    if not path.parent.is_dir():
        if _REPOSITORY.fullmatch(text) and path.suffix.lower() != ".gguf":
            return (
                f"{text} does not exist here; if it is a model on Hugging Face, download it with "
                f"`{_hf_download(text)}`, then name its .gguf file."
            )
        return f"{path} does not exist: there is no folder {path.parent}; check the path."
    if _TAG.fullmatch(text) and os.name != "nt":
        return (
            f"{text} does not exist here; if it is a model of Ollama's, run `ollama show "
            f"--modelfile {text}` and name the file behind FROM."
        )
    near = _near(path)
    if near:
        return f"{path} does not exist; near it lies {' and '.join(map(shell_quoted, near))}."
    return f"{path} does not exist; check the path of the model file."


def _address(text: str) -> str | None:
    """What follows an address that was given for a path: what to download, and how. Path has made
    one slash of two."""
    found = _SCHEME.fullmatch(text)
    if not found:
        return None
    scheme, rest = found["scheme"].lower(), found["rest"]
    if scheme == "file":
        return f"is an address; write the path alone: /{rest}."
    if scheme == "ollama":
        return (
            "is an address, and kvchat opens files; run `ollama show --modelfile "
            f"{rest}` and name the file behind FROM."
        )
    hub = scheme in ("hf", "huggingface") or "huggingface.co/" in rest or rest.startswith("hf.co/")
    how = _hf_download(rest) if hub else ""
    how = how or f"curl -LO {shell_quoted(f'{scheme}://{rest}')}"
    return f"is an address, and kvchat opens files; download it with `{how}`, then name the file."


def _hf_download(address: str) -> str:
    """The command that fetches what an address on Hugging Face names; "" where it names nothing."""
    found = _HUGGING_FACE.fullmatch(address)
    if not found:
        return ""
    if found["file"]:
        what = shell_quoted(found["file"])
    else:
        pattern = f"*{found['quant']}*.gguf" if found["quant"] else "*.gguf"
        what = f"--include {shell_quoted(pattern)}"
    return f"hf download {found['repo']} {what}"


def _near(path: Path) -> list[Path]:
    """Model files in the same folder whose names are like the one that was given."""
    with os.scandir(path.parent) as entries:
        there = [entry.name for entry in islice(entries, MAX_ENTRIES)]
    models = {n.lower(): n for n in sorted(there) if n.lower().endswith(".gguf")}
    wanted = path.name.lower()
    exact = [n for n in (f"{wanted}.gguf", wanted) if n in models]
    like = exact or difflib.get_close_matches(wanted, models, n=2)
    firsts = dict.fromkeys(_first_name(models[n], there) for n in like)
    return [path.with_name(name) for name in firsts]


def _first_name(name: str, there: list[str]) -> str:
    part = PART_NAME.fullmatch(name)
    first = part and f"{part['stem']}-00001-of-{part['count']}.gguf"
    return first if first in there else name


def folder(path: Path) -> str:
    """What to name in place of a folder: one sentence."""
    models = dict.fromkeys(_models_below(path))
    if not models:
        weights = any(_names_below(path, (".safetensors",)))
        why = (
            " that holds a safetensors model; take a GGUF of it, or convert it with llama.cpp's "
            "convert_hf_to_gguf.py"
            if weights
            else " without a .gguf file; name a model in GGUF format"
        )
        return f"{path} is a folder{why}."
    shown = [shell_quoted(model) for model in list(models)[:_SHOWN]]
    more = len(models) - len(shown)
    listed = ", ".join(shown) + (f" or one of {more} more" if more else "")
    which = "the model in it" if len(models) == 1 else "a model in it"
    return f"{path} is a folder; name {which} instead: {listed}."


def _models_below(path: Path) -> Iterator[Path]:
    """The models in a folder and below it, of split ones the first part."""
    for found in _names_below(path, (".gguf",)):
        part = PART_NAME.fullmatch(found.name)
        helper = "mmproj" in found.name.lower() or found.name.startswith("._")
        if not helper and not (part and int(part["number"]) > 1):
            yield found


def _names_below(path: Path, ends: tuple[str, ...]) -> Iterator[Path]:
    seen = 0
    for folder_name, folders, files in os.walk(path):
        depth = len(Path(folder_name).relative_to(path).parts)
        folders[:] = sorted(folders) if depth < _DEPTH else []
        for name in sorted(files):
            seen += 1
            if seen > MAX_ENTRIES:
                return
            if name.lower().endswith(ends):
                yield Path(folder_name) / name

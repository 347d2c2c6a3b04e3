"""Text files that go along with a question. Everything here blocks."""

from __future__ import annotations

import codecs
import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from tuner.errors import KvchatError
from tuner.private_files import read_bounded, why
from tuner.safe_text import one_line, utf8
from tuner.units import KIB, MIB

MAX_FILE = 4 * MIB  # bytes: about a million tokens
_SNIFFED = 8 * KIB  # bytes that tell a text from what is none

# The longest first: the mark of UTF-32 begins as that of UTF-16 does.
_MARKS = (
    (codecs.BOM_UTF32_LE, "UTF-32", "utf-32"), (codecs.BOM_UTF32_BE, "UTF-32", "utf-32"),
    (codecs.BOM_UTF8, "UTF-8", "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "UTF-16", "utf-16"), (codecs.BOM_UTF16_BE, "UTF-16", "utf-16"),
)  # fmt: skip
# What no text has: control characters other than tab, line ends, form feed, backspace, escape.
_CONTROL = re.compile("[\x00-\x07\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_ODD = re.compile("[\x80-\x9f]")  # in Latin-1, where a text hardly has them
_MOST_ODD = 0.1  # of all characters

# By the end of a name: what it is called, and how Markdown names it.
_KINDS = {
    "bash": ("shell script", "bash"), "c": ("C", "c"), "cc": ("C++", "cpp"), "cpp": ("C++", "cpp"),
    "cs": ("C#", "csharp"), "css": ("CSS", "css"), "csv": ("CSV", "csv"), "cu": ("CUDA", "cuda"),
    "diff": ("diff", "diff"), "go": ("Go", "go"), "h": ("C", "c"), "hpp": ("C++", "cpp"),
    "html": ("HTML", "html"), "ini": ("INI", "ini"), "java": ("Java", "java"),
    "js": ("JavaScript", "javascript"), "json": ("JSON", "json"), "jsonl": ("JSON lines", "json"),
    "kt": ("Kotlin", "kotlin"), "log": ("log", ""), "lua": ("Lua", "lua"),
    "md": ("Markdown", "markdown"), "patch": ("diff", "diff"), "php": ("PHP", "php"),
    "pl": ("Perl", "perl"), "py": ("Python", "python"), "rb": ("Ruby", "ruby"),
    "rs": ("Rust", "rust"), "rst": ("reStructuredText", "rst"), "sh": ("shell script", "bash"),
    "sql": ("SQL", "sql"), "svg": ("SVG", "xml"), "swift": ("Swift", "swift"),
    "tex": ("LaTeX", "latex"), "toml": ("TOML", "toml"), "ts": ("TypeScript", "typescript"),
    "tsv": ("TSV", ""), "tsx": ("TypeScript", "tsx"), "txt": ("text", ""), "xml": ("XML", "xml"),
    "yaml": ("YAML", "yaml"), "yml": ("YAML", "yaml"), "zig": ("Zig", "zig"),
}  # fmt: skip


class AttachError(KvchatError):
    """A file that cannot go along; `str()` says which and why."""

    kind = "attachment"


@dataclass(frozen=True, slots=True)
class TextFile:
    """A file that was read."""

    name: str  # as it was mentioned, on one line
    text: str
    kind: str  # Python, Markdown, text
    encoding: str  # UTF-8, UTF-16, Latin-1
    n_bytes: int  # of the file

    @property
    def block(self) -> str:
        """Its name and its text, fenced, as the model is given it."""
        marks = fence(self.text)
        end = "" if self.text.endswith("\n") or not self.text else "\n"
        return f"{self.name}:\n{marks}{_language(self.name)}\n{self.text}{end}{marks}"


def read(path: Path, name: str) -> TextFile:
    """The file at `path`, which is called `name`. Raises AttachError where it is none, is no text,
    is too large or cannot be read."""
    name = one_line(name)
    try:
        raw = read_bounded(path, MAX_FILE)
        n_bytes = path.stat().st_size
    except OSError as error:
        raise AttachError(f"{name} cannot be read ({why(error)}).") from error
    if len(raw) > MAX_FILE:
        most = bytes_text(MAX_FILE)
        raise AttachError(f"{name} is too large ({bytes_text(n_bytes)}; at most {most}).")
    text, encoding = decoded(raw)
    if text is None:
        raise AttachError(f"{name} is a binary file; only text can go along.")
    return TextFile(name, text, _kind(name, text), encoding, len(raw))


def refusal(path: Path) -> str:
    """Why what lies there cannot be a text that goes along, by its first bytes; "" if it may be
    one. Raises OSError where nothing can be read there."""
    if stat.S_ISDIR(os.stat(path).st_mode):
        return "is a folder"
    beginning = read_bounded(path, _SNIFFED - 1)
    # Where the file goes on, a character may be cut: that alone makes no binary file.
    cuts = range(4 if len(beginning) == _SNIFFED else 1)
    texts = (decoded(beginning[: len(beginning) - cut])[0] for cut in cuts)
    return "is a binary file" if all(text is None for text in texts) else ""


def decoded(raw: bytes) -> tuple[str | None, str]:
    """The text of a file with line feeds alone, and the name of its encoding: what its mark says,
    else UTF-8, else Latin-1, which takes any bytes. None: it is no text."""
    for mark, name, codec in _MARKS:
        if raw.startswith(mark):
            try:
                return _clean(raw.decode(codec)), name
            except UnicodeDecodeError:
                return None, name
    try:
        text, name = raw.decode("utf-8"), "UTF-8"
    except UnicodeDecodeError:
        text, name = raw.decode("latin-1"), "Latin-1"
        if len(_ODD.findall(text)) > _MOST_ODD * len(text):
            return None, name
    return (None if _CONTROL.search(text) else _clean(text)), name


def _clean(text: str) -> str:
    return utf8(text.replace("\r\n", "\n").replace("\r", "\n"))


def fence(text: str) -> str:
    """Backquotes, more than the text has anywhere in a row."""
    longest = max(map(len, re.findall("`+", text)), default=0)
    return "`" * max(3, longest + 1)


def bytes_text(n_bytes: int) -> str:
    """The size of a file: 812 B, 3.1 KiB, 12.4 MiB."""
    if n_bytes < KIB:
        return f"{n_bytes} B"
    return f"{n_bytes / KIB:,.1f} KiB" if n_bytes < MIB else f"{n_bytes / MIB:,.1f} MiB"


def _ending(name: str) -> str:
    return name.rsplit(".", 1)[-1].lower() if "." in name else ""


def _language(name: str) -> str:
    return _KINDS.get(_ending(name), ("", ""))[1]


def _kind(name: str, text: str) -> str:
    known = _KINDS.get(_ending(name))
    if known:
        return known[0]
    return "script" if text.startswith("#!") else "text"

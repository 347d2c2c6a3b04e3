"""Files named in a text: `@notes.md`, `@"my notes.md"`, `@my\\ notes.md`, and pasted paths."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

MOST = 32  # files that one question may name
DROPPED_CHARS = 8192  # a longer paste is a text, whatever it looks like

_BEFORE = r"(?:(?<=[\s(\[{])|^)@"  # an @ inside a word is an address
_MENTION = re.compile(rf'{_BEFORE}(?:"([^"\n]+)"|((?:\\[^\n]|[^\s\\"])(?:\\[^\n]|[^\s\\])*))', re.M)
_BEING_TYPED = re.compile(rf'{_BEFORE}(?:"([^"\n]*)|((?:(?:\\.|[^\s\\"])(?:\\.|[^\s\\])*)?))$')
_ENDS = ".,;:!?)]}'\""  # of a sentence, perhaps, and not of a name
_SPECIAL = re.compile(r'[\s\\"]')
_BEGINNINGS = ("/", "~", "'", '"', "file://", "./", "../")
_DRIVE = re.compile(r"[A-Za-z]:[\\/]")


@dataclass(frozen=True, slots=True)
class Mention:
    """`@` and a name. `names`: the name as it stands there, then without what may end a
    sentence."""

    start: int  # in the text, of the @
    end: int
    names: tuple[str, ...]

    @property
    def looks_like_a_file(self) -> bool:
        """Whether somebody who wrote it will have meant a file, although there is none."""
        return bool(re.search(r"[./\\]\w", self.names[-1]))


def mentions(text: str) -> Iterator[Mention]:
    """All of them, in order."""
    for match in _MENTION.finditer(text):
        quoted, bare = match.groups()
        if quoted is not None:
            yield Mention(*match.span(), (quoted,))
        else:
            name = re.sub(r"\\(.)", r"\1", bare)
            names = [name]
            while name and name[-1] in _ENDS:
                name = name[:-1]
                names.append(name)
            yield Mention(*match.span(), tuple(filter(None, names)) or (bare,))


def written(name: str) -> str:
    """A name as it is mentioned, so that `mentions` reads it; "" where none could."""
    if not name or "\n" in name:
        return ""
    if not _SPECIAL.search(name) and name[-1] not in _ENDS:
        return f"@{name}"
    return f'@"{name}"' if '"' not in name else "@" + re.sub(r'([\s\\"])', r"\\\1", name)


def being_typed(line: str) -> tuple[int, str] | None:
    """The mention that a line ends with: where its @ is, and the name so far."""
    match = _BEING_TYPED.search(line)
    if match is None:
        return None
    quoted, bare = match.groups()
    return match.start(), quoted if quoted is not None else re.sub(r"\\(.)", r"\1", bare)


def dropped(text: str) -> list[tuple[str, ...]]:
    """The ways in which a paste can be read as paths and nothing else, as terminals paste what is
    dragged on them: quoted, with backslashes, as file:// addresses, or bare. Whether there are
    such files is for others to find out."""
    text = text.strip()
    if not 0 < len(text) <= DROPPED_CHARS:
        return []
    if not (text.startswith(_BEGINNINGS) or _DRIVE.match(text)):
        return []
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    if all(line.startswith("file://") for line in lines):
        found = [tuple(_of_address(word) for line in lines for word in line.split())]
    else:
        found = [tuple(lines)]
        with suppress(ValueError):  # a quote that is not closed
            found.append(tuple(shlex.split(text)))
    return [paths for paths in dict.fromkeys(found) if all(paths) and len(paths) <= MOST]


def _of_address(address: str) -> str:
    parts = urlsplit(address)
    path = unquote(parts.path)
    if parts.netloc not in ("", "localhost"):
        return ""
    return path[1:] if _DRIVE.match(path[1:]) else path  # file:///C:/notes.md


def located(name: str, folder: Path) -> Path:
    """The path that a name means: `~` is the user's home, others are seen from `folder`."""
    try:
        return folder / Path(name).expanduser()
    except RuntimeError:  # no home, or nobody of that name
        return folder / name

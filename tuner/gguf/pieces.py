"""Files that are not whole, by their names: downloads that go on, and bytes cut into pieces."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from tuner.safe_text import shell_quoted

# A part of a split model that llama.cpp finds the others of (`llama_split_path`, src/llama.cpp).
PART_NAME = re.compile(r"(?P<stem>.*)-(?P<number>\d{5})-of-(?P<count>\d{5})\.gguf", re.DOTALL)

MAX_ENTRIES = 10_000  # of a folder that are looked at

# What browsers and download programs append to a name until they are done.
UNFINISHED = (
    ".part", ".partial", ".crdownload", ".opdownload", ".download", ".downloading", ".incomplete",
    ".unfinished", ".filepart", ".fdmdownload", ".aria2", ".!ut", ".!qb", ".bc!", ".td", ".xltd",
    ".tmp", ".temp", "-partial",
)  # fmt: skip
_OLLAMA_CHUNK = re.compile(r"-partial-\d+$")
_ARIA2 = ".aria2"  # its notes; the file itself has its full size from the start

_WORD = r"(?:part|piece|split|chunk|segment)"
_NUMBER = r"(?P<n>\d{1,5}|[a-z]{1,3})"  # or as `split` counts: aa, ab, ...
_OF = r"[._ -]?of[._ -]?(?P<of>\d{1,5})"
_PIECE_NAMES = (
    re.compile(rf"(?P<whole>.+?)[._ -]+{_WORD}[._ -]?{_NUMBER}(?:{_OF})?(?:\.gguf)?", re.I | re.S),
    re.compile(rf"(?P<whole>.+?)[._ -]+(?P<n>\d{{1,5}}){_OF}(?:\.gguf)?", re.I | re.S),
    re.compile(rf"(?P<whole>.+\.gguf)[._-]{_NUMBER}(?P<of>)", re.I | re.S),
    re.compile(r"(?P<whole>x)(?P<n>[a-z]{2,3})(?P<of>)"),  # what `split` makes of any file
)
_BARE = _PIECE_NAMES[2]
_FAR = 99  # a number that nobody believes of a piece which is alone
_KEEPS_ITS_NAME = (".gguf", ".zip", ".7z", ".tar", ".gz", ".xz", ".zst", ".bz2", ".rar")
_NAMED = 3  # missing pieces that are named


def unfinished(path: Path) -> str | None:
    """What completes "PATH is", where its name, or a download's notes beside it, say that it is
    still being fetched."""
    name = path.name.lower()
    end = next((end for end in UNFINISHED if name.endswith(end)), None)
    chunk = _OLLAMA_CHUNK.search(name)
    if end or chunk:
        whole = path.name[: -len(end)] if end else ""
        known = whole.lower().endswith(".gguf")
        then = f"name {path.with_name(whole)}" if known else "name the file that it becomes"
        return (
            f"a download that has not finished, as its name says; let it finish and {then} "
            "(or rename it, if it is whole)"
        )
    if os.path.exists(f"{path}{_ARIA2}"):
        return (
            f"a download that has not finished ({path.name}{_ARIA2} lies beside it); let aria2c "
            "go on with it (-c), then try again"
        )
    return None


def fetched_beside(path: Path) -> Path | None:
    """The unfinished download that lies beside a file whose name it will take."""
    names = (f"{path}{end}" for end in UNFINISHED)
    return next((Path(name) for name in names if os.path.exists(name)), None)


@dataclass(frozen=True, slots=True)
class Pieces:
    """The pieces that a file was cut into: those that are there, in order, and those that are
    not, by name."""

    found: tuple[Path, ...]
    missing: tuple[str, ...]
    count: int | None  # where the names say it
    number: int
    whole: Path  # what they make

    def text(self) -> str:
        """What completes "PATH is"."""
        of = f" of {self.count}" if self.count else ""
        what = f"piece {self.number}{of} of a file that was cut into pieces"
        if self.missing:
            shown = ", ".join(self.missing[:_NAMED])
            rest = len(self.missing) - _NAMED
            shown += f" and {rest} more" if rest > 0 else ""
            verb = "is" if len(self.missing) == 1 else "are"
            return (
                f"{what}, and {shown} {verb} missing beside it; download all pieces into one "
                "folder and join them with cat in their order"
            )
        if len(self.found) == 1:
            return (
                f"{what}, and no other lies beside it; download all pieces into one folder and "
                "join them with cat in their order"
            )
        if self._is_joined():
            return f"{what}; joined they lie beside it: name {self.whole}"
        return f"{what}; join them with `{self._command()}`, then name {self.whole}"

    def _is_joined(self) -> bool:
        try:
            return self.whole.stat().st_size == sum(p.stat().st_size for p in self.found)
        except (OSError, ValueError):
            return False

    def _command(self) -> str:
        if os.name == "nt":
            joined = "+".join(f'"{path}"' for path in self.found)
            return f'copy /b {joined} "{self.whole}"'
        return f"cat {' '.join(map(shell_quoted, self.found))} > {shell_quoted(self.whole)}"


def pieces_of(path: Path) -> Pieces | None:
    """The pieces that a file is one of, by its name. To be asked of a file that is no whole GGUF
    file: a whole one may have any name."""
    name = path.name
    match = next((m for m in (form.fullmatch(name) for form in _PIECE_NAMES) if m), None)
    if match is None:
        return None
    n = match["n"]
    before, after = name[: match.start("n")], name[match.end("n") :]
    there: dict[int, Path] = {}
    like = n
    for other in _beside(path):
        middle = other.name[len(before) : len(other.name) - len(after)]
        if other.name == before + middle + after and _alike(middle, n):
            there.setdefault(_counted(middle), other)
            like = middle if middle.startswith("0") else like
    number = _counted(n)
    there[number] = path
    first = 0 if 0 in there else 1
    last = first + int(match["of"]) - 1 if match["of"] else _last(there, number)
    there = {i: one for i, one in there.items() if i <= last}
    if not first <= number <= last <= MAX_ENTRIES:
        return None
    bare = match.re is _BARE
    far = number > _FAR or (bare and len(n) == 1)  # a year, a word; what wget fetches twice
    if far and len(there) == 1 and not match["of"] and (bare or n.isalpha()):
        return None
    if PART_NAME.fullmatch(name) and not _are_bytes(there):
        return None
    gone = (i for i in range(first, last + 1) if i not in there)
    missing = tuple(f"{before}{_numbered(i, like)}{after}" for i in gone)
    whole = match["whole"]
    if not whole.lower().endswith(_KEEPS_ITS_NAME):
        whole += ".gguf"
    return Pieces(
        found=tuple(there[i] for i in sorted(there)),
        missing=missing,
        count=int(match["of"]) if match["of"] else None,
        number=number + 1 - first,
        whole=path.with_name(whole),
    )


def _are_bytes(there: dict[int, Path]) -> bool:
    """Whether files that are named like the parts of a split model are pieces of bytes: of a split
    model every part begins as a GGUF file."""
    later = [one for number, one in there.items() if number > 1]
    return bool(later) and not any(map(_begins_as_gguf, later))


def _begins_as_gguf(path: Path) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(4) == b"GGUF"
    except OSError:
        return False


def _beside(path: Path) -> list[Path]:
    """The files in the folder of a file, so many as are looked at."""
    try:
        with os.scandir(path.parent) as entries:
            return [path.with_name(entry.name) for entry in islice(entries, MAX_ENTRIES)]
    except (OSError, ValueError):
        return []


def _alike(one: str, other: str) -> bool:
    """Whether two numbers are written in one way: figures, or as many letters."""
    if other.isdecimal():
        return one.isdecimal() and len(one) <= len("00000")
    return len(one) == len(other) and one.isascii() and one.isalpha()


def _last(numbers: Iterable[int], given: int) -> int:
    """The last of the numbers that belong to one run: few may be missing in it, and far beyond it
    lies what only looks like a number."""
    last = given
    for found, number in enumerate(sorted(numbers)):
        if number > max(given, 2 * found + 2):
            break
        last = max(last, number)
    return last


def _counted(n: str) -> int:
    """1 for "1", "01", "a", "aa"."""
    if n.isdecimal():
        return int(n)
    number = 0
    for letter in n.lower():
        number = number * 26 + ord(letter) - ord("a")
    return number + 1


def _numbered(i: int, like: str) -> str:
    """The other way: 2 as "2", "02", "b", "ab", as `like` is written."""
    if like.isdecimal():
        return str(i).zfill(len(like)) if like.startswith("0") else str(i)
    letters, i = "", i - 1
    for _ in like:
        i, rest = divmod(i, 26)
        letters = chr(ord("a") + rest) + letters
    return letters

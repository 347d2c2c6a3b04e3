"""The files that a draft names, looked for on disk. Everything here blocks."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from tui.composing.files import AttachError, TextFile, read, refusal
from tui.composing.mentions import MOST, Mention, located, mentions
from tuner.safe_text import cut


@dataclass(frozen=True, slots=True)
class Attached:
    """What goes along with a draft. `problems`: why it cannot be sent as it is; `remarks`: what
    is a name to the reader and a text to the model. Sentences, both."""

    files: tuple[TextFile, ...] = ()
    problems: tuple[str, ...] = ()
    remarks: tuple[str, ...] = ()


class Attaching:
    """Reads the files of one draft after the other; those that have not changed, once."""

    def __init__(self, folder: Path):
        """`folder`: where names are seen from."""
        self._folder = folder
        self._known: dict[tuple[Path, int, int], TextFile | AttachError] = {}

    def attach(self, text: str) -> Attached:
        """The files that a text names, each once, in order. Never raises."""
        files: dict[Path, TextFile] = {}
        problems: list[str] = []
        remarks: list[str] = []
        found = list(mentions(text))
        seen: dict[tuple[Path, int, int], TextFile | AttachError] = {}
        for mention in found[:MOST]:
            name, path = self._found(mention)
            if path is None:
                if mention.looks_like_a_file:
                    remarks.append(f"There is no file {cut(name)}; the name is sent as it is.")
            elif path.is_dir():
                remarks.append(f"{cut(name)} is a folder; type a / after it for what is in it.")
            elif path not in files:
                read_one = self._read(path, name, seen)
                if isinstance(read_one, TextFile):
                    files[path] = read_one
                else:
                    problems.append(str(read_one))
        if len(found) > MOST:
            problems.append(f"These are {len(found)} files; at most {MOST} can go along.")
        self._known = seen
        return Attached(
            tuple(files.values()), tuple(dict.fromkeys(problems)), tuple(dict.fromkeys(remarks))
        )

    def _found(self, mention: Mention) -> tuple[str, Path | None]:
        """The name under which something lies there, and where; None: nothing does."""
        for name in mention.names:
            path = located(name, self._folder)
            try:
                path.stat()
            except (OSError, ValueError):
                continue
            return name, path
        return mention.names[-1], None

    def _read(
        self, path: Path, name: str, seen: dict[tuple[Path, int, int], TextFile | AttachError]
    ) -> TextFile | AttachError:
        try:
            now = path.stat()
            key = (path, now.st_mtime_ns, now.st_size)
            known = self._known.get(key) or read(path, name)
        except OSError as error:
            return AttachError(f"{cut(name)} cannot be read ({error.strerror}).")
        except AttachError as error:
            known = error
        seen[key] = known
        return known


def looked_at(
    readings: Iterable[Sequence[str]], folder: Path
) -> tuple[tuple[str, str], ...] | None:
    """The first reading of a paste whose paths are all there: each with why it can be no text that
    goes along, or "". None: it is a text."""
    for paths in readings:
        try:
            found = tuple((_near(path, folder), refusal(located(path, folder))) for path in paths)
        except (OSError, ValueError):
            continue
        return found
    return None


def _near(path: str, folder: Path) -> str:
    """The path as it is seen from a folder that it is in, else as it is."""
    at = Path(path)
    near = at.relative_to(folder) if at.is_relative_to(folder) else at
    return path if near == at else str(near)

"""A command line, written down so that a shell makes the same words of it again."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tuner.report.emit.carried import comment
from tuner.safe_text import shell_word

Words = Sequence[str]


def script(sentences: Iterable[str], program: str, groups: Iterable[Words]) -> str:
    """A comment and a command, each group of its words on a line of its own."""
    return "\n".join((*comment(sentences, "#"), " \\\n".join(_lines(program, groups)))) + "\n"


def _lines(program: str, groups: Iterable[Words]) -> Iterator[str]:
    yield program
    for group in groups:
        if group:
            yield "  " + " ".join(map(shell_word, group))

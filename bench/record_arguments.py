"""Records the arguments that llama.cpp's programs know, as their own --help tells them.

    python -m bench.record_arguments NAME=PROGRAM...

    python -m bench.record_arguments llama-server=build/bin/llama-server \
        llama-cli=build/bin/llama-cli "llama-server of PACKAGE VERSION=PATH"

Writes tests/data/arguments.json, which `tests/report/emit/` holds each printed command against:
each flag with what follows it, the values that are allowed where the help lists them, and what the
program says of its version. The names' first words are the programs'.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

OUT = Path(__file__).resolve().parent.parent / "tests" / "data" / "arguments.json"
_SECONDS = 60
# "-c,    --ctx-size N        size of the prompt context": spellings, what follows, what it is
_ENTRY = re.compile(r"((?:-[\w-][\w.-]*(?:,\s+)?)+)(?: (\S.*?))?(?:\s{2,}.*)?$")
_ALLOWED = re.compile(r"allowed values:([\w\s,]+)")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("programs", nargs="+", metavar="NAME=PROGRAM")
    found = {}
    for one in parser.parse_args().programs:
        name, _, path = one.rpartition("=")
        found[name] = {
            "version": _said(path, "--version").splitlines()[0],
            **arguments(_said(path, "--help")),
        }
        print(f"{name}: {len(found[name]['flags'])} flags, {found[name]['version']}")
    lines = (f"{json.dumps(name)}: {json.dumps(one)}" for name, one in found.items())
    OUT.write_text("{\n" + ",\n".join(lines) + "\n}\n")


def arguments(text: str) -> dict[str, Any]:
    """`flags`: what follows each flag, null for nothing; `allowed`: values by flag."""
    flags: dict[str, str | None] = {}
    allowed: dict[str, list[str]] = {}
    for spellings, value, about in _entries(text):
        values = _ALLOWED.search(about)
        for flag in spellings:
            flags[flag] = value
            if values:
                allowed[flag] = re.findall(r"\w+", values[1].partition("default")[0])
    return {"flags": flags, "allowed": allowed}


def _entries(text: str) -> Iterator[tuple[list[str], str | None, str]]:
    """Spellings, what follows them, and all that is said of them."""
    entries: list[list[str]] = []
    for line in text.splitlines():
        if line.startswith("-") and not line.startswith("-----"):
            entries.append([line])
        elif entries and line.startswith(" "):
            entries[-1].append(line)
    for first, *more in entries:
        head = _ENTRY.match(first)
        if head is None:
            raise SystemExit(f"this line of --help is not understood: {first}")
        yield re.findall(r"-[\w-][\w.-]*", head[1]), head[2], "\n".join((first, *more))


def _said(path: str, flag: str) -> str:
    done = subprocess.run(
        [path, flag],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=_SECONDS,
        check=True,
    )
    return done.stdout


if __name__ == "__main__":
    main()

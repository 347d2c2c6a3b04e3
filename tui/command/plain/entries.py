"""What is typed, from one line or several."""

from __future__ import annotations

from collections.abc import Callable

_BLOCK = '"""'
ABOUT = (
    f"A line that ends in a backslash goes on in the next one. {_BLOCK} begins a text of several "
    f"lines, and {_BLOCK} ends it."
)


def entry(line: Callable[[bool], str]) -> str:
    """One entry. `line`: reads a line, told whether it goes on with the one before; it raises
    EOFError at the end of all, which ends what has begun."""
    first = line(False)
    if first.lstrip().startswith(_BLOCK):
        return _block(first.lstrip().removeprefix(_BLOCK), line)
    lines = [first]
    while lines[-1].endswith("\\"):
        lines[-1] = lines[-1][:-1]
        try:
            lines.append(line(True))
        except EOFError:
            break
    return "\n".join(lines)


def _block(first: str, line: Callable[[bool], str]) -> str:
    lines = [first]
    while not lines[-1].rstrip().endswith(_BLOCK):
        try:
            lines.append(line(True))
        except EOFError:
            break
    lines[-1] = lines[-1].rstrip().removesuffix(_BLOCK)
    return "\n".join(lines).strip("\n")

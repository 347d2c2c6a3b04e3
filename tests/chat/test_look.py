"""One look everywhere: colours are the theme's, and its marks have twins in ASCII."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from textual._color_constants import COLOR_NAME_TO_RGB

import tui
from tui.command.ascii_signs import FOR_SCREENS

ROOT = Path(tui.__file__).parent
SHEETS = sorted((ROOT / "styles").glob("*.tcss"))
MODULES = sorted(
    path for folder in ("widgets", "screens") for path in (ROOT / folder).rglob("*.py")
)
# As docs/chat.md lists them, and what gauges, bars, plots and borders are drawn with.
MARKS = "▌┃▸▾‹›●◂↓✗…█▓▒░·─│╭╮╰╯┤├▁▂▃▄▅▆▇"

_RAW = set(COLOR_NAME_TO_RGB) - {"transparent", "tan"}  # a function, too
_HEX = re.compile(r"#[0-9a-fA-F]{3,8}|(rgb|hsl)a?\(.*")
_MANNER = {"bold", "dim", "italic", "underline", "strike", "reverse", "not", "on"}


def raw(words: list[str]) -> bool:
    """A colour among these words is no theme variable."""
    return any(word in _RAW or _HEX.fullmatch(word) for word in words)


@pytest.mark.parametrize("sheet", SHEETS, ids=lambda path: path.name)
def test_a_style_sheet_has_no_colour_of_its_own(sheet: Path) -> None:
    """So that light, dark and 16 colours follow."""
    text = re.sub(r"/\*.*?\*/", "", sheet.read_text(encoding="utf-8"), flags=re.DOTALL)
    values = re.findall(r"[\w-]+\s*:\s*([^;{}]+);", text)
    assert values
    assert [value for value in values if raw(value.split())] == []


def test_no_widget_has_a_colour_of_its_own() -> None:
    """A string that is a style names none but the theme's; nor does a widget's own style sheet."""
    found = []
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                words = node.value.split()
                style = all(word in _RAW | _MANNER or _HEX.fullmatch(word) for word in words)
                rules = re.findall(r"(?:color|background|border)\s*:\s*([^;{}]+);", node.value)
                if (style and raw(words)) or any(raw(value.split()) for value in rules):
                    found.append((path.name, node.value))
    assert found == []


@pytest.mark.parametrize("mark", MARKS)
def test_every_mark_has_a_twin_in_ascii(mark: str) -> None:
    """Of one cell, that says something."""
    twin = mark.encode("ascii", FOR_SCREENS).decode()
    assert len(twin) == 1
    assert twin.strip("? ")

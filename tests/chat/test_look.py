"""One look everywhere: colours are the theme's, and its marks have twins in ASCII."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest
from rich.style import Style
from textual._color_constants import COLOR_NAME_TO_RGB
from textual.color import Color

import tui
from tests.support.chat_fakes import FakeRunning, chat_screen, make_app
from tui.command.ascii_signs import FOR_SCREENS
from tui.storage import Conversations
from tui.widgets import Hints, StatusLine

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
                lost = {"$text", "$text-muted", "$text-disabled"} & set(words)  # widgets/tones.py
                if lost or (style and raw(words)) or any(raw(value.split()) for value in rules):
                    found.append((path.name, node.value))
    assert found == []


@pytest.mark.parametrize("theme", ["textual-dark", "textual-light", "nord", "catppuccin-latte"])
async def test_what_the_program_says_is_dimmer_than_the_text(
    theme: str, store: Conversations
) -> None:
    """In a text's own style and by a style sheet alike, and readable all the same."""
    async with make_app(FakeRunning(), store).run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        pilot.app.theme = theme
        await pilot.pause()
        hints, status = screen.query_one(Hints), screen.query_one(StatusLine)
        ground = hints.background_colors[1]
        text = contrast(ground, screen.visual_style.rich_style)
        for widget, words in ((hints, " send"), (status, "Tiny Llama")):
            (style,) = [
                part.style for part in widget.render_lines(widget.size.region)[0]
                if part.text.startswith(words)
            ]  # fmt: skip
            assert style is not None
            assert 4.5 < contrast(ground, style) < text


async def test_in_sixteen_colours_it_is_dim(store: Conversations) -> None:
    async with make_app(FakeRunning(), store).run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        pilot.app.theme = "ansi-light"
        await pilot.pause()
        hints = screen.query_one(Hints)
        parts = hints.render_lines(hints.size.region)[0]
        styles = [part.style for part in parts if part.text == " send"]
        assert [(style.dim, style.color.name) for style in styles if style and style.color] == [
            (True, "default")
        ]


def contrast(ground: Color, style: Style) -> float:
    """As WCAG has it, of a text on its background."""
    assert style.color is not None

    def light(color: Color) -> float:
        parts = [part / 255 for part in color.rgb]
        linear = [p / 12.92 if p <= 0.03928 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return sum(w * p for w, p in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    dark, bright = sorted((light(ground), light(Color.from_rich_color(style.color))))
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("mark", MARKS)
def test_every_mark_has_a_twin_in_ascii(mark: str) -> None:
    """Of one cell, that says something."""
    twin = mark.encode("ascii", FOR_SCREENS).decode()
    assert len(twin) == 1
    assert twin.strip("? ")

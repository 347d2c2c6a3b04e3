"""What the chat knows of Textual's inside: a release that changes it is to be met here first."""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pkgutil
import re
from collections.abc import Iterator
from functools import cache
from types import ModuleType
from typing import Any

import pytest
import textual
from textual.app import App
from textual.screen import Screen

import tui

AREA = "textual.widgets._text_area.TextArea"
# Functions, who counts on them, and the beginning of the SHA-256 of their source in Textual 8.2.8.
FUNCTIONS = [
    ("textual.app.App._check_bindings", "tui/app.py", "45c13f7cd80a"),
    ("textual.screen.Screen._binding_chain", "tui/app.py", "80969de582ed"),
    ("textual.screen.Screen._on_idle", "tui/screens/direct.py", "a12b8e81040f"),
    ("textual.screen.Screen._on_timer_update", "tui/screens/direct.py", "b86659affd67"),
    ("textual._compositor.Compositor._get_renders", "tui/screens/rows.py", "a795c5243234"),
    ("textual._compositor.Compositor._render_chops", "tui/screens/rows.py", "7324ee952a46"),
    ("textual._cells.cell_width_to_column_index", "tui/widgets/folding.py", "c91a101c77c9"),
    (f"{AREA}.get_target_document_location", "tui/widgets/folding.py", "05f7a182de11"),
    (f"{AREA}.render_lines", "tui/widgets/folding.py", "8fc55973693b"),
    (f"{AREA}._watch_show_vertical_scrollbar", "tui/widgets/folding.py", "5e4c5cda61c8"),
    (f"{AREA}._replace_via_keyboard", "tui/widgets/prompt.py", "1cac23835051"),
]
# What its objects hold, with a piece of the source that says so.
HELD = [
    ("textual.app.App._batch_count", "tui/screens/direct.py", "self._batch_count += 1"),
    ("textual.screen.Screen._compositor", "tui/screens/direct.py", "_compositor = Compositor()"),
    (f"{AREA}._theme", "tui/widgets/folding.py", "self._theme: TextAreaTheme"),
]


def source(name: str) -> str:
    thing: Any = pkgutil.resolve_name(name)
    return inspect.getsource(getattr(thing, "fget", thing))  # a property's function


@pytest.mark.parametrize(("name", "where", "known"), FUNCTIONS, ids=str)
def test_its_functions_are_as_they_were(name: str, where: str, known: str) -> None:
    told = f"Textual {textual.__version__} has another {name}: see to {where}, then write down"
    digest = hashlib.sha256("".join(source(name).split()).encode()).hexdigest()[:12]
    assert digest == known, f"{told} {digest}"


@pytest.mark.parametrize(("name", "where", "piece"), HELD, ids=str)
def test_its_objects_hold_what_they_held(name: str, where: str, piece: str) -> None:
    owner = name.rpartition(".")[0]
    told = f"Textual {textual.__version__} holds {name} in another way: see to {where}"
    assert piece in source(owner), told


def test_nothing_else_of_its_inside_is_used() -> None:
    """Private modules, and what is private to its classes: used, or another thing here."""
    known = {(where, name.rpartition(".")[2]) for name, where, _ in (*FUNCTIONS, *HELD)}
    used: set[tuple[str, str]] = set()
    for found in pkgutil.walk_packages(tui.__path__, "tui."):
        module = importlib.import_module(found.name)
        where = f"{found.name.replace('.', '/')}.py"
        used |= {(where, name) for name in _private(module)}
    assert used - {("tui/screens/rows.py", "textual._compositor")} <= known


def _private(module: ModuleType) -> Iterator[str]:
    imports = re.compile(r"^\s*(?:from|import) (textual(?:\.\w+)*\._\w+)", re.MULTILINE)
    text = inspect.getsource(module)
    yield from imports.findall(text)
    text = imports.sub("", text)
    others = set(re.findall(r"(?<!\bself)(?<!\bcls)(?<!\bos)\.(_[a-z]\w*)", text))
    yield from others & (_inside(App) | _inside(Screen))
    for kind in vars(module).values():
        if inspect.isclass(kind) and kind.__module__ == module.__name__:
            own = set(
                re.findall(r"(?:def |self\.|super\(\)\.)(_[a-z]\w*)", inspect.getsource(kind))
            )
            for base in kind.__mro__[1:]:
                if base.__module__.startswith("textual."):
                    yield from own & _inside(base)


@cache
def _inside(kind: type[Any]) -> set[str]:
    """The names of all that is private to a class."""
    return set(re.findall(r"(?:def |self\.)(_[a-z]\w*)", inspect.getsource(kind)))

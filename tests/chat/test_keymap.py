"""The table of keys: all that is shown or bound comes from it, and keys can be changed."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from textual.dom import DOMNode

import tui
from tests.support.chat_fakes import (
    FakeRunning,
    ask,
    chat_screen,
    make_app,
    shown,
    until,
)
from tui.app import KvchatApp
from tui.key_file import FILE, read_keymap
from tui.keymap import ACTIONS, BY_ID, Action, Keymap, Place, Show, label, markdown
from tui.screens.branches import BranchesScreen
from tui.screens.chat import ChatScreen
from tui.screens.compare import CompareScreen
from tui.screens.context import ContextScreen
from tui.screens.conversations import ConversationsScreen
from tui.screens.details import DetailsScreen
from tui.screens.explorer import ExplorerScreen
from tui.screens.history import HistoryScreen
from tui.screens.keys import KeysScreen
from tui.screens.line import LineScreen
from tui.screens.messages import Messages
from tui.screens.report import ReportScreen
from tui.storage import Conversations
from tui.widgets import Prompt

OWNERS: dict[Place, type[DOMNode]] = {
    Place.APP: KvchatApp,
    Place.CHAT: ChatScreen,
    Place.PROMPT: Prompt,
    Place.HISTORY: HistoryScreen,
    Place.LIST: ConversationsScreen,
    Place.LINE: LineScreen,
    Place.MESSAGE: Messages,
    Place.SELECT: Messages,
    Place.BRANCHES: BranchesScreen,
    Place.COMPARE: CompareScreen,
    Place.REPORT: ReportScreen,
    Place.DETAILS: DetailsScreen,
    Place.EXPLORER: ExplorerScreen,
    Place.CONTEXT: ContextScreen,
    Place.HELP: KeysScreen,
}


HEARD = {Place.PROMPT, Place.SELECT}


def keymap_of(folder: Path, text: str) -> tuple[Keymap, tuple[str, ...]]:
    (folder / FILE).write_text(text)
    return read_keymap(folder)


# ---------------------------------------------------------------- the table


def test_each_id_is_one_row_and_each_row_is_described() -> None:
    assert len(BY_ID) == len(ACTIONS)
    for row in ACTIONS:
        assert row.keys
        assert row.does.endswith(".")
        assert row.hint or not row.show & (Show.IDLE | Show.ANSWERING | Show.DEAD)


@pytest.mark.parametrize("row", [row for row in ACTIONS if not row.fixed], ids=lambda row: row.id)
def test_every_row_has_its_method(row: Action) -> None:
    name = row.action.partition("(")[0]
    assert callable(getattr(OWNERS[row.place], f"action_{name}", None))


@pytest.mark.parametrize("place", Place)
def test_every_binding_is_a_row(place: Place) -> None:
    """Each place binds what the table says of it, and nothing else; two hear their keys
    themselves."""
    owner = OWNERS[place]
    bound = {
        (binding.key, binding.action, binding.id, binding.priority)
        for binding in owner.__dict__.get("BINDINGS", ())
        if place not in HEARD
    }
    rows = {
        (",".join(Keymap().keys(row.id)), row.action, row.id, row.priority)
        for row in ACTIONS
        if row.place is place and not row.fixed and place not in HEARD
    }
    assert bound == rows


def test_no_text_names_a_key_by_itself() -> None:
    """A key that is written out in a text would not follow when it is changed."""
    key = re.compile(r"\bCtrl\+|\bF\d\b|\bEsc\b|\bPg(Up|Dn)\b")
    table = {"keymap.py", "key_file.py", "keyboard.py"}
    for path in sorted(Path(next(iter(tui.__path__))).rglob("*.py")):
        if path.name in table:
            continue
        tree = ast.parse(path.read_text())
        docs = {
            ast.get_docstring(node, clean=False)
            for node in ast.walk(tree)
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                assert node.value in docs or not key.search(node.value), (path.name, node.value)


def test_the_table_is_read_without_textual() -> None:
    """README's table is printed by the module, which imports no screen."""
    code = (
        "import sys, tui.keymap, tui.key_file\n"
        "sys.exit(bool({'textual', 'rich'} & sys.modules.keys()))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=60).returncode == 0
    lines = markdown().splitlines()
    assert len(lines) == len(ACTIONS) + 2
    assert (
        "| In the chat | Ctrl+N, /new | Begins a new conversation. | `conversation.new` |" in lines
    )


# ---------------------------------------------------------------- the file


def test_without_a_file_the_keys_are_the_usual_ones(tmp_path: Path) -> None:
    assert read_keymap(tmp_path / "nowhere") == (Keymap(), ())


def test_keys_are_changed_by_id(tmp_path: Path) -> None:
    """Quoted or not, several, in any spelling; two rows may exchange their keys."""
    keymap, problems = keymap_of(
        tmp_path,
        '"model.report" = "Alt+Shift+F3, f16"\nview.up = "Shift+PgUp"\n'
        '"conversation.new" = "alt+r"\n"answer.regenerate" = "ctrl+n"\n',
    )
    assert problems == ()
    assert keymap.keys("model.report") == ("alt+shift+f3", "f16")
    assert keymap.label("model.report") == "Alt+Shift+F3"
    assert keymap.keys("view.up") == ("shift+pageup",)
    assert keymap.label("conversation.new") == "Alt+R"
    assert keymap.label("answer.regenerate") == "Ctrl+N"


def test_the_key_that_opens_a_screen_closes_it(tmp_path: Path) -> None:
    keymap, problems = keymap_of(tmp_path, '"model.report" = "f12"')
    assert problems == ()
    assert keymap.keys("report.close") == ("escape", "q", "f12")


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ('"chat.fly" = "f12"', ["chat.fly"]),
        ('"model.report" = 3', ["model.report", "in quotes"]),
        ('"model.report" = ["f12"]', ["model.report", "in quotes"]),
        ('"model.report" = ""', ["model.report", "no key"]),
        ('"model.report" = "f9,"', ["model.report", "no key"]),
        ('"model.report" = "ctrl+"', ["model.report", "no key"]),
        ('"model.report" = "f99"', ["f99", "no key"]),
        ('"model.report" = "hyper+x"', ["hyper+x", "no key"]),
        ('"model.report" = "ctrl+ctrl+x"', ["no key"]),
        ('"model.report" = "ctrl+é"', ["no key"]),
        ('"model.report" = "x"', ["needed for writing"]),
        ('"list.delete" = "backspace"', ["needed for writing"]),
        ('"app.quit" = "shift+left"', ["needed for writing"]),
        ('"line.enter" = "f12"', ["line.enter", "cannot be changed"]),
        ('"model.report" = "ctrl+n"', ["Ctrl+N", "model.report", "conversation.new"]),
        ('"prompt.newline" = "enter"', ["Enter", "prompt.newline", "prompt.send"]),
        ('"app.quit" = "ctrl+m"', ["Enter", "app.quit", "prompt.send"]),
        ('"model.report" = "up"', ["↑", "model.report", "prompt.earlier"]),
        ('"list.open" = "ctrl+q"', ["Ctrl+Q", "list.open", "app.quit"]),
        ("nonsense", [FILE, "cannot be read"]),
        ("a = " + "[" * 5000 + "]" * 5000, [FILE, "cannot be read"]),
        ('"model.report" = "f12"\n"model.report" = "f4"', [FILE, "cannot be read"]),
    ],
)
def test_what_cannot_be_used_is_told(line: str, words: list[str], tmp_path: Path) -> None:
    """One sentence that names the file and the culprit; the usual key stays."""
    keymap, problems = keymap_of(tmp_path, line)
    assert len(problems) == 1
    assert "\n" not in problems[0]
    assert problems[0].endswith((".", ").")) or "a line is like" in problems[0]
    for word in (str(tmp_path / FILE), *words):
        assert word in problems[0]
    assert keymap == Keymap()


def test_a_file_that_is_no_text_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).write_bytes(b"\xff\xfe\x00")
    assert read_keymap(tmp_path)[0] == Keymap()
    assert "cannot be read" in read_keymap(tmp_path)[1][0]
    (tmp_path / FILE).unlink()
    (tmp_path / FILE).mkdir()
    assert "cannot be read" in read_keymap(tmp_path)[1][0]


def test_of_two_clashing_changes_the_later_gives_way(tmp_path: Path) -> None:
    """Also along a chain: what gives way may not take the key of what took its own."""
    keymap, problems = keymap_of(tmp_path, '"model.report" = "f12"\n"conversation.new" = "f12"')
    assert keymap.changed == {"model.report": ("f12",)}
    assert len(problems) == 1
    keymap, problems = keymap_of(
        tmp_path, '"model.report" = "ctrl+n"\n"conversation.new" = "alt+r"'
    )
    assert keymap == Keymap()
    assert len(problems) == 2


def test_what_is_good_in_a_file_is_used(tmp_path: Path) -> None:
    keymap, problems = keymap_of(tmp_path, '"chat.fly" = "f12"\n"model.report" = "f14"')
    assert len(problems) == 1
    assert keymap.label("model.report") == "F14"


# ---------------------------------------------------------------- on the screen


async def test_changed_keys_work_and_are_shown(store: Conversations, tmp_path: Path) -> None:
    """Hints, welcome, palette, the list of keys and notices follow; the old keys do nothing."""
    keymap, problems = keymap_of(
        tmp_path,
        '"conversation.new" = "alt+n"\n"prompt.newline" = "f16"\n"app.keys" = "f17"\n'
        '"model.report" = "f13"\n"answer.regenerate" = "f15"\n"list.delete" = "f18"\n'
        '"app.palette" = "f19"',
    )
    assert problems == ()
    running = FakeRunning([["One."], ["Two."], []])
    app = make_app(running, store, keymap=keymap)
    async with app.run_test(size=(120, 220)) as pilot:
        screen = await chat_screen(pilot)
        assert "Enter sends the message, F16 begins a new line, F17 lists all keys" in shown(pilot)
        for hint in ("F16 newline", "F17 keys", "F13 fit", "Alt+N new", "F15 again", "F19 all"):
            assert hint in shown(pilot)
        helps = {c.title: c.help for c in app.get_system_commands(app.screen)}
        assert helps["New chat"] == "Begins a new conversation (Alt+N)"
        await pilot.press("a", "f16", "b", "ctrl+j")
        await until(pilot, lambda: screen.query_one(Prompt).text == "a\nb")
        await ask(pilot, "Go")
        await pilot.press("alt+r")
        await pilot.pause()
        assert len(running.prompts) == 1
        await pilot.press("f15")
        await until(pilot, lambda: "Two." in shown(pilot) and not screen.generating)
        await pilot.press("f13")
        await until(pilot, lambda: isinstance(app.screen, ReportScreen))
        await pilot.press("f13")
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("f17")
        await until(pilot, lambda: isinstance(app.screen, KeysScreen))
        listed = shown(pilot)
        for row in ACTIONS:
            assert row.does in listed
            for key in keymap.keys(row.id):
                assert label(key) in listed
        assert "Alt+N" in shown(pilot)
        assert FILE in shown(pilot)
        assert "Ctrl+N" not in shown(pilot)
        await pilot.press("f17")
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("ctrl+o")
        await until(pilot, lambda: "2 messages" in shown(pilot) or "3 messages" in shown(pilot))
        assert "F18 delete" in shown(pilot)
        await pilot.press("f18")
        await until(pilot, lambda: "F18 again deletes" in shown(pilot))
        await pilot.press("escape")
        await until(pilot, lambda: app.screen is screen)
        await pilot.press("alt+n")
        await until(pilot, lambda: not screen.chat.path)
        await ask(pilot, "Say nothing")
        await until(pilot, lambda: "F15 asks it again" in shown(pilot))


async def test_exchanged_keys_work(store: Conversations, tmp_path: Path) -> None:
    keymap, _ = keymap_of(tmp_path, '"conversation.new" = "alt+r"\n"answer.regenerate" = "ctrl+n"')
    app = make_app(FakeRunning([["One."], ["Two."]]), store, keymap=keymap)
    async with app.run_test(size=(80, 24)) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go")
        await pilot.press("ctrl+n")
        await until(pilot, lambda: "Two." in shown(pilot) and not screen.generating)
        await pilot.press("alt+r")
        await until(pilot, lambda: not screen.chat.path)


async def test_a_problem_with_the_keys_is_told_in_the_chat(store: Conversations) -> None:
    app = make_app(FakeRunning(), store, warnings=("keys.toml: F12 cannot be.",))
    async with app.run_test(size=(80, 24)) as pilot:
        await chat_screen(pilot)
        await until(pilot, lambda: "keys.toml: F12 cannot be." in shown(pilot))

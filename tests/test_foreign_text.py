"""Whatever a file, a name, a template, an engine, a model or a saved chat says: nothing of it
steers the terminal, on any way that text takes to it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from textual import events

from tests.support.chat_fakes import FakeModel, FakeRunning, ask, chat_screen, make_app, until
from tests.support.gguf_files import tiny_llama
from tui.app import KvchatApp
from tui.screens import ChatScreen
from tui.screens.links import may_open
from tui.storage import Conversation, Conversations, StoredMessage
from tui.widgets import Prompt
from tuner.engine.protocol import Message
from tuner.errors import EngineError
from tuner.profiles.profiles import Profile, Profiles
from tuner.settings import Settings

ROOT = Path(__file__).parents[1]
_SYSTEM = (
    "\x1b]52;c;RVZJTA==\x07\x1b]0;EVIL\x07\x1bPEVIL\x1b\\\x1b[6666h\x9b6666h\x9d0;EVIL\x9c\x90EVIL"
    "\x9c\u202eEVIL\u2066\x08\x7f\r"
)
NAME = f"m{_SYSTEM}[red]x[b"  # as a file may be called
SAID = f"{NAME}\x1b]8;;http://evil.example\x1b\\link\x1b]8;;\x1b\\ &#x202e;&#27;]52;c;eA=="
EVIL = f"{SAID}\x00"  # what no argument can hold

# Only these print: the door, a module's own program, and the model process, into its log.
MAY_PRINT = {
    "tui/command/output.py",
    "tui/keymap.py",
    "tui/parachute.py",
    "tuner/engine/probe.py",
    "tuner/engine/worker.py",
}
# What a widget of these draws is markup unless it is told otherwise.
MAY_BE_STATIC = {"tui/widgets/plain.py", "tui/screens/keys.py"}


def calls(node: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    for one in ast.walk(node):
        if isinstance(one, ast.Call):
            yield ast.unparse(one.func), one


@pytest.mark.parametrize(
    "path",
    [path for room in ("tui", "tuner") for path in (ROOT / room).rglob("*.py")],
    ids=lambda path: path.stem,
)
def test_there_is_one_door_to_the_terminal(path: Path) -> None:
    """Nothing else prints, or draws text that is not plain."""
    name = path.relative_to(ROOT).as_posix()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prints = re.compile(
        r"^(print|(sys\.)?(std(out|err)|__std(out|err)__)(\.buffer)?\.write(lines)?)$"
    )
    for called, call in calls(tree):
        if prints.match(called):
            assert name in MAY_PRINT, f"{name}:{call.lineno} prints"
        if called in {"Static", "Label", "Content.from_markup", "Text.from_markup"}:
            assert name in MAY_BE_STATIC, f"{name}:{call.lineno} draws text that is not plain"
        if called.endswith(".notify"):
            assert "markup=False" in ast.unparse(call), f"{name}:{call.lineno} draws markup"


# ---------------------------------------------------------------- outside the screens


def steers(output: str) -> list[str]:
    """What in the bytes of a terminal did not come from the program itself."""
    foreign = re.compile(
        r"\x1b\]52;|\x1b\]0;EVIL|\x1b\]8;|\x1bPEVIL|\x1b\[6666|[\x80-\x9f\u202a-\u202e\u2066-\u2069]"
    )
    return foreign.findall(output)


def controls(output: str) -> list[str]:
    """The same of a command that sends colours and rewrites its line of progress, no more."""
    ours = re.sub(r"\x1b\[[0-9;]*m|\r\x1b\[K|\r\n", "", output)
    return re.findall(r"[\x00-\x09\x0b-\x1f\x7f]", ours) + steers(output)


@pytest.fixture
def evil_model(tmp_path: Path) -> Path:
    return tiny_llama(tmp_path / f"{NAME}.gguf", {"general.name": SAID})


posix = pytest.mark.skipif(sys.platform == "win32", reason="needs a pty")


@posix
@pytest.mark.parametrize(
    ("args", "status"),
    [
        (("MODEL", "--explain", "--vram", "8GiB", "--ram", "8GiB"), 0),
        (("MODEL", "MISSING", "--explain", "--vram", "8GiB", "--ram", "8GiB"), 3),
        (("MODEL", "--explain", "--json", "--vram", "8GiB", "--ram", "8GiB"), 0),
        (("MISSING", "--explain", "--json"), 3),
        (("MISSING", "-p", "hi"), 3),
        (("ARCHITECTURE", "--explain"), 3),
        (("MODEL", "--kv", NAME), 2),
        ((NAME, f"--{NAME}"), 2),
        (("--forget", NAME), 2),
        (("--profiles",), 0),
        (("MODEL", "-p", "hi", "--no-profile"), 0),
    ],
    ids=lambda value: " ".join(ascii(v)[1:8] for v in value) if isinstance(value, tuple) else "",
)
def test_no_command_lets_it_through(
    tmp_path: Path, evil_model: Path, args: tuple[str, ...], status: int
) -> None:
    from tests.support.terminal import kvchat  # noqa: PLC0415 - needs a pty

    Profiles().save(
        Profile(EVIL, EVIL, EVIL, Settings(n_ctx=512), saved_at=_SYSTEM, engine_version=EVIL)
    )
    architecture = tiny_llama(tmp_path / "arch.gguf", {"general.architecture": NAME})
    names = {
        "MODEL": str(evil_model),
        "MISSING": str(tmp_path / f"none{NAME}"),
        "ARCHITECTURE": str(architecture),
    }
    with kvchat(*(names.get(arg, arg) for arg in args), text=SAID, warn=SAID) as terminal:
        found = terminal.ends(60)
    assert controls(terminal.output) == []
    assert found == status
    assert "EVIL" in terminal.output or "hi" not in args or status == 0


@posix
@pytest.mark.parametrize(
    "script",
    [{"fail_load": f"load_failed:{SAID}"}, {"fail_generate": f"decode_failed:{SAID}"}],
    ids=["load", "answer"],
)
def test_no_error_of_the_engine_does(evil_model: Path, script: dict[str, str]) -> None:
    from tests.support.terminal import kvchat  # noqa: PLC0415

    with kvchat(str(evil_model), "-p", "hi", **script) as terminal:
        assert terminal.ends(60) == 5
    assert "EVIL" in terminal.output
    assert controls(terminal.output) == []


@posix
def test_no_chat_does(evil_model: Path) -> None:
    """The whole program: its screens, and what it says after they are gone."""
    from tests.support.terminal import kvchat  # noqa: PLC0415

    with kvchat(str(evil_model), text=f"DONE {SAID}", warn=SAID, chunk=400) as terminal:
        terminal.until(lambda: "Writeamessage" in terminal.shown)
        terminal.press(f"\x1b[200~ask {_SYSTEM.replace(chr(27), '')}\x1b[201~")
        terminal.press("\r")
        terminal.until(lambda: "DONE" in terminal.shown)
        terminal.press("\x11")
        assert terminal.ends(20) == 0
    assert steers(terminal.output) == []
    with kvchat(str(evil_model), fail_load=f"load_failed:{SAID}") as terminal:
        terminal.until(lambda: "quits" in terminal.shown)
        terminal.press("q")
        assert terminal.ends(20) == 5
    assert steers(terminal.output) == []


# ---------------------------------------------------------------- on the screens


def assert_plain(app: KvchatApp) -> str:
    """Each cell of the screen is text, and no link of the terminal's own; returns the text."""
    strips = app.screen._compositor.render_strips()
    text = "\n".join("".join(segment.text for segment in strip) for strip in strips)
    assert re.findall(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", text) == []
    assert not any(segment.style and segment.style.link for strip in strips for segment in strip)
    return text


class EvilRunning(FakeRunning):
    def report_text(self, width: int) -> str:
        return f"report {EVIL}"

    def status(self) -> str:
        return f"CPU · {EVIL}"


async def test_no_screen_draws_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Messages, titles, notices, the report, the list, what is recalled, what is pasted."""
    monkeypatch.setenv("KVCHAT_CONFIG_DIR", str(tmp_path / NAME))
    store = Conversations.open(tmp_path / NAME / "conversations.db")
    said = [
        StoredMessage("u", None, "user", EVIL, 1.0),
        StoredMessage(
            "a", "u", "assistant", EVIL, 1.0, state=EVIL, reasoning=EVIL, model_name=EVIL
        ),
    ]
    store.save(Conversation("c1", EVIL, 1.0, 1.0, EVIL, "a"), said)
    answer = f"DONE <{EVIL}>\n\n| {EVIL} |\n|---|\n| x |\n\n```{EVIL}\n{EVIL}\n```\n"
    error = EngineError("crashed", f"died {EVIL}")
    running = EvilRunning(
        [[f"<think>{EVIL}</think>{answer}"], [error]],
        model=FakeModel(EVIL, EVIL),
        warnings=(EVIL,),
        log_path=tmp_path / NAME,
    )
    app = make_app(running, store, resume="c1", warnings=(EVIL,))
    async with app.run_test(size=(100, 80)) as pilot:
        screen = await chat_screen(pilot)
        prompt = screen.query_one(Prompt)
        await pilot.press("up")
        await until(pilot, lambda: prompt.text)
        assert_plain(app)
        prompt.clear()
        app.post_message(events.Paste(f"one\r\n{EVIL}\rtwo"))
        await until(pilot, lambda: prompt.text)
        assert prompt.text.startswith("one\n")
        assert prompt.text.splitlines()[-1] == "two"
        assert_plain(app)
        await ask(pilot, f"ask {EVIL}")
        await until(pilot, lambda: "DONE" in assert_plain(app))
        await ask(pilot, "again")
        await until(pilot, lambda: "died" in assert_plain(app))
        for key, word in (("f2", "report"), ("f1", "Other keys"), ("ctrl+o", "messages")):
            await pilot.press(key)
            await until(pilot, lambda word=word: word in assert_plain(app))  # type: ignore[misc]
            if key == "ctrl+o":
                await pilot.press("ctrl+e")
                await until(pilot, lambda: "New title" in assert_plain(app))
                await pilot.press("escape")
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, ChatScreen))
        screen._activity.activity = EVIL
        await pilot.pause()
        assert_plain(app)
    assert running.prompts[0][0] == Message("system", EVIL)


# ---------------------------------------------------------------- links


@pytest.mark.parametrize(
    ("address", "opens"),
    [
        ("https://example.org/a?b=c", True), ("HTTP://example.org", True),
        ("file:///etc/passwd", False),
        ("javascript:alert(1)", False), ("data:text/html,x", False), ("ssh://host", False),
        ("vscode://open", False), ("//example.org", False), ("https:", False), ("", False),
        ("http://[bad", False), ("-x", False), ("\x1bhttps://example.org", False),
    ],
)  # fmt: skip
def test_only_the_web_is_opened(address: str, opens: bool) -> None:
    assert may_open(address) == opens


async def test_an_address_is_shown_before_it_is_opened(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first click says where the link leads, the second one goes there; no other one does."""
    opened: list[str] = []
    monkeypatch.setattr(KvchatApp, "open_url", lambda _, url, **__: opened.append(url))
    store = Conversations.open(tmp_path / "conversations.db")
    links = "[bank](https://evil.example/x) [two](http://two.example) ![i](ftp://files.example/p)"
    app = make_app(FakeRunning([[links]]), store)
    async with app.run_test(size=(100, 30), notifications=True) as pilot:
        screen = await chat_screen(pilot)
        await ask(pilot, "Go")
        (block,) = [b for b in screen.query("MarkdownParagraph") if "bank" in str(b.render())]

        async def click(column: int) -> None:
            await pilot.click(block, offset=(column, 0))
            await pilot.pause()

        await click(1)
        assert opened == []
        await until(pilot, lambda: "https://evil.example/x" in assert_plain(app))
        await click(6)
        assert opened == []
        await until(pilot, lambda: "http://two.example" in assert_plain(app))
        await click(6)
        await until(pilot, lambda: opened == ["http://two.example"])
        for _ in range(2):
            await click(10)
        await until(pilot, lambda: "Only http and https" in assert_plain(app))
        assert opened == ["http://two.example"]

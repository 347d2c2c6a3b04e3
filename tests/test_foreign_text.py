"""Whatever a file, a name, a template, an engine, a model or a saved chat says: nothing of it
steers the terminal, on any way that text takes to it."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from textual import events

from tests.support.chat_fakes import FakeModel, FakeRunning, ask, chat_screen, make_app, until
from tests.support.explorers import explorer_of
from tests.support.gguf_files import tiny_llama
from tests.support.giants import LLAMA_8B, giant, gpu, machine
from tui.app import KvchatApp
from tui.command.output import write
from tui.screens.chat import ChatScreen
from tui.screens.links import may_open
from tui.storage import Conversation, Conversations, StoredMessage
from tui.widgets import Prompt
from tuner.engine.protocol import Message
from tuner.errors import EngineError, FileError, KvchatError
from tuner.gguf.header import read_header
from tuner.machine.machine import Process
from tuner.model.model import describe
from tuner.planning.plan import Plan
from tuner.planning.planner import make_plan
from tuner.profiles.profiles import Profile, Profiles
from tuner.report.overview import overview_text
from tuner.report.text import report_text
from tuner.settings import Settings
from tuner.wishes import Wishes

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
    "tuner/engine/llama.py",
    "tuner/engine/probe.py",
    "tuner/engine/service.py",
    "tuner/engine/worker.py",
}
MAY_ASK_STREAMS = {"tui/command/cli.py"}  # what they are, before anything is written
# What a widget of these draws is markup unless it is told otherwise.
MAY_BE_STATIC = {"tui/widgets/plain.py", "tui/screens/keys.py"}
MAY_BE_MARKDOWN: set[str] = set()
MAY_HAVE_TITLES = {"tui/widgets/prompt.py"}  # numbers alone, as Content
MAY_START = {"tui/composing/editor.py"}  # the terminal is lent to it

_PRINTS = re.compile(
    r"^(print|input|getpass|pprint|(getpass|logging|pprint)\.\w+|warnings\.warn\w*|traceback\.print_\w+"
    r"|os\.(write|writev|system|popen)|console\.\w+|.*\.print_(help|usage)"
    r"|(sys\.)?(std(out|err)|__std(out|err)__)(\.buffer)?\.write(lines)?)$"
)
_STREAM = re.compile(r"^sys\.(__)?std(out|err)(__)?$")
_STARTS = re.compile(r"^(Popen|subprocess\.[a-zA-Z_]+)$")
_MARKUP = {"border_title", "border_subtitle", "tooltip"}  # attributes that Textual draws as such


def ways_round(name: str, source: str) -> Iterator[str]:
    """What in a module goes round the door: prints, gives a stream of the program's to somebody,
    or draws text that is not plain."""
    tree = ast.parse(source)
    above = {below: node for node in ast.walk(tree) for below in ast.iter_child_nodes(node)}
    for node in ast.walk(tree):
        said = ast.unparse(node) if isinstance(node, ast.expr) else ""
        what = ""
        if isinstance(node, ast.Call):
            what = _call_round(name, node)
        elif isinstance(node, ast.Attribute) and _STREAM.match(said):
            use = ast.unparse(above[node])
            asks = re.fullmatch(
                rf"{said}(\.(isatty|flush|fileno|buffer|write)| is( not)? None)", use
            )
            what = "" if asks or name in MAY_PRINT | MAY_ASK_STREAMS else "gives a stream away"
        elif isinstance(node, ast.Attribute) and node.attr in _MARKUP:
            stores = isinstance(node.ctx, ast.Store) and name not in MAY_HAVE_TITLES
            what = "draws markup" if stores else ""
        elif isinstance(node, ast.ImportFrom) and node.module == "sys":
            what = "hides a stream" if any("std" in one.name for one in node.names) else ""
        if what:
            yield f"{name}:{getattr(node, 'lineno', 0)} {what}"


def _call_round(name: str, call: ast.Call) -> str:
    called, given = ast.unparse(call.func), {word.arg for word in call.keywords}
    if _PRINTS.match(called) and name not in MAY_PRINT:
        return "prints"
    if (
        _STARTS.match(called)
        and name not in MAY_START
        and not given >= {"stdout", "stderr"}
        and "capture_output" not in given
    ):
        return "starts a process that may print"
    if called in {"sys.exit", "SystemExit"} and isinstance(
        call.args[0] if call.args else None, ast.JoinedStr | ast.Constant
    ):
        return "prints as it ends"
    if given & _MARKUP:
        return "draws markup"
    plain = "markup=False" in ast.unparse(call)
    if called in {"OptionList", "SelectionList"} or called.endswith(".notify"):
        return "" if plain else "draws markup"
    if called in {"Static", "Label", "Button", "Checkbox", "RichLog", "DataTable", "ListItem"} or (
        called.endswith(".from_markup")
    ):
        return "" if name in MAY_BE_STATIC else "draws text that is not plain"
    if called in {"Markdown", "MarkdownViewer"}:
        return "" if name in MAY_BE_MARKDOWN else "draws text that is not plain"
    return ""


@pytest.mark.parametrize(
    "path",
    [path for room in ("tui", "tuner") for path in (ROOT / room).rglob("*.py")],
    ids=lambda path: path.stem,
)
def test_there_is_one_door_to_the_terminal(path: Path) -> None:
    """Nothing else prints, or draws text that is not plain."""
    name = path.relative_to(ROOT).as_posix()
    assert [*ways_round(name, path.read_text(encoding="utf-8"))] == []


@pytest.mark.parametrize(
    "source",
    [
        "print(name)", "sys.stdout.write(name)", "out = sys.stderr", "tell(file=sys.stdout)",
        "from sys import stdout", "sys.stderr.buffer.writelines(name)", "os.write(2, name)",
        "traceback.print_exc()", "warnings.warn(name)", "logging.error(x)", "sys.exit(f'{x}')",
        "subprocess.run(command)", "Popen(command, stdout=PIPE)", "os.system(name)", "input(name)",
        "Static(name)", "Content.from_markup(name)", "app.notify(name)", "OptionList(name)",
        "self.border_title = name", "Plain(name, tooltip=name)", "Markdown(name)",
        "parser.print_usage()",
    ],
)  # fmt: skip
def test_no_way_round_it_is_overlooked(source: str) -> None:
    assert len([*ways_round("tui/new.py", source)]) == 1


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


def test_no_report_lets_it_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In colour, too: whatever a file, a card, another program or an error is called; and no row
    of the table is longer for it."""
    name = NAME + "x" * 100
    model = describe(
        read_header(tiny_llama(tmp_path / f"{name}.gguf", {"general.name": SAID * 40}))
    )
    card = replace(gpu(8), name=SAID)
    where = replace(
        machine(card), processes=(Process(1, SAID, card.id, 1 << 30),), warnings=(SAID,)
    )
    where = replace(where, host=replace(where.host, name=SAID), engine_version=_SYSTEM)
    plan = make_plan(model, where, Wishes())
    fits_nowhere = replace(plan, chosen=replace(plan.chosen, fits=False))
    rows: list[tuple[str, Plan | KvchatError]] = [
        (str(model.path), plan), (EVIL * 100, FileError("missing", EVIL, EVIL * 100)),
        (str(model.path), fits_nowhere),
    ]  # fmt: skip
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    for text in (report_text(plan, color=True), overview_text(rows, color=True)):
        write(text, coloured=True)
        shown = capsys.readouterr().out
        assert "\x1b[1m" in shown
        assert controls(shown) == []
    plain = overview_text(rows).splitlines()
    assert [line for line in plain[:4] if len(line) > 80] == []


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
        terminal.until(lambda: "F5triesagain" in terminal.shown)
        terminal.press("\x11")
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
    evil = replace(giant(LLAMA_8B), name=EVIL, quantization=EVIL)
    running = EvilRunning(
        [[f"<think>{EVIL}</think>{answer}"], [error]],
        model=FakeModel(EVIL, EVIL),
        warnings=(EVIL,),
        log_path=tmp_path / NAME,
        make_explorer=lambda: explorer_of(evil, machine(gpu(8))),
    )
    app = make_app(running, store, resume="c1", warnings=(EVIL,))
    async with app.run_test(size=(100, 110)) as pilot:
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
        for key, word in (
            ("f2", "report"), ("f3", "kvchat's own"), ("f1", "Sends"), ("ctrl+o", "messages"),
        ):  # fmt: skip
            await pilot.press(key)
            await until(pilot, lambda word=word: word in assert_plain(app))  # type: ignore[misc]
            if key == "ctrl+o":
                await pilot.press("ctrl+e")
                await until(pilot, lambda: "New title" in assert_plain(app))
                await pilot.press("escape")
            await pilot.press("escape")
            await until(pilot, lambda: isinstance(app.screen, ChatScreen))
        screen._lines.say(EVIL)
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
        await chat_screen(pilot)
        await ask(pilot, "Go")

        async def click(word: str) -> None:
            (place,) = [(row.index(word), y) for y, row in enumerate(rows()) if word in row]
            await pilot.click(offset=place)
            await pilot.pause()

        def rows() -> list[str]:
            return [row for row in assert_plain(app).splitlines() if "example" not in row]

        await click("bank")
        assert opened == []
        await until(pilot, lambda: "https://evil.example/x" in assert_plain(app))
        await click("two")
        assert opened == []
        await until(pilot, lambda: "http://two.example" in assert_plain(app))
        await click("two")
        await until(pilot, lambda: opened == ["http://two.example"])
        for _ in range(2):
            await click("🖼")
        await until(pilot, lambda: "Only http and https" in assert_plain(app))
        assert opened == ["http://two.example"]

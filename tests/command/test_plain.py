"""The chat in lines: what it reads, what it says in words, what it saves."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest

from tests.support.chat_fakes import FakeLauncher, FakeRunning
from tests.support.explorers import explorer_of
from tests.support.giants import LLAMA_8B, giant, gpu, machine
from tui.answering import Chat
from tui.command.pace import Pace, quarter
from tui.command.plain import words
from tui.command.plain.commands import COMMANDS, Commands, WrongCommandError, command
from tui.command.plain.entries import entry
from tui.command.plain.keyboard import Keyboard
from tui.command.plain.session import Session
from tui.keymap import ACTIONS
from tui.storage import Conversations
from tui.when_full import Way
from tuner.engine.protocol import PromptProgress, Text, WasThought
from tuner.errors import EngineError, ExitCode, KvchatError
from tuner.settings import Settings


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Conversations]:
    opened = Conversations.open(tmp_path / "conversations.db")
    yield opened
    opened.close()


class Typed:
    """A keyboard on which this is typed: lines, and exceptions as keys raise them; then Ctrl+D."""

    left = had_text = edits = False

    def __init__(self, *typed: str | type[BaseException]):
        self._typed = list(typed)
        self.remembered: list[str] = []
        self.interrupts: Callable[[], bool] = lambda: False

    @property
    def interrupted(self) -> bool:
        return self.interrupts()

    def remember(self, *entries: str) -> None:
        self.remembered += entries

    def line(self, _: str, __: str = "") -> str:
        step = self._typed.pop(0) if self._typed else EOFError
        if isinstance(step, str):
            return step
        raise step


def session(
    store: Conversations, running: FakeRunning | FakeLauncher, *typed: Any, **options: Any
) -> Session:
    launcher = FakeLauncher(running) if isinstance(running, FakeRunning) else running
    keyboard = Typed(*typed)
    chat = options.pop("chat", None) or Chat()
    return Session(launcher, store, cast(Keyboard, keyboard), chat, **options)


def talk(
    store: Conversations, running: FakeRunning | FakeLauncher, *typed: Any, **more: Any
) -> int:
    """Types all of it and leaves; the exit status."""
    talked = session(store, running, *typed, **more)
    status = talked.run()
    assert talked.close(5) == ""
    return status


def said(store: Conversations) -> list[str]:
    """The path that is shown of the newest conversation."""
    newest = store.latest()
    return [m.content for m in store.shown(newest.id)] if newest is not None else []


def said_by(talked: Session) -> str:
    """The last message so far."""
    return talked.chat.path[-1].content if talked.chat.path else ""


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (["one"], "one"),
        (["one\\", "two\\", "three"], "one\ntwo\nthree"),
        (["one\\"], "one"),
        (['"""', "one", "", "two \\", '"""'], "one\n\ntwo \\"),
        (['"""one', 'two"""'], "one\ntwo"),
        (['"""one"""'], "one"),
        (['"""', "left open"], "left open"),
        (['say """'], 'say """'),
    ],
)
def test_an_entry_may_have_several_lines(lines: list[str], text: str) -> None:
    """A backslash goes on, quotes hold a block; the end of the input ends both."""
    left = iter(lines)
    began: list[bool] = []

    def line(more: bool) -> str:
        began.append(more)
        try:
            return next(left)
        except StopIteration:
            raise EOFError from None

    assert entry(line) == text
    assert began[0] is False
    assert all(began[1:])


def test_progress_is_a_line_a_second_at_most() -> None:
    """The newest is said when its time has come, and nothing twice."""
    pace = Pace(1.0)
    heard = [
        line
        for now, line in [(0.0, "0 %"), (0.5, "25 %"), (0.9, "50 %"), (1.1, "50 %"), (3.0, "50 %")]
        if pace.due(line, now)
    ]
    assert heard == ["0 %", "50 %"]
    assert [quarter(f) for f in (0.0, 0.24, 0.25, 0.99, 1.0)] == [
        "0 %", "0 %", "25 %", "75 %", "100 %",
    ]  # fmt: skip


def test_commands_are_the_chat_s_by_name() -> None:
    """Those that it has not are few; what it advises by key is advised by command."""
    of_the_chat = {row.slash for row in ACTIONS if row.slash}
    ways = {"grow", "drop", "summarise", "bring-back"}  # keys of a screen in the chat
    assert {row.name for row in COMMANDS} - of_the_chat == {"list", "show", "save", *ways}
    assert Commands().label("answer.regenerate") == "/again"
    assert Commands().label("model.explore") == ""  # a screen


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("/open 3f", ("open", "3f")), ("/AGAIN ", ("again", "")), ("/think", ("think", "")),
        ("/tmp/x is full", None), (" /new", None), ("a /new", None),
    ],
)  # fmt: skip
def test_what_a_command_is(text: str, found: tuple[str, str] | None) -> None:
    row = command(text)
    assert (row and (row[0].name, row[1])) == found


@pytest.mark.parametrize("text", ["/nothing", "/new now", "/open", "/"])
def test_what_is_no_command_is_told(text: str) -> None:
    with pytest.raises(WrongCommandError):
        command(text)


# ---------------------------------------------------------------- what is said and saved


def test_a_conversation_is_saved_with_all_its_versions(
    store: Conversations, capsys: pytest.CaptureFixture[str]
) -> None:
    running = FakeRunning([["One."], ["Another."], ["Of other words."]])
    assert talk(store, running, "Hello", "/again", "/versions 1", "/edit Hello!") == ExitCode.OK
    assert said(store) == ["Hello!", "Of other words."]
    newest = store.latest()
    assert newest is not None
    assert {m.content for m in store.messages(newest.id)} > {"Hello", "One.", "Another."}
    assert store.prompts() == ["Hello", "Hello!"]
    out, err = capsys.readouterr()
    assert "version 1 of 2 of the last answer" in err
    assert out.count("One.") == 2  # as it came, and as it was gone back to
    assert "\x1b" not in out + err


def test_a_saved_conversation_goes_on(
    store: Conversations, capsys: pytest.CaptureFixture[str]
) -> None:
    talk(store, FakeRunning([["One."]]), "Hello")
    newest = store.latest()
    assert newest is not None
    running = FakeRunning([["Two."]])
    talk(store, running, "/list", f"/open {newest.id}", "More", "/new", "/context")
    out, err = capsys.readouterr()
    assert f"{newest.id}: Hello, 2 messages" in out
    assert "You: Hello\n\nTiny Llama: One.\n" in out
    assert [m.content for m in running.prompts[0]] == ["Hello", "One.", "More"]
    assert "0 of 4,096 tokens of context are used; 4,096 are left" in err


def test_an_answer_that_is_stopped_is_kept_and_goes_on(
    store: Conversations, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl+C where it is written; /continue makes one answer of both parts."""
    running = FakeRunning([["Once upon", threading.Event()], [" a time."]])
    talked, press = session(store, running, "Tell", "/continue"), iter([True])
    keyboard = cast(Typed, talked._keyboard)
    keyboard.interrupts = lambda: said_by(talked) == "Once upon" and next(press, False)
    talked.run()
    talked.close(5)
    assert said(store) == ["Tell", "Once upon a time."]
    assert "stopped, and kept; /continue goes on" in capsys.readouterr().err


@pytest.mark.parametrize("shows", [False, True])
def test_a_thought_is_said_in_words_and_shown_if_asked_for(
    shows: bool, store: Conversations, capsys: pytest.CaptureFixture[str]
) -> None:
    thought = Text("They greet me.", 4, thought=True)
    running = FakeRunning([[PromptProgress(1, 1), thought, "Hi."]], thought_seconds=4.0)
    talk(store, running, "Hello", show_thinking=shows)
    out, err = capsys.readouterr()
    assert "kvchat: thinking\n" in err
    assert "thought for" in err
    assert "3 words" in err
    assert ("They greet me.\n" in out) is shows
    assert "Hi.\n" in out


def test_an_answer_that_was_a_thought_is_told(
    store: Conversations, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only its end was marked: what was said stays, and is no part of the answer."""
    talk(store, FakeRunning([["Let me see.", WasThought(), "Yes."]]), "Hello")
    assert said(store) == ["Hello", "Yes."]
    assert "model's thought" in capsys.readouterr().err


def test_a_model_that_dies_is_loaded_again_and_answers(
    store: Conversations, capsys: pytest.CaptureFixture[str]
) -> None:
    """Once by itself, and goes on with what was cut; twice in a row only if it is asked for."""
    died = EngineError("crashed", "It died.")
    running = FakeRunning([["Half", died], [died], ["Back."]])
    launcher = FakeLauncher(running)
    assert talk(store, launcher, "Hello", "/continue", "/again", "/reload") == ExitCode.OK
    assert said(store) == ["Hello", "Half"]
    assert launcher.starts == 3
    err = capsys.readouterr().err
    assert "The model comes back by itself." in err
    assert "/continue goes on with the answer that was cut" in err
    assert "/reload loads the model again." in err
    assert "the model is not running; /reload loads it" in err  # of /again


def test_what_was_read_is_kept_while_the_model_is_paused(
    store: Conversations, capsys: pytest.CaptureFixture[str]
) -> None:
    """And where the conversation is left, where it is worth it and not kept as it is."""
    running = FakeRunning([[Text("word", 300)], ["Back."], [Text("word", 300)]])
    launcher = FakeLauncher(running)
    talked = session(store, launcher, "One", "/pause", "Two", "/new", "Three")
    talked.run()
    talked.keep_read(5)
    talked.close(5)
    three, one = (store.states.path(each.id) for each in store.list())
    assert running.saved == [one, three]
    assert running.restored == [one]
    assert launcher.starts == 2
    err = capsys.readouterr().err
    assert "paused: the next message brings the model back" in err
    assert "keeping what was read; Ctrl+C skips it" in err


def test_a_model_that_nobody_asks_rests(store: Conversations) -> None:
    running = FakeRunning()
    launcher = FakeLauncher(running)

    class Slow(Typed):
        """Nobody writes before it rests."""

        def line(self, prompt: str, prefilled: str = "") -> str:
            until = time.monotonic() + 20
            while running.lives and time.monotonic() < until:
                time.sleep(0.005)
            return super().line(prompt, prefilled)

    talked = Session(launcher, store, cast(Keyboard, Slow("Hello")), Chat(), idle_seconds=0.01)
    talked.run()
    talked.close(5)
    assert said(store) == ["Hello", "An answer."]
    assert launcher.starts == 2


def test_a_load_that_fails_leaves_the_chat_open(
    store: Conversations, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its exit status is that of the chat; a question is kept, a second one is not glued to it."""
    launcher = FakeLauncher(FakeRunning(), error=EngineError("load_failed", "No such luck."))
    assert talk(store, launcher, "One", "Two", "/fit", "/nothing") == ExitCode.ENGINE
    assert said(store) == ["One"]
    err = capsys.readouterr().err
    assert "No such luck.\nkvchat: /reload tries again, /quit quits." in err
    assert "it is saved" in err
    assert "not sent" in err


FULL = EngineError("context_full", "It does not fit.")


@pytest.mark.parametrize("asked", [True, False])
def test_a_question_that_does_not_fit_waits_for_room(
    store: Conversations, capsys: pytest.CaptureFixture[str], asked: bool
) -> None:
    """Another one takes its place, nothing is glued to it; /drop, or --when-full drop without a
    word, makes room and asks. What was let go comes back."""
    failing = [FULL, FULL] if asked else [FULL]
    running = FakeRunning(
        [[Text("x" * 80, 80)], *([each] for each in failing), ["Short."]],
        settings=Settings(n_ctx=100),
    )
    typed = ("Too long", "Still too long", "/drop") if asked else ("Still too long",)
    way = None if asked else Way.DROP
    talk(store, running, "Hello", *typed, "/bring-back", when_full=way)
    assert said(store) == ["Hello", "x" * 80, "Still too long", "Short."]
    assert [m.content for m in running.prompts[-2]] == ["Hello", "x" * 80, "Still too long"]
    assert [m.content for m in running.prompts[-1]] == ["Still too long"]
    err = capsys.readouterr().err
    assert "85 of 100 tokens of context are used" in err  # after the first answer
    assert "no longer fits the context (100 tokens)" in err
    assert ("/grow loads a larger context, /drop lets" in err) is asked
    assert "The oldest 2 messages are out of the model's view" in err
    assert "The model sees 2 messages again." in err


def test_a_summary_makes_room_and_the_answer_goes_on(
    store: Conversations, capsys: pytest.CaptureFixture[str]
) -> None:
    """One that is stopped changes nothing; one that is written stands in for what is gone."""
    never = threading.Event()
    talk_of: list[list[Any]] = [
        [Text("x" * 500, 500)],
        ["Half a"],
        ["They", never],
        ["They talked."],
        [" whole."],
    ]
    running = FakeRunning(talk_of, settings=Settings(n_ctx=1000))
    talked = session(store, running, "Hello", "Go on", "/summarise", "/summarise")
    cast(Any, talked._keyboard).interrupts = lambda: len(running.prompts) == 3
    answer = running.generate

    def generate(messages: Any, *rest: Any, **more: Any) -> Any:
        running.reason = "context_full" if messages[-1].content == "Go on" else "end"
        return answer(messages, *rest, **more)

    running.generate = generate  # type: ignore[method-assign]
    talked.run()
    talked.close(5)
    assert said(store) == ["Hello", "x" * 500, "Go on", "Half a whole."]
    assert running.continued[-1]
    assert "They talked." in running.prompts[-1][0].content
    err = capsys.readouterr().err
    assert "stopped; everything is as it was" in err
    assert "The oldest 2 messages are summarised for the model" in err


def test_a_larger_context_is_loaded_and_the_question_asked(
    store: Conversations, capsys: pytest.CaptureFixture[str]
) -> None:
    """The planner's, with what it costs; where none fits, that is said and all stays as it is."""
    where = machine(replace(gpu(8), source="measured"))
    running = FakeRunning([[FULL], ["Yes."]], settings=Settings(n_ctx=8192))
    running.make_explorer = lambda: explorer_of(giant(LLAMA_8B), where, n_ctx=8192)
    talk(store, running, "Long", "/grow")
    assert [(s.n_ctx, keep) for s, keep in running.changes] == [(12_288, None)]
    assert said(store) == ["Long", "Yes."]
    assert "loading it again with 12,288 tokens of context" in capsys.readouterr().err
    top = giant(LLAMA_8B).n_ctx_train
    running = FakeRunning([[FULL]], settings=Settings(n_ctx=top))
    running.make_explorer = lambda: explorer_of(giant(LLAMA_8B), where, n_ctx=top)
    talk(store, running, "Long", when_full=Way.GROW)
    assert "No larger context fits" in capsys.readouterr().err
    assert not running.changes


def test_what_another_kvchat_wrote_comes_first(
    store: Conversations, capsys: pytest.CaptureFixture[str]
) -> None:
    """It is said before the question is sent; Ctrl+C does not send it."""
    talk(store, FakeRunning([["One."]]), "Hello")
    newest = store.latest()
    assert newest is not None
    chat = Chat(None, newest, store.messages(newest.id))
    talk(store, FakeRunning([["Two."]]), "Elsewhere", chat=Chat(None, newest, chat.path))
    running = FakeRunning([["Three."]])
    talk(store, running, "Mine", KeyboardInterrupt, "Mine", chat=chat)
    assert said(store) == ["Hello", "One.", "Elsewhere", "Two.", "Mine", "Three."]
    assert "Another kvchat went on" in capsys.readouterr().err


def test_ctrl_c_leaves_at_the_second_time(
    store: Conversations, capsys: pytest.CaptureFixture[str]
) -> None:
    """An entry between them, an empty one too, makes the next one the first again."""
    interrupt = KeyboardInterrupt
    running = FakeRunning()
    talk(store, running, interrupt, "", interrupt, "Hello", interrupt, interrupt, "never")
    assert said(store) == ["Hello", "An answer."]
    assert capsys.readouterr().err.count("Ctrl+C again") == 3


def test_a_file_goes_along_and_the_conversation_is_written_to_one(
    store: Conversations, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    notes, saved = tmp_path / "notes.txt", tmp_path / "talk.txt"
    notes.write_text("Buy milk.")
    running = FakeRunning([["Milk."]])
    ask = f"What of @{notes}?"
    talk(store, running, ask, "What of @/dev/null/x.txt?", f"/save {saved}", f"/save {saved}")
    assert "Buy milk." in running.prompts[0][-1].content
    assert saved.read_text().startswith(f"You: {ask}")
    assert "Buy milk." not in saved.read_text()  # its name is
    err = capsys.readouterr().err
    assert "goes along" in err
    assert "There is no file /dev/null/x.txt" in err
    assert "is there already; nothing was written" in err


def test_how_much_it_thinks_and_how_it_is_loaded(
    store: Conversations, capsys: pytest.CaptureFixture[str]
) -> None:
    running = FakeRunning(think_levels=("on", "off"), usual_think="on")
    talk(store, running, "/think", "/think OFF", "Hello", "/fit")
    assert running.thinks == ["off"]
    assert running.remembered == ["off"]
    out, err = capsys.readouterr()
    assert "thinking is on; there is on, off" in err
    assert "report for" in out
    assert "---" not in out  # a line that only draws


def test_a_report_is_read_without_its_bars() -> None:
    assert words.without_bars("GPU0\n  ██▓▓░░\n  █ weights 1 GiB\n\n---\n") == (
        "GPU0\n  █ weights 1 GiB\n\n"
    )


def test_a_store_that_cannot_be_read_keeps_nobody_from_talking(
    store: Conversations, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def damaged(*_: object) -> list[str]:
        raise KvchatError("It is damaged.")

    for name in ("prompts", "list", "message_ids"):
        monkeypatch.setattr(store, name, damaged)
    talk(store, FakeRunning(), "/list", "Hello")
    out, err = capsys.readouterr()
    assert "It is damaged." in err
    assert "An answer." in out

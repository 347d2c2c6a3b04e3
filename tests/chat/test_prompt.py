"""The prompt by itself: folded pastes, what is offered, and the walk through the history."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from textual import events
from textual.app import App, ComposeResult
from textual.pilot import Pilot
from textual.widgets import Static

from tests.support.chat_fakes import until
from tui import widgets
from tui.composing.draft import Draft
from tui.keymap import Keymap
from tui.widgets import Prompt

LONG = "\n".join(f"line {n}" for n in range(30))
LABEL = "[30 lines, 229 characters]"


class Stand(App[None]):
    """A prompt with what it offers, and nothing else."""

    CSS_PATH = Path(widgets.__file__).parents[1] / "styles" / "chat.tcss"

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.prompt = Prompt(Keymap(), folder=folder)
        self.sent: list[Draft] = []
        self.said: list[str] = []
        self.keys = 0

    def compose(self) -> ComposeResult:
        yield Static("above", id="above")
        yield self.prompt.offers
        yield self.prompt

    def on_mount(self) -> None:
        self.prompt.focus()

    def on_prompt_submitted(self) -> None:
        self.sent.append(self.prompt.take())

    def on_prompt_said(self, message: Prompt.Said) -> None:
        self.said.append(message.text)

    def action_keys(self) -> None:
        self.keys += 1


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "notes.md").write_text("notes")
    (tmp_path / "my notes.md").write_text("mine")
    (tmp_path / "a.bin").write_bytes(b"\0\1")
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "deep.py").write_text("x")
    return tmp_path


@pytest_asyncio.fixture
async def pilot(folder: Path) -> AsyncIterator[Pilot[None]]:
    async with Stand(folder).run_test(size=(60, 20)) as pilot:
        yield pilot


def stand(pilot: Pilot[None]) -> Stand:
    assert isinstance(pilot.app, Stand)
    return pilot.app


async def paste(pilot: Pilot[None], text: str) -> None:
    stand(pilot).prompt.post_message(events.Paste(text))
    await pilot.pause()


async def test_a_long_paste_is_one_thing(pilot: Pilot[None]) -> None:
    """It folds, the cursor passes it, a key deletes it whole, Ctrl+Z brings it back, F4 opens
    it; what is sent is the text."""
    prompt = stand(pilot).prompt
    await pilot.press(*"ab")
    await paste(pilot, LONG)
    await pilot.press("c")
    assert prompt.text == f"ab{LABEL}c"
    assert prompt.draft == Draft(prompt.text, {LABEL: LONG})
    await pilot.press("left", "left")
    assert prompt.cursor_location == (0, 2)
    await pilot.press("delete")
    assert prompt.text == "abc"
    assert prompt.draft.folds == {}
    await pilot.press("ctrl+z")
    prompt.move_cursor((0, 10))  # as a click does
    await pilot.press("x")
    assert prompt.text == f"ab{LABEL}xc"
    await pilot.press("ctrl+z", "f4")
    assert prompt.text == f"ab{LONG}c"
    await pilot.press("ctrl+z")
    assert prompt.text == f"ab{LABEL}c"
    await pilot.press("f4", "f4")
    assert stand(pilot).said == ["nothing is folded here"]
    await pilot.press("ctrl+z", "enter")
    await pilot.pause()
    assert [draft.whole for draft in stand(pilot).sent] == [f"ab{LONG}c"]
    assert prompt.text == ""


async def test_the_tokens_of_a_paste_are_told_in_its_label(pilot: Pilot[None]) -> None:
    """That is no step of the history: Ctrl+Z takes back what the user did."""
    prompt = stand(pilot).prompt
    await paste(pilot, LONG)
    await pilot.press("a")
    assert prompt.uncounted == {LABEL: LONG}
    prompt.relabel(LABEL, 1412)
    told = "[30 lines, 1,412 tokens]"
    assert prompt.text == f"{told}a"
    assert prompt.cursor_at_end_of_text
    assert prompt.uncounted == {}
    await pilot.press("ctrl+z")
    assert prompt.draft.whole == LONG
    await pilot.press("ctrl+z")
    assert prompt.text == ""
    await pilot.press("alt+z", "alt+z")
    assert prompt.draft.whole == f"{LONG}a"


async def test_short_and_long_pastes(pilot: Pilot[None]) -> None:
    prompt = stand(pilot).prompt
    await paste(pilot, "one\ntwo")
    assert prompt.text == "one\ntwo"
    await paste(pilot, "x" * 5000)
    assert prompt.text == "one\ntwo[1 line, 5,000 characters]"
    prompt.rewrite(prompt.draft.whole + "!")
    assert prompt.text == "one\ntwo[1 line, 5,000 characters]!"
    assert prompt.wipe()
    assert not prompt.wipe()
    await pilot.press("ctrl+z")
    assert prompt.draft.whole == "one\ntwo" + "x" * 5000 + "!"


async def test_a_file_is_completed(pilot: Pilot[None]) -> None:
    prompt, offers = stand(pilot).prompt, stand(pilot).prompt.offers
    await pilot.press(*"see @no")
    await until(pilot, lambda: offers.choices)
    assert [choice.text for choice in offers.choices] == ["notes.md", "my notes.md"]
    await pilot.press("down", "tab")
    assert prompt.text == 'see @"my notes.md" '
    assert not offers.choices
    await pilot.press(*"@su")
    await until(pilot, lambda: offers.choices)
    await pilot.press("enter")  # takes it; a folder goes on
    await until(pilot, lambda: offers.choices)
    assert [choice.text for choice in offers.choices] == ["sub/deep.py"]
    await pilot.press("escape")
    assert not offers.choices
    assert prompt.text == 'see @"my notes.md" @sub/'
    await pilot.press("d")
    await until(pilot, lambda: offers.choices)
    await pilot.press("up", "enter")
    assert prompt.text == 'see @"my notes.md" @sub/deep.py '
    assert stand(pilot).sent == []
    await pilot.press("backspace")  # all of it stands there: Enter sends
    await pilot.pause()
    await pilot.press("enter")
    await until(pilot, lambda: stand(pilot).sent)


async def test_commands_are_completed(pilot: Pilot[None]) -> None:
    prompt, offers = stand(pilot).prompt, stand(pilot).prompt.offers
    await pilot.press("slash", "e")
    await until(pilot, lambda: offers.choices)
    assert [choice.text for choice in offers.choices] == ["/explore", "/edit"]
    row = offers.region.y
    assert offers.size.height == 2
    assert row == prompt.region.y - 2
    await pilot.press("down", "tab")
    assert prompt.text == "/edit"
    await pilot.press("ctrl+z", "enter")
    await until(pilot, lambda: stand(pilot).sent)
    assert stand(pilot).sent[0].text == "/explore"


@pytest.mark.parametrize(
    "form", ["{0}/my\\ notes.md ", "'{0}/my notes.md'", "file://{0}/my%20notes.md"]
)
async def test_a_file_that_is_dropped_is_named(pilot: Pilot[None], folder: Path, form: str) -> None:
    prompt = stand(pilot).prompt
    await pilot.press(*"see ")
    await paste(pilot, form.format(folder))
    await until(pilot, lambda: prompt.text == 'see @"my notes.md" ')
    await pilot.press("ctrl+z")
    assert prompt.text == f"see {form.format(folder)}"


async def test_what_is_dropped_and_cannot_go_along(pilot: Pilot[None], folder: Path) -> None:
    """A folder is offered as a list; a binary file is refused by name, and stays a path."""
    prompt = stand(pilot).prompt
    await paste(pilot, f"{folder}/a.bin")
    await until(pilot, lambda: stand(pilot).said)
    assert stand(pilot).said == ["a.bin is a binary file: only its path is there"]
    assert prompt.text == f"{folder}/a.bin"
    prompt.wipe()
    await paste(pilot, f"{folder}/none")
    await paste(pilot, " ")
    assert prompt.text == f"{folder}/none "
    prompt.wipe()
    await paste(pilot, f"{folder}/sub")
    await until(pilot, lambda: prompt.offers.choices)
    assert prompt.text == "@sub/"


async def test_what_was_asked_comes_back(pilot: Pilot[None]) -> None:
    """This conversation's first, then all the others'; a long one folded, so that the walk goes
    on; `?` is the keys only where nothing is written."""
    prompt = stand(pilot).prompt
    prompt.set_history(["mine @no", LONG])
    prompt.set_all_history(["elsewhere", LONG])
    await pilot.press("up")
    assert prompt.text == LABEL
    prompt.relabel(LABEL, 7)
    await pilot.press("up")
    assert prompt.text == "mine @no"
    await pilot.pause()
    assert not prompt.offers.choices
    await pilot.press("up", "up")
    assert prompt.text == "elsewhere"
    await pilot.press("down", "down", "down")
    assert prompt.text == ""
    await pilot.press("question_mark")
    await until(pilot, lambda: stand(pilot).keys == 1)
    await pilot.press("a", "question_mark")
    assert prompt.text == "a?"
    prompt.put_away()
    prompt.restore(Draft("saved ", {}))
    await pilot.press(*"on")
    assert prompt.text == "saved on"


async def test_an_edit_comes_before_what_is_typed_after_it(pilot: Pilot[None]) -> None:
    """However fast: keys that are on their way together are taken in their order."""
    prompt = pilot.app.query_one(Prompt)
    await pilot.press(*"old")
    for key, character in (("ctrl+u", None), ("n", "n"), ("e", "e"), ("w", "w"), ("home", None)):
        pilot.app.post_message(events.Key(key, character))
    pilot.app.post_message(events.Key("a", "a"))
    await until(pilot, lambda: prompt.text == "anew")


FAMILY = "👨\u200d👩\u200d👧"  # two cells


async def typed(pilot: Pilot[None], text: str) -> None:
    """As a terminal sends it, character by character."""
    for character in text:
        stand(pilot).prompt.post_message(events.Key(character, character))
    await pilot.pause()


async def test_what_joins_characters_and_wide_spaces_can_be_typed(pilot: Pilot[None]) -> None:
    text = f"{FAMILY} می\u200cخواهم 東\u3000京"
    await typed(pilot, f"{text}\u202e\x9b")
    assert stand(pilot).prompt.text == text


async def test_an_emoji_of_several_characters_is_passed_drawn_and_deleted_as_one(
    pilot: Pilot[None],
) -> None:
    """An accent is not: it can be taken back alone."""
    prompt = stand(pilot).prompt
    await typed(pilot, f"{FAMILY}e\u0301")
    await pilot.press("left", "left", "left")
    assert prompt.cursor_location == (0, 0)
    assert any(FAMILY in segment.text for segment in prompt.render_line(0)), "below the cursor"
    await pilot.press("right")
    assert prompt.cursor_location == (0, len(FAMILY))
    await pilot.press("backspace", "end", "backspace")
    assert prompt.text == "e"


async def test_the_cursor_goes_to_the_cell_that_is_meant(pilot: Pilot[None]) -> None:
    """Up, down and by the mouse, past emoji of several characters."""
    prompt = stand(pilot).prompt
    prompt.text = f"{FAMILY}{FAMILY}abc\n123456789"
    after_a, in_second = (0, 2 * len(FAMILY) + 1), (0, len(FAMILY))
    prompt.move_cursor((1, 5))
    await pilot.press("up")
    assert prompt.cursor_location == after_a
    await pilot.press("down")
    assert prompt.cursor_location == (1, 5)
    edge = prompt.gutter
    for x, meant in ((5, after_a), (3, in_second), (40, (0, 2 * len(FAMILY) + 3))):
        await pilot.click(prompt, offset=(edge.left + x, edge.top))
        assert prompt.cursor_location == meant

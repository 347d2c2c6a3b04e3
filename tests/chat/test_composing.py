"""What is written before it is sent: the parts that need no screen."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tui.composing.commands import (
    COMMANDS,
    PLACES,
    UnknownCommandError,
    as_text,
    choices,
    command,
)
from tui.composing.draft import Draft, folds, label, spans
from tui.composing.history import History
from tui.keymap import ACTIONS, Keymap

SHORT = st.text("ab []1\n", max_size=12)


@st.composite
def drafts(draw: st.DrawFn) -> Draft:
    """Texts in which folds stand between other words."""
    known: dict[str, str] = {}
    for text in draw(st.lists(st.text("xy\n", min_size=1, max_size=30), max_size=3)):
        known[label(text, None, known)] = text
    words = st.lists(st.one_of(st.text("ab \n", max_size=8), st.sampled_from(["", *known])))
    return Draft("".join(draw(words)), known).pruned()


@given(drafts())
def test_a_draft_is_its_pieces(draft: Draft) -> None:
    shown = "".join(of or text for of, text in draft.pieces())
    assert shown == draft.text
    assert draft.whole.count("x") == sum(text.count("x") for _, text in draft.pieces())
    assert all(
        draft.text[start:end] in draft.folds for start, end in spans(draft.text, draft.folds)
    )
    assert draft.pruned() == draft


@given(drafts(), SHORT)
def test_another_text_keeps_what_it_says(draft: Draft, more: str) -> None:
    """Whatever an editor gives back is what is sent; folds that it left alone stay folded."""
    changed = draft.rewritten(draft.whole + more)
    assert changed.whole == draft.whole + more
    assert set(changed.folds) <= set(draft.folds)
    assert draft.rewritten("other").whole == "other"


def test_what_an_editor_left_alone_stays_folded() -> None:
    draft = Draft("see [2 lines] please", {"[2 lines]": "one\ntwo"})
    assert draft.rewritten("Do see one\ntwo please") == Draft(
        "Do see [2 lines] please", draft.folds
    )


@given(st.lists(st.text("xy\n", min_size=1), max_size=20))
def test_a_label_stands_for_one_text(texts: list[str]) -> None:
    known: dict[str, str] = {}
    for text in texts:
        name = label(text, 3, known)
        assert known.setdefault(name, text) == text
    assert set(known.values()) == set(texts)


def test_labels_say_how_much_it_is() -> None:
    text = "a line\n" * 200
    assert label(text, 1412, {}) == "[200 lines, 1,412 tokens]"
    assert label("x" * 5000, None, {}) == "[1 line, 5,000 characters]"
    assert label(text, 1412, {"[200 lines, 1,412 tokens]": "other"}) == (
        "[200 lines, 1,412 tokens, no. 2]"
    )
    assert [folds("x\n" * n) for n in (19, 20)] == [False, True]
    assert [folds("x" * n) for n in (4000, 4001)] == [False, True]


QUESTIONS = st.lists(st.text("ab", max_size=3), max_size=8)


@given(QUESTIONS, QUESTIONS)
def test_the_history_is_walked_to_its_end_and_back(own: list[str], others: list[str]) -> None:
    """This conversation's questions come first; each text once, none left out."""
    history = History()
    history.own(own)
    history.everywhere(others)
    walked = []
    while (text := history.earlier()) is not None:
        walked.append(text)
    newest_first = [text for text in (*own[::-1], *others[::-1]) if text]
    assert walked == list(dict.fromkeys(newest_first))
    assert history.current == (walked[-1] if walked else "")
    back = []
    while (text := history.later()) is not None:
        back.append(text)
    assert back == [*walked[-2::-1], *[""][: len(walked)]]


def test_what_is_asked_is_the_next_to_come_back() -> None:
    history = History()
    history.own(["one"])
    assert history.earlier() == "one"
    history.everywhere(["elsewhere"])  # comes late; the walk goes on as it was
    assert history.earlier() is None
    history.add("two")
    assert [history.earlier(), history.earlier(), history.earlier()] == ["two", "one", "elsewhere"]


@pytest.mark.parametrize(
    ("text", "sent"),
    [
        ("a text /help", "a text /help"),
        ("/usr/bin/x is a program", "/usr/bin/x is a program"),
        ("/etc/", "/etc/"),
        ("/.config", "/.config"),
        ("//help", "/help"),
        (" /help", "/help"),
        ("// a comment", "/ a comment"),
        ("/2 of it", "/2 of it"),
    ],
)
def test_a_text_with_a_slash_is_sent(text: str, sent: str) -> None:
    assert command(text) is None
    assert as_text(text) == sent


@pytest.mark.parametrize(
    "text", ["/hepl", "/help me", "/new\nplease", "/context 32k please", "/", "/no-such"]
)
def test_what_looks_like_a_command_and_is_none_is_told(text: str) -> None:
    with pytest.raises(UnknownCommandError, match="a space before it sends it as text"):
        command(text)


def test_commands_are_rows_of_the_table() -> None:
    assert {"help", "new", "open", "copy", "fit", "explore", "think", "context", "quit"} <= set(
        COMMANDS
    )
    slashes = [row.slash for row in ACTIONS if row.slash]
    assert len(slashes) == len(set(slashes))
    for slash, row in COMMANDS.items():
        assert command(f"/{slash} ") == command(f"/{slash.upper()}") == (row, "")
        assert row.place in PLACES


@given(st.sampled_from(sorted(COMMANDS)), st.integers(1, 3))
def test_a_command_is_offered_while_it_is_typed(slash: str, typed: int) -> None:
    offered = [choice.text for choice in choices(f"/{slash[:typed]}", Keymap())]
    assert f"/{slash}" in offered
    assert all(text.startswith(f"/{slash[:typed]}") for text in offered)


def test_nothing_is_offered_for_a_path() -> None:
    assert len(list(choices("/", Keymap()))) == len(COMMANDS)
    assert not list(choices("/usr/", Keymap()))
    assert not list(choices("help", Keymap()))
    assert not list(choices("/zzz", Keymap()))

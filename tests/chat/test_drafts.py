"""What is being written and what was asked, on disk."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.chat.test_conversations import conversation, message
from tui.composing.draft import Draft
from tui.storage import Recorder, Tree, damage, database, recorder, schema
from tui.storage.conversations import Conversations

FOLDED = Draft("see [2 lines]\ud800", {"[2 lines]": "a\nb"})


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Conversations]:
    opened = Conversations.open(tmp_path / "data" / "conversations.db")
    yield opened
    opened.close()


def test_each_conversation_has_its_draft(store: Conversations) -> None:
    store.save(conversation("c1", None))
    store.keep_draft("c1", FOLDED)
    store.keep_draft("", Draft("of a new one"))
    store.keep_draft("c1", FOLDED)
    assert store.draft("c1") == Draft("see [2 lines]\ufffd", FOLDED.folds)
    assert store.draft("") == Draft("of a new one")
    assert store.draft("other") == Draft()
    store.delete("c1")
    assert store.draft("c1") == Draft()
    store.keep_draft("", Draft())
    assert store._db.execute("SELECT count(*) FROM drafts").fetchone()[0] == 0


@pytest.mark.parametrize("folds", ["", "{", "[1]", '{"[2 lines]": 1, "": "x"}', b"\xff"])
def test_a_draft_whose_folds_are_damaged_keeps_its_text(
    store: Conversations, folds: str | bytes
) -> None:
    store._db.execute("INSERT INTO drafts VALUES ('c', 'a text', ?)", (folds,))
    assert store.draft("c") == Draft("a text")


def test_the_history_is_bounded_and_names_each_text_once(
    store: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(schema, "MAX_PROMPTS", 3)
    monkeypatch.setattr(schema, "PROMPT_CHARS", 10)
    for text in ("one", "two", "three", "one", "four", "", "much too long"):
        store.remember(text, text)
    assert store.prompts() == ["three", "one", "four"]


@pytest.mark.parametrize("version", [3, 5])
def test_the_history_of_an_older_file_is_what_was_asked_in_it(tmp_path: Path, version: int) -> None:
    path = tmp_path / "conversations.db"
    with sqlite3.connect(path) as db:
        db.executescript(
            ";".join((*schema.MIGRATIONS[:version], f"PRAGMA user_version = {version}"))
        )
        db.execute("INSERT INTO conversations (id, title, created, updated) VALUES ('c','t',1,1)")
        for n, text in enumerate(["first", "second", "", "first", "x" * 20_001]):
            for role in ("user", "assistant"):
                db.execute(
                    """INSERT INTO messages (id, conversation_id, role, content, state, created)
                       VALUES (?, 'c', ?, ?, 'complete', 1.0)""",
                    (f"{n}{role}", role, text if role == "user" else "an answer"),
                )
    store = Conversations.open(path)
    assert store.warning is None
    assert store.prompts() == ["second", "first"]
    assert len(store.messages("c")) == 10  # as they were
    store.keep_draft("c", FOLDED)
    assert store.draft("c").folds == FOLDED.folds
    store.close()


def test_they_are_copied_out_of_a_damaged_file(store: Conversations) -> None:
    store.keep_draft("c1", FOLDED)
    store.remember("a", "a question")
    into = database._memory()
    schema.prepare(into)
    damage.copy_over(store._db, into)
    copied = [tuple(row) for row in into.execute("SELECT * FROM drafts")]
    assert copied == [("c1", "see [2 lines]\ufffd", '{"[2 lines]": "a\\nb"}')]
    assert [row["text"] for row in into.execute("SELECT text FROM prompts")] == ["a question"]


def test_a_new_draft_in_a_file_that_was_taken_away_loses_no_conversation(
    store: Conversations,
) -> None:
    """The open conversation is taken along."""
    store.save(conversation("c1", "a"), [message("a", None, "kept")])
    shutil.rmtree(store.path.parent)
    store.keep_draft("", Draft("a draft"))
    store.save(conversation("c1", "bb"), [message("bb", "a", "an answer")])
    assert [m.content for m in store.messages("c1")] == ["kept", "an answer"]
    assert store.draft("") == Draft("a draft")


def test_the_recorder_keeps_what_a_lock_holds_back(
    store: Conversations, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a draft the newest, of what was asked everything."""
    monkeypatch.setattr(recorder, "RETRY_SECONDS", 1000.0)
    store._db.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(store.path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    problems: list[str] = []
    saver = Recorder(store, problems.append)
    for text in ("one", "two"):
        saver.keep_draft("c1", Draft(text))
        saver.remember(text, text)
    saver.save(conversation("c1", None)).result()
    assert len(problems) == 1
    other.execute("ROLLBACK")
    saver.close()
    assert saver.problem == ""
    assert store.draft("c1") == Draft("two")
    assert store.prompts() == ["one", "two"]


def test_what_was_deleted_is_gone_from_the_history(store: Conversations) -> None:
    """With its message, and with its conversation."""
    for key in ("c1", "c2"):
        first = message(f"{key}a", None, f"first of {key}", parts="[]")
        second = message(f"{key}a2", f"{key}a", f"second of {key}")
        store.save(conversation(key, second.id), [first, second])
        for one in (first, second):
            store.remember(one.id, one.content)
    store.delete("c1")
    assert store.prompts() == ["first of c2", "second of c2"]
    tree = Tree(store.messages("c2"), "c2a2")
    gone = [tree[each.id] for each in tree.remove("c2a")]
    assert [each.parts for each in gone] == [None, None]
    store.save(conversation("c2", None), gone)
    assert store.prompts() == []

"""Conversations on disk: what is saved is found again, whatever the file meets."""

from __future__ import annotations

import os
import sqlite3
import stat
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tui.storage import Recorder, schema
from tui.storage.conversations import (
    Conversation,
    Conversations,
    StoredMessage,
    StoreError,
    default_path,
)


def message(key: str, parent: str | None, content: str, **fields: object) -> StoredMessage:
    role = "user" if len(key) % 2 else "assistant"
    return StoredMessage(key, parent, role, content, 1.0, **fields)  # type: ignore[arg-type]


def conversation(
    key: str, head: str | None, title: str = "A title", at: float = 1.0
) -> Conversation:
    return Conversation(key, title, 1.0, at, None, head)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Conversations]:
    opened = Conversations.open(tmp_path / "data" / "conversations.db")
    assert opened.warning is None
    yield opened
    opened.close()


def test_everything_of_a_message_comes_back(store: Conversations) -> None:
    """Each field survives, so that a resumed chat knows model, settings and counts."""
    asked = message("a", None, "Hi")
    answer = message(
        "bb", "a", "Hello", state="stopped", reasoning="hm", model_name="Tiny",
        model_fingerprint="f00d", settings="{}", n_prompt=3, n_tokens=2, n_ctx_used=5,
        tokens_per_second=41.5,
    )  # fmt: skip
    store.save(conversation("c1", "bb"), [asked, answer])
    assert store.messages("c1") == [asked, answer]


def test_a_growing_message_is_replaced_in_place(store: Conversations) -> None:
    """Saving each second makes one row, with the last text, and it is found by that text."""
    store.save(conversation("c1", "a"), [message("a", None, "Hi")])
    store.save(conversation("c1", "bb"), [message("bb", "a", "Hel", state="interrupted")])
    store.save(conversation("c1", "bb"), [message("bb", "a", "Hello", state="complete")])
    assert [m.content for m in store.messages("c1")] == ["Hi", "Hello"]
    assert [hit.conversation.id for hit in store.search("hello")] == ["c1"]


def test_a_regenerated_answer_is_a_branch(store: Conversations) -> None:
    """The head decides which path is shown; the other answer stays."""
    first, second = message("bb", "a", "one"), message("cc", "a", "two")
    store.save(conversation("c1", "bb"), [message("a", None, "Hi"), first])
    store.save(conversation("c1", "cc"), [second])
    assert [m.content for m in store.messages("c1")] == ["Hi", "two"]
    # An earlier head shows the first one again: nothing of it is lost.
    store.save(conversation("c1", "bb"))
    assert store.messages("c1")[1:] == [first]


def test_list_is_newest_first_and_ids_may_be_shortened(store: Conversations) -> None:
    store.save(conversation("aa11", None, at=1.0))
    store.save(conversation("ab22", None, at=3.0))
    store.save(conversation("cd33", None, at=2.0))
    assert [c.id for c in store.list()] == ["ab22", "cd33", "aa11"]
    latest = store.get("latest")
    assert latest is not None
    assert latest.id == "ab22"
    short = store.get("c")
    assert short is not None
    assert short.id == "cd33"
    assert store.get("a") is None  # two begin so
    assert store.get("") is None
    assert store.get("zz") is None


@pytest.mark.parametrize("fts", [True, False])
def test_search(store: Conversations, fts: bool) -> None:
    """All words, as beginnings, without regard to case; parts of words and scripts without
    spaces too; with and without SQLite's full-text index; marks of its query language are text."""
    store._fts = fts
    store.save(conversation("c1", "a"), [message("a", None, "The quick brown Fox_1 jumps (100%)")])
    store.save(conversation("c2", "b"), [message("b", None, "機械学習について教えて")])
    store.save(conversation("c3", "c", title="Gardening"), [message("c", None, 'a "quoted" word')])

    def found(text: str) -> set[str]:
        return {hit.conversation.id for hit in store.search(text)}

    assert found("fox quick") == {"c1"}
    assert found("quic") == {"c1"}
    assert found("uick") == {"c1"}
    assert found("quick absent") == set()
    assert found("学習") == {"c2"}
    assert found("garden") == {"c3"}
    assert found('"quoted') == {"c3"}
    assert found("fox_1") == {"c1"}
    assert found("NEAR(") == set()
    assert found("") == {"c1", "c2", "c3"}
    assert "brown" in store.search("brown")[0].excerpt


def test_messages_saved_without_an_index_are_indexed_later(tmp_path: Path) -> None:
    """A Python without FTS5 and one with it can share the file."""
    path = tmp_path / "conversations.db"
    plain = Conversations.open(path)
    plain._fts = False
    plain.save(conversation("c1", "a"), [message("a", None, "needle")])
    plain.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE messages SET updated = 0")
    indexed = Conversations.open(path)
    assert indexed._db.execute("SELECT indexed FROM messages").fetchone()[0] == 1
    assert indexed.search("needle")[0].conversation.id == "c1"


def test_delete_takes_the_branches_and_the_index_along(store: Conversations) -> None:
    store.save(conversation("c1", "cc"), [message("a", None, "needle"), message("cc", "a", "x")])
    store.save(conversation("c2", "b"), [message("b", None, "kept")])
    store.delete("c1")
    assert [c.id for c in store.list()] == ["c2"]
    assert store.search("needle") == []
    assert store._db.execute("SELECT count(*) FROM messages").fetchone()[0] == 1


def test_a_given_title_stays(store: Conversations) -> None:
    """The title of the first message does not come back with the next save."""
    store.save(conversation("c1", None, title="first words"))
    store.rename("c1", "Mine")
    store.save(conversation("c1", None, title="first words"))
    renamed = store.get("c1")
    assert renamed is not None
    assert renamed.title == "Mine"


def test_two_programs_write_at_once(tmp_path: Path) -> None:
    """Nothing is lost and nothing fails when two stores write the same file."""
    path = tmp_path / "conversations.db"
    stores = [Conversations.open(path) for _ in range(2)]

    def write(which: int) -> None:
        for n in range(20):
            key = f"{which}-{n}"
            stores[which].save(conversation(key, f"m{key}"), [message(f"m{key}", None, "text")])

    threads = [threading.Thread(target=write, args=(which,)) for which in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(stores[0].list()) == 40


def test_a_corrupt_file_is_set_aside(tmp_path: Path) -> None:
    """The damaged file is kept under another name, a new one works, and the user is told."""
    path = tmp_path / "conversations.db"
    path.write_bytes(b"this is no database, and long enough to be looked at" * 100)
    store = Conversations.open(path)
    assert store.saved
    assert "damaged" in (store.warning or "")
    kept = [p for p in tmp_path.iterdir() if "damaged" in p.name]
    assert len(kept) == 1
    assert kept[0].read_bytes().startswith(b"this is no database")
    store.save(conversation("c1", None))
    assert store.latest() is not None


def test_a_newer_file_is_left_alone(tmp_path: Path) -> None:
    """The chat works unsaved, and the newer program's file is not touched."""
    path = tmp_path / "conversations.db"
    with sqlite3.connect(path) as db:
        db.execute("PRAGMA user_version = 99")
    store = Conversations.open(path)
    assert not store.saved
    assert "newer kvchat" in (store.warning or "")
    store.save(conversation("c1", None))
    assert store.latest() is not None
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    """A file in the place of the folder stands for every way of not being writable."""
    (tmp_path / "data").write_text("in the way")
    store = Conversations.open(tmp_path / "data" / "conversations.db")
    assert not store.saved
    assert "KVCHAT_DATA_DIR" in (store.warning or "")


def test_a_locked_file_is_saved_later(tmp_path: Path) -> None:
    """While another program holds the file the user hears of it once; then all of it is saved."""
    path = tmp_path / "conversations.db"
    store = Conversations.open(path)
    store._db.execute("PRAGMA busy_timeout = 0")
    problems: list[str] = []
    recorder = Recorder(store, problems.append)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    recorder.save(conversation("c1", "a"), message("a", None, "one")).result()
    recorder.save(conversation("c1", "bb"), message("bb", "a", "two")).result()
    assert len(problems) == 1
    assert "Another program" in problems[0]
    other.execute("ROLLBACK")
    recorder.save(conversation("c1", "bb"), message("bb", "a", "two, whole")).result()
    recorder.close()
    assert [m.content for m in Conversations.open(path).messages("c1")] == ["one", "two, whole"]


def test_errors_are_one_sentence(store: Conversations) -> None:
    store._db.execute("DROP TABLE messages_fts")
    store._db.execute("DROP TABLE messages")
    with pytest.raises(StoreError, match="cannot be used"):
        store.messages("c1")


def test_the_schema_can_be_brought_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of this version gets the next version's change and keeps its conversations."""
    path = tmp_path / "conversations.db"
    old = Conversations.open(path)
    old.save(conversation("c1", None))
    old.close()
    scripts = (*schema.MIGRATIONS, "ALTER TABLE conversations ADD COLUMN colour TEXT;")
    monkeypatch.setattr(schema, "MIGRATIONS", scripts)
    monkeypatch.setattr(schema, "VERSION", 2)
    new = Conversations.open(path)
    assert new.latest() is not None
    assert "colour" in new._db.execute("SELECT * FROM conversations").fetchone().keys()  # noqa: SIM118


@pytest.mark.skipif(sys.platform == "win32", reason="POSIX permissions")
def test_only_the_user_can_read_it(store: Conversations) -> None:
    mode = stat.S_IMODE(os.stat(store.path).st_mode)
    assert mode == 0o600
    assert stat.S_IMODE(os.stat(store.path.parent).st_mode) == 0o700


def test_the_folder_can_be_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KVCHAT_DATA_DIR", str(tmp_path))
    assert default_path() == tmp_path / "conversations.db"

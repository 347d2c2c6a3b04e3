"""Conversations on disk: what is saved is found again, whatever the file meets."""

from __future__ import annotations

import os
import random
import shutil
import sqlite3
import stat
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.faults import DATABASE_DAMAGES, fill
from tui.storage import Recorder, damage, database, recorder, schema
from tui.storage.conversations import (
    Conversation,
    Conversations,
    StoredMessage,
    StoreError,
    default_path,
)
from tui.storage.records import stored_message
from tuner.safe_text import utf8


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
    assert store.shown("c1") == [asked, answer]


def test_a_growing_message_is_replaced_in_place(store: Conversations) -> None:
    """Saving each second makes one row, with the last text, and it is found by that text."""
    store.save(conversation("c1", "a"), [message("a", None, "Hi")])
    store.save(conversation("c1", "bb"), [message("bb", "a", "Hel", state="interrupted")])
    store.save(conversation("c1", "bb"), [message("bb", "a", "Hello", state="complete")])
    assert [m.content for m in store.shown("c1")] == ["Hi", "Hello"]
    assert [hit.conversation.id for hit in store.search("hello")] == ["c1"]


def test_a_regenerated_answer_is_a_branch(store: Conversations) -> None:
    """The head decides which path is shown; the other answer stays."""
    first, second = message("bb", "a", "one"), message("cc", "a", "two")
    store.save(conversation("c1", "bb"), [message("a", None, "Hi"), first])
    store.save(conversation("c1", "cc"), [second])
    assert [m.content for m in store.shown("c1")] == ["Hi", "two"]
    # An earlier head shows the first one again: nothing of it is lost.
    store.save(conversation("c1", "bb"))
    assert store.shown("c1")[1:] == [first]


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
    assert [m.content for m in Conversations.open(path).shown("c1")] == ["one", "two, whole"]


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
    monkeypatch.setattr(schema, "VERSION", schema.VERSION + 1)
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


# ---------------------------------------------------------------- order


def test_the_latest_is_the_one_written_last_whatever_the_clock_says(store: Conversations) -> None:
    """A clock that is set back a year must not make --resume open an older conversation."""
    store.save(conversation("aa", "m1", at=2000.0), [message("m1", None, "first")])
    store.save(conversation("bb", "m2", at=1000.0), [message("m2", None, "second")])
    assert [c.id for c in store.list()] == ["bb", "aa"]
    assert [hit.conversation.id for hit in store.search("title")] == ["bb", "aa"]
    store.save(conversation("aa", "m3", at=500.0), [message("m3", "m1", "third")])
    latest = store.get("latest")
    assert latest is not None
    assert latest.id == "aa"


# ---------------------------------------------------------------- what is kept

_TEXT = st.text(max_size=40)  # with halves of surrogate pairs and control characters
_MESSAGES = st.lists(
    st.builds(
        StoredMessage, id=st.uuids().map(str), parent_id=st.none(),
        role=st.sampled_from(["user", "assistant"]), content=_TEXT, created=st.floats(0, 1e10),
        state=_TEXT, reasoning=_TEXT, model_name=st.none() | _TEXT, settings=st.none() | _TEXT,
        n_tokens=st.none() | st.integers(0, 2**31), tokens_per_second=st.none() | st.floats(0, 1e9),
    ),
    max_size=4,
)  # fmt: skip


@settings(
    deadline=None,
    derandomize=True,
    max_examples=100,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.uuids().map(str), _TEXT, st.none() | _TEXT, _MESSAGES)
def test_any_text_is_kept_as_utf_8_can_hold_it(
    store: Conversations, key: str, title: str, system: str | None, said: list[StoredMessage]
) -> None:
    """Nothing that a model, a paste or an argument may hold is a reason not to save."""
    path = [replace(m, parent_id=said[i - 1].id if i else None) for i, m in enumerate(said)]
    store.save(Conversation(key, title, 1.0, 1.0, system, path[-1].id if path else None), path)
    found = store.get(key)
    assert found is not None
    assert (found.title, found.system_prompt) == (utf8(title), system and utf8(system))
    texts = [
        (utf8(m.content), utf8(m.reasoning), utf8(m.state), m.n_tokens, m.tokens_per_second)
        for m in path
    ]
    assert texts == [
        (m.content, m.reasoning, m.state, m.n_tokens, m.tokens_per_second) for m in store.shown(key)
    ]
    store.search(title)
    store.delete(key)


# ---------------------------------------------------------------- damage


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> tuple[bytes, dict[str, list[str]]]:
    """A file of 6 conversations, and the texts of each."""
    path = tmp_path_factory.mktemp("filled") / "conversations.db"
    store = Conversations.open(path)
    fill(store, 6, 12)
    texts = {c.id: [m.content for m in store.shown(c.id)] for c in store.list()}
    store.close()
    return path.read_bytes(), texts


@pytest.mark.parametrize("kind", DATABASE_DAMAGES)
@pytest.mark.parametrize("seed", range(3))
def test_a_damaged_file_opens_and_nothing_is_lost_in_silence(
    tmp_path: Path, filled: tuple[bytes, dict[str, list[str]]], kind: str, seed: int
) -> None:
    """It opens, what is lost is told, and what comes is saved."""
    whole, texts = filled
    raw = bytearray(whole)
    DATABASE_DAMAGES[kind](random.Random(seed), raw)
    path = tmp_path / "conversations.db"
    path.write_bytes(raw)
    store = Conversations.open(path)
    said: list[str] = []
    saver = Recorder(store, said.append, said.append)
    try:
        found = {c.id: [m.content for m in store.shown(c.id)] for c in store.list()}
        store.search("alpha")
    except StoreError as error:
        said.append(str(error))
        found = {}
    saver.save(conversation("new", "n"), message("n", None, "fresh")).result()
    saver.save(conversation("c0", "o"), message("o", "c0m11", "fresh too")).result()
    saver.close()
    assert not saver.problem
    told = bool(store.warning or said)
    assert store.saved or "newer kvchat" in (store.warning or "")
    if not told:
        assert {key: len(path) for key, path in found.items()} == dict.fromkeys(texts, 12)
    store.close()
    if store.saved:
        again = Conversations.open(path)
        assert again.warning is None
        assert [m.content for m in again.shown("new")] == ["fresh"]
        assert again.shown("c0")[-1].content == "fresh too"
        again.close()


def test_what_can_be_read_is_copied_over(
    tmp_path: Path, filled: tuple[bytes, dict[str, list[str]]]
) -> None:
    """Without its first page SQLite knows nothing of the file: all of it is found all the same,
    the file is kept beside the new one, and the sentence says how much was saved."""
    whole, texts = filled
    path = tmp_path / "conversations.db"
    path.write_bytes(b"\0" * 4096 + whole[4096:])
    store = Conversations.open(path)
    assert {c.id: [m.content for m in store.shown(c.id)] for c in store.list()} == texts
    assert "6 conversations with 72 messages were saved" in (store.warning or "")
    (kept,) = [p for p in tmp_path.iterdir() if p.suffix == ".bad"]
    assert kept.read_bytes()[4096:] == whole[4096:]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    store.close()


@pytest.mark.parametrize("what", ["role", "content", "reasoning"])
def test_a_text_that_changed_on_disk_is_told(tmp_path: Path, what: str) -> None:
    """SQLite does not notice bytes of a text: the message says that it is not what was saved, also
    after it was copied into another file; the others say nothing."""
    path = tmp_path / "conversations.db"
    store = Conversations.open(path)
    said = [message("aa", None, "before"), message("b", "aa", "a needle", reasoning="a thorn")]
    store.save(conversation("c1", "cc"), [*said, message("cc", "b", "after")])
    store.close()
    changes = {
        "role": (b"user", b"used"),
        "content": (b"a needle", b"a needed"),
        "reasoning": (b"a thorn", b"a torch"),
    }
    path.write_bytes(path.read_bytes().replace(*changes[what]))
    again = Conversations.open(path)
    into = database._memory()
    schema.prepare(into)
    damage.copy_over(again._db, into)
    copied = [stored_message(dict(row)) for row in into.execute("SELECT * FROM messages")]
    for read in (again.shown("c1"), copied):
        assert [m.damaged for m in read] == [False, True, False]
    assert again.warning is None
    again.close()


def test_a_file_from_before_there_were_checksums(tmp_path: Path) -> None:
    """It opens as ever, its messages are taken at their word, and new ones are guarded."""
    path = tmp_path / "conversations.db"
    with sqlite3.connect(path) as db:
        db.executescript(f"{schema.MIGRATIONS[0]}; PRAGMA user_version = 1")
        db.execute(
            "INSERT INTO conversations (id, title, created, updated) VALUES ('c', 't', 1, 1)"
        )
        db.execute(
            """INSERT INTO messages (id, conversation_id, role, content, state, created)
               VALUES ('a', 'c', 'user', 'before', 'complete', 1.0)"""
        )
    store = Conversations.open(path)
    assert store.warning is None
    assert store.shown("c") == [message("a", None, "before")]
    store.save(conversation("c", "bb"), [message("bb", "a", "fresh")])
    store._db.execute("UPDATE messages SET content = 'other'")
    assert [m.damaged for m in store.shown("c")] == [False, True]
    store.close()


def test_messages_whose_conversation_is_lost_make_one(tmp_path: Path) -> None:
    path = tmp_path / "conversations.db"
    store = Conversations.open(path)
    fill(store, 1, 4)
    store._db.execute("PRAGMA foreign_keys = OFF")
    store._db.execute("DELETE FROM conversations")
    store._db.execute("DELETE FROM messages WHERE id = 'c0m1'")
    into = database._memory()
    schema.prepare(into)
    assert str(damage.copy_over(store._db, into)).startswith("1 conversation with 3 messages")
    assert into.execute("SELECT head FROM conversations").fetchone()[0] == "c0m3"
    parents = [row[0] for row in into.execute("SELECT parent_id FROM messages ORDER BY n")]
    assert parents == [None, "c0m0", "c0m2"]


def test_a_row_of_another_table_is_no_message() -> None:
    """Where pages have changed places, the search index's lie in the messages' stead."""
    source, into = sqlite3.connect(":memory:"), database._memory()
    source.execute("CREATE TABLE messages (id, conversation_id, role, content)")
    source.executemany(
        "INSERT INTO messages VALUES (?, ?, ?, ?)",
        [
            ("some words", None, None, None),
            ("a", "c1", "user", "one"),
            ("b", "c1", "assistant", ""),
        ],
    )
    schema.prepare(into)
    assert str(damage.copy_over(source, into)).startswith("1 conversation with 2 messages")


def test_a_header_that_forbids_writing_is_damage(tmp_path: Path) -> None:
    """A format version that SQLite never had; the file's mode is as it should be."""
    path = tmp_path / "conversations.db"
    store = Conversations.open(path)
    fill(store, 2, 4)
    store.close()
    raw = bytearray(path.read_bytes())
    raw[18] = 77
    path.write_bytes(raw)
    again = Conversations.open(path)
    assert again.saved
    assert "2 conversations with 8 messages were saved" in (again.warning or "")
    again.close()


def test_a_damaged_search_index_is_rebuilt(tmp_path: Path) -> None:
    """Its conversations stay where they are, and are found again."""
    path = tmp_path / "conversations.db"
    store = Conversations.open(path)
    fill(store, 2, 4)
    store.close()
    with sqlite3.connect(path) as db:
        db.execute("UPDATE messages_fts_data SET block = x'00ff00ff'")
    again = Conversations.open(path)
    assert again.warning is None
    assert {hit.conversation.id for hit in again.search("alpha")} == {"c0", "c1"}
    assert [p.name for p in tmp_path.iterdir() if p.suffix == ".bad"] == []
    again.close()


@pytest.mark.parametrize("seed", range(4))
def test_damage_that_comes_later(tmp_path: Path, seed: int) -> None:
    """The file is damaged while the chat is open: the chat goes on saving, and says what it met.
    What this chat has said itself is not lost with the file."""
    path = tmp_path / "conversations.db"
    first = Conversations.open(path)
    fill(first, 8, 20)
    first.close()
    store = Conversations.open(path)
    said: list[str] = []
    saver = Recorder(store, said.append, said.append)
    saver.save(conversation("own", "a"), message("a", None, "one")).result()
    store._db.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    chance = random.Random(seed)
    with path.open("r+b") as file:
        for page in chance.sample(range(1, path.stat().st_size // 4096), 20):
            file.seek(4096 * page)
            file.write(chance.randbytes(4096))
    store._db.execute("PRAGMA cache_size = 0")
    store._db.execute("PRAGMA shrink_memory")
    for n in range(20):
        text = f"word {n} " * 300
        saver.save(conversation("own", f"b{n}"), message(f"b{n}", "a", text)).result()
    saver.close()
    assert not saver.problem
    store.close()
    again = Conversations.open(path)
    assert again.shown("own")[0].content == "one"
    assert again.shown("own")[-1].content.startswith("word 19")
    assert any("damaged" in word for word in (*said, again.warning or ""))
    again.close()


@pytest.mark.parametrize("gone", ["renamed", "removed", "replaced"])
def test_a_file_that_is_taken_away(tmp_path: Path, gone: str) -> None:
    """Another kvchat set it aside, or the user removed it: what is said goes into the file that
    is there, with the rest of its conversation."""
    path = tmp_path / "data" / "conversations.db"
    store = Conversations.open(path)
    said: list[str] = []
    saver = Recorder(store, said.append, said.append)
    saver.save(conversation("own", "a"), message("a", None, "one")).result()
    if gone == "renamed":
        for file in list(path.parent.iterdir()):
            file.rename(tmp_path / file.name)
    else:
        shutil.rmtree(path.parent)
    if gone == "replaced":
        Conversations.open(path).close()
    saver.save(conversation("own", "bb"), message("bb", "a", "two")).result()
    saver.close()
    assert "removed or replaced" in said[0]
    other = Conversations.open(path)
    assert [m.content for m in other.shown("own")] == ["one", "two"]
    other.close()
    store.close()


@pytest.mark.parametrize(
    "sql",
    [
        "ALTER TABLE messages DROP COLUMN reasoning",
        "DROP TABLE conversations",
        "PRAGMA user_version = 0",
        "CREATE TABLE other (x); DROP TABLE messages",
    ],
)
def test_tables_that_are_not_ours(tmp_path: Path, sql: str) -> None:
    """Another schema than the version says: set aside, and what it has is taken over."""
    path = tmp_path / "conversations.db"
    store = Conversations.open(path)
    fill(store, 2, 3)
    store.close()
    with sqlite3.connect(path) as db:
        db.executescript(sql)
    again = Conversations.open(path)
    assert again.saved
    assert "2 conversations" in (again.warning or "")
    assert len(again.list()) == 2
    again.close()


def test_values_of_other_types_are_read(store: Conversations) -> None:
    """SQLite keeps any type in any column; a screen is given what it can show."""
    fill(store, 1, 2)
    store._db.execute(
        "UPDATE messages SET content = x'ff00', created = 'x', n_tokens = -1, role = 7"
    )
    store._db.execute(
        "UPDATE conversations SET title = 1.5, updated = 1e300, system_prompt = x'c3'"
    )
    (found,) = store.list()
    assert (found.title, found.updated, found.system_prompt) == ("1.5", 0.0, "\ufffd")
    for read in store.shown("c0"):
        assert (read.role, read.content, read.created) == ("assistant", "\ufffd\0", 0.0)
        assert read.n_tokens is None


@pytest.mark.parametrize(
    "error",
    [
        sqlite3.DatabaseError("vtable constructor failed"), sqlite3.OperationalError("x"),
        IndexError("no such column"), UnicodeDecodeError("utf-8", b"x", 0, 1, "bad"),
        OverflowError("int too large"), ValueError("embedded null"), MemoryError(),
        sqlite3.ProgrammingError("closed"), RecursionError(),
    ],
)  # fmt: skip
def test_every_exception_is_a_store_error(store: Conversations, error: Exception) -> None:
    """Whatever SQLite raises, and wherever, comes out of the one door in one sentence."""

    class Failing:
        def __getattr__(self, name: str) -> object:
            raise error

    real, store._db = store._db, Failing()  # type: ignore[assignment]
    one = conversation("c", None)
    for call in (
        lambda: store.save(one), store.list, store.latest, lambda: store.get("c"),
        lambda: store.messages("c"), lambda: store.search("x"), lambda: store.rename("c", "x"),
        lambda: store.delete("c"),
    ):  # fmt: skip
        with pytest.raises(StoreError):
            call()
    store._db = real


@pytest.mark.parametrize("error", [RuntimeError("x"), OSError("y"), MemoryError(), StoreError("z")])
def test_whatever_stops_a_save_is_told(
    store: Conversations, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    """Of any kind; and the word goes when saving works again, without another save."""
    monkeypatch.setattr(recorder, "RETRY_SECONDS", 0.01)
    problems: list[str] = []
    saved = threading.Event()
    save = store.save
    failing = True

    def refuse(*_: object) -> None:
        if failing:
            raise error
        save(*_)  # type: ignore[arg-type]

    monkeypatch.setattr(store, "save", refuse)
    saver = Recorder(store, problems.append, lambda _: saved.set())
    saver.save(conversation("c1", "a"), message("a", None, "one")).result()
    assert len(problems) == 1
    assert saver.problem == problems[0]
    failing = False
    assert saved.wait(5)
    saver.close()
    assert saver.problem == ""
    assert [m.content for m in store.shown("c1")] == ["one"]


@pytest.mark.parametrize("lock", ["BEGIN IMMEDIATE", "BEGIN EXCLUSIVE"])
def test_a_file_that_is_held_when_the_chat_opens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lock: str
) -> None:
    """The chat opens soon, says so where it cannot go on, and saves when the other lets go."""
    monkeypatch.setattr(database, "BUSY_SECONDS", 0.05)
    monkeypatch.setattr(recorder, "RETRY_SECONDS", 0.02)
    path = tmp_path / "conversations.db"
    Conversations.open(path).close()
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("PRAGMA journal_mode = DELETE")
    other.execute(lock)
    began = time.monotonic()
    store = Conversations.open(path)
    assert time.monotonic() - began < 3
    assert store.saved
    assert "Another program" in (store.warning or "")
    problems: list[str] = []
    saver = Recorder(store, problems.append)
    saver.save(conversation("c1", "a"), message("a", None, "one")).result()
    assert "Another program" in problems[0]
    other.execute("ROLLBACK")
    end = time.monotonic() + 10
    while saver.problem and time.monotonic() < end:
        time.sleep(0.01)
    saver.close()
    assert [m.content for m in store.shown("c1")] == ["one"]
    store.close()


def test_the_end_does_not_wait_for_a_lock(tmp_path: Path) -> None:
    """And says that something is not saved."""
    path = tmp_path / "conversations.db"
    store = Conversations.open(path)
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    saver = Recorder(store, lambda _: None)
    saver.save(conversation("c1", "a"), message("a", None, "one"))
    began = time.monotonic()
    saver.close(0.3)
    assert time.monotonic() - began < 1
    assert saver.problem
    other.execute("ROLLBACK")


def test_the_end_tries_once_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another program kept from being saved, and then let go, is saved by leaving."""
    monkeypatch.setattr(recorder, "RETRY_SECONDS", 1000.0)
    path = tmp_path / "conversations.db"
    store = Conversations.open(path)
    store._db.execute("PRAGMA busy_timeout = 0")
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    saver = Recorder(store, lambda _: None)
    saver.save(conversation("c1", "a"), message("a", None, "one")).result()
    assert saver.problem
    other.execute("ROLLBACK")
    saver.close()
    assert saver.problem == ""
    assert [m.content for m in store.shown("c1")] == ["one"]

"""The conversations on disk: one SQLite file, shared by every kvchat that runs.

Messages form a tree: a regenerated answer has the same parent as the one it replaces, and a
conversation's `head` names the leaf whose path is shown. All methods block and may be called from
any thread.
"""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import platformdirs

from tui.storage import schema
from tuner.errors import KvchatError

LATEST = "latest"
BUSY_SECONDS = 5.0
T = TypeVar("T")


class StoreError(KvchatError):
    """The conversations cannot be read or written; `str()` says why and what to do."""

    kind = "conversations"


@dataclass(frozen=True, slots=True)
class Conversation:
    """A conversation's own record. `head` is the id of the last message of the shown path."""

    id: str
    title: str
    created: float  # seconds since the epoch
    updated: float
    system_prompt: str | None = None
    head: str | None = None
    n_messages: int = 0  # all branches; filled when read


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """One message of the tree. `state` is complete, stopped, max_tokens,
    context_full, interrupted or error.

    A message that is still being written is saved as "interrupted", so that whatever ends the
    process leaves the truth on disk.
    """

    id: str
    parent_id: str | None
    role: str  # "user" | "assistant"
    content: str
    created: float
    state: str = "complete"
    reasoning: str = ""
    model_name: str | None = None
    model_fingerprint: str | None = None
    settings: str | None = None  # JSON of Settings and Sampling
    n_prompt: int | None = None  # tokens
    n_tokens: int | None = None  # tokens of this answer
    n_ctx_used: int | None = None  # tokens in the cache after it
    tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Hit:
    """A conversation found by its text, with the words around the match."""

    conversation: Conversation
    excerpt: str


Found = list[Hit]  # inside the class below, `list` is a method
Records = list[Conversation]
Messages = list[StoredMessage]
Words = list[str]


def default_path() -> Path:
    """conversations.db in KVCHAT_DATA_DIR, or in the user's data folder."""
    folder = os.environ.get("KVCHAT_DATA_DIR")
    base = Path(folder) if folder else Path(platformdirs.user_data_dir("kvchat", appauthor=False))
    return base / "conversations.db"


class Conversations:
    """The store. `warning` says why nothing is saved or what was set aside; None if all is well."""

    def __init__(self, db: sqlite3.Connection, path: Path, warning: str | None, saved: bool):
        self._db = db
        self._lock = threading.RLock()
        self.path = path
        self.warning = warning
        self.saved = saved  # False: in memory only
        self._fts = schema.has_fts(db)
        if self._fts:
            self._attempt(self._index_missing)

    @classmethod
    def open(cls, path: Path | None = None) -> Conversations:
        """The store at `path`, made if it is not there. Never raises: where the file cannot be
        used, the store is in memory only and `warning` says why."""
        path = path or default_path()
        try:
            db, warning = schema.open_file(path, BUSY_SECONDS)
        except schema.UnusableError as problem:
            db = sqlite3.connect(":memory:", check_same_thread=False, isolation_level=None)
            schema.prepare(db)
            return cls(db, path, f"{problem} This chat will not be saved.", saved=False)
        return cls(db, path, warning, saved=True)

    def close(self) -> None:
        with self._lock:
            self._db.close()

    # ------------------------------------------------------------ reading

    def list(self, limit: int = 1000) -> Records:
        """The newest first."""
        return self._attempt(
            lambda: [
                _conversation(row)
                for row in self._db.execute(
                    f"{_SELECT} ORDER BY c.updated DESC, c.rowid DESC LIMIT ?", (limit,)
                )
            ]
        )

    def latest(self) -> Conversation | None:
        found = self.list(1)
        return found[0] if found else None

    def get(self, conversation_id: str) -> Conversation | None:
        """The conversation with this id, or with the only id that begins so; "latest" works."""
        if conversation_id == LATEST:
            return self.latest()
        rows = self._attempt(
            lambda: self._db.execute(
                f"{_SELECT} WHERE substr(c.id, 1, length(?1)) = ?1 LIMIT 2", (conversation_id,)
            ).fetchall()
        )
        exact = [row for row in rows if row["id"] == conversation_id]
        chosen = exact or rows
        return _conversation(chosen[0]) if len(chosen) == 1 and conversation_id else None

    def messages(self, conversation_id: str) -> Messages:
        """The path from the first message to the head, oldest first."""
        rows = self._attempt(
            lambda: self._db.execute(
                """WITH RECURSIVE up(id, depth) AS (
                       SELECT head, 0 FROM conversations WHERE id = ?
                       UNION
                       SELECT m.parent_id, up.depth + 1 FROM messages m JOIN up ON m.id = up.id
                       WHERE m.parent_id IS NOT NULL)
                   SELECT m.* FROM up JOIN messages m ON m.id = up.id ORDER BY up.depth DESC""",
                (conversation_id,),
            ).fetchall()
        )
        return [_message(row) for row in rows]

    def search(self, text: str, limit: int = 200) -> Found:
        """Conversations whose messages or title hold every word of `text`, the newest first."""
        words = text.split()
        if not words:
            return [Hit(conversation, "") for conversation in self.list(limit)]
        return self._attempt(lambda: self._search(words, limit))

    def _search(self, words: Words, limit: int) -> Found:
        excerpts: dict[str, str] = {}
        if self._fts:
            query = " ".join('"' + word.replace('"', '""') + '"*' for word in words)
            for row in self._db.execute(
                """SELECT m.conversation_id AS id, snippet(messages_fts, 0, '', '', '…', 16) AS text
                   FROM messages_fts JOIN messages m ON m.n = messages_fts.rowid
                   WHERE messages_fts MATCH ? ORDER BY m.n DESC LIMIT ?""",
                (query, limit * 20),
            ):
                excerpts.setdefault(row["id"], " ".join(row["text"].split()))
        # Without an index, before a message is indexed, and for parts of words and scripts
        # without spaces, which the index cannot find.
        everything = not excerpts
        like = [f"%{_escape(word)}%" for word in words]
        clause = " AND ".join(["content LIKE ? ESCAPE '\\'"] * len(like))
        for row in self._db.execute(
            f"""SELECT conversation_id AS id, content FROM messages
                WHERE (? OR indexed = 0) AND {clause} ORDER BY n DESC LIMIT ?""",
            (everything, *like, limit * 20),
        ):
            excerpts.setdefault(row["id"], _excerpt(row["content"], words[0]))
        title = " AND ".join(["c.title LIKE ? ESCAPE '\\'"] * len(like))
        for row in self._db.execute(f"{_SELECT} WHERE {title} LIMIT ?", (*like, limit)):
            excerpts.setdefault(row["id"], "")
        found = [c for c in (self.get(key) for key in excerpts) if c is not None]
        found.sort(key=lambda c: c.updated, reverse=True)
        return [Hit(conversation, excerpts[conversation.id]) for conversation in found[:limit]]

    # ------------------------------------------------------------ writing

    def save(self, conversation: Conversation, messages: Iterable[StoredMessage] = ()) -> None:
        """Writes the conversation's record and these messages, parents first, in one transaction.
        What is there already is replaced. Raises StoreError."""
        with self._writing() as db:
            db.execute(
                """INSERT INTO conversations (id, title, created, updated, system_prompt, head)
                   VALUES (?, ?, ?, ?, ?, NULL)
                   ON CONFLICT (id) DO UPDATE SET updated = excluded.updated,
                       system_prompt = excluded.system_prompt,
                       title = CASE WHEN renamed THEN title ELSE excluded.title END""",
                (
                    conversation.id,
                    conversation.title,
                    conversation.created,
                    conversation.updated,
                    conversation.system_prompt,
                ),
            )
            for message in messages:
                self._save_message(db, conversation.id, message)
            db.execute(
                "UPDATE conversations SET head = ? WHERE id = ?",
                (conversation.head, conversation.id),
            )

    def _save_message(
        self, db: sqlite3.Connection, conversation_id: str, message: StoredMessage
    ) -> None:
        values = {name: getattr(message, name) for name in schema.MESSAGE_COLUMNS}
        columns = ", ".join(values)
        marks = ", ".join("?" * len(values))
        changes = ", ".join(f"{name} = excluded.{name}" for name in values if name != "id")
        (n,) = db.execute(
            f"""INSERT INTO messages (conversation_id, updated, {columns}) VALUES (?, ?, {marks})
                ON CONFLICT (id) DO UPDATE SET
                    {changes}, updated = excluded.updated, indexed = 0 RETURNING n""",
            (conversation_id, time.time(), *values.values()),
        ).fetchone()
        if self._fts and message.state != "interrupted":  # a growing message is indexed at its end
            self._index(db, n, message.content)

    def rename(self, conversation_id: str, title: str) -> None:
        """Gives a title that the first message no longer changes. Raises StoreError."""
        with self._writing() as db:
            db.execute(
                "UPDATE conversations SET title = ?, renamed = 1 WHERE id = ?",
                (title, conversation_id),
            )

    def delete(self, conversation_id: str) -> None:
        """Removes the conversation with all its branches. Raises StoreError."""
        with self._writing() as db:
            if self._fts:
                db.execute(
                    "DELETE FROM messages_fts WHERE rowid IN "
                    "(SELECT n FROM messages WHERE conversation_id = ?)",
                    (conversation_id,),
                )
            db.execute("UPDATE conversations SET head = NULL WHERE id = ?", (conversation_id,))
            db.execute("DELETE FROM conversations WHERE id = ?", (conversation_id,))

    # ------------------------------------------------------------ inside

    def _index(self, db: sqlite3.Connection, n: int, content: str) -> None:
        db.execute("DELETE FROM messages_fts WHERE rowid = ?", (n,))
        db.execute("INSERT INTO messages_fts (rowid, content) VALUES (?, ?)", (n, content))
        db.execute("UPDATE messages SET indexed = 1 WHERE n = ?", (n,))

    def _index_missing(self) -> None:
        """Indexes what a kvchat without FTS5, or one that was killed, left unindexed."""
        missing = self._db.execute(
            "SELECT n, content FROM messages WHERE indexed = 0 AND updated < ? LIMIT 1000",
            (time.time() - 60,),
        ).fetchall()
        if missing:
            with self._writing() as db:
                for row in missing:
                    self._index(db, row["n"], row["content"])

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            try:
                self._db.execute("BEGIN IMMEDIATE")
                try:
                    yield self._db
                except BaseException:
                    self._db.execute("ROLLBACK")
                    raise
                self._db.execute("COMMIT")
            except sqlite3.Error as error:
                raise StoreError(schema.explain(error, self.path)) from error

    def _attempt(self, read: Callable[[], T]) -> T:
        with self._lock:
            try:
                return read()
            except sqlite3.Error as error:
                raise StoreError(schema.explain(error, self.path)) from error


_SELECT = """SELECT c.*, (SELECT count(*) FROM messages m WHERE m.conversation_id = c.id) AS total
             FROM conversations c"""


def _conversation(row: sqlite3.Row) -> Conversation:
    return Conversation(
        id=row["id"],
        title=row["title"],
        created=row["created"],
        updated=row["updated"],
        system_prompt=row["system_prompt"],
        head=row["head"],
        n_messages=row["total"],
    )


def _message(row: sqlite3.Row) -> StoredMessage:
    return StoredMessage(**{name: row[name] for name in schema.MESSAGE_COLUMNS})


def _escape(word: str) -> str:
    return word.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


def _excerpt(content: str, word: str) -> str:
    flat = " ".join(content.split())
    at = max(flat.lower().find(word.lower()), 0)
    start = max(at - 30, 0)
    return (
        ("…" if start else "")
        + flat[start : start + 100]
        + ("…" if len(flat) > start + 100 else "")
    )

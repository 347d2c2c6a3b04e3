"""The conversations on disk: one SQLite file, shared by every kvchat that runs.

Messages form a tree: another answer has the same parent as the one before, and a conversation's
`head` names the end of the path that is shown. All methods block and may be called from
any thread.
"""

from __future__ import annotations

import json
import sqlite3
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from tui.composing.draft import Draft
from tui.storage import schema
from tui.storage.database import Database, StoreError, index_message
from tui.storage.records import (
    DELETED,
    Conversation,
    Hit,
    StoredMessage,
    checksum,
    draft,
    draft_values,
    record,
    stored_message,
)
from tui.storage.states import States
from tui.storage.tree import Tree
from tuner.private_files import STATES, kvchat_folder
from tuner.safe_text import utf8

__all__ = ["Conversation", "Conversations", "Hit", "StoreError", "StoredMessage", "default_path"]

LATEST = "latest"
MAX_WORDS = 32  # of a search; SQLite bounds the depth of a query

Found = list[Hit]  # inside the class below, `list` is a method
Records = list[Conversation]
Messages = list[StoredMessage]
Words = list[str]
Texts = list[str]


def default_path() -> Path:
    """conversations.db in KVCHAT_DATA_DIR, or in the user's data folder."""
    return kvchat_folder("data") / "conversations.db"


class Conversations(Database):
    """The store. Text is kept as UTF-8 can hold it. Raises StoreError, and nothing else. `states`:
    beside it, what the model had read of the conversations; they go with what they were read
    of."""

    def __init__(self, path: Path):
        super().__init__(path)
        self.states = States(path.parent / STATES)

    @classmethod
    def open(cls, path: Path | None = None) -> Self:
        return super().open(path or default_path())

    # ------------------------------------------------------------ reading

    def list(self, limit: int = 1000) -> Records:
        """The newest first."""
        return self._read(lambda db: _conversations(db, "", (limit,)))

    def latest(self) -> Conversation | None:
        found = self.list(1)
        return found[0] if found else None

    def get(self, conversation_id: str) -> Conversation | None:
        """The conversation with this id, or with the only id that begins so; "latest" works."""
        if conversation_id == LATEST:
            return self.latest()
        key = utf8(conversation_id)
        begin_so = "WHERE substr(c.id, 1, length(?)) = ?"
        found = self._read(lambda db: _conversations(db, begin_so, (key, key, 1000)))
        chosen = [c for c in found if c.id == key] or found
        return chosen[0] if len(chosen) == 1 and key else None

    def messages(self, conversation_id: str) -> Messages:
        """All of a conversation's messages, versions included, in the order in which they were
        written."""
        query = "SELECT * FROM messages WHERE conversation_id = ? ORDER BY n"
        rows = self._read(lambda db: db.execute(query, (conversation_id,)).fetchall())
        return [stored_message(dict(row)) for row in rows]

    def shown(self, conversation_id: str) -> Messages:
        """The messages that are shown, from the first to the head."""
        found = self.get(conversation_id)
        return Tree(self.messages(conversation_id), found.head if found else None).path

    def message_ids(self, conversation_id: str) -> set[str]:
        """Of all of a conversation's messages, to know whether another kvchat wrote some."""
        query = "SELECT id FROM messages WHERE conversation_id = ?"
        rows = self._read(lambda db: db.execute(query, (conversation_id,)).fetchall())
        return {str(row["id"]) for row in rows}

    def search(self, text: str, limit: int = 200) -> Found:
        """Conversations whose messages or title hold every word of `text`, the newest first."""
        words = utf8(text).replace("\0", " ").split()[:MAX_WORDS]
        if not words:
            return [Hit(conversation, "") for conversation in self.list(limit)]
        return self._read(lambda db: self._search(db, words, limit))

    def _search(self, db: sqlite3.Connection, words: Words, limit: int) -> Found:
        found: dict[str, tuple[str, str | None]] = {}  # words and message, by conversation
        if self._fts:
            query = " ".join('"' + word.replace('"', '""') + '"*' for word in words)
            for row in db.execute(
                """SELECT m.conversation_id, m.id, snippet(messages_fts, 0, '', '', '…', 16) AS text
                   FROM messages_fts JOIN messages m ON m.n = messages_fts.rowid
                   WHERE messages_fts MATCH ? ORDER BY m.n DESC LIMIT ?""",
                (query, limit * 20),
            ):
                words_there = " ".join(row["text"].split())
                found.setdefault(row["conversation_id"], (words_there, row["id"]))
        # Without an index, before a message is indexed, and for parts of words and scripts
        # without spaces, which the index cannot find.
        everything = not found
        like = [f"%{_escape(word)}%" for word in words]
        clause = " AND ".join(["content LIKE ? ESCAPE '\\'"] * len(like))
        for row in db.execute(
            f"""SELECT conversation_id, id, content FROM messages
                WHERE (? OR indexed = 0) AND {clause} ORDER BY n DESC LIMIT ?""",
            (everything, *like, limit * 20),
        ):
            excerpt = _excerpt(row["content"], words[0])
            found.setdefault(row["conversation_id"], (excerpt, row["id"]))
        title = " AND ".join(["c.title LIKE ? ESCAPE '\\'"] * len(like))
        for conversation in _conversations(db, f"WHERE {title}", (*like, limit)):
            found.setdefault(conversation.id, ("", None))
        among = "WHERE c.id IN (SELECT value FROM json_each(?))"
        conversations = _conversations(db, among, (json.dumps(list(found)), limit))
        return [Hit(each, *found[each.id]) for each in conversations]

    def draft(self, key: str) -> Draft:
        """What was being written last in this conversation; the key "" is that of a new one."""
        query = "SELECT text, folds FROM drafts WHERE conversation_id = ?"
        row = self._read(lambda db: db.execute(query, (key,)).fetchone())
        return draft(dict(row)) if row is not None else Draft()

    def prompts(self) -> Texts:
        """What was asked in all conversations, oldest first."""
        rows = self._read(lambda db: db.execute("SELECT text FROM prompts ORDER BY n").fetchall())
        return [draft(dict(row)).text for row in rows]

    # ------------------------------------------------------------ writing

    def save(self, conversation: Conversation, messages: Iterable[StoredMessage] = ()) -> None:
        """Writes the conversation's record and these messages, parents first, in one transaction.
        What is there already is replaced. Raises StoreError."""
        messages = tuple(messages)

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                """INSERT INTO conversations (id, title, created, updated, system_prompt, head)
                   VALUES (?, ?, ?, ?, ?, NULL)
                   ON CONFLICT (id) DO UPDATE SET updated = excluded.updated,
                       system_prompt = excluded.system_prompt,
                       title = CASE WHEN renamed THEN title ELSE excluded.title END""",
                _utf8(
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
                "UPDATE conversations SET head = (SELECT id FROM messages WHERE id = ?) "
                "WHERE id = ?",
                (conversation.head, conversation.id),
            )

        self._write(conversation.id, work)
        if any(message.state == DELETED for message in messages):  # its words are in it
            self.states.delete(conversation.id)

    def _save_message(
        self, db: sqlite3.Connection, conversation_id: str, message: StoredMessage
    ) -> None:
        values = {name: getattr(message, name) for name in schema.MESSAGE_COLUMNS}
        values["parent_id"] = _parent(db, conversation_id, message)
        values["checksum"] = checksum(message)
        columns = ", ".join(values)
        marks = ", ".join("?" * len(values))
        changes = ", ".join(f"{name} = excluded.{name}" for name in values if name != "id")
        (n,) = db.execute(
            f"""INSERT INTO messages (conversation_id, updated, {columns}) VALUES (?, ?, {marks})
                ON CONFLICT (id) DO UPDATE SET
                    {changes}, updated = excluded.updated, indexed = 0 RETURNING n""",
            _utf8(conversation_id, time.time(), *values.values()),
        ).fetchone()
        if message.state == DELETED:
            db.execute("DELETE FROM prompts WHERE message_id = ?", (message.id,))
        if self._fts and message.state != "interrupted":  # a growing message is indexed at its end
            index_message(db, n, utf8(message.content))

    def keep_draft(self, key: str, written: Draft) -> None:
        """Keeps what is being written in a conversation; nothing, where that is nothing. Raises
        StoreError."""

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM drafts WHERE conversation_id = ?", (key,))
            if written.text:
                db.execute("INSERT INTO drafts VALUES (?, ?, ?)", (key, *draft_values(written)))

        self._write(key or None, work)

    def remember(self, message_id: str, prompt: str) -> None:
        """Puts what was asked with a message at the end of the history of all conversations, which
        lets its oldest go; one that is very long is in its conversation alone. It goes when the
        message goes. Raises StoreError."""
        prompt = utf8(prompt)
        if not 0 < len(prompt) <= schema.PROMPT_CHARS:
            return

        def work(db: sqlite3.Connection) -> None:
            db.execute("DELETE FROM prompts WHERE text = ?", (prompt,))
            db.execute("INSERT INTO prompts (message_id, text) VALUES (?, ?)", (message_id, prompt))
            newest = "SELECT n FROM prompts ORDER BY n DESC LIMIT ?"
            db.execute(f"DELETE FROM prompts WHERE n NOT IN ({newest})", (schema.MAX_PROMPTS,))

        self._write(None, work)

    def rename(self, conversation_id: str, title: str) -> None:
        """Gives a title that the first message no longer changes. Raises StoreError."""

        def work(db: sqlite3.Connection) -> None:
            db.execute(
                "UPDATE conversations SET title = ?, renamed = 1 WHERE id = ?",
                _utf8(title, conversation_id),
            )

        self._write(conversation_id, work)

    def delete(self, conversation_id: str) -> None:
        """Removes the conversation with all its branches. Raises StoreError."""

        def work(db: sqlite3.Connection) -> None:
            if self._fts:
                db.execute(
                    "DELETE FROM messages_fts WHERE rowid IN "
                    "(SELECT n FROM messages WHERE conversation_id = ?)",
                    (conversation_id,),
                )
            db.execute(
                "DELETE FROM prompts WHERE message_id IN "
                "(SELECT id FROM messages WHERE conversation_id = ?)",
                (conversation_id,),
            )
            db.execute("UPDATE conversations SET head = NULL WHERE id = ?", (conversation_id,))
            db.execute("DELETE FROM conversations WHERE id = ?", (conversation_id,))
            db.execute("DELETE FROM drafts WHERE conversation_id = ?", (conversation_id,))

        self._write(conversation_id, work)
        self.states.delete(conversation_id)

    def sweep_states(self) -> None:
        """Removes the states of conversations that are no longer there. Raises StoreError."""
        if self.saved:
            query = "SELECT id FROM conversations"
            rows = self._read(lambda db: db.execute(query).fetchall())
            self.states.sweep({str(row["id"]) for row in rows})


def _parent(db: sqlite3.Connection, conversation_id: str, message: StoredMessage) -> str | None:
    """The parent, or where a mended file has lost it, the conversation's last message."""
    if message.parent_id is None:
        return None
    (found,) = db.execute(
        """SELECT coalesce((SELECT id FROM messages WHERE id = ?1),
               (SELECT id FROM messages WHERE conversation_id = ?2 AND id <> ?3
                ORDER BY n DESC LIMIT 1))""",
        (message.parent_id, conversation_id, message.id),
    ).fetchone()
    return str(found) if found is not None else None


def _conversations(
    db: sqlite3.Connection, where: str, values: tuple[object, ...]
) -> list[Conversation]:
    """The newest first: by the order in which their last messages were written, since a clock may
    be set back. The last of `values` is how many."""
    rows = db.execute(
        f"""SELECT c.*,
                (SELECT count(*) FROM messages m
                 WHERE m.conversation_id = c.id AND m.state <> '{DELETED}') AS n_messages,
                (SELECT max(n) FROM messages m WHERE m.conversation_id = c.id) AS last
            FROM conversations c {where}
            ORDER BY last DESC, c.updated DESC, c.rowid DESC LIMIT ?""",
        values,
    )
    return [record(Conversation, dict(row)) for row in rows]


def _utf8(*values: object) -> tuple[object, ...]:
    return tuple(utf8(value) if isinstance(value, str) else value for value in values)


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

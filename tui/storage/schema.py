"""The tables of the conversations and their versions."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress

VERSION = 7
MAX_PROMPTS = 1000  # that the history of all conversations holds,
PROMPT_CHARS = 20_000  # and the longest of them

MESSAGE_COLUMNS = (
    "id", "parent_id", "role", "content", "created", "state", "reasoning", "model_name",
    "model_fingerprint", "settings", "n_prompt", "n_tokens", "n_ctx_used", "tokens_per_second",
    "thought_seconds", "parts", "let_go", "n_reused", "prompt_seconds", "first_seconds",
)  # fmt: skip

# What the store itself notes of each message.
_OWN_COLUMNS = ("n", "conversation_id", "updated", "indexed", "checksum")

# One script per version: a file of version N is brought up by the scripts after the Nth.
MIGRATIONS = (
    """
    CREATE TABLE conversations (
        id TEXT PRIMARY KEY,
        title TEXT NOT NULL,
        renamed INTEGER NOT NULL DEFAULT 0,
        created REAL NOT NULL,
        updated REAL NOT NULL,
        system_prompt TEXT,
        head TEXT REFERENCES messages (id) DEFERRABLE INITIALLY DEFERRED
    );
    CREATE INDEX conversations_updated ON conversations (updated);
    CREATE TABLE messages (
        n INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
        parent_id TEXT REFERENCES messages (id) ON DELETE CASCADE,
        role TEXT NOT NULL,
        content TEXT NOT NULL,
        reasoning TEXT NOT NULL DEFAULT '',
        state TEXT NOT NULL,
        created REAL NOT NULL,
        updated REAL NOT NULL DEFAULT 0,
        model_name TEXT,
        model_fingerprint TEXT,
        settings TEXT,
        n_prompt INTEGER,
        n_tokens INTEGER,
        n_ctx_used INTEGER,
        tokens_per_second REAL,
        indexed INTEGER NOT NULL DEFAULT 0
    );
    CREATE INDEX messages_conversation ON messages (conversation_id);
    CREATE INDEX messages_parent ON messages (parent_id);
    CREATE INDEX messages_unindexed ON messages (indexed) WHERE indexed = 0;
    """,
    # Of what was said; NULL for messages from before there was one.
    "ALTER TABLE messages ADD COLUMN checksum INTEGER",
    "ALTER TABLE messages ADD COLUMN thought_seconds REAL",
    """
    ALTER TABLE messages ADD COLUMN parts TEXT;
    CREATE TABLE drafts (
        conversation_id TEXT PRIMARY KEY,
        text TEXT NOT NULL,
        folds TEXT NOT NULL
    );
    """,
    "ALTER TABLE messages ADD COLUMN let_go TEXT",
    # What was asked, of which the newest are there from the start.
    f"""
    DROP TABLE IF EXISTS prompts;
    CREATE TABLE prompts (n INTEGER PRIMARY KEY, message_id TEXT NOT NULL, text TEXT NOT NULL);
    INSERT INTO prompts (message_id, text) SELECT id, content FROM (
        SELECT max(n) AS n, id, content FROM messages
        WHERE role = 'user' AND length(content) BETWEEN 1 AND {PROMPT_CHARS}
        GROUP BY content ORDER BY n DESC LIMIT {MAX_PROMPTS}
    ) ORDER BY n;
    """,
    # How the prompt of an answer was read.
    """
    ALTER TABLE messages ADD COLUMN n_reused INTEGER;
    ALTER TABLE messages ADD COLUMN prompt_seconds REAL;
    ALTER TABLE messages ADD COLUMN first_seconds REAL;
    """,
)

_INDEX = (
    "CREATE VIRTUAL TABLE IF NOT EXISTS messages_fts USING fts5 "
    "(content, tokenize = 'unicode61 remove_diacritics 2')"
)
_COLUMNS = {
    "conversations": "id, title, renamed, created, updated, system_prompt, head",
    "messages": ", ".join((*MESSAGE_COLUMNS, *_OWN_COLUMNS)),
    "drafts": "conversation_id, text, folds",
    "prompts": "n, message_id, text",
}
TABLES = tuple(_COLUMNS)


# Python decodes what SQLite says, which may quote the bytes of a damaged schema.
ERRORS = (sqlite3.Error, UnicodeDecodeError, OverflowError)


class NewerError(Exception):
    """The file was written by a newer kvchat."""


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of what is done inside, or nothing. Raises sqlite3.Error."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        with suppress(*ERRORS):  # SQLite itself takes some failures back
            db.execute("ROLLBACK")
        raise


def prepare(db: sqlite3.Connection) -> None:
    """Makes the tables or brings them up to date; safe against another process doing the same.
    Raises NewerError, or sqlite3.Error where the file is not one of ours."""
    db.execute("PRAGMA foreign_keys = ON")
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > VERSION:
        raise NewerError
    if version < VERSION:
        with transaction(db):
            version = db.execute("PRAGMA user_version").fetchone()[0]
            for script in MIGRATIONS[version:]:
                for statement in filter(str.strip, script.split(";")):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {VERSION}")
    # Names every column, so that one that is missing is met here and not in the middle of a chat.
    for table, columns in _COLUMNS.items():
        db.execute(f"SELECT {columns} FROM {table} LIMIT 1").fetchone()


def make_index(db: sqlite3.Connection) -> bool:
    """Makes the full-text index where there is none; False: this Python's SQLite has no FTS5.
    Raises sqlite3.Error where the index is damaged."""
    try:
        db.execute(_INDEX)
        db.execute("SELECT rowid FROM messages_fts LIMIT 1").fetchone()
    except sqlite3.OperationalError as error:
        if "no such module" in str(error):
            return False
        raise
    return True


def drop_index(db: sqlite3.Connection) -> None:
    """Takes the full-text index away, for it to be made anew. Raises sqlite3.Error."""
    with transaction(db):
        db.execute("DROP TABLE IF EXISTS messages_fts")
        db.execute("UPDATE messages SET indexed = 0, updated = 0")

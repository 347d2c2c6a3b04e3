"""The file of the conversations: its tables, its versions, and what can be wrong with it."""

from __future__ import annotations

import os
import sqlite3
import time
from pathlib import Path

VERSION = 1

MESSAGE_COLUMNS = (
    "id", "parent_id", "role", "content", "created", "state", "reasoning", "model_name",
    "model_fingerprint", "settings", "n_prompt", "n_tokens", "n_ctx_used", "tokens_per_second",
)  # fmt: skip

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
)


class UnusableError(Exception):
    """The file cannot be used; `str()` is a sentence that says why and what to do."""


def open_file(path: Path, busy_seconds: float) -> tuple[sqlite3.Connection, str | None]:
    """An open, current database, and a warning if a damaged file was set aside.

    Raises UnusableError.
    """
    try:
        return _open(path, busy_seconds), None
    except sqlite3.DatabaseError as error:
        if not _is_damage(error):
            raise UnusableError(explain(error, path)) from error
    try:
        aside = _set_aside(path)
        return _open(path, busy_seconds), (
            f"The file of saved conversations was damaged; it is kept as {aside}, "
            f"and a new one was begun."
        )
    except (OSError, sqlite3.Error) as error:
        raise UnusableError(
            f"The file of saved conversations {path} is damaged: {error}."
        ) from error


def _open(path: Path, busy_seconds: float) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        # What people tell a model is private: no other user may read it.
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise UnusableError(
            f"Conversations cannot be written to {path} ({error.strerror}); make it writable or "
            f"set KVCHAT_DATA_DIR to another folder."
        ) from error
    db = sqlite3.connect(path, timeout=busy_seconds, check_same_thread=False, isolation_level=None)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version > VERSION:
            raise UnusableError(
                f"The conversations in {path} were written by a newer kvchat; update kvchat, or "
                f"set KVCHAT_DATA_DIR to another folder."
            )
        db.execute("PRAGMA journal_mode = WAL")
        db.execute("PRAGMA synchronous = NORMAL")
        prepare(db)
    except BaseException:
        db.close()
        raise
    return db


def prepare(db: sqlite3.Connection) -> None:
    """Makes the tables or brings them up to date; safe against another process doing the same."""
    db.row_factory = sqlite3.Row
    db.execute("PRAGMA foreign_keys = ON")
    if db.execute("PRAGMA user_version").fetchone()[0] < VERSION:
        db.execute("BEGIN IMMEDIATE")
        try:
            version = db.execute("PRAGMA user_version").fetchone()[0]
            for script in MIGRATIONS[version:]:
                for statement in filter(str.strip, script.split(";")):
                    db.execute(statement)
            db.execute(f"PRAGMA user_version = {VERSION}")
            db.execute("COMMIT")
        except BaseException:
            db.execute("ROLLBACK")
            raise
    else:
        db.execute(
            "SELECT (SELECT 1 FROM conversations LIMIT 1), (SELECT 1 FROM messages LIMIT 1)"
        ).fetchone()
    try:
        db.execute(
            "CREATE VIRTUAL TABLE IF NOT EXISTS messages_fts USING fts5 "
            "(content, tokenize = 'unicode61 remove_diacritics 2')"
        )
    except sqlite3.OperationalError as error:
        if "no such module" not in str(error):  # a Python whose SQLite has no FTS5 is normal
            raise


def has_fts(db: sqlite3.Connection) -> bool:
    """Whether the full-text index can be used from this Python."""
    try:
        db.execute("SELECT rowid FROM messages_fts LIMIT 1").fetchone()
    except sqlite3.OperationalError:
        return False
    return True


def explain(error: sqlite3.Error, path: Path) -> str:
    """One sentence for a person."""
    text = str(error)
    if "locked" in text or "busy" in text:
        return f"Another program holds the conversations in {path}; close it and try again."
    if "readonly" in text or "read-only" in text:
        return (
            f"Conversations cannot be written to {path} (read-only); make it writable or set "
            f"KVCHAT_DATA_DIR to another folder."
        )
    if "full" in text:
        return f"The disk that holds {path} is full; free some space."
    return f"The conversations in {path} cannot be used: {text}."


def _is_damage(error: sqlite3.DatabaseError) -> bool:
    text = str(error)
    return "not a database" in text or "malformed" in text or "corrupt" in text


def _set_aside(path: Path) -> Path:
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    for number in range(2, 1000):
        if not aside.exists():
            break
        aside = path.with_name(f"{path.name}.damaged-{stamp}-{number}")
    path.rename(aside)
    for suffix in ("-wal", "-shm"):
        companion = path.with_name(path.name + suffix)
        if companion.exists():
            companion.rename(aside.with_name(aside.name + suffix))
    return aside

"""A damaged file of conversations: told from one that cannot be used now, set aside, and what can
still be read of it copied over."""

from __future__ import annotations

import shutil
import sqlite3
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path
from typing import Any

from tui.storage import schema
from tui.storage.records import Conversation, StoredMessage, draft, draft_values, record
from tuner.units import count_text

CHECK_SECONDS = 0.5  # that a look at the whole file may take when it is opened
SALVAGE_SECONDS = 60.0  # that reading one damaged table may take
_STEPS = 1000  # of SQLite's machine between two looks at the clock
_PATIENT = 100_000  # rows that are tried one by one, before larger parts are passed over
_GAP = 1 << 20  # between two row numbers; more is damage
_LAST = 1 << 62
_TITLE_CHARS = 60
_COMPANIONS = ("-wal", "-shm")  # files that SQLite keeps beside a database

# https://sqlite.org/fts5.html#the_integrity_check_command
_CHECK_INDEX = "INSERT INTO messages_fts (messages_fts) VALUES ('integrity-check')"

# What another program, the disk or the user may change; the file itself is not to blame.
_NOT_NOW = {
    sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_PERM, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_INTERRUPT,
    sqlite3.SQLITE_IOERR, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_PROTOCOL, sqlite3.SQLITE_MISUSE,
    sqlite3.SQLITE_TOOBIG,
}  # fmt: skip
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


class DamagedError(sqlite3.DatabaseError):
    """A look at the file found it damaged, before SQLite stumbled over it."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT


class Health(Enum):
    """What a look at the file found."""

    WHOLE = auto()
    INDEX = auto()  # only the full-text index is damaged
    DAMAGED = auto()


@dataclass(frozen=True, slots=True)
class Salvaged:
    """What was copied over, and whether there was more that could not be read."""

    n_conversations: int = 0
    n_messages: int = 0
    whole: bool = True

    def __str__(self) -> str:
        if not self.n_conversations:
            return "nothing in it could be read" if not self.whole else "there was nothing in it"
        found = (
            f"{count_text(self.n_conversations, 'conversation')} with "
            f"{count_text(self.n_messages, 'message')} were saved from it"
        )
        return found if self.whole else f"{found}, the rest could not be read"


def is_busy(error: BaseException) -> bool:
    """Whether another program holds a lock."""
    return _code(error) in _BUSY


def may_be_damage(error: BaseException) -> bool:
    """Whether the file may be to blame for an error of SQLite's."""
    if isinstance(error, UnicodeDecodeError):
        return True
    return isinstance(error, sqlite3.Error) and _code(error) not in _NOT_NOW


def is_locked_by_damage(beginning: bytes) -> bool:
    """Whether the first 20 bytes of a file say that it is to be read only: by a format version
    that no SQLite has (https://sqlite.org/fileformat2.html, bytes 18 and 19)."""
    return beginning.startswith(b"SQLite format 3\0") and not set(beginning[18:20]) <= {1, 2}


def _code(error: BaseException) -> int:
    # Without one, it is Python's own: a closed connection, for example.
    return getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF


def examine(db: sqlite3.Connection, seconds: float = CHECK_SECONDS) -> Health:
    """Looks at tables and indexes for so long at most; what was not seen by then counts as
    whole."""
    end = time.monotonic() + seconds
    db.set_progress_handler(lambda: time.monotonic() > end, _STEPS)
    try:
        if _passes(db, "PRAGMA integrity_check(1)"):
            whole = _passes(
                db, "INSERT INTO messages_fts (messages_fts) VALUES ('integrity-check')"
            )
            return Health.WHOLE if whole else Health.INDEX
        ours = all(_passes(db, f"PRAGMA integrity_check({table})") for table in schema.TABLES)
        return Health.INDEX if ours else Health.DAMAGED
    finally:
        db.set_progress_handler(None, _STEPS)


def _passes(db: sqlite3.Connection, check: str) -> bool:
    try:
        found = db.execute(check).fetchone()
    except schema.ERRORS as error:
        absent = "no such table" in str(error) or "no such module" in str(error)
        return absent or not may_be_damage(error)
    return found is None or found[0] == "ok"


# ---------------------------------------------------------------- setting aside


def set_aside(path: Path) -> Path:
    """Gives the file and its companions another name, which tells the time. Nothing may have it
    open. Raises OSError."""
    stamp = time.strftime("%Y%m%d-%H%M%S")
    aside = path.with_name(f"{path.name}.damaged-{stamp}.bad")
    for number in range(2, 1000):
        if not aside.exists():
            break
        aside = path.with_name(f"{path.name}.damaged-{stamp}-{number}.bad")
    path.rename(aside)
    for suffix in _COMPANIONS:
        with suppress(FileNotFoundError):
            path.with_name(path.name + suffix).rename(aside.with_name(aside.name + suffix))
    return aside


# ---------------------------------------------------------------- copying over


def salvage(damaged: Path, target: sqlite3.Connection) -> Salvaged:
    """Copies what can be read of a file that was set aside into a prepared database. The file
    itself is not touched. Raises OSError and sqlite3.Error of the target's side."""
    with tempfile.TemporaryDirectory(dir=damaged.parent, prefix=".salvage-") as folder:
        copy = Path(folder) / "copy.db"
        for suffix in ("", "-wal"):
            with suppress(FileNotFoundError):
                shutil.copyfile(f"{damaged}{suffix}", f"{copy}{suffix}")
        found = _copied(copy, target)
        if found.n_conversations:
            return found
        # Its first page says where everything is: that of a new file says the same.
        for suffix in _COMPANIONS:
            copy.with_name(copy.name + suffix).unlink(missing_ok=True)
        shutil.copyfile(damaged, copy)
        if _renew_first_page(copy, Path(folder) / "new.db"):
            found = _copied(copy, target)
        return Salvaged(found.n_conversations, found.n_messages, whole=False)


def _copied(path: Path, target: sqlite3.Connection) -> Salvaged:
    with closing(sqlite3.connect(path, isolation_level=None)) as source:
        return copy_over(source, target)


def _renew_first_page(path: Path, new: Path) -> bool:
    with closing(sqlite3.connect(new, isolation_level=None)) as db:
        schema.prepare(db)
        schema.make_index(db)
        page_size = int(db.execute("PRAGMA page_size").fetchone()[0])
    page = bytearray(new.read_bytes()[:page_size])
    n_pages = path.stat().st_size // page_size
    # https://sqlite.org/fileformat2.html: the size in pages, then the list of free pages.
    page[28:32] = n_pages.to_bytes(4, "big")
    page[32:40] = bytes(8)
    with path.open("r+b") as file:
        file.write(page)
    return n_pages > 1


def copy_over(
    source: sqlite3.Connection, target: sqlite3.Connection, only: str | None = None
) -> Salvaged:
    """Copies what the target does not have, one conversation or all: a conversation whose record
    cannot be read is made from its messages, a message without its parent comes after the one
    before it. Raises sqlite3.Error of the target's side."""
    source.text_factory = lambda raw: raw.decode("utf-8", "replace")
    records = _Rows(source, "conversations")
    conversations = {str(row["id"]): row for row in records if row.get("id") is not None}
    messages = _Rows(source, "messages")
    # Pages may have changed places: a row in which nobody says anything is another table's.
    rows = [
        row
        for row in messages
        if row.get("id") is not None
        and (row.get("content") or row.get("reasoning") or row.get("role"))
    ]
    n_conversations = n_messages = 0
    last: dict[str, str] = {}  # message of each conversation so far
    with schema.transaction(target):
        there = {row[0] for row in target.execute("SELECT id FROM messages")}
        for row in rows:
            key = str(row.get("conversation_id"))
            if only in (None, key):
                if key not in last:
                    own = conversations.get(key, {})
                    n_conversations += _add_conversation(target, own, key, row)
                n_messages += _add_message(target, row, key, last.get(key), there)
                last[key] = str(row["id"])
        for key, row in conversations.items():
            if only in (None, key) and key not in last:
                n_conversations += _add_conversation(target, row, key, {})
        for key, end in last.items():
            head = str(conversations.get(key, {}).get("head"))
            target.execute(
                "UPDATE conversations SET head = ? WHERE id = ? AND head IS NULL",
                (head if head in there else end, key),
            )
        if only is None:
            _copy_writing(source, target)
    return Salvaged(n_conversations, n_messages, records.whole and messages.whole)


def _copy_writing(source: sqlite3.Connection, target: sqlite3.Connection) -> None:
    """What was being written, and the history of what was. A file from before has neither."""
    for row in _Rows(source, "drafts"):
        target.execute(
            "INSERT OR IGNORE INTO drafts (conversation_id, text, folds) VALUES (?, ?, ?)",
            (str(row.get("conversation_id")), *draft_values(draft(row))),
        )
    for row in _Rows(source, "prompts"):
        target.execute(
            "INSERT INTO prompts (message_id, text) VALUES (?, ?)",
            (str(row.get("message_id")), draft(row).text),
        )


class _Rows:
    """The rows of a table in the order in which they were written, as far as they can be read.
    `whole`: all of it could be, once they were gone through."""

    def __init__(self, db: sqlite3.Connection, table: str):
        self._db = db
        # By the table alone: an index may lead astray.
        self._query = f"SELECT rowid, * FROM {table} NOT INDEXED WHERE rowid > ? ORDER BY rowid"
        try:
            db.execute(f"{self._query} LIMIT 0", (0,)).fetchone()
            self.whole = self._there = True
        except schema.ERRORS:
            self.whole = self._there = False

    def __iter__(self) -> Iterator[dict[str, Any]]:
        end = time.monotonic() + SALVAGE_SECONDS
        at, step, failures, seen = -1, 1, 0, set[int]()
        while self._there and at < _LAST:
            try:
                cursor = self._db.execute(self._query, (at,))
                names = [column[0] for column in cursor.description]
                for values in cursor:
                    n = values[0]
                    if at < n and (at < 0 or n < at + _GAP):
                        at = n
                    if n not in seen:
                        seen.add(n)
                        yield dict(zip(names[1:], values[1:], strict=True))
                return
            except schema.ERRORS:
                self.whole = False
                failures += 1
                at += step
                if failures > _PATIENT:
                    step *= 2
                if time.monotonic() > end:
                    return


def _add_conversation(
    target: sqlite3.Connection, row: dict[str, Any], key: str, first: dict[str, Any]
) -> int:
    it = record(Conversation, {**row, "id": key})
    created = it.created or record(StoredMessage, first).created
    title = it.title or " ".join(record(StoredMessage, first).content.split())[:_TITLE_CHARS]
    return target.execute(
        """INSERT INTO conversations (id, title, renamed, created, updated, system_prompt)
           VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING""",
        (it.id, title, row.get("renamed") == 1, created, it.updated or created, it.system_prompt),
    ).rowcount


def _add_message(
    target: sqlite3.Connection, row: dict[str, Any], key: str, before: str | None, there: set[str]
) -> int:
    it = record(StoredMessage, row)
    if it.id in there:
        return 0
    there.add(it.id)
    values = {name: getattr(it, name) for name in schema.MESSAGE_COLUMNS}
    # As it was saved: a text that is damaged stays known as such.
    values["checksum"] = row.get("checksum")
    if it.parent_id not in there or it.parent_id == it.id:
        values["parent_id"] = before
    marks = ", ".join("?" * (len(values) + 1))
    target.execute(
        f"INSERT INTO messages (conversation_id, {', '.join(values)}) VALUES ({marks})",
        (key, *values.values()),
    )
    return 1

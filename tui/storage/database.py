"""The one door to SQLite: the file is opened, locked, mended and moved away from here, and every
exception that comes out is a StoreError."""

from __future__ import annotations

import os
import sqlite3
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self, TypeVar

from tui.storage import damage, schema
from tui.storage.damage import DamagedError, Health
from tuner.errors import KvchatError
from tuner.private_files import open_private, private_folder, why

OPEN_SECONDS = 0.5  # that another program's lock is waited for before the chat opens,
BUSY_SECONDS = 2.0  # and by a call after that: who saves tries again
_UNINDEXED_AFTER = 60.0  # seconds after which a message is no longer being written
T = TypeVar("T")


class StoreError(KvchatError):
    """The conversations cannot be read or written; `str()` says why and what to do."""

    kind = "conversations"


class UnusableError(Exception):
    """The file cannot be used; `str()` is a sentence that says why and what to do."""


class Database:
    """One file, shared by every kvchat that runs. `warning` says why nothing is saved or what was
    set aside; None if all is well. Methods block and may be called from any thread."""

    def __init__(self, path: Path):
        self.path = path
        self.warning: str | None = None
        self.heard: Callable[[str], None] = _nobody  # a warning that comes after `open`
        self.saved = True  # False: in memory only
        self._lock = threading.RLock()
        self._db = _memory()
        self._fts = False
        self._ready = False  # the tables are there; else another program's lock was in the way
        self._file: tuple[int, int] | None = None  # device and inode of the file that is open
        self._left: list[sqlite3.Connection] = []  # of files that are no longer at `path`,
        self._behind: sqlite3.Connection | None = None  # and the one to take along from
        self._open_one = ""  # the id of the conversation that is being written

    @classmethod
    def open(cls, path: Path) -> Self:
        """The store at `path`, made if it is not there. Never raises: where the file cannot be
        used, the store is in memory only and `warning` says why; where another program holds it,
        each call tries again."""
        store = cls(path)
        with store._lock:
            try:
                store._begin(OPEN_SECONDS)
            except Exception as error:
                if damage.is_busy(error):
                    store.warning = (
                        f"Another program holds the conversations in {path}; this one is saved "
                        f"as soon as it lets go."
                    )
                else:
                    store._in_memory(explain(error, path))
        return store

    def close(self) -> None:
        with self._lock:
            for db in (self._db, *self._left):
                with suppress(*schema.ERRORS):
                    db.close()

    # ------------------------------------------------------------ the door

    def _read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """What `work` reads. Raises StoreError, whatever happens inside."""
        with self._lock:
            return self._through(lambda: work(self._opened()))

    def _write(
        self, conversation_id: str | None, work: Callable[[sqlite3.Connection], None]
    ) -> None:
        """Lets `work` change this conversation, or what belongs to none, in one transaction.
        Raises StoreError, whatever happens inside; nothing is changed then."""
        with self._lock:
            self._open_one = conversation_id or self._open_one
            self._through(lambda: _change(self._opened(writes=True), work))

    def _through(self, call: Callable[[], T]) -> T:
        for last in (False, True):
            try:
                return call()
            except StoreError:
                raise
            except Exception as error:
                if last or not self._mended(error):
                    raise StoreError(explain(error, self.path)) from error
        raise AssertionError("the last attempt returns or raises")

    # ------------------------------------------------------------ opening

    def _opened(self, writes: bool = False) -> sqlite3.Connection:
        """The open database. One that is no longer at `path` is left for the one that is, and
        the conversation that is being written is taken along."""
        if writes and self._ready and self.saved and _identity(self.path) != self._file:
            self._left.append(self._db)  # to close it now would remove the new file's log
            self._ready, self._behind = False, self._db
        if not self._ready:
            self._begin(BUSY_SECONDS)
        if self._open_one and self._behind is not None:
            damage.copy_over(self._behind, self._db, only=self._open_one)
            self._behind = None
            self._warn(
                f"The file of saved conversations {self.path} was removed or replaced; this "
                f"conversation was saved again."
            )
        return self._db

    def _begin(self, busy_seconds: float) -> None:
        """Opens the file, or a new one in the place of a damaged one."""
        if not self.saved:
            return
        try:
            self._connect(busy_seconds)
        except Exception as error:
            if not damage.may_be_damage(error):
                raise
            self._replace()

    def _connect(self, busy_seconds: float) -> None:
        try:
            private_folder(self.path.parent)
            with os.fdopen(open_private(self.path, os.O_RDWR), "rb") as file:
                beginning = file.read(20)
        except OSError as error:
            raise UnusableError(
                f"Conversations cannot be written to {self.path} ({why(error)}); "
                f"make it writable or set KVCHAT_DATA_DIR to another folder."
            ) from error
        if damage.is_locked_by_damage(beginning):
            raise DamagedError
        db = _raw(self.path, busy_seconds)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")
            schema.prepare(db)
            health = damage.examine(db)
            if health is Health.DAMAGED:
                raise DamagedError
            self._fts = _renewed_index(db) if health is Health.INDEX else schema.make_index(db)
            if self._fts:
                with suppress(*schema.ERRORS), schema.transaction(db):
                    _index_missing(db)  # until then a search reads them as they are
            db.execute(f"PRAGMA busy_timeout = {BUSY_SECONDS * 1000:.0f}")
        except BaseException:
            db.close()
            raise
        self._db, self._file, self._ready = db, _identity(self.path), True

    def _in_memory(self, why: str) -> None:
        self._db, self._fts, self._ready, self.saved = _memory(), False, True, False
        schema.prepare(self._db)
        self._fts = schema.make_index(self._db)
        self.warning = f"{why} This chat will not be saved."

    def _warn(self, sentence: str) -> None:
        self.warning = sentence
        self.heard(sentence)

    # ------------------------------------------------------------ mending

    def _mended(self, error: Exception) -> bool:
        """Whether the file was to blame for an error, and is whole again."""
        if not self._ready or not self.saved or not damage.may_be_damage(error):
            return False
        try:
            health = damage.examine(self._db, damage.SALVAGE_SECONDS)
            if health is Health.INDEX:
                self._mend_index()
            elif health is Health.DAMAGED:
                self._replace()
            return health is not Health.WHOLE
        except (OSError, *schema.ERRORS):
            return False

    def _mend_index(self) -> None:
        try:
            self._fts = _renewed_index(self._db)
            with schema.transaction(self._db):
                _index_missing(self._db)
        except schema.ERRORS:  # it cannot even be taken away
            self._replace()

    def _replace(self) -> None:
        """Sets the file aside, unless another kvchat did so, and copies over what can be read."""
        self._ready = False
        with suppress(*schema.ERRORS):
            self._db.close()  # SQLite would find the companions of another file by the old name
        if self._file not in (None, _identity(self.path)):
            self._connect(BUSY_SECONDS)
            return
        try:
            aside = damage.set_aside(self.path)
        except OSError as error:
            raise UnusableError(
                f"The file of saved conversations {self.path} is damaged and cannot be set aside "
                f"({why(error)})."
            ) from error
        self._connect(BUSY_SECONDS)
        try:
            saved = str(damage.salvage(aside, self._db))
            if self._fts:
                with schema.transaction(self._db):
                    _index_missing(self._db)
        except (OSError, *schema.ERRORS) as error:
            saved = f"it could not be read ({error})"
        self._warn(
            f"The file of saved conversations was damaged; it is kept as {aside}, and a new one "
            f"was begun: {saved}."
        )


def index_message(db: sqlite3.Connection, n: int, content: str) -> None:
    """Puts a message, by its number, into the full-text index."""
    db.execute("DELETE FROM messages_fts WHERE rowid = ?", (n,))
    db.execute("INSERT INTO messages_fts (rowid, content) VALUES (?, ?)", (n, content))
    db.execute("UPDATE messages SET indexed = 1 WHERE n = ?", (n,))


def _nobody(_: str) -> None:
    pass


def _index_missing(db: sqlite3.Connection) -> None:
    """Indexes what a kvchat without FTS5, one that was killed, or a mended file left unindexed."""
    missing = db.execute(
        "SELECT n, content FROM messages WHERE indexed = 0 AND updated < ? LIMIT 1000",
        (time.time() - _UNINDEXED_AFTER,),
    ).fetchall()
    for row in missing:
        index_message(db, row["n"], row["content"])


def explain(error: BaseException, path: Path) -> str:
    """One sentence for a person."""
    text = str(error)
    if isinstance(error, UnusableError):
        return text
    if isinstance(error, schema.NewerError):
        return (
            f"The conversations in {path} were written by a newer kvchat; update kvchat, or "
            f"set KVCHAT_DATA_DIR to another folder."
        )
    if damage.is_busy(error) or "locked" in text:
        return f"Another program holds the conversations in {path}; close it and try again."
    if "readonly" in text or "read-only" in text:
        return (
            f"Conversations cannot be written to {path} (read-only); make it writable or set "
            f"KVCHAT_DATA_DIR to another folder."
        )
    if "is full" in text:
        return f"The disk that holds {path} is full; free some space."
    said = text if isinstance(error, sqlite3.Error) else repr(error)
    return f"The conversations in {path} cannot be used: {said}."


def _raw(path: Path | str, busy_seconds: float = 0.0) -> sqlite3.Connection:
    db = sqlite3.connect(path, timeout=busy_seconds, check_same_thread=False, isolation_level=None)
    db.row_factory = sqlite3.Row
    db.text_factory = lambda raw: raw.decode("utf-8", "replace")
    return db


def _memory() -> sqlite3.Connection:
    return _raw(":memory:")


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _renewed_index(db: sqlite3.Connection) -> bool:
    """Makes the full-text index anew. Raises sqlite3.Error where that does not mend the file."""
    schema.drop_index(db)
    usable = schema.make_index(db)
    if damage.examine(db) is not Health.WHOLE:
        raise DamagedError
    return usable


def _change(db: sqlite3.Connection, work: Callable[[sqlite3.Connection], None]) -> None:
    with schema.transaction(db):
        work(db)

"""Connections to SQLite, and what goes wrong with them."""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import quote

from perfgate_server.storage.base import Kind, Reason, Unavailable

#: What Python's sqlite3 raises; of SQLite without memory it makes a MemoryError.
ERRORS = (sqlite3.Error, MemoryError)


class Connection(sqlite3.Connection):
    """A connection that gives up a statement once its deadline has passed."""

    deadline = float("inf")
    has_statistics = False

    def is_late(self) -> bool:
        return time.monotonic() > self.deadline

    def stream(self, sql: str) -> Iterator[Any]:
        return iter(self.execute(sql))

    def ensure_durable(self) -> None:
        """What can be read is on the disk, or comes there with this transaction."""

    def reserve(self, kind: Kind, count: int) -> int:
        # Where AUTOINCREMENT keeps the largest number that it gave.
        row = self.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (kind,)).fetchone()
        largest = self.execute(f"SELECT coalesce(max(seq), 0) FROM {kind}").fetchone()[0]
        last = max(largest, row[0] if row else 0)
        self.execute("DELETE FROM sqlite_sequence WHERE name = ?", (kind,))
        self.execute("INSERT INTO sqlite_sequence (name, seq) VALUES (?, ?)", (kind, last + count))
        return int(last) + 1

    def as_bytes(self, column: str) -> str:
        return f"CAST({column} AS BLOB)"

    def index_hint(self, index: str) -> str:
        # The planner guesses: it takes a small list for a large one, and a page's cost then
        # depends on the page.
        return f"INDEXED BY {index}"

    def among(self, column: str, values: Sequence[Any]) -> tuple[str, Any]:
        return f"{column} IN (SELECT value FROM json_each(?))", json.dumps(values)


@contextmanager
def transaction(db: sqlite3.Connection, begin: str) -> Iterator[None]:
    """Begin a transaction with that statement; commit at the end, undo at an exception."""
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite itself has ended it after, say, a full disk
            db.execute("ROLLBACK")
        raise


def connect(path: Path | None, mode: str, timeout: float) -> Connection:
    """Return a connection to a file (None: to memory), in a mode of SQLite's URIs, ``rw`` or
    ``rwc``, that waits `timeout` seconds for a lock. Raises sqlite3.Error."""
    # Anything but the migrator opens without creating: a database that was removed must not
    # come back as an empty one.
    target = ":memory:"
    if path is not None:
        target = f"file://{quote(os.fsencode(path.absolute()))}?mode={mode}"
    db = sqlite3.connect(
        target,
        uri=path is not None,
        timeout=timeout,
        isolation_level=None,  # transactions are begun and ended here, in words
        check_same_thread=False,  # a connection is lent to one thread at a time
        factory=Connection,
    )
    # A large statement's journal would go to a file in the temporary folder: if that were full, or
    # not writable, nothing could be uploaded.
    db.execute("PRAGMA temp_store = MEMORY")
    return db


#: Of what SQLite says, by its extended or else its primary result code; of all else, that it is
#: down.
_REASONS: dict[int, Reason] = {
    sqlite3.SQLITE_BUSY: "busy",
    sqlite3.SQLITE_LOCKED: "busy",
    sqlite3.SQLITE_INTERRUPT: "busy",  # the deadline's end: `Connection.is_late`
    sqlite3.SQLITE_FULL: "full",
    sqlite3.SQLITE_IOERR_SHMSIZE: "full",  # there is no room for the index of a new log
    sqlite3.SQLITE_READONLY: "read_only",
}


def unavailable(error: BaseException) -> Unavailable:
    """Return what an error of SQLite's means to whoever asked."""
    text = f"SQLite: {str(error) or type(error).__name__}"
    extended = getattr(error, "sqlite_errorcode", 0)
    return Unavailable(text, _REASONS.get(extended) or _REASONS.get(primary_code(error), "down"))


def primary_code(error: BaseException) -> int:
    """Return SQLite's primary result code, 0 for what is no error of SQLite's."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF

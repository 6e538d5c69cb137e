"""Baselines in SQLite: a file, or for ``memory`` the inside of one process."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from perfgate_server.storage import sqlite_file, sqlite_wal
from perfgate_server.storage.base import Unavailable
from perfgate_server.storage.sqlite_connection import (
    ERRORS,
    Connection,
    connect,
    transaction,
    unavailable,
)
from perfgate_server.storage.sqlite_writer import Writer

#: SQLite's virtual machine instructions between two looks at the deadline: about a millisecond.
_PROGRESS_STEPS = 20_000
#: Seconds in which a read need not check again whether the file is still there: that takes three
#: calls of the system, a fourteenth of the time of a small answer. Writers check each time.
_CHECK_LASTS = 0.005


class SqliteEngine:
    """See `engine.Engine`. `path` is the file, created and migrated here; None keeps all in memory,
    migrated on first use, and gone with the process.

    `threads` is how many call at once, and `shared` says whether other processes do too. Without
    `create` the file must be there, with this program's schema. Raises CannotOpen.
    """

    def __init__(
        self,
        path: Path | None,
        threads: int = 4,
        shared: bool = False,
        create: bool = True,
    ) -> None:
        sqlite_file.check_library()
        self.backend = "memory" if path is None else "sqlite"
        self._path = path
        # Connections are opened on first use, so in the process that uses them: one must not
        # be carried across a fork. A thread holds one at a time.
        self._slots: queue.SimpleQueue[Connection | None] = queue.SimpleQueue()
        for _ in range(1 if path is None else threads):
            self._slots.put(None)
        self._writer = Writer(self._checked_to_write, threads, shared)
        # An idle connection to the file: while one is open, SQLite neither removes nor replaces
        # the write-ahead log.
        self._anchor: Connection | None = None
        self._wal: tuple[int, ...] | None = None
        #: When it is checked again whether the file is still there.
        self._rechecks_at = -math.inf
        self._opening = threading.Lock()
        if path is not None:
            sqlite_file.prepare(path, create)
            self._identity = sqlite_wal.identity(path)
            self._wal_paths = sqlite_wal.wal_paths(path)

    def close(self) -> None:
        for connection in [self._slots.get_nowait() for _ in range(self._slots.qsize())]:
            if connection is not None:
                connection.close()
            self._slots.put(None)
        self._writer.close()
        if self._anchor is not None:
            self._anchor.close()
            self._anchor = None

    @contextmanager
    def single(self, deadline: float, recheck: bool = False) -> Iterator[Connection]:
        """Lend a connection; turn what the driver raises into Unavailable."""
        try:
            connection = self._slots.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise Unavailable("all database connections are in use", "busy") from None
        try:
            if recheck or connection is None or time.monotonic() >= self._rechecks_at:
                connection = self._checked_for_readers(connection, deadline)
            connection.deadline = deadline
            yield connection
        except ERRORS as error:
            # In memory the connection is the database. Of a file, a new one may be better off.
            if connection is not None and self._path is not None:
                connection.close()
                connection = None
            raise unavailable(error) from error
        finally:
            self._slots.put(connection)

    @contextmanager
    def reading(self, deadline: float) -> Iterator[Connection]:
        """Lend a connection whose statements all see the same state of the database."""
        with self.single(deadline) as db, transaction(db, "BEGIN"):
            yield db

    @contextmanager
    def writing(self, project: str, benchmark: str, deadline: float) -> Iterator[Connection]:
        """Lend a connection that alone may write, to any benchmark."""
        if self._path is None:
            with self.single(deadline) as db, transaction(db, "BEGIN"):
                yield db
        else:
            with self._writer.writing(deadline) as db:
                yield db

    def analyze(self, deadline: float) -> None:
        """Do nothing: which index finds a list is decided in `selection`, without statistics."""

    def _checked_for_readers(self, connection: Connection | None, deadline: float) -> Connection:
        """Do as `_checked`; unless that raises, readers need not check again for _CHECK_LASTS."""
        self._rechecks_at = time.monotonic() + _CHECK_LASTS
        try:
            return self._checked(connection, deadline)
        except BaseException:
            self._rechecks_at = -math.inf
            raise

    def _checked(self, connection: Connection | None, deadline: float) -> Connection:
        """Return the connection, or a new one. Raises Unavailable unless the database is the one
        that was opened, with the log that it had: what is written to a log that was removed is
        lost at the end."""
        if self._path is None:
            return self._open(deadline) if connection is None else connection
        if sqlite_wal.identity(self._path) != self._identity:
            raise Unavailable(f"{self._path} is gone, or is not the file that was opened")
        if self._anchor is None:
            self._open_anchor(self._path, deadline)
        if sqlite_wal.wal_identity(self._wal_paths) != self._wal:
            raise Unavailable(sqlite_wal.LOST_WAL.format(self._path))
        return self._open(deadline) if connection is None else connection

    def _open_anchor(self, path: Path, deadline: float) -> None:
        """Open the anchor, unless another thread has done so by then."""
        if not self._opening.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Unavailable("another thread is opening the database", "busy")
        try:
            if self._anchor is None:
                if sqlite_wal.has_lost_its_wal(path, deadline):
                    raise Unavailable(sqlite_wal.NO_WAL.format(path))
                anchor = self._open(deadline)
                self._wal = sqlite_wal.wal_identity(self._wal_paths)
                self._anchor = anchor  # last: without the lock it tells that all is there
        finally:
            self._opening.release()

    def _checked_to_write(self, connection: Connection | None, deadline: float) -> Connection:
        """Return the connection, or a new one, which refuses at once when another process writes:
        the writer waits in a better way. Raises Unavailable as `_checked` does."""
        checked = self._checked(connection, deadline)
        if checked is not connection:
            checked.execute("PRAGMA busy_timeout = 0")
        return checked

    def _open(self, deadline: float) -> Connection:
        # Needed to open the file: later, in WAL mode, only writers wait for a lock.
        left = min(sqlite_file.OPEN_TIMEOUT, max(0.0, deadline - time.monotonic()))
        connection = connect(self._path, "rw", left)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            # As some builds have it by themselves: nothing of what is deleted stays in the file.
            connection.execute("PRAGMA secure_delete = ON")
            if self._path is None:
                sqlite_file.apply_migrations(connection)
            else:
                # A 201 means: on the disk.
                connection.execute("PRAGMA synchronous = FULL")
                # After a burst, give the room of the log back.
                connection.execute(f"PRAGMA journal_size_limit = {64 * 2**20}")
                connection.execute("SELECT 1 FROM sqlite_schema").fetchone()  # opens the log
            connection.set_progress_handler(connection.is_late, _PROGRESS_STEPS)
        except BaseException:
            connection.close()
            raise
        return connection

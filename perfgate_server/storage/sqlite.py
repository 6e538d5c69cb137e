"""Baselines in SQLite: a file, or for ``memory`` the inside of one process."""

from __future__ import annotations

import json
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from perfgate_server.storage import sqlite_file
from perfgate_server.storage.base import Unavailable

#: SQLite's virtual machine instructions between two looks at the deadline: about a millisecond.
_PROGRESS_STEPS = 20_000


class SqliteEngine:
    """See `engine.Engine`. One of `path` (a file; it is created and migrated here) or None
    (memory: migrated on first use, and gone with the process).

    `timeout` is the longest that any lock is waited for, in seconds; `pool_size` bounds the
    connections to a file. Raises CannotOpen.
    """

    def __init__(self, path: Path | None, timeout: float = 30.0, pool_size: int = 4) -> None:
        self.backend = "memory" if path is None else "sqlite"
        self.receipt_body = "CAST(r.body AS BLOB)"
        self._path = path
        self._timeout = timeout
        # Connections are opened on first use, so in the process that uses them: one must not
        # be carried across a fork.
        self._slots: queue.SimpleQueue[sqlite_file.Connection | None] = queue.SimpleQueue()
        for _ in range(1 if path is None else pool_size):
            self._slots.put(None)
        # SQLite makes writers poll for its lock; threads of one process take turns here instead.
        self._writer = threading.Lock()
        if path is not None:
            sqlite_file.prepare(path)
            self._identity = sqlite_file.identity(path)

    def walk(self, index: str) -> str:
        # The planner guesses: it takes a small list for a large one, and a page's cost then
        # depends on the page.
        return f"INDEXED BY {index}"

    def among(self, column: str, names: Sequence[str]) -> tuple[str, Any]:
        return f"{column} IN (SELECT value FROM json_each(?))", json.dumps(names)

    def close(self) -> None:
        for connection in [self._slots.get_nowait() for _ in range(self._slots.qsize())]:
            if connection is not None:
                connection.close()
            self._slots.put(None)

    @contextmanager
    def single(self, deadline: float) -> Iterator[sqlite_file.Connection]:
        """Lend a connection; turn what the driver raises into Unavailable."""
        try:
            connection = self._slots.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise Unavailable("all database connections are in use") from None
        try:
            if self._path is not None and sqlite_file.identity(self._path) != self._identity:
                raise Unavailable(f"{self._path} is gone, or is not the file that was opened")
            if connection is None:
                connection = self._open()
            connection.deadline = deadline
            yield connection
        except sqlite3.Error as error:
            # In memory the connection is the database. Of a file, a new one may be better off.
            if connection is not None and self._path is not None:
                connection.close()
                connection = None
            raise Unavailable(f"SQLite: {error}") from error
        finally:
            self._slots.put(connection)

    @contextmanager
    def reading(self, deadline: float) -> Iterator[sqlite_file.Connection]:
        """Lend a connection whose statements all see the same state of the database."""
        with self.single(deadline) as db, sqlite_file.transaction(db, "BEGIN"):
            yield db

    @contextmanager
    def writing(
        self, project: str, benchmark: str, deadline: float
    ) -> Iterator[sqlite_file.Connection]:
        """Lend a connection that alone may write, to any benchmark."""
        if not self._writer.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Unavailable("another thread is writing")
        try:
            with self.single(deadline) as db:
                # In tenths of a second, for the sake of the cache of prepared statements.
                left = max(0, int((deadline - time.monotonic()) * 10))
                db.execute(f"PRAGMA busy_timeout = {left * 100}")
                with sqlite_file.transaction(db, "BEGIN IMMEDIATE"):
                    yield db
        finally:
            self._writer.release()

    def _open(self) -> sqlite_file.Connection:
        connection = sqlite_file.connect(self._path, "rw", self._timeout)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            if self._path is None:
                sqlite_file.apply_migrations(connection)
            else:
                # A 201 means: on the disk.
                connection.execute("PRAGMA synchronous = FULL")
                # After a burst, give the room of the log back.
                connection.execute(f"PRAGMA journal_size_limit = {64 * 2**20}")
            connection.set_progress_handler(connection.is_late, _PROGRESS_STEPS)
        except BaseException:
            connection.close()
            raise
        return connection

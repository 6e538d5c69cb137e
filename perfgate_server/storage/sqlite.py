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

#: Connections to one file in one process; they are opened as they are needed.
MAX_CONNECTIONS = 16
#: SQLite's virtual machine instructions between two looks at the deadline: about a millisecond.
_PROGRESS_STEPS = 20_000
#: Seconds that the last free thread of a process waits for a lock that others wait for.
_IMPATIENCE = 2.0


class SqliteEngine:
    """See `engine.Engine`. One of `path` (a file; it is created and migrated here) or None
    (memory: migrated on first use, and gone with the process).

    `timeout` is the longest that any lock is waited for, in seconds; `threads` is how many call
    at once. Raises CannotOpen.
    """

    def __init__(self, path: Path | None, timeout: float = 30.0, threads: int = 4) -> None:
        self.backend = "memory" if path is None else "sqlite"
        self.receipt_body = "CAST(r.body AS BLOB)"
        self._path = path
        self._timeout = timeout
        # Connections are opened on first use, so in the process that uses them: one must not
        # be carried across a fork. Last in, first out keeps the fewest of them busy.
        self._slots: queue.LifoQueue[sqlite_file.Connection | None] = queue.LifoQueue()
        for _ in range(1 if path is None else MAX_CONNECTIONS):
            self._slots.put(None)
        # SQLite makes writers poll for its lock; threads of one process take turns here instead.
        self._writer = threading.Lock()
        self._turn_began = 0.0
        # When the lock is not to be had, all threads but one may wait for it until their
        # deadlines. The last one soon gives up, so that reads and health are answered.
        self._patient = threading.Semaphore(max(1, threads - 1))
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
            self._check_files(connection)
            if connection is None:
                connection = self._open(deadline)
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
        patient = self._patient.acquire(blocking=False)
        try:
            deadline = self._take_turn(deadline, patient)
            try:
                with self.single(deadline) as db:
                    # In tenths of a second, for the sake of the cache of prepared statements.
                    left = max(0, int((deadline - time.monotonic()) * 10))
                    db.execute(f"PRAGMA busy_timeout = {left * 100}")
                    with sqlite_file.transaction(db, "BEGIN IMMEDIATE"):
                        yield db
            finally:
                self._turn_began = time.monotonic()
                self._writer.release()
        finally:
            if patient:
                self._patient.release()

    def _take_turn(self, deadline: float, patient: bool) -> float:
        """Wait for this thread's turn to write; return the deadline for what it does then."""
        while True:
            give_up = deadline if patient else min(deadline, self._turn_began + _IMPATIENCE)
            left = give_up - time.monotonic()
            if self._writer.acquire(timeout=max(0.0, left)):
                self._turn_began = time.monotonic()
                return deadline if patient else min(deadline, self._turn_began + _IMPATIENCE)
            if left <= 0:
                raise Unavailable("another thread is writing, or waiting for a lock")

    def _check_files(self, connection: sqlite_file.Connection | None) -> None:
        """Raise Unavailable unless the database is the one that was opened, with the log that
        `connection` writes to: what is written to a log that was removed is lost at the end."""
        if self._path is None:
            return
        if sqlite_file.identity(self._path) != self._identity:
            raise Unavailable(f"{self._path} is gone, or is not the file that was opened")
        if connection is not None and sqlite_file.log_identity(self._path) != connection.log:
            raise Unavailable(f"the log of {self._path} is gone; stop the server to keep it")

    def _open(self, deadline: float) -> sqlite_file.Connection:
        left = min(self._timeout, max(0.0, deadline - time.monotonic()))
        connection = sqlite_file.connect(self._path, "rw", left)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            if self._path is None:
                sqlite_file.apply_migrations(connection)
            else:
                # A 201 means: on the disk.
                connection.execute("PRAGMA synchronous = FULL")
                # After a burst, give the room of the log back.
                connection.execute(f"PRAGMA journal_size_limit = {64 * 2**20}")
                connection.execute("SELECT 1 FROM sqlite_schema").fetchone()  # opens the log
                connection.log = sqlite_file.log_identity(self._path)
            connection.set_progress_handler(connection.is_late, _PROGRESS_STEPS)
        except BaseException:
            connection.close()
            raise
        return connection

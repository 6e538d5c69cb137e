"""Baselines in SQLite: a file, or for ``memory`` the inside of one process."""

from __future__ import annotations

import queue
import sqlite3
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from perfgate_server.storage import sqlite_file, sqlite_rows
from perfgate_server.storage.base import (
    Baseline,
    Conflict,
    Filters,
    Listing,
    Page,
    Precondition,
    PreconditionFailed,
    Promotion,
    Receipt,
    Unavailable,
    no_benchmark,
    no_version,
)

#: Connections to one file in one process; they are opened as they are needed.
MAX_CONNECTIONS = 16
#: SQLite's virtual machine instructions between two looks at the deadline: about a millisecond.
_PROGRESS_STEPS = 20_000


class SqliteStorage:
    """See `base.Storage`. One of `path` (a file; it is created and migrated here) or None
    (memory: migrated on first use, and gone with the process).

    `timeout` is the longest that any lock is waited for, in seconds. Raises CannotOpen.
    """

    def __init__(self, path: Path | None, timeout: float = 30.0) -> None:
        self.backend = "memory" if path is None else "sqlite"
        self._path = path
        self._timeout = timeout
        # Connections are opened on first use, so in the process that uses them: one must not
        # be carried across a fork. Last in, first out keeps the fewest of them busy.
        self._slots: queue.LifoQueue[sqlite_file.Connection | None] = queue.LifoQueue()
        for _ in range(1 if path is None else MAX_CONNECTIONS):
            self._slots.put(None)
        # SQLite makes writers poll for its lock; threads of one process take turns here instead.
        self._writer = threading.Lock()
        if path is not None:
            sqlite_file.prepare(path)
            self._identity = sqlite_file.identity(path)

    # -- records

    def create(
        self,
        new: Baseline,
        receipt: Receipt,
        *,
        deadline: float,
        precondition: Precondition | None = None,
    ) -> tuple[Baseline, bool]:
        with self._writing(deadline) as db:
            stored = sqlite_rows.find(db, new.project, new.benchmark, new.version)
            if precondition is not None and not precondition(stored):
                raise PreconditionFailed
            if stored is not None:
                if not stored.differences(new):
                    return stored, False
                raise Conflict(stored, new)
            return sqlite_rows.insert(db, new, sqlite_rows.insert_receipt(db, receipt)), True

    def promote(self, promotion: Promotion, *, deadline: float) -> tuple[Baseline, bool]:
        project, benchmark = promotion.project, promotion.benchmark
        with self._writing(deadline) as db:
            source = sqlite_rows.find(db, project, benchmark, promotion.from_version, receipt=True)
            target = sqlite_rows.find(
                db, project, benchmark, promotion.to_version, receipt=source is None
            )
            if source is None or source.receipt is None:
                if target is not None and promotion.may_have_made(target):
                    return target, False
                raise no_version(project, benchmark, promotion.from_version)
            normal = promotion.normalize(source.receipt) if promotion.normalize else None
            new = promotion.result(source, normal.content_hash if normal else source.content_hash)
            if target is not None:
                if target.promoted_from == new.promoted_from and not target.differences(new):
                    return target, False
                raise Conflict(target, new)
            if normal is not None:
                receipt_id = sqlite_rows.insert_receipt(db, normal)
            else:
                receipt_id = sqlite_rows.receipt_id(db, source.sequence)
            return sqlite_rows.insert(db, new, receipt_id), True

    def get(
        self, project: str, benchmark: str, version: str, *, receipt: bool, deadline: float
    ) -> Baseline:
        with self._connection(deadline) as db:
            found = sqlite_rows.find(db, project, benchmark, version, receipt=receipt)
        if found is None:
            raise no_version(project, benchmark, version)
        return found

    def latest(self, project: str, benchmark: str, *, receipt: bool, deadline: float) -> Baseline:
        with self._connection(deadline) as db:
            found = sqlite_rows.one(
                db,
                "WHERE b.project = ? AND b.benchmark = ? ORDER BY b.seq DESC LIMIT 1",
                (project, benchmark),
                receipt,
            )
        if found is None:
            raise no_benchmark(project, benchmark)
        return found

    def delete(
        self,
        project: str,
        benchmark: str,
        version: str,
        *,
        deadline: float,
        precondition: Precondition | None = None,
    ) -> Baseline:
        with self._writing(deadline) as db:
            stored = sqlite_rows.find(db, project, benchmark, version)
            if stored is None:
                raise no_version(project, benchmark, version)
            if precondition is not None and not precondition(stored):
                raise PreconditionFailed
            receipt_id = sqlite_rows.receipt_id(db, stored.sequence)
            db.executemany(
                "DELETE FROM baseline_tags WHERE project = ? AND tag = ? AND seq = ?",
                [(project, tag, stored.sequence) for tag in stored.tags],
            )
            db.execute("DELETE FROM baselines WHERE seq = ?", (stored.sequence,))
            db.execute(
                """DELETE FROM receipts WHERE id = ?
                   AND NOT EXISTS (SELECT 1 FROM baselines WHERE receipt_id = receipts.id)""",
                (receipt_id,),
            )
            return stored

    # -- lists

    def list(self, project: str, filters: Filters, page: Page, *, deadline: float) -> Listing:
        with self._reading(deadline) as db:
            selection = sqlite_rows.select(db, project, filters)
            if selection is None:
                return Listing([], False, 0 if page.total else None)
            return sqlite_rows.page(db, selection, page)

    def history(self, project: str, benchmark: str, page: Page, *, deadline: float) -> Listing:
        with self._reading(deadline) as db:
            row = db.execute(
                """SELECT seq FROM baselines WHERE project = ? AND benchmark = ?
                   ORDER BY seq DESC LIMIT 1""",
                (project, benchmark),
            ).fetchone()
            if row is None:
                raise no_benchmark(project, benchmark)
            selection = sqlite_rows.select(db, project, Filters(benchmark=benchmark))
            assert selection is not None  # only what is visible can make it so
            return replace(sqlite_rows.page(db, selection, page), current=row[0])

    # -- the database

    def ping(self, *, deadline: float) -> None:
        with self._connection(deadline) as db:
            db.execute("SELECT seq FROM baselines LIMIT 1").fetchall()

    def close(self) -> None:
        for connection in [self._slots.get_nowait() for _ in range(self._slots.qsize())]:
            if connection is not None:
                connection.close()
            self._slots.put(None)

    @contextmanager
    def _connection(self, deadline: float) -> Iterator[sqlite_file.Connection]:
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
    def _reading(self, deadline: float) -> Iterator[sqlite_file.Connection]:
        """Lend a connection whose statements all see the same state of the database."""
        with self._connection(deadline) as db, sqlite_file.transaction(db, "BEGIN"):
            yield db

    @contextmanager
    def _writing(self, deadline: float) -> Iterator[sqlite_file.Connection]:
        """Lend a connection that alone may write; commit at the end, undo at an exception."""
        if not self._writer.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Unavailable("another thread is writing")
        try:
            with self._connection(deadline) as db:
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

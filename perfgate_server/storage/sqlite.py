"""Baselines in SQLite: a file, or for ``memory`` the inside of one process."""

from __future__ import annotations

import json
import os
import queue
import sqlite3
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from perfgate_server.storage import migrate
from perfgate_server.storage.base import (
    MAX_PAGE_BYTES,
    Baseline,
    CannotOpen,
    Conflict,
    Filters,
    Listing,
    Page,
    Precondition,
    PreconditionFailed,
    Promotion,
    Receipt,
    StorageError,
    Unavailable,
    no_benchmark,
    no_version,
)

#: Connections to one file in one process; they are opened as they are needed.
MAX_CONNECTIONS = 16
#: How long opening may wait for other processes that are migrating the same file, in seconds.
OPEN_TIMEOUT = 30.0
#: SQLite's virtual machine instructions between two looks at the deadline: about a millisecond.
_PROGRESS_STEPS = 20_000

_COLUMNS = """b.id, b.project, b.benchmark, b.version, b.git_ref, b.git_sha, b.metadata, b.tags,
    b.created_at, b.created_by, b.content_hash, b.source, b.promoted_from, b.seq"""
# Read as bytes: the text goes into an answer as it is, so decoding it would be for nothing.
_RECEIPT = "CAST(r.body AS BLOB)"


class _Connection(sqlite3.Connection):
    """A connection that gives up a statement once its deadline has passed."""

    deadline = float("inf")

    def is_late(self) -> bool:
        return time.monotonic() > self.deadline


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
        self._slots: queue.LifoQueue[_Connection | None] = queue.LifoQueue()
        for _ in range(1 if path is None else MAX_CONNECTIONS):
            self._slots.put(None)
        # SQLite makes writers poll for its lock; threads of one process take turns here instead.
        self._writer = threading.Lock()
        if path is not None:
            _prepare(path)
            self._identity = _identity(path)

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
            stored = _find(db, new.project, new.benchmark, new.version)
            if precondition is not None and not precondition(stored):
                raise PreconditionFailed
            if stored is not None:
                if not stored.differences(new):
                    return stored, False
                raise Conflict(stored, new)
            return _insert(db, new, _insert_receipt(db, receipt)), True

    def promote(self, promotion: Promotion, *, deadline: float) -> tuple[Baseline, bool]:
        project, benchmark = promotion.project, promotion.benchmark
        with self._writing(deadline) as db:
            source = _find(db, project, benchmark, promotion.from_version, receipt=True)
            target = _find(db, project, benchmark, promotion.to_version, receipt=source is None)
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
                receipt_id = _insert_receipt(db, normal)
            else:
                receipt_id = _receipt_id(db, source.sequence)
            return _insert(db, new, receipt_id), True

    def get(
        self, project: str, benchmark: str, version: str, *, receipt: bool, deadline: float
    ) -> Baseline:
        with self._connection(deadline) as db:
            found = _find(db, project, benchmark, version, receipt=receipt)
        if found is None:
            raise no_version(project, benchmark, version)
        return found

    def latest(self, project: str, benchmark: str, *, receipt: bool, deadline: float) -> Baseline:
        with self._connection(deadline) as db:
            found = _one(
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
            stored = _find(db, project, benchmark, version)
            if stored is None:
                raise no_version(project, benchmark, version)
            if precondition is not None and not precondition(stored):
                raise PreconditionFailed
            receipt_id = _receipt_id(db, stored.sequence)
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
            selection = _select(db, project, filters)
            if selection is None:
                return Listing([], False, 0 if page.total else None)
            return _page(db, selection, page)

    def history(self, project: str, benchmark: str, page: Page, *, deadline: float) -> Listing:
        with self._reading(deadline) as db:
            row = db.execute(
                """SELECT seq FROM baselines WHERE project = ? AND benchmark = ?
                   ORDER BY seq DESC LIMIT 1""",
                (project, benchmark),
            ).fetchone()
            if row is None:
                raise no_benchmark(project, benchmark)
            selection = _select(db, project, Filters(benchmark=benchmark))
            assert selection is not None  # only what is visible can make it so
            return replace(_page(db, selection, page), current=row[0])

    # -- the database

    def ping(self, *, deadline: float) -> None:
        with self._connection(deadline) as db:
            db.execute("SELECT seq FROM baselines LIMIT 1").fetchall()

    def close(self) -> None:
        for _ in range(self._slots.qsize()):
            connection = self._slots.get_nowait()
            if connection is not None:
                connection.close()
            self._slots.put(None)

    @contextmanager
    def _connection(self, deadline: float) -> Iterator[_Connection]:
        """Lend a connection; turn what the driver raises into Unavailable."""
        try:
            connection = self._slots.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            raise Unavailable("all database connections are in use") from None
        try:
            if self._path is not None and _identity(self._path) != self._identity:
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
    def _reading(self, deadline: float) -> Iterator[_Connection]:
        """Lend a connection whose statements all see the same state of the database."""
        with self._connection(deadline) as db, _transaction(db, "BEGIN"):
            yield db

    @contextmanager
    def _writing(self, deadline: float) -> Iterator[_Connection]:
        """Lend a connection that alone may write; commit at the end, undo at an exception."""
        if not self._writer.acquire(timeout=max(0.0, deadline - time.monotonic())):
            raise Unavailable("another thread is writing")
        try:
            with self._connection(deadline) as db:
                # In tenths of a second, for the sake of the cache of prepared statements.
                left = max(0, int((deadline - time.monotonic()) * 10))
                db.execute(f"PRAGMA busy_timeout = {left * 100}")
                with _transaction(db, "BEGIN IMMEDIATE"):
                    yield db
        finally:
            self._writer.release()

    def _open(self) -> _Connection:
        connection = _connect(self._path, "rw", self._timeout)
        try:
            connection.execute("PRAGMA foreign_keys = ON")
            if self._path is None:
                _migrate(connection)
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


@contextmanager
def _transaction(db: sqlite3.Connection, begin: str) -> Iterator[None]:
    db.execute(begin)
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:  # SQLite itself has ended it after, say, a full disk
            db.execute("ROLLBACK")
        raise


# -- opening


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def _connect(path: Path | None, mode: str, timeout: float) -> _Connection:
    # Anything but the migrator opens without creating: a database that was removed must not
    # come back as an empty one.
    target = ":memory:" if path is None else f"file:{quote(os.fsencode(path))}?mode={mode}"
    return sqlite3.connect(
        target,
        uri=path is not None,
        timeout=timeout,
        isolation_level=None,  # transactions are begun and ended here, in words
        check_same_thread=False,  # a connection is lent to one thread at a time
        factory=_Connection,
    )


def _prepare(path: Path) -> None:
    """Create the file if it is not there, and bring it to this program's schema."""
    try:
        if path.is_dir():
            raise CannotOpen("it is a directory")
        if not path.parent.is_dir():
            raise CannotOpen(f"{path.parent} is no directory")
        db = _connect(path, "rwc", OPEN_TIMEOUT)
        try:
            _check_origin(db)  # before anything is changed in a file that is not ours
            _enter_wal(db)
            _migrate(db)
        finally:
            db.close()
    except (StorageError, sqlite3.Error, OSError) as error:
        raise CannotOpen(f"cannot open the database {path}: {error}") from error


def _enter_wal(db: sqlite3.Connection) -> None:
    """Turn on the write-ahead log, in which readers and the writer do not wait for each other."""
    give_up = time.monotonic() + OPEN_TIMEOUT
    while True:
        try:
            mode = db.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        except sqlite3.OperationalError as error:
            # Switching a fresh file ignores the busy timeout when another process switches too.
            if "locked" not in str(error) or time.monotonic() > give_up:
                raise
            time.sleep(0.01)
        else:
            if mode != "wal":
                raise CannotOpen(f"its file system allows no write-ahead log ({mode})")
            return


def _check_origin(db: sqlite3.Connection) -> int:
    """Return the version of the schema, 0 for a fresh database. Raises CannotOpen for another
    program's, and for one that a newer version of this program has made."""
    tables = {row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not tables:
        return 0
    if not {"schema_migrations", "baselines"} <= tables:
        raise CannotOpen("it is another program's database")
    version = int(db.execute("SELECT max(version) FROM schema_migrations").fetchone()[0])
    known = len(migrate.load("sqlite"))
    if version > known:
        raise CannotOpen(
            f"it was made by a newer perfgate-server (schema {version}; this program knows"
            f" {known}); upgrade the program"
        )
    return version


def _migrate(db: sqlite3.Connection) -> None:
    """Apply what is missing, and record it, in one transaction under SQLite's write lock."""
    with _transaction(db, "BEGIN IMMEDIATE"):
        version = _check_origin(db)
        if version == 0:
            db.execute(
                """CREATE TABLE schema_migrations (
                    version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL)"""
            )
        for migration in migrate.load("sqlite")[version:]:
            for statement in _statements(migration.sql):
                db.execute(statement)
            db.execute(
                "INSERT INTO schema_migrations (version, name, applied_at) VALUES (?, ?, ?)",
                (migration.version, migration.name, datetime.now(UTC).isoformat()),
            )


def _statements(sql: str) -> Iterator[str]:
    """Split a script; Connection.executescript would commit."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        raise ValueError("a migration does not end with a complete statement")


# -- rows


def _baseline(row: tuple[Any, ...]) -> Baseline:
    members = [*row[:6], json.loads(row[6]), json.loads(row[7]), *row[8:]]
    return Baseline(*members)


def _one(
    db: sqlite3.Connection, where: str, values: tuple[Any, ...], receipt: bool
) -> Baseline | None:
    if receipt:
        sql = f"""SELECT {_COLUMNS}, {_RECEIPT} FROM baselines b
            JOIN receipts r ON r.id = b.receipt_id {where}"""
    else:
        sql = f"SELECT {_COLUMNS} FROM baselines b {where}"
    row = db.execute(sql, values).fetchone()
    return None if row is None else _baseline(row)


def _find(
    db: sqlite3.Connection, project: str, benchmark: str, version: str, receipt: bool = False
) -> Baseline | None:
    where = "WHERE b.project = ? AND b.benchmark = ? AND b.version = ?"
    return _one(db, where, (project, benchmark, version), receipt)


def _receipt_id(db: sqlite3.Connection, sequence: int) -> int:
    row = db.execute("SELECT receipt_id FROM baselines WHERE seq = ?", (sequence,)).fetchone()
    return int(row[0])


def _insert_receipt(db: sqlite3.Connection, receipt: Receipt) -> int:
    cursor = db.execute("INSERT INTO receipts (body) VALUES (CAST(? AS TEXT))", (receipt.body,))
    return int(cursor.lastrowid or 0)


def _insert(db: sqlite3.Connection, new: Baseline, receipt_id: int) -> Baseline:
    cursor = db.execute(
        """INSERT INTO baselines (id, project, benchmark, version, git_ref, git_sha, metadata,
               tags, created_at, created_by, content_hash, source, promoted_from, receipt_id)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            new.id,
            new.project,
            new.benchmark,
            new.version,
            new.git_ref,
            new.git_sha,
            json.dumps(new.metadata, ensure_ascii=False),
            json.dumps(new.tags, ensure_ascii=False),
            new.created_at,
            new.created_by,
            new.content_hash,
            new.source,
            new.promoted_from,
            receipt_id,
        ),
    )
    sequence = int(cursor.lastrowid or 0)
    db.executemany(
        "INSERT INTO baseline_tags (project, tag, seq) VALUES (?, ?, ?)",
        [(new.project, tag, sequence) for tag in new.tags],
    )
    return replace(new, sequence=sequence)


# -- pages


def _benchmarks(db: sqlite3.Connection, project: str) -> list[str]:
    """Return a project's distinct benchmarks, one index seek for each."""
    rows = db.execute(
        """WITH RECURSIVE names (name) AS (
               SELECT min(benchmark) FROM baselines WHERE project = :project
               UNION ALL
               SELECT (SELECT min(benchmark) FROM baselines
                       WHERE project = :project AND benchmark > name)
               FROM names WHERE name IS NOT NULL)
           SELECT name FROM names WHERE name IS NOT NULL""",
        {"project": project},
    )
    return [row[0] for row in rows]


@dataclass(frozen=True, slots=True)
class _Selection:
    """Which rows a list holds: where their places in the order are found, and the conditions.

    The index to walk is named, for SQLite's planner guesses: it takes a small list for a large
    one, and a page's cost then depends on the page.
    """

    place: str
    table: str
    conditions: list[str]
    values: list[Any]

    def sql(self, columns: str) -> str:
        return f"SELECT {columns} FROM {self.table} WHERE {' AND '.join(self.conditions)}"


def _select(db: sqlite3.Connection, project: str, filters: Filters) -> _Selection | None:
    """Return the selection for `filters`, or None if it can hold nothing."""
    conditions, values = _conditions(filters)
    limited = False
    if filters.visible is not None:
        names = _benchmarks(db, project)
        seen = [name for name in names if filters.visible(name)]
        if not seen:
            return None
        limited = len(seen) < len(names)
        if limited:
            conditions.append("b.benchmark IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(seen))
    if filters.tags and filters.git_sha is None:
        # The first tag leads: its rows stand in the list's order. The records themselves are
        # looked at only if there is more to know of them.
        table = "baseline_tags t"
        if conditions:
            table += " CROSS JOIN baselines b ON b.seq = t.seq"
        tagged, bound = _tagged("t.seq", project, filters.tags[1:])
        leading = ["t.project = ?", "t.tag = ?", *tagged, *conditions]
        return _Selection("t.seq", table, leading, [project, filters.tags[0], *bound, *values])
    tagged, bound = _tagged("b.seq", project, filters.tags or ())
    leading = ["b.project = ?", *tagged, *conditions]
    table = f"baselines b INDEXED BY {_index(filters, limited)}"
    return _Selection("b.seq", table, leading, [project, *bound, *values])


def _conditions(filters: Filters) -> tuple[list[str], list[Any]]:
    """Return the conditions on the records themselves, and the values bound in them."""
    conditions: list[str] = []
    values: list[Any] = []
    for column in ("benchmark", "git_ref", "git_sha"):
        value = getattr(filters, column)
        if value is not None:
            conditions.append(f"b.{column} = ?")
            values.append(value)
    if filters.source is not None:
        # In words, not bound: so SQLite sees that the index of promotions holds them all.
        conditions.append(f"b.source = '{'promote' if filters.source == 'promote' else 'upload'}'")
    if filters.benchmark_prefix is not None:
        # Names are ASCII, so DEL sorts behind every character that may follow the prefix.
        conditions.append("b.benchmark >= ? AND b.benchmark < ?")
        values += [filters.benchmark_prefix, filters.benchmark_prefix + "\x7f"]
    if filters.since is not None:
        conditions.append("b.created_at >= ?")
        values.append(filters.since)
    if filters.until is not None:
        conditions.append("b.created_at <= ?")
        values.append(filters.until)
    return conditions, values


def _tagged(place: str, project: str, tags: Sequence[str]) -> tuple[list[str], list[Any]]:
    """Return the conditions that the record at `place` has all of `tags`."""
    condition = f"""EXISTS (SELECT 1 FROM baseline_tags o
        WHERE o.project = ? AND o.tag = ? AND o.seq = {place})"""
    return [condition] * len(tags), [value for tag in tags for value in (project, tag)]


def _index(filters: Filters, limited: bool) -> str:
    """Name the index to walk: that of the filter that usually leaves the fewest rows."""
    if filters.git_sha is not None:
        return "baselines_by_git_sha"
    if filters.benchmark is not None:
        return "baselines_by_benchmark"
    if filters.git_ref is not None:
        return "baselines_by_git_ref"
    if filters.source == "promote":
        return "baselines_promoted"
    if filters.since is not None or filters.until is not None:
        return "baselines_by_created_at"
    if filters.benchmark_prefix is not None or limited:
        return "baselines_by_benchmark"
    return "baselines_by_project"


def _page(db: sqlite3.Connection, selection: _Selection, page: Page) -> Listing:
    total = None
    if page.total:
        row = db.execute(selection.sql("count(*)"), selection.values).fetchone()
        total = int(row[0])
    place, values = selection.place, list(selection.values)
    places = selection.sql(f"{place} AS seq")
    if page.cursor is not None:
        places += f" AND {place} < ?"
        values.append(page.cursor)
    # The places are found in an index alone; whole rows are read for those on the page.
    rows = db.execute(
        f"""WITH places AS MATERIALIZED ({places} ORDER BY {place} DESC LIMIT ? OFFSET ?)
            SELECT {_COLUMNS}, b.receipt_id FROM places JOIN baselines b ON b.seq = places.seq
            ORDER BY places.seq DESC""",
        [*values, page.limit + 1, page.offset],
    ).fetchall()
    baselines: list[Baseline] = []
    size = 0
    for row in rows[: page.limit]:
        baseline = _baseline(row[:-1])
        if page.receipts:
            receipt = _receipt(db, row[-1])
            baseline = replace(baseline, receipt=receipt)
            size += len(receipt)
        baselines.append(baseline)
        if size >= MAX_PAGE_BYTES:
            break
    return Listing(baselines, len(baselines) < len(rows), total)


def _receipt(db: sqlite3.Connection, receipt_id: int) -> bytes:
    body: bytes = db.execute(
        f"SELECT {_RECEIPT} FROM receipts r WHERE r.id = ?", (receipt_id,)
    ).fetchone()[0]
    return body

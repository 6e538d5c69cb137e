"""The file under the SQLite storage: its creation, its schema, its copy and its check."""

from __future__ import annotations

import os
import sqlite3
import stat
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from perfgate_server import files
from perfgate_server.storage import migrate
from perfgate_server.storage.base import CannotOpen, StorageError
from perfgate_server.storage.sqlite_connection import (
    Connection,
    connect,
    primary_code,
    transaction,
)
from perfgate_server.storage.sqlite_wal import (
    NO_WAL,
    has_lost_its_wal,
    identity,
    is_in_wal_mode,
    kept_open,
    leave_wal_mode,
    wal_paths,
)

#: How long opening may wait for other processes that open, or migrate, the same file, in seconds.
OPEN_TIMEOUT = 30.0
#: The first with RETURNING and MATERIALIZED.
OLDEST_SQLITE = (3, 35, 0)


def check_library() -> None:
    """Raise CannotOpen if Python's SQLite lacks what is asked of it."""
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        raise CannotOpen(
            f"Python's SQLite is {sqlite3.sqlite_version};"
            f" {'.'.join(map(str, OLDEST_SQLITE))} or newer is needed"
        )


def prepare(path: Path, create: bool = True) -> None:
    """Create the file if it is not there, and bring it to this program's schema; without `create`
    change nothing, and raise CannotOpen unless it is there and has it."""
    try:
        _refuse_directory(path)
        if not stat.S_ISDIR(_mode(path.parent)):
            raise CannotOpen(f"{path.parent} is no directory")
        if create:
            _check_wal(path)
            with closing(connect(path, "rwc", OPEN_TIMEOUT)) as db:
                _check_origin(db)  # before anything is changed in a file that is not ours
                _enter_wal(db)
                applied = apply_migrations(db)
            migrate.log_applied(*applied, str(path.absolute()))
        else:
            with _existing(path) as (_, version):
                migrate.missing("sqlite", version, upgrade=False)
    except (StorageError, sqlite3.Error, OSError) as error:
        raise CannotOpen(f"cannot open the database {path}: {_why(error, path)}") from error


def _why(error: Exception, path: Path) -> str:
    """Return what is said of a database that cannot be opened."""
    if primary_code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        wal = [file for file in wal_paths(path) if os.path.exists(file)]
        if locked := [file for file in wal if not _may_write(file)]:
            return f"{error}; this user must be able to write to {' and '.join(locked)} too"
        return f"{error}; this user must be able to write to it and to its folder, or open a copy"
    return str(getattr(error, "strerror", None) or error)


def _may_write(path: str | Path) -> bool:
    return os.access(path, os.W_OK, effective_ids=True)


def _mode(path: Path) -> int:
    """Return the kind and the permissions of a file, 0 if there is none. Raises OSError where that
    cannot be known, as in a folder that may not be entered. Path.is_dir will not do: since Python
    3.14 it returns False there."""
    try:
        return os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return 0


def _refuse_directory(path: Path) -> None:
    if stat.S_ISDIR(_mode(path)):
        raise CannotOpen("it is a directory")


@contextmanager
def _existing(path: Path) -> Iterator[tuple[Connection, int]]:
    """Open a database of ours that must be there; yield it, and the version of its schema."""
    _check_wal(path)
    _refuse_directory(path)
    if not stat.S_ISREG(_mode(path)):
        raise CannotOpen("there is no such file")
    _check_rights(path)
    with closing(connect(path, "rw", OPEN_TIMEOUT)) as db:
        version = _check_origin(db)
        if version == 0:
            raise CannotOpen("it is empty")
        yield db, version


def _check_rights(path: Path) -> None:
    """Refuse a database that this user may only read, unless it has its log: SQLite would make one
    of this user's, to which its owner, and so the server, could not write."""
    has_wal = all(map(os.path.exists, wal_paths(path)))
    if not has_wal and not _may_write(path) and is_in_wal_mode(kept_open(path)):
        raise CannotOpen(
            "it may only be read here, and SQLite would leave a log beside it to which its owner"
            " could not write; be a user who may write to it, or open a copy"
        )


def _check_wal(path: Path) -> None:
    """Refuse a database beside the log of another, or whose own is lost while it is open. Of a
    database that is gone SQLite would throw the log away, and what was only in it; into a backup
    that was put in its place it would write the log, and destroy the backup."""
    # Looked at first: while other processes make the database, it comes before its log.
    leftovers = [file for file in wal_paths(path) if os.path.exists(file)]
    if leftovers and identity(path) is None:
        raise CannotOpen(
            f"it is gone or empty, but {' and '.join(leftovers)} of it is there; put that very"
            " database back, or remove what is left, and with it all that only stands there"
        )
    if leftovers and not is_in_wal_mode(kept_open(path)):
        raise CannotOpen(
            "it is a copy, and another database's log would be written into it: remove"
            f" {' and '.join(leftovers)}"
        )
    if has_lost_its_wal(path):
        raise CannotOpen(NO_WAL.format(path))


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
    names = {row[0] for row in db.execute("SELECT name FROM sqlite_schema")}
    if not names:
        return 0
    version = None
    if {"perfgate_migrations", "baselines"} <= names:
        version = db.execute("SELECT max(version) FROM perfgate_migrations").fetchone()[0]
    if not isinstance(version, int):
        raise CannotOpen("it is another program's database")
    migrate.missing("sqlite", version)
    return version


def apply_migrations(db: sqlite3.Connection) -> tuple[int, list[migrate.Migration]]:
    """Apply what is missing, and record it, in one transaction under SQLite's write lock. Return
    the version that the schema had, and what was applied. Raises CannotOpen for a database that
    is not ours or is newer, and sqlite3.Error."""
    with transaction(db, "BEGIN IMMEDIATE"):
        version = _check_origin(db)
        if version == 0:
            db.execute(
                """CREATE TABLE perfgate_migrations (
                    version INTEGER PRIMARY KEY, name TEXT NOT NULL, applied_at TEXT NOT NULL)"""
            )
        else:
            # A write, for SQLite opens without a word what may only be read.
            db.execute("UPDATE perfgate_migrations SET name = name WHERE version = 1")
        applied = migrate.missing("sqlite", version)
        for migration in applied:
            for statement in statements(migration.sql):
                db.execute(statement)
            db.execute(
                "INSERT INTO perfgate_migrations (version, name, applied_at) VALUES (?, ?, ?)",
                (migration.version, migration.name, datetime.now(UTC).isoformat()),
            )
    return version, applied


def statements(sql: str) -> Iterator[str]:
    """Split a script; Connection.executescript would commit. Raises ValueError for one that ends
    within a statement."""
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        raise ValueError("a migration does not end with a complete statement")


def backup(path: Path, target: str) -> None:
    """Copy a database that may be in use to a new file, which gets its name only once it is
    complete and was found intact. Raises CannotOpen."""
    try:
        with _existing(path) as (source, _), files.atomic_write(target) as partial:
            with closing(sqlite3.connect(partial)) as copy:
                # It is whole or thrown away, and nothing else is to lie beside it then.
                copy.execute("PRAGMA journal_mode = OFF")
                # In one step: page by page, it begins anew whenever somebody writes.
                source.backup(copy, pages=-1)
            leave_wal_mode(partial)
            with closing(sqlite3.connect(partial)) as copy:
                problem = check_integrity(copy)
            if problem:
                raise CannotOpen(f"the copy is not intact: {problem}")
    except (StorageError, sqlite3.Error, OSError) as error:
        raise CannotOpen(f"cannot back up {path} to {target}: {_why(error, path)}") from error


def check_integrity(db: sqlite3.Connection) -> str | None:
    """Return the first thing that is wrong with a database, or None. Raises sqlite3.Error."""
    result = str(db.execute("PRAGMA integrity_check(1)").fetchone()[0])
    if result != "ok":
        return result
    # What others change is not held to the foreign keys.
    astray = db.execute("PRAGMA foreign_key_check").fetchone()
    return f"a row of {astray[0]} lacks its row of {astray[2]}" if astray else None


def check(path: Path) -> str | None:
    """Return the first thing that is wrong with a database file of ours, or None. Changes no
    record; the last to close a database merges its log into it, as SQLite does. Raises
    CannotOpen."""
    try:
        with _existing(path) as (db, _):
            return check_integrity(db)
    except (StorageError, sqlite3.Error, OSError) as error:
        if primary_code(error) == sqlite3.SQLITE_CORRUPT:
            return str(error)
        raise CannotOpen(f"cannot open the database {path}: {_why(error, path)}") from error

"""The file under the SQLite storage: connections to it, its creation and its schema."""

from __future__ import annotations

import fcntl
import json
import math
import os
import sqlite3
import stat
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

from perfgate_server import files
from perfgate_server.storage import migrate
from perfgate_server.storage.base import CannotOpen, Kind, StorageError

#: How long opening may wait for other processes that open, or migrate, the same file, in seconds.
OPEN_TIMEOUT = 30.0
#: The first with RETURNING and MATERIALIZED.
OLDEST_SQLITE = (3, 35, 0)


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


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from any other; None if it is gone, or empty, as no database is
    that was made."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status.st_size else None


def log_paths(path: Path) -> tuple[str, str]:
    """Return where SQLite keeps a database's write-ahead log and the index of that, in which the
    locks are: beside the file to which a symbolic link leads."""
    target = os.path.realpath(path)
    return f"{target}-wal", f"{target}-shm"


def log_identity(paths: tuple[str, str]) -> tuple[int, ...] | None:
    """Return what tells a log and its index, at their `log_paths`, from any others: with two of
    these two processes may write at once, and what one of them writes is lost. None if one is
    gone."""
    try:
        log, index = map(os.stat, paths)
    except OSError:
        return None
    return log.st_dev, log.st_ino, index.st_dev, index.st_ino


#: What is said of a database of which the log was removed, or its index, while this process has it
#: open; and where another process has.
LOST_LOG = "the log of {} (-wal, -shm) is gone; stop the server to save it"
NO_LOG = (
    "the log of {} (-wal, -shm) is gone, or another program has the database for itself alone; stop"
    " what has it open to save it"
)
#: Where a connection to a database with a log keeps its file locked: SHARED_FIRST and SHARED_SIZE
#: of https://www.sqlite.org/src/file/src/os.h.
_SHARED_FIRST, _SHARED_SIZE = 0x4000_0002, 510
#: Seconds for which a process that opens a database may have it locked before its log is there.
_OPENING = 1.0


def has_lost_its_log(path: Path, deadline: float = math.inf) -> bool:
    """Tell whether another process has the database open, and its log is gone: whoever opens it
    now would make a second one, and only one of them would be kept. Waits for that process to make
    it, but not beyond the deadline.

    To be asked while this process has no connection to it, for closing a file drops all locks that
    the process has on it.
    """
    give_up = min(time.monotonic() + _OPENING, deadline)
    while log_identity(log_paths(path)) is None and _is_open_with_a_log(path):
        if time.monotonic() > give_up:
            return True
        time.sleep(0.005)
    return False


def _is_open_with_a_log(path: Path) -> bool:
    """Tell whether another process has a database in WAL mode open; False if that cannot be
    asked, as of a file that may only be read."""
    with suppress(OSError), path.open("r+b") as file:
        if not _is_in_wal_mode(file.fileno()):
            return False
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST)
        except (BlockingIOError, PermissionError):  # POSIX lets a system choose
            return True
    return False


def reason(error: BaseException) -> str:
    """Return what SQLite says."""
    return f"SQLite: {str(error) or type(error).__name__}"


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
            _check_log(path)
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


def primary_code(error: Exception) -> int:
    """Return SQLite's primary result code, 0 for what is no error of SQLite's."""
    return int(getattr(error, "sqlite_errorcode", 0)) & 0xFF


def _why(error: Exception, path: Path) -> str:
    """Return what is said of a database that cannot be opened."""
    if primary_code(error) in (sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        log = [file for file in log_paths(path) if os.path.exists(file)]
        if locked := [file for file in log if not _may_write(file)]:
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
    _check_log(path)
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
    has_log = all(map(os.path.exists, log_paths(path)))
    if not has_log and not _may_write(path) and _is_in_wal_mode(_kept_open(path)):
        raise CannotOpen(
            "it may only be read here, and SQLite would leave a log beside it to which its owner"
            " could not write; be a user who may write to it, or open a copy"
        )


def _check_log(path: Path) -> None:
    """Refuse a database beside the log of another, or whose own is lost while it is open. Of a
    database that is gone SQLite would throw the log away, and what was only in it; into a backup
    that was put in its place it would write the log, and destroy the backup."""
    # Looked at first: while other processes make the database, it comes before its log.
    leftovers = [file for file in log_paths(path) if os.path.exists(file)]
    if leftovers and identity(path) is None:
        raise CannotOpen(
            f"it is gone or empty, but {' and '.join(leftovers)} of it is there; put that very"
            " database back, or remove what is left, and with it all that only stands there"
        )
    if leftovers and not _is_in_wal_mode(_kept_open(path)):
        raise CannotOpen(
            "it is a copy, and another database's log would be written into it: remove"
            f" {' and '.join(leftovers)}"
        )
    if has_lost_its_log(path):
        raise CannotOpen(NO_LOG.format(path))


#: Where a database's header says, in two bytes, in which mode it is
#: (https://www.sqlite.org/fileformat.html, 1.3.3).
_MODE, _WAL, _ROLLBACK = 18, b"\2\2", b"\1\1"


def _is_in_wal_mode(descriptor: int) -> bool:
    """Tell whether a database has a write-ahead log; what `backup` makes has none."""
    return os.pread(descriptor, len(_WAL), _MODE) == _WAL


#: Descriptors of databases, by `identity`.
_descriptors: dict[tuple[int, int] | None, int] = {}


def _kept_open(path: Path) -> int:
    """Return a descriptor of a database that this process may have open. It is not closed: that
    would drop all locks that the process has on the file, SQLite's too."""
    known = identity(path)
    if known not in _descriptors:
        _descriptors[known] = os.open(path, os.O_RDONLY)
    return _descriptors[known]


def _leave_wal_mode(path: Path) -> None:
    """Make one file of a database that nobody has open, and has no log: SQLite would make one to
    leave it, for which there may be no room."""
    with path.open("r+b") as file:
        file.seek(_MODE)
        file.write(_ROLLBACK)


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
    the version that the schema had, and what was applied."""
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
    """Split a script; Connection.executescript would commit."""
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
        with _existing(path) as (source, _), files.whole(target) as partial:
            with closing(sqlite3.connect(partial)) as copy:
                # It is whole or thrown away, and nothing else is to lie beside it then.
                copy.execute("PRAGMA journal_mode = OFF")
                # In one step: page by page, it begins anew whenever somebody writes.
                source.backup(copy, pages=-1)
            _leave_wal_mode(partial)
            with closing(sqlite3.connect(partial)) as copy:
                problem = check_integrity(copy)
            if problem:
                raise CannotOpen(f"the copy is not intact: {problem}")
    except (StorageError, sqlite3.Error, OSError) as error:
        raise CannotOpen(f"cannot back up {path} to {target}: {_why(error, path)}") from error


def check_integrity(db: sqlite3.Connection) -> str | None:
    """Return the first thing that is wrong with a database, or None."""
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

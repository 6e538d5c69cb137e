"""A database's write-ahead log: whether it is there, and is the one that others use."""

from __future__ import annotations

import fcntl
import math
import os
import time
from contextlib import suppress
from pathlib import Path


def identity(path: Path) -> tuple[int, int] | None:
    """Return what tells a file from any other; None if it is gone, or empty, as no database is
    that was made."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if status.st_size else None


def wal_paths(path: Path) -> tuple[str, str]:
    """Return where SQLite keeps a database's write-ahead log and the index of that, in which the
    locks are: beside the file to which a symbolic link leads."""
    target = os.path.realpath(path)
    return f"{target}-wal", f"{target}-shm"


def wal_identity(paths: tuple[str, str]) -> tuple[int, ...] | None:
    """Return what tells a log and its index, at their `wal_paths`, from any others: with two of
    these two processes may write at once, and what one of them writes is lost. None if one is
    gone."""
    try:
        log, index = map(os.stat, paths)
    except OSError:
        return None
    return log.st_dev, log.st_ino, index.st_dev, index.st_ino


#: What is said of a database of which the log was removed, or its index, while this process has it
#: open; and where another process has.
LOST_WAL = "the log of {} (-wal, -shm) is gone; stop the server to save it"
NO_WAL = (
    "the log of {} (-wal, -shm) is gone, or another program has the database for itself alone; stop"
    " what has it open to save it"
)
#: Where a connection to a database with a log keeps its file locked: SHARED_FIRST and SHARED_SIZE
#: of https://www.sqlite.org/src/file/src/os.h.
_SHARED_FIRST, _SHARED_SIZE = 0x4000_0002, 510
#: Seconds for which a process that opens a database may have it locked before its log is there.
_OPENING = 1.0


def has_lost_its_wal(path: Path, deadline: float = math.inf) -> bool:
    """Tell whether another process has the database open, and its log is gone: whoever opens it
    now would make a second one, and only one of them would be kept. Waits for that process to make
    it, but not beyond the deadline.

    To be asked while this process has no connection to it, for closing a file drops all locks that
    the process has on it.
    """
    give_up = min(time.monotonic() + _OPENING, deadline)
    while wal_identity(wal_paths(path)) is None and _is_open_with_a_wal(path):
        if time.monotonic() > give_up:
            return True
        time.sleep(0.005)
    return False


def _is_open_with_a_wal(path: Path) -> bool:
    """Tell whether another process has a database in WAL mode open; False if that cannot be
    asked, as of a file that may only be read."""
    with suppress(OSError), path.open("r+b") as file:
        if not is_in_wal_mode(file.fileno()):
            return False
        try:
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB, _SHARED_SIZE, _SHARED_FIRST)
        except (BlockingIOError, PermissionError):  # POSIX lets a system choose
            return True
    return False


#: Where a database's header says, in two bytes, in which mode it is
#: (https://www.sqlite.org/fileformat.html, 1.3.3).
_MODE, _WAL, _ROLLBACK = 18, b"\2\2", b"\1\1"


def is_in_wal_mode(descriptor: int) -> bool:
    """Tell whether a database has a write-ahead log; what `backup` makes has none."""
    return os.pread(descriptor, len(_WAL), _MODE) == _WAL


#: Descriptors of databases, by `identity`.
_descriptors: dict[tuple[int, int] | None, int] = {}


def kept_open(path: Path) -> int:
    """Return a descriptor of a database that this process may have open. It is not closed: that
    would drop all locks that the process has on the file, SQLite's too."""
    known = identity(path)
    if known not in _descriptors:
        _descriptors[known] = os.open(path, os.O_RDONLY)
    return _descriptors[known]


def leave_wal_mode(path: Path) -> None:
    """Make one file of a database that nobody has open, and has no log: SQLite would make one to
    leave it, for which there may be no room."""
    with path.open("r+b") as file:
        file.seek(_MODE)
        file.write(_ROLLBACK)

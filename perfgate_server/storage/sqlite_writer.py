"""Writing to an SQLite file: one thread at a time, and one commit for those who queue.

A commit waits for the disk, mostly for longer than the writing took. So who has written leaves
the transaction open for the next in the queue, and the last one commits for all: group commit,
as DeWitt et al. described it (Implementation Techniques for Main Memory Database Systems, SIGMOD
1984). Nobody is told that something is done before the disk has it.
"""

from __future__ import annotations

import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from perfgate_server.storage.base import Unavailable
from perfgate_server.storage.sqlite_connection import ERRORS, Connection, primary_code, unavailable

#: Seconds between two attempts to get the lock that another process has, at first and at most.
#: SQLite's own waiting goes in steps of 1, 2, 5, 10 ms: longer than the lock is held mostly.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.000_2, 0.001
#: Seconds after a commit for several in which this process leaves the lock to others, and lets more
#: writers gather: longer than the pauses in which they look for it. Without it the next in the
#: queue has the lock again before any other process sees that it was free, and those starve.
_COURTESY = 0.002
#: Seconds that the last free thread of a process waits for a lock that others wait for.
_IMPATIENCE = 2.0


class _Group:
    """A transaction, and those who wait for its end."""

    def __init__(self, db: Connection) -> None:
        self.db = db
        self.members = 0
        self.ended = threading.Event()
        #: Whether it is to be committed.
        self.is_open = True
        #: Why nothing of it is kept.
        self.failure: BaseException | None = None

    def fail(self, error: BaseException) -> None:
        """Keep nothing of it."""
        self.is_open, self.failure = False, error


class Writer:
    """Lets the `threads` threads of a process write in turn; with `shared` it also takes turns
    with other processes that write to the file.

    `checked` is given the connection there is, or None, and a deadline; it returns a connection
    that is fit to be used, and waits for no lock. It may raise sqlite3.Error and Unavailable.
    """

    def __init__(
        self,
        checked: Callable[[Connection | None, float], Connection],
        threads: int,
        shared: bool = False,
    ) -> None:
        self._checked = checked
        self._shared = shared
        self._db: Connection | None = None
        self._turn = threading.Lock()
        #: Since when somebody has it, if that is known yet.
        self._turn_began: float | None = None
        # When the lock is not to be had, all threads but one may wait for it until their
        # deadlines. The last one soon gives up, so that reads and health are answered.
        self._patient = threading.Semaphore(max(1, threads - 1))
        #: The transaction that is open; of whoever has the turn.
        self._group: _Group | None = None
        self._next_not_before = 0.0
        # How many wait for the turn. Who leaves a group to them gives the turn up under this
        # lock, and who stops waiting looks under it whether a group was left to him.
        self._queue = threading.Lock()
        self._waiting = 0

    @contextmanager
    def writing(self, deadline: float) -> Iterator[Connection]:
        """Lend the connection, in a transaction that alone may write.

        When the block has ended, what it wrote is on the disk; if it raises, nothing of it is
        kept. Raises Unavailable, also when the disk did not take what was written.
        """
        patient = self._patient.acquire(blocking=False)
        try:
            group = self._join(deadline, patient)
            try:
                with self._undone_if_it_fails(group):
                    group.db.deadline = deadline
                    yield group.db
            finally:
                self._leave(group)
                # Also in the place of what the block raised, such as a Conflict: what it saw may be
                # of those with whom it shares the transaction, and is not kept.
                if group.failure is not None:
                    raise unavailable(group.failure) from group.failure
        finally:
            if patient:
                self._patient.release()

    def close(self) -> None:
        """Close the connection, which nobody may be using; what is not committed is undone."""
        if self._db is not None:
            self._db.close()
            self._db = None

    def _join(self, deadline: float, patient: bool) -> _Group:
        """Wait for the turn; return the transaction that was left open, or a new one."""
        if not self._take_turn(deadline, patient):
            raise Unavailable("other threads are writing, or waiting for a lock", "busy")
        self._turn_began = now = time.monotonic()
        if self._group is None:
            try:
                if not patient:
                    deadline = min(deadline, now + _IMPATIENCE)
                if self._next_not_before > now:
                    time.sleep(self._next_not_before - now)
                self._db = self._checked(self._db, deadline)
                _begin(self._db, deadline)
                self._group = _Group(self._db)
            except BaseException as error:
                self.close()
                self._pass_turn_on()
                if isinstance(error, ERRORS):
                    raise unavailable(error) from error
                raise
        return self._group

    def _take_turn(self, deadline: float, patient: bool) -> bool:
        """Wait for the turn; tell whether it was taken. One who is not patient gives up _IMPATIENCE
        seconds after the turn began. One who gives up, and to whom a group was left meanwhile,
        ends that group.
        """
        with self._queue:
            self._waiting += 1
        taken = False
        try:
            while not taken:
                now = time.monotonic()
                began = now if self._turn_began is None else self._turn_began
                soon = began + _IMPATIENCE
                left = (deadline if patient else min(deadline, soon)) - now
                taken = self._turn.acquire(timeout=max(0.0, left))
                if left <= 0:
                    break
        finally:
            with self._queue:
                self._waiting -= 1
                left_to_me = not taken and self._turn.acquire(blocking=False)
            if left_to_me:
                self._end_turn(self._group)
        return taken

    def _pass_turn_on(self) -> None:
        self._turn_began = None
        self._turn.release()

    @contextmanager
    def _undone_if_it_fails(self, group: _Group) -> Iterator[None]:
        """Undo what one member of a group did, and only that, if it raises."""
        db, alone = group.db, group.members == 0
        group.members += 1
        try:
            if not alone:
                db.execute("SAVEPOINT member")
            yield
            if not alone:
                db.execute("RELEASE member")
        except BaseException as error:
            _undo(group, alone, error)
            if isinstance(error, ERRORS):
                raise unavailable(error) from error
            raise

    def _leave(self, group: _Group) -> None:
        """Give the turn up and wait for the end of the transaction: now, or by the last of those
        who are in the queue."""
        with self._queue:
            to_others = self._waiting > 0 and group.is_open
            if to_others:
                self._pass_turn_on()
        if to_others:
            group.ended.wait()
        else:
            self._end_turn(group)

    def _end_turn(self, group: _Group | None) -> None:
        try:
            if group is not None:
                self._end(group)
        finally:
            self._pass_turn_on()

    def _end(self, group: _Group) -> None:
        self._group = None
        try:
            if group.is_open:
                group.db.deadline = float("inf")  # it is for all of them
                group.db.execute("COMMIT")
        except BaseException as error:
            group.fail(error)
            if not isinstance(error, ERRORS):
                raise
        finally:
            if group.failure is not None:
                self.close()  # a new connection may be better off
            if self._shared and group.members > 1:
                self._next_not_before = time.monotonic() + _COURTESY
            group.ended.set()


def _undo(group: _Group, alone: bool, error: BaseException) -> None:
    """Undo what a member did that raised `error`; all, where that is not known to be possible."""
    db = group.db
    if not db.in_transaction or (alone and isinstance(error, ERRORS)):
        # SQLite ends a transaction itself after, say, a full disk.
        group.fail(error)
        return
    try:
        db.execute("ROLLBACK" if alone else "ROLLBACK TO member")
        if alone:
            group.is_open = False
        else:
            db.execute("RELEASE member")
    except ERRORS as worse:
        group.fail(worse)


def _begin(db: Connection, deadline: float) -> None:
    """Take SQLite's lock for writing, which another process may have."""
    db.deadline = deadline
    pause = _FIRST_PAUSE
    while True:
        try:
            db.execute("BEGIN IMMEDIATE")
            return
        except sqlite3.OperationalError as error:
            left = deadline - time.monotonic()
            if primary_code(error) != sqlite3.SQLITE_BUSY or left <= 0:
                raise
        time.sleep(min(pause, left))
        pause = min(pause * 1.5, _LONGEST_PAUSE)

"""One commit for those who queue to write."""

from __future__ import annotations

import contextlib
import random
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from support import PATIENCE, soon, wait_for

from perfgate_server.storage import sqlite_connection, sqlite_writer
from perfgate_server.storage.base import Unavailable
from perfgate_server.storage.sqlite_connection import Connection
from perfgate_server.storage.sqlite_writer import Writer

Body = Callable[[Connection], object]


class TracedWriter:
    """A writer, the statements it gave SQLite, and what is in its table."""

    def __init__(self, path: Path, threads: int = 8) -> None:
        self.path = path
        self.statements: list[str] = []
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("CREATE TABLE t (a INTEGER UNIQUE REFERENCES t (a))")
        self.writer = Writer(self._checked, threads)
        self.pool = ThreadPoolExecutor(threads)

    def _checked(self, db: Connection | None, deadline: float) -> Connection:
        if db is None:
            db = sqlite_connection.connect(self.path, "rw", 0.0)
            db.execute("PRAGMA foreign_keys = ON")
            db.set_trace_callback(self.statements.append)
        return db

    def write(self, number: int, body: Body | None = None, seconds: float = PATIENCE) -> None:
        with self.writer.writing(soon(seconds)) as db:
            db.execute("INSERT INTO t VALUES (?)", (number,))
            if body is not None:
                body(db)

    def queue(self, *writes: tuple[int, Body | None]) -> list[Future[None]]:
        """Write these one after the other, each waiting for its turn before the first ends."""
        go = threading.Event()

        def wait(db: Connection) -> None:
            go.wait(PATIENCE)

        futures = [self.pool.submit(self.write, 0, wait)]
        wait_for(lambda: "INSERT" in " ".join(self.statements), "the first writing")
        for count, write in enumerate(writes, 1):
            futures.append(self.pool.submit(self.write, *write))
            wait_for(partial(lambda n: self.writer._waiting == n, count), "the next queueing")
        go.set()
        return futures

    def rows(self) -> list[int]:
        with closing(sqlite3.connect(self.path)) as db:
            return [row[0] for row in db.execute("SELECT a FROM t ORDER BY a")]


@pytest.fixture
def traced(tmp_path: Path) -> Iterator[TracedWriter]:
    traced = TracedWriter(tmp_path / "t.db")
    yield traced
    traced.pool.shutdown()
    traced.writer.close()


def refuse(db: Connection) -> None:
    raise KeyError("refused")


def test_those_who_queue_share_one_commit(traced: TracedWriter) -> None:
    for future in traced.queue((1, None), (2, None), (3, None)):
        future.result(PATIENCE)
    assert traced.statements.count("COMMIT") == 1
    assert traced.rows() == [0, 1, 2, 3]


def test_each_has_a_deadline_of_its_own(traced: TracedWriter) -> None:
    ends: list[float] = []

    def look(db: Connection) -> None:
        ends.append(db.deadline)

    for future in traced.queue((1, look), (2, look)):
        future.result(PATIENCE)
    assert len(set(ends)) == 2


def test_nobody_is_done_before_the_commit(traced: TracedWriter) -> None:
    """Who has written waits for the last of the queue, and sees what he wrote on the disk."""
    done_early: list[bool] = []
    futures: list[Future[None]] = []

    def look(db: Connection) -> None:
        wait_for(lambda: futures, "all")
        done_early.append(futures[0].done())

    futures += traced.queue((1, None), (2, look))
    for future in futures:
        future.result(PATIENCE)
    assert done_early == [False]
    assert traced.rows() == [0, 1, 2]


def test_who_fails_undoes_only_what_is_his(traced: TracedWriter) -> None:
    first, failing, last = traced.queue((1, refuse), (2, None))
    first.result(PATIENCE), last.result(PATIENCE)
    with pytest.raises(KeyError):
        failing.result(PATIENCE)
    assert traced.rows() == [0, 2]


def test_after_a_failure_alone_the_next_begins_anew(traced: TracedWriter) -> None:
    with pytest.raises(KeyError):
        traced.write(1, refuse)
    traced.write(2)
    assert traced.rows() == [2]


def test_a_statement_that_fails_in_a_queue_is_the_failure_of_one(traced: TracedWriter) -> None:
    def twice(db: Connection) -> None:
        db.execute("INSERT INTO t VALUES (0)")

    first, failing, last = traced.queue((1, twice), (2, None))
    first.result(PATIENCE), last.result(PATIENCE)
    with pytest.raises(Unavailable, match="UNIQUE"):
        failing.result(PATIENCE)
    assert traced.rows() == [0, 2]


def test_a_commit_that_fails_is_the_failure_of_all(traced: TracedWriter) -> None:
    """Nothing is kept, each is told, and the next write finds a fresh connection."""
    with closing(sqlite3.connect(traced.path)) as db:
        db.execute("DROP TABLE t")
        db.execute("CREATE TABLE u (a INTEGER PRIMARY KEY)")
        db.execute("CREATE TABLE t (a INTEGER REFERENCES u (a) DEFERRABLE INITIALLY DEFERRED)")
        db.commit()
    for future in traced.queue((1, None), (2, None)):
        with pytest.raises(Unavailable, match="FOREIGN KEY"):
            future.result(PATIENCE)
    assert traced.rows() == []
    with traced.writer.writing(soon()) as db:
        db.execute("INSERT INTO u VALUES (5)")
    traced.write(5)
    assert traced.rows() == [5]


@pytest.mark.parametrize("error", [MemoryError(), KeyError("any")])
def test_a_transaction_that_sqlite_ended_is_kept_for_nobody(
    traced: TracedWriter, error: Exception
) -> None:
    """As without memory, which Python has a MemoryError for: nobody is told that it was kept, and
    all why not."""
    later: list[Future[None]] = []

    def fail(db: Connection) -> None:
        later.append(traced.pool.submit(traced.write, 2))
        wait_for(lambda: traced.writer._waiting == 1, "the next queueing")
        db.execute("ROLLBACK")
        raise error

    for future in traced.queue((1, fail)):
        with pytest.raises(Unavailable, match="MemoryError|any"):
            future.result(PATIENCE)
    later[0].result(PATIENCE)  # it began anew
    assert traced.rows() == [2]


def test_what_cannot_be_undone_is_kept_for_nobody(traced: TracedWriter) -> None:
    """Of a member's writes: or the others' commit would keep half of them."""

    def fail(db: Connection) -> None:
        db.execute("RELEASE member")
        raise KeyError("any")

    for future in traced.queue((1, fail)):
        with pytest.raises(Unavailable, match="no such savepoint"):
            future.result(PATIENCE)
    assert traced.rows() == []


def test_without_memory_a_writer_is_refused(traced: TracedWriter) -> None:
    def fail(db: Connection) -> None:
        raise MemoryError

    with pytest.raises(Unavailable, match="MemoryError"):
        traced.write(1, fail)
    traced.write(2)
    assert traced.rows() == [2]


def test_whatever_a_commit_raises_the_next_may_write(traced: TracedWriter) -> None:
    class Interrupted:
        def __init__(self, db: Any) -> None:
            self.db, self.in_transaction = db, True

        def execute(self, sql: str) -> Any:
            if sql == "COMMIT":
                raise sqlite3.Warning  # which is no sqlite3.Error
            return self.db.execute(sql)

    with pytest.raises(sqlite3.Warning):
        with traced.writer.writing(soon()):
            group: Any = traced.writer._group
            group.db = Interrupted(group.db)
    traced.write(1, seconds=5.0)
    assert traced.rows() == [1]


@pytest.mark.parametrize("ending", [KeyboardInterrupt, SystemExit])
def test_who_is_interrupted_keeps_nothing_and_nobody_out(
    traced: TracedWriter, ending: type[BaseException]
) -> None:
    """As an import is by Ctrl-C, in its writing or before it."""

    def interrupted(*_: Any) -> Any:
        raise ending

    with pytest.raises(ending):
        traced.write(1, interrupted)
    checked, traced.writer._checked = traced.writer._checked, interrupted
    with pytest.raises(ending):
        traced.write(2)
    traced.writer._checked = checked
    traced.write(3, seconds=5.0)
    assert traced.rows() == [3]


def test_a_connection_that_is_not_fit_any_more_is_closed(traced: TracedWriter) -> None:
    """Of a database that was removed it would keep the room on the disk."""
    with traced.writer.writing(soon()) as kept:
        pass

    def unfit(*_: Any) -> Connection:
        raise Unavailable("gone")

    traced.writer._checked = unfit
    with pytest.raises(Unavailable, match="gone"):
        traced.write(1)
    with pytest.raises(sqlite3.ProgrammingError, match="closed"):
        kept.execute("SELECT 1")


def test_who_cannot_wait_is_no_longer_waited_for(traced: TracedWriter) -> None:
    """Or a lone writer would leave his commit to somebody who is not there."""

    class Lock:
        def acquire(self, **_: Any) -> bool:
            raise MemoryError

    turn, traced.writer._turn = traced.writer._turn, Lock()  # type: ignore[assignment]
    with pytest.raises(MemoryError):
        traced.writer._take_turn(soon(), True)
    traced.writer._turn = turn
    traced.write(1, seconds=5.0)
    assert traced.rows() == [1]


def test_the_last_free_thread_waits_its_time_from_when_it_came(traced: TracedWriter) -> None:
    """Who has the turn has not told yet since when."""
    writer = Writer(traced._checked, 2)
    writer._turn.acquire()
    waiting = traced.pool.submit(writer._take_turn, soon(), False)
    wait_for(lambda: writer._waiting or waiting.done(), "the wait")
    writer._turn.release()
    assert waiting.result(PATIENCE) is True


def test_the_last_free_thread_waits_no_longer_than_it_may(
    traced: TracedWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From when the turn began, however late it came itself; and not beyond its deadline."""
    traced.writer = Writer(traced._checked, 2)
    go, clock = threading.Event(), time.monotonic
    first = traced.pool.submit(traced.write, 1, lambda db: go.wait(PATIENCE))
    wait_for(lambda: "INSERT" in " ".join(traced.statements), "the writing")
    monkeypatch.setattr(sqlite_writer, "_IMPATIENCE", PATIENCE / 2)
    over = traced.pool.submit(traced.write, 2, None, 0.05)
    wait([over], PATIENCE / 4)
    monkeypatch.setattr(time, "monotonic", lambda: clock() + PATIENCE / 2)
    late = traced.pool.submit(traced.write, 3)
    wait([late], PATIENCE / 4)
    done = over.done(), late.done()
    go.set()
    first.result(PATIENCE)
    assert done == (True, True)
    for future in (over, late):
        with pytest.raises(Unavailable, match="other threads"):
            future.result()


def test_the_last_free_thread_waits_anew_for_each_turn(
    traced: TracedWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long ago the one before began."""
    writer = Writer(traced._checked, 2)
    with writer.writing(soon()):
        pass
    clock = time.monotonic
    monkeypatch.setattr(time, "monotonic", lambda: clock() + 100)
    writer._turn.acquire()
    waiting = traced.pool.submit(writer._take_turn, soon(), False)
    wait_for(lambda: writer._waiting or waiting.done(), "the wait")
    writer._turn.release()
    assert waiting.result(PATIENCE) is True
    writer.close()


def test_the_last_free_thread_leaves_a_lock_to_those_who_wait_for_it(
    traced: TracedWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is wanted for reads, and for health: at once here, whoever has the turn."""
    monkeypatch.setattr(sqlite_writer, "_IMPATIENCE", 0.0)
    traced.writer = Writer(traced._checked, 2)
    with closing(sqlite3.connect(traced.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = traced.pool.submit(traced.write, 1)
        wait_for(lambda: "BEGIN IMMEDIATE" in traced.statements, "an attempt")
        last = traced.pool.submit(traced.write, 2)
        wait([last], PATIENCE / 4)
        assert last.done() and not waiting.done()
        other.execute("COMMIT")
        waiting.result(PATIENCE)
        other.execute("BEGIN IMMEDIATE")
        traced.writer._patient.acquire()  # as by one who comes before it, and after it to the turn
        alone = traced.pool.submit(traced.write, 3)
        wait([alone], PATIENCE / 4)
        assert alone.done()
        other.execute("COMMIT")
    for future in (last, alone):
        with pytest.raises(Unavailable, match="lock") as raised:
            future.result()
        assert raised.value.reason == "busy"
    assert traced.rows() == [1]


def test_a_commit_has_no_deadline(traced: TracedWriter) -> None:
    """It is for all who wrote, and not only for the last of them."""
    ends: list[tuple[str, float]] = []
    with traced.writer.writing(soon()) as db:
        db.set_trace_callback(lambda statement: ends.append((statement, db.deadline)))
    assert ends == [("COMMIT", float("inf"))]


def test_deadlines_that_pass_in_the_queue_lose_nothing(traced: TracedWriter) -> None:
    """Whoever gives up leaves nothing open behind him: all that was acknowledged is there."""
    chance = random.Random(7)

    def one(number: int) -> int | None:
        try:
            traced.write(number, seconds=chance.choice((0.0, 0.0005, 0.002, 0.01)))
        except Unavailable:
            return None
        return number

    kept = {number for number in traced.pool.map(one, range(1500)) if number is not None}
    traced.write(9999)
    assert set(traced.rows()) >= kept | {9999}
    assert 1 < len(kept) < 1500


def test_the_only_thread_of_a_process_waits_until_its_deadline(
    traced: TracedWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is no other that it could leave free."""
    monkeypatch.setattr(sqlite_writer, "_IMPATIENCE", 0.0)
    traced.writer = Writer(traced._checked, 1)
    with closing(sqlite3.connect(traced.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        waiting = traced.pool.submit(traced.write, 1)
        wait_for(lambda: "BEGIN IMMEDIATE" in traced.statements, "an attempt")
        other.execute("COMMIT")
        waiting.result(PATIENCE)
    assert traced.rows() == [1]


def test_another_process_has_the_lock(traced: TracedWriter) -> None:
    traced.write(1)
    with closing(sqlite3.connect(traced.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(Unavailable, match="locked"):
            traced.write(2, seconds=0.05)
        waiting = traced.pool.submit(traced.write, 3)
        wait_for(lambda: traced.writer._turn.locked(), "the turn")
        other.execute("COMMIT")
        waiting.result(PATIENCE)
    assert traced.rows() == [1, 3]


@pytest.mark.parametrize(
    ("code", "waits"), [(sqlite3.SQLITE_BUSY_RECOVERY, True), (sqlite3.SQLITE_IOERR, False)]
)
def test_only_another_process_is_waited_for(code: int, waits: bool) -> None:
    """Also where that repairs the log."""

    class Refusing:
        deadline, begun = 0.0, 0

        def execute(self, sql: str) -> None:
            self.begun += 1
            if self.begun == 1:
                error = sqlite3.OperationalError("refused")
                error.sqlite_errorcode = code
                raise error

    db: Any = Refusing()
    with contextlib.nullcontext() if waits else pytest.raises(sqlite3.OperationalError):
        sqlite_writer._begin(db, soon())
    assert db.begun == 1 + waits


def test_a_lock_that_another_process_has_is_looked_for_each_millisecond(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """And sooner at first: mostly it is held for less."""

    class Refusing:
        deadline, begun = 0.0, 0

        def execute(self, sql: str) -> None:
            self.begun += 1
            if self.begun <= 30:
                error = sqlite3.OperationalError("refused")
                error.sqlite_errorcode = sqlite3.SQLITE_BUSY
                raise error

    db: Any = Refusing()
    pauses: list[float] = []
    monkeypatch.setattr(time, "sleep", pauses.append)
    sqlite_writer._begin(db, soon())
    assert (len(pauses), pauses[0], max(pauses)) == (30, 0.0002, 0.001)


def test_only_what_several_wrote_beside_another_process_leaves_it_a_gap(
    traced: TracedWriter,
) -> None:
    """A lone writer leaves one by itself, and would take longer for each commit."""
    go = threading.Event()

    def gap(number: int) -> float:
        """Return until when the next is put off, once two have written together."""
        before = len(traced.statements)
        with ThreadPoolExecutor(2) as pool:
            go.clear()
            first = pool.submit(traced.write, number, lambda db: go.wait(PATIENCE))
            wait_for(lambda: "INSERT" in " ".join(traced.statements[before:]), "the first writing")
            second = pool.submit(traced.write, number + 1)
            wait_for(lambda: traced.writer._waiting == 1, "the next queueing")
            go.set()
            first.result(PATIENCE), second.result(PATIENCE)
        return traced.writer._next_not_before

    assert gap(1) == 0.0
    traced.writer.close()
    traced.writer = Writer(traced._checked, 8, shared=True)
    traced.write(3)
    assert traced.writer._next_not_before == 0.0
    began = time.monotonic()
    assert gap(4) > began


def test_who_gives_up_ends_what_was_left_to_it(traced: TracedWriter) -> None:
    """Or nobody would ever write again: it is the last in the queue when the turn comes."""
    turn = traced.writer._turn

    class Late:
        """A turn that is given up for the one who waits after that one's time has run out."""

        release = turn.release

        def acquire(self, blocking: bool = True, timeout: float | None = None) -> bool:
            if timeout is None:
                return turn.acquire(blocking=blocking)
            wait_for(lambda: not turn.locked(), "a group that is left")
            return False

    late: list[Future[None]] = []

    def leave(db: Connection) -> None:
        traced.writer._turn = Late()  # type: ignore[assignment]
        late.append(traced.pool.submit(traced.write, 2, None, 0.2))
        wait_for(lambda: traced.writer._waiting == 1, "the next queueing")

    traced.pool.submit(traced.write, 1, leave).result(PATIENCE)
    with pytest.raises(Unavailable):
        late[0].result(PATIENCE)
    traced.writer._turn = turn
    traced.write(3)
    assert traced.rows() == [1, 3]


def test_patience_is_given_back(traced: TracedWriter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or every writer would soon be the last one, who waits for a lock for two seconds only."""
    monkeypatch.setattr(sqlite_writer, "_IMPATIENCE", 0.0)
    traced.writer = Writer(traced._checked, 2)
    for number in range(3):
        traced.write(number)
    with closing(sqlite3.connect(traced.path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = len(traced.statements)
        waiting = traced.pool.submit(traced.write, 9)
        wait_for(lambda: "BEGIN IMMEDIATE" in traced.statements[began:], "an attempt")
        other.execute("COMMIT")
        waiting.result(PATIENCE)
    assert traced.rows() == [0, 1, 2, 9]

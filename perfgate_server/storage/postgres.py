"""Baselines in PostgreSQL, for servers on several machines; also through PgBouncer.

No session state is kept and no statement is prepared, so that a transaction may run on any
connection of a pooler in transaction mode.
"""

from __future__ import annotations

import functools
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from perfgate_server.storage.base import Kind, Reason, Unavailable
from perfgate_server.storage.postgres_opening import (
    IS_WHOLE,
    ORIGIN,
    first_line,
    options_of,
    prepare,
    value_of,
)

#: Seconds after which the pool begins its attempts to connect anew: it backs off in between, by
#: default up to minutes after a server is there again.
RECONNECT_TIMEOUT = 5.0
#: Seconds after which a waiting request asks the pool again: a pool that gave up connecting tries
#: again for a new call of getconn(), but not for calls that already wait.
_ASK_ANEW = 1.0
#: Seconds after a deadline in which the server may still say itself that it has passed.
_GRACE = 0.2
#: Seconds between two attempts to begin, when a new connection was lost at once too, and to lock
#: the order of records.
_RETRY_DELAY = 0.25
#: Milliseconds that one of those attempts to lock may take.
_LOCK_TIMEOUT_MS = 100


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that does not wait beyond its deadline for a server that says nothing.

    The server's own timeouts end a statement that takes too long; this is for one that hangs.
    """

    deadline = float("inf")
    #: What the server has warned of last.
    warning: str | None = None
    #: The table that it is known to have led to, in a database that is whole.
    known: int | None = None

    def wait(self, gen: Generator[Any, Any, Any], *args: Any, **kwargs: Any) -> Any:
        return super().wait(self._bounded(gen), *args, **kwargs)

    def _bounded(self, gen: Generator[Any, Any, Any]) -> Generator[Any, Any, Any]:
        ready = None
        while True:
            try:
                state = gen.send(ready)
            except StopIteration as end:
                return end.value
            ready = yield state
            # Nothing is ready when an interval has passed. The server gets the first word.
            if not ready and time.monotonic() > self.deadline + _GRACE:
                self.pgconn.finish()
                raise psycopg.OperationalError("the server does not answer")


class _Session:
    """A connection that takes ``?`` for a bound value."""

    has_statistics = True

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[Any] = ()) -> psycopg.Cursor[tuple[Any, ...]]:
        # In binary, or the bytes of a receipt would come as twice as many digits.
        return self._connection.execute(_placeholders(sql), values, binary=True)

    def stream(self, sql: str) -> Iterator[tuple[Any, ...]]:
        # A cursor on the server's side, which lives in this transaction.
        with self._connection.cursor("perfgate_stream") as cursor:
            cursor.itersize = 500
            # In binary: as text, a double has no more digits than extra_float_digits lets it.
            yield from cursor.execute(_placeholders(sql), binary=True)

    def ensure_durable(self) -> None:
        # A commit waits for the standbys only if something was written, and what can be read may
        # have been committed by one whose wait was broken off.
        self.execute("SELECT pg_logical_emit_message(true, 'perfgate', '')")

    def reserve(self, kind: Kind, count: int) -> int:
        self._lock_order(kind)
        # The largest of each project, as the index has it: to read all takes long, and uploads
        # wait.
        row = self.execute(
            f"""WITH RECURSIVE projects (name) AS (
                    SELECT min(project) FROM {kind}
                    UNION ALL SELECT (SELECT min(project) FROM {kind} WHERE project > name)
                    FROM projects WHERE name IS NOT NULL)
                SELECT nextval(pg_get_serial_sequence('{kind}', 'seq')), coalesce(
                    max((SELECT max(seq) FROM {kind} WHERE project = name)), 0) FROM projects"""
        ).fetchone()
        first = max(row) + 1 if row else 1
        self.execute(f"SELECT setval(pg_get_serial_sequence('{kind}', 'seq'), ?)", (first + count,))
        return int(first)

    def _lock_order(self, kind: Kind) -> None:
        """Let no insert take a number until the transaction ends.

        Uploads queue behind who waits for this lock, and what holds it off may take hours, as a
        VACUUM: so it is waited for in moments, with pauses. Raises psycopg.Error.
        """
        while True:
            self.execute("SAVEPOINT unlocked")
            try:
                self.execute(f"SET LOCAL lock_timeout = {_LOCK_TIMEOUT_MS}")
                self.execute(f"LOCK TABLE {kind} IN SHARE ROW EXCLUSIVE MODE")
            except psycopg.errors.LockNotAvailable:
                if time.monotonic() + _RETRY_DELAY > self._connection.deadline:
                    raise
                self.execute("ROLLBACK TO unlocked")
                time.sleep(_RETRY_DELAY)
            else:
                self.execute("SET LOCAL lock_timeout = 0")  # statement_timeout stays
                return

    def as_bytes(self, column: str) -> str:
        return f"convert_to({column}, 'UTF8')"

    def index_hint(self, index: str) -> str:
        return ""  # the planner knows the sizes: migration 7 sees to that

    def among(self, column: str, values: Sequence[Any]) -> tuple[str, Any]:
        # Of the column's own type, or each row is compared with each value.
        kind = "bigint" if isinstance(values[0], int) else "text"
        return f"{column} = ANY(?::{kind}[])", list(values)


# Whatever the defaults: READ COMMITTED, for two may change a total at once (no serialization
# failures); synchronous_commit on, for a 201 means "on disk". remote_apply, which promises more,
# stays. That a commit did not wait is a warning.
_BEGIN_WRITING = """BEGIN ISOLATION LEVEL READ COMMITTED;
    SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit')
        WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true);
    SET LOCAL client_min_messages = warning"""


#: The tables that lists and comparisons look for rows in.
_ANALYZED = ("baselines", "baseline_tags", "receipts", "receipt_summaries", "verdicts")


@functools.lru_cache(maxsize=256)
def _placeholders(sql: str) -> bytes:
    return sql.replace("%", "%%").replace("?", "%s").encode()


class _Pool(ConnectionPool[_Connection]):
    """The connections of a process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._lent: set[_Connection] = set()
        super().__init__(*args, **kwargs)

    def lend(self, deadline: float) -> _Connection:
        """Take a connection out of the pool. Raises Unavailable if none is free before the
        deadline."""
        while True:
            left = deadline - time.monotonic()
            try:
                connection = self.getconn(timeout=max(0.01, min(left, _ASK_ANEW)))
            except PoolTimeout:
                if left <= _ASK_ANEW:
                    raise self._none() from None
            except PoolClosed as error:  # the process ends
                raise Unavailable(f"PostgreSQL: {error}") from None
            else:
                self._lent.add(connection)
                return connection

    def _none(self) -> Unavailable:
        """Return what it means that no connection was to be had. A server without a free one
        refuses as one that is down does; one that hangs is busy with those that are lent."""
        if len(self._lent) < self.max_size:
            return Unavailable("PostgreSQL: no connection could be made before the deadline")
        return Unavailable("PostgreSQL: no connection was free before the deadline", "busy")

    def give_back(self, connection: _Connection) -> None:
        """Return a connection to the pool: out of its transaction, or closed."""
        status = connection.info.transaction_status
        try:
            if status in (TransactionStatus.INTRANS, TransactionStatus.INERROR):
                connection.execute("ROLLBACK")
            elif status is not TransactionStatus.IDLE:
                connection.close()
        except psycopg.Error:
            connection.close()
        connection.deadline = float("inf")
        self._lent.discard(connection)
        self.putconn(connection)


#: Of what PostgreSQL says, by its SQLSTATE; of all else, that it is down.
_REASONS: dict[str | None, Reason] = {
    "25006": "read_only",  # read_only_sql_transaction
    "53100": "full",  # disk_full
    "40P01": "busy",  # deadlock_detected
    "55P03": "busy",  # lock_not_available: the deadline's end, as the next
    "57014": "busy",  # query_canceled
}


def _unavailable(error: psycopg.Error) -> Unavailable:
    """Return what an error of PostgreSQL's means to whoever asked."""
    return Unavailable(f"PostgreSQL: {first_line(error)}", _REASONS.get(error.sqlstate, "down"))


class PostgresEngine:
    """See `engine.Engine`. `url` is a ``postgresql://`` URL; the database is migrated here.

    `pool_size` bounds the connections of one process. Without `create` nothing is changed: a
    read-only database will do, and one without our tables, or with those of an earlier version,
    is refused. Raises CannotOpen, whose text never holds the password.
    """

    def __init__(self, url: str, pool_size: int, create: bool = True) -> None:
        self.backend = "postgres"
        self._url = url
        self._pool_size = pool_size
        self._pool: _Pool | None = None
        self._opening = threading.Lock()
        self._origin = prepare(url, create)

    @contextmanager
    def single(self, deadline: float, recheck: bool = False) -> Iterator[_Session]:
        with self._transaction("BEGIN READ ONLY", deadline) as session:
            yield session

    @contextmanager
    def reading(self, deadline: float) -> Iterator[_Session]:
        begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"
        with self._transaction(begin, deadline) as session:
            yield session

    @contextmanager
    def writing(self, project: str, benchmark: str, deadline: float) -> Iterator[_Session]:
        with self._transaction(_BEGIN_WRITING, deadline) as session:
            # One writer a benchmark: what is read here stays true until the commit, and the
            # order of its records is the order of their commits.
            session.execute(
                "SELECT pg_advisory_xact_lock(hashtextextended(?, 0))", (f"{project}/{benchmark}",)
            )
            yield session

    def analyze(self, deadline: float) -> None:
        # A table that is vacuumed just now, which may take hours, or that is another role's is
        # passed over, with a warning.
        with self._transaction(_BEGIN_WRITING, deadline) as session:
            session.execute(f"ANALYZE (SKIP_LOCKED) {', '.join(_ANALYZED)}")

    def close(self) -> None:
        with self._opening:
            if self._pool is not None:
                self._pool.close()
                self._pool = None

    @contextmanager
    def _transaction(self, begin: str, deadline: float) -> Iterator[_Session]:
        """Lend a connection in a transaction; turn what the driver raises into Unavailable."""
        pool = self._open()
        connection = self._begin(pool, begin, deadline)
        try:
            yield _Session(connection)
            connection.warning = None
            connection.execute("COMMIT")
            if connection.warning is not None:
                # Its wait for the standbys was cancelled: they may lack what is committed here.
                raise Unavailable(f"PostgreSQL: {connection.warning}")
        except psycopg.Error as error:
            if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
                # A new one may find another server, or this one as it is by then.
                connection.close()
            raise _unavailable(error) from error
        finally:
            pool.give_back(connection)

    def _begin(self, pool: _Pool, begin: str, deadline: float) -> _Connection:
        """Return a connection on which a transaction has begun.

        That is also the check of a connection that has lain in the pool: one that the server
        has closed since is replaced, as often as there is time.
        """
        pause = 0.0
        while True:
            connection = pool.lend(deadline)
            connection.deadline = deadline
            milliseconds = max(1, int((deadline - time.monotonic()) * 1000))
            try:
                # The last timeout is for a machine that died, or hangs, within its transaction: its
                # locks would stay for as long as the database believes in the connection.
                answers = connection.execute(
                    f"{begin}; SET LOCAL statement_timeout = {milliseconds};"
                    f" SET LOCAL lock_timeout = {milliseconds};"
                    f" SET LOCAL idle_in_transaction_session_timeout = {milliseconds};"
                    f" {ORIGIN}".encode()
                )
                self._recognize(connection, answers)
            except BaseException as error:
                is_lost = connection.closed
                # A new one may find another server, or schema; this one would lead there again.
                connection.close()
                pool.give_back(connection)
                if not isinstance(error, psycopg.Error):
                    raise
                if not is_lost or time.monotonic() > deadline:
                    raise _unavailable(error) from error
                # A new one is lost as fast where a PgBouncer stands before no database.
                time.sleep(pause)
                pause = _RETRY_DELAY
            else:
                return connection

    def _recognize(self, connection: _Connection, answers: psycopg.Cursor[tuple[Any, ...]]) -> None:
        """Raise Unavailable unless a connection leads to the database that was opened, by the last
        of these answers, to `ORIGIN`: another may have taken its name, and what was acknowledged
        would seem to be lost. Asked in each transaction, for a pooler may lead each elsewhere."""
        while answers.nextset():
            pass
        origin, table = answers.fetchone() or (None, None)
        if origin != self._origin:
            raise Unavailable(
                "PostgreSQL: the database is not the one that was opened; if it is the right one,"
                " restart the server"
            )
        # A restore in its place makes other tables, while connections stay.
        is_known = table is not None and table == connection.known
        if not is_known and not value_of(connection, IS_WHOLE):
            raise Unavailable("PostgreSQL: the database is not restored whole")
        connection.known = table

    def _open(self) -> _Pool:
        """Return this process's pool. It is opened on first use, and so after a fork."""
        with self._opening:
            if self._pool is None:
                self._pool = _Pool(
                    connection_class=_Connection,
                    kwargs=options_of(self._url),
                    min_size=1,
                    max_size=self._pool_size,
                    configure=_listen_to_warnings,
                    reconnect_timeout=RECONNECT_TIMEOUT,
                    open=True,
                )
            return self._pool


def _listen_to_warnings(connection: _Connection) -> None:
    def note(said: psycopg.errors.Diagnostic) -> None:
        if said.severity_nonlocalized == "WARNING":
            connection.warning = said.message_primary

    connection.add_notice_handler(note)

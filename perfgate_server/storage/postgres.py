"""Baselines in PostgreSQL, for servers on several machines; also through PgBouncer.

No session state is kept and no statement is prepared, so that a transaction may run on any
connection of a pooler in transaction mode.
"""

from __future__ import annotations

import functools
import os
import threading
import time
from collections.abc import Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict
from psycopg.pq import TransactionStatus
from psycopg_pool import ConnectionPool, PoolClosed, PoolTimeout

from perfgate_server.storage import migrate
from perfgate_server.storage.base import CannotOpen, StorageError, Unavailable

#: Seconds that one attempt to connect may take.
CONNECT_TIMEOUT = 5
#: Seconds after which the pool begins its attempts to connect anew: it backs off in between, by
#: default up to minutes after a server is there again.
RECONNECT_TIMEOUT = 5.0
#: Seconds after which a waiting request asks the pool again: a pool that gave up connecting tries
#: again for a new call of getconn(), but not for calls that already wait.
_ASK_ANEW = 1.0
#: Seconds after a deadline in which the server may still say itself that it has passed.
_FIRST_WORD = 0.2
#: Seconds between two attempts to begin, when a new connection was lost at once too.
_PAUSE = 0.25
#: Seconds that the attempts of a start wait for a lock, as while another server migrates: whoever
#: comes after waits too, even to read. And the pause between.
_LOCK_TIMEOUTS, _LOCK_PAUSE = (1, 2, 4, 8, 16, 32), 1.0
#: The advisory lock under which migrations run: "perfgate" in ASCII.
_MIGRATION_LOCK = int.from_bytes(b"perfgate", "big")


class _Connection(psycopg.Connection[tuple[Any, ...]]):
    """A connection that does not wait beyond its deadline for a server that says nothing.

    The server's own timeouts end a statement that takes too long; this is for one that hangs.
    """

    deadline = float("inf")
    #: Whether it is known to have led to a database that is whole.
    is_known = False

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
            if not ready and time.monotonic() > self.deadline + _FIRST_WORD:
                self.pgconn.finish()
                raise psycopg.OperationalError("the server does not answer")


class _Session:
    """A connection that takes ``?`` for a bound value."""

    def __init__(self, connection: _Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, values: Sequence[Any] = ()) -> psycopg.Cursor[tuple[Any, ...]]:
        # In binary, or the bytes of a receipt would come as twice as many digits.
        return self._connection.execute(_placeholders(sql), values, binary=True)

    def stream(self, sql: str) -> Iterator[tuple[Any, ...]]:
        # A cursor on the server's side, which lives in this transaction.
        with self._connection.cursor("perfgate_stream") as cursor:
            cursor.itersize = 500
            yield from cursor.execute(_placeholders(sql))

    def reserve(self, count: int) -> int:
        # No insert takes a number while the table is locked.
        self.execute("LOCK TABLE baselines IN SHARE ROW EXCLUSIVE MODE")
        row = self.execute(
            """SELECT nextval(pg_get_serial_sequence('baselines', 'seq')),
                   (SELECT coalesce(max(seq), 0) FROM baselines)"""
        ).fetchone()
        first = max(row) + 1 if row else 1
        self.execute(
            "SELECT setval(pg_get_serial_sequence('baselines', 'seq'), ?)", (first + count,)
        )
        return int(first)


# Answers what tells a database from all others, but for its copies: when, to the microsecond, its
# first tables were made.
_ORIGIN: LiteralString = "SELECT applied_at FROM perfgate_migrations WHERE version = 1"
# Answers whether a restore has ended: its foreign keys come last. Before them an upload could take
# the place of a record, and is not counted.
_IS_WHOLE: LiteralString = """SELECT count(*) >= 2 FROM pg_constraint WHERE contype = 'f'
    AND conrelid IN (to_regclass('baselines'), to_regclass('receipt_summaries'))"""

# Whatever the defaults: READ COMMITTED, for two may change a total at once (no serialization
# failures); synchronous_commit on, for a 201 means "on disk". remote_apply, which promises more,
# stays.
_BEGIN_WRITING = """BEGIN ISOLATION LEVEL READ COMMITTED;
    SELECT set_config('synchronous_commit', CASE current_setting('synchronous_commit')
        WHEN 'remote_apply' THEN 'remote_apply' ELSE 'on' END, true)"""


@functools.lru_cache(maxsize=256)
def _placeholders(sql: str) -> bytes:
    return sql.replace("%", "%%").replace("?", "%s").encode()


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
        self._pool: ConnectionPool[_Connection] | None = None
        self._opening = threading.Lock()
        self._origin = _prepare(url, create)

    @contextmanager
    def single(self, deadline: float, look: bool = False) -> Iterator[_Session]:
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

    def as_bytes(self, column: str) -> str:
        return f"convert_to({column}, 'UTF8')"

    def walk(self, index: str) -> str:
        return ""  # the planner knows the sizes: migration 7 sees to that

    def among(self, column: str, names: Sequence[str]) -> tuple[str, Any]:
        return f"{column} = ANY(?)", list(names)

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
            connection.execute("COMMIT")
        except psycopg.Error as error:
            if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
                # A new one may find another server, or this one as it is by then.
                connection.close()
            raise Unavailable(f"PostgreSQL: {_reason(error)}") from error
        finally:
            _give_back(pool, connection)

    def _begin(self, pool: ConnectionPool[_Connection], begin: str, deadline: float) -> _Connection:
        """Return a connection on which a transaction has begun.

        That is also the check of a connection that has lain in the pool: one that the server
        has closed since is replaced, as often as there is time.
        """
        pause = 0.0
        while True:
            left = deadline - time.monotonic()
            try:
                connection = pool.getconn(timeout=max(0.01, min(left, _ASK_ANEW)))
            except PoolTimeout:
                if left > _ASK_ANEW:
                    continue
                raise Unavailable("PostgreSQL: no connection before the deadline") from None
            except PoolClosed as error:  # the process ends
                raise Unavailable(f"PostgreSQL: {error}") from None
            connection.deadline = deadline
            milliseconds = max(1, int((deadline - time.monotonic()) * 1000))
            try:
                # The last timeout is for a machine that died, or hangs, within its transaction: its
                # locks would stay for as long as the database believes in the connection.
                answers = connection.execute(
                    f"{begin}; SET LOCAL statement_timeout = {milliseconds};"
                    f" SET LOCAL lock_timeout = {milliseconds};"
                    f" SET LOCAL idle_in_transaction_session_timeout = {milliseconds};"
                    f" {_ORIGIN}".encode()
                )
                self._recognize(connection, answers)
            except BaseException as error:
                is_lost = connection.closed
                # A new one may find another server, or schema; this one would lead there again.
                connection.close()
                _give_back(pool, connection)
                if not isinstance(error, psycopg.Error):
                    raise
                if not is_lost or time.monotonic() > deadline:
                    raise Unavailable(f"PostgreSQL: {_reason(error)}") from error
                # A new one is lost as fast where a PgBouncer stands before no database.
                time.sleep(pause)
                pause = _PAUSE
            else:
                return connection

    def _recognize(self, connection: _Connection, answers: psycopg.Cursor[tuple[Any, ...]]) -> None:
        """Raise Unavailable unless a connection leads to the database that was opened, by the last
        of these answers, to `_ORIGIN`: another may have taken its name, and what was acknowledged
        would seem to be lost. Asked in each transaction, for a pooler may lead each elsewhere."""
        while answers.nextset():
            pass
        if answers.fetchone() != (self._origin,):
            raise Unavailable("PostgreSQL: the database is not the one that was opened")
        if not connection.is_known and not _value(connection, _IS_WHOLE):
            raise Unavailable("PostgreSQL: the database is not restored whole")
        connection.is_known = True

    def _open(self) -> ConnectionPool[_Connection]:
        """Return this process's pool. It is opened on first use, and so after a fork."""
        with self._opening:
            if self._pool is None:
                self._pool = ConnectionPool(
                    connection_class=_Connection,
                    kwargs=_options(self._url),
                    min_size=1,
                    max_size=self._pool_size,
                    reconnect_timeout=RECONNECT_TIMEOUT,
                    open=True,
                )
            return self._pool


def _give_back(pool: ConnectionPool[_Connection], connection: _Connection) -> None:
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
    pool.putconn(connection)


_OPTIONS = {
    "autocommit": True,  # transactions are begun and ended here, in words
    "prepare_threshold": None,
    "connect_timeout": CONNECT_TIMEOUT,
    "client_encoding": "UTF8",  # whatever the environment or the URL says
    "fallback_application_name": "perfgate-server",
}
#: Unless the URL says otherwise. A firewall may forget a connection that lies idle, and drop what
#: comes then without a word: by default Linux looks after two hours whether it is there still, and
#: sends again for a quarter of an hour. What is not heard of for so long is given up, and another
#: taken.
_TCP_OPTIONS = {
    "keepalives_idle": 10,  # seconds
    "tcp_user_timeout": 15_000,  # milliseconds
}


def _options(url: str) -> dict[str, Any]:
    given = conninfo_to_dict(url)
    # A service file has its own, which what is said here would win over.
    tcp = {} if "service" in given or "PGSERVICE" in os.environ else _TCP_OPTIONS
    return tcp | given | _OPTIONS


_HINTS: dict[type, str] = {
    psycopg.errors.InsufficientPrivilege: "; let the role own the database, to make its tables",
    psycopg.errors.InvalidSchemaName: "; the role's search_path names no schema that is there",
}


def _prepare(url: str, create: bool) -> str:
    """Bring the database to this program's schema, unless it has it; refuse to without `create`.
    Return its origin."""
    try:
        options = _options(url)
    except psycopg.Error:
        # Its own words quote the URL, and the password in it.
        raise CannotOpen("the database URL is not one that PostgreSQL understands") from None
    for seconds in _LOCK_TIMEOUTS:
        try:
            return _upgrade(options, create, seconds)
        except (psycopg.Error, StorageError) as error:
            locked = isinstance(error, psycopg.errors.LockNotAvailable)
            if not locked or seconds == _LOCK_TIMEOUTS[-1]:
                hint = _HINTS.get(type(error), "")
                raise CannotOpen(f"cannot open the database: {_reason(error)}{hint}") from error
        time.sleep(_LOCK_PAUSE)
    raise AssertionError("the last attempt returns or raises")


def _upgrade(options: dict[str, Any], create: bool, lock_timeout: int) -> str:
    with psycopg.connect(**options) as db, db.transaction():
        # Each statement sees what was committed before it: also what servers of an earlier version
        # wrote while this waited for a lock.
        db.execute("SET TRANSACTION ISOLATION LEVEL READ COMMITTED")
        db.execute(f"SET LOCAL lock_timeout = '{lock_timeout}s'".encode())
        db.execute("SET LOCAL statement_timeout = 0")  # a large table takes its time
        # Never wait for a standby that is away. If one takes over that lacks the tables, the next
        # start makes them.
        db.execute("SET LOCAL synchronous_commit = local")
        _check_fitness(db, to_write=create)
        version = _version(db)
        if version == 0 and not create:
            raise CannotOpen("no perfgate-server has made its tables there")
        applied: list[migrate.Migration] = []
        if migrate.missing("postgres", version, upgrade=create):
            version, applied = _apply_migrations(db)
        if create:
            _check_role(db)
        if not _value(db, _IS_WHOLE):
            raise CannotOpen("it is not whole; restore it anew, while no server uses it")
        origin = str(_value(db, _ORIGIN))
        name = db.info.dbname
    migrate.log_applied(version, applied, name)
    return origin


def _check_fitness(db: psycopg.Connection[Any], *, to_write: bool) -> None:
    """Raise CannotOpen for a database that cannot hold all texts, or cannot be written to."""
    encoding = _value(db, "SHOW server_encoding")
    if encoding != "UTF8":
        raise CannotOpen(f"its encoding is {encoding}; make one with ENCODING 'UTF8'")
    if to_write and _value(db, "SHOW transaction_read_only") == "on":
        raise CannotOpen("it is read-only, as a standby is")


def _check_role(db: psycopg.Connection[Any]) -> None:
    """Raise CannotOpen for a role that may only read: nothing would show it before an upload."""
    if not _value(db, "SELECT has_table_privilege('baselines', 'INSERT')"):
        raise CannotOpen("its role may not write to the tables")


def _value(db: psycopg.Connection[Any], query: LiteralString) -> Any:
    """Return the one value that a query answers, None without a row."""
    row = db.execute(query).fetchone()
    return row[0] if row else None


def _reason(error: Exception) -> str:
    """Return the first line of what PostgreSQL says: what follows are hints and contexts."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _version(db: psycopg.Connection[Any]) -> int:
    """Return the version of the schema, 0 for none."""
    if _value(db, "SELECT to_regclass('perfgate_migrations')") is None:
        return 0
    return int(_value(db, "SELECT coalesce(max(version), 0) FROM perfgate_migrations"))


def _apply_migrations(db: psycopg.Connection[Any]) -> tuple[int, list[migrate.Migration]]:
    """Apply what is missing, and record it, under a lock; return to which version, and what."""
    db.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
    db.execute(
        """CREATE TABLE IF NOT EXISTS perfgate_migrations (
            version integer PRIMARY KEY, name text NOT NULL, applied_at text NOT NULL)"""
    )
    version = _version(db)
    applied = migrate.missing("postgres", version)
    for migration in applied:
        db.execute(migration.sql.encode())
        db.execute(
            "INSERT INTO perfgate_migrations (version, name, applied_at) VALUES (%s, %s, %s)",
            (migration.version, migration.name, datetime.now(UTC).isoformat()),
        )
    return version, applied

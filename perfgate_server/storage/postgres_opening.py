"""Opening a PostgreSQL database: how it is reached, and bringing it to this program's schema."""

from __future__ import annotations

import os
import time
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg
from psycopg.conninfo import conninfo_to_dict

from perfgate_server.storage import migrate
from perfgate_server.storage.base import CannotOpen, StorageError

#: Seconds that one attempt to connect may take.
CONNECT_TIMEOUT = 5
#: Seconds that the attempts of a start wait for a lock, as while another server migrates: whoever
#: comes after waits too, even to read. And the pause between.
_LOCK_TIMEOUTS, _LOCK_PAUSE = (1, 2, 4, 8, 16, 32), 1.0
#: The advisory lock under which migrations run: "perfgate" in ASCII.
_MIGRATION_LOCK = int.from_bytes(b"perfgate", "big")

#: Answers what tells a database from all others, but for its copies: when, to the microsecond, its
#: first tables were made. And what tells its tables from those that a restore makes in their place.
ORIGIN: LiteralString = """SELECT applied_at, to_regclass('baselines')::oid
    FROM perfgate_migrations WHERE version = 1"""
#: Answers whether a restore has ended. Without the unique indexes an upload could take the place of
#: a record, and without the triggers it is not counted. Foreign keys come last, but with several
#: jobs before some of those.
IS_WHOLE: LiteralString = """SELECT (SELECT count(*) >= 2 FROM pg_constraint WHERE contype = 'f'
        AND conrelid IN (to_regclass('baselines'), to_regclass('receipt_summaries')))
    AND (SELECT count(*) >= 6 FROM pg_trigger WHERE NOT tgisinternal
        AND tgrelid IN (to_regclass('baselines'), to_regclass('verdicts')))
    AND (SELECT count(*) >= 8 FROM pg_index WHERE indisunique AND indrelid IN (
        to_regclass('baselines'), to_regclass('baseline_tags'), to_regclass('receipts'),
        to_regclass('receipt_summaries'), to_regclass('verdicts'), to_regclass('totals')))"""

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


def options_of(url: str) -> dict[str, Any]:
    """Return how to connect to a URL's database. Raises psycopg.Error, which may quote it."""
    given = conninfo_to_dict(url)
    # A service file has its own, which what is said here would win over.
    tcp = {} if "service" in given or "PGSERVICE" in os.environ else _TCP_OPTIONS
    return tcp | given | _OPTIONS


#: What is tried again. Servers of an earlier version write meanwhile, and a migration that takes
#: one lock after the other may meet one that has them in another order.
_PASSING = (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)
_HINTS: dict[type, str] = {
    psycopg.errors.InsufficientPrivilege: "; let the role own the database and its tables",
    psycopg.errors.InvalidSchemaName: "; the role's search_path names no schema that is there",
}


def prepare(url: str, create: bool) -> str:
    """Bring the database to this program's schema, unless it has it; refuse to without `create`.
    Return its origin. Raises CannotOpen, whose text never holds the password."""
    try:
        options = options_of(url)
    except psycopg.Error:
        # Its own words quote the URL, and the password in it.
        raise CannotOpen(_NOT_UNDERSTOOD) from None
    if _divides_a_password(url):
        raise CannotOpen(_NOT_UNDERSTOOD)
    for seconds in _LOCK_TIMEOUTS:
        try:
            return _upgrade(options, create, seconds)
        except (psycopg.Error, StorageError) as error:
            if not isinstance(error, _PASSING) or seconds == _LOCK_TIMEOUTS[-1]:
                hint = _HINTS.get(type(error), "")
                raise CannotOpen(f"cannot open the database: {first_line(error)}{hint}") from error
        time.sleep(_LOCK_PAUSE)
    raise AssertionError("the last attempt returns or raises")


_NOT_UNDERSTOOD = (
    "the database URL is not one that PostgreSQL understands; in a user and a password,"
    " percent-encode @, /, : and %"
)


def _divides_a_password(url: str) -> bool:
    """Tell whether libpq would take a part of a password for a host or a database: it would say
    so, and print it."""
    authority, _, path = url.partition("://")[2].partition("/")
    return authority.count("@") > 1 or "@" in path.partition("?")[0]


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
        if not value_of(db, IS_WHOLE):
            raise CannotOpen("it is not whole; restore it anew, while no server uses it")
        origin = str(value_of(db, ORIGIN))
        name = db.info.dbname
    migrate.log_applied(version, applied, name)
    return origin


def _check_fitness(db: psycopg.Connection[Any], *, to_write: bool) -> None:
    """Raise CannotOpen for a database that cannot hold all texts, or cannot be written to."""
    encoding = value_of(db, "SHOW server_encoding")
    if encoding != "UTF8":
        raise CannotOpen(f"its encoding is {encoding}; make one with ENCODING 'UTF8'")
    if to_write and value_of(db, "SHOW transaction_read_only") == "on":
        raise CannotOpen("it is read-only, as a standby is")


#: What a role needs to serve: the rights, by table.
_RIGHTS = {
    "baselines": ("SELECT", "INSERT", "DELETE"),
    "baseline_tags": ("SELECT", "INSERT", "DELETE"),
    "receipts": ("SELECT", "INSERT", "DELETE"),
    "receipt_summaries": ("SELECT", "INSERT"),
    "verdicts": ("SELECT", "INSERT"),
    "totals": ("SELECT", "INSERT", "UPDATE"),
}


def _check_role(db: psycopg.Connection[Any]) -> None:
    """Raise CannotOpen for a role that lacks rights: nothing would show it before an upload."""
    wanted = [(table, right) for table, rights in _RIGHTS.items() for right in rights]
    missing = db.execute(
        """SELECT "right" || ' on ' || "table" FROM unnest(%s::text[], %s::text[])
            AS wanted ("table", "right") WHERE NOT has_table_privilege("table", "right")""",
        [[*column] for column in zip(*wanted, strict=True)],
    ).fetchall()
    if missing:
        raise CannotOpen(f"its role lacks rights: {', '.join(row[0] for row in missing)}")


def value_of(db: psycopg.Connection[Any], query: LiteralString) -> Any:
    """Return the one value that a query answers, None without a row."""
    row = db.execute(query).fetchone()
    return row[0] if row else None


def first_line(error: Exception) -> str:
    """Return the first line of what PostgreSQL says: what follows are hints and contexts."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _version(db: psycopg.Connection[Any]) -> int:
    """Return the version of the schema, 0 for none."""
    if value_of(db, "SELECT to_regclass('perfgate_migrations')") is None:
        return 0
    return int(value_of(db, "SELECT coalesce(max(version), 0) FROM perfgate_migrations"))


def _apply_migrations(db: psycopg.Connection[Any]) -> tuple[int, list[migrate.Migration]]:
    """Apply what is missing, and record it, under a lock. Return the version that the schema had,
    and what was applied."""
    db.execute("SELECT pg_advisory_xact_lock(%s)", (_MIGRATION_LOCK,))
    # What is made goes where the tables are. They are found in any schema of the search_path, but
    # made in its first, which may have come later: then there would be two of each.
    db.execute(
        """SELECT set_config('search_path',
                quote_ident(nspname) || ', ' || current_setting('search_path'), true)
            FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE c.oid = to_regclass('perfgate_migrations')"""
    )
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

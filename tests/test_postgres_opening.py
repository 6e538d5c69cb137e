"""Opening a database of PostgreSQL: what is refused, and in which words."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, get_args
from urllib.parse import urlsplit

import psycopg
import pytest
from postgres_server import OwnPostgres, Postgres, database_of, opened, server_on
from support import (
    PATIENCE,
    ROOT,
    at_once,
    environment,
    free_port,
    program,
    soon,
    stored,
    wait_for,
)
from test_storage import promotion
from test_storage_verdicts import verdict

from perfgate_server.storage import migrate, open_storage, postgres_opening
from perfgate_server.storage.base import CannotOpen, Kind, Unavailable
from perfgate_server.storage.postgres import PostgresEngine, _unavailable

_OPEN_AND_WRITE = """
import sys
from support import soon, stored
from perfgate_server.storage import open_storage
input("ready")
storage = open_storage("postgres", sys.argv[1], pool_size=1)
storage.create(*stored("b", sys.argv[2]), deadline=soon())
storage.close()
"""


def test_eight_processes_may_open_an_empty_database_at_once(postgres: Postgres, url: str) -> None:
    assert at_once(_OPEN_AND_WRITE, [[url, f"v{number}"] for number in range(8)]) == [0] * 8
    name = database_of(url)
    applied = [(migration.version,) for migration in migrate.load("postgres")]
    assert postgres.execute("SELECT version FROM perfgate_migrations", name) == applied
    assert postgres.execute("SELECT count(*) FROM baselines", name) == [(8,)]


def test_a_database_that_is_made_is_told_of_once(
    url: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO", "perfgate_server"):
        for _ in range(2):
            opened(url).close()
    assert caplog.messages == [f"a new, empty database was made: {url.rsplit('/', 1)[1]}"]


def test_a_newer_schema_is_refused(postgres: Postgres, url: str) -> None:
    opened(url).close()
    name = database_of(url)
    postgres.execute("INSERT INTO perfgate_migrations VALUES (999, 'future', 'then')", name)
    with pytest.raises(CannotOpen, match="^cannot open the database: .*newer perfgate-server"):
        opened(url)


def test_a_database_that_cannot_hold_every_text_is_refused(postgres: Postgres) -> None:
    for encoding in ("SQL_ASCII", "LATIN1"):
        name = f"perfgate_test_{os.getpid()}_{encoding.lower()}"
        postgres.execute(
            f"""CREATE DATABASE {name} TEMPLATE template0
                ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C'"""
        )
        try:
            with pytest.raises(CannotOpen, match=f"encoding is {encoding}.*'UTF8'"):
                opened(postgres.at(name))
        finally:
            postgres.execute(f"DROP DATABASE {name}")


@pytest.mark.parametrize("encoding", ["SQL_ASCII", "LATIN1"])
def test_no_client_encoding_comes_between(
    url: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGCLIENTENCODING", encoding)
    for where in (url, f"{url}?client_encoding={encoding}"):
        with contextlib.closing(opened(where)) as storage:
            storage.create(*stored("b", where[-9:], tags=["日本"]), deadline=soon())
            assert storage.latest("p", "b", receipt=True, deadline=soon()).tags == ["日本"]


def test_a_database_that_is_read_only_is_refused_by_a_server_and_read_by_commands(
    postgres: Postgres, url: str
) -> None:
    """As a standby is, of which an export would be taken."""
    with contextlib.closing(opened(url)) as storage:
        storage.create(*stored(), deadline=soon())
    name = database_of(url)
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(CannotOpen, match="it is read-only, as a standby is"):
        opened(url)
    for command, said in (("check", "baselines: 1"), ("export", '"version":"v1"')):
        result = on_database(url, command)
        assert result.returncode == 0 and said in result.stdout, result.stderr


def test_commands_that_read_make_no_tables(postgres: Postgres, url: str) -> None:
    """A misspelt name is told, and its database stays as it is."""
    for command in ("check", "export"):
        result = on_database(url, command)
        assert result.returncode == 2 and result.stdout.count("\n") <= 1
        assert result.stderr.startswith("Error: ") and "has made its tables" in result.stderr
    name = database_of(url)
    assert postgres.execute("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'", name) == [
        (0,)
    ]


def on_database(url: str, command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program(), command, "--storage-type", "postgres", "--database-url", url],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(),
    )


def test_a_search_path_without_a_schema_is_told(postgres: Postgres, url: str) -> None:
    opened(url).close()
    name = database_of(url)
    postgres.execute(f"ALTER DATABASE {name} SET search_path = nowhere")
    with pytest.raises(CannotOpen, match="; the role's search_path names no schema"):
        opened(url)


def test_a_role_that_may_make_no_tables_can_serve_what_is_made(own: OwnPostgres) -> None:
    with own.database() as url:
        name = database_of(url)
        for sql in (
            "REVOKE ALL ON SCHEMA public FROM PUBLIC",
            "CREATE ROLE lesser LOGIN PASSWORD 'hunter2'",
            "GRANT USAGE ON SCHEMA public TO lesser",
        ):
            own.execute(sql, name)
        lesser = url.replace("perfgate:", "lesser:")
        try:
            with pytest.raises(CannotOpen, match="public; let the role own the database"):
                opened(lesser)
            opened(url).close()
            own.execute("GRANT SELECT ON ALL TABLES IN SCHEMA public TO lesser", name)
            with pytest.raises(CannotOpen, match="lacks rights: INSERT on baselines, DELETE on"):
                opened(lesser)
            # As on the tables that an upgrade by another role made.
            own.execute("GRANT INSERT, DELETE ON ALL TABLES IN SCHEMA public TO lesser", name)
            with pytest.raises(CannotOpen, match="its role lacks rights: UPDATE on totals$"):
                opened(lesser)
            open_storage("postgres", lesser, pool_size=1, create=False).close()
            own.execute("GRANT UPDATE ON ALL TABLES IN SCHEMA public TO lesser", name)
            with contextlib.closing(opened(lesser)) as storage:
                storage.create(*stored(tags=["a"]), deadline=soon())
                assert storage.latest("p", "b", receipt=True, deadline=soon()).tags == ["a"]
                storage.delete("p", "b", "v1", deadline=soon())
                for kind in get_args(Kind):  # for an import with --merge
                    with pytest.raises(Unavailable, match="permission denied"):
                        storage.reserve(kind, 1, deadline=soon())
                    own.execute(f"GRANT UPDATE ON SEQUENCE {kind}_seq_seq TO lesser", name)
                    storage.reserve(kind, 1, deadline=soon())
        finally:
            own.execute("DROP OWNED BY lesser; DROP ROLE lesser", name)


def test_a_role_that_lacks_any_one_right_is_told_which(own: OwnPostgres) -> None:
    """It would show when the first upload, verdict or deletion fails."""
    needed = {
        "SELECT": "baselines baseline_tags receipts receipt_summaries verdicts totals",
        "INSERT": "baselines baseline_tags receipts receipt_summaries verdicts totals",
        "DELETE": "baselines baseline_tags receipts",
        "UPDATE": "totals",
    }
    with own.database() as url:
        name = database_of(url)
        opened(url).close()
        own.execute("CREATE ROLE lesser LOGIN PASSWORD 'hunter2'", name)
        own.execute("GRANT SELECT ON perfgate_migrations TO lesser", name)
        try:
            for right, tables in needed.items():
                own.execute(f"GRANT {right} ON {tables.replace(' ', ', ')} TO lesser", name)
            lesser = url.replace("perfgate:", "lesser:")
            opened(lesser).close()
            for right, tables in needed.items():
                for table in tables.split():
                    own.execute(f"REVOKE {right} ON {table} FROM lesser", name)
                    with pytest.raises(CannotOpen, match=f"lacks rights: {right} on {table}$"):
                        opened(lesser)
                    own.execute(f"GRANT {right} ON {table} TO lesser", name)
        finally:
            own.execute("DROP OWNED BY lesser; DROP ROLE lesser", name)


def test_a_start_does_not_wait_for_a_lock_for_ever(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened(url).close()
    monkeypatch.setattr(postgres_opening, "_LOCK_TIMEOUTS", (1, 1))
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE perfgate_migrations IN ACCESS EXCLUSIVE MODE")
        with pytest.raises(CannotOpen, match="lock timeout"):
            opened(url)


def test_what_is_no_lock_is_not_waited_for(
    own: OwnPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever misspelt a name is told so at once."""
    monkeypatch.setattr(postgres_opening, "_LOCK_PAUSE", None)  # for which nobody can wait
    with pytest.raises(CannotOpen, match="does not exist"):
        opened(own.at("nowhere"))


def test_an_upgrade_that_waits_for_a_reader_keeps_others_out_only_for_moments(url: str) -> None:
    """A dump of the database may take an hour; whoever came after a waiting upgrade waited too."""
    with psycopg.connect(url, autocommit=True) as db:
        db.execute((ROOT / "tests/dumps/postgres-0004.sql").read_bytes())
        with ThreadPoolExecutor(1) as pool, psycopg.connect(url) as reader:
            reader.execute("SELECT count(*) FROM baselines")
            upgrade = pool.submit(opened, url)
            waits = "SELECT 1 FROM pg_locks WHERE NOT granted AND mode = 'AccessExclusiveLock'"
            wait_for(lambda: db.execute(waits).fetchall(), "the upgrade")
            db.execute(f"SET statement_timeout = '{PATIENCE / 2}s'")
            db.execute("SELECT 1 FROM baselines LIMIT 1")
            reader.rollback()
            with contextlib.closing(upgrade.result(PATIENCE)) as storage:
                assert storage.counts(deadline=soon()).schema_version > 4


def test_servers_that_start_at_once_do_not_depend_on_the_database_s_isolation(
    postgres: Postgres, url: str
) -> None:
    """The second is to see the tables that the first has made while it waited."""
    name = database_of(url)
    isolation = "default_transaction_isolation = 'repeatable read'"
    postgres.execute(f'ALTER DATABASE "{name}" SET {isolation}')
    waits = """SELECT count(*) FROM pg_locks JOIN pg_database d ON d.oid = database
        WHERE datname = current_database() AND locktype = 'advisory' AND NOT granted"""
    with psycopg.connect(url) as other, ThreadPoolExecutor(2) as pool:
        other.execute("SELECT pg_advisory_xact_lock(%s)", (postgres_opening._MIGRATION_LOCK,))
        starts = [pool.submit(opened, url) for _ in range(2)]
        wait_for(lambda: other.execute(waits).fetchone() == (2,), "both starts")
        other.rollback()
        for start in starts:
            start.result(PATIENCE).close()


@contextlib.contextmanager
def standby_away(own: OwnPostgres) -> Iterator[None]:
    """Let every commit wait for a standby that never comes."""

    def wait_for_setting(name: str) -> None:
        own.execute("SELECT pg_reload_conf()")
        wait_for(lambda: own.execute("SHOW synchronous_standby_names") == [(name,)], "the setting")

    own.execute("ALTER SYSTEM SET synchronous_standby_names = 'away'")
    wait_for_setting("away")
    try:
        yield
    finally:
        own.execute("ALTER SYSTEM RESET synchronous_standby_names")
        wait_for_setting("")


def test_a_start_does_not_wait_for_a_standby(own: OwnPostgres) -> None:
    """It could wait for ever, without a word."""
    with own.database() as url, ThreadPoolExecutor(1) as pool, standby_away(own):
        pool.submit(opened, url).result(PATIENCE).close()


@pytest.mark.parametrize(
    ("ending", "options"),
    [
        ("pg_cancel_backend", ""),
        ("pg_cancel_backend", "?options=-c%20client_min_messages%3Derror"),
        ("pg_terminate_backend", ""),
    ],
)
def test_what_is_acknowledged_is_on_the_standby(
    own: OwnPostgres, ending: str, options: str
) -> None:
    """Also where the wait for it was broken off, after which the record is there for all to read:
    neither is the upload acknowledged then, nor another one that finds it there."""
    waits = "SELECT pid FROM pg_stat_activity WHERE wait_event = 'SyncRep'"
    with (
        own.database() as url,
        contextlib.closing(opened(url + options)) as storage,
        ThreadPoolExecutor(1) as pool,
    ):
        promotion_ = promotion("v0", "prod")
        storage.create(*stored("b", "v0"), deadline=soon())
        storage.promote(promotion_, deadline=soon())
        record, text = stored("b", "v1")
        with standby_away(own):
            upload = pool.submit(storage.create, record, text, deadline=soon())
            wait_for(lambda: own.execute(waits), "the wait for the standby")
            own.execute(f"SELECT {ending}(pid) FROM ({waits}) AS waiting")
            with pytest.raises(Unavailable, match="synchronous replication|terminat|closed"):
                upload.result(PATIENCE)
            assert storage.get("p", "b", "v1", receipt=False, deadline=soon()).id == record.id
            for again in (
                partial(storage.create, record, text),
                partial(storage.promote, promotion_),
                storage.ensure_durable,  # at the end of an import
            ):
                with pytest.raises(Unavailable, match="does not answer"):
                    again(deadline=soon(0.5))
                # It waits for the standby still, with its lock on the benchmark.
                wait_for(lambda: own.execute(waits), "the wait for the standby")
                own.execute(f"SELECT pg_terminate_backend(pid) FROM ({waits}) AS waiting")
                wait_for(lambda: not own.execute(waits), "its end")
        assert storage.create(record, text, deadline=soon())[1] is False


@pytest.mark.parametrize("renamed", [False, True])
def test_the_totals_are_found_whatever_the_search_path(own: OwnPostgres, renamed: bool) -> None:
    """By default it begins with a schema of the role's name: the tables may lie there, and serve
    another role; or in a schema that has another name by then."""
    with own.database() as url:
        name = database_of(url)
        own.execute("CREATE SCHEMA perfgate", name)
        opened(url).close()
        schema = "perfgate"
        if renamed:
            own.execute("ALTER SCHEMA perfgate RENAME TO moved", name)
            schema = "moved"
        for sql in (
            "CREATE ROLE lesser LOGIN PASSWORD 'hunter2'",
            f"GRANT USAGE ON SCHEMA {schema} TO lesser",
            f"GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {schema} TO lesser",
            f"ALTER ROLE lesser IN DATABASE {name} SET search_path = {schema}",
        ):
            own.execute(sql, name)
        try:
            with contextlib.closing(opened(url.replace("perfgate:", "lesser:"))) as storage:
                storage.create(*stored(), deadline=soon())
                storage.add_verdict(verdict(), deadline=soon())
                storage.delete("p", "b", "v1", deadline=soon())
                assert storage.counts(deadline=soon()).wrong_totals == []
            own.execute(f"TRUNCATE {schema}.verdicts", name)
            assert own.execute(f"SELECT sum(number) FROM {schema}.totals", name) == [(0,)]
        finally:
            own.execute("DROP OWNED BY lesser; DROP ROLE lesser", name)


def test_an_upgrade_is_made_where_the_tables_are(
    postgres: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not in a schema of the role's name that came since, and is the first of the search_path:
    the database would seem to be empty."""
    monkeypatch.setitem(migrate.NEWEST, "postgres", 7)
    with contextlib.closing(opened(url)) as storage:
        storage.create(*stored(), deadline=soon())
    name = database_of(url)
    role = str(urlsplit(url).username)
    postgres.execute(f"CREATE SCHEMA {role}", name)
    monkeypatch.undo()
    with contextlib.closing(opened(url)) as storage:
        storage.create(*stored("b", "v2"), deadline=soon())
        assert storage.counts(deadline=soon()).baselines == 2
        assert storage.counts(deadline=soon()).schema_version == migrate.NEWEST["postgres"]
    tables = f"SELECT count(*) FROM pg_class WHERE relnamespace = '{role}'::regnamespace"
    assert postgres.execute(tables, name) == [(0,)]


def test_an_upgrade_finds_a_schema_whose_name_needs_quotes(
    postgres: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = database_of(url)
    postgres.execute('CREATE SCHEMA "Team A"', name)
    postgres.execute(f'ALTER DATABASE {name} SET search_path = "Team A"')
    monkeypatch.setitem(migrate.NEWEST, "postgres", 7)
    opened(url).close()
    monkeypatch.undo()
    with contextlib.closing(opened(url)) as storage:
        assert storage.counts(deadline=soon()).schema_version == migrate.NEWEST["postgres"]


def test_a_start_that_meets_a_deadlock_tries_again(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As with a server of an earlier version that writes meanwhile."""
    upgrade, errors = postgres_opening._upgrade, [psycopg.errors.DeadlockDetected()]

    def meet(*arguments: Any) -> str:
        if errors:
            raise errors.pop()
        return upgrade(*arguments)

    monkeypatch.setattr(postgres_opening, "_upgrade", meet)
    monkeypatch.setattr(postgres_opening, "_LOCK_PAUSE", 0)
    opened(url).close()
    assert errors == []


def test_what_cannot_be_opened_is_one_line_without_the_password(own: OwnPostgres) -> None:
    for url in (
        own.at("postgres").replace("perfgate:hunter2", "perfgate:hunter3"),
        own.at("nowhere"),
        f"postgresql://perfgate:hunter3@127.0.0.1:{free_port()}/x",
        "postgresql://perfgate:hunter3@127.0.0.1:port/x",
        "postgresql://perfgate:hunter3@127.0.0.1/x?nonsense=1",
        "postgresql://perfgate:a@hunter3@127.0.0.1/x",
        "postgresql://perfgate:hunter3/a@127.0.0.1/x",
        "postgresql://perfgate:a@hunter3/a@127.0.0.1/x",
        "mysql://perfgate:hunter3@127.0.0.1/x",
        "",
    ):
        result = subprocess.run(
            [program(), "--storage-type", "postgres", "--database-url", url, "--port", "0"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            env=environment(),
        )
        assert result.returncode == 2, url
        assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
        assert r"\n" not in result.stderr  # what libpq says in several lines is not squeezed in
        assert "hunter" not in result.stderr


@pytest.mark.parametrize(("said", "told"), [("a\nHINT: b", "a"), ("", "OperationalError")])
def test_what_is_told_is_one_line_also_of_an_error_without_words(said: str, told: str) -> None:
    assert postgres_opening.first_line(psycopg.OperationalError(said)) == told


@pytest.mark.parametrize("password", ["a@b", "a/b", "a%b", "a@b/c"])
def test_who_has_not_encoded_a_password_is_told_to(password: str) -> None:
    with pytest.raises(CannotOpen, match="percent-encode"):
        opened(f"postgresql://perfgate:{password}@127.0.0.1/x")


def test_what_needs_no_encoding_is_taken_as_it_is(own: OwnPostgres) -> None:
    url = own.at("postgres").replace("perfgate:hunter2@", "perfgate:hunter:2#?@")
    for text in (url, f"{own.at('nowhere')}?application_name=a@b"):
        with pytest.raises(CannotOpen, match="password authentication failed|does not exist"):
            opened(text)


def test_the_password_is_never_logged(own: OwnPostgres, tmp_path: Path) -> None:
    with own.database() as url:
        for level in ("trace", "info"):
            with server_on(url, tmp_path, "--log-level", level) as server:
                assert server.put("b", "v1") in (200, 201)
                server.stop()
                assert f"perfgate@127.0.0.1:{own.port}" in server.log
                assert "hunter2" not in server.log


def test_a_host_that_says_nothing_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the URL says: a start would wait for over two minutes."""
    options: Any = postgres_opening._OPTIONS
    least = min(2, options["connect_timeout"])  # seconds; libpq's least
    monkeypatch.setitem(options, "connect_timeout", least)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"postgresql://x@127.0.0.1:{silent.getsockname()[1]}/x?connect_timeout=60"
        with pytest.raises(CannotOpen, match="timeout"):
            opened(url)


def test_an_upgrade_takes_the_time_it_needs(
    postgres: Postgres, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever the database allows a statement: a large table takes longer."""
    opened(url).close()
    name = database_of(url)
    postgres.execute(f"ALTER DATABASE {name} SET statement_timeout = '500ms'")
    known = migrate.load("postgres")
    slow = migrate.Migration(len(known) + 1, "slow", "SELECT pg_sleep(1.5)")
    monkeypatch.setattr(migrate, "load", lambda dialect: [*known, slow])
    with contextlib.closing(opened(url)) as storage:
        assert storage.counts(deadline=soon()).schema_version == slow.version


def test_connections_that_are_lost_at_once_are_not_asked_for_without_a_pause(url: str) -> None:
    """As from a PgBouncer without its PostgreSQL: each is a login."""

    class Lost:
        closed, deadline = True, 0.0
        info = SimpleNamespace(transaction_status=psycopg.pq.TransactionStatus.UNKNOWN)

        def execute(self, *_: object) -> None:
            raise psycopg.OperationalError("server closed the connection unexpectedly")

        def close(self) -> None:
            pass

    asked: list[float] = []

    def lend(deadline: float) -> Lost:
        asked.append(deadline)
        return Lost()

    pool: Any = SimpleNamespace(lend=lend, give_back=lambda _: None)
    engine = PostgresEngine(url, 1)
    with pytest.raises(Unavailable, match="closed the connection"):
        engine._begin(pool, "BEGIN", soon(1))
    assert 3 <= len(asked) <= 6
    engine.close()


def test_without_the_extra_it_says_what_to_install(url: str) -> None:
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from perfgate_server.cli import main\n"
        f"sys.argv = ['perfgate-server', '--storage-type', 'postgres', '--database-url', '{url}']\n"
        "main()"
    )
    result = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=environment(PERFGATE_PORT="0"),
    )
    assert result.returncode == 2
    assert "perfgate-server[postgres]" in result.stderr


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (psycopg.errors.ReadOnlySqlTransaction, "read_only"),
        (psycopg.errors.DiskFull, "full"),
        (psycopg.errors.DeadlockDetected, "busy"),
        (psycopg.errors.LockNotAvailable, "busy"),
        (psycopg.errors.QueryCanceled, "busy"),
        (psycopg.errors.AdminShutdown, "down"),
        (psycopg.OperationalError, "down"),
    ],
)
def test_the_reason_is_what_the_sqlstate_says(kind: type[psycopg.Error], reason: str) -> None:
    told = _unavailable(kind("x"))
    assert (told.reason, str(told)) == (reason, "PostgreSQL: x")

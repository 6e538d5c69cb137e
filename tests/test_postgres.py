"""What only the PostgreSQL backend promises: a server that goes away and comes back, many
processes on one database, a pooler between, and a password that nobody sees."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psycopg
import pytest
from conftest import Api, Create
from postgres_server import OwnPostgres, Postgres, database_of, opened, server_on
from psycopg_pool import ConnectionPool
from support import (
    KEYS,
    LATEST,
    PATIENCE,
    drive,
    free_port,
    gunicorn_server,
    not_installed,
    receipt,
    soon,
    stored,
    wait_for,
)
from test_storage import race

from perfgate_server import Role, ServerConfig
from perfgate_server.storage import open_storage
from perfgate_server.storage import postgres as engine
from perfgate_server.storage.base import CannotOpen, Filters, Page, Unavailable


def test_the_server_works_on_it(url: str, tmp_path: Path) -> None:
    with server_on(url, tmp_path, "--workers", "2") as server:
        drive(server)
        assert server.stop() == 0
        assert "Traceback" not in server.log


# -- away and back


def test_a_lock_held_by_others_is_waited_for_until_the_deadline(url: str) -> None:
    storage = opened(url)
    storage.create(*stored(), deadline=soon())
    with psycopg.connect(url) as other:
        other.execute("LOCK TABLE baselines IN ACCESS EXCLUSIVE MODE")
        began = time.monotonic()
        calls: tuple[Callable[[], object], ...] = (
            lambda: storage.latest("p", "b", receipt=False, deadline=soon(0.5)),
            lambda: storage.history("p", "b", Page(limit=1), deadline=soon(0.5)),
            lambda: storage.ping(deadline=soon(0.5)),
        )
        for call in calls:
            with pytest.raises(Unavailable):
                call()
        assert time.monotonic() - began < 5
        other.rollback()
    assert storage.latest("p", "b", receipt=False, deadline=soon()).version == "v1"
    storage.close()


def test_a_statement_that_takes_too_long_is_ended_by_the_server(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it were only not waited for, it would go on, and nobody would want its answer."""
    monkeypatch.setattr(engine, "_GRACE", PATIENCE)  # however busy the machine is
    with contextlib.closing(opened(url)) as storage:
        with pytest.raises(Unavailable, match="statement timeout") as raised:
            with storage._engine.single(soon(0.5)) as session:
                session.execute("SELECT pg_sleep(4)")
        assert raised.value.reason == "busy"


def test_a_machine_that_died_keeps_no_lock_beyond_its_deadline(url: str) -> None:
    """The database asks a silent peer only after hours whether it is there still."""
    with contextlib.closing(opened(url)) as dead, contextlib.closing(opened(url)) as living:
        with pytest.raises(Unavailable), dead._engine.writing("p", "b", soon(0.5)):
            assert living.create(*stored(), deadline=soon())[1]
        assert living.latest("p", "b", receipt=False, deadline=soon()).version == "v1"


def rename(postgres: Postgres, *names: tuple[str, str]) -> None:
    for old, new in names:
        # A pool that has lost a connection makes another at any time.
        postgres.execute(f"ALTER DATABASE {old} ALLOW_CONNECTIONS false")
        postgres.disconnect(old)
        postgres.execute(f"ALTER DATABASE {old} RENAME TO {new}")
        postgres.execute(f"ALTER DATABASE {new} ALLOW_CONNECTIONS true")


def test_a_database_that_took_the_name_of_another_is_not_used(postgres: Postgres) -> None:
    """What was acknowledged would seem to be lost, and what comes now would be elsewhere."""
    with postgres.database() as url, postgres.database() as other:
        name, others = (database_of(each) for each in (url, other))
        with contextlib.closing(opened(url)) as storage:
            storage.create(*stored(), deadline=soon())
            opened(other).close()
            rename(postgres, (name, f"{name}_away"), (others, name))
            calls: tuple[Callable[[], object], ...] = (
                lambda: storage.ping(deadline=soon()),
                lambda: storage.create(*stored("b", "v2"), deadline=soon()),
                lambda: storage.latest("p", "b", receipt=False, deadline=soon()),
            )
            for call in calls:
                with pytest.raises(Unavailable, match="not the one that was opened"):
                    call()
            rename(postgres, (name, others), (f"{name}_away", name))
            assert storage.latest("p", "b", receipt=False, deadline=soon()).version == "v1"


def test_a_connection_that_led_elsewhere_is_not_kept(postgres: Postgres, url: str) -> None:
    """It would stay one, for an hour after the cause is gone."""
    name = database_of(url)
    with contextlib.closing(opened(url)) as storage:
        storage.ping(deadline=soon())
        postgres.execute(f"ALTER DATABASE {name} SET search_path = nowhere")
        postgres.disconnect(name)
        began = time.monotonic()
        with pytest.raises(Unavailable, match="does not exist"):
            storage.ping(deadline=soon())
        assert time.monotonic() - began < PATIENCE / 2  # it is told at once
        postgres.execute(f"ALTER DATABASE {name} RESET search_path")
        wait_for(lambda: _creates(storage), "a connection to the right place")


_KEY = "receipt_summaries_project_receipt_id_fkey"


@pytest.mark.parametrize(
    ("drop", "definition"),
    [
        (
            f"ALTER TABLE receipt_summaries DROP CONSTRAINT {_KEY}",
            "'ALTER TABLE receipt_summaries ADD ' || pg_get_constraintdef(oid)"
            f" FROM pg_constraint WHERE conname = '{_KEY}'",
        ),
        (
            "DROP TRIGGER verdicts_inserted ON verdicts",
            "pg_get_triggerdef(oid) FROM pg_trigger WHERE tgname = 'verdicts_inserted'",
        ),
        ("DROP INDEX baselines_by_version", "pg_get_indexdef('baselines_by_version'::regclass)"),
    ],
    ids=["foreign key", "trigger", "unique index"],
)
def test_a_database_is_not_used_before_it_is_restored_whole(
    postgres: Postgres, url: str, drop: str, definition: str
) -> None:
    """Records would come before those that are restored, and where their numbers are, or would not
    be counted. What is missing here comes last in a dump; in any order if several jobs restore."""
    name = database_of(url)
    with contextlib.closing(opened(url)) as storage:
        storage.create(*stored(), deadline=soon())
        again = postgres.execute(f"SELECT {definition}", name)[0][0]
        postgres.execute(drop, name)
        postgres.disconnect(name)
        with pytest.raises(Unavailable, match="whole"):
            storage.create(*stored("b", "v2"), deadline=soon())
        with pytest.raises(CannotOpen, match="restore"):
            opened(url)
        postgres.execute(again, name)
        assert storage.create(*stored("b", "v2"), deadline=soon())[1]


def test_a_restore_in_the_place_of_an_open_database_is_waited_for(
    postgres: Postgres, url: str
) -> None:
    """Its tables are others, and what is uploaded before their keys come would break it."""
    name = database_of(url)
    with contextlib.closing(open_storage("postgres", url, pool_size=1)) as storage:
        storage.create(*stored(), deadline=soon())
        postgres.execute("CREATE TABLE new (LIKE baselines INCLUDING ALL)", name)
        postgres.execute("DROP TABLE baselines CASCADE", name)
        postgres.execute("ALTER TABLE new RENAME TO baselines", name)
        with pytest.raises(Unavailable, match="not restored whole"):
            storage.create(*stored("b", "v2"), deadline=soon())


def test_a_server_goes_on_while_another_upgrades_its_database(postgres: Postgres, url: str) -> None:
    """It is the same one still, as new connections find it."""
    name = database_of(url)
    with contextlib.closing(opened(url)) as storage:
        storage.ping(deadline=soon())
        later = "VALUES (999, 'later', '2999-01-01T00:00:00+00:00')"
        postgres.execute(f"INSERT INTO perfgate_migrations {later}", name)
        assert postgres.disconnect(name)
        storage.ping(deadline=soon())


def test_a_url_may_name_the_application(url: str) -> None:
    for given, shown in (("", "perfgate-server"), ("?application_name=host-7", "host-7")):
        with contextlib.closing(opened(url + given)) as storage:
            with storage._engine.single(soon()) as session:
                assert session.execute("SHOW application_name").fetchone() == (shown,)


def test_connections_that_the_server_closed_are_replaced(postgres: Postgres, url: str) -> None:
    """A request after that sees nothing of it."""
    storage = opened(url)
    storage.create(*stored(), deadline=soon())
    for _ in range(3):
        assert postgres.disconnect(database_of(url))
        assert storage.latest("p", "b", receipt=True, deadline=soon()).receipt
    storage.close()


def test_a_commit_whose_answer_is_lost_promises_nothing(
    url: str, create: Create, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a 503 that does not say what became of it; a retry finds what was done."""
    execute = psycopg.Connection.execute

    def lossy(connection: Any, query: Any, *args: Any, **kwargs: Any) -> Any:
        cursor = execute(connection, query, *args, **kwargs)
        if query == "COMMIT":
            connection.close()
            raise psycopg.OperationalError("the connection is lost")
        return cursor

    config = ServerConfig(storage_type="postgres", database_url=url)
    api = Api(create(config.api_key(KEYS["admin"], Role.ADMIN)).test_client())
    with monkeypatch.context() as patch:
        patch.setattr(psycopg.Connection, "execute", lossy)
        answer = api.upload("b", "v1")
    assert (answer.status_code, answer.headers["Retry-After"]) == (503, "1")
    assert "changed" not in answer.json["error"]["message"]
    assert api.upload("b", "v1").status_code == 200


def test_those_who_wait_are_served_as_soon_as_the_database_is_back(
    own: OwnPostgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also if it was away for longer than the pool tries to connect, and nobody else asks."""

    monkeypatch.setattr(engine, "RECONNECT_TIMEOUT", 0.5)
    with own.database() as url, ThreadPoolExecutor(4) as threads:
        storage = opened(url)
        storage.create(*stored(), deadline=soon())
        own.stop(signal.SIGKILL)
        started = threading.Event()
        gave_up = threading.Event()
        reconnect_failed = ConnectionPool.reconnect_failed

        def noted(pool: Any) -> None:
            gave_up.set()
            reconnect_failed(pool)

        monkeypatch.setattr(ConnectionPool, "reconnect_failed", noted)

        def wait() -> float:
            storage.latest("p", "b", receipt=True, deadline=soon(PATIENCE))
            assert started.is_set()
            return time.monotonic()

        waiting = [threads.submit(wait) for _ in range(4)]
        assert gave_up.wait(PATIENCE)
        started.set()
        own.start()
        back = time.monotonic()
        assert all(one.result(PATIENCE) - back < PATIENCE / 3 for one in waiting)
        storage.close()


def test_a_session_that_may_only_read_is_not_used_again(postgres: Postgres, url: str) -> None:
    """It is of a server that became a standby, or of a time at which none could write."""
    storage = opened(url)
    name = database_of(url)
    postgres.execute(f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    with pytest.raises(Unavailable, match="read-only") as raised:
        storage.create(*stored(), deadline=soon())
    assert raised.value.reason == "read_only"
    postgres.execute(f"ALTER DATABASE {name} RESET default_transaction_read_only")
    wait_for(lambda: _creates(storage), "a session that may write")
    storage.close()


@pytest.mark.parametrize(
    ("given", "kept"),
    [("off", "on"), ("local", "on"), ("remote_write", "on"), ("remote_apply", "remote_apply")],
)
def test_a_commit_waits_for_the_disk_and_for_no_less_than_the_database_says(
    postgres: Postgres, url: str, given: str, kept: str
) -> None:
    name = database_of(url)
    postgres.execute(f"ALTER DATABASE {name} SET synchronous_commit = {given}")
    with contextlib.closing(opened(url)) as storage:
        with storage._engine.writing("p", "b", soon()) as db:
            assert db.execute("SHOW synchronous_commit").fetchone() == (kept,)


def test_what_a_server_says_counts_however_late_it_comes() -> None:
    """Or a commit that was answered would be taken for one that was not."""

    def ask() -> Generator[str, int, int]:
        return (yield "wait")

    def heard(ready: int) -> Any:
        connection: Any = SimpleNamespace(deadline=0.0, pgconn=SimpleNamespace(finish=list))
        waiting = engine._Connection._bounded(connection, ask())
        assert next(waiting) == "wait"
        return waiting.send(ready)

    with pytest.raises(StopIteration) as answered:
        heard(1)
    assert answered.value.value == 1
    with pytest.raises(psycopg.OperationalError, match="does not answer"):
        heard(0)


def test_a_server_that_hangs_is_given_up_at_the_deadline(own: OwnPostgres) -> None:
    with own.database() as url:
        storage = opened(url)
        storage.create(*stored(), deadline=soon())
        own.send(signal.SIGSTOP)
        try:
            for _ in range(2):
                began = time.monotonic()
                with pytest.raises(Unavailable) as raised:
                    storage.latest("p", "b", receipt=True, deadline=soon(0.5))
                assert raised.value.reason == "down"
                assert time.monotonic() - began < 5
        finally:
            own.send(signal.SIGCONT)
        wait_for(lambda: _found(storage), "an answer")
        storage.close()


def _creates(storage: Any) -> bool:
    try:
        return bool(storage.create(*stored(), deadline=soon())[1])
    except Unavailable:
        return False


def _found(storage: Any) -> bool:
    try:
        return bool(storage.latest("p", "b", receipt=True, deadline=soon(1)).receipt)
    except Unavailable:
        return False


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL], ids=["stopped", "killed"])
def test_the_database_goes_away_and_comes_back_under_load(
    own: OwnPostgres, tmp_path: Path, number: signal.Signals
) -> None:
    """503 meanwhile, no hang, no dead worker; health follows; no acknowledged upload is lost."""
    more = ("--timeout", "2", "--workers", "2")
    with own.database() as url, server_on(url, tmp_path, *more) as server:
        wait_for(lambda: len(server.workers()) == 2, "both workers")
        workers = server.workers()
        acknowledged: list[str] = []
        statuses: set[int] = set()
        done = threading.Event()

        def upload(thread: int) -> None:
            turn = 0
            while not done.is_set():
                turn += 1
                began = time.monotonic()
                status = server.put("b", f"v{thread}-{turn}")
                assert time.monotonic() - began < 15
                statuses.add(status)
                if status == 201:
                    acknowledged.append(f"v{thread}-{turn}")

        threads = [threading.Thread(target=upload, args=(thread,)) for thread in range(4)]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(acknowledged) > 20, "uploads")
        own.stop(number)
        wait_for(lambda: 503 in statuses, "a 503")
        status, headers, body = server.request("GET", "/health", role=None)
        assert (status, json.loads(body)["storage"]["reason"]) == (503, "down")
        _, headers, body = server.request("GET", LATEST)
        assert headers["retry-after"] == "1"
        assert json.loads(body)["error"]["details"] == {"reason": "down"}
        own.start()
        wait_for(lambda: server.request("GET", "/health", role=None)[0] == 200, "health")
        before = len(acknowledged)
        wait_for(lambda: len(acknowledged) > before + 20, "uploads again")
        done.set()
        for thread in threads:
            thread.join()
        assert statuses <= {201, 503}
        assert server.workers() == workers
        for version in acknowledged:
            status, _, body = server.request("GET", f"/projects/p/baselines/b/versions/{version}")
            assert status == 200 and json.loads(body)["receipt"] == receipt()
        assert "Traceback" not in server.log and "hunter2" not in server.log


def _idle_and_unheard(url: str) -> list[int]:
    """Return what the kernel was told of a connection."""
    with contextlib.closing(opened(url)) as storage, storage._engine.single(soon()) as session:
        descriptor = os.dup(session._connection.fileno())
        with socket.socket(fileno=descriptor) as connection:
            return [
                connection.getsockopt(socket.IPPROTO_TCP, option)
                for option in (socket.TCP_KEEPIDLE, socket.TCP_USER_TIMEOUT)
            ]


@pytest.mark.parametrize(
    ("more", "idle", "unheard"), [("", 10, 15000), ("?keepalives_idle=7&tcp_user_timeout=0", 7, 0)]
)
def test_a_connection_that_a_firewall_forgot_is_found_out(
    url: str, more: str, idle: int, unheard: int
) -> None:
    """Linux would look after two hours whether one that lies idle is there still."""
    assert _idle_and_unheard(url + more) == [idle, unheard]


def test_a_service_file_says_how_connections_are_kept(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the URL says wins over the file: so it must say nothing there."""
    (tmp_path / "services").write_text("[perfgate]\nkeepalives_idle=7\ntcp_user_timeout=0\n")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / "services"))
    assert _idle_and_unheard(f"{url}?service=perfgate") == [7, 0]
    monkeypatch.setenv("PGSERVICE", "perfgate")
    assert _idle_and_unheard(url) == [7, 0]


def test_places_are_reserved_behind_all_records_where_the_sequence_is_not(
    postgres: Postgres, url: str
) -> None:
    """As where the rows were copied, and the sequence was not."""
    with contextlib.closing(opened(url)) as storage:
        for version in ("v1", "v2", "v3"):
            storage.create(*stored("b", version), deadline=soon())
        name = database_of(url)
        begin_anew = "SELECT setval(pg_get_serial_sequence('baselines', 'seq'), 1, false)"
        postgres.execute(begin_anew, name)
        assert storage.reserve("baselines", 2, deadline=soon()) == 4
        storage.create(*stored("b", "v4"), deadline=soon())
        assert postgres.execute("SELECT max(seq) > 5 FROM baselines", name) == [(True,)]


def test_whoever_fails_gives_the_connection_back(url: str) -> None:
    with contextlib.closing(opened(url, pool_size=1)) as storage:
        for _ in range(2):
            with pytest.raises(ZeroDivisionError), storage._engine.writing("p", "b", soon()):
                raise ZeroDivisionError
        assert storage.create(*stored(), deadline=soon())[1]


def test_whoever_fails_gives_a_connection_back_that_is_lost_by_then(
    postgres: Postgres, url: str
) -> None:
    """And what is told is the failure: the answer to a conflict, not a 500."""
    with contextlib.closing(opened(url, pool_size=1)) as storage:
        with pytest.raises(ZeroDivisionError), storage._engine.writing("p", "b", soon()):
            assert postgres.disconnect(database_of(url))
            raise ZeroDivisionError
        storage.ping(deadline=soon(5))


def test_a_process_has_as_many_connections_as_it_is_to_have(url: str) -> None:
    with (
        contextlib.closing(opened(url, pool_size=6)) as storage,
        contextlib.ExitStack() as stack,
    ):
        for _ in range(6):
            stack.enter_context(storage._engine.single(soon()))
        with pytest.raises(Unavailable, match="no connection was free") as raised:
            storage.ping(deadline=soon(0.2))
        assert raised.value.reason == "busy"


def test_what_fails_before_a_transaction_gives_the_connection_back(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with contextlib.closing(opened(url, pool_size=1)) as storage:
        with monkeypatch.context() as patch:
            patch.setattr(type(storage._engine), "_recognize", lambda *_: 1 // 0)
            with pytest.raises(ZeroDivisionError):
                storage.ping(deadline=soon())
        storage.ping(deadline=soon(1))


def test_a_pool_that_is_closed_under_a_request_is_no_bug(url: str) -> None:
    """As where the process ends: the client may try again, elsewhere."""
    with contextlib.closing(opened(url, pool_size=1)) as storage:
        storage.ping(deadline=soon())
        storage._engine._pool.close()
        with pytest.raises(Unavailable, match="closed"):
            storage.ping(deadline=soon())


def test_no_record_takes_a_place_that_is_being_reserved(url: str) -> None:
    with contextlib.closing(opened(url)) as storage:
        with storage._engine.writing("p", "other", soon()) as session:
            session.reserve("baselines", 10)
            with pytest.raises(Unavailable):
                storage.create(*stored(), deadline=soon(0.2))
        assert storage.create(*stored(), deadline=soon())[1]


# -- several servers


def test_of_racing_writers_on_two_servers_one_wins(url: str, tmp_path: Path) -> None:
    with server_on(url, tmp_path) as one, server_on(url, tmp_path) as two:
        with ThreadPoolExecutor(8) as pool:
            for turn in range(5):
                barrier = threading.Barrier(8)

                def upload(number: int, turn: int = turn, barrier: Any = barrier) -> int:
                    barrier.wait()
                    server = (one, two)[number % 2]
                    return server.put("b", f"v{turn}", receipt(wall_ms=number))

                assert sorted(pool.map(upload, range(8))) == [201] + [409] * 7
            barrier = threading.Barrier(8)

            def promote(number: int) -> int:
                barrier.wait()
                body = {"from_version": f"v{number // 4}", "to_version": "prod"}
                path = "/projects/p/baselines/b/promote"
                return (one, two)[number % 2].request("POST", path, body)[0]

            assert sorted(pool.map(promote, range(8))) == [200] * 3 + [201] + [409] * 4
        listed = [json.loads(s.request("GET", "/projects/p/baselines")[2]) for s in (one, two)]
        assert listed[0] == listed[1] and listed[0]["pagination"]["total"] == 6


# -- through PgBouncer


PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@pytest.fixture
def bounced(own: OwnPostgres) -> Iterator[str]:
    """The URL of a fresh database through PgBouncer in transaction mode, with two connections
    for all: any state that a session kept would be somebody else's."""
    if PGBOUNCER is None:
        not_installed("PgBouncer (apt-get install pgbouncer)")
    port = free_port()
    with own.database() as url, tempfile.TemporaryDirectory(prefix="pgbouncer-") as folder:
        name = database_of(url)
        users, settings = Path(folder, "users"), Path(folder, "pgbouncer.ini")
        users.write_text('"perfgate" "hunter2"\n')
        settings.write_text(
            f"[databases]\n{name} = host=127.0.0.1 port={own.port}\n[pgbouncer]\n"
            f"listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\n"
            f"auth_type = scram-sha-256\nauth_file = {users}\npool_mode = transaction\n"
            f"default_pool_size = 2\nlogfile = {folder}/log\nstats_users = perfgate\n"
        )
        user = own._user
        for path in (Path(folder), users, settings):
            if user is not None:
                os.chown(path, user, -1)
        process = subprocess.Popen([PGBOUNCER, "-q", settings], user=user, cwd="/")
        try:
            bounced = f"postgresql://perfgate:hunter2@127.0.0.1:{port}/{name}"
            wait_for(lambda: _connects(bounced), "PgBouncer")
            yield bounced
        finally:
            process.terminate()
            process.wait(PATIENCE)


def _connects(url: str) -> bool:
    with contextlib.suppress(psycopg.Error):
        psycopg.connect(url, connect_timeout=2).close()
        return True
    return False


def test_it_works_through_a_pooler_in_transaction_mode(bounced: str, tmp_path: Path) -> None:
    with server_on(bounced, tmp_path, "--workers", "2", "--threads", "8") as server:
        drive(server)

        def work(number: int) -> list[int]:
            return [
                status
                for turn in range(10)
                for status in (
                    server.put("c", f"v{number}-{turn}"),
                    server.request("GET", "/projects/p/baselines/c/latest")[0],
                    server.request("GET", "/projects/p/baselines?include_receipt=1&limit=3")[0],
                )
            ]

        with ThreadPoolExecutor(12) as pool:
            for statuses in pool.map(work, range(12)):
                assert statuses == [201, 200, 200] * 10
        assert "Traceback" not in server.log


def test_behind_a_pooler_another_database_is_not_used_either(
    own: OwnPostgres, bounced: str
) -> None:
    """The connection to the pooler stays; what is behind it changes."""
    name = database_of(bounced)
    with contextlib.closing(open_storage("postgres", bounced, pool_size=1)) as storage:
        storage.create(*stored(), deadline=soon())
        rename(own, (name, f"{name}_away"))
        own.execute(f"CREATE DATABASE {name}")
        opened(own.at(name)).close()
        with pytest.raises(Unavailable, match="not the one that was opened"):
            storage.create(*stored(), deadline=soon())


def test_nothing_that_is_set_stays_in_a_session_of_the_pooler(
    own: OwnPostgres, bounced: str
) -> None:
    """The next transaction in it may be anybody's."""
    name = database_of(bounced)
    own.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")  # an upload turns it on
    own.disconnect(name)
    with contextlib.closing(opened(bounced)) as storage:
        storage.create(*stored(), deadline=soon())
        with contextlib.ExitStack() as stack:
            # At once, and so in both sessions that there are.
            found = [stack.enter_context(psycopg.connect(bounced)) for _ in range(2)]
            for name, value in (
                ("lock_timeout", "0"),
                ("statement_timeout", "0"),
                ("idle_in_transaction_session_timeout", "0"),
                ("synchronous_commit", "off"),
            ):
                shown = [one.execute(f"SHOW {name}".encode()).fetchone() for one in found]
                assert shown == [(value,)] * 2


def test_gunicorn_serves_it_too(url: str, tmp_path: Path) -> None:
    variables = {"PERFGATE_STORAGE_TYPE": "postgres", "PERFGATE_DATABASE_URL": url}
    with gunicorn_server(tmp_path, **variables) as server:
        drive(server)
        assert server.stop() == 0


def test_uploads_do_not_depend_on_the_database_s_isolation(postgres: Postgres, url: str) -> None:
    """Many at once in one project, of which some change the same total."""
    name = database_of(url)
    isolation = "default_transaction_isolation = 'repeatable read'"
    postgres.execute(f'ALTER DATABASE "{name}" SET {isolation}', name)
    with contextlib.closing(open_storage("postgres", url, pool_size=20)) as storage:

        def work(number: int) -> None:
            for turn in range(10):
                storage.create(*stored(f"b{number}", f"v{turn}"), deadline=soon())

        assert race(20, work) == [None] * 20
        assert storage.list("p", Filters(), Page(limit=0), deadline=soon()).total == 200


def test_what_is_written_knows_what_was_committed_while_it_waited(
    postgres: Postgres, url: str
) -> None:
    """Whatever the database's isolation; nor does it wait for another benchmark of the project, or
    for the same of another project."""
    name = database_of(url)
    isolation = "default_transaction_isolation = 'repeatable read'"
    postgres.execute(f'ALTER DATABASE "{name}" SET {isolation}', name)
    with contextlib.closing(opened(url)) as storage:
        with storage._engine.writing("p", "other", soon()) as session:
            storage.create(*stored(), deadline=soon())
            storage.create(*stored("other", "v1", "q"), deadline=soon())
            assert session.execute("SELECT count(*) FROM baselines").fetchone() == (2,)

"""A real PostgreSQL for the tests: the one that is named, or one of their own."""

from __future__ import annotations

import contextlib
import itertools
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from support import PATIENCE, Server, free_port, not_installed, perfgate_server, serving, wait_for

from perfgate_server.storage import open_storage

_END_SESSIONS = """SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = '{}' AND pid <> pg_backend_pid()"""


def database_of(url: str) -> str:
    """Return the name of a URL's database."""
    return urlsplit(url).path[1:]


class Postgres:
    """A server, and fresh databases on it."""

    def __init__(self, url: str) -> None:
        self._parts = urlsplit(url)
        self._numbers = itertools.count()

    def at(self, database: str) -> str:
        """Return the URL of one of the server's databases."""
        return self._parts._replace(path=f"/{database}").geturl()

    def execute(self, sql: str, database: str = "postgres") -> list[Any]:
        import psycopg

        with psycopg.connect(self.at(database), autocommit=True) as connection:
            cursor = connection.execute(sql.encode())
            return cursor.fetchall() if cursor.description else []

    @contextlib.contextmanager
    def database(self) -> Iterator[str]:
        """Make an empty database, yield its URL, and drop it."""
        name = f"perfgate_test_{os.getpid()}_{next(self._numbers)}"
        self.execute(f"CREATE DATABASE {name}")
        try:
            yield self.at(name)
        finally:
            # In two steps, as PostgreSQL 12 knows no DROP DATABASE … WITH (FORCE).
            self.disconnect(name)
            self.execute(f"DROP DATABASE IF EXISTS {name}")

    def disconnect(self, database: str) -> list[Any]:
        """End all sessions on a database; return a row for each."""
        return self.execute(_END_SESSIONS.format(database))

    def empty(self, database: str) -> None:
        """Make a database that has been used as good as new, over one connection."""
        drop = "DROP SCHEMA public CASCADE; CREATE SCHEMA public"
        self.execute(f"{_END_SESSIONS.format(database)}; {drop}", database)


class OwnPostgres(Postgres):
    """A server in a folder of its own, which can be stopped and killed."""

    def __init__(self, folder: Path, programs: Path, fsync: str = "on") -> None:
        self.port = free_port()
        self._fsync = fsync
        super().__init__(f"postgresql://perfgate:hunter2@127.0.0.1:{self.port}")
        self._folder, self._programs = folder, programs
        self._process: subprocess.Popen[bytes] | None = None
        # PostgreSQL refuses to run as root.
        self._user = pwd.getpwnam("postgres").pw_uid if os.geteuid() == 0 else None
        password = folder / "password"
        password.write_text("hunter2\n")
        if self._user is not None:
            for path in (folder, password):
                os.chown(path, self._user, -1)
        self._run(
            "initdb",
            "-D",
            folder / "data",
            "-U",
            "perfgate",
            "-A",
            "scram-sha-256",
            "--pwfile",
            password,
            "-E",
            "UTF8",
            "--no-sync",
            "--locale=C",
        )

    def _run(self, name: str, *arguments: Any) -> None:
        command = [self._programs / name, *arguments]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, user=self._user, cwd="/")

    def start(self) -> None:
        log = (self._folder / "log").open("ab")
        with log:
            self._process = subprocess.Popen(
                [
                    self._programs / "postgres",
                    "-D",
                    self._folder / "data",
                    "-p",
                    str(self.port),
                    "-c",
                    "listen_addresses=127.0.0.1",
                    "-c",
                    "unix_socket_directories=",
                    "-c",
                    "max_connections=200",
                    "-c",
                    f"fsync={self._fsync}",
                ],
                stderr=log,
                stdout=log,
                user=self._user,
                cwd="/",
                start_new_session=True,
            )
        wait_for(self._answers, f"PostgreSQL: {self._folder / 'log'}")

    def _answers(self) -> bool:
        import psycopg

        if self._process is None or self._process.poll() is not None:
            raise AssertionError(f"PostgreSQL ended: {(self._folder / 'log').read_text()}")
        with contextlib.suppress(psycopg.Error):
            return bool(self.execute("SELECT 1"))
        return False

    def send(self, number: int) -> None:
        """Send SIGSTOP, SIGCONT or SIGKILL to every process of the server."""
        assert self._process is not None
        # Stopped, it forks no process that would be missed here.
        self._process.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, self._process.pid, os.WSTOPPED | os.WEXITED | os.WNOWAIT)
        backends = self._backends()  # they are in sessions of their own
        os.killpg(self._process.pid, number)
        for pid in backends:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)

    def _backends(self) -> list[int]:
        assert self._process is not None
        children = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        return [int(pid) for pid in children.read_text().split()] if children.exists() else []

    def kill(self) -> None:
        """Kill every process of the server at once."""
        self.send(signal.SIGKILL)
        self.stop(signal.SIGKILL)

    def stop(self, number: int = signal.SIGINT) -> None:
        """Stop the server: SIGINT closes every connection, SIGKILL is a crash."""
        if self._process is not None:
            backends = self._backends()
            self._process.send_signal(number)
            self._process.wait(PATIENCE)
            self._process = None
            for pid in backends:
                wait_for(partial(_has_ended, pid), f"the end of {pid}")


def _has_ended(pid: int) -> bool:
    """Tell whether a process has; in a container, perhaps, nobody waits for orphans."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True


def programs() -> Path | None:
    """Return the folder of PostgreSQL's programs."""
    found = shutil.which("initdb")
    if found:
        return Path(found).parent
    folders = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return folders[-1].parent if folders else None


@contextlib.contextmanager
def own_postgres(fsync: str = "on") -> Iterator[OwnPostgres]:
    """Run a server of one's own, started."""
    found = programs()
    if found is None:
        not_installed("PostgreSQL (apt-get install postgresql; or set PERFGATE_TEST_POSTGRES_URL)")
    with tempfile.TemporaryDirectory(prefix="perfgate-postgres-") as folder:
        server = OwnPostgres(Path(folder), found, fsync)
        try:
            server.start()
            yield server
        finally:
            server.stop()


@contextlib.contextmanager
def running_postgres() -> Iterator[Postgres]:
    url = os.environ.get("PERFGATE_TEST_POSTGRES_URL")
    if url:
        yield Postgres(url)
    else:
        # Nobody kills it, and each test makes a database: in half of the time without waiting for
        # the disk.
        with own_postgres(fsync="off") as server:
            yield server


def server_on(
    url: str, folder: Path, *more: str, **options: Any
) -> contextlib.AbstractContextManager[Server]:
    arguments = perfgate_server("--storage-type", "postgres", "--database-url", url, *more)
    return serving(arguments, folder, **options)


def opened(url: str, pool_size: int = 4) -> Any:
    return open_storage("postgres", url, pool_size=pool_size)

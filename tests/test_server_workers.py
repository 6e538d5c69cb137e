"""The server's processes: how clients are shared out among them, and what signals do to them."""

from __future__ import annotations

import contextlib
import http.client
import os
import signal
import socket
import sqlite3
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import gunicorn.arbiter
import pytest
from support import (
    EVERY_KEY,
    LATEST,
    PATIENCE,
    ROOT,
    Server,
    environment,
    free_port,
    gunicorn_server,
    perfgate_server,
    program,
    serving,
    sqlite_server,
    wait_for,
)

from perfgate_server import arbiter as module
from perfgate_server.balance import _STUCK

# -- clients are shared out


def test_clients_that_come_at_once_are_shared_out(tmp_path: Path) -> None:
    """They keep their connections, and a worker has one core to serve its own with."""
    command = perfgate_server("--storage-type", "sqlite", "--workers", "2")
    with serving(command, tmp_path) as server:

        def come_at_once() -> list[int]:
            with contextlib.ExitStack() as clients:
                for _ in range(8):
                    address = ("127.0.0.1", server.port)
                    clients.enter_context(socket.create_connection(address))
                wait_for(lambda: sum(server.connections()) == 8, "eight connections")
                counts = server.connections()
            wait_for(lambda: not sum(server.connections()), "no connection")
            return counts

        # It is healthy as soon as one worker is.
        wait_for(lambda: sum(map(bool, come_at_once())) == 2, "two workers that take clients")
        most = [max(come_at_once()) for _ in range(12)]
        # First come, first served is 6 to 8.
        assert statistics.median(most) <= 5, most


def test_clients_that_are_all_with_one_worker_are_shared_out(tmp_path: Path) -> None:
    """As after the death of the other, or when they came before it was there: they keep their
    connections for ever."""
    command = perfgate_server("--storage-type", "sqlite", "--workers", "2")
    with serving(command, tmp_path) as server, contextlib.ExitStack() as stack:

        def ask(connection: http.client.HTTPConnection) -> int:
            connection.request("GET", "/health")
            answer = connection.getresponse()
            answer.read()
            return answer.status

        def keep_asking(connection: http.client.HTTPConnection) -> set[int]:
            statuses = set()
            while not done.is_set():
                statuses.add(ask(connection))
            return statuses

        clients = [
            stack.enter_context(
                contextlib.closing(
                    http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
                )
            )
            for _ in range(8)
        ]
        wait_for(lambda: server.connections() == [0, 0], "two workers without clients")
        other = server.workers()[1]
        os.kill(other, signal.SIGSTOP)
        # One after the other: of clients that ask at the same time the first worker would already
        # send some to the one that does not take them.
        assert [ask(client) for client in clients] == [200] * 8
        assert server.connections() == [8, 0]
        os.kill(other, signal.SIGCONT)
        done = threading.Event()
        with ThreadPoolExecutor(8) as threads:
            asking = [threads.submit(keep_asking, client) for client in clients]
            try:
                wait_for(lambda: max(server.connections()) <= 5, "as many clients of the other")
            finally:
                done.set()
        assert [one.result() for one in asking] == [{200}] * 8


@pytest.fixture
def cores() -> Iterator[list[int]]:
    """The cores of this process and of those that it starts: two, or the only one."""
    allowed = os.sched_getaffinity(0)
    few = sorted(allowed)[:2]
    try:
        os.sched_setaffinity(0, few)
    except OSError as error:
        pytest.skip(f"a process cannot choose its cores here: {error}")
    yield few
    os.sched_setaffinity(0, allowed)


def test_each_worker_keeps_to_a_core(tmp_path: Path, cores: list[int]) -> None:
    """The workers are spread over the cores that the server may use, and a new worker takes the
    core of the one that died."""
    command = perfgate_server("--storage-type", "sqlite", "--workers", str(len(cores)))
    with serving(command, tmp_path) as server:

        def spread() -> bool:
            try:
                taken = [core for pid in server.workers() for core in os.sched_getaffinity(pid)]
            except ProcessLookupError:
                return False
            return sorted(taken) == cores

        wait_for(spread, "a core for each worker")
        for _ in range(3):
            killed = server.workers()[0]
            os.kill(killed, signal.SIGKILL)
            wait_for(partial(lambda pid: pid not in server.workers(), killed), "the worker's end")
            wait_for(spread, "a new worker on the free core")


# -- stopping


def _launched(launch: str, folder: Path) -> contextlib.AbstractContextManager[Server]:
    """Run two workers on perfgate.db in `folder`."""
    if launch == "perfgate-server":
        return sqlite_server(folder, "--workers", "2")
    return gunicorn_server(folder, PERFGATE_WORKERS="2")


@pytest.mark.parametrize("launch", ["perfgate-server", "gunicorn"])
@pytest.mark.parametrize("group", [False, True], ids=["main", "group"])
@pytest.mark.parametrize(
    "number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=["TERM", "INT", "QUIT"]
)
def test_requests_in_flight_are_finished(
    tmp_path: Path, launch: str, number: signal.Signals, group: bool
) -> None:
    """Also when Ctrl-C on a terminal tells every process of the group at once."""
    with _launched(launch, tmp_path) as server:
        lock = sqlite3.connect(tmp_path / "perfgate.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor() as pool:
            uploads = [pool.submit(server.put, "b", f"v{n}") for n in range(2)]
            wait_for(lambda: sum(server.connections()) >= 2, "uploads waiting for the lock")
            if group:
                os.killpg(server.process.pid, number)
            else:
                server.process.send_signal(number)
            wait_for(lambda: not _accepts(server), "the end of listening")
            assert not any(upload.done() for upload in uploads)
            lock.rollback()
            assert [upload.result() for upload in uploads] == [201, 201]
        assert server.process.wait(PATIENCE) == 0
        assert len(server.lines("stopped")) == 1
        lock.close()


@pytest.mark.parametrize(
    "first", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT], ids=["TERM", "INT", "QUIT"]
)
def test_who_asks_again_with_ctrl_c_waits_no_longer(tmp_path: Path, first: signal.Signals) -> None:
    """A request in flight has two seconds more then."""
    with sqlite_server(tmp_path, "--workers", "1") as server, ThreadPoolExecutor() as pool:
        lock = sqlite3.connect(tmp_path / "perfgate.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        upload = pool.submit(server.put, "b", "v1")
        wait_for(lambda: sum(server.connections()) >= 1, "an upload waiting for the lock")
        server.process.send_signal(first)
        wait_for(lambda: not _accepts(server), "the end of listening")
        began = time.monotonic()
        server.process.send_signal(signal.SIGINT)
        assert server.process.wait(PATIENCE) == 0
        assert time.monotonic() - began < 10  # of 30 that the upload may wait
        assert isinstance(upload.exception(), ConnectionError)
        lock.close()


@pytest.mark.parametrize("stops", [1, 2])
def test_clients_that_had_connected_are_answered_at_a_stop(tmp_path: Path, stops: int) -> None:
    """Also those whom a worker without a free thread has not taken yet."""
    with (
        sqlite_server(tmp_path, "--workers", "1", "--threads", "1") as server,
        contextlib.ExitStack() as stack,
    ):
        lock = stack.enter_context(
            contextlib.closing(sqlite3.connect(tmp_path / "perfgate.db", isolation_level=None))
        )
        lock.execute("BEGIN IMMEDIATE")
        pool = stack.enter_context(ThreadPoolExecutor())
        upload = pool.submit(server.put, "b", "v1")
        wait_for(lambda: sum(server.connections()) >= 1, "an upload waiting for the lock")
        time.sleep(2 * _STUCK)  # from then on it leaves clients to others
        clients = []
        for _ in range(3):
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
            stack.enter_context(contextlib.closing(client))
            client.request("GET", "/health")
            clients.append(client)
        for _ in range(stops):
            server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not _accepts(server), "the end of listening")
        lock.rollback()
        assert [client.getresponse().status for client in clients] == [200] * 3
        assert upload.result() == 201
        assert server.process.wait(PATIENCE) == 0


_SLOW_START = """
import time
from gunicorn import util
from perfgate_server import ServerConfig, run_server
from perfgate_server.worker import Worker
prompt = {place}
{place} = lambda first: (time.sleep("master" not in str(first)), prompt(first))
"""
_EMBEDDED = 'run_server(ServerConfig(bind="127.0.0.1", port=0))'
_GUNICORN = """
import sys
from gunicorn.app.wsgiapp import run
sys.argv = ["gunicorn", "wsgi:app"]
run()
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGQUIT])
@pytest.mark.parametrize("program_text", [_EMBEDDED, _GUNICORN], ids=["embedded", "gunicorn"])
@pytest.mark.parametrize("place", ["util._setproctitle", "Worker.init_signals"])
def test_a_worker_that_is_still_starting_stops_too(
    tmp_path: Path, place: str, program_text: str, number: signal.Signals
) -> None:
    """It does not miss the signal, however young it is: gunicorn does the one first, as soon as a
    worker is forked, and the other last, before it serves."""
    database = str(tmp_path / "perfgate.db")
    variables = {"PERFGATE_API_KEYS": EVERY_KEY, "PERFGATE_DATABASE_URL": database}
    process = subprocess.Popen(
        [program("python"), "-c", _SLOW_START.format(place=place) + program_text],
        stderr=subprocess.DEVNULL,
        cwd=ROOT,
        env=environment(PERFGATE_PORT=str(free_port()), PERFGATE_WORKERS="1", **variables),
        start_new_session=True,
    )
    server = Server(process, 0, Path(os.devnull))
    try:
        wait_for(server.workers, "a worker")
        began = time.monotonic()
        process.send_signal(number)
        assert process.wait(PATIENCE) == 0
        assert time.monotonic() - began < 10  # of 35 in which a request may be finished
    finally:
        server.kill()


def test_workers_whose_main_process_was_killed_stop_at_once(tmp_path: Path) -> None:
    """The port is free for another server, and nobody waits in a queue that nobody serves."""
    with sqlite_server(tmp_path, "--workers", "2") as server:
        kept = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
        server.process.kill()
        began = time.monotonic()
        wait_for(lambda: not _accepts(server), "the end of listening")
        assert time.monotonic() - began < 10
        kept.close()


# -- other signals


def test_a_hangup_replaces_the_workers_and_says_what_it_does_not(tmp_path: Path) -> None:
    command = perfgate_server("--storage-type", "sqlite", "--workers", "2")
    with serving(command, tmp_path) as server:
        assert server.put("b", "v1") == 201
        wait_for(lambda: len(server.workers()) == 2, "both workers")  # one is healthy first
        before = set(server.workers())
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "keys and settings are read at start alone" in server.log, "the line")
        wait_for(lambda: server.workers() and not before & set(server.workers()), "new workers")
        wait_for(lambda: _accepts(server), "one that listens")
        assert server.put("b", "v2") == 201
        server.stop()


def test_a_stop_is_heard_while_the_workers_are_replaced(tmp_path: Path) -> None:
    """An old one that has a request in flight may take a while."""
    with sqlite_server(tmp_path, "--workers", "1") as server, ThreadPoolExecutor() as pool:
        lock = sqlite3.connect(tmp_path / "perfgate.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        upload = pool.submit(server.put, "b", "v1")
        wait_for(lambda: sum(server.connections()) >= 1, "an upload waiting for the lock")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: len(server.workers()) == 2, "a new worker")
        server.process.send_signal(signal.SIGTERM)
        wait_for(lambda: not _accepts(server), "the end of listening")
        assert not upload.done()
        lock.rollback()
        assert upload.result() == 201
        assert server.process.wait(PATIENCE) == 0
        lock.close()


def test_a_signal_adds_a_worker_and_another_takes_it_away(tmp_path: Path) -> None:
    """As gunicorn's documentation says of SIGTTIN and SIGTTOU."""
    with sqlite_server(tmp_path, "--workers", "1") as server:
        for number, count in ((signal.SIGTTIN, 2), (signal.SIGTTOU, 1)):
            server.process.send_signal(number)
            wait_for(partial(lambda n: len(server.workers()) == n, count), f"{count} workers")
        assert server.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_memory_that_is_gone_ends_the_server(tmp_path: Path, number: int) -> None:
    """Another worker would be an empty store, where a gate has nothing to compare with."""
    with serving(perfgate_server("--storage-type", "memory"), tmp_path) as server:
        os.kill(server.workers()[0], number)
        assert server.process.wait(PATIENCE) == 1
        assert "the process that held storage memory is gone, and all with it" in server.log


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGUSR2, signal.SIGINT])
def test_a_signal_to_all_processes_is_the_main_ones_alone(tmp_path: Path, number: int) -> None:
    """As a terminal that is closed sends it, and some service managers."""
    with sqlite_server(tmp_path, "--workers", "1") as server, ThreadPoolExecutor() as pool:
        lock = sqlite3.connect(tmp_path / "perfgate.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        upload = pool.submit(server.put, "b", "v1")
        wait_for(lambda: sum(server.connections()) >= 1, "an upload waiting for the lock")
        (worker,) = server.workers()
        os.kill(worker, number)
        os.killpg(server.process.pid, number)
        name = signal.Signals(number).name
        wait_for(lambda: f"{name}: " in server.log or not _accepts(server), "what comes of it")
        lock.rollback()
        lock.close()
        assert upload.result() == 201
        assert f"was sent {name}" not in server.log


def test_a_worker_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    """And ends no other: where memory is short the kernel may have killed one."""
    refusing = """
import errno, os
from perfgate_server import ServerConfig, run_server
forks, fork = [], os.fork
def refuse():
    forks.append(len(forks))
    if len(forks) == 3:
        raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
    return fork()
os.fork = refuse
run_server(ServerConfig.load())
"""
    command = [program("python"), "-c", refusing]
    port = free_port()
    variables: dict[str, Any] = {
        "PERFGATE_API_KEYS": EVERY_KEY,
        "PERFGATE_PORT": str(port),
        "PERFGATE_STORAGE_TYPE": "sqlite",
        "PERFGATE_WORKERS": "2",
    }
    with serving(command, tmp_path, port=port, **variables) as server:
        wait_for(lambda: len(server.workers()) == 2, "two workers")
        one, other = server.workers()
        os.kill(one, signal.SIGKILL)
        wait_for(lambda: "no worker can be started: " in server.log, "the line")
        wait_for(lambda: len(server.workers()) == 2, "another worker")
        assert other in server.workers() and server.put("b", "v1") == 201
        assert server.stop() == 0


def test_workers_that_stood_still_with_the_main_process_are_not_killed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A job is stopped and goes on, or a machine: all clocks have run on."""
    looks: list[float] = []
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(gunicorn.arbiter.Arbiter, "murder_workers", lambda _: looks.append(now))
    arbiter: Any = module.Arbiter.__new__(module.Arbiter)
    # It looks again for each signal, as of the children that go on, and not once a second alone.
    for now in (*range(100, 107), 111.0, 111.001, 112.0, 115.9, 116.0):  # noqa: B007  # the clock
        arbiter.murder_workers()
    assert looks == [105, 106, 116.0]


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTTIN", "SIGUSR2"])
def test_no_signal_loses_what_is_in_memory(tmp_path: Path, name: str) -> None:
    """Another process would have a memory of its own."""
    with serving(perfgate_server(), tmp_path) as server:
        assert server.put("b", "v1") == 201
        before = server.workers()
        server.process.send_signal(signal.Signals[name])
        wait_for(lambda: f"{name}: " in server.log, "the line")
        # It has done with that when it comes to the next.
        other = "SIGTTIN" if name == "SIGUSR2" else "SIGUSR2"
        server.process.send_signal(signal.Signals[other])
        wait_for(lambda: f"{other}: " in server.log, "the next line")
        assert [server.request("GET", LATEST)[0] for _ in range(20)] == [200] * 20
        assert server.workers() == before
        assert server.stop() == 0


def test_gunicorn_survives_a_hangup_whatever_its_keys_are_by_then(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(EVERY_KEY.replace(",", "\n"))
    variables = {"PERFGATE_API_KEYS": "", "PERFGATE_API_KEYS_FILE": str(keys)}
    with gunicorn_server(tmp_path, **variables) as server:
        before = set(server.workers())
        keys.write_text("nonsense")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.workers() and not before & set(server.workers()), "new workers")
        wait_for(lambda: _accepts(server), "one that listens")
        assert server.log.count("SIGHUP: keys and settings are read at start alone") == 1
        assert server.put("b", "v1") == 201
        assert server.stop() == 0


# -- what the kernel knows


def _accepts(server: Server) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
    except OSError:
        return False
    return True

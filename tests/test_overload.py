"""Clients of bad kinds: others still get their answers, and memory stays bounded."""

from __future__ import annotations

import contextlib
import http.client
import json
import math
import socket
import sqlite3
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from crowd import Crowd, drip_body, drip_chunks, drip_head, overload
from nginx_server import fronted
from support import PATIENCE, Server, bearer, key_line, perfgate_server, receipt, serving, wait_for

from perfgate_server.balance import _STUCK


def answers_within(server: Server, seconds: float) -> None:
    began = time.monotonic()
    assert server.request("GET", "/health", role=None)[0] == 200
    assert time.monotonic() - began < seconds


# -- without nginx: each holds what it gets only so long


def test_whoever_keeps_a_refused_connection_open_stalls_nobody(tmp_path: Path) -> None:
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(perfgate_server(), tmp_path))
        address = ("127.0.0.1", server.port)
        held = [stack.enter_context(socket.create_connection(address)) for _ in range(20)]
        for connection in held:
            connection.sendall(b"nonsense\r\n\r\n")
        answers_within(server, 2)
        for connection in held:
            connection.settimeout(PATIENCE)
            assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
            assert connection.recv(65536) == b""
        # The server has closed its side, and keeps the rest of them for a moment only.
        wait_for(lambda: sum(server.connections()) == 0, "the end of the connections")


def test_whoever_resets_a_refused_connection_ends_no_worker(tmp_path: Path) -> None:
    with serving(perfgate_server(), tmp_path) as server:
        workers = server.workers()
        with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
            connection.sendall(b"nonsense\r\n\r\n")
            assert connection.recv(65536).startswith(b"HTTP/1.1 400 ")
            # Closed now, it is reset.
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        wait_for(lambda: sum(server.connections()) == 0, "the end of the connection")
        answers_within(server, 5)
        assert server.workers() == workers and "Traceback" not in server.log


@pytest.mark.parametrize("kind", [drip_head, drip_body, drip_chunks])
def test_a_byte_now_and_then_buys_no_time(tmp_path: Path, kind: Any) -> None:
    """As many clients as threads, each sending on and on: --timeout bounds them all."""
    arguments = perfgate_server("--threads", "2", "--timeout", "1")
    with (
        serving(arguments, tmp_path) as server,
        Crowd(server.port, 2, [kind], pause=0.2, again=60) as crowd,
    ):
        wait_for(lambda: sum(server.connections()) + crowd.shut_out.total() >= 2, "both of them")
        answers_within(server, 5)
        wait_for(lambda: crowd.shut_out.total() == 2, "the end of both")
        assert "Traceback" not in server.log


def test_whoever_asks_for_much_and_takes_little_holds_no_thread_for_long(tmp_path: Path) -> None:
    arguments = perfgate_server("--threads", "2", "--timeout", "1")
    big = receipt(samples=[{"wall_ms": 1, "exit_code": 0, "stdout": "x" * 4_000_000}])
    with serving(arguments, tmp_path) as server, contextlib.ExitStack() as stack:
        for number in range(4):
            assert server.put("big", f"v{number}", big) == 201
        begun, done = threading.Barrier(3), threading.Event()
        for _ in range(2):
            slow = threading.Thread(target=sip, args=(server, begun, done))
            slow.start()
            stack.callback(slow.join)
        stack.callback(done.set)
        begun.wait(PATIENCE)
        answers_within(server, 8)
        assert "Traceback" not in server.log


def sip(server: Server, begun: threading.Barrier, done: threading.Event) -> None:
    """Ask for some 16 MB, and take a few bytes of it now and then."""
    with socket.socket() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", server.port))
        path = "/projects/p/baselines?include_receipt=true"
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\n{key_line()}\r\n".encode())
        connection.recv(100)
        begun.wait(PATIENCE)
        with contextlib.suppress(OSError):
            while connection.recv(100) and not done.wait(0.1):
                pass


def test_a_worker_without_a_free_thread_leaves_new_clients_to_the_others(tmp_path: Path) -> None:
    """Three of four threads wait for bodies: everybody else finds the fourth."""
    arguments = perfgate_server("--storage-type", "sqlite", "--workers", "2", "--threads", "2")
    head = f"POST /projects/p/baselines HTTP/1.1\r\nHost: x\r\n{key_line()}"
    head += "Content-Type: application/json\r\nContent-Length: 100\r\n\r\n"
    with serving(arguments, tmp_path) as server, contextlib.ExitStack() as slow:
        for _ in range(3):
            address = ("127.0.0.1", server.port)
            connection = slow.enter_context(socket.create_connection(address))
            connection.sendall(head.encode())
        wait_for(lambda: sum(server.connections()) == 3, "all of them")
        time.sleep(2 * _STUCK)  # stuck is who has finished nothing for a while
        began = time.monotonic()
        for _ in range(50):
            assert server.request("GET", "/health", role=None)[0] == 200
        assert time.monotonic() - began < 10  # one that is not, waits for --timeout, 30 s


def test_where_all_threads_are_busy_a_new_client_still_gets_its_turn(tmp_path: Path) -> None:
    """Others keep their connections, and never let a thread rest."""
    arguments = perfgate_server("--storage-type", "sqlite", "--workers", "2", "--threads", "1")
    done = threading.Event()

    def ask(server: Server) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
        while not done.is_set():
            connection.request("GET", "/health")
            assert connection.getresponse().read()
        connection.close()

    with serving(arguments, tmp_path) as server:
        others = [threading.Thread(target=ask, args=(server,)) for _ in range(12)]
        for thread in others:
            thread.start()
        began = time.monotonic()
        answers = [server.request("GET", "/health", role=None)[0] for _ in range(10)]
        took = time.monotonic() - began
        done.set()
        for thread in others:
            thread.join()
        assert answers == [200] * 10
        assert took < 10


def test_a_slow_upload_that_comes_on_is_taken(tmp_path: Path) -> None:
    """One that takes longer than --timeout, but brings what a slow line brings meanwhile; and the
    storage has its time for it all the same."""
    body = json.dumps(receipt(pad="x" * 1_500_000)).encode()
    head = b"PUT /projects/p/baselines/b/versions/v HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
    arguments = perfgate_server("--timeout", "1", "--storage-type", "sqlite")
    with serving(arguments, tmp_path) as server:
        with (
            socket.create_connection(("127.0.0.1", server.port), timeout=20) as slow,
            contextlib.closing(
                sqlite3.connect(tmp_path / "perfgate.db", isolation_level=None)
            ) as db,
        ):
            db.execute("BEGIN IMMEDIATE")
            slow.sendall(head + f"{key_line()}Content-Length: {len(body)}\r\n\r\n".encode())
            for start in range(0, len(body), 150_000):
                time.sleep(0.2)
                slow.sendall(body[start : start + 150_000])
            db.execute("ROLLBACK")
            assert slow.recv(65536).startswith(b"HTTP/1.1 201 ")


@contextlib.contextmanager
def silent(server: Server, count: int) -> Iterator[list[socket.socket]]:
    """Connections that never say anything."""
    with contextlib.ExitStack() as stack:
        address = ("127.0.0.1", server.port)
        yield [stack.enter_context(socket.create_connection(address)) for _ in range(count)]


def test_clients_beyond_the_open_files_wait_and_end_no_worker(tmp_path: Path) -> None:
    """A worker without a descriptor for the next one died, and all it was doing with it."""
    limited = ["sh", "-c", 'ulimit -n 120 && exec "$@"', "sh", *perfgate_server()]
    with serving(limited, tmp_path) as server:
        (worker,) = server.workers()
        with silent(server, 150):
            wait_for(lambda: sum(server.connections()) >= 40, "as many as there is room for")
        assert server.request("GET", "/health", role=None)[0] == 200
        assert server.workers() == [worker]
        assert "Traceback" not in server.log


def test_clients_that_are_kept_make_room_for_the_next(tmp_path: Path) -> None:
    """Or as many as there is room for would keep everybody else out until they go."""
    limited = ["sh", "-c", 'ulimit -n 120 && exec "$@"', "sh", *perfgate_server()]
    with serving(limited, tmp_path) as server, contextlib.ExitStack() as stack:
        began = time.monotonic()
        for _ in range(60):
            client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
            stack.callback(client.close)
            client.request("GET", "/health")
            assert client.getresponse().read()
        assert time.monotonic() - began < 15


def test_a_limit_that_leaves_room_for_few_clients_is_told_of(tmp_path: Path) -> None:
    for limit, is_told in ((81, True), (200, False)):
        limited = ["sh", "-c", f'ulimit -n {limit} && exec "$@"', "sh", *perfgate_server()]
        with serving(limited, tmp_path) as server:
            assert ("leaves room for 1 clients" in server.log) is is_told
            server.stop()


def test_a_worker_has_all_the_open_files_it_may(tmp_path: Path) -> None:
    limited = ["sh", "-c", 'ulimit -S -n 120 && exec "$@"', "sh", *perfgate_server()]
    with serving(limited, tmp_path) as server, silent(server, 150):
        wait_for(lambda: sum(server.connections()) == 150, "all of them")


@pytest.mark.parametrize(
    "framing",
    [
        "Content-Length: 1",
        "Content-Length: 65536",
        "Content-Length: 200000000",
        "Transfer-Encoding: chunked",
    ],
)
def test_who_is_refused_before_the_body_holds_no_thread_for_it(
    tmp_path: Path, framing: str
) -> None:
    """And is told that the connection is closed."""
    head = f"PUT /projects/p/baselines/b/versions/v HTTP/1.1\r\nHost: x\r\n{framing}"
    with (
        serving(perfgate_server("--threads", "1"), tmp_path) as server,
        socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client,
    ):
        began = time.monotonic()
        client.sendall(f"{head}\r\n\r\n".encode())
        answer = client.recv(65536)
        assert answer.startswith(b"HTTP/1.1 401 ") and b"\r\nConnection: close\r\n" in answer
        answers_within(server, 4)
        assert time.monotonic() - began < 4  # of 5


def test_a_connection_is_kept_where_little_was_unread(tmp_path: Path) -> None:
    with serving(perfgate_server(), tmp_path) as server:
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        with contextlib.closing(client):
            client.connect()
            for size in (0, 20_000, 0):
                # At once, so that all of it is there when it is answered.
                head = "PUT /projects/p/baselines/b/versions/v HTTP/1.1\r\nHost: x\r\n"
                head += f"Content-Length: {size}\r\n\r\n"
                client.sock.sendall(head.encode() + b"x" * size)
                answer = http.client.HTTPResponse(client.sock)
                answer.begin()
                answer.read()
                assert (answer.status, answer.getheader("Connection")) == (401, "keep-alive")
            body = [json.dumps(receipt()).encode()]  # sent chunked, and read to its end
            path, key = "/projects/p/baselines/b/versions/v", bearer("admin")
            client.request("PUT", path, iter(body), key, encode_chunked=True)
            answer = client.getresponse()
            answer.read()
            assert (answer.status, answer.getheader("Connection")) == (201, "keep-alive")


def test_who_says_nothing_is_closed_in_time(tmp_path: Path) -> None:
    with serving(perfgate_server("--timeout", "1"), tmp_path) as server, silent(server, 3) as all_:
        for one in all_:
            one.settimeout(PATIENCE)
            assert one.recv(1) == b""


def test_who_says_nothing_does_not_delay_a_stop(tmp_path: Path) -> None:
    """Neither those who never did, nor one that is kept."""
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(serving(perfgate_server(), tmp_path))
        stack.enter_context(silent(server, 3))
        client = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
        stack.enter_context(contextlib.closing(client))
        client.request("GET", "/health")
        assert client.getresponse().read()
        wait_for(lambda: sum(server.connections()) == 4, "all of them")
        began = time.monotonic()
        assert server.stop() == 0
        assert time.monotonic() - began < 15  # of 30, and 5 more


# -- behind nginx


def test_behind_nginx_honest_clients_do_not_notice(tmp_path: Path) -> None:
    """A short form of benchmarks/overload.py."""
    arguments = perfgate_server("--storage-type", "sqlite", "--workers", "2", "--threads", "2")
    with (
        serving([*arguments, "--trusted-proxies", "1", "--timeout", "5"], tmp_path) as server,
        fronted(tmp_path, server) as front,
    ):
        found = overload(front, server, connections=70, clients=4, turns=15, seconds=math.inf)
        assert not found.honest.failures
        assert len(found.honest.seconds) == 4 * 15 * 3
        assert found.peak_bytes < 400 * 2**20
        assert "Traceback" not in server.log

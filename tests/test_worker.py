"""Which worker takes a new connection, and which gives one away: the loop of one, and what it knows
of the others."""

from __future__ import annotations

import contextlib
import errno
import selectors
import socket
import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.http import errors as http
from gunicorn.workers.gthread import ThreadWorker

from perfgate_server import ServerConfig
from perfgate_server import worker as module
from perfgate_server.server import gunicorn_settings
from perfgate_server.worker import NOBODY, Worker, load_of


def test_a_worker_takes_the_first_place_that_is_free_if_there_is_one() -> None:
    """There may be more workers than places; and a dead one's place is nobody's."""
    settings = gunicorn_settings(ServerConfig())
    others = {pid: SimpleNamespace(place=pid, core=None) for pid in range(len(load_of))}
    new: Any = SimpleNamespace(place=0, core=None)
    settings["pre_fork"](SimpleNamespace(WORKERS=others), new)
    assert new.place is None
    settings["child_exit"](None, new)
    for place in (7, 0):
        load_of[place] = 3
        settings["child_exit"](None, others.pop(place))
        assert load_of[place] == NOBODY
        settings["pre_fork"](SimpleNamespace(WORKERS=others), new)
        assert new.place == place


def test_two_servers_do_not_begin_with_the_same_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of one worker: the other cores would idle."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    new: Any = SimpleNamespace(place=None, core=None)
    chosen = set()
    for _ in range(20):
        gunicorn_settings(ServerConfig())["pre_fork"](SimpleNamespace(WORKERS={}), new)
        chosen.add(new.core)
    assert len(chosen) > 1


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


@pytest.fixture
def worker(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A worker that keeps the connections which it takes in a list."""
    made: Any = Worker.__new__(Worker)
    made.place, made.core, made.cfg = 0, None, SimpleNamespace(threads=4)
    made.lingering, made.requests, made.finished_at = [], 0, 0.0
    made.nr_conns = 0
    made.counting, made.taken = threading.Lock(), []
    made.poller = selectors.DefaultSelector()
    made.poller.register(listener, selectors.EVENT_READ, made.accept)

    def accept(self: Any, listener: socket.socket) -> None:
        self.taken.append(listener.accept()[0])
        self.nr_conns += 1

    monkeypatch.setattr(ThreadWorker, "accept", accept)
    yield made
    for connection in made.taken:
        connection.close()
    made.poller.close()
    load_of[:] = bytes([NOBODY]) * len(load_of)


def has(worker: Any, clients: int, *others: int) -> None:
    """Let the worker have that many clients, and each of the others."""
    worker.nr_conns = clients
    worker._count(0)
    load_of[1 : 1 + len(others)] = bytes(others)


def passes(worker: Any, listener: socket.socket, most: int = 1000) -> int:
    """Return how many passes of the loop it takes until a new client is taken."""
    before = len(worker.taken)
    with socket.create_connection(listener.getsockname()):
        for number in range(1, most + 1):
            worker.wait_for_and_dispatch_events(1.0)
            if len(worker.taken) > before:
                return number
    return most + 1


@pytest.mark.parametrize(
    ("clients", "others"),
    [(0, []), (3, [3]), (3, [4, 9]), (3, [module._BUSY]), (300, []), (300, [253])],
)
def test_a_client_is_taken_at_once_where_no_other_worker_has_fewer(
    worker: Any, listener: socket.socket, clients: int, others: list[int]
) -> None:
    has(worker, clients, *others)
    assert passes(worker, listener) == 1


def test_a_worker_with_fewer_clients_goes_first(
    worker: Any, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_TURN", 0.05)  # on a busy machine one look may take a turn
    has(worker, 3, 2)
    assert 2 < passes(worker, listener) < 1000
    # The next one too, also after one that the other has taken.
    has(worker, 3, 2)
    with socket.create_connection(listener.getsockname()):
        worker.wait_for_and_dispatch_events(1.0)
        listener.accept()[0].close()
    worker.wait_for_and_dispatch_events(2 * module._TURN)
    assert 2 < passes(worker, listener) < 1000


def test_it_has_one_turn_however_late_the_other_looks(
    worker: Any, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads of a busy worker keep its loop from the interpreter."""
    monkeypatch.setattr(module, "_GLANCE", 5 * module._TURN)
    has(worker, 3, 2)
    assert passes(worker, listener, 20) == 2


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EPERM])
def test_a_client_that_cannot_be_taken_ends_no_worker(
    worker: Any, listener: socket.socket, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """Of the whole system there may be no descriptor, whatever this worker keeps free; and a
    finished request is no sign that there is one again."""

    def accept(self: Any, listener: socket.socket) -> None:
        raise OSError(number, "none")

    monkeypatch.setattr(ThreadWorker, "accept", accept)
    worker.sockets, worker.alive, worker._accepting = [listener], True, True
    with socket.create_connection(listener.getsockname()):
        worker.wait_for_and_dispatch_events(1.0)
    assert not worker._accepting
    worker.set_accept_enabled(True)
    assert not worker._accepting  # for a while
    monkeypatch.setattr(ThreadWorker, "finish_request", lambda *_: None)
    worker.finish_request(None, SimpleNamespace(cancelled=lambda: True))
    worker.set_accept_enabled(True)
    assert not worker._accepting


def test_a_client_that_has_its_answer_and_is_being_closed_counts_no_longer(
    worker: Any, listener: socket.socket
) -> None:
    worker.lingering = ["one", "another"]
    has(worker, 3, 2)
    assert passes(worker, listener) == 1


def test_a_client_that_is_gone_when_it_is_closed_is_counted_no_longer(worker: Any) -> None:
    def shutdown(how: int) -> None:
        raise OSError(errno.ENOTCONN, "reset")

    closed: list[bool] = []
    sock = SimpleNamespace(setblocking=lambda blocks: None, shutdown=shutdown)
    has(worker, 1)
    worker._linger(SimpleNamespace(sock=sock, close=lambda: closed.append(True)))
    assert (worker.nr_conns, worker.lingering, closed) == (0, [], [True])


@pytest.mark.parametrize(
    ("clients", "requests", "others", "gives"),
    [
        (2, 2, [0], True),
        (8, 8, [0], True),  # all of its threads are busy, and more wait for one
        (8, 4, [7, 6], True),
        (2, 1, [0], False),  # nobody waits for anybody
        (2, 2, [1], False),  # the other would have more then
        (8, 8, [7], False),
        (8, 8, [module._BUSY], False),
        (8, 8, [], False),
        (300, 8, [module._BUSY], False),
    ],
)
def test_a_client_is_given_to_a_worker_with_fewer(
    worker: Any, clients: int, requests: int, others: list[int], gives: bool
) -> None:
    worker.requests = requests
    has(worker, clients, *others)
    assert worker._has_too_many() is gives


@pytest.mark.parametrize(
    ("others", "is_stuck", "stands_back"),
    [
        ([], False, False),
        ([module._BUSY], False, False),
        ([2], False, True),
        ([module._BUSY], True, True),
        ([], True, True),
    ],
)
def test_a_worker_without_a_free_thread_leaves_a_client_for_a_while(
    worker: Any,
    listener: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    others: list[int],
    is_stuck: bool,
    stands_back: bool,
) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    worker.sockets, worker.alive, worker._accepting = [listener], True, True
    worker.requests = 4
    has(worker, 4, *others)
    worker.finished_at = now - (module._STUCK + 1 if is_stuck else 0)
    assert worker._stands_back() is stands_back
    assert worker._accepting is not stands_back
    assert not worker._gives_way()
    worker.set_accept_enabled(True)
    assert worker._accepting is not stands_back
    now += module._COURTESY
    worker.set_accept_enabled(True)
    assert worker._accepting


def test_a_finished_request_is_noted_and_ends_the_standing_back(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThreadWorker, "finish_request", lambda *_: None)
    monkeypatch.setattr(module.time, "monotonic", lambda: 100.0)
    worker.standing_back_until = 200.0
    worker.finish_request(None, SimpleNamespace(cancelled=lambda: True))
    assert (worker.finished_at, worker.standing_back_until) == (100.0, 0.0)


def test_a_worker_that_stops_is_counted_on_by_nobody(worker: Any, listener: socket.socket) -> None:
    has(worker, 3)
    worker.sockets, worker.alive, worker._accepting = [listener], False, True
    worker.worker_connections = 1000
    worker.set_accept_enabled(False)
    assert load_of[0] == NOBODY and listener.fileno() == -1


def test_a_worker_that_stops_takes_whom_it_has_room_for(
    worker: Any, listener: socket.socket
) -> None:
    """And no more: each takes a descriptor."""
    worker.sockets, worker.alive, worker._accepting = [listener], False, True
    worker.worker_connections = 2
    with contextlib.ExitStack() as stack:
        for _ in range(3):
            stack.enter_context(socket.create_connection(listener.getsockname()))
        worker.set_accept_enabled(False)
        assert len(worker.taken) == 2


def test_a_worker_without_its_main_process_stops_as_if_told_to(worker: Any) -> None:
    worker.alive, worker.ppid, worker.log = True, -1, SimpleNamespace(info=lambda *_: None)
    assert not worker.is_parent_alive() and not worker.alive


@pytest.mark.parametrize(
    ("error", "status", "level"),
    [
        (http.ConfigurationProblem("SCRIPT_NAME"), 500, "ERROR"),
        (http.InvalidResponseHeaderName("x"), 500, "ERROR"),
        (RuntimeError("a bug"), 500, "ERROR"),
        (http.InvalidHeaderName("x"), 400, "INFO"),
        (http.LimitRequestLine(9, 8), 414, "INFO"),
    ],
    ids=range(5),
)
@pytest.mark.parametrize(
    ("address", "client"), [(("127.0.0.1", 1), "127.0.0.1"), ("", None)], ids=["tcp", "unix"]
)
def test_whose_fault_it_is_shows_in_status_and_log(
    worker: Any,
    caplog: pytest.LogCaptureFixture,
    error: Exception,
    status: int,
    level: str,
    address: Any,
    client: str | None,
) -> None:
    settings = SimpleNamespace(no_cors=False)
    worker.wsgi = SimpleNamespace(extensions={"perfgate": SimpleNamespace(config=settings)})
    here, there = socket.socketpair()
    with here, there, caplog.at_level("INFO", "perfgate_server"):
        worker.handle_error(None, here, address, error)
        answer = there.recv(65536)
    assert answer.startswith(f"HTTP/1.1 {status} ".encode())
    head, _, body = answer.partition(b"\r\n\r\n")
    assert {b"Connection: close", b"Content-Length: %d" % len(body)} < {*head.split(b"\r\n")}
    [line] = caplog.records
    assert (line.levelname, bool(line.exc_info)) == (level, level == "ERROR")
    assert line.__dict__["client"] == client


def test_clients_are_given_away_one_at_a_time(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    worker.requests = 4
    has(worker, 8, 0)
    assert worker._has_too_many() and not worker._has_too_many()
    now += module._PACE
    assert worker._has_too_many() and not worker._has_too_many()
    now += module._PACE
    worker._leave_place()  # as it stops
    assert not worker._has_too_many()

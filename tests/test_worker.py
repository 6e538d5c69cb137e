"""Which worker takes a new connection, and which gives one away: the loop of one, and what it knows
of the others."""

from __future__ import annotations

import collections
import contextlib
import errno
import io
import os
import runpy
import selectors
import signal
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.sock import TCPSocket
from gunicorn.workers.gthread import ThreadWorker

from perfgate_server import ServerConfig, arbiter, balance
from perfgate_server import worker as module
from perfgate_server.balance import NOBODY, Balance, load_of
from perfgate_server.clients import Client
from perfgate_server.server import gunicorn_settings
from perfgate_server.worker import OWN_SIGNALS, Worker


def test_a_worker_takes_the_first_slot_that_is_free_if_there_is_one() -> None:
    """There may be more workers than slots; and a dead one's slot is nobody's."""
    settings = gunicorn_settings(ServerConfig())
    others = {pid: SimpleNamespace(slot=pid, core=None) for pid in range(len(load_of))}
    new: Any = SimpleNamespace(slot=0, core=None)
    settings["pre_fork"](SimpleNamespace(WORKERS=others), new)
    assert new.slot is None
    settings["child_exit"](None, new)
    for slot in (7, 0):
        load_of[slot] = 3
        settings["child_exit"](None, others.pop(slot))
        assert load_of[slot] == NOBODY
        settings["pre_fork"](SimpleNamespace(WORKERS=others), new)
        assert new.slot == slot


def test_in_no_slot_is_a_worker_before_one_has_it() -> None:
    """Else each would give its clients away, to nobody."""
    assert set(runpy.run_path(balance.__file__)["load_of"][:]) == {NOBODY}


def test_two_servers_do_not_begin_with_the_same_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of one worker: the other cores would idle."""
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(64)), raising=False)
    new: Any = SimpleNamespace(slot=None, core=None)
    chosen = set()
    for _ in range(20):
        gunicorn_settings(ServerConfig())["pre_fork"](SimpleNamespace(WORKERS={}), new)
        chosen.add(new.core)
    assert len(chosen) > 1


def test_what_a_program_had_blocked_is_blocked_after_a_worker_was_started() -> None:
    """And what was not is heard again."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
    try:
        arbiter.before_fork(SimpleNamespace(WORKERS={}), Worker.__new__(Worker))
        assert OWN_SIGNALS <= signal.pthread_sigmask(signal.SIG_BLOCK, ())
        arbiter._after_fork()
        assert signal.pthread_sigmask(signal.SIG_BLOCK, ()) == before | {signal.SIGHUP}
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.setblocking(False)
        yield made


@pytest.fixture
def worker(listener: socket.socket, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """A worker that keeps the connections which it takes in a list."""
    made: Any = Worker.__new__(Worker)
    made.slot, made.core, made.cfg = 0, None, SimpleNamespace(threads=4)
    made.lingering, made.nr_conns, made.alive = [], 0, True
    made.keepalived_conns, made.pending_conns = collections.deque(), collections.deque()
    made.balance, made.taken = Balance(0, 4, made._clients), []
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
    worker.balance._count(0)
    load_of[1 : 1 + len(others)] = bytes(others)


def stop(worker: Any) -> None:
    """Do what gunicorn does when its loop has ended."""
    worker.set_accept_enabled(False)
    worker._cap_keepalive(0.0)


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
    [(0, []), (3, [3]), (3, [4, 9]), (3, [balance._BUSY]), (300, []), (300, [253])],
)
def test_a_client_is_taken_at_once_where_no_other_worker_has_fewer(
    worker: Any, listener: socket.socket, clients: int, others: list[int]
) -> None:
    has(worker, clients, *others)
    assert passes(worker, listener) == 1


def test_a_worker_with_fewer_clients_goes_first(
    worker: Any, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(balance, "_TURN", 0.05)  # on a busy machine one look may take a turn
    has(worker, 3, 2)
    assert 2 < passes(worker, listener) < 1000
    # The next one too, also after one that the other has taken.
    has(worker, 3, 2)
    with socket.create_connection(listener.getsockname()):
        worker.wait_for_and_dispatch_events(1.0)
        listener.accept()[0].close()
    worker.wait_for_and_dispatch_events(2 * balance._TURN)
    assert 2 < passes(worker, listener) < 1000


def test_the_others_see_how_many_clients_a_worker_has(worker: Any, listener: socket.socket) -> None:
    """Those whose answers are only to be read by them are its clients no more."""
    has(worker, 0)
    for number in range(1, 4):
        passes(worker, listener)
        assert load_of[0] == number
    worker.lingering = [None]
    worker.wait_for_and_dispatch_events(0)
    assert load_of[0] == 2
    worker.balance._count(3)
    assert load_of[0] == 2
    worker.balance._count(1)
    assert load_of[0] == balance._BUSY


def test_a_worker_without_a_slot_takes_clients_and_is_seen_by_none(
    worker: Any, listener: socket.socket
) -> None:
    """There are more workers than slots."""
    worker.balance = Balance(None, 4, worker._clients)
    load_of[0], load_of[1] = NOBODY, 0
    assert passes(worker, listener) == 1
    worker.balance._count(3)
    assert not worker.balance.shed_one() and load_of[0] == NOBODY


def test_a_worker_looks_again_when_it_has_stood_back_and_rests_meanwhile(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    waited = []

    def wait(self: Any, timeout: float) -> None:
        waited.append(timeout)

    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(ThreadWorker, "wait_for_and_dispatch_events", wait)
    worker.balance.stands_back_until, worker.recovers_at = 100.25, 100.5
    worker.wait_for_and_dispatch_events(1.0)
    now += 1.0
    worker.wait_for_and_dispatch_events(1.0)
    worker.recovers_at = 200.0
    worker.wait_for_and_dispatch_events(1.0)
    assert waited == [0.5, 1.0, 1.0]
    worker.alive = False  # whoever says nothing is to be closed in time
    worker.wait_for_and_dispatch_events(1.0)
    assert waited[3] == module._LAST_WORD


def test_it_has_one_turn_however_late_the_other_looks(
    worker: Any, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The threads of a busy worker keep its loop from the interpreter."""
    monkeypatch.setattr(balance, "_GLANCE", 5 * balance._TURN)
    has(worker, 3, 2)
    assert passes(worker, listener, 20) == 2


@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.EPERM])
def test_a_client_that_cannot_be_taken_ends_no_worker(
    worker: Any,
    listener: socket.socket,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    number: int,
) -> None:
    """Of the whole system there may be no descriptor, whatever this worker keeps free; and a
    finished request is no sign that there is one again."""

    def accept(self: Any, listener: socket.socket) -> None:
        raise OSError(number, "none")

    monkeypatch.setattr(ThreadWorker, "accept", accept)
    worker.sockets, worker.alive, worker._accepting = [listener], True, True
    with socket.create_connection(listener.getsockname()):
        worker.wait_for_and_dispatch_events(1.0)
    assert not worker._accepting and "no connection can be taken" in caplog.text
    worker.set_accept_enabled(True)
    assert not worker._accepting  # for a while
    monkeypatch.setattr(ThreadWorker, "finish_request", lambda *_: None)
    worker.finish_request(None, SimpleNamespace(cancelled=lambda: True))
    worker.set_accept_enabled(True)
    assert not worker._accepting
    worker.recovers_at -= module._RECOVERY
    worker.set_accept_enabled(True)
    assert worker._accepting


@pytest.mark.parametrize(
    ("most", "kept", "is_told"), [(1000, 996, False), (5, 1, False), (4, 1, True), (1, 1, True)]
)
def test_a_worker_starts_also_where_little_is_allowed(
    worker: Any,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    most: int,
    kept: int,
    is_told: bool,
) -> None:
    """It may have no choice of cores, and open files for few clients; the others see it at once."""

    def sched_setaffinity(pid: int, cores: set[int]) -> None:
        raise PermissionError

    monkeypatch.setattr(os, "sched_setaffinity", sched_setaffinity, raising=False)
    monkeypatch.setattr(module, "most_clients", lambda *_: most)
    monkeypatch.setattr(ThreadWorker, "init_process", lambda self: None)
    worker.core = 0
    worker.init_process()
    assert (worker.worker_connections, worker.max_keepalived) == (most, kept)
    assert (f"leaves room for {most} clients" in caplog.text) is is_told
    assert load_of[0] == 0


def test_who_is_to_read_its_answer_has_some_time_for_it_and_is_never_waited_for(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    worker.pending_conns = collections.deque()
    here, there = socket.socketpair()
    with there, Client(here, 30.0) as sock:
        conn = SimpleNamespace(sock=sock, close=sock.close)
        has(worker, 1)
        worker._linger(conn)
        assert there.recv(1) == b"" and not sock.getblocking()
        worker._drain(conn, None)  # of nothing
        for _ in range(19):  # who still sends may not have read it yet
            now += module._LINGER - 0.5
            worker.murder_pending()
            assert (worker.lingering, worker.nr_conns) == ([conn], 1)
            there.sendall(b"x")
            worker.wait_for_and_dispatch_events(0)
        now += module._LINGER - 0.5
        worker.murder_pending()
        assert (worker.lingering, worker.nr_conns, sock.fileno()) == ([], 0, -1)


def test_who_sends_nothing_more_has_less_time_to_read_its_answer(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    here, there = socket.socketpair()
    with there, Client(here, 30.0) as sock:
        has(worker, 1)
        worker._linger(SimpleNamespace(sock=sock, close=sock.close))
        now += module._LINGER
        worker.murder_pending()
        assert (worker.lingering, worker.nr_conns, sock.fileno()) == ([], 0, -1)


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
        (8, 8, [balance._BUSY], False),
        (8, 8, [], False),
        (300, 8, [balance._BUSY], False),
    ],
)
def test_a_client_is_given_to_a_worker_with_fewer(
    worker: Any, clients: int, requests: int, others: list[int], gives: bool
) -> None:
    worker.balance._requests = requests
    has(worker, clients, *others)
    assert worker.balance.shed_one() is gives


@pytest.mark.parametrize(
    ("others", "is_stuck", "stands_back"),
    [
        ([], False, False),
        ([balance._BUSY], False, False),
        ([2], False, True),
        ([balance._BUSY], True, True),
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
    monkeypatch.setattr(time, "monotonic", lambda: now)
    worker.sockets, worker.alive, worker._accepting = [listener], True, True
    worker.balance._requests = 4
    has(worker, 4, *others)
    worker.balance._finished_at = now - (balance._STUCK + 1 if is_stuck else 0)
    with socket.create_connection(listener.getsockname()):
        worker.accept(listener)
    assert len(worker.taken) == (0 if stands_back else 1)
    assert worker._accepting is not stands_back
    assert not worker.balance.give_way()
    worker.set_accept_enabled(True)
    assert worker._accepting is not stands_back
    now += balance._STANDS_BACK
    worker.set_accept_enabled(True)
    assert worker._accepting


def test_a_finished_request_is_noted_and_ends_the_standing_back(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ThreadWorker, "finish_request", lambda *_: None)
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    worker.balance.stands_back_until = 200.0
    worker.finish_request(None, SimpleNamespace(cancelled=lambda: True))
    assert (worker.balance._finished_at, worker.balance.stands_back_until) == (100.0, 0.0)


def test_a_worker_that_stops_is_counted_on_by_nobody(worker: Any, listener: socket.socket) -> None:
    has(worker, 3)
    worker.sockets, worker.alive, worker._accepting = [listener], False, True
    worker.worker_connections = 1000
    stop(worker)
    assert load_of[0] == NOBODY and listener.fileno() == -1


def test_a_worker_that_is_told_to_stop_as_it_stands_back_takes_who_has_connected(
    worker: Any, listener: socket.socket
) -> None:
    """gunicorn's own socket is not even one any more when it is closed."""
    settings = SimpleNamespace(reuse_port=False, backlog=5)
    wrapped = TCPSocket(listener.getsockname(), settings, None, fd=os.dup(listener.fileno()))
    listener.close()
    worker.poller = selectors.DefaultSelector()
    worker.sockets, worker.alive, worker._accepting = [wrapped], True, False
    worker.worker_connections = 1000
    worker.set_accept_enabled(True)
    with socket.create_connection(wrapped.getsockname()):
        has(worker, 1, 0)
        worker.balance._count(4)
        worker.alive = False
        worker.accept(wrapped)
        assert worker.taken == []
        stop(worker)
        assert len(worker.taken) == 1


def test_a_worker_that_stops_waits_no_longer_for_who_is_idle(
    worker: Any, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a restart takes longer than the perfgate client tries again for."""
    kept, new, answered, late = (SimpleNamespace(timeout=175.0) for _ in range(4))
    over = SimpleNamespace(timeout=100.1)
    worker.keepalived_conns.append(kept)
    worker.pending_conns.extend([new, over])
    worker.lingering.append(answered)
    worker.sockets, worker.alive, worker._accepting = [listener], False, True
    worker.worker_connections = 1000
    monkeypatch.setattr(time, "monotonic", lambda: 100.0)
    worker._cap_keepalive(102.0)
    assert kept.timeout == new.timeout == answered.timeout == 100.5
    assert over.timeout == 100.1
    monkeypatch.setattr(
        ThreadWorker, "finish_request", lambda *_: worker.keepalived_conns.append(late)
    )
    worker.finish_request(late, SimpleNamespace(cancelled=lambda: True))
    assert late.timeout == 100.5


def test_a_worker_that_stops_waits_no_longer_for_who_has_its_answer(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    here, there = socket.socketpair()
    with here, there:
        for worker.alive, seconds in ((True, module._LINGER), (False, module._LAST_WORD)):
            conn = SimpleNamespace(sock=here)
            monkeypatch.setattr(time, "monotonic", lambda: 100.0)
            worker._linger(conn)
            assert conn.timeout == 100.0 + seconds
            # Nor for who still sends.
            monkeypatch.setattr(time, "monotonic", lambda: 100.25)
            there.sendall(b"x")
            worker._drain(conn, None)
            assert conn.timeout == (100.25 + seconds if worker.alive else 100.5)
            worker.poller.unregister(here)


@pytest.mark.parametrize(("most", "taken"), [(1000, 3), (2, 2)])
def test_a_worker_that_stops_takes_who_has_connected_and_no_more_than_it_may(
    worker: Any, listener: socket.socket, most: int, taken: int
) -> None:
    """Also one that had no client at all."""
    worker.sockets, worker.alive, worker._accepting = [listener], False, True
    worker.worker_connections = most
    with contextlib.ExitStack() as clients:
        for _ in range(3):
            clients.enter_context(socket.create_connection(listener.getsockname()))
        stop(worker)
        assert len(worker.taken) == taken


def test_a_request_that_fails_whole_ends_neither_worker_nor_count(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(self: Any, conn: Any) -> None:
        raise ZeroDivisionError

    closed: list[bool] = []
    monkeypatch.setattr(ThreadWorker, "handle", fail)
    has(worker, 1)
    worker.balance._count(1)
    conn = SimpleNamespace(sock=None, close=lambda: closed.append(True))
    with ThreadPoolExecutor(1) as threads:
        future = threads.submit(worker.handle, conn)
    worker.finish_request(conn, future)
    assert (worker.balance._requests, worker.nr_conns, closed) == (0, 0, [True])


def test_a_connection_that_was_said_to_be_closed_is_not_kept(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest of a body that nobody wanted may come just then."""
    body = SimpleNamespace(reader=SimpleNamespace(length=10))
    closes: list[bool] = []
    req = SimpleNamespace(
        headers=[],
        body=body,
        unreader=SimpleNamespace(buf=io.BytesIO()),
        should_close=lambda: bool(closes),
        force_close=lambda: closes.append(True),
    )
    here, there = socket.socketpair()
    with there, Client(here, 30.0) as sock:

        def answer(self: Any, req: Any, conn: Any) -> list[bool]:
            before = req.should_close()
            there.sendall(bytes(10))
            return [before, req.should_close()]

        monkeypatch.setattr(ThreadWorker, "handle_request", answer)
        assert worker.handle_request(req, SimpleNamespace(sock=sock)) == [True, True]


def test_each_request_of_a_kept_connection_has_its_time(
    worker: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    monkeypatch.setattr(ThreadWorker, "handle", lambda self, conn: conn.sock.recv(4096))
    here, there = socket.socketpair()
    with there, Client(here, 30.0) as sock:
        for _ in range(3):
            now += 100.0
            there.sendall(b"x")
            assert worker.handle(SimpleNamespace(sock=sock)) == b"x"


def test_a_worker_without_its_main_process_stops_as_if_told_to(worker: Any) -> None:
    worker.alive, worker.ppid, worker.log = True, -1, SimpleNamespace(info=lambda *_: None)
    assert not worker.is_parent_alive() and not worker.alive


def test_clients_are_given_away_one_at_a_time(worker: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    worker.balance._requests = 4
    has(worker, 8, 0)
    assert worker.balance.shed_one() and not worker.balance.shed_one()
    now += balance._PACE
    assert worker.balance.shed_one() and not worker.balance.shed_one()
    now += balance._PACE
    worker.balance.leave()  # as it stops
    assert not worker.balance.shed_one()

"""How long a client is waited for, and how many clients there may be."""

from __future__ import annotations

import contextlib
import io
import resource
import socket
import struct
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from support import PATIENCE

from perfgate_server import clients

# -- the time of a client


class Clock:
    """The time that the module sees."""

    now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(clients, "time", made)
    return made


@contextlib.contextmanager
def connected() -> Iterator[tuple[socket.socket, clients.Client]]:
    """A client, and the server's end of its connection."""
    here, there = socket.socketpair()
    with there, clients.Client(here, 30.0) as client:
        there.settimeout(PATIENCE)
        yield there, client


def test_less_than_a_slow_line_carries_buys_no_time(clock: Clock) -> None:
    with connected() as (there, client):
        for _ in range(30):
            there.sendall(bytes(1000))
            assert len(client.recv(4096)) == 1000
            clock.now += 1.0
        there.sendall(bytes(1000))
        with pytest.raises(TimeoutError):
            client.recv(4096)


def test_what_a_slow_line_carries_buys_time_each_time(clock: Clock) -> None:
    with connected() as (there, client):
        for _ in range(3):
            clock.now += 29.0
            for _ in range(4):
                there.sendall(bytes(clients.QUOTA // 4))
                left = clients.QUOTA // 4
                while left:
                    left -= len(client.recv(left))
        clock.now += 29.0
        there.sendall(b"x")
        assert client.recv(4096) == b"x"
        clock.now += 1.0
        with pytest.raises(TimeoutError):
            client.recv(4096)


def waits(client: clients.Client, option: int) -> float:
    """Return for how many seconds the kernel lets a client wait; 0 is for ever."""
    seconds, microseconds = struct.unpack("ll", client.getsockopt(socket.SOL_SOCKET, option, 16))
    return float(seconds + microseconds / 1_000_000)


def test_a_client_is_waited_for_as_long_as_it_has_left(clock: Clock) -> None:
    """Each byte would else buy the whole time again."""
    with connected() as (there, client):
        there.sendall(bytes(3))
        for now, left in ((100.0, 30.0), (128.5, 1.5), (129.9999999, 0.0)):
            clock.now = now
            client.recv(1)
            # The kernel counts in its ticks, of 10 ms at most; and none is for ever.
            assert left <= waits(client, socket.SO_RCVTIMEO) <= left + 0.01
            assert waits(client, socket.SO_RCVTIMEO) > 0
            assert waits(client, socket.SO_SNDTIMEO) == 30.0


# -- what is unread of a body


@pytest.mark.parametrize(("sent", "is_there"), [(0, False), (9, False), (10, True), (11, True)])
def test_a_client_tells_what_has_come_and_leaves_it(sent: int, is_there: bool) -> None:
    with connected() as (there, client):
        there.sendall(bytes(sent))
        assert [client.holds(10), client.holds(10)] == [is_there] * 2
        there.close()
        assert client.holds(10) is is_there


def test_of_a_client_that_is_gone_without_a_word_nothing_has_come() -> None:
    """The kernel says so by an error, and that is no failure of the server."""
    with connected() as (there, client):
        client.sendall(b"an answer that is not read")
        there.close()
        assert client.holds(1) is False


def test_a_chunked_body_may_come_in_many_pieces_and_no_more(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clients, "_MOST_PIECES", 3)
    assert [*clients.bounded(iter([b"a", b"b", b"c"]))] == [b"a", b"b", b"c"]
    pieces = clients.bounded(iter([b"x"] * 4))
    assert [next(pieces) for _ in range(3)] == [b"x"] * 3
    with pytest.raises(ValueError, match="too many chunks"):
        next(pieces)


def unread(buffered: int = 0, **reader: Any) -> Any:
    """Return a request, the rest of whose body is as gunicorn's reader says."""
    body = SimpleNamespace(reader=SimpleNamespace(**reader))
    return SimpleNamespace(body=body, unreader=SimpleNamespace(buf=io.BytesIO(bytes(buffered))))


@pytest.mark.parametrize(
    ("rest", "sent", "is_unwanted"),
    [
        (unread(length=0), 0, False),
        (unread(parser=None), 0, False),
        (unread(parser=object()), 0, True),
        (unread(length=1), 0, True),
        (unread(length=10), 9, True),
        (unread(length=10), 10, False),
        (unread(length=10, buffered=1), 9, False),
        (unread(length=10, buffered=1), 8, True),
        (unread(length=10, buffered=10), 0, False),
        (unread(length=10, buffered=11), 0, False),  # with the next request
        (unread(length=2**16 - 1), 2**16, False),
        (unread(length=2**16), 2**16, True),
    ],
    ids=range(12),
)
def test_a_connection_is_closed_unless_the_rest_of_a_body_is_short_and_there(
    rest: Any, sent: int, is_unwanted: bool
) -> None:
    with connected() as (there, client):
        there.sendall(bytes(sent))
        assert clients.is_unwanted(rest, client) is is_unwanted


def test_what_has_come_by_tls_is_unknown() -> None:
    """That is no `Client`: the connection is closed to be sure."""
    here, there = socket.socketpair()
    with here, there:
        assert not clients.is_unwanted(unread(length=0), here)
        assert clients.is_unwanted(unread(length=10), here)


def test_what_was_once_to_be_closed_is_closed_whatever_comes_then() -> None:
    """gunicorn asks for the answer's head, and again behind it."""
    asked = unread(length=10)
    closes: list[bool] = []
    asked.force_close = lambda: closes.append(True)
    with connected() as (there, client):
        for sent in (bytes(9), bytes(1)):
            there.sendall(sent)
            assert clients.closes_unread(asked, client, lambda: bool(closes)) is True
    assert closes == [True]
    with connected() as (there, client):
        there.sendall(bytes(10))
        assert clients.closes_unread(asked, client, lambda: False) is False


@pytest.mark.parametrize(
    ("value", "asks"),
    [("close", True), ("TE, Close", True), ("close,TE", True), ("keep-alive, x-close", False)],
)
def test_a_client_may_ask_to_close_among_other_things(value: str, asks: bool) -> None:
    headers = [("HOST", "close"), ("CONNECTION", "TE"), ("CONNECTION", value)]
    assert clients.asks_to_close(SimpleNamespace(headers=headers)) is asks


# -- how many clients there may be


@pytest.mark.parametrize(
    ("files", "most"), [(120, 40), (81, 1), (70, 1), (1080, 1000), (5000, 1000), (-1, 1000)]
)
@pytest.mark.parametrize("error", [None, OSError, ValueError])
def test_a_worker_keeps_descriptors_for_itself(
    monkeypatch: pytest.MonkeyPatch, files: int, most: int, error: type[Exception] | None
) -> None:
    """Also where it may not raise the limit; -1 is none."""

    def setrlimit(*_: Any) -> None:
        if error:
            raise error("not allowed")

    monkeypatch.setattr(resource, "getrlimit", lambda _: (files, files))
    monkeypatch.setattr(resource, "setrlimit", setrlimit)
    assert clients.take_descriptors() == files
    settings = SimpleNamespace(worker_connections=1000, threads=4)
    assert clients.most_clients(settings, files) == most

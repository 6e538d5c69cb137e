"""How long a client is waited for, and how many clients there may be."""

from __future__ import annotations

import socket
from resource import RLIM_INFINITY
from types import SimpleNamespace

import pytest

from perfgate_server import clients as module


def test_less_than_a_slow_line_carries_buys_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(module.time, "monotonic", lambda: now)
    here, there = socket.socketpair()
    with there, module.Client(here, 30.0) as client:
        for _ in range(30):
            there.sendall(bytes(1000))
            assert len(client.recv(4096)) == 1000
            now += 1.0
        there.sendall(bytes(1000))
        with pytest.raises(TimeoutError):
            client.recv(4096)


@pytest.mark.parametrize(
    ("files", "clients"), [(120, 40), (10, 1), (100_000, 1000), (RLIM_INFINITY, 1000)]
)
def test_a_worker_keeps_descriptors_for_itself(
    monkeypatch: pytest.MonkeyPatch, files: int, clients: int
) -> None:
    """But it takes one client at least, and no more than gunicorn is told to."""
    monkeypatch.setattr(module.resource, "getrlimit", lambda _: (files, files))
    monkeypatch.setattr(module.resource, "setrlimit", lambda *_: None)
    settings = SimpleNamespace(worker_connections=1000, threads=4)
    assert module.most_clients(settings) == clients

"""How long a client is waited for, and how many clients there may be."""

from __future__ import annotations

import socket
from types import SimpleNamespace

import pytest

from perfgate_server import clients


def test_less_than_a_slow_line_carries_buys_no_time(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 100.0
    monkeypatch.setattr(clients.time, "monotonic", lambda: now)
    here, there = socket.socketpair()
    with there, clients.Client(here, 30.0) as client:
        for _ in range(30):
            there.sendall(bytes(1000))
            assert len(client.recv(4096)) == 1000
            now += 1.0
        there.sendall(bytes(1000))
        with pytest.raises(TimeoutError):
            client.recv(4096)


def test_a_worker_keeps_descriptors_for_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients.resource, "getrlimit", lambda _: (120, 120))
    monkeypatch.setattr(clients.resource, "setrlimit", lambda *_: None)
    assert clients.most_clients(SimpleNamespace(worker_connections=1000, threads=4)) == 40

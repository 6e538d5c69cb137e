"""Behind a real nginx, with the README's own configuration."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest
from nginx_server import fronted
from postgres_server import Postgres
from support import (
    PATIENCE,
    Server,
    drive,
    key_line,
    perfgate_server,
    receipt,
    serving,
    wait_for,
)


@pytest.fixture(scope="module")
def behind(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server behind nginx."""
    folder = tmp_path_factory.mktemp("nginx")
    arguments = perfgate_server("--storage-type", "sqlite", "--trusted-proxies", "1")
    with (
        serving([*arguments, "--threads", "2"], folder) as server,
        fronted(folder, server) as front,
    ):
        yield front


def test_everything_works_through_it(behind: Server) -> None:
    drive(behind)


def test_names_and_forwarded_headers_come_through(behind: Server) -> None:
    """Encoded or not, slashes unmerged; a client's own X-Forwarded-* is replaced."""
    body = json.dumps(receipt())
    for form in ("a/b[c]<d>", "a%2Fb%5Bc%5D%3Cd%3E"):
        path = f"/projects/p/baselines/{form}/versions/v1"
        forged = {
            "X-Forwarded-Prefix": "/evil",
            "X-Forwarded-For": "6.6.6.6",
            "X-Request-ID": form[1:2] + "x",
        }
        status, headers, _ = behind.request("PUT", path, body, forged)
        assert status in (200, 201)
        assert headers["location"].startswith("/projects/p/")
    assert behind.request("GET", "/projects/p/baselines/a//b/latest")[0] == 400
    assert {line["client"] for line in behind.lines()} == {"127.0.0.1"}


def test_slow_clients_are_nginxs_to_buffer(behind: Server) -> None:
    """More stalled uploads than the server has threads, and others still get answers."""
    head = (
        "PUT /projects/p/baselines/slow/versions/v1 HTTP/1.1\r\nHost: x\r\n"
        f"{key_line()}Content-Length: 5000\r\n\r\n"
    ).encode()
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            slow = socket.create_connection(("127.0.0.1", behind.port), timeout=PATIENCE)
            stack.enter_context(slow).sendall(head + b"{")
        for turn in range(10):
            assert behind.put("honest", f"v{turn}") == 201


def test_a_long_filter_comes_back_in_the_link(behind: Server) -> None:
    tags = ["ü" * 60 + str(number) for number in range(10, 30)]
    query = "&".join(f"tag={quote(tag)}" for tag in tags)
    for version in ("v1", "v2"):
        path = f"/projects/p/baselines/t/versions/{version}?{query}"
        assert behind.request("PUT", path, json.dumps(receipt()))[0] == 201
    path = f"/projects/p/baselines?limit=1&tags={quote(','.join(tags))}"
    status, headers, _ = behind.request("GET", path)
    assert len(path) > 7000
    assert (status, len(headers["link"]) > 7000) == (200, True)


def test_of_two_servers_on_one_database_one_may_die(postgres: Postgres, tmp_path: Path) -> None:
    """Uploads and promotions race across both; what was acknowledged stays, and the rest goes on
    through the other."""
    acknowledged: list[str] = []
    promoted: list[tuple[int, int]] = []
    done = threading.Event()
    with contextlib.ExitStack() as stack:
        url = stack.enter_context(postgres.database())
        arguments = perfgate_server("--storage-type", "postgres", "--database-url", url)
        arguments += ["--trusted-proxies", "1"]
        one, two = (stack.enter_context(serving(arguments, tmp_path)) for _ in range(2))
        front = stack.enter_context(fronted(tmp_path, one, two))
        assert front.put("b", "first") == 201

        def upload(thread: int) -> None:
            turn = 0
            while not done.is_set():
                turn += 1
                version = f"v{thread}-{turn}"
                with contextlib.suppress(http.client.HTTPException):  # cut off, as the server died
                    if front.put("b", version) in (200, 201):
                        acknowledged.append(version)

        def promote(_: int) -> None:
            turn = 0
            while not done.is_set():
                turn += 1
                body = {"from_version": "first", "to_version": f"prod-{turn}"}
                path = "/projects/p/baselines/b/promote"
                with contextlib.suppress(http.client.HTTPException):
                    promoted.append((turn, front.request("POST", path, body)[0]))

        threads = [
            threading.Thread(target=work, args=(number,))
            for work in (upload, promote)
            for number in range(3)
        ]
        for thread in threads:
            thread.start()
        wait_for(lambda: len(acknowledged) > 30, "uploads")
        one.kill()
        before = len(acknowledged)
        wait_for(lambda: len(acknowledged) > before + 50, "uploads through the other")
        done.set()
        for thread in threads:
            thread.join()
        # Of a promotion that the dying server may have made, nginx does not know: 502, once.
        assert {status for _, status in promoted} <= {200, 201, 502}
        made = [turn for turn, status in promoted if status == 201]
        assert len(made) == len(set(made))
        for version in acknowledged:
            path = f"/projects/p/baselines/b/versions/{version}?receipt=only"
            status, _, body = two.request("GET", path)
            assert status == 200 and json.loads(body) == receipt()

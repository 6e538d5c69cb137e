"""What the server makes of HTTP before the application sees it, and of what is none."""

from __future__ import annotations

import http.client
import json
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support import (
    PATIENCE,
    Server,
    bearer,
    key_line,
    parse_envelope,
    perfgate_server,
    receipt,
    serving,
    sqlite_server,
)

#: How an upload begins, to which the rest of its head is added.
PUT = f"PUT /projects/p/baselines/b/versions/v HTTP/1.1\r\nHost: x\r\n{key_line()}".encode()


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """One server on SQLite for the tests that leave it as it was."""
    folder = tmp_path_factory.mktemp("server")
    arguments = perfgate_server("--storage-type", "sqlite", "--workers", "2")
    with serving([*arguments, "--max-body-size", "64KiB", "--timeout", "5"], folder) as running:
        yield running
        # Whatever the tests sent, nothing of it was the server's fault.
        assert not [line for line in running.lines() if line["status"] >= 500]
        assert "Traceback" not in running.log


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"nonsense\r\n\r\n", 400),
        (b"GET /health\r\n\r\n", 400),
        (b"get /health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"G\xffT /health HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"GET /health HTTP/3.0\r\nHost: x\r\n\r\n", 400),
        (b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\nHost: x\r\n\r\n", 414),
        (b"GET /health HTTP/1.1\r\nX: " + b"x" * 9000 + b"\r\n\r\n", 431),
        (b"GET /health HTTP/1.1\r\n" + b"X: y\r\n" * 200 + b"\r\n", 431),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\n folded\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nA\x00: y\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nHost: x\r\nExpect: magic\r\n\r\n", 417),
        (b"GET /health HTTP/1.1\r\nContent-Length: x\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", 400),
        (b"GET /health HTTP/1.1\r\nTransfer-Encoding: magic\r\n\r\n", 501),
        (b"GET /health HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400),
        (b"GET /caf\xe9 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"TRACE /health HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", 405),
        (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 404),
    ],
    ids=range(20),
)
def test_broken_requests_get_an_envelope(server: Server, sent: bytes, status: int) -> None:
    answered, body = parse_envelope(server.raw(sent))
    # gunicorn's parser in C tells an unknown coding from a bad one in some releases.
    assert answered == status or (status, answered) == (501, 400)
    assert set(body["error"]) == {"code", "message", "details", "request_id"}
    # Only what a 400 is about is not said by its status.
    assert bool(body["error"]["details"]) == (answered in (400, 404))


def test_a_request_line_may_have_8000_bytes(server: Server) -> None:
    """Names and metadata in a query need room."""
    sent = b"GET /" + b"x" * 7980 + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert parse_envelope(server.raw(sent))[0] == 404


def test_a_refusal_by_gunicorn_is_found_in_the_log_by_its_id(server: Server) -> None:
    _, body = parse_envelope(server.raw(b"nonsense\r\n\r\n"))
    logged = [line["request_id"] for line in server.lines("refused by gunicorn")]
    assert body["error"]["request_id"] in logged


def test_a_key_with_the_line_end_of_windows_is_explained(server: Server) -> None:
    sent = b"GET /health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\r\n\r\n"
    status, body = parse_envelope(server.raw(sent))
    assert (status, "a carriage return" in body["error"]["message"]) == (400, True)


def test_a_key_that_cuts_the_headers_off_is_explained(server: Server) -> None:
    """As one from a file with the line ends of Windows, of which the shell strips the last byte."""
    sent = PUT.replace(b"Host: x\r\n", b"Host: x\r\nConnection: close\r\n")
    status, body = parse_envelope(server.raw(sent + b"\r\nContent-Length: 2\r\n\r\n{}"))
    assert (status, "ends with a line break" in body["error"]["message"]) == (400, True)


@pytest.mark.parametrize(
    "headers",
    [
        b"SCRIPT_NAME: /x",
        b"Script-Name: /x",
        b"PATH_INFO: /x",
        b"X-Forwarded-Proto: https",
        b"X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off",
        b"X-Forwarded-Prefix: /x",
        b"Host: bad host<>",
        b"Host:",
        b"Content-Type: \xff\xfe",
        b"X-Request-ID: \xff",
        b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk",
    ],
    ids=range(11),
)
def test_odd_headers_change_nothing(server: Server, headers: bytes) -> None:
    more = b"" if b"Host" in headers else b"Host: x\r\n"
    sent = b"GET /health HTTP/1.1\r\n" + more + headers + b"\r\nConnection: close\r\n\r\n"
    if b"h2c" in headers:
        sent = sent.replace(b"\r\nConnection: close", b"")
    answered, body = parse_envelope(server.raw(sent))
    assert (answered, body["status"]) == (200, "healthy")


def test_bodies_that_are_too_large_are_refused_before_they_are_read(server: Server) -> None:
    """By their announced length at once; by their chunks once they pass the limit."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(PUT + b"Content-Length: 10000000000\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(PUT + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"1\r\n \r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_curl_sees_the_413_of_a_large_file(server: Server, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b" " * 5_000_000)
    for more in ([], ["-H", "Expect:"], ["-H", "Transfer-Encoding: chunked"]):
        result = curl(server, "versions/v1", "-T", str(large), *more)
        assert result == ("413", "PAYLOAD_TOO_LARGE"), more


def curl(server: Server, path: str, *arguments: str) -> tuple[str, Any]:
    """Return the status and the error's code of one curl call below project p, benchmark b."""
    command = ["curl", "-s", "-w", "\n%{http_code}", "-H", key_line().strip()]
    url = f"{server.url}/projects/p/baselines/b/{path}"
    result = subprocess.run([*command, *arguments, url], capture_output=True, text=True)
    body, _, status = result.stdout.rpartition("\n")
    return status, json.loads(body).get("error", {}).get("code")


@pytest.mark.parametrize(
    "framing",
    [
        b"x\r\nabc\r\n0\r\n\r\n",
        b"5\r\nabc",
        b"3\r\nabcX\r\n0\r\n\r\n",
        b"ffffffffffffffffffff\r\nabc",
        b"0\r\nbad trailer\r\n\r\n",
    ],
    ids=range(5),
)
def test_broken_chunks_are_a_400(server: Server, framing: bytes) -> None:
    sent = PUT + b"Transfer-Encoding: chunked\r\n\r\n" + framing
    status, body = parse_envelope(server.raw(sent))
    assert (status, body["error"]["code"]) == (400, "VALIDATION_ERROR")


def test_a_body_that_comes_byte_by_byte_is_refused_before_long(tmp_path: Path) -> None:
    """Each chunk takes gunicorn its time, and 16 MiB of them took half a minute."""
    with serving(perfgate_server(), tmp_path) as server:
        sent = PUT + b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 1_000_001
        answer = server.raw(sent + b"0\r\n\r\n")
        assert answer.startswith(b"HTTP/1.1 400 ") and b"too many chunks" in answer
        assert server.request("GET", "/health", role=None)[0] == 200


def test_chunked_uploads_are_taken(tmp_path: Path) -> None:
    with sqlite_server(tmp_path) as server:
        file = tmp_path / "run.json"
        file.write_text(json.dumps(receipt()))
        chunked = ["-H", "Transfer-Encoding: chunked"]
        assert curl(server, "versions/v1", "-T", str(file), *chunked) == ("201", None)


def test_a_broken_rest_of_a_body_gets_no_second_answer(server: Server) -> None:
    """The request was answered before its body was read; the connection is closed."""
    head = b"POST /projects/p/baselines HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    answer = server.raw(head + b"zz\r\n")
    assert answer.startswith(b"HTTP/1.1 401 ") and answer.count(b"HTTP/1.1") == 1


def test_connections_that_say_nothing_hold_no_thread(tmp_path: Path) -> None:
    with serving(perfgate_server("--threads", "2"), tmp_path) as server:
        silent = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        began = time.monotonic()
        assert server.request("GET", "/health", role=None)[0] == 200
        assert time.monotonic() - began < 3
        silent[0].sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert silent[0].recv(65536).startswith(b"HTTP/1.1 200 ")
        for connection in silent:
            connection.close()


def test_connections_are_kept_alive(server: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
    connection.connect()
    first = connection.sock
    for path in ("/health", "/nowhere", "/projects/p/baselines"):
        connection.request("GET", path, headers=bearer())
        connection.getresponse().read()
    assert connection.sock is first
    connection.close()


@pytest.mark.parametrize("asks", [b"close", b"TE, close"])
def test_a_client_that_asks_for_the_end_of_its_connection_gets_it(
    server: Server, asks: bytes
) -> None:
    """Also where its body was not read, and is short enough to keep the connection."""
    head = (
        b"PUT /projects/p/baselines/b/versions/v HTTP/1.1\r\nHost: x\r\nConnection: %b\r\n" % asks
    )
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as client:
        client.sendall(head + b"Content-Length: 5\r\n\r\nhello")
        answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer.startswith(b"HTTP/1.1 401 ") and b"\r\nConnection: close\r\n" in answer


def test_clients_that_stop_in_the_middle_hold_their_threads_only_so_long(tmp_path: Path) -> None:
    """--timeout bounds it: honest clients get their answer then."""
    with serving(perfgate_server("--threads", "2", "--timeout", "1"), tmp_path) as server:
        stalled = [
            socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) for _ in range(4)
        ]
        for number, connection in enumerate(stalled):
            connection.sendall(PUT + b"Content-Length: 9\r\n\r\nx" if number % 2 else PUT)
        began = time.monotonic()
        assert server.request("GET", "/health", role=None)[0] == 200
        assert time.monotonic() - began < 10
        answers = [connection.recv(65536) for connection in stalled]
        assert [answer[:13] for answer in answers] == [b"", b"HTTP/1.1 408 "] * 2
        assert b"\r\nConnection: close\r\n" in answers[1]
        assert "Traceback" not in server.log
        for connection in stalled:
            connection.close()

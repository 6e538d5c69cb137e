"""What a client is answered that never reached the application, and what the log tells of it."""

from __future__ import annotations

import contextlib
import email
import json
import logging
import socket
import ssl
from collections.abc import Iterator
from email.message import Message
from typing import Any

import pytest
from gunicorn.http import errors as http
from support import PATIENCE

from perfgate_server.refusals import answer

REFUSALS = [
    (http.LimitRequestLine(9, 8), 414, "request line is too long"),
    (http.LimitRequestHeaders("x"), 431, "headers are too many or too long"),
    (http.ExpectationFailed("x"), 417, "expectation"),
    (http.UnsupportedTransferCoding("x"), 501, "transfer coding"),
    (http.ForbiddenProxyRequest("x"), 403, "not trusted"),
    (http.InvalidRequestMethod("get"), 400, "in capitals"),
    (http.InvalidHeader("x"), 400, "carriage return"),
    (http.InvalidHeaderName("x"), 400, "name of a header"),
    (http.ObsoleteFolding("x"), 400, "folded"),
    (http.InvalidHTTPVersion("x"), 400, "HTTP version is not supported"),
    (http.ConfigurationProblem("x"), 404, "no such route"),
    (http.InvalidRequestLine("x"), 400, "--data-urlencode"),
    (ssl.SSLError("x"), 400, "no TLS"),
]
FAULTS = [
    http.InvalidResponseHeader("x"),
    http.InvalidResponseHeaderName("x"),
    RuntimeError("a bug"),
]


@pytest.fixture
def ends(caplog: pytest.LogCaptureFixture) -> Iterator[tuple[socket.socket, socket.socket]]:
    """The server's end of a connection, and the client's."""
    here, there = socket.socketpair()
    with here, there, caplog.at_level(logging.DEBUG, "perfgate_server"):
        here.settimeout(PATIENCE)
        there.settimeout(PATIENCE)
        yield here, there


def read(client: socket.socket) -> tuple[int, Message, dict[str, Any]]:
    """Return the status, the headers and the error of all that a client is sent."""
    sent = b"".join(iter(lambda: client.recv(65536), b""))
    head, _, body = sent.partition(b"\r\n\r\n")
    line, _, rest = head.partition(b"\r\n")
    headers = email.message_from_bytes(rest)
    assert headers["Content-Length"] == str(len(body))
    return int(line.split()[1]), headers, json.loads(body)["error"]


@pytest.mark.parametrize(("exc", "status", "said"), REFUSALS, ids=range(13))
def test_a_refusal_says_what_is_wrong_and_is_no_failure(
    ends: Any, caplog: pytest.LogCaptureFixture, exc: Exception, status: int, said: str
) -> None:
    here, there = ends
    answer(exc, here, ("192.0.2.7", 1), cors=True)
    here.shutdown(socket.SHUT_WR)
    answered, headers, error = read(there)
    assert (answered, headers["Connection"]) == (status, "close")
    told = error["details"].get("request", "") if status == 400 else error["message"]
    assert said in told
    details = {400: {"request": told}, 404: {"missing": "route"}}
    assert error["details"] == details.get(status, {})  # the other statuses say it all
    [line] = caplog.records
    assert (line.levelname, line.message, line.exc_info) == ("INFO", "refused by gunicorn", None)
    assert vars(line)["reason"] == type(exc).__name__
    assert vars(line)["error"] == told
    assert vars(line)["client"] == "192.0.2.7"
    assert vars(line)["request_id"] == error["request_id"] == headers["X-Request-ID"]


@pytest.mark.parametrize("exc", FAULTS, ids=range(3))
def test_what_is_no_client_s_fault_is_a_failure_and_tells_the_client_nothing(
    ends: Any, caplog: pytest.LogCaptureFixture, exc: Exception
) -> None:
    here, there = ends
    answer(exc, here, None, cors=True)  # as by a unix socket, whose client has no address
    here.shutdown(socket.SHUT_WR)
    answered, _, error = read(there)
    assert answered == 500 and str(exc) not in error["message"] and not error["details"]
    [line] = caplog.records
    assert line.levelname == "ERROR" and line.exc_info and line.exc_info[1] is exc
    assert (vars(line)["client"], vars(line)["request_id"]) == (None, error["request_id"])


@pytest.mark.parametrize("cors", [True, False])
def test_a_page_of_another_origin_may_read_a_refusal_if_it_may_read_answers(
    ends: Any, cors: bool
) -> None:
    here, there = ends
    answer(http.InvalidHeader("x"), here, None, cors=cors)
    here.shutdown(socket.SHUT_WR)
    _, headers, _ = read(there)
    assert headers["Access-Control-Allow-Origin"] == ("*" if cors else None)
    exposed = headers["Access-Control-Expose-Headers"] or ""
    assert ("X-Request-ID" in exposed) is cors


def test_who_takes_no_answer_is_not_waited_for_and_no_failure(
    ends: Any, caplog: pytest.LogCaptureFixture
) -> None:
    here, there = ends
    here.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        while True:
            here.send(bytes(65536))
    here.settimeout(PATIENCE)
    answer(http.InvalidHeader("x"), here, None, cors=True)
    there.close()
    answer(http.InvalidHeader("x"), here, None, cors=True)
    levels = [line.levelname for line in caplog.records]
    assert levels == ["INFO", "DEBUG"] * 2 and "timed out" not in caplog.text

"""The lines that the server logs: what they tell, and what they never do."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from support import KEYS, LATEST, perfgate_server, receipt, serving, wait_for

from perfgate_server import logs


def test_a_line_for_each_request_says_who_did_what(tmp_path: Path) -> None:
    with serving(perfgate_server(), tmp_path) as server:
        server.request(
            "GET", "/api/v1" + LATEST + "?receipt=only", headers={"X-Request-ID": "job-7"}
        )
        (line,) = [line for line in server.lines() if line["request_id"] == "job-7"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", line.pop("time"))
        assert line.pop("duration_ms") > 0
        assert line.pop("bytes") > 100
        assert re.fullmatch(r"[0-9a-f]{8}", line.pop("key_id"))
        assert line == {
            "level": "info",
            "logger": "perfgate_server.access",
            "message": "request",
            "request_id": "job-7",
            "method": "GET",
            "route": "/api/v1/projects/{project}/baselines/{benchmark}/latest",
            "path": "/api/v1" + LATEST,
            "status": 404,
            "role": "admin",
            "project": "p",
            "client": "127.0.0.1",
            "error": "Benchmark 'b' has no baseline in project 'p'.",
        }


def test_a_line_tells_what_was_wrong_and_what_a_comparison_came_to(tmp_path: Path) -> None:
    """So that who runs the server can help who asks it, and see who still has an old key."""
    old = "pg_live_" + "O" * 32
    with serving(perfgate_server(), tmp_path) as server:
        server.put("b", "v1")
        server.request("POST", "/projects/p/baselines/b/compare", json.dumps(receipt(200)))
        server.request("GET", "/projects/p/baselines?limits=1")
        server.request("GET", f"/projects/p/baselines?{'%C3%A4' * 900}=1")
        server.request("GET", LATEST, headers={"Authorization": f"Bearer {old}"})
        server.request("GET", LATEST, headers={"Authorization": "Bearer x"})
        compared, typo, long, unknown, malformed = server.lines()[-5:]
        assert (compared["verdict"], "error" in compared) == ("fail", False)
        assert typo["error"].startswith("limits: Unknown parameter; this route takes limit, ")
        assert "verdict" not in typo and len(long["error"]) == 300
        assert unknown["key_id"] == hashlib.sha256(old.encode()).hexdigest()[:8]
        assert (unknown["role"], unknown["error"]) == (None, "The API key is not known here.")
        assert malformed["key_id"] is None


def test_the_line_of_a_path_with_two_slashes_shows_both(tmp_path: Path) -> None:
    """A client whose base URL ends with one too many asks for it; it is no route of ours."""
    with serving(perfgate_server(), tmp_path) as server:
        for path in ("//health", "//projects/p/baselines/%C3%A4/latest"):
            assert server.request("GET", path)[0] == 404
            line = server.lines()[-1]
            assert (line["path"], line["route"], line["project"]) == (unquote(path), None, None)


ATTACKS = [
    b"GET /%0a%1b[31m%e2%80%a8/\xe2 HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%0a%1b[31m%e2%80%a8 HTTP/1.1\r\nHost: x\r\n%s\r\n",
    b"GET /%s HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /health?key=%s HTTP/1.1\r\nHost: x\r\n\r\n",
    b"GET /%70%67_test_%41%s?%70%67_test_%41%s HTTP/1.1\r\nHost: x\r\n\r\n".replace(
        b"%s", "".join(f"%{ord(c):02X}" for c in KEYS["admin"].removeprefix("pg_test_")).encode()
    ),
    b"GET /health HTTP/1.1\r\nHost: x\r\nProxy-Authorization: Basic aHVudGVyMg==\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\nCookie: session=aHVudGVyMg\r\n\r\n",
    b"GET /health HTTP/1.1\r\nAuthorization %s\r\n\r\n",
    b"GET /health HTTP/1.1\r\nX: y\r\n %s\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\nAuthorization : %s\r\n\r\n",
    b"%s\r\n\r\n",
    b"GET /health HTTP/1.1\r\nAuthorization: %s\r\nX: ",
    b"GET /health HTTP/1.1\r\nHost: x\r\nAuthorization: Basic aHVudGVyMg==\r\n\r\n",
    b"GET /health HTTP/1.1\r\nAuthorization: Basic aHVudGVyMg==\r\nX",
    b"PUT /projects/p/baselines/%s/versions/v HTTP/1.1\r\nAuthorization: Bearer %s\r\n\r\n",
    b"GET /%1B%5B2J%0Aforged HTTP/1.1\r\nHost: x\r\n\r\n",
]


@pytest.mark.parametrize("level", ["trace", "debug", "info"])
@pytest.mark.parametrize("style", ["json", "pretty"])
def test_no_secret_and_nothing_raw_stands_in_the_log(
    tmp_path: Path, level: str, style: str
) -> None:
    """At any level, in any format, whatever is sent in whatever shape."""
    arguments = perfgate_server("--log-level", level, "--log-format", style)
    with serving(arguments, tmp_path) as server:
        for attack in ATTACKS:
            server.raw(attack.replace(b"%s", KEYS["admin"].encode()))
        assert server.request("GET", LATEST)[0] == 404
        server.stop()
        log = server.log
    encoded = "".join(f"%{ord(c):02X}" for c in "A" * 32)
    for secret in (KEYS["admin"], KEYS["viewer"], "aHVudGVyMg", "hunter2", encoded):
        assert secret not in log
    for line in log.split("\n"):
        assert line.isprintable(), line
        if style == "json" and line:
            json.loads(line)
    assert ("request headers" in log) == (level == "trace")


def test_a_line_for_people_has_the_request_id_that_the_client_was_told(tmp_path: Path) -> None:
    arguments = perfgate_server("--log-level", "trace", "--log-format", "pretty")
    with serving([*arguments, "--storage-type", "sqlite"], tmp_path) as server:
        assert server.put("b", "v1") == 201
        (tmp_path / "perfgate.db").write_bytes(b"")
        server.request("GET", LATEST, headers={"X-Request-ID": "job-7", "X-Test": "a\tb"})
        wait_for(lambda: "storage unavailable" in server.log, "the line")
        (said,) = [line for line in server.log.splitlines() if "storage unavailable" in line]
        assert said.endswith(" request_id=job-7")
        assert r"'X-Test: a\tb'" in server.log


@pytest.mark.parametrize("lines", [logs.JsonLines, logs.PrettyLines])
def test_times_in_the_log_are_those_of_utc_wherever_the_server_runs(
    monkeypatch: pytest.MonkeyPatch, lines: Any
) -> None:
    with monkeypatch.context() as there:
        there.setenv("TZ", "Asia/Tokyo")
        time.tzset()
        record = logging.LogRecord("x", logging.INFO, "", 0, "m", None, None)
        record.created = 0.000025
        logs._second.cache_clear()
        assert "1970-01-01T00:00:00.000025Z" in lines().format(record)
    time.tzset()


def test_colours_are_for_terminals() -> None:
    record = logging.LogRecord("x", logging.WARNING, "", 0, "said", None, None)
    assert "\033" not in logs.PrettyLines().format(record)

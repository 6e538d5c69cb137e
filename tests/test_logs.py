"""The lines that the server logs: what they tell, and what they never do."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from conftest import Api, Create
from gunicorn.config import Config
from support import KEYS, LATEST, bearer, perfgate_server, receipt, serving, wait_for
from werkzeug.test import EnvironBuilder, run_wsgi_app

from perfgate_server import Role, ServerConfig, logs
from perfgate_server.records import now
from perfgate_server.storage.base import Unavailable


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
    b"GET /health HTTP/1.1\r\nHost: x\r\nX-Api-Key: aHVudGVyMg\r\nX-Token: aHVudGVyMg\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\nX-Client-Secret: aHVudGVyMg\r\nPassword: hunter2\r\n\r\n",
    b"GET /health HTTP/1.1\r\nHost: x\r\nX-Jwt-Assertion: aHVudGVyMg\r\nX-Csrf: hunter2\r\n\r\n",
    b"GET /pg%255Ftest%255F" + b"A" * 32 + b"/x HTTP/1.1\r\nHost: x\r\n\r\n",
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
    for secret in (KEYS["admin"], KEYS["viewer"], "aHVudGVyMg", "hunter2", encoded, "A" * 32):
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


def test_a_line_for_people_tells_who_was_refused_before_the_application_and_why(
    tmp_path: Path,
) -> None:
    with serving(perfgate_server("--log-format", "pretty"), tmp_path) as server:
        server.raw(b"nonsense\r\n\r\n")
        wait_for(lambda: "refused by gunicorn" in server.log, "the line")
        (line,) = [line for line in server.log.splitlines() if "refused by gunicorn" in line]
        assert re.search(
            r" request_id=\w{32} status=400 reason=Invalid\w+ error=The .* client=127\.0\.0\.1$",
            line,
        ), line


def test_with_level_warn_a_server_that_does_well_says_nothing(tmp_path: Path) -> None:
    with serving(perfgate_server("--log-level", "warn"), tmp_path) as server:
        assert server.request("GET", LATEST)[0] == 404
        server.stop()
        assert server.log == ""


@pytest.mark.parametrize(
    ("error", "level"),
    [(TimeoutError(), "DEBUG"), (BlockingIOError(), "DEBUG"), (ZeroDivisionError(), "ERROR")],
)
def test_a_client_that_stops_is_no_failure_and_what_gunicorn_fails_at_is_one(
    caplog: pytest.LogCaptureFixture, error: Exception, level: str
) -> None:
    logger = logs.GunicornLogger(Config())
    caplog.set_level("DEBUG")
    caplog.set_level("DEBUG", "gunicorn.error")
    try:
        raise error
    except type(error):
        logger.exception("it failed")
    (record,) = caplog.records
    assert (record.levelname, bool(record.exc_info)) == (level, level == "ERROR")


def test_of_what_gunicorn_says_paths_are_decoded_and_errors_only_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Its errors quote what was sent."""
    logger = logs.GunicornLogger(Config())
    caplog.set_level("DEBUG")
    caplog.set_level("DEBUG", "gunicorn.error")
    for say in (logger.debug, logger.info):
        say("%s %s %d: %s", "GET", "/%70%67", 7, ValueError("secret"), extra={"reason": "x"})
    assert caplog.messages == ["GET /pg 7: ValueError"] * 2
    assert [vars(record)["reason"] for record in caplog.records] == ["x", "x"]


@pytest.mark.parametrize("option", ["errorlog", "accesslog", "logconfig"])
def test_a_file_for_gunicorn_s_logs_is_told_not_to_be_used(
    caplog: pytest.LogCaptureFixture, option: str
) -> None:
    config = Config()
    logs.GunicornLogger(config)
    assert not caplog.records
    config.set(option, "/dev/null")
    logs.GunicornLogger(config)
    (record,) = caplog.records
    assert record.levelname == "WARNING" and "are not used" in record.getMessage()


@pytest.mark.parametrize("level", ["info", "debug"])
def test_what_gunicorn_says_of_itself_is_for_debugging(tmp_path: Path, level: str) -> None:
    with serving(perfgate_server("--log-level", level), tmp_path) as server:
        server.stop()
        said = {line["logger"] for line in map(json.loads, server.log.splitlines())}
    assert ("gunicorn.error" in said) == (level == "debug")
    assert {name for name in said if not name.startswith("perfgate_server")} <= {"gunicorn.error"}


def test_what_is_no_json_stands_in_a_line_as_text() -> None:
    """A library's own field may be anything; the line would be lost."""
    code = (
        "import logging, pathlib; from perfgate_server import logs; logs.configure('info', 'json');"
        " logging.warning('said', extra={'where': pathlib.Path('/x')})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert json.loads(result.stderr)["where"] == "/x"


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


@pytest.mark.parametrize(
    ("level", "tag"),
    [
        (logs.TRACE, "\033[2mtrace\033[0m"),
        (logging.DEBUG, "\033[2mdebug\033[0m"),
        (logging.INFO, "\033[32minfo \033[0m"),
        (logging.WARNING, "\033[33mwarn \033[0m"),
        (logging.ERROR, "\033[31merror\033[0m"),
    ],
)
def test_colours_are_for_terminals(monkeypatch: pytest.MonkeyPatch, level: int, tag: str) -> None:
    record = logging.LogRecord("x", level, "", 0, "said", None, None)
    assert "\033" not in logs.PrettyLines().format(record)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert f"Z {tag} said" in logs.PrettyLines().format(record)


def test_what_is_critical_is_an_error() -> None:
    """There is no level above it to alert on."""
    record = logging.LogRecord("x", logging.CRITICAL, "", 0, "said", None, None)
    assert json.loads(logs.JsonLines().format(record))["level"] == "error"
    assert "Z error said" in logs.PrettyLines().format(record)


def test_a_line_of_any_logger_says_when_how_bad_and_who_says_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also at a level of its own."""
    for number, name, level in ((logging.WARNING, "WARNING", "warn"), (25, "NOTICE", "notice")):
        record = logging.LogRecord("library", number, "", 0, "said %s", ("so",), None)
        record.levelname, record.created = name, 1772971201.25
        vars(record)["request_id"] = "job-7"
        assert json.loads(logs.JsonLines().format(record)) == {
            "time": "2026-03-08T12:00:01.250000Z",
            "level": level,
            "logger": "library",
            "message": "said so",
            "request_id": "job-7",
        }
        line = logs.PrettyLines().format(record)
        assert line == f"2026-03-08T12:00:01.250000Z {level:5} said so request_id=job-7"
    with monkeypatch.context() as patched:
        patched.setattr(sys.stderr, "isatty", lambda: True)
        assert "Z \033[0mnotice\033[0m said so" in logs.PrettyLines().format(record)


def test_people_are_shown_where_it_failed_and_nothing_raw() -> None:
    try:
        raise ZeroDivisionError("\x1b[2J" + KEYS["admin"])
    except ZeroDivisionError:
        record = logging.LogRecord("x", logging.ERROR, "", 0, "said", None, sys.exc_info())
    first, *traceback = logs.PrettyLines().format(record).split("\n")
    assert first.endswith(" said") and traceback[0].startswith("Traceback")
    assert traceback[-1].startswith(r"ZeroDivisionError: \x1b[2J")
    assert all(line.isprintable() and KEYS["admin"] not in line for line in traceback)
    assert KEYS["admin"] not in logs.JsonLines().format(record)


# -- what a request's line is, in this process


@pytest.fixture
def logged(create: Create, caplog: pytest.LogCaptureFixture) -> Api:
    """An API of its own, whose lines `caplog` has."""
    caplog.set_level("INFO")
    return Api(create(ServerConfig().api_key(KEYS["admin"], Role.ADMIN)).test_client())


def lines(caplog: pytest.LogCaptureFixture, style: logging.Formatter) -> list[str]:
    return [style.format(record) for record in caplog.records]


@pytest.mark.parametrize(("error", "status"), [(Unavailable("x"), 503), (ZeroDivisionError(), 500)])
def test_the_line_of_what_failed_is_a_warning_and_its_cause_an_error(
    logged: Api,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
) -> None:
    """So that one can alert on errors, and find the request."""

    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(logged.client.application.extensions["perfgate"].storage, "latest", fail)
    answer = logged.get(LATEST)
    assert answer.status_code == status
    cause, line = map(json.loads, lines(caplog, logs.JsonLines()))
    assert (cause["level"], line["level"], line["status"]) == ("error", "warn", status)
    assert cause["request_id"] == line["request_id"] == answer.headers["X-Request-ID"]


def test_a_line_tells_how_much_was_sent(logged: Api, caplog: pytest.LogCaptureFixture) -> None:
    size = len(logged.get(LATEST).data)
    assert logged("HEAD", LATEST).headers["Content-Length"] == str(size)
    logged.upload()
    logged.get(LATEST, headers={"If-None-Match": "*"})
    found = [json.loads(line) for line in lines(caplog, logs.JsonLines())]
    del found[2]
    assert [(line["status"], line["bytes"]) for line in found] == [(404, size), (404, 0), (304, 0)]


def test_a_line_tells_how_many_milliseconds_a_request_took(
    logged: Api, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Those of the storage included."""
    storage = logged.client.application.extensions["perfgate"].storage
    latest, spent = storage.latest, []

    def look(*names: Any, **options: Any) -> Any:
        begun = time.perf_counter()
        try:
            return latest(*names, **options)
        finally:
            spent.append(time.perf_counter() - begun)

    monkeypatch.setattr(storage, "latest", look)
    begun = time.perf_counter()
    logged.get(LATEST)
    whole = time.perf_counter() - begun
    (line,) = lines(caplog, logs.JsonLines())
    assert spent[0] * 1000 <= json.loads(line)["duration_ms"] <= whole * 1000


@pytest.mark.parametrize(
    ("hops", "path", "address"), [(1, "/y/health", "10.0.0.8"), (2, "/x/health", "10.0.0.7")]
)
def test_a_line_tells_the_path_that_the_client_asked_a_proxy_for(
    create: Create, caplog: pytest.LogCaptureFixture, hops: int, path: str, address: str
) -> None:
    caplog.set_level("INFO")
    client = create(ServerConfig(trusted_proxies=hops)).test_client()
    forwarded = {"X-Forwarded-Prefix": "/x, /y", "X-Forwarded-For": "10.0.0.7, 10.0.0.8"}
    client.get("/health", headers=forwarded)
    line = json.loads(lines(caplog, logs.JsonLines())[-1])
    assert (line["path"], line["route"], line["client"]) == (path, "/health", address)


def test_a_line_has_no_more_of_what_a_proxy_says_than_of_a_path(
    create: Create, caplog: pytest.LogCaptureFixture
) -> None:
    """And no half of a key where it is cut."""
    caplog.set_level("INFO")
    client = create(ServerConfig(trusted_proxies=1)).test_client()
    many = "/x" * (logs._LONGEST_PATH // 2 - 10) + KEYS["admin"] + "/x" * 9999
    client.get("/health", headers={"X-Forwarded-Prefix": f"/{many}", "X-Forwarded-For": many})
    line = json.loads(lines(caplog, logs.JsonLines())[-1])
    assert (len(line["path"]), len(line["client"])) == (logs._LONGEST_PATH, logs._LONGEST_ERROR)
    assert "…/x" in line["path"]


def test_no_part_of_a_key_stands_where_an_error_is_cut(
    logged: Api, caplog: pytest.LogCaptureFixture
) -> None:
    benchmark = "x" * 256
    logged.upload(benchmark)
    logged.get(f"/projects/p/baselines/{benchmark}/versions/{KEYS['admin']}")
    line = lines(caplog, logs.JsonLines())[-1]
    assert len(json.loads(line)["error"]) == 300
    assert "pg_test_A" not in line


def test_a_line_for_people_tells_who_asked_and_what_came_of_it(
    logged: Api, caplog: pytest.LogCaptureFixture
) -> None:
    logged.upload()
    logged("POST", "/projects/p/baselines/b/compare", json=receipt(200))
    logged.get(LATEST, role=None)
    logged.get(LATEST, role=None, headers=bearer("viewer"))  # a key that is not known here
    ids = [hashlib.sha256(KEYS[role].encode()).hexdigest()[:8] for role in ("admin", "viewer")]
    _, compared, nobody, unknown = lines(caplog, logs.PrettyLines())
    assert re.search(rf" 200 [\d.]+ ms \d+ B admin:{ids[0]} \w+ fail$", compared)
    assert re.search(r" 401 [\d.]+ ms \d+ B - \w+ ", nobody)
    assert re.search(rf" 401 [\d.]+ ms \d+ B unknown:{ids[1]} \w+ The API key is not ", unknown)


def test_a_line_needs_no_word_of_where_the_application_is_mounted(
    logged: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """PEP 3333 lets a WSGI server leave out what is empty."""
    environ = EnvironBuilder(path="/health").get_environ()
    del environ["SCRIPT_NAME"]
    run_wsgi_app(logged.client.application, environ)
    (line,) = lines(caplog, logs.JsonLines())
    assert (json.loads(line)["path"], json.loads(line)["status"]) == ("/health", 200)


def test_a_line_tells_the_time_of_its_request(
    logged: Api, caplog: pytest.LogCaptureFixture
) -> None:
    before = now()
    logged.get(LATEST)
    (line,) = lines(caplog, logs.JsonLines())
    assert before <= json.loads(line)["time"] <= now()


def test_handlers_of_others_can_write_a_request_s_line(
    logged: Api, caplog: pytest.LogCaptureFixture
) -> None:
    """An application that one makes oneself may have them. They are told no process, rather than
    that of whoever imported us."""
    logged.get(LATEST)
    (record,) = caplog.records
    milliseconds = int(record.created % 1 * 1000)
    style = "%(asctime)s %(levelname)s %(message)s of %(process)s %(threadName)s"
    (line,) = lines(caplog, logging.Formatter(style))
    assert line.endswith(f",{milliseconds:03} INFO request of None None")

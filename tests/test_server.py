"""The server as real processes: how it starts, serves, logs and stops."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import json
import logging
import os
import re
import signal
import socket
import sqlite3
import ssl
import statistics
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import click
import pytest
from support import (
    EVERY_KEY,
    KEYS,
    PATIENCE,
    ROOT,
    Server,
    bearer,
    environment,
    free_port,
    perfgate_server,
    program,
    receipt,
    serving,
    wait_for,
)

from perfgate_server import ServerConfig, logs
from perfgate_server.app import _development_url
from perfgate_server.config import ConfigError
from perfgate_server.server import gunicorn_settings

LATEST = "/projects/p/baselines/b/latest"


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


def sqlite_server(folder: Path, *more: str, **options: Any) -> Any:
    path = str(folder / "perfgate.db")
    arguments = perfgate_server("--storage-type", "sqlite", "--database-url", path, *more)
    return serving(arguments, folder, **options)


# -- the launch modes


def drive(server: Server) -> None:
    """Do what a team does: upload, read, promote, list, delete; and be refused."""
    assert (
        server.request("PUT", "/projects/p/baselines/b/versions/v1", json.dumps(receipt()))[0]
        == 201
    )
    status, headers, body = server.request("GET", LATEST)
    assert status == 200 and json.loads(body)["receipt"] == receipt()
    assert server.request("GET", LATEST, headers={"If-None-Match": headers["etag"]})[0] == 304
    promote = {"from_version": "v1", "to_version": "v2"}
    path = "/api/v1/projects/p/baselines/b/promote"
    assert server.request("POST", path, promote)[0] == 201
    assert server.request("POST", path, promote, role="contributor")[0] == 403
    assert server.request("GET", LATEST, role=None)[0] == 401
    listed = json.loads(server.request("GET", "/projects/p/baselines?benchmark=b")[2])
    assert [entry["version"] for entry in listed["baselines"]] == ["v2", "v1"]
    assert server.request("DELETE", "/projects/p/baselines/b/versions/v2")[0] == 200
    (line,) = [line for line in server.lines() if line["method"] == "DELETE"]
    assert line["route"] == "/projects/{project}/baselines/{benchmark}/versions/{version}"


@pytest.mark.parametrize("storage_type", ["memory", "sqlite"])
def test_perfgate_server(tmp_path: Path, storage_type: str) -> None:
    with serving(perfgate_server("--storage-type", storage_type), tmp_path) as server:
        drive(server)
        assert server.stop() == 0


def test_gunicorn_finds_the_same_settings(tmp_path: Path) -> None:
    database = tmp_path / "perfgate.db"
    variables = {"PERFGATE_API_KEYS": EVERY_KEY, "PERFGATE_DATABASE_URL": str(database)}
    port = free_port()
    variables |= {"PERFGATE_BIND": "127.0.0.1", "PERFGATE_PORT": str(port)}
    command = [program("gunicorn"), "wsgi:app"]
    with serving(command, tmp_path, port=port, cwd=ROOT, **variables) as server:
        drive(server)
        status, body = parse(server.raw(b"GET / HTTP/1.1\r\nno colon\r\n\r\n"))
        assert (status, body["error"]["code"]) == (400, "VALIDATION_ERROR")
        assert server.lines("stopped") == []
        assert server.stop() == 0
        assert len(server.lines("stopped")) == 1
    assert database.is_file()
    assert not (ROOT / "perfgate.db").exists()


def test_flask_run(tmp_path: Path) -> None:
    command = [program("flask"), "--app", "perfgate_server", "run", "--port", "{port}"]
    with serving(command, tmp_path, PERFGATE_API_KEYS=EVERY_KEY) as server:
        drive(server)
        assert "Running on" in server.log and " - - [" not in server.log


def test_as_a_library(tmp_path: Path) -> None:
    """run_server returns when it was told to stop."""
    code = (
        "from perfgate_server import Role, ServerConfig, run_server\n"
        f"config = ServerConfig(bind='127.0.0.1', port={{port}}, storage_type='sqlite',"
        f" database_url='perfgate.db').api_key('{KEYS['admin']}', Role.ADMIN)"
        f".api_key('{KEYS['contributor']}', Role.CONTRIBUTOR)\n"
        "run_server(config)\n"
        "import signal, sys\n"
        "print('after', file=sys.stderr)\n"
        "signal.raise_signal(signal.SIGTERM)"
    )
    with serving([program("python"), "-c", code], tmp_path) as server:
        drive(server)
        assert server.stop() == -signal.SIGTERM  # by now it is the caller's again
        assert server.log.endswith("after\n") and server.log.count("after\n") == 1
    assert (tmp_path / "perfgate.db").is_file()


def test_the_module_runs_too(tmp_path: Path) -> None:
    result = subprocess.run(
        [program("python"), "-m", "perfgate_server", "--version"],
        capture_output=True,
        text=True,
        env=environment(),
    )
    assert re.fullmatch(r"perfgate-server, version \d+\.\d+\.\d+\n", result.stdout)


# -- starting


@pytest.mark.parametrize(
    "command",
    [
        perfgate_server(),
        [program("flask"), "--app", "perfgate_server", "run", "--port", "{port}"],
    ],
    ids=["perfgate-server", "flask"],
)
def test_a_misspelt_variable_is_told_at_start(tmp_path: Path, command: list[str]) -> None:
    with serving(command, tmp_path, PERFGATE_STORAGETYPE="sqlite") as server:
        sentence = (
            "PERFGATE_STORAGETYPE is not a perfgate-server variable: did you mean"
            " PERFGATE_STORAGE_TYPE?"
        )
        assert [line["level"] for line in server.lines(sentence)] == ["warn"]


@pytest.mark.parametrize(
    ("host", "port", "url"),
    [
        ("127.0.0.1", 5001, "http://127.0.0.1:5001"),
        ("::1", 5001, "http://[::1]:5001"),
        ("127.0.0.1", 0, "http://127.0.0.1:PORT"),
    ],
)
def test_the_line_to_try_a_made_key_holds_a_url(host: str, port: int, url: str) -> None:
    with click.Context(click.Command("run")) as context:
        context.params = {"host": host, "port": port}
        assert _development_url() == url


def test_one_line_on_start_tells_where_what_and_who(tmp_path: Path) -> None:
    with sqlite_server(tmp_path, "--log-format", "pretty") as server:
        (line,) = server.log.splitlines()[:1]
        assert f"listening on http://127.0.0.1:{server.port}" in line
        assert f"sqlite at {tmp_path}/perfgate.db" in line
        assert "1 viewer, 1 contributor, 1 promoter, 1 admin" in line


def run(*arguments: str, folder: Path | None = None, **variables: str) -> Any:
    return subprocess.run(
        [program(), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=folder,
        env=environment(**variables),
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--api-keys", "viewer:short"], "pg_live_ or pg_test_ followed by 32 or more"),
        (["--api-keys", KEYS["admin"]], "role:key"),
        ([f"admin:{KEYS['admin']}"], "No such command"),
        (["--storage-type", f"admin:{KEYS['admin']}"], "memory, sqlite, postgres"),
        (["--api-keys", EVERY_KEY, "--api-keys", EVERY_KEY], "twice"),
        (["--api-keys-file", "/nowhere"], "No such file"),
        (["--port", "http"], "--port"),
        (["--port"], "--port"),
        (["--nonsense"], "--nonsense"),
        (["--api-keys", f"viewer:{KEYS['viewer']}:p:[[a]"], "no regular expression"),
        (["--bind", "256.1.1.1"], "256.1.1.1"),
        (["--bind", "a\nb"], "a\\nb"),
        (["--storage-type", "postgres"], "postgresql://"),
        (["--storage-type", "sqlite", "--database-url", "/nowhere/x.db"], "/nowhere"),
        (["--storage-type", "sqlite", "--database-url", "/"], "directory"),
        (["--storage-type", "sqlite", "--database-url", "x" * 300], "too long"),
        (["--storage-type", "sqlite", "--database-url", ""], "empty"),
        (["--workers", "2"], "one process"),
    ],
    ids=range(18),
)
def test_what_is_wrong_is_one_line_and_status_2(
    tmp_path: Path, arguments: list[str], said: str
) -> None:
    result = run(*arguments, folder=tmp_path)
    assert result.returncode == 2
    assert result.stderr.startswith("Error: ") and result.stderr.count("\n") == 1
    assert said in result.stderr
    assert KEYS["admin"] not in result.stderr
    assert result.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_port_in_use_is_one_line_and_status_2(server: Server, tmp_path: Path) -> None:
    """And the database of whoever listens there is not upgraded behind its back."""
    database = str(tmp_path / "perfgate.db")
    storage = ("--storage-type", "sqlite", "--database-url", database)
    result = run("--bind", "127.0.0.1", "--port", str(server.port), *storage)
    assert not (tmp_path / "perfgate.db").exists()
    assert result.returncode == 2
    assert result.stderr == (
        f"Error: cannot listen on 127.0.0.1 port {server.port}: Address already in use\n"
    )


@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"PERFGATE_API_KEYS": "viewer:short"},
        {"PERFGATE_API_KEYS": EVERY_KEY, "PERFGATE_STORAGE_TYPE": "memory"},
        {"PERFGATE_API_KEYS": EVERY_KEY, "PERFGATE_DATABASE_URL": "/nowhere/x.db"},
        {"PERFGATE_API_KEYS": EVERY_KEY, "PERFGATE_WORKERS": "many"},
    ],
    ids=range(5),
)
def test_gunicorn_refuses_to_start_without_what_it_needs(variables: dict[str, str]) -> None:
    """With our settings in one line; without them it ends too, and starts no workers for ever."""
    for more, status in (([], 2), (["-c", os.devnull, "--bind", "127.0.0.1:0"], 3)):
        result = subprocess.run(
            [program("gunicorn"), *more, "wsgi:app"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            cwd=ROOT,
            env=environment(**variables),
        )
        assert result.returncode == status, result.stderr
        assert "Error: " in result.stderr and "Traceback" not in result.stderr
        if not more:
            assert result.stderr.count("\n") == 1


def test_gunicorn_listens_on_the_ipv6_address_that_is_named(tmp_path: Path) -> None:
    """Without the brackets it would listen on every address there is."""
    result = subprocess.run(
        [program("gunicorn"), "--print-config", "wsgi:app"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        env=environment(
            PERFGATE_API_KEYS=EVERY_KEY,
            PERFGATE_DATABASE_URL=str(tmp_path / "perfgate.db"),
            PERFGATE_BIND="::1",
        ),
    )
    assert re.search(r"^bind += \['\[::1\]:8080'\]$", result.stdout, re.MULTILINE), result.stderr


def test_what_is_no_tls_is_refused_by_gunicorn_and_no_failure(tmp_path: Path) -> None:
    """Alerts come of lines of level error, and a scanner would make as many as it likes."""
    key, cert, log = (tmp_path / name for name in ("key", "cert", "log"))
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*new, "-keyout", key, "-out", cert], check=True, capture_output=True)
    trusting, port = ssl.create_default_context(cafile=cert), free_port()

    def answers() -> bool:
        connection = http.client.HTTPSConnection("localhost", port, context=trusting)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/health")
            return connection.getresponse().status == 200
        return False

    variables = {"PERFGATE_DATABASE_URL": str(tmp_path / "perfgate.db")}
    variables |= {"PERFGATE_BIND": "127.0.0.1", "PERFGATE_PORT": str(port)}
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [program("gunicorn"), "--keyfile", key, "--certfile", cert, "wsgi:app"],
            stderr=stderr,
            cwd=ROOT,
            env=environment(PERFGATE_API_KEYS=EVERY_KEY, **variables),
        )
    try:
        wait_for(answers, "health by TLS")
        with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as plain:
            plain.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
            plain.recv(65536)
        wait_for(lambda: "refused by gunicorn" in log.read_text(), "the refusal's line")
        assert '"error"' not in log.read_text() and answers()
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_gunicorn_must_have_read_our_settings(tmp_path: Path) -> None:
    """Without them each of its workers would create a database that was removed."""
    database = tmp_path / "perfgate.db"
    result = subprocess.run(
        [program("gunicorn"), "-c", os.devnull, "--bind", "127.0.0.1:0", "wsgi:app"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        env=environment(PERFGATE_API_KEYS=EVERY_KEY, PERFGATE_DATABASE_URL=str(database)),
    )
    assert result.returncode == 3
    assert "Error: gunicorn has not read gunicorn.conf.py" in result.stderr
    assert not database.exists()


def test_flask_run_says_what_is_wrong_in_one_line() -> None:
    result = subprocess.run(
        [program("flask"), "--app", "perfgate_server", "run", "--port", "0"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        env=environment(PERFGATE_STORAGE_TYPE="mysql"),
    )
    assert result.returncode == 2
    assert result.stderr.startswith("Error: ") and "Traceback" not in result.stderr


@pytest.mark.parametrize(
    "command",
    [
        [program(), "--bind", "127.0.0.1", "--port", "{port}"],
        [program("flask"), "--app", "perfgate_server", "run", "--port", "{port}"],
    ],
    ids=["perfgate-server", "flask"],
)
def test_without_a_key_one_is_made_and_printed_once(tmp_path: Path, command: list[str]) -> None:
    with serving(command, tmp_path) as server:
        (key, *more) = re.findall(r"^  (pg_test_\w{32,})$", server.log, re.MULTILINE)
        assert not more
        (curl,) = re.findall(r"^  (curl .*)$", server.log, re.MULTILINE)
        answer = subprocess.run(["sh", "-c", f"{curl} -s"], capture_output=True, text=True)
        assert json.loads(answer.stdout)["baselines"] == []
        assert server.request("GET", LATEST)[0] == 401
        made = {"Authorization": f"Bearer {key}"}
        assert server.request("GET", LATEST, headers=made, role=None)[0] == 404


def test_clients_that_come_at_once_are_shared_out(tmp_path: Path) -> None:
    """They keep their connections, and a worker has one core to serve its own with."""
    command = perfgate_server("--storage-type", "sqlite", "--workers", "2")
    with serving(command, tmp_path) as server:

        def come_at_once() -> list[int]:
            with contextlib.ExitStack() as clients:
                for _ in range(8):
                    address = ("127.0.0.1", server.port)
                    clients.enter_context(socket.create_connection(address))
                wait_for(lambda: sum(_accepted(server)) == 8, "eight connections")
                counts = _accepted(server)
            wait_for(lambda: not sum(_accepted(server)), "no connection")
            return counts

        # It is healthy as soon as one worker is.
        wait_for(lambda: sum(map(bool, come_at_once())) == 2, "two workers that take clients")
        most = [max(come_at_once()) for _ in range(12)]
        # First come, first served is 6 to 8.
        assert statistics.median(most) <= 5, most


def test_clients_that_are_all_with_one_worker_are_shared_out(tmp_path: Path) -> None:
    """As after the death of the other, or when they came before it was there: they keep their
    connections for ever."""
    command = perfgate_server("--storage-type", "sqlite", "--workers", "2")
    with serving(command, tmp_path) as server, ThreadPoolExecutor(8) as threads:
        done = threading.Event()

        def ask(_: int) -> set[int]:
            connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=PATIENCE)
            statuses = set()
            with contextlib.closing(connection):
                while not done.is_set():
                    connection.request("GET", "/health")
                    answer = connection.getresponse()
                    answer.read()
                    statuses.add(answer.status)
            return statuses

        wait_for(lambda: len(server.workers()) == 2, "two workers")
        os.kill(server.workers()[1], signal.SIGSTOP)
        asking = [threads.submit(ask, number) for number in range(8)]
        try:
            wait_for(lambda: _accepted(server) == [8, 0], "eight clients of one worker")
            os.kill(server.workers()[1], signal.SIGCONT)
            wait_for(lambda: max(_accepted(server)) <= 5, "as many clients of the other")
        finally:
            done.set()
        assert [one.result() for one in asking] == [{200}] * 8


def test_each_worker_keeps_to_a_core(tmp_path: Path) -> None:
    """The workers are spread over the cores that the server may use, and a new worker takes the
    core of the one that died."""
    allowed = sorted(os.sched_getaffinity(0))
    command = perfgate_server("--storage-type", "sqlite", "--workers", str(len(allowed)))
    with serving(command, tmp_path) as server:

        def spread() -> bool:
            try:
                cores = [core for pid in server.workers() for core in os.sched_getaffinity(pid)]
            except ProcessLookupError:
                return False
            return sorted(cores) == allowed

        wait_for(spread, "a core for each worker")
        for _ in range(3):
            killed = server.workers()[0]
            os.kill(killed, signal.SIGKILL)
            wait_for(lambda gone=killed: gone not in server.workers(), "the end of the worker")
            wait_for(spread, "a new worker on the free core")


def test_variables_configure_and_options_win(tmp_path: Path) -> None:
    variables = {
        "PERFGATE_BIND": "127.0.0.1",
        "PERFGATE_PORT": "1",
        "PERFGATE_API_KEYS": f"viewer:{KEYS['viewer']}",
        "PERFGATE_STORAGE_TYPE": "sqlite",
        "PERFGATE_NO_CORS": "true",
        "WEB_CONCURRENCY": "7",
        "PERFGATE_WORKERS": "1",
        "GUNICORN_CMD_ARGS": "--bind 127.0.0.1:1",
    }
    with serving([program(), "--port", "{port}"], tmp_path, **variables) as server:
        status, headers, _ = server.request("GET", LATEST, role="viewer")
        assert status == 404 and "access-control-allow-origin" not in headers
        assert len(server.workers()) == 1
        assert server.request("GET", LATEST, role="admin")[0] == 401
    assert (tmp_path / "perfgate.db").is_file()


def test_a_file_of_keys_and_no_cross_origin_headers_are_options_too(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"viewer:{KEYS['viewer']}\n")
    options = ["--bind", "127.0.0.1", "--port", "{port}", "--api-keys-file", "keys", "--no-cors"]
    with serving([program(), *options], tmp_path) as server:
        status, headers, _ = server.request("GET", LATEST, role="viewer")
        assert status == 404 and "access-control-allow-origin" not in headers
        refused = server.raw(b"nonsense\r\n\r\n")
        assert refused.startswith(b"HTTP/1.1 400 ") and b"Access-Control" not in refused


def test_nothing_is_written_but_the_database(tmp_path: Path) -> None:
    """No control socket, no files in the home directory."""
    home = tmp_path / "home"
    home.mkdir()
    with sqlite_server(tmp_path, HOME=str(home)) as server:
        assert server.put("b", "v1") == 201
        assert list(home.iterdir()) == []


# -- stopping


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
@pytest.mark.parametrize("group", [False, True], ids=["main", "group"])
def test_requests_in_flight_are_finished(
    tmp_path: Path, number: signal.Signals, group: bool
) -> None:
    """Also when Ctrl-C on a terminal tells every process of the group at once."""
    with sqlite_server(tmp_path, "--workers", "2") as server:
        lock = sqlite3.connect(tmp_path / "perfgate.db", isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        with ThreadPoolExecutor() as pool:
            uploads = [pool.submit(server.put, "b", f"v{n}") for n in range(2)]
            wait_for(lambda: sum(_accepted(server)) >= 2, "uploads waiting for the lock")
            if group:
                os.killpg(server.process.pid, number)
            else:
                server.process.send_signal(number)
            wait_for(lambda: not _accepts(server), "the end of listening")
            assert not any(upload.done() for upload in uploads)
            lock.rollback()
            assert [upload.result() for upload in uploads] == [201, 201]
        assert server.process.wait(PATIENCE) == 0
        assert len(server.lines("stopped")) == 1
        lock.close()


_SLOW_START = """
import time
from perfgate_server import Role, ServerConfig, run_server, worker
prompt = worker.Worker.init_signals
worker.Worker.init_signals = lambda self: (time.sleep(1), prompt(self))
run_server(ServerConfig(bind="127.0.0.1", port=0))
"""


def test_a_worker_that_is_still_starting_stops_too() -> None:
    """It does not miss the signal, however young it is."""
    process = subprocess.Popen(
        [program("python"), "-c", _SLOW_START], stderr=subprocess.DEVNULL, env=environment()
    )
    server = Server(process, 0, Path(os.devnull))
    wait_for(server.workers, "a worker")
    assert server.stop() == 0


def _accepted(server: Server) -> list[int]:
    """Return how many connections each worker has."""
    local = f"0100007F:{server.port:04X}"
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    accepted = {row[9] for row in rows if row[1] == local and row[3] == "01"}
    counts = []
    for pid in server.workers():
        held = set()
        for fd in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                held.add(os.readlink(fd).removeprefix("socket:[").removesuffix("]"))
        counts.append(len(accepted & held))
    return counts


def _accepts(server: Server) -> bool:
    try:
        socket.create_connection(("127.0.0.1", server.port), timeout=1).close()
    except OSError:
        return False
    return True


# -- what gunicorn answers itself


def parse(answer: bytes) -> tuple[int, dict[str, Any]]:
    """Return status and body of a raw answer, after checking that it is an envelope of ours."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1."), answer
    assert b"\nContent-Type: application/json" in head, answer
    assert b"\nX-Request-ID: " in head, answer
    assert b"\nAccess-Control-Allow-Origin: *" in head, answer
    return int(head.split()[1]), json.loads(body)


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
    answered, body = parse(server.raw(sent))
    # gunicorn's parser in C tells an unknown coding from a bad one only since 0.6.12.
    assert answered == status or (status, answered) == (501, 400)
    assert set(body["error"]) == {"code", "message", "details", "request_id"}
    assert body["error"]["details"] or answered != 400


def test_a_refusal_by_gunicorn_is_found_in_the_log_by_its_id(server: Server) -> None:
    _, body = parse(server.raw(b"nonsense\r\n\r\n"))
    logged = [line["request_id"] for line in server.lines("refused by gunicorn")]
    assert body["error"]["request_id"] in logged


def test_a_key_with_the_line_end_of_windows_is_explained(server: Server) -> None:
    sent = b"GET /health HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer x\r\r\n\r\n"
    status, body = parse(server.raw(sent))
    assert (status, "a carriage return" in body["error"]["message"]) == (400, True)


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
    answered, body = parse(server.raw(sent))
    assert (answered, body["status"]) == (200, "healthy")


def test_bodies_that_are_too_large_are_refused_before_they_are_read(server: Server) -> None:
    """By their announced length at once; by their chunks once they pass the limit."""
    head = b"PUT /projects/p/baselines/b/versions/v HTTP/1.1\r\nHost: x\r\n"
    head += f"Authorization: Bearer {KEYS['admin']}\r\n".encode()
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(head + b"Content-Length: 10000000000\r\n\r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    with socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) as connection:
        connection.sendall(head + b"Transfer-Encoding: chunked\r\n\r\n" + chunk + b"1\r\n \r\n")
        assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")


def test_curl_sees_the_413_of_a_large_file(server: Server, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.write_bytes(b" " * 5_000_000)
    for more in ([], ["-H", "Expect:"], ["-H", "Transfer-Encoding: chunked"]):
        result = curl(server, "versions/v1", "-T", str(large), *more)
        assert result == ("413", "PAYLOAD_TOO_LARGE"), more


def curl(server: Server, path: str, *arguments: str) -> tuple[str, Any]:
    """Return the status and the error's code of one curl call below project p, benchmark b."""
    command = [
        "curl",
        "-s",
        "-w",
        "\n%{http_code}",
        "-H",
        f"Authorization: {bearer()['Authorization']}",
    ]
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
    head = b"PUT /projects/p/baselines/b/versions/v HTTP/1.1\r\nHost: x\r\n"
    head += f"Authorization: Bearer {KEYS['admin']}\r\nTransfer-Encoding: chunked\r\n\r\n".encode()
    status, body = parse(server.raw(head + framing))
    assert (status, body["error"]["code"]) == (400, "VALIDATION_ERROR")


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


def test_clients_that_stop_in_the_middle_hold_their_threads_only_so_long(tmp_path: Path) -> None:
    """--timeout bounds it: honest clients get their answer then."""
    head = f"PUT /projects/p/baselines/b/versions/v HTTP/1.1\r\nHost: x\r\n{_key_line()}".encode()
    with serving(perfgate_server("--threads", "2", "--timeout", "1"), tmp_path) as server:
        stalled = [
            socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE) for _ in range(4)
        ]
        for number, connection in enumerate(stalled):
            connection.sendall(head + b"Content-Length: 9\r\n\r\nx" if number % 2 else head)
        began = time.monotonic()
        assert server.request("GET", "/health", role=None)[0] == 200
        assert time.monotonic() - began < 10
        answers = [connection.recv(65536) for connection in stalled]
        assert [answer[:13] for answer in answers] == [b"", b"HTTP/1.1 408 "] * 2
        assert b"\r\nConnection: close\r\n" in answers[1]
        assert "Traceback" not in server.log
        for connection in stalled:
            connection.close()


def _key_line() -> str:
    return f"Authorization: Bearer {KEYS['admin']}\r\n"


# -- storage under it


def test_what_the_storage_does_not_give_in_time_is_503(tmp_path: Path) -> None:
    """With Retry-After, and before a client that has the same timeout gives up; health tells the
    same of a file that is gone."""
    database = tmp_path / "perfgate.db"
    with sqlite_server(tmp_path, "--timeout", "2", "--workers", "1") as server:
        assert server.put("b", "v1") == 201
        lock = sqlite3.connect(database, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        body = json.dumps(receipt())
        status, headers, text = server.request("PUT", "/projects/p/baselines/b/versions/v2", body)
        assert (status, headers["retry-after"]) == (503, "1")
        assert 1 < time.monotonic() - began < 2
        assert json.loads(text)["error"]["code"] == "UNAVAILABLE"
        assert "locked" not in text.decode() and "locked" in server.log
        assert server.request("GET", LATEST)[0] == 200
        lock.close()
        assert server.put("b", "v2") == 201
        database.rename(tmp_path / "away")
        status, _, text = server.request("GET", "/health", role=None)
        assert status == 503
        assert json.loads(text)["status"] == json.loads(text)["storage"]["status"] == "unhealthy"
        assert server.put("b", "v3") == 503
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: server.workers() not in ([], [worker]), "a new worker")
        wait_for(lambda: _status(server) == 503, "its answer")
        assert not database.exists()
        (tmp_path / "away").rename(database)
        assert server.request("GET", "/health", role=None)[0] == 200
        assert server.put("b", "v3") == 201


def _status(server: Server) -> int | None:
    try:
        return server.request("GET", "/health", role=None)[0]
    except OSError:
        return None


def test_twenty_parallel_uploads_by_curl(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(receipt()))
    with sqlite_server(tmp_path, "--workers", "2") as server:
        command = (
            "for i in $(seq 20); do curl -s -o /dev/null -w '%{http_code}\\n'"
            f" -H '{_key_line().strip()}' -T {file}"
            f" {server.url}/projects/p/baselines/b/versions/v$i & done; wait"
        )
        result = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
        assert result.stdout.split() == ["201"] * 20
        listed = json.loads(server.request("GET", "/projects/p/baselines?benchmark=b")[2])
        assert listed["pagination"]["total"] == 20


def test_of_racing_writers_in_several_processes_one_wins(tmp_path: Path) -> None:
    with sqlite_server(tmp_path, "--workers", "2", "--threads", "4") as server:
        with ThreadPoolExecutor(8) as pool:
            for turn in range(5):
                barrier = threading.Barrier(8)

                def upload(number: int, turn: int = turn, barrier: Any = barrier) -> int:
                    barrier.wait()
                    return server.put("b", f"v{turn}", receipt(wall_ms=number))

                assert sorted(pool.map(upload, range(8))) == [201] + [409] * 7
            barrier = threading.Barrier(8)

            def promote(number: int) -> int:
                barrier.wait()
                body = {"from_version": f"v{number % 2}", "to_version": "prod"}
                return server.request("POST", "/projects/p/baselines/b/promote", body)[0]

            statuses = sorted(pool.map(promote, range(8)))
            assert statuses == [200] * 3 + [201] + [409] * 4
        listed = json.loads(server.request("GET", "/projects/p/baselines?benchmark=b")[2])
        assert listed["pagination"]["total"] == 6


# -- logging


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


def test_a_hangup_replaces_the_workers_and_says_what_it_does_not(tmp_path: Path) -> None:
    with serving(perfgate_server("--storage-type", "sqlite"), tmp_path) as server:
        assert server.put("b", "v1") == 201
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: "keys and settings are read at start alone" in server.log, "the line")
        assert server.put("b", "v2") == 201
        server.stop()


@pytest.mark.parametrize("name", ["SIGHUP", "SIGTTIN", "SIGUSR2"])
def test_no_signal_loses_what_is_in_memory(tmp_path: Path, name: str) -> None:
    """Another process would have a memory of its own."""
    with serving(perfgate_server(), tmp_path) as server:
        assert server.put("b", "v1") == 201
        before = server.workers()
        server.process.send_signal(signal.Signals[name])
        wait_for(lambda: f"{name}: " in server.log, "the line")
        # It has done with that when it comes to the next.
        other = "SIGTTIN" if name == "SIGUSR2" else "SIGUSR2"
        server.process.send_signal(signal.Signals[other])
        wait_for(lambda: f"{other}: " in server.log, "the next line")
        assert [server.request("GET", LATEST)[0] for _ in range(20)] == [200] * 20
        assert server.workers() == before
        assert server.stop() == 0


def test_gunicorn_survives_a_hangup_whatever_its_keys_are_by_then(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    keys.write_text(EVERY_KEY.replace(",", "\n"))
    port = free_port()
    variables = {"PERFGATE_API_KEYS_FILE": str(keys), "PERFGATE_PORT": str(port)}
    variables |= {"PERFGATE_DATABASE_URL": str(tmp_path / "p.db"), "PERFGATE_BIND": "127.0.0.1"}
    command = [program("gunicorn"), "wsgi:app"]
    with serving(command, tmp_path, port=port, cwd=ROOT, **variables) as server:
        before = set(server.workers())
        keys.write_text("nonsense")
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.workers() and not before & set(server.workers()), "new workers")
        wait_for(lambda: _accepts(server), "one that listens")
        assert server.put("b", "v1") == 201
        assert server.stop() == 0


def test_workers_whose_main_process_was_killed_stop_at_once(tmp_path: Path) -> None:
    """The port is free for another server, and nobody waits in a queue that nobody serves."""
    with sqlite_server(tmp_path, "--workers", "2") as server:
        kept = socket.create_connection(("127.0.0.1", server.port), timeout=PATIENCE)
        kept.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n\r\n")
        assert kept.recv(65536).startswith(b"HTTP/1.1 200 ")
        server.process.kill()
        began = time.monotonic()
        wait_for(lambda: not _accepts(server), "the end of listening")
        assert time.monotonic() - began < 10
        kept.close()


def test_a_heartbeat_goes_where_something_can_be_written(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A container may have a root that is read-only whole."""
    config = ServerConfig(api_keys=())
    assert gunicorn_settings(config)["worker_tmp_dir"] == "/dev/shm"
    monkeypatch.setattr("os.access", lambda *_: False)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    assert gunicorn_settings(config)["worker_tmp_dir"] == str(tmp_path)
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setattr("tempfile._candidate_tempdir_list", list)
    with pytest.raises(ConfigError, match="name one in TMPDIR"):
        gunicorn_settings(config)


def test_gunicorn_runs_as_many_workers_and_threads_as_are_asked_for() -> None:
    settings = gunicorn_settings(ServerConfig(storage_type="sqlite", workers=3, threads=7))
    assert (settings["workers"], settings["threads"]) == (3, 7)


@pytest.mark.parametrize("timeout", [0.1, 30.0, 3600.0])
def test_gunicorn_waits_for_longer_than_a_request_may_take(timeout: float) -> None:
    """Before it kills a worker, and as it stops; nor does it close before nginx does (60 s)."""
    settings = gunicorn_settings(ServerConfig(timeout=timeout))
    assert settings["timeout"] >= settings["graceful_timeout"] > timeout + 1
    assert settings["keepalive"] > 60


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

"""The server as real processes: how it starts and serves, and what its storage does to it."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import signal
import socket
import sqlite3
import ssl
import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import click
import pytest
from support import (
    EVERY_KEY,
    KEYS,
    LATEST,
    PATIENCE,
    ROOT,
    Server,
    drive,
    environment,
    free_port,
    gunicorn_server,
    key_line,
    parse_envelope,
    perfgate_server,
    program,
    receipt,
    serving,
    sqlite_server,
    wait_for,
)

from perfgate_server import ServerConfig
from perfgate_server.app import _development_url
from perfgate_server.config import ConfigError
from perfgate_server.server import (
    _bind,
    _listen,
    _url,
    gunicorn_settings,
    start_line,
)
from perfgate_server.wsgi import wsgi_settings

# -- the launch modes


@pytest.mark.parametrize("storage_type", ["memory", "sqlite"])
def test_perfgate_server(tmp_path: Path, storage_type: str) -> None:
    with serving(perfgate_server("--storage-type", storage_type), tmp_path) as server:
        drive(server)
        assert server.stop() == 0


def test_gunicorn_finds_the_same_settings(tmp_path: Path) -> None:
    database = tmp_path / "perfgate.db"
    with gunicorn_server(tmp_path, PERFGATE_LOGLEVEL="debug") as server:
        drive(server)
        assert server.log.count("did you mean PERFGATE_LOG_LEVEL?") == 1
        (line,) = [line for line in server.log.splitlines() if "listening on" in line]
        url = f"http://127.0.0.1:{server.port}"
        assert f"listening on {url}, storing in sqlite at {database}, " in line
        status, body = parse_envelope(server.raw(b"GET / HTTP/1.1\r\nno colon\r\n\r\n"))
        assert (status, body["error"]["code"]) == (400, "VALIDATION_ERROR")
        assert server.lines("stopped") == []
        assert server.stop() == 0
        assert len(server.lines("stopped")) == 1
    assert database.is_file()


@pytest.mark.parametrize("more", [[], ["--keep-alive", "0"]])
def test_gunicorn_takes_its_own_options_too(tmp_path: Path, more: list[str]) -> None:
    """Such as the path of a unix socket, whose other end nobody need trust, and no kept clients."""
    path = tmp_path / "socket"
    both = ["-b", f"unix:{path}", "-b", "127.0.0.1:{port}"]
    with gunicorn_server(tmp_path, *both, *more) as server:
        for headers in (
            b"",
            b"X-Forwarded-Proto: https\r\nX-Forwarded-Ssl: off\r\nSCRIPT_NAME: /x\r\n",
        ):
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(PATIENCE)
                client.connect(str(path))
                client.sendall(b"GET /health HTTP/1.1\r\nHost: x\r\n" + headers + b"\r\n")
                assert client.recv(65536).startswith(b"HTTP/1.1 200 ")
        assert server.stop() == 0


def test_gunicorn_with_another_class_of_workers(tmp_path: Path) -> None:
    """They hear a stop as ours do, and are replaced at a hangup; a line says what they lack."""
    with gunicorn_server(tmp_path, "-k", "gthread", "-w", "2") as server:
        drive(server)
        before = set(server.workers())
        server.process.send_signal(signal.SIGHUP)
        wait_for(lambda: server.workers() and not before & set(server.workers()), "new workers")
        wait_for(lambda: _is_healthy(server), "one that answers")
        assert server.stop() == 0
        assert "SIGKILL" not in server.log and "no client is bounded" in server.log


def _is_healthy(server: Server) -> bool:
    with contextlib.suppress(OSError):
        return server.request("GET", "/health", role=None)[0] == 200
    return False


def test_gunicorn_with_a_socket_for_each_worker(tmp_path: Path) -> None:
    with gunicorn_server(tmp_path, "--reuse-port") as server:
        drive(server)
        assert f"listening on 127.0.0.1:{server.port}, storing in" in server.log
        assert server.stop() == 0


def run_gunicorn(*options: str, **variables: str) -> Any:
    """Run gunicorn on wsgi.py until it ends by itself."""
    return subprocess.run(
        [program("gunicorn"), "--no-control-socket", *options, "wsgi:app"],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        env=environment(**variables),
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["-e", "PERFGATE_DATABASE_URL={folder}/other.db"], "-e"),
        (["-e", "PERFGATE_TIMEOUT=5"], "-e"),
        (["--threads", "513"], "threads must be an integer from 1 to 512"),
        (["--workers", "0"], "workers must be an integer from 1 to "),
    ],
    ids=str,
)
def test_what_gunicorn_s_options_cannot_do_is_one_line_and_status_2(
    tmp_path: Path, options: list[str], said: str
) -> None:
    """The log would name another database, or other limits hold than those that are said."""
    given = [option.replace("{folder}", str(tmp_path)) for option in options]
    database = str(tmp_path / "perfgate.db")
    result = run_gunicorn(
        *given,
        PERFGATE_API_KEYS=EVERY_KEY,
        PERFGATE_DATABASE_URL=database,
        PERFGATE_BIND="127.0.0.1",
        PERFGATE_PORT="0",
    )
    assert result.returncode == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if not line.startswith("{")]
    assert line.startswith("Error: ") and said in line


def test_gunicorn_without_a_folder_for_temporary_files(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def fail() -> str:
        raise ConfigError("no folder")

    monkeypatch.setattr("perfgate_server.server._heartbeats", fail)
    monkeypatch.setenv("PERFGATE_API_KEYS", EVERY_KEY)
    monkeypatch.setenv("PERFGATE_DATABASE_URL", str(tmp_path / "perfgate.db"))
    with pytest.raises(SystemExit) as stop:
        wsgi_settings.__wrapped__()
    assert stop.value.code == 2
    assert capsys.readouterr().err.splitlines()[-1] == "Error: no folder"
    assert list(tmp_path.iterdir()) == []


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
        "assert signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL\n"
        "print('after', file=sys.stderr)\n"
        "signal.raise_signal(signal.SIGTERM)"
    )
    with serving([program("python"), "-c", code], tmp_path) as server:
        drive(server)
        assert server.stop() == -signal.SIGTERM  # by now it is the caller's again
        assert server.log.endswith("after\n") and server.log.count("after\n") == 1
    assert (tmp_path / "perfgate.db").is_file()


def run_code(code: str, **variables: str) -> Any:
    """Run a script of Python beside wsgi.py to its end."""
    return subprocess.run(
        [program("python"), "-c", code],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=ROOT,
        env=environment(**variables),
    )


def test_a_server_that_cannot_start_leaves_its_port_to_the_program() -> None:
    """Which may try again, or serve something else there."""
    port = free_port()
    code = (
        "import socket\n"
        "from perfgate_server import ServerConfig, run_server\n"
        "from perfgate_server.storage.base import CannotOpen\n"
        "try:\n"
        f"    run_server(ServerConfig(bind='127.0.0.1', port={port}, storage_type='sqlite',"
        " database_url='/nowhere/x.db'))\n"
        "except CannotOpen as error:\n"
        f"    socket.socket().bind(('127.0.0.1', {port}))\n"
        "    print('bound')"
    )
    result = run_code(code)
    assert result.stdout == "bound\n", result.stderr


def test_a_program_that_embeds_it_keeps_its_signals() -> None:
    """What it has blocked is blocked after a fork too."""
    result = run_code(
        "import os, signal\n"
        "from perfgate_server import run_server\n"
        "signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})\n"
        "if not os.fork():\n"
        "    os._exit(0)\n"
        "os.wait()\n"
        "print(signal.pthread_sigmask(signal.SIG_BLOCK, ()) == {signal.SIGTERM})"
    )
    assert result.stdout == "True\n", result.stderr


def test_a_command_of_another_program_is_told_what_is_wrong_by_an_exception() -> None:
    """And is not ended, as flask is, which would show a traceback."""
    result = run_code(
        "import click, os\n"
        "from perfgate_server import create_app\n"
        "os.environ['PERFGATE_PORT'] = 'x'\n"
        "@click.command()\n"
        "def other():\n"
        "    try:\n"
        "        create_app()\n"
        "    except Exception as error:\n"
        "        print(type(error).__name__)\n"
        "other([], standalone_mode=False)"
    )
    assert result.stdout == "ConfigError\n", result.stderr


def test_the_module_runs_too() -> None:
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
        context.params["cert"] = "adhoc"
        assert _development_url() == url.replace("http:", "https:")


def test_one_line_on_start_tells_where_what_and_who(tmp_path: Path) -> None:
    with sqlite_server(tmp_path, "--log-format", "pretty") as server:
        [line] = [line for line in server.log.splitlines() if "listening" in line]
        assert f"listening on http://127.0.0.1:{server.port}" in line
        assert f"sqlite at {tmp_path}/perfgate.db" in line
        assert "1 viewer, 1 contributor, 1 promoter, 1 admin" in line


def test_the_line_on_start_shows_no_password() -> None:
    url = "postgresql://perfgate:secret@localhost/perfgate"
    line = start_line(ServerConfig(storage_type="postgres", database_url=url), "http://localhost")
    assert "localhost/perfgate" in line and "secret" not in line


def run(*arguments: str, folder: Path | None = None, **variables: str) -> Any:
    return subprocess.run(
        [program(), *arguments],
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        cwd=folder,
        # Not the usual port, on which the reader's own server may listen.
        env=environment(**{"PERFGATE_PORT": "0", **variables}),
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
        (["--bind", "x" * 64], "x" * 64),  # a label so long is no name to ask for
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


def test_a_port_in_use_is_one_line_and_status_2(tmp_path: Path) -> None:
    """And the database of whoever listens there is not upgraded behind its back."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        storage = ("--storage-type", "sqlite", "--database-url", str(tmp_path / "perfgate.db"))
        result = run("--bind", "127.0.0.1", "--port", str(port), *storage)
    assert not (tmp_path / "perfgate.db").exists()
    assert result.returncode == 2
    assert result.stderr == (
        f"Error: cannot listen on 127.0.0.1 port {port}: Address already in use\n"
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
        result = run_gunicorn(*more, **variables)
        assert result.returncode == status, result.stderr
        assert "Error: " in result.stderr and "Traceback" not in result.stderr
        if not more:
            assert result.stderr.count("\n") == 1


def test_gunicorn_listens_on_the_ipv6_address_that_is_named(tmp_path: Path) -> None:
    """Without the brackets it would listen on every address there is."""
    result = run_gunicorn(
        "--print-config",
        PERFGATE_API_KEYS=EVERY_KEY,
        PERFGATE_DATABASE_URL=str(tmp_path / "perfgate.db"),
        PERFGATE_BIND="::1",
    )
    assert re.search(r"^bind += \['\[::1\]:8080'\]$", result.stdout, re.MULTILINE), result.stderr


def test_systemd_is_told_when_clients_may_come(tmp_path: Path) -> None:
    """Until then a unit of Type=notify, as the one in examples/, is starting."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        port = free_port()
        systemd.bind(f"\0perfgate-{port}")
        systemd.settimeout(PATIENCE)
        with (tmp_path / "log").open("wb") as log:
            process = subprocess.Popen(
                [part.replace("{port}", str(port)) for part in perfgate_server()],
                env=environment(NOTIFY_SOCKET=f"@perfgate-{port}"),
                stderr=log,
                start_new_session=True,
            )
        server = Server(process, port, tmp_path / "log")
        try:
            assert b"READY=1" in systemd.recv(1024).splitlines(), server.log
            assert server.request("GET", "/health", role=None)[0] == 200
            assert server.stop() == 0
        finally:
            server.kill()


def test_what_is_no_tls_is_refused_by_gunicorn_and_no_failure(tmp_path: Path) -> None:
    """Alerts come of lines of level error, and a scanner would make as many as it likes."""
    key, cert, log = (tmp_path / name for name in ("key", "cert", "log"))
    new = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=localhost"]
    subprocess.run([*new, "-keyout", key, "-out", cert], check=True, capture_output=True)
    trusting, port = ssl.create_default_context(cafile=cert), free_port()

    def answers() -> bool:
        connection = http.client.HTTPSConnection("localhost", port, context=trusting)
        with contextlib.closing(connection), contextlib.suppress(OSError):
            for _ in range(2):  # a kept connection too
                connection.request("GET", "/health")
                answer = connection.getresponse()
                answer.read()
            return (answer.status, answer.getheader("Connection")) == (200, "keep-alive")
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
        assert '"level": "error"' not in log.read_text() and answers()
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0


def test_gunicorn_must_have_read_our_settings(tmp_path: Path) -> None:
    """Without them each of its workers would create a database that was removed."""
    database = tmp_path / "perfgate.db"
    variables = {"PERFGATE_API_KEYS": EVERY_KEY, "PERFGATE_DATABASE_URL": str(database)}
    result = run_gunicorn("-c", os.devnull, "--bind", "127.0.0.1:0", **variables)
    assert result.returncode == 3
    assert "Error: gunicorn has not read gunicorn.conf.py" in result.stderr
    assert not database.exists()


def test_another_server_of_wsgi_apps_logs_the_same(tmp_path: Path) -> None:
    variables = {"PERFGATE_API_KEYS": EVERY_KEY, "PERFGATE_DATABASE_URL": f"{tmp_path}/p.db"}
    result = run_code("import wsgi; wsgi.app.test_client().get('/health')", **variables)
    line = json.loads(result.stderr.splitlines()[-1])
    assert (line["level"], line["route"], line["status"]) == ("info", "/health", 200)


def test_a_server_whose_workers_cannot_start_ends_with_a_failure() -> None:
    """A supervisor that restarts what failed must hear of it."""
    code = (
        "from perfgate_server import ServerConfig, run_server, worker\n"
        "worker.Worker.init_signals = lambda _: 1 // 0\n"
        "run_server(ServerConfig(bind='127.0.0.1', port=0))"
    )
    result = run_code(code)
    assert result.returncode == 3
    assert "ZeroDivisionError" in result.stderr and "AttributeError" not in result.stderr


def test_of_two_servers_that_start_at_once_one_has_the_port() -> None:
    """Both may be bound to it, until one of them listens."""
    config = ServerConfig(bind="127.0.0.1", port=free_port())
    with contextlib.closing(_bind(config.bind, config.port)) as listener:
        with socket.create_server((config.bind, config.port)):
            with pytest.raises(ConfigError, match=f"port {config.port}: Address already in use"):
                _listen(listener, config)
            with pytest.raises(ConfigError, match=f"port {config.port}: Address already in use"):
                _bind(config.bind, config.port)


def test_clients_may_connect_before_anybody_takes_them() -> None:
    """As many as come at once; the system would let the others try again, a second later."""
    config = ServerConfig(bind="127.0.0.1", port=free_port())
    with (
        contextlib.closing(_bind(config.bind, config.port)) as listener,
        contextlib.ExitStack() as clients,
    ):
        _listen(listener, config)
        for _ in range(100):
            client = socket.create_connection((config.bind, config.port), timeout=PATIENCE)
            clients.enter_context(client)


def test_an_ipv6_address_is_listened_on_and_told_in_brackets() -> None:
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError as error:
        pytest.skip(f"no IPv6 here: {error}")
    with contextlib.closing(_bind("::1", 0)) as listener:
        assert _url(listener) == f"http://[::1]:{listener.getsockname()[1]}"


def test_a_worker_of_gunicorn_makes_no_database_in_place_of_one_that_is_gone(
    tmp_path: Path,
) -> None:
    """It would begin with an empty one, and what is at fault would not be seen."""
    with gunicorn_server(tmp_path, PERFGATE_WORKERS="1") as server:
        for path in tmp_path.glob("perfgate.db*"):
            path.unlink()
        (worker,) = server.workers()
        os.kill(worker, signal.SIGKILL)
        wait_for(lambda: server.workers() not in ([], [worker]), "a new worker")
        wait_for(lambda: _status(server) == 503, "its answer")
        assert not (tmp_path / "perfgate.db").exists()


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
        # One process that looks for changes, and one that serves.
        [program("flask"), "--app", "perfgate_server", "run", "--port", "{port}", "--debug"],
    ],
    ids=["perfgate-server", "flask", "flask --debug"],
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


def test_variables_configure_and_options_win(tmp_path: Path) -> None:
    variables: dict[str, Any] = {
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
        server.stop()  # a thread of gunicorn's would make them, a moment after the start
    assert list(home.iterdir()) == []


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


# -- storage under it


def test_what_the_storage_does_not_give_in_time_is_503(tmp_path: Path) -> None:
    """With Retry-After, and before a client that has the same timeout gives up; health tells the
    same of a file that is gone."""
    database = tmp_path / "perfgate.db"
    with sqlite_server(tmp_path, "--timeout", "5", "--workers", "1") as server:
        assert server.put("b", "v1") == 201
        lock = sqlite3.connect(database, isolation_level=None)
        lock.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        body = json.dumps(receipt())
        status, headers, text = server.request("PUT", "/projects/p/baselines/b/versions/v2", body)
        assert (status, headers["retry-after"]) == (503, "1")
        assert 2 < time.monotonic() - began < 5
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
            f" -H '{key_line().strip()}' -T {file}"
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

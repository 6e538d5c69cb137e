"""What the tests share: receipts, keys, and a server as a real process that they drive."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

from perfgate_server.records import new_id, now, receipt_of
from perfgate_server.storage.base import Baseline, Receipt

if not __debug__:  # also for what benchmarks share with the tests
    sys.exit("without python's -O: what is checked is checked by assertions")

ROOT = Path(__file__).parents[1]

KEYS = {
    "viewer": "pg_live_" + "V" * 32,
    "contributor": "pg_live_" + "C" * 32,
    "promoter": "pg_live_" + "P" * 32,
    "admin": "pg_test_" + "A" * 40,
}
EVERY_KEY = ",".join(f"{role}:{key}" for role, key in KEYS.items())

#: Benchmark b of project p, to which `Server.put` uploads.
LATEST = "/projects/p/baselines/b/latest"

#: How long a condition may take to come true, in seconds; nothing waits that long when it works.
PATIENCE = 20.0


def bearer(role: str = "admin") -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[role]}"}


def key_line() -> str:
    """Return the admin's header for a request that is sent as bytes."""
    return f"Authorization: {bearer()['Authorization']}\r\n"


def receipt(wall_ms: int = 100, **members: Any) -> dict[str, Any]:
    """Return a small receipt, well-formed unless `members` spoil it."""
    return {
        "schema": "perfgate.run.v1",
        "tool": {"name": "perfgate", "version": "0.15.0"},
        "run": {
            "id": "run-1",
            "started_at": "2026-03-08T11:59:00Z",
            "ended_at": "2026-03-08T12:00:00Z",
            "host": {"os": "linux", "arch": "x86_64", "cpu_count": 8, "memory_bytes": None},
        },
        "bench": {"name": "b", "command": ["sleep", "0.1"], "repeat": 2, "warmup": 0},
        "samples": [
            {"wall_ms": wall_ms, "exit_code": 0, "warmup": False, "timed_out": False},
            {"wall_ms": wall_ms + 2, "exit_code": 0, "stdout": "done\n"},
        ],
        "stats": {
            "wall_ms": {"median": wall_ms + 1, "min": wall_ms, "max": wall_ms + 2, "mean": 1e-7},
            "throughput_per_s": {"median": 1.5, "min": 1, "max": 2.0, "stddev": None},
        },
        **members,
    }


def stored(
    benchmark: str = "b",
    version: str = "v1",
    project: str = "p",
    value: Any = None,
    **members: Any,
) -> tuple[Baseline, Receipt]:
    """Return a record to be kept, and its receipt, for calling a storage directly."""
    kept = receipt_of(receipt() if value is None else value)
    fields: dict[str, Any] = {
        "id": new_id(),
        "project": project,
        "benchmark": benchmark,
        "version": version,
        "git_ref": None,
        "git_sha": None,
        "metadata": {},
        "tags": [],
        "created_at": now(),
        "created_by": "admin:00000000",
        "content_hash": kept.content_hash,
        "source": "upload",
    }
    return Baseline(**(fields | members)), kept


def soon(seconds: float = PATIENCE) -> float:
    """Return a deadline for a storage."""
    return time.monotonic() + seconds


def wait_for(condition: Callable[[], Any], what: str) -> Any:
    """Return the condition's first true value; fail after PATIENCE."""
    give_up = time.monotonic() + PATIENCE
    while time.monotonic() < give_up:
        value = condition()
        if value:
            return value
        time.sleep(0.02)
    raise AssertionError(f"{what} did not happen in {PATIENCE} s")


def not_installed(program: str) -> NoReturn:
    """Skip the test that needs a program, or root; CI must have all. A benchmark ends."""
    if "pytest" not in sys.modules:
        sys.exit(f"needs {program}")
    import pytest

    assert not os.environ.get("CI"), f"needs {program}"
    pytest.skip(f"needs {program}")


#: Beginnings of variables that steer what the tests start. In a hook of git's, GIT_INDEX_FILE names
#: the index of the commit that is being made, which `git clone` would write to.
FOREIGN = (
    *("PERFGATE_", "GUNICORN_", "FLASK_", "WEB_CONCURRENCY", "SCRIPT_NAME", "KEEP_REF"),
    *("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE", "PYTHONIOENCODING", "PYTHONSAFEPATH"),
)


def environment(**variables: str) -> dict[str, str]:
    """Return this process's environment without settings of the server or of gunicorn."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(FOREIGN)}
    return kept | variables


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Server:
    """A server in processes of its own."""

    def __init__(self, process: subprocess.Popen[bytes], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.url = f"http://127.0.0.1:{port}"
        self._log = log

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", errors="surrogateescape")

    def lines(self, message: str = "request") -> list[dict[str, Any]]:
        """Return the JSON log lines with that message."""
        parsed = [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]
        return [line for line in parsed if line["message"] == message]

    def request(
        self,
        method: str,
        path: str,
        body: Any = None,
        headers: dict[str, str] | None = None,
        role: str | None = "admin",
    ) -> tuple[int, dict[str, str], bytes]:
        """Return status, headers (by lower-case name) and body of one answer."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        with contextlib.closing(connection):
            if isinstance(body, dict):
                body = json.dumps(body)
                headers = {"Content-Type": "application/json"} | (headers or {})
            sent = (bearer(role) if role else {}) | (headers or {})
            connection.request(method, path, body, sent)
            answer = connection.getresponse()
            found = {name.lower(): value for name, value in answer.getheaders()}
            return answer.status, found, answer.read()

    def put(self, benchmark: str, version: str, value: Any = None) -> int:
        """Upload a receipt by PUT to project p; return the status."""
        body = json.dumps(receipt() if value is None else value)
        path = f"/projects/p/baselines/{benchmark}/versions/{version}"
        return self.request("PUT", path, body)[0]

    def raw(self, sent: bytes) -> bytes:
        """Send bytes as they are; return all that comes back until the server closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            connection.sendall(sent)
            connection.shutdown(socket.SHUT_WR)
            received = b""
            while chunk := connection.recv(65536):
                received += chunk
            return received

    def connections(self) -> list[int]:
        """Return how many connections from clients each worker holds, those that it is closing
        included."""
        rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
        local, listening = f":{self.port:04X}", "0A"
        ours = {row[9] for row in rows if row[1].endswith(local) and row[3] != listening}
        counts = []
        for pid in self.workers():
            held = set()
            with contextlib.suppress(FileNotFoundError):  # it has just ended
                for fd in Path(f"/proc/{pid}/fd").iterdir():
                    with contextlib.suppress(OSError):
                        held.add(os.readlink(fd).removeprefix("socket:[").removesuffix("]"))
            counts.append(len(ours & held))
        return counts

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """Send the signal to the main process and return its exit status."""
        self.process.send_signal(signal_number)
        return self.process.wait(PATIENCE)

    def kill(self) -> None:
        """Kill every process of the server, with no chance to tidy up."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(PATIENCE)


@contextlib.contextmanager
def serving(
    arguments: Sequence[str],
    folder: Path,
    *,
    port: int | None = None,
    path: str = "/health",
    cwd: Path | None = None,
    **variables: str,
) -> Iterator[Server]:
    """Run a server, wait until it is healthy, and kill what is left of it at the end."""
    port = port or free_port()
    command = [str(argument).replace("{port}", str(port)) for argument in arguments]
    log = folder / f"server-{port}.log"
    with log.open("a") as stderr:
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=cwd or folder,
            env=environment(**variables),
            start_new_session=True,
        )
    server = Server(process, port, log)
    try:
        try:
            wait_for(lambda: _answers(server, path), f"{command} being healthy")
        except AssertionError as error:
            raise AssertionError(f"{error}: {server.log}") from None
        yield server
    finally:
        server.kill()


def _answers(server: Server, path: str) -> bool:
    if server.process.poll() is not None:
        raise AssertionError(f"the server ended with {server.process.returncode}")
    try:
        return server.request("GET", path, role=None)[0] == 200
    except (OSError, http.client.HTTPException):
        return False


def at_once(script: str, arguments: Sequence[Sequence[Any]]) -> list[int]:
    """Run a script of Python in a process for each of these arguments; return the exit statuses.
    All go on together from where it calls ``input("ready")``."""
    with contextlib.ExitStack() as stack:
        processes = [stack.enter_context(running(script, *these)) for these in arguments]
        for process in processes:
            process.pause()
        for process in processes:
            process.go_on()
        return [process.wait(PATIENCE) for process in processes]


class Script(subprocess.Popen[bytes]):
    """A process that runs a script of Python, which may call ``input("ready")`` once."""

    def pause(self) -> None:
        """Wait until it has called that."""
        assert self.stdout and self.stdout.read(5) == b"ready"

    def go_on(self) -> None:
        assert self.stdin and self.stdin.write(b"\n")


@contextlib.contextmanager
def running(script: str, *arguments: Any) -> Iterator[Script]:
    """Run a script with these arguments; it is killed at the end, if it has not ended."""
    with Script(
        [sys.executable, "-c", script, *map(str, arguments)],
        cwd=Path(__file__).parent,
        env=environment(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        bufsize=0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()  # one that hangs would be waited for, without end


def program(name: str = "perfgate-server") -> str:
    """Return the path of a program that stands beside this interpreter."""
    return str(Path(sys.executable).parent / name)


def perfgate_server(*arguments: str) -> list[str]:
    """Return the command line of a server on {port} with every role's key."""
    bind = ["--bind", "127.0.0.1", "--port", "{port}", "--api-keys", EVERY_KEY]
    return [program(), *bind, *arguments]


def sqlite_server(
    folder: Path, *more: str, **options: Any
) -> contextlib.AbstractContextManager[Server]:
    """Run a server on perfgate.db in `folder`, as `serving` does."""
    path = str(folder / "perfgate.db")
    arguments = perfgate_server("--storage-type", "sqlite", "--database-url", path, *more)
    return serving(arguments, folder, **options)


def gunicorn_server(
    folder: Path, *more: str, **variables: str
) -> contextlib.AbstractContextManager[Server]:
    """Run gunicorn on wsgi.py and perfgate.db in `folder`, as `serving` does."""
    port = free_port()
    settings = {
        "PERFGATE_API_KEYS": EVERY_KEY,
        "PERFGATE_DATABASE_URL": str(folder / "perfgate.db"),
        "PERFGATE_BIND": "127.0.0.1",
        "PERFGATE_PORT": str(port),
    }
    command = [program("gunicorn"), "wsgi:app", *more]
    return serving(command, folder, port=port, cwd=ROOT, **(settings | variables))


def drive(server: Server) -> None:
    """Do what a team does: upload, read, promote, list, delete; and be refused."""
    assert server.put("b", "v1") == 201
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


def parse_envelope(answer: bytes) -> tuple[int, dict[str, Any]]:
    """Return status and body of a raw answer, after checking that it is an envelope of ours."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1."), answer
    assert b"\nContent-Type: application/json" in head, answer
    assert b"\nX-Request-ID: " in head, answer
    assert b"\nAccess-Control-Allow-Origin: *" in head, answer
    return int(head.split()[1]), json.loads(body)

"""Two servers as real processes, and the load that is put on each in turn.

What the programs here share: `service` and `bare` start them, `wrk` drives them, `pairs` alternates
the two sides, since the speed of a shared machine drifts.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
KEY = "pg_test_" + "B" * 32
_TICKS = os.sysconf("SC_CLK_TCK")
_PATIENCE = 30.0


def receipt(samples: int, wall_ms: int = 100) -> dict[str, Any]:
    """Return a receipt as perfgate makes it, with so many samples."""
    one = {"wall_ms": wall_ms, "exit_code": 0, "warmup": False, "timed_out": False}
    one |= {"cpu_ms": 92, "page_faults": 120, "ctx_switches": 17, "max_rss_kb": 9652}
    one |= {"binary_bytes": 5_242_880}
    medians = {name: value for name, value in one.items() if type(value) is int}
    del medians["exit_code"]
    return {
        "schema": "perfgate.run.v1",
        "tool": {"name": "perfgate", "version": "0.15.0"},
        "run": {
            "id": "0b0cfa3e-8d5f-4d3b-9c0f-7f1f5f7f9d10",
            "started_at": "2026-03-08T11:59:00Z",
            "ended_at": "2026-03-08T12:00:00Z",
            "host": {"os": "linux", "arch": "x86_64", "cpu_count": 4, "memory_bytes": 2**34},
        },
        "bench": {
            "name": "api/list",
            "command": ["./bench", "--case", "list"],
            "repeat": samples,
            "warmup": 0,
        },
        "samples": [_sample(one, index) for index in range(samples)],
        "stats": {
            name: {"median": median, "min": median - 2, "max": median + 7, "mean": median + 1.3}
            for name, median in medians.items()
        },
    }


def _sample(one: dict[str, Any], index: int) -> dict[str, Any]:
    """Return a sample like `one`: what a machine measures is never the same for long."""
    varied = {"wall_ms": 9, "cpu_ms": 8, "page_faults": 7, "ctx_switches": 5, "max_rss_kb": 10}
    return one | {name: one[name] + index % period - 2 for name, period in varied.items()}


@dataclass
class Side:
    """A server that runs: where it listens, and its processes."""

    url: str
    process: subprocess.Popen[bytes]
    log: Path

    def workers(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return [int(pid) for pid in children.read_text().split()]

    def cpu_seconds(self) -> float:
        """Return the processor time that the workers have used."""
        used = 0
        for pid in self.workers():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            used += int(fields[11]) + int(fields[12])
        return used / _TICKS

    def resident_mb(self) -> list[float]:
        """Return the resident memory of each worker, in MB."""
        found = []
        for pid in self.workers():
            status = Path(f"/proc/{pid}/status").read_text()
            found.append(int(re.findall(r"VmRSS:\s+(\d+)", status)[0]) / 1024)
        return found

    def request(self, method: str, path: str, body: Any = None) -> tuple[Any, bytes]:
        """Return the headers and the body of an answer; raises for an error."""
        headers = {"Authorization": f"Bearer {KEY}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        sent = urllib.request.Request(self.url + path, data, headers, method=method)
        with urllib.request.urlopen(sent, timeout=_PATIENCE) as answer:
            return answer.headers, answer.read()


@contextlib.contextmanager
def _running(
    command: Sequence[str], folder: Path, port: int, path: str, **env: str
) -> Iterator[Any]:
    log = folder / f"{port}.log"
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PERFGATE_")}
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            command,
            stdout=subprocess.DEVNULL,
            stderr=stderr,
            cwd=folder,
            env=kept | env,
            start_new_session=True,
        )
    side = Side(f"http://127.0.0.1:{port}", process, log)
    try:
        give_up = time.monotonic() + _PATIENCE
        while True:
            try:
                side.request("GET", path)
                break
            except OSError:
                if process.poll() is not None or time.monotonic() > give_up:
                    raise SystemExit(f"{command} does not start: {log.read_text()}") from None
                time.sleep(0.01)
        yield side
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(_PATIENCE)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextlib.contextmanager
def service(
    folder: Path, *options: str, database: str = "perfgate.db", storage: str = "sqlite"
) -> Iterator[Side]:
    """Run perfgate-server with its default settings on a database in `folder`."""
    port = _free_port()
    command = [str(Path(sys.executable).parent / "perfgate-server"), "--bind", "127.0.0.1"]
    command += ["--port", str(port), "--storage-type", storage, "--database-url", database]
    command += ["--api-keys", f"admin:{KEY}", *options]
    with _running(command, folder, port, "/health") as side:
        yield side


@contextlib.contextmanager
def bare(folder: Path) -> Iterator[Side]:
    """Run the bare view (bare.py) under the same gunicorn settings."""
    port = _free_port()
    command = [sys.executable, str(HERE / "bare.py"), str(port)]
    with _running(command, folder, port, "/bytes/1") as side:
        yield side


@dataclass
class Load:
    """What wrk sends: a path, and perhaps a body by POST, or headers."""

    path: str
    body: Path | None = None
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Rate:
    per_second: float
    cpu_us: float
    errors: int


def wrk(side: Side, load: Load, seconds: int, connections: int = 8) -> Rate:
    """Put load on a server for so long; return requests a second, and the workers' processor
    time for each, in microseconds."""
    lines = [f'wrk.headers["Authorization"] = "Bearer {KEY}"']
    lines += [
        f"wrk.headers[{json.dumps(name)}] = {json.dumps(v)}" for name, v in load.headers.items()
    ]
    if load.body is not None:
        lines += [
            'wrk.method = "POST"',
            'wrk.headers["Content-Type"] = "application/json"',
            f'local file = io.open({json.dumps(str(load.body))}, "rb")',
            'wrk.body = file:read("*a")',
        ]
    with tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write("\n".join(lines))
        script.flush()
        began = side.cpu_seconds()
        command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", "-s", script.name]
        out = subprocess.run(
            [*command, side.url + load.path], capture_output=True, text=True, check=True
        ).stdout
        used = side.cpu_seconds() - began
    requests = int(re.findall(r"(\d+) requests in", out)[0])
    errors = sum(int(number) for number in re.findall(r"Non-2xx or 3xx responses: (\d+)", out))
    errors += sum(
        int(number)
        for line in re.findall(r"Socket errors:.*", out)
        for number in re.findall(r"\d+", line)
    )
    rate = float(re.findall(r"Requests/sec:\s+([\d.]+)", out)[0])
    return Rate(rate, used / max(requests, 1) * 1e6, errors)


@dataclass
class Comparison:
    """The medians of one side's and the other's rates, and of the ratios pair by pair."""

    ours: float
    reference: float
    ratio: float
    ours_us: float
    reference_us: float
    errors: int


def pairs(ours: Callable[[], Rate], reference: Callable[[], Rate], count: int) -> Comparison:
    """Measure both sides in turn, `count` times, after one round that is not counted."""
    ours(), reference()
    found = []
    for number in range(count):
        first, second = (ours, reference) if number % 2 else (reference, ours)
        one, other = first(), second()
        found.append((one, other) if first is ours else (other, one))
    median = statistics.median
    return Comparison(
        median(a.per_second for a, _ in found),
        median(b.per_second for _, b in found),
        median(a.per_second / b.per_second for a, b in found),
        median(a.cpu_us for a, _ in found),
        median(b.cpu_us for _, b in found),
        sum(a.errors + b.errors for a, b in found),
    )


class Table:
    """Prints rows of Markdown as they come."""

    def __init__(self, *columns: str) -> None:
        self.row(*columns)
        self.row(*("---" for _ in columns))

    def row(self, *cells: Any) -> None:
        print("| " + " | ".join(map(str, cells)) + " |", flush=True)


def write_json(path: Path, value: Any) -> Path:
    path.write_text(json.dumps(value))
    return path


def needs(*programs: str) -> None:
    """End with a sentence if a program is not installed."""
    for program in programs:
        if shutil.which(program) is None:
            raise SystemExit(f"{program} is needed: apt-get install {program}")

"""Tests that a server under mixed load neither grows nor slows down.

    python benchmarks/soak.py --minutes 30
    python benchmarks/soak.py --minutes 30 --backend postgres

Clients upload, read, list, promote and delete, with short pauses, on a store that they keep at one
size. Of each twelfth of the time it tells requests, latencies, the resident memory and the open
files of the server's processes, and the size of SQLite's log. From the second to the fourth
twelfth (the first warms up) to the last three, none of them may grow. Ends with a table; exit
status 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from crowd import resident
from postgres_server import own_postgres
from support import PATIENCE, Server, bearer, perfgate_server, receipt, serving, wait_for

CLIENTS = 6
WINDOWS = 12
#: Versions that a client keeps, and seconds that it pauses between its requests at most.
KEPT, PAUSE = 100, 0.02


@dataclass
class Window:
    """What was measured in a twelfth of the time."""

    milliseconds: list[float] = field(default_factory=list)
    memory: int = 0
    files: int = 0
    log: int = 0

    def quantile(self, hundredths: int) -> float:
        return sorted(self.milliseconds)[len(self.milliseconds) * hundredths // 100]


class Client:
    """Sends what teams send, on a connection that it keeps; reports each answer's time."""

    def __init__(self, number: int, server: Server, took: Callable[[float], None]) -> None:
        self._random = random.Random(number)
        self._server, self._took = server, took
        self._benchmark = f"team{number % 2}/bench{number}"
        self._path = f"/projects/p/baselines/{self._benchmark}"
        self._versions: deque[str] = deque()
        self._made = 0
        self.statuses: Counter[str] = Counter()

    def work(self, until: float) -> None:
        address = ("127.0.0.1", self._server.port)
        with contextlib.closing(http.client.HTTPConnection(*address, timeout=PATIENCE)) as http_:
            self._etag = ""
            while time.monotonic() < until:
                method, path, body, headers = self._next()
                began = time.perf_counter()
                http_.request(method, path, body, bearer() | headers)
                answer = http_.getresponse()
                answer.read()
                self._took((time.perf_counter() - began) * 1000)
                self._etag = answer.headers.get("ETag", self._etag)
                self.statuses[f"{method} {answer.status}"] += 1
                time.sleep(self._random.uniform(0, PAUSE))

    def _next(self) -> tuple[str, str, str | None, dict[str, str]]:
        if len(self._versions) > KEPT:
            return "DELETE", f"{self._path}/versions/{self._versions.popleft()}", None, {}
        action = self._random.randrange(10) if self._versions else 0
        if action < 3:
            padding = {"x-padding": "x" * self._random.choice((0, 0, 3_000, 100_000))}
            body = json.dumps(receipt(self._made, **padding))
            return "PUT", f"{self._path}/versions/{self._new()}?tag=t&git_ref=main", body, {}
        if action == 3:
            kind = {"Content-Type": "application/json"}
            promotion = {"from_version": self._versions[-1], "to_version": self._new()}
            return "POST", f"{self._path}/promote", json.dumps(promotion), kind
        if action < 6:
            return "GET", f"{self._path}/latest", None, {"If-None-Match": self._etag or '"x"'}
        paths = (
            f"{self._path}/latest?receipt=only",
            f"{self._path}/versions/{self._random.choice(self._versions)}",
            f"{self._path}/versions?limit=20",
            "/projects/p/baselines?tags=t&limit=20&include_receipt=true&benchmark_prefix=team0/",
        )
        return "GET", paths[action - 6], None, {}

    def _new(self) -> str:
        self._made += 1
        self._versions.append(f"v{self._made}")
        return self._versions[-1]


def measure(server: Server, database: Path, window: Window) -> None:
    """Note the most that there was of anything."""
    pids = [server.process.pid, *server.workers()]
    window.memory = max(window.memory, resident(pids))
    files = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            files += len(list(Path(f"/proc/{pid}/fd").iterdir()))
    window.files = max(window.files, files)
    with contextlib.suppress(OSError):
        window.log = max(window.log, Path(f"{database}-wal").stat().st_size)


def soak(server: Server, database: Path, minutes: float) -> tuple[list[Window], Counter[str]]:
    windows = [Window() for _ in range(WINDOWS)]
    began = time.monotonic()
    until = began + minutes * 60

    def now() -> Window:
        passed = (time.monotonic() - began) / (until - began)
        return windows[min(int(passed * WINDOWS), WINDOWS - 1)]

    clients = [
        Client(number, server, lambda took: now().milliseconds.append(took))
        for number in range(CLIENTS)
    ]
    threads = [threading.Thread(target=client.work, args=(until,)) for client in clients]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        measure(server, database, now())
        threads[0].join(0.5)
    statuses: Counter[str] = Counter()
    for thread, client in zip(threads, clients, strict=True):
        thread.join()
        statuses += client.statuses
    return windows, statuses


def growth(windows: list[Window]) -> list[str]:
    """Return what has grown."""

    def both(value: Callable[[Window], float]) -> tuple[float, float]:
        return (
            statistics.median(map(value, windows[1:4])),
            statistics.median(map(value, windows[-3:])),
        )

    # The factor and the amount that each may differ by: other programs run here too.
    allowed: dict[str, tuple[Callable[[Window], float], float, float]] = {
        "memory": (lambda window: window.memory, 1.1, 8 * 2**20),
        "open files": (lambda window: window.files, 1.0, 4),
        "SQLite's log": (lambda window: window.log, 1.5, 8 * 2**20),
        "median latency": (lambda window: window.quantile(50), 1.5, 5),
        "99th percentile": (lambda window: window.quantile(99), 2.0, 50),
    }
    grown = []
    for name, (value, factor, amount) in allowed.items():
        first, last = both(value)
        if last > first * factor + amount:
            grown.append(f"{name} grew from {first:.1f} to {last:.1f}")
    return grown


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--backend", choices=("sqlite", "postgres"), default="sqlite")
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perfgate-soak-")))
        database = folder / "perfgate.db"
        location = str(database)
        if options.backend == "postgres":
            location = stack.enter_context(stack.enter_context(own_postgres()).database())
        storage = ["--storage-type", options.backend, "--database-url", location]
        arguments: list[Any] = perfgate_server("--workers", "2", "--threads", "4", *storage)
        server = stack.enter_context(serving(arguments, folder))
        workers = wait_for(lambda: (pids := server.workers())[1:] and pids, "both workers")
        windows, statuses = soak(server, database, options.minutes)
        broken = growth(windows)
        if server.workers() != workers:
            broken.append("a worker has died")
        if "Traceback" in server.log:
            broken.append("a traceback stands in the log")
    broken += [f"{n} times {what}" for what, n in statuses.items() if int(what.split()[1]) >= 400]
    print(f"{'requests':>9} {'median ms':>9} {'99 % ms':>9} {'MiB':>6} {'files':>6} {'log MiB':>8}")
    for window in windows:
        print(
            f"{len(window.milliseconds):9} {window.quantile(50):9.1f} {window.quantile(99):9.1f}"
            f" {window.memory / 2**20:6.0f} {window.files:6} {window.log / 2**20:8.1f}"
        )
    for what, count in sorted(statuses.items()):
        print(f"{what:12} {count:8}")
    print("\n".join(broken) or "nothing has grown")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())

"""Writing clients, processes that are killed under them, and the proof that nothing was lost.

For test_killed.py, benchmarks/killed.py and benchmarks/powercut.py; `Target`, `campaign` and `main`
also for linearizability.py.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import json
import os
import random
import signal
import sqlite3
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import support
from postgres_server import OwnPostgres, database_of, own_postgres
from support import Server, bearer, perfgate_server, receipt, serving, wait_for

from perfgate_server.cli import exit_on_signals
from perfgate_server.storage.sql import WRONG_TOTALS

CLIENTS = 8
BENCHMARKS = ("shared", "also/shared")

#: A record's benchmark and version.
Name = tuple[str, str]
#: What a record holds, as it is read; None where there is none.
Contents = dict[str, Any] | None

#: What must be empty in a database that is whole.
_LEFT_BEHIND = {
    "receipts without a record": """SELECT count(*) FROM receipts r WHERE NOT EXISTS
        (SELECT 1 FROM baselines b WHERE b.project = r.project AND b.receipt_id = r.id)""",
    "records without their receipt": """SELECT count(*) FROM baselines b WHERE NOT EXISTS
        (SELECT 1 FROM receipts r WHERE r.project = b.project AND r.id = b.receipt_id)""",
    "tags without their record": """SELECT count(*) FROM baseline_tags t WHERE NOT EXISTS
        (SELECT 1 FROM baselines b WHERE b.project = t.project AND b.seq = t.seq)""",
    "untagged records": """SELECT count(*) FROM baselines b WHERE b.tags <> '[]' AND NOT EXISTS
        (SELECT 1 FROM baseline_tags t WHERE b.project = t.project AND b.seq = t.seq)""",
    "wrong totals": f"SELECT count(*) FROM ({WRONG_TOTALS}) AS wrong",
}


@dataclass
class Tally:
    """What was proved, and what was not."""

    counts: Counter[str] = field(default_factory=Counter)
    broken: list[str] = field(default_factory=list)

    def table(self) -> str:
        lines = [f"{what:28} {count:8}" for what, count in sorted(self.counts.items())]
        lines += [f"{'broken promises':28} {len(self.broken):8}"]
        return "\n".join(lines + [f"  {line}" for line in self.broken[:20]])


class Client:
    """Uploads, promotes and deletes versions of its own in benchmarks that all share, and knows
    what may be there: after an answer one thing, after a broken request either of two."""

    def __init__(self, name: str, tally: Tally) -> None:
        self.may_be: dict[Name, list[Contents]] = {}
        #: What was written since it was last compared with what is there.
        self.written: set[Name] = set()
        self._name, self._tally = name, tally
        self._random = random.Random(name)
        self._made = 0

    def work(self, server: Server, done: threading.Event) -> None:
        while not done.is_set():
            self._turn(server)

    def _turn(self, server: Server) -> None:
        # What may be either is left alone until it was looked at.
        sure = [name for name, states in self.may_be.items() if states[0] and len(states) == 1]
        action = self._random.choices(("upload", "promote", "delete"), (6, 2, 2))[0]
        if action == "upload" or not sure:
            self._upload(server)
        elif action == "promote":
            self._promote(server, self._random.choice(sure))
        else:
            self._delete(server, self._random.choice(sure))

    def _upload(self, server: Server) -> None:
        name = (self._random.choice(BENCHMARKS), self._new_version())
        contents = {
            "receipt": receipt(self._random.randrange(10**9), **self._padding()),
            "git_ref": "refs/heads/main",
            "metadata": {"client": self._name},
            "tags": [f"t{number}" for number in range(self._random.randrange(4))],
            "source": "upload",
            "promoted_from": None,
        }
        sent = {key: contents[key] for key in ("receipt", "git_ref", "metadata", "tags")}
        body = {"benchmark": name[0], "version": name[1], **sent}
        self._write(server, name, contents, "POST", "/projects/p/baselines", body, 201)

    def _promote(self, server: Server, source: Name) -> None:
        target = (source[0], self._new_version())
        contents = (self.may_be[source][0] or {}) | {
            "source": "promote",
            "promoted_from": source[1],
            "tags": ["promoted"],
        }
        body = {"from_version": source[1], "to_version": target[1], "tags": ["promoted"]}
        path = f"/projects/p/baselines/{source[0]}/promote"
        self._write(server, target, contents, "POST", path, body, 201)

    def _delete(self, server: Server, name: Name) -> None:
        self._write(server, name, None, "DELETE", _path(name), None, 200)

    def _write(
        self,
        server: Server,
        name: Name,
        contents: Contents,
        method: str,
        path: str,
        body: Any,
        success: int,
    ) -> None:
        before = self.may_be.get(name, [None])[0]
        self.may_be[name] = [before, contents]
        self.written.add(name)
        try:
            status = server.request(method, path, body)[0]
        except ConnectionRefusedError:  # the server is not there: nothing was asked of it
            self.may_be[name] = [before]
            time.sleep(0.02)
            return
        except (OSError, http.client.HTTPException):
            self._tally.counts["not answered"] += 1
            return
        if status == success:
            self._tally.counts["acknowledged"] += 1
            self.may_be[name] = [contents]
        elif status == 503:
            self._tally.counts["answered 503"] += 1
        else:
            self._tally.broken.append(f"{method} {path} was answered {status}")

    def _new_version(self) -> str:
        self._made += 1
        return f"{self._name}-{self._made}"

    def _padding(self) -> dict[str, Any]:
        # Some receipts fill a page of the database, some many.
        return {"x-padding": "x" * self._random.choice((0, 3_000, 50_000))}

    def compare(self, server: Server) -> None:
        """Read what was written since the last time, and keep what is found."""
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=support.PATIENCE)
        with contextlib.closing(connection):
            for name in self.written:
                found = _read(connection, name)
                states = self.may_be[name]
                if found not in states:
                    self._tally.broken.append(f"{name} is {_short(found)}, not {_short(states)}")
                elif len(states) > 1:
                    done = "was done" if found == states[1] else "was not done"
                    self._tally.counts[f"not acknowledged, {done}"] += 1
                self.may_be[name] = [found]
        self.written.clear()


def _path(name: Name) -> str:
    return f"/projects/p/baselines/{name[0]}/versions/{name[1]}"


def _read(connection: http.client.HTTPConnection, name: Name) -> Contents:
    connection.request("GET", _path(name), headers=bearer())
    answer = connection.getresponse()
    record = json.loads(answer.read())
    if answer.status == 404:
        return None
    assert answer.status == 200, (name, record)
    members = ("receipt", "git_ref", "metadata", "tags", "source", "promoted_from")
    return {member: record.get(member) for member in members}


def _short(value: Any) -> str:
    return json.dumps(value)[:300]


def left_behind(execute: Callable[[str], list[Any]]) -> list[str]:
    """Return what is there by half, given what runs a statement and returns its rows."""
    counts = {what: execute(sql)[0][0] for what, sql in _LEFT_BEHIND.items()}
    return [f"{count} {what}" for what, count in counts.items() if count]


#: How the server runs.
_SETTINGS = ("--workers", "2", "--threads", "4", "--timeout", "2")


class Target:
    """A server on a database, and the ways in which both are killed."""

    ways: tuple[str, ...] = ("worker", "server")
    #: Seconds that clients write, at most, before something is killed.
    longest = 0.8

    def __init__(self, folder: Path, arguments: list[str]) -> None:
        self._folder, self._arguments = folder, arguments
        self._stack = contextlib.ExitStack()
        self.server = self._start()

    def _start(self) -> Server:
        server: Server = self._stack.enter_context(serving(self._arguments, self._folder))
        if "worker" in self.ways:  # else they may be in another machine
            wait_for(lambda: len(server.workers()) == 2, "both workers")
        return server

    def kill(self, way: str) -> None:
        """Kill, with no chance to tidy up."""
        if way == "worker":
            workers = self.server.workers()
            if workers:
                os.kill(random.choice(workers), signal.SIGKILL)
        else:
            self.server.kill()

    def restart(self, way: str) -> None:
        """Start again what was killed."""
        if way == "server":
            self._stack.close()
            self.server = self._start()
        wait_for(lambda: _healthy(self.server), "health")

    def problems(self) -> list[str]:
        """Return what is wrong with the database itself."""
        raise NotImplementedError

    def close(self) -> None:
        self._stack.close()


def _healthy(server: Server) -> bool:
    with contextlib.suppress(OSError, http.client.HTTPException):
        return server.request("GET", "/health", role=None)[0] == 200
    return False


def sqlite_problems(path: Path) -> list[str]:
    """Return what is wrong with the database in a file."""
    try:
        with contextlib.closing(sqlite3.connect(path)) as db:
            checks = ("PRAGMA integrity_check", "PRAGMA foreign_key_check")
            found = [str(row) for check in checks for row in db.execute(check)]
            wrong = [row for row in found if row != "('ok',)"]
            return wrong + left_behind(lambda sql: db.execute(sql).fetchall())
    except sqlite3.Error as error:
        return [str(error)]


class SqliteTarget(Target):
    def __init__(self, folder: Path) -> None:
        self._path = folder / "perfgate.db"
        storage = ("--storage-type", "sqlite", "--database-url", str(self._path))
        super().__init__(folder, perfgate_server(*_SETTINGS, *storage))

    def problems(self) -> list[str]:
        return sqlite_problems(self._path)


class PostgresTarget(Target):
    ways = ("database", "worker", "server", "database")

    def __init__(self, folder: Path, postgres: OwnPostgres, url: str) -> None:
        self._postgres, self._database = postgres, database_of(url)
        storage = ("--storage-type", "postgres", "--database-url", url)
        super().__init__(folder, perfgate_server(*_SETTINGS, *storage))

    def kill(self, way: str) -> None:
        if way == "database":
            self._postgres.kill()
        else:
            super().kill(way)

    def restart(self, way: str) -> None:
        if way == "database":
            self._postgres.start()
        super().restart(way)

    def problems(self) -> list[str]:
        return left_behind(lambda sql: self._postgres.execute(sql, self._database))


def rounds(
    target: Target, count: int, tally: Tally, seed: str, tell: Callable[[str], None]
) -> None:
    """Let clients write, kill something at a random moment, start it again, and look what is
    there; so many times on one database. At the end, look at all of it."""
    choose = random.Random(seed)
    clients = [Client(f"c{number}-{seed}", tally) for number in range(CLIENTS)]
    for number in range(count):
        way = choose.choice(target.ways)
        done = threading.Event()
        with ThreadPoolExecutor(CLIENTS) as pool:
            working = [pool.submit(client.work, target.server, done) for client in clients]
            try:
                done.wait(choose.uniform(0.05, target.longest))
                target.kill(way)
                if way != "server":  # others go on beside what is gone
                    done.wait(choose.uniform(0.0, 0.4))
            finally:  # or they would go on for ever, and pytest with them
                done.set()
        for client_at_work in working:
            client_at_work.result()  # raises what ended a client early
        target.restart(way)
        for client in clients:
            client.compare(target.server)
        tally.broken += target.problems()
        tally.counts[f"killed: {way}"] += 1
        tell(f"{number + 1} of {count}: {way} killed, {len(tally.broken)} broken")
    _compare_all(target, clients, tally)


#: Plays so many rounds on a target, with a tally, a seed, and what is told how they go.
Rounds = Callable[[Target, int, Tally, str, Callable[[str], None]], None]


def campaign(
    rounds: Rounds,
    new_target: Callable[[], contextlib.AbstractContextManager[Target]],
    count: int,
    each: int,
    seed: str,
) -> int:
    """Run that many rounds, `each` of them on one target; print how they go and, however they end,
    a table. Return an exit status: 1 if a promise was broken."""
    tally = Tally()
    began = time.monotonic()
    try:
        for first in range(0, count, each):
            print(f"-- from round {first + 1}", flush=True)
            with new_target() as target:
                some = min(each, count - first)
                rounds(target, some, tally, f"{seed}-{first}", lambda line: print(line, flush=True))
    finally:
        print(f"\nseed {seed}, {time.monotonic() - began:.0f} s")
        print(tally.table())
    return 1 if tally.broken else 0


def main(description: str, rounds: Rounds, count: int, each: int) -> int:
    """Run a campaign as a program that takes a backend, a number of rounds (`count` unless told)
    and a seed; return its exit status."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backend", choices=("sqlite", "postgres"))
    parser.add_argument("--rounds", type=int, default=count)
    parser.add_argument("--seed", default=str(int(time.time())))
    options = parser.parse_args()
    exit_on_signals()
    with own_postgres() if options.backend == "postgres" else contextlib.nullcontext() as postgres:
        return campaign(rounds, lambda: _target_on(postgres), options.rounds, each, options.seed)


@contextlib.contextmanager
def _target_on(postgres: OwnPostgres | None) -> Iterator[Target]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perfgate-")))
        target: Target
        if postgres is None:
            target = SqliteTarget(folder)
        else:
            target = PostgresTarget(folder, postgres, stack.enter_context(postgres.database()))
        stack.callback(target.close)
        yield target


def _compare_all(target: Target, clients: list[Client], tally: Tally) -> None:
    """Compare everything that all rounds left, by reading it and by walking the histories."""
    expected = set()
    for client in clients:
        client.written.update(client.may_be)
        client.compare(target.server)
        expected |= {name for name, states in client.may_be.items() if states[0]}
    listed: list[Name] = []
    for benchmark in BENCHMARKS:
        query = "?limit=1000"
        while query:
            path = f"/projects/p/baselines/{benchmark}/versions{query}"
            _, headers, body = target.server.request("GET", path)
            answer = json.loads(body)
            listed += [(benchmark, entry["version"]) for entry in answer.get("versions", ())]
            query = headers["link"].split("<")[1].split(">")[0] if "link" in headers else ""
    if sorted(listed) != sorted(expected):
        tally.broken.append(f"listed and expected differ in {sorted(set(listed) ^ expected)[:5]}")
    tally.counts["records at the end"] += len(expected)
    if "Traceback" in target.server.log:
        tally.broken.append("a traceback stands in the log")

"""A fuzzer of every route with every kind of key, for test_fuzz.py and benchmarks/fuzz.py.

The routes are those of `app.url_map`, the parameters and members those of the schemas, so that it
covers what is added later. A request is made of a seed and its number, so that a failure can be
repeated.
"""

from __future__ import annotations

import json
import logging
import random
from collections import Counter
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_to_bytes

from support import receipt, soon

from perfgate_server import Role, ServerConfig, create_app, fields, logs, queries
from perfgate_server.keys import Permission
from perfgate_server.storage.sql import WRONG_TOTALS

#: What stands in the records of another project, and of another benchmark of the same project:
#: who sees it, sees what is not his.
FAR, NEAR = "CANARY0far", "CANARY0near"
#: Requests on one database: the more there is in it, the longer each takes.
REQUESTS_EACH = 2000


@dataclass(frozen=True)
class Caller:
    """A key, and what it may reach; `role` is None where the key is not one of the server's."""

    header: str | None
    role: Role | None = None
    project: str | None = None
    benchmarks: str | None = None


def _callers() -> list[Caller]:
    known = []
    for number, role in enumerate(Role):
        for reach, (project, benchmarks) in enumerate(
            ((None, None), ("p", None), ("p", "own/.*"), (None, "own/.*"))
        ):
            key = f"pg_live_{number}{reach}" + "K" * 32
            known.append(Caller(f"Bearer {key}", role, project, benchmarks))
    return [
        *known,
        Caller(None),
        Caller("Bearer pg_live_" + "U" * 40),
        Caller("Bearer \xff"),
        Caller(f"Basic {known[0].header}"),
    ]


CALLERS = _callers()
#: Those that are refused little.
ABLE = [caller for caller in CALLERS if caller.role in (Role.PROMOTER, Role.ADMIN)]
# Without what a mutation may cut off in front.
SECRETS = [caller.header.split()[-1][3:] for caller in CALLERS if caller.role and caller.header]


def _fields(base: Any) -> set[str]:
    """Return the members that the schemas below `base` know."""
    names = {str(field.data_key or name) for name, field in base._declared_fields.items()}
    return names.union(*(_fields(kind) for kind in base.__subclasses__()))


MEMBERS = sorted(_fields(fields.Object) - _fields(queries.Query) | {"receipt", "tags", "x"})
PARAMETERS = sorted(_fields(queries.Query) | {"meta.x", "meta.", "x", ""})
METHODS = ("GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW", "get")
HEADERS = (
    ["If-Match", "If-None-Match", "X-Request-ID", "Content-Type", "Content-Encoding", "Origin"]
    + ["Access-Control-Request-Method", "Access-Control-Request-Headers", "Range", "Accept"]
    + ["X-Forwarded-Prefix", "X-Forwarded-For", "X-HTTP-Method-Override", "Cookie", "Expect"]
)
GOOD = {
    "project": ["p", "p", "p", "q", "new"],
    "benchmark": ["own/a", "own/b", "own/a", "other/x", "b"],
    "version": ["v1", "v2", "prod", "v1"],
}
ODD: list[Any] = (
    ["", "0", "-1", "1", "9" * 30, "true", "*", '"x"', "a,b", "..", ".", "/", "//", "%", "%2F"]
    + ["\n", "\r\nX: y", "\x00", "\x1b[31m", "\u2028", "\ud800", "\xff", "naïve🚀", "'; DROP TABLE"]
    + ["versions", "latest", "promote", "2026-03-08T12:00:00Z", "upload", "AAAAAAAAAAI", "x" * 300]
    + ["a" * 5000, "(a+)+$", "{{7*7}}", "${x}", "../../etc/passwd", "pg_" + SECRETS[0]]
)
SCALARS: list[Any] = [*ODD, None, True, False, 0, -1, 1.5, 1e308, 2**64, -(2**63)]


class Broken(AssertionError):
    """A promise that a request broke."""


class Fuzzer:
    """One application, its log, and what is in its database."""

    def __init__(self, seed: str) -> None:
        config = ServerConfig(max_body_size=2**16)
        for caller in CALLERS:
            if caller.role and caller.header:
                key = caller.header.removeprefix("Bearer ")
                config = config.api_key(key, caller.role, caller.project, caller.benchmarks)
        self.app = create_app(config)
        self.client = self.app.test_client()
        self.rules = [rule for rule in self.app.url_map.iter_rules()]
        self.statuses: Counter[int] = Counter()
        #: Route and role -> how often it was asked.
        self.asked: Counter[tuple[str, Role | None]] = Counter()
        self._seed = seed
        self._log = _Log()
        self._storage: Any = self.app.extensions["perfgate"].storage
        self._fill()
        self._rows = self._snapshot()

    def close(self) -> None:
        self._log.close()
        self._storage.close()

    def _fill(self) -> None:
        admin = CALLERS[[c.role for c in CALLERS].index(Role.ADMIN)].header
        for project, benchmark, mark in (
            ("p", "own/a", "mine"),
            ("p", "own/b", "mine"),
            ("p", "other/x", NEAR),
            ("p", f"other/{NEAR}", NEAR),
            ("q", "own/a", FAR),
            ("q", f"own/{FAR}", FAR),
        ):
            for version in ("v1", "v2"):
                envelope = {
                    "benchmark": benchmark,
                    "version": version,
                    "git_ref": mark,
                    "tags": [mark],
                    "metadata": {mark: mark},
                    "receipt": receipt() | {"x-mark": f"{mark} {benchmark} {version}"},
                }
                answer = self.client.post(
                    f"/projects/{project}/baselines",
                    json=envelope,
                    headers={"Authorization": admin or ""},
                )
                assert answer.status_code == 201, answer.text

    # -- what is sent

    def send(self, number: int) -> None:
        """Send the request of that number. Raises Broken."""
        choose = random.Random(f"{self._seed}-{number}")
        rule = choose.choice(self.rules)
        caller = choose.choice(CALLERS if choose.random() < 0.6 else ABLE)
        own = sorted((rule.methods or set()) - {"HEAD", "OPTIONS"})
        method = choose.choice(own if choose.random() < 0.9 else METHODS)
        path = self._path(choose, rule)
        query = self._query(choose) if method == "GET" or choose.random() < 0.2 else ""
        body, kind = self._body(choose, rule)
        headers = {"Content-Type": kind} if kind else {}
        for _ in range(choose.choice((0, 0, 1, 2))):
            headers[choose.choice(HEADERS)] = _latin(choose.choice(ODD))
        if caller.header is not None:
            headers["Authorization"] = caller.header
        try:
            answer = self.client.open(
                "/",
                method=method,
                headers=headers,
                data=body,
                environ_overrides={"PATH_INFO": path, "QUERY_STRING": query},
            )
            self.statuses[answer.status_code] += 1
            self.asked[rule.rule, caller.role] += 1
            self._check(caller, method, answer)
        except Exception as error:
            request = f"{method} {path!r} ?{query!r} {headers} {body[:500]!r}"
            raise Broken(f"seed {self._seed}, number {number}: {error}\n{request}") from error

    def _path(self, choose: random.Random, rule: Any) -> str:
        parts = []
        for dynamic, part in rule._trace:
            if not dynamic:
                parts.append(part.lstrip("|"))
            elif choose.random() < 0.85:
                parts.append(choose.choice(GOOD.get(part, GOOD["version"])))
            else:
                parts.append(_mixed(choose))
        if choose.random() < 0.05:
            parts.insert(choose.randrange(len(parts) + 1), _mixed(choose))
        raw = "".join(parts).encode("utf-8", "surrogatepass")
        return (unquote_to_bytes(raw) if choose.random() < 0.1 else raw).decode("latin-1")

    def _query(self, choose: random.Random) -> str:
        pairs = []
        for _ in range(choose.choice((0, 0, 0, 1, 1, 2, 5))):
            name = choose.choice(PARAMETERS) if choose.random() < 0.95 else _mixed(choose)
            good = [value for values in GOOD.values() for value in values]
            value = choose.choice([*good, "mine", "true", "1", "only", "upload"])
            pairs.append(f"{name}={value if choose.random() < 0.6 else _mixed(choose)}")
        return "&".join(pairs).encode("utf-8", "surrogatepass").decode("latin-1")

    def _body(self, choose: random.Random, rule: Any) -> tuple[bytes, str | None]:
        kind = choose.choice(("application/json",) * 20 + ("text/plain", "a/b+json", None, "\xff"))
        receipt_ = _receipt(choose)
        version = choose.choice((*GOOD["version"], f"w{choose.random()}"))
        envelope = {"benchmark": choose.choice(GOOD["benchmark"]), "version": version}
        bodies: list[Any] = [
            receipt_,
            {"from_version": choose.choice(GOOD["version"]), "to_version": version},
            envelope | {"receipt": receipt_},
            {
                "benchmark": envelope["benchmark"],
                "run_id": choose.choice(("run-1", _mixed(choose))),
                "status": choose.choice(("pass", "fail")),
                "counts": {"pass": 1, "warn": 0, "fail": choose.choice((0, 1)), "skip": 0},
                "reasons": [],
                "wall_ms_cv": choose.choice((None, 0.1, _mixed(choose))),
            },
            {"receipt": receipt_, "options": {choose.choice(PARAMETERS): _value(choose, 1)}},
            {name: _value(choose, 2) for name in choose.sample(MEMBERS, 6)},
            _value(choose, 3),
        ]
        if choose.random() < 0.1:
            return choose.randbytes(choose.randrange(50)), kind
        # Mostly what the route is for, as far as one can tell from its name.
        likely = 2
        for part, index in (("<segment:version>", 0), ("promote", 1), ("verdicts", 3)):
            if part in rule.rule:
                likely = index
        if "compare" in rule.rule:
            likely = choose.choice((0, 4))
        value = bodies[likely] if choose.random() < 0.6 else choose.choice(bodies)
        if isinstance(value, dict) and choose.random() < 0.3:
            value[choose.choice(MEMBERS)] = _value(choose, 2)
        body = json.dumps(value, ensure_ascii=choose.random() < 0.5)
        raw = body.encode("utf-8", "surrogatepass")
        if choose.random() < 0.05 and b"pg_live_" not in raw:
            cut = choose.randrange(len(raw) + 1)
            raw = raw[:cut] + _mixed(choose).encode("utf-8", "surrogatepass") + raw[cut + 1 :]
        return raw, kind

    # -- what must hold

    def _check(self, caller: Caller, method: str, answer: Any) -> None:
        assert answer.status_code < 500, answer.text
        given = answer.headers["X-Request-ID"]
        if (
            answer.status_code >= 400
            and method != "HEAD"
            and not answer.headers.get("Perfgate-Verdict")
        ):
            error = answer.json["error"]
            assert set(error) == {"code", "message", "details", "request_id"}, error
            assert error["request_id"] == given
        shown = answer.get_data() + str(answer.headers).encode("utf-8", "replace")
        if answer.status_code >= 400:  # a record that is called like a key is its maker's affair
            for secret in SECRETS:
                assert secret.encode() not in shown, "a key stands in the answer"
        if caller.role is None or caller.project:
            assert FAR.encode() not in shown, "another project's record stands in the answer"
        if caller.role is None or caller.benchmarks:
            assert NEAR.encode() not in shown, "another benchmark's record stands in the answer"
        self._log.check()
        self._check_rows(caller)

    def _check_rows(self, caller: Caller) -> None:
        with self._storage._engine.single(soon()) as db:
            if db.total_changes == self._changes:
                return
        before, after = self._rows, self._snapshot()
        self._rows = after
        new, gone = after - before, before - after
        permissions = caller.role.permissions if caller.role else frozenset()
        if new or gone:
            assert permissions & {Permission.WRITE, Permission.PROMOTE, Permission.DELETE}
        assert not gone or Permission.DELETE in permissions, f"deleted: {gone}"
        for table, project, benchmark, *_ in new | gone:
            where = f"{table}: {project}, {benchmark}"
            assert caller.project in (None, project), f"another project was changed: {where}"
            own = not caller.benchmarks or benchmark is None or benchmark.startswith("own/")
            assert own, f"another benchmark was changed: {where}"

    def _snapshot(self) -> set[tuple[Any, ...]]:
        """Return every row of every table that belongs to a project: table, project, benchmark
        (None where the table has none), and the rest. The totals are not anybody's own: that
        they are right is asserted here."""
        rows: set[tuple[Any, ...]] = set()
        with self._storage._engine.single(soon()) as db:
            self._changes = db.total_changes
            tables = db.execute("SELECT name FROM sqlite_schema WHERE type = 'table'").fetchall()
            for (table,) in tables:
                columns = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
                if table == "totals":
                    assert not db.execute(WRONG_TOTALS).fetchall(), "the totals are wrong"
                elif "project" in columns:
                    named = "benchmark" if "benchmark" in columns else "NULL"
                    found = db.execute(f"SELECT '{table}', project, {named}, * FROM {table}")
                    rows.update(found.fetchall())
        return rows


def _mixed(choose: random.Random) -> str:
    return "".join(choose.choice(ODD) for _ in range(choose.choice((1, 1, 1, 2, 3))))


def _latin(text: str) -> str:
    """Return what a WSGI server lets into a header."""
    raw = text.encode("utf-8", "surrogatepass").decode("latin-1")
    return "".join(char for char in raw if char == "\t" or char >= " " and char != "\x7f")


def _value(choose: random.Random, depth: int) -> Any:
    if depth == 0 or choose.random() < 0.6:
        return choose.choice(SCALARS)
    if choose.random() < 0.5:
        return [_value(choose, depth - 1) for _ in range(choose.randrange(4))]
    return {_mixed(choose): _value(choose, depth - 1) for _ in range(choose.randrange(4))}


def _receipt(choose: random.Random) -> Any:
    value = receipt(choose.randrange(1000))
    if choose.random() < 0.4:
        holder = choose.choice([value, value["run"], value["bench"], value["stats"]["wall_ms"]])
        holder[choose.choice([*holder, *MEMBERS])] = _value(choose, 2)
    return value


class _Log(logging.Handler):
    """What the server logs, in both formats, at every level."""

    def __init__(self) -> None:
        super().__init__(logs.TRACE)
        self._lines: list[str] = []
        self._formats = [
            logs.JsonLines(json_serializer=lambda data, **_: json.dumps(data, default=str)),
            logs.PrettyLines(),
        ]
        self._logger = logging.getLogger("perfgate_server")
        self._before = self._logger.level, self._logger.propagate
        self._logger.setLevel(logs.TRACE)
        self._logger.propagate = False
        self._logger.addHandler(self)

    def emit(self, record: logging.LogRecord) -> None:
        self._lines += [style.format(record) for style in self._formats]

    def check(self) -> None:
        assert self._lines, "nothing was logged"
        for line in self._lines:
            assert line.isprintable(), f"raw in the log: {line!r}"
            for secret in SECRETS:
                assert secret not in line, f"a key stands in the log: {line}"
        self._lines.clear()

    def close(self) -> None:
        level, self._logger.propagate = self._before
        self._logger.setLevel(level)
        self._logger.removeHandler(self)
        super().close()


@dataclass
class Result:
    statuses: Counter[int]
    asked: Counter[tuple[str, Role | None]]
    routes: set[str]


def fuzz(count: int, seed: str, tell: Any = lambda done: None) -> Result:
    """Send so many requests. Raises Broken at the first that breaks a promise."""
    result = Result(Counter(), Counter(), set())
    for first in range(0, count, REQUESTS_EACH):
        fuzzer = Fuzzer(f"{seed}-{first}")
        try:
            for number in range(min(REQUESTS_EACH, count - first)):
                fuzzer.send(number)
        finally:
            fuzzer.close()
        result.statuses += fuzzer.statuses
        result.asked += fuzzer.asked
        result.routes = {rule.rule for rule in fuzzer.rules}
        tell(first + REQUESTS_EACH)
    return result

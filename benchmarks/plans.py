"""How the databases answer the server's queries, with very many baselines stored.

    python benchmarks/plans.py sqlite /tmp/plans.db
    python benchmarks/plans.py postgres postgresql://user:password@localhost/empty

Fills an empty database with one project of so many baselines (10,000 benchmarks; one of them with
10,000 versions), then shows for each query of the API its plan and the median of its times. The
statements are the ones that the server sends, caught on their way.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import time
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from perfgate_server.storage import open_storage
from perfgate_server.storage.base import Filters, Page, PastRun, Selector
from perfgate_server.storage.verdicts import VerdictFilters

_VALUES = """
    'id' || i, 'p',
    CASE WHEN i % 100 = 0 THEN 'hot' ELSE 'team' || (i % 10) || '/bench' || (i % 999) END,
    'v' || i, CASE WHEN i % 2 = 0 THEN 'main' ELSE 'dev' END, 'sha' || (i / 1000),
    '{}', CASE WHEN i % 2 = 0 THEN '["half"]' ELSE '[]' END,
    %s, 'admin:00000000', 'hash' || i, CASE WHEN i % 5000 = 0 THEN 'promote' ELSE 'upload' END, i"""
_VERDICTS = """
    'id' || i, 'p',
    CASE WHEN i % 100 = 0 THEN 'hot' ELSE 'team' || (i % 10) || '/bench' || (i % 999) END,
    'run' || i, CASE WHEN i % 50 = 0 THEN 'fail' ELSE 'pass' END,
    '{"pass": 1, "warn": 0, "fail": 0, "skip": 0}', '[]',
    CASE WHEN i % 2 = 0 THEN 'main' ELSE 'dev' END, 'sha' || (i / 1000), %s, 'admin:00000000'"""
_SUMMARY = (
    '{"failed":0,"host":{"arch":"x86_64","os":"linux"},"run_id":"r","samples":5,'
    '"stats":{"wall_ms":{"max":3,"median":2,"min":1}}}'
)
_COLUMNS = """id, project, benchmark, version, git_ref, git_sha, metadata, tags, created_at,
    created_by, content_hash, source, receipt_id"""
_FILL = {
    "sqlite": (
        "CREATE TEMP TABLE n AS WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n"
        " WHERE i < {rows}) SELECT i FROM n",
        "strftime('%Y-%m-%dT%H:%M:%S.000000Z', 1767225600 + i, 'unixepoch')",
    ),
    "postgres": (
        "CREATE TEMP TABLE n AS SELECT i FROM generate_series(1, {rows}) i",
        "to_char(to_timestamp(1767225600 + i) AT TIME ZONE 'UTC',"
        ' \'YYYY-MM-DD"T"HH24:MI:SS.US"Z"\')',
    ),
}
_EXPLAIN = {"sqlite": "EXPLAIN QUERY PLAN ", "postgres": "EXPLAIN (COSTS OFF) "}


def fill(storage: Any, rows: int) -> None:
    """Store so many baselines by SQL: through the API it would take an hour."""
    numbers, moment = _FILL[storage.backend]
    with storage._engine.writing("p", "", time.monotonic() + 3600) as db:
        db.execute(numbers.format(rows=rows))
        db.execute("INSERT INTO receipts (id, project, body) SELECT i, 'p', '{}' FROM n")
        db.execute(
            f"""INSERT INTO receipt_summaries (project, receipt_id, body)
                SELECT 'p', i, '{_SUMMARY}' FROM n"""
        )
        values = _VALUES.replace("%s", moment)
        db.execute(f"INSERT INTO baselines ({_COLUMNS}) SELECT {values} FROM n ORDER BY i")
        db.execute(
            """INSERT INTO baseline_tags (project, tag, seq)
               SELECT project, 'half', seq FROM baselines WHERE tags <> '[]'"""
        )
        db.execute(
            f"""INSERT INTO verdicts (id, project, benchmark, run_id, status, counts, reasons,
                git_ref, git_sha, created_at, created_by)
                SELECT {_VERDICTS.replace("%s", moment)} FROM n ORDER BY i"""
        )
    storage.analyze(deadline=time.monotonic() + 3600)


class Explaining:
    """A session that keeps the plan of each statement it is given."""

    def __init__(self, session: Any, explain: str, plans: list[str]) -> None:
        self._session, self._explain, self._plans = session, explain, plans

    def __getattr__(self, name: str) -> Any:
        return getattr(self._session, name)

    def execute(self, sql: str, values: Any = ()) -> Any:
        for row in self._session.execute(self._explain + sql, values).fetchall():
            self._plans.append(str(row[-1]))
        return self._session.execute(sql, values)


@contextlib.contextmanager
def explaining(storage: Any) -> Iterator[list[str]]:
    """Catch the plans of what is called meanwhile."""
    engine, plans = storage._engine, list[str]()

    class Engine:
        def __getattr__(self, name: str) -> Any:
            return getattr(engine, name)

        @contextlib.contextmanager
        def single(self, deadline: float) -> Iterator[Any]:
            with engine.single(deadline) as session:
                yield Explaining(session, _EXPLAIN[storage.backend], plans)

        @contextlib.contextmanager
        def reading(self, deadline: float) -> Iterator[Any]:
            with engine.reading(deadline) as session:
                yield Explaining(session, _EXPLAIN[storage.backend], plans)

    storage._engine = Engine()
    try:
        yield plans
    finally:
        storage._engine = engine


def queries(storage: Any, rows: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    def listing(total: bool = False, cursor: int | None = None, **filters: Any) -> Any:
        page = Page(limit=50, total=total, cursor=cursor)
        return storage.list("p", Filters(**filters), page, deadline=time.monotonic() + 60)

    soon = time.monotonic() + 3600
    yield (
        "latest of a benchmark with many versions",
        lambda: storage.latest("p", "hot", receipt=True, deadline=soon),
    )
    yield "one version", lambda: storage.get("p", "hot", "v100", receipt=True, deadline=soon)
    yield (
        "a page of its history",
        lambda: storage.history("p", "hot", Page(limit=50, total=False), deadline=soon),
    )
    yield "the first page of the project", listing
    yield "a page in its middle, by cursor", lambda: listing(cursor=rows // 2)
    yield "the first page with its total", lambda: listing(total=True)
    yield (
        "benchmark and git_ref, none of 10,000 match",
        lambda: listing(benchmark="hot", git_ref="dev"),
    )
    yield (
        "benchmark and source, 200 of 10,000 match",
        lambda: listing(True, benchmark="hot", source="promote"),
    )
    combined: dict[str, dict[str, Any]] = {
        "benchmark, 100 match, and tags, half do": {"benchmark": "team9/bench0", "tags": ["half"]},
        "git_ref, half match, and source, 200 do": {"git_ref": "main", "source": "promote"},
        "git_ref and tags, half match, none both": {"git_ref": "dev", "tags": ["half"]},
    }
    for name, filters in combined.items():
        yield f"{name}, with the total", partial(listing, True, **filters)
    yield "git_sha, 1,000 match, with the total", lambda: listing(True, git_sha="sha7")
    yield "git_ref, half match, with the total", lambda: listing(True, git_ref="main")
    yield "tags, half match, with the total", lambda: listing(True, tags=["half"])
    yield (
        "benchmark_prefix, a tenth match, with the total",
        lambda: listing(True, benchmark_prefix="team3/"),
    )
    half = f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(1767225600 + rows // 2))}.000000Z"
    yield "since, half match, with the total", lambda: listing(True, since=half)
    yield "since, half match, by cursor", lambda: listing(since=half, cursor=rows * 3 // 4)
    yield from comparisons(storage, rows)
    yield from verdicts(storage, half)


def comparisons(storage: Any, rows: int) -> Iterator[tuple[str, Callable[[], Any]]]:
    soon, newest = time.monotonic() + 3600, [f"hash{rows}"]

    def compare(selector: Selector) -> Any:
        return storage.comparison("p", "hot", [selector], excluding=newest, deadline=soon)

    def past(git_ref: str | None, wanted: bool = True) -> Any:
        return storage.past(
            storage.latest("p", "hot", receipt=False, deadline=soon),
            git_ref=git_ref,
            excluding=newest,
            limit=20,
            read=lambda summary: PastRun(summary, True) if wanted else None,
            deadline=soon,
        )

    def recent(git_ref: str | None) -> Any:
        return storage.recent("p", "hot", 30, git_ref=git_ref, deadline=soon)

    for kind, value in (
        ("latest", ""),
        ("promoted", ""),
        ("version", "v100"),
        ("tag", "half"),
        ("tag", "none"),
        ("git_sha", "sha7"),
        ("git_sha", "none"),
        ("git_ref", "main"),
        ("git_ref", "none"),
    ):
        selector = Selector(kind, value)
        yield f"compare with {kind} {value}", partial(compare, selector)
    yield "the 20 runs up to the latest", lambda: past(None)
    yield "those of one ref", lambda: past("main")
    yield "runs of which none is wanted", lambda: past(None, wanted=False)
    for git_ref in (None, "main", "none"):
        yield (
            f"the 30 most recent, for a trend of {git_ref or 'all'}",
            partial(recent, git_ref),
        )


def verdicts(storage: Any, half: str) -> Iterator[tuple[str, Callable[[], Any]]]:
    def listing(total: bool = False, **filters: Any) -> Any:
        page = Page(limit=50, total=total)
        deadline = time.monotonic() + 60
        return storage.list_verdicts("p", VerdictFilters(**filters), page, deadline=deadline)

    yield "the first page of the verdicts", listing
    yield "verdicts, with the total", lambda: listing(True)
    yield "verdicts of a benchmark, with the total", lambda: listing(True, benchmark="hot")
    yield "verdicts that failed, with the total", lambda: listing(True, status="fail")
    yield "verdicts by git_ref, half match", lambda: listing(git_ref="main")
    yield "verdicts of a commit, with the total", lambda: listing(True, git_sha="sha7")
    yield "verdicts since, half match, with the total", lambda: listing(True, since=half)
    yield (
        "verdicts of a tenth of the benchmarks",
        lambda: listing(is_visible=lambda name: name.startswith("team3/")),
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("backend", choices=sorted(_FILL))
    parser.add_argument("location")
    parser.add_argument("--rows", type=int, default=1_000_000)
    options = parser.parse_args()
    storage: Any = open_storage(options.backend, options.location, pool_size=1)
    if storage.counts(deadline=time.monotonic() + 600).baselines == 0:
        fill(storage, options.rows)
    for name, query in queries(storage, options.rows):
        with explaining(storage) as plans:
            query()
        times = []
        for _ in range(7):
            began = time.perf_counter()
            query()
            times.append((time.perf_counter() - began) * 1000)
        print(f"\n## {name}: {statistics.median(times):.2f} ms")
        print("\n".join(f"    {line}" for line in plans))
    storage.close()


if __name__ == "__main__":
    main()

"""What PostgreSQL makes of the statements: its plans, the totals that triggers keep, the locks that
an import takes, and the digits that an export has."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest
from postgres_server import Postgres, database_of, opened
from support import PATIENCE, soon, stored
from test_storage_verdicts import verdict
from test_transfer import restored

from perfgate_server.records import baseline_json, record_head
from perfgate_server.storage import sql, sql_comparison, sql_verdicts
from perfgate_server.storage.base import Filters, Page, Selector, Unavailable
from perfgate_server.storage.selection import select
from perfgate_server.storage.verdicts import VerdictFilters

_MANY = """
    INSERT INTO {table} ({columns}) SELECT {values} FROM generate_series(1, 2000) i"""
_BASELINES = {
    "id": "'id' || i",
    "project": "'web'",
    "benchmark": "'b'",
    "version": "'many' || i",
    "metadata": "'{}'",
    "tags": "'[]'",
    "created_at": "'2026-01-01T00:00:00.000000Z'",
    "created_by": "'admin:00000000'",
    "content_hash": "'h'",
    "source": "'upload'",
    "receipt_id": "(SELECT min(id) FROM receipts)",
}
_VERDICTS = {name: _BASELINES[name] for name in ("id", "project", "benchmark", "created_at")}
_VERDICTS |= {"run_id": "'r'", "status": "'pass'", "counts": "'{}'", "reasons": "'[]'"}
_VERDICTS |= {"created_by": _BASELINES["created_by"]}


@pytest.fixture
def storage(url: str) -> Iterator[Any]:
    """A storage with one record in it."""
    with contextlib.closing(opened(url)) as storage:
        storage.create(*stored("b", "v1", "web"), deadline=soon())
        yield storage


@pytest.fixture
def db(storage: Any, url: str) -> Iterator[Any]:
    """A connection with 2,000 baselines and verdicts more, of which there are no statistics."""
    with psycopg.connect(url, autocommit=True) as session:
        for table, row in (("baselines", _BASELINES), ("verdicts", _VERDICTS)):
            session.execute(f"ALTER TABLE {table} SET (autovacuum_enabled = off)")
            columns, values = ", ".join(row), ", ".join(row.values())
            session.execute(_MANY.format(table=table, columns=columns, values=values))
        yield session


def test_no_large_project_is_missing_from_the_statistics(storage: Any, url: str) -> None:
    """The planner takes one for empty that began since, and walks over all of it for each page."""
    with psycopg.connect(url) as session:
        rows = session.execute(
            """SELECT relname, substring(array_to_string(reloptions, ',')
                    FROM 'autovacuum_analyze_threshold=([0-9]+)')
               FROM pg_class WHERE reloptions @> ARRAY['autovacuum_analyze_scale_factor=0']"""
        ).fetchall()
    few = dict.fromkeys(("baselines", "baseline_tags"), "200")
    assert dict(rows) == few | dict.fromkeys(("receipts", "receipt_summaries", "verdicts"), "1000")


def test_names_and_times_compare_by_byte_whatever_the_database_s_collation(
    storage: Any, url: str
) -> None:
    """A prefix is a range of names, and "a/b" is not between "a" and "ab" in every language."""
    with psycopg.connect(url) as session:
        rows = session.execute(
            """SELECT DISTINCT t.relname, a.attname FROM pg_index i
               JOIN pg_class t ON t.oid = i.indrelid AND t.relnamespace = 'public'::regnamespace
               JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = ANY (i.indkey)
               JOIN pg_collation c ON c.oid = a.attcollation WHERE c.collname <> 'C'"""
        ).fetchall()
    assert rows == []


def totals(db: Any) -> dict[str, int]:
    rows = db.execute("SELECT kind, sum(number)::int FROM totals GROUP BY kind").fetchall()
    return dict(rows)


def changes_of_totals(db: Any) -> int:
    """Return how many rows of the totals were written over this connection, as it knows."""
    row = db.execute(
        """SELECT n_tup_ins + n_tup_upd FROM pg_stat_xact_user_tables WHERE relname = 'totals'"""
    ).fetchone()
    return int(row[0])


def test_one_version_is_found_by_its_own_index_without_statistics(db: Any) -> None:
    """A new database has none, nor has one that pg_upgrade moved: every version of the benchmark
    was read, for each upload."""
    plan = db.execute(
        """EXPLAIN SELECT * FROM baselines b
           WHERE b.project = 'web' AND b.benchmark = 'b' AND b.version = 'v1'"""
    ).fetchall()
    assert "Index Scan using baselines_by_version" in plan[0][0]


def test_very_many_records_are_counted_at_once(db: Any) -> None:
    """By SQL, as an administrator may delete a project: each change of a row of the totals takes
    longer than the one before it in the transaction."""
    assert totals(db) == {"baselines": 2001, "verdicts": 2000}
    for table in ("baselines", "verdicts"):
        with db.transaction():
            before = changes_of_totals(db)
            db.execute(f"DELETE FROM {table} WHERE seq % 4 > 0")
            assert changes_of_totals(db) == before + 1
    assert db.execute(sql.WRONG_TOTALS).fetchall() == []
    assert 0 < totals(db)["baselines"] < 600


def test_a_statement_on_several_projects_counts_each(db: Any) -> None:
    db.execute("UPDATE verdicts SET project = 'cli' WHERE seq % 2 = 0")
    db.execute("DELETE FROM totals WHERE kind = 'verdicts'")
    db.execute(
        """INSERT INTO totals (project, kind, slot, number)
           SELECT project, 'verdicts', 0, count(*) FROM verdicts GROUP BY project"""
    )
    db.execute("DELETE FROM verdicts WHERE seq % 3 = 0")
    assert db.execute(sql.WRONG_TOTALS).fetchall() == []


def test_a_table_that_is_emptied_is_counted_as_empty(db: Any, storage: Any) -> None:
    db.execute("TRUNCATE baselines, receipts, receipt_summaries")
    assert totals(db) == {"verdicts": 2000}
    storage.create(*stored("b", "v1", "web"), deadline=soon())
    assert totals(db) == {"baselines": 1, "verdicts": 2000}
    assert storage.counts(deadline=soon()).wrong_totals == []
    db.execute("TRUNCATE verdicts")
    assert totals(db) == {"baselines": 1}


def test_an_administrator_with_another_search_path_is_counted_too(db: Any) -> None:
    """As in a session of pg_restore, which has none."""
    db.execute("SET search_path = ''")
    db.execute("DELETE FROM public.baselines WHERE seq % 2 = 0")
    db.execute("TRUNCATE public.verdicts")
    db.execute("RESET search_path")
    assert db.execute(sql.WRONG_TOTALS).fetchall() == []
    assert "verdicts" not in totals(db)


# -- export and import


def test_uploads_go_on_while_an_import_waits_for_a_vacuum(url: str) -> None:
    """They queue behind whoever waits for a lock."""
    with (
        contextlib.closing(opened(url)) as storage,
        psycopg.connect(url) as vacuum,
        ThreadPoolExecutor(1) as threads,
    ):
        vacuum.execute("LOCK TABLE baselines IN SHARE UPDATE EXCLUSIVE MODE")
        reserved = threads.submit(storage.reserve, "baselines", 5, deadline=soon())
        for number in range(20):
            storage.create(*stored("b", f"v{number}"), deadline=soon(PATIENCE / 2))
        assert not reserved.done()
        vacuum.rollback()
        first = reserved.result()
        newest = storage.create(*stored("b", "after"), deadline=soon())[0]
        assert newest.sequence >= first + 5


def test_what_is_waited_for_too_long_by_an_import_is_unavailable(url: str) -> None:
    with contextlib.closing(opened(url)) as storage, psycopg.connect(url) as vacuum:
        vacuum.execute("LOCK TABLE baselines IN SHARE UPDATE EXCLUSIVE MODE")
        with pytest.raises(Unavailable, match="lock timeout|statement timeout") as raised:
            storage.reserve("baselines", 5, deadline=soon(0.5))
        assert raised.value.reason == "busy"
        vacuum.rollback()
        assert storage.reserve("baselines", 5, deadline=soon()) > 0


def imported(storage: Any, numbers: range) -> None:
    """Import records with two tags each."""
    lines = []
    for number in numbers:
        record, receipt = stored(f"b{number}", "v1", tags=["nightly", "stable"])
        lines.append(baseline_json(record_head(record), receipt.body))
    report, complaints = restored(storage, b"".join(lines))
    assert report.complete, complaints


def known_rows(url: str) -> dict[str, int]:
    """Return how many rows the planner takes two tables to have."""
    with psycopg.connect(url) as session:
        rows = session.execute(
            """SELECT relname, reltuples::int FROM pg_class
               WHERE relname IN ('baselines', 'baseline_tags')"""
        ).fetchall()
    return dict(rows)


def test_after_an_import_the_planner_knows_what_there_is(url: str) -> None:
    """Or until autovacuum comes, a list by two tags takes seconds with 10,000 records: the planner
    takes them for one, and compares each with each."""
    with contextlib.closing(opened(url)) as storage, psycopg.connect(url) as session:
        session.execute("ALTER TABLE baselines SET (autovacuum_enabled = off)")
        session.execute("ALTER TABLE baseline_tags SET (autovacuum_enabled = off)")
        session.commit()
        imported(storage, range(30))
        assert known_rows(url) == {"baselines": 30, "baseline_tags": 60}
        # Whatever holds it off, all is kept, and the import ends.
        session.execute("LOCK TABLE baseline_tags IN SHARE UPDATE EXCLUSIVE MODE")
        imported(storage, range(30, 40))
        assert known_rows(url) == {"baselines": 40, "baseline_tags": 60}


def test_an_export_has_all_digits_whatever_the_server_shows(postgres: Postgres, url: str) -> None:
    postgres.execute(f"ALTER DATABASE {database_of(url)} SET extra_float_digits = 0")
    with contextlib.closing(opened(url)) as storage:
        kept = storage.add_verdict(verdict(wall_ms_cv=0.12345678901234568), deadline=soon())
        (exported,) = storage.export(deadline=soon())
        assert exported == kept


# -- queries that stay quick


class Explaining:
    """A session that keeps how each statement looks for rows, and finds nothing."""

    def __init__(self, session: Any) -> None:
        self.session, self.scans = session, list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.session, name)

    def execute(self, statement: str, values: Any = ()) -> Any:
        plan = self.session.execute(f"EXPLAIN (COSTS OFF) {statement}", values).fetchall()
        self.scans += [row[0].strip(" ->") for row in plan if "Scan" in row[0]]
        return self.session.execute("SELECT 1 WHERE false")


_DIVIDED = {
    "benchmark": "CASE WHEN i % 4 = 0 THEN 'hot' ELSE 'b' || i % 40 END",
    "git_ref": "CASE WHEN i % 2 = 0 THEN 'r' || i % 100 END",
    "git_sha": "'s' || i % 200",
    "created_at": "'2026-01-01T00:00:00.' || lpad(i::text, 6, '0') || 'Z'",
}


@pytest.fixture(scope="module")
def divided(postgres: Postgres) -> Iterator[Any]:
    """A storage with 2,000 baselines and verdicts that filters divide, and their statistics."""
    rare = {"source": "CASE WHEN i % 100 = 0 THEN 'promote' ELSE 'upload' END"}
    failed = {"status": "CASE WHEN i % 100 = 0 THEN 'fail' ELSE 'pass' END"}
    with postgres.database() as url, contextlib.closing(opened(url)) as storage:
        storage.create(*stored("b", "v1", "web"), deadline=soon())
        with psycopg.connect(url, autocommit=True) as session:
            for table, row in (
                ("baselines", _BASELINES | _DIVIDED | rare),
                ("verdicts", _VERDICTS | _DIVIDED | failed),
            ):
                columns, values = ", ".join(row), ", ".join(row.values())
                session.execute(_MANY.format(table=table, columns=columns, values=values))
            session.execute("VACUUM ANALYZE")
        yield storage


_LATE = "2026-01-01T00:00:00.001900Z"


@pytest.mark.parametrize(
    ("filters", "scan"),
    [
        (Filters(), "Index Only Scan Backward using baselines_pkey"),
        (Filters(benchmark="hot"), "Index Only Scan Backward using baselines_by_benchmark"),
        (Filters(git_ref="r2"), "Index Only Scan Backward using baselines_by_git_ref"),
        (
            Filters(git_ref="r4", benchmark="hot"),
            "Index Only Scan Backward using baselines_by_benchmark_git_ref",
        ),
        (
            Filters(source="promote", benchmark="hot"),
            "Index Only Scan Backward using baselines_promoted_by_benchmark",
        ),
        (Filters(git_sha="s7"), "Index Only Scan Backward using baselines_by_git_sha"),
        (Filters(source="promote"), "Index Only Scan Backward using baselines_promoted"),
        (Filters(since=_LATE), "Index Only Scan using baselines_by_created_at"),
    ],
    ids=str,
)
def test_a_page_is_found_in_an_index(divided: Any, filters: Filters, scan: str) -> None:
    with divided._engine.reading(soon()) as session:
        explaining: Any = Explaining(session)
        selection = select(session, "web", filters)
        assert selection
        sql._page(explaining, "web", selection, Page(limit=50, total=False))
    assert explaining.scans[0].startswith(f"{scan} on "), explaining.scans


@pytest.mark.parametrize(
    ("filters", "scan"),
    [
        (VerdictFilters(), "Index Only Scan Backward using verdicts_pkey"),
        (VerdictFilters(benchmark="hot"), "Index Only Scan Backward using verdicts_by_benchmark"),
        (VerdictFilters(git_ref="r2"), "Index Only Scan Backward using verdicts_by_git_ref"),
        (VerdictFilters(git_sha="s7"), "Index Only Scan Backward using verdicts_by_git_sha"),
        (VerdictFilters(status="fail"), "Index Only Scan Backward using verdicts_by_status"),
        (VerdictFilters(since=_LATE), "Index Only Scan using verdicts_by_created_at"),
    ],
    ids=str,
)
def test_a_page_of_verdicts_is_found_in_an_index(
    divided: Any, filters: VerdictFilters, scan: str
) -> None:
    with divided._engine.reading(soon()) as session:
        explaining: Any = Explaining(session)
        sql_verdicts.listing(explaining, "web", filters, Page(limit=50, total=False))
    assert explaining.scans[0].startswith(f"{scan} on "), explaining.scans


@pytest.mark.parametrize(
    ("selector", "index"),
    [
        (Selector("latest"), "baselines_by_benchmark"),
        (Selector("promoted"), "baselines_promoted_by_benchmark"),
        (Selector("version", "many8"), "baselines_by_version"),
        (Selector("git_sha", "s8"), "baselines_by_git_sha"),
        (Selector("git_ref", "r4"), "baselines_by_benchmark_git_ref"),
    ],
    ids=str,
)
def test_a_selector_seeks_in_an_index(divided: Any, selector: Selector, index: str) -> None:
    with divided._engine.reading(soon()) as session:
        explaining: Any = Explaining(session)
        sql_comparison.compare(explaining, "web", "hot", [selector], ["other"])
    assert f" using {index} on " in explaining.scans[0], explaining.scans

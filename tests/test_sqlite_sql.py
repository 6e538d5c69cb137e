"""The indexes by which SQLite finds what is asked for: queries that stay quick as data grows."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from support import receipt, soon, stored

from perfgate_server.storage import rows, sql, sql_comparison, sql_verdicts
from perfgate_server.storage.base import Filters, Page, PastRun, Selector
from perfgate_server.storage.engine import Cursor, Session
from perfgate_server.storage.selection import page_rows, select
from perfgate_server.storage.sql import SqlStorage
from perfgate_server.storage.sqlite import SqliteEngine
from perfgate_server.storage.verdicts import VerdictFilters


@pytest.fixture
def storage(tmp_path: Path) -> Iterator[SqlStorage]:
    storage = SqlStorage(SqliteEngine(tmp_path / "perfgate.db"))
    yield storage
    storage.close()


class Explaining:
    """A session that keeps the plan of each statement, and finds nothing."""

    def __init__(self, db: Session) -> None:
        self.db, self.plans = db, list[str]()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.db, name)

    def execute(self, sql: str, values: Sequence[object] = ()) -> Cursor:
        plan = self.db.execute(f"EXPLAIN QUERY PLAN {sql}", values).fetchall()
        self.plans += [row[3] for row in plan]
        return self.db.execute("SELECT 1 WHERE 0")

    def of_pages(self) -> list[str]:
        """Return the plans without the last sort, of the page's own rows; a newer SQLite knows
        that they are in order, and leaves it out."""
        sorts = self.plans[-1] == "USE TEMP B-TREE FOR ORDER BY"
        return self.plans[:-1] if sorts else self.plans


@pytest.mark.parametrize(
    ("filters", "index", "sorts"),
    [
        (Filters(), "baselines_by_project", False),
        (Filters(benchmark="b"), "baselines_by_benchmark", False),
        (Filters(git_ref="r"), "baselines_by_git_ref", False),
        (Filters(git_ref="r", benchmark="b"), "COVERING INDEX baselines_by_benchmark_git_r", False),
        (Filters(source="promote", benchmark="b"), "baselines_promoted_by_benchmark", False),
        (
            Filters(source="promote", benchmark="b", git_ref="r"),
            "baselines_promoted_by_benchmark",
            False,
        ),
        (Filters(git_sha="s", benchmark="b"), "baselines_by_git_sha", False),
        (Filters(tags=["t", "u"]), "SEARCH t USING PRIMARY KEY (project=? AND tag=?", False),
        (
            Filters(tags=["t"], git_ref="r"),
            "SEARCH t USING PRIMARY KEY (project=? AND tag=?",
            False,
        ),
        (Filters(tags=["t"], git_sha="s"), "baselines_by_git_sha", False),
        (Filters(source="promote"), "baselines_promoted", False),
        (Filters(since="2"), "COVERING INDEX baselines_by_created_at", True),
        (Filters(until="2"), "COVERING INDEX baselines_by_created_at", True),
        (Filters(benchmark_prefix="b"), "COVERING INDEX baselines_by_benchmark", True),
    ],
    ids=str,
)
def test_a_page_is_found_in_an_index(
    storage: SqlStorage, filters: Filters, index: str, sorts: bool
) -> None:
    """No list walks a table; one that has to sort does so within an index."""
    with storage._engine.reading(soon()) as db:
        selection = select(db, "p", filters)
        assert selection
        page = Page(limit=50, cursor=10, total=False)
        explaining: Any = Explaining(db)
        sql._page(explaining, "p", selection, page)
    plans = explaining.of_pages()
    found = [plan for plan in plans if index in plan]
    assert found, plans
    assert not any(plan.startswith("SCAN") and "page" not in plan for plan in plans), plans
    assert sorts == any("TEMP B-TREE" in plan for plan in plans), plans


@pytest.mark.parametrize(
    ("selector", "seek"),
    [
        (Selector("latest"), "baselines_by_benchmark (project=? AND benchmark=?)"),
        (Selector("promoted"), "baselines_promoted_by_benchmark (project=? AND benchmark=?)"),
        (Selector("version", "v"), "by_version (project=? AND benchmark=? AND version=?)"),
        (Selector("git_sha", "s"), "baselines_by_git_sha (project=? AND git_sha=?)"),
        (Selector("git_ref", "r"), "_git_ref (project=? AND benchmark=? AND git_ref=?)"),
        (Selector("tag", "t"), "COVERING INDEX baselines_by_benchmark (project=? AND benchmark=?)"),
        (Selector("tag", "t"), "PRIMARY KEY (project=? AND tag=? AND seq=?)"),
    ],
    ids=str,
)
def test_a_selector_seeks_in_an_index_and_sorts_nothing(
    storage: SqlStorage, selector: Selector, seek: str
) -> None:
    with storage._engine.reading(soon()) as db:
        explaining: Any = Explaining(db)
        sql_comparison.compare(explaining, "p", "b", [selector], ["h"])
    assert all(plan.startswith("SEARCH") for plan in explaining.plans), explaining.plans
    assert any(seek in plan for plan in explaining.plans), explaining.plans


@pytest.mark.parametrize(
    ("git_ref", "seek"),
    [
        (None, "baselines_by_benchmark (project=? AND benchmark=? AND seq<?)"),
        ("main", "_git_ref (project=? AND benchmark=? AND git_ref=? AND seq<?)"),
    ],
)
def test_the_past_of_a_baseline_is_a_seek_in_an_index(
    storage: SqlStorage, git_ref: str | None, seek: str
) -> None:
    baseline, _ = storage.create(*stored(), deadline=soon())
    with storage._engine.reading(soon()) as db:
        explaining: Any = Explaining(db)
        sql_comparison.past(explaining, baseline, git_ref, ["h"], 20, lambda _: None)
    plans = [plan for plan in explaining.plans if plan != "CORRELATED SCALAR SUBQUERY 1"]
    assert all(plan.startswith("SEARCH") for plan in plans), plans
    assert any(seek in plan for plan in explaining.plans), explaining.plans


@pytest.mark.parametrize(("limit", "reads"), [(0, 0), (20, 1), (30, 1), (35, 1), (39, 1)])
def test_no_more_of_a_past_is_read_than_is_asked_for(
    storage: SqlStorage, monkeypatch: pytest.MonkeyPatch, limit: int, reads: int
) -> None:
    for number in range(40):
        value = receipt(wall_ms=number)
        newest, _ = storage.create(*stored("b", f"v{number}", value=value), deadline=soon())
    asked: list[int] = []
    rows_of = sql_comparison._newest_rows

    def newest_rows(db: Any, selection: Any, limit: int, columns: str) -> list[Any]:
        asked.append(limit)
        return rows_of(db, selection, limit, columns)

    monkeypatch.setattr(sql_comparison, "_newest_rows", newest_rows)
    past = storage.past(
        newest,
        git_ref=None,
        excluding=[],
        limit=limit,
        read=lambda summary: PastRun(summary, True),
        deadline=soon(),
    )
    assert (len(past), len(asked)) == (limit, reads)


def test_a_move_seeks_the_tags_of_each_record(storage: SqlStorage) -> None:
    """All tags of the project were looked through for each record: an import of one line, before
    10,000 newer ones, kept uploads waiting for a minute."""

    class Moving(Explaining):
        def execute(self, sql: str, values: Sequence[object] = ()) -> Cursor:
            super().execute(sql, values)
            return self.db.execute(sql, values)

        def reserve(self, kind: str, count: int) -> int:
            return 100

    storage.create(*stored("b", "v1", tags=["x", "y"]), deadline=soon())
    with storage._engine.writing("p", "b", soon()) as db:
        moving: Any = Moving(db)
        order = rows.Order("baselines", "p", "b")
        assert rows.make_room(moving, order, None, 50)
    found = [plan for plan in moving.plans if "baseline_tags" in plan]
    assert found == ["SEARCH baseline_tags USING PRIMARY KEY (project=? AND tag=? AND seq=?)"] * 2
    page = storage.list("p", Filters(tags=["y", "x"]), Page(limit=9), deadline=soon())
    assert [record.sequence for record in page.records] == [100]


@pytest.mark.parametrize(
    ("filters", "index", "sorts"),
    [
        (VerdictFilters(), "verdicts_by_project", False),
        (VerdictFilters(benchmark="b"), "COVERING INDEX verdicts_by_benchmark", False),
        (VerdictFilters(benchmark="b", status="fail"), "verdicts_by_benchmark", False),
        (VerdictFilters(git_ref="r"), "COVERING INDEX verdicts_by_git_ref", False),
        (VerdictFilters(git_sha="s"), "COVERING INDEX verdicts_by_git_sha", False),
        (VerdictFilters(git_sha="s", benchmark="b"), "verdicts_by_git_sha", False),
        (VerdictFilters(status="fail"), "COVERING INDEX verdicts_by_status", False),
        (VerdictFilters(since="2"), "COVERING INDEX verdicts_by_created_at", True),
        (VerdictFilters(until="2"), "COVERING INDEX verdicts_by_created_at", True),
    ],
    ids=str,
)
def test_a_page_of_verdicts_is_found_in_an_index(
    storage: SqlStorage, filters: VerdictFilters, index: str, sorts: bool
) -> None:
    with storage._engine.reading(soon()) as db:
        selection = sql_verdicts._select(db, "p", filters)
        assert selection
        page = Page(limit=50, cursor=10, total=False)
        explaining: Any = Explaining(db)
        page_rows(explaining, selection, page, "p", sql_verdicts.COLUMNS, sql_verdicts._JOIN)
    plans = explaining.of_pages()
    assert any(index in plan for plan in plans), plans
    assert not any(plan.startswith("SCAN") and "page" not in plan for plan in plans), plans
    assert sorts == any("TEMP B-TREE" in plan for plan in plans), plans

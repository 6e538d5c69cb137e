"""Which rows a list holds: filters as SQL."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from perfgate_server.names import MAX_TAGS
from perfgate_server.storage.base import Filters, Page
from perfgate_server.storage.engine import Engine, Session
from perfgate_server.storage.verdicts import VerdictFilters


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows a list holds: `place` is the SQL of their sequence, `table` the FROM clause.

    `table` names the index to walk, where the database lets us. `whole` is the table whose rows of
    the project are all in it, or None.
    """

    place: str
    table: str
    conditions: list[str]
    values: list[Any]
    whole: str | None = None

    def sql(self, columns: str) -> str:
        return f"SELECT {columns} FROM {self.table} WHERE {' AND '.join(self.conditions)}"


def select(db: Session, engine: Engine, project: str, filters: Filters) -> Selection | None:
    """Return the selection for `filters`, or None if it can hold nothing."""
    if filters.tags and len(filters.tags) > MAX_TAGS:
        return None
    visible = only_visible(db, engine, project, "baselines", "b.benchmark", filters)
    if visible is None:
        return None
    conditions, values = _conditions(filters, visible)
    if filters.tags and filters.git_sha is None:
        # The first tag leads: its rows stand in the list's order. The records themselves are
        # looked at only if there is more to know of them.
        table = "baseline_tags t"
        if conditions:
            table += " CROSS JOIN baselines b"  # in this order, says SQLite of a cross join
            conditions.append("b.project = t.project AND b.seq = t.seq")
        tagged, bound = _tagged("t", filters.tags[1:])
        leading = ["t.project = ?", "t.tag = ?", *tagged, *conditions]
        return Selection("t.seq", table, leading, [project, filters.tags[0], *bound, *values])
    tagged, bound = _tagged("b", filters.tags or ())
    leading = ["b.project = ?", *tagged, *conditions]
    table = f"baselines b {engine.walk(_index(filters, bool(visible)))}"
    whole = "baselines" if len(leading) == 1 else None
    return Selection("b.seq", table, leading, [project, *bound, *values], whole)


def _conditions(
    filters: Filters, visible: Sequence[tuple[str, Any]]
) -> tuple[list[str], list[Any]]:
    """Return the conditions on the records themselves, and the values bound in them."""
    prefix = filters.benchmark_prefix
    conditions, values = given(
        ("b.benchmark = ?", filters.benchmark),
        ("b.git_ref = ?", filters.git_ref),
        ("b.git_sha = ?", filters.git_sha),
        ("b.benchmark >= ?", prefix),
        # Names are ASCII, so DEL sorts behind every character that may follow the prefix.
        ("b.benchmark < ?", None if prefix is None else prefix + "\x7f"),
        ("b.created_at >= ?", filters.since),
        ("b.created_at <= ?", filters.until),
        *visible,
    )
    if filters.source is not None:
        # In words, not bound: so the planner sees that the index of promotions holds them all.
        conditions.append(f"b.source = '{'promote' if filters.source == 'promote' else 'upload'}'")
    return conditions, values


def given(*pairs: tuple[str, Any]) -> tuple[list[str], list[Any]]:
    """Return the conditions whose values are not None, and these values."""
    kept = [pair for pair in pairs if pair[1] is not None]
    return [condition for condition, _ in kept], [value for _, value in kept]


def _tagged(table: str, tags: Sequence[str]) -> tuple[list[str], list[Any]]:
    """Return the conditions that the record of a row has all of `tags`."""
    condition = f"""EXISTS (SELECT 1 FROM baseline_tags o
        WHERE o.project = {table}.project AND o.tag = ? AND o.seq = {table}.seq)"""
    return [condition] * len(tags), list(tags)


def _index(filters: Filters, limited: bool) -> str:
    """Name the index to walk: that of the filter that usually leaves the fewest rows."""
    if filters.git_sha is not None:
        return "baselines_by_git_sha"
    if filters.benchmark is not None:
        if filters.source == "promote":
            return "baselines_promoted_by_benchmark"
        if filters.git_ref is not None:
            return "baselines_by_benchmark_git_ref"
        return "baselines_by_benchmark"
    if filters.git_ref is not None:
        return "baselines_by_git_ref"
    if filters.source == "promote":
        return "baselines_promoted"
    if filters.since is not None or filters.until is not None:
        return "baselines_by_created_at"
    if filters.benchmark_prefix is not None or limited:
        return "baselines_by_benchmark"
    return "baselines_by_project"


def only_visible(
    db: Session,
    engine: Engine,
    project: str,
    table: str,
    column: str,
    filters: Filters | VerdictFilters,
) -> list[tuple[str, Any]] | None:
    """Return the conditions, each with its value, that leave of a table's benchmarks those that
    may be seen: none if that is all of them. Return None if there is nothing to see."""
    visible = filters.visible
    if visible is None:
        return []
    if filters.benchmark is not None:  # which leaves no other
        return [] if visible(filters.benchmark) else None
    names = _benchmarks(db, project, table)
    seen = [name for name in names if visible(name)]
    if not seen:
        return None
    return [engine.among(column, seen)] if len(seen) < len(names) else []


def _benchmarks(db: Session, project: str, table: str) -> list[str]:
    """Return a project's distinct benchmarks in a table, one index seek for each."""
    rows = db.execute(
        f"""WITH RECURSIVE names (name) AS (
               SELECT min(benchmark) FROM {table} WHERE project = ?
               UNION ALL
               SELECT (SELECT min(benchmark) FROM {table} WHERE project = ? AND benchmark > name)
               FROM names WHERE name IS NOT NULL)
           SELECT name FROM names WHERE name IS NOT NULL""",
        (project, project),
    ).fetchall()
    return [row[0] for row in rows]


def count(db: Session, selection: Selection) -> int:
    sql, values = selection.sql("count(*)"), selection.values
    if selection.whole is not None:
        # All of a project's rows are counted as they come and go.
        sql = "SELECT coalesce(sum(number), 0) FROM totals WHERE project = ? AND kind = ?"
        values = [*values, selection.whole]
    return int(db.execute(sql, values).fetchone()[0])


def page_rows(
    db: Session, selection: Selection, page: Page, project: str, columns: str, join: str
) -> Any:
    """Return the rows of a page of a selection, newest first, and one more if there are more.

    The places are found in an index alone; whole rows are read, by `join`, for those on the page.
    """
    place, values = selection.place, list(selection.values)
    places = selection.sql(f"{place} AS seq")
    if page.cursor is not None:
        places += f" AND {place} < ?"
        values.append(page.cursor)
    return db.execute(
        f"""WITH places AS MATERIALIZED ({places} ORDER BY {place} DESC LIMIT ? OFFSET ?)
            SELECT {columns} FROM places {join} ORDER BY places.seq DESC""",
        [*values, page.limit + 1, page.offset, project],
    ).fetchall()

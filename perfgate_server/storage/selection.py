"""Which rows a list holds: filters as SQL, and the index by which they are found."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

from perfgate_server.names import MAX_TAGS
from perfgate_server.storage.base import Filters, Page
from perfgate_server.storage.engine import Cursor, Session
from perfgate_server.storage.verdicts import VerdictFilters

#: What a filter asks of a row: conditions, and the values bound in them.
Condition = tuple[list[str], list[Any]]
#: An index, and the names of the filters that it answers by itself.
Index = tuple[str, frozenset[str]]

#: Where several indexes would do, so many rows are looked for in each of them, then more.
_STEPS = (100, 1_000, 10_000)


def indexes(*pairs: tuple[str, str]) -> tuple[Index, ...]:
    """Return indexes, each given with the filters that it answers, separated by spaces."""
    return tuple((index, frozenset(filters.split())) for index, filters in pairs)


#: Sorts behind every character of a benchmark's name, of which each is ASCII: so it ends a range.
_LAST = "\x7f"

_BY_TAG = "baseline_tags"
#: Those that usually leave the fewest rows come first.
_INDEXES = indexes(
    ("baselines_by_git_sha", "git_sha"),
    ("baselines_promoted_by_benchmark", "benchmark promote"),
    ("baselines_by_benchmark_git_ref", "benchmark git_ref"),
    ("baselines_by_benchmark", "benchmark"),
    (_BY_TAG, "tags"),
    ("baselines_by_git_ref", "git_ref"),
    ("baselines_promoted", "promote"),
    ("baselines_by_created_at", "time"),
    ("baselines_by_benchmark", "names"),
    ("baselines_by_project", ""),
)


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows a list holds.

    `sequence` is the SQL of their sequence, `table` the FROM clause, the session's `index_hint`
    included. `whole` is the name of the table of which it holds all the project's rows, else None.
    """

    sequence: str
    table: str
    conditions: list[str]
    values: list[Any]
    whole: str | None = None

    def sql(self, columns: str) -> str:
        """Return the SELECT of these columns, with ``?`` for each of `values`."""
        return f"SELECT {columns} FROM {self.table} WHERE {' AND '.join(self.conditions)}"


#: Finds rows in some index. With ``indexed_only=True`` all that the index finds by the filters that
#: it answers, else those of them that fit the others too.
AccessPath = Callable[..., Selection]


def select(db: Session, project: str, filters: Filters) -> Selection | None:
    """Return the selection for `filters`, or None if it can hold nothing."""
    tags = filters.tags or ()
    if len(tags) > MAX_TAGS:
        return None
    prefix = filters.benchmark_prefix or ""
    visible = only_visible(db, project, "baselines", filters, prefix)
    if visible is None:
        return None
    conditions = _conditions(filters, visible)
    paths: list[AccessPath] = []
    for index in fitting(_INDEXES, frozenset(conditions)):
        if index[0] == _BY_TAG:
            paths += [partial(_by_tag, project, tag, tags, conditions) for tag in tags]
        else:
            paths.append(partial(by_index, db, "baselines b", project, index, conditions))
    return narrowest(db, paths)


def _conditions(filters: Filters, visible: Sequence[tuple[str, Any]]) -> dict[str, Condition]:
    """Return the conditions on ``baselines b``, by filter; `visible` are those of
    `only_visible`."""
    found = shared_conditions("b", filters, visible)
    if filters.tags:
        found["tags"] = _tagged("b", filters.tags)
    if filters.source is not None:
        # In words, not bound: so the planner sees that the index of promotions holds them all.
        source = "promote" if filters.source == "promote" else "upload"
        found[source] = [f"b.source = '{source}'"], []
    return found


def shared_conditions(
    alias: str, filters: Filters | VerdictFilters, visible: Sequence[tuple[str, Any]]
) -> dict[str, Condition]:
    """Return the conditions, by filter, of the filters that baselines and verdicts share, on the
    table with that alias. `visible` are those of `only_visible`, which become the filter
    ``names``."""
    found: dict[str, Condition] = {}
    for name, condition, value in (
        ("benchmark", "benchmark = ?", filters.benchmark),
        ("git_ref", "git_ref = ?", filters.git_ref),
        ("git_sha", "git_sha = ?", filters.git_sha),
        ("time", "created_at >= ?", filters.since),
        ("time", "created_at <= ?", filters.until),
        *(("names", *condition) for condition in visible),
    ):
        if value is not None:
            texts, values = found.setdefault(name, ([], []))
            texts.append(f"{alias}.{condition}")
            values.append(value)
    return found


def _together(conditions: Iterable[Condition]) -> Condition:
    """Return several conditions as one."""
    kept = [*conditions]
    return (
        [text for texts, _ in kept for text in texts],
        [value for _, values in kept for value in values],
    )


def _tagged(alias: str, tags: Sequence[str]) -> Condition:
    """Return the conditions that the record in a row of that table has all of `tags`."""
    condition = f"""EXISTS (SELECT 1 FROM baseline_tags o
        WHERE o.project = {alias}.project AND o.tag = ? AND o.seq = {alias}.seq)"""
    return [condition] * len(tags), list(tags)


@cache
def fitting(indexes: tuple[Index, ...], filters: frozenset[str]) -> list[Index]:
    """Return the indexes that answer some of the filters, but for those of which another answers
    all, and more."""
    possible = [index for index in indexes if index[1] <= filters]
    return [index for index in possible if not any(index[1] < other[1] for other in possible)]


def by_index(
    db: Session,
    table: str,
    project: str,
    index: Index,
    conditions: Mapping[str, Condition],
    *,
    indexed_only: bool = False,
) -> Selection:
    """Find rows of `table`, which has its alias (``baselines b``), in an index: see
    `AccessPath`."""
    whole, alias = table.split()
    texts, values = _together(
        conditions[name] for name in (index[1] if indexed_only else conditions)
    )
    return Selection(
        f"{alias}.seq",
        f"{table} {db.index_hint(index[0])}",
        [f"{alias}.project = ?", *texts],
        [project, *values],
        None if texts else whole,
    )


def _by_tag(
    project: str,
    tag: str,
    tags: Sequence[str],
    conditions: Mapping[str, Condition],
    *,
    indexed_only: bool = False,
) -> Selection:
    """Find records by a tag, whose rows stand in the list's order: see `AccessPath`. The records
    themselves are looked at only if there is more to know of them."""
    table, found = "baseline_tags t", list[Condition]()
    if not indexed_only:
        found = [conditions[name] for name in conditions if name != "tags"]
        if found:
            table += " CROSS JOIN baselines b"  # in this order, says SQLite of a cross join
            found.append((["b.project = t.project AND b.seq = t.seq"], []))
        found.append(_tagged("t", [other for other in tags if other != tag]))
    texts, values = _together(found)
    return Selection(
        "t.seq", table, ["t.project = ?", "t.tag = ?", *texts], [project, tag, *values]
    )


def narrowest(db: Session, paths: Sequence[AccessPath]) -> Selection:
    """Return the selection over the access path with the fewest rows, to a factor of ten, or the
    first if all have more than 10,000. A database with statistics chooses itself."""
    if len(paths) > 1 and not db.has_statistics:
        for most in _STEPS:
            for path in paths:
                probe = path(indexed_only=True)
                sql = f"SELECT count(*) FROM ({probe.sql('1')} LIMIT {most})"
                if db.execute(sql, probe.values).fetchone()[0] < most:
                    return path()
    return paths[0]()


def only_visible(
    db: Session,
    project: str,
    table: str,
    filters: Filters | VerdictFilters,
    prefix: str = "",
) -> list[tuple[str, Any]] | None:
    """Return conditions, each with its value, that restrict a table's benchmarks with that prefix
    to those that the key sees: [] if it sees all of them, None if it sees none."""
    seen_prefix, is_visible, name = filters.visible_prefix, filters.is_visible, filters.benchmark
    if name is not None:  # which leaves no other
        is_seen = name.startswith(prefix) and name.startswith(seen_prefix)
        return [] if is_seen and (is_visible is None or is_visible(name)) else None
    if is_visible is None and prefix.startswith(seen_prefix):
        return _beginning_with(prefix)
    if not seen_prefix.startswith(prefix) and not prefix.startswith(seen_prefix):
        return None
    first, last = _ends(db, project, table, prefix)
    all_may_be_seen = first.startswith(seen_prefix) and last.startswith(seen_prefix)
    if is_visible is None and (all_may_be_seen or db.has_statistics):
        return _beginning_with(prefix if all_may_be_seen else seen_prefix)
    # SQLite would read all rows of a range. Of names it reads a page's of each, the newest first.
    names = _benchmarks(db, project, table, max(prefix, seen_prefix, key=len))
    seen = [*filter(is_visible, names)]
    if not seen:
        return None
    if all_may_be_seen and len(seen) == len(names):
        return _beginning_with(prefix)
    return [db.among("benchmark", seen)]


def _beginning_with(prefix: str) -> list[tuple[str, Any]]:
    """Return the conditions that leave the benchmarks with that prefix."""
    return [("benchmark >= ?", prefix), ("benchmark < ?", prefix + _LAST)] if prefix else []


def _ends(db: Session, project: str, table: str, prefix: str) -> tuple[str, str]:
    """Return the first and the last of a project's benchmarks with that prefix; "" if there is
    none."""
    those = f"FROM {table} WHERE project = ? AND benchmark >= ? AND benchmark < ?"
    values = project, prefix, prefix + _LAST
    row = db.execute(
        f"SELECT (SELECT min(benchmark) {those}), (SELECT max(benchmark) {those})", values * 2
    ).fetchone()
    return row[0] or "", row[1] or ""


def _benchmarks(db: Session, project: str, table: str, prefix: str) -> list[str]:
    """Return a project's distinct benchmarks with that prefix, one index seek for each."""
    last = prefix + _LAST
    rows = db.execute(
        f"""WITH RECURSIVE names (name) AS (
               SELECT min(benchmark) FROM {table}
               WHERE project = ? AND benchmark >= ? AND benchmark < ?
               UNION ALL
               SELECT (SELECT min(benchmark) FROM {table}
                       WHERE project = ? AND benchmark > name AND benchmark < ?)
               FROM names WHERE name IS NOT NULL)
           SELECT name FROM names WHERE name IS NOT NULL""",
        (project, prefix, last, project, last),
    ).fetchall()
    return [row[0] for row in rows]


def count(db: Session, selection: Selection) -> int:
    """Return the number of rows of a selection."""
    sql, values = selection.sql("count(*)"), selection.values
    if selection.whole is not None:
        # All of a project's rows are counted as they come and go.
        sql = "SELECT coalesce(sum(number), 0) FROM totals WHERE project = ? AND kind = ?"
        values = [*values, selection.whole]
    return int(db.execute(sql, values).fetchone()[0])


def page_rows(
    db: Session, selection: Selection, page: Page, project: str, columns: str, join: str
) -> Cursor:
    """Return a cursor with the rows of a page of a selection, newest first, and one more if there
    are more.

    Their sequences are found in an index alone; whole rows are read for those on the page, by
    `join`, in which one ``?`` is the project.
    """
    sequence, values = selection.sequence, list(selection.values)
    found = selection.sql(f"{sequence} AS seq")
    if page.cursor is not None:
        found += f" AND {sequence} < ?"
        values.append(page.cursor)
    return db.execute(
        f"""WITH page AS MATERIALIZED ({found} ORDER BY {sequence} DESC LIMIT ? OFFSET ?)
            SELECT {columns} FROM page {join} ORDER BY page.seq DESC""",
        [*values, page.limit + 1, page.offset, project],
    )

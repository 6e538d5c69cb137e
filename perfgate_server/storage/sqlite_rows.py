"""The SQL of the SQLite storage: records as rows, and the pages of lists."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from perfgate_server.storage import base
from perfgate_server.storage.base import Baseline, Filters, Listing, Page, Receipt

_COLUMNS = """b.id, b.project, b.benchmark, b.version, b.git_ref, b.git_sha, b.metadata, b.tags,
    b.created_at, b.created_by, b.content_hash, b.source, b.promoted_from, b.seq"""
# Read as bytes: the text goes into an answer as it is, so decoding it would be for nothing.
_RECEIPT = "CAST(r.body AS BLOB)"


def _baseline(row: tuple[Any, ...]) -> Baseline:
    members = [*row[:6], json.loads(row[6]), json.loads(row[7]), *row[8:]]
    return Baseline(*members)


def one(
    db: sqlite3.Connection, where: str, values: tuple[Any, ...], receipt: bool
) -> Baseline | None:
    if receipt:
        sql = f"""SELECT {_COLUMNS}, {_RECEIPT} FROM baselines b
            JOIN receipts r ON r.id = b.receipt_id {where}"""
    else:
        sql = f"SELECT {_COLUMNS} FROM baselines b {where}"
    row = db.execute(sql, values).fetchone()
    return None if row is None else _baseline(row)


def find(
    db: sqlite3.Connection, project: str, benchmark: str, version: str, receipt: bool = False
) -> Baseline | None:
    where = "WHERE b.project = ? AND b.benchmark = ? AND b.version = ?"
    return one(db, where, (project, benchmark, version), receipt)


def receipt_id(db: sqlite3.Connection, sequence: int) -> int:
    row = db.execute("SELECT receipt_id FROM baselines WHERE seq = ?", (sequence,)).fetchone()
    return int(row[0])


def insert_receipt(db: sqlite3.Connection, receipt: Receipt) -> int:
    cursor = db.execute("INSERT INTO receipts (body) VALUES (CAST(? AS TEXT))", (receipt.body,))
    return int(cursor.lastrowid or 0)


def insert(db: sqlite3.Connection, new: Baseline, receipt_id: int) -> Baseline:
    cursor = db.execute(
        """INSERT INTO baselines (id, project, benchmark, version, git_ref, git_sha, metadata,
               tags, created_at, created_by, content_hash, source, promoted_from, receipt_id)
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)""",
        (
            new.id,
            new.project,
            new.benchmark,
            new.version,
            new.git_ref,
            new.git_sha,
            json.dumps(new.metadata, ensure_ascii=False),
            json.dumps(new.tags, ensure_ascii=False),
            new.created_at,
            new.created_by,
            new.content_hash,
            new.source,
            new.promoted_from,
            receipt_id,
        ),
    )
    sequence = int(cursor.lastrowid or 0)
    db.executemany(
        "INSERT INTO baseline_tags (project, tag, seq) VALUES (?, ?, ?)",
        [(new.project, tag, sequence) for tag in new.tags],
    )
    return replace(new, sequence=sequence)


# -- pages


def _benchmarks(db: sqlite3.Connection, project: str) -> list[str]:
    """Return a project's distinct benchmarks, one index seek for each."""
    rows = db.execute(
        """WITH RECURSIVE names (name) AS (
               SELECT min(benchmark) FROM baselines WHERE project = :project
               UNION ALL
               SELECT (SELECT min(benchmark) FROM baselines
                       WHERE project = :project AND benchmark > name)
               FROM names WHERE name IS NOT NULL)
           SELECT name FROM names WHERE name IS NOT NULL""",
        {"project": project},
    )
    return [row[0] for row in rows]


@dataclass(frozen=True, slots=True)
class Selection:
    """Which rows a list holds: where their places in the order are found, and the conditions.

    The index to walk is named, for SQLite's planner guesses: it takes a small list for a large
    one, and a page's cost then depends on the page.
    """

    place: str
    table: str
    conditions: list[str]
    values: list[Any]

    def sql(self, columns: str) -> str:
        return f"SELECT {columns} FROM {self.table} WHERE {' AND '.join(self.conditions)}"


def select(db: sqlite3.Connection, project: str, filters: Filters) -> Selection | None:
    """Return the selection for `filters`, or None if it can hold nothing."""
    conditions, values = _conditions(filters)
    limited = False
    if filters.visible is not None:
        names = _benchmarks(db, project)
        seen = [name for name in names if filters.visible(name)]
        if not seen:
            return None
        limited = len(seen) < len(names)
        if limited:
            conditions.append("b.benchmark IN (SELECT value FROM json_each(?))")
            values.append(json.dumps(seen))
    if filters.tags and filters.git_sha is None:
        # The first tag leads: its rows stand in the list's order. The records themselves are
        # looked at only if there is more to know of them.
        table = "baseline_tags t"
        if conditions:
            table += " CROSS JOIN baselines b ON b.seq = t.seq"
        tagged, bound = _tagged("t.seq", project, filters.tags[1:])
        leading = ["t.project = ?", "t.tag = ?", *tagged, *conditions]
        return Selection("t.seq", table, leading, [project, filters.tags[0], *bound, *values])
    tagged, bound = _tagged("b.seq", project, filters.tags or ())
    leading = ["b.project = ?", *tagged, *conditions]
    table = f"baselines b INDEXED BY {_index(filters, limited)}"
    return Selection("b.seq", table, leading, [project, *bound, *values])


def _conditions(filters: Filters) -> tuple[list[str], list[Any]]:
    """Return the conditions on the records themselves, and the values bound in them."""
    conditions: list[str] = []
    values: list[Any] = []
    for column in ("benchmark", "git_ref", "git_sha"):
        value = getattr(filters, column)
        if value is not None:
            conditions.append(f"b.{column} = ?")
            values.append(value)
    if filters.source is not None:
        # In words, not bound: so SQLite sees that the index of promotions holds them all.
        conditions.append(f"b.source = '{'promote' if filters.source == 'promote' else 'upload'}'")
    if filters.benchmark_prefix is not None:
        # Names are ASCII, so DEL sorts behind every character that may follow the prefix.
        conditions.append("b.benchmark >= ? AND b.benchmark < ?")
        values += [filters.benchmark_prefix, filters.benchmark_prefix + "\x7f"]
    if filters.since is not None:
        conditions.append("b.created_at >= ?")
        values.append(filters.since)
    if filters.until is not None:
        conditions.append("b.created_at <= ?")
        values.append(filters.until)
    return conditions, values


def _tagged(place: str, project: str, tags: Sequence[str]) -> tuple[list[str], list[Any]]:
    """Return the conditions that the record at `place` has all of `tags`."""
    condition = f"""EXISTS (SELECT 1 FROM baseline_tags o
        WHERE o.project = ? AND o.tag = ? AND o.seq = {place})"""
    return [condition] * len(tags), [value for tag in tags for value in (project, tag)]


def _index(filters: Filters, limited: bool) -> str:
    """Name the index to walk: that of the filter that usually leaves the fewest rows."""
    if filters.git_sha is not None:
        return "baselines_by_git_sha"
    if filters.benchmark is not None:
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


def page(db: sqlite3.Connection, selection: Selection, page: Page) -> Listing:
    total = None
    if page.total:
        row = db.execute(selection.sql("count(*)"), selection.values).fetchone()
        total = int(row[0])
    place, values = selection.place, list(selection.values)
    places = selection.sql(f"{place} AS seq")
    if page.cursor is not None:
        places += f" AND {place} < ?"
        values.append(page.cursor)
    # The places are found in an index alone; whole rows are read for those on the page.
    rows = db.execute(
        f"""WITH places AS MATERIALIZED ({places} ORDER BY {place} DESC LIMIT ? OFFSET ?)
            SELECT {_COLUMNS}, b.receipt_id FROM places JOIN baselines b ON b.seq = places.seq
            ORDER BY places.seq DESC""",
        [*values, page.limit + 1, page.offset],
    ).fetchall()
    baselines: list[Baseline] = []
    size = 0
    for row in rows[: page.limit]:
        baseline = _baseline(row[:-1])
        if page.receipts:
            receipt = _receipt(db, row[-1])
            baseline = replace(baseline, receipt=receipt)
            size += len(receipt)
        baselines.append(baseline)
        if size >= base.MAX_PAGE_BYTES:
            break
    return Listing(baselines, len(baselines) < len(rows), total)


def _receipt(db: sqlite3.Connection, receipt_id: int) -> bytes:
    body: bytes = db.execute(
        f"SELECT {_RECEIPT} FROM receipts r WHERE r.id = ?", (receipt_id,)
    ).fetchone()[0]
    return body

"""Verdicts as rows."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from perfgate_server.storage.base import Listing, Outcome, Page, Restored
from perfgate_server.storage.engine import Session
from perfgate_server.storage.rows import Order, make_room, put_back
from perfgate_server.storage.selection import (
    Selection,
    by_index,
    count,
    fitting,
    indexes,
    narrowest,
    only_visible,
    page_rows,
    shared_conditions,
)
from perfgate_server.storage.verdicts import (
    FLAKINESS_WINDOW,
    VerdictFilters,
    VerdictRecord,
    flakiness,
)

COLUMNS = """v.id, v.project, v.benchmark, v.run_id, v.status, v.counts, v.reasons, v.git_ref,
    v.git_sha, v.created_at, v.created_by, v.wall_ms_cv, v.flakiness_score, v.seq"""
#: Characters of reasons at which a page ends.
MAX_PAGE_REASONS = 8 * 2**20
_JOIN = "JOIN verdicts v ON v.project = ? AND v.seq = page.seq"


def verdict_of(row: Sequence[Any]) -> VerdictRecord:
    """Return the verdict of a row of COLUMNS."""
    members = [*row[:5], json.loads(row[5]), json.loads(row[6]), *row[7:]]
    return VerdictRecord(*members)


def add(db: Session, new: VerdictRecord) -> VerdictRecord:
    """See `base.Storage.add_verdict`."""
    before = db.execute(
        f"""SELECT wall_ms_cv FROM verdicts {db.index_hint("verdicts_by_benchmark")}
            WHERE project = ? AND benchmark = ? ORDER BY seq DESC LIMIT ?""",
        (new.project, new.benchmark, FLAKINESS_WINDOW - 1),
    ).fetchall()
    variations = [cv for cv in (new.wall_ms_cv, *(row[0] for row in before)) if cv is not None]
    return insert(db, replace(new, flakiness_score=flakiness(variations)))


def insert(db: Session, new: VerdictRecord, sequence: int | None = None) -> VerdictRecord:
    """Keep a verdict at a reserved sequence or behind all there are; return it with that."""
    columns, values = ("", ()) if sequence is None else (", seq", (sequence,))
    row = db.execute(
        f"""INSERT INTO verdicts (id, project, benchmark, run_id, status, counts, reasons, git_ref,
               git_sha, created_at, created_by, wall_ms_cv, flakiness_score{columns})
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?{", ?" * len(values)}) RETURNING seq""",
        (
            new.id,
            new.project,
            new.benchmark,
            new.run_id,
            new.status,
            json.dumps(new.counts),
            json.dumps(new.reasons, ensure_ascii=False),
            new.git_ref,
            new.git_sha,
            new.created_at,
            new.created_by,
            new.wall_ms_cv,
            new.flakiness_score,
            *values,
        ),
    ).fetchone()
    return replace(new, sequence=int(row[0]))


def stream(db: Session) -> Iterator[VerdictRecord]:
    """Yield every verdict, oldest first."""
    return map(verdict_of, db.stream(f"SELECT {COLUMNS} FROM verdicts v ORDER BY v.seq"))


def restore(
    db: Session, verdict: VerdictRecord, after: int | None, reserved: int | None
) -> Restored:
    """See `base.Storage.restore_verdict`."""
    order = Order("verdicts", verdict.project, verdict.benchmark)
    row = db.execute(
        f"SELECT {COLUMNS} FROM verdicts v WHERE v.project = ? AND v.id = ?",
        (verdict.project, verdict.id),
    ).fetchone()
    if row is not None:
        stored = verdict_of(row)
        if not stored.is_copy_of(verdict):
            return Restored(Outcome.DIFFERS)  # it may be of another benchmark
        sequence = put_back(db, order, after, reserved, stored.sequence)
        return Restored(Outcome.PRESENT, sequence)
    make_room(db, order, after, reserved)
    return Restored(Outcome.KEPT, insert(db, verdict, reserved).sequence)


def listing(
    db: Session, project: str, filters: VerdictFilters, page: Page
) -> Listing[VerdictRecord]:
    """See `base.Storage.list_verdicts`."""
    selection = _select(db, project, filters)
    if selection is None:
        return Listing([], False, 0 if page.total else None)
    total = count(db, selection) if page.total else None
    verdicts: list[VerdictRecord] = []
    size = 0
    for row in iter(page_rows(db, selection, page, project, COLUMNS, _JOIN).fetchone, None):
        if len(verdicts) == page.limit or size >= MAX_PAGE_REASONS:
            return Listing(verdicts, True, total)
        verdicts.append(verdict_of(row))
        size += len(row[6])
    return Listing(verdicts, False, total)


#: Those that usually leave the fewest rows come first.
_INDEXES = indexes(
    ("verdicts_by_git_sha", "git_sha"),
    ("verdicts_by_benchmark", "benchmark"),
    ("verdicts_by_git_ref", "git_ref"),
    ("verdicts_by_created_at", "time"),
    ("verdicts_by_status", "status"),
    ("verdicts_by_benchmark", "names"),
    ("verdicts_by_project", ""),
)


def _select(db: Session, project: str, filters: VerdictFilters) -> Selection | None:
    """Return the selection for `filters`, or None if it can hold nothing."""
    visible = only_visible(db, project, "verdicts", filters)
    if visible is None:
        return None
    conditions = shared_conditions("v", filters, visible)
    if filters.status is not None:
        conditions["status"] = ["v.status = ?"], [filters.status]
    fit = fitting(_INDEXES, frozenset(conditions))
    paths = [partial(by_index, db, "verdicts v", project, index, conditions) for index in fit]
    return narrowest(db, paths)

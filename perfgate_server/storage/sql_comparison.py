"""Which records a run is compared with, as SQL."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

from perfgate_server.storage import base
from perfgate_server.storage.base import Baseline, Comparison, Selector
from perfgate_server.storage.engine import Engine, Session
from perfgate_server.storage.rows import COLUMNS, baseline_of
from perfgate_server.storage.selection import Selection

#: A history is read in steps of at least so many records; mostly the first holds all of it.
_STEP = 20

# In this order: SQLite takes the tables of cross joins as they stand. The benchmark's places and
# the tag's are compared within two indexes, and whole rows are read only for what is in both.
_TAGGED = "CROSS JOIN baseline_tags t CROSS JOIN baselines b"
_WITH_TAG = """p.project = ? AND p.benchmark = ?
    AND t.project = p.project AND t.tag = ? AND t.seq = p.seq
    AND b.project = p.project AND b.seq = p.seq"""
_SUMMARIES = """LEFT JOIN receipt_summaries s
    ON s.project = b.project AND s.receipt_id = b.receipt_id"""

#: The kind of a selector -> the index in which its records stand in their order, and what tells
#: them from the benchmark's others.
_KINDS = {
    "latest": ("baselines_by_benchmark", ""),
    "promoted": ("baselines_promoted_by_benchmark", "b.source = 'promote'"),
    "version": ("baselines_by_version", "b.version = ?"),
    "git_sha": ("baselines_by_git_sha", "b.git_sha = ?"),
    "git_ref": ("baselines_by_benchmark_git_ref", "b.git_ref = ?"),
}


def compare(
    db: Session,
    engine: Engine,
    project: str,
    benchmark: str,
    selectors: Sequence[Selector],
    excluding: Sequence[str],
    history: int,
    wanted: Callable[[Baseline], bool],
) -> Comparison:
    """See `base.Storage.comparison`."""
    baseline, tried = None, []
    for selector in selectors:
        tried.append(selector)
        baseline = _select(db, engine, project, benchmark, selector, excluding)
        if baseline is not None:
            break
    return Comparison(
        baseline,
        tried[-1] if baseline else None,
        tried,
        _history(db, engine, project, benchmark, excluding, history, wanted),
    )


def _select(
    db: Session,
    engine: Engine,
    project: str,
    benchmark: str,
    selector: Selector,
    excluding: Sequence[str],
) -> Baseline | None:
    others = ["b.content_hash <> ?"] * len(excluding)
    if selector.kind == "tag":
        table = f"baselines p {engine.walk('baselines_by_benchmark')} {_TAGGED}"
        selection = Selection(
            "p.seq",
            table,
            [_WITH_TAG, *others],
            [project, benchmark, selector.value, *excluding],
        )
    else:
        index, condition = _KINDS[selector.kind]
        conditions = [*others, *([condition] if condition else [])]
        values = [*excluding, *[selector.value] * condition.count("?")]
        selection = _of_benchmark(engine, project, benchmark, index, conditions, values)
    return next(iter(_newest(db, engine, selection, 1)), None)


def _of_benchmark(
    engine: Engine,
    project: str,
    benchmark: str,
    index: str,
    conditions: Sequence[str],
    values: Sequence[Any],
) -> Selection:
    return Selection(
        "b.seq",
        f"baselines b {engine.walk(index)}",
        ["b.project = ?", "b.benchmark = ?", *conditions],
        [project, benchmark, *values],
    )


def _newest(db: Session, engine: Engine, selection: Selection, limit: int) -> list[Baseline]:
    """Return the newest records of a selection, newest first, with their summaries."""
    selection = replace(selection, table=f"{selection.table} {_SUMMARIES}")
    columns = f"{COLUMNS}, NULL, {engine.as_bytes('s.body')}"  # no receipt
    rows = db.execute(
        f"{selection.sql(columns)} ORDER BY {selection.place} DESC LIMIT ?",
        [*selection.values, limit],
    ).fetchall()
    return [baseline_of(row) for row in rows]


def recent(
    db: Session, engine: Engine, project: str, benchmark: str, limit: int, before: int = 2**63 - 1
) -> list[Baseline]:
    """Return a benchmark's newest records below the place `before`, newest first."""
    selection = _of_benchmark(
        engine, project, benchmark, "baselines_by_benchmark", ["b.seq < ?"], [before]
    )
    return _newest(db, engine, selection, limit)


def _history(
    db: Session,
    engine: Engine,
    project: str,
    benchmark: str,
    excluding: Sequence[str],
    count: int,
    wanted: Callable[[Baseline], bool],
) -> list[Baseline]:
    found: dict[str, Baseline] = {}  # by content hash: a promotion is no run of its own
    scanned, before = 0, 2**63 - 1
    while len(found) < count and scanned < base.MAX_SCANNED:
        limit = min(max(_STEP, count - len(found)), base.MAX_SCANNED - scanned)
        step = recent(db, engine, project, benchmark, limit, before)
        for baseline in step:
            known = baseline.content_hash in excluding or baseline.content_hash in found
            if not known and wanted(baseline):
                found[baseline.content_hash] = baseline
                if len(found) == count:
                    break
        if len(step) < limit:
            break
        scanned, before = scanned + len(step), step[-1].sequence
    return list(found.values())

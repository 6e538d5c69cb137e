"""Which records a run is compared with, as SQL."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from perfgate_server.storage import base
from perfgate_server.storage.base import Baseline, Comparison, PastRun, Selector
from perfgate_server.storage.engine import Session
from perfgate_server.storage.rows import WITHOUT_METADATA, baseline_of
from perfgate_server.storage.selection import Selection

#: A history is read in steps of at least this many records; mostly the first holds all of it.
_STEP = 20

# In this order: SQLite takes the tables of cross joins as they stand. The benchmark's sequences
# and the tag's are compared within two indexes, and whole rows are read only for what is in both.
_TAGGED = "CROSS JOIN baseline_tags t CROSS JOIN baselines b"
_WITH_TAG = """p.project = ? AND p.benchmark = ?
    AND t.project = p.project AND t.tag = ? AND t.seq = p.seq
    AND b.project = p.project AND b.seq = p.seq"""
_SUMMARIES = """LEFT JOIN receipt_summaries s
    ON s.project = b.project AND s.receipt_id = b.receipt_id"""

# A promotion is not a run: it may come long after its run, and would look like a shift back to an
# old level. Within a ref it is one if its source has another ref, such as a pull request's.
_IS_RUN = "b.promoted_from IS NULL"
_IS_RUN_OF_REF = """(b.promoted_from IS NULL OR EXISTS (SELECT 1 FROM baselines o
    WHERE o.project = b.project AND o.benchmark = b.benchmark AND o.version = b.promoted_from
    AND o.seq < b.seq AND (o.git_ref IS NULL OR o.git_ref <> b.git_ref)))"""

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
    project: str,
    benchmark: str,
    selectors: Sequence[Selector],
    excluding: Sequence[str],
) -> Comparison:
    """See `base.Storage.comparison`."""
    tried = []
    for selector in selectors:
        tried.append(selector)
        baseline = _select(db, project, benchmark, selector, excluding)
        if baseline is not None:
            return Comparison(baseline, tried)
    other = _select(db, project, benchmark, Selector("latest"), excluding)
    return Comparison(None, tried, other is not None)


def _select(
    db: Session,
    project: str,
    benchmark: str,
    selector: Selector,
    excluding: Sequence[str],
) -> Baseline | None:
    others = ["b.content_hash <> ?"] * len(excluding)
    if selector.kind == "tag":
        table = f"baselines p {db.index_hint('baselines_by_benchmark')} {_TAGGED}"
        selection = Selection(
            "p.seq",
            table,
            [_WITH_TAG, *others],
            [project, benchmark, selector.value, *excluding],
        )
    else:
        selection = _of_kind(db, project, benchmark, selector, others, excluding)
    return next(iter(_newest(db, selection, 1)), None)


def _of_kind(
    db: Session,
    project: str,
    benchmark: str,
    selector: Selector,
    conditions: Sequence[str] = (),
    values: Sequence[Any] = (),
) -> Selection:
    """Return the selection of a benchmark's records that a selector fits and that meet more
    conditions, given with their values. For a selector by tag see `_select`."""
    index, fits = _KINDS[selector.kind]
    return Selection(
        "b.seq",
        f"baselines b {db.index_hint(index)}",
        ["b.project = ?", "b.benchmark = ?", *conditions, *([fits] if fits else [])],
        [project, benchmark, *values, *[selector.value] * fits.count("?")],
    )


def _newest(db: Session, selection: Selection, limit: int) -> list[Baseline]:
    """Return the newest records of a selection, newest first, with their summaries."""
    rows = _newest_rows(db, selection, limit, f"{WITHOUT_METADATA}, NULL")  # no receipt
    return [baseline_of(row) for row in rows]


def _newest_rows(db: Session, selection: Selection, limit: int, columns: str) -> list[Any]:
    """Return those columns of the newest records of a selection, and their summaries."""
    selection = replace(selection, table=f"{selection.table} {_SUMMARIES}")
    columns = f"{columns}, {db.as_bytes('s.body')}"
    rows: list[Any] = db.execute(
        f"{selection.sql(columns)} ORDER BY {selection.sequence} DESC LIMIT ?",
        [*selection.values, limit],
    ).fetchall()
    return rows


def recent(
    db: Session, project: str, benchmark: str, git_ref: str | None, limit: int
) -> list[Baseline]:
    """See `base.Storage.recent`; without any the list is empty."""
    selector = Selector("latest") if git_ref is None else Selector("git_ref", git_ref)
    return _newest(db, _of_kind(db, project, benchmark, selector), limit)


def past(
    db: Session,
    baseline: Baseline,
    git_ref: str | None,
    excluding: Sequence[str],
    count: int,
    read: Callable[[bytes], PastRun | None],
) -> list[Any]:
    """See `base.Storage.past`."""
    # By content hash, for what was uploaded twice is one run; where no run is named, by sequence.
    found: dict[str | int, Any] = {}
    runs = _runs(db, baseline, git_ref, max(_STEP, count))
    # Taken one by one: the next step is read only if it is needed.
    while len(found) < count and (record := next(runs, None)) is not None:
        sequence, content_hash, summary = record
        if content_hash in excluding:
            continue
        if content_hash in found:
            value = found.pop(content_hash)
            if content_hash == baseline.content_hash:
                found.clear()  # the others came after it
            found[content_hash] = value  # where it is oldest
        elif (run := read(summary)) is not None:
            found[content_hash if run.is_named else sequence] = run.value
    return list(found.values())


def _runs(
    db: Session, baseline: Baseline, git_ref: str | None, step: int
) -> Iterator[tuple[int, str, bytes]]:
    """Yield the run of a baseline and those before it, newest first: the sequence, the content hash
    and the summary. They are read in steps of that many records, up to MAX_SCANNED."""
    last = _sequence_of_run(db, baseline, git_ref)
    those, is_run = Selector("latest"), _IS_RUN
    if git_ref is not None:
        those, is_run = Selector("git_ref", git_ref), _IS_RUN_OF_REF
    left = base.MAX_SCANNED
    while last is not None and left > 0:
        selection = _of_kind(
            db, baseline.project, baseline.benchmark, those, ["b.seq <= ?"], [last]
        )
        limit = min(step, left)
        rows = _newest_rows(db, selection, limit, f"b.seq, b.content_hash, {is_run}")
        for sequence, content_hash, is_run_itself, summary in rows:
            if is_run_itself and summary is not None:
                yield sequence, content_hash, summary
        left -= len(rows)
        last = rows[-1][0] - 1 if len(rows) == limit else None


def _sequence_of_run(db: Session, baseline: Baseline, git_ref: str | None) -> int | None:
    """Return the sequence of the run that a record was promoted from, or its own; with `git_ref`
    of the oldest in between that has that ref. None if one of them is deleted, or if the chain has
    MAX_SCANNED promotions or more."""
    sequence = seen = baseline.sequence
    source = baseline.promoted_from
    for _ in range(base.MAX_SCANNED):
        if source is None:
            return sequence
        row = db.execute(
            f"""SELECT b.seq, b.promoted_from, b.git_ref
                FROM baselines b {db.index_hint("baselines_by_version")}
                WHERE b.project = ? AND b.benchmark = ? AND b.version = ? AND b.seq < ?""",
            (baseline.project, baseline.benchmark, source, seen),
        ).fetchone()
        if row is None:
            return None
        seen, source = int(row[0]), row[1]
        if git_ref is None or row[2] == git_ref:
            sequence = seen
    return None

"""The storage over any SQL database: records as rows, and the pages of lists.

What differs between databases, an `Engine` knows: how to reach one, and what a transaction is; and
its `Session` the few words in which the dialects differ. The SQL is the same text for all, with
``?`` for a bound value, so that no filter works on one and is ignored on another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from perfgate_server.storage import base, sql_comparison, sql_verdicts
from perfgate_server.storage.base import (
    Baseline,
    Clock,
    Comparison,
    Conflict,
    Counts,
    Filters,
    Kind,
    Listing,
    NotFound,
    Outcome,
    Page,
    PastRun,
    Precondition,
    Promotion,
    Receipt,
    Restored,
    Selector,
    no_benchmark,
    no_version,
)
from perfgate_server.storage.engine import Engine, Session
from perfgate_server.storage.rows import (
    COLUMNS,
    WITHOUT_METADATA,
    Order,
    baseline_of,
    find,
    find_newest,
    insert,
    insert_receipt,
    make_room,
    newest_sequence,
    put_back,
    receipt_body,
    receipt_id_of,
)
from perfgate_server.storage.selection import Selection, count, page_rows, select
from perfgate_server.storage.verdicts import VerdictFilters, VerdictRecord

_JOIN = "JOIN baselines b ON b.project = ? AND b.seq = page.seq"

#: Finds the projects, and of what kind, whose kept totals are not what is there.
WRONG_TOTALS = """SELECT project, kind FROM (
        SELECT project, kind, number FROM totals
        UNION ALL SELECT project, 'baselines', -count(*) FROM baselines GROUP BY project
        UNION ALL SELECT project, 'verdicts', -count(*) FROM verdicts GROUP BY project
    ) AS each GROUP BY project, kind HAVING sum(number) <> 0"""


def _dated(new: Baseline, now: Clock | None) -> Baseline:
    return new._replace(created_at=now()) if now else new


def _same(db: Session, stored: Baseline, sent: Baseline) -> Baseline:
    """Return what is stored once it is durable; raises Conflict unless the same was sent."""
    differs = stored.differences(sent)
    if differs:
        raise Conflict(stored, sent, differs)
    db.ensure_durable()
    return stored


class SqlStorage:
    """See `base.Storage`."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self.backend = engine.backend

    # -- records

    def create(
        self,
        new: Baseline,
        receipt: Receipt,
        *,
        deadline: float,
        precondition: Precondition | None = None,
        now: Clock | None = None,
    ) -> tuple[Baseline, bool]:
        with self._engine.writing(new.project, new.benchmark, deadline) as db:
            stored = find(db, new.project, new.benchmark, new.version)
            if precondition is not None:
                precondition(stored)
            if stored is not None:
                return _same(db, stored, new), False
            receipt_id = insert_receipt(db, new.project, receipt)
            return insert(db, _dated(new, now), receipt_id), True

    def promote(
        self,
        promotion: Promotion,
        *,
        deadline: float,
        precondition: Precondition | None = None,
        now: Clock | None = None,
    ) -> tuple[Baseline, bool]:
        project, benchmark = promotion.project, promotion.benchmark
        early = self._normalized_early(promotion, deadline)
        with self._engine.writing(project, benchmark, deadline) as db:
            source = find(db, project, benchmark, promotion.from_version)
            target = find(db, project, benchmark, promotion.to_version, receipt=source is None)
            if precondition is not None:
                precondition(target)
            if source is None:
                return _made_before(db, promotion, target), False
            own = _own_receipt(db, promotion, source, early)
            new = promotion.result(source, (own or source).content_hash)
            if target is not None:
                return _same(db, target, new), False
            receipt_id = insert_receipt(db, project, own) if own else receipt_id_of(db, source)
            return insert(db, _dated(new, now), receipt_id), True

    def _normalized_early(
        self, promotion: Promotion, deadline: float
    ) -> tuple[str, Receipt] | None:
        """Return the content hash of the source, and what it is normalized; None if nobody wants
        that, or there is none. Of a large one it takes a second, for which nobody need wait."""
        if promotion.normalize is None:
            return None
        with self._engine.single(deadline) as db:
            source = find(
                db, promotion.project, promotion.benchmark, promotion.from_version, receipt=True
            )
        if source is None:
            return None
        return source.content_hash, promotion.normalize(source.body())

    def get(
        self, project: str, benchmark: str, version: str, *, receipt: bool, deadline: float
    ) -> Baseline:
        with self._engine.single(deadline) as db:
            found = find(db, project, benchmark, version, receipt=receipt)
        if found is None:
            # It may come meanwhile: what is missing is to be said as of one moment.
            with self._engine.reading(deadline) as db:
                found = find(db, project, benchmark, version, receipt=receipt)
                if found is None:
                    raise _missing(db, project, benchmark, version)
        return found

    def latest(self, project: str, benchmark: str, *, receipt: bool, deadline: float) -> Baseline:
        with self._engine.single(deadline) as db:
            found = find_newest(db, project, benchmark, receipt)
        if found is None:
            raise no_benchmark(project, benchmark)
        return found

    def delete(
        self,
        project: str,
        benchmark: str,
        version: str,
        *,
        deadline: float,
        precondition: Precondition | None = None,
    ) -> Baseline:
        with self._engine.writing(project, benchmark, deadline) as db:
            stored = find(db, project, benchmark, version)
            if stored is None:
                raise _missing(db, project, benchmark, version)
            if precondition is not None:
                precondition(stored)
            receipt_id = receipt_id_of(db, stored)
            for tag in stored.tags:
                db.execute(
                    "DELETE FROM baseline_tags WHERE project = ? AND tag = ? AND seq = ?",
                    (project, tag, stored.sequence),
                )
            db.execute(
                "DELETE FROM baselines WHERE project = ? AND seq = ?", (project, stored.sequence)
            )
            db.execute(
                """DELETE FROM receipts WHERE project = ? AND id = ? AND NOT EXISTS
                   (SELECT 1 FROM baselines b WHERE b.project = ? AND b.receipt_id = ?)""",
                (project, receipt_id, project, receipt_id),
            )
            return stored

    # -- lists

    def list(
        self, project: str, filters: Filters, page: Page, *, deadline: float
    ) -> Listing[Baseline]:
        with self._engine.reading(deadline) as db:
            selection = select(db, project, filters)
            if selection is None:
                return Listing([], False, 0 if page.total else None)
            return _page(db, project, selection, page)

    def history(
        self, project: str, benchmark: str, page: Page, *, deadline: float
    ) -> Listing[Baseline]:
        with self._engine.reading(deadline) as db:
            newest = newest_sequence(db, project, benchmark)
            if newest is None:
                raise no_benchmark(project, benchmark)
            selection = select(db, project, Filters(benchmark=benchmark))
            assert selection is not None  # only what is visible can make it so
            return replace(_page(db, project, selection, page), current=newest)

    # -- comparing

    def recent(
        self, project: str, benchmark: str, limit: int, *, git_ref: str | None, deadline: float
    ) -> Sequence[Baseline]:
        with self._engine.reading(deadline) as db:
            found = sql_comparison.recent(db, project, benchmark, git_ref, limit)
            if not found and newest_sequence(db, project, benchmark) is None:
                raise no_benchmark(project, benchmark)
        return found

    def comparison(
        self,
        project: str,
        benchmark: str,
        selectors: Sequence[Selector],
        *,
        excluding: Sequence[str],
        deadline: float,
    ) -> Comparison:
        with self._engine.reading(deadline) as db:
            return sql_comparison.compare(db, project, benchmark, selectors, excluding)

    def past(
        self,
        baseline: Baseline,
        *,
        git_ref: str | None,
        excluding: Sequence[str],
        limit: int,
        read: Callable[[bytes], PastRun | None],
        deadline: float,
    ) -> Sequence[Any]:
        with self._engine.reading(deadline) as db:
            return sql_comparison.past(db, baseline, git_ref, excluding, limit, read)

    def add_verdict(
        self, new: VerdictRecord, *, deadline: float, now: Clock | None = None
    ) -> VerdictRecord:
        with self._engine.writing(new.project, new.benchmark, deadline) as db:
            dated = replace(new, created_at=now()) if now else new
            return sql_verdicts.add(db, dated)

    def list_verdicts(
        self, project: str, filters: VerdictFilters, page: Page, *, deadline: float
    ) -> Listing[VerdictRecord]:
        with self._engine.reading(deadline) as db:
            return sql_verdicts.listing(db, project, filters, page)

    # -- the way out and in

    def export(self, *, deadline: float) -> Iterator[Baseline | VerdictRecord]:
        with self._engine.reading(deadline) as db:
            rows = db.stream(f"SELECT {COLUMNS}, b.receipt_id FROM baselines b ORDER BY b.seq")
            for row in rows:
                baseline = baseline_of(row[:-1])
                yield baseline._replace(receipt=receipt_body(db, baseline.project, row[-1]))
            yield from sql_verdicts.stream(db)

    def restore(
        self,
        record: Baseline,
        receipt: Receipt,
        *,
        after: int | None,
        reserved: int | None,
        deadline: float,
    ) -> Restored:
        project, benchmark = record.project, record.benchmark
        order = Order("baselines", project, benchmark)
        with self._engine.writing(project, benchmark, deadline) as db:
            stored = find(db, project, benchmark, record.version)
            if stored is not None:
                outcome = Outcome.PRESENT if stored.is_copy_of(record) else Outcome.DIFFERS
                sequence = put_back(db, order, after, reserved, stored.sequence)
                return Restored(outcome, sequence)
            if not make_room(db, order, after, reserved):
                return Restored(Outcome.REFUSED)
            receipt_id = _shared_receipt(db, record) or insert_receipt(db, project, receipt)
            return Restored(Outcome.KEPT, insert(db, record, receipt_id, reserved).sequence)

    def restore_verdict(
        self, verdict: VerdictRecord, *, after: int | None, reserved: int | None, deadline: float
    ) -> Restored:
        with self._engine.writing(verdict.project, verdict.benchmark, deadline) as db:
            return sql_verdicts.restore(db, verdict, after, reserved)

    def ensure_durable(self, *, deadline: float) -> None:
        with self._engine.writing("", "", deadline) as db:
            db.ensure_durable()

    def analyze(self, *, deadline: float) -> None:
        self._engine.analyze(deadline)

    def reserve(self, kind: Kind, count: int, *, deadline: float) -> int:
        with self._engine.writing("", "", deadline) as db:
            return db.reserve(kind, count)

    def counts(self, *, deadline: float) -> Counts:
        with self._engine.reading(deadline) as db:

            def number(sql: str) -> int:
                return int(db.execute(sql).fetchone()[0])

            return Counts(
                number("SELECT max(version) FROM perfgate_migrations"),
                number("SELECT count(DISTINCT project) FROM baselines"),
                number("SELECT count(*) FROM baselines"),
                number("SELECT count(*) FROM receipts"),
                number("SELECT count(*) FROM verdicts"),
                sorted({row[0] for row in db.execute(WRONG_TOTALS).fetchall()}),
            )

    def ping(self, *, deadline: float) -> None:
        with self._engine.single(deadline, recheck=True) as db:
            db.execute("SELECT seq FROM baselines LIMIT 1").fetchall()

    def close(self) -> None:
        self._engine.close()


def _own_receipt(
    db: Session, promotion: Promotion, source: Baseline, early: tuple[str, Receipt] | None
) -> Receipt | None:
    """Return the receipt that a promotion makes, of which `early` is made already; None where the
    source's own will do."""
    if promotion.normalize is None:
        return None
    if early is not None and early[0] == source.content_hash:
        normalized = early[1]
    else:  # the source came, or was replaced, meanwhile
        body = receipt_body(db, promotion.project, receipt_id_of(db, source))
        normalized = promotion.normalize(body)
    return None if normalized.content_hash == source.content_hash else normalized


def _made_before(db: Session, promotion: Promotion, target: Baseline | None) -> Baseline:
    """Return what a promotion has made of a source that is gone since; raises NotFound."""
    if target is None or not promotion.may_have_made(target):
        raise _missing(db, promotion.project, promotion.benchmark, promotion.from_version)
    db.ensure_durable()
    return target


def _shared_receipt(db: Session, record: Baseline) -> int | None:
    """Return the receipt of the record that `record` was promoted from, if it is the same."""
    if record.promoted_from is None:
        return None
    source = find(db, record.project, record.benchmark, record.promoted_from)
    if source is None or source.content_hash != record.content_hash:
        return None
    return receipt_id_of(db, source)


def _missing(db: Session, project: str, benchmark: str, version: str) -> NotFound:
    """Return what to raise for a version that is not there: perhaps there is no benchmark."""
    if newest_sequence(db, project, benchmark) is None:
        return no_benchmark(project, benchmark)
    return no_version(project, benchmark, version)


def _page(db: Session, project: str, selection: Selection, page: Page) -> Listing[Baseline]:
    total = count(db, selection) if page.total else None
    columns = f"{WITHOUT_METADATA}, b.receipt_id" if page.receipts else WITHOUT_METADATA
    rows = page_rows(db, selection, page, project, columns, _JOIN).fetchall()
    if page.receipts:
        baselines = [*_with_receipts(db, project, rows[: page.limit])]
    else:
        baselines = [baseline_of(row) for row in rows[: page.limit]]
    return Listing(baselines, len(baselines) < len(rows), total)


def _with_receipts(db: Session, project: str, rows: Any) -> Iterator[Baseline]:
    """Yield records with their receipts: at least one, and else no more than MAX_PAGE_BYTES of
    them."""
    size = 0
    for row in rows:
        receipt = receipt_body(db, project, row[-1])
        if size and size + len(receipt) > base.MAX_PAGE_BYTES:
            break
        yield baseline_of(row[:-1])._replace(receipt=receipt)
        size += len(receipt)

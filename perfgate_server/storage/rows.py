"""Baselines and receipts as rows."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from perfgate_server.storage.base import Baseline, Kind, Receipt
from perfgate_server.storage.engine import Session

#: What `baseline_of` reads, of ``baselines b``.
COLUMNS = """b.id, b.project, b.benchmark, b.version, b.git_ref, b.git_sha, b.metadata, b.tags,
    b.created_at, b.created_by, b.content_hash, b.source, b.promoted_from, b.seq"""
#: The same with empty metadata, which neither lists nor comparisons tell: 64 pairs may take 2 MB in
#: memory, and a page holds 1,000 records.
WITHOUT_METADATA = COLUMNS.replace("b.metadata", "'{}'")


#: Without the look for white space around it that json.loads takes: we wrote it.
_parse = json.JSONDecoder().raw_decode


def baseline_of(row: Sequence[Any]) -> Baseline:
    """Return the record of a row of COLUMNS, behind which a receipt and a summary may stand."""
    members = [*row]
    # Most have neither metadata nor tags, and a page holds many.
    members[6] = _parse(row[6])[0] if row[6] != "{}" else {}
    members[7] = _parse(row[7])[0] if row[7] != "[]" else []
    return Baseline(*members)


def find(
    db: Session, project: str, benchmark: str, version: str, receipt: bool = False
) -> Baseline | None:
    """Return a record, with its receipt if asked for; None if it is not there."""
    where = "b.project = ? AND b.benchmark = ? AND b.version = ?"
    return _one(db, where, (project, benchmark, version), receipt)


def find_newest(db: Session, project: str, benchmark: str, receipt: bool) -> Baseline | None:
    """Return a benchmark's newest record, with its receipt if asked for; None without any."""
    where = "b.project = ? AND b.benchmark = ? ORDER BY b.seq DESC LIMIT 1"
    return _one(db, where, (project, benchmark), receipt)


def _one(db: Session, where: str, values: Sequence[Any], receipt: bool) -> Baseline | None:
    columns, join = COLUMNS, ""
    if receipt:
        columns = f"{COLUMNS}, {db.as_bytes('r.body')}"
        join = "JOIN receipts r ON r.project = b.project AND r.id = b.receipt_id"
    row = db.execute(f"SELECT {columns} FROM baselines b {join} WHERE {where}", values).fetchone()
    return None if row is None else baseline_of(row)


def newest_sequence(db: Session, project: str, benchmark: str) -> int | None:
    """Return the sequence of a benchmark's newest record; None without any."""
    row = db.execute(
        """SELECT seq FROM baselines WHERE project = ? AND benchmark = ?
           ORDER BY seq DESC LIMIT 1""",
        (project, benchmark),
    ).fetchone()
    return None if row is None else int(row[0])


def receipt_body(db: Session, project: str, receipt_id: int) -> bytes:
    """Return the canonical JSON of a receipt."""
    row = db.execute(
        f"SELECT {db.as_bytes('body')} FROM receipts WHERE project = ? AND id = ?",
        (project, receipt_id),
    ).fetchone()
    return bytes(row[0])


def receipt_id_of(db: Session, baseline: Baseline) -> int:
    """Return the id of the receipt that a stored record has."""
    row = db.execute(
        "SELECT receipt_id FROM baselines WHERE project = ? AND seq = ?",
        (baseline.project, baseline.sequence),
    ).fetchone()
    return int(row[0])


def insert_receipt(db: Session, project: str, receipt: Receipt) -> int:
    """Keep a receipt and its summary; return the receipt's id."""
    row = db.execute(
        "INSERT INTO receipts (project, body) VALUES (?, ?) RETURNING id",
        (project, receipt.body.decode()),
    ).fetchone()
    db.execute(
        "INSERT INTO receipt_summaries (project, receipt_id, body) VALUES (?, ?, ?)",
        (project, row[0], receipt.summary.decode()),
    )
    return int(row[0])


class Order(NamedTuple):
    """The order of a benchmark's records, or of its verdicts: that of their sequences."""

    kind: Kind
    project: str
    benchmark: str

    def next(self, db: Session, after: int | None) -> int | None:
        """Return the first sequence behind `after` (None: of all), if there is one."""
        row = db.execute(
            f"""SELECT seq FROM {self.kind} WHERE project = ? AND benchmark = ? AND seq > ?
                ORDER BY seq LIMIT 1""",
            (self.project, self.benchmark, after or 0),
        ).fetchone()
        return int(row[0]) if row else None


def make_room(db: Session, order: Order, after: int | None, reserved: int | None) -> bool:
    """Free `reserved` as the next after `after` (None: as the first): what lies between the two is
    moved, with all that follows, behind all there are. Return False only where something follows
    and nothing is reserved."""
    first = order.next(db, after)
    if first is None:
        return True
    if reserved is None:
        return False
    if first < reserved:
        (last,) = db.execute(
            f"SELECT max(seq) FROM {order.kind} WHERE project = ? AND benchmark = ?",
            (order.project, order.benchmark),
        ).fetchone()
        _move(db, order, first, last, db.reserve(order.kind, last - first + 1))
    return True


def put_back(
    db: Session, order: Order, after: int | None, reserved: int | None, stored: int
) -> int:
    """Move the one whose sequence is `stored` to `reserved` if it stands behind that, and is the
    next after `after`; return its sequence. `make_room` may have moved it there for an earlier
    line of the file: left there, each later line would move the rest again."""
    if reserved is None or stored < reserved or stored != order.next(db, after):
        return stored
    _move(db, order, stored, stored, reserved)
    return reserved


def _move(db: Session, order: Order, first: int, last: int, target: int) -> None:
    """Move those from sequence `first` to `last`, each by the same step, so that the first
    comes to `target`."""
    those = "project = ? AND benchmark = ? AND seq BETWEEN ? AND ?"
    values = order.project, order.benchmark, first, last
    step = target - first
    tagged: dict[str, list[int]] = {}
    if order.kind == "baselines":
        # No index leads from a record to its tags.
        rows = db.execute(f"SELECT seq, tags FROM baselines WHERE {those}", values).fetchall()
        for sequence, tags in rows:
            for tag in json.loads(tags):
                tagged.setdefault(tag, []).append(sequence)
    db.execute(f"UPDATE {order.kind} SET seq = seq + ? WHERE {those}", (step, *values))
    for tag, sequences in tagged.items():
        is_theirs, theirs = db.among("seq", sequences)
        db.execute(
            f"UPDATE baseline_tags SET seq = seq + ? WHERE project = ? AND tag = ? AND {is_theirs}",
            (step, order.project, tag, theirs),
        )


def insert(db: Session, new: Baseline, receipt_id: int, sequence: int | None = None) -> Baseline:
    """Keep a record with its tags, at a reserved sequence or behind all there are; return it with
    its sequence."""
    columns, values = ("", ()) if sequence is None else (", seq", (sequence,))
    row = db.execute(
        f"""INSERT INTO baselines (id, project, benchmark, version, git_ref, git_sha, metadata,
               tags, created_at, created_by, content_hash, source, promoted_from,
               receipt_id{columns})
           VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?{", ?" * len(values)})
           RETURNING seq""",
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
            *values,
        ),
    ).fetchone()
    for tag in new.tags:
        db.execute(
            "INSERT INTO baseline_tags (project, tag, seq) VALUES (?, ?, ?)",
            (new.project, tag, row[0]),
        )
    return new._replace(sequence=int(row[0]))

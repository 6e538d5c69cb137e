"""Export and import: a storage as lines of JSON (NDJSON), one record each: baselines, then
verdicts, both oldest first."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from marshmallow import ValidationError

from perfgate_server import jsonio, record_schemas, records, schemas
from perfgate_server.fields import flatten
from perfgate_server.storage import Storage
from perfgate_server.storage.base import Baseline, Outcome, Receipt, Unavailable
from perfgate_server.storage.verdicts import VerdictRecord

#: Seconds that one export, or the keeping of one record, may take.
_EXPORT_TIMEOUT = 86_400.0
_RECORD_TIMEOUT = 60.0
_MAX_LINE = 2**30
#: A record holds a receipt, which may be as deep and as full as a body, its tags and metadata.
_MAX_DEPTH, _MAX_CONTAINERS = jsonio.MAX_DEPTH + 1, jsonio.MAX_CONTAINERS + 3

_record_schema = record_schemas.RecordSchema()
_verdict_schema = record_schemas.VerdictRecordSchema()

#: Is told how many bytes, or records, have been dealt with since it was told last.
Progress = Callable[[int], None]


class InvalidLine(Exception):
    """A line of an import that is no record; the text says what is wrong with it."""


def export(storage: Storage, out: BinaryIO, progress: Progress) -> tuple[int, int]:
    """Write every baseline to `out`, then every verdict; return how many of both. Raises
    Unavailable, OSError."""
    baselines = verdicts = 0
    for record in storage.export(deadline=time.monotonic() + _EXPORT_TIMEOUT):
        if isinstance(record, Baseline):
            out.write(records.record(records.record_head(record), record.receipt or b""))
            baselines += 1
        else:
            out.write(records.exported_verdict(record))
            verdicts += 1
        progress(1)
    out.flush()
    return baselines, verdicts


@dataclass
class Report:
    """What became of an import's lines."""

    outcomes: Counter[Outcome] = field(default_factory=Counter)
    invalid: int = 0

    @property
    def complete(self) -> bool:
        """Whether every record of the file is there now."""
        troubles = (Outcome.DIFFERS, Outcome.REFUSED)
        return not self.invalid and not any(self.outcomes[outcome] for outcome in troubles)

    def summary(self) -> str:
        counts = [f"{self.outcomes[outcome]} {outcome.value}" for outcome in Outcome]
        return ", ".join([*counts, f"{self.invalid} not valid"])


_COMPLAINTS = {
    Outcome.DIFFERS: "differs from the stored one, which stays",
    Outcome.REFUSED: "its benchmark has newer records that the file does not; --merge puts it"
    " before them",
}


def restore(
    storage: Storage,
    source: BinaryIO,
    *,
    merge: bool,
    strict: bool,
    complain: Callable[[str], None],
    progress: Progress,
) -> Report:
    """Read exported records into a storage; what is there already stays as it is.

    `merge` puts records before newer ones of their benchmark that the file does not have, and
    needs a `source` that can be read twice. `strict` stops at the first line that is not valid.
    `complain` is given a sentence for each line that was not kept. Raises Unavailable.
    """
    report = Report()
    reserved = None
    if merge:
        start = source.tell()
        reserved = _Reserved(storage, sum(1 for _ in _lines(source)))
        source.seek(start)
    with closing(_Places()) as places:
        for number, line in enumerate(_lines(source), 1):
            progress(len(line))
            if not line.strip():
                continue
            try:
                parsed = _parse(line)
            except InvalidLine as error:
                report.invalid += 1
                complain(f"line {number}: {error}")
                if strict:
                    break
                continue
            if isinstance(parsed, VerdictRecord):
                name = f"{parsed.project}: {parsed.benchmark} verdict {parsed.id}"
                outcome = storage.restore_verdict(parsed, deadline=_deadline())
            else:
                record, receipt = parsed
                name = f"{record.project}: {record.benchmark} {record.version}"
                outcome = _restore_baseline(storage, record, receipt, number, places, reserved)
            report.outcomes[outcome] += 1
            if outcome in _COMPLAINTS:
                complain(f"line {number}: {name}: {_COMPLAINTS[outcome]}")
    return report


def _restore_baseline(
    storage: Storage,
    record: Baseline,
    receipt: Receipt,
    number: int,
    places: _Places,
    reserved: _Reserved | None,
) -> Outcome:
    """Restore the record of that line behind the last one of its benchmark in the file."""
    last = places.last(record)
    place = reserved.place(number, last) if reserved else None
    restored = storage.restore(record, receipt, after=last, place=place, deadline=_deadline())
    # Without --merge nothing goes before a record that is another than the file's.
    is_ours = reserved is not None or restored.outcome is not Outcome.DIFFERS
    if restored.sequence is not None and is_ours:
        places.put(record, restored.sequence)
    return restored.outcome


def _deadline() -> float:
    return time.monotonic() + _RECORD_TIMEOUT


def _lines(source: BinaryIO) -> Iterator[bytes]:
    while line := source.readline(_MAX_LINE):
        yield line


class _Reserved:
    """The places in the order of records that a file's get with `merge`, one for each line."""

    def __init__(self, storage: Storage, lines: int) -> None:
        self._storage, self._lines = storage, lines
        self._before = storage.reserve(lines, deadline=_deadline()) - 1

    def place(self, number: int, last: int | None) -> int:
        """Return the sequence for the record of a line; `last` is its benchmark's last
        so far."""
        has_grown = number > self._lines
        if has_grown:  # since its lines were counted
            self._lines = 2 * number
        if has_grown or (last is not None and last > self._before + number):
            # `last` is beyond those reserved: reserve more for the rest.
            rest = self._lines - number + 1
            self._before = self._storage.reserve(rest, deadline=_deadline()) - number
        return self._before + number


class _Places:
    """Where the last record of each benchmark went: on disk, as there may be very many."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # a file that SQLite removes
        self._db.execute(
            """CREATE TABLE places (project TEXT, benchmark TEXT, seq INTEGER,
               PRIMARY KEY (project, benchmark)) WITHOUT ROWID"""
        )
        self._db.execute("BEGIN")

    def last(self, record: Baseline) -> int | None:
        row = self._execute(
            "SELECT seq FROM places WHERE project = ? AND benchmark = ?",
            (record.project, record.benchmark),
        ).fetchone()
        return row[0] if row else None

    def put(self, record: Baseline, sequence: int) -> None:
        """Note the place of a record, unless one of its benchmark went behind it."""
        self._execute(
            """INSERT INTO places VALUES (?, ?, ?)
               ON CONFLICT (project, benchmark) DO UPDATE SET seq = max(seq, excluded.seq)""",
            (record.project, record.benchmark, sequence),
        )

    def _execute(self, sql: str, values: tuple[Any, ...]) -> sqlite3.Cursor:
        try:
            return self._db.execute(sql, values)
        except sqlite3.Error as error:
            raise Unavailable(f"the folder for temporary files (TMPDIR): {error}") from error

    def close(self) -> None:
        self._db.close()


def _parse(line: bytes) -> tuple[Baseline, Receipt] | VerdictRecord:
    try:
        value = jsonio.loads(
            line.rstrip(b"\r\n"), max_depth=_MAX_DEPTH, max_containers=_MAX_CONTAINERS
        )
        is_verdict = isinstance(value, dict) and value.get("schema") == schemas.VERDICT_SCHEMA
        loaded = (_verdict_schema if is_verdict else _record_schema).load(value)
    except jsonio.MalformedJSON as error:
        raise InvalidLine(str(error)) from None
    except ValidationError as error:
        path, sentence = next(iter(flatten(error.messages).items()))
        raise InvalidLine(f"{path}: {sentence}") from None
    del loaded["schema"]
    if is_verdict:
        return VerdictRecord(**loaded)
    receipt = records.receipt_of(loaded.pop("receipt"))
    if receipt.content_hash != loaded["content_hash"]:
        raise InvalidLine("content_hash: Does not match the receipt.")
    return Baseline(**loaded), receipt

"""Export and import: a storage as lines of JSON (NDJSON), one record each: baselines, then
verdicts, both oldest first."""

from __future__ import annotations

import sqlite3
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any, BinaryIO, get_args

from marshmallow import ValidationError

from perfgate_server import jsonio, record_schemas, records, schemas
from perfgate_server.fields import MAX_PATH, flatten
from perfgate_server.storage import Storage
from perfgate_server.storage.base import Baseline, Kind, Outcome, Receipt, Restored, Unavailable
from perfgate_server.storage.verdicts import VerdictRecord

#: Seconds that one export, or the keeping of one record, may take.
_EXPORT_TIMEOUT = 86_400.0
_RECORD_TIMEOUT = 60.0
_MAX_LINE = 2**30
#: So many lines that are not valid are named: of a file that is another, each would be.
_MOST_INVALID = 20
#: A record holds a receipt, which may be as deep and as full as a body, its tags and metadata.
_MAX_DEPTH, _MAX_CONTAINERS = jsonio.MAX_DEPTH + 1, jsonio.MAX_CONTAINERS + 3

_baseline_schema = record_schemas.BaselineSchema()
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
            out.write(records.baseline_json(records.record_head(record), record.body()))
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
        """Whether every record of the file is there now, and it has one: what is piped from an
        export that failed has none."""
        troubles = (Outcome.DIFFERS, Outcome.REFUSED)
        is_whole = not self.invalid and not any(self.outcomes[outcome] for outcome in troubles)
        return is_whole and bool(self.outcomes)

    def summary(self) -> str:
        """Return how many lines had each outcome, as one sentence."""
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

    `merge` puts records and verdicts before newer ones of their benchmark that the file does not
    have, and needs a `source` that can be read twice. `strict` stops at the first line that is not
    valid. `complain` is given a sentence for each line that was not kept (of those that are not
    valid, for the first). Raises Unavailable.
    """
    report = Report()
    lines = _count_lines(source) if merge else None
    with closing(_LastSequences()) as ends:
        orders = {kind: _Order(storage, kind, ends, lines) for kind in get_args(Kind)}
        for number, line in enumerate(_lines(source), 1):
            progress(len(line))
            if not line.strip():
                continue
            try:
                name, outcome = _restore_line(storage, orders, line, number)
            except InvalidLine as error:
                report.invalid += 1
                if report.invalid <= _MOST_INVALID:
                    complain(f"line {number}: {error}")
                if strict:
                    break
                continue
            report.outcomes[outcome] += 1
            if outcome in _COMPLAINTS:
                complain(f"line {number}: {name}: {_COMPLAINTS[outcome]}")
    storage.ensure_durable(deadline=_deadline())
    with suppress(Unavailable):  # all is kept; the database does it later by itself
        storage.analyze(deadline=_deadline())
    if report.invalid > _MOST_INVALID:
        complain(f"and {report.invalid - _MOST_INVALID} more lines that are not valid")
    if not report.outcomes and not report.invalid:
        complain("there is no record in the file: did the export fail?")
    return report


def _restore_line(
    storage: Storage, orders: dict[Kind, _Order], line: bytes, number: int
) -> tuple[str, Outcome]:
    """Return what a line holds, and what became of it; raises InvalidLine, Unavailable."""
    parsed = _parse(line)
    if isinstance(parsed, VerdictRecord):
        name = f"{parsed.project}: {parsed.benchmark} verdict {parsed.id}"
        keep = partial(storage.restore_verdict, parsed)
        return name, orders["verdicts"].restore(keep, parsed, number)
    record, receipt = parsed
    name = f"{record.project}: {record.benchmark} {record.version}"
    keep = partial(storage.restore, record, receipt)
    return name, orders["baselines"].restore(keep, record, number)


def _deadline() -> float:
    return time.monotonic() + _RECORD_TIMEOUT


def _lines(source: BinaryIO) -> Iterator[bytes]:
    while line := source.readline(_MAX_LINE):
        yield line


def _count_lines(source: BinaryIO) -> int:
    start = source.tell()
    number = sum(1 for _ in _lines(source))
    source.seek(start)
    return number


class _Order:
    """The order of a file's baselines, or of its verdicts: where the next of a benchmark goes.

    With `merge` a sequence is reserved for each line; `lines` is how many there are, None
    without `merge`.
    """

    def __init__(
        self, storage: Storage, kind: Kind, ends: _LastSequences, lines: int | None
    ) -> None:
        self._storage, self._kind, self._ends, self._lines = storage, kind, ends, lines
        #: The sequence reserved for a line, less its number; None: nothing is reserved.
        self._offset: int | None = None

    def restore(
        self, keep: Callable[..., Restored], record: Baseline | VerdictRecord, number: int
    ) -> Outcome:
        """Restore the record of that line, by `keep`, behind the last one of its benchmark in the
        file."""
        benchmark = self._kind, record.project, record.benchmark
        last = self._ends.last(benchmark)
        restored = keep(after=last, reserved=self._reserved(number, last), deadline=_deadline())
        # Without `merge` nothing goes before a record that is another than the file's.
        is_ours = self._lines is not None or restored.outcome is not Outcome.DIFFERS
        if restored.sequence is not None and is_ours:
            self._ends.put(benchmark, restored.sequence)
        return restored.outcome

    def _reserved(self, number: int, last: int | None) -> int | None:
        if self._lines is None:
            return None
        if number > self._lines:  # the file has grown since its lines were counted
            self._lines, self._offset = 2 * number, None
        if self._offset is None or (last is not None and last > self._offset + number):
            # `last` is beyond those reserved: reserve more for the rest.
            rest = self._lines - number + 1
            first = self._storage.reserve(self._kind, rest, deadline=_deadline())
            self._offset = first - number
        return self._offset + number


#: The records of a benchmark that have one order: their kind, its project and its name.
_Benchmark = tuple[Kind, str, str]


class _LastSequences:
    """Where the last record of each benchmark went: on disk, as there may be very many."""

    def __init__(self) -> None:
        self._db = sqlite3.connect("", isolation_level=None)  # a file that SQLite removes
        self._db.execute(
            """CREATE TABLE ends (kind TEXT, project TEXT, benchmark TEXT, seq INTEGER,
               PRIMARY KEY (kind, project, benchmark)) WITHOUT ROWID"""
        )
        self._db.execute("BEGIN")

    def last(self, benchmark: _Benchmark) -> int | None:
        row = self._execute(
            "SELECT seq FROM ends WHERE kind = ? AND project = ? AND benchmark = ?", benchmark
        ).fetchone()
        return row[0] if row else None

    def put(self, benchmark: _Benchmark, sequence: int) -> None:
        """Note the sequence of a record, unless one of its benchmark went behind it."""
        self._execute(
            """INSERT INTO ends VALUES (?, ?, ?, ?)
               ON CONFLICT (kind, project, benchmark) DO UPDATE SET seq = max(seq, excluded.seq)""",
            (*benchmark, sequence),
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
        loaded = (_verdict_schema if is_verdict else _baseline_schema).load(value)
    except jsonio.MalformedJSON as error:
        raise InvalidLine(str(error).replace("The body", "It", 1)) from None
    except ValidationError as error:
        path, sentence = next(iter(flatten(error.messages).items()))
        raise InvalidLine(f"{path[:MAX_PATH]}: {sentence}") from None
    del loaded["schema"]
    if is_verdict:
        return VerdictRecord(**loaded)
    receipt = records.receipt_of(loaded.pop("receipt"))
    if receipt.content_hash != loaded["content_hash"]:
        raise InvalidLine("content_hash: Does not match the receipt.")
    return Baseline(**loaded), receipt

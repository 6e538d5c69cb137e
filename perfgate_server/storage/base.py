"""What a storage keeps, promises and raises. The docstrings of `Storage` are the contract that
every backend is tested against; nothing of HTTP is known here."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, Literal, NamedTuple, Protocol, TypeVar

from perfgate_server.storage.verdicts import VerdictFilters, VerdictRecord


@dataclass(frozen=True, slots=True)
class Receipt:
    """A receipt as it is kept: canonical JSON in UTF-8, the SHA-256 of that in hex, and its
    summary, a small JSON text that stands for it in comparisons."""

    body: bytes
    content_hash: str
    summary: bytes


class Baseline(NamedTuple):
    """One record. It never changes; `receipt` and `summary` are None where not asked for.

    A list makes fifty of them for an answer, and a frozen dataclass takes four times as long.
    """

    id: str
    project: str
    benchmark: str
    version: str
    git_ref: str | None
    git_sha: str | None
    metadata: dict[str, str]
    tags: list[str]
    created_at: str
    created_by: str
    content_hash: str
    source: str
    promoted_from: str | None = None
    #: Its place in the order of all records, from 1 on; given by the storage.
    sequence: int = 0
    receipt: bytes | None = None
    #: Its receipt's summary. A server of a version without summaries that still runs on a
    #: migrated database keeps none.
    summary: bytes | None = None

    def body(self) -> bytes:
        """Return the receipt, which must have been asked for."""
        assert self.receipt is not None, "no receipt was asked for"
        return self.receipt

    def is_copy_of(self, other: Baseline) -> bool:
        """Whether both are equal, their sequences, receipts and summaries aside."""
        return self == other._replace(
            sequence=self.sequence, receipt=self.receipt, summary=self.summary
        )

    def differences(self, sent: Baseline) -> list[str]:
        """Return the fields in which this stored record differs from what was sent for its version.

        Its contents count; of who made it, when and how, only the source of a promotion does, and
        only where one was sent: an upload may repeat what a promotion made.
        """
        names = _CONTENTS if sent.promoted_from is None else (*_CONTENTS, "promoted_from")
        return [name for name in names if getattr(self, name) != getattr(sent, name)]


_CONTENTS = ("content_hash", "git_ref", "git_sha", "metadata", "tags")


@dataclass(frozen=True, slots=True)
class Promotion:
    """A request for a new record with the receipt and metadata of the record `from_version`.

    A None among git_ref, git_sha and tags means the source's. `normalize` makes the new
    receipt of the source's; without it the receipt is shared.
    """

    project: str
    benchmark: str
    from_version: str
    to_version: str
    git_ref: str | None
    git_sha: str | None
    tags: list[str] | None
    normalize: Callable[[bytes], Receipt] | None
    id: str
    created_at: str
    created_by: str

    def result(self, source: Baseline, content_hash: str) -> Baseline:
        """Return the record that promoting `source` makes."""
        return source._replace(
            id=self.id,
            version=self.to_version,
            git_ref=source.git_ref if self.git_ref is None else self.git_ref,
            git_sha=source.git_sha if self.git_sha is None else self.git_sha,
            tags=source.tags if self.tags is None else self.tags,
            created_at=self.created_at,
            created_by=self.created_by,
            content_hash=content_hash,
            source="promote",
            promoted_from=source.version,
            receipt=None,
        )

    def may_have_made(self, target: Baseline) -> bool:
        """Whether `target`, which holds its receipt, can be what this promotion made of a
        source that is gone since."""
        receipt = target.body()
        return (
            target.promoted_from == self.from_version
            and self.git_ref in (None, target.git_ref)
            and self.git_sha in (None, target.git_sha)
            and self.tags in (None, target.tags)
            and (self.normalize is None or self.normalize(receipt).body == receipt)
        )


@dataclass(frozen=True, slots=True)
class Filters:
    """Which records of a project a list holds: all that are not None apply.

    `since` and `until` are inclusive and compare as text with `Baseline.created_at`. Benchmarks may
    be seen if their names begin with `visible_prefix`, and `is_visible` says so, if there is one.
    """

    benchmark: str | None = None
    benchmark_prefix: str | None = None
    git_ref: str | None = None
    git_sha: str | None = None
    tags: Sequence[str] | None = None
    source: str | None = None
    since: str | None = None
    until: str | None = None
    visible_prefix: str = ""
    is_visible: Callable[[str], bool] | None = None


@dataclass(frozen=True, slots=True)
class Page:
    """Which part of a list: `limit` records, newest first, after `offset` others or after the
    record whose sequence is `cursor`; whether to count all, and whether to read receipts."""

    limit: int
    offset: int = 0
    cursor: int | None = None
    total: bool = True
    receipts: bool = False

    def as_cut(self, listing: Listing[Any]) -> Page:
        """Return the page that a listing is, which may have ended early: whoever goes on by offset
        adds what the answer calls the limit."""
        return replace(self, limit=len(listing.records)) if listing.has_more else self


Record = TypeVar("Record", Baseline, VerdictRecord)


@dataclass(frozen=True, slots=True)
class Listing(Generic[Record]):
    """A page: its records, whether there are more after it, and the count of all if asked for."""

    records: list[Record]
    has_more: bool
    total: int | None
    #: The newest record's sequence, in a history.
    current: int | None = None

    @property
    def last(self) -> int | None:
        """The sequence of the page's last record, behind which the next page begins."""
        return self.records[-1].sequence if self.records else None


@dataclass(frozen=True, slots=True)
class Selector:
    """Which record of a benchmark to compare with: always the newest that fits.

    `kind` is ``latest``, ``promoted`` (made by a promotion), or one of ``version``, ``tag``,
    ``git_sha`` and ``git_ref``, for which `value` is the text that the record has there.
    """

    kind: str
    value: str = ""


@dataclass(frozen=True, slots=True)
class Comparison:
    """What a run is compared with: the record that was found, with its summary, None if none was;
    the selectors that were tried, of which the last one found it; and whether there are other
    records of the benchmark, where none of them fitted."""

    baseline: Baseline | None
    tried: list[Selector]
    others: bool = False


#: What has an order of its own, by sequences.
Kind = Literal["baselines", "verdicts"]


class Outcome(enum.Enum):
    """What became of a record that was to be restored."""

    KEPT = "kept"
    #: It is there already, the same in every member.
    PRESENT = "present"
    #: Its version is there with something else in it.
    DIFFERS = "differs"
    #: Its benchmark has newer records, whose place it would take.
    REFUSED = "refused"


@dataclass(frozen=True, slots=True)
class Restored:
    """What became of a record that an import restores."""

    outcome: Outcome
    #: Its sequence; of a version that differs, that of the stored one; None if there is none.
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Counts:
    """How much a storage holds, for `check`."""

    schema_version: int
    projects: int
    baselines: int
    receipts: int
    verdicts: int
    #: The projects whose kept totals are not what is there.
    wrong_totals: list[str]


class PastRun(NamedTuple):
    """What is wanted of a run's summary, and whether its receipt names the run."""

    value: Any
    is_named: bool


#: Given the stored record or None, raises PreconditionFailed to stop the write.
Precondition = Callable[[Baseline | None], None]

#: Returns the time as records have it.
Clock = Callable[[], str]

#: The most records, counted back from a baseline's run, that are looked at for its past.
MAX_SCANNED = 500

#: The most bytes that a receipt may have. SQLite keeps at most 1,000,000,000 in a row, PostgreSQL 1
#: GiB.
MAX_RECEIPT = 900_000_000

#: The most receipt bytes that one page holds, if it holds more than one receipt.
MAX_PAGE_BYTES = 64 * 2**20


class StorageError(Exception):
    """The parent of all that a storage raises."""


class CannotOpen(StorageError):
    """The storage cannot be opened at all; the text is one line for whoever starts the server."""


class NotFound(StorageError):
    """There is no such record; the text says which. `missing` is ``benchmark`` if that has no
    records at all, else ``version``."""

    def __init__(self, missing: str, message: str) -> None:
        super().__init__(message)
        self.missing = missing


class Conflict(StorageError):
    """The version exists and is not what was sent; `differs` says in what, by Baseline's fields."""

    def __init__(self, stored: Baseline, sent: Baseline, differs: list[str]) -> None:
        super().__init__(f"version {stored.version!r} exists")
        self.stored = stored
        self.sent = sent
        self.differs = differs


class PreconditionFailed(StorageError):
    """The caller's precondition does not hold; the text is the caller's own."""


#: Why a storage is unavailable. ``busy`` may be over in a moment; the others need somebody. While
#: it is ``full`` or ``read_only``, what is stored can mostly be read. ``down`` is all else, also
#: where no cause is known: SQLite calls a quota an I/O error.
Reason = Literal["busy", "full", "read_only", "down"]


class Unavailable(StorageError):
    """The storage cannot do it by the deadline, for this `reason`. The text is for the log, not for
    clients."""

    def __init__(self, text: str, reason: Reason = "down") -> None:
        super().__init__(text)
        self.reason: Reason = reason


class Storage(Protocol):
    """Where baselines are kept.

    All but `close` take a `deadline`, a time.monotonic(), and raise Unavailable when they cannot
    answer by then or the database is down. Writes are atomic, and on the disk when the
    method returns. All can be called from many threads, and from processes forked before the
    first call.

    `now` gives a new record's `created_at` once nobody else can write to its benchmark, so that
    times follow the order of records; without it the record keeps its own time.
    """

    backend: str

    def create(
        self,
        new: Baseline,
        receipt: Receipt,
        *,
        deadline: float,
        precondition: Precondition | None = None,
        now: Clock | None = None,
    ) -> tuple[Baseline, bool]:
        """Keep a new record; return it and True.

        If its version exists with the same contents, return the stored record and False. Raises
        PreconditionFailed, and Conflict if the version exists with anything else.
        """

    def promote(
        self,
        promotion: Promotion,
        *,
        deadline: float,
        precondition: Precondition | None = None,
        now: Clock | None = None,
    ) -> tuple[Baseline, bool]:
        """Make the promotion's record; return it and True.

        If the target is this very promotion's result already, return it and False, also when
        the source is gone since. Raises PreconditionFailed unless the precondition holds for the
        target, NotFound without a source, Conflict with another target.
        """

    def get(
        self, project: str, benchmark: str, version: str, *, receipt: bool, deadline: float
    ) -> Baseline:
        """Return one record, with its receipt if asked for. Raises NotFound."""

    def latest(self, project: str, benchmark: str, *, receipt: bool, deadline: float) -> Baseline:
        """Return the newest record of a benchmark, however it was made. Raises NotFound."""

    def list(
        self, project: str, filters: Filters, page: Page, *, deadline: float
    ) -> Listing[Baseline]:
        """Return a page of a project's records, newest first, without their metadata.

        With `page.receipts` it may end early, with `has_more`, where it would hold over
        MAX_PAGE_BYTES.
        """

    def history(
        self, project: str, benchmark: str, page: Page, *, deadline: float
    ) -> Listing[Baseline]:
        """Return a page of a benchmark's records, as `list` does. Raises NotFound without any."""

    def recent(
        self, project: str, benchmark: str, limit: int, *, git_ref: str | None, deadline: float
    ) -> Sequence[Baseline]:
        """Return a benchmark's newest records, with `git_ref` those of it, with their summaries
        and without their metadata, newest first. Raises NotFound if the benchmark has none at
        all."""

    def comparison(
        self,
        project: str,
        benchmark: str,
        selectors: Sequence[Selector],
        *,
        excluding: Sequence[str],
        deadline: float,
    ) -> Comparison:
        """Find what a run of a benchmark is compared with, all as of one moment.

        The first selector that finds a record decides. Records whose content hash is in `excluding`
        are passed over: a run that was uploaded is not compared with itself. Neither receipt nor
        metadata is read. A benchmark without records has no baseline.
        """

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
        """Return what `read(summary)` finds in the run of a stored baseline and in the runs of its
        benchmark before it, newest first, up to `limit`. Where it returns None, the run is left
        out. One that is named and was uploaded twice is one run, as old as its first record among
        those that are looked at.

        With `git_ref` only runs of that ref count. Content hashes in `excluding` are passed over,
        and so are promotions, unless `git_ref` is theirs and not their source's. At most
        MAX_SCANNED records are looked at. A baseline whose source is deleted has no past. No
        receipt is read.
        """

    def delete(
        self,
        project: str,
        benchmark: str,
        version: str,
        *,
        deadline: float,
        precondition: Precondition | None = None,
    ) -> Baseline:
        """Remove a record for good and return it; its receipt goes with the last record that
        points to it. Raises NotFound and PreconditionFailed."""

    def add_verdict(
        self, new: VerdictRecord, *, deadline: float, now: Clock | None = None
    ) -> VerdictRecord:
        """Keep a verdict; return it with its sequence and its flakiness score."""

    def list_verdicts(
        self, project: str, filters: VerdictFilters, page: Page, *, deadline: float
    ) -> Listing[VerdictRecord]:
        """Return a page of a project's verdicts, newest first, those of benchmarks that have
        no records included."""

    def export(self, *, deadline: float) -> Iterator[Baseline | VerdictRecord]:
        """Yield every record with its receipt, then every verdict, each oldest first, as of one
        moment."""

    def restore(
        self,
        record: Baseline,
        receipt: Receipt,
        *,
        after: int | None,
        reserved: int | None,
        deadline: float,
    ) -> Restored:
        """Keep a record as it was exported: with its id, its times and its source.

        `after` is the sequence of the record that precedes it in its benchmark, None if it is
        the first. Where the benchmark has records behind that one, keeping it would move
        `latest`: without a `reserved` sequence it is Outcome.REFUSED; with one (from `reserve`)
        it is kept there, and they are moved behind all that is reserved, in their order. A record
        that is there already, but behind the reserved sequence, is moved to that if nothing lies
        before it.
        """

    def restore_verdict(
        self, verdict: VerdictRecord, *, after: int | None, reserved: int | None, deadline: float
    ) -> Restored:
        """Keep a verdict as it was exported, as `restore` does, but where nothing is reserved it
        goes behind all there are. One of that id may be there already: PRESENT if it is the same,
        else DIFFERS."""

    def ensure_durable(self, *, deadline: float) -> None:
        """Return once all that was found PRESENT is kept as safely as what was KEPT. Whoever wrote
        it may wait for a standby still, or have given up."""

    def analyze(self, *, deadline: float) -> None:
        """Let a database that plans by statistics take them anew, after very many writes: what it
        does by itself comes later."""

    def reserve(self, kind: Kind, count: int, *, deadline: float) -> int:
        """Reserve `count` sequences after all that are in use; return the first."""

    def counts(self, *, deadline: float) -> Counts:
        """Count what is stored."""

    def ping(self, *, deadline: float) -> None:
        """Return if the storage answers, and is still the one that was opened."""

    def close(self) -> None:
        """Close what is open in this process."""


def no_benchmark(project: str, benchmark: str) -> NotFound:
    """Return the error for a benchmark without records."""
    message = f"Benchmark {benchmark!r} has no baseline in project {project!r}."
    return NotFound("benchmark", message)


def no_version(project: str, benchmark: str, version: str) -> NotFound:
    """Return the error for a version that a benchmark with others does not have."""
    message = f"Benchmark {benchmark!r} has no version {version!r} in project {project!r}."
    return NotFound("version", message)

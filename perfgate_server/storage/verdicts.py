"""What a storage knows of verdicts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class VerdictRecord:
    """What the comparison of one run came to. It never changes."""

    id: str
    project: str
    benchmark: str
    run_id: str
    #: One of pass, warn, fail and skip.
    status: str
    #: How many metrics have each status.
    counts: dict[str, int]
    reasons: list[str]
    git_ref: str | None
    git_sha: str | None
    created_at: str
    created_by: str
    #: Its place in the order of all verdicts; given by the storage.
    sequence: int = 0

    def is_copy_of(self, other: VerdictRecord) -> bool:
        """Whether both are the same in every member, their places in the order aside."""
        return replace(self, sequence=0) == replace(other, sequence=0)


@dataclass(frozen=True, slots=True)
class VerdictFilters:
    """Which verdicts of a project a list holds: see `base.Filters`."""

    benchmark: str | None = None
    status: str | None = None
    git_ref: str | None = None
    since: str | None = None
    until: str | None = None
    visible: Callable[[str], bool] | None = None


@dataclass(frozen=True, slots=True)
class VerdictListing:
    """A page: its verdicts, whether there are more after it, and the count of all if asked for."""

    verdicts: list[VerdictRecord]
    has_more: bool
    total: int | None

    @property
    def last(self) -> int | None:
        """See `base.Listing.last`."""
        return self.verdicts[-1].sequence if self.verdicts else None

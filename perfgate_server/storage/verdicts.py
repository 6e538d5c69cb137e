"""What a storage knows of verdicts."""

from __future__ import annotations

from collections.abc import Callable, Sequence
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
    #: The coefficient of variation of the run's wall times: their standard deviation by their mean.
    wall_ms_cv: float | None = None
    #: See `flakiness`; given by the storage.
    flakiness_score: float | None = None
    #: Its place in the order of all verdicts; given by the storage.
    sequence: int = 0

    def is_copy_of(self, other: VerdictRecord) -> bool:
        """Whether both are the same in every member, their places in the order aside."""
        return self == replace(other, sequence=self.sequence)


#: A coefficient of variation over which a run counts as flaky, and how many verdicts are looked at.
_FLAKY, FLAKINESS_WINDOW = 0.30, 20


def flakiness(variations: Sequence[float]) -> float | None:
    """Return how flaky a benchmark is whose newest runs have these coefficients of variation: from
    0, steady, to 1; None of no runs.

    The share of flaky runs weighs 0.7; the mean of c / 0.30, at most 2, halved, weighs 0.3. So the
    public perfgate server has it, for `perfgate baseline flaky`.
    """
    if not variations:
        return None
    share = sum(variation > _FLAKY for variation in variations) / len(variations)
    level = sum(min(variation / _FLAKY, 2) / 2 for variation in variations) / len(variations)
    return 0.7 * share + 0.3 * level


@dataclass(frozen=True, slots=True)
class VerdictFilters:
    """Which verdicts of a project a list holds: see `base.Filters`."""

    benchmark: str | None = None
    status: str | None = None
    git_ref: str | None = None
    git_sha: str | None = None
    since: str | None = None
    until: str | None = None
    visible_prefix: str = ""
    is_visible: Callable[[str], bool] | None = None

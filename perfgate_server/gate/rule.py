"""Whether a run is slower than its baseline: a pure function of what is known of the runs.

One metric is judged as perfgate judges it, in doubles: `pct` is (current - baseline) / baseline;
the regression is |pct| if the change is for the worse, else 0. Above the threshold it fails; from
threshold * warn_factor on it warns. Doubts about the comparison as a whole (another machine, an
old baseline, a failed command) are weighed after that.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from perfgate_server.gate import hosts, noise
from perfgate_server.names import COUNTS, METRICS, STATUSES
from perfgate_server.summaries import MetricStats, Summary

Status = Literal["pass", "warn", "fail", "skip"]
Skip = Literal["zero_baseline", "missing_baseline", "missing_current"]
History = Callable[[], Sequence[Summary]]
_JUDGED = ("pass", "warn", "fail")

HIGHER_IS_BETTER = frozenset({"throughput_per_s"})
#: A rate that is less, as none, is taken for this one where it is turned to a time.
_SLOWEST = 1e-300


@dataclass(frozen=True, slots=True)
class Options:
    """How to judge. Thresholds are fractions (0.2 is 20 %), floors have their metric's unit.

    `metrics` are the metrics that count; None means those that both receipts have. `history` is
    how many past records tell the noise at most; `max_age` is in seconds.
    """

    threshold: float = 0.20
    warn_factor: float = 0.90
    thresholds: Mapping[str, float] = field(default_factory=dict)
    floors: Mapping[str, float] = field(default_factory=dict)
    metrics: tuple[str, ...] | None = None
    history: int = 20
    noise: bool = True
    host_mismatch: Literal["warn", "fail", "ignore"] = "warn"
    allow_failed: bool = False
    on_missing: Literal["skip", "fail"] = "skip"
    max_age: float | None = None
    min_samples: int = 1

    @property
    def named(self) -> frozenset[str]:
        """The metrics that were asked for by name, of which each should be there: those that count,
        or else those with a limit of their own."""
        return frozenset((*self.thresholds, *self.floors) if self.metrics is None else self.metrics)


@dataclass(frozen=True, slots=True)
class FoundBaseline:
    """What a run is compared with. `age` is in seconds, and less than 0 if a wrong clock has dated
    the baseline ahead; `selector` is the one that found it."""

    summary: Summary
    version: str
    selector: str
    age: float


@dataclass(frozen=True, slots=True)
class Budget:
    """How much worse a metric may be, as a share of the baseline: 0.2 is 20 %."""

    threshold: float
    warn_threshold: float
    direction: Literal["lower", "higher"]


@dataclass(frozen=True, slots=True)
class Delta:
    """One metric of both runs; `pct` and `regression` are fractions of the baseline."""

    baseline: float
    current: float
    ratio: float
    pct: float
    regression: float
    status: Status


@dataclass(frozen=True, slots=True)
class Noise:
    """What the history said of a metric beyond its threshold: `n` past runs have it; `interval`, in
    the metric's unit, is None if that is too short a history."""

    n: int
    interval: noise.Interval | None
    decided: Literal["fails", "within_noise", "too_little_history"]


@dataclass(slots=True)
class Metrics:
    """What became of each metric.

    `skipped` says of a metric without a delta why it has none. `counts` and `reasons` are of the
    judged metrics; one that is only reported has a delta with the status skip. `records` is how
    many records the history has, None if it was not asked for; `noise` is what they say of the
    metrics that are beyond their thresholds.
    """

    deltas: dict[str, Delta] = field(default_factory=dict)
    skipped: dict[str, Skip] = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=lambda: dict.fromkeys(STATUSES, 0))
    reasons: list[str] = field(default_factory=list)
    records: int | None = None
    noise: dict[str, Noise] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Judgement:
    """The verdict, and all that led to it. `differing` is in what the hosts differ."""

    current: Summary
    baseline: FoundBaseline | None
    options: Options
    status: Status
    reasons: tuple[str, ...]
    metrics: Metrics
    differing: tuple[str, ...]


def judge(
    current: Summary, baseline: FoundBaseline | None, history: History, options: Options
) -> Judgement:
    """Return the verdict on a run; there is one in every case.

    `history` returns the past runs of the benchmark that are comparable (see `is_comparable`),
    oldest first. It is called once if a judged metric is beyond its threshold and the noise counts,
    else never.
    """
    metrics, missing = Metrics(), "no_baseline"
    differing: tuple[str, ...] = ()
    doubts: list[str] = []
    if baseline is not None:
        metrics = _compare(current, baseline.summary, history, options)
        missing = "" if any(metrics.counts[s] for s in _JUDGED) else "no_metrics"
        differing = hosts.differences(current.host, baseline.summary.host)
        doubts = _doubts(current, baseline, bool(differing), options)
    failed = "failed_samples" if current.failed and not options.allow_failed else ""
    reasons = [reason for reason in (failed, missing, *metrics.reasons, *doubts) if reason]
    # A metric that was asked for by its name and could not be judged: a warning, and no mere skip.
    in_vain = any(f"{name}_skip" in metrics.reasons for name in options.named)
    is_mismatch = "host_mismatch" in doubts
    status: Status
    if (
        failed
        or (missing and options.on_missing == "fail")
        or (is_mismatch and options.host_mismatch == "fail")
    ):
        status = "fail"
    elif missing and not in_vain:
        status = "skip"
    elif is_mismatch:
        # The numbers of another machine show neither a failure nor a pass.
        status = "warn"
    elif metrics.counts["fail"]:
        status = "fail"
    elif metrics.counts["warn"] or doubts or in_vain:
        status = "warn"
    else:
        status = "pass"
    return Judgement(current, baseline, options, status, tuple(reasons), metrics, differing)


def _doubts(
    current: Summary, baseline: FoundBaseline, differing: bool, options: Options
) -> list[str]:
    """Return the reasons to doubt the comparison, whatever the numbers say."""
    before = baseline.summary
    doubts = {
        "host_mismatch": differing and options.host_mismatch != "ignore",
        "stale_baseline": options.max_age is not None and abs(baseline.age) > options.max_age,
        "failed_baseline": before.failed and not options.allow_failed,
        "insufficient_samples": min(current.samples, before.samples) < options.min_samples,
    }
    return [reason for reason, holds in doubts.items() if holds]


def _compare(current: Summary, baseline: Summary, history: History, options: Options) -> Metrics:
    """Judge each metric by itself."""
    metrics, history = Metrics(), functools.cache(history)
    for name in METRICS:
        before, now = baseline.stats.get(name), current.stats.get(name)
        is_judged = _is_judged(name, before, now, options)
        if before is None or now is None:
            if is_judged or before or now:
                metrics.skipped[name] = "missing_baseline" if now else "missing_current"
            status, is_told = "skip", True
        elif before["median"] <= 0:
            metrics.skipped[name] = "zero_baseline"
            is_worse = _worsening(name, before["median"], now["median"], options) > 0
            status, is_told = "skip", is_worse
        else:
            delta = measure(name, before["median"], now["median"], options)
            if not is_judged:
                delta = replace(delta, status="skip")
            elif delta.status == "fail" and options.noise:
                delta = _weighed(metrics, name, delta, history())
            metrics.deltas[name] = delta
            status, is_told = delta.status, delta.status != "pass"
        if is_judged:
            metrics.counts[status] += 1
            if is_told:
                metrics.reasons.append(f"{name}_{status}")
    if any(found.decided == "within_noise" for found in metrics.noise.values()):
        metrics.reasons.append("within_noise")
    return metrics


def _is_judged(
    name: str, before: MetricStats | None, now: MetricStats | None, options: Options
) -> bool:
    """Tell whether a metric counts, and is not only reported. One that has a limit of its own may
    be missing on both sides: one script may serve benchmarks of which some lack what it names."""
    if options.metrics is not None:
        return name in options.named
    both, one = bool(before and now), bool(before or now)
    return both or (one and name in options.named)


def _weighed(metrics: Metrics, name: str, failed: Delta, records: Sequence[Summary]) -> Delta:
    """Return the delta of a metric that failed, as a warning if it is within the noise of the
    records; note in `metrics` what they say."""
    metrics.records = len(records)
    metrics.noise[name] = found = _noise(name, failed.current, records)
    return replace(failed, status="warn") if found.decided == "within_noise" else failed


def budget(name: str, options: Options) -> Budget:
    """Return by which fractions a metric may grow, or shrink where higher is better."""
    threshold = options.thresholds.get(name, options.threshold)
    direction: Literal["lower", "higher"] = "higher" if name in HIGHER_IS_BETTER else "lower"
    return Budget(threshold, threshold * options.warn_factor, direction)


def measure(name: str, baseline: float, current: float, options: Options) -> Delta:
    """Judge one metric by its threshold and floor alone; the baseline is more than 0.

    All is computed in doubles, and what overflows one is its largest: JSON knows no infinity.
    """
    limits, baseline, current = budget(name, options), float(baseline), float(current)
    pct = _finite((current - baseline) / baseline)
    regression = abs(pct) if _worsening(name, baseline, current, options) else 0.0
    status: Status = "pass"
    if regression > limits.threshold:
        status = "fail"
    elif regression >= limits.warn_threshold:
        status = "warn"
    return Delta(baseline, current, _finite(current / baseline), pct, regression, status)


def _worsening(name: str, baseline: float, current: float, options: Options) -> float:
    """Return by how much a metric is worse, in its unit; 0 for less than its floor."""
    change = float(current) - float(baseline)
    if name in HIGHER_IS_BETTER:
        change = -change
    return change if change >= options.floors.get(name, 0.0) else 0.0


def _finite(value: float) -> float:
    return max(-sys.float_info.max, min(value, sys.float_info.max))


def is_comparable(current: Summary, past: Summary, options: Options) -> bool:
    """Tell whether a past run tells of this one's noise: it is of such a machine, and none of its
    samples failed, unless that is allowed."""
    if past.failed and not options.allow_failed:
        return False
    return not hosts.differences(current.host, past.host)


def _noise(name: str, current: float, records: Sequence[Summary]) -> Noise:
    """Return what the records say of a metric that is beyond its threshold."""
    values = [past.stats[name]["median"] for past in records if name in past.stats]
    if name in HIGHER_IS_BETTER:
        # Of a rate it is the time that one takes which scatters: around rates that scatter by a
        # fifth an interval reaches below 0, and a rate of 0 would be within the noise.
        current, values = _time(current), [_time(rate) for rate in values]
    # Of what is counted in whole units, a change of 1 may be rounding alone.
    expected = noise.interval(values, 1.0 if name in COUNTS else 0.0)
    if expected is None:
        return Noise(len(values), None, "too_little_history")
    outside = current > expected.high
    if name in HIGHER_IS_BETTER:
        expected = _of_rates(expected)
    return Noise(expected.n, expected, "fails" if outside else "within_noise")


def _time(rate: float) -> float:
    return 1 / max(rate, _SLOWEST)


def _of_rates(times: noise.Interval) -> noise.Interval:
    """Return the interval of rates that an interval of times is."""
    return noise.Interval(
        times.n,
        _finite(1 / times.high),
        _finite(1 / times.center),
        _finite(1 / times.low) if times.low > 0 else sys.float_info.max,
    )

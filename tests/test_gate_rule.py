"""The rule of the gate: its edges, and what may never be said of a run."""

from __future__ import annotations

import json
import math
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfgate_server.gate import hosts, noise
from perfgate_server.gate.document import document
from perfgate_server.gate.rule import (
    FoundBaseline,
    Judgement,
    Options,
    is_comparable,
    judge,
    measure,
)
from perfgate_server.names import METRICS
from perfgate_server.summaries import MetricStats, Summary

U64 = 2**64 - 1
HOST = {"os": "linux", "arch": "x86_64", "cpu_count": 4}
#: From the best to the worst; a skip is neither.
ORDER = {"pass": 0, "warn": 1, "fail": 2}


def run(
    *, host: dict[str, Any] = HOST, samples: int = 5, failed: int = 0, **medians: float
) -> Summary:
    stats = {
        name: MetricStats(median=value, min=value, max=value) for name, value in medians.items()
    }
    return Summary("run", host, samples, failed, stats)


def against(
    baseline: Summary | None,
    current: Summary,
    records: list[Summary] | None = None,
    *,
    age: float = 0.0,
    **options: Any,
) -> Judgement:
    found = FoundBaseline(baseline, "v1", "latest", age) if baseline else None
    return judge(current, found, lambda: records or [], Options(**options))


def status(name: str, baseline: float, current: float, **options: Any) -> str:
    return measure(name, baseline, current, Options(**options)).status


# -- one metric


@pytest.mark.parametrize(
    ("current", "expected"),
    [(1124, "pass"), (1125, "warn"), (1250, "warn"), (1251, "fail")],
)
def test_at_the_warn_threshold_it_warns_and_beyond_the_threshold_it_fails(
    current: int, expected: str
) -> None:
    assert status("wall_ms", 1000, current, threshold=0.25, warn_factor=0.5) == expected


def test_the_thresholds_are_compared_in_doubles_as_perfgate_compares_them() -> None:
    assert 0.2 * 0.9 == 0.18000000000000002 > (118 - 100) / 100
    assert status("wall_ms", 100, 118) == "pass"
    assert status("wall_ms", 1000, 1181) == "warn"
    assert (120 - 100) / 100 == (6 - 5) / 5 == 0.2
    assert status("wall_ms", 100, 120) == "warn"
    assert status("wall_ms", 5, 6) == "warn"
    # From 1.0 it is less than 0.1 down to 0.9, and more than 0.1 up to 1.1.
    assert status("throughput_per_s", 1.0, 0.9, threshold=0.1) == "warn"
    assert status("wall_ms", 1.0, 1.1, threshold=0.1) == "fail"


def test_a_threshold_of_its_own_is_the_metrics_alone() -> None:
    options = {"thresholds": {"wall_ms": 0.1}}
    assert status("wall_ms", 100, 115, **options) == "fail"
    assert status("cpu_ms", 100, 115, **options) == "pass"


def test_only_a_throughput_is_better_when_it_is_higher() -> None:
    for name in METRICS:
        worse, better = (50, 200) if name == "throughput_per_s" else (200, 50)
        assert status(name, 100, worse) == "fail", name
        assert status(name, 100, better) == "pass", name
    assert measure("throughput_per_s", 100, 70, Options()).regression == 0.3
    assert measure("throughput_per_s", 100, 130, Options()).regression == 0.0


def test_a_change_below_the_floor_is_no_regression() -> None:
    floor: dict[str, Any] = {"floors": {"wall_ms": 2, "throughput_per_s": 10.0}}
    delta = measure("wall_ms", 3, 4, Options(**floor))
    assert (delta.status, delta.regression, delta.pct) == ("pass", 0.0, 1 / 3)
    assert status("wall_ms", 3, 5, **floor) == "fail"
    assert status("throughput_per_s", 20.0, 11.0, **floor) == "pass"
    assert status("throughput_per_s", 20.0, 10.0, **floor) == "fail"


@given(
    st.sampled_from(METRICS),
    st.one_of(st.integers(1, U64), st.floats(5e-324, allow_infinity=False, allow_nan=False)),
    st.one_of(st.integers(0, U64), st.floats(allow_infinity=False, allow_nan=False)),
)
def test_every_number_of_a_delta_is_a_finite_double(
    name: str, baseline: float, current: float
) -> None:
    delta = measure(name, baseline, current, Options())
    numbers = [delta.baseline, delta.current, delta.ratio, delta.pct, delta.regression]
    assert all(type(number) is float and math.isfinite(number) for number in numbers)
    assert delta.regression >= 0


def test_huge_integers_are_compared_as_doubles() -> None:
    assert status("io_read_bytes", U64, U64) == "pass"
    assert status("io_read_bytes", U64 // 2, U64) == "fail"
    assert measure("io_read_bytes", 1, U64, Options()).ratio == float(U64)
    # Beyond 2^53 two neighbours are one double.
    assert measure("io_read_bytes", 2**60, 2**60 + 1, Options()).pct == 0.0


# -- one run


def test_the_worst_metric_is_the_verdict() -> None:
    baseline = run(wall_ms=100, cpu_ms=100, max_rss_kb=100)
    verdict = against(baseline, run(wall_ms=100, cpu_ms=119, max_rss_kb=150))
    assert verdict.status == "fail"
    assert verdict.reasons == ("cpu_ms_warn", "max_rss_kb_fail")
    assert verdict.metrics.counts == {"pass": 1, "warn": 1, "fail": 1, "skip": 0}
    assert against(baseline, run(wall_ms=100, cpu_ms=119, max_rss_kb=100)).status == "warn"
    assert against(baseline, baseline).status == "pass"
    assert against(baseline, baseline).reasons == ()


def test_one_sample_is_enough_unless_more_are_asked_for() -> None:
    one = run(wall_ms=100, samples=1)
    assert against(one, one).status == "pass"
    for pair in ((one, run(wall_ms=100)), (run(wall_ms=100), one)):
        verdict = against(*pair, min_samples=2)
        assert (verdict.status, verdict.reasons) == ("warn", ("insufficient_samples",))


def test_a_receipt_without_measured_samples_does_not_pass() -> None:
    verdict = against(run(wall_ms=100), run(wall_ms=100, samples=0))
    assert (verdict.status, verdict.reasons) == ("warn", ("insufficient_samples",))


def test_metrics_that_are_not_asked_for_are_reported_and_not_judged() -> None:
    baseline, current = run(wall_ms=100, cpu_ms=100), run(wall_ms=100, cpu_ms=900)
    verdict = against(baseline, current, metrics=("wall_ms",))
    assert (verdict.status, verdict.reasons) == ("pass", ())
    assert verdict.metrics.counts == {"pass": 1, "warn": 0, "fail": 0, "skip": 0}
    assert verdict.metrics.deltas["cpu_ms"].status == "skip"
    assert verdict.metrics.deltas["cpu_ms"].regression == 8.0


def test_a_metric_of_one_receipt_only_is_skipped() -> None:
    verdict = against(run(wall_ms=100, cpu_ms=5), run(wall_ms=100, energy_uj=5))
    assert (verdict.status, verdict.reasons) == ("pass", ())
    assert verdict.metrics.skipped == {
        "cpu_ms": "missing_current",
        "energy_uj": "missing_baseline",
    }
    assert verdict.metrics.counts["skip"] == 0


@pytest.mark.parametrize("name", ["cpu_ms", "energy_uj", "binary_bytes"])
def test_a_metric_asked_for_and_not_there_is_no_pass(name: str) -> None:
    baseline, current = run(wall_ms=100, cpu_ms=5), run(wall_ms=100, energy_uj=5)
    verdict = against(baseline, current, metrics=("wall_ms", name))
    assert (verdict.status, verdict.reasons) == ("warn", (f"{name}_skip",))
    # Of what neither has, the run's is told: it may be mended.
    gap = "missing_baseline" if name == "energy_uj" else "missing_current"
    assert verdict.metrics.skipped[name] == gap
    assert verdict.metrics.counts == {"pass": 1, "warn": 0, "fail": 0, "skip": 1}


@pytest.mark.parametrize("limit", ["thresholds", "floors"])
def test_a_metric_with_a_limit_of_its_own_is_asked_for(limit: str) -> None:
    """It should not leave the gate when a run no longer reports it."""
    baseline, current = run(wall_ms=100, cpu_ms=5), run(wall_ms=100, energy_uj=5)
    for name in ("cpu_ms", "energy_uj"):
        limited: dict[str, Any] = {limit: {name: 1.0}}
        verdict = against(baseline, current, **limited)
        assert (verdict.status, verdict.reasons) == ("warn", (f"{name}_skip",))
        assert verdict.metrics.counts == {"pass": 1, "warn": 0, "fail": 0, "skip": 1}
        assert against(baseline, current, **limited, metrics=("wall_ms",)).status == "pass"
    # One script may serve benchmarks of which some do not have it.
    limited = {limit: {"binary_bytes": 1.0}}
    neither = against(baseline, current, **limited)
    assert (neither.status, neither.reasons) == ("pass", ())
    grown = against(run(wall_ms=9, cpu_ms=0), run(wall_ms=9, cpu_ms=5), thresholds={"cpu_ms": 1.0})
    assert (grown.status, grown.reasons) == ("warn", ("cpu_ms_skip",))


def test_a_baseline_of_zero_is_said_and_not_divided_by() -> None:
    baseline = run(wall_ms=100, page_faults=0)
    same = against(baseline, run(wall_ms=100, page_faults=0))
    assert (same.status, same.reasons) == ("pass", ())
    more = against(baseline, run(wall_ms=100, page_faults=7))
    assert (more.status, more.reasons) == ("pass", ("page_faults_skip",))
    for verdict in (same, more):
        assert verdict.metrics.skipped == {"page_faults": "zero_baseline"}
        assert verdict.metrics.counts == {"pass": 1, "warn": 0, "fail": 0, "skip": 1}
    named: dict[str, Any] = {"metrics": ("wall_ms", "page_faults")}
    assert against(baseline, run(wall_ms=100, page_faults=7), **named).status == "warn"
    floor: dict[str, Any] = {"floors": {"page_faults": 8}}
    assert against(baseline, run(wall_ms=100, page_faults=7), **named, **floor).status == "pass"


def test_metrics_are_counted_by_status() -> None:
    baseline = run(wall_ms=100, cpu_ms=100, page_faults=9)
    found = against(baseline, run(wall_ms=200, cpu_ms=200, page_faults=9)).metrics.counts
    assert found == {"pass": 1, "warn": 0, "fail": 2, "skip": 0}


def test_a_metric_that_is_missed_forgives_no_other() -> None:
    baseline, slower = run(wall_ms=100), run(wall_ms=200)
    verdict = against(baseline, slower, metrics=("wall_ms", "cpu_ms"))
    assert (verdict.status, verdict.reasons) == ("fail", ("wall_ms_fail", "cpu_ms_skip"))


def test_the_least_values_are_judged() -> None:
    assert against(run(wall_ms=1), run(wall_ms=3)).status == "fail"
    slow, fast = run(wall_ms=1, throughput_per_s=0.1), run(wall_ms=1, throughput_per_s=0.5)
    assert against(fast, slow).status == "fail"
    assert against(slow, fast).status == "pass"


def test_a_throughput_that_rises_from_zero_is_no_regression() -> None:
    for rate in (0.0, -1.0):
        baseline = run(wall_ms=9, throughput_per_s=rate)
        verdict = against(baseline, run(wall_ms=9, throughput_per_s=5.0))
        assert verdict.reasons == ()
        assert verdict.metrics.skipped == {"throughput_per_s": "zero_baseline"}


@pytest.mark.parametrize(("on_missing", "expected"), [("skip", "skip"), ("fail", "fail")])
def test_nothing_to_compare_with_is_never_a_pass(on_missing: str, expected: str) -> None:
    verdict = against(None, run(wall_ms=100), on_missing=on_missing)
    assert (verdict.status, verdict.reasons) == (expected, ("no_baseline",))
    nothing = against(run(wall_ms=0), run(wall_ms=1), on_missing=on_missing)
    assert (nothing.status, nothing.reasons) == (expected, ("no_metrics", "wall_ms_skip"))


@pytest.mark.parametrize(("on_missing", "expected"), [("skip", "warn"), ("fail", "fail")])
def test_a_metric_asked_for_is_missed_also_where_it_is_the_only_one(
    on_missing: str, expected: str
) -> None:
    """Or a run that no longer reports it would open the gate."""
    for current in (run(wall_ms=100), run(wall_ms=100, cpu_ms=5)):
        verdict = against(
            run(wall_ms=100, cpu_ms=0), current, metrics=("cpu_ms",), on_missing=on_missing
        )
        assert (verdict.status, verdict.reasons) == (expected, ("no_metrics", "cpu_ms_skip"))


# -- what speaks against a comparison


def test_a_run_whose_samples_failed_is_not_fast() -> None:
    fast = run(wall_ms=1, failed=1)
    assert against(run(wall_ms=100), fast).status == "fail"
    assert against(run(wall_ms=100), fast).reasons == ("failed_samples",)
    assert against(run(wall_ms=100), fast, allow_failed=True).status == "pass"
    assert against(None, fast).reasons == ("failed_samples", "no_baseline")
    assert against(None, fast).status == "fail"
    other = run(wall_ms=1, failed=1, host={"os": "windows"})
    assert against(run(wall_ms=100), other).status == "fail"


def test_a_baseline_whose_samples_failed_is_a_warning() -> None:
    baseline = run(wall_ms=100, failed=5)
    verdict = against(baseline, run(wall_ms=100))
    assert (verdict.status, verdict.reasons) == ("warn", ("failed_baseline",))
    assert against(baseline, run(wall_ms=200)).status == "fail"
    assert against(baseline, run(wall_ms=100), allow_failed=True).status == "pass"


def test_an_old_baseline_is_a_warning() -> None:
    baseline = run(wall_ms=100)
    assert against(baseline, baseline, age=10.0, max_age=10.0).status == "pass"
    verdict = against(baseline, baseline, age=10.1, max_age=10.0)
    assert (verdict.status, verdict.reasons) == ("warn", ("stale_baseline",))
    assert against(baseline, run(wall_ms=200), age=10.1, max_age=10.0).status == "fail"


def test_a_baseline_of_the_future_is_no_fresh_one() -> None:
    """A clock was wrong then, and it would stay fresh until that day."""
    baseline = run(wall_ms=100)
    assert against(baseline, baseline, age=-10.0, max_age=10.0).status == "pass"
    assert against(baseline, baseline, age=-10.1, max_age=10.0).reasons == ("stale_baseline",)


@pytest.mark.parametrize("wall", [50, 100, 200])
def test_another_machine_neither_passes_nor_fails(wall: int) -> None:
    current = run(wall_ms=wall, host=HOST | {"cpu_count": 32})
    verdict = against(run(wall_ms=100), current)
    assert verdict.status == "warn"
    assert "host_mismatch" in verdict.reasons
    assert verdict.differing == ("cpu_count",)
    assert against(run(wall_ms=100), current, host_mismatch="fail").status == "fail"
    assert against(run(wall_ms=100), run(wall_ms=100), host_mismatch="fail").status == "pass"
    ignored = against(run(wall_ms=100), current, host_mismatch="ignore")
    assert ignored.status == ("fail" if wall == 200 else "pass")
    assert ignored.differing == ("cpu_count",)
    assert "host_mismatch" not in ignored.reasons


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        ({}, ()),
        ({"os": "linux", "arch": "x86_64", "cpu_count": 4, "memory_bytes": 1100}, ()),
        ({"os": "macos"}, ("os",)),
        ({"arch": "aarch64", "cpu_count": 8}, ("arch", "cpu_count")),
        ({"cpu_count": 0, "memory_bytes": 0, "os": ""}, ()),
        ({"memory_bytes": 1000}, ()),
        ({"memory_bytes": 990}, ()),
        ({"memory_bytes": 989}, ("memory_bytes",)),
        ({"memory_bytes": 1222}, ()),
        ({"memory_bytes": 1223}, ("memory_bytes",)),
        ({"memory_bytes": U64}, ("memory_bytes",)),
    ],
)
def test_hosts_differ_only_in_what_both_know(
    other: dict[str, Any], expected: tuple[str, ...]
) -> None:
    ours = HOST | {"memory_bytes": 1100}
    assert hosts.differences(ours, other) == hosts.differences(other, ours) == expected
    assert hosts.differences({}, other) == hosts.differences(other, {}) == ()


# -- noise

STEADY = [100, 101, 99, 100, 102, 98]


def past(*values: float, **more: Any) -> list[Summary]:
    return [run(wall_ms=value, **more) for value in values]


def test_within_the_noise_of_past_runs_a_regression_is_a_warning() -> None:
    history = past(100, 160, 80, 140, 110, 170, 90)
    verdict = against(run(wall_ms=100), run(wall_ms=150), history)
    assert verdict.status == "warn"
    assert verdict.reasons == ("wall_ms_warn", "within_noise")
    assert verdict.metrics.noise["wall_ms"].decided == "within_noise"
    assert against(run(wall_ms=100), run(wall_ms=150), history, noise=False).status == "fail"


def test_outside_the_noise_a_regression_fails() -> None:
    verdict = against(run(wall_ms=100), run(wall_ms=130), past(*STEADY))
    assert (verdict.status, verdict.reasons) == ("fail", ("wall_ms_fail",))
    assert verdict.metrics.noise["wall_ms"].decided == "fails"


def test_one_whole_unit_cannot_be_told_from_rounding() -> None:
    history = past(*[3] * 8)
    assert against(run(wall_ms=3), run(wall_ms=4), history).status == "warn"
    assert against(run(wall_ms=3), run(wall_ms=5), history).status == "fail"
    rates = [run(throughput_per_s=3.0)] * 8
    slow = against(run(throughput_per_s=3.0), run(throughput_per_s=2.0), rates)
    assert slow.status == "fail"


def test_below_the_threshold_the_noise_is_not_asked() -> None:
    verdict = against(run(wall_ms=100), run(wall_ms=119), past(100, 160, 80, 140, 110, 170, 90))
    assert (verdict.status, verdict.reasons) == ("warn", ("wall_ms_warn",))
    assert verdict.metrics.noise == {}


def test_a_throughput_falls_out_of_the_noise_downwards() -> None:
    history = [run(throughput_per_s=float(value)) for value in STEADY]
    verdict = against(run(throughput_per_s=100.0), run(throughput_per_s=70.0), history)
    assert verdict.status == "fail"


NOISY = (1000.0, 700.0, 1300.0, 750.0, 1200.0, 900.0)


@pytest.mark.parametrize("rate", [0.0, 5e-324, 1.0, 100.0])
def test_a_throughput_that_is_all_but_gone_is_no_noise(rate: float) -> None:
    """An interval around rates that scatter by a fifth reaches below 0, where no rate is."""
    history = [run(throughput_per_s=value) for value in NOISY]
    verdict = against(run(throughput_per_s=900.0), run(throughput_per_s=rate), history)
    assert (verdict.status, verdict.reasons) == ("fail", ("throughput_per_s_fail",))
    interval = verdict.metrics.noise["throughput_per_s"].interval
    assert interval is not None and 0 < interval.low < interval.center < interval.high


@given(
    st.lists(st.floats(1e-3, 1e6), min_size=5, max_size=20),
    st.floats(0, 1e6),
    st.floats(1e-3, 1e6),
)
def test_a_throughput_is_as_noisy_as_the_time_that_one_takes(
    past: list[float], rate: float, before: float
) -> None:
    """So that one benchmark's time and rate, of the same runs, come to the same."""
    history = [run(throughput_per_s=value) for value in past]
    verdict = against(run(throughput_per_s=before), run(throughput_per_s=rate), history)
    found = verdict.metrics.noise.get("throughput_per_s")
    if found is not None:
        times = noise.interval([1 / value for value in past], 0.0)
        assert times is not None and found.interval is not None
        assert found.decided == ("fails" if rate == 0 or 1 / rate > times.high else "within_noise")
        assert found.interval.low == pytest.approx(1 / times.high)
        assert found.interval.center == pytest.approx(1 / times.center)


@pytest.mark.parametrize(("metric", "reach"), [("wall_ms", 1.0), ("throughput_per_s", 0.0)])
def test_the_interval_of_equal_runs_reaches_a_whole_unit_and_no_further(
    metric: str, reach: float
) -> None:
    before: dict[str, Any] = {metric: 100.0}
    now: dict[str, Any] = {metric: 200.0 if metric == "wall_ms" else 50.0}
    history = [run(**before)] * 5
    found = against(history[0], run(**now), history).metrics.noise[metric].interval
    assert found is not None
    assert (found.low, found.high) == pytest.approx((100.0 - reach, 100.0 + reach))


def test_a_past_run_without_any_throughput_is_an_outlier() -> None:
    history = [run(throughput_per_s=value) for value in (5.0, 5.2, 0.0, 4.9, 5.1, 5.0)]
    for rate, decided in ((4.7, "within_noise"), (2.0, "fails")):
        verdict = against(run(throughput_per_s=6.0), run(throughput_per_s=rate), history)
        found = verdict.metrics.noise["throughput_per_s"]
        assert (found.n, found.decided) == (6, decided)
        assert found.interval is not None and math.isfinite(found.interval.high)


def test_with_too_little_history_the_threshold_alone_decides() -> None:
    for history in ([], past(100, 160, 80, 140)):
        verdict = against(run(wall_ms=100), run(wall_ms=150), history)
        assert verdict.status == "fail"
        assert verdict.metrics.noise["wall_ms"].decided == "too_little_history"


def test_past_runs_are_comparable_that_did_not_fail_on_such_a_machine() -> None:
    assert is_comparable(run(failed=1), run(), Options())
    assert not is_comparable(run(), run(host=HOST | {"cpu_count": 8}), Options())
    for allowed in (False, True):
        assert is_comparable(run(), run(failed=1), Options(allow_failed=allowed)) == allowed


# -- what holds always

medians = st.one_of(
    st.integers(0, 12), st.integers(0, U64), st.floats(0, 1e6, allow_subnormal=False)
)
known_hosts = st.fixed_dictionaries(
    {}, optional={"os": st.sampled_from(["linux", "macos"]), "cpu_count": st.integers(0, 2)}
)
summaries = st.builds(
    Summary,
    st.just("run"),
    known_hosts,
    samples=st.integers(0, 3),
    failed=st.integers(0, 1),
    stats=st.dictionaries(
        st.sampled_from(METRICS),
        st.builds(lambda value: MetricStats(median=value, min=value, max=value), medians),
        max_size=4,
    ),
)
fractions = st.sampled_from([0.0, 0.1, 0.2, 1 / 3, 1.0])
all_options = st.builds(
    Options,
    threshold=fractions,
    warn_factor=st.sampled_from([0.0, 0.5, 0.9, 1.0]),
    thresholds=st.dictionaries(st.sampled_from(METRICS), fractions, max_size=2),
    floors=st.dictionaries(st.sampled_from(METRICS), st.sampled_from([1.0, 2.5]), max_size=4),
    metrics=st.none() | st.sets(st.sampled_from(METRICS), min_size=1).map(tuple),
    history=st.integers(5, 8),
    noise=st.booleans(),
    host_mismatch=st.sampled_from(["warn", "fail", "ignore"]),
    allow_failed=st.booleans(),
    on_missing=st.sampled_from(["skip", "fail"]),
    max_age=st.none() | st.just(5.0),
    min_samples=st.integers(1, 2),
)
baselines = st.builds(
    FoundBaseline, summaries, version=st.just("v1"), selector=st.just("latest"), age=st.just(6.0)
)
histories = st.lists(summaries, max_size=9)


@given(summaries, baselines, histories, all_options, st.data())
def test_slower_is_never_judged_better(
    current: Summary,
    baseline: FoundBaseline,
    history: list[Summary],
    options: Options,
    data: st.DataObject,
) -> None:
    if not current.stats:
        return
    name = data.draw(st.sampled_from(sorted(current.stats)))
    before = current.stats[name]["median"]
    if name == "throughput_per_s":
        worse = data.draw(st.floats(0, float(before)))
    else:
        worse = data.draw(st.one_of(st.integers(math.ceil(before), U64), st.just(before * 2)))
    slower = Summary(
        current.run_id,
        current.host,
        current.samples,
        current.failed,
        {**current.stats, name: MetricStats(median=worse, min=worse, max=worse)},
    )
    one = judge(current, baseline, lambda: history, options)
    other = judge(slower, baseline, lambda: history, options)
    assert one.status == "skip" or other.status != "skip"
    assert ORDER.get(other.status, 0) >= ORDER.get(one.status, 0)
    if name in one.metrics.deltas:
        statuses = [verdict.metrics.deltas[name].status for verdict in (one, other)]
        assert ORDER.get(statuses[1], 0) >= ORDER.get(statuses[0], 0)
    assert set(other.reasons) >= {r for r in one.reasons if not r.startswith(name)} - {
        "within_noise"
    }


@given(summaries, st.none() | baselines, histories, all_options)
def test_there_is_a_verdict_in_every_case(
    current: Summary, baseline: FoundBaseline | None, history: list[Summary], options: Options
) -> None:
    """It can be written as JSON, says why it is no pass, and passes nothing unseen."""
    verdict = document(
        judge(current, baseline, lambda: history, options), {"name": "b"}, ["latest"]
    )
    assert json.loads(json.dumps(verdict, allow_nan=False)) == verdict
    counts, reasons = verdict["verdict"]["counts"], verdict["verdict"]["reasons"]
    assert len(set(reasons)) == len(reasons)
    assert set(verdict["budgets"]) == set(verdict["deltas"])
    assert not set(verdict["skipped"]) & set(verdict["deltas"])
    if verdict["verdict"]["status"] == "pass":
        assert counts["pass"] and not counts["warn"] and not counts["fail"]
    else:
        assert reasons


def test_the_answer_has_perfgates_members_and_then_ours() -> None:
    baseline, current = run(wall_ms=100), run(wall_ms=150, cpu_ms=5)
    answer = document(against(baseline, current, age=90.0), {"name": "b"}, ["git_sha:1", "latest"])
    tool = answer.pop("tool")
    assert tool["name"] == "perfgate-server"
    assert list(answer.items()) == [
        ("schema", "perfgate.compare.v1"),
        ("bench", {"name": "b"}),
        ("baseline_ref", {"run_id": "run"}),
        ("current_ref", {"run_id": "run"}),
        (
            "budgets",
            {
                "wall_ms": {
                    "threshold": 0.2,
                    "warn_threshold": 0.18000000000000002,
                    "direction": "lower",
                }
            },
        ),
        (
            "deltas",
            {
                "wall_ms": {
                    "baseline": 100.0,
                    "current": 150.0,
                    "ratio": 1.5,
                    "pct": 0.5,
                    "regression": 0.5,
                    "status": "fail",
                }
            },
        ),
        (
            "verdict",
            {
                "status": "fail",
                "counts": {"pass": 0, "warn": 0, "fail": 1, "skip": 0},
                "reasons": ["wall_ms_fail"],
            },
        ),
        ("skipped", {"cpu_ms": "missing_baseline"}),
        (
            "baseline",
            {
                "version": "v1",
                "selector": "latest",
                "tried": ["git_sha:1", "latest"],
                "age_seconds": 90.0,
            },
        ),
        ("host", {"current": HOST, "baseline": HOST, "differing": []}),
        (
            "noise",
            {
                "method": "prediction_interval_qn_since_last_shift",
                "coverage": 0.99,
                "history": {"requested": 20, "comparable": 0, "needed": 5},
                "metrics": {"wall_ms": {"n": 0, "decided": "too_little_history"}},
            },
        ),
    ]


def test_the_answer_tells_the_hosts_and_the_history_apart() -> None:
    """Of the comparable runs not each has each metric."""
    old, new = {"os": "linux"}, {"os": "macos"}
    history = [run(cpu_ms=1, host=new), run(wall_ms=9, host=new)]
    judged = against(run(wall_ms=9, host=old), run(wall_ms=18, host=new), history)
    answer = document(judged, {}, ["latest"])
    assert answer["host"] == {"current": new, "baseline": old, "differing": ["os"]}
    assert answer["noise"]["history"]["comparable"] == 2
    assert answer["noise"]["metrics"]["wall_ms"]["n"] == 1


def test_without_a_baseline_the_answer_says_what_was_tried() -> None:
    answer = document(against(None, run(wall_ms=1), noise=False), {}, ["latest"])
    assert answer["baseline_ref"] == {"run_id": None}
    assert answer["baseline"]["tried"] == ["latest"]
    assert answer["baseline"]["version"] is None
    assert answer["deltas"] == answer["budgets"] == {}
    assert answer["noise"] == {"method": "off"}


def test_the_history_is_asked_once_and_for_what_is_judged() -> None:
    noisy = [run(wall_ms=n, cpu_ms=n) for n in (100, 160, 80, 140, 110, 170, 90)]
    asked: list[int] = []

    def history() -> list[Summary]:
        asked.append(1)
        return noisy

    baseline = FoundBaseline(run(wall_ms=100, cpu_ms=100), "v1", "latest", 0.0)
    verdict = judge(run(wall_ms=150, cpu_ms=150), baseline, history, Options())
    assert (verdict.reasons, len(asked)) == (("wall_ms_warn", "cpu_ms_warn", "within_noise"), 1)
    only = Options(metrics=("wall_ms",))
    verdict = judge(run(wall_ms=100, cpu_ms=150), baseline, history, only)
    assert (verdict.status, verdict.reasons) == ("pass", ())
    assert (verdict.metrics.records, verdict.metrics.noise, len(asked)) == (None, {}, 1)


def test_the_ends_of_the_interval_are_within_it() -> None:
    """Also of that of a throughput, whose lower end counts."""
    records = [run(throughput_per_s=4.0 + n % 2) for n in range(10)]
    for rate, decided in ((4.0, "within_noise"), (3.99, "fails")):
        current = run(throughput_per_s=rate)
        verdict = against(run(throughput_per_s=5.0), current, records, threshold=0.1)
        found = verdict.metrics.noise["throughput_per_s"]
        assert found.interval is not None and found.interval.low == 4.0
        assert found.decided == decided


def test_a_rate_within_the_noise_of_such_as_took_no_time_has_no_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An interval of times may begin at 0, of which no rate can be made."""
    expected = noise.Interval(20, 0.0, 0.5, 1.0)
    monkeypatch.setattr(noise, "interval", lambda values, unit: expected)
    verdict = against(run(throughput_per_s=5.0), run(throughput_per_s=2.0))
    found = verdict.metrics.noise["throughput_per_s"]
    assert found.interval == noise.Interval(20, 1.0, 2.0, sys.float_info.max)


def test_an_interval_of_the_largest_rates_is_finite() -> None:
    """Their inverses are so small that to turn them back overflows."""
    largest = run(throughput_per_s=sys.float_info.max)
    verdict = against(largest, run(throughput_per_s=1.0), [largest] * 5)
    found = verdict.metrics.noise["throughput_per_s"].interval
    assert found == noise.Interval(5, *[sys.float_info.max] * 3)

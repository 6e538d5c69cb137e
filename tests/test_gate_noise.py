"""The prediction interval: its parts against published values, and what it bears."""

from __future__ import annotations

import random
from statistics import NormalDist, fmean, median

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perfgate_server.gate.noise import LEAST, Interval, interval, qn, since_last_shift, t_quantile

values = st.one_of(st.integers(0, 2**64 - 1), st.floats(allow_nan=False, allow_infinity=False))


def normal(n: int, mean: float = 100.0, sigma: float = 5.0, seed: int = 1) -> list[float]:
    rng = random.Random(seed)
    return [rng.gauss(mean, sigma) for _ in range(n)]


@pytest.mark.parametrize(
    ("degrees_of_freedom", "quantile"),
    [
        (4, 4.604095),
        (5, 4.032143),
        (6, 3.707428),
        (9, 3.249836),
        (10, 3.169273),
        (19, 2.860935),
        (120, 2.617421),
    ],
)
def test_the_quantile_of_t_is_that_of_the_tables(degrees_of_freedom: int, quantile: float) -> None:
    # The expansion ends before the term of the fifth power.
    assert t_quantile(degrees_of_freedom) == pytest.approx(
        quantile, rel=0, abs=11 / degrees_of_freedom**5 + 1e-6
    )
    assert t_quantile(degrees_of_freedom) == pytest.approx(quantile, rel=0.003)


def test_the_quantile_of_t_tends_to_the_normal_one() -> None:
    assert t_quantile(10**9) == pytest.approx(NormalDist().inv_cdf(0.995), rel=1e-8)


@pytest.mark.parametrize("n", [*range(5, 13), 20, 21])
def test_the_scale_of_normal_values_is_their_sigma(n: int) -> None:
    scales = [qn(normal(n, seed=seed)) for seed in range(2000)]
    assert fmean(scales) == pytest.approx(5.0, rel=0.05)


@pytest.mark.parametrize(
    ("n", "factor", "distance"),
    [
        (5, 0.844, 1),
        (6, 0.611, 2),
        (7, 0.857, 1),
        (8, 0.669, 2),
        (9, 0.872, 2),
        (10, 10 / 13.8, 2),
        (11, 11 / 12.4, 2),
    ],
)
def test_the_scale_of_few_values_has_the_published_factor(
    n: int, factor: float, distance: int
) -> None:
    """Of 0, 1, 2 and so on: n - 1 distances are 1, n - 2 are 2."""
    assert qn(range(n)) == pytest.approx(2.21914 * factor * distance, rel=1e-6)


def test_the_scale_bears_outliers_to_the_half() -> None:
    assert qn([1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 1e9, 1e12, -1e15, 1e18, 1e21]) < 10


@pytest.mark.parametrize(("n", "most"), [(5, 0.025), (6, 0.015), (10, 0.015), (20, 0.015)])
def test_of_normal_values_about_one_in_two_hundred_lies_above(n: int, most: float) -> None:
    """Somewhat more for a short series: Qn itself is uncertain then."""
    rng = random.Random(n)
    above = 0
    for _ in range(3000):
        found = interval([rng.gauss(100, 5) for _ in range(n)], 0.0)
        assert found is not None
        above += rng.gauss(100, 5) > found.high
    assert 0.003 <= above / 3000 <= most


def test_the_interval_is_the_formulas() -> None:
    """100 ± 4.604 · (2.219 · 0.844 · 1) · sqrt(1 + π/10): the third smallest distance is 1."""
    found = interval([98, 102, 100, 99, 101], 0.0)
    assert found is not None
    assert found.high - found.center == found.center - found.low == pytest.approx(9.886, rel=0.003)


@pytest.mark.parametrize("n", range(LEAST))
def test_fewer_than_five_values_give_no_interval(n: int) -> None:
    assert interval([1.0] * n, 1.0) is None


def test_a_constant_series_of_whole_numbers_expects_a_step_to_either_side() -> None:
    found = interval([3] * 8, 1.0)
    assert found is not None
    assert (found.n, found.low, found.center, found.high) == (8, 2.0, 3.0, 4.0)


def test_where_many_values_are_the_same_what_was_seen_thrice_is_expected() -> None:
    """Qn is 0 there, as of small counts, and one run in three of an unchanged process failed."""
    values = [3, 5, 3, 6, 3, 7, 3, 8, 3, 3, 5, 3, 6, 3, 7, 3, 8, 3, 3, 3]
    assert qn(values) == 0
    found = interval(values, 1.0)
    assert found == Interval(20, 2.0, 3, 7)
    turned = interval([10 - value for value in values], 1.0)
    assert turned == Interval(20, 3, 7, 8.0)
    rare = interval([3] * 18 + [50, 60], 1.0)  # two odd nights
    assert rare == Interval(20, 2.0, 3.0, 4.0)
    thrice = [3] * 4 + [5] + [3] * 5 + [6] + [3] * 5 + [7] + [3] * 3
    assert interval(thrice, 1.0) == Interval(20, 2.0, 3.0, 5)
    assert interval([10 - value for value in thrice], 1.0) == Interval(20, 5, 7.0, 8.0)
    levels = interval([100, 150] * 10, 1.0)
    assert levels == Interval(20, 100, 125.0, 150)


def test_a_constant_series_of_doubles_expects_itself() -> None:
    found = interval([0.1] * 8, 0.0)
    assert found is not None
    assert found.low == found.center == found.high == 0.1


def test_three_odd_nights_among_scattered_ones_are_not_expected() -> None:
    """What was seen thrice is, only where nothing else tells how far values lie apart."""
    series = normal(15)
    found = interval([*series[:5], 200.0, *series[5:10], 300.0, *series[10:], 400.0], 0.0)
    assert found is not None and found.high < 150


def test_an_outlier_does_not_widen_the_interval_much() -> None:
    series = normal(10)
    calm, disturbed = interval(series, 0.0), interval([*series[:5], 1e6, *series[5:]], 0.0)
    assert calm is not None and disturbed is not None
    assert disturbed.high < calm.high * 1.1


@pytest.mark.parametrize("since", range(3, 13))
@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_after_a_level_shift_the_new_level_counts(factor: float, since: int) -> None:
    series = normal(16 - since) + normal(since, 100 * factor, 3.0, seed=2)
    found = interval(series, 0.0)
    assert found is not None
    assert found.center == pytest.approx(100 * factor, rel=0.1)
    assert not found.low <= 100 <= found.high
    assert found.n == max(since, LEAST)


def test_in_three_of_two_hundred_normal_series_a_shift_is_seen_that_is_not_there() -> None:
    """Seen too readily, one leaves a short series, and a wide interval."""
    rng = random.Random(1)
    series = [[rng.gauss(100, 5) for _ in range(n)] for n in range(6, 21) for _ in range(200)]
    seen = sum(since_last_shift(one, 0.0) is not one for one in series)
    assert 0.012 <= seen / len(series) <= 0.018


def test_of_several_shifts_the_last_counts() -> None:
    series = normal(6) + normal(6, 200.0) + normal(6, 150.0)
    assert median(since_last_shift(series, 0.0)) == pytest.approx(150, rel=0.05)


@pytest.mark.parametrize("odd", [30_000.0, 1e300, 0.0])
def test_one_run_that_hung_hides_no_shift(odd: float) -> None:
    """All deviations are nothing beside its own, and an improvement that was lost was noise."""
    old, new = [2000 * value / 100 for value in normal(12)], [10 * value for value in normal(8)]
    series = [*old[:6], odd, *old[6:], *new]
    assert since_last_shift(series, 0.0) == new


@pytest.mark.parametrize(
    ("levels", "lengths"),
    [
        ((1500, 3000, 1000), (10, 5, 5)),
        ((1500, 3000, 1000), (12, 5, 3)),
        ((20, 30, 15), (10, 5, 5)),
    ],
    ids=str,
)
def test_a_bad_week_hides_no_new_level_after_it(
    levels: tuple[int, ...], lengths: tuple[int, ...]
) -> None:
    """Of three levels no two explain the series much better than one."""
    parts = zip(lengths, levels, strict=True)
    series = [value for n, level in parts for value in normal(n, level, 0.02 * level)]
    assert median(since_last_shift(series, 0.0)) == pytest.approx(levels[-1], rel=0.05)


def test_what_is_moved_to_a_new_level_lies_as_far_from_its_median_as_before() -> None:
    series = [100.0, 102.0, 98.0, 100.0, 104.0, 98.0, 200.0, 201.0, 202.0]
    assert since_last_shift(series, 0.0) == [205.0, 199.0, 200.0, 201.0, 202.0]


def test_what_is_moved_to_a_new_level_is_moved_from_the_one_before_it() -> None:
    """Which may be another than that of most."""
    series = normal(12, 1500, 30) + normal(5, 3000, 60) + normal(3, 1000, 20)
    moved = since_last_shift(series, 0.0)
    assert len(moved) == 5 and all(850 < value < 1150 for value in moved), moved


def test_an_odd_last_night_hides_no_level_before_it() -> None:
    series = [100.0] * 8 + [200.0] * 5 + [900.0]
    assert since_last_shift(series, 0.0) == series[8:]


def test_five_values_are_too_few_for_two_levels() -> None:
    """The later one would have three, and two of the other moved to it look as if they agreed."""
    series = [100.0, 101.0, 200.0, 201.0, 202.0]
    assert since_last_shift(series, 0.0) == series


def test_of_whole_numbers_one_unit_seen_twice_is_no_level() -> None:
    series = [4, 4, 3, 3, 3, 3, 3, 3]
    assert len(since_last_shift(series, 1.0)) == 8
    assert len(since_last_shift(series, 0.0)) == 6


def test_an_interval_of_whole_numbers_is_made_from_all_that_differ_by_one_unit() -> None:
    found = interval([4, 4, 3, 3, 3, 3, 3, 3], 1.0)
    assert found is not None and found.n == 8


@pytest.mark.parametrize(("step", "is_seen"), [(0.75, False), (0.76, True)])
def test_a_shift_is_nine_times_the_mean_deviation(step: float, is_seen: bool) -> None:
    """Which is a quarter of the unit here: 3 · 0.75 = 9 · 0.25. Six values are enough for it."""
    series = [0.0] * 3 + [step] * 3
    assert since_last_shift(series, 1.0) == ([step] * 5 if is_seen else series)


def test_the_newer_half_of_an_odd_number_has_the_one_in_the_middle() -> None:
    """Six of eleven: of the first five alone no shift could be told."""
    series = [200.0] * 5 + [100.0] * 3 + [200.0] * 3
    assert since_last_shift(series, 0.0) == [200.0] * 5


def test_what_may_belong_to_either_level_is_kept() -> None:
    series = [100.0] * 5 + [150.0] + [200.0] * 5
    assert since_last_shift(series, 0.0) == series[5:]


@pytest.mark.parametrize(
    "series",
    [
        [2000.0, 2100.0, 1e6, 2050.0, 10.0, 10.1, 10.2],
        [100.0, 102.0, 0.0, 101.0, 150.0, 151.0, 152.0],
    ],
)
def test_in_seven_values_an_odd_one_is_drawn_in_to_the_distance_of_the_others(
    series: list[float],
) -> None:
    """And no less, or its own deviation would outweigh the shift."""
    assert since_last_shift(series, 0.0)[-3:] == series[-3:]
    assert len(since_last_shift(series, 0.0)) == LEAST


def test_two_bad_weeks_hide_no_new_level_after_them() -> None:
    """Nor does the newer half of the series, so the newer half of that is asked."""
    series = [2000.0] * 10 + [4000.0] * 5 + [1000.0] * 5 + [3000.0] * 5
    assert since_last_shift(series, 0.0) == [3000.0] * 5


def test_of_whole_numbers_a_few_units_are_a_level() -> None:
    assert since_last_shift([10] * 6 + [12] * 5, 1.0) == [12] * 5


def test_two_odd_nights_are_no_new_level() -> None:
    found = interval([*normal(14), 200.0, 201.0], 0.0)
    assert found is not None
    assert found.center == pytest.approx(100, rel=0.05)


@example([1.7e308, -1.7e308, 1e308, -1e308, 0.0], 0.0)
@given(st.lists(values, min_size=LEAST, max_size=20), st.sampled_from([0.0, 1.0]))
def test_the_interval_is_finite_and_holds_its_centre(series: list[float], unit: float) -> None:
    found = interval(series, unit)
    assert found is not None
    assert LEAST <= found.n <= len(series)
    assert -float("inf") < found.low <= found.center <= found.high < float("inf")


@given(st.lists(st.integers(0, 50), min_size=LEAST, max_size=20))
def test_what_is_kept_ends_as_the_series_ends(series: list[int]) -> None:
    kept = since_last_shift(series, 1.0)
    assert LEAST <= len(kept) <= len(series)
    assert list(kept[-3:]) == series[-3:]


@given(
    st.lists(st.floats(1, 1e6), min_size=LEAST, max_size=20),
    st.sampled_from([2.0**-20, 0.5, 4.0, 2.0**20]),
)
def test_it_does_not_matter_in_what_unit_a_series_is_measured(
    series: list[float], factor: float
) -> None:
    one, other = interval(series, 0.0), interval([value * factor for value in series], 0.0)
    assert one is not None and other is not None
    assert (one.low * factor, one.high * factor) == (other.low, other.high)

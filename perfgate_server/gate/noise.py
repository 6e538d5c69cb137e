"""What another run would give: a prediction interval for the next value, from past ones.

The samples of one run agree with each other far better than two runs do, so the interval is
made from one value of each run. Three steps, each chosen to bear outliers:

1. Only the records since the last level shift count. A shift is where two medians fit the series
   better than one, by the sum of absolute deviations (J. Bai, "Least absolute deviation
   estimation of a shift", Econometric Theory 11, 1995, 403-436), looked for again in the later
   part until there is none (binary segmentation). A bad week may hide from the whole series that
   the newest level is another, so then its newer half is asked, and the newer half of that. A few
   values far beyond all others, which would outweigh every shift, are drawn in first. A rank test
   (Pettitt 1979) was tried and sees a shift to twice the level once five records have followed it;
   this one sees it after three.
2. Their scale is Qn, a quantile of the distances between all pairs (P. J. Rousseeuw and C. Croux,
   "Alternatives to the Median Absolute Deviation", JASA 88, 1993, 1273-1283), with the
   small-sample factors of Croux and Rousseeuw (COMPSTAT 1992). Up to half of the values may be
   outliers, as with the MAD, and for normal values it is more than twice as efficient.
3. The interval is that for the next observation of a normal sample (G. J. Hahn and W. Q. Meeker,
   Statistical Intervals, 1991) with the median and Qn in place of mean and standard deviation:
   median ± t(0.995, n-1) · Qn · sqrt(1 + π/2n), since the variance of a median is π/2 times that
   of a mean. That t is exact for a standard deviation; with Qn the interval holds 96 % of the next
   normal values after 5 past ones, 98 % after 10, and 98.5 % after 20.

`benchmarks/noise.py` shows that, and how often it is wrong, to either side.
"""

from __future__ import annotations

import math
from bisect import insort
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import combinations, starmap
from operator import add, sub
from statistics import median

#: The name of the method, for the answers.
METHOD = "prediction_interval_qn_since_last_shift"

#: The fewest records that make an interval.
LEAST = 5

#: The nominal coverage (see step 3); half of the values outside are better, not worse.
COVERAGE = 0.99
_Z = 2.5758293035489004  # the normal distribution's quantile at 0.995

# A shift must lower the sum of absolute deviations by this many times the mean deviation left.
# One is seen in about 1.5 % of normal series of 6 to 20 records that have none.
_SHIFT = 9.0
# Two odd nights are no new level.
_LEAST_SINCE = 3
# With fewer values those that are drawn in would be most of them.
_LEAST_TO_DRAW_IN = 7

_QN = 2.21914  # 1 / (sqrt(2) · the normal quantile at 5/8)
_QN_SMALL = (0.399, 0.994, 0.512, 0.844, 0.611, 0.857, 0.669, 0.872)  # of 2 to 9 values

# No metric comes near, and sums of so many stay finite.
_HUGE = 1e300


@dataclass(frozen=True, slots=True)
class Interval:
    """Where the next value is expected, from `n` values around `center`."""

    n: int
    low: float
    center: float
    high: float


def interval(values: Iterable[float], unit: float) -> Interval | None:
    """Return where the next value of a series is expected, or None for fewer than 5 values.

    `values` are the medians of past runs, oldest first. `unit` is the step in which they are
    counted, 0 for none: a change of one step cannot be told from rounding, so the interval
    reaches at least one to either side.
    """
    series = since_last_shift([max(-_HUGE, min(float(value), _HUGE)) for value in values], unit)
    n = len(series)
    if n < LEAST:
        return None
    center = median(series)
    scale = qn(series)
    half = t_quantile(n - 1) * scale * math.sqrt(1 + math.pi / (2 * n)) + unit
    low, high = center - half, center + half
    if not scale:
        # Qn is 0 if a quarter of all pairs are equal, as for small counts, and says nothing of the
        # other values: those seen _LEAST_SINCE times may be seen again.
        ordered = sorted(series)
        low = min(low, ordered[_LEAST_SINCE - 1])
        high = max(high, ordered[-_LEAST_SINCE])
    return Interval(n, low, center, high)


def since_last_shift(series: Sequence[float], unit: float) -> Sequence[float]:
    """Return the end of a series that has one level, at least 5 values of what there is.

    Where fewer than 5 values have the last level, those before them are moved to it, from theirs:
    what they tell is how far values of this series lie apart.
    """
    while (split := _last_shift(series, unit)) is not None:
        before, since = series[:split], series[split:]
        if len(since) < LEAST:
            step = median(since) - median(since_last_shift(before, unit))
            return [*(value + step for value in before[len(since) - LEAST :]), *since]
        series = since
    return series


def _last_shift(series: Sequence[float], unit: float) -> int | None:
    """Return where the second of two levels begins, in the whole series or in its newer half, and
    so on; None if one explains each of them."""
    start = 0
    while len(series) - start > LEAST:
        split = _shift(series[start:], unit)
        if split is not None:
            return start + split
        start += (len(series) - start) // 2
    return None


def _shift(series: Sequence[float], unit: float) -> int | None:
    """Return where the second of two levels begins, or None if one explains the series."""
    n = len(series)
    series = _without_outliers(series)
    before, since = _deviations(series), _deviations(series[::-1])[::-1]
    both = [*map(add, before, since)][2 : n - 1]
    left = min(both)
    split = both.index(left) + 2
    # Values rounded to a unit deviate by a quarter of it on average without showing it.
    mean = left / (n - 2) + unit / 4
    if before[n] - left > _SHIFT * mean and n - split >= _LEAST_SINCE:
        return split
    return None


def _without_outliers(series: Sequence[float]) -> Sequence[float]:
    """Return a series of which the two highest and the two lowest values are drawn in to at most
    the distance that the others have from each other. A level has _LEAST_SINCE values, and stays.
    """
    if len(series) < _LEAST_TO_DRAW_IN:
        return series
    ordered = sorted(series)
    low, high = ordered[_LEAST_SINCE - 1], ordered[-_LEAST_SINCE]
    reach = high - low
    least, most = low - reach, high + reach
    # Where the others are all the same, nothing is known of how far values lie apart.
    if not reach or (least <= ordered[0] and ordered[-1] <= most):
        return series
    return [max(least, min(value, most)) for value in series]


def _deviations(series: Sequence[float]) -> list[float]:
    """Return at t the sum of the absolute deviations of the first t values from their median.

    A further value adds its distance from the middle of those before: from their median, or
    from the two in their middle, between which every point is as good.
    """
    ordered = [series[0]]
    total, sums = 0.0, [0.0, 0.0]
    for n, value in enumerate(series[1:], start=1):
        low, high = ordered[(n - 1) // 2], ordered[n // 2]
        if value < low:
            total += low - value
        elif value > high:
            total += value - high
        sums.append(total)
        insort(ordered, value)
    return sums


def qn(values: Sequence[float]) -> float:
    """Return the scale Qn of at least 2 values; for normal ones it estimates sigma."""
    n = len(values)
    half = n // 2 + 1
    distances: list[float] = sorted(starmap(sub, combinations(sorted(values, reverse=True), 2)))
    if n < 10:
        factor = _QN_SMALL[n - 2]
    else:
        factor = n / (n + (1.4 if n % 2 else 3.8))
    return _QN * factor * distances[half * (half - 1) // 2 - 1]


def t_quantile(degrees_of_freedom: int) -> float:
    """Return the quantile at 0.995 of Student's t, within 0.3 % from 4 degrees of freedom on.

    By the expansion 26.7.5 of Abramowitz and Stegun, Handbook of Mathematical Functions, 1964.
    """
    z, v = _Z, degrees_of_freedom
    return (
        z
        + (z**3 + z) / (4 * v)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * v**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * v**3)
        + (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / (92160 * v**4)
    )

"""How often the gate cries wolf, and what it lets through: with the noise rule and without.

    python benchmarks/noise.py nightly/render_md nightly/cli_compare-large

For each folder of receipts (`perfgate.run.v1`, one benchmark, the names of the files in order)
every night is compared with the night before, by the plain rule and by the one that knows the
noise between runs; then the last night is made twice as slow, which both must see. Without a
folder only simulated series are judged: the shares of them that fail, in percent. Then it shows how
often the interval holds the next of normal values, and of those of which many are the same, and
what a comparison costs.
"""

from __future__ import annotations

import argparse
import json
import random
import time
import timeit
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from perfgate_server.gate.document import document
from perfgate_server.gate.noise import COVERAGE, LEAST, interval
from perfgate_server.gate.rule import (
    HIGHER_IS_BETTER,
    FoundBaseline,
    Judgement,
    Options,
    is_comparable,
    judge,
)
from perfgate_server.names import METRICS
from perfgate_server.summaries import MetricStats, Summary, summary_of

NOISE, PLAIN = Options(), Options(noise=False)


def compare(nights: Sequence[Summary], current: Summary, options: Options) -> Judgement:
    """Judge a night by the one before it; the last that are comparable are its history."""

    def history() -> list[Summary]:
        fit = [night for night in nights if is_comparable(current, night, options)]
        return fit[-options.history :]

    return judge(current, FoundBaseline(nights[-1], "", "latest", 0.0), history, options)


def slower(night: Summary) -> Summary:
    """Return a night in which everything is twice as bad."""
    stats = {}
    for name, found in night.stats.items():
        value = found["median"] / 2 if name in HIGHER_IS_BETTER else found["median"] * 2
        stats[name] = _stats(value)
    return Summary(night.run_id, night.host, night.samples, night.failed, stats)


def _stats(value: float) -> MetricStats:
    return MetricStats(median=value, min=value, max=value)


def told(judgement: Judgement) -> str:
    """Return a verdict in few words: its status, and what each metric that fails did."""
    metrics = judgement.metrics
    words: list[str] = [judgement.status]
    words += [r for r in judgement.reasons if r in ("failed_samples", "host_mismatch")]
    for name, delta in metrics.deltas.items():
        if delta.status == "fail":
            words.append(f"{name} {delta.baseline:g} -> {delta.current:g}")
            said = metrics.noise.get(name)
            if said and said.decided == "too_little_history":
                words.append(f"({said.n} records)")
    return " ".join(words)


def replay(folder: Path) -> None:
    paths = sorted(folder.glob("*.json"))
    nights = [summary_of(json.loads(path.read_text("utf-8"))) for path in paths]
    print(f"\n## {folder.name}: {len(nights)} nights, each against the one before")
    print(f"{'':15}{'plain':60} noise")
    alarms = {"plain": 0, "noise": 0, "plain, enough history": 0, "noise, enough history": 0}
    for index in range(1, len(nights)):
        plain = compare(nights[:index], nights[index], PLAIN)
        noise = compare(nights[:index], nights[index], NOISE)
        print(f"{paths[index].stem[:13]:14} {told(plain):60} {told(noise)}")
        for name, judgement in (("plain", plain), ("noise", noise)):
            if judgement.status == "fail" and not judgement.current.failed:
                alarms[name] += 1
                alarms[f"{name}, enough history"] += (noise.metrics.records or 0) >= LEAST
    print("nights that fail by a metric alone:", alarms)
    for name, options in (("plain", PLAIN), ("noise", NOISE)):
        print(
            f"the last night twice as slow, {name}:",
            told(compare(nights[:-1], slower(nights[-1]), options)),
        )


def rate(
    series: Callable[[random.Random], list[float]],
    current: Callable[[random.Random], float],
    options: Options,
    runs: int = 2000,
) -> float:
    """Return the share, in percent, of simulated runs that fail."""
    rng = random.Random(1)
    failed = 0
    for _ in range(runs):
        nights = [night(value) for value in series(rng)]
        failed += compare(nights, night(current(rng)), options).status == "fail"
    return 100 * failed / runs


def night(value: float) -> Summary:
    value = max(1, round(value))
    return Summary("", {}, 1, 0, {"wall_ms": _stats(value)})


def simulate() -> None:
    """Judge series of wall_ms, rounded to whole ms, whose runs differ by so many percent."""

    def drawn(mean: float, percent: float, odd: float = 0.0) -> Callable[[random.Random], float]:
        return lambda rng: rng.gauss(mean, mean * percent / 100) * (3 if rng.random() < odd else 1)

    def after(
        since: int, before: float, mean: float, percent: float, n: int = 20
    ) -> Callable[[random.Random], list[float]]:
        old, new = drawn(before, percent), drawn(mean, percent)
        return lambda rng: [old(rng) for _ in range(n - since)] + [new(rng) for _ in range(since)]

    def steady(
        n: int, mean: float, percent: float, odd: float = 0.0
    ) -> Callable[[random.Random], list[float]]:
        one = drawn(mean, percent, odd)
        return lambda rng: [one(rng) for _ in range(n)]

    cases = []
    for n in (5, 10, 20):
        for percent in (5, 10, 15):
            cases.append((f"{n} records, {percent} %", steady(n, 1000, percent), 1000, percent))
    cases.append(("20 records, 10 %, each tenth 3x", steady(20, 1000, 10, 0.1), 1000, 10))
    for mean in (3, 8):
        cases.append((f"20 records of {mean} ms, 10 %", steady(20, mean, 10), mean, 10))
    for since in (1, 2, 3, 4, 5, 10):
        cases.append((f"2x faster {since} records ago, 7 %", after(since, 2000, 1000, 7), 1000, 7))
    for since in (3, 5, 10):
        cases.append((f"2x slower {since} records ago, 7 %", after(since, 500, 1000, 7), 1000, 7))
    print("\n## simulated: % that fail        unchanged        1.5x slower       2x slower")
    print(f"{'':32}" + "   plain   noise" * 3)
    for name, series, mean, percent in cases:
        row = f"{name:32}"
        for factor in (1.0, 1.5, 2.0):
            for options in (PLAIN, NOISE):
                row += f"{rate(series, drawn(mean * factor, percent), options):8.1f}"
        print(row)


def coverage(runs: int = 50_000) -> None:
    """Show how often the next value of a normal series is within its interval."""
    rng = random.Random(1)
    print("\n## the interval holds the next value, in %; its nominal coverage is", 100 * COVERAGE)
    for n in (5, 6, 7, 8, 10, 15, 20):
        held = 0
        for _ in range(runs):
            found = interval([rng.gauss(1000, 10) for _ in range(n)], 0)
            held += found is not None and found.low <= rng.gauss(1000, 10) <= found.high
        print(f"{n:>5} past values: {100 * held / runs:.1f}")


def ties(runs: int = 5_000) -> None:
    """Show how often an unchanged series fails of which many values are the same, as small counts,
    and the others are scattered above: Qn is 0 in most of these."""
    print("\n## % of the next values above the interval, by the share that is scattered above 3")
    shares = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6)
    print(f"{'':18}" + "".join(f"{share:8.0%}" for share in shares))
    for n in (5, 6, 7, 8, 10, 15, 20):
        row = f"{n:>5} past values: "
        for share in shares:
            rng = random.Random(1)

            def drawn(rng: random.Random = rng, share: float = share) -> float:
                return rng.uniform(4, 30) if rng.random() < share else 3

            above = 0
            for _ in range(runs):
                found = interval([drawn() for _ in range(n)], 1)
                above += found is not None and drawn() > found.high
            row += f"{100 * above / runs:8.1f}"
        print(row)


def _answered(history: list[Summary], current: Summary) -> None:
    document(compare(history, current, NOISE), {}, [])


def cost() -> None:
    """Time a comparison of every metric with 20 records of history."""
    rng = random.Random(1)

    def full(scale: float) -> Summary:
        stats = {}
        for name in METRICS:
            value = round(rng.gauss(1000, 50) * scale)
            stats[name] = _stats(value)
        return Summary("", {"os": "linux", "arch": "x86_64", "cpu_count": 4}, 10, 0, stats)

    history = [full(1.0) for _ in range(20)]
    one = full(1.0)
    one.stats["wall_ms"] = _stats(2000)
    print("\n## one comparison of 11 metrics, its answer made, 20 records")
    for name, current in (("none", full(1.0)), ("one", one), ("ten", full(2.0))):
        timer = timeit.Timer(partial(_answered, history, current), timer=time.process_time)
        best = min(timer.repeat(5, 200)) / 200
        print(f"{name:>5} beyond the threshold: {best * 1e6:6.0f} us of CPU")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path)
    for folder in parser.parse_args().folders:
        replay(folder)
    simulate()
    coverage()
    ties()
    cost()


if __name__ == "__main__":
    main()

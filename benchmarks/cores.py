"""What it is worth that each worker keeps to one core.

The same server, with its workers held to a core each and let go in turn.

    python benchmarks/cores.py [--pairs 5] [--seconds 2] [--workers 1]

The slowest round is shown too: how fast a server is that is let go depends on how its clients'
connections happen to be spread over the workers.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
from pathlib import Path

from side_by_side import Load, Rate, Side, Table, needs, receipt, service, write_json, wrk

BASELINES = "/projects/cores/baselines"


def hold(side: Side, each_to_one: bool) -> None:
    """Let the threads of each worker run on one core, or on any."""
    cores = sorted(os.sched_getaffinity(0))
    for number, pid in enumerate(side.workers()):
        chosen = {cores[number % len(cores)]} if each_to_one else cores
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), chosen)


def _figures(rates: list[Rate]) -> list[str]:
    per_second = [rate.per_second for rate in rates]
    cpu = statistics.median(rate.cpu_us for rate in rates)
    return [f"{statistics.median(per_second):,.0f}", f"{min(per_second):,.0f}", f"{cpu:.0f}"]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    needs("wrk")
    table = Table("Work", "per second", "at least", "µs of CPU")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        up = write_json(folder / "up.json", {"benchmark": "up", "receipt": receipt(5)})
        with service(folder, "--workers", str(options.workers)) as side:
            side.request("POST", BASELINES, {"benchmark": "kept", "receipt": receipt(5)})
            works = {
                "`latest`, 5 samples": Load(f"{BASELINES}/kept/latest"),
                "upload, 5 samples": Load(BASELINES, up),
            }
            for work, load in works.items():
                found: dict[bool, list[Rate]] = {True: [], False: []}
                for _ in range(options.pairs):
                    for each_to_one, rates in found.items():
                        hold(side, each_to_one)
                        rates.append(wrk(side, load, options.seconds))
                table.row(f"{work}, one core for each worker", *_figures(found[True]))
                table.row(f"{work}, any core", *_figures(found[False]))


if __name__ == "__main__":
    main()

"""What it is worth that each worker keeps to one core: the same server, with its workers held to
a core each and let go in turn.

    python benchmarks/cores.py [--pairs 5] [--seconds 2] [--workers 1]

The slowest round is shown too: how fast a server is that is let go depends on how its clients'
connections happen to be spread over the workers.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from pathlib import Path

from side_by_side import Load, Rate, Side, needs, receipt, service, wrk

BASELINES = "/projects/cores/baselines"


def hold(side: Side, each_to_one: bool) -> None:
    """Let the threads of each worker run on one core, or on any."""
    cores = sorted(os.sched_getaffinity(0))
    for number, pid in enumerate(side.workers()):
        chosen = {cores[number % len(cores)]} if each_to_one else cores
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), chosen)


def _row(name: str, rates: list[Rate]) -> str:
    per_second = [rate.per_second for rate in rates]
    cpu = statistics.median(rate.cpu_us for rate in rates)
    return f"| {name} | {statistics.median(per_second):,.0f} | {min(per_second):,.0f} | {cpu:.0f} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--pairs", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2)
    parser.add_argument("--workers", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    needs("wrk")
    print("| Work | per second | at least | µs of CPU |\n| --- | --- | --- | --- |")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        up = folder / "up.json"
        up.write_text(json.dumps({"benchmark": "up", "receipt": receipt(5)}))
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
                print(_row(f"{work}, one core for each worker", found[True]))
                print(_row(f"{work}, any core", found[False]), flush=True)


if __name__ == "__main__":
    main()

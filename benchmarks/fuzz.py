"""Tests that no request makes the server fail, or reaches what its key does not cover.

    python benchmarks/fuzz.py --requests 200000

Every route with every role, with keys for everything, for a project, for some benchmarks, and
with none: odd paths, queries, headers and bodies, most of them nearly right. No answer may be a
5xx; every error must be the envelope; no key may read or change what is not its own; and no line
of the log may hold anything raw, or a key. Stops at the first that breaks a promise, prints it with
the seed and the number that make it again, and ends with exit status 1.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fuzzing import Broken, fuzz


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--requests", type=int, default=200_000)
    parser.add_argument("--seed", default=str(int(time.time())))
    options = parser.parse_args()
    began = time.monotonic()
    try:
        result = fuzz(options.requests, options.seed, lambda done: print(done, flush=True))
    except Broken as broken:
        print(broken)
        return 1
    print(f"\nseed {options.seed}, {time.monotonic() - began:.0f} s")
    print(f"{'requests':16} {sum(result.statuses.values()):8}")
    for status, count in sorted(result.statuses.items()):
        print(f"{'answered ' + str(status):16} {count:8}")
    print(f"{'routes':16} {len(result.routes):8}")
    print(f"{'least asked':16} {min(result.asked.values()):8}")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Tests that bad clients do not keep the server from honest ones.

    python benchmarks/overload.py --connections 200 --seconds 60
    python benchmarks/overload.py --bare --connections 200 --seconds 60

Some hold a connection each and send a byte a second (of a head, a body, a chunk), send bodies
that never end, vanish in the middle, ask for much and read none of it, or keep what was closed
open. Behind nginx, with the README's configuration, honest clients must get every answer, 99 of
100 within 5 seconds, and the server's memory must stay below 100 MiB a thread. Without nginx
(--bare) the figures are told, and the one promise is that the server is well again within
--timeout once the crowd is gone. Ends with a table; exit status 1 if a promise was broken.
"""

from __future__ import annotations

import argparse
import contextlib
import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from crowd import overload
from nginx_server import fronted
from support import perfgate_server, receipt, serving

SLOW = 5.0
WORKERS, THREADS, TIMEOUT = 2, 4, 10
MOST_BYTES = WORKERS * THREADS * 100 * 2**20


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--connections", type=int, default=200)
    parser.add_argument("--clients", type=int, default=4)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--bare", action="store_true", help="without nginx")
    options = parser.parse_args()
    arguments = perfgate_server("--storage-type", "sqlite", "--workers", str(WORKERS))
    arguments += ["--threads", str(THREADS), "--timeout", str(TIMEOUT)]
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perfgate-load-")))
        folder.chmod(0o755)
        if not options.bare:
            arguments += ["--trusted-proxies", "1"]
        server = stack.enter_context(serving(arguments, folder))
        front = server if options.bare else stack.enter_context(fronted(folder, server))
        large = receipt(samples=[{"wall_ms": 1, "exit_code": 0, "stdout": "x" * 250_000}])
        for number in range(16):
            assert server.put("large", f"v{number}", large) == 201
        found = overload(
            front,
            server,
            connections=options.connections,
            clients=options.clients,
            turns=10**9,
            seconds=options.seconds,
        )
        began = time.monotonic()
        well = server.request("GET", "/health", role=None)[0] == 200
        recovered = time.monotonic() - began
        tracebacks = server.log.count("Traceback")
    seconds = sorted(found.honest.seconds)
    failures = len(found.honest.failures)
    slow = seconds[len(seconds) * 99 // 100]
    print(f"{'honest requests':32} {len(seconds):8}")
    print(f"{'not answered as they should be':32} {failures:8}")
    print(f"{'median, ms':32} {statistics.median(seconds) * 1000:8.1f}")
    print(f"{'99th percentile, ms':32} {slow * 1000:8.1f}")
    print(f"{'slowest, ms':32} {seconds[-1] * 1000:8.1f}")
    print(f"{'peak memory, MiB':32} {found.peak_bytes / 2**20:8.0f}")
    print(f"{'health after the crowd left, s':32} {recovered:8.2f}")
    print(f"{'tracebacks':32} {tracebacks:8}")
    for kind, count in sorted(found.shut_out.items()):
        print(f"{'shut out: ' + kind:32} {count:8}")
    for failure in sorted(set(found.honest.failures)):
        print(f"  {found.honest.failures.count(failure)} times {failure}")
    kept = well and recovered <= TIMEOUT + 2 and not tracebacks and found.peak_bytes < MOST_BYTES
    if not options.bare:
        kept = kept and not failures and slow < SLOW
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())

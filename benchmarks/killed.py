"""Tests that what the server acknowledged survives kill -9.

    python benchmarks/killed.py sqlite --rounds 200
    python benchmarks/killed.py postgres --rounds 50

In each round 8 clients upload, promote and delete; at a random moment a random worker, or every
process of the server, or (postgres) every process of the database is killed with SIGKILL, and
started again. Then every acknowledged write must be there, every unacknowledged one be there
whole or not at all, and the database be sound (SQLite's integrity_check; no receipt, tag or record
without its own). Ends with a table; exit status 1 if a promise was broken.

The kernel's cache survives a kill; powercut.py is for what does not survive a power cut.
"""

from __future__ import annotations

import argparse
import contextlib
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from durability import PostgresTarget, SqliteTarget, Target, campaign
from postgres_server import OwnPostgres, own_postgres

from perfgate_server.cli import exit_on_signals

#: Rounds on one database: what is there is read again and again, and so must not be too much.
ROUNDS_EACH = 25


@contextlib.contextmanager
def target_on(postgres: OwnPostgres | None) -> Iterator[Target]:
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="perfgate-killed-")))
        target: Target
        if postgres is None:
            target = SqliteTarget(folder)
        else:
            target = PostgresTarget(folder, postgres, stack.enter_context(postgres.database()))
        stack.callback(target.close)
        yield target


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("backend", choices=("sqlite", "postgres"))
    parser.add_argument("--rounds", type=int, default=200)
    parser.add_argument("--seed", default=str(int(time.time())))
    options = parser.parse_args()
    exit_on_signals()
    with own_postgres() if options.backend == "postgres" else contextlib.nullcontext() as postgres:
        return campaign(lambda: target_on(postgres), options.rounds, ROUNDS_EACH, options.seed)


if __name__ == "__main__":
    sys.exit(main())

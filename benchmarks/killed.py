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

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import durability

#: Rounds on one database: what is there is read again and again, and so must not be too much.
ROUNDS_EACH = 25

if __name__ == "__main__":
    sys.exit(durability.main(__doc__, durability.rounds, 200, ROUNDS_EACH))

"""Tests that every answer fits one order of what clients did: linearizability.

    python benchmarks/linear.py sqlite --rounds 500
    python benchmarks/linear.py postgres --rounds 500

In each round 8 clients upload, promote, delete and read three versions of one benchmark at once;
in every second one a random worker is killed with SIGKILL under them. Then an order is looked for
in which every answer is what the contract says: a version is made once, what was acknowledged is
seen by all who ask afterwards, and no answer is of a state that never was. Ends with a table of
what was answered; exit status 1 if an answer fits no order.
"""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import durability
import linearizability

#: Rounds on one server, whose log is kept until its end.
ROUNDS_EACH = 250

if __name__ == "__main__":
    sys.exit(durability.main(__doc__, linearizability.rounds, 500, ROUNDS_EACH))

"""What was acknowledged is there after kill -9 of anything, and nothing is there by half.

A short form of benchmarks/killed.py.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

from durability import PostgresTarget, SqliteTarget, Tally, Target, rounds
from postgres_server import own_postgres


def prove(target: Target, count: int) -> None:
    tally = Tally()
    with closing(target):
        rounds(target, count, tally, "suite", lambda _: None)
    assert not tally.broken
    assert tally.counts["acknowledged"] > 50, tally.counts


def test_sqlite_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    prove(SqliteTarget(tmp_path), 5)


def test_postgres_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    """The whole database is killed too, and recovers."""
    with own_postgres() as server, server.database() as url:
        prove(PostgresTarget(tmp_path, server, url), 3)

"""Every answer to clients that change the same versions at once fits one order of what they did.

A short form of benchmarks/linear.py.
"""

from __future__ import annotations

from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from durability import PostgresTarget, SqliteTarget, Tally, Target
from linearizability import Operation, Record, first_that_fits_no_order, rounds
from postgres_server import own_postgres


def prove(target: Target, count: int) -> None:
    tally = Tally()
    with closing(target):
        rounds(target, count, tally, "suite", lambda _: None)
    assert not tally.broken
    for kind in ("upload: 201", "upload: 409", "promote: 201", "delete: 200", "history: 200"):
        assert tally.counts[kind] > 0, tally.counts


def test_sqlite_answers_as_if_one_after_the_other(tmp_path: Path) -> None:
    prove(SqliteTarget(tmp_path), 12)


def test_postgres_answers_as_if_one_after_the_other(tmp_path: Path) -> None:
    with own_postgres() as server, server.database() as url:
        prove(PostgresTarget(tmp_path, server, url), 8)


def op(began: float, ended: float, kind: str, answer: Any, **more: Any) -> Operation:
    members: dict[str, Any] = {"version": "v1", "content": 1, **more}
    if answer is not None:
        members |= {"answer": answer, "ended": ended}
    return Operation(kind, began=began, **members)


V1 = Record("v1", 1)
KEPT = op(0, 1, "upload", (201, None))
SECOND = op(2, 3, "upload", (201, None), version="v2")
GONE = op(2, 3, "delete", (200, None))
UNKNOWN = op(0, 0, "upload", None)


@pytest.mark.parametrize(
    "history",
    [
        [KEPT, op(2, 3, "get", (200, V1))],
        # At once with the upload either is true, in this order.
        [KEPT, op(0, 0.4, "get", (404, "benchmark")), op(0.5, 0.9, "get", (200, V1))],
        # Of two at once one is the first.
        [KEPT, op(0, 1, "upload", (409, None), content=2)],
        # What was not answered was done late, or not at all.
        [UNKNOWN, op(1, 2, "latest", (404, "benchmark")), op(3, 4, "get", (200, V1))],
        [UNKNOWN, op(1, 2, "upload", (201, None), content=2)],
        # A promotion stays when its source is deleted.
        [
            KEPT,
            op(1, 2, "promote", (201, None), version="v2", source="v1"),
            GONE,
            op(4, 5, "latest", (200, Record("v2", 1, "v1"))),
            op(5, 6, "promote", (200, None), version="v2", source="v1"),
        ],
    ],
    ids=range(6),
)
def test_a_history_that_fits_an_order_is_found_to(history: list[Operation]) -> None:
    assert first_that_fits_no_order(history) is None


@pytest.mark.parametrize(
    "history",
    [
        # Lost, halved, not gone, and gone without a delete.
        [KEPT, op(2, 3, "latest", (404, "benchmark"))],
        [KEPT, op(2, 3, "get", (200, Record("v1", 2)))],
        [KEPT, GONE, op(4, 5, "get", (200, V1))],
        [KEPT, op(0, 0.4, "get", (200, V1)), op(0.5, 0.9, "get", (404, "benchmark"))],
        # Two that both made one version, and one that replaced it.
        [KEPT, op(0, 2, "upload", (201, None))],
        [KEPT, op(2, 3, "upload", (200, None), content=2)],
        # What never was, and an order of which the upload that ended last is not the newest.
        [op(0, 1, "latest", (200, V1))],
        [KEPT, SECOND, op(4, 5, "latest", (200, V1))],
        [KEPT, SECOND, op(4, 5, "history", (200, ("v1", "v2")))],
        # A word of another moment: the benchmark had no version before, and has v2 since.
        [SECOND, op(4, 5, "get", (404, "benchmark"))],
    ],
    ids=range(10),
)
def test_an_answer_that_fits_no_order_is_found(history: list[Operation]) -> None:
    assert first_that_fits_no_order(history) == history[-1]

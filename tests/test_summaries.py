"""Summaries: what they hold of a receipt, and that migrating makes the same of old ones."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import pytest
from postgres_server import Postgres
from support import receipt, soon, stored

from perfgate_server import jsonio, summaries
from perfgate_server.records import receipt_of
from perfgate_server.storage import Storage, migrate, open_storage
from perfgate_server.storage.base import Selector
from perfgate_server.storage.sqlite_file import statements
from perfgate_server.summaries import MetricStats, Summary


def stats(low: float, middle: float, high: float, **more: Any) -> dict[str, Any]:
    return {"min": low, "median": middle, "max": high, **more}


def run(run_id: str = "run-1", **host: Any) -> dict[str, Any]:
    times = {"started_at": "then", "ended_at": "now"}
    return {"id": run_id, **times, "host": {"os": "linux", "arch": "x86_64", **host}}


def test_a_summary_holds_what_comparisons_read_and_nothing_else() -> None:
    value = receipt(
        run=run("r", cpu_count=8, memory_bytes=None, hostname_hash="x"),
        samples=[
            {"wall_ms": 1, "exit_code": 1, "warmup": True, "timed_out": True},
            {"wall_ms": 2, "exit_code": 0, "warmup": False},
            {"wall_ms": 3, "exit_code": -1, "timed_out": True},
            {"wall_ms": 4, "exit_code": 0, "warmup": None, "timed_out": True},
        ],
        stats={"wall_ms": stats(1, 2, 3, mean=2.0), "cpu_ms": None, "own": stats(1, 2, 3)},
    )
    body = summaries.body_of(value)
    assert body == (
        b'{"failed":2,"host":{"arch":"x86_64","cpu_count":8,"os":"linux"},"run_id":"r",'
        b'"samples":3,"stats":{"wall_ms":{"max":3,"median":2,"min":1}}}'
    )
    assert summaries.parse(body) == Summary(
        run_id="r",
        host={"arch": "x86_64", "cpu_count": 8, "os": "linux"},
        samples=3,
        failed=2,
        stats={"wall_ms": MetricStats(median=2, min=1, max=3)},
    )


def test_a_summary_is_short_whatever_a_receipt_holds() -> None:
    long = "x" * 1025
    summary = summaries.summary_of(receipt(run=run(long, os=long, arch=long)))
    assert summary.run_id == summary.host["os"] == summary.host["arch"] == long[:-1]


@pytest.mark.parametrize(
    ("change", "counts"),
    [
        ({}, (3, 0)),
        ({"warmup": True}, (2, 0)),
        ({"warmup": True, "exit_code": 1}, (2, 0)),
        ({"exit_code": -1}, (3, 1)),
        ({"timed_out": True}, (3, 1)),
        ({"timed_out": None, "warmup": None}, (3, 0)),
        ({"exit_code": 1, "timed_out": True, "other": 0}, (3, 1)),
        ({"exit_code": 1, **{f"x{number}": number for number in range(99)}}, (3, 1)),
    ],
)
def test_samples_alike_are_counted_as_any_others(
    change: dict[str, Any], counts: tuple[int, int]
) -> None:
    one = {"wall_ms": 2, "exit_code": 0, "warmup": False, "timed_out": False}
    for position in range(3):
        samples = [one, one, one]
        samples[position] = one | change
        found = summaries.summary_of(receipt(samples=samples))
        assert (found.samples, found.failed) == counts
    alike = summaries.summary_of(receipt(samples=[{"wall_ms": 2, "exit_code": 0}] * 3))
    assert (alike.samples, alike.failed) == (3, 0)


U64 = 2**64 - 1
#: Receipts that a database converting numbers, or strings, on the way would spoil.
OLD = [
    receipt(),
    receipt(samples=[]),
    receipt(stats={"wall_ms": stats(0, 2**63, U64), "energy_uj": stats(2**53 + 1, U64 - 1, U64)}),
    receipt(
        stats={
            "wall_ms": stats(0, 0, 0),
            "throughput_per_s": stats(5e-324, 0.1 + 0.2, 1.7976931348623157e308),
        }
    ),
    receipt(
        stats={
            "wall_ms": stats(1, 1, 1, mean=None, later=[1]),
            "cpu_ms": None,
            "throughput_per_s": stats(-0.0, 1e22, 2**63 + 1),
            "zz_later": stats(1, 2, 3),
            "aa_later": 7,
        }
    ),
    receipt(run=run(cpu_count=None, memory_bytes=U64, kernel="6.1", hostname_hash="0f")),
    receipt(run=run('],null" \\"nul,[\\ \n\x7f\u2028🚀', os="", arch="null")),
    receipt(run={**run("null"), "host": {"os": "[,nul]", "arch": '"'}, "later": {"id": "x"}}),
    receipt(
        samples=[
            {"wall_ms": 1, "exit_code": 1, "warmup": True, "timed_out": True},
            {"wall_ms": 1, "exit_code": 0, "warmup": False, "timed_out": False},
            {"wall_ms": 1, "exit_code": 0, "warmup": None, "timed_out": None},
            {"wall_ms": 1, "exit_code": 0, "warmup": False, "timed_out": True},
            {"wall_ms": 1, "exit_code": -(2**31), "timed_out": True, "stdout": '{"warmup":true}'},
            {"wall_ms": U64, "exit_code": 137, "later": {"exit_code": 0}},
            {"wall_ms": 1, "exit_code": -9},
            {"wall_ms": 1, "exit_code": 0},
        ]
    ),
]

_RECORD = """INSERT INTO baselines (id, project, benchmark, version, metadata, tags, created_at,
    created_by, content_hash, source, receipt_id) VALUES ({})"""
_RECORDED = """INSERT INTO perfgate_migrations (version, name, applied_at)
    VALUES (1, 'baselines', 'then')"""


def old_rows() -> list[tuple[Any, ...]]:
    """Return rows of baselines, one for each of OLD, with the body of the receipt at the end."""
    rows = []
    for number, value in enumerate(OLD, 1):
        record, kept = stored("b", f"v{number}", value=value)
        members = (record.id, "p", "b", record.version, "{}", "[]", record.created_at)
        rest = (record.created_by, record.content_hash, "upload", number)
        rows.append((*members, *rest, kept.body.decode()))
    return rows


def make_old_sqlite(path: Path) -> None:
    """Make a database of version 1, as that version did."""
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("CREATE TABLE perfgate_migrations (version INTEGER PRIMARY KEY, name, applied_at)")
    for statement in statements(migrate.load("sqlite")[0].sql):
        db.execute(statement)
    db.execute(_RECORDED)
    for row in old_rows():
        db.execute("INSERT INTO receipts (id, project, body) VALUES (?, 'p', ?)", row[-2:])
        db.execute(_RECORD.format(", ".join("?" * 11)), row[:-1])
    db.close()


def make_old_postgres(url: str) -> None:
    import psycopg

    with psycopg.connect(url) as db:
        db.execute(
            """CREATE TABLE perfgate_migrations (
                version integer PRIMARY KEY, name text NOT NULL, applied_at text NOT NULL)"""
        )
        db.execute(migrate.load("postgres")[0].sql.encode())
        db.execute(_RECORDED)
        for row in old_rows():
            db.execute("INSERT INTO receipts (id, project, body) VALUES (%s, 'p', %s)", row[-2:])
            db.execute(_RECORD.format(", ".join(["%s"] * 11)).encode(), row[:-1])


def check(storage: Storage) -> None:
    """Assert that every old record has the summary that it would be kept with today."""
    for number, value in enumerate(OLD, 1):
        selectors = [Selector("version", f"v{number}")]
        found = storage.comparison("p", "b", selectors, excluding=[], deadline=soon()).baseline
        assert found and found.summary
        assert summaries.parse(found.summary) == summaries.parse(summaries.body_of(value))
        assert jsonio.canonical(jsonio.loads(found.summary)) == receipt_of(value).summary


def test_migrating_sqlite_summarizes_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "old.db"
    make_old_sqlite(path)
    storage = open_storage("sqlite", str(path), pool_size=1)
    check(storage)
    assert storage.counts(deadline=soon()).schema_version == len(migrate.load("sqlite"))
    storage.close()


def test_migrating_postgres_summarizes_what_is_there(postgres: Postgres) -> None:
    with postgres.database() as url:
        make_old_postgres(url)
        storage = open_storage("postgres", url, pool_size=1)
        check(storage)
        storage.close()


@pytest.mark.parametrize("value", OLD, ids=range(len(OLD)))
def test_numbers_are_the_receipts_own(value: dict[str, Any]) -> None:
    """Integers exactly, other numbers as the same double."""
    for metric, parts in summaries.parse(receipt_of(value).summary).stats.items():
        for part in ("min", "median", "max"):
            number = parts[part]
            assert (type(number), repr(number)) == (
                type(value["stats"][metric][part]),
                repr(value["stats"][metric][part]),
            )

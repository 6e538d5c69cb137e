"""How a storage keeps verdicts, the same for every backend."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import pytest
from support import soon
from test_storage import delete, keep

from perfgate_server.records import new_id, now
from perfgate_server.storage import Storage, sql_verdicts
from perfgate_server.storage.base import Outcome, Page, Restored, Unavailable
from perfgate_server.storage.selection import count
from perfgate_server.storage.verdicts import VerdictFilters, VerdictRecord, flakiness


def verdict(run_id: str = "r", benchmark: str = "b", **members: Any) -> VerdictRecord:
    fields: dict[str, Any] = {
        "id": new_id(),
        "project": "p",
        "benchmark": benchmark,
        "run_id": run_id,
        "status": "pass",
        "counts": {"pass": 1, "warn": 0, "fail": 0, "skip": 0},
        "reasons": [],
        "git_ref": None,
        "git_sha": None,
        "created_at": now(),
        "created_by": "contributor:00000000",
    }
    return VerdictRecord(**(fields | members))


def add(storage: Storage, *names: str, **members: Any) -> VerdictRecord:
    return storage.add_verdict(verdict(*names, **members), deadline=soon())


def runs(storage: Storage, page: Page | None = None, project: str = "p", **filters: Any) -> str:
    found = storage.list_verdicts(
        project, VerdictFilters(**filters), page or Page(limit=50), deadline=soon()
    )
    return "".join(record.run_id for record in found.records)


def test_a_verdict_comes_back_as_it_was_kept(storage: Storage) -> None:
    new = verdict(
        "naïve 🚀\n\"'\\",
        status="fail",
        counts={"pass": 2**32 - 1, "warn": 1, "fail": 2, "skip": 3},
        reasons=["wall_ms_fail", 'naïve 🚀\n"'],
        git_ref="refs/heads/main",
        git_sha="0" * 40,
        wall_ms_cv=1e-7,
        flakiness_score=flakiness([1e-7]),
    )
    kept = storage.add_verdict(new, deadline=soon())
    assert kept.sequence > 0
    assert kept.is_copy_of(new)
    found = storage.list_verdicts("p", VerdictFilters(), Page(limit=1), deadline=soon())
    assert found.records == [kept]
    assert list(found.records[0].counts) == ["pass", "warn", "fail", "skip"]


def test_the_same_verdict_twice_is_two_verdicts(storage: Storage) -> None:
    first, second = add(storage), add(storage)
    assert second.sequence > first.sequence
    assert runs(storage) == "rr"


def test_flakiness_looks_at_the_newest_twenty(storage: Storage) -> None:
    """Of this benchmark, with a coefficient of variation or without; of none it is unknown."""
    assert add(storage).flakiness_score is None
    add(storage, "r", "other", wall_ms_cv=9.0)
    add(storage, project="q", wall_ms_cv=9.0)
    assert add(storage, wall_ms_cv=0.6).flakiness_score == 1
    for _ in range(18):
        last = add(storage, wall_ms_cv=0.0)
    assert last.flakiness_score == pytest.approx(1 / 19)
    assert add(storage).flakiness_score == pytest.approx(1 / 19)
    assert add(storage).flakiness_score == 0


@pytest.mark.parametrize(
    ("variations", "score"),
    [
        ([], None),
        ([0.0], 0),
        ([0.30], 0.15),
        ([0.31], 0.855),
        ([0.6], 1),
        ([0.6, 0.12], 0.53),
        ([1e308] * 20, 1),
    ],
)
def test_flakiness(variations: list[float], score: float | None) -> None:
    assert flakiness(variations) == pytest.approx(score)


@pytest.fixture
def filled(storage: Storage) -> Storage:
    """Verdicts that every filter divides differently."""
    days = [f"2026-03-{day:02}T12:00:00.000000Z" for day in range(1, 6)]
    add(storage, "1", "io/read", status="pass", git_ref="main", git_sha="aa", created_at=days[0])
    add(storage, "2", "io/read", status="fail", git_ref="dev", created_at=days[1])
    add(storage, "3", "io/write", status="warn", git_ref="main", git_sha="aa", created_at=days[2])
    add(storage, "4", "cpu", status="fail", created_at=days[3])
    add(storage, "5", "io/read", status="skip", git_ref="main", created_at=days[4])
    elsewhere = {"project": "elsewhere", "status": "fail", "git_ref": "main", "git_sha": "aa"}
    add(storage, "x", "io/read", **elsewhere)
    return storage


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "54321"),
        ({"benchmark": "io/read"}, "521"),
        ({"benchmark": "io"}, ""),
        ({"status": "fail"}, "42"),
        ({"status": "pass"}, "1"),
        ({"git_ref": "main"}, "531"),
        ({"git_ref": "none"}, ""),
        ({"git_sha": "aa"}, "31"),
        ({"git_sha": "aa", "benchmark": "io/read"}, "1"),
        ({"git_sha": "AA"}, ""),
        ({"since": "2026-03-04T12:00:00.000000Z"}, "54"),
        ({"until": "2026-03-02T11:59:59.999999Z"}, "1"),
        ({"since": "2026-03-02T12:00:00.000000Z", "until": "2026-03-04T12:00:00.000000Z"}, "432"),
        ({"benchmark": "io/read", "status": "fail", "git_ref": "dev"}, "2"),
        ({"status": "skip", "since": "2026-03-05T12:00:00.000000Z"}, "5"),
        ({"is_visible": lambda name: name.startswith("io/")}, "5321"),
        ({"is_visible": lambda name: name == "cpu", "status": "fail"}, "4"),
        ({"is_visible": lambda name: True, "git_ref": "main"}, "531"),
        ({"is_visible": lambda name: False}, ""),
        ({"is_visible": lambda name: name == "cpu", "benchmark": "io/read"}, ""),
    ],
    ids=range(20),
)
def test_filters_combine_and_count(filled: Storage, filters: Any, expected: str) -> None:
    """A page, its total and a walk by cursor agree on every filter."""
    assert runs(filled, **filters) == expected
    wanted = VerdictFilters(**filters)
    none = filled.list_verdicts("p", wanted, Page(limit=0), deadline=soon())
    assert (none.records, none.total, none.has_more) == ([], len(expected), bool(expected))
    walked, page = "", Page(limit=2, total=False)
    while True:
        found = filled.list_verdicts("p", wanted, page, deadline=soon())
        assert found.total is None
        walked += "".join(record.run_id for record in found.records)
        if not found.has_more:
            break
        page = Page(limit=2, total=False, cursor=found.records[-1].sequence)
    assert walked == expected


@pytest.mark.parametrize("offset", [0, 1, 4, 5, 2**63 - 1])
def test_an_offset_leaves_out_the_newest(filled: Storage, offset: int) -> None:
    assert runs(filled, Page(limit=2, offset=offset)) == "54321"[offset : offset + 2]


def test_a_page_and_its_total_are_of_one_moment(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(storage, "1")

    def meanwhile(*given: Any) -> int:
        total = count(*given)
        with contextlib.suppress(Unavailable):  # in memory nothing comes between
            storage.add_verdict(verdict("2"), deadline=soon(0.1))
        return total

    monkeypatch.setattr(sql_verdicts, "count", meanwhile)
    found = storage.list_verdicts("p", VerdictFilters(), Page(limit=9), deadline=soon())
    assert ([record.run_id for record in found.records], found.total) == (["1"], 1)


def test_a_verdict_stays_when_its_baselines_are_deleted(storage: Storage) -> None:
    keep(storage)
    add(storage)
    delete(storage)
    assert runs(storage, benchmark="b", is_visible=lambda name: name == "b") == "r"
    counts = storage.counts(deadline=soon())
    assert (counts.baselines, counts.verdicts, counts.wrong_totals) == (0, 1, [])


def test_a_verdict_is_restored_once(storage: Storage) -> None:
    """By its id within the project, and never over another."""
    first = verdict("1", reasons=["a"], created_at="2020-01-01T00:00:00.000000Z")
    restore = functools.partial(storage.restore_verdict, after=None, reserved=None, deadline=soon())
    kept = restore(first)
    assert kept.outcome is Outcome.KEPT
    assert restore(first) == Restored(Outcome.PRESENT, kept.sequence)
    assert restore(verdict("2", id=first.id)) == Restored(Outcome.DIFFERS)
    elsewhere = verdict("3", id=first.id, project="q")
    assert restore(elsewhere).outcome is Outcome.KEPT
    assert (runs(storage), runs(storage, project="q")) == ("1", "3")


def test_an_export_is_the_records_and_then_the_verdicts_oldest_first(storage: Storage) -> None:
    first = add(storage, "1", git_ref="main")
    places = [
        keep(storage, "b", version, project).sequence
        for version, project in (("v1", "q"), ("v1", "p"), ("v2", "q"))
    ]
    second = add(storage, "2", project="q")
    exported = list(storage.export(deadline=soon()))
    assert [record.sequence for record in exported[:3]] == places
    assert exported[3:] == [first, second]

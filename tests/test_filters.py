"""Filters of lists, in all their combinations, by whichever index: the same for every backend."""

from __future__ import annotations

import contextlib
import itertools
import random
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from support import soon
from test_storage import keep
from test_storage_verdicts import add

from perfgate_server.storage import Storage, selection
from perfgate_server.storage.base import Baseline, Filters, Page
from perfgate_server.storage.sql import SqlStorage
from perfgate_server.storage.sqlite import SqliteEngine
from perfgate_server.storage.sqlite_connection import Connection
from perfgate_server.storage.verdicts import VerdictFilters, VerdictRecord

BENCHMARKS = ("cpu", "io", "io/read", "io/write", "iot", "ioz")
REFS = (None, "dev", "main")
SHAS = (None, "aa", "bb")
TAGS = ("x", "y", "z")
DAYS = [f"2026-03-{day:02}T12:00:00.000000Z" for day in range(1, 29)]

#: What a filter may be -> whether it leaves a record.
Choice = tuple[Any, Callable[[Any], bool]]


def same(name: str, *values: str) -> list[Choice]:
    def choice(value: str) -> Choice:
        return value, lambda record: getattr(record, name) == value

    return [choice(value) for value in values]


def begins(prefix: str) -> Choice:
    return prefix, lambda record: record.benchmark.startswith(prefix)


def since(day: str) -> Choice:
    return day, lambda record: record.created_at >= day


def until(day: str) -> Choice:
    return day, lambda record: record.created_at <= day


def tagged(*tags: str) -> Choice:
    return [*tags], lambda record: {*tags} <= {*record.tags}


def seen(*names: str) -> Choice:
    return names.__contains__, lambda record: record.benchmark in names


BEGINNINGS = [begins("io"), begins("io/"), begins("c"), begins("zz")]
BOTH = {
    "benchmark": same("benchmark", "io/read", "iot", "none"),
    "git_ref": same("git_ref", "dev", "main", "none"),
    "git_sha": same("git_sha", "aa", "bb", "none"),
    "since": [since(day) for day in DAYS[::5]],
    "until": [until(day) for day in DAYS[::5]],
    "visible_prefix": BEGINNINGS,
    "is_visible": [seen("cpu", "io/read"), seen("iot"), seen(*BENCHMARKS), seen()],
}
CHOICES = BOTH | {
    "benchmark_prefix": BEGINNINGS,
    "tags": [tagged("x"), tagged("y", "x"), tagged("z", "x", "y"), tagged("none")],
    "source": same("source", "upload", "promote"),
}
VERDICT_CHOICES = BOTH | {"status": same("status", "pass", "fail", "skip")}


def combinations(choices: dict[str, list[Choice]]) -> Iterator[dict[str, Choice]]:
    """Yield each set of filters, with one of its choices each."""
    chance = random.Random(8)
    for size in range(len(choices) + 1):
        for names in itertools.combinations(choices, size):
            yield {name: chance.choice(choices[name]) for name in names}


def fill(storage: Storage) -> tuple[list[Baseline], list[VerdictRecord]]:
    """Keep some records that all filters divide; return them, newest first."""
    chance = random.Random(7)
    baselines, verdicts = [], []
    for number in range(60):
        members = {
            "git_ref": chance.choice(REFS),
            "git_sha": chance.choice(SHAS),
            "created_at": chance.choice(DAYS),
        }
        benchmark = chance.choice(BENCHMARKS)
        tags = [tag for tag in TAGS if chance.random() < 0.6]
        source = chance.choice(("upload", "upload", "promote"))
        baselines += [keep(storage, benchmark, f"v{number}", tags=tags, source=source, **members)]
        status = chance.choice(("pass", "fail", "warn"))
        verdicts += [add(storage, f"r{number}", benchmark, status=status, **members)]
    return baselines[::-1], verdicts[::-1]


def left(records: list[Any], filters: dict[str, Choice], name: str) -> list[str]:
    fits = [fit for _, fit in filters.values()]
    return [getattr(record, name) for record in records if all(fit(record) for fit in fits)]


def test_all_filters_combine(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What each combination leaves, how many that is, and the part of it behind a record."""
    monkeypatch.setattr(selection, "_STEPS", (3, 12))  # few, so that each index leads now and then
    baselines, verdicts = fill(storage)
    middle = baselines[30].sequence, verdicts[30].sequence
    for filters in combinations(CHOICES):
        wanted = Filters(**{name: value for name, (value, _) in filters.items()})
        found = storage.list("p", wanted, Page(limit=99), deadline=soon())
        expected = left(baselines, filters, "version")
        assert [record.version for record in found.records] == expected, wanted
        assert found.total == len(expected), wanted
        page = Page(limit=2, cursor=middle[0])
        found = storage.list("p", wanted, page, deadline=soon())
        rest = left(baselines[31:], filters, "version")
        assert [record.version for record in found.records] == rest[:2], wanted
        assert (found.total, found.has_more) == (len(expected), len(rest) > 2), wanted
    for filters in combinations(VERDICT_CHOICES):
        asked = VerdictFilters(**{name: value for name, (value, _) in filters.items()})
        heard = storage.list_verdicts("p", asked, Page(limit=99), deadline=soon())
        assert [record.run_id for record in heard.records] == left(verdicts, filters, "run_id")
        page = Page(limit=2, cursor=middle[1])
        heard = storage.list_verdicts("p", asked, page, deadline=soon())
        rest = left(verdicts[31:], filters, "run_id")
        assert [record.run_id for record in heard.records] == rest[:2], asked


# -- which index leads, where the database does not know


_ROWS = """INSERT INTO baselines (id, project, benchmark, version, git_ref, git_sha, metadata, tags,
        created_at, created_by, content_hash, source, receipt_id)
    WITH RECURSIVE n (i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 12000)
    SELECT i, 'p', CASE WHEN i % 100 = 0 THEN 'team/rare' ELSE 'team/often' END, 'v' || i,
        CASE WHEN i % 1000 = 0 THEN 'rare' ELSE 'often' END, NULL, '{}',
        CASE WHEN i % 2000 = 0 THEN '["rare", "often"]' ELSE '["often"]' END,
        CASE WHEN i % 5000 = 0 THEN '2027' WHEN i <= 3000 THEN '2025' ELSE '2026' END,
        'admin:00000000', 'h',
        CASE WHEN i % 3000 = 0 THEN 'promote' ELSE 'upload' END, 1 FROM n"""
_TAGGED = """INSERT INTO baseline_tags (project, tag, seq)
    SELECT 'p', '{}', seq FROM baselines WHERE tags LIKE '%{}%'"""


@pytest.fixture(scope="module")
def divided() -> Iterator[SqlStorage]:
    """Each filter has a value that many records have and one that few have."""
    storage = SqlStorage(SqliteEngine(None))
    with storage._engine.writing("p", "", soon()) as db:
        db.execute("INSERT INTO receipts (id, project, body) VALUES (1, 'p', '{}')")
        db.execute(_ROWS)
        for tag in ("rare", "often"):
            db.execute(_TAGGED.format(tag, tag))
    yield storage
    storage.close()


@pytest.mark.parametrize(
    ("filters", "leads"),
    [
        ({"git_ref": "often", "source": "promote"}, "baselines_promoted"),
        ({"git_ref": "rare", "since": "2025"}, "baselines_by_git_ref"),
        ({"git_ref": "often", "since": "2027"}, "baselines_by_created_at"),
        ({"git_ref": "often", "until": "2025"}, "baselines_by_created_at"),
        ({"git_ref": "often", "until": "2026"}, "baselines_by_git_ref"),
        ({"git_ref": "often", "benchmark_prefix": "team/r"}, "baselines_by_benchmark"),
        ({"git_ref": "often", "benchmark_prefix": "team/o"}, "baselines_by_git_ref"),
        ({"git_ref": "often", "is_visible": "team/rare".__eq__}, "baselines_by_benchmark"),
        ({"benchmark": "team/often", "since": "2027"}, "baselines_by_created_at"),
        ({"benchmark": "team/rare", "since": "2027"}, "baselines_by_created_at"),
        ({"benchmark": "team/rare", "since": "2026"}, "baselines_by_benchmark"),
        ({"benchmark": "team/rare", "tags": ["often"]}, "baselines_by_benchmark"),
        ({"benchmark": "team/often", "tags": ["rare"]}, "baseline_tags t"),
        ({"benchmark": "team/often", "git_ref": "rare"}, "baselines_by_benchmark_git_ref"),
        ({"git_ref": "rare", "tags": ["often"]}, "baselines_by_git_ref"),
        ({"git_ref": "often", "tags": ["often"]}, "baseline_tags t"),
    ],
    ids=str,
)
def test_the_filter_that_leaves_the_fewest_leads(
    divided: SqlStorage, filters: Any, leads: str
) -> None:
    """SQLite took half a second for the records of a benchmark, of a million, that had a tag of
    half of them."""
    with divided._engine.reading(soon()) as db:
        found = selection.select(db, "p", Filters(**filters))
        assert found
        assert found.table.split(" CROSS ")[0].split()[-1] == leads.split()[-1]
        assert found.table.startswith(leads if leads.endswith(" t") else "baselines b INDEXED BY ")


def test_the_names_that_a_key_may_see_are_sought_one_by_one(divided: SqlStorage) -> None:
    """Also those with a prefix, of which SQLite would walk all."""
    filters = Filters(benchmark_prefix="team/", is_visible="team/rare".__eq__)
    with divided._engine.reading(soon()) as db:
        found = selection.select(db, "p", filters)
    assert found
    names = "b.benchmark IN (SELECT value FROM json_each(?))"
    assert (found.conditions, found.values) == (["b.project = ?", names], ["p", '["team/rare"]'])


def test_a_key_that_sees_all_of_a_project_is_as_quick_as_one_without_a_limit(
    divided: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No names are read, and its total is there."""
    monkeypatch.setattr(selection, "_benchmarks", lambda *_: pytest.fail("they are read"))
    with divided._engine.reading(soon()) as db:
        found = selection.select(db, "p", Filters(visible_prefix="team/"))
        assert found == selection.select(db, "p", Filters())


def test_of_names_with_a_beginning_sqlite_is_given_each(divided: SqlStorage) -> None:
    """Of a range it would read all rows, and sort them, for each page."""
    for filters in (
        Filters(visible_prefix="team/r"),
        Filters(visible_prefix="team/r", is_visible="team/rare".__eq__),
        Filters(visible_prefix="team/r", benchmark_prefix="tea"),
    ):
        with divided._engine.reading(soon()) as db:
            found = selection.select(db, "p", filters)
        assert found and found.values == ["p", '["team/rare"]']


def test_postgres_is_given_the_range_and_reads_no_names(
    divided: SqlStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Connection, "has_statistics", True)
    monkeypatch.setattr(selection, "_benchmarks", lambda *_: pytest.fail("they are read"))
    with divided._engine.reading(soon()) as db:
        found = selection.select(db, "p", Filters(visible_prefix="team/r"))
    assert found and found.values == ["p", "team/r", "team/r\x7f"]


def test_of_several_tags_the_rarest_leads(divided: SqlStorage) -> None:
    for tags in (["often", "rare"], ["rare", "often"]):
        with divided._engine.reading(soon()) as db:
            found = selection.select(db, "p", Filters(tags=tags))
        assert found
        assert (found.table, found.values) == ("baseline_tags t", ["p", "rare", "often"])


def test_a_single_filter_costs_no_look(divided: SqlStorage) -> None:
    class Untouched(Connection):
        def execute(self, sql: str, values: Any = ()) -> Any:
            raise AssertionError(sql)

    dated = Filters(since="2026", until="2027")
    cheap = (Filters(), Filters(git_ref="often"), dated, Filters(tags=["x"]))
    with contextlib.closing(Untouched(":memory:")) as untouched:
        for filters in cheap:
            assert selection.select(untouched, "p", filters)


def test_all_that_a_project_has_are_not_counted_one_by_one(divided: SqlStorage) -> None:
    """Their number is kept; a page with its total took longer with each that came."""
    with divided._engine.writing("p", "", soon()) as db:
        db.execute("UPDATE totals SET number = number + 7 WHERE project = 'p'")
        for filters, total in ((Filters(), 12_007), (Filters(git_ref="often"), 11_988)):
            found = selection.select(db, "p", filters)
            assert found
            assert selection.count(db, found) == total
        db.execute("UPDATE totals SET number = number - 7 WHERE project = 'p'")

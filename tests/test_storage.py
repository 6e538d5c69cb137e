"""The contract of `Storage`, the same for every backend."""

from __future__ import annotations

import contextlib
import itertools
import threading
from collections.abc import Callable
from typing import Any, get_args

import pytest
from support import receipt, soon, stored

from perfgate_server.names import MAX_TAGS
from perfgate_server.records import new_id, normalize_body, now, receipt_of
from perfgate_server.storage import Storage, base, rows, sql, sql_comparison
from perfgate_server.storage.base import (
    Baseline,
    Conflict,
    Filters,
    Kind,
    Listing,
    NotFound,
    Page,
    PreconditionFailed,
    Promotion,
    Receipt,
    Selector,
    Unavailable,
)
from perfgate_server.storage.verdicts import VerdictFilters


def keep(storage: Storage, *names: str, **members: Any) -> Baseline:
    baseline, created = storage.create(*stored(*names, **members), deadline=soon())
    assert created
    return baseline


def promotion(source: str = "v1", target: str = "v2", **members: Any) -> Promotion:
    fields: dict[str, Any] = {
        "project": "p",
        "benchmark": "b",
        "from_version": source,
        "to_version": target,
        "git_ref": None,
        "git_sha": None,
        "tags": None,
        "normalize": None,
        "id": new_id(),
        "created_at": now(),
        "created_by": "promoter:00000000",
    }
    return Promotion(**(fields | members))


def listed(storage: Storage, project: str = "p", page: Page | None = None, **filters: Any) -> Any:
    found = storage.list(project, Filters(**filters), page or Page(limit=50), deadline=soon())
    return [baseline.version for baseline in found.records]


def get(storage: Storage, version: str = "v1", receipt: bool = True) -> Baseline:
    return storage.get("p", "b", version, receipt=receipt, deadline=soon())


def latest(storage: Storage, benchmark: str = "b", receipt: bool = False) -> Baseline:
    return storage.latest("p", benchmark, receipt=receipt, deadline=soon())


def delete(storage: Storage, version: str = "v1", **options: Any) -> Baseline:
    return storage.delete("p", "b", version, deadline=soon(), **options)


def test_a_record_comes_back_as_it_was_kept(storage: Storage) -> None:
    """Every member of a record, and the receipt to the byte, survive."""
    new, kept = stored(
        git_ref="refs/heads/main",
        git_sha="0" * 40,
        metadata={"runner": "8 cores", "empty": "", "naïve 🚀": "\n\"'\\"},
        tags=["z", "a", "naïve 🚀"],
    )
    storage.create(new, kept, deadline=soon())
    found = get(storage)
    assert found.receipt == kept.body
    for name in Baseline._fields:
        if name not in ("receipt", "sequence"):
            assert getattr(found, name) == getattr(new, name), name


def test_a_receipt_is_read_only_when_asked_for(storage: Storage) -> None:
    keep(storage)
    assert get(storage, receipt=False).receipt is None
    assert latest(storage).receipt is None
    assert latest(storage, receipt=True).receipt == stored()[1].body


def test_the_same_contents_again_are_the_stored_record(storage: Storage) -> None:
    """A retried upload changes nothing, not even the id or the time."""
    first = keep(storage, tags=["t"])
    again, created = storage.create(*stored(tags=["t"]), deadline=soon())
    assert not created
    assert again == first


@pytest.mark.parametrize(
    "difference",
    [
        {"git_ref": "x"},
        {"git_sha": "x"},
        {"metadata": {"x": "y"}},
        {"tags": ["x"]},
        {"value": receipt(wall_ms=7)},
    ],
    ids=lambda difference: next(iter(difference)),
)
def test_other_contents_conflict(storage: Storage, difference: dict[str, Any]) -> None:
    first = keep(storage)
    with pytest.raises(Conflict) as conflict:
        storage.create(*stored(**difference), deadline=soon())
    assert conflict.value.stored == first
    assert get(storage).receipt == stored()[1].body


def test_projects_benchmarks_and_versions_keep_apart(storage: Storage) -> None:
    """By case too."""
    for project, benchmark, version in itertools.product("pP", "bB", ("v1", "V1")):
        keep(storage, benchmark, version, project)
    assert listed(storage) == ["V1", "v1", "V1", "v1"]
    assert listed(storage, benchmark="B") == ["V1", "v1"]
    assert listed(storage, project="r") == []


def test_lookups_raise_for_what_is_not_there(storage: Storage) -> None:
    keep(storage)
    for lookup in (
        lambda: get(storage, "v2"),
        lambda: latest(storage, "c"),
        lambda: storage.latest("q", "b", receipt=False, deadline=soon()),
        lambda: storage.history("p", "c", Page(limit=1), deadline=soon()),
        lambda: delete(storage, "v2"),
        lambda: storage.promote(promotion("v2"), deadline=soon()),
    ):
        with pytest.raises(NotFound):
            lookup()


@pytest.mark.parametrize(
    ("project", "benchmark", "missing"),
    [("p", "b", "version"), ("p", "c", "benchmark"), ("q", "b", "benchmark")],
)
def test_a_version_that_is_not_there_may_lack_its_benchmark(
    storage: Storage, project: str, benchmark: str, missing: str
) -> None:
    keep(storage, "b", "v1", "p")
    keep(storage, "c", "v1", "q")
    for lookup in (
        lambda: storage.get(project, benchmark, "v2", receipt=False, deadline=soon()),
        lambda: storage.delete(project, benchmark, "v2", deadline=soon()),
        lambda: storage.promote(
            promotion("v2", "v3", project=project, benchmark=benchmark), deadline=soon()
        ),
    ):
        with pytest.raises(NotFound) as found:
            lookup()
        assert found.value.missing == missing


def test_what_is_missing_is_missing_as_of_one_moment(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There was never a benchmark without its only version, nor one without a trend."""
    look = rows.newest_sequence  # between two looks at what is there

    def newest(*names: Any) -> Any:
        with contextlib.suppress(Unavailable):  # in memory nothing comes between
            storage.create(*stored(), deadline=soon(0.1))
        return look(*names)

    monkeypatch.setattr(sql, "newest_sequence", newest)
    for lookup in (
        get,
        lambda storage: storage.recent("p", "b", 9, git_ref=None, deadline=soon()),
    ):
        with pytest.raises(NotFound) as missing:
            lookup(storage)
        assert missing.value.missing == "benchmark"
        with contextlib.suppress(NotFound):
            delete(storage)


@pytest.mark.parametrize(
    ("where", "name", "read"),
    [
        (
            sql,
            "newest_sequence",
            lambda storage: storage.history("p", "b", Page(9), deadline=soon()),
        ),
        (
            sql_comparison,
            "_select",
            lambda storage: storage.comparison(
                "p",
                "b",
                [Selector("git_ref", "main"), Selector("latest")],
                excluding=[],
                deadline=soon(),
            ),
        ),
    ],
    ids=["history", "comparison"],
)
def test_an_answer_is_the_state_of_one_moment(
    storage: Storage, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, read: Any
) -> None:
    """Whatever is uploaded between two looks at what is there."""
    keep(storage)
    before, look = read(storage), getattr(where, name)

    def meanwhile(*names: Any) -> Any:
        found = look(*names)
        with contextlib.suppress(Unavailable):  # in memory nothing comes between
            storage.create(*stored(version="v2", git_ref="main"), deadline=soon(0.1))
        return found

    monkeypatch.setattr(where, name, meanwhile)
    assert read(storage) == before


def test_what_comes_between_two_looks_comes_with_its_receipt(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine: Any = storage._engine  # type: ignore[attr-defined]
    again = engine.reading

    def reading(deadline: float) -> Any:
        monkeypatch.undo()
        keep(storage)
        return again(deadline)

    monkeypatch.setattr(engine, "reading", reading)
    assert get(storage).receipt == stored()[1].body


def test_order_is_the_order_of_keeping_and_not_the_clock(storage: Storage) -> None:
    """Two records of one microsecond, and one of the past, still have an order."""
    keep(storage, "b", "v1", created_at="2026-03-08T12:00:00.000000Z")
    keep(storage, "b", "v2", created_at="2026-03-08T12:00:00.000000Z")
    keep(storage, "b", "v3", created_at="2020-01-01T00:00:00.000000Z")
    assert latest(storage).version == "v3"
    assert listed(storage) == ["v3", "v2", "v1"]


def test_a_place_in_the_order_is_never_given_again(storage: Storage) -> None:
    """What follows a deleted newest record is newer than it."""
    keep(storage, "b", "v1")
    gone = keep(storage, "b", "v2")
    delete(storage, "v2")
    assert latest(storage).version == "v1"
    assert keep(storage, "b", "v3").sequence > gone.sequence


def test_a_deleted_version_can_be_kept_again_with_anything_in_it(storage: Storage) -> None:
    first = keep(storage, tags=["old"])
    assert delete(storage) == first
    with pytest.raises(NotFound):
        get(storage)
    second = keep(storage, value=receipt(wall_ms=7), tags=["new"])
    assert second.id != first.id
    for tag, versions in (("old", []), ("new", ["v1"])):
        found = storage.list("p", Filters(tags=[tag]), Page(limit=9), deadline=soon())
        assert [record.version for record in found.records] == versions
        assert (found.total, found.has_more) == (len(versions), False)


def test_preconditions_see_the_stored_record_and_can_stop_a_write(storage: Storage) -> None:
    seen: list[Baseline | None] = []

    def refuse(found: Baseline | None) -> None:
        seen.append(found)
        raise PreconditionFailed

    with pytest.raises(PreconditionFailed):
        storage.create(*stored(), deadline=soon(), precondition=refuse)
    assert listed(storage) == []
    first = keep(storage)
    with pytest.raises(PreconditionFailed):
        storage.create(*stored(), deadline=soon(), precondition=refuse)
    with pytest.raises(PreconditionFailed):
        delete(storage, precondition=refuse)
    assert seen == [None, first, first]
    assert listed(storage) == ["v1"]
    delete(storage, precondition=seen.append)
    assert seen[3:] == [first]
    assert listed(storage) == []


def test_a_promotions_precondition_sees_its_target(storage: Storage) -> None:
    seen: list[Baseline | None] = []

    def refuse(found: Baseline | None) -> None:
        seen.append(found)
        raise PreconditionFailed

    keep(storage)
    with pytest.raises(PreconditionFailed):
        storage.promote(promotion(), deadline=soon(), precondition=refuse)
    assert listed(storage) == ["v1"]
    made, _ = storage.promote(promotion(), deadline=soon(), precondition=seen.append)
    with pytest.raises(PreconditionFailed):
        storage.promote(promotion(), deadline=soon(), precondition=refuse)
    assert seen == [None, None, made]


def test_a_write_that_fails_leaves_nothing(storage: Storage) -> None:
    def fail() -> str:
        raise KeyError("no time")

    with pytest.raises(KeyError):
        storage.create(*stored(tags=["t"]), deadline=soon(), now=fail)
    found = storage.counts(deadline=soon())
    assert (found.baselines, found.receipts) == (0, 0)


# -- promotion


def test_a_promotion_has_the_sources_receipt_and_metadata(storage: Storage) -> None:
    source = keep(storage, git_ref="r", git_sha="s", tags=["t"], metadata={"m": "1"})
    made, created = storage.promote(promotion(), deadline=soon())
    assert created
    found = get(storage, "v2")
    assert found.receipt == stored()[1].body
    assert (found.source, found.promoted_from) == ("promote", "v1")
    assert (found.git_ref, found.git_sha, found.tags) == ("r", "s", ["t"])
    assert found.metadata == {"m": "1"}
    assert found.id == made.id != source.id
    assert found.created_by == "promoter:00000000"
    assert latest(storage).version == "v2"
    assert listed(storage, tags=["t"]) == ["v2", "v1"]


def test_what_a_promotion_names_takes_the_place_of_the_sources(storage: Storage) -> None:
    keep(storage, git_ref="r", git_sha="s", tags=["t"])
    storage.promote(promotion(git_ref="R", git_sha="S", tags=[]), deadline=soon())
    found = get(storage, "v2")
    assert (found.git_ref, found.git_sha, found.tags) == ("R", "S", [])


def test_a_promotion_can_change_the_receipt(storage: Storage) -> None:
    keep(storage)
    made, _ = storage.promote(promotion(normalize=normalize_body), deadline=soon())
    normal = normalize_body(stored()[1].body)
    assert get(storage, "v2").receipt == normal.body
    assert made.content_hash == normal.content_hash
    assert get(storage).receipt == stored()[1].body


def test_a_promotion_that_changes_nothing_of_the_receipt_shares_it(storage: Storage) -> None:
    keep(storage)
    for source, target in (("v1", "v2"), ("v2", "v3")):
        made, _ = storage.promote(
            promotion(source, target, normalize=normalize_body), deadline=soon()
        )
    assert get(storage, "v3").receipt == get(storage, "v2").receipt != get(storage).receipt
    counts = storage.counts(deadline=soon())
    assert (counts.baselines, counts.receipts) == (3, 2)


def test_nobody_waits_while_a_promotion_changes_the_receipt(storage: Storage) -> None:
    def normalize(body: bytes) -> Receipt:
        keep(storage, version="beside")
        return normalize_body(body)

    keep(storage)
    assert storage.promote(promotion(normalize=normalize), deadline=soon())[1]
    assert listed(storage) == ["v2", "beside", "v1"]


def test_a_source_that_is_replaced_while_its_receipt_is_changed(storage: Storage) -> None:
    """Seen from outside, it was replaced before."""
    other, calls = receipt(wall_ms=7), []

    def normalize(body: bytes) -> Receipt:
        calls.append(body)
        if len(calls) == 1:
            delete(storage, "v1")
            keep(storage, value=other)
        return normalize_body(body)

    keep(storage)
    made, _ = storage.promote(promotion(normalize=normalize), deadline=soon())
    assert len(calls) == 2
    assert made.content_hash == normalize_body(receipt_of(other).body).content_hash
    assert get(storage, "v2").receipt == normalize_body(calls[1]).body


@pytest.mark.parametrize("normalize", [None, normalize_body])
def test_a_repeated_promotion_is_its_first_result(
    storage: Storage, normalize: Callable[[bytes], Any] | None
) -> None:
    """Also when the source is gone since: a retried job must not fail."""
    keep(storage, tags=["t"])
    first, _ = storage.promote(promotion(normalize=normalize), deadline=soon())
    again, created = storage.promote(promotion(normalize=normalize), deadline=soon())
    assert (again.id, created) == (first.id, False)
    delete(storage)
    late, created = storage.promote(promotion(normalize=normalize), deadline=soon())
    assert (late.id, created) == (first.id, False)


def test_another_promotion_to_the_same_target_conflicts(storage: Storage) -> None:
    keep(storage, "b", "v1", tags=["t"])
    keep(storage, "b", "v0", value=receipt(wall_ms=7))
    storage.promote(promotion(), deadline=soon())
    for other in (promotion("v0"), promotion(tags=["x"]), promotion(normalize=normalize_body)):
        with pytest.raises(Conflict):
            storage.promote(other, deadline=soon())
    with pytest.raises(Conflict):
        storage.promote(promotion("v0", "v1"), deadline=soon())


def test_without_its_source_only_the_same_promotion_is_repeated(storage: Storage) -> None:
    keep(storage)
    storage.promote(promotion(), deadline=soon())
    delete(storage)
    for other in (promotion(tags=["x"]), promotion(git_ref="x"), promotion("v0")):
        with pytest.raises(NotFound):
            storage.promote(other, deadline=soon())
    with pytest.raises(NotFound):
        storage.promote(promotion(normalize=normalize_body), deadline=soon())


def test_a_source_that_came_back_different_conflicts_with_what_it_was(storage: Storage) -> None:
    keep(storage)
    storage.promote(promotion(), deadline=soon())
    delete(storage)
    keep(storage, value=receipt(wall_ms=7))
    with pytest.raises(Conflict):
        storage.promote(promotion(), deadline=soon())


def test_an_upload_that_equals_a_promoted_record_is_that_record(storage: Storage) -> None:
    keep(storage)
    made, _ = storage.promote(promotion(), deadline=soon())
    again, created = storage.create(*stored("b", "v2"), deadline=soon())
    assert (again.id, created) == (made.id, False)


def test_a_receipt_lives_as_long_as_a_record_that_points_to_it(storage: Storage) -> None:
    """In whichever order the source and what was promoted from it are deleted."""
    for first, second in (("v1", "v2"), ("v2", "v1")):
        keep(storage)
        storage.promote(promotion(), deadline=soon())
        delete(storage, first)
        assert get(storage, second).receipt == stored()[1].body
        delete(storage, second)
        assert listed(storage) == []


# -- lists


@pytest.fixture
def shelf(storage: Storage) -> Storage:
    """Six records that every filter divides differently."""
    days = [f"2026-03-{day:02}T12:00:00.000000Z" for day in range(1, 7)]
    keep(storage, "io/read", "1", git_ref="main", git_sha="aa", tags=["x", "y"], created_at=days[0])
    keep(storage, "io/read", "2", git_ref="dev", git_sha="bb", tags=["y"], created_at=days[1])
    keep(storage, "io/write", "3", git_ref="main", git_sha="cc", tags=["x"], created_at=days[2])
    keep(storage, "iot", "4", git_ref="main", git_sha="aa", tags=[], created_at=days[3])
    keep(storage, "cpu", "5", tags=["x", "y", "z"], created_at=days[4])
    source = promotion("5", "6", benchmark="cpu", tags=["y"], created_at=days[5])
    storage.promote(source, deadline=soon())
    keep(storage, "io/read", "other", "elsewhere", git_ref="main", git_sha="aa", tags=["x"])
    return storage


@pytest.mark.parametrize(
    ("filters", "expected"),
    [
        ({}, "654321"),
        ({"benchmark": "io/read"}, "21"),
        ({"benchmark": "io"}, ""),
        ({"benchmark_prefix": "io/"}, "321"),
        ({"benchmark_prefix": "io"}, "4321"),
        ({"benchmark_prefix": "é"}, ""),
        ({"benchmark_prefix": "%"}, ""),
        ({"git_ref": "main"}, "431"),
        ({"git_ref": "MAIN"}, ""),
        ({"git_sha": "aa"}, "41"),
        ({"git_sha": "a"}, ""),
        ({"tags": ["y"]}, "6521"),
        ({"tags": ["y", "x"]}, "51"),
        ({"tags": ["x", "y", "z"]}, "5"),
        ({"tags": ["q"]}, ""),
        ({"source": "promote"}, "6"),
        ({"source": "upload"}, "54321"),
        ({"since": "2026-03-05T12:00:00.000000Z"}, "65"),
        ({"since": "2026-03-05T12:00:00.000001Z"}, "6"),
        ({"until": "2026-03-02T12:00:00.000000Z"}, "21"),
        ({"until": "2026-03-02T11:59:59.999999Z"}, "1"),
        ({"git_ref": "main", "tags": ["x"], "benchmark_prefix": "io/"}, "31"),
        ({"benchmark": "cpu", "benchmark_prefix": "io"}, ""),
        ({"source": "promote", "tags": ["y"], "since": "2026-03-01T00:00:00.000000Z"}, "6"),
        ({"is_visible": lambda name: name.startswith("io/")}, "321"),
        ({"is_visible": lambda name: name == "cpu", "tags": ["y"]}, "65"),
        ({"is_visible": lambda name: False}, ""),
        ({"is_visible": lambda name: name == "iot", "benchmark": "cpu"}, ""),
        ({"git_sha": "aa", "tags": ["x"]}, "1"),
        ({"git_sha": "aa", "tags": ["x", "y"]}, "1"),
        ({"git_sha": "aa", "tags": ["z"]}, ""),
        ({"git_sha": "aa", "git_ref": "main", "source": "upload"}, "41"),
    ],
    ids=range(32),
)
def test_filters_combine_and_count(shelf: Storage, filters: Any, expected: str) -> None:
    """A page, its total and a page without a limit agree on every filter."""
    found = shelf.list("p", Filters(**filters), Page(limit=50), deadline=soon())
    assert "".join(baseline.version for baseline in found.records) == expected
    assert (found.total, found.has_more) == (len(expected), False)
    none = shelf.list("p", Filters(**filters), Page(limit=0), deadline=soon())
    assert (none.records, none.total, none.has_more) == ([], len(expected), bool(expected))


def walk(storage: Storage, limit: int, **filters: Any) -> list[str]:
    """Return the versions of a list walked by cursor."""
    found: list[str] = []
    page = Page(limit=limit)
    while True:
        listing = storage.list("p", Filters(**filters), page, deadline=soon())
        found += [baseline.version for baseline in listing.records]
        if not listing.has_more:
            return found
        page = Page(limit=limit, cursor=listing.records[-1].sequence)


@pytest.mark.parametrize("limit", [1, 2, 3, 6, 7])
@pytest.mark.parametrize("filters", [{}, {"tags": ["y"]}, {"benchmark_prefix": "io"}], ids=str)
def test_walking_by_cursor_is_the_whole_list(shelf: Storage, limit: int, filters: Any) -> None:
    assert walk(shelf, limit, **filters) == listed(shelf, **filters)


@pytest.mark.parametrize("offset", [0, 1, 5, 6, 7, 2**63 - 1])
def test_an_offset_leaves_out_the_newest(shelf: Storage, offset: int) -> None:
    assert listed(shelf, page=Page(limit=2, offset=offset)) == list("654321")[offset : offset + 2]


def test_a_walk_neither_repeats_nor_skips_while_others_write(shelf: Storage) -> None:
    first = shelf.list("p", Filters(), Page(limit=3), deadline=soon())
    keep(shelf, "new", "7")
    shelf.delete("p", "io/write", "3", deadline=soon())
    rest = Page(limit=3, cursor=first.records[-1].sequence)
    assert listed(shelf, page=rest) == ["2", "1"]


def test_a_total_follows_what_comes_and_goes(storage: Storage) -> None:
    """Also what was refused, undone, and done again."""

    def total(project: str = "p") -> int | None:
        return storage.list(project, Filters(), Page(limit=0), deadline=soon()).total

    assert total() == 0
    for version in ("v1", "v2"):
        keep(storage, "b", version)
    keep(storage, "c", "v1")
    keep(storage, "b", "v1", "elsewhere")
    storage.create(*stored("b", "v1"), deadline=soon())
    with pytest.raises(Conflict):
        keep(storage, "b", "v1", value=receipt(wall_ms=7))
    assert (total(), total("elsewhere")) == (3, 1)
    storage.promote(promotion("v1", "prod"), deadline=soon())
    storage.promote(promotion("v1", "prod"), deadline=soon())
    assert total() == 4
    delete(storage, "v1")
    with pytest.raises(NotFound):
        delete(storage, "v1")
    assert (total(), total("elsewhere")) == (3, 1)
    for version in ("v2", "prod"):
        delete(storage, version)
    storage.delete("p", "c", "v1", deadline=soon())
    assert (total(), total("elsewhere")) == (0, 1)


def test_counting_can_be_left_out(shelf: Storage) -> None:
    found = shelf.list("p", Filters(), Page(limit=2, total=False), deadline=soon())
    assert found.total is None
    assert found.has_more
    nothing = Filters(is_visible=lambda benchmark: False)
    assert shelf.list("p", nothing, Page(limit=2, total=False), deadline=soon()).total is None


def test_a_page_can_carry_receipts(shelf: Storage) -> None:
    page = Page(limit=50, receipts=True)
    for filters in (Filters(), Filters(tags=["x"])):
        found = shelf.list("p", filters, page, deadline=soon())
        assert {baseline.receipt for baseline in found.records} == {stored()[1].body}
    part = shelf.list("p", Filters(), Page(limit=2, receipts=True), deadline=soon())
    assert [baseline.version for baseline in part.records] == ["6", "5"]
    assert (part.has_more, part.total) == (True, 6)
    without = shelf.list("p", Filters(), Page(limit=50), deadline=soon())
    assert {baseline.receipt for baseline in without.records} == {None}


@pytest.mark.parametrize(("receipts", "held"), [(0, "6"), (1, "6"), (1.9, "6"), (2, "65")])
def test_a_page_of_receipts_has_a_bounded_size(
    shelf: Storage, monkeypatch: pytest.MonkeyPatch, receipts: float, held: str
) -> None:
    """It ends early and says that there is more; a walk still sees everything."""
    monkeypatch.setattr(base, "MAX_PAGE_BYTES", int(receipts * len(stored()[1].body)))
    found = shelf.list("p", Filters(), Page(limit=50, receipts=True), deadline=soon())
    assert [baseline.version for baseline in found.records] == [*held]
    assert (found.has_more, found.total) == (True, 6)


def test_what_no_list_tells_is_not_read_for_one(storage: Storage) -> None:
    """A thousand records with all the metadata that they may have took two gigabytes."""
    storage.create(*stored(metadata={"a": "b"}), deadline=soon())
    one = storage.latest("p", "b", receipt=False, deadline=soon())
    assert one.metadata == {"a": "b"}
    page = Page(limit=5)
    (listed,) = storage.list("p", Filters(), page, deadline=soon()).records
    (entry,) = storage.history("p", "b", page, deadline=soon()).records
    (recent,) = storage.recent("p", "b", 5, git_ref=None, deadline=soon())
    found = storage.comparison("p", "b", [Selector("latest")], excluding=[], deadline=soon())
    for record in (listed, entry, recent, found.baseline):
        assert record is not None and record._replace(summary=None) == one._replace(metadata={})


def history(storage: Storage, **page: Any) -> Listing[Baseline]:
    return storage.history("p", "b", Page(**({"limit": 50} | page)), deadline=soon())


def test_a_history_tells_its_current_record_on_every_page(storage: Storage) -> None:
    keep(storage, "b", "v1")
    keep(storage, "b", "v2")
    storage.promote(promotion("v1", "v3"), deadline=soon())
    keep(storage, "c", "v4")
    keep(storage, "b", "v5", "elsewhere")
    found = history(storage)
    assert [baseline.version for baseline in found.records] == ["v3", "v2", "v1"]
    assert found.total == 3
    assert found.current == found.records[0].sequence
    last = history(storage, cursor=found.records[1].sequence)
    assert [baseline.version for baseline in last.records] == ["v1"]
    assert last.current == found.current
    assert history(storage, offset=3).records == []


# -- at the same time


def race(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work` in so many threads at once; return its results, exceptions among them."""
    barrier = threading.Barrier(count)
    results: list[Any] = [None] * count

    def run(number: int) -> None:
        barrier.wait()
        try:
            results[number] = work(number)
        except base.StorageError as error:
            results[number] = error

    threads = [threading.Thread(target=run, args=(number,)) for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def test_no_newer_record_has_an_older_time(storage: Storage) -> None:
    """Of those who come at once, each has its time when it is its turn."""
    from test_storage_verdicts import verdict

    def write(number: int) -> None:
        for step in range(6):
            version = f"v{number}-{step}"
            new, kept = stored("b", version)
            storage.create(new, kept, deadline=soon(), now=now)
            storage.promote(promotion(version, f"{version}-p"), deadline=soon(), now=now)
            storage.add_verdict(verdict(version), deadline=soon(), now=now)

    assert not any(race(8, write))
    history = storage.history("p", "b", Page(limit=999), deadline=soon()).records
    verdicts = storage.list_verdicts("p", VerdictFilters(), Page(limit=999), deadline=soon())
    for times in (
        [record.created_at for record in history],
        [record.created_at for record in verdicts.records],
    ):
        assert len(times) >= 48 and times == sorted(times, reverse=True)


def test_of_racing_uploads_to_one_version_one_wins(storage: Storage) -> None:
    def upload(number: int) -> bool:
        return storage.create(*stored(value=receipt(wall_ms=number)), deadline=soon())[1]

    results = race(12, upload)
    assert results.count(True) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 11
    assert listed(storage) == ["v1"]


def test_the_database_itself_keeps_a_version_from_being_there_twice(storage: Storage) -> None:
    """Whoever else writes to it, and however."""
    first = keep(storage)
    engine: Any = storage._engine  # type: ignore[attr-defined]
    with pytest.raises(Unavailable, match="(?i)unique"):
        with engine.writing("p", "b", soon()) as db:
            rows.insert(db, first, rows.receipt_id_of(db, first))
    assert listed(storage) == ["v1"]


def test_racing_uploads_of_the_same_are_one_record(storage: Storage) -> None:
    results = race(12, lambda _: storage.create(*stored(), deadline=soon()))
    assert [created for _, created in results].count(True) == 1
    assert len({baseline.id for baseline, _ in results}) == 1


def test_of_racing_promotions_to_one_target_one_wins(storage: Storage) -> None:
    for number in range(12):
        keep(storage, "b", f"s{number}", value=receipt(wall_ms=number))

    results = race(
        12, lambda number: storage.promote(promotion(f"s{number}", "prod"), deadline=soon())[1]
    )
    assert results.count(True) == 1
    assert sum(isinstance(result, Conflict) for result in results) == 11


def test_of_racing_deletes_one_finds_it(storage: Storage) -> None:
    keep(storage)
    results = race(12, lambda _: delete(storage))
    assert sum(isinstance(result, Baseline) for result in results) == 1
    assert sum(isinstance(result, NotFound) for result in results) == 11


def test_readers_see_whole_records_while_writers_write(storage: Storage) -> None:
    keep(storage)

    def work(number: int) -> None:
        for turn in range(20):
            if number % 2:
                keep(storage, "b", f"v-{number}-{turn}", value=receipt(wall_ms=turn))
            else:
                found = latest(storage, receipt=True)
                assert found.receipt
                page = storage.list("p", Filters(), Page(limit=1000), deadline=soon())
                assert page.total == len(page.records)

    assert race(8, work) == [None] * 8


# -- the deadline


def test_a_deadline_that_has_passed_is_unavailable_and_changes_nothing(storage: Storage) -> None:
    """A call gives up when it would have to wait; later calls work."""
    release, held = threading.Event(), threading.Event()

    def hold(_: Baseline | None) -> None:
        held.set()
        release.wait(20)

    holder = threading.Thread(
        target=lambda: storage.create(*stored(), deadline=soon(), precondition=hold)
    )
    holder.start()
    assert held.wait(20)
    try:
        with pytest.raises(Unavailable):
            storage.create(*stored("b", "v2"), deadline=soon(0.05))
    finally:
        release.set()
        holder.join()
    assert listed(storage) == ["v1"]
    keep(storage, "b", "v2")


def test_a_closed_storage_can_be_used_again_unless_it_was_memory(
    storage: Storage, backend: str
) -> None:
    keep(storage)
    storage.close()
    assert listed(storage) == ([] if backend == "memory" else ["v1"])


def test_ping_answers(storage: Storage, backend: str) -> None:
    storage.ping(deadline=soon())
    assert storage.backend == backend


def test_more_tags_than_a_record_may_have_match_nothing(storage: Storage) -> None:
    keep(storage, tags=[f"t{number}" for number in range(MAX_TAGS)])
    for count in (MAX_TAGS, MAX_TAGS + 1, 5000):
        tags = [f"t{number}" for number in range(count)]
        assert listed(storage, tags=tags) == (["v1"] if count == MAX_TAGS else [])


# -- what belongs to whom


def test_a_deleted_record_takes_nobody_elses_tags(storage: Storage) -> None:
    for version in ("1", "2"):
        keep(storage, "b", version, tags=["x"])
        keep(storage, "b", version, "q", tags=["x"])
    delete(storage, "1")
    assert listed(storage, tags=["x"]) == ["2"]
    found = storage.list("q", Filters(tags=["x"]), Page(limit=9), deadline=soon())
    assert [record.version for record in found.records] == ["2", "1"]


def test_a_promotion_of_an_equal_record_is_another_promotion(storage: Storage) -> None:
    keep(storage, "b", "v1")
    keep(storage, "b", "v2")
    storage.promote(promotion("v1", "prod"), deadline=soon())
    with pytest.raises(Conflict):
        storage.promote(promotion("v2", "prod"), deadline=soon())


@pytest.mark.parametrize("other", [{"git_ref": "x"}, {"git_sha": "x"}, {"tags": ["x"]}], ids=str)
def test_a_promotion_is_repeated_when_its_source_is_gone(
    storage: Storage, other: dict[str, Any]
) -> None:
    """What it did not say came from the source, and nobody knows any more what that was."""
    keep(storage, "b", "v1", git_ref="r", git_sha="s", tags=["t"])
    _, created = storage.promote(promotion("v1", "prod"), deadline=soon())
    assert created
    delete(storage, "v1")
    _, created = storage.promote(promotion("v1", "prod"), deadline=soon())
    assert not created
    with pytest.raises(NotFound):
        storage.promote(promotion("v1", "prod", **other), deadline=soon())


@pytest.mark.parametrize("kind", get_args(Kind))
def test_no_place_is_reserved_twice(storage: Storage, kind: Kind) -> None:
    """Two imports may go on at once; nor is one reserved that a deleted record had."""
    keep(storage, "b", "v1")
    first = storage.reserve(kind, 5, deadline=soon())
    last = keep(storage, "b", "v2").sequence
    delete(storage, "v2")
    assert storage.reserve(kind, 5, deadline=soon()) > first + 4
    assert storage.reserve("baselines", 1, deadline=soon()) > last

"""What a storage finds for a comparison, the same for every backend."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
from support import receipt, soon
from test_storage import delete, keep, promotion

from perfgate_server import summaries
from perfgate_server.records import normalize_body
from perfgate_server.storage import Storage, base
from perfgate_server.storage.base import Baseline, Comparison, NotFound, PastRun, Selector


def compare(
    storage: Storage,
    *selectors: Selector,
    benchmark: str = "b",
    excluding: str = "",
) -> Comparison:
    others = [excluding] if excluding else []
    return storage.comparison("p", benchmark, selectors, excluding=others, deadline=soon())


def past(
    storage: Storage,
    version: str,
    limit: int = 9,
    *,
    git_ref: str | None = None,
    excluding: str = "",
    read: Callable[[bytes], Any] = lambda summary: wall_ms(summary),
    is_named: bool = True,
) -> Sequence[Any]:
    return storage.past(
        storage.get("p", "b", version, receipt=False, deadline=soon()),
        git_ref=git_ref,
        excluding=[excluding] if excluding else [],
        limit=limit,
        read=lambda summary: None if read(summary) is None else PastRun(read(summary), is_named),
        deadline=soon(),
    )


def wall_ms(summary: bytes) -> float:
    """Return what tells the receipts here apart."""
    return summaries.parse(summary).stats["wall_ms"]["min"]


def versions(records: Sequence[Baseline]) -> list[str]:
    return [record.version for record in records]


@pytest.fixture
def filled(storage: Storage) -> Storage:
    """Records with receipts of their own, and others around them that no selector may find."""

    def put(number: int, benchmark: str = "b", project: str = "p", **members: Any) -> None:
        value = receipt(wall_ms=number)
        keep(storage, benchmark, f"v{number}", project, value=value, **members)

    put(1, git_ref="main", git_sha="aa", tags=["stable", "x"])
    put(2, git_ref="main", git_sha="bb", tags=["x"])
    put(3, git_ref="dev", git_sha="aa")
    storage.promote(promotion("v1", "prod-1"), deadline=soon())
    storage.promote(promotion("v2", "prod-2", git_ref="rel", tags=[]), deadline=soon())
    put(4, git_ref="dev", git_sha="cc")
    for around in ({"benchmark": "c"}, {"project": "q"}):
        put(7, git_ref="main", git_sha="aa", tags=["stable", "x", "y"], **around)
    source = promotion("v7", "prod-7", benchmark="c", git_ref="only-c", git_sha="only-c")
    storage.promote(source, deadline=soon())
    return storage


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        (Selector("latest"), "v4"),
        (Selector("promoted"), "prod-2"),
        (Selector("version", "v2"), "v2"),
        (Selector("version", "v7"), None),
        (Selector("tag", "x"), "prod-1"),
        (Selector("tag", "stable"), "prod-1"),
        (Selector("tag", "y"), None),
        (Selector("git_sha", "aa"), "prod-1"),
        (Selector("git_sha", "cc"), "v4"),
        (Selector("git_sha", "only-c"), None),
        (Selector("git_ref", "main"), "prod-1"),
        (Selector("git_ref", "dev"), "v4"),
        (Selector("git_ref", "only-c"), None),
        (Selector("git_ref", "MAIN"), None),
    ],
    ids=str,
)
def test_a_selector_finds_the_newest_record_that_fits(
    filled: Storage, selector: Selector, expected: str | None
) -> None:
    found = compare(filled, selector)
    assert (found.baseline and found.baseline.version) == expected
    assert found.tried == [selector]


def test_the_first_selector_that_finds_a_record_decides(filled: Storage) -> None:
    nothing, some, more = Selector("tag", "none"), Selector("git_ref", "dev"), Selector("latest")
    found = compare(filled, nothing, some, more)
    assert found.baseline and found.baseline.version == "v4"
    assert found.tried == [nothing, some]
    none = compare(filled, nothing, Selector("version", "none"))
    assert none.baseline is None
    assert none.tried == [nothing, Selector("version", "none")]
    assert none.others and not found.others


def hash_of(storage: Storage, version: str) -> str:
    return storage.get("p", "b", version, receipt=False, deadline=soon()).content_hash


@pytest.mark.parametrize(
    ("selector", "excluded", "expected"),
    [
        (Selector("latest"), "v4", "prod-2"),
        (Selector("latest"), "v2", "v4"),
        (Selector("promoted"), "v2", "prod-1"),
        (Selector("version", "v2"), "v2", None),
        (Selector("tag", "x"), "v1", "v2"),
        (Selector("tag", "stable"), "v1", None),
        (Selector("git_sha", "aa"), "v1", "v3"),
        (Selector("git_ref", "main"), "v1", "v2"),
    ],
    ids=str,
)
def test_a_run_is_never_compared_with_itself(
    filled: Storage, selector: Selector, excluded: str, expected: str | None
) -> None:
    """Whatever was uploaded or promoted of the same receipt is passed over."""
    found = compare(filled, selector, excluding=hash_of(filled, excluded))
    assert (found.baseline and found.baseline.version) == expected
    assert found.others == (expected is None)


def test_the_run_itself_is_no_other_record(storage: Storage) -> None:
    keep(storage)
    assert compare(storage, Selector("latest"), excluding=hash_of(storage, "v1")) == Comparison(
        None, [Selector("latest")], others=False
    )


def test_a_past_holds_each_run_once_newest_first(filled: Storage) -> None:
    """A promotion is none: a run would seem to be as new as that."""
    assert past(filled, "v4") == [4, 3, 2, 1]
    assert past(filled, "v4", 2) == [4, 3]
    assert past(filled, "v4", 4) == [4, 3, 2, 1]
    assert past(filled, "v4", 0, read=lambda _: pytest.fail("not asked")) == []
    assert past(filled, "v4", excluding=hash_of(filled, "v2")) == [4, 3, 1]


def test_a_run_that_was_uploaded_twice_is_as_old_as_the_first(filled: Storage) -> None:
    keep(filled, "b", "again", value=receipt(wall_ms=3))
    keep(filled, "b", "v5", value=receipt(wall_ms=5))
    assert past(filled, "v5") == [5, 4, 3, 2, 1]
    assert past(filled, "v5", 2) == [5, 3]  # what is further back is not looked at
    assert past(filled, "v5", read=lambda _: 0) == [0] * 5


def test_what_came_after_a_baseline_that_is_uploaded_again_is_not_its_past(filled: Storage) -> None:
    """As to go back to it: those may have the slowdown that is looked for."""
    keep(filled, "b", "again", value=receipt(wall_ms=2))
    assert past(filled, "again") == past(filled, "v2") == [2, 1]
    assert past(filled, "again", read=lambda _: 0) == [0] * 2


def test_of_runs_that_are_not_named_equal_ones_are_several(filled: Storage) -> None:
    """Normalized ones have no id and no times: of whole numbers many are the same."""
    keep(filled, "b", "again", value=receipt(wall_ms=2))
    assert past(filled, "again", is_named=False) == [2, 4, 3, 2, 1]
    assert past(filled, "again", 3, is_named=False) == [2, 4, 3]


def test_a_past_ends_with_the_baseline(filled: Storage) -> None:
    assert past(filled, "v1") == [1]
    assert past(filled, "v3") == [3, 2, 1]
    assert past(filled, "v3", excluding=hash_of(filled, "v3")) == [2, 1]


def test_a_promotion_is_as_old_as_its_run(filled: Storage) -> None:
    """Promoted late, it would let the runs since tell what is expected of it."""
    assert past(filled, "prod-1") == [1]
    assert past(filled, "prod-2") == [2, 1]
    filled.promote(promotion("prod-2", "prod-3"), deadline=soon())
    assert past(filled, "prod-3") == [2, 1]
    delete(filled, "v2")
    assert past(filled, "prod-2") == past(filled, "prod-3") == []  # nobody knows any more
    assert past(filled, "v4") == [4, 3, 1]
    keep(filled, "b", "v2", value=receipt(wall_ms=2))  # which is another run
    assert past(filled, "prod-2") == []


def test_a_baseline_that_is_deleted_meanwhile_has_a_past(filled: Storage) -> None:
    baseline = compare(filled, Selector("version", "v3")).baseline
    assert baseline is not None
    delete(filled, "v3")
    found = filled.past(
        baseline,
        git_ref=None,
        excluding=[],
        limit=9,
        read=lambda s: PastRun(wall_ms(s), True),
        deadline=soon(),
    )
    assert found == [2, 1]


def test_a_past_may_be_that_of_a_ref(filled: Storage) -> None:
    assert past(filled, "prod-1", git_ref="main") == [1]
    assert past(filled, "v3", git_ref="main") == [2, 1]
    assert past(filled, "v4", git_ref="dev") == [4, 3]
    assert past(filled, "v4", git_ref="dev", excluding=hash_of(filled, "v4")) == [3]
    assert past(filled, "v4", git_ref="only-c") == []


def test_a_run_that_was_promoted_into_a_ref_is_one_of_that_ref(filled: Storage) -> None:
    """It was measured for a pull request, and promoted when that was merged."""
    filled.promote(promotion("v4", "merged-4", git_ref="main"), deadline=soon())
    filled.promote(promotion("v3", "merged-3", git_ref="main"), deadline=soon())
    filled.promote(promotion("merged-3", "good", git_ref="main"), deadline=soon())
    assert past(filled, "good", git_ref="main") == [3, 4, 2, 1]
    assert past(filled, "merged-4", git_ref="main") == [4, 2, 1]
    assert past(filled, "good") == [3, 2, 1]
    keep(filled, "b", "v5", value=receipt(wall_ms=5), git_ref=None)
    filled.promote(promotion("v5", "merged-5", git_ref="main"), deadline=soon())
    assert past(filled, "merged-5", git_ref="main") == [5, 3, 4, 2, 1]
    delete(filled, "v5")
    assert past(filled, "merged-5", git_ref="main") == []


def test_a_run_of_a_ref_that_left_it_and_came_back_is_as_old_as_it_is(filled: Storage) -> None:
    """Not as its second promotion: what came between may be the slowdown that is looked for."""
    filled.promote(promotion("v1", "released", git_ref="release"), deadline=soon())
    filled.promote(promotion("released", "good", git_ref="main"), deadline=soon())
    assert past(filled, "good", git_ref="main") == [1]
    filled.promote(promotion("v3", "tried", git_ref="staging"), deadline=soon())
    filled.promote(promotion("tried", "better", git_ref="main"), deadline=soon())
    assert past(filled, "better", git_ref="main")[0] == 3
    assert past(filled, "better", git_ref="dev") == [3]


@pytest.mark.parametrize(
    "elsewhere", [{"benchmark": "c"}, {"project": "q"}, {"version": "pr"}], ids=str
)
def test_what_is_promoted_within_a_ref_is_no_run_whatever_others_name_theirs(
    storage: Storage, elsewhere: dict[str, str]
) -> None:
    keep(storage, **{"benchmark": "b", "version": "v1", **elsewhere}, git_ref="dev")
    keep(storage, "b", "v1", value=receipt(wall_ms=1), git_ref="main")
    keep(storage, "b", "v2", value=receipt(wall_ms=2), git_ref="main")
    storage.promote(promotion("v1", "good"), deadline=soon())
    delete(storage, "v1")
    keep(storage, "b", "v3", value=receipt(wall_ms=3), git_ref="main")
    assert past(storage, "v3", git_ref="main") == [3, 2]


def test_a_promotion_is_no_run_by_what_took_the_place_of_its_source(storage: Storage) -> None:
    keep(storage, "b", "pr", value=receipt(wall_ms=1), git_ref="dev")
    storage.promote(promotion("pr", "merged", git_ref="main"), deadline=soon())
    delete(storage, "pr")
    keep(storage, "b", "pr", value=receipt(wall_ms=2), git_ref="dev")
    keep(storage, "b", "v3", value=receipt(wall_ms=3), git_ref="main")
    assert past(storage, "v3", git_ref="main") == [3]


def test_a_past_holds_what_is_made_of_summaries(filled: Storage) -> None:
    """None is not wanted, and makes room for what is older."""
    odd = {summaries.body_of(receipt(wall_ms=number)): number for number in (1, 3)}
    assert past(filled, "v4", read=odd.get) == [3, 1]
    assert past(filled, "v4", 1, read=odd.get) == [3]
    assert past(filled, "v4", read=lambda _: 0) == [0] * 4


def test_a_baseline_carries_its_summary_and_no_receipt(filled: Storage) -> None:
    record = compare(filled, Selector("version", "v3")).baseline
    assert record and (record.version, record.receipt) == ("v3", None)
    assert record.summary == summaries.body_of(receipt(wall_ms=3))


def test_a_benchmark_without_records_has_nothing_to_compare_with(storage: Storage) -> None:
    found = compare(storage, Selector("latest"), benchmark="none")
    assert found == Comparison(None, [Selector("latest")])


def test_a_past_longer_than_a_step_is_read_to_its_end(storage: Storage) -> None:
    for number in range(120):
        keep(storage, "b", f"v{number}", value=receipt(wall_ms=number))
    numbers = [*reversed(range(120))]
    assert past(storage, "v119", 200) == numbers
    assert past(storage, "v119", 60) == numbers[:60]
    newest = storage.recent("p", "b", 70, git_ref=None, deadline=soon())
    assert versions(newest) == [f"v{number}" for number in numbers[:70]]


def test_looking_for_a_past_ends(storage: Storage, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody wants is not looked for in all of a long history."""
    monkeypatch.setattr(base, "MAX_SCANNED", 53)
    for number in range(60):
        keep(storage, "b", f"v{number}", value=receipt(wall_ms=number))
    seen: list[bytes] = []
    assert past(storage, "v59", 1, read=seen.append) == []
    assert [wall_ms(summary) for summary in seen] == [*reversed(range(7, 60))]


def test_looking_for_the_run_of_a_promotion_ends(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a chain that is longer than anybody's nobody knows how old it is."""
    monkeypatch.setattr(base, "MAX_SCANNED", 3)
    keep(storage, "b", "v0", value=receipt(wall_ms=7))
    for number in range(3):
        storage.promote(promotion(f"v{number}", f"v{number + 1}"), deadline=soon())
    assert past(storage, "v2") == [7]
    assert past(storage, "v3") == []


def test_a_promotion_that_changes_the_receipt_has_a_summary_of_its_own(storage: Storage) -> None:
    keep(storage)
    new = promotion(normalize=normalize_body)
    storage.promote(new, deadline=soon())
    found = compare(storage, Selector("promoted")).baseline
    assert found and found.summary and summaries.parse(found.summary).run_id == "baseline"
    # And no place of its own among the runs.
    keep(storage, "b", "v3", value=receipt(wall_ms=3))
    assert [run.run_id for run in past(storage, new.to_version, read=summaries.parse)] == ["run-1"]
    assert len(past(storage, "v3")) == 2


def test_a_summary_lives_as_long_as_its_receipt(storage: Storage) -> None:
    keep(storage)
    storage.promote(promotion(), deadline=soon())
    delete(storage)
    found = compare(storage, Selector("latest")).baseline
    assert found and found.summary == summaries.body_of(receipt())
    delete(storage, "v2")
    assert compare(storage, Selector("latest")).baseline is None
    keep(storage)
    found = compare(storage, Selector("latest")).baseline
    assert found and found.summary == summaries.body_of(receipt())


def test_recent_records_come_newest_first_with_their_summaries(filled: Storage) -> None:
    found = filled.recent("p", "b", 3, git_ref=None, deadline=soon())
    assert versions(found) == ["v4", "prod-2", "prod-1"]
    assert found[0].summary == summaries.body_of(receipt(wall_ms=4))
    assert found[0].receipt is None
    assert len(filled.recent("p", "b", 99, git_ref=None, deadline=soon())) == 6
    with pytest.raises(NotFound):
        filled.recent("p", "none", 3, git_ref=None, deadline=soon())
    for git_ref in ("main", "none"):
        found = filled.recent("p", "b", 99, git_ref=git_ref, deadline=soon())
        assert versions(found) == [
            record.version
            for record in filled.recent("p", "b", 99, git_ref=None, deadline=soon())
            if record.git_ref == git_ref
        ]
        assert bool(found) is (git_ref == "main")
        with pytest.raises(NotFound):
            filled.recent("p", "none", 3, git_ref=git_ref, deadline=soon())

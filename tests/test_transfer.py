"""Export and import: the way out of a storage, and the way in."""

from __future__ import annotations

import contextlib
import functools
import io
import json
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import BACKENDS
from hypothesis import given, settings
from hypothesis import strategies as st
from postgres_server import Postgres
from support import receipt, soon, stored
from test_storage import keep, listed, promotion
from test_storage_verdicts import add, runs, verdict

from perfgate_server import jsonio, transfer
from perfgate_server.names import STATUSES
from perfgate_server.records import etag_of, exported_verdict, normalize_body
from perfgate_server.storage import Storage, open_storage
from perfgate_server.storage.base import Filters, Outcome, Page, Unavailable
from perfgate_server.storage.sql import SqlStorage
from perfgate_server.storage.verdicts import VerdictFilters


def fill(storage: Storage) -> None:
    """Keep records of every kind, and verdicts, in two projects."""
    keep(storage, "b", "v1", git_ref="main", tags=["z", "a"], metadata={"naïve": "🚀"})
    keep(storage, "io/read[x]", "v1", value=receipt(wall_ms=7, later=[1.5, None, 10**30]))
    storage.promote(promotion("v1", "v2"), deadline=soon())
    keep(storage, "b", "v1", "q", created_at="2020-01-01T00:00:00.000000Z")
    keep(storage, "b", "v3")
    storage.delete("p", "b", "v1", deadline=soon())
    add(storage, "1", status="fail", reasons=["naïve 🚀"], git_ref="main", git_sha="abc")
    add(storage, "2", project="q", created_at="2020-01-01T00:00:00.000000Z", wall_ms_cv=1 / 3)
    add(storage, "3", benchmark="never/uploaded", counts=dict.fromkeys(STATUSES, 2**32 - 1))


def exported(storage: Storage) -> bytes:
    out = io.BytesIO()
    transfer.export(storage, out, lambda _: None)
    return out.getvalue()


def restored(storage: Storage, text: bytes, **options: Any) -> tuple[transfer.Report, list[str]]:
    said: list[str] = []
    options = {"merge": False, "strict": False} | options
    report = transfer.restore(
        storage, io.BytesIO(text), complain=said.append, progress=lambda _: None, **options
    )
    return report, said


def everything(storage: Storage) -> list[Any]:
    """Return all that a client can see of all records and verdicts, in their order."""
    page = Page(limit=1000, receipts=True)
    return [
        (etag_of(baseline), baseline.receipt)
        for project in "pq"
        for baseline in storage.list(project, Filters(), page, deadline=soon()).records
    ] + [
        exported_verdict(found)
        for project in "pq"
        for found in storage.list_verdicts(project, VerdictFilters(), page, deadline=soon()).records
    ]


@pytest.fixture(params=BACKENDS)
def target(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    """A second, empty storage, on each backend."""
    if request.param == "postgres":
        postgres: Postgres = request.getfixturevalue("postgres")
        with postgres.database() as url:
            opened = open_storage("postgres", url, pool_size=4)
            yield opened
            opened.close()
    else:
        opened = open_storage(request.param, str(tmp_path / "target.db"), pool_size=1)
        yield opened
        opened.close()


def test_everything_survives_the_way_from_any_backend_to_any(
    storage: Storage, target: Storage
) -> None:
    """Ids, times, order, hashes, sources, ETags and receipts; and verdicts."""
    fill(storage)
    text = exported(storage)
    report, said = restored(target, text)
    assert said == [] and report.complete
    assert report.outcomes == {Outcome.KEPT: 7}
    assert everything(target) == everything(storage)
    assert exported(target) == text
    assert (
        keep(target, "b", "v9").version
        == target.latest("p", "b", receipt=False, deadline=soon()).version
    )


def test_progress_is_told_of_every_record_and_byte(storage: Storage, target: Storage) -> None:
    fill(storage)
    records: list[int] = []
    out = io.BytesIO()
    assert sum(transfer.export(storage, out, records.append)) == sum(records) > 0
    text, read = out.getvalue() + b"\nno record\n", list[int]()
    options: dict[str, Any] = {"merge": False, "strict": False, "complain": lambda _: None}
    transfer.restore(target, io.BytesIO(text), progress=read.append, **options)
    assert sum(read) == len(text)


@pytest.mark.parametrize("backend", ["sqlite", "postgres"])
def test_an_export_is_the_state_of_one_moment(storage: Storage) -> None:
    """Whatever is uploaded, judged and deleted before it is done."""
    for version in ("v1", "v2"):
        keep(storage, "b", version, value=receipt(pad=version))
    add(storage, "1")
    before, out = exported(storage), io.BytesIO()

    def meanwhile(_: int) -> None:
        if not listed(storage, tags=["meanwhile"]):
            storage.delete("p", "b", "v2", deadline=soon())
            keep(storage, "b", "v3", tags=["meanwhile"])
            add(storage, "2")

    assert transfer.export(storage, out, meanwhile) == (2, 1)
    assert out.getvalue() == before != exported(storage)


def test_an_import_ends_once_what_was_there_is_as_safe_as_what_it_kept(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on the standbys of a database, for which another may have given up waiting."""
    fill(storage)
    text, ensured = exported(storage), list[float]()
    monkeypatch.setattr(storage, "ensure_durable", lambda *, deadline: ensured.append(deadline))
    restored(storage, text)
    assert len(ensured) == 1


def test_an_import_succeeds_without_new_statistics(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has kept all by then, and the database takes them later by itself."""

    def fail(*, deadline: float) -> None:
        raise Unavailable("statement timeout")

    fill(storage)
    text = exported(storage)
    monkeypatch.setattr(storage, "analyze", fail)
    assert restored(storage, text)[0].complete


def test_an_import_can_be_run_again(storage: Storage) -> None:
    """After an interruption in the middle, and after the end."""
    fill(storage)
    text = exported(storage)
    lines = text.splitlines(keepends=True)
    for record in storage.list("p", Filters(), Page(limit=50), deadline=soon()).records:
        storage.delete("p", record.benchmark, record.version, deadline=soon())
    storage.delete("q", "b", "v1", deadline=soon())
    restored(storage, b"".join(lines[:2]))
    report, said = restored(storage, text)
    assert report.outcomes == {Outcome.PRESENT: 5, Outcome.KEPT: 2} and said == []
    report, said = restored(storage, text)
    assert report.outcomes == {Outcome.PRESENT: 7} and report.complete
    assert exported(storage) == text


def test_a_record_that_differs_is_reported_and_stays(storage: Storage) -> None:
    fill(storage)
    text = exported(storage)
    changed = text.replace(b'"git_ref":"main"', b'"git_ref":"dev"')
    report, said = restored(storage, changed)
    assert report.outcomes[Outcome.DIFFERS] == 2 and not report.complete
    baseline, other = said
    assert baseline.startswith("line 2: p: b v2: differs")
    assert other.startswith("line 5: p: b verdict ") and ": differs" in other
    assert exported(storage) == text


def file_of(storage: Storage, *versions: str) -> bytes:
    """Return an export of benchmark b with these versions; the storage is empty again then."""
    for number, version in enumerate(versions):
        keep(storage, "b", version, value=receipt(wall_ms=number), tags=["t"])
    text = exported(storage)
    for version in versions:
        storage.delete("p", "b", version, deadline=soon())
    return text


def test_latest_does_not_move_to_what_is_imported(storage: Storage) -> None:
    text = file_of(storage, "v1", "v2", "v3")
    keep(storage, "b", "own1")
    keep(storage, "b", "own2")
    keep(storage, "c", "own")
    report, said = restored(storage, text)
    assert report.outcomes == {Outcome.REFUSED: 3}
    assert all("--merge" in sentence for sentence in said)
    assert listed(storage, benchmark="b") == ["own2", "own1"]


def test_latest_does_not_move_from_the_first_record_of_all(storage: Storage) -> None:
    keep(storage, "b", "own")
    found = storage.restore(*stored("b", "v1"), after=None, reserved=None, deadline=soon())
    assert (found.outcome, listed(storage)) == (Outcome.REFUSED, ["own"])


def test_merge_puts_what_is_imported_before_what_is_there(storage: Storage) -> None:
    """Also in several goes, with uploads in between; tags and cursors follow."""
    text = file_of(storage, "v1", "v2", "v3", "v4")
    lines = text.splitlines(keepends=True)
    keep(storage, "b", "own1", tags=["t"])
    keep(storage, "b", "own2", tags=["t"])
    report, said = restored(storage, b"".join(lines[:2]), merge=True)
    assert report.complete and said == []
    assert listed(storage) == ["own2", "own1", "v2", "v1"]
    keep(storage, "b", "own3", tags=["t"])
    report, _ = restored(storage, text, merge=True)
    assert report.outcomes == {Outcome.PRESENT: 2, Outcome.KEPT: 2}
    expected = ["own3", "own2", "own1", "v4", "v3", "v2", "v1"]
    assert listed(storage) == expected
    assert listed(storage, tags=["t"]) == expected
    keep(storage, "b", "own4")
    assert listed(storage) == ["own4", *expected]
    for version in ["own4", *expected]:
        storage.delete("p", "b", version, deadline=soon())
    assert storage.counts(deadline=soon()).receipts == 0


def test_merge_keeps_the_order_of_what_is_there_and_not_of_its_times(storage: Storage) -> None:
    text = file_of(storage, "v1")
    keep(storage, "b", "own1", created_at="2026-03-08T12:00:00.000000Z")
    keep(storage, "b", "own2", created_at="2020-01-01T00:00:00.000000Z")
    assert restored(storage, text, merge=True)[0].complete
    assert listed(storage) == ["own2", "own1", "v1"]


def test_what_lies_behind_all_that_is_merged_is_moved_once(storage: Storage) -> None:
    """A walk misses what is moved from before its cursor, and uploads wait while it is."""
    keep(storage, "b", "own")
    first = storage.reserve("baselines", 2, deadline=soon())
    restore = functools.partial(storage.restore, deadline=soon())
    restore(*stored("b", "v1"), after=None, reserved=first)
    moved = storage.latest("p", "b", receipt=False, deadline=soon())
    restore(*stored("b", "v2"), after=first, reserved=first + 1)
    assert storage.latest("p", "b", receipt=False, deadline=soon()) == moved
    assert listed(storage) == ["own", "v2", "v1"]


def test_merge_keeps_the_order_of_the_file_where_some_of_it_is_there(storage: Storage) -> None:
    """What is there is moved behind what comes before it; what comes after it goes behind it."""
    text = file_of(storage, "v1", "v2", "v3", "v4")
    restored(storage, b"".join(text.splitlines(keepends=True)[:3]))
    keep(storage, "b", "own")
    for version in ("v1", "v3"):
        storage.delete("p", "b", version, deadline=soon())
    report, _ = restored(storage, text, merge=True)
    assert report.outcomes == {Outcome.PRESENT: 1, Outcome.KEPT: 3}
    assert listed(storage) == ["own", "v4", "v3", "v2", "v1"]
    assert restored(storage, text)[0].outcomes == {Outcome.PRESENT: 4}


def test_merge_asks_for_new_places_once_and_not_for_each_record(
    storage: Storage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL locks all uploads out for each."""
    text = file_of(storage, *(f"v{number}" for number in range(9)))
    restored(storage, text.splitlines(keepends=True)[1])
    keep(storage, "b", "own")
    asked: list[int] = []

    def reserve(kind: Any, count: int, *, deadline: float) -> int:
        asked.append(count)
        return SqlStorage.reserve(storage, kind, count, deadline=deadline)  # type: ignore[arg-type]

    monkeypatch.setattr(storage, "reserve", reserve)
    assert restored(storage, text, merge=True)[0].complete
    assert asked == [9]
    assert listed(storage) == ["own", *(f"v{number}" for number in range(8, -1, -1))]


def test_what_is_moved_takes_its_tags_along(storage: Storage) -> None:
    text = file_of(storage, "v1")
    keep(storage, "c", "other", tags=["t", "u"])
    keep(storage, "b", "own1", tags=["t", "v"])
    keep(storage, "b", "own2")
    keep(storage, "b", "own3", tags=["u", "t"])
    assert restored(storage, text, merge=True)[0].complete
    assert listed(storage) == ["own3", "own2", "own1", "v1", "other"]
    assert listed(storage, tags=["t"]) == ["own3", "own1", "v1", "other"]
    assert listed(storage, tags=["u", "t"]) == ["own3", "other"]
    assert listed(storage, tags=["v"]) == ["own1"]


def test_merge_between_what_is_there_moves_each_but_twice(storage: Storage) -> None:
    """Out of the way and to its place: the work grows with the file, and not with its square."""
    versions = [f"v{number}" for number in range(40)]
    text = file_of(storage, *versions)
    restored(storage, b"".join(text.splitlines(keepends=True)[1::2]))
    keep(storage, "b", "own")
    before = storage.reserve("baselines", 1, deadline=soon())
    assert restored(storage, text, merge=True)[0].complete
    assert listed(storage) == ["own", *versions[::-1]]
    assert listed(storage, tags=["t"]) == versions[::-1]
    # The file's 40 lines have places, and the 21 that were there; PostgreSQL skips some.
    assert storage.reserve("baselines", 1, deadline=soon()) - before < 2 * (40 + 21)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans()), min_size=1, max_size=8))
def test_merge_keeps_the_orders_of_the_file_and_of_what_is_there(
    shape: list[tuple[int, bool]],
) -> None:
    """Of each version of the file: how many others are there before it, and is it there itself?"""
    with contextlib.closing(open_storage("memory", None, pool_size=1)) as storage:
        versions = [f"v{number}" for number in range(len(shape))]
        text = file_of(storage, *versions)
        lines = text.splitlines(keepends=True)
        last = None
        for number, (others, is_there) in enumerate(shape):
            for other in range(others):
                last = keep(storage, "b", f"own{number}-{other}", tags=["t"]).sequence
            if is_there:
                parsed: Any = transfer._parse(lines[number])
                last = storage.restore(*parsed, after=last, reserved=None, deadline=soon()).sequence
        before = listed(storage)
        assert len(before) == sum(others + is_there for others, is_there in shape)
        assert restored(storage, text, merge=True)[0].complete
        after = listed(storage)
        assert [version for version in after if version in before] == before
        assert [version for version in after if version in versions] == versions[::-1]
        assert listed(storage, tags=["t"]) == after


class Growing(io.BytesIO):
    """A file to which lines are written between its two readings."""

    more = b""

    def seek(self, offset: int, whence: int = 0) -> int:
        self.write(self.more)
        return super().seek(offset, whence)


def test_merge_takes_a_file_that_grows_and_one_that_is_read_from_its_middle(
    storage: Storage,
) -> None:
    """With each record at a place that was reserved for it: PostgreSQL gives out any other again,
    and uploads fail."""
    versions = [f"v{number}" for number in range(30)]
    lines = file_of(storage, *versions).splitlines(keepends=True)
    keep(storage, "b", "own")
    source = Growing(b"".join(lines[:12]))
    source.more = b"".join(lines[12:])
    source.readline()
    options: Any = {"merge": True, "strict": False, "progress": lambda _: None}
    report = transfer.restore(storage, source, complain=pytest.fail, **options)
    assert report.outcomes == {Outcome.KEPT: 29}
    assert listed(storage) == ["own", *versions[:0:-1]]
    for number in range(40):
        keep(storage, "c", f"v{number}")


def test_merge_puts_what_follows_behind_what_differs(storage: Storage) -> None:
    """What is stored stays, at the place of the file's own."""
    text = file_of(storage, "v1", "v2", "v3")
    keep(storage, "b", "v2", value=receipt(wall_ms=77))
    report, _ = restored(storage, text, merge=True)
    assert report.outcomes == {Outcome.KEPT: 2, Outcome.DIFFERS: 1}
    assert listed(storage) == ["v3", "v2", "v1"]


def test_merge_puts_verdicts_before_those_that_are_there(storage: Storage, target: Storage) -> None:
    """Also in several goes: the next one's flakiness is that of the newest runs. Without it they go
    behind, and none is refused."""
    for number in range(1, 5):
        add(storage, str(number), wall_ms_cv=0.9)
    add(storage, "6", benchmark="c")
    text = exported(storage)
    lines = text.splitlines(keepends=True)
    for number in range(7, 10):
        add(target, str(number), wall_ms_cv=0.0)
    other = add(target, "5", benchmark="c")
    assert restored(target, b"".join(lines[:2]), merge=True)[0].complete
    assert runs(target, benchmark="b") == "98721"
    for _ in range(2):
        report, said = restored(target, text, merge=True)
        assert report.complete and said == []
        assert runs(target, benchmark="b") == "9874321"
        assert runs(target, benchmark="c") == "56"
    assert report.outcomes == {Outcome.PRESENT: 5}
    for _ in range(17):
        last = add(target, "0", wall_ms_cv=0.0)
    assert last.flakiness_score == 0
    report, _ = restored(storage, exported(target))
    assert report.outcomes == {Outcome.PRESENT: 5, Outcome.KEPT: 21}
    assert runs(storage, benchmark="b") == 17 * "0" + "9874321"
    (found,) = target.list_verdicts(
        "p", VerdictFilters(benchmark="c"), Page(limit=1), deadline=soon()
    ).records
    assert found.is_copy_of(other) and found.sequence > other.sequence


def test_merge_puts_verdicts_where_the_file_has_them(storage: Storage, target: Storage) -> None:
    for number in range(1, 7):
        add(storage, str(number))
    lines = exported(storage).splitlines(keepends=True)
    for number in (2, 4):
        restored(target, lines[number - 1])
    add(target, "9")
    before = target.reserve("verdicts", 1, deadline=soon())
    report, _ = restored(target, b"".join(lines), merge=True)
    assert report.outcomes == {Outcome.PRESENT: 2, Outcome.KEPT: 4}
    # Each is moved but twice: the file's 6 lines have places, and the 3 that were there.
    assert target.reserve("verdicts", 1, deadline=soon()) - before < 2 * (6 + 3)
    assert runs(target) == "9654321"
    assert target.counts(deadline=soon()).wrong_totals == []


def test_an_import_waits_for_another_program_that_writes(tmp_path: Path) -> None:
    path = tmp_path / "perfgate.db"
    with contextlib.closing(open_storage("sqlite", str(path), pool_size=1)) as storage:
        text = file_of(storage, "v1")
        other = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        other.execute("BEGIN IMMEDIATE")
        timer = threading.Timer(0.2, other.rollback)
        timer.start()
        assert restored(storage, text)[0].complete
        timer.join()
        other.close()


@pytest.mark.parametrize("merge", [False, True])
def test_a_file_without_a_record_changes_nothing_and_is_told(storage: Storage, merge: bool) -> None:
    for text in (b"", b"\n"):
        keep(storage, "b", f"own{len(text)}")
        report, said = restored(storage, text, merge=merge)
        assert not report.complete and not report.outcomes
        assert said == ["there is no record in the file: did the export fail?"]
    keep(storage, "b", "last")
    assert listed(storage) == ["last", "own1", "own0"]


@pytest.mark.parametrize("merge", [False, True])
def test_a_record_of_the_file_that_lies_behind_its_next_moves_nothing_back(
    storage: Storage, merge: bool
) -> None:
    """As where another server's file was merged in first."""
    text = file_of(storage, "v1", "v2", "v3")
    keep(storage, "b", "v2", value=receipt(wall_ms=77))
    restored(storage, text.splitlines(keepends=True)[0], merge=False)
    assert listed(storage) == ["v2"]  # it was refused
    storage.delete("p", "b", "v2", deadline=soon())
    lines = text.splitlines(keepends=True)
    restored(storage, lines[1])
    storage.delete("p", "b", "v2", deadline=soon())
    keep(storage, "b", "v2", value=receipt(wall_ms=77))
    restored(storage, lines[0], merge=True)
    assert listed(storage) == ["v2", "v1"]
    report, _ = restored(storage, text, merge=merge)
    assert report.outcomes[Outcome.DIFFERS] == 1
    if merge:
        assert listed(storage) == ["v3", "v2", "v1"]
    else:  # its `latest` would move
        assert report.outcomes[Outcome.REFUSED] == 1 and listed(storage) == ["v2", "v1"]


def test_a_temporary_folder_without_room_is_named() -> None:
    with contextlib.closing(transfer._LastSequences()) as ends:
        ends._db.execute("PRAGMA max_page_count = 3")
        with pytest.raises(Unavailable, match=r"TMPDIR.*full"):
            for number in range(1000):
                ends.put(("baselines", "p", f"b{number}"), number)


def test_the_places_of_a_file_never_go_back(storage: Storage) -> None:
    """Where two of its records are there in another order, what follows goes behind both."""
    text = file_of(storage, "v1", "v2", "v3")
    lines = text.splitlines(keepends=True)
    restored(storage, lines[1])
    parsed: Any = transfer._parse(lines[0])
    storage.restore(*parsed, after=2**62, reserved=None, deadline=soon())
    assert listed(storage) == ["v1", "v2"]
    assert restored(storage, text)[0].complete
    assert listed(storage) == ["v3", "v1", "v2"]


def test_what_follows_a_record_that_was_refused_has_its_place(storage: Storage) -> None:
    """Behind the last one of the file that is there."""
    text = file_of(storage, "v1", "v2", "v3", "v4")
    lines = text.splitlines(keepends=True)
    restored(storage, lines[0])
    keep(storage, "b", "own")
    parsed: Any = transfer._parse(lines[2])
    storage.restore(*parsed, after=2**62, reserved=None, deadline=soon())
    report, _ = restored(storage, text)
    assert report.outcomes == {Outcome.PRESENT: 2, Outcome.REFUSED: 1, Outcome.KEPT: 1}
    assert listed(storage) == ["v4", "v3", "own", "v1"]


def test_the_deepest_receipt_that_is_taken_comes_back(storage: Storage) -> None:
    """In a record it is one level deeper."""
    deep = json.loads('{"a":' * 63 + "1" + "}" * 63)
    body = json.dumps(receipt() | {"deep": deep}).encode()
    keep(storage, "b", "v1", value=jsonio.loads(body))
    with pytest.raises(jsonio.MalformedJSON):
        jsonio.loads(json.dumps({"deeper": json.loads(body)}).encode())
    text = exported(storage)
    storage.delete("p", "b", "v1", deadline=soon())
    report, said = restored(storage, text)
    assert report.complete and said == []
    assert exported(storage) == text


def test_a_benchmark_that_only_continues_needs_no_merge(storage: Storage) -> None:
    text = file_of(storage, "v1", "v2", "v3")
    restored(storage, b"".join(text.splitlines(keepends=True)[:2]))
    report, _ = restored(storage, text)
    assert report.complete and listed(storage) == ["v3", "v2", "v1"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"{", "column 2"),
        (b"[]", "JSON object"),
        (b"{}", "Must be given"),
        (b"\xff", "UTF-8"),
    ],
)
def test_a_line_that_is_no_record_is_named_and_the_rest_goes_on(
    storage: Storage, line: bytes, said: str
) -> None:
    first, *rest = file_of(storage, "v1", "v2").splitlines(keepends=True)
    text = first + b"\n" + line + b"\n" + b"".join(rest)
    report, sentences = restored(storage, text)
    assert report.invalid == 1 and not report.complete
    assert sentences[0].startswith("line 3: ") and said in sentences[0]
    assert listed(storage) == ["v2", "v1"]


def test_of_another_file_not_each_line_is_named(storage: Storage) -> None:
    report, sentences = restored(storage, b"x\n" * 100)
    assert report.invalid == 100
    assert sentences[0] == "line 1: It is not JSON: Expecting value: line 1 column 1."
    assert sentences[20:] == ["and 80 more lines that are not valid"]
    assert len(restored(storage, b"x\n" * 20)[1]) == 20


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("schema", "other"),
        ("project", ".."),
        ("benchmark", "versions"),
        ("version", ""),
        ("created_at", "yesterday"),
        ("content_hash", "0" * 64),
        ("source", "magic"),
        ("tags", ["a,b"]),
        ("metadata", {"a": 1}),
        ("receipt", {}),
        ("id", ""),
        ("id", "x" * 129),
        ("created_by", "x" * 129),
        ("created_by", ""),
        ("promoted_from", "a/b"),
    ],
)
def test_a_spoiled_record_is_not_taken(storage: Storage, member: str, value: Any) -> None:
    record = json.loads(file_of(storage, "v1"))
    report, (sentence,) = restored(storage, json.dumps(record | {member: value}).encode())
    assert report.invalid == 1
    assert member in sentence


@pytest.mark.parametrize("length", [1, 128])
def test_the_bounds_of_ids_and_names_are_taken(storage: Storage, length: int) -> None:
    own = {"id": "i" * length, "created_by": "c" * length}
    lines = [file_of(storage, "v1"), exported_verdict(verdict())]
    text = b"".join(json.dumps(json.loads(line) | own).encode() + b"\n" for line in lines)
    report, said = restored(storage, text)
    assert said == [] and report.outcomes == {Outcome.KEPT: 2}
    for found in map(json.loads, exported(storage).splitlines()):
        assert (found["id"], found["created_by"]) == tuple(own.values())


def test_a_verdict_needs_no_baseline_and_no_merge(storage: Storage) -> None:
    text = exported_verdict(verdict("1", created_at="2020-01-01T00:00:00.000000Z"))
    keep(storage, "b", "own")
    add(storage, "2")
    report, said = restored(storage, text)
    assert report.outcomes == {Outcome.KEPT: 1} and said == []
    assert exported(storage).endswith(text)
    always = json.loads(text) | {"id": "another", "flakiness_score": 1}
    assert restored(storage, json.dumps(always).encode())[0].complete


@pytest.mark.parametrize(
    ("member", "value"),
    [
        ("schema", "perfgate.verdict.v2"),
        ("project", ".."),
        ("benchmark", "versions"),
        ("run_id", ""),
        ("status", "ok"),
        ("counts", {"pass": 1}),
        ("reasons", [""]),
        ("wall_ms_cv", "0.1"),
        ("flakiness_score", 1.1),
        ("created_at", "yesterday"),
        ("created_at", "2026-02-30T00:00:00.000000Z"),
        ("created_by", None),
        ("created_by", ""),
        ("created_by", "x" * 129),
        ("id", ""),
        ("id", "x" * 129),
    ],
)
def test_a_spoiled_verdict_is_not_taken(storage: Storage, member: str, value: Any) -> None:
    line = json.loads(exported_verdict(verdict()))
    report, (sentence,) = restored(storage, json.dumps(line | {member: value}).encode())
    assert report.invalid == 1
    assert member in sentence
    assert exported(storage) == b""


def test_a_score_that_is_out_of_its_bounds_is_told_them(storage: Storage) -> None:
    line = json.loads(exported_verdict(verdict())) | {"flakiness_score": 1.1}
    _, said = restored(storage, json.dumps(line).encode())
    assert said == ["line 1: flakiness_score: Must be a number from 0 to 1."]


def test_strict_stops_at_the_first_bad_line(storage: Storage) -> None:
    text = file_of(storage, "v1", "v2")
    report, _ = restored(storage, b"nonsense\n" + text, strict=True)
    assert report.invalid == 1 and listed(storage) == []


def test_only_a_record_of_its_own_benchmark_puts_a_line_in_its_place(storage: Storage) -> None:
    text = file_of(storage, "v1")
    before = [json.loads(text) | {"benchmark": "a", "id": "1"}, json.loads(text)]
    before.insert(0, json.loads(text) | {"project": "q", "id": "2"})
    keep(storage, "b", "newer")
    report, said = restored(storage, b"".join(json.dumps(one).encode() + b"\n" for one in before))
    assert report.outcomes == {Outcome.KEPT: 2, Outcome.REFUSED: 1} and not report.complete
    assert said[0].startswith("line 3: p: b v1: ")
    assert listed(storage, benchmark="b") == ["newer"]


def test_promotions_come_back_with_their_own_receipts(storage: Storage) -> None:
    """A plain one shares its source's, and a normalized one has another."""
    keep(storage, "b", "v1")
    for target, normalize in (("plain", None), ("normal", normalize_body)):
        storage.promote(promotion("v1", target, normalize=normalize), deadline=soon())
    text = exported(storage)
    for version in ("v1", "plain", "normal"):
        storage.delete("p", "b", version, deadline=soon())
    assert restored(storage, text)[0].complete
    assert storage.counts(deadline=soon()).receipts == 2
    assert exported(storage) == text


@pytest.mark.parametrize(
    "member",
    ["schema", "id", "project", "benchmark", "version", "metadata", "tags", "created_at"]
    + ["created_by", "content_hash", "source", "receipt"],
)
def test_a_record_that_lacks_a_member_is_named(storage: Storage, member: str) -> None:
    record = json.loads(file_of(storage, "v1"))
    del record[member]
    report, (sentence,) = restored(storage, json.dumps(record).encode())
    assert report.invalid == 1
    assert sentence.startswith(f"line 1: {member}: Must be given.") or member == "schema"


@pytest.mark.parametrize(
    "member",
    ["id", "project", "benchmark", "run_id", "status", "counts", "reasons", "created_at"]
    + ["created_by"],
)
def test_a_verdict_that_lacks_a_member_is_named(storage: Storage, member: str) -> None:
    line = json.loads(exported_verdict(verdict()))
    del line[member]
    _, said = restored(storage, json.dumps(line).encode())
    assert said == [f"line 1: {member}: Must be given."]


def test_a_record_that_holds_as_much_as_is_taken_comes_back(storage: Storage) -> None:
    """The record around a receipt holds some more."""
    body = json.dumps(receipt())
    most = jsonio.MAX_CONTAINERS - body.count("[") - body.count("{") - 1
    value = jsonio.loads(json.dumps(receipt(many=[[]] * most)).encode())
    keep(storage, "b", "v1", value=value)
    text = exported(storage)
    storage.delete("p", "b", "v1", deadline=soon())
    assert restored(storage, text)[0].complete

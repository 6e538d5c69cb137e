"""The samples of a receipt, which are checked all at once where that will do."""

from __future__ import annotations

import sys
import threading
import tracemalloc
from concurrent.futures import ThreadPoolExecutor
from types import NoneType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import ValidationError
from support import PATIENCE

from perfgate_server.columns import ABSENT, AbsentType, Rows, columns_of
from perfgate_server.compare_query import pairs_of
from perfgate_server.fields import MAX_ERRORS, Field, Strings, Tags
from perfgate_server.schemas import Samples

_NUMBERS = st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32, 2**64 - 1, 2**64, -1, -(2**31)])
_ODD: st.SearchStrategy[Any] = st.sampled_from([None, True, False, 1.0, 7.5, "1", [], {}])
_members = st.fixed_dictionaries(
    {"wall_ms": _NUMBERS | _ODD, "exit_code": _NUMBERS | _ODD},
    optional={
        "cpu_ms": _NUMBERS | _ODD,
        "warmup": _NUMBERS | _ODD,
        "stderr": _ODD,
        "x-unknown": _ODD,
    },
)


def said(samples: list[Any]) -> Any:
    """Return what is wrong with samples, by their places."""
    try:
        Samples(required=True).deserialize(samples)
    except ValidationError as error:
        return error.messages
    return {}


@given(st.lists(_members, min_size=1, max_size=4), st.integers(1, 3))
def test_samples_are_checked_together_as_each_alone(samples: list[Any], copies: int) -> None:
    check = Samples(required=True)._check
    expected = {place: wrong for place, sample in enumerate(samples) if (wrong := check(sample))}
    assert said(samples) == expected
    assert bool(said(samples * copies)) == bool(expected)


@pytest.mark.parametrize(
    ("sample", "wrong"),
    [
        ({"wall_ms": 1, "exit_code": 0}, set()),
        ({"wall_ms": 2**64 - 1, "exit_code": -(2**31), "cpu_ms": None}, set()),
        ({"wall_ms": 2**64, "exit_code": 2**31, "cpu_ms": -1}, {"wall_ms", "exit_code", "cpu_ms"}),
        ({"wall_ms": -1, "exit_code": -1}, {"wall_ms"}),
        ({"wall_ms": 2**64, "exit_code": 0}, {"wall_ms"}),
        ({"wall_ms": 1, "exit_code": 2**31}, {"exit_code"}),
        ({"wall_ms": 1, "exit_code": -(2**31) - 1}, {"exit_code"}),
        ({"wall_ms": 1, "exit_code": 0, "cpu_ms": 2**64}, {"cpu_ms"}),
        ({"wall_ms": True, "exit_code": 0.0}, {"wall_ms", "exit_code"}),
        ({"warmup": 1, "timed_out": "no", "stdout": 7, "x": None}, None),
        ({"cpu_ms": 1}, {"wall_ms", "exit_code"}),
    ],
    ids=range(11),
)
def test_every_sample_that_is_wrong_is_told(sample: dict[str, Any], wrong: set[str] | None) -> None:
    if wrong is None:
        wrong = {"wall_ms", "exit_code", "warmup", "timed_out", "stdout"}
    for samples in ([sample], [sample] * 3, [{"wall_ms": 1, "exit_code": 0}, sample]):
        found = said(samples)
        places = [place for place, one in enumerate(samples) if one is sample and wrong]
        assert {place: set(found[place]) for place in found} == dict.fromkeys(places, wrong)


@pytest.mark.parametrize("odd", [None, 1, "text", [], [1], {}])
def test_what_is_no_sample_is_refused_between_others(odd: Any) -> None:
    good = {"wall_ms": 1, "exit_code": 0}
    assert list(said([good, odd, good])) == [1]
    assert list(said([odd])) == [0]


def test_the_columns_of_a_receipt_s_samples_are_made_once() -> None:
    """Who checks them and who writes them ask for the same."""
    rows = Rows([{"wall_ms": 1}, {"wall_ms": 2}])
    assert columns_of(rows) is columns_of(rows) is not None


class Slow(str):
    """The name of a member that is looked up for as long as the test likes."""

    started, released = threading.Event(), threading.Event()

    def __hash__(self) -> int:
        if threading.current_thread() is not threading.main_thread():
            self.started.set()
            assert self.released.wait(PATIENCE)
        return super().__hash__()


def test_no_upload_waits_for_the_columns_of_another() -> None:
    """The samples of one may be 16 MiB."""
    long = [{Slow("wall_ms"): 1}]
    with ThreadPoolExecutor(2) as threads:
        one = threads.submit(lambda: columns_of(Rows(long)))
        assert Slow.started.wait(PATIENCE)
        other = threads.submit(lambda: columns_of(Rows([{"wall_ms": 1}])))
        try:
            assert other.result(PATIENCE) == {"wall_ms": ([1], {int})}
            assert not one.done()
        finally:
            Slow.released.set()
        assert one.result(PATIENCE) == {"wall_ms": ([1], {int})}


def test_of_samples_with_very_many_members_no_columns_are_made() -> None:
    """They took ten times the memory of the samples, until the answer."""
    sample = {"wall_ms": 1, "exit_code": 0} | {f"x{number}": number for number in range(100)}
    assert said([sample] * 100) == {}
    assert columns_of(Rows([sample] * 100)) is None
    assert list(said([sample] * 100 + [sample | {"exit_code": 0.5}])) == [100]


def test_of_samples_that_lack_a_member_here_and_there_columns_are_made() -> None:
    """One by one they took twice the time."""
    few, more = {"wall_ms": 1, "exit_code": 0}, {"exit_code": 0, "cpu_ms": None, "wall_ms": 2}
    assert columns_of([few, more, more]) == {
        "wall_ms": ([1, 2, 2], {int}),
        "exit_code": ([0, 0, 0], {int}),
        "cpu_ms": ([ABSENT, None, None], {AbsentType, NoneType}),
    }


@pytest.mark.parametrize("odd", [-1, 2**64, True, 1.0, "1", [], {}])
@pytest.mark.parametrize("others", [{}, {"cpu_ms": None}, {"cpu_ms": 3}])
def test_a_member_that_is_wrong_is_found_among_others_that_lack_it(odd: Any, others: Any) -> None:
    good = {"wall_ms": 1, "exit_code": 0}
    samples = [good | others] * 5 + [good, good | {"cpu_ms": odd}] + [good | others] * 5
    assert list(said(samples)) == [6]


def test_columns_are_hardly_larger_than_the_samples() -> None:
    """Of samples of which each has a member of its own they would take sixty times the memory."""
    names = [f"x{number}" for number in range(60)]
    assert columns_of([{name: 1} for name in names * 10]) is None
    most = [dict.fromkeys(names[place : place + 55]) for place in range(6)]
    assert len(columns_of(most) or ()) == 60
    many = [f"x{number}" for number in range(66)]
    assert len(columns_of([dict.fromkeys(many[:64])]) or ()) == 64
    assert columns_of([dict.fromkeys(many[:65])]) is None
    assert columns_of([dict.fromkeys(many[:64]), dict.fromkeys(many[2:])]) is None


@pytest.mark.parametrize("place", [0, 999, 1000, 1999, 2000, 2499])
def test_a_member_of_one_sample_alone_counts_too(place: int) -> None:
    """Names are gathered from so many samples at once."""
    common = {"wall_ms": 1, "exit_code": 0, "cpu_ms": 2, "page_faults": 3, "ctx_switches": 4}
    samples: list[Any] = [common] * 2500
    samples[place] = {**common, "max_rss_kb": 5}
    columns = columns_of(samples)
    assert columns is not None
    assert columns["max_rss_kb"].values == [ABSENT] * place + [5] + [ABSENT] * (2499 - place)
    samples[place] = {f"x{number}": 1 for number in range(64)}
    assert columns_of(samples) is None


@pytest.mark.parametrize(
    "field", [Strings(), Tags(), Samples()], ids=["strings", "tags", "samples"]
)
def test_what_is_wrong_takes_no_more_memory_the_more_it_is(field: Field) -> None:
    """A body of 16 MiB with eight million wrong items took 1.2 GB."""
    wrong = [1] * 1_000_000
    tracemalloc.start()
    try:
        with pytest.raises(ValidationError) as raised:
            field.deserialize(wrong)
        assert tracemalloc.get_traced_memory()[1] < 2 * sys.getsizeof(wrong)
    finally:
        tracemalloc.stop()
    assert [*raised.value.messages][:MAX_ERRORS] == [*range(MAX_ERRORS)]


def test_of_a_long_option_no_list_as_long_is_made() -> None:
    tracemalloc.start()
    try:
        with pytest.raises(ValidationError, match="Must be a list of wall_ms"):
            pairs_of({"metrics": "x," * 1_000_000})
        assert tracemalloc.get_traced_memory()[1] < 10_000_000
    finally:
        tracemalloc.stop()

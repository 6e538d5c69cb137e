"""The samples of a receipt, which are checked all at once where that will do."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import ValidationError

from perfgate_server.schemas import Samples

_NUMBERS = st.sampled_from([0, 1, 2**31 - 1, 2**31, 2**32, 2**64 - 1, 2**64, -1, -(2**31)])
_ODD = st.sampled_from([None, True, False, 1.0, 7.5, "1", [], {}])
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
    expected = {
        place: alone[0] for place, sample in enumerate(samples) if (alone := said([sample]))
    }
    assert said(samples) == expected
    assert bool(said(samples * copies)) == bool(expected)


@pytest.mark.parametrize(
    ("sample", "wrong"),
    [
        ({"wall_ms": 1, "exit_code": 0}, set()),
        ({"wall_ms": 2**64 - 1, "exit_code": -(2**31), "cpu_ms": None}, set()),
        ({"wall_ms": 2**64, "exit_code": 2**31, "cpu_ms": -1}, {"wall_ms", "exit_code", "cpu_ms"}),
        ({"wall_ms": -1, "exit_code": -1}, {"wall_ms"}),
        ({"wall_ms": True, "exit_code": 0.0}, {"wall_ms", "exit_code"}),
        ({"warmup": 1, "timed_out": "no", "stdout": 7, "x": None}, None),
        ({"cpu_ms": 1}, {"wall_ms", "exit_code"}),
    ],
    ids=range(7),
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

"""Random clients: nothing that they send is a 5xx, and what they store comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Api, with_every_key
from fuzzing import Broken, fuzz
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from test_jsonio import exactly, names, values

from perfgate_server import Role, create_app

U32, U64 = 2**32 - 1, 2**64 - 1


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Api]:
    app = create_app(with_every_key())
    yield Api(app.test_client())
    app.extensions["perfgate"].storage.close()


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
count = st.integers(0, U64)
number = st.one_of(st.integers(-(10**40), 10**40), st.floats(allow_nan=False, allow_infinity=False))


def members(required: dict[str, Any], optional: dict[str, Any]) -> st.SearchStrategy[Any]:
    """Objects with these members, optional ones perhaps null, and unknown ones beside them."""
    unknown = st.dictionaries(names.map(lambda name: "x-" + name), values, max_size=2)
    known = st.fixed_dictionaries(
        required,
        optional={name: st.none() | strategy for name, strategy in optional.items()},
    )
    return st.tuples(known, unknown).map(lambda both: {**both[0], **both[1]})


COUNTS = ("cpu_ms", "page_faults", "ctx_switches", "max_rss_kb", "io_read_bytes")
summary = members({"median": count, "min": count, "max": count}, {"mean": number, "stddev": number})
receipts = members(
    {
        "schema": st.just("perfgate.run.v1"),
        "tool": members({"name": text, "version": text}, {}),
        "run": members(
            {
                "id": text,
                "started_at": text,
                "ended_at": text,
                "host": members(
                    {"os": text, "arch": text},
                    {"cpu_count": st.integers(0, U32), "memory_bytes": count},
                ),
            },
            {},
        ),
        "bench": members(
            {
                "name": text,
                "command": st.lists(text, max_size=3),
                "repeat": st.integers(0, U32),
                "warmup": st.integers(0, U32),
            },
            {"cwd": text, "work_units": count, "timeout_ms": count},
        ),
        "samples": st.lists(
            members(
                {"wall_ms": count, "exit_code": st.integers(-(2**31), 2**31 - 1)},
                {
                    "warmup": st.booleans(),
                    "timed_out": st.booleans(),
                    "stdout": text,
                    **dict.fromkeys(COUNTS, count),
                },
            ),
            max_size=3,
        ),
        "stats": members({"wall_ms": summary}, dict.fromkeys(COUNTS, summary)),
    },
    {},
)


@given(receipts)
@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_receipt_comes_back_value_for_value(fuzzed: Api, sent: dict[str, Any]) -> None:
    answer = fuzzed.upload("fuzz", version=None, receipt=sent)
    assert answer.status_code == 201, answer.text
    found = fuzzed.get(answer.headers["Location"])
    assert exactly(json.loads(found.data)["receipt"]) == exactly(sent)
    only = fuzzed.get(answer.headers["Location"] + "?receipt=only")
    assert exactly(json.loads(only.data)) == exactly(sent)


def test_nothing_that_is_sent_fails_or_reaches_what_is_not_its_own() -> None:
    """A short form of benchmarks/fuzz.py; every route is asked with every role, and without."""
    result = fuzz(5000, "suite")
    asked = {(route, role) for route in result.routes for role in (None, *Role)}
    assert asked <= set(result.asked)
    assert result.statuses[201] > 20


@pytest.mark.parametrize(
    ("what", "sabotaged", "message"),
    [
        ("perfgate_server.keys.ApiKey.reaches", lambda key, project: True, "another project"),
        ("perfgate_server.keys.ApiKey.sees", lambda key, benchmark: True, "another benchmark"),
        (
            "perfgate_server.errors.keys.redact",
            lambda text, most=None: text[:most],
            "a key stands in",
        ),
        ("perfgate_server.logs.printable", lambda text: text, "raw in the log"),
    ],
    ids=range(4),
)
def test_the_fuzzer_would_notice(
    monkeypatch: pytest.MonkeyPatch, what: str, sabotaged: Any, message: str
) -> None:
    monkeypatch.setattr(what, sabotaged)
    with pytest.raises(Broken, match=message):
        fuzz(4000, "suite")

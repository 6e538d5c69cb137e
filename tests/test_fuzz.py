"""Random clients: nothing that they send is a 5xx, and what they store comes back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from conftest import Api
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import KEYS, receipt
from test_jsonio import exactly, names, values

from perfgate_server import Role, ServerConfig, create_app

U32, U64 = 2**32 - 1, 2**64 - 1


@pytest.fixture(scope="module")
def fuzzed() -> Iterator[Api]:
    config = ServerConfig(max_body_size=2**20)
    for role, key in KEYS.items():
        config = config.api_key(key, Role(role))
    app = create_app(config)
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


PATHS = (
    "/projects/p/baselines",
    "/projects/p/baselines/b/latest",
    "/projects/p/baselines/b/versions",
    "/projects/p/baselines/b/versions/v1",
    "/projects/p/baselines/b/promote",
    "/projects/p/baselines/b/trend",
    "/projects/p/verdicts",
    "/health",
)
spoiled = st.one_of(
    values,
    st.dictionaries(st.sampled_from([*receipt(), "benchmark", "version", "tags"]), values),
    st.fixed_dictionaries(
        {"benchmark": st.just("b") | values, "receipt": receipts | values},
        optional=dict.fromkeys(
            ("version", "git_ref", "git_sha", "tags", "metadata", "normalize"), values
        ),
    ),
    st.fixed_dictionaries(
        {"from_version": st.just("v1") | values, "to_version": st.just("v2") | values},
        optional={"tags": values, "git_ref": values},
    ),
    st.fixed_dictionaries(
        {"benchmark": st.just("b"), "run_id": st.text(), "status": st.just("pass") | values},
        optional={
            "counts": st.just(dict.fromkeys(("pass", "warn", "fail", "skip"), 0)) | values,
            "reasons": st.lists(st.text()) | values,
            "git_ref": values,
        },
    ),
)
bodies = st.one_of(
    st.binary(), spoiled.map(lambda value: json.dumps(value, ensure_ascii=False).encode())
)
parameters = st.sampled_from(
    ["limit", "offset", "cursor", "total", "tags", "tag", "since", "until", "benchmark", "source"]
    + ["benchmark_prefix", "git_ref", "meta.x", "normalize", "receipt", "include_receipt", "x"]
    + ["metric", "window", "status"]
)
junk = st.text(st.characters(codec="latin-1"), max_size=20) | st.sampled_from(
    ["%00", "%ff", "%ED%A0%80", "1", "-1", "true", "9" * 30, "2026-03-08T12:00:00Z", "AAAAAAAAAAI"]
    + ["wall_ms", "pass"]
)


@given(
    method=st.sampled_from(["GET", "HEAD", "POST", "PUT", "DELETE", "OPTIONS", "PATCH", "BREW"]),
    path=st.sampled_from(PATHS)
    | st.tuples(st.sampled_from(PATHS), junk).map("".join)
    | st.builds("/projects/{}/baselines/{}/versions/{}".format, junk, junk, junk),
    query=st.lists(st.tuples(parameters, junk).map("=".join), max_size=3).map("&".join),
    body=bodies,
    role=st.sampled_from([None, *KEYS]),
    headers=st.dictionaries(
        st.sampled_from(
            [
                "Content-Type",
                "If-Match",
                "If-None-Match",
                "X-Request-ID",
                "Host",
                "Content-Encoding",
            ]
            + ["X-Forwarded-Prefix", "Content-Length", "Origin", "Access-Control-Request-Method"]
        ),
        st.sampled_from(["application/json", "*", '"x"', 'W/"', "gzip", "7", ""])
        | st.text(st.characters(codec="latin-1", exclude_categories=["Cc"]), max_size=20),
        max_size=3,
    ),
)
@settings(max_examples=1500, deadline=None, suppress_health_check=list(HealthCheck))
def test_nothing_that_is_sent_is_a_5xx(
    fuzzed: Api, method: str, path: str, query: str, body: bytes, role: str | None, headers: Any
) -> None:
    environ = {"QUERY_STRING": query.encode().decode("latin-1")}
    headers = {"Content-Type": "application/json"} | headers
    answer = fuzzed(method, path, role, data=body, headers=headers, environ_overrides=environ)
    assert answer.status_code < 500, answer.text
    assert answer.headers["X-Request-ID"]
    if answer.status_code >= 400 and method != "HEAD":
        assert set(answer.json["error"]) == {"code", "message", "details", "request_id"}

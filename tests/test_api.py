"""The wire contract, on every backend."""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from typing import Any

import pytest
from conftest import Api, Create
from support import KEYS, bearer, receipt

from perfgate_server import ServerConfig
from perfgate_server.records import normalized

TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
VERSION = "/projects/p/baselines/b/versions/v1"
TREND = "/projects/p/baselines/b/trend"
COMPARE = "/projects/p/baselines/b/compare"


def fails(answer: Any, status: int, *fields: str) -> dict[str, Any]:
    """Assert that an answer is an error with that status, naming those fields; return it."""
    assert answer.status_code == status, answer.text
    assert answer.content_type == "application/json"
    assert answer.text.endswith("\n")
    assert set(answer.json) == {"error"}
    error: dict[str, Any] = answer.json["error"]
    assert set(error) == {"code", "message", "details", "request_id"}
    assert error["message"] and error["request_id"] == answer.headers["X-Request-ID"]
    if status == 400:
        assert sorted(error["details"]) == sorted(fields), error
        assert all(sentence.endswith(".") for sentence in error["details"].values())
    return error


# -- where


def test_both_roots_answer_alike(config: ServerConfig, create: Create) -> None:
    app = create(config)
    root, v1 = Api(app.test_client()), Api(app.test_client(), "/api/v1")
    assert root.upload().headers["Location"] == VERSION
    assert v1.upload().headers["Location"] == "/api/v1" + VERSION
    for path in ("", "/b/latest", "/b/versions", "/b/versions/v1"):
        one = root.get(f"/projects/p/baselines{path}")
        assert one.status_code == 200
        assert one.data == v1.get(f"/projects/p/baselines{path}").data
    assert v1.promote("v1", "v2").headers["Location"].startswith("/api/v1/projects/")
    assert v1.delete("v2").status_code == 200
    assert root.get("/health").data == v1.get("/health", role=None).data


@pytest.mark.parametrize("role", [None, "admin"])
@pytest.mark.parametrize(
    "path",
    ["/", "/projects", "/projects/p", "/projects/p/baselines/", "/api/v2/health", "/health/"],
)
def test_an_unknown_route_is_404_with_or_without_a_key(
    api: Api, path: str, role: str | None
) -> None:
    assert fails(api.get(path, role=role), 404)["code"] == "NOT_FOUND"


def test_a_benchmark_alone_is_told_what_there_is(api: Api) -> None:
    for path in ("b", "a/b", "b/versions/v1/x"):
        message = fails(api.get(f"/projects/p/baselines/{path}"), 404)["message"]
        assert "/latest" in message and "/versions" in message


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "/projects/p/baselines", {"GET", "HEAD", "OPTIONS", "POST"}),
        ("POST", "/projects/p/baselines/b/latest", {"GET", "HEAD", "OPTIONS"}),
        ("POST", VERSION, {"DELETE", "GET", "HEAD", "OPTIONS", "PUT"}),
        ("GET", "/projects/p/baselines/b/promote", {"OPTIONS", "POST"}),
        ("TRACE", "/health", {"GET", "HEAD", "OPTIONS"}),
        ("BREW", "/health", {"GET", "HEAD", "OPTIONS"}),
    ],
)
def test_a_wrong_method_is_405_and_names_the_right_ones(
    api: Api, method: str, path: str, allowed: set[str]
) -> None:
    answer = api(method, path, role=None)
    assert fails(answer, 405)["code"] == "METHOD_NOT_ALLOWED"
    assert set(answer.headers["Allow"].split(", ")) == allowed


def test_slashes_are_neither_merged_nor_redirected(api: Api) -> None:
    api.upload("a/b")
    assert api.get("/projects/p/baselines/a/b/latest").status_code == 200
    fails(api.get("/projects/p/baselines/a//b/latest"), 400, "benchmark")
    fails(api.get("//projects/p/baselines/a/b/latest"), 404)
    fails(api.get("//health"), 404)
    fails(api.get("/api//v1/health"), 404)
    fails(api.get("/projects//baselines/a/b/latest"), 400, "project")
    fails(api.get("/projects/p/baselines//latest"), 400, "benchmark")
    fails(api.get("/projects/p/baselines/a/b/versions/"), 400, "version")


# -- names


@pytest.mark.parametrize(
    "name",
    [
        "b",
        "path/to/bench",
        "tests/test_io.py::test_read[gzip]",
        "Vec<u8>(a,b)=c+d@e:f",
        "...",
        "versions/x",
        "latest",
        "a/latest",
        "promote",
        "a/trend",
        "a/versions/b",
        "x" * 256,
    ],
)
def test_a_benchmark_is_reached_raw_and_percent_encoded(api: Api, name: str) -> None:
    answer = api.upload(name)
    assert answer.status_code == 201, answer.text
    encoded = "".join(f"%{byte:02X}" for byte in name.encode())
    for form in (name, encoded):
        for tail in ("latest", "versions/v1", "trend?metric=wall_ms"):
            found = api.get(f"/projects/p/baselines/{form}/{tail}")
            assert found.status_code == 200 and found.json["benchmark"] == name
    assert api.get(answer.headers["Location"]).json["benchmark"] == name
    assert api.versions_listed(f"?benchmark={encoded}") == ["v1"]


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a/..", "a/./b", "/a", "a/", "a//b", "versions", "a/versions"]
    + ["a b", "a\n", "é", "a%b", "a?b", "a#b", "x" * 257, "a\\b", "a;b", "~"],
)
def test_a_bad_benchmark_is_named_in_a_body_as_in_a_path(api: Api, name: str) -> None:
    fails(api.upload(name), 400, "benchmark")
    encoded = "".join(f"%{byte:02X}" for byte in name.encode())
    fails(api.put(encoded), 400, "benchmark")
    assert api.list(f"?benchmark={encoded or 'x'}").json["baselines"] == []


def test_every_path_has_one_reading(api: Api) -> None:
    """Behind `versions` the words latest, versions, trend and promote are versions."""
    for version in ("latest", "versions", "trend", "promote"):
        assert api.put("x", version).status_code == 201
        found = api.get(f"/projects/p/baselines/x/versions/{version}")
        assert (found.json["benchmark"], found.json["version"]) == ("x", version)
    fails(api.get("/projects/p/baselines/versions/latest"), 400, "benchmark")
    fails(api.get("/projects/p/baselines/versions/trend"), 400, "benchmark")
    fails(api.get("/projects/p/baselines/versions/versions"), 400, "benchmark")
    fails(api("POST", "/projects/p/baselines/x/versions/promote", json={}), 405)


@pytest.mark.parametrize("version", ["v1", "1.0.0-rc.1+build", "feature:x@(1)=~!", "x" * 128])
def test_good_versions(api: Api, version: str) -> None:
    answer = api.put("b", version)
    assert answer.status_code == 201
    assert api.get(answer.headers["Location"]).json["version"] == version


@pytest.mark.parametrize("version", ["", ".", "..", "x" * 129, "a b", "a\n", "é", "a,b", "a[b]"])
def test_bad_versions(api: Api, version: str) -> None:
    fails(api.upload(version=version), 400, "version")
    encoded = "".join(f"%{byte:02X}" for byte in version.encode())
    fails(api.put("b", encoded), 400, "version")
    api.upload()
    fails(api.promote("v1", version), 400, "to_version")
    fails(api.promote(version, "v2"), 400, "from_version")


@pytest.mark.parametrize("project", [".p", "-p", "_p", "p q", "é", "x" * 65, "p%0A"])
def test_bad_projects(api: Api, project: str) -> None:
    fails(api.get(f"/projects/{project}/baselines"), 400, "project")
    assert api.get(f"/projects/{'x' * 64}/baselines").status_code == 200


# -- keys


MATRIX = [
    ("GET", "/projects/p/baselines", None, "viewer contributor promoter admin"),
    ("GET", "/projects/p/baselines/b/latest", None, "viewer contributor promoter admin"),
    ("HEAD", "/projects/p/baselines/b/latest", None, "viewer contributor promoter admin"),
    ("GET", "/projects/p/baselines/b/versions", None, "viewer contributor promoter admin"),
    ("GET", VERSION, None, "viewer contributor promoter admin"),
    ("GET", f"{TREND}?metric=wall_ms", None, "viewer contributor promoter admin"),
    ("GET", "/projects/p/verdicts", None, "viewer contributor promoter admin"),
    ("POST", "/projects/p/verdicts", "verdict", "contributor promoter admin"),
    ("POST", COMPARE, "receipt", "viewer contributor promoter admin"),
    ("POST", f"{COMPARE}?record=1", "receipt", "contributor promoter admin"),
    ("POST", "/projects/p/baselines", "upload", "contributor promoter admin"),
    ("PUT", VERSION, "receipt", "contributor promoter admin"),
    ("POST", "/projects/p/baselines/b/promote", "promotion", "promoter admin"),
    ("DELETE", VERSION, None, "admin"),
]
BODIES: dict[str | None, Any] = {
    None: None,
    "upload": {"benchmark": "b", "version": "v1", "receipt": receipt()},
    "receipt": receipt(),
    "promotion": {"from_version": "v1", "to_version": "v2"},
    "verdict": {
        "benchmark": "b",
        "run_id": "r",
        "status": "pass",
        "counts": {"pass": 1, "warn": 0, "fail": 0, "skip": 0},
        "reasons": [],
    },
}


@pytest.mark.parametrize("role", KEYS)
@pytest.mark.parametrize(("method", "path", "body", "roles"), MATRIX)
def test_roles_and_routes(
    api: Api, method: str, path: str, body: str | None, roles: str, role: str
) -> None:
    """The whole matrix: who may do what, the same whether or not there is anything."""
    refused = role not in roles.split()
    for there in (False, True):
        if there:
            api.upload()
        answer = api(method, path, role=role, json=BODIES[body])
        assert (answer.status_code == 403) == refused, answer.text
        if refused:
            assert fails(answer, 403)["code"] == "FORBIDDEN"


def test_every_route_under_projects_asks_for_a_permission(
    config: ServerConfig, create: Create
) -> None:
    """A view that nobody marked would be open to every key, or to none."""
    app = create(config)
    public = {"health_root.get_health", "health_v1.get_health"}
    rules = [rule for rule in app.url_map.iter_rules() if rule.endpoint not in public]
    assert {rule.endpoint for rule in rules} == {
        endpoint for endpoint in app.view_functions if endpoint not in public
    }
    routes = {(rule.rule, method) for rule in rules for method in rule.methods or ()}
    assert len([1 for _, method in routes if method not in ("HEAD", "OPTIONS")]) == 2 * 12
    for rule in rules:
        assert hasattr(app.view_functions[rule.endpoint], "permission"), rule


@pytest.mark.parametrize(("method", "path", "body", "roles"), MATRIX)
@pytest.mark.parametrize(
    "header",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer pg_live_short",
        "Bearer pg_live_" + "X" * 32,
        "Bearer pg_live_" + "é" * 32,
        "Basic " + KEYS["admin"],
        KEYS["admin"],
        f"Bearer {KEYS['admin']}x",
        f"Bearer {KEYS['admin'].upper()}",
        f"Bearer {KEYS['admin']},Bearer {KEYS['admin']}",
        f"Bearer\t{KEYS['admin']}",
    ],
    ids=range(13),
)
def test_without_a_known_key_everything_is_401(
    api: Api, method: str, path: str, body: str | None, roles: str, header: str | None
) -> None:
    headers = {} if header is None else {"Authorization": header}
    answer = api(method, path, role=None, headers=headers, json=BODIES[body])
    if method != "HEAD":
        error = fails(answer, 401)
        assert error["code"] == "UNAUTHORIZED"
        assert KEYS["admin"] not in error["message"]
    assert answer.status_code == 401
    assert answer.headers["WWW-Authenticate"] == 'Bearer realm="perfgate"'


def test_the_scheme_is_in_any_case(api: Api) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        headers = {"Authorization": f"{scheme} {KEYS['viewer']}"}
        assert api.list(role=None, headers=headers).status_code == 200


@pytest.fixture
def limited(config: ServerConfig, create: Create) -> Api:
    """An API whose contributor key "limited" reaches project p's io/… benchmarks only."""
    from perfgate_server import Role

    KEYS_LIMITED = "pg_live_" + "L" * 32
    config = config.api_key(KEYS_LIMITED, Role.ADMIN, "p", "io/.*")
    api = Api(create(config).test_client())
    for benchmark in ("io/read", "io/write", "cpu"):
        assert api.upload(benchmark, tags=["t"], git_ref="main").status_code == 201
    assert api.upload("io/read", project="q").status_code == 201
    api.limited = {"headers": {"Authorization": f"Bearer {KEYS_LIMITED}"}, "role": None}  # type: ignore[attr-defined]
    return api


def test_a_limited_key_reaches_its_own_and_nothing_else(limited: Any) -> None:
    own = limited.limited
    assert limited.get("/projects/p/baselines/io/read/latest", **own).status_code == 200
    for path in (
        "/projects/p/baselines/cpu/latest",
        "/projects/p/baselines/nothing/latest",
        "/projects/p/baselines/cpu/versions",
        "/projects/p/baselines/cpu/versions/v1",
        "/projects/p/baselines/cpu/trend?metric=wall_ms",
        "/projects/p/baselines/no..such/../latest",
        "/projects/q/baselines",
        "/projects/q/baselines/io/read/latest",
        "/projects/.bad/baselines",
    ):
        fails(limited.get(path, **own), 403)
    fails(limited("DELETE", "/projects/p/baselines/cpu/versions/v1", **own), 403)
    promote = {"from_version": "v1", "to_version": "v2"}
    fails(limited("POST", "/projects/p/baselines/cpu/promote", json=promote, **own), 403)


def test_a_limited_keys_lists_hold_only_its_own_totals_included(limited: Any) -> None:
    own = limited.limited
    for query, benchmarks in (
        ("", ["io/write", "io/read"]),
        ("?git_ref=main&tags=t", ["io/write", "io/read"]),
        ("?benchmark_prefix=io/w", ["io/write"]),
        ("?benchmark=cpu", []),
        ("?benchmark_prefix=c", []),
    ):
        answer = limited.list(query, **own)
        assert [entry["benchmark"] for entry in answer.json["baselines"]] == benchmarks
        assert answer.json["pagination"]["total"] == len(benchmarks)
        assert not answer.json["pagination"]["has_more"]
    assert "Link" in limited.list("?limit=1", **own).headers


def test_a_benchmark_in_a_body_is_checked_before_the_rest_of_it(limited: Any) -> None:
    own = limited.limited
    path = "/projects/p/baselines"
    spoiled = {"benchmark": "cpu", "receipt": "nonsense", "tags": 7}
    fails(limited("POST", path, json=spoiled, **own), 403)
    fails(limited("POST", path, json={"receipt": receipt()}, **own), 400, "benchmark")
    sent = {"benchmark": "io/new", "receipt": receipt()}
    assert limited("POST", path, json=sent, **own).status_code == 201


# -- the order of checks


def test_checks_come_in_their_order(api: Api) -> None:
    """Route, key, reach, size, media type, JSON, schema, storage: the first that fails speaks."""
    big = {"data": b"x" * (2**20 + 1)}
    path = "/projects/p/baselines"
    fails(api("POST", "/nowhere", role=None, **big), 404)
    fails(api("DELETE", path, role=None, **big), 405)
    fails(api("POST", path, role=None, **big), 401)
    fails(api("POST", path, role="viewer", **big), 403)
    fails(api("POST", path, **big), 413)
    fails(api("POST", path, data=b"{"), 415)
    fails(api("POST", path, data=b"{", content_type="application/json"), 400, "body")
    fails(api("POST", path, json={}), 400, "benchmark", "receipt")
    fails(api.promote("v1", "v2"), 404)


# -- errors and headers


def test_a_request_id_is_taken_or_made(api: Api) -> None:
    for good in ("a", "Job-1.2_3", "x" * 128):
        assert api.get("/health", headers={"X-Request-ID": good}).headers["X-Request-ID"] == good
    for bad in ("", "a b", "é", "x" * 129, "a/b", "{}", KEYS["admin"]):
        given = api.get("/nowhere", headers={"X-Request-ID": bad}).headers["X-Request-ID"]
        assert re.fullmatch(r"[0-9a-f]{32}", given)


def test_answers_end_with_a_newline_and_are_utf_8(api: Api) -> None:
    api.upload(metadata={"naïve": "🚀"})
    for path in ("/health", "/projects/p/baselines", VERSION, "/projects/p/baselines/b/versions"):
        answer = api.get(path)
        assert answer.data.endswith(b"}\n") and answer.content_type == "application/json"
    assert "🚀".encode() in api.get(VERSION).data


@pytest.mark.parametrize(
    "query", ["?git_ref=%FF", "?git_ref=%ED%A0%80", "?%FF=1", "?a=" + "&a=" * 300]
)
def test_a_query_that_is_not_utf_8_is_refused(api: Api, query: str) -> None:
    fails(api.list(query), 400, "query")
    fails(api.put(query=query), 400, "query")
    fails(api.list("?git_ref=a%00b"), 400, "git_ref")


def test_routes_without_parameters_say_so(api: Api) -> None:
    api.upload()
    fails(api("POST", "/projects/p/baselines?tag=x", json={}), 400, "tag")
    fails(api.get(VERSION + "?x=1"), 400, "x")
    fails(api("DELETE", VERSION + "?force=1"), 400, "force")
    fails(api.get("/projects/p/baselines/b/versions?benchmark=b"), 400, "benchmark")


# -- bodies


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "json"])
def test_an_envelope_wants_to_be_called_json(api: Api, kind: str | None) -> None:
    body = json.dumps(BODIES["upload"])
    for path in ("/projects/p/baselines", "/projects/p/baselines/b/promote"):
        error = fails(api("POST", path, data=body, content_type=kind), 415)
        assert "-H 'Content-Type: application/json'" in error["message"]


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/x+json"]
)
def test_kinds_of_json(api: Api, kind: str) -> None:
    body = json.dumps(BODIES["upload"])
    assert api("POST", "/projects/p/baselines", data=body, content_type=kind).status_code == 201


@pytest.mark.parametrize("body", [b"", b"{", b"[NaN]", b"[" * 100_000, b'"\xff"', b'"\\ud800"'])
def test_what_is_not_json_is_a_400_wherever_it_is_sent(api: Api, body: bytes) -> None:
    options = {"data": body, "content_type": "application/json"}
    fails(api("POST", "/projects/p/baselines", **options), 400, "body")
    fails(api("POST", "/projects/p/baselines/b/promote", **options), 400, "body")
    fails(api("PUT", VERSION, **options), 400, "body")


@pytest.mark.parametrize("value", [None, 1, "x", [], [{}]])
def test_what_is_no_object_is_refused(api: Api, value: Any) -> None:
    fails(api("POST", "/projects/p/baselines", json=value), 400, "body")
    fails(api("POST", "/projects/p/baselines/b/promote", json=value), 400, "body")
    fails(api("PUT", VERSION, json=value), 400, "receipt")


def test_a_body_over_the_limit_is_413(api: Api) -> None:
    body = json.dumps(receipt(padding="x" * 2**20))
    error = fails(api("PUT", VERSION, data=body), 413)
    assert error["code"] == "PAYLOAD_TOO_LARGE" and "1048576" in error["message"]


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_a_compressed_body_is_refused(api: Api, encoding: str) -> None:
    error = fails(api.put(headers={"Content-Encoding": encoding}), 415)
    assert "Content-Encoding" in error["message"]
    assert api.put(headers={"Content-Encoding": "identity"}).status_code == 201


def test_a_body_that_breaks_off_is_refused(api: Api) -> None:
    body = json.dumps(receipt()).encode()
    more = {"CONTENT_LENGTH": str(len(body) + 1)}
    answer = api("PUT", VERSION, data=body, environ_overrides=more)
    fails(answer, 400, "body")


def test_a_receipt_and_an_envelope_in_each_others_place_are_told_apart(api: Api) -> None:
    error = fails(api("POST", "/projects/p/baselines", json=receipt()), 400, "receipt")
    assert "PUT" in error["message"]
    error = fails(api("PUT", VERSION, json=BODIES["upload"]), 400, "receipt")
    assert "POST" in error["message"]


def test_no_message_echoes_a_key(api: Api) -> None:
    key = KEYS["admin"]
    for answer in (
        api.get(f"/projects/p/baselines/{key}/latest"),
        api.list(f"?{key}=1"),
        api.upload(metadata={key: 1}),
    ):
        assert answer.status_code >= 400 and key not in answer.text and "pg_test_…" in answer.text


def test_null_is_not_given_and_empty_is(api: Api) -> None:
    nothing = dict.fromkeys(("git_ref", "git_sha", "metadata", "tags", "normalize"))
    assert api.upload(version=None, **nothing).status_code == 201
    api.upload(git_ref="r", tags=["t"])
    assert api.promote("v1", "v2", git_ref=None, tags=None).status_code == 201
    assert api.get("/projects/p/baselines/b/versions/v2").json["tags"] == ["t"]
    assert api.promote("v1", "v3", tags=[]).status_code == 201
    assert api.get("/projects/p/baselines/b/versions/v3").json["tags"] == []
    fails(api.upload(receipt=None), 400, "receipt")
    fails(api.upload(benchmark=None), 400, "benchmark")


def test_unknown_members_are_ignored_and_named(api: Api) -> None:
    answer = api.upload(tag="x", Version="2")
    assert answer.json["ignored"] == ["tag", "Version"]
    again = api.upload(note="x")
    assert (again.status_code, again.json["ignored"]) == (200, ["note"])
    assert api.promote("v1", "v2", x=1).json["ignored"] == ["x"]
    assert "ignored" not in api.upload(version="v3").json


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"git_ref": ""}, "git_ref"),
        ({"git_ref": "x" * 257}, "git_ref"),
        ({"git_ref": 7}, "git_ref"),
        ({"git_sha": ""}, "git_sha"),
        ({"tags": "x"}, "tags"),
        ({"tags": [""]}, "tags.0"),
        ({"tags": ["a", "b,c"]}, "tags.1"),
        ({"tags": ["x" * 65]}, "tags.0"),
        ({"tags": ["a\tb"]}, "tags.0"),
        ({"tags": [None]}, "tags.0"),
        ({"tags": [str(number) for number in range(33)]}, "tags"),
        ({"metadata": []}, "metadata"),
        ({"metadata": {"": "x"}}, "metadata."),
        ({"metadata": {"x" * 129: "x"}}, "metadata." + "x" * 129),
        ({"metadata": {"x": 1}}, "metadata.x"),
        ({"metadata": {"_schema": 1}}, "metadata._schema"),
        ({"metadata": {"x": "y" * 1025}}, "metadata.x"),
        ({"metadata": {str(number): "" for number in range(65)}}, "metadata"),
        ({"normalize": "true"}, "normalize"),
        ({"normalize": 1}, "normalize"),
    ],
    ids=itertools.count(),
)
def test_bad_members_are_named(api: Api, members: dict[str, Any], field: str) -> None:
    fails(api.upload(**members), 400, field)
    assert api.versions_listed() == []


def test_bounds_are_inclusive(api: Api) -> None:
    answer = api.upload(
        git_ref="r" * 256,
        git_sha="s" * 256,
        tags=["t" * 64, "t" * 64] + [str(number) for number in range(31)],
        metadata={"n" * 128: "v" * 1024} | {str(number): "" for number in range(63)},
    )
    assert answer.status_code == 201, answer.text
    assert api.get(VERSION).json["tags"] == ["t" * 64] + [str(number) for number in range(31)]


# -- receipts


def spoil(path: str, value: Any) -> dict[str, Any]:
    """Return a receipt with one member replaced (or with ... removed)."""
    made = receipt()
    *parents, last = (int(part) if part.isdigit() else part for part in path.split("."))
    inner: Any = made
    for part in parents:
        inner = inner[part]
    if value is ...:
        del inner[last]
    else:
        inner[last] = value
    return made


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("schema", "perfgate.run.v2"),
        ("schema", ...),
        ("tool", None),
        ("tool.name", 1),
        ("run.id", ...),
        ("run.started_at", None),
        ("run.host", []),
        ("run.host.os", ...),
        ("run.host.cpu_count", 2**32),
        ("run.host.memory_bytes", -1),
        ("bench.command", "sleep 1"),
        ("bench.command", ...),
        ("bench.command.1", 7),
        ("bench.repeat", 1.0),
        ("bench.warmup", "1"),
        ("bench.work_units", True),
        ("samples", {}),
        ("samples", None),
        ("samples.1", "x"),
        ("samples.0.wall_ms", ...),
        ("samples.0.wall_ms", None),
        ("samples.1.wall_ms", 1.0),
        ("samples.1.wall_ms", True),
        ("samples.1.wall_ms", "1"),
        ("samples.1.wall_ms", 2**64),
        ("samples.1.wall_ms", -1),
        ("samples.0.exit_code", 2**31),
        ("samples.0.exit_code", None),
        ("samples.0.timed_out", 0),
        ("samples.0.cpu_ms", 0.5),
        ("samples.1.stdout", 1),
        ("stats.wall_ms", None),
        ("stats.wall_ms", ...),
        ("stats.wall_ms.median", 1.5),
        ("stats.wall_ms.mean", "1"),
        ("stats.throughput_per_s.max", None),
        ("stats.throughput_per_s.median", False),
    ],
    ids=str,
)
def test_a_bad_receipt_names_the_member(api: Api, path: str, value: Any) -> None:
    spoiled = spoil(path, value)
    fails(api.upload(receipt=spoiled), 400, f"receipt.{path}")
    fails(api.put(json=spoiled), 400, f"receipt.{path}")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("samples", []),
        ("samples.0.wall_ms", 2**64 - 1),
        ("samples.0.exit_code", -(2**31)),
        ("samples.0.warmup", None),
        ("samples.0.cpu_ms", None),
        ("bench.cwd", "/tmp"),
        ("bench.timeout_ms", None),
        ("run.host.cpu_count", None),
        ("stats.wall_ms.mean", 2**70),
        ("stats.throughput_per_s", None),
        ("stats.throughput_per_s.median", 3),
        ("stats.throughput_per_s.median", 10**308),
        ("bench.name", "not the benchmark"),
        ("later", {"version": [1, 2.5, None, {"deep": "naïve 🚀"}], "big": 10**40, "-0": -0.0}),
        ("samples.1.later", [1]),
    ],
    ids=str,
)
def test_a_good_receipt_comes_back_value_for_value(api: Api, path: str, value: Any) -> None:
    sent = spoil(path, value)
    assert api.upload(receipt=sent).status_code == 201
    found = api.get(VERSION).json["receipt"]
    assert found == sent
    assert json.dumps(found, sort_keys=True) == json.dumps(sent, sort_keys=True)


def test_errors_of_a_receipt_are_a_few_and_all_their_names(api: Api) -> None:
    error = fails(
        api.upload(receipt=receipt(samples=[{"wall_ms": -1}])),
        400,
        "receipt.samples.0.wall_ms",
        "receipt.samples.0.exit_code",
    )
    assert "1 more" in error["message"]
    many = api.upload(receipt=receipt(samples=[7] * 10_000))
    details = many.json["error"]["details"]
    assert many.status_code == 400 and len(details) == 51
    assert "50 samples" in details["receipt.samples"]


# -- upload


def test_an_upload_answers_and_stores(api: Api) -> None:
    sent = {
        "git_ref": "refs/heads/main",
        "git_sha": "abc123",
        "metadata": {"runner": "ci"},
        "tags": ["nightly", "x86", "nightly"],
    }
    answer = api.upload("cli/b", "v1", role="contributor", **sent)
    assert answer.status_code == 201
    assert set(answer.json) == {"id", "benchmark", "version", "created_at", "etag"}
    assert answer.headers["ETag"] == answer.json["etag"]
    assert answer.headers["Location"] == "/projects/p/baselines/cli/b/versions/v1"
    record = api.get(answer.headers["Location"])
    assert record.headers["ETag"] == answer.headers["ETag"]
    canonical = json.dumps(receipt(), sort_keys=True, separators=(",", ":")).encode()
    digest = hashlib.sha256(KEYS["contributor"].encode()).hexdigest()
    assert record.json == {
        "schema": "perfgate.baseline.v1",
        "id": answer.json["id"],
        "project": "p",
        "benchmark": "cli/b",
        "version": "v1",
        "git_ref": "refs/heads/main",
        "git_sha": "abc123",
        "metadata": {"runner": "ci"},
        "tags": ["nightly", "x86"],
        "created_at": answer.json["created_at"],
        "updated_at": answer.json["created_at"],
        "created_by": f"contributor:{digest[:8]}",
        "content_hash": hashlib.sha256(canonical).hexdigest(),
        "source": "upload",
        "deleted": False,
        "receipt": receipt(),
    }
    assert TIME.fullmatch(record.json["created_at"])


def test_a_location_is_never_built_from_the_host(api: Api) -> None:
    answer = api.put("Vec<u8>/[x]", headers={"Host": "evil.example"})
    assert answer.headers["Location"].startswith("/projects/p/baselines/Vec%3Cu8%3E/")
    assert "evil" not in str(answer.headers)


def test_a_retried_upload_is_its_first_answer(api: Api) -> None:
    first = api.upload(tags=["a", "b"], metadata={"x": "1", "y": "2"})
    turned = json.loads(json.dumps(receipt(), sort_keys=True))
    again = api.upload(receipt=turned, tags=["a", "b", "a"], metadata={"y": "2", "x": "1"})
    assert again.status_code == 200
    assert again.data == first.data
    assert again.headers["ETag"] == first.headers["ETag"]
    assert again.headers["Location"] == first.headers["Location"]
    by_put = api.put(query="?tag=a&tag=b&meta.x=1&meta.y=2")
    assert (by_put.status_code, by_put.data) == (200, first.data)


def test_another_upload_of_a_version_is_409_and_tells_both_hashes(api: Api) -> None:
    api.upload()
    stored = api.get(VERSION).json["content_hash"]
    error = fails(api.upload(receipt=receipt(wall_ms=7)), 409)
    assert error["code"] == "ALREADY_EXISTS"
    assert error["details"]["stored_content_hash"] == stored
    assert error["details"]["sent_content_hash"] != stored
    assert error["details"]["differs"] == ["receipt"]
    assert "tags" in fails(api.upload(tags=["x"]), 409)["message"]
    assert api.get(VERSION).json["receipt"] == receipt()


def test_without_a_version_each_upload_makes_its_own(api: Api) -> None:
    made = {api.upload(version=None).json["version"] for _ in range(5)}
    assert len(made) == 5
    assert all(re.fullmatch(r"\d{8}T\d{6}\.\d{6}Z-[0-9a-f]{8}", version) for version in made)
    for version in made:
        assert api.get(f"/projects/p/baselines/b/versions/{version}").status_code == 200


def test_normalize_takes_away_what_differs_between_equal_runs(api: Api) -> None:
    api.upload(normalize=True)
    assert api.get(VERSION).json["receipt"] == normalized(receipt())
    other = receipt()
    other["run"] |= {"id": "run-2", "started_at": "later"}
    assert api.upload(normalize=True, receipt=other).status_code == 200
    assert api.upload(receipt=other).status_code == 409
    assert api.put(query="?normalize=true", json=other).status_code == 200


def test_a_deleted_version_is_a_new_record_when_uploaded_again(api: Api) -> None:
    first = api.upload()
    deleted = api.delete()
    assert deleted.status_code == 200
    assert deleted.json["deleted"] is True and deleted.json["id"] == first.json["id"]
    assert (deleted.json["benchmark"], deleted.json["version"]) == ("b", "v1")
    assert TIME.fullmatch(deleted.json["deleted_at"])
    for path in (VERSION, "/projects/p/baselines/b/latest", "/projects/p/baselines/b/versions"):
        fails(api.get(path), 404)
    fails(api.delete(), 404)
    second = api.upload(receipt=receipt(wall_ms=7))
    assert second.status_code == 201
    assert second.json["id"] != first.json["id"]
    assert second.headers["ETag"] != first.headers["ETag"]


# -- upload by PUT


def test_put_takes_the_receipt_as_it_is_and_the_rest_from_the_query(api: Api) -> None:
    query = "?git_ref=refs%2Fheads%2Fmain&git_sha=abc&tag=a&tag=b%20c&meta.runner=ci&meta.x.y="
    answer = api.put(query=query, headers={"Content-Type": "text/whatever"})
    assert answer.status_code == 201
    record = api.get(VERSION).json
    assert (record["git_ref"], record["git_sha"]) == ("refs/heads/main", "abc")
    assert record["tags"] == ["a", "b c"]
    assert record["metadata"] == {"runner": "ci", "x.y": ""}
    assert record["receipt"] == receipt()


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?version=v2", "version"),
        ("?tags=a", "tags"),
        ("?git_ref=", "git_ref"),
        ("?git_ref=a&git_ref=b", "git_ref"),
        ("?tag=", "tag.0"),
        ("?tag=a&tag=b,c", "tag.1"),
        ("?meta.=x", "meta."),
        ("?meta.x=1&meta.x=1", "meta.x"),
        ("?meta=x", "meta"),
        ("?meta=x&meta.a=b", "meta"),
        ("?_schema=1", "_schema"),
        ("?=1", ""),
        ("?normalize=yes", "normalize"),
        ("?normalize=", "normalize"),
        ("?metadata=x", "metadata"),
    ],
)
def test_put_refuses_other_parameters(api: Api, query: str, field: str) -> None:
    fails(api.put(query=query), 400, field)
    assert api.versions_listed() == []


def test_if_none_match_star_makes_an_existing_version_412(api: Api) -> None:
    star = {"headers": {"If-None-Match": "*"}}
    assert api.put(**star).status_code == 201
    assert fails(api.put(**star), 412)["code"] == "PRECONDITION_FAILED"
    assert api.put().status_code == 200


# -- read


def test_latest_is_the_newest_whichever_way_it_was_made(api: Api) -> None:
    def latest() -> Any:
        return api.get("/projects/p/baselines/b/latest").json

    api.upload("b", "v1")
    api.put("b", "v2")
    assert latest()["version"] == "v2"
    api.promote("v1", "prod")
    assert (latest()["version"], latest()["promoted_from"]) == ("prod", "v1")
    api.delete("prod")
    assert latest()["version"] == "v2"
    fails(api.get("/projects/p/baselines/c/latest"), 404)


def test_absent_members_are_left_out_of_a_record(api: Api) -> None:
    api.upload()
    assert not {"git_ref", "git_sha", "promoted_from"} & set(api.get(VERSION).json)


@pytest.mark.parametrize("query", ["", "?receipt=only"])
@pytest.mark.parametrize("path", [VERSION, "/projects/p/baselines/b/latest"])
def test_conditional_reads(api: Api, path: str, query: str) -> None:
    api.upload()
    first = api.get(path + query)
    tag = first.headers["ETag"]
    assert re.fullmatch(r'"sha256:[0-9a-f]{64}"', tag)
    assert first.headers["Cache-Control"] == "private, no-cache"
    for condition in (tag, f"W/{tag}", "*", f'"x", {tag}', f'W/"x",{tag}'):
        answer = api.get(path + query, headers={"If-None-Match": condition})
        assert (answer.status_code, answer.data) == (304, b""), condition
        assert answer.headers["ETag"] == tag
        assert answer.headers["Cache-Control"] == "private, no-cache"
        assert "Content-Type" not in answer.headers
    for condition in ('"x"', '"sha256:"', "", '"' + "0" * 64 + '"'):
        assert api.get(path + query, headers={"If-None-Match": condition}).data == first.data


def test_a_304_reads_no_receipt(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    from perfgate_server.storage.sql import SqlStorage

    api.upload()
    tag = api.get(VERSION).headers["ETag"]
    asked: list[bool] = []
    original = SqlStorage.get

    def get(self: Any, *names: str, receipt: bool, deadline: float) -> Any:
        asked.append(receipt)
        return original(self, *names, receipt=receipt, deadline=deadline)

    monkeypatch.setattr(SqlStorage, "get", get)
    assert api.get(VERSION, headers={"If-None-Match": tag}).status_code == 304
    assert asked == [False]


def test_an_etag_covers_all_that_a_record_shows(api: Api) -> None:
    tags = {
        api.upload("b", "v1").headers["ETag"],
        api.upload("b", "v2").headers["ETag"],
        api.upload("c", "v1").headers["ETag"],
        api.upload("b", "v3", tags=["t"]).headers["ETag"],
        api.promote("v1", "v4").headers["ETag"],
    }
    assert len(tags) == 5


def test_head_is_get_without_the_body(api: Api) -> None:
    api.upload()
    for path in (VERSION, VERSION + "?receipt=only", "/projects/p/baselines", "/health"):
        got, head = api.get(path), api("HEAD", path)
        assert (head.status_code, head.data) == (200, b"")
        assert head.headers["Content-Length"] == str(len(got.data))
        assert head.headers.get("ETag") == got.headers.get("ETag")


def test_a_bare_receipt_can_be_put_back(api: Api) -> None:
    api.upload()
    for path in (VERSION, "/projects/p/baselines/b/latest"):
        bare = api.get(path + "?receipt=only")
        assert bare.json == receipt()
        assert bare.headers["ETag"] != api.get(path).headers["ETag"]
        assert api("PUT", VERSION, data=bare.data).status_code == 200
    for bad in ("?receipt=", "?receipt=all", "?receipt=only&receipt=only"):
        fails(api.get(VERSION + bad), 400, "receipt")


# -- delete


def test_delete_can_be_made_conditional(api: Api) -> None:
    tag = api.upload().headers["ETag"]
    for other in ('"x"', f"W/{tag}", '"sha256:0", "y"'):
        fails(api.delete(headers={"If-Match": other}), 412)
    assert api.get(VERSION).status_code == 200
    assert api.delete(headers={"If-Match": f'"x", {tag}'}).status_code == 200
    fails(api.delete(headers={"If-Match": "*"}), 404)
    api.upload()
    assert api.delete(headers={"If-Match": "*"}).status_code == 200


def test_what_was_promoted_outlives_its_source(api: Api) -> None:
    api.upload()
    api.promote("v1", "prod")
    api.delete("v1")
    record = api.get("/projects/p/baselines/b/versions/prod").json
    assert (record["receipt"], record["promoted_from"]) == (receipt(), "v1")


# -- list


def test_a_list_entry(api: Api) -> None:
    made = api.upload(git_ref="main", tags=["t"])
    api.upload("c", "v2")
    answer = api.list().json
    assert answer["pagination"] == {"total": 2, "limit": 50, "offset": 0, "has_more": False}
    newest, first = answer["baselines"]
    assert first == {
        "id": made.json["id"],
        "benchmark": "b",
        "version": "v1",
        "created_at": made.json["created_at"],
        "git_ref": "main",
        "git_sha": None,
        "tags": ["t"],
        "source": "upload",
        "content_hash": api.get(VERSION).json["content_hash"],
    }
    assert newest["git_ref"] is None


def test_receipts_stand_in_a_list_only_when_asked_for(api: Api) -> None:
    api.upload(tags=["t"])
    for yes in ("true", "1"):
        (entry,) = api.list(f"?include_receipt={yes}&tags=t").json["baselines"]
        assert entry["receipt"] == receipt()
    for no in ("", "?include_receipt=false", "?include_receipt=0"):
        (entry,) = api.list(no).json["baselines"]
        assert "receipt" not in entry


def test_an_empty_project_is_an_empty_list(api: Api) -> None:
    answer = api.list(project="nothing")
    assert answer.json["baselines"] == [] and answer.json["pagination"]["total"] == 0


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?limit=1001", "limit"),
        ("?limit=-1", "limit"),
        ("?limit=1.0", "limit"),
        ("?limit=%2B1", "limit"),
        ("?limit=%D9%A3", "limit"),
        ("?limit=", "limit"),
        ("?limit=5&limit=5", "limit"),
        ("?offset=9223372036854775808", "offset"),
        ("?offset=" + "9" * 5000, "offset"),
        ("?cursor=x", "cursor"),
        ("?cursor=", "cursor"),
        ("?cursor=AAAAAAAAAAI%3D", "cursor"),
        ("?cursor=AAAAAAAAAAJ", "cursor"),
        ("?cursor=%C3%A9", "cursor"),
        ("?total=yes", "total"),
        ("?include_receipt=TRUE", "include_receipt"),
        ("?source=migrate", "source"),
        ("?tags=", "tags"),
        ("?tags=a,,b", "tags"),
        ("?git_ref=", "git_ref"),
        ("?git_sha=", "git_sha"),
        ("?benchmark=", "benchmark"),
        ("?benchmark_prefix=", "benchmark_prefix"),
        ("?bench=b", "bench"),
        ("?since=", "since"),
        ("?since=2026-03-08", "since"),
        ("?since=2026-03-08T12:00:00", "since"),
        ("?since=2026-W01-1T00:00:00Z", "since"),
        ("?since=2026-02-30T00:00:00Z", "since"),
        ("?since=2026-03-08T24:00:00Z", "since"),
        ("?since=2026-03-08T12:00:00.Z", "since"),
        ("?since=2026-03-08T12:00:00%2B24:00", "since"),
        ("?until=now", "until"),
        ("?until=%D9%A2026-03-08T12:00:00Z", "until"),
    ],
    ids=range(34),
)
def test_a_parameter_that_cannot_be_parsed_is_named(api: Api, query: str, field: str) -> None:
    fails(api.list(query), 400, field)


def test_cursor_and_offset_exclude_each_other(api: Api) -> None:
    for version in ("v1", "v2", "v3"):
        api.upload("b", version)
    link = api.list("?limit=1").headers["Link"]
    cursor = re.search(r"cursor=([\w-]+)", link)
    assert cursor
    fails(api.list(f"?cursor={cursor[1]}&offset=0"), 400, "cursor")
    assert api.list(f"?cursor={cursor[1]}").json["pagination"] == {
        "total": 3,
        "limit": 50,
        "offset": None,
        "has_more": False,
    }


@pytest.mark.parametrize(
    "query", ["?git_ref=" + "x" * 300, "?tags=" + "x" * 100, "?benchmark_prefix=..", "?git_sha=%20"]
)
def test_a_filter_that_can_match_nothing_is_an_empty_list(api: Api, query: str) -> None:
    api.upload(git_ref="main", tags=["t"])
    assert api.versions_listed(query) == []


@pytest.mark.parametrize(
    ("bound", "since", "until"),
    [
        ("2026-03-08T12:00:00.123456Z", True, True),
        ("2026-03-08t12:00:00.123456z", True, True),
        ("2026-03-08T12:00:00.1234560000Z", True, True),
        ("2026-03-08T14:00:00.123456%2B02:00", True, True),
        ("2026-03-08T14:00:00.123456+02:00", True, True),
        ("2026-03-08T07:00:00.123456-05:00", True, True),
        ("2026-03-08T12:00:00.123457Z", False, True),
        ("2026-03-08T12:00:00.123455Z", True, False),
        ("2026-03-08T12:00:00.1234561Z", False, True),
        ("2026-03-08T12:00:00.1234559999Z", True, False),
        ("2026-03-08T12:00:00Z", True, False),
        ("2026-03-08T11:59:60.5Z", False, True),
        ("0001-01-01T00:00:00%2B14:00", True, False),
        ("9999-12-31T23:59:59-14:00", False, True),
    ],
)
def test_times_are_inclusive_to_the_microsecond(
    api: Api, monkeypatch: pytest.MonkeyPatch, bound: str, since: bool, until: bool
) -> None:
    """A finer bound is rounded so that the comparison stays right."""
    monkeypatch.setattr("perfgate_server.records.now", lambda: "2026-03-08T12:00:00.123456Z")
    api.upload()
    assert bool(api.versions_listed(f"?since={bound}")) == since
    assert bool(api.versions_listed(f"?until={bound}")) == until


def follow(api: Api, path: str, name: str) -> list[Any]:
    """Walk a list by its Link headers."""
    found: list[Any] = []
    query = path[path.index("?") :]
    while True:
        answer = api.get(path[: path.index("?")] + query)
        assert answer.status_code == 200
        found += answer.json[name]
        link = answer.headers.get("Link")
        assert (link is not None) == answer.json["pagination"]["has_more"]
        if link is None:
            return found
        match = re.fullmatch(r'<(\?[^<>]*)>; rel="next"', link)
        assert match, link
        query = match[1]


def test_links_lead_through_the_whole_list_and_keep_the_filters(api: Api) -> None:
    for number in range(7):
        api.upload("io/b" if number % 2 else "cpu", f"v{number}", tags=["a b", "é"])
    walked = follow(api, "/projects/p/baselines?limit=2&tags=a%20b,%C3%A9&total=false", "baselines")
    assert [entry["version"] for entry in walked] == [f"v{n}" for n in (6, 5, 4, 3, 2, 1, 0)]
    walked = follow(api, "/projects/p/baselines?benchmark_prefix=io/&limit=1", "baselines")
    assert [entry["version"] for entry in walked] == ["v5", "v3", "v1"]
    walked = follow(api, "/projects/p/baselines/cpu/versions?limit=3", "versions")
    assert [entry["version"] for entry in walked] == ["v6", "v4", "v2", "v0"]
    walked = follow(api, "/projects/p/baselines?offset=2&limit=2", "baselines")
    assert [entry["version"] for entry in walked] == ["v4", "v3", "v2", "v1", "v0"]


def test_a_page_of_nothing_has_no_link(api: Api) -> None:
    api.upload()
    answer = api.list("?limit=0")
    assert "Link" not in answer.headers
    assert answer.json["pagination"] == {"total": 1, "limit": 0, "offset": 0, "has_more": True}
    assert api.list("?total=false").json["pagination"]["total"] is None


# -- history


def test_a_history_entry(api: Api) -> None:
    api.upload("b", "v1", role="contributor", git_sha="abc", tags=["t"])
    api.promote("v1", "v2", role="promoter", tags=[])
    answer = api.get("/projects/p/baselines/b/versions").json
    assert answer["pagination"] == {"total": 2, "limit": 50, "offset": 0, "has_more": False}
    promoted, uploaded = answer["versions"]
    content_hash = api.get(VERSION).json["content_hash"]
    assert uploaded == {
        "version": "v1",
        "git_sha": "abc",
        "created_at": api.get(VERSION).json["created_at"],
        "created_by": api.get(VERSION).json["created_by"],
        "is_current": False,
        "source": "upload",
        "tags": ["t"],
        "content_hash": content_hash,
    }
    assert promoted["is_current"] is True
    assert (promoted["source"], promoted["promoted_from"]) == ("promote", "v1")
    assert promoted["created_by"].startswith("promoter:")
    fails(api.get("/projects/p/baselines/c/versions"), 404)


# -- promote


def test_a_promotion_answers_and_stores(api: Api) -> None:
    api.upload(git_ref="dev", git_sha="abc", tags=["t"], metadata={"m": "1"})
    answer = api.promote("v1", "prod", git_ref="main")
    assert answer.status_code == 201
    assert set(answer.json) == {
        "id",
        "benchmark",
        "version",
        "promoted_from",
        "promoted_at",
        "created_at",
    }
    assert answer.headers["Location"] == "/projects/p/baselines/b/versions/prod"
    record = api.get(answer.headers["Location"])
    assert record.headers["ETag"] == answer.headers["ETag"]
    assert record.json["git_ref"] == "main" and record.json["git_sha"] == "abc"
    assert record.json["tags"] == ["t"] and record.json["metadata"] == {"m": "1"}
    assert (record.json["source"], record.json["promoted_from"]) == ("promote", "v1")
    assert record.json["receipt"] == receipt()
    assert api.versions_listed("?source=promote") == ["prod"]


def test_a_retried_promotion_is_its_first_answer_and_another_is_409(api: Api) -> None:
    api.upload()
    first = api.promote("v1", "prod")
    again = api.promote("v1", "prod")
    assert (again.status_code, again.data) == (200, first.data)
    assert again.headers["ETag"] == first.headers["ETag"]
    assert fails(api.promote("v1", "prod", tags=["x"]), 409)["details"]["differs"] == ["tags"]
    fails(api.promote("v1", "prod", normalize=True), 409)
    api.delete("v1")
    assert api.promote("v1", "prod").data == first.data
    fails(api.promote("v1", "other"), 404)


def test_a_promotion_can_normalize(api: Api) -> None:
    api.upload()
    assert api.promote("v1", "prod", normalize=True).status_code == 201
    record = api.get("/projects/p/baselines/b/versions/prod").json
    assert record["receipt"] == normalized(receipt())
    api.delete("v1")
    assert api.promote("v1", "prod", normalize=True).status_code == 200


# -- health


def test_health(api: Api, backend: str) -> None:
    answer = api.get("/health", role=None)
    assert answer.status_code == 200
    assert answer.json["status"] == "healthy"
    assert answer.json["storage"] == {"backend": backend, "status": "healthy"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", answer.json["version"])


# -- cross-origin


@pytest.mark.parametrize(
    ("path", "status"), [("/health", 200), ("/nowhere", 404), (VERSION, 401), (VERSION, 404)]
)
def test_any_origin_may_read_any_answer(api: Api, path: str, status: int) -> None:
    headers = {"Origin": "https://dash.example"}
    if status != 401:
        headers |= bearer()
    answer = api.get(path, role=None, headers=headers)
    assert answer.status_code == status
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert "Access-Control-Allow-Credentials" not in answer.headers
    exposed = answer.headers["Access-Control-Expose-Headers"].split(", ")
    assert {"ETag", "Link", "Location", "Retry-After", "X-Request-ID"} <= set(exposed)


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        (VERSION, "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("/projects/p/baselines", "GET, HEAD, OPTIONS, POST"),
        ("/api/v1/projects/p/baselines/b/promote", "OPTIONS, POST"),
    ],
)
def test_a_preflight_needs_no_key_and_tells_the_routed_methods(
    api: Api, path: str, methods: str
) -> None:
    answer = api(
        "OPTIONS",
        path,
        role=None,
        headers={
            "Origin": "https://dash.example",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": "authorization, if-match, x-request-id",
        },
    )
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Allow-Methods"] == methods
    allowed = answer.headers["Access-Control-Allow-Headers"].lower()
    assert all(name in allowed for name in ("authorization", "if-match", "x-request-id"))


def test_no_cors_turns_all_of_it_off(config: ServerConfig, create: Create) -> None:
    from dataclasses import replace

    api = Api(create(replace(config, no_cors=True)).test_client())
    headers = {"Origin": "https://dash.example", "Access-Control-Request-Method": "GET"}
    for method in ("GET", "OPTIONS"):
        answer = api(method, "/health", role=None, headers=headers)
        assert not [name for name in answer.headers.keys() if name.startswith("Access-Control")]


# -- proxies


def test_forwarded_headers_are_believed_only_for_as_many_hops_as_told(
    config: ServerConfig, create: Create
) -> None:
    from dataclasses import replace

    forwarded = {"X-Forwarded-Prefix": "/perf", "X-Forwarded-For": "10.0.0.9"}
    bare = Api(create(config).test_client())
    assert bare.put(headers=forwarded).headers["Location"] == VERSION
    behind = Api(create(replace(config, trusted_proxies=1)).test_client())
    location = behind.put("b", "v2", headers=forwarded).headers["Location"]
    assert location == "/perf/projects/p/baselines/b/versions/v2"
    for prefix, encoded in (("/a b", "/a%20b"), ("/prüf", "/pr%C3%BCf")):
        sent = {"X-Forwarded-Prefix": prefix.encode().decode("latin-1")}
        location = behind.put("b", "v2", headers=sent).headers["Location"]
        assert location == f"{encoded}/projects/p/baselines/b/versions/v2"

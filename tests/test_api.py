"""The wire contract: what holds for each route; on every backend, but for what is refused before
one is asked. Uploads and records have files of their own."""

from __future__ import annotations

import re
import time
from dataclasses import replace
from typing import Any

import pytest
from conftest import Api, Create
from support import KEYS, bearer, receipt
from werkzeug.test import EnvironBuilder, run_wsgi_app

from perfgate_server import Role, ServerConfig
from perfgate_server.errors import code_of
from perfgate_server.storage.base import Unavailable

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


@pytest.mark.parametrize(
    ("status", "code"),
    [
        (400, "VALIDATION_ERROR"),
        (401, "UNAUTHORIZED"),
        (403, "FORBIDDEN"),
        (404, "NOT_FOUND"),
        (405, "METHOD_NOT_ALLOWED"),
        (408, "REQUEST_TIMEOUT"),
        (409, "ALREADY_EXISTS"),
        (412, "PRECONDITION_FAILED"),
        (413, "PAYLOAD_TOO_LARGE"),
        (414, "URI_TOO_LONG"),
        (415, "UNSUPPORTED_MEDIA_TYPE"),
        (417, "EXPECTATION_FAILED"),
        (431, "REQUEST_HEADER_FIELDS_TOO_LARGE"),
        (500, "INTERNAL_ERROR"),
        (501, "NOT_IMPLEMENTED"),
        (503, "UNAVAILABLE"),
    ],
)
def test_each_status_has_its_code(status: int, code: str) -> None:
    assert code_of(status) == code


@pytest.mark.parametrize("role", [None, "admin"])
@pytest.mark.parametrize(
    "path",
    ["/", "/projects", "/projects/p", "/projects/p/baselines/", "/api/v2/health", "/health/"],
)
def test_an_unknown_route_is_404_with_or_without_a_key(
    quick: Api, path: str, role: str | None
) -> None:
    error = fails(quick.get(path, role=role), 404)
    assert (error["code"], error["details"]) == ("NOT_FOUND", {"missing": "route"})
    is_empty = path.endswith("/") and path != "/"
    more = ": the path has an empty segment." if is_empty else ". All are at the root and, alike,"
    assert error["message"].startswith(f"There is no such route{more}")


@pytest.mark.parametrize(
    "path",
    [
        "/projects/org/repo/baselines",
        "/projects/org/repo/baselines/b/versions/v1",
        "/api/v1/projects/org%2Frepo/verdicts",
        "/projects/p/baselines/b/versions/feature/x",
        "/projects/p/baselines/b/versions/feature%2Fx",
    ],
)
def test_a_slash_in_a_project_or_a_version_is_told_of(quick: Api, path: str) -> None:
    """As of a repository's name, or a branch's."""
    assert "slash" in fails(quick.get(path), 404)["message"]


def test_a_script_can_tell_what_is_missing(api: Api) -> None:
    """A wrong path must not look like a benchmark that has no baseline yet."""
    api.upload()
    for path, missing in (
        ("b/latst", "route"),
        ("other/latest", "benchmark"),
        ("other/versions", "benchmark"),
        ("b/versions/v2", "version"),
        ("other/versions/v1", "benchmark"),
    ):
        error = fails(api.get(f"/projects/p/baselines/{path}"), 404)
        assert error["details"] == {"missing": missing}, path
    for benchmark, missing in (("b", "version"), ("other", "benchmark")):
        for answer in (
            api.delete("v2", benchmark),
            api.promote("v2", "v3", benchmark),
        ):
            assert fails(answer, 404)["details"] == {"missing": missing}


def test_a_benchmark_alone_is_told_what_there_is(quick: Api) -> None:
    for path in ("b", "a/b", "b/versions/v1/x"):
        message = fails(quick.get(f"/projects/p/baselines/{path}"), 404)["message"]
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
    quick: Api, method: str, path: str, allowed: set[str]
) -> None:
    answer = quick(method, path, role=None)
    assert fails(answer, 405)["code"] == "METHOD_NOT_ALLOWED"
    assert answer.headers["Allow"] == ", ".join(sorted(allowed))  # each time the same


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


@pytest.mark.parametrize("path", ["//health", "///health", "//projects/p/baselines", "//\xff"])
def test_a_path_that_begins_with_two_slashes_is_no_route(quick: Api, path: str) -> None:
    # In a URL the test client would take what follows for a host.
    error = fails(quick.get("/", environ_overrides={"PATH_INFO": path}), 404)
    assert "empty segment" in error["message"]


# -- names


@pytest.mark.parametrize(
    "name",
    [
        "b",
        "path/to/bench",
        "tests/test_io.py::test_read[gzip]",
        "Vec<u8>(a,b)=c+d@e:f",
        "-x_y.z-",
        "...",
        "versions/x",
        "a/versions2",
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
def test_a_version_that_fits_a_path_is_taken(api: Api, version: str) -> None:
    answer = api.put("b", version)
    assert answer.status_code == 201
    assert api.get(answer.headers["Location"]).json["version"] == version


@pytest.mark.parametrize("version", ["", ".", "..", "x" * 129, "a b", "a\n", "é", "a,b", "a[b]"])
def test_a_version_that_fits_no_path_is_refused(api: Api, version: str) -> None:
    fails(api.upload(version=version), 400, "version")
    encoded = "".join(f"%{byte:02X}" for byte in version.encode())
    fails(api.put("b", encoded), 400, "version")
    api.upload()
    fails(api.promote("v1", version), 400, "to_version")
    fails(api.promote(version, "v2"), 400, "from_version")


@pytest.mark.parametrize("project", ["7", "A.b_c-d.", "p" * 64])
def test_good_projects(api: Api, project: str) -> None:
    assert api.upload(project=project).status_code == 201
    assert api.get(f"/projects/{project}/baselines/b/latest").json["project"] == project


@pytest.mark.parametrize("project", [".p", "-p", "_p", "p q", "é", "x" * 65, "p%0A"])
def test_bad_projects(quick: Api, project: str) -> None:
    fails(quick.get(f"/projects/{project}/baselines"), 400, "project")


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
            error = fails(answer, 403)
            assert (error["code"], error["details"]) == ("FORBIDDEN", {"denied": "role"})


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
        f"Bearer \t{KEYS['admin']}",
    ],
    ids=range(14),
)
def test_without_a_known_key_everything_is_401(quick: Api, header: str | None) -> None:
    headers = {} if header is None else {"Authorization": header}
    for method, path, body, _ in MATRIX:
        answer = quick(method, path, role=None, headers=headers, json=BODIES[body])
        if method != "HEAD":
            error = fails(answer, 401)
            assert error["code"] == "UNAUTHORIZED"
            assert KEYS["admin"] not in error["message"]
        assert answer.status_code == 401, (method, path)
        assert answer.headers["WWW-Authenticate"] == 'Bearer realm="perfgate"'


def test_the_scheme_is_in_any_case(api: Api) -> None:
    for scheme in ("bearer", "BEARER", "Bearer "):
        headers = {"Authorization": f"{scheme} {KEYS['viewer']}"}
        assert api.list(role=None, headers=headers).status_code == 200


@pytest.fixture
def limited(config: ServerConfig, create: Create) -> Api:
    """An API with a key of an admin, `limited`, that reaches project p's io/… benchmarks only."""
    key = "pg_live_" + "L" * 32
    config = config.api_key(key, Role.ADMIN, "p", "io/.*")
    api = Api(create(config).test_client())
    for benchmark in ("io/read", "io/write", "cpu"):
        assert api.upload(benchmark, tags=["t"], git_ref="main").status_code == 201
    assert api.upload("io/read", project="q").status_code == 201
    api.limited = {"headers": {"Authorization": f"Bearer {key}"}, "role": None}  # type: ignore[attr-defined]
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
        "/projects/p/baselines/cpu/versions/bad%20too",
        "/projects/q/baselines",
        "/projects/q/baselines/io/read/latest",
        "/projects/.bad/baselines",
    ):
        denied = "benchmark" if path.startswith("/projects/p/") else "project"
        assert fails(limited.get(path, **own), 403)["details"] == {"denied": denied}
    fails(limited("DELETE", "/projects/p/baselines/cpu/versions/v1", **own), 403)
    promote = {"from_version": "v1", "to_version": "v2"}
    fails(limited("POST", "/projects/p/baselines/cpu/promote", json=promote, **own), 403)


def test_a_bad_name_is_bad_for_a_limited_key_too(limited: Any) -> None:
    """Its owner would look for what is wrong with the key."""
    own, path = limited.limited, "/projects/p/baselines"
    for bad in ("no..such/..", "io/my bench", "io/versions"):
        if bad != "io/versions":
            fails(limited.get(f"{path}/{bad}/latest", **own), 400, "benchmark")
        sent: dict[str, Any] = {"benchmark": bad, "receipt": receipt()}
        fails(limited("POST", path, json=sent, **own), 400, "benchmark")
        verdict: dict[str, Any] = {"benchmark": bad, "run_id": "r", "status": "pass", "reasons": []}
        verdict["counts"] = dict.fromkeys(("pass", "warn", "fail", "skip"), 0)
        fails(limited("POST", "/projects/p/verdicts", json=verdict, **own), 400, "benchmark")
    for odd in (7, None, ["io/read"]):
        sent = {"benchmark": odd, "receipt": receipt()}
        fails(limited("POST", path, json=sent, **own), 400, "benchmark")


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


def test_a_list_holds_no_benchmark_that_only_begins_as_a_keys_own(
    config: ServerConfig, create: Create
) -> None:
    key = "pg_live_" + "L" * 32
    api = Api(create(config.api_key(key, Role.VIEWER, "p", "io/r[a-e]+d")).test_client())
    for benchmark in ("io/read", "io/rename"):
        api.upload(benchmark)
    answer = api.list(role=None, headers={"Authorization": f"Bearer {key}"}).json
    assert [entry["benchmark"] for entry in answer["baselines"]] == ["io/read"]


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
    big: dict[str, Any] = {"data": b"x" * (2**20 + 1)}
    path = "/projects/p/baselines"
    fails(api("POST", "/nowhere", role=None, **big), 404)
    fails(api("DELETE", path, role=None, **big), 405)
    fails(api("POST", path, role=None, **big), 401)
    fails(api("POST", path, role="viewer", **big), 403)
    fails(api("POST", path, **big), 413)
    fails(api("POST", path, data=b"{"), 415)
    fails(api("POST", path, data=b"{", content_type="application/json"), 400, "body")
    fails(api("POST", path, json={}), 400, "benchmark", "receipt")
    fails(api("PUT", VERSION + "?x=1", data=b"{"), 400, "body")
    parts = [f"receipt.{name}" for name in ("bench", "run", "samples", "schema", "stats", "tool")]
    fails(api("PUT", VERSION + "?x=1&git_ref=", json={}), 400, "x", "git_ref", *parts)
    fails(api.promote("v1", "v2"), 404)


# -- errors and headers


def test_a_request_id_is_taken_or_made(quick: Api) -> None:
    for good in ("a", "Job-1.2_3", "x" * 128):
        assert quick.get("/health", headers={"X-Request-ID": good}).headers["X-Request-ID"] == good
    for bad in ("", "a b", "é", "x" * 129, "a/b", "{}", KEYS["admin"]):
        given = quick.get("/nowhere", headers={"X-Request-ID": bad}).headers["X-Request-ID"]
        assert re.fullmatch(r"[0-9a-f]{32}", given)


def test_answers_end_with_a_newline_and_are_utf_8(api: Api) -> None:
    api.upload(metadata={"naïve": "🚀"})
    bare, history = f"{VERSION}?receipt=only", "/projects/p/baselines/b/versions"
    for path in ("/health", "/projects/p/baselines", VERSION, bare, history):
        answer = api.get(path)
        assert answer.data.endswith(b"}\n") and answer.content_type == "application/json"
    assert "🚀".encode() in api.get(VERSION).data


@pytest.mark.parametrize(
    ("query", "name", "said"),
    [
        ("?git_ref=%FF", "git_ref", "UTF-8"),
        ("?git_ref=%ED%A0%80", "git_ref", "UTF-8"),
        ("?git_ref=%C3%A4&git_sha=%C3", "git_sha", "UTF-8"),
        ("?%FF=1", "query", "UTF-8"),
        ("?a=" + "&a=" * 256, "query", "at most 256 parameters"),
    ],
)
def test_a_query_that_is_not_utf_8_is_refused(quick: Api, query: str, name: str, said: str) -> None:
    for answer in (quick.list(query), quick.put(query=query)):
        assert said in fails(answer, 400, name)["details"][name]
    fails(quick.list("?foo=1&limit=-1&since=x"), 400, "foo", "limit", "since")
    fails(quick.list("?a=" + "&a=" * 255), 400, "a")
    fails(quick.list("?git_ref=a%00b"), 400, "git_ref")
    fails(quick.put(query="?meta.a%00=x"), 400, "meta.a\0")
    raw = {"QUERY_STRING": "git_ref=\xe9"}
    assert "UTF-8" in fails(quick.list(environ_overrides=raw), 400, "query")["details"]["query"]


def test_routes_without_parameters_say_so(api: Api) -> None:
    api.upload()
    told = fails(api("POST", "/projects/p/baselines?tag=x", json=[]), 400, "body", "tag")
    assert told["message"].startswith("tag: Unknown parameter;")
    fails(api.get(VERSION + "?x=1"), 400, "x")
    told = fails(api("DELETE", VERSION + "?force=1"), 400, "force")["details"]["force"]
    assert told == "Unknown parameter; this route takes none."
    fails(api.get("/projects/p/baselines/b/versions?benchmark=b"), 400, "benchmark")


@pytest.mark.parametrize(
    ("call", "wrong"),
    [
        ("GET baselines?limit=1&limit=x&total=x&foo=1&since=now", "limit total foo since"),
        ("PUT V?git_sha=a&git_sha=b&meta.x=1&meta.x=2&normalize=x", "git_sha meta.x normalize R"),
        ("PUT V?git_ref=%FF", "git_ref R"),
        ("PUT V?meta=1", "meta R"),
        ("PUT V?receipt=1", "receipt R"),
        ("POST baselines?x=1&x=2", "x benchmark receipt"),
        ("POST baselines/b/promote?x=1", "x from_version to_version"),
        ("POST baselines/b/compare?gate=1&gate=x&foo=1&git_ref=x", "gate foo git_ref R"),
        ("POST verdicts?git_ref=%FF", "git_ref benchmark run_id status counts reasons"),
    ],
)
def test_a_refusal_names_all_that_is_wrong(quick: Api, call: str, wrong: str) -> None:
    """Or a script is mended, and run, once for each."""
    method, path = call.replace("V?", "baselines/b/versions/v?").split(" ")
    answer = quick(method, f"/projects/p/{path}", json=None if method == "GET" else {})
    assert answer.status_code == 400, answer.text
    details = answer.json["error"]["details"]
    receipts = {name for name in details if name.startswith("receipt.")}
    assert {*details} - receipts == {*wrong.split(" ")} - {"R"}
    assert len(receipts) == (6 if "R" in wrong else 0)
    for name in ("limit", "git_sha", "gate"):  # the first to find fault with it is heard
        assert details.get(name, "Must be given once.") == "Must be given once."


def test_an_unknown_parameter_is_told_the_known_ones(quick: Api) -> None:
    for answer, known in (
        (quick.get(f"{VERSION}?x=1"), "receipt"),
        (quick.get("/projects/p/baselines/b/versions?x=1"), "limit, offset, cursor, total"),
        (quick.get(f"{TREND}?metric=wall_ms&x=1"), "metric, window, git_ref"),
        (quick.put(query="?x=1"), "git_ref, git_sha, tag, meta.NAME, normalize"),
    ):
        told = fails(answer, 400, "x")["details"]["x"]
        assert told == f"Unknown parameter; this route takes {known}."


@pytest.mark.parametrize(
    ("error", "status", "message", "details", "after"),
    [
        (Unavailable("x"), 503, "The storage is down. Try again.", {"reason": "down"}, "1"),
        (
            Unavailable("x", "read_only"),
            503,
            "The storage is read-only. Try again.",
            {"reason": "read_only"},
            "1",
        ),
        (OSError("x"), 500, "Internal error; see this request id in the server's log.", {}, None),
    ],
)
def test_what_fails_within_is_told_without_its_text(
    api: Api,
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    status: int,
    message: str,
    details: dict[str, str],
    after: str | None,
) -> None:
    def fail(*_: Any, **__: Any) -> None:
        raise error

    monkeypatch.setattr(api.client.application.extensions["perfgate"].storage, "list", fail)
    answer = api.list()
    told = fails(answer, status)
    assert (told["message"], told["details"]) == (message, details)
    assert answer.headers.get("Retry-After") == after


def test_a_view_that_says_nothing_of_keys_is_nobodys(config: ServerConfig, create: Create) -> None:
    app = create(config)
    app.add_url_rule("/new", view_func=lambda: "secret")
    answer = app.test_client().get("/new", headers=bearer("admin"))
    assert (answer.status_code, b"secret" in answer.data) == (500, False)


# -- health


def test_health(api: Api, backend: str) -> None:
    answer = api.get("/health", role=None)
    assert answer.status_code == 200
    assert answer.json["status"] == "healthy"
    assert answer.json["storage"] == {"backend": backend, "status": "healthy"}
    assert re.fullmatch(r"\d+\.\d+\.\d+", answer.json["version"])


@pytest.mark.parametrize(("timeout", "patience"), [(2.0, 1.8), (60.0, 4.5)])
def test_health_without_a_storage_is_503_and_told_in_the_log(
    config: ServerConfig,
    create: Create,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    timeout: float,
    patience: float,
) -> None:
    waited: list[float] = []

    def ping(*, deadline: float) -> None:
        waited.append(deadline - time.monotonic())
        raise Unavailable("it is gone", "full")

    app = create(replace(config, timeout=timeout))
    monkeypatch.setattr(app.extensions["perfgate"].storage, "ping", ping)
    answer = Api(app.test_client()).get("/health", role=None)
    assert (answer.status_code, answer.headers["Cache-Control"]) == (503, "no-store")
    assert answer.headers["Retry-After"] == "1"
    assert answer.json["status"] == answer.json["storage"]["status"] == "unhealthy"
    assert answer.json["storage"]["reason"] == "full"
    (said,) = [record for record in caplog.records if "it is gone" in record.getMessage()]
    assert vars(said)["request_id"] == answer.headers["X-Request-ID"]
    assert patience - 1 < waited[0] <= patience


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
    told = {"Perfgate-Baseline", "Perfgate-Missing", "Perfgate-Verdict"}
    assert set(exposed) == told | {"ETag", "Link", "Location", "Retry-After", "X-Request-ID"}


#: The headers that a page of another origin may send.
SENT = ["authorization", "content-type", "if-match", "if-none-match", "x-request-id"]


@pytest.mark.parametrize(
    ("path", "methods"),
    [
        (VERSION, "DELETE, GET, HEAD, OPTIONS, PUT"),
        ("/projects/p/baselines", "GET, HEAD, OPTIONS, POST"),
        ("/api/v1/projects/p/baselines/b/promote", "OPTIONS, POST"),
    ],
)
def test_a_preflight_needs_no_key_and_tells_the_routed_methods(
    quick: Api, path: str, methods: str
) -> None:
    answer = quick(
        "OPTIONS",
        path,
        role=None,
        headers={
            "Origin": "https://dash.example",
            "Access-Control-Request-Method": "GET",
            "Access-Control-Request-Headers": ", ".join(SENT),
        },
    )
    assert answer.status_code == 200
    assert answer.headers["Access-Control-Allow-Origin"] == "*"
    assert answer.headers["Access-Control-Allow-Methods"] == methods
    assert answer.headers["Access-Control-Allow-Headers"].lower().split(", ") == SENT
    assert answer.headers["Access-Control-Max-Age"] == "7200"


def test_no_cors_turns_all_of_it_off(config: ServerConfig, create: Create) -> None:
    api = Api(create(replace(config, no_cors=True)).test_client())
    headers = {"Origin": "https://dash.example", "Access-Control-Request-Method": "GET"}
    for method in ("GET", "OPTIONS"):
        answer = api(method, "/health", role=None, headers=headers)
        assert not [name for name in answer.headers.keys() if name.startswith("Access-Control")]


# -- proxies


def test_forwarded_headers_are_believed_only_for_as_many_hops_as_told(
    config: ServerConfig, create: Create
) -> None:
    forwarded = {"X-Forwarded-Prefix": "/perf", "X-Forwarded-For": "10.0.0.9"}
    bare = Api(create(config).test_client())
    assert bare.put(headers=forwarded).headers["Location"] == VERSION
    behind = Api(create(replace(config, trusted_proxies=1)).test_client())
    location = behind.put("b", "v2", headers=forwarded).headers["Location"]
    assert location == "/perf/projects/p/baselines/b/versions/v2"
    for prefix, encoded in (
        ("/a b", "/a%20b"),
        ("/prüf", "/pr%C3%BCf"),
        ("perf", "/perf"),
        ("//evil.example", "/evil.example"),
        ("https://evil.example", "/https://evil.example"),
    ):
        sent = {"X-Forwarded-Prefix": prefix.encode().decode("latin-1")}
        location = behind.put("b", "v2", headers=sent).headers["Location"]
        assert location == f"{encoded}/projects/p/baselines/b/versions/v2"


def test_a_request_need_not_have_a_query_string(api: Api) -> None:
    """PEP 3333 lets a WSGI server leave it out."""
    api.upload()
    environ = EnvironBuilder(path=VERSION, headers=bearer().items()).get_environ()
    del environ["QUERY_STRING"]
    _, status, _ = run_wsgi_app(api.client.application, environ)
    assert status == "200 OK"

"""Verdicts and trends over HTTP, on every backend."""

from __future__ import annotations

import json
from typing import Any

import pytest
from conftest import Api, Create
from support import KEYS, receipt, soon
from test_api import TIME, fails
from test_api_records import follow

from perfgate_server import Role, ServerConfig
from perfgate_server.keys import digest, id_of
from perfgate_server.storage.base import Page
from perfgate_server.storage.sql import SqlStorage
from perfgate_server.storage.verdicts import VerdictFilters

VERDICTS = "/projects/p/verdicts"
COUNTS = {"pass": 3, "warn": 0, "fail": 1, "skip": 0}


def sent(run_id: str = "r", benchmark: str = "b", **members: Any) -> dict[str, Any]:
    required = {"benchmark": benchmark, "run_id": run_id, "status": "fail", "counts": COUNTS}
    return {**required, "reasons": ["wall_ms_fail"], **members}


def submit(api: Api, *names: str, path: str = VERDICTS, **members: Any) -> Any:
    return api("POST", path, json=sent(*names, **members))


def runs(api: Api, query: str = "", **options: Any) -> str:
    answer = api.get(VERDICTS + query, **options)
    assert answer.status_code == 200, answer.text
    return "".join(verdict["run_id"] for verdict in answer.json["verdicts"])


def test_a_verdict_is_answered_as_it_will_be_listed(api: Api) -> None:
    answer = submit(api, git_ref="main", git_sha="abc")
    assert answer.status_code == 201
    verdict = answer.json
    assert TIME.fullmatch(verdict.pop("created_at")) and verdict.pop("id")
    assert verdict == {
        "schema": "perfgate.verdict.v1",
        "project": "p",
        **sent(),
        "git_ref": "main",
        "git_sha": "abc",
    }
    listed = api.get(VERDICTS).json
    assert listed == {
        "verdicts": [answer.json],
        "pagination": {"total": 1, "limit": 50, "offset": 0, "has_more": False},
    }
    assert api.get("/api/v1" + VERDICTS).json == listed
    assert submit(api, path="/api/v1" + VERDICTS).status_code == 201


def test_what_the_official_client_sends_is_taken(api: Api) -> None:
    """Null for what is not set, members of later releases, and a page in every query."""
    counts = {**COUNTS, "x": 1}
    answer = submit(api, git_ref=None, git_sha=None, wall_ms_cv=None, later=[0.01], counts=counts)
    assert answer.status_code == 201
    assert set(answer.json) == {
        *("schema", "id", "project", "benchmark", "run_id", "status", "counts", "reasons"),
        "created_at",
    }
    assert answer.json["counts"] == COUNTS
    assert runs(api, "?benchmark=b&limit=50&offset=0") == "r"


def test_a_verdict_says_how_flaky_its_benchmark_is(api: Api) -> None:
    """As the public server: `perfgate baseline flaky` reads it."""
    scores = []
    for number, variation in enumerate((0.12, None, 0.45, 3, -0.0)):
        answer = submit(api, f"r{number}", wall_ms_cv=variation)
        assert answer.status_code == 201
        assert answer.json.get("wall_ms_cv") == variation
        scores.append(answer.json["flakiness_score"])
    # 0.7 times the share over 0.30, and 0.3 times the mean of half of c / 0.30, at most 1.
    assert scores == pytest.approx([0.06, 0.06, 0.4925, 0.6616667, 0.49625])
    assert "flakiness_score" not in submit(api, "s", "other").json
    assert "-0" not in answer.text
    listed = api.get(f"{VERDICTS}?benchmark=b").json["verdicts"]
    assert listed[0] == answer.json
    assert [verdict["flakiness_score"] for verdict in listed] == scores[::-1]


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"wall_ms_cv": -5e-324}, "wall_ms_cv"),
        ({"wall_ms_cv": "0.1"}, "wall_ms_cv"),
        ({"benchmark": "a//b"}, "benchmark"),
        ({"run_id": ""}, "run_id"),
        ({"run_id": "x" * 257}, "run_id"),
        ({"run_id": None}, "run_id"),
        ({"status": "ok"}, "status"),
        ({"status": "pass\n"}, "status"),
        ({"status": ["pass"]}, "status"),
        ({"counts": []}, "counts"),
        ({"counts": {"pass": 1, "warn": 0, "fail": 0}}, "counts.skip"),
        ({"counts": {**COUNTS, "fail": -1}}, "counts.fail"),
        ({"counts": {**COUNTS, "warn": 2**32}}, "counts.warn"),
        ({"counts": {**COUNTS, "pass": 1.0}}, "counts.pass"),
        ({"counts": {**COUNTS, "pass": True}}, "counts.pass"),
        ({"reasons": "x"}, "reasons"),
        ({"reasons": None}, "reasons"),
        ({"reasons": ["x", ""]}, "reasons.1"),
        ({"reasons": ["x" * 257]}, "reasons.0"),
        ({"reasons": [7]}, "reasons.0"),
        ({"reasons": ["x"] * 65}, "reasons"),
        ({"git_ref": ""}, "git_ref"),
        ({"git_sha": "x" * 257}, "git_sha"),
    ],
    ids=str,
)
def test_bad_members_are_named(quick: Api, members: dict[str, Any], field: str) -> None:
    fails(submit(quick, **members), 400, field)
    assert runs(quick) == ""


def test_a_number_that_is_wrong_is_told_its_bounds(quick: Api) -> None:
    answer = submit(quick, wall_ms_cv=-1, counts={"pass": -1, "warn": 0, "fail": 0})
    assert fails(answer, 400, "wall_ms_cv", "counts.pass", "counts.skip")["details"] == {
        "wall_ms_cv": "Must be a number of 0 or more.",
        "counts.pass": "Must be an integer from 0 to 4294967295.",
        "counts.skip": "Must be given.",
    }


def test_bounds_are_inclusive(api: Api) -> None:
    counts, reasons = dict.fromkeys(COUNTS, 2**32 - 1), ["🚀" * 256] * 64
    answer = submit(api, "x" * 256, git_ref="x" * 256, counts=counts, reasons=reasons)
    assert answer.status_code == 201
    assert (answer.json["counts"], answer.json["reasons"]) == (counts, reasons)


def test_checks_come_in_their_order(api: Api) -> None:
    big: dict[str, Any] = {"data": b"x" * (2**20 + 1)}
    fails(api("POST", VERDICTS, role="viewer", **big), 403)
    fails(api("POST", VERDICTS, **big), 413)
    fails(api("POST", VERDICTS, data=b"{"), 415)
    fails(api("POST", VERDICTS, data=b"{", content_type="application/json"), 400, "body")
    fails(api("POST", f"{VERDICTS}?x=1", json=sent()), 400, "x")
    required = ("benchmark", "run_id", "status", "counts", "reasons")
    fails(api("POST", VERDICTS, json={}), 400, *required)
    fails(api("PUT", VERDICTS, json=sent()), 405)
    fails(api.get("/projects/.p/verdicts"), 400, "project")


def test_lists_filter_and_their_links_lead_on(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(1, 6):
        moment = f"2026-03-0{number}T12:00:00.000000Z"
        monkeypatch.setattr("perfgate_server.records.now", lambda moment=moment: moment)
        members = {"status": "fail", "git_ref": "main"} if number % 2 else {"status": "pass"}
        members = {"git_ref": "dev", "git_sha": f"sha{number // 3}", **members}
        submit(api, str(number), "io/b" if number < 4 else "cpu", **members)
    assert runs(api) == "54321"
    assert runs(api, "?benchmark=io/b") == "321"
    assert runs(api, "?status=fail&benchmark=io/b") == "31"
    assert runs(api, "?git_ref=dev") == "42"
    assert runs(api, "?git_sha=sha1") == "543"
    assert runs(api, "?git_sha=sha1&benchmark=cpu&status=pass") == "4"
    assert runs(api, "?git_sha=sha") == ""
    assert runs(api, "?since=2026-03-02T12:00:00Z&until=2026-03-04T13:00:00%2B01:00") == "432"
    assert runs(api, "?limit=2&offset=1") == "43"
    assert runs(api, "?benchmark=..") == ""
    walked = follow(api, f"{VERDICTS}?limit=2&status=fail&total=false", "verdicts")
    assert [verdict["run_id"] for verdict in walked] == ["5", "3", "1"]
    page = api.get(f"{VERDICTS}?limit=0").json["pagination"]
    assert page == {"total": 5, "limit": 0, "offset": 0, "has_more": True}
    assert api.get("/projects/q/verdicts").json["verdicts"] == []


def test_a_verdict_that_waits_for_the_storage_is_as_old_as_its_end(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SqlStorage.add_verdict

    def add_verdict(self: Any, *names: Any, **options: Any) -> Any:
        monkeypatch.undo()
        submit(api, "1")
        return original(self, *names, **options)

    monkeypatch.setattr(SqlStorage, "add_verdict", add_verdict)
    submit(api, "2")
    newest, other = api.get(VERDICTS).json["verdicts"]
    assert (newest["run_id"], other["run_id"]) == ("2", "1")
    assert newest["created_at"] > other["created_at"]


def test_a_verdict_is_kept_with_who_submitted_it(api: Api) -> None:
    api("POST", VERDICTS, role="contributor", json=sent())
    path = "/projects/p/baselines/b/compare?record=true"
    api("POST", path, role="contributor", data=json.dumps(receipt()))
    storage = api.client.application.extensions["perfgate"].storage
    kept = storage.list_verdicts("p", VerdictFilters(), Page(50), deadline=soon()).records
    who = f"contributor:{id_of(digest(KEYS['contributor']))}"
    assert [verdict.created_by for verdict in kept] == [who, who]


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("?limit=1001", "limit"),
        ("?offset=-1", "offset"),
        ("?cursor=x", "cursor"),
        ("?cursor=AAAAAAAAAAI&offset=0", "cursor"),
        ("?total=yes", "total"),
        ("?status=ok", "status"),
        ("?status=", "status"),
        ("?benchmark=", "benchmark"),
        ("?git_ref=", "git_ref"),
        ("?since=now", "since"),
        ("?status=pass&status=fail", "status"),
        ("?git_sha=", "git_sha"),
        ("?run_id=x", "run_id"),
    ],
)
def test_a_parameter_that_cannot_be_parsed_is_named(quick: Api, query: str, field: str) -> None:
    fails(quick.get(VERDICTS + query), 400, field)


def test_a_limited_key_submits_and_sees_its_own(config: ServerConfig, create: Create) -> None:
    """Totals included; and its reach is checked before the rest of the body."""
    key = "pg_live_" + "L" * 32
    config = config.api_key(key, Role.CONTRIBUTOR, "p", "io/.*")
    api = Api(create(config).test_client())
    own: dict[str, Any] = {"headers": {"Authorization": f"Bearer {key}"}, "role": None}
    submit(api, "1", "cpu")
    assert api("POST", VERDICTS, json=sent("2", "io/read"), **own).status_code == 201
    fails(api("POST", VERDICTS, json={"benchmark": "cpu"}, **own), 403)
    fails(api("POST", "/projects/q/verdicts", json=sent("3", "io/read"), **own), 403)
    fails(api.get("/projects/q/verdicts", **own), 403)
    for query, expected in (("", "2"), ("?benchmark=cpu", ""), ("?status=fail", "2")):
        assert runs(api, query, **own) == expected
        pagination = api.get(VERDICTS + query, **own).json["pagination"]
        assert (pagination["total"], pagination["has_more"]) == (len(expected), False)
    assert runs(api) == "21"


def test_a_list_holds_no_benchmark_that_only_begins_as_a_keys_own(
    config: ServerConfig, create: Create
) -> None:
    key = "pg_live_" + "L" * 32
    api = Api(create(config.api_key(key, Role.VIEWER, "p", "io/r[a-e]+d")).test_client())
    for run, benchmark in (("1", "io/read"), ("2", "io/rename")):
        submit(api, run, benchmark)
    own: dict[str, Any] = {"headers": {"Authorization": f"Bearer {key}"}, "role": None}
    assert runs(api, **own) == "1"


# -- trends


def trend(api: Api, query: str, benchmark: str = "b") -> Any:
    return api.get(f"/projects/p/baselines/{benchmark}/trend{query}")


def test_a_trend_is_a_metric_over_the_newest_records_oldest_first(api: Api) -> None:
    big = {"median": 2**64 - 1, "min": 0, "max": 2**64 - 1}
    first = api.upload("b", "v1", git_sha="abc").json
    api.upload("b", "v2", receipt=receipt(stats={"wall_ms": big, "cpu_ms": big}))
    api.upload("c", "v9")
    api.promote("v1", "v3", git_sha="def")
    answer = trend(api, "?metric=wall_ms")
    assert answer.status_code == 200
    assert {name: answer.json[name] for name in ("project", "benchmark", "metric")} == {
        "project": "p",
        "benchmark": "b",
        "metric": "wall_ms",
    }
    points = answer.json["points"]
    assert points[0] == {
        "version": "v1",
        "created_at": first["created_at"],
        "git_sha": "abc",
        "value": 101,
        "min": 100,
        "max": 102,
        "source": "upload",
    }
    assert "git_sha" not in points[1]
    assert [point["value"] for point in points] == [101, 2**64 - 1, 101]
    assert [point["source"] for point in points] == ["upload", "upload", "promote"]
    # What lacks the metric is left out; numbers are those of the receipt.
    throughput = trend(api, "?metric=throughput_per_s").text
    assert [point["version"] for point in trend(api, "?metric=cpu_ms").json["points"]] == ["v2"]
    assert throughput.count('"value":1.5,"min":1,"max":2.0') == 2
    assert trend(api, "?metric=energy_uj").json["points"] == []
    window = trend(api, "?metric=wall_ms&window=2").json["points"]
    assert [point["version"] for point in window] == ["v2", "v3"]


def test_a_trend_can_be_that_of_one_branch(api: Api) -> None:
    for version, git_ref in (("v1", "main"), ("v2", "dev"), ("v3", "main"), ("v4", None)):
        api.upload("b", version, git_ref=git_ref)
    points = trend(api, "?metric=wall_ms&git_ref=main").json["points"]
    assert [(point["version"], point["git_ref"]) for point in points] == [
        ("v1", "main"),
        ("v3", "main"),
    ]
    [newest] = trend(api, "?metric=wall_ms&git_ref=main&window=1").json["points"]
    assert newest["version"] == "v3"
    assert trend(api, "?metric=wall_ms&git_ref=mian").json["points"] == []
    assert "git_ref" not in trend(api, "?metric=wall_ms").json["points"][-1]
    fails(trend(api, "?metric=wall_ms&git_ref="), 400, "git_ref")
    fails(trend(api, "?metric=wall_ms&git_ref=main", "none"), 404)


def test_a_trend_has_a_window_of_30(api: Api) -> None:
    for number in range(31):
        api.upload("b", f"v{number}")
    points = trend(api, "?metric=wall_ms").json["points"]
    assert [point["version"] for point in points] == [f"v{number}" for number in range(1, 31)]
    assert len(trend(api, "?metric=wall_ms&window=500").json["points"]) == 31


@pytest.mark.parametrize(
    ("query", "field"),
    [
        ("", "metric"),
        ("?metric=", "metric"),
        ("?metric=WALL_MS", "metric"),
        ("?metric=wall_ms&window=0", "window"),
        ("?metric=wall_ms&window=501", "window"),
        ("?metric=wall_ms&window=1.5", "window"),
        ("?metric=wall_ms&limit=5", "limit"),
    ],
)
def test_a_bad_question_about_a_trend_is_named(quick: Api, query: str, field: str) -> None:
    fails(trend(quick, query), 400, field)


def test_an_unknown_metric_is_told_the_known_ones(quick: Api) -> None:
    for query in ("", "?metric=speed"):
        sentence = fails(trend(quick, query), 400, "metric")["details"]["metric"]
        assert sentence.startswith("Must be 'wall_ms', 'cpu_ms',")
        assert sentence.endswith(" or 'throughput_per_s'.")


def test_an_unknown_benchmark_has_no_trend(api: Api) -> None:
    api.upload("a/b")
    fails(trend(api, "?metric=wall_ms", "b"), 404)
    fails(trend(api, "?metric=wall_ms", "a"), 404)
    assert trend(api, "?metric=wall_ms", "a/b").status_code == 200
    fails(api("POST", "/projects/p/baselines/a/b/trend", json={}), 405)


def test_the_bounds_of_times_are_rounded_so_that_they_stay_right(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("perfgate_server.records.now", lambda: "2026-03-08T12:00:00.123456Z")
    submit(api, "r")
    later = "2026-03-08T12:00:00.1234561Z"
    assert runs(api, f"?since={later}") == ""
    assert runs(api, f"?until={later}") == "r"


def test_a_page_of_long_reasons_ends_early_and_a_walk_sees_all(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thousand with all the reasons that they may have took a gigabyte."""
    monkeypatch.setattr("perfgate_server.storage.sql_verdicts.MAX_PAGE_REASONS", 500)
    runs = [f"run-{number}" for number in range(9)]
    for run in runs:
        assert submit(api, run, reasons=["x" * 200]).status_code == 201
    for by_offset in (False, True):
        seen: list[str] = []
        path, more = "/projects/p/verdicts?limit=5", True
        while more:
            answer = api.get(path)
            seen += [entry["run_id"] for entry in answer.json["verdicts"]]
            page = answer.json["pagination"]
            more = page["has_more"]
            assert (page["limit"], page["total"]) == (3 if more else 5, 9)
            if by_offset:
                path = f"/projects/p/verdicts?limit=5&offset={len(seen)}"
            elif more:
                path = f"/projects/p/verdicts{answer.headers['Link'].split('>')[0][1:]}"
        assert seen == runs[::-1]

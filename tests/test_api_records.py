"""Reads, lists, histories, promotions and deletions over HTTP, on every backend."""

from __future__ import annotations

import re
from typing import Any

import pytest
from conftest import Api
from support import LATEST, receipt
from test_api import VERSION, fails

from perfgate_server.records import normalized, receipt_of
from perfgate_server.storage.sql import SqlStorage

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


def test_a_conditional_read_is_answered_with_a_record_that_it_was_held_against(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the newest is deleted while it is read."""
    path, slower = f"{LATEST}?receipt=only", receipt(wall_ms=7)
    api.put("b", "v1")
    older = api.get(path).headers["ETag"]
    original = SqlStorage.latest

    def latest(self: Any, *names: str, **options: Any) -> Any:
        found = original(self, *names, **options)
        if found.version == "v2":
            api.delete("v2")
        return found

    monkeypatch.setattr(SqlStorage, "latest", latest)
    newer = f'"sha256:{receipt_of(slower).content_hash}"'
    for header, asked, status in (
        ("If-Match", newer, 200),
        ("If-None-Match", older, 304),
        ("If-None-Match", newer, 304),
    ):
        assert api.put("b", "v2", json=slower).status_code == 201
        answer = api.get(path, headers={header: asked})
        assert (answer.status_code, answer.headers["ETag"]) == (status, asked)


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
    assert "Must be 'only'." in api.get(VERSION + "?receipt=all").text


# -- delete


def test_delete_can_be_made_conditional(api: Api) -> None:
    tag = api.upload().headers["ETag"]
    for other in ('"x"', f"W/{tag}", '"sha256:0", "y"'):
        error = fails(api.delete(headers={"If-Match": other}), 412)
        assert error["details"] == {"header": "If-Match"}
        assert "without W/" in error["message"]
    for same in (tag, f"W/{tag}"):
        both = {"If-Match": tag, "If-None-Match": same}
        assert fails(api.delete(headers=both), 412)["details"] == {"header": "If-None-Match"}
    assert api.get(VERSION).status_code == 200
    assert api.delete(headers={"If-Match": f'"x", {tag}'}).status_code == 200
    fails(api.delete(headers={"If-Match": "*"}), 404)
    api.upload()
    assert api.delete(headers={"If-Match": "*"}).status_code == 200


def test_what_if_none_match_does_not_name_is_written(api: Api) -> None:
    api.upload()
    for other in ('"x"', 'W/"x", "y"'):
        header = {"If-None-Match": other}
        assert api.put(headers=header).status_code == 200
        assert api.delete(headers=header).status_code == 200
        assert api.put(headers=header).status_code == 201


def test_a_promotion_can_be_made_conditional_on_its_target(api: Api) -> None:
    api.upload()
    path = "/projects/p/baselines/b/promote"
    envelope = {"from_version": "v1", "to_version": "prod"}

    def promote(**headers: str) -> Any:
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return api("POST", path, json=envelope, headers=named)

    fails(promote(If_Match='"x"'), 412)
    fails(promote(If_Match="*"), 412)
    tag = promote(If_None_Match="*").headers["ETag"]
    fails(promote(If_None_Match="*"), 412)
    assert promote(If_None_Match='"x"').status_code == 200
    assert promote(If_Match=tag).status_code == 200


@pytest.mark.parametrize("query", ["", "?receipt=only"])
def test_a_read_can_be_made_conditional(api: Api, query: str) -> None:
    api.upload()
    tag = api.get(VERSION + query).headers["ETag"]
    for good in (tag, "*", f'"x", {tag}'):
        assert api.get(VERSION + query, headers={"If-Match": good}).status_code == 200
    answer = api.get(VERSION + query, headers={"If-Match": tag})
    assert answer.json == api.get(VERSION + query).json
    for bad in ('"x"', f"W/{tag}"):
        fails(api.get(VERSION + query, headers={"If-Match": bad}), 412)


@pytest.mark.parametrize("query", ["", "?receipt=only"])
def test_a_conditional_read_answers_what_its_condition_was_checked_on(
    api: Api, query: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when the newest record is another a moment later."""
    api.upload()
    tag = api.get(LATEST + query).headers["ETag"]
    storage = api.client.application.extensions["perfgate"].storage
    look = storage.latest

    def latest(*names: Any, **options: Any) -> Any:
        found = look(*names, **options)
        monkeypatch.undo()
        assert api.put("b", "v2", json=receipt(wall_ms=7)).status_code == 201
        return found

    monkeypatch.setattr(storage, "latest", latest)
    answer = api.get(LATEST + query, headers={"If-Match": tag})
    assert (answer.status_code, answer.headers["ETag"]) == (200, tag)
    assert api.get(LATEST + query).headers["ETag"] != tag


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


def test_a_walk_by_offset_sees_all_of_pages_that_end_early(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The perfgate client does not follow links."""
    monkeypatch.setattr("perfgate_server.storage.base.MAX_PAGE_BYTES", 1000)
    versions = [f"v{number}" for number in range(7)]
    for version in versions:
        api.put("b", version)
    seen, offset, more = [], 0, True
    while more:
        page = api.list(f"?limit=5&include_receipt=true&offset={offset}").json
        seen += [entry["version"] for entry in page["baselines"]]
        offset += page["pagination"]["limit"]
        more = page["pagination"]["has_more"]
    assert seen == versions[::-1]


def test_an_empty_project_is_an_empty_list(api: Api) -> None:
    answer = api.list(project="nothing")
    assert answer.json["baselines"] == [] and answer.json["pagination"]["total"] == 0
    assert api.list("?include_receipt=true", project="nothing").json == answer.json


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
        ("?cursor=BBBBBBBBBBBBBBB", "cursor"),
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
        ("?since=2026-03-08T12:60:00Z", "since"),
        ("?since=2026-03-08T12:00:61Z", "since"),
        ("?since=2026-03-08T12:00:00%2B05:60", "since"),
        ("?since=2026-03-08T12:00:00Zjunk", "since"),
        ("?until=now", "until"),
        ("?until=%D9%A2026-03-08T12:00:00Z", "until"),
    ],
    ids=range(39),
)
def test_a_parameter_that_cannot_be_parsed_is_named(quick: Api, query: str, field: str) -> None:
    fails(quick.list(query), 400, field)


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


def test_the_bounds_of_a_page_are_taken(api: Api) -> None:
    api.upload()
    assert api.versions_listed("?limit=1000&offset=0") == ["v1"]
    assert api.versions_listed(f"?limit=0&offset={2**63 - 1}") == []


def test_a_cursor_of_any_place_leads_on_from_there(api: Api) -> None:
    """Though no record was ever there."""
    api.upload()
    assert api.versions_listed("?cursor=f_________8") == ["v1"]
    assert api.versions_listed("?cursor=__________8") == []


@pytest.mark.parametrize(
    "query", ["?git_ref=" + "x" * 300, "?tags=" + "x" * 100, "?benchmark_prefix=..", "?git_sha=%20"]
)
def test_a_filter_that_can_match_nothing_is_an_empty_list(api: Api, query: str) -> None:
    api.upload(git_ref="main", tags=["t"])
    assert api.versions_listed(query) == []


def test_a_tag_is_asked_for_once_however_often_it_is_named(api: Api) -> None:
    """SQLite joins no more than 64 tables."""
    api.upload(tags=["t"])
    assert api.versions_listed("?tags=" + ",".join(["t"] * 100)) == ["v1"]


@pytest.mark.parametrize(
    ("bound", "since", "until"),
    [
        ("2026-03-08T12:00:00.123456Z", True, True),
        ("2026-03-08 12:00:00.123456+00:00", True, True),  # as date --rfc-3339 writes it
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
        ("2026-03-08T17:47:00.123456%2B05:47", True, True),
        ("2026-03-08T17:47:00.123457%2B05:47", False, True),
        ("2026-03-08T08:43:00.123456-03:17", True, True),
        ("2026-03-08T08:43:00.123455-03:17", True, False),
        ("2026-03-09T11:59:00.123456%2B23:59", True, True),
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
    link = api.list("?benchmark_prefix=io/&since=2026-01-01T00:00:00Z&limit=1").headers["Link"]
    assert link.startswith("<?benchmark_prefix=io/&since=2026-01-01T00:00:00Z&limit=1&cursor=")
    walked = follow(api, "/projects/p/baselines?offset=2&limit=2", "baselines")
    assert [entry["version"] for entry in walked] == ["v4", "v3", "v2", "v1", "v0"]


def test_a_prefix_holds_whatever_letter_follows_it(api: Api) -> None:
    for number, name in enumerate(("io/0", "io/zip", "io/zz", "io0", "i")):
        api.upload(name, f"v{number}")
    assert api.versions_listed("?benchmark_prefix=io/") == ["v2", "v1", "v0"]


def test_a_page_holds_50_and_its_link_only_what_was_asked(api: Api) -> None:
    for number in range(51):
        api.put("b", f"v{number}")
    answer = api.list()
    assert len(answer.json["baselines"]) == 50
    assert re.fullmatch(r'<\?cursor=[\w-]+>; rel="next"', answer.headers["Link"])


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
    assert api.versions_listed("?source=upload") == ["v1"]


def test_a_promotion_that_waits_for_the_storage_is_as_old_as_its_end(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = SqlStorage.promote

    def promote(self: Any, *names: Any, **options: Any) -> Any:
        api.put("b", "v2")
        return original(self, *names, **options)

    api.put("b", "v1")
    monkeypatch.setattr(SqlStorage, "promote", promote)
    assert api.promote("v1", "v3").status_code == 201
    newest, other, _ = api.get("/projects/p/baselines/b/versions").json["versions"]
    assert (newest["version"], other["version"]) == ("v3", "v2")
    assert newest["created_at"] > other["created_at"]


def test_a_promotion_names_both_versions(quick: Api) -> None:
    path = "/projects/p/baselines/b/promote"
    fails(quick("POST", path, json={}), 400, "from_version", "to_version")


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


def test_a_page_with_receipts_ends_at_its_limit(api: Api) -> None:
    for version in ("v1", "v2", "v3"):
        api.put("b", version)
    page = api.list("?limit=2&include_receipt=true")
    assert [entry["version"] for entry in page.json["baselines"]] == ["v3", "v2"]
    assert page.json["pagination"]["has_more"] is True
    walked = follow(api, "/projects/p/baselines?limit=2&include_receipt=true", "baselines")
    assert [entry["version"] for entry in walked] == ["v3", "v2", "v1"]


def test_an_equal_record_promoted_to_the_same_version_differs_in_where_it_is_from(
    api: Api,
) -> None:
    for version in ("v1", "v2"):
        api.put("b", version)
    api.promote("v1", "prod")
    error = fails(api.promote("v2", "prod"), 409)
    assert error["details"]["differs"] == ["promoted_from"]
    # And all else in which it differs is said with it.
    error = fails(api.promote("v2", "prod", git_ref="main"), 409)
    assert error["details"]["differs"] == ["git_ref", "promoted_from"]


def test_health_is_asked_anew_each_time(api: Api) -> None:
    assert api.get("/health").headers["Cache-Control"] == "no-store"

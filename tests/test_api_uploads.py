"""Uploads over HTTP: what a body must be, and what becomes of it, on every backend."""

from __future__ import annotations

import gc
import hashlib
import io
import itertools
import json
import re
import time
from typing import Any

import pytest
from conftest import Api
from support import KEYS, receipt
from test_api import BODIES, TIME, VERSION, fails

from perfgate_server import jsonio
from perfgate_server.blueprints import baselines
from perfgate_server.columns import Rows
from perfgate_server.records import normalized
from perfgate_server.storage.sql import SqlStorage

# -- bodies


@pytest.mark.parametrize("kind", [None, "text/plain", "application/x-www-form-urlencoded", "json"])
def test_an_envelope_wants_to_be_called_json(quick: Api, kind: str | None) -> None:
    body = json.dumps(BODIES["upload"])
    for path in ("/projects/p/baselines", "/projects/p/baselines/b/promote"):
        error = fails(quick("POST", path, data=body, content_type=kind), 415)
        assert error["details"] == {"header": "Content-Type"}
        assert f"not as {kind or 'nothing'}: -H 'Content-Type: app" in error["message"]


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON; charset=utf-8", "application/x+json"]
)
def test_every_media_type_of_json_is_taken(api: Api, kind: str) -> None:
    body = json.dumps(BODIES["upload"])
    assert api("POST", "/projects/p/baselines", data=body, content_type=kind).status_code == 201


@pytest.mark.parametrize("body", [b"", b"{", b"[NaN]", b"[" * 100_000, b'"\xff"', b'"\\ud800"'])
def test_what_is_not_json_is_a_400_wherever_it_is_sent(quick: Api, body: bytes) -> None:
    options: dict[str, Any] = {"data": body, "content_type": "application/json"}
    fails(quick("POST", "/projects/p/baselines", **options), 400, "body")
    fails(quick("POST", "/projects/p/baselines/b/promote", **options), 400, "body")
    fails(quick("PUT", VERSION, **options), 400, "body")


@pytest.mark.parametrize("value", [None, 1, "x", [], [{}]])
def test_what_is_no_object_is_refused(quick: Api, value: Any) -> None:
    fails(quick("POST", "/projects/p/baselines", json=value), 400, "body")
    fails(quick("POST", "/projects/p/baselines/b/promote", json=value), 400, "body")
    fails(quick("PUT", VERSION, json=value), 400, "receipt")


def test_a_body_over_the_limit_is_413(api: Api) -> None:
    body = json.dumps(receipt(padding="x" * 2**20))
    error = fails(api("PUT", VERSION, data=body), 413)
    assert error["code"] == "PAYLOAD_TOO_LARGE" and "1048576" in error["message"]
    assert error["details"] == {"limit": 2**20}
    rest = 2**20 - len(json.dumps(receipt(padding="")))
    for more, status in ((0, 201), (1, 413)):
        body = json.dumps(receipt(padding="x" * (rest + more)))
        chunked: Any = {"wsgi.input": io.BytesIO(body.encode()), "wsgi.input_terminated": True}
        chunked["HTTP_TRANSFER_ENCODING"] = "chunked"
        for version, sent in (
            ("sized", {"data": body}),
            ("chunked", {"environ_overrides": chunked}),
        ):
            path = f"/projects/p/baselines/b/versions/{version}"
            assert api("PUT", path, **sent).status_code == status, (version, more)


def test_an_upload_waits_for_the_storage_without_what_it_was_parsed_to(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That is ten times as large as its text, and many may wait."""
    held: list[int] = []
    create = SqlStorage.create

    def look(*args: Any, **options: Any) -> Any:
        held.append(sum(type(one) is Rows for one in gc.get_objects()))
        return create(*args, **options)

    monkeypatch.setattr(SqlStorage, "create", look)
    for normalize in (False, True):
        assert api.upload(f"post{normalize}", normalize=normalize).status_code == 201
        assert (
            api.put(f"put{normalize}", query=f"?normalize={normalize}".lower()).status_code == 201
        )
    assert held == [0, 0, 0, 0]


@pytest.mark.parametrize("encoding", ["gzip", "br"])
def test_a_compressed_body_is_refused(api: Api, encoding: str) -> None:
    error = fails(api.put(headers={"Content-Encoding": encoding}), 415)
    assert error["details"] == {"header": "Content-Encoding"}
    error = fails(api.put(headers={"Transfer-Encoding": f"{encoding}, chunked"}), 415)
    assert error["details"] == {"header": "Transfer-Encoding"}
    assert api.put(headers={"Content-Encoding": "Identity"}).status_code == 201
    assert api.put(headers={"Content-Encoding": ""}).status_code == 200


@pytest.mark.parametrize("server", [{}, {"wsgi.input_terminated": True}], ids=["any", "gunicorn"])
def test_a_body_that_breaks_off_is_refused(quick: Api, server: dict[str, Any]) -> None:
    """Though what came of it is JSON."""
    body = json.dumps(receipt()).encode()
    more = {"CONTENT_LENGTH": str(len(body) + 1), **server}
    answer = quick("PUT", VERSION, data=body, environ_overrides=more)
    fails(answer, 400, "body")


@pytest.mark.parametrize(
    ("error", "status"),
    [(TimeoutError, 408), (BlockingIOError, 408), (ConnectionError, 400), (MemoryError, 500)],
)
def test_a_body_that_cannot_be_read_is_told_why(
    quick: Api, error: type[Exception], status: int
) -> None:
    """Where the server lacks memory the request is not called broken: it need not be mended."""

    class Stopped(io.BytesIO):
        def read(self, *_: Any) -> bytes:
            raise error

    # As gunicorn hands it over.
    environ = {"wsgi.input_terminated": True}
    answer = quick("PUT", VERSION, input_stream=Stopped(), environ_overrides=environ)
    fails(answer, status, "body")


def test_a_body_without_its_end_is_not_kept(api: Api) -> None:
    """Though it is whole JSON."""

    class Endless(io.BytesIO):
        def read(self, *sizes: Any) -> bytes:
            chunk = super().read(*sizes)
            if not chunk:
                raise ConnectionError
            return chunk

    body = Endless(json.dumps(receipt()).encode())
    environ = {"wsgi.input_terminated": True}
    fails(api("PUT", VERSION, input_stream=body, environ_overrides=environ), 400, "body")
    assert api.versions_listed() == []


def test_a_receipt_and_an_envelope_in_each_others_place_are_told_apart(quick: Api) -> None:
    error = fails(quick("POST", "/projects/p/baselines", json=receipt()), 400, "receipt")
    assert "PUT" in error["message"]
    error = fails(quick("PUT", VERSION, json=BODIES["upload"]), 400, "receipt")
    assert "POST" in error["message"]


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_record_is_no_receipt(api: Api, method: str) -> None:
    """What `latest` answers is near at hand; also for a comparison."""
    api.upload()
    record = api.get("/projects/p/baselines/b/latest").json
    path = VERSION if method == "PUT" else "/projects/p/baselines/b/compare"
    assert "?receipt=only" in fails(api(method, path, json=record), 400, "receipt")["message"]


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


def test_an_error_is_no_larger_than_what_it_is_about(quick: Api) -> None:
    value = receipt() | {"stats": {"wall_ms": 1}}
    value["samples"] = [{"wall_ms": 1, "exit_code": 0, "x" * 100_000: 1}]
    sent = {"benchmark": "b", "receipt": value, "metadata": {"x" * 100_000: 1}}
    answer = quick("POST", "/projects/p/baselines", json=sent)
    assert answer.status_code == 400 and len(answer.data) < 3000
    assert "metadata." + "x" * 191 in answer.json["error"]["details"]


def test_unknown_members_are_ignored_and_named(api: Api) -> None:
    answer = api.upload(tag="x", Version="2")
    assert answer.json["ignored"] == ["tag", "Version"]
    again = api.upload(note="x", schema="x")
    assert (again.status_code, again.json["ignored"]) == (200, ["note", "schema"])
    assert api.promote("v1", "v2", x=1).json["ignored"] == ["x"]
    # A key in the wrong place is not told to everybody.
    misplaced: dict[str, Any] = {KEYS["admin"]: 1}
    assert api.promote("v1", "v2", **misplaced).json["ignored"] == ["pg_test_…"]
    assert "ignored" not in api.upload(version="v3").json


def test_of_very_many_unknown_members_some_are_named(api: Api) -> None:
    """An answer is not as large as what was sent."""
    unknown = {f"{number:04}{'x' * 300}": 1 for number in range(1000)}
    ignored = api.upload(**unknown).json["ignored"]
    assert ignored == [name[:200] for name in unknown][:256]


def test_of_a_key_that_lies_across_the_end_of_a_name_nothing_is_shown(api: Api) -> None:
    """What is left of it, were the name cut first, would not look like a key."""
    before = "x" * 180
    ignored = api.upload(**{before + KEYS["admin"]: 1}).json["ignored"]
    assert ignored == [before + "pg_test_…"]
    answer = api.upload(metadata={before[12:] + KEYS["admin"]: 1})
    assert (answer.status_code, KEYS["admin"][:12] in answer.text) == (400, False)


@pytest.mark.parametrize(
    ("members", "field"),
    [
        ({"git_ref": ""}, "git_ref"),
        ({"git_ref": "x" * 257}, "git_ref"),
        ({"git_ref": 7}, "git_ref"),
        ({"git_sha": ""}, "git_sha"),
        ({"version": "a/b"}, "version"),
        ({"version": 7}, "version"),
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
def test_bad_members_are_named(quick: Api, members: dict[str, Any], field: str) -> None:
    fails(quick.upload(**members), 400, field)
    assert quick.versions_listed() == []


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
        ("bench.timeout_ms", "1"),
        ("bench.cwd", 1),
        ("run.host.hostname_hash", 1),
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
def test_a_bad_receipt_names_the_member(quick: Api, path: str, value: Any) -> None:
    spoiled = spoil(path, value)
    fails(quick.upload(receipt=spoiled), 400, f"receipt.{path}")
    fails(quick.put(json=spoiled), 400, f"receipt.{path}")


def test_each_member_that_a_receipt_must_have_is_asked_for(quick: Api) -> None:
    parts = {
        "": ("schema", "tool", "run", "bench", "samples", "stats"),
        "tool.": ("name", "version"),
        "run.": ("id", "started_at", "ended_at", "host"),
        "run.host.": ("os", "arch"),
        "bench.": ("name", "command", "repeat", "warmup"),
        "samples.1.": ("wall_ms", "exit_code"),
        "stats.wall_ms.": ("median", "min", "max"),
        "stats.throughput_per_s.": ("median", "min", "max"),
    }
    for path in (part + name for part, names in parts.items() for name in names):
        fails(quick.put(json=spoil(path, ...)), 400, f"receipt.{path}")


@pytest.mark.parametrize(
    "metric",
    [
        "wall_ms",
        "cpu_ms",
        "page_faults",
        "ctx_switches",
        "max_rss_kb",
        "io_read_bytes",
        "io_write_bytes",
        "network_packets",
        "energy_uj",
        "binary_bytes",
        "throughput_per_s",
    ],
)
def test_the_stats_of_each_metric_are_checked(quick: Api, metric: str) -> None:
    stats = {"median": 1, "min": 1, "max": True, "mean": "1", "stddev": "0"}
    wrong = [f"receipt.stats.{metric}.{name}" for name in ("max", "mean", "stddev")]
    fails(quick.put(json=spoil(f"stats.{metric}", stats)), 400, *wrong)


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
        ("run.host.cpu_count", 2**32 - 1),
        ("run.host.memory_bytes", 2**64 - 1),
        ("stats.wall_ms.stddev", 0.5),
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


def test_errors_of_a_receipt_are_a_few_and_all_their_names(quick: Api) -> None:
    error = fails(
        quick.upload(receipt=receipt(samples=[{"wall_ms": -1}])),
        400,
        "receipt.samples.0.wall_ms",
        "receipt.samples.0.exit_code",
    )
    assert "1 more" in error["message"]
    many = quick.upload(receipt=receipt(samples=[7] * 10_000))
    details = many.json["error"]["details"]
    assert many.status_code == 400 and len(details) == 51
    assert "50 samples" in details["receipt.samples"]
    for name, value in (
        ("tags", [""] * 1000),
        ("metadata", {f"{number}": 7 for number in range(64)}),
        ("receipt", spoil("bench.command", [7] * 1000)),
    ):
        answer = quick.upload(**{name: value})
        assert answer.status_code == 400
        assert len(answer.json["error"]["details"]) == 50


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


def test_a_receipt_that_no_database_can_keep_is_413(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As it would be stored, which may be four times what was sent: 1e15 is written in full. A 503
    would let the client try again, for ever."""
    sent = receipt(extra=[1e15] * 100)
    body = json.dumps(sent).replace("1000000000000000.0", "1e15").encode()
    stored = len(jsonio.canonical(sent))
    monkeypatch.setattr(baselines, "MAX_RECEIPT", stored - 1)
    assert stored > len(body)
    assert fails(api("PUT", VERSION, data=body), 413)["details"] == {"limit": stored - 1}
    fails(api.get(VERSION), 404)
    monkeypatch.setattr(baselines, "MAX_RECEIPT", stored)
    assert api("PUT", VERSION, data=body).status_code == 201


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
    assert deleted.json["deleted_at"] > first.json["created_at"]
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
        (f"?git_ref={'a' * 257}", "git_ref"),
        (f"?git_sha={'a' * 257}", "git_sha"),
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
def test_put_refuses_other_parameters(quick: Api, query: str, field: str) -> None:
    fails(quick.put(query=query), 400, field)
    assert quick.versions_listed() == []


def test_if_none_match_star_makes_an_existing_version_412(api: Api) -> None:
    star = {"If-None-Match": "*"}
    assert api.put(headers=star).status_code == 201
    error = fails(api.put(headers=star), 412)
    assert error["details"] == {"header": "If-None-Match"}
    assert error["code"] == "PRECONDITION_FAILED" and "is there already" in error["message"]
    assert api.put().status_code == 200


def test_a_receipt_may_have_a_member_named_receipt(api: Api) -> None:
    assert api.put(json=receipt(receipt={"any": 1})).status_code == 201


def test_one_wrong_field_is_told_alone(quick: Api) -> None:
    error = fails(quick.upload(tags="t"), 400, "tags")
    assert error["message"] == f"tags: {error['details']['tags']}"
    error = fails(quick.upload(tags="t", git_ref=""), 400, "tags", "git_ref")
    assert error["message"].endswith(" (1 more in details)")


def test_a_malformed_key_is_told_what_one_looks_like(quick: Api) -> None:
    sent = {"headers": {"Authorization": "Bearer pg_live_short"}, "role": None}
    assert "32 or more" in fails(quick.get(VERSION, **sent), 401)["message"]


def test_an_upload_that_takes_long_is_as_old_as_its_end(api: Api) -> None:
    """It is newer than what came meanwhile, and whoever lists what is new since then finds it."""

    class Slow(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            if self.tell() == 0:
                assert api.put("b", "fast", json=receipt(1)).status_code == 201
            return super().readinto(buffer)

    body = json.dumps(receipt(2)).encode()
    path = "/projects/p/baselines/b/versions/slow"
    slow = api("PUT", path, input_stream=Slow(body), content_length=len(body))
    assert slow.status_code == 201
    newest, other = api.get("/projects/p/baselines/b/versions").json["versions"]
    assert (newest["version"], other["version"]) == ("slow", "fast")
    assert newest["created_at"] == slow.json["created_at"] > other["created_at"]


def test_a_slow_client_takes_no_time_from_the_storage(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = api.client.application.extensions["perfgate"]
    original = state.storage.create
    came: list[float] = []
    deadlines: list[float] = []

    class Slow(io.BytesIO):
        def readinto(self, buffer: Any) -> int:
            came.append(time.monotonic())
            return super().readinto(buffer)

    def create(*arguments: Any, deadline: float, **options: Any) -> Any:
        deadlines.append(deadline)
        return original(*arguments, deadline=deadline, **options)

    monkeypatch.setattr(state.storage, "create", create)
    body = json.dumps(receipt()).encode()
    answer = api("PUT", VERSION, input_stream=Slow(body), content_length=len(body))
    assert answer.status_code == 201
    # The client waits for as long as the timeout, and the answer has to reach it.
    assert 0.9 * state.config.timeout < deadlines[0] - came[-1] < state.config.timeout


def test_what_normalized_is(api: Api) -> None:
    """In so many words: the other tests ask the program."""
    api.upload(normalize=True)
    epoch = "1970-01-01T00:00:00Z"
    run = {**receipt()["run"], "id": "baseline", "started_at": epoch, "ended_at": epoch}
    assert api.get("/projects/p/baselines/b/versions/v1?receipt=only").json == {
        **receipt(),
        "run": run,
    }

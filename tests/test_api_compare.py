"""Comparing over HTTP, on every backend."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest
from conftest import Api, Create
from support import receipt
from test_api import fails

from perfgate_server import Role, ServerConfig, compare_query
from perfgate_server.compare_query import COMPARE_QUERY
from perfgate_server.gate.rule import Options

COMPARE = "/projects/p/baselines/b/compare"
VERDICTS = "/projects/p/verdicts"
HOST = {"os": "linux", "arch": "x86_64", "cpu_count": 8}
MARKDOWN = "text/markdown; charset=utf-8"
TEXT = "text/plain; charset=utf-8"


def run(median: float = 100, run_id: str = "run-1", **members: Any) -> dict[str, Any]:
    """Return a receipt whose one metric is wall_ms, with that median."""
    value = receipt(stats={"wall_ms": {"median": median, "min": median, "max": median}})
    host = members.pop("host", HOST)
    return {**value, "run": {**value["run"], "id": run_id, "host": host}, **members}


def compare(api: Api, query: str = "", value: Any = None, **options: Any) -> Any:
    body = json.dumps(run() if value is None else value)
    return api("POST", options.pop("path", COMPARE) + query, data=body, **options)


def envelope(api: Api, options: Any, query: str = "", /, **members: Any) -> Any:
    return compare(api, query, {"receipt": run(), "options": options, **members})


def judged(api: Api, query: str = "", value: Any = None, **options: Any) -> dict[str, Any]:
    answer = compare(api, query, value, **options)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json
    return found


def verdict(*arguments: Any, **options: Any) -> tuple[str, list[str]]:
    found = judged(*arguments, **options)["verdict"]
    return found["status"], found["reasons"]


def timeless(answer: Any) -> Any:
    """Return an answer's body without the only thing that differs from call to call."""
    found = answer.json
    assert found["baseline"].pop("age_seconds") >= 0
    return found


def contents(api: Api) -> Any:
    return [api.get(path).json for path in ("/projects/p/baselines", VERDICTS)]


# -- what is sent


@pytest.mark.parametrize("root", ["", "/api/v1"])
def test_the_answer_is_a_comparison_of_perfgate_with_more_behind_it(api: Api, root: str) -> None:
    api.put("b", "v1", json=run(100, "before"))
    answer = compare(api, value=run(150, "now"), path=root + COMPARE)
    assert (answer.status_code, answer.content_type) == (200, "application/json")
    assert answer.headers["Perfgate-Verdict"] == "fail"
    assert answer.headers["Perfgate-Baseline"] == "v1"
    found = answer.json
    assert list(found) == [
        *("schema", "tool", "bench", "baseline_ref", "current_ref", "budgets", "deltas"),
        *("verdict", "skipped", "baseline", "host", "noise"),
    ]
    assert found["schema"] == "perfgate.compare.v1"
    assert found["bench"] == run()["bench"]
    assert (found["baseline_ref"], found["current_ref"]) == (
        {"run_id": "before"},
        {"run_id": "now"},
    )
    assert found["deltas"]["wall_ms"] == {
        **{"baseline": 100.0, "current": 150.0, "ratio": 1.5, "pct": 0.5, "regression": 0.5},
        "status": "fail",
    }
    assert found["verdict"] == {
        "status": "fail",
        "counts": {"pass": 0, "warn": 0, "fail": 1, "skip": 0},
        "reasons": ["wall_ms_fail"],
    }
    assert 0 <= found["baseline"].pop("age_seconds") < 60
    assert found["baseline"] == {"version": "v1", "selector": "latest", "tried": ["latest"]}


@pytest.mark.parametrize("kind", [None, "application/json", "application/x-www-form-urlencoded"])
def test_a_receipt_goes_as_it_is_whatever_it_is_called(quick: Api, kind: str | None) -> None:
    """curl's --data-binary calls everything a form, its -T nothing."""
    quick.put(json=run(100, "before"))
    assert verdict(quick, content_type=kind) == ("pass", [])


def test_an_envelope_brings_options_as_json(api: Api) -> None:
    api.put(json=run(50, "before"), query="?git_ref=main")
    options = {
        "against": ["tag:none", "git_ref:a,b", "git_ref:main"],
        "threshold": 2,
        "threshold.wall_ms": 1.5,
        "floor.wall_ms": None,
        "metrics": ["wall_ms"],
        "noise": "off",
        "allow_failed": False,
        "history": 5,
        "warn_factor": "0.5",
    }
    answer = envelope(api, options)
    assert answer.status_code == 200, answer.text
    assert answer.json["verdict"]["reasons"] == ["wall_ms_warn"]
    assert answer.json["budgets"]["wall_ms"]["threshold"] == 1.5
    assert answer.json["budgets"]["wall_ms"]["warn_threshold"] == 0.75
    assert answer.json["baseline"]["tried"] == ["tag:none", "git_ref:a,b", "git_ref:main"]
    assert answer.json["noise"] == {"method": "off"}
    assert "ignored" not in answer.json
    assert envelope(api, None, "?threshold=1").json["budgets"]["wall_ms"]["threshold"] == 1.0
    assert envelope(api, {}).json["verdict"]["status"] == "fail"


def test_very_many_unknown_options_are_not_all_told_of(quick: Api) -> None:
    """Each with its own sentence: the answer would be many times the request."""
    answer = envelope(quick, {f"o{number}": 1 for number in range(256)})
    fails(answer, 400, *(f"options.o{number}" for number in range(50)))


def test_numbers_in_options_may_be_written_as_doubles(quick: Api) -> None:
    assert envelope(quick, {"history": 20.0, "threshold": -0.0}).status_code == 200


@pytest.mark.parametrize("option", ["gate", "threshold", "threshold.wall_ms"])
def test_an_option_beside_options_is_no_unknown_member(quick: Api, option: str) -> None:
    """Nothing would say in Markdown that there is no gate, or another limit."""
    fails(envelope(quick, {}, **{option: 1}), 400, option)
    for name in ("option", "OPTIONS", "optoins", "my_options"):
        fails(compare(quick, value={"receipt": run(), name: {option: 1}}), 400, name)
    assert envelope(quick, {}, metadata={option: 1}).json["ignored"] == ["metadata"]


def test_no_body_makes_the_server_look_for_megabytes_of_mistakes(quick: Api) -> None:
    """It took seconds, in which nobody else was served, and gigabytes."""
    for against in ("git_ref:" + "a" * 9_999, ["latest"] * 17, "git_ref:x" + ",latxst" * 99_999):
        answer = envelope(quick, {"against": against})
        fails(answer, 400, "options.against")
        assert len(answer.data) < 3000
    unknown = {f"x{number}": 1 for number in range(256)}
    assert len(envelope(quick, {}, **unknown).json["ignored"]) == 256
    fails(envelope(quick, {}, **unknown, more=1), 400, "options")
    assert envelope(quick, {}, **{"options" * 9_999: 1}).status_code == 200


@pytest.mark.parametrize("form", ["markdown", "text"])
def test_ignored_members_are_told_of_in_words_too(quick: Api, form: str) -> None:
    answer = envelope(quick, {"format": form}, bench=1)
    assert answer.text.splitlines()[-1].replace("`", "") == "Ignored members of the body: bench"


def test_unknown_members_of_an_envelope_are_named(quick: Api) -> None:
    assert envelope(quick, {}, other={}, bench=1).json["ignored"] == ["other", "bench"]
    assert envelope(quick, {}, git_ref="main").json["ignored"] == ["git_ref"]
    assert judged(quick, value={"receipt": run()}).get("ignored") is None
    # A receipt may hold what it likes.
    assert "ignored" not in judged(quick, value=run(receipt=1, options=2))
    assert "ignored" not in judged(quick, value=run(options={"cores": 4}))


def test_options_within_a_receipt_are_refused(quick: Api) -> None:
    """Without a word there would be no gate."""
    fails(compare(quick, value=run(options={"gate": True})), 400, "options")


@pytest.mark.parametrize(
    ("query", "fields"),
    [
        ("?thresholds=1", ["thresholds"]),
        ("?threshold.wall=1&foo=", ["threshold.wall", "foo"]),
        ("?floor=1", ["floor"]),
        ("?threshold_wall_ms=1", ["threshold_wall_ms"]),
        ("?threshold=", ["threshold"]),
        ("?threshold=-1", ["threshold"]),
        ("?threshold=nan", ["threshold"]),
        ("?threshold=20%25", ["threshold"]),
        ("?threshold=1&threshold=1", ["threshold"]),
        ("?threshold.wall_ms=1000001", ["threshold.wall_ms"]),
        ("?floor.wall_ms=x&warn_factor=1.1", ["floor.wall_ms", "warn_factor"]),
        ("?against=", ["against"]),
        ("?against=main", ["against"]),
        ("?against=tag:", ["against"]),
        ("?against=latest:1", ["against"]),
        ("?against=latest,", ["against"]),
        # A slip of the pen would find nothing to compare with, and open the gate.
        ("?against=tag:nightly,lastest", ["against"]),
        ("?against=branch:main", ["against"]),
        ("?against=version:v9,promotd", ["against"]),
        ("?against=git_sha:abc,lates", ["against"]),
        ("?against=git_ref:main,%20latest", ["against"]),
        ("?against=git_ref:main,", ["against"]),
        ("?against=git_ref:main,,latest", ["against"]),
        ("?against=git_ref:main,lastest", ["against"]),
        ("?against=git_ref:a,Promoted,b", ["against"]),
        ("?against=git_ref:a,LATXST", ["against"]),
        ("?against=git_ref:main,%20tag:x", ["against"]),
        ("?against=git_ref:main,git-sha:abc", ["against"]),
        ("?against=git_ref:main,sha:abc,latest", ["against"]),
        ("?against=git_ref:main%20", ["against"]),
        ("?against=git_ref:%20main", ["against"]),
        ("?against=git_sha:abc%20", ["against"]),
        ("?against=git_sha:%20abc", ["against"]),
        ("?against=git_sha:abc%0D", ["against"]),
        ("?against=tag:nightly%20", ["against"]),
        ("?against=tag:%20nightly", ["against"]),
        ("?against=tag:nightly%0A", ["against"]),
        ("?against=tag:" + "x" * 65, ["against"]),
        ("?against=version:v1%20", ["against"]),
        ("?against=version:feature/x", ["against"]),
        ("?against=version:*", ["against"]),
        ("?against=version:..", ["against"]),
        ("?against=version:" + "x" * 129, ["against"]),
        ("?against=git_ref:main%0Alatest", ["against"]),
        ("?against=" + ",".join(["latest"] * 17), ["against"]),
        ("?against=git_ref:" + "x" * 257, ["against"]),
        ("?metrics=wall_ms,speed", ["metrics"]),
        ("?metrics=", ["metrics"]),
        ("?threshold=.", ["threshold"]),
        ("?threshold=e5", ["threshold"]),
        ("?history=101", ["history"]),
        ("?noise=true", ["noise"]),
        ("?host_mismatch=error", ["host_mismatch"]),
        ("?allow_failed=yes", ["allow_failed"]),
        ("?on_missing=warn", ["on_missing"]),
        ("?max_age=30", ["max_age"]),
        ("?max_age=1.5d", ["max_age"]),
        ("?min_samples=-1", ["min_samples"]),
        ("?format=html", ["format"]),
        ("?gate=", ["gate"]),
        ("?fail_on=skip", ["fail_on"]),
        ("?record=x", ["record"]),
        ("?git_ref=", ["git_ref"]),
        ("?git_sha=" + "x" * 257, ["git_sha"]),
        ("?git_ref=main&git_sha=abc", ["git_ref", "git_sha"]),
    ],
)
def test_a_bad_option_is_named(quick: Api, query: str, fields: list[str]) -> None:
    fails(compare(quick, query), 400, *fields)


def test_of_a_selector_that_is_too_long_nothing_else_is_looked_for(
    quick: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a body of 16 MB that took two minutes."""
    monkeypatch.setattr(compare_query, "_holds_misspelt", lambda _: pytest.fail("it is looked at"))
    error = fails(
        envelope(quick, {"against": "git_ref:a" + ",lotset" * 100}), 400, "options.against"
    )
    assert "cannot be a git_ref" in error["details"]["options.against"]


def test_a_ref_is_no_selector_and_is_not_taken_for_one(api: Api) -> None:
    """Ignored without a word, it would be a pass against another branch's record."""
    api.put("b", "v1", "?git_ref=feature", json=run(100, "1"))
    answer = compare(api, "?gate=true&git_ref=main")
    fails(answer, 400, "git_ref")
    assert "against=git_ref:" in answer.json["error"]["details"]["git_ref"]
    fails(envelope(api, {"gate": True, "git_ref": "main"}), 400, "git_ref")
    # Who says so knows what it is for.
    assert compare(api, "?record=false&git_ref=main").status_code == 200
    assert envelope(api, {"record": False, "git_ref": "main"}).status_code == 200


def test_an_unknown_option_is_told_the_known_ones(quick: Api) -> None:
    for name in ("thresholds", "threshold.speed"):
        sentence = fails(compare(quick, f"?{name}=1"), 400, name)["details"][name]
        assert sentence.startswith("Unknown option; there are against, threshold, warn_factor, ")
        known = ", git_sha, threshold.METRIC, floor.METRIC, METRIC being one of wall_ms, cpu_ms, "
        assert known in sentence and sentence.endswith(", throughput_per_s.")


@pytest.mark.parametrize(
    ("query", "said"),
    [
        ("?metrics=speed", "Must be a list of wall_ms, cpu_ms, page_faults, "),
        ("?against=tag:", "must not be empty."),
        ("?threshold=x", "Must be a number from 0 to 1e+06. 0.2 is 20 %."),
        ("?threshold.wall_ms=x", "Must be a number from 0 to 1e+06. 0.2 is 20 %."),
        ("?floor.wall_ms=x", "Must be a number from 0 to 1e+18."),
        ("?warn_factor=x", "Must be a number from 0 to 1."),
        ("?history=x", "Must be an integer from 0 to 100."),
        ("?gate=x", "Must be true, false, 1 or 0."),
        ("?noise=x", "Must be 'on' or 'off'."),
        ("?host_mismatch=x", "Must be 'warn', 'fail' or 'ignore'."),
    ],
)
def test_a_bad_option_is_told_what_it_must_be(quick: Api, query: str, said: str) -> None:
    (name,) = details = compare(quick, query).json["error"]["details"]
    assert said in details[name]
    assert said.startswith("Must be a list") or details[name].endswith(said)


def test_the_metrics_that_are_named_count_and_no_others(api: Api) -> None:
    stats = {"median": 100, "min": 100, "max": 100}
    both = receipt(stats={"wall_ms": stats, "cpu_ms": stats, "page_faults": stats})
    api.put(json=both)
    slow = receipt(stats={name: {**stats, "median": 200} for name in both["stats"]})
    for metrics, reasons in (
        ("wall_ms", ["wall_ms_fail"]),
        ("cpu_ms,wall_ms", ["wall_ms_fail", "cpu_ms_fail"]),
        ("cpu_ms,cpu_ms", ["cpu_ms_fail"]),
    ):
        assert verdict(api, f"?metrics={metrics}", slow)[1] == reasons, metrics
    options = {"metrics": ["page_faults", "cpu_ms"]}
    answer = compare(api, value={"receipt": slow, "options": options}).json
    assert answer["verdict"]["reasons"] == ["cpu_ms_fail", "page_faults_fail"]


@pytest.mark.parametrize(
    ("options", "fields"),
    [
        ([], ["options"]),
        ("threshold=1", ["options"]),
        ({"threshold": {"wall_ms": 1}}, ["options.threshold"]),
        ({"metrics": ["wall_ms", 1]}, ["options.metrics"]),
        ({"metrics": []}, ["options.metrics"]),
        ({"threshold": True}, ["options.threshold"]),
        ({"threshold": -1, "speed": 1}, ["options.speed", "options.threshold"]),
        ({"threshold": -1, "gate": [1]}, ["options.threshold", "options.gate"]),
        ({"threshold.wall_ms": "a", "threshold.cpu_ms": 1}, ["options.threshold.wall_ms"]),
        ({"gate": 2}, ["options.gate"]),
        ({"": 2}, ["options."]),
        ({"against": ["git_ref:main", "lastest"]}, ["options.against"]),
        ({"against": ["git_ref:main", ""]}, ["options.against"]),
        ({"against": ["git_ref:main", "other"]}, ["options.against"]),
        ({f"o{number}": 1 for number in range(257)}, ["options"]),
        ({"threshold": "0" * 100_000 + "x"}, ["options.threshold"]),  # at once
    ],
    ids=str,
)
def test_a_bad_option_of_an_envelope_is_named(quick: Api, options: Any, fields: list[str]) -> None:
    fails(envelope(quick, options), 400, *fields)


def test_an_option_is_given_once(quick: Api) -> None:
    fails(envelope(quick, {"threshold": 0.1}, "?threshold=0.1"), 400, "threshold")
    assert envelope(quick, {"threshold": None}, "?threshold=0.1").status_code == 200
    assert compare(quick, "?threshold=1e-100").status_code == 200


@pytest.mark.parametrize(
    ("body", "field"),
    [
        (b"", "body"),
        (b"{", "body"),
        (b'{"receipt": "\\u0000"}', "body"),
        (b"[]", "receipt"),
        (b"1", "receipt"),
        (b'{"receipt": null}', "receipt"),
        (b'{"options": {"gate": true}}', "receipt"),
        (b'{"receipt": [], "options": {}}', "receipt"),
    ],
)
def test_a_bad_body_is_named(quick: Api, body: bytes, field: str) -> None:
    fails(quick("POST", COMPARE, data=body), 400, field)


def test_a_bad_receipt_is_named_by_its_path_however_it_is_sent(quick: Api) -> None:
    bad = run(samples=[{"wall_ms": -1, "exit_code": 0}])
    for value in (bad, {"receipt": bad}):
        fails(compare(quick, value=value), 400, "receipt.samples.0.wall_ms")
    fails(
        compare(quick, value={"schema": "perfgate.run.v2", "receipt": run()}),
        400,
        *(f"receipt.{name}" for name in ("schema", "tool", "run", "bench", "samples", "stats")),
    )


# -- what it is compared with


def test_the_first_selector_that_finds_a_record_decides(api: Api) -> None:
    api.put("b", "v1", "?git_ref=main&tag=stable&git_sha=abc", json=run(100, "1"))
    api.put("b", "v2", "?git_ref=a,latest-of-all,b", json=run(100, "2"))
    api.promote("v1", "prod")
    api.put("b", "v3", json=run(100, "3"))
    for against, version, selector in (
        ("latest", "v3", "latest"),
        ("promoted,latest", "prod", "promoted"),
        ("version:v2", "v2", "version:v2"),
        ("tag:none,version:v9,tag:stable,latest", "prod", "tag:stable"),
        ("git_sha:abc", "prod", "git_sha:abc"),
        ("git_ref:dev,git_ref:main", "prod", "git_ref:main"),
        # Commas are letters of a git ref, except before another selector.
        ("git_ref:a,latest-of-all,b", "v2", "git_ref:a,latest-of-all,b"),
        ("git_ref:a,b,git_ref:a,latest-of-all,b,latest", "v2", "git_ref:a,latest-of-all,b"),
        ("git_ref:a,latest", "v3", "latest"),
    ):
        answer = compare(api, f"?against={against}")
        found = answer.json["baseline"]
        assert (found["version"], found["selector"]) == (version, selector), against
        assert answer.headers["Perfgate-Baseline"] == version
        assert found["tried"][-1] == selector
    found = judged(api, "?against=tag:none,version:v9,tag:stable,latest")
    assert found["baseline"]["tried"] == ["tag:none", "version:v9", "tag:stable"]


def test_without_a_baseline_it_is_as_asked_and_never_a_pass(api: Api) -> None:
    answer = compare(api, "?against=git_ref:main,latest&gate=true")
    assert (answer.status_code, answer.headers["Perfgate-Verdict"]) == (200, "skip")
    assert "Perfgate-Baseline" not in answer.headers
    assert answer.json["verdict"] == {
        "status": "skip",
        "counts": {"pass": 0, "warn": 0, "fail": 0, "skip": 0},
        "reasons": ["no_baseline"],
    }
    assert answer.json["baseline"] == {
        **{"version": None, "selector": None, "age_seconds": None},
        "tried": ["git_ref:main", "latest"],
    }
    answer = compare(api, "?on_missing=fail&gate=true")
    assert (answer.status_code, answer.json["verdict"]["reasons"]) == (422, ["no_baseline"])
    api.put(query="?git_ref=refs/heads/main", json=run(100, "before"))
    assert judged(api, "?against=git_ref:main")["baseline"]["others"] is True


def test_a_header_says_for_want_of_what_nothing_was_compared(api: Api) -> None:
    """A script has to tell a new benchmark from a selector that is not spelt right."""
    queries = ("", "?on_missing=fail&gate=true", "?format=markdown")
    for query in queries:
        assert compare(api, query).headers["Perfgate-Missing"] == "benchmark"
    api.put(query="?git_ref=refs/heads/main", json=run(100, "before"))
    assert compare(api, "?against=git_ref:main").headers["Perfgate-Missing"] == "selector"
    for query in ("?metrics=energy_uj", "?metrics=energy_uj&on_missing=fail&gate=true"):
        assert compare(api, query).headers["Perfgate-Missing"] == "metric"
    for query in queries:
        assert "Perfgate-Missing" not in compare(api, query).headers


@pytest.mark.parametrize("query", ["", "?normalize=true"])
def test_a_run_that_was_uploaded_first_is_not_compared_with_itself(api: Api, query: str) -> None:
    api.put("b", "v1", json=run(100, "before"))
    api.put("b", "v2", query, json=run(150, "now"))
    api.promote("v2", "v3")
    found = judged(api, value=run(150, "now"))
    assert (found["baseline"]["version"], found["verdict"]["status"]) == ("v1", "fail")
    assert found["noise"]["history"]["comparable"] == 1
    assert verdict(api, "?against=version:v2", run(150, "now"))[1] == ["no_baseline"]
    api.put("b", "v4", json=run(100, "after"))
    found = judged(api, value=run(150, "now"))
    assert (found["baseline"]["version"], found["noise"]["history"]["comparable"]) == ("v4", 2)


def test_an_old_baseline_warns(api: Api, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        old = "2026-03-01T12:00:00.000000Z"
        patched.setattr("perfgate_server.records.now", lambda: old)
        api.put("b", "v1", json=run(100, "before"))
    assert verdict(api, "?max_age=2d") == ("warn", ["stale_baseline"])
    assert judged(api)["baseline"]["age_seconds"] > 2 * 86_400
    with monkeypatch.context() as patched:
        patched.setattr("perfgate_server.records.now", lambda: "2999-03-01T12:00:00.000000Z")
        api.put("b", "future", json=run(100, "ahead"))
    assert verdict(api, "?max_age=2d") == ("warn", ["stale_baseline"])
    assert judged(api)["baseline"]["age_seconds"] < -2 * 86_400
    api.put("b", "v2", json=run(100, "later"))
    assert verdict(api, "?max_age=2d") == ("pass", [])


def test_a_baseline_without_a_summary_is_compared(
    api: Api, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A server of the version before summaries that runs on the same database stores none."""
    storage = api.client.application.extensions["perfgate"].storage
    found = storage.comparison

    def bare(*arguments: Any, **options: Any) -> Any:
        result = found(*arguments, **options)
        return replace(result, baseline=result.baseline._replace(summary=None))

    monkeypatch.setattr(storage, "comparison", bare)
    api.put("b", "v1", json=run(100, "before"))
    assert verdict(api, value=run(150)) == ("fail", ["wall_ms_fail"])


# -- the gate


def test_the_gate_answers_422_with_the_same_body(api: Api) -> None:
    api.put(json=run(100, "before"))
    for median, status, strict in ((100, 200, 200), (119, 200, 422), (150, 422, 422)):
        plain = compare(api, value=run(median))
        ageless = timeless(plain)
        for query, expected in (
            ("", 200),
            ("?gate=false&fail_on=warn", 200),
            ("?gate=true", status),
            ("?gate=1&fail_on=warn", strict),
        ):
            answer = compare(api, query, run(median))
            assert answer.status_code == expected, (median, query)
            assert answer.headers["Perfgate-Verdict"] == plain.headers["Perfgate-Verdict"]
            assert answer.content_type == "application/json"
            assert timeless(answer) == ageless
    answer = compare(api, "?gate=true&format=markdown", run(150))
    assert (answer.status_code, answer.content_type) == (422, MARKDOWN)


@pytest.mark.parametrize(
    ("query", "accept", "kind"),
    [
        ("", None, "application/json"),
        ("", "*/*", "application/json"),
        ("", "text/html", "application/json"),
        ("", "text/markdown", MARKDOWN),
        ("", "text/plain", TEXT),
        ("", "text/markdown; charset=UTF-8", MARKDOWN),
        ("", f"text/markdown, a{' ' * 999}b", MARKDOWN),
        # In the time that werkzeug takes for a long one, others wait.
        ("", f"text/markdown, a{' ' * 9999}b", "application/json"),
        ("", "text/markdown; charset=latin-1", "application/json"),
        ("", "application/json; charset=utf-8, text/plain;q=0.5", "application/json"),
        ("", "application/json;q=0.5, text/plain", TEXT),
        ("?format=markdown", None, MARKDOWN),
        ("?format=text", "text/markdown", TEXT),
        ("?format=json", "text/plain", "application/json"),
    ],
)
def test_the_format_is_the_parameters_or_what_is_accepted(
    quick: Api, query: str, accept: str | None, kind: str
) -> None:
    quick.put(json=run(100, "before"))
    answer = compare(quick, query, run(150), headers={"Accept": accept} if accept else {})
    assert (answer.status_code, answer.content_type) == (200, kind)
    start = {
        MARKDOWN: "**fail**: `b` of `p` against `v1` (`latest`, ",
        TEXT: "FAIL: b of p against v1 (latest, ",
        "application/json": '{"schema":"perfgate.compare.v1"',
    }
    assert answer.text.startswith(start[kind])
    # An error is JSON in every format.
    fails(compare(quick, f"{query}{'&' if query else '?'}x=1"), 400, "x")


# -- the noise


def past(api: Api, *medians: float, prefix: str = "v", **members: Any) -> None:
    for n, median in enumerate(medians):
        api.put("b", f"{prefix}{n}", json=run(median, f"{prefix}{n}", **members))


NOISY = (100, 160, 120, 150, 110)


def test_a_jump_within_the_noise_of_past_runs_warns(api: Api) -> None:
    past(api, *NOISY)
    found = judged(api, value=run(150))
    assert found["verdict"]["status"] == "warn"
    assert found["verdict"]["reasons"] == ["wall_ms_warn", "within_noise"]
    assert found["noise"]["history"] == {"requested": 20, "comparable": 5, "needed": 5}
    said = found["noise"]["metrics"]["wall_ms"]
    assert (said["n"], said["decided"]) == (5, "within_noise")
    assert said["low"] < 100 < said["center"] < 160 < said["high"]
    assert verdict(api, "?noise=off", run(150)) == ("fail", ["wall_ms_fail"])
    assert verdict(api, value=run(1000)) == ("fail", ["wall_ms_fail"])
    # The history has to be long enough for it, also by what was asked.
    assert verdict(api, "?history=4", run(150)) == ("fail", ["wall_ms_fail"])


def test_the_history_is_read_only_for_a_metric_beyond_its_threshold(api: Api) -> None:
    past(api, *NOISY)
    for median in (100, 131):  # against 110
        noise = judged(api, value=run(median))["noise"]
        assert noise["history"]["comparable"] is None
        assert noise["metrics"] == {}


@pytest.mark.parametrize(
    "members",
    [
        {"host": {**HOST, "cpu_count": 4}},
        {"host": {**HOST, "os": "macos"}},
        {"samples": [{"wall_ms": 100, "exit_code": 1}]},
        {"samples": [{"wall_ms": 100, "exit_code": 0, "timed_out": True}]},
    ],
    ids=str,
)
def test_runs_of_other_hosts_and_failed_ones_tell_nothing(
    api: Api, members: dict[str, Any]
) -> None:
    past(api, *NOISY, prefix="other", **members)
    api.put("b", "last", json=run(110, "last"))
    found = judged(api, value=run(150))
    assert found["verdict"]["reasons"] == ["wall_ms_fail"]
    assert found["noise"]["history"]["comparable"] == 1
    assert found["noise"]["metrics"]["wall_ms"] == {"n": 1, "decided": "too_little_history"}


def test_the_history_reaches_behind_what_tells_nothing(api: Api) -> None:
    past(api, *NOISY)
    past(api, *NOISY, 90, 95, prefix="other", host={**HOST, "cpu_count": 4})
    api.put("b", "last", json=run(110, "last"))
    found = judged(api, "?history=5", run(150))
    assert found["verdict"]["reasons"] == ["wall_ms_warn", "within_noise"]
    assert found["noise"]["history"] == {"requested": 5, "comparable": 5, "needed": 5}


def test_a_history_may_be_longer_than_by_default(api: Api) -> None:
    past(api, *range(100, 130))
    found = judged(api, "?history=25", run(300))
    assert found["noise"]["history"] == {"requested": 25, "comparable": 25, "needed": 5}


def test_a_threshold_of_a_metric_may_be_nothing(api: Api) -> None:
    past(api, 100)
    for number in ("0", "0.0"):
        query = f"?noise=off&threshold.wall_ms={number}"
        assert verdict(api, query, run(101)) == ("fail", ["wall_ms_fail"])


def test_runs_before_the_last_level_shift_tell_nothing(api: Api) -> None:
    """Which of two levels is the later one decides."""
    slow, fast = (200, 204, 198, 202, 200), (100, 102, 99, 101, 100)
    past(api, *slow, *fast)
    assert verdict(api, "?history=10", run(203)) == ("fail", ["wall_ms_fail"])
    past(api, *slow, prefix="w")
    api.put("b", "lucky", json=run(150, "lucky"))
    found = judged(api, value=run(203))
    assert found["verdict"]["reasons"] == ["wall_ms_warn", "within_noise"]
    assert found["noise"]["metrics"]["wall_ms"]["center"] == 200


def test_equal_normalized_runs_are_several(api: Api) -> None:
    """They have the same receipt. Taken for one, the odd runs would be most of the history."""
    medians = [100, 100, 131, 100, 100, 142, 100, 100, 153, 100, 100, 164, 100, 100]
    for n, median in enumerate(medians):
        api.put("b", f"v{n}", "?normalize=true", json=run(median, f"r{n}"))
    found = judged(api, value=run(155))
    assert found["verdict"]["reasons"] == ["wall_ms_fail"]
    assert found["noise"]["history"]["comparable"] == len(medians)


def test_runs_after_the_baseline_tell_nothing(api: Api) -> None:
    """A slowdown that creeps in is never beyond the noise of those before it."""
    past(api, *(round(100 * 1.08**n) for n in range(9)))
    pinned = judged(api, "?against=version:v0", run(200))
    assert pinned["verdict"]["reasons"] == ["wall_ms_fail"]
    assert pinned["noise"]["metrics"]["wall_ms"] == {"n": 1, "decided": "too_little_history"}
    normalized: dict[str, Any] = {"normalize": True}
    for good, options in (("good", {}), ("same", normalized)):
        api.promote("v0", good, **options)
        assert verdict(api, "?against=promoted", run(200)) == ("fail", ["wall_ms_fail"])
    assert api.delete("v0").status_code == 200  # and nobody knows where it stood
    assert verdict(api, "?against=promoted", run(200)) == ("fail", ["wall_ms_fail"])


def test_promotions_do_not_bring_an_old_level_back(api: Api) -> None:
    """As old runs among the newest they would look like a level shift."""
    past(api, *(100 + n % 3 for n in range(10)), *(50 + n % 2 for n in range(10)))
    for version in ("v7", "v8", "v9"):
        api.promote(version, f"good-{version}")
    api.put("b", "last", json=run(50, "last"))
    found = judged(api, value=run(100))
    assert found["verdict"]["reasons"] == ["wall_ms_fail"]
    assert found["noise"]["metrics"]["wall_ms"]["n"] == 11


def test_runs_of_other_refs_tell_nothing_about_a_ref(api: Api) -> None:
    """Of a pull request's own runs, uploaded before they are compared, each is as slow."""

    def put(ref: str, *medians: int) -> None:
        for median in medians:
            name = f"{ref}-{median}"
            api.put("b", name, json=run(median, name), query=f"?git_ref={ref}")

    put("main", 100, 103, 98, 101, 99, 102)
    put("pr", 150, 153, 149, 151, 148)
    put("main", 97)
    found = judged(api, "?against=tag:none,git_ref:main", run(152))
    assert found["verdict"]["reasons"] == ["wall_ms_fail"]
    assert found["noise"]["history"]["comparable"] == 7
    assert verdict(api, value=run(152)) == ("warn", ["wall_ms_warn", "within_noise"])


def test_another_host_and_failed_samples_are_reasons(api: Api) -> None:
    api.put(json=run(100, "before", host={**HOST, "cpu_count": 4}))
    found = judged(api, value=run(150))
    assert found["verdict"]["status"] == "warn"
    assert found["verdict"]["reasons"] == ["wall_ms_fail", "host_mismatch"]
    assert found["host"]["differing"] == ["cpu_count"]
    assert verdict(api, "?host_mismatch=fail", run(100))[0] == "fail"
    assert verdict(api, "?host_mismatch=ignore", run(100)) == ("pass", [])
    bad = run(100, samples=[{"wall_ms": 100, "exit_code": 1}])
    assert verdict(api, "?host_mismatch=ignore", bad) == ("fail", ["failed_samples"])
    assert verdict(api, "?host_mismatch=ignore&allow_failed=1", bad) == ("pass", [])


# -- what is kept


def test_a_comparison_reads_and_keeps_nothing(api: Api) -> None:
    api.put(json=run(100, "before"))
    before = contents(api)
    for role in ("viewer", "contributor"):
        assert compare(api, "?gate=true", run(150), role=role).status_code == 422
    assert contents(api) == before
    fails(compare(api, role=None), 401)


def test_a_verdict_is_kept_if_asked_for(api: Api) -> None:
    api.put(json=run(100, "before"))
    answer = compare(
        api, "?record=true&gate=true&git_ref=main&git_sha=abc", run(150, "now"), role="contributor"
    )
    assert answer.status_code == 422
    (kept,) = api.get(VERDICTS).json["verdicts"]
    assert kept.pop("id") and kept.pop("created_at")
    assert kept == {
        "schema": "perfgate.verdict.v1",
        "project": "p",
        "benchmark": "b",
        "run_id": "now",
        **answer.json["verdict"],
        "git_ref": "main",
        "git_sha": "abc",
    }
    assert api.list().json["pagination"]["total"] == 1
    assert envelope(api, {"record": True}).status_code == 200
    assert api.get(VERDICTS).json["pagination"]["total"] == 2


@pytest.mark.parametrize(
    ("stats", "variation"),
    [
        ({"mean": 200.0, "stddev": 50.0}, 0.25),
        ({"mean": 200.0, "stddev": 0}, 0),
        ({"mean": 200.0}, None),
        ({"mean": 0, "stddev": 1}, None),
        ({"mean": 1e-300, "stddev": 1e300}, None),
        ({"mean": -1.0, "stddev": -1.0}, None),
        ({"mean": 200.0, "stddev": -1.0}, None),
    ],
)
def test_a_kept_verdict_tells_how_much_the_run_scatters(
    api: Api, stats: dict[str, float], variation: float | None
) -> None:
    value = run()
    value["stats"]["wall_ms"].update(stats)
    assert judged(api, "?record=true", value)
    (kept,) = api.get(VERDICTS).json["verdicts"]
    assert kept.get("wall_ms_cv") == variation


def test_keeping_a_verdict_needs_write(api: Api) -> None:
    api.put(json=run(100, "before"))
    before = contents(api)
    fails(compare(api, "?record=true", role="viewer"), 403)
    fails(compare(api, "?record=1", value={}, role="viewer"), 403)  # before the body is read
    fails(compare(api, value={"receipt": run(), "options": {"record": True}}, role="viewer"), 403)
    assert contents(api) == before


def test_a_run_id_that_no_verdict_can_have_is_named(api: Api) -> None:
    for run_id in ("x" * 300, ""):
        value = run(100, run_id)
        fails(compare(api, "?record=true", value), 400, "receipt.run.id")
        assert judged(api, value=value)["current_ref"] == {"run_id": run_id}
    assert judged(api, "?record=true", run(100, "🚀" * 256))
    assert api.get(VERDICTS).json["pagination"]["total"] == 1


# -- who, and where


def test_a_limited_key_compares_its_own_benchmarks(config: ServerConfig, create: Create) -> None:
    key = "pg_live_" + "L" * 32
    api = Api(create(config.api_key(key, Role.VIEWER, "p", "io/.*")).test_client())
    own: dict[str, Any] = {"headers": {"Authorization": f"Bearer {key}"}, "role": None}
    path = "/projects/{}/baselines/{}/compare"
    assert verdict(api, path=path.format("p", "io/read"), **own)[1] == ["no_baseline"]
    for project, benchmark in (("p", "cpu"), ("p", "io"), ("q", "io/read")):
        fails(compare(api, path=path.format(project, benchmark), **own), 403)


def test_names_are_checked_and_other_methods_refused(quick: Api) -> None:
    fails(compare(quick, path="/projects/p/baselines/a//b/compare"), 400, "benchmark")
    fails(compare(quick, path="/projects/.p/baselines/b/compare"), 400, "project")
    for method in ("GET", "PUT", "DELETE"):
        assert fails(quick(method, COMPARE), 405) and quick(method, COMPARE).headers["Allow"]


@pytest.mark.parametrize("benchmark", ["compare", "x/compare", "compare/compare", "a/b"])
def test_compare_is_a_name_like_others(api: Api, benchmark: str) -> None:
    path = f"/projects/p/baselines/{benchmark}"
    assert api.put(benchmark, "compare", json=run(100, "before")).status_code == 201
    assert api.get(f"{path}/latest").json["version"] == "compare"
    assert api.get(f"{path}/versions/compare").json["benchmark"] == benchmark
    assert api.promote("compare", "v2", benchmark).status_code == 201
    found = judged(api, "?against=version:compare", run(150), path=f"{path}/compare")
    assert (found["baseline"]["version"], found["verdict"]["status"]) == ("compare", "fail")
    encoded = benchmark.replace("/", "%2F")
    again = judged(api, value=run(150), path=f"/projects/p/baselines/{encoded}/compare")
    assert again["baseline"]["version"] == "v2"
    assert api.delete("compare", benchmark).status_code == 200


def test_a_wrong_path_is_told_that_one_can_compare(quick: Api) -> None:
    message = fails(quick("POST", "/projects/p/baselines/b/comparison", json=run()), 404)["message"]
    assert "…/{benchmark}/compare" in message


# -- options, to the end


@pytest.mark.parametrize("sent", ["query", "options"])
def test_a_change_below_its_floor_is_none(api: Api, sent: str) -> None:
    api.put(json=run(100, "before"))
    for floor, status in ((1000, "pass"), (100, "fail")):
        if sent == "query":
            found = judged(api, f"?floor.wall_ms={floor}", run(200))
        else:
            options = {"floor.wall_ms": floor}
            found = compare(api, value={"receipt": run(200), "options": options}).json
        assert found["verdict"]["status"] == status


def test_the_defaults_are_the_rules_own(api: Api) -> None:
    loaded, rule = COMPARE_QUERY.load({}), Options()
    assert (loaded.pop("noise") == "on") is rule.noise
    for name in {*Options.__slots__} & {*loaded}:
        assert loaded[name] == getattr(rule, name)
    api.put(json=run(100, "before"))
    budget = judged(api)["budgets"]["wall_ms"]
    assert (budget["threshold"], budget["warn_threshold"]) == (0.2, 0.2 * 0.9)


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("90s", 90), ("45m", 2700), ("12h", 43_200), ("30d", 2_592_000), ("2w", 1_209_600)]
    + [("999999999s", 999_999_999)],
)
def test_an_age_has_a_unit(text: str, seconds: float) -> None:
    assert COMPARE_QUERY.load({"max_age": text})["max_age"] == seconds


@pytest.mark.parametrize(
    "query",
    [
        "max_age=30days",
        "max_age=12h30m",
        "max_age=1000000000s",
        "min_samples=1000001",
        "warn_factor=1.01",
        "threshold=1000001",
        "threshold=0.2x",
        "floor.wall_ms=2e18",
    ],
)
def test_what_is_nearly_an_option_is_refused(quick: Api, query: str) -> None:
    fails(compare(quick, f"?{query}"), 400, query.partition("=")[0])


def test_the_bounds_of_options_are_taken(api: Api) -> None:
    api.put(json=run(100, "before"))
    for query in (
        "warn_factor=1",
        "threshold=1e6",
        "threshold=1.",
        "threshold=.5",
        "threshold.wall_ms=1e6",
        "floor.wall_ms=1e18",
        "history=100",
        "min_samples=1000000",
        "host_mismatch=warn",
        "noise=on",
        "on_missing=skip",
        "fail_on=fail",
        "against=" + ",".join(["latest"] * 16),
        "against=git_ref:" + "x" * 256,
        "against=git_ref:a%20b",  # an upload may say so
    ):
        assert compare(api, f"?{query}").status_code == 200, query
    assert verdict(api, "?threshold=0", run(101)) == ("fail", ["wall_ms_fail"])


def test_options_in_a_body_mean_what_they_say(api: Api) -> None:
    api.put(json=run(100, "before"))
    slow = {"receipt": run(200)}
    answer = compare(api, value=slow | {"options": {"threshold": 2.0, "gate": True}})
    assert (answer.status_code, answer.json["budgets"]["wall_ms"]["threshold"]) == (200, 2.0)
    assert compare(api, value=slow | {"options": {"gate": True}}).status_code == 422
    assert compare(api, value=slow | {"options": {"gate": False}}).status_code == 200
    failed = run(100, samples=[{"wall_ms": 100, "exit_code": 1}])
    for allow, status in ((False, "fail"), (True, "pass")):
        body = {"receipt": failed, "options": {"allow_failed": allow}}
        assert compare(api, value=body).json["verdict"]["status"] == status


def test_a_viewer_may_say_that_nothing_is_to_be_recorded(api: Api) -> None:
    for value in ("false", "0"):
        assert compare(api, f"?record={value}", role="viewer").status_code == 200
    fails(compare(api, "?record=x", role="viewer"), 400, "record")


def test_a_run_id_of_one_character_is_recorded(api: Api) -> None:
    for run_id, status in (("r", 200), ("r" * 256, 200), ("", 400), ("r" * 257, 400)):
        value = run(100)
        value["run"]["id"] = run_id
        assert compare(api, "?record=1", value).status_code == status, run_id


def test_runs_kept_without_a_summary_tell_nothing(api: Api) -> None:
    """As a server of an earlier version keeps them that runs beside this one."""
    past(api, *NOISY, 110)
    engine = api.client.application.extensions["perfgate"].storage._engine
    with engine.writing("p", "b", time.monotonic() + 20) as db:
        db.execute(
            """DELETE FROM receipt_summaries WHERE receipt_id IN
               (SELECT receipt_id FROM baselines WHERE version = ?)""",
            ("v1",),
        )
    assert judged(api, value=run(150))["noise"]["history"]["comparable"] == 5
    trend = api.get("/projects/p/baselines/b/trend?metric=wall_ms").json["points"]
    assert [point["version"] for point in trend] == ["v0", "v2", "v3", "v4", "v5"]

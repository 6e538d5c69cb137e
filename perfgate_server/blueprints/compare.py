"""``POST …/baselines/{benchmark}/compare``: is this run slower than its baseline?"""

from __future__ import annotations

import datetime
import difflib
import functools
import math
from typing import Any

from flask import Blueprint, Response, g, request
from marshmallow import ValidationError

from perfgate_server import jsonio, record_schemas, records, summaries
from perfgate_server.auth import check_permission, requires
from perfgate_server.blueprints import requests, responses
from perfgate_server.blueprints.routes import BENCHMARK
from perfgate_server.compare_query import COMPARE_QUERY, pairs_of, per_metric
from perfgate_server.fields import all_valid
from perfgate_server.gate import render
from perfgate_server.gate.document import document
from perfgate_server.gate.rule import FoundBaseline, Judgement, Options, is_comparable, judge
from perfgate_server.keys import Permission
from perfgate_server.lean import Answer
from perfgate_server.queries import MAX_PARAMETERS, BooleanParameter
from perfgate_server.storage.base import Baseline, Comparison, PastRun, Selector
from perfgate_server.storage.verdicts import VerdictRecord
from perfgate_server.summaries import Summary

blueprint = Blueprint("compare", __name__)

#: The options that decide something, and that no other body has.
_DECIDING = {*COMPARE_QUERY.parameters} - {"git_ref", "git_sha"}

#: What the answer can be written in -> its media type.
_FORMATS = {"json": responses.JSON, "markdown": "text/markdown", "text": "text/plain"}
_CHARSET = "; charset=utf-8"
#: What the Accept header may call it -> the format.
_ACCEPTED = {kind + end: name for end in ("", _CHARSET) for name, kind in _FORMATS.items()}
#: Characters; browsers send some 150.
_LONGEST_ACCEPT = 1024
_WRITTEN = {"markdown": render.markdown, "text": render.text}


@blueprint.post(f"{BENCHMARK}/compare")
@requires(Permission.READ)
def compare(project: str, benchmark: str) -> Response:
    """The verdict on a run: 200, or 422 where a gate closes; 400, 403, 413, 415."""
    pairs = requests.pairs()
    if any(name == "record" and BooleanParameter.values.get(value) for name, value in pairs):
        check_permission(Permission.WRITE)  # before the body is read
    receipt, options, ignored = _asked(pairs)
    if options["record"]:
        check_permission(Permission.WRITE)
    judgement, found = _judge(project, benchmark, receipt, options)
    if options["record"]:
        _record(project, benchmark, receipt, judgement, options)
    tried = [_name(selector) for selector in found.tried]
    answer = document(judgement, receipt["bench"], tried, found.others)
    responses.name_ignored(answer, ignored)
    return _answer(project, benchmark, answer, options)


def _asked(pairs: list[tuple[str, str]]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Return the receipt, the options (the query string's are `pairs`), and which members of the
    body nobody knows. The body is a receipt as it is, or an envelope."""
    sent, ignored = jsonio.loads(requests.body()), []
    if isinstance(sent, dict) and "receipt" in sent and "schema" not in sent:
        ignored = _unknown_members(sent)
        if sent.get("options") is not None:
            pairs = pairs + pairs_of(sent["options"])
        sent = sent["receipt"]
    elif isinstance(sent, dict) and "options" in sent:
        _check_options_of_receipt(sent)
    receipt, options, _ = all_valid(
        functools.partial(requests.receipt, sent),
        functools.partial(requests.query, COMPARE_QUERY, pairs),
        functools.partial(_check_recorded, pairs),
    )
    return receipt, options, ignored


def _unknown_members(envelope: dict[str, Any]) -> list[str]:
    """Return which members of an envelope nobody knows. Raises 400 for those that were meant to be
    options: ignored, they would mean no gate, or another limit."""
    unknown = [name for name in envelope if name not in ("receipt", "options")]
    if len(unknown) > MAX_PARAMETERS:
        raise ValidationError({"options": f"Must not have {len(unknown)} members beside it."})
    astray = [name for name in unknown if name in _DECIDING or _is_misspelt(name)]
    if astray:
        raise ValidationError(dict.fromkeys(astray, "Must be inside the member `options`."))
    return unknown


def _check_options_of_receipt(sent: dict[str, Any]) -> None:
    """Raise 400 if ``options`` stand in a receipt, or in an envelope without one."""
    if "schema" not in sent:
        raise ValidationError({"receipt": "Must be given, beside `options`."})
    if isinstance(sent["options"], dict) and not _DECIDING.isdisjoint(sent["options"]):
        raise ValidationError({"options": "Stand beside the member `receipt`, not in a receipt."})


def _check_recorded(pairs: list[tuple[str, str]]) -> None:
    """Refuse git_ref and git_sha without `record`, as only a verdict that is kept has them: they
    were meant for a selector, and the run would be compared with another branch's."""
    asked = {name for name, _ in pairs}
    if "record" not in asked and (stray := asked & {"git_ref", "git_sha"}):
        rule = "Goes with record=true. To compare with a record of it, say against={}:VALUE."
        raise ValidationError({name: rule.format(name) for name in stray})


def _is_misspelt(name: str) -> bool:
    # No longer name can be so much alike, and to find out would take difflib long.
    return len(name) <= 10 and bool(
        difflib.get_close_matches(name.lower(), ["options"], cutoff=0.8)
    )


# -- the verdict


def _judge(
    project: str, benchmark: str, receipt: dict[str, Any], asked: dict[str, Any]
) -> tuple[Judgement, Comparison]:
    """Return the verdict on a receipt, and what was found to compare it with."""
    options = _rule_options(asked)
    current = summaries.summary_of(receipt)
    # A job may upload, even normalized, before it compares, and must not compare with itself.
    itself = records.content_hashes(receipt)
    found = requests.storage().comparison(
        project,
        benchmark,
        [Selector(*selector) for selector in asked["against"]],
        excluding=itself,
        deadline=g.deadline,
    )
    baseline, selector = found.baseline, found.tried[-1]
    if baseline is None:
        return judge(current, None, list, options), found
    before = FoundBaseline(_summary(baseline), baseline.version, _name(selector), _age(baseline))
    # Read only if a metric is beyond its threshold: most runs are not slower.
    history = functools.partial(_history, baseline, selector, itself, current, options)
    return judge(current, before, history, options), found


def _history(
    baseline: Baseline, selector: Selector, itself: list[str], current: Summary, options: Options
) -> list[Summary]:
    """Return the comparable runs up to the baseline's, oldest first.

    Runs after it do not count, as they may contain the slowdown that is looked for; nor, for a
    git_ref selector, do runs of other refs, such as pull requests.
    """

    def comparable(summary: bytes) -> PastRun | None:
        past = summaries.parse(summary)
        if not is_comparable(current, past, options):
            return None
        return PastRun(past, past.run_id != records.NORMAL_RUN_ID)

    past = requests.storage().past(
        baseline,
        git_ref=selector.value if selector.kind == "git_ref" else None,
        excluding=itself,
        limit=options.history,
        read=comparable,
        deadline=g.deadline,
    )
    return [*reversed(past)]


def _rule_options(asked: dict[str, Any]) -> Options:
    """Return the options that the rule knows."""
    same = {name: asked[name] for name in Options.__slots__ if name in asked}
    limits = {f"{kind}s": per_metric(asked, kind) for kind in ("threshold", "floor")}
    return Options(**{**same, **limits, "noise": asked["noise"] == "on"})


def _summary(baseline: Baseline) -> Summary:
    """Return a record's summary: made now, if an older server stored it without one."""
    if baseline.summary is not None:
        return summaries.parse(baseline.summary)
    whole = requests.storage().get(
        baseline.project, baseline.benchmark, baseline.version, receipt=True, deadline=g.deadline
    )
    return summaries.summary_of(jsonio.loads(whole.body()))


def _name(selector: Selector) -> str:
    return f"{selector.kind}:{selector.value}" if selector.value else selector.kind


def _age(baseline: Baseline) -> float:
    """Return how long ago a record was made, in seconds, by this machine's clock."""
    made = datetime.datetime.fromisoformat(baseline.created_at)
    return (datetime.datetime.now(datetime.UTC) - made).total_seconds()


def _record(
    project: str,
    benchmark: str,
    receipt: dict[str, Any],
    judgement: Judgement,
    options: dict[str, Any],
) -> None:
    run_id = judgement.current.run_id
    if not 1 <= len(run_id) <= record_schemas.MAX_RUN_ID:
        rule = f"Must be 1 to {record_schemas.MAX_RUN_ID} characters for a verdict to be recorded."
        raise ValidationError({"receipt.run.id": rule})
    verdict = VerdictRecord(
        id=records.new_id(),
        project=project,
        benchmark=benchmark,
        run_id=run_id,
        status=judgement.status,
        counts=judgement.metrics.counts,
        reasons=list(judgement.reasons),
        git_ref=options.get("git_ref"),
        git_sha=options.get("git_sha"),
        created_at=records.now(),
        created_by=g.key.actor,
        wall_ms_cv=_variation(receipt["stats"]["wall_ms"]),
    )
    requests.storage().add_verdict(verdict, deadline=g.deadline, now=records.now)


def _variation(stats: dict[str, Any]) -> float | None:
    """Return a metric's coefficient of variation; None if its receipt does not tell."""
    mean, deviation = stats.get("mean"), stats.get("stddev")
    if mean is None or mean <= 0 or deviation is None:
        return None
    variation = deviation / mean
    return variation if 0 <= variation < math.inf else None


# -- the answer


def _answer(
    project: str, benchmark: str, answer: dict[str, Any], options: dict[str, Any]
) -> Response:
    status, version = answer["verdict"]["status"], answer["baseline"]["version"]
    g.verdict = status  # for the request's line in the log
    headers = {"Perfgate-Verdict": status}
    if version is not None:
        headers["Perfgate-Baseline"] = version
    missing = _missing(answer)
    if missing is not None:
        headers["Perfgate-Missing"] = missing
    failing = ("fail", "warn") if options["fail_on"] == "warn" else ("fail",)
    code = 422 if options["gate"] and status in failing else 200
    written = options.get("format") or _accepted()
    if written == "json":
        return responses.json(answer, code, headers)
    text = _WRITTEN[written](answer, project, benchmark)
    return Answer(text, code, headers, content_type=_FORMATS[written] + _CHARSET)


def _missing(answer: dict[str, Any]) -> str | None:
    """Return what was missing if nothing could be compared: the ``benchmark`` has no records, no
    ``selector`` fits those that it has, or no ``metric`` could be judged. None if one was."""
    reasons = answer["verdict"]["reasons"]
    if "no_baseline" in reasons:
        return "selector" if "others" in answer["baseline"] else "benchmark"
    return "metric" if "no_metrics" in reasons else None


def _accepted() -> str:
    """Return the format that the Accept header likes best; JSON if it likes none, or is long:
    werkzeug's time grows with the square of the white space in it."""
    if not 0 < len(request.environ.get("HTTP_ACCEPT", "")) <= _LONGEST_ACCEPT:
        return "json"
    return _ACCEPTED[request.accept_mimetypes.best_match(_ACCEPTED, responses.JSON)]

"""Everything under ``/projects/{project}/baselines``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

from flask import Blueprint, Response, g, request, url_for
from marshmallow import ValidationError
from werkzeug.urls import iri_to_uri

from perfgate_server import jsonio, queries, records, schemas
from perfgate_server.auth import requires
from perfgate_server.blueprints import requests, responses
from perfgate_server.blueprints.routes import BASELINES, BENCHMARK, VERSION
from perfgate_server.errors import ApiError
from perfgate_server.fields import all_valid
from perfgate_server.keys import Permission
from perfgate_server.lean import Answer
from perfgate_server.storage.base import (
    MAX_RECEIPT,
    Baseline,
    Filters,
    PreconditionFailed,
    Promotion,
    Receipt,
)

blueprint = Blueprint("baselines", __name__)

_upload_schema = schemas.UploadSchema()
_promotion_schema = schemas.PromotionSchema()
_put_query = queries.PutQuery()
_read_query = queries.ReadQuery()
_list_query = queries.ListQuery()
_page_query = queries.PageQuery()
_trend_query = queries.TrendQuery()

_CACHE_CONTROL = "private, no-cache"


# -- write


@blueprint.post(BASELINES)
@requires(Permission.WRITE)
def upload(project: str) -> Response:
    """Upload an envelope: 201, or 200 for one that was there; 400, 409, 412, 413, 415."""
    envelope, ignored = _posted()
    version = envelope.get("version") or records.new_version()
    return _create(project, envelope["benchmark"], version, envelope, ignored)


@blueprint.put(VERSION)
@requires(Permission.WRITE)
def upload_file(project: str, benchmark: str, version: str) -> Response:
    """Upload a bare receipt: as `upload`, but for a 415 of its Content-Type."""
    return _create(project, benchmark, version, _put(), [])


@blueprint.post(f"{BENCHMARK}/promote")
@requires(Permission.PROMOTE)
def promote(project: str, benchmark: str) -> Response:
    """Make a record of another's receipt: 201, or 200 for one that was there; 400, 404, 409, 412,
    413, 415."""
    sent = requests.json_body()
    envelope = requests.without_query(_promotion_schema, sent)
    promotion = Promotion(
        project=project,
        benchmark=benchmark,
        from_version=envelope["from_version"],
        to_version=envelope["to_version"],
        git_ref=envelope.get("git_ref"),
        git_sha=envelope.get("git_sha"),
        tags=envelope.get("tags"),
        normalize=records.normalize_body if envelope.get("normalize") else None,
        id=records.new_id(),
        created_at=records.now(),
        created_by=g.key.actor,
    )
    baseline, created = requests.storage().promote(
        promotion,
        deadline=g.deadline,
        precondition=requests.check_preconditions,
        now=records.now,
    )
    answer = records.promotion_answer(baseline)
    ignored = _ignored(sent, _promotion_schema)
    return _stored(baseline, created, records.etag_of(baseline), answer, ignored)


@blueprint.delete(VERSION)
@requires(Permission.DELETE)
def delete(project: str, benchmark: str, version: str) -> Response:
    """Delete a record for good: 200; 400, 404, 412."""
    requests.query(queries.NO_QUERY)
    baseline = requests.storage().delete(
        project, benchmark, version, deadline=g.deadline, precondition=requests.check_preconditions
    )
    return responses.json(
        {
            "deleted": True,
            "id": baseline.id,
            "benchmark": baseline.benchmark,
            "version": baseline.version,
            "deleted_at": records.now(),
        }
    )


# -- read


@blueprint.get(f"{BENCHMARK}/latest")
@requires(Permission.READ)
def get_latest(project: str, benchmark: str) -> Response:
    """The newest record: 200, or 304; 400, 404."""
    return _read(
        lambda receipt: requests.storage().latest(
            project, benchmark, receipt=receipt, deadline=g.deadline
        )
    )


@blueprint.get(VERSION)
@requires(Permission.READ)
def get_version(project: str, benchmark: str, version: str) -> Response:
    """One record: 200, or 304; 400, 404."""
    return _read(
        lambda receipt: requests.storage().get(
            project, benchmark, version, receipt=receipt, deadline=g.deadline
        )
    )


@blueprint.get(BASELINES)
@requires(Permission.READ)
def list_baselines(project: str) -> Response:
    """A page of a project's records, newest first: 200, also for none; 400."""
    parameters = requests.pairs()
    query = requests.query(_list_query, parameters)
    page = requests.page(query, receipts=query.pop("include_receipt"))
    filters = Filters(**query, visible_prefix=g.key.visible_prefix, is_visible=g.key.is_visible)
    listing = requests.storage().list(project, filters, page, deadline=g.deadline)
    if page.receipts:
        entries: Iterable[bytes] = _with_receipts(listing.records)
        page = page.as_cut(listing)
    else:
        entries = responses.entries(map(records.list_entry, listing.records))
    return responses.listed("baselines", entries, listing, page, parameters)


@blueprint.get(f"{BENCHMARK}/versions")
@requires(Permission.READ)
def get_history(project: str, benchmark: str) -> Response:
    """A page of a benchmark's records, newest first: 200; 400, 404."""
    parameters = requests.pairs()
    page = requests.page(requests.query(_page_query, parameters))
    listing = requests.storage().history(project, benchmark, page, deadline=g.deadline)
    entries = responses.entries(
        records.version_entry(baseline, listing.current) for baseline in listing.records
    )
    return responses.listed("versions", entries, listing, page, parameters)


@blueprint.get(f"{BENCHMARK}/trend")
@requires(Permission.READ)
def get_trend(project: str, benchmark: str) -> Response:
    """A metric of a benchmark's newest records, oldest first: 200; 400, 404."""
    query = requests.query(_trend_query)
    metric = query["metric"]
    newest = requests.storage().recent(
        project, benchmark, query["window"], git_ref=query.get("git_ref"), deadline=g.deadline
    )
    points = [records.trend_point(baseline, metric) for baseline in reversed(newest)]
    return responses.json(
        {
            "project": project,
            "benchmark": benchmark,
            "metric": metric,
            "points": [point for point in points if point is not None],
        }
    )


# -- helpers


def _ignored(sent: dict[str, Any], schema: Any) -> list[str]:
    return [name for name in sent if name not in schema.fields]


def _posted() -> tuple[dict[str, Any], list[str]]:
    """Return the envelope of an upload by POST, and which members of it nobody knows."""
    sent = requests.benchmark_body()
    if isinstance(sent, dict) and "schema" in sent and "receipt" not in sent:
        raise ValidationError({"receipt": "Must be given; a receipt by itself is for PUT."})
    return requests.without_query(_upload_schema, sent), _ignored(sent, _upload_schema)


def _put() -> dict[str, Any]:
    """Return what came by PUT as an envelope."""
    sent = jsonio.loads(requests.body())
    if isinstance(sent, dict) and "receipt" in sent and "schema" not in sent:
        raise ValidationError({"receipt": "Must be the receipt itself; an envelope is for POST."})
    envelope, receipt = all_valid(
        partial(requests.query, _put_query), partial(requests.receipt, sent)
    )
    return {**envelope, "receipt": receipt}


def _create(
    project: str,
    benchmark: str,
    version: str,
    envelope: dict[str, Any],
    ignored: list[str],
) -> Response:
    receipt = _taken_from(envelope)
    new = Baseline(
        id=records.new_id(),
        project=project,
        benchmark=benchmark,
        version=version,
        git_ref=envelope.get("git_ref"),
        git_sha=envelope.get("git_sha"),
        metadata=envelope.get("metadata") or {},
        tags=envelope.get("tags") or [],
        created_at=records.now(),
        created_by=g.key.actor,
        content_hash=receipt.content_hash,
        source="upload",
    )
    baseline, created = requests.storage().create(
        new,
        receipt,
        deadline=g.deadline,
        precondition=requests.check_preconditions,
        now=records.now,
    )
    tag = records.etag_of(baseline)
    return _stored(baseline, created, tag, records.upload_answer(baseline, tag), ignored)


def _taken_from(envelope: dict[str, Any]) -> Receipt:
    """Take the receipt out of an envelope, as it is stored.

    Nobody holds what it was parsed to any longer: it is ten times as large as its text, and those
    who wait for the storage, or for the disk, would keep the others out of the cache.
    """
    value = envelope.pop("receipt")
    receipt = records.receipt_of(records.normalized(value) if envelope.get("normalize") else value)
    if len(receipt.body) > MAX_RECEIPT:
        # Its canonical text may be several times as long: 1e15 is written in full.
        message = f"The receipt is over {MAX_RECEIPT} bytes as it would be stored."
        raise ApiError(413, message, {"limit": MAX_RECEIPT})
    return receipt


def _stored(
    baseline: Baseline, created: bool, tag: str, answer: dict[str, Any], ignored: list[str]
) -> Response:
    responses.name_ignored(answer, ignored)
    location = url_for(
        ".get_version",
        project=baseline.project,
        benchmark=baseline.benchmark,
        version=baseline.version,
    )
    # Under a proxy's prefix, which may hold what a header must not, or lead elsewhere.
    headers = {"ETag": f'"{tag}"', "Location": f"/{iri_to_uri(location).lstrip('/')}"}
    return responses.json(answer, 201 if created else 200, headers)


def _read(find: Callable[[bool], Baseline]) -> Response:
    """Answer a record or its bare receipt; `find` looks it up, with its receipt or without."""
    environ = request.environ
    # PEP 3333: it may be absent.
    only = bool(environ.get("QUERY_STRING")) and "receipt" in requests.query(_read_query)
    found = None
    if "HTTP_IF_MATCH" in environ:
        # Not looked up again: the newest record may be another by then.
        found = find(True)
        if not request.if_match.contains(_tag(found, only)):
            raise PreconditionFailed("If-Match")
    known = environ.get("HTTP_IF_NONE_MATCH")
    if known is not None:
        tag = _tag(found or find(False), only)
        if _names(known, tag):
            return _unchanged(tag)
    baseline = found or find(True)
    receipt = baseline.body()
    if only:
        tag, text = records.receipt_etag(baseline), receipt + b"\n"
    else:
        head = records.record_head(baseline)
        tag, text = records.etag(head), records.baseline_json(head, receipt)
    if known is not None and _names(known, tag):
        return _unchanged(tag)  # it has become the newest meanwhile
    return Answer(text, headers=_read_headers(tag), content_type=responses.JSON)


def _names(known: str, tag: str) -> bool:
    """Tell whether the request's If-None-Match, `known`, names the record with this ETag."""
    # Mostly it is what was answered before, and need not be taken apart.
    return known == f'"{tag}"' or request.if_none_match.contains_weak(tag)


def _unchanged(tag: str) -> Response:
    return Answer(None, 304, _read_headers(tag), content_type=responses.JSON)


def _tag(baseline: Baseline, only: bool) -> str:
    return records.receipt_etag(baseline) if only else records.etag_of(baseline)


def _read_headers(tag: str) -> dict[str, str]:
    return {"ETag": f'"{tag}"', "Cache-Control": _CACHE_CONTROL}


def _with_receipts(baselines: list[Baseline]) -> Iterable[bytes]:
    """Yield the parts of a JSON array: the receipts' stored texts go in as they are."""
    before = b"["
    for baseline in baselines:
        head = jsonio.dumps(records.list_entry(baseline)).encode()
        yield b'%b%b,"receipt":' % (before, head[:-1])
        yield baseline.body()
        before = b"},"
    yield b"}]" if baselines else b"[]"

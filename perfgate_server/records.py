"""How records look to a client: JSON members, ETags, identifiers, times. No I/O."""

from __future__ import annotations

import hashlib
import secrets
from datetime import UTC, datetime
from typing import Any

from perfgate_server import jsonio, summaries
from perfgate_server.schemas import BASELINE_SCHEMA, VERDICT_SCHEMA
from perfgate_server.storage.base import Baseline, Receipt
from perfgate_server.storage.verdicts import VerdictRecord


def now() -> str:
    """Return the time as records have it: RFC 3339, UTC, ``Z``, microseconds."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def new_id() -> str:
    """Return a new record's id: 128 random bits in hex."""
    return secrets.token_hex(16)


def new_version() -> str:
    """Return a version made of the time, such as ``20260308T120000.123456Z-9f86d081``.

    The random end keeps two uploads in one microsecond apart.
    """
    return now().replace("-", "").replace(":", "") + "-" + secrets.token_hex(4)


def receipt_of(value: Any) -> Receipt:
    """Return a parsed receipt as it is stored."""
    body = jsonio.canonical(value)
    return Receipt(body, _sha256(body), summaries.body_of(value))


def content_hashes(value: Any) -> list[str]:
    """Return the content hashes of a parsed receipt, as it is and normalized."""
    members = jsonio.canonical_members(value)
    # All else is the same in both, and may be long.
    run = jsonio.canonical_members({"run": normalized(value)["run"]})
    return [_sha256(jsonio.canonical_of(form)) for form in (members, {**members, **run})]


def _sha256(body: bytes) -> str:
    return hashlib.sha256(body).hexdigest()


#: The id of every normalized run.
NORMAL_RUN_ID = "baseline"


def normalized(value: Any) -> Any:
    """Return a receipt without what differs between two equal runs: its id and its times."""
    epoch = "1970-01-01T00:00:00Z"
    run = {**value["run"], "id": NORMAL_RUN_ID, "started_at": epoch, "ended_at": epoch}
    return {**value, "run": run}


def normalize_body(body: bytes) -> Receipt:
    """Return a stored receipt's body as a normalized receipt."""
    return receipt_of(normalized(jsonio.loads(body)))


def record_head(baseline: Baseline) -> bytes:
    """Return the record as JSON, all of it but the receipt.

    It decides the ETag too: whatever a client can see of a record, its ETag covers.
    """
    members = {
        "schema": BASELINE_SCHEMA,
        "id": baseline.id,
        "project": baseline.project,
        "benchmark": baseline.benchmark,
        "version": baseline.version,
        "git_ref": baseline.git_ref,
        "git_sha": baseline.git_sha,
        "metadata": baseline.metadata,
        "tags": baseline.tags,
        "created_at": baseline.created_at,
        "updated_at": baseline.created_at,
        "created_by": baseline.created_by,
        "content_hash": baseline.content_hash,
        "source": baseline.source,
        "promoted_from": baseline.promoted_from,
        "deleted": False,
    }
    for optional in ("git_ref", "git_sha", "promoted_from"):
        if members[optional] is None:
            del members[optional]
    return jsonio.dumps(members).encode()


def baseline_json(head: bytes, receipt: bytes) -> bytes:
    """Return the whole record as JSON. The receipt's stored text goes in as it is."""
    return b'%b,"receipt":%b}\n' % (head[:-1], receipt)


def etag(head: bytes) -> str:
    """Return the opaque part of a record's ETag, of its `record_head`."""
    return "sha256:" + hashlib.sha256(head).hexdigest()


def etag_of(baseline: Baseline) -> str:
    """Return the opaque part of the ETag of a record."""
    return etag(record_head(baseline))


def receipt_etag(baseline: Baseline) -> str:
    """Return the opaque part of the bare receipt's ETag."""
    return "sha256:" + baseline.content_hash


def upload_answer(baseline: Baseline, tag: str) -> dict[str, Any]:
    """Return the answer to an upload of the record, whose ETag is `tag`."""
    return {
        "id": baseline.id,
        "benchmark": baseline.benchmark,
        "version": baseline.version,
        "created_at": baseline.created_at,
        "etag": f'"{tag}"',
    }


def promotion_answer(baseline: Baseline) -> dict[str, Any]:
    """Return the answer to a promotion that made the record."""
    return {
        "id": baseline.id,
        "benchmark": baseline.benchmark,
        "version": baseline.version,
        "promoted_from": baseline.promoted_from,
        "promoted_at": baseline.created_at,
        "created_at": baseline.created_at,
    }


def list_entry(baseline: Baseline) -> dict[str, Any]:
    """Return a record's entry in a list."""
    return {
        "id": baseline.id,
        "benchmark": baseline.benchmark,
        "version": baseline.version,
        "created_at": baseline.created_at,
        "git_ref": baseline.git_ref,
        "git_sha": baseline.git_sha,
        "tags": baseline.tags,
        "source": baseline.source,
        "content_hash": baseline.content_hash,
    }


def version_entry(baseline: Baseline, current: int | None) -> dict[str, Any]:
    """Return a record's entry in a history whose newest record has the sequence `current`."""
    entry = {
        "version": baseline.version,
        "git_ref": baseline.git_ref,
        "git_sha": baseline.git_sha,
        "created_at": baseline.created_at,
        "created_by": baseline.created_by,
        "is_current": baseline.sequence == current,
        "source": baseline.source,
        "promoted_from": baseline.promoted_from,
        "tags": baseline.tags,
        "content_hash": baseline.content_hash,
    }
    return {name: value for name, value in entry.items() if value is not None}


def trend_point(baseline: Baseline, metric: str) -> dict[str, Any] | None:
    """Return a record's point in the trend of a metric: its median, least and greatest value.

    None if its receipt lacks the metric, or was kept without a summary.
    """
    if baseline.summary is None:
        return None
    stats = summaries.parse(baseline.summary).stats.get(metric)
    if stats is None:
        return None
    point = {
        "version": baseline.version,
        "created_at": baseline.created_at,
        "git_ref": baseline.git_ref,
        "git_sha": baseline.git_sha,
        "value": stats["median"],
        "min": stats["min"],
        "max": stats["max"],
        "source": baseline.source,
    }
    return {name: value for name, value in point.items() if value is not None}


def verdict(record: VerdictRecord) -> dict[str, Any]:
    """Return a verdict as the API answers it."""
    members = {
        "schema": VERDICT_SCHEMA,
        "id": record.id,
        "project": record.project,
        "benchmark": record.benchmark,
        "run_id": record.run_id,
        "status": record.status,
        "counts": record.counts,
        "reasons": record.reasons,
        "git_ref": record.git_ref,
        "git_sha": record.git_sha,
        "wall_ms_cv": record.wall_ms_cv,
        "flakiness_score": record.flakiness_score,
        "created_at": record.created_at,
    }
    return {name: value for name, value in members.items() if value is not None}


def exported_verdict(record: VerdictRecord) -> bytes:
    """Return a verdict as a line of an export, which has `created_by` too."""
    return jsonio.dumps({**verdict(record), "created_by": record.created_by}).encode() + b"\n"

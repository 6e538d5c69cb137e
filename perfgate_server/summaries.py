"""The part of a receipt that comparisons read: a few hundred bytes, kept beside the receipt.

A summary is JSON. Migration 2 makes the same of the receipts that were there before it, but cuts
no long texts.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, TypedDict

from perfgate_server import jsonio
from perfgate_server.columns import columns_of
from perfgate_server.names import HOST, METRICS

#: Without the look for white space around it that json.loads takes: we wrote it.
_decode = json.JSONDecoder().raw_decode

#: Characters of a text in a summary: hundreds of summaries may be read for one answer.
_LONGEST = 1024


class MetricStats(TypedDict):
    """A metric over the measured samples, in its own unit; the numbers are the receipt's."""

    median: int | float
    min: int | float
    max: int | float


@dataclass(frozen=True, slots=True)
class Summary:
    """What a comparison knows of a receipt.

    `host` holds those members of `names.HOST` that the receipt has; `samples` counts those that
    were measured, warm-ups aside, and `failed` those of them that ended with another exit code
    than 0 or ran out of time; `stats` holds the known metrics by name.
    """

    run_id: str
    host: dict[str, Any]
    samples: int
    failed: int
    stats: dict[str, MetricStats]


def body_of(receipt: dict[str, Any]) -> bytes:
    """Return the summary of a checked receipt as it is stored, for `parse`."""
    return jsonio.canonical(_members(receipt))


def summary_of(receipt: dict[str, Any]) -> Summary:
    """Return the summary of a checked receipt."""
    return Summary(**_members(receipt))


def parse(body: bytes) -> Summary:
    """Return a stored summary."""
    return Summary(**_decode(body.decode())[0])


def _members(receipt: dict[str, Any]) -> dict[str, Any]:
    """Return what a `Summary` of the receipt is made of."""
    measured, failed = _counts(receipt["samples"])
    host, stats = receipt["run"]["host"], receipt["stats"]
    return {
        "failed": failed,
        "host": {name: _short(host[name]) for name in HOST if host.get(name) is not None},
        "run_id": _short(receipt["run"]["id"]),
        "samples": measured,
        "stats": {
            metric: {part: stats[metric][part] for part in ("max", "median", "min")}
            for metric in METRICS
            if stats.get(metric) is not None
        },
    }


def _short(value: Any) -> Any:
    return value[:_LONGEST] if isinstance(value, str) else value


def _counts(samples: list[Any]) -> tuple[int, int]:
    """Return how many samples were measured, and how many of those failed."""
    columns = columns_of(samples) or {}
    told = [
        columns[name].values for name in ("warmup", "exit_code", "timed_out") if name in columns
    ]
    if told and not any(map(any, told)):
        return len(samples), 0  # as in nearly every run
    measured = [sample for sample in samples if sample.get("warmup") is not True]
    failed = [
        sample for sample in measured if sample["exit_code"] != 0 or sample.get("timed_out") is True
    ]
    return len(measured), len(failed)

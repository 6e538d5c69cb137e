"""A judgement as JSON: perfgate's `perfgate.compare.v1`, with members of our own after it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from perfgate_server.gate import noise, rule
from perfgate_server.version import VERSION

COMPARE_SCHEMA = "perfgate.compare.v1"


def document(
    judgement: rule.Judgement, bench: Mapping[str, Any], tried: Sequence[str], others: bool = False
) -> dict[str, Any]:
    """Return a verdict ready for JSON.

    `bench` is the current receipt's, as it came; `tried` are the selectors that were tried for a
    baseline, in order; `others` tells whether there are records, of which they fitted none. A
    metric that could not be compared is in `skipped`, not in `deltas`: the numbers of a delta are
    always there, as perfgate reads them.
    """
    metrics, found = judgement.metrics, judgement.baseline
    return {
        "schema": COMPARE_SCHEMA,
        "tool": {"name": "perfgate-server", "version": VERSION},
        "bench": bench,
        "baseline_ref": {"run_id": found.summary.run_id if found else None},
        "current_ref": {"run_id": judgement.current.run_id},
        "budgets": {
            name: _members(rule.budget(name, judgement.options)) for name in metrics.deltas
        },
        "deltas": {name: _members(delta) for name, delta in metrics.deltas.items()},
        "verdict": {
            "status": judgement.status,
            "counts": metrics.counts,
            "reasons": list(judgement.reasons),
        },
        "skipped": metrics.skipped,
        "baseline": {
            "version": found.version if found else None,
            "selector": found.selector if found else None,
            "tried": list(tried),
            "age_seconds": found.age if found else None,
            **({"others": True} if others else {}),
        },
        "host": _host(judgement),
        "noise": _noise(judgement),
    }


def _members(value: Any) -> dict[str, Any]:
    """Return a slotted dataclass as a dict; `asdict` copies deeply, for ten times the time."""
    return {name: getattr(value, name) for name in value.__slots__}


def _host(judgement: rule.Judgement) -> dict[str, Any]:
    """Return what is known of both machines, and in what they differ."""
    found = judgement.baseline
    return {
        "current": judgement.current.host,
        "baseline": found.summary.host if found else None,
        "differing": list(judgement.differing),
    }


def _noise(judgement: rule.Judgement) -> dict[str, Any]:
    """Return how the history was asked, and its answer for each metric beyond its threshold."""
    options, metrics = judgement.options, judgement.metrics
    if not options.noise:
        return {"method": "off"}
    return {
        "method": noise.METHOD,
        "coverage": noise.COVERAGE,
        "history": {
            "requested": options.history,
            "comparable": metrics.records,
            "needed": noise.LEAST,
        },
        "metrics": {
            name: {
                **(_members(said.interval) if said.interval else {"n": said.n}),
                "decided": said.decided,
            }
            for name, said in metrics.noise.items()
        },
    }

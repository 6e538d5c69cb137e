"""A verdict for people: Markdown for a pull request's comment, plain text for a log.

Whatever others named (project, benchmark, version, selectors) goes through one function: in
Markdown a code span, in which GitHub and GitLab make nothing of links, mentions, issue numbers,
commits, HTML or emphasis; in text escaped to printable ASCII. Neither can begin a line, so a log
cannot be given a command of its runner such as `::error::`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from perfgate_server.names import METRICS

Quote = Callable[[str], str]

_UNITS = {"ms": " ms", "uj": " uJ", "s": " /s"}
_IN_BYTES = {"kb": 1024, "bytes": 1}
#: The most decimal places of a change in percent.
_MOST_PLACES = 6
_GAPS = {
    "zero_baseline": "the baseline is not above 0",
    "missing_baseline": "not in the baseline",
    "missing_current": "not in this run",
}
_WORDS = {
    "failed_samples": "samples of this run failed",
    "failed_baseline": "samples of the baseline failed",
    "no_baseline": "no baseline was found",
    "no_metrics": "no metric could be judged",
    "within_noise": "within the noise of past runs",
    "stale_baseline": "the baseline is too old",
    "insufficient_samples": "too few samples",
}


class Row(NamedTuple):
    metric: str
    baseline: str
    current: str
    change: str
    verdict: str


HEAD = Row("metric", "baseline", "current", "change", "verdict")


def markdown(answer: Mapping[str, Any], project: str, benchmark: str) -> str:
    """Return a verdict, as `document` makes it, as a line of summary and a table."""
    status = answer["verdict"]["status"]
    lines = [f"**{status}**: {_summary(answer, project, benchmark, code_span)}"]
    table = rows(answer)
    if table:
        lines += ["", _cells(HEAD), "|---|---:|---:|---:|---|"]
        lines += [_cells(row._replace(metric=code_span(row.metric))) for row in table]
    if answer.get("ignored"):
        lines += ["", _ignored(answer, code_span)]
    return "\n".join(lines) + "\n"


def text(answer: Mapping[str, Any], project: str, benchmark: str) -> str:
    """Return a verdict, as `document` makes it, as aligned ASCII, the verdict in front."""
    status = answer["verdict"]["status"].upper()
    lines = [f"{status}: {_summary(answer, project, benchmark, plain)}"]
    table = rows(answer)
    if table:
        table = [HEAD, *table]
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        for row in table:
            numbers = (
                f"{cell:>{width}}" for cell, width in zip(row[1:4], widths[1:4], strict=True)
            )
            lines.append("  ".join([f"{row.metric:{widths[0]}}", *numbers, row.verdict]))
    if answer.get("ignored"):
        lines.append(_ignored(answer, plain))
    return "\n".join(lines) + "\n"


def code_span(text: str) -> str:
    """Return any text as a code span of Markdown that shows it, on one line.

    The fence is longer than any run of backticks within (CommonMark 6.1), and what cannot be
    seen, or turns the direction of writing, is shown by its escape.
    """
    shown = "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text
    )
    shown = shown or "(empty)"
    fence = "`" * (1 + max(map(len, re.findall("`+", shown)), default=0))
    pad = " " if shown.strip(" ") and (shown[0] in "` " or shown[-1] in "` ") else ""
    return f"{fence}{pad}{shown}{pad}{fence}"


def plain(text: str) -> str:
    """Return any text as printable ASCII, on one line."""
    return text.encode("unicode_escape").decode("ascii") or "(empty)"


def rows(answer: Mapping[str, Any]) -> list[Row]:
    """Return a row for each metric of either run, the worst first; all of it is our own text."""
    reasons = answer["verdict"]["reasons"]
    ranked = []
    for name, delta in answer["deltas"].items():
        rank = {"fail": 0, "warn": 1, "pass": 3, "skip": 4}[delta["status"]]
        row = Row(
            name,
            value(name, delta["baseline"]),
            value(name, delta["current"]),
            change(delta, answer["budgets"][name]),
            _delta_verdict(answer, name),
        )
        ranked.append((rank, -delta["regression"], row))
    for name, gap in answer["skipped"].items():
        asked = f"{name}_skip" in reasons
        verdict = ("skip, " if asked else "") + _GAPS[gap]
        ranked.append((2 if asked else 5, 0.0, Row(name, "-", "-", "-", verdict)))
    # By rank and regression alone: equal ones keep the order of the metrics.
    return [row for _, _, row in sorted(ranked, key=lambda item: item[:2])]


def value(name: str, number: float) -> str:
    """Return a metric's value in a unit that people read."""
    suffix = name.rpartition("_")[2]
    if suffix in _IN_BYTES:
        return _size(number * _IN_BYTES[suffix])
    return _number(number) + _UNITS.get(suffix, "")


def change(delta: Mapping[str, Any], budget: Mapping[str, Any]) -> str:
    """Return a change in percent, or as a factor where that would be long."""
    if abs(delta["pct"]) >= 100:
        return f"{delta['ratio']:.3g}x"
    percent, threshold = delta["pct"] * 100, budget["threshold"] * 100
    # What is beyond its threshold must not look as if it were not.
    is_beyond = delta["regression"] > budget["threshold"]
    places = 1
    while is_beyond and places < _MOST_PLACES and abs(round(percent, places)) <= threshold:
        places += 1
    return f"{percent:+,.{places}f} %" if round(percent, places) else "0.0 %"


def age(seconds: float) -> str:
    """Return how old something is in the greatest whole unit of which it has two or more; with a
    minus for what is dated that far ahead."""
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60)):
        if abs(seconds) >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{round(seconds)} s"


def _ignored(answer: Mapping[str, Any], quote: Quote) -> str:
    return f"Ignored members of the body: {', '.join(map(quote, answer['ignored']))}"


def _cells(row: Row) -> str:
    return f"| {' | '.join(row)} |"


def _number(number: float) -> str:
    if abs(number) >= 1e15:
        return f"{number:.4g}"
    return f"{number:,.0f}" if abs(number) >= 1000 else f"{number:.4g}"


def _size(number: float) -> str:
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1024:
            return f"{number:.4g} {unit}"
        number /= 1024
    return f"{number:,.4g} TiB"


def _delta_verdict(answer: Mapping[str, Any], name: str) -> str:
    status: str = answer["deltas"][name]["status"]
    if status == "skip":
        return "not judged"
    budget, noise = answer["budgets"][name], answer["noise"].get("metrics", {}).get(name, {})
    higher = budget["direction"] == "higher"
    if status == "pass" and _is_forgiven(answer["deltas"][name], higher):
        return f"{status}, below its floor"
    # Whoever writes 20 for 20 % has a gate that never closes, and should see it.
    if status == "pass" and budget["threshold"] <= 1:
        return status
    if noise.get("decided") == "within_noise":
        # The interval's end on the side of the worse: what past runs would give too.
        end = "low" if higher else "high"
        return f"{status}, within noise ({'down' if higher else 'up'} to {value(name, noise[end])})"
    # Nothing else keeps a metric that fails from failing the verdict.
    is_elsewhere = status == "fail" and answer["verdict"]["status"] != "fail"
    shown = f"{status}, threshold {budget['threshold'] * 100:g} %"
    return f"{shown}, but on another host" if is_elsewhere else shown


def _is_forgiven(delta: Mapping[str, Any], higher: bool) -> bool:
    """Tell whether a change is for the worse, but smaller than the metric's floor."""
    return not delta["regression"] and (delta["pct"] < 0 if higher else delta["pct"] > 0)


def _summary(answer: Mapping[str, Any], project: str, benchmark: str, quote: Quote) -> str:
    """Return one line: what was compared with what, and every reason in words."""
    line = f"{quote(benchmark)} of {quote(project)}"
    baseline = answer["baseline"]
    if baseline["version"] is not None:
        found = f"{quote(baseline['selector'])}, {age(baseline['age_seconds'])} old"
        line += f" against {quote(baseline['version'])} ({found})"
    reasons = list(_reasons(answer, quote))
    return f"{line}: {'; '.join(reasons)}" if reasons else line


def _reasons(answer: Mapping[str, Any], quote: Quote) -> Iterator[str]:
    for reason in answer["verdict"]["reasons"]:
        name, _, status = reason.rpartition("_")
        if reason == "no_baseline" and answer["baseline"]["tried"]:
            tried = ", ".join(quote(selector) for selector in answer["baseline"]["tried"])
            others = "; none of the others fits" if "others" in answer["baseline"] else ""
            itself = "a record of this very run does not count"
            yield f"{_WORDS[reason]} (tried {tried}; {itself}{others})"
        elif reason == "stale_baseline" and answer["baseline"]["age_seconds"] < 0:
            yield "the baseline is dated ahead of the server's clock"
        elif reason == "host_mismatch":
            yield f"the hosts differ in {', '.join(map(quote, answer['host']['differing']))}"
        elif name in METRICS and status == "skip":
            yield f"{quote(name)} could not be judged"
        elif name in METRICS:
            yield f"{quote(name)} {change(answer['deltas'][name], answer['budgets'][name])}"
        else:
            yield _WORDS.get(reason, quote(reason))
    noise = answer["noise"]
    short = [s for s in noise.get("metrics", {}).values() if s["decided"] == "too_little_history"]
    if short:
        fewest, needed = min(said["n"] for said in short), noise["history"]["needed"]
        few = f"too few past runs to tell the noise ({fewest} of {needed})"
        yield f"{few}, so the threshold decided"

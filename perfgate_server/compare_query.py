"""How a comparison is asked for, in its query string or in the body's ``options``.

Of the libraries it knows marshmallow alone; see `queries`.
"""

from __future__ import annotations

import difflib
import math
import re
from typing import Any

from marshmallow import ValidationError

from perfgate_server.fields import GitName
from perfgate_server.gate.rule import Options
from perfgate_server.names import MAX_GIT, MAX_TAG, METRICS, VERSION
from perfgate_server.queries import (
    MAX_PARAMETERS,
    BooleanParameter,
    ChoiceParameter,
    IntegerParameter,
    Parameter,
    Query,
)

MAX_SELECTORS = 16
#: The most past records that a prediction is made of; its cost grows with their square.
MAX_HISTORY = 100

_PLAIN = ("latest", "promoted")
_VALUED = ("version", "tag", "git_sha", "git_ref")
# A git ref may hold commas, so only a comma before another selector ends one.
_SELECTOR_END = re.compile(rf",(?=(?:{'|'.join(_PLAIN)})(?:,|\Z)|(?:{'|'.join(_VALUED)}):)")
# What a selector may look for. Only a ref may hold commas, and none before white space, before a
# word with a colon or at the end: there another selector was meant. No ref of git's holds a colon
# or a space (git-check-ref-format).
_POSSIBLE = {
    **dict.fromkeys(_PLAIN, re.compile("")),
    "version": VERSION,
    "tag": re.compile(rf"[^,\x00-\x1f]{{1,{MAX_TAG}}}"),
    "git_sha": re.compile(r"[^,\x00-\x1f]+"),
    "git_ref": re.compile(r"(?:[^,\x00-\x1f]|,(?![\s,]|[\w-]+:|\Z))+"),
}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


class SelectorsParameter(Parameter):
    """``latest,git_ref:refs/heads/main``, as pairs of a kind and a value."""

    def parse(self, text: str) -> list[tuple[str, str]]:
        # Looked at first, as a body may hold millions of selectors, or one of megabytes.
        parts = _SELECTOR_END.split(text, MAX_SELECTORS)
        if len(parts) > MAX_SELECTORS:
            raise ValidationError(f"Must be at most {MAX_SELECTORS} selectors.")
        selectors = []
        for part in parts:
            kind, _, value = part.partition(":")
            if part not in _PLAIN and (kind not in _VALUED or not value):
                raise ValidationError(
                    "Must be a list of latest, promoted, version:V, tag:T, git_sha:S and git_ref:R,"
                    " separated by commas; V, T, S and R must not be empty."
                )
            # Refused here: "no baseline" is a skip, which looks like a pass.
            # No version, tag, sha or ref that is stored has more characters, and to look at all of
            # a longer one could take minutes.
            if (
                len(value) > MAX_GIT
                or not _POSSIBLE[kind].fullmatch(value)
                or value != value.strip()
                or _holds_misspelt(value)
            ):
                raise ValidationError(
                    f"{value[:300]!r} cannot be a {kind}; behind a comma there must be another"
                    " selector, no space."
                )
            selectors.append((kind, value))
        return selectors


def _holds_misspelt(value: str) -> bool:
    """Tell whether what a selector looks for goes on with another that is not spelt right."""
    _, *others = value.lower().split(",")
    return any(difflib.get_close_matches(other, _PLAIN, cutoff=0.8) for other in others)


# Each text in one way only: in several, a long one that does not match would take minutes.
_NUMBER = re.compile(r"(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,3})?")
_PERCENT = " 0.2 is 20 %."


class NumberParameter(Parameter):
    """A decimal number from 0 to `high`; `hint` is added to the sentence about any other."""

    def __init__(self, high: float, hint: str = "", **options: Any) -> None:
        super().__init__(**options)
        self.high, self.hint = high, hint

    def parse(self, text: str) -> float:
        number = float(text) if _NUMBER.fullmatch(text) else math.nan
        if not 0 <= number <= self.high:
            raise ValidationError(f"Must be a number from 0 to {self.high:g}.{self.hint}")
        return number


class DurationParameter(Parameter):
    """``90s``, ``45m``, ``12h``, ``30d`` or ``2w``, in seconds."""

    def parse(self, text: str) -> float:
        match = re.fullmatch(r"([0-9]{1,9})([smhdw])", text)
        if match is None:
            raise ValidationError("Must be a whole number and s, m, h, d or w, such as 30d.")
        return float(int(match[1]) * _UNITS[match[2]])


#: Characters of a list of metrics, of which each may be there several times.
_LONGEST_METRICS = 1024


class MetricsParameter(Parameter):
    """Metrics, separated by commas; duplicates collapse."""

    def parse(self, text: str) -> tuple[str, ...]:
        metrics = tuple(dict.fromkeys(text[:_LONGEST_METRICS].split(",")))
        if len(text) > _LONGEST_METRICS or any(metric not in METRICS for metric in metrics):
            raise ValidationError(f"Must be a list of {', '.join(METRICS)}, separated by commas.")
        return metrics


#: The defaults of what the rule is told.
_RULE = Options()


class CompareQuery(Query):
    """The options; ``threshold.METRIC`` and ``floor.METRIC`` are added below."""

    against = SelectorsParameter(load_default=[("latest", "")])
    threshold = NumberParameter(1e6, _PERCENT, load_default=_RULE.threshold)
    warn_factor = NumberParameter(1, load_default=_RULE.warn_factor)
    metrics = MetricsParameter()
    history = IntegerParameter(MAX_HISTORY, load_default=_RULE.history)
    noise = ChoiceParameter("on", "off", load_default="on")
    host_mismatch = ChoiceParameter("warn", "fail", "ignore", load_default=_RULE.host_mismatch)
    allow_failed = BooleanParameter(load_default=_RULE.allow_failed)
    on_missing = ChoiceParameter("skip", "fail", load_default=_RULE.on_missing)
    max_age = DurationParameter()
    min_samples = IntegerParameter(10**6, load_default=_RULE.min_samples)
    format = ChoiceParameter("json", "markdown", "text")
    gate = BooleanParameter(load_default=False)
    fail_on = ChoiceParameter("fail", "warn", load_default="fail")
    record = BooleanParameter(load_default=False)
    git_ref = GitName()
    git_sha = GitName()

    def unknown_rule(self) -> str:
        known = [name for name, field in self.fields.items() if field.data_key is None]
        names = ", ".join([*known, "threshold.METRIC", "floor.METRIC"])
        return f"Unknown option; there are {names}, METRIC being one of {', '.join(METRICS)}."


# marshmallow would make objects of names with dots.
_PER_METRIC = {
    f"{kind}_{metric}": NumberParameter(high, hint, data_key=f"{kind}.{metric}")
    for kind, high, hint in (("threshold", 1e6, _PERCENT), ("floor", 1e18, ""))
    for metric in METRICS
}
COMPARE_QUERY: Any = CompareQuery.from_dict(dict(_PER_METRIC))()


def per_metric(options: dict[str, Any], kind: str) -> dict[str, float]:
    """Return what the options ``kind.METRIC`` say once they are loaded, by metric."""
    found = {metric: options.get(f"{kind}_{metric}") for metric in METRICS}
    return {metric: number for metric, number in found.items() if number is not None}


def _wrong_selectors(items: list[str]) -> dict[str, Any]:
    """Return what is wrong with an array of selectors: joined, one could seem a part of another."""
    for item in items[:MAX_SELECTORS]:
        try:
            COMPARE_QUERY.fields["against"].parse(item)
        except ValidationError as error:
            return {"against": error.messages}
    return {}


def pairs_of(options: Any) -> list[tuple[str, str]]:
    """Return a body's ``options`` as the pairs that a query string would have.

    Numbers and booleans stand for their texts, arrays of strings for lists, and null for not
    given. Raises marshmallow's ValidationError.
    """
    if not isinstance(options, dict):
        raise ValidationError({"options": "Must be a JSON object."})
    if len(options) > MAX_PARAMETERS:
        raise ValidationError({"options": f"Must be at most {MAX_PARAMETERS}."})
    pairs: list[tuple[str, str]] = []
    errors: dict[str, Any] = {}
    for name, value in options.items():
        if isinstance(value, bool):
            pairs.append((name, "true" if value else "false"))
        elif isinstance(value, float) and value.is_integer():
            pairs.append((name, str(int(value))))
        elif isinstance(value, int | float | str):
            pairs.append((name, str(value)))
        elif isinstance(value, list) and all(isinstance(item, str) for item in value):
            if name == "against":
                errors |= _wrong_selectors(value)
            pairs.append((name, ",".join(value)))
        elif value is not None:
            errors[name] = "Must be text, a number, true, false or an array of strings."
    try:
        # For the path in its errors only: an option may stand in the query string too.
        COMPARE_QUERY.read(pairs)
    except ValidationError as error:
        errors = {**error.messages_dict, **errors}
    if errors:
        raise ValidationError({"options": errors})
    return pairs

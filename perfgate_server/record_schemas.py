"""What verdicts must look like, and baselines and verdicts as an export has them.

Of the libraries it knows marshmallow alone; see `fields`.
"""

from __future__ import annotations

import datetime
import math
import re
from typing import Any

from marshmallow import ValidationError

from perfgate_server.fields import (
    U32,
    Constant,
    Field,
    GitName,
    Metadata,
    Name,
    Nested,
    Number,
    Object,
    Tags,
    Text,
    integer_rule,
)
from perfgate_server.names import STATUSES
from perfgate_server.schemas import BASELINE_SCHEMA, VERDICT_SCHEMA, ReceiptSchema

MAX_REASONS = 64
MAX_RUN_ID = 256


class Pattern(Field):
    """A string that matches a pattern whole."""

    def __init__(self, pattern: str, rule: str, **options: Any) -> None:
        super().__init__(**options)
        self.pattern, self.rule = re.compile(pattern), rule

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if not isinstance(value, str) or not self.pattern.fullmatch(value):
            raise ValidationError(self.rule)
        return value


class Timestamp(Pattern):
    """A time as records are stamped with."""

    def __init__(self, **options: Any) -> None:
        super().__init__(
            r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{6}Z",
            "Must be a time such as 2026-03-08T12:00:00.123456Z.",
            **options,
        )

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        moment = super()._deserialize(value, *args, **kwargs)
        try:
            datetime.datetime.fromisoformat(moment)
        except ValueError:  # a 30th of February
            raise ValidationError(self.rule) from None
        return moment


class Counts(Field):
    """How many metrics have each status."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dict[str, int]:
        if not isinstance(value, dict):
            raise ValidationError("Must be a JSON object.")
        errors = {
            status: integer_rule(0, U32) if status in value else "Must be given."
            for status in STATUSES
            if type(value.get(status)) is not int or not 0 <= value[status] <= U32
        }
        if errors:
            raise ValidationError(errors)
        return {status: value[status] for status in STATUSES}


class Reasons(Field):
    """At most 64 strings of 1 to 256 characters."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[str]:
        if not isinstance(value, list):
            raise ValidationError("Must be an array of strings.")
        if len(value) > MAX_REASONS:
            raise ValidationError(f"Must be at most {MAX_REASONS} strings.")
        errors = {
            index: "Must be a string of 1 to 256 characters."
            for index, reason in enumerate(value)
            if not isinstance(reason, str) or not 1 <= len(reason) <= 256
        }
        if errors:
            raise ValidationError(errors)
        return value


class NotNegative(Number):
    """A number from 0 to `high`, as a double."""

    def __init__(self, high: float = math.inf, **options: Any) -> None:
        super().__init__(**options)
        self.high = high

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> float:
        number = float(super()._deserialize(value)) + 0.0  # -0.0, which SQLite does not keep, is 0
        if not 0 <= number <= self.high:
            rule = f"from 0 to {self.high}" if self.high < math.inf else "of 0 or more"
            raise ValidationError(f"Must be a number {rule}.")
        return number


class BaselineSchema(Object):
    """A record as the API answers it and an export writes it."""

    schema = Constant(BASELINE_SCHEMA, required=True)
    id = Text(1, 128, required=True)
    project = Name("project", required=True)
    benchmark = Name("benchmark", required=True)
    version = Name("version", required=True)
    git_ref = GitName(load_default=None)
    git_sha = GitName(load_default=None)
    metadata = Metadata(required=True)
    tags = Tags(required=True)
    created_at = Timestamp(required=True)
    created_by = Text(1, 128, required=True)
    content_hash = Pattern(r"[0-9a-f]{64}", "Must be a SHA-256 in hex.", required=True)
    source = Pattern("upload|promote", "Must be upload or promote.", required=True)
    promoted_from = Name("version", load_default=None)
    receipt = Nested(ReceiptSchema, required=True)


class VerdictSchema(Object):
    """A verdict as it is posted."""

    benchmark = Name("benchmark", required=True)
    run_id = Text(1, MAX_RUN_ID, required=True)
    status = Pattern("|".join(STATUSES), "Must be pass, warn, fail or skip.", required=True)
    counts = Counts(required=True)
    reasons = Reasons(required=True)
    git_ref = GitName(load_default=None)
    git_sha = GitName(load_default=None)
    wall_ms_cv = NotNegative(load_default=None)


class VerdictRecordSchema(VerdictSchema):
    """A verdict as an export writes it."""

    schema = Constant(VERDICT_SCHEMA, required=True)
    id = Text(1, 128, required=True)
    project = Name("project", required=True)
    created_at = Timestamp(required=True)
    created_by = Text(1, 128, required=True)
    flakiness_score = NotNegative(1, load_default=None)

"""What a query string must look like: every value is text, and none is empty.

Of the libraries it knows marshmallow alone. Refusals are marshmallow's ValidationError, with
sentences.
"""

from __future__ import annotations

import base64
import datetime
import re
from collections import Counter
from collections.abc import Sequence
from functools import cached_property, partial
from typing import Any

from marshmallow import ValidationError

from perfgate_server.fields import (
    MAX_ERRORS,
    Field,
    GitName,
    Metadata,
    Object,
    Tags,
    all_valid,
    integer_rule,
)
from perfgate_server.names import METRICS, STATUSES

#: The most parameters in a query string, and options in a body.
MAX_PARAMETERS = 256
MAX_LIMIT = 1000
MAX_OFFSET = 2**63 - 1


class Parameter(Field):
    """Text in a query string, which is never empty: an unset variable must not match all."""

    def _deserialize(self, value: str, *args: Any, **kwargs: Any) -> Any:
        if not value:
            raise ValidationError("Must not be empty.")
        return self.parse(value)

    def parse(self, text: str) -> Any:
        return text


class IntegerParameter(Parameter):
    """Decimal digits alone, from `low` to `high`."""

    def __init__(self, high: int, low: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.low, self.high = low, high

    def parse(self, text: str) -> int:
        if re.fullmatch(r"[0-9]{1,30}", text) and self.low <= int(text) <= self.high:
            return int(text)
        raise ValidationError(integer_rule(self.low, self.high))


class BooleanParameter(Parameter):
    """``true``, ``false``, ``1`` or ``0``."""

    values = {"true": True, "1": True, "false": False, "0": False}

    def parse(self, text: str) -> bool:
        if text not in self.values:
            raise ValidationError("Must be true, false, 1 or 0.")
        return self.values[text]


class ChoiceParameter(Parameter):
    """One of the given words."""

    def __init__(self, *choices: str, **options: Any) -> None:
        self.choices = choices
        *most, last = map(repr, choices)
        self.rule = f"Must be {', '.join(most)} or {last}." if most else f"Must be {last}."
        super().__init__(error_messages={"required": self.rule}, **options)

    def parse(self, text: str) -> str:
        if text not in self.choices:
            raise ValidationError(self.rule)
        return text


class TagsParameter(Parameter):
    """Tags separated by commas, each of them once."""

    def parse(self, text: str) -> list[str]:
        tags = text.split(",")
        if "" in tags:
            raise ValidationError("Must be tags separated by single commas.")
        return list(dict.fromkeys(tags))


class CursorParameter(Parameter):
    """What `encode_cursor` made of a sequence, as that sequence."""

    def parse(self, text: str) -> int:
        try:
            return decode_cursor(text)
        except ValueError:
            raise ValidationError("Must be a cursor from a Link header, unchanged.") from None


_TIMESTAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt+](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))",
    re.ASCII,
)
_EPOCH = datetime.datetime(1, 1, 1)


class TimestampParameter(Parameter):
    """A time in RFC 3339, as the text that records are stamped with, for comparing as text.

    Records have microseconds. A finer time is rounded to the microsecond that leaves the
    comparison right: up for a lower bound, down for an upper one.
    """

    def __init__(self, *, round_up: bool, **options: Any) -> None:
        super().__init__(**options)
        self.round_up = round_up

    def parse(self, text: str) -> str:
        # A bare + in a query string is a space; and a T may be one (RFC 3339, 5.6).
        match = _TIMESTAMP.fullmatch(text.replace(" ", "+"))
        try:
            if match is None:
                raise ValueError
            return _render_microseconds(self._microseconds(match))
        except ValueError:
            raise ValidationError(
                "Must be an RFC 3339 time with an offset, such as 2026-03-08T12:00:00Z."
            ) from None

    def _microseconds(self, match: re.Match[str]) -> int:
        """Return the microseconds since 0001-01-01T00:00:00Z, which may be negative."""
        year, month, day, hour, minute, second = (int(part) for part in match.groups()[:6])
        offset_hour, offset_minute = int(match[9] or 0), int(match[10] or 0)
        if hour > 23 or minute > 59 or second > 60 or offset_hour > 23 or offset_minute > 59:
            raise ValueError
        seconds = (datetime.date(year, month, day).toordinal() - 1) * 86_400
        seconds += hour * 3600 + minute * 60 + second
        offset = offset_hour * 3600 + offset_minute * 60
        seconds += offset if match[8] == "-" else -offset
        fraction = match[7] or ""
        microseconds = int(fraction[:6].ljust(6, "0"))
        if self.round_up and fraction[6:].strip("0"):
            microseconds += 1
        return seconds * 1_000_000 + microseconds


def _render_microseconds(microseconds: int) -> str:
    try:
        moment = _EPOCH + datetime.timedelta(microseconds=microseconds)
    except OverflowError:  # an offset took it out of the years that can be written
        return "0000" if microseconds < 0 else "9999-12-31T24"
    return moment.isoformat(timespec="microseconds") + "Z"


def encode_cursor(sequence: int) -> str:
    """Return the opaque text that stands for a place in a list."""
    return base64.urlsafe_b64encode(sequence.to_bytes(8, "big", signed=True)).decode().rstrip("=")


def decode_cursor(text: str) -> int:
    """Return what `encode_cursor` was given; raises ValueError for anything else."""
    raw = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    sequence = int.from_bytes(raw, "big", signed=True)
    if len(raw) != 8 or encode_cursor(sequence) != text:
        raise ValueError("not a cursor")
    return sequence


class Query(Object):
    """Parameters; `unknown_rule` words what is wrong with any other."""

    @cached_property
    def parameters(self) -> list[str]:
        """The names of the parameters, as a query string has them."""
        return [field.data_key or name for name, field in self.fields.items()]

    #: The one that may be given more than once, if there is one.
    repeatable: str | None = None

    def read(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the parameters of a query string, given as pairs; raises marshmallow's
        ValidationError, also for unknown and for repeated ones."""
        gathered = self.gathered(pairs)
        loaded: dict[str, Any]
        *_, loaded = all_valid(
            partial(self._check_repeated, pairs),
            partial(self._check_known, gathered),
            partial(self.load, gathered),
        )
        return loaded

    def _check_repeated(self, pairs: Sequence[tuple[str, str]]) -> None:
        counts = Counter(name for name, _ in pairs if name != self.repeatable)
        repeated = [name for name, count in counts.items() if count > 1]
        if repeated:
            raise ValidationError(dict.fromkeys(repeated, "Must be given once."))

    def gathered(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the pairs as an object, for `load`."""
        return dict(pairs)

    def _check_known(self, data: dict[str, Any]) -> None:
        unknown = [name for name in data if name not in self.parameters]
        if unknown:
            # Each has the same long sentence: there may be many, and an answer is kept in memory.
            raise ValidationError(dict.fromkeys(unknown[:MAX_ERRORS], self.unknown_rule()))

    def unknown_rule(self) -> str:
        return f"Unknown parameter; this route takes {', '.join(self.parameters) or 'none'}."


#: Of a route that takes no parameters.
NO_QUERY = Query()


class PageQuery(Query):
    limit = IntegerParameter(MAX_LIMIT, load_default=50)
    offset = IntegerParameter(MAX_OFFSET)
    cursor = CursorParameter()
    total = BooleanParameter(load_default=True)


class ListQuery(PageQuery):
    benchmark = Parameter()
    benchmark_prefix = Parameter()
    git_ref = Parameter()
    git_sha = Parameter()
    tags = TagsParameter()
    source = ChoiceParameter("upload", "promote")
    since = TimestampParameter(round_up=True)
    until = TimestampParameter(round_up=False)
    include_receipt = BooleanParameter(load_default=False)


class TrendQuery(Query):
    metric = ChoiceParameter(*METRICS, required=True)
    window = IntegerParameter(500, low=1, load_default=30)
    git_ref = Parameter()


class VerdictsQuery(PageQuery):
    benchmark = Parameter()
    status = ChoiceParameter(*STATUSES)
    git_ref = Parameter()
    git_sha = Parameter()
    since = TimestampParameter(round_up=True)
    until = TimestampParameter(round_up=False)


class ReadQuery(Query):
    receipt = ChoiceParameter("only")


class PutQuery(Query):
    """What the query string of an upload by PUT says about the receipt, as an envelope has it."""

    git_ref = GitName()
    git_sha = GitName()
    tags = Tags(data_key="tag")
    metadata = Metadata(data_key="meta")
    normalize = BooleanParameter()

    repeatable = "tag"

    def gathered(self, pairs: Sequence[tuple[str, str]]) -> dict[str, Any]:
        """Return the pairs with every ``tag`` in one list, and every ``meta.NAME`` in one object;
        raises ValidationError for a ``meta`` without a name."""
        gathered: dict[str, Any] = {}
        for name, value in pairs:
            if name == "tag":
                gathered.setdefault("tag", []).append(value)
            elif name == "meta":
                raise ValidationError({name: self.unknown_rule()})
            elif name.startswith("meta."):
                gathered.setdefault("meta", {})[name.removeprefix("meta.")] = value
            else:
                gathered[name] = value
        return gathered

    def unknown_rule(self) -> str:
        return super().unknown_rule().replace("meta,", "meta.NAME,")

"""What a receipt, an upload, a promotion and a query string must look like.

Knows marshmallow alone. A schema's `load` raises marshmallow's ValidationError, whose messages
`flatten` turns into ``{"receipt.samples.3.wall_ms": "Must be …"}``.

The fields are our own where marshmallow's are too kind: its Integer takes 7.0 and True, its
Float takes "1.5", and a nested schema for each sample costs 26 times the parsing.
"""

from __future__ import annotations

import base64
import binascii
import datetime
import re
from collections.abc import Mapping
from typing import Any

from marshmallow import EXCLUDE, Schema, ValidationError, fields

from perfgate_server import names

RECEIPT_SCHEMA = "perfgate.run.v1"

U32 = 2**32 - 1
U64 = 2**64 - 1
MAX_LIMIT = 1000
MAX_OFFSET = 2**63 - 1
MAX_TAGS = 32
MAX_METADATA = 64
# A receipt may be wrong in every sample; a person mends the first few.
_MAX_ERRORS = 50


class _Field(fields.Field[Any]):
    """A field whose messages are sentences, and which takes null only where it is optional."""

    default_error_messages = {
        "required": "Must be given.",
        "null": "Must not be null.",
    }

    def __init__(self, *, required: bool = False, **options: Any) -> None:
        super().__init__(required=required, allow_none=not required, **options)


class Integer(_Field):
    """A JSON integer in a range: 1.0, "1" and true are none."""

    def __init__(self, low: int = 0, high: int = U64, **options: Any) -> None:
        super().__init__(**options)
        self.low, self.high = low, high

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if type(value) is not int or not self.low <= value <= self.high:
            raise ValidationError(_integer_rule(self.low, self.high))
        return value


def _integer_rule(low: int, high: int) -> str:
    return f"Must be an integer from {low} to {high}."


class Number(_Field):
    """A JSON number that a double can hold."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> float:
        if type(value) is not float and type(value) is not int:
            raise ValidationError("Must be a number.")
        return value


class Flag(_Field):
    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bool:
        if type(value) is not bool:
            raise ValidationError("Must be true or false.")
        return value


class Text(_Field):
    """A string; with `low` and `high`, of so many characters."""

    def __init__(self, low: int = 0, high: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.low, self.high = low, high

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("Must be a string.")
        if self.high is not None and not self.low <= len(value) <= self.high:
            raise ValidationError(f"Must be {self.low} to {self.high} characters.")
        return value


class Name(_Field):
    """A benchmark or a version, as `names` has them."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__(**options)
        self.pattern, self.rule = names.RULES[kind]

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if not isinstance(value, str) or not self.pattern.match(value):
            raise ValidationError(self.rule)
        return value


class Constant(_Field):
    def __init__(self, constant: str, **options: Any) -> None:
        super().__init__(**options)
        self.constant = constant

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if value != self.constant:
            raise ValidationError(f"Must be {self.constant!r}.")
        return self.constant


class Strings(_Field):
    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[str]:
        if not isinstance(value, list):
            raise ValidationError("Must be an array of strings.")
        errors = {i: "Must be a string." for i, item in enumerate(value) if type(item) is not str}
        if errors:
            raise ValidationError(_first(errors))
        return value


class Tags(_Field):
    """At most 32 tags; duplicates collapse and the order is kept."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[str]:
        if not isinstance(value, list):
            raise ValidationError("Must be an array of strings.")
        errors = {i: _TAG_RULE for i, tag in enumerate(value) if not _is_tag(tag)}
        if errors:
            raise ValidationError(_first(errors))
        tags = list(dict.fromkeys(value))
        if len(tags) > MAX_TAGS:
            raise ValidationError(f"Must be at most {MAX_TAGS} tags.")
        return tags


_TAG_RULE = "Must be 1 to 64 printable characters without commas."


def _is_tag(tag: Any) -> bool:
    return isinstance(tag, str) and 1 <= len(tag) <= 64 and "," not in tag and tag.isprintable()


class Metadata(_Field):
    """At most 64 pairs of strings."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dict[str, str]:
        if not isinstance(value, dict):
            raise ValidationError("Must be an object of strings.")
        if len(value) > MAX_METADATA:
            raise ValidationError(f"Must be at most {MAX_METADATA} pairs.")
        errors = {}
        for name, text in value.items():
            if not 1 <= len(name) <= 128:
                errors[name] = "The name must be 1 to 128 characters."
            elif not isinstance(text, str) or len(text) > 1024:
                errors[name] = "Must be a string of at most 1024 characters."
        if errors:
            raise ValidationError(_first(errors))
        return value


def _first(errors: dict[Any, Any]) -> dict[Any, Any]:
    return dict(list(errors.items())[:_MAX_ERRORS])


class _Object(Schema):
    error_messages = {"type": "Must be a JSON object."}

    class Meta:
        unknown = EXCLUDE


class _Nested(fields.Nested):
    """An object with its own schema: checked, and given back as it came."""

    default_error_messages = _Field.default_error_messages

    def __init__(self, schema: type[Schema], *, required: bool = False) -> None:
        super().__init__(schema, required=required, allow_none=not required)

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        super()._deserialize(value, *args, **kwargs)
        return value


# -- the receipt, perfgate.run.v1


class ToolSchema(_Object):
    name = Text(required=True)
    version = Text(required=True)


class HostSchema(_Object):
    os = Text(required=True)
    arch = Text(required=True)
    cpu_count = Integer(high=U32)
    memory_bytes = Integer()
    hostname_hash = Text()


class RunSchema(_Object):
    id = Text(required=True)
    started_at = Text(required=True)
    ended_at = Text(required=True)
    host = _Nested(HostSchema, required=True)


class BenchSchema(_Object):
    name = Text(required=True)
    cwd = Text()
    command = Strings(required=True)
    repeat = Integer(high=U32, required=True)
    warmup = Integer(high=U32, required=True)
    work_units = Integer()
    timeout_ms = Integer()


class Samples(_Field):
    """The samples, checked in one loop."""

    counts = dict.fromkeys(
        (
            "wall_ms",
            "cpu_ms",
            "page_faults",
            "ctx_switches",
            "max_rss_kb",
            "io_read_bytes",
            "io_write_bytes",
            "network_packets",
            "energy_uj",
            "binary_bytes",
        ),
        (0, U64),
    )
    integers = {**counts, "exit_code": (-(2**31), 2**31 - 1)}
    others = {
        "warmup": (bool, "Must be true or false."),
        "timed_out": (bool, "Must be true or false."),
        "stdout": (str, "Must be a string."),
        "stderr": (str, "Must be a string."),
    }
    required_members = ("wall_ms", "exit_code")

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValidationError("Must be an array of samples.")
        errors: dict[Any, Any] = {}
        for index, sample in enumerate(value):
            problem = self._check(sample)
            if problem:
                errors[index] = problem
                if len(errors) >= _MAX_ERRORS:
                    break
        if len(errors) >= _MAX_ERRORS:
            errors["_schema"] = [f"Holds more that is wrong than in these {_MAX_ERRORS} samples."]
        if errors:
            raise ValidationError(errors)
        return value

    def _check(self, sample: Any) -> Any:
        """Return what is wrong with a sample: a sentence, or a mapping of sentences."""
        if type(sample) is not dict:
            return "Must be a JSON object."
        problems = {}
        integers = self.integers
        for name, value in sample.items():
            bounds = integers.get(name)
            if bounds is not None:
                if type(value) is int and bounds[0] <= value <= bounds[1]:
                    continue
                if value is not None or name in self.required_members:
                    problems[name] = _integer_rule(*bounds)
            elif name in self.others and value is not None:
                kind, rule = self.others[name]
                if type(value) is not kind:
                    problems[name] = rule
        for name in self.required_members:
            if name not in sample:
                problems[name] = "Must be given."
        return problems


class _CountSummary(_Object):
    median = Integer(required=True)
    min = Integer(required=True)
    max = Integer(required=True)
    mean = Number()
    stddev = Number()


class _NumberSummary(_Object):
    median = Number(required=True)
    min = Number(required=True)
    max = Number(required=True)
    mean = Number()
    stddev = Number()


StatsSchema = _Object.from_dict(
    {
        **{name: _Nested(_CountSummary, required=name == "wall_ms") for name in Samples.counts},
        "throughput_per_s": _Nested(_NumberSummary),
    },
    name="StatsSchema",
)


class ReceiptSchema(_Object):
    schema = Constant(RECEIPT_SCHEMA, required=True)
    tool = _Nested(ToolSchema, required=True)
    run = _Nested(RunSchema, required=True)
    bench = _Nested(BenchSchema, required=True)
    samples = Samples(required=True)
    stats = _Nested(StatsSchema, required=True)


# -- bodies


class UploadSchema(_Object):
    benchmark = Name("benchmark", required=True)
    version = Name("version")
    git_ref = Text(1, 256)
    git_sha = Text(1, 256)
    receipt = _Nested(ReceiptSchema, required=True)
    metadata = Metadata()
    tags = Tags()
    normalize = Flag()


class PromotionSchema(_Object):
    from_version = Name("version", required=True)
    to_version = Name("version", required=True)
    git_ref = Text(1, 256)
    git_sha = Text(1, 256)
    tags = Tags()
    normalize = Flag()


# -- query strings: every value is text, and none is empty


class _Parameter(_Field):
    """Text in a query string, which is never empty: an unset variable must not match all."""

    def _deserialize(self, value: str, *args: Any, **kwargs: Any) -> Any:
        if not value:
            raise ValidationError("Must not be empty.")
        return self.parse(value)

    def parse(self, text: str) -> Any:
        return text


class _IntegerParameter(_Parameter):
    def __init__(self, high: int, **options: Any) -> None:
        super().__init__(**options)
        self.high = high

    def parse(self, text: str) -> int:
        if not re.fullmatch(r"[0-9]{1,30}", text, re.ASCII) or int(text) > self.high:
            raise ValidationError(_integer_rule(0, self.high))
        return int(text)


class _BooleanParameter(_Parameter):
    values = {"true": True, "1": True, "false": False, "0": False}

    def parse(self, text: str) -> bool:
        if text not in self.values:
            raise ValidationError("Must be true, false, 1 or 0.")
        return self.values[text]


class _ChoiceParameter(_Parameter):
    def __init__(self, *choices: str, **options: Any) -> None:
        super().__init__(**options)
        self.choices = choices

    def parse(self, text: str) -> str:
        if text not in self.choices:
            raise ValidationError(f"Must be {' or '.join(self.choices)}.")
        return text


class _TagsParameter(_Parameter):
    def parse(self, text: str) -> list[str]:
        tags = text.split(",")
        if "" in tags:
            raise ValidationError("Must be tags separated by single commas.")
        return list(dict.fromkeys(tags))


class _CursorParameter(_Parameter):
    def parse(self, text: str) -> int:
        try:
            return decode_cursor(text)
        except ValueError:
            raise ValidationError("Must be a cursor from a Link header, unchanged.") from None


_TIMESTAMP = re.compile(
    r"(\d{4})-(\d\d)-(\d\d)[Tt](\d\d):(\d\d):(\d\d)(?:\.(\d+))?(?:[Zz]|([+-])(\d\d):(\d\d))",
    re.ASCII,
)
_DAY = 86_400_000_000  # microseconds
_EPOCH = datetime.datetime(1, 1, 1)


class _TimestampParameter(_Parameter):
    """A time in RFC 3339, as the text that records are stamped with, for comparing as text.

    Records have microseconds. A finer time is rounded to the microsecond that leaves the
    comparison right: up for a lower bound, down for an upper one.
    """

    def __init__(self, *, round_up: bool, **options: Any) -> None:
        super().__init__(**options)
        self.round_up = round_up

    def parse(self, text: str) -> str:
        # A bare + in a query string is a space.
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
    try:
        raw = base64.b64decode(text + "=", altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError):
        raise ValueError("not a cursor") from None
    sequence = int.from_bytes(raw, "big", signed=True)
    if len(raw) != 8 or encode_cursor(sequence) != text:
        raise ValueError("not a cursor")
    return sequence


class Query(_Object):
    """Parameters; `unknown_rule` is the sentence about any other."""

    def unknown_rule(self) -> str:
        known = ", ".join(str(field.data_key or name) for name, field in self.fields.items())
        return f"Is no parameter of this route; it takes {known or 'none'}."


class NoQuery(Query):
    """A route that takes no parameters."""


class _PageQuery(Query):
    limit = _IntegerParameter(MAX_LIMIT, load_default=50)
    offset = _IntegerParameter(MAX_OFFSET)
    cursor = _CursorParameter()
    total = _BooleanParameter(load_default=True)


class HistoryQuery(_PageQuery):
    pass


class ListQuery(_PageQuery):
    benchmark = _Parameter()
    benchmark_prefix = _Parameter()
    git_ref = _Parameter()
    git_sha = _Parameter()
    tags = _TagsParameter()
    source = _ChoiceParameter("upload", "promote")
    since = _TimestampParameter(round_up=True)
    until = _TimestampParameter(round_up=False)
    include_receipt = _BooleanParameter(load_default=False)


class ReadQuery(Query):
    receipt = _ChoiceParameter("only")


class PutQuery(Query):
    """The query string of an upload by PUT, its ``tag`` and ``meta.NAME`` already gathered."""

    git_ref = Text(1, 256)
    git_sha = Text(1, 256)
    tags = Tags(data_key="tag")
    metadata = Metadata(data_key="meta")
    normalize = _BooleanParameter()

    def unknown_rule(self) -> str:
        return super().unknown_rule().replace("meta,", "meta.NAME,")


class PutSchema(_Object):
    """The body of an upload by PUT, as the member of an envelope, for its field paths."""

    receipt = _Nested(ReceiptSchema, required=True)


def flatten(messages: Any) -> dict[str, str]:
    """Turn marshmallow's nested messages into dotted path -> one sentence."""
    flat: dict[str, str] = {}
    _flatten(messages, (), flat)
    return flat


def _flatten(messages: Any, path: tuple[str, ...], flat: dict[str, str]) -> None:
    if isinstance(messages, Mapping):
        for name, inner in messages.items():
            # "_schema" with a list is how marshmallow says "the whole of it".
            whole = name == "_schema" and isinstance(inner, list)
            _flatten(inner, path if whole else (*path, str(name)), flat)
    else:
        sentence = " ".join(messages) if isinstance(messages, list) else str(messages)
        flat[".".join(path) or "body"] = sentence

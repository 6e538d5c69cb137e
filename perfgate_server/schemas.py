"""What a receipt, an upload and a promotion must look like.

Of the libraries it knows marshmallow alone; see `fields`.
"""

from __future__ import annotations

from array import array
from itertools import islice
from types import NoneType
from typing import Any

from marshmallow import ValidationError

from perfgate_server import names
from perfgate_server.columns import AbsentType, Column, Rows
from perfgate_server.fields import (
    MAX_ERRORS,
    U32,
    U64,
    Boolean,
    Constant,
    Field,
    GitName,
    Integer,
    Metadata,
    Name,
    Nested,
    Number,
    Object,
    Strings,
    Tags,
    Text,
    integer_rule,
)

RECEIPT_SCHEMA = "perfgate.run.v1"
BASELINE_SCHEMA = "perfgate.baseline.v1"
VERDICT_SCHEMA = "perfgate.verdict.v1"


# -- the receipt, perfgate.run.v1


class ToolSchema(Object):
    name = Text(required=True)
    version = Text(required=True)


class HostSchema(Object):
    os = Text(required=True)
    arch = Text(required=True)
    cpu_count = Integer(U32)
    memory_bytes = Integer()
    hostname_hash = Text()


class RunSchema(Object):
    id = Text(required=True)
    started_at = Text(required=True)
    ended_at = Text(required=True)
    host = Nested(HostSchema, required=True)


class BenchSchema(Object):
    name = Text(required=True)
    cwd = Text()
    command = Strings(required=True)
    repeat = Integer(U32, required=True)
    warmup = Integer(U32, required=True)
    work_units = Integer()
    timeout_ms = Integer()


#: What fits each type code of `array` that is used here.
_RANGES = {"Q": (0, U64), "i": (-(2**31), 2**31 - 1)}


class Samples(Field):
    """The samples: checked as columns, and one by one only where there may be something wrong.

    They come back as `Rows`: whoever writes them wants the columns too.
    """

    #: The members that are integers, as type codes of `array`, which refuses in C what does not
    #: fit.
    codes = {**dict.fromkeys(names.COUNTS, "Q"), "exit_code": "i"}
    others = {
        "warmup": (bool, "Must be true or false."),
        "timed_out": (bool, "Must be true or false."),
        "stdout": (str, "Must be a string."),
        "stderr": (str, "Must be a string."),
    }
    required_members = ("wall_ms", "exit_code")
    #: The types that the values of each member may have.
    kinds: dict[str, set[type]] = dict.fromkeys(codes, {int, NoneType, AbsentType})
    kinds |= {name: {kind, NoneType, AbsentType} for name, (kind, _) in others.items()}
    kinds |= dict.fromkeys(required_members, {int})

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[Any]:
        if not isinstance(value, list):
            raise ValidationError("Must be an array of samples.")
        samples = Rows(value)
        if self._are_plain(samples):
            return samples
        problems = ((index, self._check(sample)) for index, sample in enumerate(value))
        wrong = ((index, problem) for index, problem in problems if problem)
        errors: dict[Any, Any] = dict(islice(wrong, MAX_ERRORS))
        if len(errors) == MAX_ERRORS:
            errors["_schema"] = [f"Lists only the first {MAX_ERRORS} samples that are wrong."]
        if errors:
            raise ValidationError(errors)
        return samples

    def _are_plain(self, samples: Rows) -> bool:
        """Tell whether nothing is wrong with samples of which columns could be made."""
        columns = samples.columns or {}
        return columns.keys() >= set(self.required_members) and all(
            self._is_plain(name, column) for name, column in columns.items()
        )

    def _is_plain(self, name: str, column: Column) -> bool:
        if not column.kinds <= self.kinds.get(name, column.kinds):
            return False
        if name not in self.codes:
            return True
        values = column.values
        if column.kinds != {int}:
            values = [value for value in values if type(value) is int]
        return _fit(values, self.codes[name])

    def _check(self, sample: Any) -> Any:
        """Return what is wrong with a sample: a sentence, or a mapping of sentences."""
        if type(sample) is not dict:
            return "Must be a JSON object."
        problems = {}
        for name, value in sample.items():
            problem = self._check_member(name, value)
            if problem:
                problems[name] = problem
        for name in self.required_members:
            if name not in sample:
                problems[name] = "Must be given."
        return problems

    def _check_member(self, name: str, value: Any) -> str | None:
        if value is None and name not in self.required_members:
            return None
        if name in self.codes:
            low, high = _RANGES[self.codes[name]]
            return None if type(value) is int and low <= value <= high else integer_rule(low, high)
        if name in self.others:
            kind, rule = self.others[name]
            return None if type(value) is kind else rule
        return None


def _fit(integers: list[int], code: str) -> bool:
    try:
        array(code, integers)
    except OverflowError:
        return False
    return True


def _stats(kind: type[Integer] | type[Number]) -> Any:
    """Return the schema of one metric's stats, in integers or in floats."""
    required = {name: kind(required=True) for name in ("median", "min", "max")}
    return Object.from_dict({**required, "mean": Number(), "stddev": Number()})


_CountStats, _NumberStats = _stats(Integer), _stats(Number)
StatsSchema: Any = Object.from_dict(
    {
        **{name: Nested(_CountStats, required=name == "wall_ms") for name in names.COUNTS},
        "throughput_per_s": Nested(_NumberStats),
    },
    name="StatsSchema",
)


class ReceiptSchema(Object):
    schema = Constant(RECEIPT_SCHEMA, required=True)
    tool = Nested(ToolSchema, required=True)
    run = Nested(RunSchema, required=True)
    bench = Nested(BenchSchema, required=True)
    samples = Samples(required=True)
    stats = Nested(StatsSchema, required=True)


# -- bodies


class UploadSchema(Object):
    benchmark = Name("benchmark", required=True)
    version = Name("version")
    git_ref = GitName()
    git_sha = GitName()
    receipt = Nested(ReceiptSchema, required=True)
    metadata = Metadata()
    tags = Tags()
    normalize = Boolean()


class PromotionSchema(Object):
    from_version = Name("version", required=True)
    to_version = Name("version", required=True)
    git_ref = GitName()
    git_sha = GitName()
    tags = Tags()
    normalize = Boolean()


class BareReceiptSchema(Object):
    """A body that is a receipt, as the member of an envelope, for its field paths."""

    receipt = Nested(ReceiptSchema, required=True)

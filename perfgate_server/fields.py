"""The fields of which schemas are made, the objects that have them, and what is said of errors.

Of the libraries it knows marshmallow alone. An `Object`'s `load` raises marshmallow's
ValidationError, whose messages `flatten` turns into ``{"receipt.samples.3.wall_ms": "Must be …"}``.

The fields are our own where marshmallow's are too kind: its Integer takes 7.0 and True, its
Float takes "1.5", and a nested schema for each sample costs 26 times the parsing.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from marshmallow import Schema, ValidationError, fields, missing

from perfgate_server import names

U32 = 2**32 - 1
U64 = 2**64 - 1
MAX_METADATA = 64
# A receipt may be wrong in every sample; a person mends the first few.
MAX_ERRORS = 50
# Characters of a path that are told: the name of a member may be as long as the body.
MAX_PATH = 200


class Field(fields.Field[Any]):
    """A field whose messages are sentences, and which takes null only where it is optional."""

    default_error_messages = {
        "required": "Must be given.",
        "null": "Must not be null.",
    }

    def __init__(self, *, required: bool = False, **options: Any) -> None:
        super().__init__(required=required, allow_none=not required, **options)

    def deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        # marshmallow's own goes through validators afterwards, of which no field here has one:
        # half of the time that checking a small receipt takes.
        if value is None or value is missing:
            return super().deserialize(value, *args, **kwargs)
        return self._deserialize(value, *args, **kwargs)


class Integer(Field):
    """A JSON integer from 0 to `high`: 1.0, "1" and true are none."""

    def __init__(self, high: int = U64, **options: Any) -> None:
        super().__init__(**options)
        self.high = high

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> int:
        if type(value) is not int or not 0 <= value <= self.high:
            raise ValidationError(integer_rule(0, self.high))
        return value


def integer_rule(low: int, high: int) -> str:
    """Return the sentence about what is no integer in that range."""
    return f"Must be an integer from {low} to {high}."


class Number(Field):
    """A JSON number that a double can hold."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> float:
        if type(value) is not float and type(value) is not int:
            raise ValidationError("Must be a number.")
        return value


class Boolean(Field):
    """true or false, and not 1 or 0."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> bool:
        if type(value) is not bool:
            raise ValidationError("Must be true or false.")
        return value


class Text(Field):
    """A string; with `low` and `high`, of that many characters."""

    def __init__(self, low: int = 0, high: int | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.low, self.high = low, high

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if not isinstance(value, str):
            raise ValidationError("Must be a string.")
        if self.high is not None and not self.low <= len(value) <= self.high:
            raise ValidationError(f"Must be {self.low} to {self.high} characters.")
        return value


class GitName(Text):
    """A git_ref or a git_sha. Not empty: an unset shell variable must not pass for one."""

    def __init__(self, **options: Any) -> None:
        super().__init__(1, names.MAX_GIT, **options)


class Name(Field):
    """A name that matches `names.RULES[kind]`."""

    def __init__(self, kind: str, **options: Any) -> None:
        super().__init__(**options)
        self.pattern, self.rule = names.RULES[kind]

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if not isinstance(value, str) or not self.pattern.match(value):
            raise ValidationError(self.rule)
        return value


class Constant(Field):
    """One text and no other."""

    def __init__(self, constant: str, **options: Any) -> None:
        super().__init__(**options)
        self.constant = constant

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> str:
        if value != self.constant:
            raise ValidationError(f"Must be {self.constant!r}.")
        return self.constant


class Strings(Field):
    """An array of strings."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[str]:
        if not isinstance(value, list):
            raise ValidationError("Must be an array of strings.")
        _refuse((i, "Must be a string.") for i, item in enumerate(value) if type(item) is not str)
        return value


class Tags(Field):
    """At most 32 tags; duplicates collapse and the order is kept."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> list[str]:
        if not isinstance(value, list):
            raise ValidationError("Must be an array of strings.")
        _refuse((i, _TAG_RULE) for i, tag in enumerate(value) if not _is_tag(tag))
        tags = list(dict.fromkeys(value))
        if len(tags) > names.MAX_TAGS:
            raise ValidationError(f"Must be at most {names.MAX_TAGS} tags.")
        return tags


_TAG_RULE = f"Must be 1 to {names.MAX_TAG} printable characters without commas."


def _is_tag(tag: Any) -> bool:
    if not isinstance(tag, str) or not 1 <= len(tag) <= names.MAX_TAG:
        return False
    return "," not in tag and tag.isprintable()


class Metadata(Field):
    """At most 64 pairs of strings."""

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> dict[str, str]:
        if not isinstance(value, dict):
            raise ValidationError("Must be an object of strings.")
        if len(value) > MAX_METADATA:
            raise ValidationError(f"Must be at most {MAX_METADATA} pairs.")
        _refuse(_wrong_pairs(value))
        return value


def _wrong_pairs(metadata: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for name, text in metadata.items():
        if not 1 <= len(name) <= 128:
            yield name, "The name must be 1 to 128 characters."
        elif not isinstance(text, str) or len(text) > 1024:
            yield name, "Must be a string of at most 1024 characters."


def _refuse(wrong: Iterable[tuple[int | str, str]]) -> None:
    """Raise a ValidationError with the first of what is wrong, if there is any. No more is asked
    for: of a body of 16 MiB each of 8 million items may be wrong."""
    errors = dict(itertools.islice(wrong, MAX_ERRORS))
    if errors:
        raise ValidationError(errors)


class Object(Schema):
    """An object, of which the members that are no fields are left out."""

    def load(self, data: Any) -> dict[str, Any]:  # type: ignore[override]  # without its options
        """Return the fields of an object; raises marshmallow's ValidationError.

        marshmallow's own looks for hooks, and for what this is part of, and takes twice the time.
        """
        if not isinstance(data, dict):
            raise ValidationError({"_schema": ["Must be a JSON object."]})
        loaded: dict[str, Any] = {}
        errors: dict[str, Any] = {}
        for name, field in self.fields.items():
            key = field.data_key or name
            value = data.get(key, missing)
            try:
                if value is not missing or field.required:
                    loaded[name] = field.deserialize(value)
                elif field.load_default is not missing:
                    loaded[name] = field.load_default
            except ValidationError as error:
                errors[key] = error.messages
        if errors:
            raise ValidationError(errors)
        return loaded


def all_valid(*checks: Callable[[], Any]) -> list[Any]:
    """Return what each check returns; raises one ValidationError with all that they find wrong, of
    each path what the first one says."""
    found: list[Any] = []
    wrong: dict[str, str] = {}
    for check in checks:
        try:
            found.append(check())
        except ValidationError as error:
            for path, sentence in flatten(error.messages).items():
                wrong.setdefault(path, sentence)
    if wrong:
        raise ValidationError(wrong)
    return found


class Nested(Field):
    """An object with its own schema: its fields as that loads them, and all else as it came."""

    def __init__(self, schema: type[Object], **options: Any) -> None:
        super().__init__(**options)
        self.schema = schema()

    def _deserialize(self, value: Any, *args: Any, **kwargs: Any) -> Any:
        return value | self.schema.load(value)


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
        flat[".".join(path) if path else "body"] = sentence

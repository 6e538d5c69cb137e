"""Strict JSON in, plain JSON out. Knows no Flask."""

from __future__ import annotations

import json
import math
from typing import Any, NoReturn

#: How deep arrays and objects may be nested, the outermost counted.
MAX_DEPTH = 64


class MalformedJSON(ValueError):
    """A body that is not the JSON we take. Its text is one sentence for the client."""


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedJSON(f"{name} is not a JSON number.")


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise MalformedJSON("A number is too large for a double.")
    return value


_DECODER = json.JSONDecoder(parse_float=_parse_float, parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_CANONICAL = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=True
)


def loads(body: bytes) -> Any:
    """Parse UTF-8 JSON (a byte order mark is skipped; of repeated members the last counts).

    Integers come back exactly, other numbers as doubles. Raises MalformedJSON for what is not
    JSON, not UTF-8, nested over MAX_DEPTH levels, NaN or Infinity, a number that overflows a
    double or has over 4,300 digits, a lone surrogate, or U+0000.
    """
    try:
        text = body.removeprefix(b"\xef\xbb\xbf").decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedJSON(f"The body is not UTF-8 (byte {error.start}).") from None
    if not text.strip():
        raise MalformedJSON("The body is empty.")
    try:
        value = _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise MalformedJSON(
            f"The body is not JSON: {error.msg}: line {error.lineno} column {error.colno}."
        ) from None
    except RecursionError:
        raise MalformedJSON(f"The body is nested over {MAX_DEPTH} levels.") from None
    except MalformedJSON:
        raise
    except ValueError:  # int() refuses to convert very many digits
        raise MalformedJSON("A number has too many digits.") from None
    # As many brackets as levels are needed, and most bodies hold fewer.
    if body.count(b"[") + body.count(b"{") > MAX_DEPTH and _exceeds_depth(value):
        raise MalformedJSON(f"The body is nested over {MAX_DEPTH} levels.")
    if b"\\u" in body:  # only an escape can smuggle in what follows
        _refuse_characters(value)
    return value


def _exceeds_depth(value: Any) -> bool:
    level = [value]
    for _ in range(MAX_DEPTH):
        level = [
            child
            for container in level
            for child in (container.values() if type(container) is dict else container)
            if type(child) is dict or type(child) is list
        ]
        if not level:
            return False
    return True


def _refuse_characters(value: Any) -> None:
    if isinstance(value, str):
        if "\0" in value:
            raise MalformedJSON("A string holds U+0000.")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError:
                raise MalformedJSON("A string holds a lone surrogate.") from None
    elif isinstance(value, dict):
        for name, member in value.items():
            _refuse_characters(name)
            _refuse_characters(member)
    elif isinstance(value, list):
        for item in value:
            _refuse_characters(item)


def dumps(value: Any) -> str:
    """Return `value` as compact JSON, members in their order."""
    return _ENCODER.encode(value)


def canonical(value: Any) -> bytes:
    """Return `value` as canonical JSON: keys sorted, no white space, UTF-8.

    Integers are written exactly, other numbers as the shortest text of the same double.
    """
    return _CANONICAL.encode(value).encode()

"""Strict JSON in, plain JSON out. Knows no Flask."""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable
from itertools import islice, repeat
from json.encoder import encode_basestring
from types import NoneType
from typing import Any, NoReturn

from perfgate_server.columns import ABSENT, AbsentType, Column, columns_of

try:
    import orjson
except ImportError:  # it comes with the extra `fast`, and does the same in a third of the time
    orjson = None  # type: ignore[assignment]

#: How deep arrays and objects may be nested, the outermost counted.
MAX_DEPTH = 64
#: How many of them a body may hold: the default size limit fits 600,000 samples.
MAX_CONTAINERS = 1_000_000


class MalformedJSON(ValueError):
    """A body that is not the JSON we take. Its text is one sentence for the client."""


class _RefusedNumber(ValueError):
    """What the parser would let pass: NaN, Infinity, and a number that no double can hold."""


_TOO_LARGE = "A number is too large for a double"


def _refuse_constant(name: str) -> NoReturn:
    raise _RefusedNumber(f"{name} is not a JSON number")


def _parse_float(text: str) -> float:
    value = float(text)
    if math.isinf(value):
        raise _RefusedNumber(_TOO_LARGE)
    return value


_DECODER = json.JSONDecoder(parse_float=_parse_float, parse_constant=_refuse_constant)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_CANONICAL = json.JSONEncoder(
    ensure_ascii=False, separators=(",", ":"), allow_nan=False, sort_keys=True
)


def loads(body: bytes, *, max_depth: int = MAX_DEPTH, max_containers: int = MAX_CONTAINERS) -> Any:
    """Parse UTF-8 JSON (a byte order mark is skipped; of repeated members the last counts).

    Integers come back exactly, other numbers as doubles. Raises MalformedJSON for what is not
    JSON, not UTF-8, nested over `max_depth` levels or holding over
    `max_containers` arrays and objects, NaN or Infinity, a number that overflows a
    double, a lone surrogate, or U+0000.
    """
    text = _decoded(body).removeprefix("\ufeff")
    body = body.removeprefix(b"\xef\xbb\xbf")
    if not text.strip():
        raise MalformedJSON("The body is empty.")
    _check_text(body, max_depth, max_containers)
    if orjson is not None and _OVER_64_BITS not in body.translate(_DIGITS):
        try:
            return orjson.loads(text)
        except orjson.JSONDecodeError:
            pass  # below it is said in our words
    try:
        return _DECODER.decode(text)
    except json.JSONDecodeError as error:
        raise MalformedJSON(
            f"The body is not JSON: {error.msg}: line {error.lineno} column {error.colno}."
        ) from None
    except RecursionError:
        raise MalformedJSON(f"The body is nested over {max_depth} levels.") from None
    except _RefusedNumber as error:
        raise _refusal(str(error), body, _is_no_number) from None
    except ValueError:  # int() refuses to convert over 4,300 digits
        raise _refusal(_TOO_LARGE, body, _is_too_large) from None


def _decoded(body: bytes) -> str:
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise MalformedJSON(f"The body is not UTF-8: byte {error.start + 1}.") from None


#: Text of which it is not worth the time to count brackets: there will be many.
_LARGE = 16 * 1024
_STRUCTURE = b'[]{}"'
_NOT_STRUCTURE = bytes(byte for byte in range(256) if byte not in _STRUCTURE)
_ONE_KIND = bytes.maketrans(b"{}", b"[]")
_DIGITS = bytes.maketrans(b"123456789", b"000000000")
# The least integer that overflows a double has 309 digits.
_TOO_MANY_DIGITS = b"0" * (sys.float_info.max_10_exp + 1)
# To look at some bytes only is seven times as fast, and rules out nearly every text.
_STRIDE = 16
_DIGITS_LOOKED_AT = b"0" * (len(_TOO_MANY_DIGITS) // _STRIDE)
# orjson reads integers of more than 64 bits as doubles; the least has 19 digits.
_OVER_64_BITS = b"0" * 19
# Neither a fraction nor an exponent, which may have as many digits.
_HUGE_INTEGER = re.compile(rb"(?<![0-9.eE+])(?<![eE]-)[0-9]{309,}(?![0-9.eE])")
_PAIR = re.compile(rb"\\u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}")
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
# A string, also one without an end, or what else stands between white space and punctuation.
# Nothing is looked at twice, for such a body may be long.
_TOKEN = re.compile(rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?|[^\s",:\[\]{}"]++', re.DOTALL)
#: How many tokens are searched for the wrong one: a receipt of 1,000 samples has fewer.
_LOOKED_AT = 100_000
# Its groups are not possessive: Python up to 3.11.4 matches those wrongly in which something is
# tried again (gh-106052).
_NUMBER = re.compile(rb"-?[0-9]++(?:\.[0-9]++)?(?:[eE][-+]?[0-9]++)?")


def _check_text(text: bytes, max_depth: int, max_containers: int) -> None:
    """Refuse what the parser would let pass, before it makes anything of it.

    The text is looked at, not the values: of repeated members only the last is a value, a few
    passes of C over the text cost less than a walk over the values, and millions of empty
    arrays would take a hundred times the memory of their text.
    """
    whole = text
    if b"\\" in text:
        # Blank out escaped backslashes: each one left begins an escape. The length stays, for
        # the place in errors.
        whole = text.replace(b"\\\\", b"..")
        if _holds_zero(whole):
            raise _refusal("A string holds U+0000", whole, _holds_zero)
        if _holds_lone_surrogate(whole):
            raise _refusal("A string holds a lone surrogate", whole, _holds_lone_surrogate)
        text = whole.replace(b'\\"', b"")
    # As many opening brackets as levels are needed; most small bodies hold fewer.
    if len(text) > _LARGE or text.count(b"[") + text.count(b"{") > max_depth:
        _check_brackets(text, max_depth, max_containers)
    if (
        _DIGITS_LOOKED_AT in text[::_STRIDE].translate(_DIGITS)
        and _TOO_MANY_DIGITS in text.translate(_DIGITS)
        and _holds_huge_integer(text)
    ):
        raise _refusal(_TOO_LARGE, whole, _is_too_large)


def _holds_zero(text: bytes) -> bool:
    return b"\\u0000" in text


def _holds_lone_surrogate(text: bytes) -> bool:
    return bool(_SURROGATE.search(_PAIR.sub(b"", text)))


def _is_too_large(token: bytes) -> bool:
    number = _NUMBER.match(token)  # what follows it the parser has not seen yet
    return number is not None and math.isinf(float(number[0]))


def _is_no_number(token: bytes) -> bool:
    return token.startswith((b"NaN", b"Infinity", b"-Infinity")) or _is_too_large(token)


def _refusal(what: str, body: bytes, is_wrong: Callable[[bytes], bool]) -> MalformedJSON:
    """Return what to raise; it names the place of the first string or number that is wrong, if it
    is among the first _LOOKED_AT."""
    for token in islice(_TOKEN.finditer(body), _LOOKED_AT):
        if is_wrong(token[0]):
            before = body[: token.start()]
            line = before.count(b"\n") + 1
            column = len(before.rpartition(b"\n")[2].decode()) + 1
            return MalformedJSON(f"{what}: line {line} column {column}.")
    return MalformedJSON(f"{what}.")


def _check_brackets(text: bytes, max_depth: int, max_containers: int) -> None:
    """Refuse text without escapes that holds too many arrays and objects, or nests them too
    deep."""
    # Quotes and brackets are kept, of one kind. A string without brackets is then "", and an
    # odd run of quotes stays behind where a string holds brackets.
    skeleton = text.translate(_ONE_KIND, _NOT_STRUCTURE).replace(b'""', b"")
    if b'"' in skeleton:
        # Each second part stands in a string. As bytes, joining them takes 80 more for each.
        skeleton = "".join(skeleton.decode().split('"')[::2]).encode()
    if len(skeleton) > 2 * max_containers:
        raise MalformedJSON(f"The body holds over {max_containers} arrays and objects.")
    for _ in range(max_depth):
        shorter = skeleton.replace(b"[]", b"")  # takes away the innermost level everywhere
        if len(shorter) == len(skeleton):
            return  # nothing is left, or it is malformed, which the parser says better
        skeleton = shorter
    if b"[" in skeleton:
        raise MalformedJSON(f"The body is nested over {max_depth} levels.")


def _holds_huge_integer(text: bytes) -> bool:
    """Tell whether JSON without escapes holds an integer that overflows a double."""
    quotes = seen = 0
    for number in _HUGE_INTEGER.finditer(text):
        quotes += text.count(b'"', seen, number.start())
        seen = number.start()
        is_in_string = quotes % 2
        if not is_in_string and math.isinf(float(number[0])):
            return True
    return False


def dumps(value: Any) -> str:
    """Return `value` as compact JSON, members in their order.

    Raises ValueError for NaN and infinity, which with orjson are null: no answer holds any.
    """
    return _by_orjson(value) or _ENCODER.encode(value)


def _by_orjson(value: Any, sort_keys: bool = False) -> str | None:
    """Return compact JSON; None without orjson, and of what it cannot write, as an integer of
    more than 64 bits.

    Some doubles have another text of the same double, 1.5e-7 for 1.5e-07.
    """
    if orjson is None:
        return None
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS if sort_keys else None).decode()
    except orjson.JSONEncodeError:
        return None


#: From this many objects on, `_rows` is worth its preparations.
_MANY = 50
_Writer = Callable[[Any], str]
#: How `_rows` writes a value of each type that it can write.
_WRITE: dict[type, _Writer] = {
    int: str,
    bool: ("false", "true").__getitem__,
    str: encode_basestring,
    NoneType: lambda _: "null",
}
_WRITABLE = {*_WRITE, AbsentType}
#: How many rows are written at once.
_AT_ONCE = 250


def canonical(value: Any) -> bytes:
    """Return `value` as canonical JSON: keys sorted, no white space, UTF-8.

    Integers are written exactly, other numbers as the shortest text of the same double. Raises
    ValueError for NaN and infinity, which `loads` never returns.
    """
    if isinstance(value, dict) and any(map(_are_many, value.values())):
        return canonical_of(canonical_members(value))
    return _text(value).encode()


def canonical_members(value: dict[str, Any]) -> dict[str, str]:
    """Return the text that each member of an object has in canonical JSON, for `canonical_of`."""
    return {name: _text(inner) for name, inner in value.items()}


def canonical_of(members: dict[str, str]) -> bytes:
    """Return the canonical JSON of an object whose members have these texts."""
    texts = [f"{_text(name)}:{text}" for name, text in sorted(members.items())]
    return f"{{{','.join(texts)}}}".encode()


def _text(value: Any) -> str:
    return (_are_many(value) and _rows(value)) or _CANONICAL.encode(value)


def _are_many(value: Any) -> bool:
    return isinstance(value, list) and len(value) >= _MANY


def _rows(rows: list[Any]) -> str | None:
    """Return the canonical text of objects of which columns can be made, with integers, booleans,
    strings and null in them, as the samples of a receipt are; None for any others.

    Where all have the same members it takes half of the encoder's time, with orjson a quarter;
    and half of that for `Rows`, of which the columns are there already.
    """
    columns = columns_of(rows)
    if columns is None or not all(column.kinds <= _WRITABLE for column in columns.values()):
        return None
    return _by_orjson(rows, sort_keys=True) or _by_template(columns, len(rows))


def _by_template(columns: dict[str, Column], rows: int) -> str | None:
    """Return the text of that many rows; None if no member is in all of them.

    The names are sorted and put into a template, and so is the value of a member that is the same
    in all, as an exit code mostly is. What comes before the first member that is in all rows ends
    with a comma, and what comes after it begins with one.
    """
    template, inner = "", ""
    written: list[tuple[list[Any], _Writer | None]] = []
    for name, (values, kinds) in sorted(columns.items()):
        key = f"{inner}{_text(name)}:"
        if AbsentType in kinds:
            template += "%s"
            written.append((values, _member_writer(key, "" if inner else ",")))
            continue
        if len(kinds) == 1 and values.count(values[0]) == rows:
            template += _escaped(key + _text(values[0]))
        else:
            template += _escaped(key) + "%s"
            write = _WRITE[type(values[0])] if len(kinds) == 1 else _write
            # Integers the template itself writes, in less time.
            written.append((values, None if kinds == {int} else write))
        inner = ","
    return _filled(f"{{{template}}}", written, rows) if inner else None


def _write(value: Any) -> str:
    return _WRITE[type(value)](value)


def _member_writer(key: str, end: str) -> _Writer:
    """Return what writes a member with its key, and nothing where a row lacks it."""
    return lambda value: "" if value is ABSENT else f"{key}{_WRITE[type(value)](value)}{end}"


def _filled(template: str, written: list[tuple[list[Any], _Writer | None]], rows: int) -> str:
    """Return an array of that many rows, each of them the template with the columns' values.

    In batches: four fifths of the time of row by row; and not all at once, as the texts of all
    values would be in memory together.
    """
    parts = []
    for start in range(0, rows, _AT_ONCE):
        count = min(_AT_ONCE, rows - start)
        cells: list[Any] = [None] * (count * len(written))
        for place, (values, write) in enumerate(written):
            some = values[start : start + count]
            cells[place :: len(written)] = map(write, some) if write else some
        parts.append(",".join(repeat(template, count)) % tuple(cells))
    return f"[{','.join(parts)}]"


def _escaped(text: str) -> str:
    return text.replace("%", "%%")

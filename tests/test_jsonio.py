"""JSON: what is refused, and what comes back as it went in."""

from __future__ import annotations

import functools
import itertools
import json
import math
import struct
import sys
import time
import tracemalloc
from collections.abc import Iterator
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perfgate_server import jsonio
from perfgate_server.jsonio import MalformedJSON


@pytest.fixture(autouse=True, scope="module", params=[None, orjson], ids=["plain", "orjson"])
def parser(request: pytest.FixtureRequest) -> Iterator[None]:
    """All is promised of both."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(jsonio, "orjson", request.param)
        yield


text = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"))
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(min_value=-(10**308), max_value=10**308),
    st.floats(allow_nan=False, allow_infinity=False),
    text,
)
names = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=8)


def more(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return st.lists(inner) | st.dictionaries(names, inner)


values = st.recursive(scalars, more, max_leaves=20)


def exactly(value: object) -> object:
    """Return a form in which 1, 1.0 and true differ, and 0.0 and -0.0."""
    if isinstance(value, float):
        return ("double", struct.pack(">d", value))
    if isinstance(value, dict):
        return {name: exactly(member) for name, member in value.items()}
    if isinstance(value, list):
        return [exactly(item) for item in value]
    return (type(value).__name__, value)


@given(values, st.booleans())
def test_values_survive(value: object, ascii_only: bool) -> None:
    """Integers come back exactly, other numbers as the same double."""
    sent = json.dumps(value, ensure_ascii=ascii_only).encode()
    loaded = jsonio.loads(sent)
    assert exactly(loaded) == exactly(value)
    assert exactly(jsonio.loads(jsonio.canonical(loaded))) == exactly(value)
    assert exactly(jsonio.loads(jsonio.dumps(loaded).encode())) == exactly(value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | text, more, max_leaves=20))
def test_every_text_but_that_of_a_double_is_the_same(value: object) -> None:
    """A record's ETag is made of it, and two servers may have the extra and not have it."""
    expected = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    assert jsonio.dumps(value) == expected


def test_every_character_has_the_same_text() -> None:
    every = [chr(code) for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    assert jsonio.dumps(every) == json.dumps(every, ensure_ascii=False, separators=(",", ":"))


@pytest.mark.parametrize("bits", [63, 64])
@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("step", [-1, 0, 1])
def test_integers_around_a_machine_word_survive(bits: int, sign: int, step: int) -> None:
    number = sign * 2**bits + step
    assert exactly(jsonio.loads(b"[%d]" % number)) == exactly([number])
    assert_canonical([{"a": number}] * 100)


@given(st.dictionaries(names, scalars))
def test_canonical_text_forgets_order_and_white_space(value: dict[str, object]) -> None:
    turned = dict(reversed(value.items()))
    loose = json.dumps(turned, indent=3).encode()
    assert jsonio.canonical(jsonio.loads(loose)) == jsonio.canonical(value)


kinds = st.sampled_from(
    [
        st.integers(),
        st.booleans(),
        text,
        st.none(),
        st.integers() | st.booleans() | text | st.none(),
    ]
)
members = st.dictionaries(st.sampled_from([*'ab%"é', "%s"]), kinds)


@st.composite
def rows(draw: st.DrawFn) -> list[dict[str, object]]:
    """Some objects with members that all have, and others that some have."""
    always, sometimes = draw(members), draw(members)
    optional = {name: kind for name, kind in sometimes.items() if name not in always}
    row = st.fixed_dictionaries(always, optional=optional)
    return draw(st.lists(row, min_size=1, max_size=4))


@given(rows(), st.integers(0, 99), st.none() | values | st.dictionaries(names, st.integers()))
def test_many_objects_have_the_same_text_as_few(
    some: list[dict[str, object]], place: int, odd: object
) -> None:
    """Whatever their members are called, and whatever one of them is, has more, or lacks."""
    alike = list(itertools.islice(itertools.cycle(some), 100))
    more = {**alike[place], **odd} if isinstance(odd, dict) else odd
    less = dict(list(alike[place].items())[1:])
    for one in (alike[place], odd, more, less):
        many: list[object] = [*alike[:place], one, *alike[place + 1 :]]
        assert_canonical(many)
        assert_canonical({"z": 1, "many": many, "%": some})


@pytest.mark.parametrize("number", [50, 249, 250, 251, 499, 500, 501, 1001])
def test_rows_that_are_written_so_many_at_once(number: int) -> None:
    lacking: dict[str, object] = {"c": None}
    assert_canonical(
        [{"a": i, "b": f"%{i}", "d": 1, **(lacking if i % 3 else {})} for i in range(number)]
    )


@pytest.mark.parametrize(
    ("value", "other"),
    [(1, True), (0, False), (True, 1), (1, 2), ("a", None), (1, 1.0), (1.5e-7, 1.5e-7)],
)
@pytest.mark.parametrize("place", [0, 37, 99])
def test_one_value_that_equals_the_others_or_nearly(value: Any, other: Any, place: int) -> None:
    many = [{"a": value, "z": 1}] * 100
    many[place] = {"a": other, "z": 1}
    assert_canonical(many)


def assert_canonical(value: object) -> None:
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    assert jsonio.canonical(value).decode() == text


@st.composite
def nearly_json(draw: st.DrawFn) -> bytes:
    """A text with some of its bytes put elsewhere, or others in their place."""
    body = json.dumps(draw(values), ensure_ascii=draw(st.booleans())).encode()
    parts = st.sampled_from([b"", *[body[i : i + 3] for i in range(0, len(body), 2)]])
    pieces = parts | st.sampled_from(_ODD) | st.binary(max_size=3)
    for _ in range(draw(st.integers(1, 3))):
        start, end = sorted(draw(st.tuples(*[st.integers(0, len(body))] * 2)))
        body = body[:start] + draw(pieces) + body[min(end, start + 3) :]
    return body


_ODD = [
    b"NaN",
    b"1e999",
    b"-",
    b"-0",
    b"0.0",
    b"1E2",
    b"\\u0000",
    b"\\ud800",
    b"//",
    b",",
    b":",
    b" ",
]
_ODD += [b"9" * digits for digits in (18, 19, 20, 309)]
_ODD += [
    b"1.",
    b".5",
    b"e5",
    b"01",
    b"+1",
    b"\\",
    b'"',
    b"\n",
    b"\0",
    b"\xff",
    b"\x7f",
    b"\xef\xbb\xbf",
]


@given(nearly_json())
def test_with_orjson_is_as_without(body: bytes) -> None:
    """What is taken, what becomes of it, and what is said of what is not."""

    def found(library: Any) -> Any:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(jsonio, "orjson", library)
            try:
                loaded = jsonio.loads(body)
            except MalformedJSON as error:
                return str(error)
            return [*map(exactly, [loaded, list(loaded) if isinstance(loaded, dict) else None])]

    assert found(orjson) == found(None)


@given(st.binary())
def test_no_bytes_are_a_surprise(body: bytes) -> None:
    try:
        jsonio.loads(body)
    except MalformedJSON as error:
        assert str(error).endswith(".")


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b"", "empty"),
        (b" \n", "empty"),
        (b"{", "line 1 column 2"),
        (b'{"a": 1,\n  "b" 2}', "line 2 column 7"),
        (b"{} {}", "line 1 column 4"),
        (b"{'a': 1}", "line 1 column 2"),
        (b'{"a": 01}', "line 1"),
        (b'{"a": +1}', "line 1"),
        (b'"a\nb"', "line 1"),
        (b'"\x00"', "line 1"),
        (b"NaN", "NaN"),
        (b"[Infinity]", "Infinity"),
        (b"[-Infinity]", "Infinity"),
        (b"1e999", "double"),
        (b"[-1.5e400]", "double"),
        (b"1" * 310 + b".5", "double"),
        (b"1" * 5000, "double"),
        (b"[-" + b"9" * 309 + b"]", "double"),
        (b'{"a": "\\u0000", "a": 1}', "U+0000"),
        (b'{"a": "\\ud800", "a": 1}', "surrogate"),
        (b'{"a": "\\ud83d\\\\ude80", "a": 1}', "surrogate"),
        (b'["\\ud83d\\\\\\ude80"]', "surrogate"),  # one, a backslash, and another
        (b'["\\ud83d\\\\\\\\\\ude80"]', "surrogate"),
        (b'{"a": ' + b"[" * 64 + b"]" * 64 + b', "a": 1}', "64 levels"),
        (b'{"a": 1' + b"0" * 309 + b', "a": 1}', "double"),
        (b"[" + b"1" * 5000 + b"e]", ""),
        (b'"\\ud800"', "surrogate"),
        (b'"\\uD800"', "surrogate"),
        (b'"\\uDBFF\\uDBFF"', "surrogate"),
        (b'"\\uDFFF"', "surrogate"),
        (b'{"\\udc00": 1}', "surrogate"),
        (b'[{"a": ["\\ud83d\\u0041"]}]', "surrogate"),
        (b'"\\u0000"', "U+0000"),
        (b'{"a\\u0000": 1}', "U+0000"),
        (b'"\xff"', "UTF-8: byte 2."),
        (b'\xef\xbb\xbf"\xff"', "UTF-8: byte 5."),
        (b'"\xed\xa0\x80"', "UTF-8"),
        ('"é"'.encode("utf-16"), "UTF-8"),
        (b"[" * 65 + b"]" * 65, "64 levels"),
        (b'{"a":' * 65 + b"1" + b"}" * 65, "64 levels"),
        (b'[{"a":' * 33 + b"1" + b"}]" * 33, "64 levels"),
        (b'["]]]]",' * 40 + b'["[[[[",' * 40 + b"1" + b"]" * 80, "64 levels"),
        (b"[" * 100_000 + b"]" * 100_000, "64 levels"),
        (b"[" + b"[]," * 1_000_000 + b"[]]", "1000000 arrays"),
        (b"[" * 100_000, ""),
        (b'{"a":' * 100_000, ""),
    ],
    ids=itertools.count(),
)
def test_what_is_not_the_json_we_take_is_refused_with_a_sentence(body: bytes, said: str) -> None:
    with pytest.raises(MalformedJSON) as error:
        jsonio.loads(body)
    assert said in str(error.value)


@pytest.mark.parametrize("exponent", ["e-", "E-", "e-0", "e+0", "e0"])
def test_the_digits_of_an_exponent_are_no_integer(exponent: str) -> None:
    many = ("9" if exponent[-1] == "-" else "0") * 400
    assert jsonio.loads(f"[1{exponent}{many}]".encode()) in ([0.0], [1.0])


@pytest.mark.parametrize("before", range(17))
def test_an_integer_over_a_double_is_refused_wherever_it_stands(before: int) -> None:
    """Not every byte is looked at."""
    body = b" " * before + b"[%b]"
    with pytest.raises(MalformedJSON, match="double"):
        jsonio.loads(body % (b"9" * 309))
    assert jsonio.loads(body % (b"9" * 308)) == [10**308 - 1]


@pytest.mark.parametrize(
    ("body", "value"),
    [
        (b"[" * 64 + b"]" * 64, None),
        (b'["' + b"[" * 200 + b'"]', None),
        (b'["' + b"[{" * 1_500_000 + b'"]', None),
        (b'["\\"[[[", "{{{{"' + b",[]" * 100 + b"]", None),
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'"\\ud83d\\ude80"', "🚀"),
        (b'"\\uD83D\\uDE80 \\uDBFF\\uDFFF"', "🚀 \U0010ffff"),
        (b'["\\"' + b"[" * 100 + b"]" * 100 + b'"]', None),
        (b"1" + b"0" * 310 + b".0e-310", 1.0),
        (b'"\\\\u0000 \\\\ud800"', "\\u0000 \\ud800"),
        (b"1.7976931348623157e308", 1.7976931348623157e308),
        (b"1e-999", 0.0),
        (b"-0.0", -0.0),
        (b"-0", 0),
        (b"1E2", 100.0),
        (b"9" * 308, 10**308 - 1),
        (b'"' + b"9" * 400 + b'"', "9" * 400),
        (b"0." + b"9" * 400, 1.0),
        (b"1" + b"0" * 400 + b"e-400", 1.0),
        (b'"\\\\\\ud83d\\ude80"', "\\🚀"),
    ],
    ids=itertools.count(),
)
def test_what_is_unusual_and_yet_json_is_taken(body: bytes, value: Any) -> None:
    loaded = jsonio.loads(body)
    if value is not None:
        assert loaded == value and type(loaded) is type(value)
        if isinstance(value, float):
            assert math.copysign(1, loaded) == math.copysign(1, value)


@pytest.mark.parametrize(
    ("body", "said"),
    [
        (b'{"a":\n [1, NaN]}', "NaN is not a JSON number: line 2 column 6."),
        (
            b'{"NaN": "Infinity", "\xc3\xa4": -Infinity}',
            "-Infinity is not a JSON number: line 1 column 26.",
        ),
        (b"\xef\xbb\xbf[1, 1e999, NaN]", "A number is too large for a double: line 1 column 5."),
        (b'["9", 9, %s]' % (b"9" * 400), "A number is too large for a double: line 1 column 10."),
        (b"[1,\n%s]" % (b"9" * 9000), "A number is too large for a double: line 2 column 1."),
        (b'["\\\\u0000", "a\\"\\u0000"]', "A string holds U+0000: line 1 column 13."),
        (
            b'["\\ud83d\\ude00",\n"\\ud83d\\\\\\ude00"]',
            "A string holds a lone surrogate: line 2 column 1.",
        ),
        (b'["\\u0000', "A string holds U+0000: line 1 column 2."),
        (b"[NaNx, NaN]", "NaN is not a JSON number: line 1 column 2."),
        (b"[1e999x]", "A number is too large for a double: line 1 column 2."),
        (b'["",\r\n1e999]', "A number is too large for a double: line 2 column 1."),
    ],
)
def test_what_is_refused_is_found(body: bytes, said: str) -> None:
    """In a receipt of 150 kB nobody would."""
    with pytest.raises(MalformedJSON) as error:
        jsonio.loads(body)
    assert str(error.value) == said


@functools.cache
def time_to_read() -> float:
    """Return the processor time that as many bytes of numbers take on this machine."""
    began = time.process_time()
    json.loads(b"[" + b"1," * 4_000_000 + b"1]")
    return time.process_time() - began


@pytest.mark.parametrize(
    "part", [b'\\"', b"\\", b'"', b"\\\\\\u0000", b"1e", b"9", b"N", b'"\\"', b"1,", b'"",']
)
def test_looking_for_it_takes_no_longer_than_reading(part: bytes) -> None:
    """Whatever a body is full of: others wait meanwhile."""
    full = part * (8_000_000 // len(part))
    for body in (b'["\\u0000' + full, b"[" + full + b'"\\u0000"]', b"[" + full + b"NaN]"):
        began = time.process_time()
        with pytest.raises(MalformedJSON):
            jsonio.loads(body)
        took = time.process_time() - began
        assert took < 10 * time_to_read()  # twice; more by ten with a look at all


@pytest.mark.parametrize("item", ['"["', '"a"'])
def test_strings_with_brackets_and_digits_take_no_more_memory_than_others(item: str) -> None:
    """Parts of a body that are joined as bytes take 80 more for each."""
    body = f'["{"1" * 310}",{",".join([item] * 200_000)}]'.encode()
    tracemalloc.start()
    try:
        jsonio._check_text(body, 64, 10)
        assert tracemalloc.get_traced_memory()[1] < 25 * 4 * 200_000 + 2 * len(body)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("text", ['["[" "]"]', '["[[]", [], "]"]', '["", "[", ""]', '[["\\"["]]'])
def test_brackets_in_strings_are_not_counted(text: str) -> None:
    jsonio._check_brackets(text.encode(), 2, 2)
    with pytest.raises(MalformedJSON, match="over 0 arrays"):
        jsonio._check_brackets(text.encode(), 2, 0)


@pytest.mark.parametrize("huge", ["1" * 400, "-" + "9" * 309])
def test_a_huge_integer_is_told_from_a_string_of_as_many_digits(huge: str) -> None:
    assert jsonio.loads(f'["{huge}", "a{huge}", 1]'.encode())[0] == huge
    with pytest.raises(MalformedJSON, match="too large for a double"):
        jsonio.loads(f'["{huge}", "a", {huge}]'.encode())

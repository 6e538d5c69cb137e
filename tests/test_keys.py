"""Keys, roles, and the text they are given as."""

from __future__ import annotations

import hashlib
import warnings

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from perfgate_server import keys, names
from perfgate_server.keys import Permission, Role

KEY = "pg_live_" + "a1B2" * 8


@pytest.mark.parametrize(
    ("role", "permissions"),
    [
        (Role.VIEWER, {Permission.READ}),
        (Role.CONTRIBUTOR, {Permission.READ, Permission.WRITE}),
        (Role.PROMOTER, {Permission.READ, Permission.WRITE, Permission.PROMOTE}),
        (Role.ADMIN, set(Permission)),
    ],
)
def test_roles(role: Role, permissions: set[Permission]) -> None:
    key = keys.make(KEY, role)
    assert key.role.permissions == permissions


def test_a_key_is_kept_as_its_digest_alone() -> None:
    key = keys.parse(f"contributor:{KEY}")
    assert key.digest == hashlib.sha256(KEY.encode()).hexdigest()
    assert key.actor == f"contributor:{key.digest[:8]}"
    assert KEY not in repr(key)


def test_a_key_as_it_is_read_from_a_file_with_its_line_end_is_refused() -> None:
    """No header could ever hold it: nobody would get in, and nothing would say why."""
    with pytest.raises(ValueError, match="32 or more") as error:
        keys.make(f"{KEY}\n", Role.VIEWER)
    assert KEY not in str(error.value)


@pytest.mark.parametrize("entry", [f"viewer:{KEY}", f"viewer:{KEY}:", f"viewer:{KEY}::*"])
def test_without_a_project_a_key_reaches_every_project(entry: str) -> None:
    key = keys.parse(entry)
    assert key.reaches("a") and key.reaches("b")
    assert key.sees("any/bench[mark]")


def test_a_project_limits_a_key() -> None:
    key = keys.parse(f"viewer:{KEY}:web")
    assert key.reaches("web")
    assert not key.reaches("webs")


@pytest.mark.parametrize(
    ("pattern", "seen", "unseen"),
    [
        ("io/.*", "io/read", "cpu/io/read"),
        ("io/.*", "io/read/x", "io"),
        ("read|write", "write", "writer"),
        ("[a-z]{1,3}", "abc", "abcd"),
        ("(?i)IO:.*", "io:x", "cpu"),
        ("a:b,c", "a:b,c", "a"),
    ],
)
def test_a_pattern_must_match_the_whole_benchmark(pattern: str, seen: str, unseen: str) -> None:
    key = keys.parse(f"viewer:{KEY}:web:{pattern}")
    assert key.sees(seen)
    assert not key.sees(unseen)


@pytest.mark.parametrize(
    ("pattern", "prefix", "is_all"),
    [
        ("*", "", True),
        (".*", "", True),
        ("api/.*", "api/", True),
        (r"api/v1\.2/.*", "api/v1.2/", True),
        ("api/.+", "api/", False),
        ("api/list", "api/list", False),
        ("apis?/.*", "api", False),
        (r"a\.*", "a", False),
        ("ab{0}c", "a", False),
        ("ab+c", "ab", False),
        ("team.*/bench.*", "team", False),
        ("io/(?:read|write)", "", False),
        ("(?i)io/.*", "", False),
        ("[ab]c", "", False),
        (r"\w+", "", False),
    ],
)
def test_a_key_sees_nothing_that_does_not_begin_as_its_pattern(
    pattern: str, prefix: str, is_all: bool
) -> None:
    key = keys.parse(f"viewer:{KEY}:web:{pattern}")
    assert (key.visible_prefix, key.is_visible is None) == (prefix, is_all)


@given(
    st.lists(
        st.sampled_from(["a", "b", "/", ".", r"\.", "*", "+", "?", "|", "(", ")", "{2}", "[ab]"])
    ),
    st.text("ab/.", max_size=6),
)
@example(["a", "/", ".", "*"], "a/b")
def test_what_a_key_sees_is_what_its_pattern_matches(pattern: list[str], name: str) -> None:
    try:
        key = keys.parse(f"viewer:{KEY}:web:{''.join(pattern)}")
    except ValueError:
        return
    assume(names.BENCHMARK.match(name))
    begins_so = name.startswith(key.visible_prefix)
    assert key.sees(name) == (begins_so and (key.is_visible is None or key.is_visible(name)))


@pytest.mark.parametrize("name", ["", "..", "a//b", "io/read\n", "io/" + "x" * 300, "io/versions"])
def test_what_is_no_benchmark_belongs_to_no_limited_key(name: str) -> None:
    assert not keys.parse(f"viewer:{KEY}:web:(?s:.*)").sees(name)


@pytest.mark.parametrize(
    "entry",
    [
        "",
        KEY,
        f":{KEY}",
        f"root:{KEY}",
        f"Viewer:{KEY}",
        "viewer",
        "viewer:",
        "viewer:short",
        f"viewer:{KEY[:-1]}",
        f"viewer:{KEY}\u00e9",
        f"viewer:{KEY}\u0661",
        f"viewer:{KEY.replace('live', 'prod')}",
        f"viewer:{KEY} ,x",
        f"viewer:{KEY}:we b",
        f"viewer:{KEY}:.web",
        f"viewer:{KEY}:web:(",
        f"viewer:{KEY}:web:",
        f"viewer:{KEY}:web:*a",
        f"viewer:{KEY}:web:api/.*,",
        f"viewer:{KEY}:web:api/.* # ci key",
        f"viewer:{KEY}:web:[[a]",
        f"viewer:{KEY}:web:a{{99999999999999999999}}",
        f"viewer:{KEY}:web:" + "(" * 5000,
        f"viewer:{KEY}:web:io/.*,promotor:{KEY}",
    ],
)
def test_a_bad_entry_is_refused_without_being_shown(entry: str) -> None:
    """Whatever part was forgotten, the key may stand anywhere in the entry."""
    with pytest.raises(ValueError) as error:
        keys.parse(entry)
    assert "a1B2" not in str(error.value)
    assert str(error.value)


def test_a_pattern_may_name_what_only_begins_like_a_key() -> None:
    assert keys.parse(f"viewer:{KEY}:web:pg_test_connectionpooling/.*").sees(
        "pg_test_connectionpooling/a"
    )


def test_a_doubtful_pattern_is_refused_whatever_becomes_of_warnings() -> None:
    """It may mean another thing in a later version of Python."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(ValueError, match="no regular expression"):
            keys.parse(f"viewer:{KEY}:web:[[a]")


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("viewer:a", ["viewer:a"]),
        ("viewer:a,admin:b", ["viewer:a", "admin:b"]),
        ("viewer:a , admin:b", ["viewer:a", "admin:b"]),
        ("viewer:a:p:x{1,3},admin:b:p:(c,d)", ["viewer:a:p:x{1,3}", "admin:b:p:(c,d)"]),
        ("viewer:a,administrator:b", ["viewer:a,administrator:b"]),
        ("viewer:a,", ["viewer:a,"]),
    ],
)
def test_a_list_is_split_where_a_role_follows_a_comma(text: str, entries: list[str]) -> None:
    assert keys.split(text) == entries


def test_generated_keys_are_well_formed_and_differ() -> None:
    made = {keys.generate() for _ in range(20)}
    assert len(made) == 20
    assert all(keys.is_well_formed(key) and key.startswith("pg_test_") for key in made)


def test_nothing_is_left_of_two_keys_without_a_space_between_them() -> None:
    key = "pg_live_" + "K" * 32
    encoded = key.replace("_", "%5F")
    more = (
        encoded,
        encoded * 2,
        encoded.replace("F", "f", 1),
        f"{key}_{key}",
        f"{key}pg_live_",
        f"x{key}",
    )
    for text in (key, key + key, key * 3, key[:24], *more):
        assert "K" not in keys.redact(f"/{text}/")


def test_a_name_that_begins_like_a_key_stays_whole() -> None:
    name = "pg_test_connection_pool_exhaustion/of_pg_live_15"
    assert keys.redact(name) == name
    assert keys.parse(f"viewer:{KEY}:web:{name}").sees(name)

"""API keys and what they may do. Knows no Flask; holds digests, never a key."""

from __future__ import annotations

import enum
import functools
import hashlib
import re
import secrets
import string
import warnings
from collections.abc import Callable
from dataclasses import dataclass

from perfgate_server import names


class Permission(enum.Enum):
    """What a route asks of a key."""

    READ = "read"
    WRITE = "write"
    PROMOTE = "promote"
    DELETE = "delete"


class Role(enum.Enum):
    """What a key is for: a named set of permissions."""

    VIEWER = "viewer"
    CONTRIBUTOR = "contributor"
    PROMOTER = "promoter"
    ADMIN = "admin"

    @property
    def permissions(self) -> frozenset[Permission]:
        """What a key with this role may do."""
        return _PERMISSIONS[self]


_PERMISSIONS = {
    Role.VIEWER: frozenset({Permission.READ}),
    Role.CONTRIBUTOR: frozenset({Permission.READ, Permission.WRITE}),
    Role.PROMOTER: frozenset({Permission.READ, Permission.WRITE, Permission.PROMOTE}),
    Role.ADMIN: frozenset(Permission),
}

KEY_RULE = "pg_live_ or pg_test_ followed by 32 or more ASCII letters and digits"
ENTRY_RULE = (
    "must read role:key[:project[:benchmark_regex]], where role is one of "
    + ", ".join(role.value for role in Role)
    + f" and key is {KEY_RULE}"
)

_KEY = re.compile(r"pg_(?:live|test)_[A-Za-z0-9]{32,}")
# Matches also a key cut in half, two keys run together, and one whose underscores are still
# percent-encoded; and so a name such as pg_test_connectionpooling, but not pg_test_connection_pool.
_KEY_WITHIN = re.compile(
    r"(pg(?:_|%5[Ff])(?:live|test)(?:_|%5[Ff]))[A-Za-z0-9]{16,}"
    r"(?:(?:_|%5[Ff])(?:live|test)(?:_|%5[Ff])[A-Za-z0-9]*)*"
)
_ROLES = {role.value: role for role in Role}
# A benchmark pattern may hold commas, so only a comma before `role:` ends an entry.
_ENTRY_END = re.compile(rf"\s*,\s*(?=(?:{'|'.join(_ROLES)}):)")


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as the server knows it: what it may do, and the digest it is found by."""

    role: Role
    digest: str
    project: str | None = None
    benchmarks: re.Pattern[str] | None = None

    @property
    def id(self) -> str:
        """What tells the key from others in a log."""
        return id_of(self.digest)

    @property
    def actor(self) -> str:
        """Who created a record: ``contributor:1f3a9c2e``."""
        return f"{self.role.value}:{self.id}"

    def reaches(self, project: str) -> bool:
        """Whether `project` is the key's own."""
        return self.project in (None, project)

    def sees(self, benchmark: str) -> bool:
        """Whether `benchmark` is the key's own; what is no benchmark's name never is."""
        if self.benchmarks is None:
            return True
        # The name is checked first: it bounds what an operator's pattern is matched against.
        return bool(names.BENCHMARK.match(benchmark) and self.benchmarks.fullmatch(benchmark))

    @property
    def visible_prefix(self) -> str:
        """The prefix that every benchmark has which the key sees; it may be empty."""
        return "" if self.benchmarks is None else _literal_prefix(self.benchmarks.pattern)[0]

    @property
    def is_visible(self) -> Callable[[str], bool] | None:
        """A test for names with that prefix, or None if the key sees all of them."""
        if self.benchmarks is None or _literal_prefix(self.benchmarks.pattern)[1] == ".*":
            return None
        return self.sees


#: What stands for itself at the beginning of a pattern.
_LITERAL = re.compile(r"(?:[A-Za-z0-9_/:@=,<>-]|\\[.+()\[\]])*")


@functools.cache
def _literal_prefix(pattern: str) -> tuple[str, str]:
    """Return the text with which all begins that a pattern matches, and the rest of the pattern."""
    match = _LITERAL.match(pattern)
    if match is None or "|" in pattern:
        return "", pattern
    text, rest = match[0].replace("\\", ""), pattern[match.end() :]
    # What may be repeated, or be left out, is no part of the text.
    return (text[:-1] if rest.startswith(("*", "?", "{")) else text), rest


def digest(key: str) -> str:
    """Return the lowercase hex SHA-256 of a key."""
    return hashlib.sha256(key.encode()).hexdigest()


def id_of(digest: str) -> str:
    """Return the first 8 hex digits of a key's digest: enough to tell keys apart in a log."""
    return digest[:8]


def is_well_formed(key: str) -> bool:
    """Whether a text has the form of a key: see KEY_RULE."""
    return _KEY.fullmatch(key) is not None


def redact(text: str, most: int | None = None) -> str:
    """Return `text` without the keys in it: one in a path or an option is somebody's mistake. With
    `most` no more than so many characters of it, and so no half of a key at the end."""
    return (_KEY_WITHIN.sub(r"\1…", text) if "pg" in text else text)[:most]


def generate() -> str:
    """Return a new ``pg_test_`` key with 190 bits from the system's random source."""
    alphabet = string.ascii_letters + string.digits
    return "pg_test_" + "".join(secrets.choice(alphabet) for _ in range(32))


def make(key: str, role: Role, project: str | None = None, benchmarks: str | None = None) -> ApiKey:
    """Make an `ApiKey` of its parts.

    `benchmarks` is a regular expression that a benchmark must match whole; ``None`` and ``*``
    mean every benchmark. Raises ValueError, whose text never holds the key.
    """
    if not is_well_formed(key):
        raise ValueError(f"the key must be {KEY_RULE}")
    if project and not names.PROJECT.match(project):
        raise ValueError(f"invalid project name: {names.PROJECT_RULE}")
    return ApiKey(Role(role), digest(key), project or None, _compile(benchmarks))


def _compile(pattern: str | None) -> re.Pattern[str] | None:
    if pattern is None or pattern == "*":
        return None
    if not pattern:
        raise ValueError("the benchmark pattern is empty; leave it out, or write *, for all")
    if _KEY.search(pattern):
        # A misspelt role after a comma would otherwise hide a whole key in the pattern.
        raise ValueError(
            "the benchmark pattern holds another key; is the role after a comma right?"
        )
    if pattern.endswith(","):
        raise ValueError("the benchmark pattern ends with a comma; write [,] if one is meant")
    if any(map(str.isspace, pattern)):
        raise ValueError(
            "the benchmark pattern holds white space, which no benchmark does; in a file of keys a"
            " comment is a line of its own"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # Python prints a doubtful pattern otherwise
            return re.compile(pattern)
    except (FutureWarning, re.error, OverflowError, RecursionError) as error:
        raise ValueError(f"the benchmark pattern is no regular expression: {error}") from None


def parse(entry: str) -> ApiKey:
    """Read one ``role:key[:project[:benchmark_regex]]``.

    Raises ValueError, whose text never holds the key: with a part forgotten, that may stand in the
    place of any other, and of the entry nothing is shown but a name within the pattern.
    """
    role, *rest = entry.strip().split(":", 3)
    if role not in _ROLES:
        raise ValueError(f"{ENTRY_RULE}; this role is unknown")
    if not rest or not is_well_formed(rest[0]):
        raise ValueError(f"{ENTRY_RULE}; the key is missing or invalid")
    return make(rest[0], _ROLES[role], *rest[1:])


def split(text: str) -> list[str]:
    """Split a comma-separated list of entries at each comma that is followed by ``role:``."""
    return _ENTRY_END.split(text)

"""What `sql.SqlStorage` asks of a database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from perfgate_server.storage.base import Kind


class Cursor(Protocol):
    """The result of a statement."""

    def fetchone(self) -> Any: ...
    def fetchall(self) -> Any: ...


class Session(Protocol):
    """A connection in a transaction."""

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Cursor: ...

    def stream(self, sql: str) -> Iterator[Any]:
        """Yield the rows of a query without holding them all."""

    def ensure_durable(self) -> None:
        """Make the commit wait until what this transaction has read is durable too, on the disk
        and on the standbys."""

    def reserve(self, kind: Kind, count: int) -> int:
        """See `Storage.reserve`."""

    # What differs between the dialects of SQL.

    #: Whether it chooses indexes by how many rows each leaves; else `index_hint` tells it which.
    has_statistics: bool

    def as_bytes(self, column: str) -> str:
        """Return the expression that reads a text as bytes: it goes into an answer as it is, or
        to a parser, so decoding it would be for nothing."""

    def index_hint(self, index: str) -> str:
        """Return what makes a query use that index, to stand behind the table, or ""."""

    def among(self, column: str, values: Sequence[Any]) -> tuple[str, Any]:
        """Return the condition that a column is one of `values`, and the value bound in it."""


class Engine(Protocol):
    """A database. Its context managers raise Unavailable for whatever the driver raises."""

    backend: str

    def single(self, deadline: float, recheck: bool = False) -> AbstractContextManager[Session]:
        """Lend a session that reads; two statements may see different states. With `recheck` it is
        made sure now that the database is the one that was opened; without, a check of a few
        milliseconds ago will do."""

    def reading(self, deadline: float) -> AbstractContextManager[Session]:
        """Lend a session whose statements all see the same state of the database."""

    def writing(
        self, project: str, benchmark: str, deadline: float
    ) -> AbstractContextManager[Session]:
        """Lend a session that alone may write to that benchmark; commit at the end, undo at an
        exception."""

    def analyze(self, deadline: float) -> None:
        """See `Storage.analyze`."""

    def close(self) -> None:
        """Close what is open in this process."""

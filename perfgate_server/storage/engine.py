"""What `sql.SqlStorage` asks of a database."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from perfgate_server.storage.base import Kind


class Rows(Protocol):
    """The result of a statement."""

    def fetchone(self) -> Any: ...
    def fetchall(self) -> Any: ...


class Session(Protocol):
    """A connection in a transaction."""

    def execute(self, sql: str, values: Sequence[Any] = ()) -> Rows: ...

    def stream(self, sql: str) -> Iterator[Any]:
        """Yield the rows of a query without holding them all."""

    def settle(self) -> None:
        """Let the end of this transaction promise of what it has read what it does of what it has
        written: that it is on the disk, and wherever else the database is told to keep it."""

    def reserve(self, kind: Kind, count: int) -> int:
        """See `Storage.reserve`."""


class Engine(Protocol):
    """A database. Its context managers raise Unavailable for whatever the driver raises."""

    backend: str
    #: Whether it chooses indexes by how many rows each leaves; else `walk` tells it which.
    knows_sizes: bool

    def single(self, deadline: float, look: bool = False) -> AbstractContextManager[Session]:
        """Lend a session that reads; two statements may see different states. With `look` it is
        made sure now that the database is the one that was opened; without, a check of a few
        milliseconds ago will do."""

    def reading(self, deadline: float) -> AbstractContextManager[Session]:
        """Lend a session whose statements all see the same state of the database."""

    def writing(
        self, project: str, benchmark: str, deadline: float
    ) -> AbstractContextManager[Session]:
        """Lend a session that alone may write to that benchmark; commit at the end, undo at an
        exception."""

    def as_bytes(self, column: str) -> str:
        """Return the expression that reads a text as bytes: it goes into an answer as it is, or
        to a parser, so decoding it would be for nothing."""

    def walk(self, index: str) -> str:
        """Return the words behind a table that make a query walk that index, if there are any."""

    def among(self, column: str, values: Sequence[Any]) -> tuple[str, Any]:
        """Return the condition that a column is one of `values`, and the value bound in it."""

    def close(self) -> None:
        """Close what is open in this process."""

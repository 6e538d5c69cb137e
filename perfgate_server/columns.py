"""Many objects of one kind, turned from rows into columns, which are worked on in C."""

from __future__ import annotations

from operator import itemgetter
from typing import Any, NamedTuple


class Column(NamedTuple):
    """The values of one member, and the type that all of them have; None if there is no such."""

    values: list[Any]
    kind: type | None


#: The most members of which columns are made: four times as many as a sample of perfgate has.
_WIDEST = 64


class Rows(list[Any]):
    """A list, not to be changed, of which the columns are made once for all who ask."""

    def __init__(self, rows: list[Any]) -> None:
        super().__init__(rows)
        #: See `columns_of`.
        self.columns = _columns(rows)


def columns_of(rows: list[Any]) -> dict[str, Column] | None:
    """Return the values of each member of objects that all have the same members, 1 to 64 of them;
    None if these do not, or are no objects."""
    return rows.columns if isinstance(rows, Rows) else _columns(rows)


def _columns(rows: list[Any]) -> dict[str, Column] | None:
    first = rows[0] if rows else None
    if type(first) is not dict or not 0 < len(first) <= _WIDEST:
        return None
    try:
        columns = {name: _column([*map(itemgetter(name), rows)]) for name in first}
        return columns if {*map(len, rows)} == {len(first)} else None
    except (LookupError, TypeError):
        return None


def _column(values: list[Any]) -> Column:
    kind = type(values[0])
    return Column(values, kind if [*map(type, values)].count(kind) == len(values) else None)

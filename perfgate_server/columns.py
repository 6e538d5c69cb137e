"""Many objects of one kind, turned from rows into columns, which are worked on in C."""

from __future__ import annotations

from itertools import chain
from operator import itemgetter
from typing import Any, NamedTuple

#: Stands in a column for a member that a row lacks. It is false, and no value of JSON.
ABSENT = ()


class Column(NamedTuple):
    """The values of one member, row after row, and the types that they have."""

    values: list[Any]
    kinds: set[type]


#: The most members of which columns are made: four times as many as a sample of perfgate has.
_WIDEST = 64
#: How many times as many values the columns may have as the rows, for what these lack.
_LOOSEST = 1.5
#: How many rows are looked at, for the names of their members, before it may be seen that they
#: have too many.
_AT_ONCE = 1000


class Rows(list[Any]):
    """A list, not to be changed, of which the columns are made once for all who ask."""

    def __init__(self, rows: list[Any]) -> None:
        super().__init__(rows)
        #: See `columns_of`.
        self.columns = _columns(rows)


def columns_of(rows: list[Any]) -> dict[str, Column] | None:
    """Return the values of each member of objects that have 1 to 64 members in all, of which most
    have most; None if these do not, or are no objects."""
    return rows.columns if isinstance(rows, Rows) else _columns(rows)


def _columns(rows: list[Any]) -> dict[str, Column] | None:
    if {*map(type, rows)} != {dict}:
        return None
    sizes = [*map(len, rows)]
    if not 0 < max(sizes) <= _WIDEST:
        return None
    if min(sizes) == max(sizes):
        try:
            return {name: _column([*map(itemgetter(name), rows)]) for name in rows[0]}
        except KeyError:
            pass
    names: dict[str, None] = {}
    for start in range(0, len(rows), _AT_ONCE):
        names |= dict.fromkeys(chain.from_iterable(rows[start : start + _AT_ONCE]))
        if len(names) > _WIDEST:
            return None
    # Columns of which much is empty would be many times as large as the rows.
    if len(names) * len(rows) > _LOOSEST * sum(sizes):
        return None
    return {name: _column([row.get(name, ABSENT) for row in rows]) for name in names}


def _column(values: list[Any]) -> Column:
    types = [*map(type, values)]
    alike = types.count(types[0]) == len(types)
    return Column(values, {types[0]} if alike else {*types})

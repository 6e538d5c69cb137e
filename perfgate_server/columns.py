"""Many objects of one kind, turned from rows into columns: what is done with all of the values of a
column is mostly done in C."""

from __future__ import annotations

from itertools import chain, repeat
from operator import itemgetter
from typing import Any, NamedTuple

#: Stands in a column for a member that a row lacks. It is false, and no value of JSON.
ABSENT = ()
AbsentType: type = tuple


class Column(NamedTuple):
    """The values of one member, row after row, and the types that they have."""

    values: list[Any]
    kinds: set[type]


#: The most members of which columns are made: four times as many as a sample of perfgate has.
_WIDEST = 64
#: The most cells of columns, as a multiple of the values in the rows: with more of them ABSENT,
#: columns take longer than rows.
_LOOSEST = 1.2
#: The names of this many rows are gathered before it is seen whether they are too many.
_GATHERED = 1000


class Rows(list[Any]):
    """A list, not to be changed, of which the columns are made once for all who ask."""

    def __init__(self, rows: list[Any]) -> None:
        super().__init__(rows)
        #: See `columns_of`.
        self.columns = _columns(rows)


def columns_of(rows: list[Any]) -> dict[str, Column] | None:
    """Return the values of each member as a column; None if a row is no object, if there are more
    than 64 members, or if too many cells would be empty."""
    return rows.columns if isinstance(rows, Rows) else _columns(rows)


def _columns(rows: list[Any]) -> dict[str, Column] | None:
    if {*map(type, rows)} != {dict}:
        return None
    sizes = {*map(len, rows)}
    if max(sizes) > _WIDEST:
        return None
    if len(sizes) == 1:
        try:
            return {name: _column([*map(itemgetter(name), rows)]) for name in rows[0]}
        except KeyError:
            pass
    most = min(_WIDEST, _LOOSEST * sum(map(len, rows)) / len(rows))
    names: dict[str, None] = {}  # unlike a set, in the rows' order
    for start in range(0, len(rows), _GATHERED):
        names.update(dict.fromkeys(chain.from_iterable(rows[start : start + _GATHERED])))
        if len(names) > most:
            return None
    return {name: _column([*map(dict.get, rows, repeat(name), repeat(ABSENT))]) for name in names}


def _column(values: list[Any]) -> Column:
    types = [*map(type, values)]
    alike = types.count(types[0]) == len(types)
    return Column(values, {types[0]} if alike else {*types})

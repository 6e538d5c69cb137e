"""Many objects of one kind, turned from rows into columns, which are worked on in C."""

from __future__ import annotations

from operator import itemgetter
from typing import Any


def columns_of(rows: list[Any]) -> dict[str, list[Any]] | None:
    """Return the values of each member of objects that all have the same members, at least one;
    None if these do not, or are no objects."""
    first = rows[0] if rows else None
    if type(first) is not dict or not first:
        return None
    try:
        columns = {name: [*map(itemgetter(name), rows)] for name in first}
        return columns if {*map(len, rows)} == {len(first)} else None
    except (LookupError, TypeError):
        return None


def are_all(column: list[Any], kind: type) -> bool:
    """Tell whether all values are of one type, and of none that is derived from it."""
    return [*map(type, column)].count(kind) == len(column)

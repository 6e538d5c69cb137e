"""The numbered SQL files under ``migrations/``."""

from __future__ import annotations

import logging
import re
from dataclasses import dataclass
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import Path

from perfgate_server.storage.base import CannotOpen

logger = logging.getLogger(__name__)

#: The newest migration of each dialect that this program knows. An installation may hold more: pip
#: builds in a folder of the clone, where what a newer version left stays.
NEWEST = {"sqlite": 6, "postgres": 8}


@dataclass(frozen=True, slots=True)
class Migration:
    """A step from the schema's version before to this one."""

    version: int
    name: str
    sql: str


def load(dialect: str) -> list[Migration]:
    """Return the migrations of a dialect (``sqlite``), in order.

    Raises ValueError if their numbers are not 1, 2, 3 and so on, up to the newest.
    """
    migrations = []
    for file in sorted(_folder(dialect).iterdir(), key=lambda file: file.name):
        match = re.fullmatch(r"(\d{4})_(\w+)\.sql", file.name)
        if match:
            migrations.append(Migration(int(match[1]), match[2], file.read_text("utf-8")))
    known = migrations[: NEWEST[dialect]]
    if [migration.version for migration in known] != list(range(1, NEWEST[dialect] + 1)):
        raise ValueError(f"the migrations of {dialect} are not numbered 1, 2, 3, …")
    return known


def missing(dialect: str, version: int, *, upgrade: bool = True) -> list[Migration]:
    """Return the migrations that a database of that version lacks. Raises CannotOpen for one that
    is newer than this program, and without `upgrade` for one that is older."""
    migrations = load(dialect)
    newest = len(migrations)
    if version > newest:
        raise CannotOpen(
            f"it was made by a newer perfgate-server (schema {version}; this program knows"
            f" {newest}); upgrade the program"
        )
    if version < newest and not upgrade:
        raise CannotOpen(
            f"it was made by an earlier perfgate-server (schema {version}; this program's is"
            f" {newest}); a server that starts on it upgrades it"
        )
    return migrations[version:]


def log_applied(version: int, applied: list[Migration], database: str) -> None:
    """Log that a database of that version was upgraded, for an earlier program refuses it now; or
    that it was made: at a wrong path there would be nothing to compare with."""
    if version and applied:
        logger.info("the database was upgraded from schema %d to %d", version, applied[-1].version)
    elif applied:
        logger.info("a new, empty database was made: %s", database)


def _folder(dialect: str) -> Traversable:
    try:
        return files("perfgate_server.migrations") / dialect
    except ModuleNotFoundError:  # a checkout that was never installed
        return Path(__file__).parents[2] / "migrations" / dialect

"""Where baselines are kept; `open_storage` decides which backend it is."""

from __future__ import annotations

from pathlib import Path

from perfgate_server.storage.base import CannotOpen, Storage
from perfgate_server.storage.engine import Engine
from perfgate_server.storage.sql import SqlStorage
from perfgate_server.storage.sqlite import SqliteEngine

__all__ = ["Storage", "open_storage"]


def open_storage(
    storage_type: str,
    location: str | None,
    *,
    pool_size: int,
    shared: bool = False,
    create: bool = True,
) -> Storage:
    """Return the storage, migrated and holding no connection, so that a fork may follow.

    `location` is the path of ``sqlite`` or the URL of ``postgres``; `pool_size` is how many
    threads use it at once, and bounds the connections to ``postgres``; `shared` says whether other
    processes of the server use it too. Without `create` a database must be there, with this
    program's schema. Raises CannotOpen.
    """
    if storage_type == "postgres":
        return SqlStorage(_postgres(location or "", pool_size, create))
    path = Path(location or "") if storage_type == "sqlite" else None
    return SqlStorage(SqliteEngine(path, pool_size, shared, create))


def _postgres(url: str, pool_size: int, create: bool) -> Engine:
    try:
        from perfgate_server.storage.postgres import PostgresEngine
    except ImportError as error:
        raise CannotOpen(
            "storage type postgres needs its driver, which comes with the extra"
            f" perfgate-server[postgres] ({error})"
        ) from None
    return PostgresEngine(url, pool_size, create)

"""Where baselines are kept; `open_storage` decides which backend it is."""

from __future__ import annotations

from pathlib import Path

from perfgate_server.storage.base import Storage
from perfgate_server.storage.sql import SqlStorage
from perfgate_server.storage.sqlite import SqliteEngine

__all__ = ["Storage", "open_storage"]


def open_storage(storage_type: str, path: Path, timeout: float) -> Storage:
    """Return the storage, migrated and holding no connection, so that a fork may follow.

    `path` is the file of ``sqlite``; `timeout` bounds waiting for a lock, in seconds. Raises
    CannotOpen.
    """
    return SqlStorage(SqliteEngine(path if storage_type == "sqlite" else None, timeout))

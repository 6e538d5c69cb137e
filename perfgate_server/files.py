"""Files that are written atomically: they have their names only once they are complete."""

from __future__ import annotations

import errno
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def atomic_write(name: str) -> Iterator[Path]:
    """Yield the path of an empty file of the user's own (mode 0600), which gets that name
    when the block has ended and the disk has it; if the block raises, nothing is left of it.

    Raises OSError, also if the name is taken, or is none.
    """
    target = Path(name)
    if not target.name or name.endswith(os.sep):
        raise IsADirectoryError(errno.EISDIR, "that is no name for a file")
    partial = target.with_name(f"{target.name}.{secrets.token_hex(4)}.partial")
    _check_free(target)
    try:
        partial.touch(0o600, exist_ok=False)
        yield partial
        _flush(partial)
        try:
            os.link(partial, target)  # unlike a rename, never in the place of another file
        except FileExistsError:
            raise
        except OSError:  # a file system without links: one that comes at this moment is lost
            _check_free(target)
            os.rename(partial, target)
        with suppress(PermissionError):  # of a folder that may be written to, and not read
            _flush(target.parent)
    finally:
        partial.unlink(missing_ok=True)


def _check_free(target: Path) -> None:
    if os.path.lexists(target):
        raise FileExistsError(errno.EEXIST, "that exists already; choose another name")


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)

"""Whether two machines are alike enough for their times to be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from perfgate_server.names import HOST


def differences(host: Mapping[str, Any], other: Mapping[str, Any]) -> tuple[str, ...]:
    """Return in which members of `names.HOST` two hosts differ.

    A member counts only where both know it, and neither a count of 0 nor an empty text is
    knowledge. Memory differs if the smaller is over 10 % below the larger: one machine reports a
    little more or less after an update of its kernel.
    """
    if host == other:  # as nearly all are
        return ()
    found = []
    for name in HOST:
        ours, theirs = host.get(name), other.get(name)
        if not ours or not theirs:
            continue
        if name == "memory_bytes":
            differs = abs(ours - theirs) * 10 > max(ours, theirs)
        else:
            differs = ours != theirs
        if differs:
            found.append(name)
    return tuple(found)

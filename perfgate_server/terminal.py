"""What a person at a terminal is told: one line on standard error, without secrets."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import NoReturn

from perfgate_server import keys

#: Where a password stands in a database URL or in libpq's other form, also of one that is none.
_PASSWORD = re.compile(
    r"(//?[^/:@\s]*:)\S+(?=@)|(password\s*=\s*)('(?:[^'\\]|\\.)*'|[^&\s]+)", re.IGNORECASE
)


def say(sentence: str) -> None:
    """Print one line on standard error: what does not belong there, as keys, passwords and the
    codes that steer a terminal, does not come through. Output that cannot be written is ignored:
    what was done is done."""
    shown = _PASSWORD.sub(r"\1\2…", keys.redact(keys.printable(sentence)))
    with contextlib.suppress(OSError):
        print(shown, file=sys.stderr)


def end(reason: object, status: int = 2) -> NoReturn:
    """End the process with one line on standard error that says why."""
    say(f"Error: {reason}")
    sys.exit(status)

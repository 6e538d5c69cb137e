"""What a person at a terminal is told: one line on standard error, without secrets."""

from __future__ import annotations

import contextlib
import re
import sys
from typing import NoReturn

from perfgate_server import keys

#: Where a password stands in a database URL, in what was meant for one, or in libpq's other form.
#: The user's name may hold an @, and a password that is not encoded a blank.
_PASSWORD = re.compile(
    r"(postgres(?:ql)?:/{0,2}[^/:\s]*:).+(?=@)"
    r"|(//?[^/:\s]*:)\S+(?=@)"
    r"|(password\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^&\s]+)",
    re.IGNORECASE,
)


def printable(text: str) -> str:
    """Return a text that can be printed as it is, on one line and in UTF-8: else escaped."""
    return text if text.isprintable() else text.encode("unicode_escape").decode()


def say(sentence: str) -> None:
    """Print one line on standard error: what does not belong there, as keys and the codes that
    steer a terminal, does not come through. Output that cannot be written is ignored: what was
    done is done."""
    with contextlib.suppress(OSError):
        print(keys.redact(printable(sentence)), file=sys.stderr)


def end(reason: object, status: int = 2) -> NoReturn:
    """End the process with one line on standard error that says why. It may quote a database URL,
    or an argument in whose place one was given, whose password does not come through."""
    say(_PASSWORD.sub(r"\1\2\3…", printable(f"Error: {reason}")))
    sys.exit(status)

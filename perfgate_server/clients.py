"""The clients' connections: how long each is waited for, and how many there may be."""

from __future__ import annotations

import contextlib
import resource
import socket
import struct
import time
from collections.abc import Callable, Iterator
from typing import Any

#: Bytes that a client must send in the time that it may pause (--timeout): what a line of 70
#: kbit/s carries in the default 30 seconds.
QUOTA = 256 * 1024
#: Bytes of a body that nobody wanted, up to which gunicorn drains it to keep the connection:
#: gunicorn.http.parser._DRAIN_MAX_BYTES.
_MOST_DRAINED = 64 * 1024
#: The most pieces of a chunked body, as gunicorn reads them: chunks, or what a read gave of one.
#: Some JSON encoders send a chunk for each token, and a segment of TCP holds 1,448 bytes: of the
#: largest --max-body-size, 1 GiB, that makes three quarters of a million.
_MOST_PIECES = 1_000_000
#: Descriptors that a worker keeps for itself, beside four for each thread: the rest is for clients.
_OWN_FILES = 64


class Client(socket.socket):
    """A client's connection, which does not wait for it for ever.

    A request must come whole within `patience` seconds, or QUOTA bytes of it in each such time.
    Of an answer a third of the kernel's buffer must be taken in that time, which is when the
    kernel asks for more. gunicorn's sockets block without a timeout, and a timeout of Python's
    would cost each call a poll(): the kernel keeps the time. Raises TimeoutError, or
    BlockingIOError where the kernel says so.
    """

    def __init__(self, accepted: socket.socket, patience: float) -> None:
        kind = accepted.family, accepted.type, accepted.proto
        super().__init__(*kind, fileno=accepted.detach())
        self._patience = patience
        self._let_wait(socket.SO_SNDTIMEO, patience)
        self.start_clock()

    def start_clock(self) -> None:
        """Give the client its time anew: a request begins."""
        self._until = time.monotonic() + self._patience
        self._owed = QUOTA

    def recv(self, size: int, flags: int = 0) -> bytes:
        left = self._until - time.monotonic()
        if left <= 0:
            raise TimeoutError("the request did not come in time")
        self._let_wait(socket.SO_RCVTIMEO, left)
        received = super().recv(size, flags)
        self._owed -= len(received)
        if self._owed <= 0:
            self.start_clock()
        return received

    def holds(self, size: int) -> bool:
        """Tell whether that many bytes have come, and wait to be read."""
        try:
            return len(super().recv(size, socket.MSG_PEEK | socket.MSG_DONTWAIT)) == size
        except OSError:
            return False

    def _let_wait(self, option: int, seconds: float) -> None:
        # In the kernel zero means for ever.
        microseconds = max(1, int(seconds * 1_000_000))
        timeval = struct.pack("ll", *divmod(microseconds, 1_000_000))
        self.setsockopt(socket.SOL_SOCKET, option, timeval)


def bounded(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Yield the pieces of a chunked body; raises ValueError at one too many. gunicorn takes 2 µs
    for each, and so half a minute for a body of 16 MiB that comes byte by byte."""
    for number, piece in enumerate(pieces):
        if number >= _MOST_PIECES:
            raise ValueError("the body came in too many chunks")
        yield piece


def is_unread(req: Any) -> bool:
    """Tell whether there is more of a request's body than the application has read."""
    reader = req.body.reader
    # Of a chunked body nobody knows how much; gunicorn has a parser as long as there is more.
    return bool(getattr(reader, "length", 0) or getattr(reader, "parser", None))


def is_unwanted(req: Any, sock: Any) -> bool:
    """Tell whether what is unread of a body is not all there yet, or more than gunicorn would read
    to keep the connection: it would wait five seconds for that, with a thread, and then close what
    it said it kept."""
    if not is_unread(req):
        return False
    length = getattr(req.body.reader, "length", None)
    if length is None or length >= _MOST_DRAINED or not isinstance(sock, Client):
        return True
    missing = length - len(req.unreader.buf.getvalue())
    return missing > 0 and not sock.holds(missing)


def closes_unread(req: Any, sock: Any, should_close: Callable[[], bool]) -> bool:
    """Tell whether to close the connection after a request that `is_unread`; `should_close` is the
    request's own. gunicorn asks for the answer's Connection header, and again once it is sent: the
    first yes holds, or what comes in between would give two answers."""
    if not should_close() and is_unwanted(req, sock):
        req.force_close()
    return should_close()


def asks_to_close(req: Any) -> bool:
    """Tell whether a client's Connection header names ``close`` among others (RFC 9110, 7.6.1);
    gunicorn sees it alone."""
    for name, value in req.headers:
        if name == "CONNECTION" and "close" in map(str.strip, value.lower().split(",")):
            return True
    return False


def take_descriptors() -> int:
    """Let this process have all the descriptors that it is allowed; return how many that are."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):  # a sandbox may forbid it
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def most_clients(settings: Any, files: int) -> int:
    """Return how many clients a worker with that many descriptors may have, up to what gunicorn's
    settings say. gunicorn's worker dies of a client without a descriptor."""
    wanted = int(settings.worker_connections)
    if files == resource.RLIM_INFINITY:
        return wanted
    return max(1, min(wanted, files - _OWN_FILES - 4 * int(settings.threads)))

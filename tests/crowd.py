"""Clients of every bad kind, many at once, for the tests and for benchmarks/overload.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from support import Server, key_line, receipt

_KEY = f"Host: x\r\n{key_line()}"
_PUT = f"PUT /projects/p/baselines/crowd/versions/v HTTP/1.1\r\n{_KEY}"
_GET = f"GET /projects/p/baselines?include_receipt=true&limit=1000 HTTP/1.1\r\n{_KEY}\r\n"

Streams = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def _until_closed(reader: asyncio.StreamReader) -> None:
    while await reader.read(65536):
        pass


async def _drip(streams: Streams, sent: str, pause: float) -> None:
    _, writer = streams
    for byte in sent.encode():
        writer.write(bytes([byte]))
        await writer.drain()
        await asyncio.sleep(pause)


async def drip_head(streams: Streams, pause: float) -> None:
    """Sends a request a byte at a time."""
    await _drip(streams, _PUT + "X: " + "y" * 5000, pause)


async def drip_body(streams: Streams, pause: float) -> None:
    """Sends a head, and its body a byte at a time."""
    streams[1].write(f"{_PUT}Content-Length: 5000\r\n\r\n".encode())
    await _drip(streams, " " * 5000, pause)


async def drip_chunks(streams: Streams, pause: float) -> None:
    """Sends a body that never ends, in chunks of a byte."""
    streams[1].write(f"{_PUT}Transfer-Encoding: chunked\r\n\r\n".encode())
    for _ in range(5000):
        await _drip(streams, "1\r\n \r\n", pause / 6)


async def endless_body(streams: Streams, pause: float) -> None:
    """Sends a body that never ends, as fast as it is taken."""
    streams[1].write(f"{_PUT}Transfer-Encoding: chunked\r\n\r\n".encode())
    chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
    for _ in range(10_000):
        streams[1].write(chunk)
        await streams[1].drain()


async def vanish(streams: Streams, pause: float) -> None:
    """Sends an upload, and is gone before it is answered."""
    body = json.dumps(receipt()).encode()
    cut = random.randrange(len(body) + 1)
    streams[1].write(f"{_PUT}Content-Length: {len(body)}\r\n\r\n".encode() + body[:cut])
    await streams[1].drain()
    linger = b"\1\0\0\0\0\0\0\0"  # on, zero seconds: a reset
    streams[1].get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    streams[1].transport.abort()
    await asyncio.sleep(pause / 10)


async def never_read(streams: Streams, pause: float) -> None:
    """Asks for much, and takes none of it."""
    streams[1].write(_GET.encode() * 8)
    streams[1].transport.pause_reading()  # type: ignore[attr-defined]  # a transport that reads
    await asyncio.sleep(3600)


async def never_close(streams: Streams, pause: float) -> None:
    """Sends what is no request, and keeps the refused connection open."""
    streams[1].write(b"nonsense\r\n\r\n")
    await asyncio.sleep(pause * 10)


KINDS: tuple[Callable[[Streams, float], Awaitable[None]], ...] = (
    drip_head,
    drip_body,
    drip_chunks,
    endless_body,
    vanish,
    never_read,
    never_close,
)


class Crowd:
    """So many clients of these kinds in one thread; each comes back when it was shut out."""

    def __init__(
        self, port: int, count: int, kinds: Any = KINDS, pause: float = 1.0, again: float = 0.5
    ) -> None:
        self.shut_out: Counter[str] = Counter()
        self._port, self._count, self._kinds = port, count, kinds
        self._pause, self._again = pause, again
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        with contextlib.suppress(asyncio.CancelledError):
            self._loop.run_until_complete(self._task)

    async def _all(self) -> None:
        kinds = [self._kinds[number % len(self._kinds)] for number in range(self._count)]
        await asyncio.gather(*map(self._one, kinds))

    async def _one(self, kind: Any) -> None:
        while True:
            with contextlib.suppress(OSError):
                streams = await asyncio.open_connection("127.0.0.1", self._port)
                ended = asyncio.create_task(_until_closed(streams[0]))
                acting = asyncio.create_task(kind(streams, self._pause))
                try:
                    await asyncio.wait([ended, acting], return_when=asyncio.FIRST_COMPLETED)
                finally:
                    streams[1].transport.abort()
                    ended.cancel()
                    acting.cancel()
                    await asyncio.gather(ended, acting, return_exceptions=True)
            self.shut_out[kind.__name__] += 1
            await asyncio.sleep(self._again)

    def __enter__(self) -> Crowd:
        self._task = self._loop.create_task(self._all())
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._loop.call_soon_threadsafe(self._task.cancel)
        self._thread.join()
        self._loop.close()


@dataclass
class Honest:
    """What became of the requests of clients that behave."""

    seconds: list[float] = field(default_factory=list)
    failures: list[str] = field(default_factory=list)

    def work(self, server: Server, client: int, turns: int, until: float) -> None:
        """Upload, read, list and ask for health, so many times, or until that moment."""
        for turn in range(turns):
            version = f"v{client}-{turn}"
            calls: list[tuple[str, tuple[int, ...], Callable[[], Any]]] = [
                ("upload", (201,), partial(server.put, f"honest{client}", version)),
                ("read", (200,), partial(_read, server, f"honest{client}", version)),
                ("health", (200,), lambda: server.request("GET", "/health", role=None)[0]),
            ]
            for what, expected, call in calls:
                if time.monotonic() > until:
                    return
                began = time.monotonic()
                try:
                    status: Any = call()
                except OSError as error:
                    status = error
                self.seconds.append(time.monotonic() - began)
                if status not in expected:
                    self.failures.append(f"{what}: {status}")


def _read(server: Server, benchmark: str, version: str) -> int:
    path = f"/projects/p/baselines/{benchmark}/versions/{version}?receipt=only"
    status, _, body = server.request("GET", path)
    return status if status != 200 or json.loads(body) == receipt() else 0


def resident(pids: list[int]) -> int:
    """Return the resident memory of these processes, in bytes; shared pages count in each."""
    total = 0
    for pid in pids:
        with contextlib.suppress(OSError):
            total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * 4096
    return total


@dataclass
class Found:
    """What a crowd did to a server."""

    honest: Honest
    shut_out: Counter[str]
    #: The most that the server's processes held in memory together.
    peak_bytes: int


def overload(
    front: Server, server: Server, *, connections: int, clients: int, turns: int, seconds: float
) -> Found:
    """Let honest clients work while a crowd is there, each so many turns, for so long at most.

    `front` is what all connect to, `server` whose memory is measured."""
    honest = Honest()
    until = time.monotonic() + seconds
    peak = 0
    with Crowd(front.port, connections) as crowd:
        threads = [
            threading.Thread(target=honest.work, args=(front, client, turns, until))
            for client in range(clients)
        ]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            peak = max(peak, resident(server.workers()))
            threads[0].join(0.1)
        for thread in threads:
            thread.join()
    return Found(honest, crowd.shut_out, peak)

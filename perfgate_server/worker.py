"""gunicorn's threaded worker, and what that lacks: see `Worker`."""

from __future__ import annotations

import contextlib
import functools
import logging
import os
import selectors
import signal
import socket
import time
from typing import Any

from gunicorn.workers.gthread import ThreadWorker

from perfgate_server import refusals
from perfgate_server.balance import Balance
from perfgate_server.clients import (
    QUOTA,
    Client,
    asks_to_close,
    bounded,
    closes_unread,
    is_unread,
    most_clients,
    take_descriptors,
)

logger = logging.getLogger(__name__)

#: The signals that stop a worker.
_STOPPING = {signal.SIGTERM, signal.SIGQUIT}
#: Those that are for the main process alone: Ctrl-C, the end of a terminal and some service
#: managers send theirs to the whole process group, and gunicorn's worker would die of them, with
#: its requests in flight.
_IGNORED = {signal.SIGINT, signal.SIGHUP, signal.SIGUSR2}
#: What a worker does otherwise than the main process.
OWN_SIGNALS = _STOPPING | _IGNORED

#: Seconds for which a connection that the server has closed is read, for its answer's sake: from
#: one read to the next, and in all. Some clients read nothing before they have sent everything.
_LINGER, _LONGEST_LINGER = 2.0, 30.0

#: Seconds for which a worker that stops keeps an idle connection, on which a request may be under
#: way. gunicorn's two, and the next start, take longer than the 1.4 for which the perfgate client
#: tries again.
_LAST_WORD = 0.5

#: Seconds for which a worker takes no connection when one could not be taken.
_RECOVERY = 1.0
#: Bytes to which glibc's mmap threshold is raised; it then keeps twice as many when freed.
_KEPT = 2**20


class Worker(ThreadWorker):  # type: ignore[misc]  # gunicorn is not typed
    """gunicorn's threaded worker, and what that lacks.

    - No client holds a thread, or the loop, for long: `Client`, `_await_data`, `_linger`.
    - Clients are shared out among the workers: `Balance`.
    - It keeps to one core: `core`.
    - What gunicorn refuses is answered as the application would: `handle_error`.
    """

    #: The core to run on, or None for any. Only one thread at a time runs Python. On two cores
    #: the next one wakes at once whenever the interpreter is let go, for a read or a lock, and
    #: the first then has to get it back: a request cost twice the time (benchmarks/cores.py).
    core: int | None = None

    #: Its slot in `balance.load_of`, or None.
    slot: int | None = None

    #: Until when no connection is taken, for the last one could not be.
    recovers_at = 0.0

    def init_signals(self) -> None:
        super().init_signals()
        for number in _IGNORED:
            signal.signal(number, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, OWN_SIGNALS)

    def handle_quit(self, sig: int, frame: Any) -> None:
        """Finish the requests in flight, as at SIGTERM: gunicorn sends SIGQUIT on Ctrl-C. Its own
        cuts them off, or waits for ever for a lock of the code that the signal interrupted."""
        self.handle_exit(sig, frame)

    def is_parent_alive(self) -> bool:
        """Tell whether the main process is there: without it this one stops, as when told to."""
        is_alive = bool(super().is_parent_alive())
        if not is_alive:  # and not always: that could undo what a signal has just set
            self.alive = False
        return is_alive

    def set_accept_enabled(self, enabled: bool) -> None:
        super().set_accept_enabled(enabled and time.monotonic() >= self._accepts_at())

    def _cap_keepalive(self, deadline: float) -> None:
        """Stop: gunicorn calls this once its loop has ended.

        Whoever has connected is taken. Who connects from here on is refused, and can go elsewhere,
        instead of waiting in the backlog for the reset at the end; and those who have not said
        anything are closed as soon as those who are kept.
        """
        for listener in self.sockets:
            self._take_all(listener)
            listener.close()
        self.balance.leave()
        self._cap_idle()

    def _cap_idle(self) -> None:
        """Close who is idle soon."""
        deadline = time.monotonic() + _LAST_WORD
        super()._cap_keepalive(deadline)
        for conn in (*self.pending_conns, *self.lingering):
            conn.timeout = min(conn.timeout, deadline)

    def _take_all(self, listener: socket.socket) -> None:
        """Take whoever has connected already, and was left to others or for later."""
        before = -1
        with contextlib.suppress(OSError):
            while before < self.nr_conns < self.worker_connections:
                before = self.nr_conns
                super().accept(listener)

    def _accepts_at(self) -> float:
        return max(self.balance.stands_back_until, self.recovers_at)

    def accept(self, listener: socket.socket) -> None:
        """Take a new connection, unless it is left to another worker."""
        if self.balance.stand_back():
            self.set_accept_enabled(False)
            return
        if self.balance.give_way():
            return
        try:
            super().accept(listener)
        except OSError as error:
            # For want of descriptors or memory; whatever it is, those who are here are served.
            logger.error("no connection can be taken: %s", error.strerror)
            self.recovers_at = time.monotonic() + _RECOVERY
            self.set_accept_enabled(False)

    def wait_for_and_dispatch_events(self, timeout: float) -> None:
        left = self._accepts_at() - time.monotonic()
        self.balance.begin_pass()
        if not self.alive:  # gunicorn would look for those to be closed once a second
            timeout = min(timeout, _LAST_WORD)
        super().wait_for_and_dispatch_events(min(timeout, left) if left > 0 else timeout)
        self.balance.end_pass()

    def _clients(self) -> int:
        """Return how many clients there are, but for those that are only to read their answers."""
        return int(self.nr_conns) - len(self.lingering)

    def init_process(self) -> None:
        self.lingering: list[Any] = []
        self.balance = Balance(self.slot, self.cfg.threads, self._clients)
        if self.core is not None:
            with contextlib.suppress(OSError):  # a sandbox may forbid it; it is only for speed
                os.sched_setaffinity(0, {self.core})
        self.worker_connections = most_clients(self.cfg, take_descriptors())
        if self.worker_connections <= self.cfg.threads:
            logger.warning(
                "the limit of open files (ulimit -n) leaves room for %d clients at once",
                self.worker_connections,
            )
        self.max_keepalived = max(1, self.worker_connections - self.cfg.threads)
        # Freeing a block of this size raises glibc's threshold from 128 KiB to it (mallopt(3),
        # M_MMAP_THRESHOLD). Else each 150 kB body may go back to the kernel, and be faulted in
        # again page by page, for a tenth of the time of a request.
        bytes(_KEPT)
        super().init_process()

    def enqueue_req(self, conn: Any) -> None:
        if conn.data_ready:
            self.balance.begin_request()
            super().enqueue_req(conn)
        else:
            self._await_data(conn)

    def _await_data(self, conn: Any) -> None:
        """Let a new connection wait among the idle ones until it says something: gunicorn would
        let it hold a thread for five seconds, and be idle for as long as one that is kept."""
        patience = self.wsgi.extensions["perfgate"].config.timeout
        conn.sock = Client(conn.sock, patience)
        conn.timeout = time.monotonic() + patience
        self.pending_conns.append(conn)
        ready = functools.partial(self.on_pending_socket_readable, conn)
        self.poller.register(conn.sock, selectors.EVENT_READ, ready)

    def handle(self, conn: Any) -> Any:
        # gunicorn's own TLS makes another socket of it, which nothing bounds.
        if isinstance(conn.sock, Client):
            conn.sock.start_clock()
        try:
            return super().handle(conn)
        finally:
            self.balance.end_request()

    def handle_request(self, req: Any, conn: Any) -> Any:
        reader = req.body.reader
        if getattr(reader, "parser", None) is not None:
            reader.parser = bounded(reader.parser)
        if self.balance.shed_one() or asks_to_close(req):
            req.force_close()  # with its answer, which says so
        elif is_unread(req):
            # Asked when the answer's head is written, and the application has read what it wants.
            req.should_close = functools.partial(closes_unread, req, conn.sock, req.should_close)
        return super().handle_request(req, conn)

    def finish_request(self, conn: Any, future: Any) -> None:
        self.balance.note_finished()
        if future.cancelled() or future.exception() or future.result():
            super().finish_request(conn, future)
            if not self.alive:
                self._cap_idle()
        else:
            self._linger(conn)

    def _linger(self, conn: Any) -> None:
        """Close a connection so that the client can read its answer (RFC 9112, 9.6): what it
        still sends is read, until it closes too or has had its time. gunicorn would wait for
        that in this loop, and serve nobody else meanwhile."""
        try:
            conn.sock.setblocking(False)
            conn.sock.shutdown(socket.SHUT_WR)
            self.poller.register(
                conn.sock, selectors.EVENT_READ, functools.partial(self._drain, conn)
            )
        except OSError:
            self._close(conn)
        else:
            now = time.monotonic()
            conn.timeout = now + (_LINGER if self.alive else _LAST_WORD)
            conn.lingers_until = now + _LONGEST_LINGER
            self.lingering.append(conn)

    def _drain(self, conn: Any, _: Any) -> None:
        try:
            if conn.sock.recv_into(bytearray(QUOTA)):
                if self.alive:
                    conn.timeout = min(time.monotonic() + _LINGER, conn.lingers_until)
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self._end_lingering(conn)

    def _end_lingering(self, conn: Any) -> None:
        self.lingering.remove(conn)
        self.poller.unregister(conn.sock)
        self._close(conn)

    def _close(self, conn: Any) -> None:
        self.nr_conns -= 1
        conn.close()

    def murder_pending(self) -> None:
        super().murder_pending()
        now = time.monotonic()
        for conn in [conn for conn in self.lingering if conn.timeout <= now]:
            self._end_lingering(conn)

    def handle_error(self, req: Any, client: socket.socket, addr: Any, exc: Exception) -> None:
        """Answer what never reached the application; gunicorn would answer HTML."""
        cors = not self.wsgi.extensions["perfgate"].config.no_cors
        refusals.answer(exc, client, addr, cors=cors)

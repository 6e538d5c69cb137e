"""gunicorn's main process, which starts and stops the workers: see `Arbiter`."""

from __future__ import annotations

import logging
import os
import random
import signal
import time
from collections import Counter
from typing import Any, cast

from gunicorn import arbiter
from gunicorn.errors import HaltServer

from perfgate_server import balance
from perfgate_server.worker import OWN_SIGNALS, Worker

logger = logging.getLogger(__name__)

#: Heartbeats are checked once a second or more often. If they were not for this many seconds, this
#: process itself was stopped, and the workers get as many for their next heartbeat.
_STANDSTILL = 5.0


class Arbiter(arbiter.Arbiter):  # type: ignore[misc]  # gunicorn is not typed
    """gunicorn's main process, which here outlives a standstill and a want of memory, keeps what
    storage `memory` holds, and hears each signal."""

    _checked_at = _resumed_at = 0.0

    def handle_hup(self) -> None:
        """Replace the workers, but for the one that is all there is of storage `memory`.

        gunicorn's own would wait here for the old ones to end, and hear no signal meanwhile.
        """
        tell_of_hangup(self)
        if not self._keeps_memory():
            for _ in range(self.num_workers):
                self.spawn_worker()  # `manage_workers` then stops the oldest

    def reap_workers(self) -> None:
        """End with the worker that held storage `memory`: another would be an empty store, where
        a gate finds nothing to compare with."""
        super().reap_workers()
        is_stopping = not self.LISTENERS
        if self._keeps_memory() and not self.WORKERS and not is_stopping:
            raise HaltServer("the process that held storage memory is gone, and all with it", 1)

    def handle_ttin(self) -> None:
        if self._keeps_memory():
            logger.warning("SIGTTIN: there is one worker; storage memory lives in one process")
        else:
            super().handle_ttin()

    def handle_usr2(self) -> None:
        """Start no second server beside this one: it could not bind the same address."""
        logger.warning("SIGUSR2: there is no second server beside this one; restart it")

    def spawn_worker(self) -> int | None:
        """Start a worker; one that cannot be started, for want of memory or processes, is tried
        again by the main loop. gunicorn's own would end them all."""
        parent = os.getpid()
        try:
            return cast(int, super().spawn_worker())
        except OSError as error:
            if os.getpid() != parent:
                raise
            logger.error("no worker can be started: %s", error.strerror)
            return None

    def murder_workers(self) -> None:
        """Kill workers without a heartbeat, but not at once where this process was stopped itself,
        as by Ctrl-Z or with its machine: they were stopped as long."""
        now = time.monotonic()
        if now - self._checked_at >= _STANDSTILL:
            self._resumed_at = now
        self._checked_at = now
        if now - self._resumed_at >= _STANDSTILL:
            super().murder_workers()

    def handle_int(self) -> None:
        """Stop on Ctrl-C as on SIGTERM: gunicorn then hears a second one, and waits no longer for
        the requests in flight."""
        raise StopIteration

    handle_quit = handle_int

    def _keeps_memory(self) -> bool:
        return bool(self.app.app.extensions["perfgate"].config.storage_type == "memory")


def tell_of_hangup(_: Any) -> None:
    """gunicorn's hook on_reload."""
    logger.warning("SIGHUP: keys and settings are read at start alone; restart to change them")


#: The signals that `before_fork` has blocked in this process.
_blocked: set[signal.Signals] = set()


def before_fork(server: Any, worker: Worker) -> None:
    """gunicorn's hook pre_fork: prepare a worker that is about to start."""
    _assign(server, worker)
    # Until a worker has its own handlers it would run the main process's, which swallow the
    # signal. `Worker.init_signals` lets it through there, and `_after_fork` here.
    if isinstance(worker, Worker):  # any other would never hear it
        _blocked.update(OWN_SIGNALS - signal.pthread_sigmask(signal.SIG_BLOCK, OWN_SIGNALS))


def _after_fork() -> None:
    if _blocked:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _blocked)
        _blocked.clear()


# gunicorn has no hook for after the fork in the main process.
os.register_at_fork(after_in_parent=_after_fork)


def _assign(server: Any, worker: Worker) -> None:
    """Give a worker a slot, and a core that the fewest others have, of those that this process
    may use."""
    others = server.WORKERS.values()
    worker.slot = balance.free_slot({other.slot for other in others})
    if hasattr(os, "sched_getaffinity"):  # not on macOS
        taken = Counter(other.core for other in others)
        cores = [*os.sched_getaffinity(0)]
        random.shuffle(cores)  # so that two servers do not both begin with the first
        worker.core = min(cores, key=taken.__getitem__)


def clear_slot(_: Any, worker: Worker) -> None:
    """gunicorn's hook child_exit: let no other worker count on one that has died."""
    balance.clear(worker.slot)

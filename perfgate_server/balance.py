"""How the workers share out the clients: each shows the others how many it has.

A worker serves its clients with one core, and they stay with it: where one has many, they wait
while the cores of others idle.
"""

from __future__ import annotations

import mmap
import threading
import time
from collections.abc import Callable, Collection

#: The load of each worker, one byte at its slot, in memory shared with the main process: the number
#: of its clients while it has a free thread, else _BUSY.
load_of = mmap.mmap(-1, 256)
#: What stands in a slot of no worker, and in that of one without a free thread.
NOBODY, _BUSY = 255, 254
load_of[:] = bytes([NOBODY]) * len(load_of)

#: Seconds after which a worker without a free thread, which has finished nothing, is stuck.
_STUCK = 0.25
#: Seconds until a worker without a free thread, which left a new connection to others, looks
#: whether it is still there.
_STANDS_BACK = 0.05
#: Seconds that a worker leaves a new connection to one with fewer clients, and between its checks
#: whether that one has taken it.
_TURN, _GLANCE = 0.002, 0.0001
#: Seconds between two looks of a worker whether it has a client to give away.
_PACE = 0.05


def free_slot(taken: Collection[int | None]) -> int | None:
    """Return the first slot that is not among those, None if there is none."""
    return next((slot for slot in range(len(load_of)) if slot not in taken), None)


def clear(slot: int | None) -> None:
    """Let no worker count on one that had this slot."""
    if slot is not None:
        load_of[slot] = NOBODY


class Balance:
    """Which new connections a worker leaves to the others, and when it gives one of its own away.

    `slot` is its slot in `load_of`, or None; `threads` is how many requests it serves at once;
    `clients` returns how many clients it has now.
    """

    def __init__(self, slot: int | None, threads: int, clients: Callable[[], int]) -> None:
        self._slot, self._threads, self._clients = slot, threads, clients
        self._counting = threading.Lock()
        #: How many requests the threads have, or wait for one.
        self._requests, self._finished_at = 0, 0.0
        #: Until when new connections are left to the other workers.
        self.stands_back_until = 0.0
        #: Until when a connection is left to a worker with fewer clients, or 0, and whether this
        #: pass of the loop left it.
        self._turn_ends, self._gave_way = 0.0, False
        #: When to look again whether to give a client away.
        self._looks_at = 0.0
        self._count(0)

    def begin_request(self) -> None:
        """Count a request that a thread has, or will have. Any thread may call this."""
        self._count(1)

    def end_request(self) -> None:
        """Count it no longer."""
        self._count(-1)

    def note_finished(self) -> None:
        """Note that the worker gets on, and may take connections again."""
        self._finished_at, self.stands_back_until = time.monotonic(), 0.0

    def begin_pass(self) -> None:
        """Begin a pass of the worker's loop."""
        self._gave_way = False

    def end_pass(self) -> None:
        """End it, and show the others the load as it is now."""
        if not self._gave_way:
            self._turn_ends = 0.0  # the connection was taken, here or there
        if self._slot is not None and load_of[self._slot] != self._load():
            self._count(0)

    def leave(self) -> None:
        """Be counted on by no other worker."""
        with self._counting:
            clear(self._slot)
            self._slot = None

    def stand_back(self) -> bool:
        """While all threads are busy, leave a connection to a worker that has a free thread; to
        any, if this one is stuck; tell whether it is left. If all are busy and get on, it waits
        here: then a thread that becomes free has its next request at once."""
        now = time.monotonic()
        is_stuck = now - self._finished_at > _STUCK
        if not self._is_busy() or not (is_stuck or min(load_of[:]) < _BUSY):
            return False
        self.stands_back_until = now + _STANDS_BACK
        return True

    def give_way(self) -> bool:
        """While a thread is free, let another worker with a free thread and fewer clients have a
        moment to take a connection; tell whether it has. The loop then comes back at once, with
        whatever else there is to do."""
        if self._is_busy() or self._slot is None or min(load_of[:]) >= load_of[self._slot]:
            return False
        now = time.monotonic()
        self._turn_ends = self._turn_ends or now + _TURN
        self._gave_way = now < self._turn_ends
        if self._gave_way:
            time.sleep(_GLANCE)
        return self._gave_way

    def shed_one(self) -> bool:
        """Tell whether to close a client's connection, for another worker to take its next one:
        kept connections stay unevenly spread after a worker died or started first.

        One at a time, so that each is counted where it went before the next look.
        """
        if self._requests < 2 or self._slot is None:
            return False
        now = time.monotonic()
        if now < self._looks_at:
            return False
        self._looks_at = now + _PACE
        return self._shown_clients() >= min(load_of[:]) + 2

    def _shown_clients(self) -> int:
        return min(self._clients(), _BUSY - 1)

    def _load(self) -> int:
        return _BUSY if self._is_busy() else self._shown_clients()

    def _is_busy(self) -> bool:
        return self._requests >= self._threads

    def _count(self, step: int) -> None:
        with self._counting:
            self._requests += step
            if self._slot is not None:
                load_of[self._slot] = self._load()

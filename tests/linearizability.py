"""Clients that change the same versions at once, and the proof that every answer fits one order.

A history of operations is linearizable (Herlihy and Wing, TOPLAS 1990) if they can be put into one
order, each at a moment between its request and its answer, in which every answer is what the
contract says of the state at that moment. For test_linearizability.py and benchmarks/linear.py.
"""

from __future__ import annotations

import http.client
import json
import math
import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

from durability import CLIENTS, Tally, Target
from support import Server, receipt

VERSIONS = ("v1", "v2", "v3")
CONTENTS = (100, 200)
#: How many operations a client makes in a round, at least and at most, on one benchmark that all
#: share: some begin often, and some go on for long.
OPERATIONS = 2, 16

# -- what the contract says


class Record(NamedTuple):
    version: str
    #: Stands for the whole receipt: the time of its first sample.
    content: int
    promoted_from: str | None = None


#: The records of one benchmark, oldest first.
State = tuple[Record, ...]
#: A status, and what of the body tells states apart.
Answer = tuple[int, Any]


@dataclass(frozen=True)
class Operation:
    """What a client asked for, when, and what the answer was: None if that is not known."""

    kind: str
    version: str = ""
    content: int = 0
    source: str = ""
    began: float = 0.0
    ended: float = math.inf
    answer: Answer | None = None


def apply(state: State, operation: Operation) -> tuple[State, Answer]:
    """Return what an operation makes of a state, and its answer."""
    return _MODEL[operation.kind](state, operation)


def _find(state: State, version: str) -> Record | None:
    return next((record for record in state if record.version == version), None)


def _not_found(state: State) -> tuple[State, Answer]:
    return state, (404, "version" if state else "benchmark")


def _upload(state: State, sent: Operation) -> tuple[State, Answer]:
    stored = _find(state, sent.version)
    if stored is None:
        return (*state, Record(sent.version, sent.content)), (201, None)
    return state, (200 if stored.content == sent.content else 409, None)


def _promote(state: State, sent: Operation) -> tuple[State, Answer]:
    source, target = _find(state, sent.source), _find(state, sent.version)
    is_promoted = target is not None and target.promoted_from == sent.source
    if source is None:  # it may have been deleted since it was promoted
        return (state, (200, None)) if is_promoted else _not_found(state)
    if target is None:
        return (*state, Record(sent.version, source.content, sent.source)), (201, None)
    return state, (200 if is_promoted and target.content == source.content else 409, None)


def _delete(state: State, sent: Operation) -> tuple[State, Answer]:
    stored = _find(state, sent.version)
    if stored is None:
        return _not_found(state)
    return tuple(record for record in state if record is not stored), (200, None)


def _get(state: State, sent: Operation) -> tuple[State, Answer]:
    stored = _find(state, sent.version)
    return _not_found(state) if stored is None else (state, (200, stored))


def _latest(state: State, _: Operation) -> tuple[State, Answer]:
    return (state, (200, state[-1])) if state else _not_found(state)


def _history(state: State, _: Operation) -> tuple[State, Answer]:
    versions = tuple(record.version for record in reversed(state))
    return (state, (200, versions)) if state else _not_found(state)


_MODEL: dict[str, Callable[[State, Operation], tuple[State, Answer]]] = {
    "upload": _upload,
    "promote": _promote,
    "delete": _delete,
    "get": _get,
    "latest": _latest,
    "history": _history,
}

# -- whether a history fits it

#: A state that may be, and which of the operations that have begun it holds.
_Configuration = tuple[State, frozenset[int]]


def first_that_fits_no_order(history: Sequence[Operation]) -> Operation | None:
    """Return the operation that no order explains beside those that ended before it; None if the
    history is linearizable.

    Looks at one answer after the other, and keeps every state that may be then (just-in-time
    linearization: Lowe, Testing for linearizability, 2017). One without an answer may happen at
    any time after its request, or never.
    """
    events = [(operation.began, False, number) for number, operation in enumerate(history)]
    events += [
        (operation.ended, True, number)
        for number, operation in enumerate(history)
        if operation.answer is not None
    ]
    pending: set[int] = set()
    possible: set[_Configuration] = {((), frozenset())}
    for _, ends, number in sorted(events):
        if not ends:
            pending.add(number)
            continue
        reached = _continued(possible, pending, history)
        possible = {(state, done - {number}) for state, done in reached if number in done}
        if not possible:
            return history[number]
        pending.remove(number)
    return None


def _continued(
    possible: Iterable[_Configuration], pending: set[int], history: Sequence[Operation]
) -> set[_Configuration]:
    """Return what may be once any of the pending operations have happened, in any order."""
    found = set(possible)
    left = list(found)
    while left:
        state, done = left.pop()
        for number in pending - done:
            known = history[number].answer
            after, answer = apply(state, history[number])
            # What is not answered, and changes nothing, is as good as never done.
            may_be = after != state if known is None else answer == known
            reached = after, done | {number}
            if may_be and reached not in found:
                found.add(reached)
                left.append(reached)
    return found


# -- real clients


def rounds(
    target: Target, count: int, tally: Tally, seed: str, tell: Callable[[str], None]
) -> None:
    """Let clients work on one benchmark, each time another, and look whether an order explains
    what they were answered. In every second round a worker is killed under them."""
    choose = random.Random(seed)
    for number in range(count):
        way = "worker" if number % 2 else None
        history = _round(target, f"b{number}", choose, way)
        wrong = first_that_fits_no_order(history)
        if wrong is not None:
            beside = [one for one in history if _overlap(one, wrong)]
            tally.broken.append(f"round {number}: {wrong} fits no order beside {beside}")
        for operation in history:
            status = operation.answer[0] if operation.answer else "not answered"
            tally.counts[f"{operation.kind}: {status}"] += 1
        tell(f"{number + 1} of {count}: {len(history)} operations, {len(tally.broken)} broken")


def _overlap(one: Operation, other: Operation) -> bool:
    return one.began < other.ended and other.began < one.ended


def _round(
    target: Target, benchmark: str, choose: random.Random, way: str | None
) -> list[Operation]:
    count = choose.randint(*OPERATIONS)
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [
            pool.submit(
                _operations, target.server, benchmark, random.Random(choose.random()), count
            )
            for _ in range(CLIENTS)
        ]
        if way is not None:
            time.sleep(choose.uniform(0.0, 0.1))  # a random moment, not a wait
            target.kill(way)
    if way is not None:
        target.restart(way)
    return [operation for client in clients for operation in client.result()]


def _operations(
    server: Server, benchmark: str, choose: random.Random, count: int
) -> list[Operation]:
    """Make so many operations; return them as they were answered."""
    made = []
    for _ in range(count):
        wish, began = _wish(choose), time.monotonic()
        try:
            answer = _send(server, benchmark, wish)
        except ConnectionRefusedError:
            continue  # nothing was asked
        except (OSError, http.client.HTTPException):
            answer = 503, None
        is_known = answer[0] != 503
        ended = time.monotonic() if is_known else math.inf
        made.append(replace(wish, began=began, ended=ended, answer=answer if is_known else None))
    return made


def _wish(choose: random.Random) -> Operation:
    kind = choose.choices([*_MODEL], (5, 2, 2, 2, 2, 1))[0]
    source, version = choose.sample(VERSIONS, 2)
    return Operation(kind, version, choose.choice(CONTENTS), source)


def _send(server: Server, benchmark: str, wish: Operation) -> Answer:
    of_project = "/projects/p/baselines"
    of_benchmark = f"{of_project}/{benchmark}"
    upload = {"benchmark": benchmark, "version": wish.version, "receipt": receipt(wish.content)}
    promotion = {"from_version": wish.source, "to_version": wish.version}
    method, path, sent = {
        "upload": ("POST", of_project, upload),
        "promote": ("POST", f"{of_benchmark}/promote", promotion),
        "delete": ("DELETE", f"{of_benchmark}/versions/{wish.version}", None),
        "get": ("GET", f"{of_benchmark}/versions/{wish.version}", None),
        "latest": ("GET", f"{of_benchmark}/latest", None),
        "history": ("GET", f"{of_benchmark}/versions", None),
    }[wish.kind]
    status, _, body = server.request(method, path, sent)
    return status, _told(status, json.loads(body))


def _told(status: int, answer: dict[str, Any]) -> Any:
    if status == 404:
        return answer["error"]["details"]["missing"]
    if "receipt" in answer:
        content = answer["receipt"]["samples"][0]["wall_ms"]
        return Record(answer["version"], content, answer.get("promoted_from"))
    if "versions" in answer:
        return tuple(entry["version"] for entry in answer["versions"])
    return None

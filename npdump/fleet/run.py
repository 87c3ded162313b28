# SPDX-License-Identifier: GPL-2.0-or-later
"""Handing out: to threads of this process, or to a Dask cluster; both are executors (`concurrent.futures`)."""

from __future__ import annotations

import os
from collections import deque
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from npdump.errors import NpdumpError
from npdump.fleet.child import Call, Failure, Outcome, close_children

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from concurrent.futures import Executor, Future

__all__ = ["FleetError", "Workers", "on_this_machine", "outcomes"]

T = TypeVar("T")

PATIENCE_SECONDS = 20.0
"""After so long without an answer it is looked whether there are any workers."""

TOGETHER_SECONDS = 0.8
"""Dumps that take no longer together are handed out together: a task costs Dask 12 ms of CPU."""

_N_RECENT = 16
_N_ROUNDS = 3
_LOST = "the scheduler is lost: start it, and the same command again: it goes on from there"


class FleetError(NpdumpError):
    """The fleet can not go on: its scheduler is lost, or its disk is full; started again, it goes on where it was."""


class Workers(NamedTuple):
    """Where dumps are worked on.

    Attributes
    ----------
    executor : Executor
    n_waiting : int
        How many dumps are handed out at a time: enough that no worker waits for the next one.
    words : str
        What to tell the user of them.
    check : callable
        Raises `FleetError` if nobody works any more; called when there was no answer for a while.
    max_together : int
        How many dumps are handed out as one task at most, where they take little time.
    """

    executor: Executor
    n_waiting: int
    words: str
    check: Callable[[], None] = lambda: None
    max_together: int = 1


@contextmanager
def on_this_machine(n_workers: int | None = None) -> Iterator[Workers]:
    """Give workers on this machine: by default, as many as this process may use CPUs."""
    n = n_workers or len(os.sched_getaffinity(0))
    executor = ThreadPoolExecutor(n, "npdump-fleet")
    try:
        yield Workers(executor, n + 1, f"{n} process{'es' if n != 1 else ''} on this machine")
    finally:
        executor.shutdown(wait=False, cancel_futures=True)
        close_children()
        executor.shutdown()


def outcomes(workers: Workers, call: Call, tasks: Iterable[T]) -> Iterator[tuple[T, Outcome]]:
    """Have a function called with each task, and yield what became of it, as it comes.

    Parameters
    ----------
    workers : Workers
    call : Call
    tasks : iterable
        The next one is asked for when it is handed out.

    Raises
    ------
    FleetError
        If the scheduler is lost.
    """
    done: SimpleQueue[Future[Any]] = SimpleQueue()
    waiting: dict[Future[Any], tuple[tuple[T, ...], int]] = {}
    recent: deque[float] = deque([TOGETHER_SECONDS], _N_RECENT)

    def hand_out(together: tuple[T, ...], n_before: int) -> None:
        future = workers.executor.submit(_Several(call) if len(together) > 1 else call, _alone(together))
        waiting[future] = together, n_before
        future.add_done_callback(done.put)

    coming = iter(tasks)
    while True:
        n_free = workers.n_waiting - sum(len(together) for together, _ in waiting.values())
        n_together = _n_together(workers, recent)
        while n_free >= n_together and (together := tuple(islice(coming, n_together))):
            hand_out(together, 0)
            n_free -= len(together)
        if not waiting:
            return
        try:
            future = done.get(timeout=PATIENCE_SECONDS)
        except Empty:
            workers.check()
            continue
        together, n_before = waiting.pop(future)
        found = _found(future, is_last=n_before + 1 == _N_ROUNDS)
        if found is None:
            workers.check()
            for task in together:
                hand_out((task,), n_before + 1)
            continue
        recent.extend(outcome.seconds for outcome in found)
        yield from zip(together, found, strict=True)


def _n_together(workers: Workers, recent: Iterable[float]) -> int:
    """Return how many dumps to hand out as one task, by the seconds that the last ones took."""
    return max(1, min(workers.max_together, int(TOGETHER_SECONDS / max(*recent, 1e-3))))


def _alone(together: tuple[T, ...]) -> Any:
    return together if len(together) > 1 else together[0]


@dataclass(frozen=True, slots=True)
class _Several:
    """A call with each of several arguments."""

    call: Call

    def __call__(self, arguments: Iterable[Any]) -> list[Outcome]:
        return [self.call(argument) for argument in arguments]


def _found(future: Future[Any], is_last: bool) -> list[Outcome] | None:
    """Return what became of the dumps of a task, None if they are to be handed out again."""
    try:
        found: Outcome | list[Outcome] = future.result()
    except CancelledError as error:
        # Dask says so of an answer that went with its worker, and of all when the scheduler goes.
        if is_last:
            raise FleetError(_LOST) from error
        return None
    except Exception as error:
        # Of the scheduler: the workers that had the dump died again and again. It need not have been the dump's fault:
        # whatever else a worker had by then counts too.
        if not is_last:
            return None
        first = str(error).partition("\n")[0]
        return [Outcome(failure=Failure(type(error).__name__, f"{type(error).__name__}: {first}"))]
    return found if isinstance(found, list) else [found]

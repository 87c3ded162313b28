# SPDX-License-Identifier: GPL-2.0-or-later
"""Handing out: to threads of this process, or to a Dask cluster; both are executors (`concurrent.futures`)."""

from __future__ import annotations

import os
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import contextmanager
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
    """

    executor: Executor
    n_waiting: int
    words: str
    check: Callable[[], None] = lambda: None


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
    done: SimpleQueue[Future[Outcome]] = SimpleQueue()
    waiting: dict[Future[Outcome], tuple[T, int]] = {}

    def hand_out(task: T, n_before: int) -> None:
        future = workers.executor.submit(call, task)
        waiting[future] = task, n_before
        future.add_done_callback(done.put)

    coming = iter(tasks)
    while True:
        for task in islice(coming, workers.n_waiting - len(waiting)):
            hand_out(task, 0)
        if not waiting:
            return
        try:
            future = done.get(timeout=PATIENCE_SECONDS)
        except Empty:
            workers.check()
            continue
        task, n_before = waiting.pop(future)
        outcome = _outcome(future, is_last=n_before + 1 == _N_ROUNDS)
        if outcome is None:
            workers.check()
            hand_out(task, n_before + 1)
        else:
            yield task, outcome


def _outcome(future: Future[Any], is_last: bool) -> Outcome | None:
    """Return what became of a task, None if it is to be handed out again."""
    try:
        outcome: Outcome = future.result()
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
        return Outcome(failure=Failure(type(error).__name__, f"{type(error).__name__}: {first}"))
    return outcome

# SPDX-License-Identifier: GPL-2.0-or-later
"""Batches of pages in several threads, with one result whatever their number.

The contract: each thread takes the next batch and does its first steps alone, with buffers and a compressor of its own
(`Worker`); all that takes long (reading, digests, comparing, compressing, writing) gives up the interpreter's lock.
Three things happen in the order of the batches, whoever does them: looking pages up among the earlier ones, giving out
places in the file, and writing what points to the data. A batch waits in a buffer for its place while its thread goes
on with the next one, and whichever thread is free writes it; there are two such buffers for each thread, and that
bounds the memory. The calling thread takes no batches: it does the last step, and all writing where nothing can be
written twice, so that an interrupt ends it even while nobody reads the pipe. Sources, sinks and codecs are used by all
threads at once: they keep no state from one call to the next but what their own thread has, or what is replaced in one
assignment. Where a batch fails, those before it are still finished, those after it are dropped, all threads end, and
the error is raised by the caller.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from contextlib import suppress
from itertools import chain
from typing import TYPE_CHECKING, Any

from npdump.encode.job import Done, Encoded, Job, Seconds, Worker
from npdump.errors import NoSpace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from npdump.arrays import U8

__all__ = ["run"]

_ROOMS_PER_THREAD = 2
_UNFINISHED_PER_THREAD = 8
"""Batches that are in the file and wait for the caller; they have no data any more, but sizes."""


def run(job: Job, batches: Iterable[Any], offset: int, n_threads: int) -> Iterator[Done]:
    """Do a job for all batches, their data back to back from ``offset`` on.

    Parameters
    ----------
    job : Job
    batches : iterable
        What `Worker.read` takes.
    offset : int
        File offset of the first batch's data.
    n_threads : int
        With 0 or 1 the calling thread does all by itself.

    Raises
    ------
    NpdumpError
        The first one; batches before it are in the file, and where the file system is full all pages that fit.
    """
    batches = iter(batches)
    if n_threads > 1:
        pool = _Pool(job, batches, offset, n_threads)
        if not pool.n_threads:
            yield from _run_serially(job, batches, offset)
            return
        try:
            yield from pool.results()
        finally:
            pool.close()
        if pool.error is None:
            return
        if not (isinstance(pool.error, NoSpace) and job.can_rewrite):
            raise pool.error
        # Batches after the one that failed may have taken its room.
        batches, offset = chain(pool.unfinished(), batches), pool.finished_stop
        job.truncate(offset)
    yield from _run_serially(job, batches, offset)


def _run_serially(job: Job, batches: Iterator[Any], offset: int) -> Iterator[Done]:
    worker, room = job.make_worker(), job.make_room()
    for batch in batches:
        encoded, seconds = _encode(worker, batch, room, worker.look_up)
        nbytes = len(encoded.data)
        start = time.monotonic()
        try:
            job.write(encoded.data, offset)
        except NoSpace as error:
            yield job.finish_partial(encoded.batch, offset, error.n_written)
            raise
        seconds = Seconds(seconds.read, seconds.compress, time.monotonic() - start)
        yield job.finish(encoded.batch, offset)._replace(seconds=seconds)
        offset += nbytes


def _encode(worker: Worker, batch: Any, room: U8, look_up: Callable[[], None]) -> tuple[Encoded, Seconds]:
    start = time.monotonic()
    worker.read(batch, room)
    read = time.monotonic()
    look_up()
    looked_up = time.monotonic()
    encoded = worker.encode(room)
    return encoded, Seconds(read - start, time.monotonic() - looked_up)


class _Task:
    """A batch on its way: read, encoded, placed, written, finished."""

    def __init__(self, number: int, batch: Any, room: U8) -> None:
        self.number = number
        self.batch = batch
        self.room: U8 | None = room
        self.encoded: Encoded | None = None
        self.offset = -1
        self.seconds = Seconds()
        self.is_written = False


class _Pool:
    """Threads, and which batch is how far; all but `close` and `results` is guarded by one condition."""

    def __init__(self, job: Job, batches: Iterator[Any], offset: int, n_threads: int) -> None:
        self._job = job
        self._batches: Iterator[Any] | None = batches
        self._changed = threading.Condition()
        self._rooms = [job.make_room() for _ in range(n_threads * _ROOMS_PER_THREAD)]
        self._max_unfinished = n_threads * _UNFINISHED_PER_THREAD
        self._tasks: dict[int, _Task] = {}
        self._to_write: deque[_Task] = deque()
        self._n_taken = self._n_looked_up = self._n_placed = self._n_finished = 0
        self._place = self.finished_stop = offset
        self._is_closed = False
        self.error: BaseException | None = None
        self._n_good: int | None = None
        workers = [job.make_worker() for _ in range(n_threads)]
        self._threads: list[threading.Thread] = []
        # Where the system gives no more threads (EAGAIN, ENOMEM), there are fewer.
        with suppress(RuntimeError):
            for worker in workers:
                thread = threading.Thread(target=self._work, args=(worker,), daemon=True)
                thread.start()
                self._threads.append(thread)

    @property
    def n_threads(self) -> int:
        """How many threads there are; with none, nothing was begun."""
        return len(self._threads)

    def close(self) -> None:
        """End all threads, each after the step that it is at."""
        with self._changed:
            self._is_closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def unfinished(self) -> list[Any]:
        """Return the batches that were taken and are not finished, in order."""
        return [self._tasks[number].batch for number in sorted(self._tasks)]

    def results(self) -> Iterator[Done]:
        """Finish batches in order, until all are, or all before the first that failed."""
        while True:
            with self._changed:
                while (task := self._next_for_caller()) is None:
                    if self._n_finished == self._n_good or (self._batches is None and not self._tasks):
                        return
                    self._changed.wait()
            if not task.is_written:
                self._try(self._write, task)
                continue
            assert task.encoded is not None
            done = self._job.finish(task.encoded.batch, task.offset)
            self.finished_stop = task.offset + len(task.encoded.data)
            yield done._replace(seconds=task.seconds)
            with self._changed:
                del self._tasks[task.number]
                self._n_finished += 1
                self._changed.notify_all()

    def _next_for_caller(self) -> _Task | None:
        """Return the next task to finish, or one to write that threads leave to the caller."""
        task = self._tasks.get(self._n_finished)
        if task and task.is_written:
            return task
        return self._to_write.popleft() if self._to_write and not self._job.can_rewrite else None

    def _work(self, worker: Worker) -> None:
        while True:
            with self._changed:
                while not (task := self._next()):
                    if self._is_over():
                        return
                    self._changed.wait()
            if task.encoded is None:
                self._try(self._encode, task, worker)
            else:
                self._try(self._write, task)

    def _try(self, step: Callable[..., None], task: _Task, *arguments: Any) -> None:
        try:
            step(task, *arguments)
        except BaseException as error:
            with self._changed:
                self._fail(task.number, error)

    def _fail(self, number: int, error: BaseException) -> None:
        """Let the run end when all batches before this one are in the file, or have failed too."""
        self._batches = None
        if self._n_good is None or number < self._n_good:
            self.error, self._n_good = error, number
        self._changed.notify_all()

    def _is_over(self) -> bool:
        """Return whether there is nothing left for threads to do, now and later."""
        if self._is_closed:
            return True
        return self._batches is None and (self._n_good is not None or self._n_placed == self._n_taken)

    def _next(self) -> _Task | None:
        """Return the next task for a thread: a batch to write, or else a new one."""
        if self._is_closed:
            return None
        if self._to_write and self._job.can_rewrite:
            return self._to_write.popleft()
        if self._batches is None or not self._rooms or len(self._tasks) >= self._max_unfinished:
            return None
        try:
            batch = next(self._batches, None)
        except BaseException as error:
            self._fail(self._n_taken, error)
            return None
        if batch is None:
            self._batches = None
            self._changed.notify_all()
            return None
        task = self._tasks[self._n_taken] = _Task(self._n_taken, batch, self._rooms.pop())
        self._n_taken += 1
        return task

    def _encode(self, task: _Task, worker: Worker) -> None:
        def look_up() -> None:
            with self._changed:
                while self._n_looked_up != task.number:
                    if self._is_closed or (self._n_good is not None and self._n_good < task.number):
                        raise _Dropped
                    self._changed.wait()
            worker.look_up()
            with self._changed:
                self._n_looked_up += 1
                self._changed.notify_all()

        assert task.room is not None
        try:
            encoded, task.seconds = _encode(worker, task.batch, task.room, look_up)
        except _Dropped:
            return
        with self._changed:
            task.encoded = encoded
            while (first := self._tasks.get(self._n_placed)) is not None and first.encoded is not None:
                first.offset = self._place
                self._place += len(first.encoded.data)
                self._to_write.append(first)
                self._n_placed += 1
            self._changed.notify_all()

    def _write(self, task: _Task) -> None:
        assert task.encoded is not None
        start = time.monotonic()
        self._job.write(task.encoded.data, task.offset)
        task.seconds = task.seconds._replace(write=time.monotonic() - start)
        with self._changed:
            task.is_written = True
            if task.room is not None:
                self._rooms.append(task.room)
                task.room = None
            self._changed.notify_all()


class _Dropped(Exception):
    """A batch comes after one that failed."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""Workers that compress batches side by side and write what they made by themselves.

Bytes don't travel between processes: a worker keeps what it encoded, tells its size, is told its place in the file
and writes it there. Places are given out in the order of the batches, so the file's bytes don't depend on the number
of workers. A worker that dies loses nothing: others do its batches over, in the same places. What points to the data
is written by the calling process, in order: where a run ends early, all that is pointed to is there.
"""

from __future__ import annotations

import signal
from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Any

from npdump.encode.job import Done, Job, Prepared, Seconds
from npdump.encode.resources import available_nbytes, usable_cpus
from npdump.encode.worker import ENCODE, ENCODED, FAILED, PLACE, WRITTEN, timed, work
from npdump.errors import NoSpace, NpdumpError, SinkError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from multiprocessing.connection import Connection

    from npdump.encode.batches import PageBatch
    from npdump.encode.encoder import Encoded
    from npdump.observer import Observer

__all__ = ["default_workers", "run", "slots_needed"]

_DEPTH = 2
"""Batches that a worker has at a time: one to work on while the other waits for its place."""

WORKER_NBYTES = 16 << 20
"""Memory that a worker takes for itself; most of it is what Python's reference counts make its own."""


def default_workers(n_batches: int, page_nbytes: int, n_enough: int | None) -> int:
    """Return how many workers pay: no more than there are CPUs, memory and work for.

    Parameters
    ----------
    n_batches : int
    page_nbytes : int
        Bytes of the pages in a batch.
    n_enough : int or None
        `npdump.codecs.Codec.min_batches_per_worker`.
    """
    if n_enough is None:
        return 1
    n_workers = min(usable_cpus(), n_batches // n_enough)
    if n_workers > 1 and (nbytes := available_nbytes()) is not None:
        n_workers = min(n_workers, nbytes // (WORKER_NBYTES + 2 * _DEPTH * page_nbytes))
    return max(n_workers, 1)


def slots_needed(n_workers: int) -> int:
    """Return how many batches are prepared and not yet released at a time, at most."""
    return max(1, n_workers * _DEPTH)


def run(job: Job, batches: Iterable[PageBatch], offset: int, n_workers: int, observer: Observer) -> Iterator[Done]:
    """Do a job for all batches, their data back to back from ``offset`` on.

    Parameters
    ----------
    job : Job
    batches : iterable of PageBatch
    offset : int
        File offset of the first batch's data.
    n_workers : int
        Processes to fork; with 0 or 1 the calling process does all by itself.
    observer : Observer
        Hears of workers that died.

    Raises
    ------
    NpdumpError
        The first one that a worker met; batches that were placed by then are in the file.
    """
    crew = _Crew(job, n_workers, observer)
    try:
        yield from crew.run(iter(batches), offset)
    finally:
        crew.dismiss()


class _Ticket:
    """A batch on its way through the crew; it keeps its number and, once it has one, its place."""

    def __init__(self, batch: PageBatch, prepared: Prepared, read_seconds: float) -> None:
        self.batch = batch
        self.prepared = prepared
        self.seconds = Seconds(read=read_seconds)
        self.worker: Connection | None = None
        self.encoded: Encoded | None = None
        self.nbytes = 0
        self.offset: int | None = None
        self.is_written = False


class _Crew:
    """Forked workers, if there are to be several, and which of them has which batch."""

    def __init__(self, job: Job, n_workers: int, observer: Observer) -> None:
        self._job = job
        self._observer = observer
        self._tickets: dict[int, _Ticket] = {}
        self._again: deque[int] = deque()
        self._n_issued = 0
        self._next_placed = 0
        self._next_finished = 0
        self._failure: NpdumpError | None = None
        self._failed = 0
        self._processes: dict[Connection, Any] = {}
        if n_workers > 1:
            self._hire(n_workers)

    def _hire(self, n_workers: int) -> None:
        # Imported here, since one worker needs none of it.
        import multiprocessing
        from multiprocessing.connection import wait

        self._wait: Callable[[list[Connection]], list[Any]] = wait
        context = multiprocessing.get_context("fork")
        for _ in range(n_workers):
            ours, theirs = context.Pipe()
            inherited = [ours, *self._processes]
            process = context.Process(target=work, args=(self._job, theirs, inherited), daemon=True)
            process.start()
            theirs.close()
            self._processes[ours] = process

    def dismiss(self) -> None:
        """End the workers; those that wait end by themselves when their connection closes."""
        for connection in self._processes:
            connection.close()
        for process in self._processes.values():
            process.join()

    def run(self, batches: Iterator[PageBatch], offset: int) -> Iterator[Done]:
        self._offset = self._finished_stop = offset
        while True:
            if self._failure is None:
                self._issue(batches)
            elif self._is_over():
                if not (isinstance(self._failure, NoSpace) and self._job.is_repeatable):
                    raise self._failure
                batches = self._take_back(batches)
            if not self._processes:
                yield from self._work_alone(batches)
                return
            if not self._tickets:
                return
            for connection in self._wait(list(self._processes)):
                self._hear(connection)
            yield from self._finish()

    def _issue(self, batches: Iterator[PageBatch]) -> None:
        """Give out batches while there is a worker with room for one."""
        loads = dict.fromkeys(self._processes, 0)
        for ticket in self._tickets.values():
            if ticket.worker is not None and not ticket.is_written:
                loads[ticket.worker] += 1
        while loads:
            worker = min(loads, key=loads.__getitem__)
            # Lost batches go out at once: what others have may be waiting for their place.
            if loads[worker] >= _DEPTH and not self._again:
                return
            if self._again:
                number = self._again.popleft()
            else:
                batch = next(batches, None)
                if batch is None:
                    return
                number = self._n_issued
                self._n_issued += 1
                self._tickets[number] = _Ticket(batch, *timed(self._job.prepare, batch))
            self._tickets[number].worker = worker
            loads[worker] += 1
            self._tell(worker, ENCODE, number, self._tickets[number].prepared.order)

    def _tell(self, worker: Connection, *message: Any) -> None:
        try:
            worker.send(message)
        except OSError:
            # It died; that is met when its end of the connection is read.
            pass

    def _hear(self, worker: Connection) -> None:
        try:
            kind, number, payload = worker.recv()
        except (EOFError, OSError):
            self._bury(worker)
            return
        if kind == FAILED:
            self._fail(number, payload)
            return
        ticket = self._tickets[number]
        if kind == ENCODED:
            encoded, nbytes = payload
            self._take(ticket, encoded, nbytes)
            if ticket.offset is not None:
                self._tell(worker, PLACE, number, ticket.offset)
            self._place()
        elif kind == WRITTEN:
            ticket.is_written = True
            ticket.seconds = ticket.seconds.plus(payload)
            self._job.release(ticket.prepared)

    def _fail(self, number: int, error: NpdumpError) -> None:
        """Let the run end when all batches before this one are in the file, or have failed too."""
        if self._failure is None or number < self._failed:
            self._failure, self._failed = error, number

    def _is_over(self) -> bool:
        """Tell whether all batches are in the file that come before the first one that failed or that nobody has."""
        unwritten = [number for number, ticket in self._tickets.items() if not ticket.is_written]
        lost = [number for number in unwritten if self._tickets[number].worker is None]
        return min(unwritten, default=self._failed) >= min([self._failed, *lost])

    def _place(self) -> None:
        """Give places to encoded batches, in order."""
        while (ticket := self._tickets.get(self._next_placed)) is not None and ticket.encoded is not None:
            ticket.offset = self._offset
            self._offset += ticket.nbytes
            if ticket.worker is not None:
                self._tell(ticket.worker, PLACE, self._next_placed, ticket.offset)
            self._next_placed += 1

    def _finish(self) -> Iterator[Done]:
        """End batches whose data are in the file, in order."""
        while (ticket := self._tickets.get(self._next_finished)) is not None and ticket.is_written:
            assert ticket.encoded is not None
            assert ticket.offset is not None
            done = self._job.finish(ticket.prepared, ticket.encoded, ticket.offset)
            self._finished_stop = max(self._finished_stop, ticket.offset + ticket.nbytes)
            yield done._replace(seconds=ticket.seconds)
            del self._tickets[self._next_finished]
            self._next_finished += 1

    def _take_back(self, batches: Iterator[PageBatch]) -> Iterator[PageBatch]:
        """Take back what isn't pointed to yet and has the room of what comes before; return what is left to do."""
        self.dismiss()
        self._processes.clear()
        self._offset = self._finished_stop
        self._job.truncate(self._offset)
        tickets = [self._tickets.pop(number) for number in sorted(self._tickets)]
        for ticket in tickets:
            if not ticket.is_written:
                self._job.release(ticket.prepared)
        self._next_placed = self._next_finished
        return chain([ticket.batch for ticket in tickets], batches)

    def _bury(self, worker: Connection) -> None:
        """Take the batches of a dead worker back, to be done over."""
        process = self._processes.pop(worker)
        worker.close()
        process.join()
        lost = [n for n, ticket in self._tickets.items() if ticket.worker is worker and not ticket.is_written]
        if self._failure is not None:
            # That of a worker ends it, or would end the run anyway.
            self._fail(min(lost, default=self._failed), self._failure)
            return
        code = process.exitcode or 0
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        if not self._job.is_repeatable:
            raise SinkError(f"a worker {how} (out of memory?): the output can't be continued; try --num-threads 1")
        for number in lost:
            ticket = self._tickets[number]
            ticket.worker = None
            if ticket.offset is None:
                ticket.encoded = None
        self._again.extend(lost)
        self._observer.warn(f"a worker {how} (out of memory?): its {len(lost)} batches are done over by the others")

    def _take(self, ticket: _Ticket, encoded: Encoded, nbytes: int) -> None:
        """Take what a batch became; if it's done over and no longer fits in its place, it goes to the end.

        ISA-L doesn't always give the same bytes.
        """
        if ticket.offset is not None and nbytes > ticket.nbytes:
            ticket.offset = self._offset
            self._offset += nbytes
        ticket.encoded, ticket.nbytes = encoded, nbytes

    def _work_alone(self, batches: Iterator[PageBatch]) -> Iterator[Done]:
        """Do what is left without workers: the batches that were given out, then the others."""
        encode = self._job.make_encoder()
        while True:
            ticket = self._tickets.get(self._next_finished)
            if ticket is None:
                batch = next(batches, None)
                if batch is None:
                    return
                ticket = _Ticket(batch, *timed(self._job.prepare, batch))
                self._tickets[self._next_finished] = ticket
            if not ticket.is_written:
                encoded, compress = timed(encode, ticket.prepared.order)
                self._take(ticket, encoded, len(encoded.data))
                self._place()
                assert ticket.offset is not None
                try:
                    _, write = timed(self._job.write, encoded.data, ticket.offset)
                except NoSpace as error:
                    yield self._job.finish_what_fits(ticket.prepared, encoded, ticket.offset, error.n_written)
                    raise
                ticket.seconds = ticket.seconds.plus(Seconds(0.0, compress, write))
                ticket.is_written = True
                self._job.release(ticket.prepared)
            yield from self._finish()

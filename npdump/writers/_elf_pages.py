# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of an ELF dump: which of them are zero, and their bytes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npdump.arrays import count, runs_of_numbers
from npdump.encode.batches import PageBatch, is_zero, read_what_is_there
from npdump.encode.job import Done, Encoded
from npdump.errors import LostPage, NoSpace
from npdump.sources import Loss
from npdump.storage.file import page_buffer

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from npdump.arrays import U8, Records, Runs
    from npdump.sinks import Sink
    from npdump.sources import Source
    from npdump.storage.file import FileRange

__all__ = ["COPY_NBYTES", "CopyJob", "NonzeroJob", "Piece", "pieces"]

COPY_NBYTES = 1 << 20
"""Bytes copied at a time."""


class NonzeroJob:
    """Finds the kept pages that are not filled with zeros; see `npdump.encode.job.Job`.

    Attributes
    ----------
    runs : ndarray of shape (k, 2), dtype int64
        Those of the batch that was finished last.
    """

    can_rewrite = True

    def __init__(self, source: Source, batch_npages: int) -> None:
        self._source = source
        self._batch_npages = batch_npages
        self.runs: Runs = np.empty((0, 2), np.int64)

    def make_room(self) -> U8:
        """See `npdump.encode.job.Job.make_room`."""
        return page_buffer(self._batch_npages, self._source.page_size)

    def make_worker(self) -> _NonzeroWorker:
        """See `npdump.encode.job.Job.make_worker`."""
        return _NonzeroWorker(self._source)

    def write(self, data: Any, offset: int) -> None:
        """Do nothing: there are no data."""

    def finish(self, batch: Runs, offset: int) -> Done:
        """Note which pages they are."""
        self.runs = batch
        return Done(count(batch), 0, 0, 0)

    def finish_partial(self, batch: Any, offset: int, n_written: int) -> Done:
        """See `npdump.encode.job.Job.finish_partial`; nothing is written, so that all fits."""
        raise NotImplementedError

    def truncate(self, offset: int) -> None:
        """Do nothing: there are no data."""


class _NonzeroWorker:
    """See `npdump.encode.job.Worker`."""

    def __init__(self, source: Source) -> None:
        self._source = source

    def read(self, batch: PageBatch, room: U8) -> None:
        """See `npdump.encode.job.Worker.read`; pages that can't be had stay, to be missed when they are copied."""
        read = read_what_is_there(self._source, batch, room, drops_zero=True)
        stays = ~is_zero(read.pages)
        stays[[loss.row for loss in read.losses]] = True
        self._runs = runs_of_numbers(read.pfns[stays])

    def look_up(self) -> None:
        """Do nothing: no batch depends on another."""

    def encode(self, room: U8) -> Encoded:
        """See `npdump.encode.job.Worker.encode`."""
        return Encoded(b"", self._runs)


class Piece(NamedTuple):
    """Bytes of physical memory that are copied together: whole pages, or a part of one."""

    paddr: int
    nbytes: int


def pieces(segments: Records, page_size: int) -> Iterator[Piece]:
    """Yield what the data of segments consist of, in order.

    Whole pages are copied together, the parts of a page with which a segment may begin and end alone.
    """
    for segment in segments:
        at = int(segment["paddr"])
        stop = at + int(segment["filesz"])
        while at < stop:
            nbytes = min((stop - at) // page_size * page_size, COPY_NBYTES) if at % page_size == 0 else 0
            nbytes = nbytes or min(page_size - at % page_size, stop - at)
            yield Piece(at, nbytes)
            at += nbytes


class _InFile:
    """Pages that the system copies from where they are in a file, unless it can't.

    ``losses`` are known when they have been copied.
    """

    def __init__(self, pfn: int, where: FileRange) -> None:
        self.pfn, self.where = pfn, where
        self.losses: list[Loss] = []

    def __len__(self) -> int:
        return self.where.nbytes


class CopyJob:
    """Copies pages as they are; see `npdump.encode.job.Job`.

    Attributes
    ----------
    written_stop : int
        File offset up to which there are whole pages, and all of them.
    """

    def __init__(self, source: Source, sink: Sink, offset: int) -> None:
        self._source = source
        self._sink = sink
        self.written_stop = offset

    @property
    def can_rewrite(self) -> bool:
        """See `npdump.encode.job.Job`."""
        return self._sink.can_rewrite

    def make_room(self) -> U8:
        """See `npdump.encode.job.Job.make_room`."""
        page_size = self._source.page_size
        return page_buffer(max(COPY_NBYTES // page_size, 1), page_size)

    def make_worker(self) -> _CopyWorker:
        """See `npdump.encode.job.Job.make_worker`."""
        return _CopyWorker(self._source, self._sink.can_rewrite)

    def write(self, data: Any, offset: int) -> None:
        """See `npdump.encode.job.Job.write`."""
        if not isinstance(data, _InFile):
            self._sink.write(offset, data)
            return
        page_size = self._source.page_size
        first = self._sink.copy_range(offset, data.where) // page_size
        n_left = len(data) // page_size - first
        if not n_left:
            return
        room, pfn = page_buffer(n_left, page_size), data.pfn + first
        losses = self._source.gather(np.array([[pfn, pfn + n_left]]), room)
        data.losses += [loss._replace(row=loss.row + first) for loss in losses]
        try:
            self._sink.write(offset + first * page_size, room.reshape(-1).data)
        except NoSpace as error:
            error.n_written += first * page_size
            raise

    def finish(self, batch: tuple[Piece, Sequence[Loss]], offset: int) -> Done:
        """Note that the piece is there."""
        piece, losses = batch
        self.written_stop = offset + piece.nbytes
        return Done(max(piece.nbytes // self._source.page_size, 1), 0, 0, piece.nbytes, losses=losses)

    def finish_partial(self, batch: tuple[Piece, Sequence[Loss]], offset: int, n_written: int) -> Done:
        """See `npdump.encode.job.Job.finish_partial`: a page that is cut is no page."""
        page_size = self._source.page_size
        n = n_written // page_size
        self.written_stop = offset + n * page_size
        return Done(n, 0, 0, n * page_size, losses=[loss for loss in batch[1] if loss.row < n])

    def truncate(self, offset: int) -> None:
        """See `npdump.encode.job.Job.truncate`."""
        self._sink.truncate(offset)


class _CopyWorker:
    """See `npdump.encode.job.Worker`."""

    def __init__(self, source: Source, can_rewrite: bool) -> None:
        self._source, self._can_rewrite = source, can_rewrite

    def read(self, batch: Piece, room: U8) -> None:
        """See `npdump.encode.job.Worker.read`."""
        self._piece = batch
        self._losses: Sequence[Loss] = ()
        paddr, nbytes = batch
        self._data: Any = room.reshape(-1)[:nbytes].data
        page_size = self._source.page_size
        if paddr % page_size == nbytes % page_size == 0:
            pfn, n = paddr // page_size, nbytes // page_size
            # A stream takes no copies, and is best read in several threads.
            where = self._source.file_range(pfn, pfn + n) if self._can_rewrite else None
            if where is not None:
                self._data = _InFile(pfn, where)
                self._losses = self._data.losses
                return
            self._losses = self._source.gather(np.array([[pfn, pfn + n]]), room[:n])
            return
        try:
            room.reshape(-1)[:nbytes] = self._source.view(paddr, nbytes)
        except LostPage as error:
            room.reshape(-1)[:nbytes] = 0
            self._losses = [Loss(0, error)]

    def look_up(self) -> None:
        """Do nothing: no piece depends on another."""

    def encode(self, room: U8) -> Encoded:
        """See `npdump.encode.job.Worker.encode`."""
        return Encoded(self._data, (self._piece, self._losses))

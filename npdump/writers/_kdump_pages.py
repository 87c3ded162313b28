# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of a kdump-compressed file, batch by batch, and the descriptors that point to them."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npdump.codecs import out_nbytes
from npdump.encode.batches import PageBatch, is_zero, read_what_is_there
from npdump.encode.dedup import NO_SLOT, Found, PageIndex, PlacedRows, keys_of, settle
from npdump.encode.job import Done, Encoded
from npdump.errors import LostPage, NoSpace, ReadError
from npdump.layouts.page_flag import PageFlag
from npdump.sources import Loss
from npdump.storage.file import page_buffer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npdump.arrays import I64, U8, U32, Bool, Index
    from npdump.codecs import EncodePages
    from npdump.sinks import Sink
    from npdump.sources import CompressedPages, PageLocations
    from npdump.writers import DumpPlan, WriteOptions
    from npdump.writers._kdump_layout import KdumpLayout

__all__ = ["PageJob", "StoredJob"]

VERIFIED_NBYTES = 1 << 20
"""Bytes of pages that are uncompressed together only to see that they can be: few enough to stay in the cache."""

_SIZE_MASK = 0xFFFFFFFF

ZERO_RATIO = 16
"""Every codec makes a zero page at least so many times smaller; snappy, the weakest, 21 times."""


class Batch(NamedTuple):
    """What is known of a batch when its data are ready.

    Attributes
    ----------
    rank : int
        Number of kept pages before the first of these.
    breaks : tuple of tuple of two int
        See `npdump.encode.batches.PageBatch`.
    npages : int
    rows : ndarray of shape (m,), dtype int64
        Pages of the batch, ascending, in the order of the data. Those that are missing are zero.
    slots : ndarray of shape (m,), dtype int64
        Where `PageIndex` has each of them, or the earlier one that it equals.
    shared : ndarray of shape (m,), dtype bool
        Whether it equals an earlier one.
    words : ndarray of shape (m,), dtype int64
        Bytes of each page as stored, 0 for zero pages and shared ones, and its `PageFlag`: `KdumpLayout.words`.
    losses : sequence of Loss
        Pages that can't be had; their rows are those of the batch.
    """

    rank: int
    breaks: tuple[tuple[int, int], ...]
    npages: int
    rows: Index
    slots: Index
    shared: Bool
    words: I64
    losses: Sequence[Loss] = ()


class _Job:
    """What both jobs have in common; see `npdump.encode.job.Job`."""

    def __init__(self, dump: DumpPlan, options: WriteOptions, sink: Sink, layout: KdumpLayout, n_pages: int) -> None:
        self.dump = dump
        self.options = options
        self.index = PageIndex(n_pages if options.share else 0)
        self.codec_flag = np.uint32(options.codec.flag)
        self.is_raw = options.codec.flag == PageFlag.RAW
        self.layout = layout
        self._sink = sink
        self._any_lost = False

    @property
    def can_rewrite(self) -> bool:
        """See `npdump.encode.job.Job`."""
        return self._sink.can_rewrite

    def make_room(self) -> U8:
        """See `npdump.encode.job.Job.make_room`."""
        page_size = self.dump.source.page_size
        return page_buffer(-(-out_nbytes(self.options.batch_npages, page_size) // page_size), page_size).reshape(-1)

    def make_encoder(self) -> EncodePages:
        """Return a new encoder, for one thread."""
        options = self.options
        return options.codec.encoder(self.dump.source.page_size, options.engine, options.codec_level)

    def write(self, data: Any, offset: int) -> None:
        """See `npdump.encode.job.Job.write`."""
        self._sink.write(offset, data)

    def finish(self, batch: Batch, offset: int) -> Done:
        """Write the descriptors of a batch."""
        places = self.layout.zero_places(batch.npages)
        if batch.losses:
            # A page whose descriptor is zero is lost, and so is one that shares its place.
            places[[loss.row for loss in batch.losses]] = 0
            self._any_lost = True
        placed = PlacedRows(batch.rows, batch.slots, batch.shared, batch.words)
        nbytes = self.index.place(offset, placed, self.layout.size_shift, places) - offset
        rows, ranks = zip((0, batch.rank), *batch.breaks, strict=True)
        for rank, start, stop in zip(ranks, rows, (*rows[1:], batch.npages), strict=True):
            self._point(rank, places[start:stop])
        # Without a zero page the first stored one is where it would be.
        n_zero = int(np.count_nonzero(places[:, 0] == self.layout.zero_offset)) if self.dump.drops_zero else 0
        losses = [*batch.losses, *self._shared_losses(batch, places)] if self._any_lost else ()
        return Done(batch.npages, n_zero, int(np.count_nonzero(batch.shared)), nbytes, losses=losses)

    def _point(self, rank: int, places: I64) -> None:
        """Write the descriptors of pages whose ranks follow each other."""
        offset, desc = self.layout.descriptors(rank, places)
        try:
            self._sink.write(offset, desc)
        except NoSpace:
            if self._sink.can_rewrite:
                # The last descriptor that was written may have been cut.
                with suppress(NoSpace):
                    self._sink.write(offset, np.zeros_like(desc))
            raise

    def _shared_losses(self, batch: Batch, places: I64) -> list[Loss]:
        """Return the losses of pages that share the place of one that is lost, which may be of an earlier batch."""
        rows = batch.rows[batch.shared]
        known = {loss.row for loss in batch.losses}
        lost = [row for row in rows[places[rows, 0] == 0].tolist() if row not in known]
        return [Loss(row, LostPage("a page that is stored once with a lost one")) for row in lost]

    def finish_partial(self, batch: Batch, offset: int, n_written: int) -> Done:
        """See `npdump.encode.job.Job.finish_partial`."""
        if not self._sink.can_rewrite:
            return Done(0, 0, 0, 0)
        stops = np.cumsum((batch.words >> self.layout.size_shift) & _SIZE_MASK)
        n_fitting = int(np.searchsorted(stops, n_written, side="right"))
        self._sink.truncate(offset + int(stops[:n_fitting].max(initial=0)))
        n = int(batch.rows[n_fitting]) if n_fitting < len(stops) else batch.npages
        if not n:
            return Done(0, 0, 0, 0)
        first = batch._replace(
            npages=n,
            breaks=tuple((row, rank) for row, rank in batch.breaks if row < n),
            rows=batch.rows[:n_fitting],
            slots=batch.slots[:n_fitting],
            shared=batch.shared[:n_fitting],
            words=batch.words[:n_fitting],
            losses=[loss for loss in batch.losses if loss.row < n],
        )
        return self.finish(first, offset)

    def truncate(self, offset: int) -> None:
        """See `npdump.encode.job.Job.truncate`."""
        self._sink.truncate(offset)


class PageJob(_Job):
    """Reads pages, looks which of them are zero pages or equal an earlier one, and compresses the others."""

    def make_worker(self) -> _PageWorker:
        """See `npdump.encode.job.Job.make_worker`."""
        return _PageWorker(self)


class _PageWorker:
    """See `npdump.encode.job.Worker`."""

    def __init__(self, job: PageJob) -> None:
        self._source, self._index = job.dump.source, job.index
        self._drops_zero, self._shares = job.dump.drops_zero, job.options.share
        self._page_size, npages = self._source.page_size, job.options.batch_npages
        # Pages that stay as they are are read to where they are written from.
        self._buffer = None if job.is_raw else page_buffer(npages, self._page_size)
        self._recalled = page_buffer(0, self._page_size)
        self._encode = job.make_encoder()
        self._codec_flag, self._words = job.codec_flag, job.layout.words

    def read(self, batch: PageBatch, room: U8) -> None:
        """See `npdump.encode.job.Worker.read`."""
        self._batch = batch
        buffer = self._buffer
        if buffer is None:
            buffer = room[: batch.npages * self._page_size].reshape(-1, self._page_size)
        wants_keys = self._drops_zero or self._shares
        read = read_what_is_there(self._source, batch, buffer, self._drops_zero, wants_keys)
        self._rows, self._pfns, self._pages, losses, self._keys = read
        if not wants_keys:
            self._keys = np.ones(len(self._pages), np.uint64)
        if not self._drops_zero:
            # These are stored, too, and share their place.
            np.maximum(self._keys, 1, out=self._keys)
        self._losses = [loss._replace(row=int(self._rows[loss.row])) for loss in losses]
        if losses:
            self._keys[[loss.row for loss in losses]] = 0

    def look_up(self) -> None:
        """See `npdump.encode.job.Worker.look_up`."""
        self._found = self._index.look_up(self._keys, self._pfns) if self._shares else Found.nothing(len(self._pages))

    def encode(self, room: U8) -> Encoded:
        """See `npdump.encode.job.Worker.encode`."""
        earlier = self._recall() if self._found.n_found else self._pfns[:0]
        stored, slots, shared = settle(
            self._pages, self._pfns, self._keys, self._found, self._recalled[: len(earlier)], earlier
        )
        made = np.empty(len(stored), np.uint32)
        nbytes = self._encode(self._pages, stored, room, made)
        words = np.zeros(len(self._pages), np.int64)
        words[stored] = self._words(made, (made != self._page_size) * self._codec_flag)
        known = Batch(
            self._batch.rank, self._batch.breaks, self._batch.npages, self._rows, slots, shared, words, self._losses
        )
        return Encoded(room[:nbytes].data, known)

    def _recall(self) -> I64:
        """Read the earlier pages, those of other batches, that some may equal; return their page frames, ascending."""
        originals = self._found.originals
        wanted = originals[originals != NO_SLOT]
        here = np.minimum(self._pfns.searchsorted(wanted), len(self._pfns) - 1)
        wanted = wanted[self._pfns[here] != wanted]
        wanted.sort()
        # Many may equal the same one.
        is_new = np.ones(len(wanted), np.bool_)
        np.not_equal(wanted[1:], wanted[:-1], out=is_new[1:])
        wanted = wanted[is_new]
        if len(wanted) > len(self._recalled):
            self._recalled = page_buffer(len(wanted), self._page_size)
        runs = np.empty((len(wanted), 2), np.int64)
        runs[:, 0], runs[:, 1] = wanted, wanted + 1
        # What can't be had any more is zero, and equals none.
        self._source.gather(runs, self._recalled[: len(wanted)])
        return wanted


class StoredJob(_Job):
    """Copies pages that are compressed already, and compresses those again that must be."""

    def make_worker(self) -> _StoredWorker:
        """See `npdump.encode.job.Job.make_worker`."""
        return _StoredWorker(self)


class _StoredWorker:
    """See `npdump.encode.job.Worker`."""

    def __init__(self, job: StoredJob) -> None:
        assert job.dump.source.compressed is not None
        self._job = job
        self._source: CompressedPages = job.dump.source.compressed
        self._page_size, self._drops_zero = job.dump.source.page_size, job.dump.drops_zero
        self._encode = job.make_encoder()
        self._verified = page_buffer(max(VERIFIED_NBYTES // self._page_size, 1), self._page_size)

    def read(self, batch: PageBatch, room: U8) -> None:
        """See `npdump.encode.job.Worker.read`."""
        self._batch = batch
        self._stored = self._source.locate(batch.runs)

    def look_up(self) -> None:
        """See `npdump.encode.job.Worker.look_up`."""
        stored = self._stored
        self._rows = np.flatnonzero(~stored.is_zero) if self._drops_zero else np.arange(len(stored))
        if not self._job.options.share:
            self._slots, originals, _ = Found.nothing(len(self._rows))
            self._shared = originals != NO_SLOT
            return
        # Pages that share their place in the input do so again: here the place is the key.
        keys = keys_of(stored.places[self._rows].view(np.uint64))
        self._slots, originals, _ = self._job.index.look_up(keys, stored.pfns[self._rows])
        self._shared = originals != NO_SLOT

    def encode(self, room: U8) -> Encoded:
        """See `npdump.encode.job.Worker.encode`."""
        rows, own = self._rows, np.flatnonzero(~self._shared)
        self._losses: list[Loss] = []
        sizes, flags = np.zeros(len(rows), np.uint32), np.zeros(len(rows), np.uint32)
        sizes[own], flags[own], data = self._encoded_good(self._stored[rows[own]], room)
        losses = [loss._replace(row=int(rows[own[loss.row]])) for loss in self._losses]
        known = (rows, self._slots, self._shared, self._job.layout.words(sizes, flags), losses)
        return Encoded(data, Batch(self._batch.rank, self._batch.breaks, len(self._stored), *known))

    def _encoded_good(self, stored: PageLocations, room: U8) -> tuple[U32, U32, Any]:
        """Do as `_encoded`, for those that uncompress: of what is only copied, nobody would see it otherwise."""
        bad = self._undecodable(stored)
        if not bad:
            return self._encoded(stored, room)
        good = np.setdiff1d(np.arange(len(stored)), [loss.row for loss in bad])
        sizes, flags = np.zeros(len(stored), np.uint32), np.zeros(len(stored), np.uint32)
        sizes[good], flags[good], data = self._encoded(stored[good], room)
        self._losses = bad + [loss._replace(row=int(good[loss.row])) for loss in self._losses]
        return sizes, flags, data

    def _undecodable(self, stored: PageLocations) -> list[Loss]:
        """Return those of the pages to be copied that don't uncompress, or can't be read."""
        options = self._job.options
        if options.copy_compressed or not options.verify:
            return []
        is_copied = ~stored.is_zero & (stored.flags != PageFlag.RAW)
        rows = np.flatnonzero(is_copied & self._stays(stored.nbytes.astype(np.uint32), stored.flags))
        bad: list[Loss] = []
        for at in range(0, len(rows), len(self._verified)):
            these = rows[at : at + len(self._verified)]
            losses = self._source.decode(stored[these], self._verified[: len(these)])
            bad += [loss._replace(row=int(these[loss.row])) for loss in losses]
        return bad

    def _encoded(self, stored: PageLocations, room: U8) -> tuple[U32, U32, Any]:
        """Return the sizes and flags of pages as they are to be stored, and a buffer that holds them."""
        sizes, flags = stored.nbytes.astype(np.uint32), stored.flags.copy()
        stays = ~stored.is_zero & self._stays(sizes, flags)
        changing = np.flatnonzero(~stays)
        if not len(changing):
            return sizes, flags, self._copied(stored, sizes)
        pages = np.empty((len(changing), self._page_size), np.uint8)
        losses = self._source.decode(stored[changing], pages)
        dropped = is_zero(pages) if self._drops_zero else np.zeros(len(pages), np.bool_)
        dropped[[loss.row for loss in losses]] = True
        self._losses += [loss._replace(row=int(changing[loss.row])) for loss in losses]
        sizes[changing[dropped]] = flags[changing[dropped]] = 0
        changing, rows = changing[~dropped], np.flatnonzero(~dropped)
        made = np.empty(len(rows), np.uint32)
        data = room[: self._encode(pages, rows, room, made)].data
        sizes[changing] = made
        flags[changing] = np.where(made == self._page_size, np.uint32(0), self._job.codec_flag)
        staying = np.flatnonzero(stays)
        if not len(staying):
            return sizes, flags, data
        stops = np.cumsum(made.astype(np.int64)).tolist()
        pieces: list[Any] = [data[start:stop] for start, stop in pairwise([0, *stops])]
        buffers = dict(zip(changing.tolist(), pieces, strict=True))
        buffers |= zip(staying.tolist(), self._source.buffers(stored[staying]), strict=True)
        return sizes, flags, b"".join(buffers[row] for row in sorted(buffers))

    def _copied(self, stored: PageLocations, sizes: U32) -> Any:
        """Return a buffer with pages as they are stored; ``sizes`` of those that can't be read become 0."""
        with suppress(ReadError):
            return self._source.joined(stored)
        pieces = []
        for row in range(len(stored)):
            try:
                pieces.append(bytes(self._source.joined(stored[np.array([row])])))
            except ReadError as error:
                pfn = int(stored.pfns[row])
                lost = LostPage(f"physical page {pfn:#x}: {error}", pfn=pfn)
                lost.__cause__ = error
                self._losses.append(Loss(row, lost))
                sizes[row] = 0
        return b"".join(pieces)

    def _stays(self, sizes: U32, flags: U32) -> Bool:
        """Return which stored pages are as they would become."""
        history, codec_flag = self._job.dump.source.history, self._job.codec_flag
        if self._job.options.copy_compressed:
            return np.ones(len(flags), np.bool_)
        stays = flags == codec_flag
        if history.codec_flag == codec_flag:
            # The same compression left these as they were.
            stays |= flags == PageFlag.RAW
        if self._drops_zero and not history.level & 1:
            # The file's writer didn't look for zero pages: these may be some.
            stays &= (flags != PageFlag.RAW) & (sizes > self._page_size // ZERO_RATIO)
        return stays

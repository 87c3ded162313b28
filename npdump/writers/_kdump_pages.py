# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of a kdump-compressed file, batch by batch, and the descriptors that point to them."""

from __future__ import annotations

from contextlib import suppress
from itertools import pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npdump.arrays import runs_of_numbers
from npdump.codecs import out_nbytes
from npdump.encode.batches import PageBatch, is_zero, read_what_is_there
from npdump.encode.dedup import NO_SLOT, PageIndex, StoredRows, are_equal, digests, keys_of
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

RECALLED_NBYTES = 1 << 18
"""Bytes of earlier pages that are read together to be compared: few enough to stay in the CPU's cache."""

VERIFIED_NBYTES = 1 << 18
"""Bytes of pages that are uncompressed together only to see that they can be: few enough to stay in the cache."""

ZERO_RATIO = 16
"""Every codec makes a zero page at least so many times smaller; snappy, the weakest, 21 times."""

NONE: Index = np.empty(0, np.intp)

_PART_SHIFT = 56
"""No file has so large an offset."""


class Batch(NamedTuple):
    """What is known of a batch when its data are ready.

    Attributes
    ----------
    rank : int
        Number of kept pages before the first of these.
    npages : int
    rows : ndarray of shape (m,), dtype intp
        The pages that are stored, in the order of the data.
    slots : ndarray of shape (m,), dtype intp
        Where `PageIndex` has each of them.
    duplicates : ndarray of shape (k,), dtype intp
        The pages that equal an earlier one. Pages that are in neither are zero.
    original_slots : ndarray of shape (k,), dtype intp
        Where `PageIndex` has the earlier one.
    sizes, flags : ndarray of shape (m,), dtype uint32
        Bytes of each page as stored, 0 for a zero page, which isn't; its `PageFlag`.
    losses : sequence of Loss
        Pages that can't be had; their rows are those of the batch, and of no others above.
    """

    rank: int
    npages: int
    rows: Index
    slots: Index
    duplicates: Index
    original_slots: Index
    sizes: U32
    flags: U32
    losses: Sequence[Loss] = ()


class _Job:
    """What both jobs have in common; see `npdump.encode.job.Job`."""

    def __init__(self, dump: DumpPlan, options: WriteOptions, sink: Sink, layout: KdumpLayout, n_pages: int) -> None:
        self.dump = dump
        self.options = options
        self.index = PageIndex(n_pages if options.share else 0)
        self.codec_flag = np.uint32(options.codec.flag)
        self._sink = sink
        self._layout = layout

    @property
    def can_rewrite(self) -> bool:
        """See `npdump.encode.job.Job`."""
        return self._sink.can_rewrite

    def make_room(self) -> U8:
        """See `npdump.encode.job.Job.make_room`."""
        return np.empty(out_nbytes(self.options.batch_npages, self.dump.source.page_size), np.uint8)

    def make_encoder(self) -> EncodePages:
        """Return a new encoder, for one thread."""
        options = self.options
        return options.codec.encoder(self.dump.source.page_size, options.engine, options.codec_level)

    def write(self, data: Any, offset: int) -> None:
        """See `npdump.encode.job.Job.write`."""
        self._sink.write(offset, data)

    def finish(self, batch: Batch, offset: int) -> Done:
        """Write the descriptors of a batch."""
        places = self._layout.zero_places(batch.npages)
        words = self._layout.words(batch.sizes, batch.flags)
        stored = StoredRows(batch.rows, batch.slots, batch.sizes, words)
        # A page whose descriptor is zero is lost, and so is one that shares its place.
        places[[loss.row for loss in batch.losses]] = 0
        self.index.place(offset, stored, batch.duplicates, batch.original_slots, places)
        desc_offset, desc = self._layout.descriptors(batch.rank, places)
        try:
            self._sink.write(desc_offset, desc)
        except NoSpace:
            if self._sink.can_rewrite:
                # The last descriptor that was written may have been cut.
                with suppress(NoSpace):
                    self._sink.write(desc_offset, np.zeros_like(desc))
            raise
        # Without a zero page the first stored one is where it would be.
        n_zero = int(np.count_nonzero(places[:, 0] == self._layout.zero_offset)) if self.dump.drops_zero else 0
        n_shared, nbytes = len(batch.duplicates), int(batch.sizes.sum())
        return Done(batch.npages, n_zero, n_shared, nbytes, losses=batch.losses)

    def finish_partial(self, batch: Batch, offset: int, n_written: int) -> Done:
        """See `npdump.encode.job.Job.finish_partial`."""
        if not self._sink.can_rewrite:
            return Done(0, 0, 0, 0)
        stops = np.cumsum(batch.sizes, dtype=np.int64)
        n_stored = int(np.searchsorted(stops, n_written, side="right"))
        self._sink.truncate(offset + int(stops[:n_stored].max(initial=0)))
        n = int(batch.rows[n_stored]) if n_stored < len(stops) else batch.npages
        if not n:
            return Done(0, 0, 0, 0)
        fits = batch.duplicates < n
        first = batch._replace(
            npages=n,
            rows=batch.rows[:n_stored],
            slots=batch.slots[:n_stored],
            duplicates=batch.duplicates[fits],
            original_slots=batch.original_slots[fits],
            sizes=batch.sizes[:n_stored],
            flags=batch.flags[:n_stored],
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
        page_size, npages = self._source.page_size, job.options.batch_npages
        self._buffer = page_buffer(npages, page_size)
        self._recalled = page_buffer(max(RECALLED_NBYTES // page_size, 1), page_size)
        self._encode = job.make_encoder()
        self._codec_flag = job.codec_flag

    def read(self, batch: PageBatch, room: U8) -> None:
        """See `npdump.encode.job.Worker.read`."""
        self._batch = batch
        self._pfns = batch.pfns
        found = read_what_is_there(self._source, batch, self._buffer, self._drops_zero)
        self._read, self._pages, losses = found
        if self._drops_zero or self._shares:
            self._keys = digests(self._pages)
        self._lost = np.array([loss.row for loss in losses], np.intp)
        self._losses = [loss._replace(row=int(self._read[loss.row])) for loss in losses]

    def look_up(self) -> None:
        """See `npdump.encode.job.Worker.look_up`."""
        if self._shares:
            self._found = self._index.look_up(self._keys, self._pfns[self._read])

    def encode(self, room: U8) -> Encoded:
        """See `npdump.encode.job.Worker.encode`."""
        is_stored = self._keys != 0 if self._drops_zero else np.ones(len(self._pages), np.bool_)
        is_stored[self._lost] = False
        rows, duplicates, original_slots = np.flatnonzero(is_stored), NONE, NONE
        if self._shares:
            slots, suspects, originals = self._found
            if len(suspects):
                is_equal = self._are_equal(suspects, originals)
                duplicates = suspects[is_equal]
                original_slots = slots[duplicates]
                slots[suspects[~is_equal]] = NO_SLOT
                is_stored[duplicates] = False
                rows = np.flatnonzero(is_stored)
            slots = slots[rows]
        else:
            slots = np.full(len(rows), NO_SLOT)
        sizes = np.empty(len(rows), np.uint32)
        n = self._encode(self._pages, rows, room, sizes)
        page_size = self._pages.shape[1]
        flags = np.where(sizes == page_size, np.uint32(0), self._codec_flag)
        read, rank = self._read, self._batch.rank
        stored = (read[rows], slots, read[duplicates], original_slots, sizes, flags)
        known = Batch(rank, len(self._pfns), *stored, self._losses)
        return Encoded(room[:n].data, known)

    def _are_equal(self, rows: Index, originals: I64) -> Bool:
        """Compare some pages with earlier ones, byte for byte."""
        is_equal = np.empty(len(rows), np.bool_)
        pfns = self._pfns[self._read]
        # Those of this batch are compared where they are.
        here = np.minimum(np.searchsorted(pfns, originals), len(pfns) - 1)
        is_here = pfns[here] == originals
        near = np.flatnonzero(is_here)
        is_equal[near] = are_equal(self._pages, rows[near], self._pages, here[near])
        # Many pages may equal the same one, which is read once then.
        far = np.flatnonzero(~is_here)
        far = far[np.argsort(originals[far], kind="stable")]
        step = len(self._recalled)
        for at in range(0, len(far), step):
            these = far[at : at + step]
            wanted = originals[these]
            is_new = np.append(True, wanted[1:] != wanted[:-1])
            distinct = wanted[is_new]
            recalled = self._recalled[: len(distinct)]
            # What can't be had any more is zero, and equals none.
            self._source.gather(runs_of_numbers(distinct), recalled)
            is_equal[these] = are_equal(self._pages, rows[these], recalled, np.cumsum(is_new) - 1)
        return is_equal


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
        rows = np.flatnonzero(~stored.is_zero) if self._drops_zero else np.arange(len(stored))
        slots, duplicates, original_slots = np.full(len(rows), NO_SLOT), NONE, NONE
        if self._job.options.share:
            # Pages that share their place in the input do so again: here the place is the key.
            positions = stored.offsets[rows] + (stored.numbers[rows].astype(np.int64) << _PART_SHIFT)
            keys = keys_of(positions.view(np.uint64))
            slots, suspects, _ = self._job.index.look_up(keys, self._batch.rank + rows)
            rows, slots, duplicates, original_slots = _split_duplicates(rows, slots, suspects)
        self._found = rows, slots, duplicates, original_slots

    def encode(self, room: U8) -> Encoded:
        """See `npdump.encode.job.Worker.encode`."""
        rows, slots, duplicates, original_slots = self._found
        self._losses: list[Loss] = []
        sizes, flags, data = self._encoded_good(self._stored[rows], room)
        losses = [loss._replace(row=int(rows[loss.row])) for loss in self._losses]
        found = (rows, slots, duplicates, original_slots, sizes, flags)
        return Encoded(data, Batch(self._batch.rank, len(self._stored), *found, losses))

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


def _split_duplicates(rows: Index, slots: Index, duplicates: Index) -> tuple[Index, Index, Index, Index]:
    """Part pages, of which ``duplicates`` equal an earlier one: the others' rows and slots, then theirs."""
    if not len(duplicates):
        return rows, slots, NONE, NONE
    is_other = np.ones(len(rows), np.bool_)
    is_other[duplicates] = False
    return rows[is_other], slots[is_other], rows[duplicates], slots[duplicates]

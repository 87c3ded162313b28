# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of a kdump-compressed file, batch by batch, and the descriptors that point to them."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npdump.arrays import runs_of_numbers
from npdump.encode.batches import PageBatch, is_zero, read_pages, samples_of
from npdump.encode.dedup import NO_SLOT, PageIndex, keys_of
from npdump.encode.encoder import Encoded, PageEncoder, StoredEncoder
from npdump.encode.job import Done
from npdump.encode.pool import slots_needed
from npdump.errors import NoSpace
from npdump.sources import PageLocations, refuse
from npdump.storage.file import page_buffer

if TYPE_CHECKING:
    from collections.abc import Callable

    from npdump.arrays import I64, U8, Bool, Index
    from npdump.sinks import Sink
    from npdump.writers import DumpPlan, WriteOptions
    from npdump.writers._kdump_layout import KdumpLayout

__all__ = ["PageJob", "StoredJob"]

COMPARED_NBYTES = 1 << 20
"""Bytes of pages compared at a time: enough that NumPy's cost per call vanishes, few enough to stay in the cache."""

NONE: Index = np.empty(0, np.intp)

_PART_SHIFT = 56
"""No file has so large an offset."""


class PageOrder(NamedTuple):
    """Pages to be compressed: which buffer they are in, how many there are in it, and which of them."""

    buffer: int
    npages: int
    rows: Index


class Batch(NamedTuple):
    """See `npdump.encode.job.Prepared`.

    Attributes
    ----------
    order : PageOrder or PageLocations
    rank, npages : int
    rows : ndarray of shape (m,), dtype intp
        The pages that are to be stored, in the order of ``order``.
    slots : ndarray of shape (m,), dtype intp
        Where `PageIndex` has each of them.
    duplicates : ndarray of shape (k,), dtype intp
        The pages that equal an earlier one. Pages that are in neither are zero.
    original_slots : ndarray of shape (k,), dtype intp
        Where `PageIndex` has the earlier one.
    """

    order: Any
    rank: int
    npages: int
    rows: Index
    slots: Index
    duplicates: Index
    original_slots: Index


class _Job:
    """What both jobs have in common; see `npdump.encode.job.Job`."""

    def __init__(self, dump: DumpPlan, options: WriteOptions, sink: Sink, layout: KdumpLayout, n_pages: int) -> None:
        self._dump = dump
        self._options = options
        self._sink = sink
        self._layout = layout
        self._known = PageIndex(n_pages if options.share else 0)

    @property
    def is_repeatable(self) -> bool:
        """See `npdump.encode.job.Job`."""
        return self._sink.can_rewrite

    def write(self, data: Any, offset: int) -> None:
        """See `npdump.encode.job.Job.write`."""
        self._sink.write(offset, data)

    def release(self, batch: Batch) -> None:
        """See `npdump.encode.job.Job.release`."""

    def finish(self, batch: Batch, encoded: Encoded, offset: int) -> Done:
        """Write the descriptors of a batch."""
        places = self._layout.zero_places(batch.npages)
        nbytes = 0
        if len(batch.rows):
            stops = np.cumsum(encoded.sizes, dtype=np.int64)
            nbytes = int(stops[-1])
            stored = self._layout.places(stops - encoded.sizes + offset, encoded.sizes, encoded.flags)
            self._known.place(batch.slots, stored)
            places[batch.rows] = stored
        if len(batch.duplicates):
            places[batch.duplicates] = self._known.places(batch.original_slots)
        desc_offset, desc = self._layout.descriptors(batch.rank, places)
        try:
            self._sink.write(desc_offset, desc)
        except NoSpace:
            if self._sink.can_rewrite:
                # The last descriptor that was written may have been cut: a page whose descriptor is zero is lost.
                with suppress(NoSpace):
                    self._sink.write(desc_offset, np.zeros_like(desc))
            raise
        # Without a zero page the first stored one is where it would be.
        n_zero = int(np.count_nonzero(places[:, 0] == self._layout.zero_offset)) if self._dump.drops_zero else 0
        return Done(batch.npages, n_zero, len(batch.duplicates), nbytes)

    def truncate(self, offset: int) -> None:
        """See `npdump.encode.job.Job.truncate`."""
        self._sink.truncate(offset)

    def finish_what_fits(self, batch: Batch, encoded: Encoded, offset: int, n_written: int) -> Done:
        """See `npdump.encode.job.Job.finish_what_fits`."""
        if not self._sink.can_rewrite:
            return Done(0, 0, 0, 0)
        stops = np.cumsum(encoded.sizes, dtype=np.int64)
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
        )
        sizes, flags = encoded.sizes[:n_stored], encoded.flags[:n_stored]
        return self.finish(first, Encoded(sizes, flags, None), offset)

    def _page_encoder(self) -> PageEncoder:
        return PageEncoder(self._options.codec, self._options.engine, self._dump.source.page_size)


class PageJob(_Job):
    """Reads pages, looks which of them are zero pages or equal an earlier one, and has the others compressed.

    The pages are read once, into buffers that workers share with the calling process.
    """

    def __init__(
        self, dump: DumpPlan, options: WriteOptions, sink: Sink, layout: KdumpLayout, n_pages: int, n_workers: int
    ) -> None:
        super().__init__(dump, options, sink, layout, n_pages)
        page_size, n_buffers = dump.source.page_size, slots_needed(n_workers)
        self._buffers = [page_buffer(options.batch_npages, page_size) for _ in range(n_buffers)]
        self._free = list(range(n_buffers))
        self._recalled = page_buffer(max(COMPARED_NBYTES // page_size, 1), page_size)

    def prepare(self, batch: PageBatch) -> Batch:
        """See `npdump.encode.job.Job.prepare`."""
        number = self._free.pop()
        drops_zero = self._dump.drops_zero
        read, pages = read_pages(self._dump.source, batch, self._buffers[number], drops_zero)
        samples = samples_of(pages)
        rows = np.flatnonzero(~is_zero(pages, samples)) if drops_zero else np.arange(len(pages))
        slots, duplicates, original_slots = np.full(len(rows), NO_SLOT), NONE, NONE
        if self._options.share and len(rows):
            slots, suspects, pfns = self._known.look_up(keys_of(samples[rows]), batch.pfns[read[rows]])
            is_equal = self._are_equal(pages, rows[suspects], pfns)
            slots[suspects[~is_equal]] = NO_SLOT
            rows, slots, duplicates, original_slots = _split_duplicates(rows, slots, suspects[is_equal])
        order = PageOrder(number, len(pages), rows)
        return Batch(order, batch.rank, batch.npages, read[rows], slots, read[duplicates], original_slots)

    def _are_equal(self, pages: U8, rows: Index, pfns: I64) -> Bool:
        """Compare some pages with earlier ones, byte for byte."""
        is_equal = np.empty(len(rows), np.bool_)
        words, step = pages.view(np.uint64), len(self._recalled)
        # Many pages may equal the same one, which is read once then.
        order = np.argsort(pfns, kind="stable")
        for at in range(0, len(order), step):
            these = order[at : at + step]
            wanted = pfns[these]
            is_new = np.append(True, wanted[1:] != wanted[:-1])
            distinct = wanted[is_new]
            recalled = self._recalled[: len(distinct)]
            refuse(self._dump.source.gather(runs_of_numbers(distinct), recalled))
            earlier = recalled.view(np.uint64)
            if len(distinct) < len(these):
                earlier = earlier[np.cumsum(is_new) - 1]
            is_equal[these] = ~(words[_sliced(rows[these])] != earlier).any(axis=1)
        return is_equal

    def make_encoder(self) -> Callable[[PageOrder], Encoded]:
        """See `npdump.encode.job.Job.make_encoder`."""
        encode = self._page_encoder()

        def encode_order(order: PageOrder) -> Encoded:
            return encode(self._buffers[order.buffer][: order.npages], order.rows)

        return encode_order

    def release(self, batch: Batch) -> None:
        """See `npdump.encode.job.Job.release`."""
        self._free.append(batch.order.buffer)


class StoredJob(_Job):
    """Copies pages that are compressed already, and has those compressed anew that must be."""

    def prepare(self, batch: PageBatch) -> Batch:
        """See `npdump.encode.job.Job.prepare`."""
        compressed = self._dump.source.compressed
        assert compressed is not None
        stored = compressed.locate(batch.runs)
        rows = np.flatnonzero(~stored.is_zero) if self._dump.drops_zero else np.arange(batch.npages)
        slots, duplicates, original_slots = np.full(len(rows), NO_SLOT), NONE, NONE
        if self._options.share:
            # Pages that share their place in the input do so again: here the place is the key.
            positions = stored.offsets[rows] + (stored.numbers[rows].astype(np.int64) << _PART_SHIFT)
            keys = keys_of(positions.astype(np.uint64).reshape(-1, 1))
            slots, suspects, _ = self._known.look_up(keys, batch.rank + rows)
            rows, slots, duplicates, original_slots = _split_duplicates(rows, slots, suspects)
        return Batch(stored[rows], batch.rank, batch.npages, rows, slots, duplicates, original_slots)

    def make_encoder(self) -> Callable[[PageLocations], Encoded]:
        """See `npdump.encode.job.Job.make_encoder`."""
        dump, options = self._dump, self._options
        assert dump.source.compressed is not None
        return StoredEncoder(
            dump.source.compressed,
            dump.source.history,
            self._page_encoder(),
            int(options.codec.flag),
            dump.source.page_size,
            dump.drops_zero,
            options.copy_compressed,
        )


def _split_duplicates(rows: Index, slots: Index, duplicates: Index) -> tuple[Index, Index, Index, Index]:
    """Part pages, of which ``duplicates`` equal an earlier one: the others' rows and slots, then theirs."""
    if not len(duplicates):
        return rows, slots, NONE, NONE
    is_other = np.ones(len(rows), np.bool_)
    is_other[duplicates] = False
    return rows[is_other], slots[is_other], rows[duplicates], slots[duplicates]


def _sliced(rows: Index) -> Index | slice:
    """Return what takes the same rows of an array, and doesn't copy them if they are neighbours."""
    first, n = int(rows[0]), len(rows)
    is_contiguous = int(rows[-1]) - first == n - 1 and bool((rows[1:] > rows[:-1]).all())
    return slice(first, first + n) if is_contiguous else rows

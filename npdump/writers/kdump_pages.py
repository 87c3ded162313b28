"""The pages of a kdump-compressed file, batch by batch, and the descriptors that point to them."""

from __future__ import annotations

import mmap
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from npdump.bitmap import BoolArray, Runs
from npdump.encoding import Encoded, PageEncoder, StoredEncoder
from npdump.errors import NoSpace
from npdump.job import Done
from npdump.pool import slots_needed
from npdump.ranges import Words
from npdump.sinks import Placement, Sink
from npdump.sources import OffersStored, Stored
from npdump.storage import ByteArray
from npdump.stream import PageBatch, is_zero, samples_of
from npdump.twins import NO_SLOT, PLACE, KnownPages, keys_of
from npdump.writers import Dump, How

__all__ = ["PageJob", "StoredJob"]

Rows = npt.NDArray[np.intp]
Describe = Callable[[int, npt.NDArray[np.void]], Placement]
"""`npdump.writers.kdump.KdumpLayout.descriptors`."""

COMPARED_NBYTES = 1 << 18
"""Bytes of pages compared at a time: they stay in the CPU's cache."""

_PART_SHIFT = 56
"""No file has so large an offset."""


class PageOrder(NamedTuple):
    """Pages to be compressed: which buffer they are in, how many there are in it, and which of them."""

    buffer: int
    npages: int
    rows: Rows


@dataclass(frozen=True)
class Batch:
    """See `npdump.job.Prepared`.

    Attributes
    ----------
    order : PageOrder or Stored
    rank, npages : int
    rows : ndarray of shape (m,), dtype intp
        The pages that are to be stored, in the order of ``order``.
    slots : ndarray of shape (n,), dtype intp
        Where `KnownPages` has each page, or the one that it equals.
    twins : ndarray of shape (k,), dtype intp
        The pages that equal an earlier one.
    """

    order: Any
    rank: int
    npages: int
    rows: Rows
    slots: Rows
    twins: Rows


class _Job:
    """What both jobs have in common; see `npdump.job.Job`."""

    def __init__(self, dump: Dump, how: How, sink: Sink, describe: Describe, n_pages: int) -> None:
        self._dump = dump
        self._how = how
        self._sink = sink
        self._describe = describe
        self._known = KnownPages(n_pages if how.share else 0)

    @property
    def is_repeatable(self) -> bool:
        """See `npdump.job.Job`."""
        return self._sink.can_rewrite

    def write(self, data: Any, offset: int) -> None:
        """See `npdump.job.Job.write`."""
        self._sink.write(offset, data)

    def release(self, batch: Batch) -> None:
        """See `npdump.job.Job.release`."""

    def finish(self, batch: Batch, encoded: Encoded, offset: int) -> Done:
        """Write the descriptors of a batch."""
        nbytes = encoded.sizes.astype(np.int64)
        stops = np.cumsum(nbytes)
        stored = np.empty(len(nbytes), PLACE)
        stored["offset"] = stops - nbytes + offset
        stored["size"] = encoded.sizes
        stored["flags"] = encoded.flags
        self._known.place(batch.slots[batch.rows], stored)
        places = np.zeros(batch.npages, PLACE)
        places[batch.rows] = stored
        places[batch.twins] = self._known.places(batch.slots[batch.twins])
        desc_offset, desc = self._describe(batch.rank, places)
        try:
            self._sink.write(desc_offset, desc)
        except NoSpace:
            if self._sink.can_rewrite:
                # The last descriptor that was written may have been cut: a page whose descriptor is zero is lost.
                with suppress(NoSpace):
                    self._sink.write(desc_offset, np.zeros_like(desc))
            raise
        n_zero = batch.npages - int(np.count_nonzero(places["size"]))
        return Done(batch.npages, n_zero, len(batch.twins), int(stops[-1]) if len(stops) else 0)

    def _page_encoder(self) -> PageEncoder:
        return PageEncoder(self._how.codec, self._how.engine, self._dump.source.page_size)


class PageJob(_Job):
    """Reads pages, looks which of them are zero pages or equal an earlier one, and has the others compressed.

    The pages are read once, into buffers that workers share with the calling process.
    """

    def __init__(self, dump: Dump, how: How, sink: Sink, describe: Describe, n_pages: int, n_workers: int) -> None:
        super().__init__(dump, how, sink, describe, n_pages)
        shape = (slots_needed(n_workers), how.batch_npages, dump.source.page_size)
        self._buffers: ByteArray = np.frombuffer(mmap.mmap(-1, int(np.prod(shape))), np.uint8).reshape(shape)
        self._free = list(range(shape[0]))
        self._recalled: ByteArray = np.empty(shape[1:], np.uint8)

    def prepare(self, batch: PageBatch) -> Batch:
        """See `npdump.job.Job.prepare`."""
        number = self._free.pop()
        n = batch.npages
        pages = self._buffers[number, :n]
        self._dump.source.gather(batch.runs, pages)
        samples = samples_of(pages)
        is_left = ~is_zero(pages, samples) if self._dump.drops_zero else np.ones(n, np.bool_)
        slots, twins = np.full(n, NO_SLOT), np.empty(0, np.intp)
        if self._how.share:
            found = self._known.look_up(keys_of(samples), batch.pfns)
            is_equal = self._are_equal(pages, found.twins, found.identities)
            slots, twins = found.slots, found.twins[is_equal]
            slots[found.twins[~is_equal]] = NO_SLOT
            is_left[twins] = False
        rows = np.flatnonzero(is_left)
        return Batch(PageOrder(number, n, rows), batch.rank, n, rows, slots, twins)

    def _are_equal(self, pages: ByteArray, rows: Rows, pfns: Words) -> BoolArray:
        """Compare some pages with earlier ones, byte for byte."""
        is_equal = np.empty(len(rows), np.bool_)
        order = np.argsort(pfns, kind="stable")
        rows, pfns = rows[order], pfns[order]
        is_new = np.append(True, pfns[1:] != pfns[:-1])[: len(pfns)]
        distinct, which = pfns[is_new], np.cumsum(is_new) - 1
        recalled = self._recalled[: len(distinct)]
        self._dump.source.gather(_runs(distinct), recalled)
        words, recalled_words = pages.view(np.uint64), recalled.view(np.uint64)
        step = max(COMPARED_NBYTES // pages.shape[1], 1)
        for at in range(0, len(rows), step):
            some = words[rows[at : at + step]]
            some ^= recalled_words[which[at : at + step]]
            is_equal[order[at : at + step]] = np.bitwise_or.reduce(some, axis=1) == 0
        return is_equal

    def make_encoder(self) -> Callable[[PageOrder], Encoded]:
        """See `npdump.job.Job.make_encoder`."""
        encode = self._page_encoder()

        def encode_order(order: PageOrder) -> Encoded:
            return encode(self._buffers[order.buffer, : order.npages], order.rows)

        return encode_order

    def release(self, batch: Batch) -> None:
        """See `npdump.job.Job.release`."""
        self._free.append(batch.order.buffer)


class StoredJob(_Job):
    """Copies pages that are compressed already, and has those compressed anew that must be."""

    def prepare(self, batch: PageBatch) -> Batch:
        """See `npdump.job.Job.prepare`."""
        source = self._dump.source
        assert isinstance(source, OffersStored)
        stored = source.stored(batch.runs)
        n = batch.npages
        is_left = ~stored.is_zero if self._dump.drops_zero else np.ones(n, np.bool_)
        slots, twins = np.full(n, NO_SLOT), np.empty(0, np.intp)
        if self._how.share:
            # Pages that share their place in the input do so again: here the place is the key.
            positions = (stored.offsets + (stored.numbers.astype(np.int64) << _PART_SHIFT)).astype(np.uint64)
            keys = np.where(is_left, keys_of(positions.reshape(-1, 1)), np.uint64(0))
            slots, twins, _ = self._known.look_up(keys, np.arange(batch.rank, batch.rank + n))
            is_left[twins] = False
        rows = np.flatnonzero(is_left)
        return Batch(stored[rows], batch.rank, n, rows, slots, twins)

    def make_encoder(self) -> Callable[[Stored], Encoded]:
        """See `npdump.job.Job.make_encoder`."""
        dump, how = self._dump, self._how
        assert isinstance(dump.source, OffersStored)
        return StoredEncoder(
            dump.source,
            dump.source.history,
            self._page_encoder(),
            int(how.codec.flag),
            dump.source.page_size,
            dump.drops_zero,
            how.as_stored,
        )


def _runs(pfns: Words) -> Runs:
    """Return the runs of ascending page frames."""
    breaks = np.flatnonzero(np.diff(pfns) != 1)
    starts = np.append(0, breaks + 1)[: len(pfns)]
    stops = np.append(breaks, len(pfns) - 1)[: len(pfns)]
    return np.column_stack((pfns[starts], pfns[stops] + 1))

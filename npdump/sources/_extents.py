# SPDX-License-Identifier: GPL-2.0-or-later
"""From the byte ranges of segments to page frames and file offsets."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from operator import itemgetter
from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import I64, U8, Runs, expand, group_edges, intersect, join, resolve_overlaps
from npdump.errors import AddressError, LostPage, ReadError
from npdump.sources import Loss

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npdump.storage import Storage
    from npdump.storage.file import FileRange

__all__ = ["PageExtents", "page_runs"]


def page_runs(start: I64, stop: I64, page_shift: int, with_heads: bool = False) -> Runs:
    """Return the page frames of byte ranges ``[start, stop)``, as disjoint ascending runs.

    A page of which a range holds only the tail counts, one of which it holds only the head doesn't, unless
    ``with_heads``. The kernel uses neither (Linux ``mm/mm_init.c`` rounds the start of memory up and its end down);
    makedumpfile 1.7.9 takes them this way, and a page that lies in two ranges is there by the second's rule.
    """
    first = start >> page_shift
    last = -(-stop >> page_shift) if with_heads else stop >> page_shift
    used = last > first
    first, last = first[used], last[used]
    order = np.argsort(first, kind="stable")
    return join(np.column_stack((first[order], last[order])))


class PageExtents:
    """Where in a file each page of physical memory is.

    Parameters
    ----------
    storage : Storage
    paddr, nbytes, offset : ndarray of shape (n,), dtype int64
        Byte ranges of physical memory and their file offsets, in file order; they may overlap.
    page_size : int
        A power of two.
    """

    def __init__(self, storage: Storage, paddr: I64, nbytes: I64, offset: I64, page_size: int) -> None:
        self._storage = storage
        self._page_size = page_size
        self._page_shift = shift = page_size.bit_length() - 1
        used = nbytes > 0
        start, stop, offset = resolve_overlaps(paddr[used], paddr[used] + nbytes[used], offset[used])
        # Neighbours in memory that are neighbours in the file too are one extent.
        if len(start):
            is_next = (start[1:] == stop[:-1]) & (offset[1:] == offset[:-1] + (stop - start)[:-1])
            firsts, lasts = group_edges(~is_next)
            start, stop, offset = start[firsts], stop[lasts], offset[firsts]

        first, last = -(-start >> shift), stop >> shift
        whole = first < last
        self._starts: I64 = first[whole]
        self._stops: I64 = last[whole]
        self._offsets: I64 = (offset + (first << shift) - start)[whole]
        # Where page frame 0 would be.
        self._zero_offsets: I64 = self._offsets - (self._starts << shift)
        self._fragments = self._find_fragments(start, stop, offset)

    def _find_fragments(self, start: I64, stop: I64, offset: I64) -> dict[int, list[tuple[int, int, int]]]:
        """Return the (offset in page, nbytes, file offset) of the parts of each page that no extent covers wholly."""
        shift, mask = self._page_shift, self._page_size - 1
        fragments: dict[int, list[tuple[int, int, int]]] = {}
        for i in np.flatnonzero((start & mask != 0) | (stop & mask != 0)).tolist():
            head, tail, at = int(start[i]), int(stop[i]), int(offset[i])
            edges = {head >> shift} if head & mask else set()
            if tail & mask:
                edges.add(tail >> shift)
            for pfn in edges:
                lower, upper = max(head, pfn << shift), min(tail, (pfn + 1) << shift)
                fragments.setdefault(pfn, []).append((lower & mask, upper - lower, at + lower - head))
        return fragments

    def _piece(self, pfn: int, pfn_stop: int, used: tuple[int, int] | None = None) -> tuple[int, U8]:
        """Return how many pages from ``pfn`` on (at most to ``pfn_stop``) stand together, and their bytes.

        Of a page that consists of parts, only those of the bytes ``used`` are read: it may have thousands.
        """
        i = int(np.searchsorted(self._starts, pfn, side="right")) - 1
        if i >= 0 and pfn < self._stops[i]:
            n = min(pfn_stop, int(self._stops[i])) - pfn
            offset = int(self._offsets[i]) + ((pfn - int(self._starts[i])) << self._page_shift)
            return n, self._storage.view(offset, n << self._page_shift)
        parts = self._fragments.get(pfn)
        if parts is None:
            raise AddressError(f"physical page {pfn:#x} isn't in the dump", pfn=pfn)
        page = np.zeros(self._page_size, np.uint8)
        low, high = used or (0, self._page_size)
        # They are ascending, and none lies over another.
        first = max(bisect_right(parts, low, key=itemgetter(0)) - 1, 0)
        for at, nbytes, offset in parts[first : bisect_left(parts, high, key=itemgetter(0))]:
            page[at : at + nbytes] = self._storage.view(offset, nbytes)
        return 1, page

    def view(self, paddr: int, nbytes: int) -> U8:
        """See `npdump.sources.Source.view`."""
        pfn = paddr >> self._page_shift
        pfn_stop = -(-(paddr + nbytes) >> self._page_shift)
        skip = paddr - (pfn << self._page_shift)
        pieces = []
        while pfn < pfn_stop:
            try:
                low = paddr - (pfn << self._page_shift)
                n, data = self._piece(pfn, pfn_stop, (low, low + nbytes))
            except ReadError as error:
                raise self._lost(pfn, error) from error
            pieces.append(data)
            pfn += n
        whole = pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [np.empty(0, np.uint8)])
        return whole[skip : skip + nbytes]

    @staticmethod
    def _lost(pfn: int, error: ReadError) -> LostPage:
        lost = LostPage(f"physical page {pfn:#x}: {error}", path=error.path, offset=error.offset, pfn=pfn)
        lost.__cause__ = error
        return lost

    def maybe_nonzero(self, runs: Runs) -> Runs:
        """See `npdump.sources.Source.maybe_nonzero`."""
        if not (self._storage.may_have_holes and len(runs)):
            return runs
        start, stop = int(runs[0, 0]), int(runs[-1, 1])
        i = int(np.searchsorted(self._starts, start, side="right")) - 1
        if i < 0 or stop > self._stops[i]:
            return runs
        shift = self._page_shift
        zero_offset = int(self._zero_offsets[i])
        lowest, end = zero_offset + (start << shift), zero_offset + (stop << shift)
        data = self._storage.data_ranges(lowest, end)
        if len(data) == 1 and data[0, 0] == lowest and data[0, 1] == end:
            return runs
        pages = data - zero_offset
        pages[:, 1] += self._page_size - 1
        pages >>= shift
        # A page may hold the end of one range and the start of the next.
        np.maximum(pages[1:, 0], pages[:-1, 1], out=pages[1:, 0])
        return intersect(runs, pages[pages[:, 0] < pages[:, 1]])

    def file_range(self, pfn_start: int, pfn_stop: int) -> FileRange | None:
        """See `npdump.sources.Source.file_range`."""
        find = getattr(self._storage, "file_range", None)
        i = int(self._starts.searchsorted(pfn_start, side="right")) - 1
        if find is None or i < 0 or pfn_stop > self._stops[i]:
            return None
        offset, npages = int(self._zero_offsets[i]) + (pfn_start << self._page_shift), pfn_stop - pfn_start
        found: FileRange | None = find(offset, npages << self._page_shift)
        return found

    def gather(self, runs: Runs, out: U8) -> Sequence[Loss]:
        """See `npdump.sources.Source.gather`."""
        zero_offsets = self._zero_offsets_of(runs)
        if zero_offsets is not None:
            bounds = runs << self._page_shift
            try:
                self._storage.gather(bounds[:, 0] + zero_offsets, bounds[:, 1] - bounds[:, 0], out.reshape(-1))
            except ReadError:
                return self._gather_singly(runs, out)
            return ()
        row = 0
        try:
            for pfn, pfn_stop in runs.tolist():
                while pfn < pfn_stop:
                    n, data = self._piece(pfn, pfn_stop)
                    out[row : row + n] = data.reshape(n, self._page_size)
                    row += n
                    pfn += n
        except ReadError:
            return self._gather_singly(runs, out)
        return ()

    def _zero_offsets_of(self, runs: Runs) -> I64 | np.int64 | None:
        """Return where page frame 0 would be for each run, or for all; None if one is not in an extent as a whole."""
        if not len(runs) or not len(self._starts):
            return None
        i = self._starts.searchsorted(runs[0, 0], side="right") - 1
        if i >= 0 and runs[-1, 1] <= self._stops[i]:
            zero_offset: np.int64 = self._zero_offsets[i]
            return zero_offset
        owners = self._starts.searchsorted(runs[:, 0], side="right") - 1
        is_whole = (owners >= 0).all() and (runs[:, 1] <= self._stops[owners]).all()
        return self._zero_offsets[owners] if is_whole else None

    def _gather_singly(self, runs: Runs, out: U8) -> list[Loss]:
        """Do as `gather`, page by page: some can't be read."""
        losses = []
        for row, pfn in enumerate(expand(runs[:, 0], runs[:, 1] - runs[:, 0]).tolist()):
            try:
                out[row] = self._piece(pfn, pfn + 1)[1]
            except ReadError as error:
                out[row] = 0
                losses.append(Loss(row, self._lost(pfn, error)))
        return losses

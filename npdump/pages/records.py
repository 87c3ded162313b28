# SPDX-License-Identifier: GPL-2.0-or-later
"""Struct pages by page frame: reads the memory map in batches."""

from __future__ import annotations

import bisect
from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import AddressError
from npdump.kernel.memory import Extent, VirtualMemory

if TYPE_CHECKING:
    from npdump.arrays import U8, Records
    from npdump.kernel.kernel import MemMap

__all__ = ["StructPages"]

_GROUP_NBYTES = 128 << 20
"""Virtual memory whose translation is looked up at once."""


class StructPages:
    """The memory map's struct pages.

    Parameters
    ----------
    memory : VirtualMemory
    memmap : MemMap
    dtype : dtype
        Of struct page.

    Attributes
    ----------
    n_unreadable : int
        Struct pages that couldn't be read so far.
    """

    def __init__(self, memory: VirtualMemory, memmap: MemMap, dtype: np.dtype) -> None:
        self._memory = memory
        self._dtype = dtype
        self._starts: list[int] = memmap.pfn_starts.tolist()
        self._stops: list[int] = memmap.pfn_stops.tolist()
        self._vaddrs: list[int] = memmap.vaddrs.tolist()
        self._group: list[Extent] = []
        self.n_unreadable = 0

    def read(self, pfn_start: int, pfn_stop: int) -> Records | None:
        """Return the struct pages of ``[pfn_start, pfn_stop)``, None if none of them is there.

        Returns
        -------
        ndarray of shape (n,), or None
            Struct pages that don't exist or can't be read are all zero, which no rule excludes.
        """
        first = bisect.bisect_right(self._stops, pfn_start)
        pieces = []
        for i in range(first, len(self._starts)):
            start, stop = max(self._starts[i], pfn_start), min(self._stops[i], pfn_stop)
            if start >= stop:
                break
            pieces.append((i, start, stop))
        if len(pieces) == 1 and pieces[0][1:] == (pfn_start, pfn_stop):
            return self._records(*pieces[0])
        if not pieces:
            return None
        records = np.zeros(pfn_stop - pfn_start, self._dtype)
        rows = records.view(np.uint8).reshape(len(records), -1)
        for i, start, stop in pieces:
            piece = self._records(i, start, stop)
            rows[start - pfn_start : stop - pfn_start] = piece.view(np.uint8).reshape(len(piece), -1)
        return records

    def _records(self, run: int, pfn_start: int, pfn_stop: int) -> Records:
        count, itemsize = pfn_stop - pfn_start, self._dtype.itemsize
        nbytes = count * itemsize
        vaddr = self._vaddrs[run] + (pfn_start - self._starts[run]) * itemsize
        extents = self._extents(vaddr, nbytes, (self._stops[run] - pfn_start) * itemsize)
        if len(extents) == 1 and extents[0].paddr is not None:
            try:
                raw = self._memory.view_physical(extents[0].paddr, nbytes)
            except AddressError:
                pass
            else:
                return raw.view(self._dtype)
        assembled = np.zeros(nbytes, np.uint8)
        n_lost = sum(self._fill(assembled[e.vaddr - vaddr :][: e.nbytes], e) for e in extents)
        n_unreadable = -(-n_lost // itemsize)
        self.n_unreadable += n_unreadable
        return assembled.view(self._dtype)

    def _fill(self, out: U8, extent: Extent) -> int:
        """Copy an extent; return how many of its bytes aren't there."""
        if extent.paddr is None:
            return extent.nbytes
        try:
            out[:] = self._memory.view_physical(extent.paddr, extent.nbytes)
            return 0
        except AddressError:
            pass
        # Some of it isn't in the dump: take what is, page by page.
        n_lost = at = 0
        while at < extent.nbytes:
            paddr = extent.paddr + at
            nbytes = min(self._memory.page_size - paddr % self._memory.page_size, extent.nbytes - at)
            try:
                out[at : at + nbytes] = self._memory.view_physical(paddr, nbytes)
            except AddressError:
                n_lost += nbytes
            at += nbytes
        return n_lost

    def _extents(self, vaddr: int, nbytes: int, left_nbytes: int) -> list[Extent]:
        """Translate a range, looking up more of the ``left_nbytes`` of its run at once: the next ranges follow."""
        group = self._group
        if not group or vaddr < group[0].vaddr or vaddr + nbytes > group[-1].vaddr + group[-1].nbytes:
            group = self._group = self._memory.extents(vaddr, max(nbytes, min(left_nbytes, _GROUP_NBYTES)))
        stop = vaddr + nbytes
        first = bisect.bisect_right(group, vaddr, key=lambda extent: extent.vaddr) - 1
        cut = []
        for extent in group[first:]:
            if extent.vaddr >= stop:
                break
            start = max(extent.vaddr, vaddr)
            end = min(extent.vaddr + extent.nbytes, stop)
            paddr = None if extent.paddr is None else extent.paddr + start - extent.vaddr
            cut.append(Extent(start, end - start, paddr))
        return cut

# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether pages that seem to be on LRU lists are: whether the next page in the list knows of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.pages.policy import Trait

if TYPE_CHECKING:
    from npdump.arrays import U64, Bool
    from npdump.kernel.kernel import Kernel, MemMap
    from npdump.pages.selfcheck.view import View

__all__ = ["LruLinks"]

MAX_LINKS = 128
LINK_STRIDE = 4
"""Pages whose neighbours in their LRU list are looked at, and how many cache pages there are for each."""

MAX_LOCKS = 256
"""Half-open bound on how often a page is locked into memory; no address ends in so small a number."""

_LOWER_HALF = np.uint64(0xFFFFFFFF)


class LruLinks:
    """Some pages on LRU lists."""

    def __init__(self, kernel: Kernel, memmap: MemMap, dtype: np.dtype[np.void]) -> None:
        self._memory = kernel.memory
        self._memmap = memmap
        self._struct_nbytes = np.uint64(dtype.itemsize)
        names, fields = dtype.names or (), dtype.fields
        self._offset = np.uint64(fields["next"][1] if fields and "next" in names else 0)
        self._owns: list[U64] = []
        self._nexts: list[U64] = []

    def take(self, view: View) -> None:
        """Add pages of a sample, as many as belong to its share of all cache pages."""
        if "next" not in view.columns:
            return
        records = view.records
        rows = np.flatnonzero(view.has_trait(Trait.CACHE) & ~view.is_tail & view.is_ram)[::LINK_STRIDE]
        if records.dtype["prev"].itemsize == 8:
            # Linux 07ca76067308, v5.18: the lower half of the second link of pages that can't be evicted, which are on
            # no list, says how often they are locked.
            rows = rows[(records["prev"][rows].astype(np.uint64) & _LOWER_HALF) >= MAX_LOCKS]
        pfns = view.pfns[rows]
        runs = np.searchsorted(self._memmap.pfn_stops, pfns, side="right")
        within = (pfns - self._memmap.pfn_starts[runs]).astype(np.uint64)
        self._owns.append(self._memmap.vaddrs[runs] + within * self._struct_nbytes + self._offset)
        self._nexts.append(records["next"][rows].astype(np.uint64))

    def are_broken(self) -> Bool:
        """Return, for each page that was looked at, whether the next one does not know of it."""
        if not self._owns:
            return np.zeros(0, np.bool_)
        owns, nexts = np.concatenate(self._owns), np.concatenate(self._nexts)
        thin = slice(None, None, -(-len(owns) // MAX_LINKS) or 1)
        owns, nexts = owns[thin], nexts[thin]
        if not nexts.any():
            return np.zeros(0, np.bool_)  # a kernel without lists
        words, found = self._memory.read_words(nexts + np.uint64(self._memory.word.itemsize))
        # A page that is linked to itself is on no list.
        return (nexts == owns) | ~found | (words != owns)

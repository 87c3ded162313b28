# SPDX-License-Identifier: GPL-2.0-or-later
"""The crashed kernel as one value, and where its struct pages are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arrays import group_edges

if TYPE_CHECKING:
    from npdump.arch import Arch
    from npdump.arrays import I64, U64
    from npdump.facts import Facts
    from npdump.kernel.memory import VirtualMemory

__all__ = ["Kernel", "MemMap"]


class Kernel(NamedTuple):
    """What a memory model needs to look at: the crashed kernel's facts, machine, memory and page size (bytes).

    ``memmap`` is its memory map, once that was found: `find` then returns it.
    """

    facts: Facts
    arch: Arch
    memory: VirtualMemory
    page_size: int
    memmap: MemMap | None = None


class MemMap(NamedTuple):
    """Runs of page frames whose struct pages stand together in virtual memory.

    Attributes
    ----------
    pfn_starts, pfn_stops : ndarray of shape (n,), dtype int64
        Half-open, ascending, disjoint.
    vaddrs : ndarray of shape (n,), dtype uint64
        Address of the struct page of each run's first page frame.
    n_damaged : int
        Pieces of the memory map that weren't plausible and were left out; their pages are kept.
    """

    pfn_starts: I64
    pfn_stops: I64
    vaddrs: U64
    n_damaged: int = 0

    def joined(self, struct_nbytes: int) -> MemMap:
        """Return the same map with runs joined that are neighbours in page frames and in virtual memory.

        With SPARSEMEM_VMEMMAP this makes one run of all sections without a hole between them.
        """
        nbytes = (self.pfn_stops - self.pfn_starts).astype(np.uint64) * np.uint64(struct_nbytes)
        firsts, lasts = group_edges(
            (self.pfn_starts[1:] != self.pfn_stops[:-1]) | (self.vaddrs[1:] != (self.vaddrs + nbytes)[:-1])
        )
        return MemMap(self.pfn_starts[firsts], self.pfn_stops[lasts], self.vaddrs[firsts], self.n_damaged)

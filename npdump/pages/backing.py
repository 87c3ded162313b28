# SPDX-License-Identifier: GPL-2.0-or-later
"""Which page frames are behind ranges of kernel addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from npdump.kernel.memory import VirtualMemory

__all__ = ["Backing"]


class Backing:
    """The page frames that ranges of kernel addresses are mapped to.

    Parameters
    ----------
    memory : VirtualMemory
    ranges : iterable of (int, int)
        Addresses and lengths in bytes; what is not mapped is passed over.

    Raises
    ------
    AddressError
        If the machine has no such addresses.
    """

    def __init__(self, memory: VirtualMemory, ranges: Iterable[tuple[int, int]]) -> None:
        self._page_size = page_size = memory.page_size
        rows = []
        for number, (vaddr, nbytes) in enumerate(ranges):
            for extent in memory.extents(vaddr, nbytes):
                if extent.paddr is not None:
                    stop = -(-(extent.paddr + extent.nbytes) // page_size)
                    rows.append((extent.paddr // page_size, stop, number, extent.vaddr - extent.vaddr % page_size))
        # By the first page frame; the dtype is that of addresses.
        self._rows = np.array(sorted(rows), np.uint64).reshape(-1, 4)

    def find(self, pfn: int) -> tuple[int, int] | None:
        """Return which of the ranges a page frame is behind, and the address of its first byte; None if none.

        Where it is mapped several times (HVO, Linux v5.14), this is one of them.
        """
        i = int(np.searchsorted(self._rows[:, 0], np.uint64(pfn), side="right")) - 1
        if i < 0 or pfn >= int(self._rows[i, 1]):
            return None
        start, _, number, vaddr = self._rows[i].tolist()
        return number, vaddr + (pfn - start) * self._page_size

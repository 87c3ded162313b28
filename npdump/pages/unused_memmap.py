# SPDX-License-Identifier: GPL-2.0-or-later
"""Struct pages that nobody needs: those of pages that are left out (``-e``).

References
----------
makedumpfile 1.7.9, find_unused_vmemmap_pages(), whose choice this is; it needs a mapping by large pages and a file for
its bitmaps, this does not.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import Runs, intersect, join, mask_of, runs_of, subtract
from npdump.kernel.memmap import find
from npdump.pages.policy import PageClass
from npdump.pages.struct_page import describe
from npdump.pages.window import BATCH_NPAGES

if TYPE_CHECKING:
    from npdump.arrays import U8, Bool, Records
    from npdump.kernel.kernel import Kernel, MemMap
    from npdump.pages.scan import PageScan
    from npdump.sources import Source

__all__ = ["without_unused"]

_UNIT_NPAGES = 64
"""A word of a bitmap: only words without any page that stays count, and at least two of them together."""

_MAPPING_NBYTES = 2 << 20
"""makedumpfile keeps all that the last large page of the memory map holds."""


class _Unused:
    """Leaves out pages that hold struct pages; see `npdump.pages.scan_context.Decide`."""

    def __init__(self, pfns: Runs) -> None:
        self._pfns = pfns

    def __call__(self, pfn_start: int, classes: U8, is_ram: Bool, has_data: Bool, records: Records | None) -> U8:
        """See `npdump.pages.scan_context.Decide`."""
        is_unused = mask_of(self._pfns, pfn_start, pfn_start + len(classes)) & (classes == PageClass.KEPT)
        return np.where(is_unused, np.uint8(PageClass.MEMMAP), classes) if is_unused.any() else classes


def without_unused(scan: PageScan, kernel: Kernel, source: Source) -> PageScan:
    """Return the scan that leaves out struct pages of the pages that ``scan`` leaves out, as far as they fill pages.

    Parameters
    ----------
    scan : PageScan
        Its pages are gone over.
    kernel : Kernel
    source : Source

    Raises
    ------
    FactError, AddressError, MemmapError
        If the struct pages cannot be found.
    """
    page = describe(kernel.facts, kernel.memory.space.byte_order, kernel.arch.bits)
    memmap = find(kernel, page.nbytes, source.max_mapnr)
    per_mapping = _MAPPING_NBYTES // page.nbytes
    pfn_stop = (source.max_mapnr - 1) // per_mapping * per_mapping
    left_out = intersect(_left_out(scan), np.array([[0, pfn_stop]], np.int64))
    return scan.followed_by(_Unused(_unused(kernel, memmap, page.nbytes, left_out)))


def _left_out(scan: PageScan) -> Runs:
    """Return the runs of memory of which nothing stays, in units of `_UNIT_NPAGES`."""
    found = [np.empty((0, 2), np.int64)]
    for window in scan.windows():
        for start in range(window.pfn_start, window.pfn_stop, BATCH_NPAGES):
            stop = min(start + BATCH_NPAGES, window.pfn_stop)
            stop -= (stop - start) % _UNIT_NPAGES
            is_out = window.ram.get(start, stop) & ~window.kept.get(start, stop)
            runs = runs_of(np.asarray(is_out.reshape(-1, _UNIT_NPAGES).all(axis=1)))
            found.append(start + _UNIT_NPAGES * runs[runs[:, 1] - runs[:, 0] > 1])
    return np.concatenate(found)


def _unused(kernel: Kernel, memmap: MemMap, struct_nbytes: int, left_out: Runs) -> Runs:
    """Return the page frames that hold nothing but struct pages of ``left_out``.

    With HVO (Linux 5.14) several pages of the memory map share one: it stays if one of them does.
    """
    page_size = kernel.page_size
    unused, used = [np.empty((0, 2), np.int64)], [np.empty((0, 2), np.int64)]
    pieces = (memmap.pfn_starts.tolist(), memmap.pfn_stops.tolist(), memmap.vaddrs.tolist())
    for start, stop, vaddr in zip(*pieces, strict=True):
        base = vaddr // page_size * page_size
        own = intersect(left_out, np.array([[start, stop]], np.int64))
        first, last = ((own - start) * struct_nbytes + (vaddr - base)).T
        wanted = np.column_stack((-(-first // page_size), last // page_size))
        wanted = wanted[wanted[:, 0] < wanted[:, 1]]
        for extent in kernel.memory.extents(base, vaddr - base + (stop - start) * struct_nbytes):
            if extent.paddr is None:
                continue
            at, n = (extent.vaddr - base) // page_size, -(-extent.nbytes // page_size)
            whole = np.array([[at, at + n]], np.int64)
            near = intersect(whole, wanted)
            moved = extent.paddr // page_size - at
            unused.append(near + moved)
            used.append(subtract(whole, near) + moved)
    return subtract(_ordered(unused), _ordered(used))


def _ordered(pieces: list[Runs]) -> Runs:
    runs = np.concatenate(pieces)
    return join(runs[np.argsort(runs[:, 0], kind="stable")])

# SPDX-License-Identifier: GPL-2.0-or-later
"""What each page is, and whether it stays.

The scan goes over physical memory in windows: for each it fills the two bitmaps of a dump file, batch by batch, from
the struct pages. One window holds all of memory unless that takes more room than wanted; then the writers go over
the windows twice (once to count, once to write), as makedumpfile's cyclic mode does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import U8, Bool, Records, Runs, is_within, mask_of
from npdump.bitmap import Allocate, Bitmap, in_memory
from npdump.errors import AddressError, FactError, MemmapError
from npdump.kernel.memmap import find
from npdump.pages.blocks import NO_CARRY, Carry, cover
from npdump.pages.free_lists import FreeBlocks, read_free_lists
from npdump.pages.policy import UNSAFE, DumpLevel, PageClass, Trait, table
from npdump.pages.records import StructPages
from npdump.pages.struct_page import StructPage, describe
from npdump.pages.traits import are_largest_free_blocks, traits_and_orders

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from npdump.kernel.kernel import Kernel
    from npdump.sources import Source

__all__ = ["DEFAULT_WINDOW_NPAGES", "PageScan", "Window", "open_scan"]

BATCH_NPAGES = 1 << 15
"""Page frames classified at a time: 2 MiB of struct pages of 64 bytes, what one entry of a page table maps."""

DEFAULT_WINDOW_NPAGES = 1 << 31
"""Page frames whose bitmaps are held at once: 8 TiB in pages of 4 KiB, 512 MiB of bitmaps at most."""


class Window:
    """The page frames ``[pfn_start, pfn_stop)``.

    Attributes
    ----------
    ram : Bitmap
        In the input, or was before the input was filtered: bitmap 1 of a dump file.
    kept : Bitmap
        To be dumped: bitmap 2.
    unsafe : Bitmap
        Left out, and not to be read on any account.
    """

    def __init__(self, pfn_start: int, pfn_stop: int, allocate: Allocate) -> None:
        self.pfn_start = pfn_start
        self.pfn_stop = pfn_stop
        self.ram, self.kept, self.unsafe = (Bitmap(pfn_start, pfn_stop, allocate) for _ in range(3))


def needs_struct_pages(page: StructPage, level: int, has_free_lists: bool = False) -> bool:
    """Tell whether pages can be left out at ``level`` for what their struct pages say.

    Broken and offline pages go at every level on kernels that name PG_hwpoison, as with makedumpfile.
    """
    return bool(level & 0b01110 or page.hwpoison or (level & 0b10000 and (page.tells_free or has_free_lists)))


class PageScan:
    """Classifies all pages of a dump.

    Parameters
    ----------
    source : Source
    max_mapnr : int
        One more than the highest page frame to look at.
    level : int
        Dump level, 0 to 31; bit 0 (zero pages) is not looked at here.
    page : StructPage or None
    struct_pages : StructPages or None
        None for both keeps all pages that the input has.
    window_npages : int
        Page frames in a window; rounded up to a batch.
    allocate : callable
        Makes room for the bitmaps.
    progress : callable
        Takes how many of how many page frames are done.
    free_blocks : FreeBlocks, optional
        The free blocks, where their struct pages don't tell them.

    Attributes
    ----------
    n_ram : int
        Pages that the input has, or had before it was filtered, after the windows were gone over.
    counts : ndarray of shape (len(PageClass),), dtype int64
        Pages of each class, of those that the input has, after the windows were gone over.
    """

    def __init__(
        self,
        source: Source,
        max_mapnr: int,
        level: int,
        page: StructPage | None = None,
        struct_pages: StructPages | None = None,
        window_npages: int = DEFAULT_WINDOW_NPAGES,
        allocate: Allocate = in_memory,
        progress: Callable[[int, int], None] = lambda done, total: None,
        free_blocks: FreeBlocks | None = None,
    ) -> None:
        self._source = source
        self._page = page
        self._struct_pages = struct_pages
        self._classes = table(level)
        self._drops_free = bool(level & DumpLevel.FREE)
        self._window_npages = -(-window_npages // BATCH_NPAGES) * BATCH_NPAGES
        self._allocate = allocate
        self._progress = progress
        self._free_blocks = free_blocks
        self._only_window: Window | None = None
        self.max_mapnr = max_mapnr
        self.n_ram = 0
        self.counts = np.zeros(len(PageClass), np.int64)

    @property
    def n_unreadable(self) -> int:
        """Struct pages that couldn't be read; their pages are kept."""
        return self._struct_pages.n_unreadable if self._struct_pages else 0

    @property
    def has_one_window(self) -> bool:
        """Whether one window holds all of memory, and so is scanned only once."""
        return self._window_npages >= self.max_mapnr

    def windows(self) -> Iterator[Window]:
        """Yield the windows in ascending order; a single one is scanned only once, however often it's asked for.

        Raises
        ------
        MemmapError
            If not one struct page could be read.
        """
        if self._only_window is not None:
            yield self._only_window
            return
        carry = NO_CARRY
        self.counts[:] = 0
        self.n_ram = 0
        for pfn_start in range(0, self.max_mapnr, self._window_npages):
            window = Window(pfn_start, min(pfn_start + self._window_npages, self.max_mapnr), self._allocate)
            carry = self._scan(window, carry)
            if self.has_one_window:
                self._only_window = window
            if window.pfn_stop == self.max_mapnr and self._struct_pages and not self._struct_pages.n_read:
                raise MemmapError(
                    f"{self._source.path}: none of the kernel's struct pages is where VMCOREINFO and the page tables "
                    "say: the dump or its VMCOREINFO is damaged; only dump levels 0 and 1 are possible"
                )
            yield window

    def _scan(self, window: Window, carry: Carry) -> Carry:
        unsafe_class = np.zeros(len(PageClass), np.bool_)
        unsafe_class[list(UNSAFE)] = True
        for start in _batches(self._source.ram_runs, window.pfn_start, window.pfn_stop):
            stop = min(start + BATCH_NPAGES, window.pfn_stop)
            records = self._struct_pages.read(start, stop) if self._struct_pages else None
            if records is not None and carry.pfn_stop <= start and self._are_free(records, start, stop):
                window.ram.fill(start, stop)
                self.n_ram += stop - start
                self.counts[PageClass.FREE] += stop - start
                self._progress(stop, self.max_mapnr)
                continue
            is_ram = mask_of(self._source.ram_runs, start, stop)
            has_data = mask_of(self._source.data_runs, start, stop) & is_ram
            window.ram.put(start, is_ram)
            self.n_ram += int(is_ram.sum())
            covered, carry = self._classify(records, start, stop, is_ram, carry)
            self._progress(stop, self.max_mapnr)
            if covered is None:
                window.kept.put(start, has_data)
                continue
            self.counts += np.bincount(covered[has_data], minlength=len(PageClass))
            is_unsafe = unsafe_class[covered]
            if is_unsafe.any():
                window.unsafe.put(start, is_unsafe)
            window.kept.put(start, has_data & (covered == PageClass.KEPT))
        return carry

    def _are_free(self, records: Records, start: int, stop: int) -> bool:
        """Tell whether pages are all there, and all free: most of a large machine's are, and take no longer look."""
        page = self._page
        return (
            self._drops_free
            and page is not None
            and is_within(self._source.ram_runs, start, stop)
            and is_within(self._source.data_runs, start, stop)
            and are_largest_free_blocks(records, page)
        )

    def _classify(
        self, records: Records | None, start: int, stop: int, is_ram: Bool, carry: Carry
    ) -> tuple[U8 | None, Carry]:
        """Return the class of each page, None if they are all kept."""
        if self._page is None:
            return None, NO_CARRY
        if records is None:
            if carry.pfn_stop <= start:
                return None, NO_CARRY
            records = np.zeros(stop - start, self._page.dtype)
        traits, orders = traits_and_orders(records, start, self._page, self._source.page_size)
        if self._free_blocks is not None:
            self._free_blocks.mark(traits, orders, start)
        classes = self._classes[traits]
        classes[~is_ram] = PageClass.KEPT
        # A broken page is one page, unless it's hugetlb: its mark is then on the head, for the whole of it.
        alone = (classes == PageClass.HWPOISON) & ((traits & Trait.HUGETLB) == 0)
        if alone.any():
            orders[alone] = 0
        return cover(classes, orders, start, carry)


def open_scan(
    source: Source,
    kernel: Kernel | None,
    level: int,
    window_npages: int,
    allocate: Allocate,
    warn: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> PageScan:
    """Find what is needed to classify pages at a dump level.

    Parameters
    ----------
    source : Source
    kernel : Kernel or None
        None if nothing is known of it.
    level : int
    window_npages, allocate, progress
        See `PageScan`.
    warn : callable
        Takes a line about what can't be told, and so is kept.

    Raises
    ------
    FactError, AddressError, MemmapError
        If the pages can't be told apart and the level asks for it.
    """
    max_mapnr = source.max_mapnr
    page = struct_pages = free_blocks = None
    if kernel is not None:
        try:
            page = describe(kernel.facts, kernel.memory.space.byte_order, kernel.arch.bits)
            memmap = find(kernel, page.nbytes, max_mapnr)
        except (FactError, AddressError, MemmapError) as error:
            if level > 1:
                raise
            warn(f"{error}: broken and offline pages are not left out")
            page = None
        else:
            # What lies above the last struct page is no memory of the kernel's: QEMU dumps the firmware's ROM below
            # 4 GiB, and with mem= the kernel doesn't use all that there is. makedumpfile leaves it out as well.
            max_mapnr = min(max_mapnr, int(memmap.pfn_stops[-1]))
            if level & DumpLevel.FREE:
                free_blocks = read_free_lists(kernel, memmap, page, warn)
            if needs_struct_pages(page, level, free_blocks is not None):
                for gap in page.missing(level & ~DumpLevel.FREE if free_blocks else level):
                    warn(f"VMCOREINFO lacks {gap}")
                if memmap.n_damaged:
                    warn(f"{memmap.n_damaged} memory sections have no plausible memory map: their pages are kept")
                struct_pages = StructPages(source, kernel.memory, memmap, page.dtype)
    return PageScan(source, max_mapnr, level, page, struct_pages, window_npages, allocate, progress, free_blocks)


def _batches(runs: Runs, pfn_start: int, pfn_stop: int) -> Iterator[int]:
    """Yield the first page frame of each batch in ``[pfn_start, pfn_stop)`` that has any page of ``runs``."""
    at = pfn_start
    first = np.searchsorted(runs[:, 1], pfn_start, side="right")
    last = np.searchsorted(runs[:, 0], pfn_stop, side="left")
    for run_start, run_stop in runs[first:last].tolist():
        at = max(at, run_start // BATCH_NPAGES * BATCH_NPAGES)
        while at < min(run_stop, pfn_stop):
            yield at
            at += BATCH_NPAGES

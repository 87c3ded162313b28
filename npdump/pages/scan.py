# SPDX-License-Identifier: GPL-2.0-or-later
"""What each page is, and whether it stays.

The scan goes over physical memory batch by batch, and gives each page the class that its struct page says. Writers take
the result in windows, as the two bitmaps of a dump file. One window holds all of memory unless that takes more room
than wanted; then the writers go over the windows twice (once to count, once to write), as makedumpfile's cyclic mode
does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import U8, Bool, Records, Runs, is_within, mask_of
from npdump.bitmap import Allocate, in_memory
from npdump.errors import AddressError, FactError, MemmapError
from npdump.observer import SILENT, Observer
from npdump.pages.blocks import NO_CARRY, Carry
from npdump.pages.classes import Classifier
from npdump.pages.columns import Columns
from npdump.pages.policy import DumpLevel, PageClass
from npdump.pages.scan_context import Decide, ScanContext, with_struct_pages
from npdump.pages.traits import are_largest_free_blocks, traits_and_orders
from npdump.pages.window import ALL, ALL_FREE, ALL_KEPT, BATCH_NPAGES, ClassBatch, Totals, Window

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from npdump.kernel.kernel import Kernel
    from npdump.pages.vital import Guard
    from npdump.sources import Source

__all__ = ["DEFAULT_WINDOW_NPAGES", "SCAN_STAGE", "PageScan", "open_scan"]

DEFAULT_WINDOW_NPAGES = 1 << 31
"""Page frames whose bitmaps are held at once: 8 TiB in pages of 4 KiB, 512 MiB of bitmaps at most."""

SCAN_STAGE = "Excluding unnecessary pages"
"""What observers hear that a scan is called."""


class PageScan:
    """The classes of all pages of a dump.

    Parameters
    ----------
    context : ScanContext
    observer : Observer, optional
        Hears how far a scan is.
    window_npages : int, optional
        Page frames in a window; rounded up to a batch.
    allocate : callable, optional
        Makes room for the bitmaps.

    Attributes
    ----------
    max_mapnr, level : int
        See `ScanContext`.

    Notes
    -----
    Each of `batches`, `windows` and `totals` is a pass over the struct pages, that begins anew whenever it is called.
    Two results are kept because they cost memory or time: a window that holds all of memory, and the totals of a pass
    that came to its end.
    """

    def __init__(
        self,
        context: ScanContext,
        observer: Observer = SILENT,
        *,
        window_npages: int = DEFAULT_WINDOW_NPAGES,
        allocate: Allocate = in_memory,
    ) -> None:
        self._context = context
        self._observer = observer
        self._window_npages = -(-window_npages // BATCH_NPAGES) * BATCH_NPAGES
        self._allocate = allocate
        self._classifier = None
        if context.page is not None:
            unaccepted = context.drops_unaccepted
            self._classifier = Classifier(context.level, context.lowest_vaddr, unaccepted)
        self._only_window: Window | None = None
        self._totals: Totals | None = None
        self.max_mapnr = context.max_mapnr
        self.level = context.level

    def deciding(self, decide: Decide) -> PageScan:
        """Return the same scan with somebody else's last word about classes, who may look at struct pages."""
        if self._context.all_struct_pages is None:
            self._observer.warn("no struct pages can be read: rules that look at them have no say")
        return self.followed_by(decide)

    def followed_by(self, decide: Decide) -> PageScan:
        """Return the same scan with one more rule, after those that there are."""
        context = self._context._replace(deciders=(*self._context.deciders, decide))
        return PageScan(context, self._observer, window_npages=self._window_npages, allocate=self._allocate)

    def of_source(self, source: Source) -> PageScan:
        """Return a scan of another image at the same level, that keeps all its pages."""
        context = ScanContext(source, source.max_mapnr, self.level)
        return PageScan(context, self._observer, window_npages=self._window_npages, allocate=self._allocate)

    @property
    def has_one_window(self) -> bool:
        """Whether one window holds all of memory, and so is scanned only once."""
        return self._window_npages >= self.max_mapnr

    @property
    def finds_hwpoison(self) -> bool:
        """Whether struct pages are looked at that say which memory is broken."""
        page = self._context.page
        return page is not None and bool(page.hwpoison) and self._context.struct_pages is not None

    def guard(self) -> Guard | None:
        """Return what keeps pages that a debugger cannot start without; None if nothing is known of the kernel."""
        return None if self._context.find_guard is None else self._context.find_guard()

    def totals(self) -> Totals:
        """Return the sums over all of memory.

        Raises
        ------
        MemmapError
            See `batches`.
        """
        if self._totals is None:
            for _ in self.windows():
                pass
        assert self._totals is not None  # a pass that came to its end has left them
        return self._totals

    def windows(self) -> Iterator[Window]:
        """Yield the windows in ascending order.

        Raises
        ------
        MemmapError
            See `batches`.
        """
        if self._only_window is not None:
            yield self._only_window
            return
        edges = self._context.edges
        sums = Totals(np.zeros((len(edges) + 1, len(PageClass)), np.int64), 0, 0)
        batches = self.batches()
        batch = next(batches, None)
        for pfn_start in range(0, self.max_mapnr, self._window_npages):
            pfn_stop = min(pfn_start + self._window_npages, self.max_mapnr)
            if pfn_stop < self.max_mapnr and (batch is None or batch.pfn_start >= pfn_stop):
                continue  # far apart, as a device's memory at the top of the address space, there are many of these
            window = Window(pfn_start, pfn_stop, self._allocate, edges)
            while batch is not None and batch.pfn_start < window.pfn_stop:
                window.add(batch)
                batch = next(batches, None)
            sums = sums.plus(window.totals)
            if window.pfn_stop == self.max_mapnr:
                self._totals = sums
            if self.has_one_window:
                self._only_window = window
            yield window
        if not self.max_mapnr:
            self._totals = sums

    def batches(self) -> Iterator[ClassBatch]:
        """Yield the class of every page, ascending, in batches; stretches without memory are passed over.

        Raises
        ------
        MemmapError
            After the last batch, if not one struct page could be read.

        Examples
        --------
        How many pages are free, without any bitmap::

            sum(int((batch.classes == PageClass.FREE).sum()) for batch in scan.batches())
        """
        struct_pages, ram_runs = self._context.struct_pages, self._context.source.ram_runs
        carry = NO_CARRY
        has_read = struct_pages is None
        guard = self.guard() if struct_pages is not None and self.level & ~DumpLevel.ZERO else None
        for start in _batch_starts(ram_runs, self.max_mapnr):
            stop = min(start + BATCH_NPAGES, self.max_mapnr)
            n_unreadable = struct_pages.n_unreadable if struct_pages else 0
            records = struct_pages.read(start, stop) if struct_pages else None
            n_unreadable = struct_pages.n_unreadable - n_unreadable if struct_pages else 0
            has_read |= records is not None and n_unreadable < len(records)
            if records is not None and carry.pfn_stop <= start and self._are_free(records, start, stop):
                n = stop - start
                batch = ClassBatch(start, stop, ALL_FREE[:n], ALL[:n], ALL[:n])
            else:
                is_ram, has_data = _present(self._context.source, start, stop)
                classes, carry = self._classify(records, start, stop, is_ram, carry)
                batch = ClassBatch(start, stop, classes, is_ram, has_data, n_unreadable)
            if guard is not None:
                batch = guard.keep(batch)
            for decide in self._context.deciders:
                if records is None and self._context.all_struct_pages is not None:
                    records = self._context.all_struct_pages.read(start, stop)
                classes = decide(start, batch.classes, batch.is_ram, batch.has_data, records)
                batch = batch._replace(classes=classes)
            self._observer.progress(SCAN_STAGE, stop, self.max_mapnr)
            yield batch
        if not has_read:
            raise MemmapError(
                f"{self._context.source.path}: none of the kernel's struct pages is where VMCOREINFO and the page "
                "tables say: the dump or its VMCOREINFO is damaged; only dump levels 0 and 1 are possible"
            )

    def _are_free(self, records: Records, start: int, stop: int) -> bool:
        """Return whether pages are all there, and all free."""
        context = self._context
        return (
            bool(context.level & DumpLevel.FREE)
            and context.page is not None
            and is_within(context.source.ram_runs, start, stop)
            and is_within(context.source.data_runs, start, stop)
            and are_largest_free_blocks(records, context.page)
        )

    def _classify(self, records: Records | None, start: int, stop: int, is_ram: Bool, carry: Carry) -> tuple[U8, Carry]:
        page, classifier = self._context.page, self._classifier
        if page is None or classifier is None or (records is None and carry.pfn_stop <= start):
            return ALL_KEPT[: stop - start], NO_CARRY
        if records is None:
            records = np.zeros(stop - start, page.dtype)
        columns = Columns(records, page)
        traits, orders = traits_and_orders(columns, start, self._context.source.page_size)
        if self._context.free_blocks is not None:
            self._context.free_blocks.mark(traits, orders, start)
        return classifier.classify(columns, traits, orders, is_ram, start, carry)


def open_scan(
    source: Source,
    kernel: Kernel | None,
    level: int,
    observer: Observer = SILENT,
    *,
    window_npages: int = DEFAULT_WINDOW_NPAGES,
    allocate: Allocate = in_memory,
    drops_unaccepted: bool = False,
    edges: Sequence[int] = (),
) -> PageScan:
    """Find what is needed to classify pages at a dump level.

    Parameters
    ----------
    source : Source
    kernel : Kernel or None
        None if nothing is known of it.
    level : int
        Dump level, 0 to 31.
    observer : Observer, optional
        Hears what cannot be told, and so is kept, and how far a scan is.
    window_npages : int, optional
    allocate : callable, optional
        See `PageScan`.
    drops_unaccepted, edges
        See `ScanContext`.

    Raises
    ------
    FactError, AddressError, MemmapError
        If the pages cannot be told apart and the level asks for it.
    """
    context = ScanContext(source, source.max_mapnr, level, drops_unaccepted=drops_unaccepted, edges=edges)
    if kernel is not None:
        try:
            context = with_struct_pages(context, kernel, observer)
        except (FactError, AddressError, MemmapError) as error:
            if level > 1:
                raise
            observer.warn(f"{error}: broken and offline pages are not left out")
    return PageScan(context, observer, window_npages=window_npages, allocate=allocate)


def _present(source: Source, start: int, stop: int) -> tuple[Bool, Bool]:
    """Return which page frames the input has or had, and of which it has the bytes; see `ClassBatch`."""
    if is_within(source.ram_runs, start, stop):
        is_ram = ALL[: stop - start]
        if is_within(source.data_runs, start, stop):
            return is_ram, is_ram
    else:
        is_ram = mask_of(source.ram_runs, start, stop)
    return is_ram, mask_of(source.data_runs, start, stop) & is_ram


def _batch_starts(runs: Runs, max_mapnr: int) -> Iterator[int]:
    """Yield the first page frame of each batch below ``max_mapnr`` that has any page of ``runs``."""
    at = 0
    for run_start, run_stop in runs.tolist():
        at = max(at, run_start // BATCH_NPAGES * BATCH_NPAGES)
        while at < min(run_stop, max_mapnr):
            yield at
            at += BATCH_NPAGES

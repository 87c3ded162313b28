# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scan yields: classes of pages in batches, and windows of the bitmaps of a dump file."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.bitmap import Allocate, Bitmap
from npdump.pages.policy import UNSAFE, PageClass

if TYPE_CHECKING:
    from npdump.arrays import I64, U8, Bool

__all__ = ["ALL", "ALL_FREE", "ALL_KEPT", "BATCH_NPAGES", "ClassBatch", "Totals", "Window"]

BATCH_NPAGES = 1 << 15
"""Page frames classified at a time: 2 MiB of struct pages of 64 bytes, what one entry of a page table maps."""

ALL = np.ones(BATCH_NPAGES, np.bool_)
ALL_FREE = np.full(BATCH_NPAGES, PageClass.FREE, np.uint8)
ALL_KEPT = np.full(BATCH_NPAGES, PageClass.KEPT, np.uint8)
for _shared in (ALL, ALL_FREE, ALL_KEPT):
    _shared.flags.writeable = False

_IS_UNSAFE = np.isin(np.arange(len(PageClass)), UNSAFE)


class ClassBatch(NamedTuple):
    """The page frames ``[pfn_start, pfn_stop)``, at most 32,768 of them.

    Attributes
    ----------
    pfn_start, pfn_stop : int
    classes : ndarray of shape (n,), dtype uint8
        `PageClass` of each; may be read-only.
    is_ram, has_data : ndarray of shape (n,), dtype bool
        Whether the input has the page or had it before it was filtered, and whether it has its bytes.
    n_unreadable : int
        Struct pages that could not be read; their pages are kept.
    """

    pfn_start: int
    pfn_stop: int
    classes: U8
    is_ram: Bool
    has_data: Bool
    n_unreadable: int = 0


class Totals(NamedTuple):
    """Numbers of a part of memory, or of all of it.

    Attributes
    ----------
    counts : ndarray of shape (len(PageClass),), dtype int64
        Pages of each class, of those whose bytes the input has.
    n_ram : int
        Pages that the input has, or had before it was filtered.
    n_unreadable : int
        Struct pages that could not be read; their pages are kept.
    """

    counts: I64
    n_ram: int
    n_unreadable: int


class Window:
    """The page frames ``[pfn_start, pfn_stop)`` as a dump file has them.

    Attributes
    ----------
    ram : Bitmap
        In the input, or was before the input was filtered: bitmap 1 of a dump file.
    kept : Bitmap
        To be dumped: bitmap 2.
    unsafe : Bitmap
        Left out, and must not be read.
    counts : ndarray of shape (len(PageClass),), dtype int64
    n_ram, n_unreadable : int
        See `Totals`.
    """

    def __init__(self, pfn_start: int, pfn_stop: int, allocate: Allocate) -> None:
        self.pfn_start = pfn_start
        self.pfn_stop = pfn_stop
        self.ram, self.kept, self.unsafe = (Bitmap(pfn_start, pfn_stop, allocate) for _ in range(3))
        self.counts: I64 = np.zeros(len(PageClass), np.int64)
        self.n_ram = self.n_unreadable = 0

    def add(self, batch: ClassBatch) -> None:
        """Take the next pages."""
        start, stop = batch.pfn_start, batch.pfn_stop
        self.n_unreadable += batch.n_unreadable
        if batch.classes.base is ALL_FREE:
            # Most of a large machine's memory is free, and takes no longer look.
            self.ram.fill(start, stop)
            self.n_ram += stop - start
            self.counts[PageClass.FREE] += stop - start
            return
        self.ram.put(start, batch.is_ram)
        self.n_ram += int(np.count_nonzero(batch.is_ram))
        if batch.classes.base is ALL_KEPT:
            self.counts[PageClass.KEPT] += np.count_nonzero(batch.has_data)
            self.kept.put(start, batch.has_data)
            return
        self.counts += np.bincount(batch.classes[batch.has_data], minlength=len(PageClass))
        is_unsafe = _IS_UNSAFE[batch.classes]
        if is_unsafe.any():
            self.unsafe.put(start, is_unsafe)
        self.kept.put(start, batch.has_data & (batch.classes == PageClass.KEPT))

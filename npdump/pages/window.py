# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scan yields: classes of pages in batches, and windows of the bitmaps of a dump file."""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from npdump.bitmap import Allocate, Bitmap
from npdump.pages.policy import UNSAFE, PageClass

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from npdump.arrays import I64, U8, Bool

__all__ = ["ALL", "ALL_FREE", "ALL_KEPT", "BATCH_NPAGES", "ClassBatch", "Totals", "Window"]

BATCH_NPAGES = 1 << 15
"""Page frames classified at a time: 2 MiB of struct pages of 64 bytes."""

ALL = np.ones(BATCH_NPAGES, np.bool_)
ALL_FREE = np.full(BATCH_NPAGES, PageClass.FREE, np.uint8)
ALL_KEPT = np.full(BATCH_NPAGES, PageClass.KEPT, np.uint8)
for _shared in (ALL, ALL_FREE, ALL_KEPT):
    _shared.flags.writeable = False

_IS_UNSAFE = np.isin(np.arange(len(PageClass)), UNSAFE)
_FIRST_UNSAFE = int(min(UNSAFE))  # NumPy takes five times as long to compare with a member of an enum


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
    n_guarded : int
        Pages that are kept whatever their struct pages say.
    """

    pfn_start: int
    pfn_stop: int
    classes: U8
    is_ram: Bool
    has_data: Bool
    n_unreadable: int = 0
    n_guarded: int = 0


class Totals(NamedTuple):
    """Numbers of a window, or of all of memory.

    Attributes
    ----------
    by_part : ndarray of shape (n, len(PageClass)), dtype int64
        Pages of each class, of those whose bytes the input has, between the page frames where counts are kept apart.
    n_ram : int
        Pages that the input has, or had before it was filtered.
    n_unreadable : int
        Struct pages that could not be read; their pages are kept.
    n_guarded : int
        Pages that are kept whatever their struct pages say.
    """

    by_part: I64
    n_ram: int
    n_unreadable: int
    n_guarded: int = 0

    @property
    def counts(self) -> I64:
        """Pages of each class in all parts; shape (len(PageClass),)."""
        return cast("I64", self.by_part.sum(axis=0))

    def plus(self, other: Totals) -> Totals:
        """Return the sums."""
        return Totals(
            self.by_part + other.by_part,
            self.n_ram + other.n_ram,
            self.n_unreadable + other.n_unreadable,
            self.n_guarded + other.n_guarded,
        )


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
    totals : Totals
        Of what was taken so far.

    Parameters
    ----------
    edges : sequence of int, optional
        Page frames, ascending, before and after which counts are kept apart.
    """

    def __init__(self, pfn_start: int, pfn_stop: int, allocate: Allocate, edges: Sequence[int] = ()) -> None:
        self.pfn_start = pfn_start
        self.pfn_stop = pfn_stop
        self.ram, self.kept, self.unsafe = (Bitmap(pfn_start, pfn_stop, allocate) for _ in range(3))
        self._edges = edges
        self._counts: I64 = np.zeros((len(edges) + 1, len(PageClass)), np.int64)
        self._n_ram = self._n_unreadable = self._n_guarded = 0

    @property
    def totals(self) -> Totals:
        """Numbers of what was taken so far."""
        return Totals(self._counts, self._n_ram, self._n_unreadable, self._n_guarded)

    def _parts(self, start: int, stop: int) -> Iterator[tuple[int, slice]]:
        """Yield the parts that page frames belong to, and which of them are in each."""
        at = start
        while at < stop:
            part = bisect_right(self._edges, at)
            end = min([stop, *self._edges[part : part + 1]])
            yield part, slice(at - start, end - start)
            at = end

    def add(self, batch: ClassBatch) -> None:
        """Take the next pages."""
        start, stop, classes = batch.pfn_start, batch.pfn_stop, batch.classes
        # Most of a large machine's memory is there as a whole, or of one class: that takes no longer look.
        is_whole, is_free = batch.has_data.base is ALL, classes.base is ALL_FREE
        self._n_unreadable += batch.n_unreadable
        self._n_guarded += batch.n_guarded
        if is_free:
            self.ram.fill(start, stop)
        else:
            self.ram.put(start, batch.is_ram)
        self._n_ram += stop - start if is_whole else int(np.count_nonzero(batch.is_ram))
        for part, rows in self._parts(start, stop):
            if is_free:
                self._counts[part, PageClass.FREE] += rows.stop - rows.start
            else:
                self._counts[part] += _count(classes[rows] if is_whole else classes[rows][batch.has_data[rows]])
        if is_free:
            return
        self.kept.put(start, (classes == 0) & batch.has_data)
        if classes.max(initial=0) >= _FIRST_UNSAFE:
            self.unsafe.put(start, _IS_UNSAFE[classes])


def _count(classes: U8) -> I64:
    """Return how many pages are of each class."""
    counts = np.zeros(len(PageClass), np.int64)
    n_left = len(classes)
    for number in range(len(PageClass)):
        # To compare is five times as fast as to count all at once, and few classes are in a batch.
        if n_left:
            counts[number] = np.count_nonzero(classes == number)
            n_left -= counts[number]
    return counts

# SPDX-License-Identifier: GPL-2.0-or-later
"""Which segments an ELF dump has; no bytes are read or written here."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import count, group_edges
from npdump.kernel.segments import NO_VADDR
from npdump.sources import SEGMENT

if TYPE_CHECKING:
    from collections.abc import Iterable

    from npdump.arrays import Index, Records, Runs
    from npdump.bitmap import Bitmap

__all__ = ["RunJoiner", "cut_segment", "homes"]

MIN_GAP_NPAGES = 256
"""Shorter runs of left-out pages are written all the same, so that the program headers stay few (as makedumpfile)."""


class RunJoiner:
    """Joins runs of kept pages across short gaps of pages that may be read as well.

    Parameters
    ----------
    data_runs : ndarray of shape (k, 2), dtype int64
        Page frames that the input has.

    Attributes
    ----------
    n_pages : int
        Pages that were added.
    """

    def __init__(self, data_runs: Runs) -> None:
        self._hole_starts = data_runs[:, 1]
        self._unsafe_starts = np.empty(0, np.int64)
        self._last: Runs = np.empty((0, 2), np.int64)
        self._finished: list[Runs] = []
        self.n_pages = 0

    def add(self, kept: Iterable[Runs], unsafe: Bitmap) -> None:
        """Take the pages of the next window: runs of those that stay, ascending, and those that must not be read."""
        unsafe_starts = [runs[:, 0] for runs in unsafe.runs()]
        blockers = np.sort(np.concatenate((self._hole_starts, self._unsafe_starts, *unsafe_starts)))
        for new in kept:
            self.n_pages += count(new)
            runs = np.concatenate((self._last, new))
            gap_starts, gap_stops = runs[:-1, 1], runs[1:, 0]
            # A gap begins after a kept page, so that what blocks it begins inside it.
            is_blocked = np.searchsorted(blockers, gap_starts) < np.searchsorted(blockers, gap_stops)
            firsts, lasts = group_edges(is_blocked | (gap_stops - gap_starts >= MIN_GAP_NPAGES))
            joined = np.column_stack((runs[firsts, 0], runs[lasts, 1]))
            self._finished.append(joined[:-1])
            self._last = joined[-1:]
        last_stop = self._last[0, 1] if len(self._last) else 0
        self._unsafe_starts = blockers[blockers >= last_stop]

    def runs(self) -> Runs:
        """Return all joined runs, ascending."""
        return np.asfortranarray(np.concatenate((*self._finished, self._last)))


def cut_segment(segment: np.void, runs: Runs, page_shift: int, has_vaddrs: bool) -> Records:
    """Return the segments of the output for one of the input.

    Together they have its memory; each has the data of one run of pages, if any, and the left-out pages after it.
    Columns of ``runs`` that lie in one piece (order F) save a copy of all runs.
    """
    paddr, vaddr, stop = int(segment["paddr"]), int(segment["vaddr"]), int(segment["paddr"] + segment["memsz"])
    data_stop = paddr + int(segment["filesz"])
    # There may be as many segments as runs: none may look at all runs.
    first = np.searchsorted(runs[:, 1], paddr >> page_shift, side="right")
    last = np.searchsorted(runs[:, 0], -(-data_stop >> page_shift), side="left")
    starts = np.maximum(runs[first:last, 0] << page_shift, paddr)
    stops = np.minimum(runs[first:last, 1] << page_shift, data_stop)
    if not len(starts) or starts[0] > paddr:
        starts, stops = np.append(paddr, starts), np.append(paddr, stops)
    cut = np.zeros(len(starts), SEGMENT)
    cut["paddr"] = starts
    cut["filesz"] = stops - starts
    cut["memsz"] = np.append(starts[1:], stop) - starts
    cut["flags"] = segment["flags"]
    is_known = has_vaddrs and vaddr != NO_VADDR
    cut["vaddr"] = np.uint64(vaddr) + (starts - paddr).astype(np.uint64) if is_known else vaddr
    return cut


def homes(segments: Records) -> Index:
    """Return which segment has the data of each: the image of the kernel is in the direct map's segments as well."""
    start, nbytes = segments["paddr"].astype(np.int64), segments["filesz"].astype(np.int64)
    stop = start + nbytes
    # Of those that begin before or with a segment, the one that ends last; the longest of equals comes first.
    order = np.lexsort((-nbytes, start))
    reach = np.maximum.accumulate(stop[order])
    is_home = np.append(True, stop[order][1:] > reach[:-1])[: len(order)]
    home = np.empty(len(segments), np.intp)
    home[order] = order[is_home][np.cumsum(is_home) - 1]
    return home

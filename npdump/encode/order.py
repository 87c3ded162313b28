# SPDX-License-Identifier: GPL-2.0-or-later
"""Kept pages in another order than that of their page frames: some first, and then the rest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import Runs, intersect, runs_of, subtract
from npdump.encode.batches import PageBatch, batches

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from npdump.arrays import I64
    from npdump.bitmap import Bitmap

__all__ = ["batches_in_order"]

_TOGETHER = 1 << 10
"""Runs whose bits are looked at before anything is made of them."""


def batches_in_order(kept: Bitmap, first: Sequence[Runs], npages: int) -> Iterator[PageBatch]:
    """Cut the set bits of a bitmap into batches, those of some page frames first.

    Parameters
    ----------
    kept : Bitmap
    first : sequence of ndarray of shape (k, 2), dtype int64
        Page frames, ascending and disjoint in each, of which no two have the same.
    npages : int
        Pages in a batch; fewer in the last one of each of ``first``, and of the rest.

    Yields
    ------
    PageBatch
        Ascending page frames in each, with the ranks that they have among all bits of ``kept``.

    Examples
    --------
    >>> from npdump.bitmap import Bitmap
    >>> kept = Bitmap(0, 16)
    >>> kept.fill(0, 16)
    >>> for batch in batches_in_order(kept, [np.array([[4, 6], [9, 10]])], 8):
    ...     print(batch.pfns.tolist(), batch.rank, batch.breaks)
    [4, 5, 9] 4 ((2, 9),)
    [0, 1, 2, 3, 6, 7, 8, 10] 0 ((4, 6), (7, 10))
    [11, 12, 13, 14, 15] 11 ()
    """
    whole = np.array([[kept.pfn_start, kept.pfn_stop]], np.int64)
    groups = [runs for group in first if len(runs := intersect(whole, group))]
    for group in groups:
        n_below = kept.count_below(group.reshape(-1)).reshape(-1, 2)
        n_here = n_below[:, 1] - n_below[:, 0]
        shifts = n_below[:, 0] - (np.cumsum(n_here) - n_here)
        for batch in batches(_Inside(kept, group), 0, npages):
            yield _ranked(batch, group[:, 0], shifts)
    taken = np.concatenate([np.empty((0, 2), np.int64), *groups])
    taken = taken[np.argsort(taken[:, 0])]
    n_below = kept.count_below(taken.reshape(-1)).reshape(-1, 2)
    starts = np.append(kept.pfn_start, taken[:, 0])
    shifts = np.append(0, np.cumsum(n_below[:, 1] - n_below[:, 0]))
    for batch in batches(_Outside(kept, taken), 0, npages):
        yield _ranked(batch, starts, shifts)


def _ranked(batch: PageBatch, starts: I64, shifts: I64) -> PageBatch:
    """Return a batch with other ranks: those of pages from each of ``starts`` on are higher by the shift there."""
    by = shifts[starts.searchsorted(batch.runs[:, 0], side="right") - 1]
    edges = np.flatnonzero(by[1:] != by[:-1]) + 1
    rank = batch.rank + int(by[0])
    if not len(edges):
        return batch._replace(rank=rank)
    rows = np.cumsum(batch.runs[:, 1] - batch.runs[:, 0])[edges - 1]
    ranks = batch.rank + rows + by[edges]
    return batch._replace(rank=rank, breaks=tuple(zip(rows.tolist(), ranks.tolist(), strict=True)))


class _Inside:
    """The set bits of a bitmap that are in some runs; see `npdump.bitmap.Bitmap.runs`."""

    def __init__(self, kept: Bitmap, runs: Runs) -> None:
        self._kept, self._runs = kept, runs

    def runs(self) -> Iterator[Runs]:
        """Yield the runs of set bits, ascending."""
        for at in range(0, len(self._runs), _TOGETHER):
            found = [self._of(start, stop) for start, stop in self._runs[at : at + _TOGETHER].tolist()]
            together = np.concatenate(found)
            if len(together):
                yield together

    def _of(self, start: int, stop: int) -> Runs:
        first = start // 8 * 8
        return runs_of(self._kept.get(first, stop)[start - first :]) + start


class _Outside:
    """The set bits of a bitmap that are not in some runs; see `npdump.bitmap.Bitmap.runs`."""

    def __init__(self, kept: Bitmap, runs: Runs) -> None:
        self._kept, self._runs = kept, runs

    def runs(self) -> Iterator[Runs]:
        """Yield the runs of set bits, ascending."""
        for runs in self._kept.runs():
            first = self._runs[:, 1].searchsorted(runs[0, 0], side="right")
            last = self._runs[:, 0].searchsorted(runs[-1, 1])
            left = subtract(runs, self._runs[first:last]) if first < last else runs
            if len(left):
                yield left

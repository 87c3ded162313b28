# SPDX-License-Identifier: GPL-2.0-or-later
"""How the pages of a dump are divided among several files."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.errors import UsageError

if TYPE_CHECKING:
    from npdump.arrays import I64
    from npdump.pages.scan import PageScan

__all__ = ["SPLIT_NPAGES", "Split"]

SPLIT_NPAGES = 64
"""The parts of a split dump begin at multiples of this: crash counts the pages before them in words of bitmap 2."""


class Split(NamedTuple):
    """Into how many files a dump goes, and in what steps.

    Attributes
    ----------
    n_parts : int
    block_kib : int or None
        Parts begin at multiples of so many KiB; None for `SPLIT_NPAGES` pages.
    only : int or None
        The one part that is wanted, counted from 0; None for all.
    """

    n_parts: int
    block_kib: int | None = None
    only: int | None = None

    def block_npages(self, page_size: int) -> int:
        """Return in what steps of pages the dump is split.

        Raises
        ------
        UsageError
            If they are not a multiple of `SPLIT_NPAGES` pages.

        Examples
        --------
        >>> Split(2, block_kib=1024).block_npages(4096)
        256
        """
        if self.block_kib is None:
            return SPLIT_NPAGES
        unit_kib = SPLIT_NPAGES * page_size // 1024
        if self.block_kib % unit_kib:
            raise UsageError(
                f"--splitblock-size {self.block_kib}: isn't a multiple of {unit_kib} KiB, which is {SPLIT_NPAGES} "
                "pages: crash could not read the parts"
            )
        return self.block_kib * 1024 // page_size

    def ranges(self, scan: PageScan, page_size: int) -> list[tuple[int, int]]:
        """Divide the page frames so that the parts have about the same number of kept pages.

        Returns
        -------
        list of tuple of two int
            Page frames ``[start, stop)``; together they are all up to ``max_mapnr``, or those of the part ``only``.

        Raises
        ------
        UsageError
            If there are fewer blocks than parts, or blocks have a size that is not allowed.
        """
        n_parts, block_npages = self.n_parts, self.block_npages(page_size)
        n_blocks = -(-scan.max_mapnr // block_npages)
        if n_blocks < n_parts:
            raise UsageError(
                f"--split into {n_parts} files: memory has {n_blocks} blocks of {block_npages} pages: name fewer "
                "files, or a smaller --splitblock-size"
            )
        n_kept = sum(window.kept.count() for window in scan.windows())
        # By rank among the kept pages: a count for each block would take room for memory that isn't there.
        last_ranks = np.array([max(-(-part * n_kept // n_parts) - 1, 0) for part in range(1, n_parts)], np.int64)
        last_blocks = _pfns_of(scan, last_ranks) // block_npages
        # Each part has a block at least.
        n_before = np.arange(n_parts - 1)
        edges = np.maximum.accumulate(last_blocks - n_before)
        edges = np.minimum(edges, n_blocks - n_parts) + n_before + 1
        pfns = [0, *(edges * block_npages).tolist(), scan.max_mapnr]
        ranges = list(pairwise(pfns))
        return ranges if self.only is None else [ranges[self.only]]


def _pfns_of(scan: PageScan, ranks: I64) -> I64:
    """Return the page frames of the kept pages with these ranks, which ascend; 0 where there is none."""
    pfns = np.zeros(len(ranks), np.int64)
    n_before = n_found = 0
    for window in scan.windows():
        for runs in window.kept.runs():
            stops = n_before + np.cumsum(runs[:, 1] - runs[:, 0])
            n_before = int(stops[-1]) if len(stops) else n_before
            here = ranks[n_found : int(np.searchsorted(ranks, n_before))]
            last = np.searchsorted(stops, here, side="right")
            pfns[n_found : n_found + len(here)] = runs[last, 1] - (stops[last] - here)
            n_found += len(here)
    return pfns

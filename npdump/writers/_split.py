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
    """

    n_parts: int
    block_kib: int | None = None

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
            Page frames ``[start, stop)``; together they are all up to ``max_mapnr``.

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
        counts = np.zeros(n_blocks, np.int64)
        for window in scan.windows():
            for runs in window.kept.runs():
                _add(counts, runs[:, 0], runs[:, 1], block_npages)
        totals = np.cumsum(counts)
        wanted = np.arange(1, n_parts) * totals[-1] / n_parts
        # Each part has a block at least.
        n_before = np.arange(n_parts - 1)
        edges = np.maximum.accumulate(np.searchsorted(totals, wanted) - n_before)
        edges = np.minimum(edges, n_blocks - n_parts) + n_before + 1
        pfns = [0, *(edges * block_npages).tolist(), scan.max_mapnr]
        return list(pairwise(pfns))


def _add(counts: I64, starts: I64, stops: I64, block_npages: int) -> None:
    """Add the pages of runs to the counts of their blocks."""
    first, last = starts // block_npages, (stops - 1) // block_npages
    np.add.at(counts, first, np.minimum(stops, (first + 1) * block_npages) - starts)
    crossing = last > first
    np.add.at(counts, last[crossing], stops[crossing] - last[crossing] * block_npages)
    for start, stop in zip(first[last - first > 1], last[last - first > 1], strict=True):
        counts[start + 1 : stop] += block_npages

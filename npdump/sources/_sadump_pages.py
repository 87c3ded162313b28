# SPDX-License-Identifier: GPL-2.0-or-later
"""The pages of a sadump: blocks one after the other, over all disks of a set; memory without a block is zero."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arrays import I64, U8, Index, Runs, expand, intersect, subtract
from npdump.errors import AddressError
from npdump.sources import refuse
from npdump.sources._extents import PageExtents

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npdump.sources import Loss
    from npdump.storage import Storage

__all__ = ["BlockPages", "Stretch"]


class Stretch(NamedTuple):
    """Blocks of pages in one file.

    Attributes
    ----------
    storage : Storage
    offset : int
        Where the first one is.
    n_blocks : int
    """

    storage: Storage
    offset: int
    n_blocks: int


class BlockPages:
    """Hands out pages; see `npdump.sources._image.Pages`.

    Parameters
    ----------
    path : str
    stretches : sequence of Stretch
        One for each disk, in the order of the disks.
    ram_runs, dumpable_runs : ndarray of shape (k, 2), dtype int64
        Page frames of memory, and those that have a block.
    page_size : int

    Attributes
    ----------
    present_runs : ndarray of shape (k, 2), dtype int64
        Page frames whose blocks are in the files: all that have one, unless a file was cut short.
    """

    def __init__(
        self, path: str, stretches: Sequence[Stretch], ram_runs: Runs, dumpable_runs: Runs, page_size: int
    ) -> None:
        self._path = path
        self._page_size = page_size
        self._disks: list[tuple[Runs, PageExtents]] = []
        lengths = dumpable_runs[:, 1] - dumpable_runs[:, 0]
        ranks = np.cumsum(lengths) - lengths
        rank = 0
        for storage, offset, n_blocks in stretches:
            runs, at = _blocks(dumpable_runs, ranks, rank, rank + n_blocks)
            places = offset + (at - rank) * page_size
            nbytes = (runs[:, 1] - runs[:, 0]) * page_size
            self._disks.append((runs, PageExtents(storage, runs[:, 0] * page_size, nbytes, places, page_size)))
            rank += n_blocks
        self.present_runs: Runs = np.concatenate([runs for runs, _ in self._disks] or [dumpable_runs[:0]])
        self._memory = subtract(ram_runs, subtract(dumpable_runs, self.present_runs))

    def maybe_nonzero(self, runs: Runs) -> Runs:
        """See `npdump.sources.Source.maybe_nonzero`."""
        return intersect(runs, self.present_runs)

    def view(self, paddr: int, nbytes: int) -> U8:
        """See `npdump.sources.Source.view`."""
        pfn, pfn_stop = paddr // self._page_size, -(-(paddr + nbytes) // self._page_size)
        for runs, extents in self._disks:
            i = int(np.searchsorted(runs[:, 0], pfn, side="right")) - 1
            if i >= 0 and pfn_stop <= runs[i, 1]:
                return extents.view(paddr, nbytes)
        pages = np.empty((pfn_stop - pfn, self._page_size), np.uint8)
        refuse(self.gather(np.array([[pfn, pfn_stop]], np.int64), pages))
        skip = paddr - pfn * self._page_size
        return pages.reshape(-1)[skip : skip + nbytes]

    def gather(self, runs: Runs, out: U8) -> Sequence[Loss]:
        """See `npdump.sources.Source.gather`."""
        absent = subtract(runs, self._memory)
        if len(absent):
            pfn = int(absent[0, 0])
            raise AddressError(f"physical page {pfn:#x} isn't in the dump", pfn=pfn)
        losses: list[Loss] = []
        rows = expand(runs[:, 0], runs[:, 1] - runs[:, 0])
        n_read = 0
        for of_disk, extents in self._disks:
            wanted = intersect(runs, of_disk)
            pfns = expand(wanted[:, 0], wanted[:, 1] - wanted[:, 0])
            if len(pfns) == len(out):
                return extents.gather(wanted, out)
            if not n_read:
                out[:] = 0
            n_read += len(pfns)
            losses += self._scatter(extents, wanted, np.searchsorted(rows, pfns), out)
        return sorted(losses, key=lambda loss: loss.row)

    def _scatter(self, extents: PageExtents, runs: Runs, rows: Index, out: U8) -> list[Loss]:
        pages = np.empty((len(rows), self._page_size), np.uint8)
        losses = extents.gather(runs, pages) if len(rows) else ()
        out[rows] = pages
        return [loss._replace(row=int(rows[loss.row])) for loss in losses]


def _blocks(runs: Runs, ranks: I64, start: int, stop: int) -> tuple[Runs, I64]:
    """Return which page frames have the blocks ``[start, stop)``, and the number of the first block of each run."""
    stops = ranks + (runs[:, 1] - runs[:, 0])
    first, last = np.maximum(ranks, start), np.minimum(stops, stop)
    used = first < last
    pfns = runs[:, 0] - ranks
    return np.column_stack((pfns + first, pfns + last))[used], first[used]

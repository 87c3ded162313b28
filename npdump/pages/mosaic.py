# SPDX-License-Identifier: GPL-2.0-or-later
"""Physical memory reduced to a picture: how many pages of each kind are in each tile, and where the tiles go.

Only stretches of physical address space that hold memory are shown, one after the other: holes, such as those for
devices below 4 GiB, take no room.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from npdump.arrays import I64, U8, Runs, count, intersect, join
from npdump.pages.kinds import PageKind

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "STRETCH_SHIFT",
    "Mosaic",
    "along_hilbert",
    "hilbert",
    "hilbert_image",
    "make_mosaic",
    "pfn_of",
    "rows_image",
    "stretches",
    "tile_size",
]

_MAX_SQUARES = 4
"""Hilbert curves side by side."""

STRETCH_SHIFT = 10
"""Holes below so many page frames (log2) are shown as holes."""


@dataclass(frozen=True)
class Mosaic:
    """Tiles of equally many page frames each.

    Attributes
    ----------
    shown : ndarray of shape (k, 2), dtype int64
        The page frames that are shown, one stretch after the other.
    tile_npages : int
        Page frames in a tile.
    counts : ndarray of shape (n, len(PageKind)), dtype int64
        Pages of each kind in each tile.
    page_size : int
        Bytes.
    """

    shown: Runs
    tile_npages: int
    counts: I64
    page_size: int

    def kinds(self) -> U8:
        """Return the kind that most pages of each tile are of; shape (n,), dtype uint8.

        Broken pages show wherever there is one: they are few, and what one looks for.
        """
        kinds = self.counts.argmax(axis=1).astype(np.uint8)
        kinds[self.counts[:, PageKind.HWPOISON] > 0] = PageKind.HWPOISON
        return kinds

    def totals(self) -> dict[PageKind, int]:
        """Return how many pages there are of each kind, the most first."""
        sums = self.counts.sum(axis=0)
        found = {kind: int(sums[kind]) for kind in PageKind if sums[kind] and kind != PageKind.ABSENT}
        return dict(sorted(found.items(), key=lambda item: -item[1]))

    def pfn_of(self, tile: int) -> int | None:
        """Return the first page frame of a tile, None if there is no such tile."""
        return pfn_of(self.shown, self.tile_npages, tile)


def pfn_of(shown: Runs, tile_npages: int, tile: int) -> int | None:
    """Return the first page frame of a tile of what is shown, None if there is no such tile."""
    at = tile * tile_npages
    for start, stop in shown.tolist():
        if 0 <= at < stop - start:
            return int(start + at)
        at -= stop - start
    return None


def stretches(ram: Runs, pfn_start: int, pfn_stop: int) -> Runs:
    """Return the page frames of ``[pfn_start, pfn_stop)`` that are worth a place in a picture.

    Parameters
    ----------
    ram : ndarray of shape (k, 2), dtype int64
        Page frames of memory.
    """
    wide = np.column_stack((ram[:, 0] >> STRETCH_SHIFT, -(-ram[:, 1] >> STRETCH_SHIFT)))
    return intersect(join(wide) << STRETCH_SHIFT, np.array([[pfn_start, pfn_stop]], np.int64))


def tile_size(shown: Runs, n_tiles: int) -> int:
    """Return how many pages, a power of two, a tile must have for all that is shown to take ``n_tiles`` at most."""
    tile_npages = 1
    while -(-count(shown) // tile_npages) > n_tiles:
        tile_npages *= 2
    return tile_npages


def make_mosaic(shown: Runs, pieces: Iterable[tuple[int, U8]], n_tiles: int, page_size: int) -> Mosaic:
    """Count the kinds of pages tile by tile.

    Parameters
    ----------
    shown : ndarray of shape (k, 2), dtype int64
        What `stretches` says.
    pieces : iterable of (int, ndarray of shape (n,), dtype uint8)
        First page frame of a piece of memory, and the `PageKind` of each of its page frames.
    n_tiles : int
        At most so many tiles are made; a tile has a power of two of page frames.
    page_size : int
        Bytes.
    """
    tile_npages = tile_size(shown, n_tiles)
    n_shown = count(shown)
    counts = np.zeros((-(-n_shown // tile_npages), len(PageKind)), np.int64)
    before = np.cumsum(shown[:, 1] - shown[:, 0]) - (shown[:, 1] - shown[:, 0])
    seen = np.zeros(len(counts), np.int64)
    for pfn_start, kinds in pieces:
        own = np.array([[pfn_start, pfn_start + len(kinds)]], np.int64)
        for start, stop in intersect(shown, own).tolist():
            i = int(np.searchsorted(shown[:, 0], start, side="right")) - 1
            at = np.arange(start, stop) - shown[i, 0] + before[i]
            tiles = at // tile_npages
            first, last = int(tiles[0]), int(tiles[-1]) + 1
            flat = (tiles - first) * len(PageKind) + kinds[start - pfn_start : stop - pfn_start]
            found = np.bincount(flat, minlength=(last - first) * len(PageKind)).reshape(last - first, -1)
            counts[first:last] += found
            seen[first:last] += found.sum(axis=1)
    capacity = np.full(len(counts), tile_npages)
    if len(counts):
        capacity[-1] = n_shown - (len(counts) - 1) * tile_npages
    counts[:, PageKind.ABSENT] += capacity - seen
    return Mosaic(shown, tile_npages, counts, page_size)


def hilbert(order: int) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Return column and row of each point of a Hilbert curve over a square of ``1 << order`` points a side.

    Neighbours on the curve are neighbours in the square; it begins in one corner of the first row and ends in the
    other one.

    Returns
    -------
    x, y : ndarray of shape (4**order,), dtype int64

    Examples
    --------
    >>> x, y = hilbert(1)
    >>> list(zip(x.tolist(), y.tolist()))
    [(0, 0), (0, 1), (1, 1), (1, 0)]
    """
    x, y = np.zeros(1, np.int64), np.zeros(1, np.int64)
    for i in range(order):
        side = 1 << i
        # Four copies: the first and the last are reflected along a diagonal.
        x, y = (
            np.concatenate((y, x, x + side, 2 * side - 1 - y)),
            np.concatenate((x, y + side, y + side, side - 1 - x)),
        )
    return x, y


def _square_order(n_tiles: int) -> int:
    """Return the order of the Hilbert curves of which a few, side by side, hold all tiles."""
    order = 0
    while 4**order * _MAX_SQUARES < n_tiles:
        order += 1
    return order


def hilbert_image(mosaic: Mosaic, kinds: U8 | None = None) -> U8:
    """Lay tiles along Hilbert curves, one square beside the other.

    Returns
    -------
    ndarray of shape (height, width), dtype uint8
        The `PageKind` of each point; ABSENT beyond the end of memory.
    """
    return along_hilbert(mosaic.kinds() if kinds is None else kinds)


def along_hilbert(kinds: U8) -> U8:
    """Lay the kinds of tiles along Hilbert curves; as `hilbert_image`."""
    order = _square_order(len(kinds))
    n_square = 4**order
    n_squares = max(-(-len(kinds) // n_square), 1)
    padded = np.zeros(n_squares * n_square, np.uint8)
    padded[: len(kinds)] = kinds
    x, y = hilbert(order)
    image = np.zeros((1 << order, n_squares << order), np.uint8)
    for i in range(n_squares):
        image[y, x + (i << order)] = padded[i * n_square : (i + 1) * n_square]
    rest = len(kinds) - (n_squares - 1) * n_square
    return image[:, : ((n_squares - 1) << order) + int(x[:rest].max(initial=0)) + 1]


def rows_image(mosaic: Mosaic, n_rows: int, kinds: U8 | None = None) -> U8:
    """Lay tiles in ``n_rows`` rows from left to right; as `hilbert_image`."""
    kinds = mosaic.kinds() if kinds is None else kinds
    width = -(-len(kinds) // n_rows)
    padded = np.zeros(n_rows * width, np.uint8)
    padded[: len(kinds)] = kinds
    return padded.reshape(n_rows, width)

# SPDX-License-Identifier: GPL-2.0-or-later
"""A picture of memory at every zoom: each level has half the width and height of the one before.

Along a Hilbert curve four tiles that follow each other are a square of two by two, if the first one's number is a
multiple of four: so a point of a smaller picture is a stretch of memory too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import count, intersect
from npdump.pages.kinds import PageKind
from npdump.pages.mosaic import STRETCH_SHIFT, along_hilbert, pfn_of, tile_size

if TYPE_CHECKING:
    from collections.abc import Iterable

    from npdump.arrays import I64, U8, Runs

__all__ = ["Pyramid", "make_pyramid", "tile_at"]


@dataclass(frozen=True)
class Pyramid:
    """Pictures of the same memory.

    Attributes
    ----------
    shown : ndarray of shape (k, 2), dtype int64
        The page frames that are shown, one stretch after the other.
    tile_npages : int
        Page frames of a point of the first picture.
    counts : ndarray of shape (len(PageKind),), dtype int64
        Pages of each kind.
    page_size : int
        Bytes.
    images : list of ndarray of shape (height, width), dtype uint8
        The `PageKind` of each point; the first has a point for each tile, the last a few hundred points a side.
    """

    shown: Runs
    tile_npages: int
    counts: I64
    page_size: int
    images: list[U8]

    def view(self, level: int, x: int, y: int, width: int, height: int) -> U8:
        """Return a part of one picture; what is outside of it is ABSENT.

        Returns
        -------
        ndarray of shape (height, width), dtype uint8
        """
        image = self.images[level]
        out = np.zeros((height, width), np.uint8)
        top, left = max(y, 0), max(x, 0)
        part = image[top : max(y + height, 0), left : max(x + width, 0)]
        out[top - y : top - y + part.shape[0], left - x : left - x + part.shape[1]] = part
        return out

    def pfn_at(self, x: int, y: int) -> int | None:
        """Return the first page frame of a point of the first picture, None if there is none."""
        side = self.images[0].shape[0]
        if not (0 <= x < self.images[0].shape[1] and 0 <= y < side):
            return None
        tile = (x // side) * side * side + tile_at(side, x % side, y)
        return pfn_of(self.shown, self.tile_npages, tile)


def make_pyramid(
    shown: Runs, pieces: Iterable[tuple[int, U8]], n_tiles: int, page_size: int, smallest: int = 256
) -> Pyramid:
    """Draw memory along Hilbert curves, and smaller and smaller until the height is ``smallest`` or less.

    Parameters
    ----------
    shown, pieces, n_tiles, page_size
        See `npdump.pages.mosaic.make_mosaic`; a tile has no more page frames than the shortest stretch, so that there
        are more tiles than ``n_tiles`` where memory is beyond 1024 times as many page frames.
    smallest : int
    """
    tile_npages = min(tile_size(shown, n_tiles), 1 << STRETCH_SHIFT)
    kinds = np.zeros(count(shown) // tile_npages, np.uint8)
    counts = np.zeros(len(PageKind), np.int64)
    before = np.cumsum(shown[:, 1] - shown[:, 0]) - (shown[:, 1] - shown[:, 0])
    for pfn_start, found in pieces:
        counts += np.bincount(found, minlength=len(PageKind))
        own = np.array([[pfn_start, pfn_start + len(found)]], np.int64)
        for start, stop in intersect(shown, own).tolist():
            i = int(np.searchsorted(shown[:, 0], start, side="right")) - 1
            tile = (start - int(shown[i, 0]) + int(before[i])) // tile_npages
            reduced = _reduced(found[start - pfn_start : stop - pfn_start], tile_npages)
            kinds[tile : tile + len(reduced)] = reduced
    images = [along_hilbert(kinds)]
    while images[-1].shape[0] > smallest:
        images.append(_half(images[-1]))
    return Pyramid(shown, tile_npages, counts, page_size, images)


def _reduced(kinds: U8, tile_npages: int) -> U8:
    """Return the kind that most pages of each tile are of; the last tile may be of fewer pages."""
    if tile_npages == 1:
        return kinds
    rows = np.pad(kinds, (0, -len(kinds) % tile_npages)).reshape(-1, tile_npages)
    flat = rows + np.arange(len(rows))[:, None] * len(PageKind)
    sums = np.bincount(flat.reshape(-1), minlength=len(rows) * len(PageKind)).reshape(len(rows), -1)
    most = sums.argmax(axis=1).astype(np.uint8)
    most[sums[:, PageKind.HWPOISON] > 0] = PageKind.HWPOISON
    return most


def _half(image: U8) -> U8:
    """Return a picture of half the size: of four points the kind that most are of; broken pages show in any case."""
    if image.shape[1] % 2:
        image = np.pad(image, ((0, 0), (0, 1)))
    four = np.stack([image[i::2, j::2] for i in (0, 1) for j in (0, 1)])
    is_broken = (four == PageKind.HWPOISON).any(axis=0)
    four.sort(axis=0)
    # Of four in order, two that are the same are neighbours; three hold the second place and the third.
    half = np.where(four[1] == four[2], four[1], np.where(four[0] == four[1], four[0], four[3]))
    half[is_broken] = PageKind.HWPOISON
    return half


def tile_at(side: int, x: int, y: int) -> int:
    """Return the number of a point along a Hilbert curve; the inverse of `npdump.pages.mosaic.hilbert`.

    Examples
    --------
    >>> [tile_at(2, x, y) for x, y in ((0, 0), (0, 1), (1, 1), (1, 0))]
    [0, 1, 2, 3]
    """
    if side == 1:
        return 0
    half = side // 2
    size = half * half
    if x < half:
        return tile_at(half, y, x) if y < half else size + tile_at(half, x, y - half)
    if y >= half:
        return 2 * size + tile_at(half, x - half, y - half)
    return 3 * size + tile_at(half, half - 1 - y, side - 1 - x)

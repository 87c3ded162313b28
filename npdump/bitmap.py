# SPDX-License-Identifier: GPL-2.0-or-later
"""One bit per page frame, least significant first: what dump files store and what drives the writers."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator

import numpy as np

from npdump.arrays import I64, U8, Bool, Runs, runs_of
from npdump.errors import SinkError

__all__ = ["Allocate", "Bitmap", "in_file", "in_memory"]

Allocate = Callable[[int], U8]
"""Makes an array of so many bytes, all 0."""

_POPCOUNT = np.array([(byte).bit_count() for byte in range(256)], np.uint8)
_STEP_NBYTES = 1 << 13
"""Bytes unpacked at a time: 65,536 page frames."""


def in_memory(nbytes: int) -> U8:
    """Make room for a bitmap in memory.

    What was never set is not resident (the kernel maps a page on the first write to it), so that holes in the
    physical address space cost nothing.
    """
    return np.zeros(nbytes, np.uint8)


def in_file(directory: str) -> Allocate:
    """Return a function that makes room for bitmaps in a temporary file, which has no name.

    Raises
    ------
    SinkError
        When called, if the file can't be made or mapped.
    """

    def allocate(nbytes: int) -> U8:
        import tempfile  # half of npdump's own start-up time, and seldom needed

        try:
            with tempfile.TemporaryFile(dir=directory) as file:
                # Without room reserved, the first write to a mapped page that has none ends the process with SIGBUS.
                os.posix_fallocate(file.fileno(), 0, max(nbytes, 1))
                return np.memmap(file, np.uint8, "r+", shape=(nbytes,))
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            raise SinkError(f"{directory}: can't hold the temporary bitmaps: {why}: give another --work-dir") from error

    return allocate


class Bitmap:
    """Bits of the page frames ``[pfn_start, pfn_stop)``.

    Parameters
    ----------
    pfn_start : int
        First page frame; a multiple of 8.
    pfn_stop : int
    allocate : callable
        Makes room for it.

    Attributes
    ----------
    packed : ndarray of shape (ceil(n / 8),), dtype uint8
        The bits as they stand in a dump file.
    """

    def __init__(self, pfn_start: int, pfn_stop: int, allocate: Allocate = in_memory) -> None:
        if pfn_start % 8 or pfn_stop < pfn_start:
            raise ValueError(f"a bitmap can't hold [{pfn_start}, {pfn_stop})")
        self.pfn_start = pfn_start
        self.pfn_stop = pfn_stop
        self.packed = allocate(-(-(pfn_stop - pfn_start) // 8))

    def get(self, pfn_start: int, pfn_stop: int) -> Bool:
        """Return the bits of ``[pfn_start, pfn_stop)`` as an array of bool; ``pfn_start`` is a multiple of 8."""
        first = (pfn_start - self.pfn_start) // 8
        stop = -(-(pfn_stop - self.pfn_start) // 8)
        bits = np.unpackbits(self.packed[first:stop], bitorder="little", count=pfn_stop - pfn_start)
        return bits.view(np.bool_)

    def put(self, pfn_start: int, bits: Bool) -> None:
        """Store ``bits`` from ``pfn_start`` (a multiple of 8) on; the last byte's other bits become 0."""
        packed = np.packbits(bits, bitorder="little")
        first = (pfn_start - self.pfn_start) // 8
        self.packed[first : first + len(packed)] = packed

    def fill(self, pfn_start: int, pfn_stop: int) -> None:
        """Set the bits of ``[pfn_start, pfn_stop)``, multiples of 8."""
        self.packed[(pfn_start - self.pfn_start) // 8 : (pfn_stop - self.pfn_start) // 8] = 0xFF

    def clear(self, pfns: I64) -> None:
        """Clear the bits of some page frames (distinct ones)."""
        at = pfns - self.pfn_start
        np.bitwise_and.at(self.packed, at >> 3, ~(np.uint8(1) << (at & 7).astype(np.uint8)))

    def part(self, pfn_start: int, pfn_stop: int) -> Bitmap:
        """Return a view of the bits in ``[pfn_start, pfn_stop)``: multiples of 8, or beyond the ends of this bitmap."""
        start, stop = max(pfn_start, self.pfn_start), min(pfn_stop, self.pfn_stop)
        if stop <= start:
            return Bitmap(self.pfn_start, self.pfn_start, lambda nbytes: self.packed[:0])
        first = (start - self.pfn_start) // 8
        packed = self.packed[first : -(-(stop - self.pfn_start) // 8)]
        return Bitmap(start // 8 * 8, stop, lambda nbytes: packed)

    def count(self) -> int:
        """Return how many bits are set."""
        pieces = (self.packed[i : i + _STEP_NBYTES] for i in range(0, len(self.packed), _STEP_NBYTES))
        return sum(int(_POPCOUNT[piece].sum()) for piece in pieces if piece.any())

    def count_below(self, pfns: I64) -> I64:
        """Return how many bits are set below each of some page frames, which ascend and are in the bitmap or its end.

        Examples
        --------
        >>> bitmap = Bitmap(0, 16)
        >>> bitmap.fill(8, 16)
        >>> bitmap.count_below(np.array([4, 9, 16])).tolist()
        [0, 1, 8]
        """
        counts: I64 = np.zeros(len(pfns), np.int64)
        at, done, n_below = pfns - self.pfn_start, 0, 0
        for first in range(0, len(self.packed), _STEP_NBYTES):
            stop = int(at.searchsorted((first + _STEP_NBYTES) * 8))
            piece = self.packed[first : first + _STEP_NBYTES]
            if stop > done:
                rows = at[done:stop] - first * 8
                below = np.append(0, np.cumsum(np.unpackbits(piece, bitorder="little"), dtype=np.int64))
                counts[done:stop] = n_below + below[np.minimum(rows, len(below) - 1)]
                done = stop
            if done == len(at):
                break
            n_below += int(_POPCOUNT[piece].sum()) if piece.any() else 0
        counts[done:] = n_below
        return counts

    def runs(self) -> Iterator[Runs]:
        """Yield the runs of set bits, ascending, in pieces of at most 65,536 page frames.

        Yields
        ------
        ndarray of shape (k, 2), dtype int64
            Page frames ``[start, stop)``; a run that crosses pieces comes as several.
        """
        for first in range(0, len(self.packed), _STEP_NBYTES):
            piece = self.packed[first : first + _STEP_NBYTES]
            if piece.any():
                bits = np.unpackbits(piece, bitorder="little").view(np.bool_)
                yield runs_of(bits) + (self.pfn_start + first * 8)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What each of the 32 dump levels would keep."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from npdump.pages.policy import DumpLevel, PageClass

if TYPE_CHECKING:
    from collections.abc import Iterable

    from npdump.arrays import I64, U8, Bool

__all__ = ["LevelCounts", "count_levels"]

N_LEVELS = 32


@dataclass(frozen=True)
class LevelCounts:
    """Pages by dump level.

    Attributes
    ----------
    page_size : int
        Bytes.
    n_memory : int
        Pages of memory.
    n_dumped : int
        Those of them that the input holds.
    kept : ndarray of shape (32,), dtype int64
        Pages that are in a dump of the level. Pages of zeros are among them at every level: all of them together take
        the room of one.
    left_out : ndarray of shape (32, len(PageClass)), dtype int64
        Pages that are not, by `PageClass`.
    """

    page_size: int
    n_memory: int
    n_dumped: int
    kept: I64
    left_out: I64

    def saved_nbytes(self, level: int) -> int:
        """Return how many bytes of memory a level leaves out."""
        return (self.n_dumped - int(self.kept[level])) * self.page_size

    def by_bit(self) -> dict[DumpLevel, int]:
        """Return the pages that each bit of a dump level leaves out alone."""
        return {bit: self.n_dumped - int(self.kept[bit]) for bit in DumpLevel if bit != DumpLevel.ZERO}


def count_levels(
    page_size: int, n_memory: int, pieces: Iterable[tuple[Bool, dict[int, U8]]], levels_of: dict[int, int]
) -> LevelCounts:
    """Add up what each level keeps.

    Parameters
    ----------
    page_size : int
    n_memory : int
    pieces : iterable of (ndarray of shape (n,), dict of int to ndarray of shape (n,))
        Which pages are in the input, and the class of each page by level.
    levels_of : dict of int to int
        For each of the 32 levels, the level of ``pieces`` that says what it leaves out.
    """
    wanted = sorted(set(levels_of.values()))
    counts = {level: np.zeros(len(PageClass), np.int64) for level in wanted}
    n_dumped = 0
    for is_dumped, classes in pieces:
        n_dumped += int(is_dumped.sum())
        for level in wanted:
            counts[level] += np.bincount(classes[level][is_dumped], minlength=len(PageClass))
    left_out = np.array([counts[levels_of[level]] for level in range(N_LEVELS)])
    kept = left_out[:, PageClass.KEPT].copy()
    left_out[:, PageClass.KEPT] = 0
    return LevelCounts(page_size, n_memory, n_dumped, kept, left_out)

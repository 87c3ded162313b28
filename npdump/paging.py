"""Page tables of any machine: a table's form is data, one vectorised walk reads them all."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Level", "Paging", "Translation", "walk"]

Addresses = npt.NDArray[np.uint64]
ReadWords = Callable[[Addresses], Addresses]
"""Reads the table entries at physical addresses; what isn't in the dump reads as 0."""


@dataclass(frozen=True)
class Level:
    """One level of page tables: ``1 << bits`` entries, each mapping ``1 << shift`` bytes."""

    name: str
    shift: int
    bits: int
    may_be_leaf: bool = True


@dataclass(frozen=True)
class Paging:
    """The form of a page table.

    Attributes
    ----------
    levels : tuple of Level
        From the top down.
    present_mask : int
        An entry with none of these bits maps nothing.
    leaf_mask : int
        An entry above the last level with any of these bits maps memory itself.
    address_mask : int
        The bits of an entry that hold a physical address.
    """

    levels: tuple[Level, ...]
    present_mask: int
    leaf_mask: int
    address_mask: int


class Translation(NamedTuple):
    """The result of a walk, arrays of shape (n,).

    ``paddrs`` (uint64) holds where ``mapped`` (bool). ``shifts`` (uint8): ``1 << shift`` bytes around the address,
    aligned, share its fate, mapped or not.
    """

    paddrs: Addresses
    mapped: npt.NDArray[np.bool_]
    shifts: npt.NDArray[np.uint8]


def walk(read_words: ReadWords, root: int, vaddrs: Addresses, paging: Paging) -> Translation:
    """Translate virtual addresses.

    Parameters
    ----------
    read_words : callable
    root : int
        Physical address of the top table.
    vaddrs : ndarray of shape (n,), dtype uint64
    paging : Paging

    Notes
    -----
    A table that points back to itself or to another level ends as any other: the number of levels is fixed.
    """
    n = len(vaddrs)
    paddrs = np.zeros(n, np.uint64)
    mapped = np.zeros(n, np.bool_)
    shifts = np.zeros(n, np.uint8)
    tables = np.full(n, root, np.uint64)
    todo = np.arange(n)
    address_mask = np.uint64(paging.address_mask)
    for level in paging.levels:
        if not len(todo):
            break
        index = (vaddrs[todo] >> np.uint64(level.shift)) & np.uint64((1 << level.bits) - 1)
        entries = read_words(tables[todo] + index * np.uint64(8))
        shifts[todo] = level.shift
        present = (entries & np.uint64(paging.present_mask)) != 0
        todo, entries = todo[present], entries[present]
        if level is paging.levels[-1]:
            is_leaf = np.ones(len(todo), np.bool_)
        else:
            is_leaf = ((entries & np.uint64(paging.leaf_mask)) != 0) & level.may_be_leaf
        inside = np.uint64((1 << level.shift) - 1)
        leaves = todo[is_leaf]
        # A large page's entry has flags where a small one's has low address bits (x86: PAT at bit 12).
        paddrs[leaves] = (entries[is_leaf] & address_mask & ~inside) | (vaddrs[leaves] & inside)
        mapped[leaves] = True
        todo = todo[~is_leaf]
        tables[todo] = entries[~is_leaf] & address_mask
    return Translation(paddrs, mapped, shifts)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Address spaces of any machine: their form is data, one vectorised walk reads all page tables."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arrays import U8, U64, Bool

if TYPE_CHECKING:
    from npdump.layouts import ByteOrder

__all__ = ["AddressBits", "AddressSpace", "Entry", "Level", "Paging", "Region", "Translation", "leads_to", "walk"]

ReadWords = Callable[[U64], U64]
"""Reads the table entries at physical addresses; what isn't in the dump reads as 0."""


class AddressBits(NamedTuple):
    """Some bits of an entry, and how far up they go to take their place in a physical address (down if negative)."""

    mask: int
    up: int = 0


class Entry(NamedTuple):
    """A kind of table entry: those with ``entry & mask == value``.

    Attributes
    ----------
    mask, value : int
    address : tuple of AddressBits
        Where the physical address is, of a page or of the next table.
    page_shift : int or None
        log2 of the bytes that an entry of this kind maps; None if it leads to another table.
    """

    mask: int
    value: int
    address: tuple[AddressBits, ...]
    page_shift: int | None = None


class Level(NamedTuple):
    """One level of page tables: ``1 << bits`` entries, each for ``1 << shift`` bytes of virtual memory.

    ``entries`` are the kinds of entries that map something: the first that fits tells. An entry that is 0 never does.
    """

    name: str
    shift: int
    bits: int
    entries: tuple[Entry, ...]


class Paging(NamedTuple):
    """The form of a page table.

    Attributes
    ----------
    levels : tuple of Level
        From the top down.
    dtype : dtype
        Of an entry: its size and byte order, which need not be those of the kernel's words.
    """

    levels: tuple[Level, ...]
    dtype: np.dtype


class Region(NamedTuple):
    """Virtual addresses ``[start, stop)`` that are mapped linearly, to ``paddr`` and on (modulo 2**64)."""

    start: int
    stop: int
    paddr: int


class AddressSpace(NamedTuple):
    """How the kernel's virtual addresses become physical ones.

    Attributes
    ----------
    byte_order : {"<", ">"}
        Of the kernel's memory; QEMU writes headers in another one for little-endian POWER.
    regions : tuple of Region
        What is mapped linearly; ascending, disjoint. The page tables have no say there.
    paging : Paging or None
        For all other addresses; None if the machine, or this kernel, has no page tables that can be read.
    root : int
        Physical address of the top table.
    lowest_vaddr : int
        No address of the kernel is below this one.
    ram_base : int
        Physical address at which the page frames of a flat memory map begin.
    direct_map : Region or None
        Where all memory is mapped; None if only the page tables tell.
    image : Region or None
        Where the kernel's image may be, if it isn't in the direct map; the page tables tell which part it is.
    """

    byte_order: ByteOrder
    regions: tuple[Region, ...] = ()
    paging: Paging | None = None
    root: int = 0
    lowest_vaddr: int = 1
    ram_base: int = 0
    direct_map: Region | None = None
    image: Region | None = None


class Translation(NamedTuple):
    """The result of a walk, arrays of shape (n,).

    ``paddrs`` (uint64) holds where ``mapped`` (bool). ``shifts`` (uint8): ``1 << shift`` bytes around the address,
    aligned, share its fate, mapped or not.
    """

    paddrs: U64
    mapped: Bool
    shifts: U8


def _address(words: U64, parts: tuple[AddressBits, ...]) -> U64:
    address = np.zeros_like(words)
    for mask, up in parts:
        bits = words & np.uint64(mask)
        address |= bits << np.uint64(up) if up >= 0 else bits >> np.uint64(-up)
    return address


def leads_to(words: U64, level: Level) -> U64:
    """Return where the tables are that some entries of a table lead to.

    Parameters
    ----------
    words : ndarray of shape (n,), dtype uint64
    level : Level
        Of the table.
    """
    words = words[words != 0]
    for entry in level.entries:
        fits = (words & np.uint64(entry.mask)) == np.uint64(entry.value)
        if entry.page_shift is None:
            return _address(words[fits], entry.address)
        words = words[~fits]
    return words[:0]


def walk(read_words: ReadWords, root: int, vaddrs: U64, paging: Paging) -> Translation:
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
    for level in paging.levels:
        if not len(todo):
            break
        index = (vaddrs[todo] >> np.uint64(level.shift)) & np.uint64((1 << level.bits) - 1)
        words = read_words(tables[todo] + index * np.uint64(paging.dtype.itemsize))
        shifts[todo] = level.shift
        unknown = words != 0
        goes_on = np.zeros(len(todo), np.bool_)
        for entry in level.entries:
            fits = unknown & ((words & np.uint64(entry.mask)) == np.uint64(entry.value))
            unknown &= ~fits
            address = _address(words[fits], entry.address)
            rows = todo[fits]
            if entry.page_shift is None:
                tables[rows] = address
                goes_on |= fits
            else:
                # A large page's entry may have flags where a small one's has low address bits (x86: PAT at bit 12).
                inside = np.uint64((1 << entry.page_shift) - 1)
                paddrs[rows] = (address & ~inside) | (vaddrs[rows] & inside)
                mapped[rows] = True
                shifts[rows] = entry.page_shift
        todo = todo[goes_on]
    return Translation(paddrs, mapped, shifts)

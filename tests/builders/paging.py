# SPDX-License-Identifier: GPL-2.0-or-later
"""Real x86_64 page tables, 4 or 5 levels, with 4 KiB, 2 MiB and 1 GiB leaves."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from .memory import Memory

PRESENT_RW = 0x63  # present, writable, accessed, dirty
LEAF = 0x80
LEVEL_OF_LEAF = {1 << 12: 1, 1 << 21: 2, 1 << 30: 3}


class PageTables:
    """Page tables that grow as addresses are mapped; every table is a page of `memory`."""

    def __init__(self, memory: Memory, new_frame: Callable[[], int], root_paddr: int, n_levels: int) -> None:
        self.memory, self.new_frame, self.n_levels = memory, new_frame, n_levels
        self.root_paddr = root_paddr
        self.memory.write(root_paddr, bytes(4096))
        self._tables: dict[int, dict[int, int]] = {root_paddr: {}}

    def _set(self, table_paddr: int, index: int, value: int) -> None:
        self._tables[table_paddr][index] = value
        self.memory.write(table_paddr + 8 * index, struct.pack("<Q", value))

    def table_for(self, vaddr: int, level: int) -> tuple[int, int]:
        """Physical address of the table of `level` (1 is the lowest) that serves `vaddr`, and the index in it."""
        table = self.root_paddr
        for above in range(self.n_levels, level, -1):
            index = vaddr >> (12 + 9 * (above - 1)) & 511
            entry = self._tables[table].get(index)
            if entry is None:
                below = self.new_frame()
                self.memory.write(below, bytes(4096))
                self._tables[below] = {}
                entry = below | PRESENT_RW
                self._set(table, index, entry)
            table = entry & 0xFFFFFFFFFF000
        return table, vaddr >> (12 + 9 * (level - 1)) & 511

    def map(self, vaddr: int, paddr: int, leaf_nbytes: int) -> None:
        """Map one leaf; `vaddr` and `paddr` are multiples of its size."""
        if (vaddr | paddr) & (leaf_nbytes - 1):
            raise ValueError(f"{vaddr:#x} -> {paddr:#x} is not aligned to {leaf_nbytes:#x}")
        level = LEVEL_OF_LEAF[leaf_nbytes]
        table, index = self.table_for(vaddr, level)
        self._set(table, index, paddr | PRESENT_RW | (LEAF if level > 1 else 0))

    def map_range(self, vaddr: int, paddr: int, nbytes: int, leaf_nbytes: int) -> None:
        """Map a range with leaves of one size."""
        for offset in range(0, nbytes, leaf_nbytes):
            self.map(vaddr + offset, paddr + offset, leaf_nbytes)

    def entry_paddr(self, vaddr: int, level: int) -> int:
        """Where the entry for `vaddr` in the table of `level` is, for tests that spoil it."""
        table, index = self.table_for(vaddr, level)
        return table + 8 * index

# SPDX-License-Identifier: GPL-2.0-or-later
"""SPARSEMEM: memory comes in sections, each with its own piece of the memory map.

SPARSEMEM_VMEMMAP needs nothing of its own: its sections' pieces are one virtual array, and decode to it.

References
----------
Linux ``include/linux/mmzone.h`` (struct mem_section, SECTION_MAP_MASK) and ``mm/sparse.c``.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import AddressError, FactError, MemmapError
from npdump.kernel.kernel import Kernel, MemMap

if TYPE_CHECKING:
    from npdump.arrays import I64, U64
    from npdump.facts import Facts

__all__ = ["MODEL"]

HAS_MEM_MAP = 1 << 1
"""Flag in ``section_mem_map`` (Linux SECTION_HAS_MEM_MAP, the test of valid_section())."""

N_FLAG_BITS = 5
"""Flags in the low bits of ``section_mem_map`` as of Linux 5.12 (4 before, 3 before 5.3, 2 before 4.13)."""

MAX_SECTIONS = 1 << 24
"""Bound on an array of sections that a damaged VMCOREINFO can make us read; no kernel without roots has as many."""

MAX_ROOTS = 1 << 23
"""The same of roots: RISC-V's 2**56 bytes in sections of 128 MiB have half as many."""


class Sparse:
    """See `npdump.kernel.memmap.Model`."""

    def applies(self, facts: Facts) -> bool:
        """See `npdump.kernel.memmap.Model.applies`."""
        return "SYMBOL(mem_section)" in facts

    def find(self, kernel: Kernel, struct_nbytes: int, max_mapnr: int) -> MemMap:
        """See `npdump.kernel.memmap.Model.find`."""
        sections = _Sections(kernel, struct_nbytes, max_mapnr)
        symbol = kernel.facts.need("SYMBOL(mem_section)", "to find the struct pages")
        best: MemMap | None = None
        # Before Linux 83e3c48729d9, v4.15, mem_section was the array of roots itself; since then, with
        # SPARSEMEM_EXTREME, it's a pointer to it. VMCOREINFO may give the pointer's address or its value.
        for is_pointer in (False, True):
            try:
                found = sections.decode(kernel.memory.read_word(symbol) if is_pointer else symbol)
            except AddressError:
                continue
            if found.n_damaged == 0 and len(found.vaddrs):
                return found
            if best is None or len(found.vaddrs) > len(best.vaddrs):
                best = found
        if best is None or len(best.vaddrs) <= best.n_damaged:
            raise MemmapError(
                f"mem_section at {symbol:#x} holds no plausible memory map: the dump or its VMCOREINFO is damaged; "
                "only dump levels 0 and 1 are possible"
            )
        return best


class _Sections:
    def __init__(self, kernel: Kernel, struct_nbytes: int, max_mapnr: int) -> None:
        facts, arch = kernel.facts, kernel.arch
        self._kernel = kernel
        self._struct_nbytes = struct_nbytes
        page_shift = kernel.page_size.bit_length() - 1
        size_bits = facts.get("NUMBER(SECTION_SIZE_BITS)") or arch.section_size_bits(facts)
        physmem_bits = facts.get("NUMBER(MAX_PHYSMEM_BITS)") or arch.max_physmem_bits(facts)
        if not page_shift < size_bits < physmem_bits <= 64:
            raise FactError(
                f"VMCOREINFO says SECTION_SIZE_BITS={size_bits}, MAX_PHYSMEM_BITS={physmem_bits}: it is damaged"
            )
        self._shift = size_bits - page_shift
        # The kernel has no section above MAX_PHYSMEM_BITS; hypervisors put the memory of devices there.
        self._max_mapnr = max_mapnr = min(max_mapnr, 1 << physmem_bits - page_shift)
        self._n_sections = -(-max_mapnr >> self._shift)
        self._section_nbytes = facts.need("SIZE(mem_section)", "to find the struct pages")
        self._map_offset = facts.need("OFFSET(mem_section.section_mem_map)", "to find the struct pages")
        word_nbytes = arch.bits // 8
        if not 0 <= self._map_offset <= self._section_nbytes - word_nbytes <= kernel.page_size:
            raise FactError(
                f"VMCOREINFO says SIZE(mem_section)={self._section_nbytes}, "
                f"OFFSET(mem_section.section_mem_map)={self._map_offset}: it is damaged"
            )
        self._per_root = kernel.page_size // self._section_nbytes
        n_roots = -(-(1 << physmem_bits - size_bits) // self._per_root)
        self._is_extreme = facts.get("LENGTH(mem_section)") in (n_roots, None)

    def decode(self, mem_section: int) -> MemMap:
        """Decode the sections, taking ``mem_section`` for the address of the array (of roots, if EXTREME)."""
        if self._is_extreme:
            numbers, maps = self._read_extreme(mem_section)
        else:
            maps = self._read_sections(mem_section, min(self._n_sections, MAX_SECTIONS))
            numbers = np.arange(len(maps))
        exist = (maps & np.uint64(HAS_MEM_MAP)) != 0
        numbers, maps = numbers[exist], maps[exist]
        npages = 1 << self._shift
        # A section's piece is aligned like its size (up to a page), so all bits below that are flags, even those that
        # kernels yet to come may add.
        piece_nbytes = npages * self._struct_nbytes
        alignment = max(min(piece_nbytes & -piece_nbytes, self._kernel.page_size), 1 << N_FLAG_BITS)
        pieces = (maps & ~np.uint64(alignment - 1)) + numbers.astype(np.uint64) * np.uint64(piece_nbytes)
        good = np.fromiter(map(self._kernel.memory.is_kernel_vaddr, pieces.tolist()), np.bool_, len(pieces))
        starts = numbers[good].astype(np.int64) << self._shift
        stops = np.minimum(starts + npages, self._max_mapnr)
        return MemMap(starts, stops, pieces[good], n_damaged=int((~good).sum()))

    def _read_sections(self, vaddr: int, count: int) -> U64:
        raw = self._kernel.memory.read(vaddr, count * self._section_nbytes)
        word = self._kernel.memory.word
        return np.ndarray(count, word, raw, self._map_offset, (self._section_nbytes,)).astype(np.uint64)

    def _read_extreme(self, vaddr: int) -> tuple[I64, U64]:
        """Return the numbers of the sections that have a root, and their ``section_mem_map``."""
        n_roots = min(-(-self._n_sections // self._per_root), MAX_ROOTS)
        roots = self._read_roots(vaddr, n_roots)
        there = np.flatnonzero(roots)
        maps = np.zeros((len(there), self._per_root), np.uint64)
        for row, i in zip(maps, there.tolist(), strict=True):
            if not self._kernel.memory.is_kernel_vaddr(int(roots[i])):
                raise AddressError(f"mem_section root {i} is {int(roots[i]):#x}, which isn't a kernel address")
            row[:] = self._read_sections(int(roots[i]), self._per_root)
        numbers = (there[:, None] * self._per_root + np.arange(self._per_root)).ravel()
        below = numbers < self._n_sections
        return numbers[below], maps.ravel()[below]

    def _read_roots(self, vaddr: int, count: int) -> U64:
        """Return the addresses of the roots; those that are not in the dump are 0, as those of no memory."""
        memory, word = self._kernel.memory, self._kernel.memory.word
        try:
            return np.frombuffer(memory.read(vaddr, count * word.itemsize), word)
        except AddressError:
            pass
        roots = np.zeros(count, word)
        page_size = self._kernel.page_size
        is_there = False
        at, stop = vaddr, vaddr + count * word.itemsize
        while at < stop:
            page_stop = min(at - at % page_size + page_size, stop)
            with suppress(AddressError):
                piece = np.frombuffer(memory.read(at, page_stop - at), word)
                first = (at - vaddr) // word.itemsize
                roots[first : first + len(piece)] = piece
                is_there = True
            at = page_stop
        if not is_there:
            raise AddressError(f"mem_section at {vaddr:#x} is not in the dump")
        return roots


MODEL = Sparse()

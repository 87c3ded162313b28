# SPDX-License-Identifier: GPL-2.0-or-later
"""sparc64 (sun4v): the segments of the dump give the linear map, page tables the rest.

References
----------
Linux ``arch/sparc/include/asm/pgtable_64.h``; UltraSPARC Architecture 2007 (sun4v TTE format).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arch import Arch
from npdump.arch._paging import AddressBits, AddressSpace, Entry, Level, Paging, Region
from npdump.errors import FactError
from npdump.layouts.machine import EM, machine_of

if TYPE_CHECKING:
    from npdump.facts import Facts
    from npdump.sources import Source

__all__ = ["ARCH", "paging"]

_PAGE_SHIFT = 13
_INDEX_BITS = _PAGE_SHIFT - 3
_HUGE = 1 << 56
_PRESENT = 1 << 4
_TTE_PADDR = (1 << 56) - (1 << _PAGE_SHIFT)


def paging(n_levels: int) -> Paging:
    """Return the form of the page tables: 4 levels since Linux v3.8.13 with 53-bit addresses, 3 before."""
    page = (AddressBits(_TTE_PADDR),)
    table = Entry(_HUGE, 0, (AddressBits((1 << 64) - (1 << _PAGE_SHIFT)),))
    levels = [Level("pte", _PAGE_SHIFT, _INDEX_BITS, (Entry(_PRESENT, _PRESENT, page, _PAGE_SHIFT),))]
    for depth, name in enumerate(("pmd", "pud", "pgd")[: n_levels - 1], 1):
        shift = _PAGE_SHIFT + depth * _INDEX_BITS
        is_top = depth == n_levels - 1
        entries = (table,) if is_top else (Entry(_HUGE, _HUGE, page, shift), table)
        levels.insert(0, Level("pgd" if is_top else name, shift, _INDEX_BITS, entries))
    return Paging(tuple(levels), np.dtype(">u8"))


def _regions(source: Source) -> tuple[Region, ...]:
    regions: list[Region] = []
    order = np.argsort(source.segments["vaddr"], kind="stable")
    for segment in source.segments[order]:
        vaddr, paddr, nbytes = (int(segment[name]) for name in ("vaddr", "paddr", "memsz"))
        if vaddr and nbytes and (not regions or vaddr >= regions[-1].stop):
            regions.append(Region(vaddr, vaddr + nbytes, paddr))
    return tuple(regions)


def _space(source: Source, facts: Facts) -> AddressSpace:
    regions = _regions(source)
    swapper = facts.need("SYMBOL(swapper_pg_dir)", "to find the page tables")
    root = next((r.paddr + swapper - r.start for r in regions if r.start <= swapper < r.stop), None)
    if root is None:
        raise FactError(f"{source.path}: no segment has the page tables, which VMCOREINFO puts at {swapper:#x}")
    return AddressSpace(">", regions, paging(4 if facts.version >= (3, 9) else 3), root)


ARCH = Arch(
    machine=machine_of(EM.SPARCV9, 64),
    space=_space,
    section_size_bits=lambda facts: 30,
    max_physmem_bits=lambda facts: 53 if facts.version >= (3, 9) else 49,
)

# SPDX-License-Identifier: GPL-2.0-or-later
"""ia64 (Itanium; its support left Linux with v6.7): regions by the top three address bits, 3 or 4 levels of tables.

References
----------
Linux v6.6 ``arch/ia64/include/asm/page.h``, ``asm/pgtable.h`` and ``Documentation/ia64/aliasing.rst``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arch import Arch
from npdump.arch._paging import AddressBits, AddressSpace, Entry, Level, Paging, Region
from npdump.layouts.machine import EM, machine_of

if TYPE_CHECKING:
    from npdump.facts import Facts
    from npdump.sources import Source

__all__ = ["ARCH", "paging"]

_PRESENT = 1 << 0
_VMALLOC, _UNCACHED, _CACHED = (number << 61 for number in (5, 6, 7))
_U64_MAX = (1 << 64) - 1
_IMAGE_NBYTES = 4 << 30
"""What follows the kernel's text is the image; vmalloc begins this far behind it."""
_IMAGE_ALIGNMENT = 64 << 20
"""Size of the translation register that maps the image."""


def paging(page_shift: int, n_levels: int) -> Paging:
    """Return the form of the page tables; those of region 5 begin at the top table's first entry."""
    bits = page_shift - 3
    address = (AddressBits((1 << 50) - (1 << 12)),)
    names = ("pgd", "pud", "pmd") if n_levels == 4 else ("pgd", "pmd")
    levels = [Level("pte", page_shift, bits, (Entry(_PRESENT, _PRESENT, address, page_shift),))]
    for depth, name in enumerate(reversed(names), 1):
        levels.insert(0, Level(name, page_shift + depth * bits, bits, (Entry(0, 0, address),)))
    return Paging(tuple(levels), np.dtype("<u8"))


def _image(source: Source, facts: Facts) -> Region:
    start = facts.need("SYMBOL(_stext)", "to find the kernel image")
    for segment in source.segments:
        vaddr, paddr = int(segment["vaddr"]), int(segment["paddr"])
        if _VMALLOC <= vaddr < _UNCACHED:
            return Region(start, start + _IMAGE_NBYTES, paddr + start - vaddr & ~(_IMAGE_ALIGNMENT - 1))
    return Region(start, start + _IMAGE_NBYTES, _IMAGE_ALIGNMENT)


def _space(source: Source, facts: Facts) -> AddressSpace:
    image = _image(source, facts)
    swapper = facts.need("SYMBOL(swapper_pg_dir)", "to find the page tables")
    regions = [Region(_UNCACHED, _CACHED, 0), Region(_CACHED, _U64_MAX, 0)]
    if _VMALLOC <= image.start < _UNCACHED:
        regions.insert(0, image)
    root = next((r.paddr + swapper - r.start for r in regions if r.start <= swapper < r.stop), 0)
    return AddressSpace(
        byte_order="<",
        regions=tuple(regions),
        paging=paging(source.page_size.bit_length() - 1, 4 if "CONFIG_PGTABLE_4" in facts else 3),
        root=root,
        lowest_vaddr=_VMALLOC,
        direct_map=regions[-1],
    )


ARCH = Arch(
    machine=machine_of(EM.IA_64, 64),
    space=_space,
    section_size_bits=lambda facts: 30,
    max_physmem_bits=lambda facts: 50,
)

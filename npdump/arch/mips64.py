# SPDX-License-Identifier: GPL-2.0-or-later
"""64-bit MIPS, as of the Loongson-3 kernels for which Linux has kdump: three levels, either byte order.

References
----------
MIPS64 Architecture, volume III (privileged resource architecture: address spaces); Linux
``arch/mips/include/asm/addrspace.h``, ``asm/pgtable-64.h`` and ``asm/pgtable-bits.h``.
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

_PRESENT = 1 << 0
_HUGE = 1 << 4
_PADDR_MASK = (1 << 48) - 1
_XKPHYS = (0x9000000000000000, 0x9800000000000000)
"""Unmapped windows of coherency attributes 2 (uncached) and 3 (cached)."""
_CKSEG0 = 0xFFFFFFFF80000000
_CKSEG_NBYTES = 1 << 29

_REGIONS = (
    *(Region(window, window + _PADDR_MASK + 1, 0) for window in _XKPHYS),
    Region(_CKSEG0, _CKSEG0 + _CKSEG_NBYTES, 0),
    Region(_CKSEG0 + _CKSEG_NBYTES, _CKSEG0 + 2 * _CKSEG_NBYTES, 0),
)


def paging(page_shift: int, byte_order: str) -> Paging:
    """Return the form of the three-level page tables of a page size."""
    bits = page_shift - 3
    address = (AddressBits(_PADDR_MASK & ~((1 << page_shift) - 1)),)
    # Entries for tables are their addresses in an unmapped window.
    table = Entry(0, 0, address)
    huge_shift = page_shift + bits
    levels = (
        Level("pgd", huge_shift + bits, bits, (table,)),
        Level("pmd", huge_shift, bits, (Entry(_PRESENT | _HUGE, _PRESENT | _HUGE, address, huge_shift), table)),
        Level("pte", page_shift, bits, (Entry(_PRESENT, _PRESENT, address, page_shift),)),
    )
    return Paging(levels, np.dtype(f"{byte_order}u8"))


def _space(source: Source, facts: Facts) -> AddressSpace:
    swapper = facts.need("SYMBOL(swapper_pg_dir)", "to find the page tables")
    root = next((r.paddr + swapper - r.start for r in _REGIONS if r.start <= swapper < r.stop), None)
    if root is None:
        raise FactError(f"VMCOREINFO puts the page tables at {swapper:#x}, outside the kernel image: it is damaged")
    return AddressSpace(
        byte_order=source.header.byte_order,
        regions=_REGIONS,
        paging=paging(source.page_size.bit_length() - 1, source.header.byte_order),
        root=root,
        lowest_vaddr=_XKPHYS[0],
        direct_map=_REGIONS[1],
    )


ARCH = Arch(
    machine=machine_of(EM.MIPS, 64),
    space=_space,
    section_size_bits=lambda facts: 28,
    max_physmem_bits=lambda facts: 48,
)

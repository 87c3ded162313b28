# SPDX-License-Identifier: GPL-2.0-or-later
"""64-bit LoongArch.

References
----------
LoongArch Reference Manual, volume 1, chapter 5 (memory management); Linux ``arch/loongarch/include/asm/addrspace.h``,
``asm/pgtable.h`` and ``asm/pgtable-bits.h``.
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

_PRESENT = 1 << 7
_HUGE = 1 << 6
_PADDR_MASK = (1 << 48) - 1
_WINDOWS = (0x8000000000000000, 0x9000000000000000)
"""Direct map windows, uncached and cached."""


def paging(page_shift: int) -> Paging:
    """Return the form of the three-level page tables of a page size."""
    bits = page_shift - 3
    address = (AddressBits(_PADDR_MASK & ~((1 << page_shift) - 1)),)
    # Entries for tables are their addresses in a direct map window.
    table = Entry(_HUGE, 0, address)
    huge_shift = page_shift + bits
    levels = (
        Level("pgd", huge_shift + bits, bits, (table,)),
        Level("pmd", huge_shift, bits, (Entry(_PRESENT | _HUGE, _PRESENT | _HUGE, address, huge_shift), table)),
        Level("pte", page_shift, bits, (Entry(_PRESENT, _PRESENT, address, page_shift),)),
    )
    return Paging(levels, np.dtype("<u8"))


def _space(source: Source, facts: Facts) -> AddressSpace:
    swapper = facts.need("SYMBOL(swapper_pg_dir)", "to find the page tables")
    if swapper < _WINDOWS[0]:
        raise FactError(f"VMCOREINFO puts the page tables at {swapper:#x}, outside the kernel image: it is damaged")
    windows = tuple(Region(window, window + _PADDR_MASK + 1, 0) for window in _WINDOWS)
    return AddressSpace(
        byte_order="<",
        regions=windows,
        paging=paging(source.page_size.bit_length() - 1),
        root=swapper & _PADDR_MASK,
        lowest_vaddr=_WINDOWS[0],
        direct_map=windows[-1],
    )


ARCH = Arch(
    machine=machine_of(EM.LOONGARCH, 64),
    space=_space,
    section_size_bits=lambda facts: 29,
    max_physmem_bits=lambda facts: 48,
    stack_register=3,  # Linux arch/loongarch/include/uapi/asm/reg.h, LOONGARCH_EF_R3
)

# SPDX-License-Identifier: GPL-2.0-or-later
"""32-bit PowerPC: low memory, which is mapped linearly and holds all that decides about pages.

References
----------
Linux ``arch/powerpc/include/asm/page.h`` (PAGE_OFFSET) and ``arch/powerpc/Kconfig`` (LOWMEM_SIZE).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump.arch import Arch
from npdump.arch._paging import AddressSpace, Region
from npdump.layouts.machine import EM, machine_of

if TYPE_CHECKING:
    from npdump.facts import Facts
    from npdump.sources import Source

__all__ = ["ARCH"]

_SPLIT_MASK = 0xF0000000
_LOWMEM_NBYTES = 0x30000000
"""Default of CONFIG_LOWMEM_SIZE."""


def _space(source: Source, facts: Facts) -> AddressSpace:
    page_offset = facts.need("SYMBOL(_stext)", "to find the linear map") & _SPLIT_MASK
    lowmem_nbytes = min(_LOWMEM_NBYTES, source.max_mapnr * source.page_size)
    linear = Region(page_offset, page_offset + lowmem_nbytes, 0)
    return AddressSpace(
        byte_order=source.header.byte_order,
        regions=(linear,),
        lowest_vaddr=page_offset,
        direct_map=linear,
    )


ARCH = Arch(
    machine=machine_of(EM.PPC, 32),
    space=_space,
    section_size_bits=lambda facts: 24,
    max_physmem_bits=lambda facts: 44,
    elf_bits=(32,),
)

# SPDX-License-Identifier: GPL-2.0-or-later
"""i386, with PAE (3 levels, 8-byte entries) and without (2 levels, 4-byte entries).

References
----------
Intel SDM volume 3, chapter 5 (paging); Linux ``arch/x86/include/asm/pgtable-{2,3}level*.h``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arch import Arch
from npdump.arch._paging import AddressBits, AddressSpace, Entry, Level, Paging
from npdump.layouts.machine import EM, machine_of

if TYPE_CHECKING:
    from npdump.facts import Facts
    from npdump.sources import Source

__all__ = ["ARCH", "paging"]

_PRESENT = 1 << 0
_PSE = 1 << 7
_DEFAULT_PAGE_OFFSET = 0xC0000000
_U32_MAX = (1 << 32) - 1


def paging(is_pae: bool) -> Paging:
    """Return the form of the page tables."""
    address = (AddressBits((1 << 52) - (1 << 12) if is_pae else _U32_MAX & ~0xFFF),)
    large_address = address if is_pae else (AddressBits(_U32_MAX & ~0x3FFFFF), AddressBits(0xFF << 13, 19))
    large_shift = 21 if is_pae else 22
    table = Entry(_PRESENT, _PRESENT, address)
    large = Entry(_PRESENT | _PSE, _PRESENT | _PSE, large_address, large_shift)
    bits = 9 if is_pae else 10
    lower = (
        Level("pmd", large_shift, bits, (large, table)),
        Level("pte", 12, bits, (Entry(_PRESENT, _PRESENT, address, 12),)),
    )
    if not is_pae:
        return Paging(lower, np.dtype("<u4"))
    return Paging((Level("pgd", 30, 2, (table,)), *lower), np.dtype("<u8"))


def _page_offset(source: Source) -> int:
    """Return CONFIG_PAGE_OFFSET, as far as the dump's producer gave virtual addresses; highmem has all ones."""
    for segment in source.segments:
        vaddr, paddr = int(segment["vaddr"]), int(segment["paddr"])
        if paddr < vaddr <= _U32_MAX:
            return vaddr - paddr
    return _DEFAULT_PAGE_OFFSET


def _space(source: Source, facts: Facts) -> AddressSpace:
    page_offset = _page_offset(source)
    swapper = facts.need("SYMBOL(swapper_pg_dir)", "to find the page tables")
    return AddressSpace(
        byte_order="<",
        paging=paging("CONFIG_X86_PAE" in facts),
        root=swapper - page_offset & _U32_MAX,
        lowest_vaddr=page_offset,
    )


def _section_size_bits(facts: Facts) -> int:
    if "CONFIG_X86_PAE" not in facts:
        return 26
    return 30 if (0, 0, 0) < facts.version < (2, 6, 26) else 29


ARCH = Arch(
    machine=machine_of(EM.I386, 32),
    space=_space,
    section_size_bits=_section_size_bits,
    max_physmem_bits=lambda facts: 36 if "CONFIG_X86_PAE" in facts else 32,
    aligns_u64=False,
    elf_bits=(32, 64),
    stack_register=15,  # Linux arch/x86/include/asm/user_32.h, struct user_regs_struct
)

# SPDX-License-Identifier: GPL-2.0-or-later
"""32-bit ARM: short descriptors, and the long ones of LPAE.

References
----------
Arm Architecture Reference Manual for Armv7-A, B3 (virtual memory system architecture); Linux
``arch/arm/include/asm/pgtable-{2,3}level.h``, ``asm/memory.h`` and ``arch/arm/kernel/machine_kexec.c``.
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

__all__ = ["ARCH", "long_paging", "short_paging"]

_SPLIT_MASK = 0xF0000000
"""CONFIG_PAGE_OFFSET is a multiple of 256 MiB, and the kernel image begins right behind it."""

_U32_MAX = (1 << 32) - 1
_SECTION = 1 << 1
_SUPERSECTION = 1 << 18


def short_paging(byte_order: str = "<") -> Paging:
    """Return the form of the page tables without LPAE, as the hardware reads them."""
    supersection_address = (AddressBits(0xFF000000), AddressBits(0xF << 20, 12), AddressBits(0xF << 5, 31))
    first = Level(
        "pgd",
        20,
        12,
        (
            Entry(_SECTION | _SUPERSECTION, _SECTION, (AddressBits(0xFFF00000),), 20),
            Entry(_SECTION | _SUPERSECTION, _SECTION | _SUPERSECTION, supersection_address, 24),
            Entry(0b11, 0b01, (AddressBits(0xFFFFFC00),)),
        ),
    )
    second = Level(
        "pte",
        12,
        8,
        (Entry(0b10, 0b10, (AddressBits(0xFFFFF000),), 12), Entry(0b11, 0b01, (AddressBits(0xFFFF0000),), 16)),
    )
    return Paging((first, second), np.dtype(f"{byte_order}u4"))


def long_paging(byte_order: str = "<") -> Paging:
    """Return the form of the page tables with LPAE."""
    address = (AddressBits((1 << 40) - (1 << 12)),)
    table = Entry(0b11, 0b11, address)
    levels = (
        Level("pgd", 30, 2, (Entry(0b11, 0b01, address, 30), table)),
        Level("pmd", 21, 9, (Entry(0b11, 0b01, address, 21), table)),
        Level("pte", 12, 9, (Entry(0b11, 0b11, address, 12),)),
    )
    return Paging(levels, np.dtype(f"{byte_order}u8"))


def _phys_offset(source: Source, facts: Facts) -> int:
    """Return PHYS_OFFSET, the physical address of PAGE_OFFSET."""
    stated = facts.get("NUMBER(PHYS_OFFSET)")
    if stated is not None:
        return stated
    lowest = int(source.segments["paddr"].min())
    page_offset = (facts.get("SYMBOL(swapper_pg_dir)") or 0) & _SPLIT_MASK
    for segment in source.segments:
        # QEMU gives no addresses, or physical ones; highmem has none.
        vaddr, paddr = int(segment["vaddr"]), int(segment["paddr"])
        offset = paddr - (vaddr - page_offset)
        if page_offset and page_offset <= vaddr <= _U32_MAX and vaddr != paddr and 0 <= offset <= lowest:
            return offset
    return lowest


def _space(source: Source, facts: Facts) -> AddressSpace:
    swapper = facts.need("SYMBOL(swapper_pg_dir)", "to find the page tables")
    page_offset = swapper & _SPLIT_MASK
    phys_offset = _phys_offset(source, facts)
    paging = long_paging if "CONFIG_ARM_LPAE" in facts else short_paging
    return AddressSpace(
        byte_order=source.header.byte_order,
        paging=paging(source.header.byte_order),
        root=swapper - page_offset + phys_offset,
        lowest_vaddr=page_offset,
        ram_base=phys_offset,
    )


ARCH = Arch(
    machine=machine_of(EM.ARM, 32),
    space=_space,
    section_size_bits=lambda facts: 28,
    max_physmem_bits=lambda facts: 36 if "CONFIG_ARM_LPAE" in facts else 32,
    phys_base=_phys_offset,
    elf_bits=(32, 64),
    stack_register=13,  # Linux arch/arm/include/uapi/asm/ptrace.h, ARM_sp
)

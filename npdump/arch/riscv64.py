# SPDX-License-Identifier: GPL-2.0-or-later
"""64-bit RISC-V: Sv39, Sv48 and Sv57.

References
----------
RISC-V Privileged Architecture, chapter on supervisor-level ISA; Linux ``Documentation/arch/riscv/vm-layout.rst``
and ``arch/riscv/kernel/vmcore_info.c``.
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

_U64 = 1 << 64
_VALID = 1 << 0
_READ_WRITE_EXECUTE = 0b111 << 1
_PPN = (1 << 54) - (1 << 10)
_DEFAULT_PHYS_RAM_BASE = 0x80200000


def paging(va_bits: int) -> Paging:
    """Return the form of the page tables for 39, 48 or 57 bits of virtual addresses."""
    address = (AddressBits(_PPN, 2),)
    # An entry that may be read, written or executed is a page, at any level; one that may not leads to a table.
    table = Entry(_VALID | _READ_WRITE_EXECUTE, _VALID, address)
    levels = [Level("pte", 12, 9, (Entry(_VALID, _VALID, address, 12),))]
    for depth, name in enumerate(("pmd", "pud", "p4d", "pgd")[: (va_bits - 21) // 9], 1):
        shift = 12 + 9 * depth
        levels.insert(0, Level(name, shift, 9, (table, Entry(_VALID, _VALID, address, shift))))
    return Paging(tuple(levels), np.dtype("<u8"))


def _segment_offset(source: Source, low: int, high: int) -> int | None:
    """Return by how much addresses in ``[low, high)`` differ from physical ones, as the dump's segments say."""
    for segment in source.segments:
        vaddr, paddr = int(segment["vaddr"]), int(segment["paddr"])
        if low <= vaddr < high and paddr < vaddr:
            return vaddr - paddr
    return None


def _space(source: Source, facts: Facts) -> AddressSpace:
    why = "to translate addresses"
    va_bits = facts.need("NUMBER(VA_BITS)", why)
    if va_bits not in (39, 48, 57):
        raise FactError(f"VMCOREINFO says VA_BITS={va_bits}, which no riscv64 kernel has: it is damaged")
    page_offset = facts.need("NUMBER(PAGE_OFFSET)", why) % _U64
    link_addr = facts.need("NUMBER(KERNEL_LINK_ADDR)", why) % _U64
    kernel_offset = facts.get("NUMBER(va_kernel_pa_offset)")
    if kernel_offset is None:
        # Linux fbe7d19d2b7f, v6.5, exports it; kdump's segment of the image has the same.
        kernel_offset = _segment_offset(source, link_addr, _U64)
    if kernel_offset is None:
        kernel_offset = facts.need("NUMBER(va_kernel_pa_offset)", why)
    kernel_offset %= _U64
    ram_base = facts.get("NUMBER(phys_ram_base)")
    if ram_base is None:
        direct_offset = _segment_offset(source, page_offset, link_addr)
        ram_base = _DEFAULT_PHYS_RAM_BASE if direct_offset is None else page_offset - direct_offset
    modules = facts.get("NUMBER(MODULES_VADDR)")
    vmalloc = facts.get("NUMBER(VMALLOC_START)")
    # Whatever else there is above the linear map ends it: modules stand right below the kernel image.
    above = [address % _U64 for address in (modules, vmalloc, link_addr) if address is not None]
    linear_stop = min((address for address in above if address > page_offset), default=_U64 - 1)
    image = Region(link_addr, _U64 - 1, link_addr - kernel_offset)
    direct_map = Region(page_offset, linear_stop, ram_base)
    return AddressSpace(
        byte_order=source.header.byte_order,
        regions=(direct_map, image),
        paging=paging(va_bits),
        root=(facts.need("SYMBOL(swapper_pg_dir)", "to find the page tables") - kernel_offset) % _U64,
        lowest_vaddr=_U64 - (1 << va_bits - 1),
        ram_base=ram_base,
        direct_map=direct_map,
        image=image,
    )


ARCH = Arch(
    machine=machine_of(EM.RISCV, 64),
    space=_space,
    section_size_bits=lambda facts: 27,
    max_physmem_bits=lambda facts: 56,
    stack_register=2,  # Linux arch/riscv/include/uapi/asm/ptrace.h, struct user_regs_struct: after pc and ra
)

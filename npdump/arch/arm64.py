# SPDX-License-Identifier: GPL-2.0-or-later
"""arm64: pages of 4, 16 and 64 KiB, virtual addresses of 36 to 52 bits, physical ones of 48 or 52.

References
----------
Arm Architecture Reference Manual, D8 (VMSAv8-64 translation table formats); Linux
``Documentation/arch/arm64/memory.rst`` and ``arch/arm64/include/asm/memory.h``.
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
_IMAGE_ALIGNMENT = 64 << 10
_MAX_IMAGE_NBYTES = 256 << 20
"""More than branches of the kernel's code reach."""

_BLOCK = 0b01
_TABLE_OR_PAGE = 0b11


def _address(page_shift: int, is_52_bit: bool) -> tuple[AddressBits, ...]:
    """Return where the physical address stands in a descriptor."""
    if page_shift == 16:
        # LPA: bits 15:12 hold address bits 51:48; they are 0 on hardware without it.
        return AddressBits((1 << 48) - (1 << 16)), AddressBits(0xF << 12, 36)
    if is_52_bit:
        # LPA2: bits 9:8 hold address bits 51:50 in place of the shareability, and 49:48 are address bits.
        return AddressBits((1 << 50) - (1 << page_shift)), AddressBits(0b11 << 8, 42)
    return (AddressBits((1 << 48) - (1 << page_shift)),)


def paging(page_shift: int, va_bits: int, is_52_bit: bool = False) -> Paging:
    """Return the form of the page tables.

    Parameters
    ----------
    page_shift : {12, 14, 16}
    va_bits : int
        Bits of virtual addresses that the tables resolve.
    is_52_bit : bool
        Whether physical addresses may have 52 bits: descriptors are those of LPA2 (LPA with 64 KiB pages).
    """
    address = _address(page_shift, is_52_bit)
    index_bits = page_shift - 3
    table = Entry(_TABLE_OR_PAGE, _TABLE_OR_PAGE, address)
    levels = [Level("pte", page_shift, index_bits, (Entry(_TABLE_OR_PAGE, _TABLE_OR_PAGE, address, page_shift),))]
    # Blocks are as large as 1 GiB (4 KiB pages), 32 MiB (16 KiB) or 512 MiB (64 KiB); with 52-bit addresses one level
    # more has them: 512 GiB, 64 GiB or 4 TiB.
    n_block_levels = {12: 2, 14: 1, 16: 1}[page_shift] + is_52_bit
    for depth in range(1, 5):
        shift = page_shift + depth * index_bits
        if shift >= va_bits:
            break
        entries = (Entry(_TABLE_OR_PAGE, _BLOCK, address, shift), table) if depth <= n_block_levels else (table,)
        levels.insert(0, Level(("pmd", "pud", "p4d", "pgd")[depth - 1], shift, index_bits, entries))
    top = levels[0]
    levels[0] = Level("pgd", top.shift, va_bits - top.shift, top.entries)
    return Paging(tuple(levels), np.dtype("<u8"))


_VA_BITS = {12: (39, 48), 14: (36, 47, 48), 16: (42, 48)}
"""CONFIG_ARM64_VA_BITS that kernels of each page shift could have before Linux v5.4."""


def _va_bits(source: Source, facts: Facts) -> int:
    """Return CONFIG_ARM64_VA_BITS."""
    bits = facts.get("NUMBER(VA_BITS)")
    if bits is None:
        # Not exported before v4.12.
        stext = facts.need("SYMBOL(_stext)", "to find the number of virtual address bits")
        choices = _VA_BITS[_page_shift(source)]
        bits = next((bits for bits in choices if stext >= _U64 - (1 << bits)), 0)
    if not 36 <= bits <= 52:
        raise FactError(f"VMCOREINFO says VA_BITS={bits}, which no arm64 kernel has: it is damaged")
    return bits


def _page_shift(source: Source) -> int:
    if source.page_size not in (1 << 12, 1 << 14, 1 << 16):
        raise FactError(f"VMCOREINFO says PAGESIZE={source.page_size}, which arm64 doesn't have: it is damaged")
    return source.page_size.bit_length() - 1


def _va_bits_actual(source: Source, facts: Facts) -> int:
    """Return the virtual address bits in use: a kernel built for 52 bits falls back where the hardware has fewer."""
    t1sz = facts.get("NUMBER(TCR_EL1_T1SZ)")
    if t1sz is not None:
        if not 12 <= t1sz <= 28:
            raise FactError(f"VMCOREINFO says TCR_EL1_T1SZ={t1sz}, which no arm64 kernel has: it is damaged")
        return 64 - t1sz
    bits = _va_bits(source, facts)
    if bits == 52:
        # Linux v5.4 to v5.8 don't export it. mem_section is in the linear map, whose lower half is used with 52 bits.
        mem_section = facts.get("SYMBOL(mem_section)") or 0
        return 48 if mem_section >> 51 & 1 else 52
    return bits


def _linear_map(source: Source, facts: Facts) -> Region:
    bits, actual = _va_bits(source, facts), _va_bits_actual(source, facts)
    stext = facts.need("SYMBOL(_stext)", "to find the linear map")
    # Linux 14c127c957c1, v5.4, put the linear map into the lower half of the kernel's addresses.
    is_low = stext >= _U64 - (1 << min(bits, 48) - 1)
    start = _U64 - (1 << actual if is_low else 1 << actual - 1)
    stop = start + (1 << actual - 1)
    # PHYS_OFFSET belongs to the start of a linear map of the bits that the kernel was built for.
    page_offset = _U64 - (1 << bits if is_low else 1 << bits - 1)
    phys_offset = facts.get("NUMBER(PHYS_OFFSET)")
    if phys_offset is not None:
        return Region(start, min(stop, _U64 - 1), phys_offset + start - page_offset)
    for segment in source.segments:
        vaddr, paddr = int(segment["vaddr"]), int(segment["paddr"])
        if start <= vaddr < stop:
            return Region(start, min(stop, _U64 - 1), paddr - (vaddr - start))
    raise FactError("VMCOREINFO lacks NUMBER(PHYS_OFFSET), which is needed to find the linear map")


def _image(facts: Facts, kimage_voffset: int | None) -> Region | None:
    """Return where the kernel image is, which begins a little before ``_stext``."""
    if kimage_voffset is None:
        return None
    start = facts.need("SYMBOL(_stext)", "to find the kernel image") & ~(_IMAGE_ALIGNMENT - 1)
    return Region(start, min(start + _MAX_IMAGE_NBYTES, _U64 - 1), (start - kimage_voffset) % _U64)


def _space(source: Source, facts: Facts) -> AddressSpace:
    linear = _linear_map(source, facts)
    bits, actual = _va_bits(source, facts), _va_bits_actual(source, facts)
    page_shift = _page_shift(source)
    swapper = facts.need("SYMBOL(swapper_pg_dir)", "to find the page tables")
    kimage_voffset = facts.get("NUMBER(kimage_voffset)")
    # Before Linux a7f8de168ace, v4.6, the kernel image was part of the linear map.
    root = swapper - linear.start + linear.paddr if kimage_voffset is None else swapper - kimage_voffset
    return AddressSpace(
        byte_order=source.header.byte_order,
        regions=(linear,),
        # With 64 KiB pages the top table always has the entries for the bits that the kernel was built for, and the
        # last ones are used; with others the kernel does without one level (v6.9 and later).
        paging=paging(page_shift, bits if page_shift == 16 else actual, actual == 52),
        root=root % _U64,
        lowest_vaddr=_U64 - (1 << max(bits, actual)),
        direct_map=linear,
        image=_image(facts, kimage_voffset),
    )


ARCH = Arch(
    machine=machine_of(EM.AARCH64, 64),
    space=_space,
    # v5.12 made sections smaller and exports their size.
    section_size_bits=lambda facts: 30,
    max_physmem_bits=lambda facts: 52 if facts.get("NUMBER(VA_BITS)") == 52 else 48,
    stack_register=31,  # Linux arch/arm64/include/uapi/asm/ptrace.h, struct user_pt_regs
)

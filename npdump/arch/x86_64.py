# SPDX-License-Identifier: GPL-2.0-or-later
"""x86_64, with 4 or 5 levels of page tables.

References
----------
Linux ``Documentation/arch/x86/x86_64/mm.rst`` and ``5level-paging.rst``; Intel SDM volume 3, chapter 5 (paging).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arch import Arch
from npdump.arch._paging import AddressBits, AddressSpace, Entry, Level, Paging, Region
from npdump.errors import FactError
from npdump.facts import Fact, Facts
from npdump.layouts.machine import EM, machine_of

if TYPE_CHECKING:
    from npdump.arrays import Records
    from npdump.sources import Source

__all__ = ["ARCH", "paging"]

START_KERNEL_MAP = 0xFFFFFFFF80000000
"""Virtual address that corresponds to ``phys_base`` (Linux ``__START_KERNEL_map``)."""

LOWEST_KERNEL_VADDR = 0xFF00000000000000
"""Kernel addresses begin here with 5 levels; with 4, at 0xffff800000000000."""

_LOWEST_WITH_FOUR_LEVELS = 0xFFFF800000000000

_DEFAULT_IMAGE_NBYTES = 512 << 20
"""KERNEL_IMAGE_SIZE without KASLR; modules follow."""

_PRESENT = 1 << 0
_PSE = 1 << 7
_PADDR_MASK = (1 << 52) - (1 << 12)


def _has_five_levels(facts: Facts) -> bool:
    return bool(facts.get("NUMBER(pgtable_l5_enabled)"))


def paging(n_levels: int, encryption_mask: int = 0) -> Paging:
    """Return the form of the page tables.

    ``encryption_mask`` is a bit (the C-bit of AMD memory encryption) that stands amid the address bits of each entry.
    """
    address = (AddressBits(_PADDR_MASK & ~encryption_mask),)
    table = Entry(_PRESENT, _PRESENT, address)

    def page(shift: int) -> Entry:
        return Entry(_PRESENT | _PSE, _PRESENT | _PSE, address, shift)

    levels = (
        Level("pgd", 48, 9, (table,)),
        Level("p4d", 39, 9, (table,)),
        Level("pud", 30, 9, (page(30), table)),
        Level("pmd", 21, 9, (page(21), table)),
        Level("pte", 12, 9, (Entry(_PRESENT, _PRESENT, address, 12),)),
    )
    return Paging(levels[-n_levels:], np.dtype("<u8"))


def _phys_base(source: Source, facts: Facts) -> int:
    value = facts.get("NUMBER(phys_base)")
    if value is not None:
        return value
    # Before Linux 401721ecd1dc, v4.10, VMCOREINFO gave the address of phys_base only; kdump's segments tell it too.
    images = source.segments[source.segments["vaddr"] >= START_KERNEL_MAP]
    return int(images[0]["paddr"]) - (int(images[0]["vaddr"]) - START_KERNEL_MAP) if len(images) else 0


def _max_physmem_bits(facts: Facts) -> int:
    if _has_five_levels(facts):
        return 52
    # Linux v2.6.26 and v2.6.31 raised MAX_PHYSMEM_BITS.
    since = (((2, 6, 31), 46), ((2, 6, 26), 44), ((2, 6, 0), 40))
    return next((bits for first, bits in since if facts.version >= first), 46)


def _root(source: Source, facts: Facts) -> int:
    # Linux 65ade2f872b4, v4.13: init_level4_pgt became init_top_pgt.
    symbol = facts.first(("SYMBOL(init_top_pgt)", "SYMBOL(init_level4_pgt)", "SYMBOL(swapper_pg_dir)"))
    if symbol is None:
        raise FactError("VMCOREINFO lacks SYMBOL(init_top_pgt), which is needed to find the page tables")
    if symbol < START_KERNEL_MAP:
        raise FactError(f"VMCOREINFO puts the page tables at {symbol:#x}, outside the kernel image: it is damaged")
    return symbol - START_KERNEL_MAP + _phys_base(source, facts) & (1 << 64) - 1


def _space(source: Source, facts: Facts) -> AddressSpace:
    return AddressSpace(
        byte_order="<",
        paging=paging(5 if _has_five_levels(facts) else 4, facts.get("NUMBER(sme_mask)") or 0),
        root=_root(source, facts),
        lowest_vaddr=LOWEST_KERNEL_VADDR,
        image=Region(
            START_KERNEL_MAP,
            START_KERNEL_MAP + (facts.get("NUMBER(KERNEL_IMAGE_SIZE)") or _DEFAULT_IMAGE_NBYTES),
            _phys_base(source, facts),
        ),
    )


def _locate(segments: Records, link_base: int | None) -> Facts:
    """Tell where the kernel runs from the addresses that kdump gives to its segments.

    References
    ----------
    Linux ``kernel/crash_core.c``, crash_prepare_elf64_headers(): the first segment is the kernel's text, from _text on.
    """
    values = {}
    images = segments[segments["vaddr"] >= START_KERNEL_MAP]
    if len(images):
        vaddr, paddr = int(images[0]["vaddr"]), int(images[0]["paddr"])
        values["NUMBER(phys_base)"] = paddr - (vaddr - START_KERNEL_MAP)
        if link_base is not None:
            values["KERNELOFFSET"] = vaddr - link_base
    high = segments["vaddr"] >= LOWEST_KERNEL_VADDR
    values["NUMBER(pgtable_l5_enabled)"] = int((high & (segments["vaddr"] < _LOWEST_WITH_FOUR_LEVELS)).any())
    return Facts({key: Fact(value, "the dump's segments") for key, value in values.items()}, {})


ARCH = Arch(
    machine=machine_of(EM.X86_64, 64),
    space=_space,
    section_size_bits=lambda facts: 27,
    max_physmem_bits=_max_physmem_bits,
    phys_base=_phys_base,
    locate=_locate,
    stack_register=19,  # Linux arch/x86/include/asm/user_64.h, struct user_regs_struct
)

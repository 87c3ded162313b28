"""x86_64, with 4 or 5 levels of page tables.

References
----------
Linux ``Documentation/arch/x86/x86_64/mm.rst`` and ``5level-paging.rst``; Intel SDM volume 3, chapter 5 (paging).
"""

from __future__ import annotations

import numpy as np

from npdump.arch import Arch
from npdump.errors import FactError
from npdump.kernel import Facts
from npdump.paging import AddressSpace, Entry, Level, Paging, Part
from npdump.sources import Source

__all__ = ["ARCH", "paging"]

START_KERNEL_MAP = 0xFFFFFFFF80000000
"""Virtual address that corresponds to ``phys_base`` (Linux ``__START_KERNEL_map``)."""

LOWEST_KERNEL_VADDR = 0xFF00000000000000
"""Kernel addresses begin here with 5 levels; with 4, at 0xffff800000000000."""

_PRESENT = 1 << 0
_PSE = 1 << 7
_PADDR_MASK = (1 << 52) - (1 << 12)


def _has_five_levels(facts: Facts) -> bool:
    return bool(facts.get("NUMBER(pgtable_l5_enabled)"))


def paging(n_levels: int, encryption_mask: int = 0) -> Paging:
    """Return the form of the page tables.

    ``encryption_mask`` is a bit (the C-bit of AMD memory encryption) that stands amid the address bits of each entry.
    """
    address = (Part(_PADDR_MASK & ~encryption_mask),)
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
    return facts.get("NUMBER(phys_base)") or 0


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
    )


ARCH = Arch(
    name="x86_64",
    machine=62,
    bits=64,
    space=_space,
    section_size_bits=lambda facts: 27,
    max_physmem_bits=lambda facts: 52 if _has_five_levels(facts) else 46,
    phys_base=_phys_base,
)

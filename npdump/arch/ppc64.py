# SPDX-License-Identifier: GPL-2.0-or-later
"""64-bit POWER, both byte orders: radix and hash MMU, pages of 4 and 64 KiB.

References
----------
Linux ``arch/powerpc/include/asm/book3s/64/`` (radix.h, hash-4k.h, hash-64k.h, pgtable.h), ``asm/pgtable-be-types.h``
and ``arch/powerpc/mm/init_64.c`` (vmemmap_list); Power ISA 3.0, book III (radix tree translation).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arch import Arch
from npdump.arch._paging import AddressBits, AddressSpace, Entry, Level, Paging, Region
from npdump.errors import AddressError, FactError
from npdump.layouts.machine import EM, machine_of

if TYPE_CHECKING:
    from npdump.facts import Facts
    from npdump.layouts import ByteOrder
    from npdump.sources import Source

__all__ = ["ARCH", "hash_paging", "radix_paging"]

PAGE_OFFSET = 0xC000000000000000
_VALID = 1 << 63
_LEAF = 1 << 62
_U64_MAX = (1 << 64) - 1
_TABLE_MASK = ~0xC0000000000000FF & _U64_MAX
_MAX_BACKINGS = 1 << 20

_POINTERS = ("SYMBOL(prb)", "SYMBOL(log_buf)", "SYMBOL(mem_section)", "SYMBOL(vmap_area_list)")
"""Variables that hold an address of the linear map."""


def radix_paging(page_shift: int) -> Paging:
    """Return the form of the radix tree; its entries are big-endian on little-endian kernels as well."""
    pte_bits = 21 - page_shift
    page = (AddressBits((1 << 57) - (1 << page_shift)),)
    table = Entry(_VALID | _LEAF, _VALID, (AddressBits((1 << 60) - (1 << 8)),))

    def leaf(shift: int) -> Entry:
        return Entry(_VALID | _LEAF, _VALID | _LEAF, page, shift)

    levels = (
        Level("pgd", 39, 13, (table,)),
        Level("pud", 30, 9, (leaf(30), table)),
        Level("pmd", 21, 9, (leaf(21), table)),
        Level("pte", page_shift, pte_bits, (leaf(page_shift),)),
    )
    return Paging(levels, np.dtype(">u8"))


def _index_bits(page_shift: int, version: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return the index bits of pte, pmd, pud and pgd with the hash MMU."""
    if page_shift == 12:
        return (9, 7, 9, 9) if version >= (3, 7) else (9, 7, 7, 9)
    since: tuple[tuple[tuple[int, int], tuple[int, int, int, int]], ...] = (
        ((4, 17), (8, 10, 10, 8)),
        ((4, 12), (8, 10, 7, 8)),
        ((4, 6), (8, 5, 5, 12)),
        ((3, 10), (8, 10, 0, 12)),
    )
    return next((bits for first, bits in since if version >= first), (12, 12, 0, 4))


def hash_paging(page_shift: int, version: tuple[int, ...], byte_order: str) -> Paging:
    """Return the form of Linux's own page tables where the hardware uses a hash table.

    Parameters
    ----------
    page_shift : {12, 16}
    version : tuple of int
        Of the kernel: (6, 1).
    byte_order : {"<", ">"}
        Of the kernel.
    """
    if version >= (4, 6):
        bits = 53 if version >= (4, 11) else 57
        page = (AddressBits((1 << bits) - (1 << page_shift)),)
        marks: tuple[tuple[int, int], ...] = ((_VALID | _LEAF, _VALID | _LEAF),)
        pte_marks: tuple[tuple[int, int], ...] = ((_VALID, _VALID),)
    else:
        rpn_shift = {12: 18 if version >= (4, 5) else 17, 16: 32 if version >= (4, 5) else 30}[page_shift]
        page = (AddressBits(_U64_MAX & ~((1 << rpn_shift) - 1), page_shift - rpn_shift),)
        pte_marks = ((0b10, 0b10),) if version >= (4, 5) else ((0b01, 0b01),)
        marks = ((0b01, 0b01), (0b10, 0b10))
    # Any other entry that isn't 0 is the address of a table, virtual or physical.
    table = Entry(0, 0, (AddressBits(_TABLE_MASK),))
    levels: list[Level] = []
    shift = page_shift
    for name, bits in zip(("pte", "pmd", "pud", "pgd"), _index_bits(page_shift, version), strict=True):
        leaves = tuple(Entry(mask, value, page, shift) for mask, value in (marks if levels else pte_marks))
        if bits:
            levels.insert(0, Level(name, shift, bits, (*leaves, table) if levels else leaves))
        shift += bits
    # Since Linux 4.7 entries are big-endian on little-endian kernels as well.
    return Paging(tuple(levels), np.dtype(f"{'>' if version >= (4, 7) else byte_order}u8"))


def _byte_order(source: Source, facts: Facts) -> ByteOrder:
    """Tell the kernel's byte order by pointers: QEMU writes big-endian headers for little-endian guests."""
    for key in _POINTERS:
        symbol = facts.get(key)
        if symbol is None or symbol < PAGE_OFFSET:
            continue
        try:
            raw = source.view(symbol - PAGE_OFFSET, 8).tobytes()
        except AddressError:
            continue
        is_big, is_little = raw[0] == PAGE_OFFSET >> 56, raw[-1] == PAGE_OFFSET >> 56
        if is_big != is_little:
            return ">" if is_big else "<"
    return source.header.byte_order


def _is_radix(source: Source, facts: Facts, root: int) -> bool:
    stated = facts.get("NUMBER(RADIX_MMU)")
    if stated is not None:
        return bool(stated)
    # The tree's first entry leads to the linear map; in Linux's own tables that map isn't, nor is any entry marked so.
    try:
        entry = int(source.view(root, 8).view(">u8")[0])
    except AddressError:
        return False
    return entry & (_VALID | _LEAF) == _VALID


def _vmemmap(source: Source, facts: Facts, byte_order: str) -> tuple[Region, ...]:
    """Return where the memory map is, as the kernel lists it for the hash MMU (struct vmemmap_backing)."""
    why = "to find the struct pages"
    fields = ("list", "phys", "virt_addr")
    offsets = [facts.need(f"OFFSET(vmemmap_backing.{field})", why) for field in fields]
    node_nbytes = facts.need("SIZE(vmemmap_backing)", why)

    def number(vaddr: int, nbytes: int) -> int:
        raw = source.view(vaddr - PAGE_OFFSET, nbytes)
        return int(raw.view(np.dtype(f"{byte_order}u{nbytes}"))[0])

    page_size_index = number(facts.need("SYMBOL(mmu_vmemmap_psize)", why), 4)
    definition = facts.need("SYMBOL(mmu_psize_defs)", why) + page_size_index * facts.need("SIZE(mmu_psize_def)", why)
    shift = number(definition + facts.need("OFFSET(mmu_psize_def.shift)", why), 4)
    if not 12 <= shift <= 34 or node_nbytes < max(offsets) + 8:
        raise FactError(f"VMCOREINFO leads to a memory map in pages of 2**{shift} bytes: it is damaged")
    regions: list[Region] = []
    node = number(facts.need("SYMBOL(vmemmap_list)", why), 8)
    seen: set[int] = set()
    while node and node not in seen and len(seen) < _MAX_BACKINGS:
        seen.add(node)
        node, paddr, vaddr = (number(node + offset, 8) for offset in offsets)
        regions.append(Region(vaddr, vaddr + (1 << shift), paddr))
    regions.sort()
    # One that overlaps the one before is damage.
    return tuple(
        region
        for region, last in zip(regions, [None, *regions], strict=False)
        if last is None or region.start >= last.stop
    )


def _space(source: Source, facts: Facts) -> AddressSpace:
    byte_order = _byte_order(source, facts)
    page_shift = source.page_size.bit_length() - 1
    if page_shift not in (12, 16):
        raise FactError(f"VMCOREINFO says PAGESIZE={source.page_size}, which POWER doesn't have: it is damaged")
    # Hypervisors put memory of devices higher; there the addresses are those of vmalloc and the memory map.
    linear_nbytes = min(source.max_mapnr * source.page_size, 1 << _max_physmem_bits(facts))
    linear = Region(PAGE_OFFSET, PAGE_OFFSET + linear_nbytes, 0)
    root = facts.need("SYMBOL(swapper_pg_dir)", "to find the page tables") - PAGE_OFFSET
    if root < 0:
        raise FactError(f"VMCOREINFO puts the page tables at {root + PAGE_OFFSET:#x}: it is damaged")
    if _is_radix(source, facts, root):
        return AddressSpace(byte_order, (linear,), radix_paging(page_shift), root, PAGE_OFFSET, direct_map=linear)
    vmemmap = _vmemmap(source, facts, byte_order) if "SYMBOL(vmemmap_list)" in facts else ()
    paging = hash_paging(page_shift, facts.version, byte_order)
    return AddressSpace(byte_order, (linear, *vmemmap), paging, root, PAGE_OFFSET, direct_map=linear)


def _max_physmem_bits(facts: Facts) -> int:
    since = (((4, 20), 51), ((4, 19), 47), ((3, 7), 46))
    return next((bits for first, bits in since if facts.version >= first), 44)


ARCH = Arch(
    machine=machine_of(EM.PPC64, 64),
    space=_space,
    section_size_bits=lambda facts: 24,
    max_physmem_bits=_max_physmem_bits,
    stack_register=1,  # Linux arch/powerpc/include/uapi/asm/ptrace.h, struct pt_regs: r1
)

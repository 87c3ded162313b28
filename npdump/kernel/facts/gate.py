# SPDX-License-Identifier: GPL-2.0-or-later
"""The gate that every fact passes: what each key may be on any kernel.

What is outside is damage, and must not reach what computes with it: an order of 100 asks for more memory than there
is, an offset of 2**31 - 1 reads beyond it. Whether a value that passes is the right one is for the self-check to find
out.

References
----------
Linux ``Documentation/admin-guide/kdump/vmcoreinfo.rst`` for the keys; ``include/linux/mmzone.h``,
``include/linux/page-flags.h`` and ``arch/*/include/asm`` for the ranges.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.facts import Facts

__all__ = ["pass_gate"]

_U32 = (1 << 32) - 1
_U64 = (1 << 64) - 1


class _Numbers(NamedTuple):
    """Whole numbers from ``first`` to ``last``, both included, that are multiples of ``step``."""

    first: int
    last: int
    step: int = 1

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and self.first <= value <= self.last and value % self.step == 0


class _Bits(NamedTuple):
    """Powers of two from ``1 << first`` to ``1 << last``, and 0 if there need be no such bit."""

    first: int
    last: int
    or_none: bool = False

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int) or value <= 0:
            return value == 0 and self.or_none
        return value & value - 1 == 0 and self.first <= value.bit_length() - 1 <= self.last


class _PageTypes:
    """Values of ``_mapcount`` that mean a page type; never -1, that of a page without one.

    -2 and -128 (Linux v2.6.38 and v2.6.39), one clear bit (v4.18), and in the top byte 0xf0 and more (v6.12).
    """

    def __contains__(self, value: object) -> bool:
        if not isinstance(value, int) or not -(1 << 31) <= value <= _U32:
            return False
        word = value & _U32
        is_one_bit = word >> 31 == 1 and (~word & _U32).bit_count() == 1
        is_top_byte = word & 0xFFFFFF == 0 and 0xF0 <= word >> 24 < 0xFF
        return is_one_bit or is_top_byte or value == -128


_FLAG = _Numbers(0, 31)
"""Page flags are the lower bits of a word that may have 32; no kernel has more flags."""

_VADDR = _Numbers(-(1 << 63), _U64)


class _KernelVaddr:
    """Addresses of the upper half of 64-bit address space, as signed or as unsigned numbers."""

    def __contains__(self, value: object) -> bool:
        return isinstance(value, int) and value in _VADDR and (value & _U64) >> 63 == 1


_Range = _Numbers | _Bits | _PageTypes | _KernelVaddr

_RANGES: dict[str, _Range] = {
    "KERNELOFFSET": _Numbers(0, _U64),
    "CRASHTIME": _Numbers(0, 1 << 36),
    "NUMBER(NR_FREE_PAGES)": _Numbers(0, 63),
    "NUMBER(N_ONLINE)": _Numbers(0, 31),
    "NUMBER(PG_head_mask)": _Bits(0, 31),
    "NUMBER(HUGETLB_PAGE_DTOR)": _Numbers(0, 15),
    "NUMBER(SECTION_SIZE_BITS)": _Numbers(20, 40),
    "NUMBER(MAX_PHYSMEM_BITS)": _Numbers(30, 58),
    "NUMBER(phys_base)": _Numbers(-(1 << 52), 1 << 52, 1 << 12),
    "NUMBER(pgtable_l5_enabled)": _Numbers(0, 1),
    "NUMBER(sme_mask)": _Bits(32, 62, or_none=True),
    "NUMBER(KERNEL_IMAGE_SIZE)": _Numbers(1 << 24, 1 << 31, 1 << 12),
    "NUMBER(VA_BITS)": _Numbers(36, 57),
    "NUMBER(TCR_EL1_T1SZ)": _Numbers(12, 28),
    "NUMBER(PHYS_OFFSET)": _Numbers(-(1 << 63), _U64, 1 << 12),
    "NUMBER(kimage_voffset)": _Numbers(-(1 << 63), _U64, 1 << 12),
    "NUMBER(phys_ram_base)": _Numbers(0, 1 << 56, 1 << 12),
    "NUMBER(va_kernel_pa_offset)": _Numbers(-(1 << 63), _U64, 1 << 12),
    "NUMBER(PAGE_OFFSET)": _KernelVaddr(),
    "NUMBER(KERNEL_LINK_ADDR)": _KernelVaddr(),
    "NUMBER(RADIX_MMU)": _Numbers(0, 1),
    "LENGTH(zone.free_area)": _Numbers(1, 20),
    "LENGTH(free_area.free_list)": _Numbers(1, 16),
    "LENGTH(mem_section)": _Numbers(1, 1 << 24),
    "LENGTH(node_data)": _Numbers(1, 1 << 16),
    "LENGTH(pgdat_list)": _Numbers(1, 1 << 16),
    "SIZE(page)": _Numbers(16, 512, 4),
    "SIZE(mem_section)": _Numbers(4, 128, 4),
    "SIZE(pglist_data)": _Numbers(64, 1 << 22, 4),
    "SIZE(zone)": _Numbers(64, 1 << 20, 4),
    "SIZE(free_area)": _Numbers(8, 1 << 12, 4),
    "SIZE(prb_desc)": _Numbers(8, 256, 4),
    "SIZE(printk_info)": _Numbers(8, 1 << 10, 4),
    "SIZE(printk_ringbuffer)": _Numbers(8, 1 << 12, 4),
    "SIZE(latched_seq)": _Numbers(8, 1 << 10, 4),
    "SIZE(printk_log)": _Numbers(8, 256, 4),
    "SIZE(log)": _Numbers(8, 256, 4),
    "SIZE(vmemmap_backing)": _Numbers(12, 256, 4),
    "SIZE(mmu_psize_def)": _Numbers(4, 1 << 10, 4),
}
_RANGES_BY_FORM: tuple[tuple[re.Pattern[str], _Range], ...] = (
    (re.compile(r"NUMBER\(PG_\w+\)"), _FLAG),
    (re.compile(r"NUMBER\(PAGE_\w+_MAPCOUNT_VALUE\)"), _PageTypes()),
    (re.compile(r"(SIZE|LENGTH)\(.*\)"), _Numbers(0, 1 << 24)),
)

_WORD = 0
"""Stands in for the bytes of an unsigned long, which differ between machines."""

_NBYTES = {
    "page": "flags:w _refcount:4 _count:4 mapping:w lru:w _mapcount:4 private:w compound_dtor:1 compound_order:1 "
    "compound_head:w compound_info:w",
    "folio": "_folio_dtor:1 _folio_order:1",
    "mem_section": "section_mem_map:w",
    "pglist_data": "node_zones:w nr_zones:4 node_mem_map:w node_start_pfn:w node_spanned_pages:w pgdat_next:w "
    "node_id:4",
    "zone": "free_pages:w free_area:w vm_stat:w spanned_pages:w",
    "free_area": "free_list:w",
    "list_head": "next:w prev:w",
    "printk_ringbuffer": "desc_ring:w text_data_ring:w",
    "prb_desc_ring": "count_bits:4 descs:w infos:w head_id:w tail_id:w",
    "prb_desc": "state_var:w text_blk_lpos:w",
    "prb_data_blk_lpos": "begin:w next:w",
    "prb_data_ring": "size_bits:4 data:w",
    "printk_info": "seq:8 ts_nsec:8 text_len:2 caller_id:4",
    "latched_seq": "val:8",
    "printk_log": "ts_nsec:8 len:2 text_len:2 caller_id:4",
    "log": "ts_nsec:8 len:2 text_len:2 caller_id:4",
    "vmemmap_backing": "phys:w virt_addr:w list:w",
    "mmu_psize_def": "shift:4",
    "cpu_spec": "mmu_features:w",
    "uts_namespace": "name:1",
}
"""Bytes of the members that are read, ``w`` for an unsigned long; of structs and arrays, what they align to."""

_MEMBER_NBYTES = {
    f"OFFSET({struct}.{name})": (struct, _WORD if nbytes == "w" else int(nbytes))
    for struct, members in _NBYTES.items()
    for name, _, nbytes in (member.partition(":") for member in members.split())
}
_UNSIZED_NBYTES = 1 << 12
"""Structs whose size no kernel exports are smaller."""

_FOLIO_NPAGES = 4
"""Struct pages that struct folio spans (Linux ``include/linux/mm_types.h``)."""


def pass_gate(facts: Facts, bits: int) -> Facts:
    """Return the facts less those that cannot be true; they are remembered as ``rejected``.

    Parameters
    ----------
    facts : Facts
    bits : {32, 64}
        Word size of the kernel.

    Examples
    --------
    >>> from npdump.facts import Fact, Facts
    >>> facts = Facts({"NUMBER(PG_lru)": Fact(99, "VMCOREINFO"), "SIZE(page)": Fact(64, "VMCOREINFO")}, {})
    >>> pass_gate(facts, 64).rejected
    {'NUMBER(PG_lru)': 'VMCOREINFO says NUMBER(PG_lru)=99, which no kernel has'}
    """
    bad = {}
    for key, fact in facts.items():
        if fact.value not in _range_of(key, bits):
            shown = f"{fact.value:#x}" if key.startswith("SYMBOL(") else fact.value
            bad[key] = f"{fact.origin} says {key}={shown}, which no kernel has"
    facts = facts.rejecting(bad)
    facts = facts.rejecting(_too_small(facts, bits))
    bad = {}
    for key, struct, nbytes in _members(bits):
        offset = facts.get(key)
        if offset is None:
            continue
        size, alignment = _size_of(facts, struct), min(nbytes, bits // 8)
        if not 0 <= offset <= size - nbytes or offset % alignment:
            bad[key] = f"{facts.origin(key)} says {key}={offset}, where no kernel has it in a struct of {size} bytes"
    return facts.rejecting(bad)


def _members(bits: int) -> Iterator[tuple[str, str, int]]:
    """Yield the keys of members, their structs, and their bytes."""
    for key, (struct, nbytes) in _MEMBER_NBYTES.items():
        yield key, struct, nbytes or bits // 8


def _size_of(facts: Facts, struct: str) -> int:
    n, name = (_FOLIO_NPAGES, "page") if struct == "folio" else (1, struct)
    size = facts.get(f"SIZE({name})")
    return _UNSIZED_NBYTES if size is None else size * n


def _too_small(facts: Facts, bits: int) -> dict[str, str]:
    """Return the sizes of structs that leave no room for two members or more: then it is the size that is wrong."""
    beyond: dict[str, list[str]] = {}
    for key, struct, nbytes in _members(bits):
        offset = facts.get(key)
        if offset is not None and _size_of(facts, struct) - nbytes < offset <= _UNSIZED_NBYTES:
            beyond.setdefault(f"SIZE({struct})", []).append(f"{key}={offset}")
    return {
        size: f"{facts.origin(size)} says {size}={facts.get(size)}, which has no room for {' and '.join(keys[:2])}"
        for size, keys in beyond.items()
        if len(keys) > 1 and facts.get(size) is not None
    }


def _range_of(key: str, bits: int) -> _Range:
    if key.startswith("SYMBOL("):
        return _Numbers(1, (1 << bits) - 1)
    if key == "SIZE(list_head)":
        return _Numbers(bits // 4, bits // 4)
    by_form = (allowed for form, allowed in _RANGES_BY_FORM if form.fullmatch(key))
    return _RANGES.get(key) or next(by_form, _VADDR)

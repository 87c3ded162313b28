# SPDX-License-Identifier: GPL-2.0-or-later
"""From a kernel's symbols and types to the facts that VMCOREINFO would state, under the same keys.

References
----------
Linux ``kernel/vmcore_info.c`` and ``arch/*/kernel/vmcore_info_64.c`` for the keys; makedumpfile(8), option ``-g``, for
the file that holds those that are asked for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from npdump.facts import Fact, Facts

if TYPE_CHECKING:
    from collections.abc import Mapping

    from npdump.kernel.facts.types import Types

__all__ = ["KEYS", "from_types", "page_type_macros", "release_of"]

_SYMBOLS = (
    "mem_map vmem_map mem_section pkmap_count pkmap_count_next system_utsname init_uts_ns _stext swapper_pg_dir "
    "init_level4_pgt level4_kernel_pgt init_top_pgt vmlist vmap_area_list node_online_map node_states node_data "
    "pgdat_list contig_page_data prb clear_seq log_buf log_buf_len log_end log_first_idx clear_idx log_next_idx "
    "max_pfn high_memory node_remap_start_vaddr node_remap_end_vaddr node_remap_start_pfn vmemmap_list "
    "mmu_psize_defs mmu_vmemmap_psize cpu_pgd demote_segment_4k cur_cpu_spec free_huge_page"
).split()
_SIZES = (
    "page mem_section pglist_data zone free_area list_head node_memblk_s nodemask_t pageflags printk_ringbuffer "
    "prb_desc printk_info latched_seq printk_log log vmemmap_backing mmu_psize_def"
).split()
_OFFSETS = {
    "page": "flags _refcount _count mapping lru _mapcount private compound_dtor compound_order compound_head "
    "compound_info",
    "folio": "_folio_dtor _folio_order",
    "mem_section": "section_mem_map",
    "pglist_data": "node_zones nr_zones node_mem_map node_start_pfn node_spanned_pages pgdat_next node_id",
    "zone": "free_pages free_area vm_stat spanned_pages",
    "free_area": "free_list",
    "list_head": "next prev",
    "node_memblk_s": "start_paddr size nid",
    "vm_struct": "addr",
    "vmap_area": "va_start list",
    "printk_ringbuffer": "desc_ring text_data_ring",
    "prb_desc_ring": "count_bits descs infos head_id tail_id",
    "prb_desc": "state_var text_blk_lpos",
    "prb_data_blk_lpos": "begin next",
    "prb_data_ring": "size_bits data",
    "printk_info": "seq ts_nsec text_len caller_id",
    "latched_seq": "val",
    "printk_log": "ts_nsec len text_len caller_id",
    "log": "ts_nsec len text_len caller_id",
    "vmemmap_backing": "phys virt_addr list",
    "mmu_psize_def": "shift",
    "cpu_spec": "mmu_features",
    "uts_namespace": "name",
}
_LENGTHS = (
    "node_data pgdat_list mem_section node_memblk node_remap_start_pfn zone.free_area free_area.free_list"
).split()
_ENUMERATORS = {
    "NR_FREE_PAGES": "zone_stat_item",
    "N_ONLINE": "node_states",
    "PG_lru": "pageflags",
    "PG_private": "pageflags",
    "PG_swapcache": "pageflags",
    "PG_swapbacked": "pageflags",
    "PG_buddy": "pageflags",
    "PG_slab": "pageflags",
    "PG_hwpoison": "pageflags",
    "PG_hugetlb": "pageflags",
    "HUGETLB_PAGE_DTOR": "compound_dtor_id",
}
"""By the enum, since a page flag and a page type may have the same name (PG_slab and PG_buddy in Linux 6.10)."""

_PAGE_TYPES = {
    "PAGE_BUDDY_MAPCOUNT_VALUE": ("PGTY_buddy", "PG_buddy"),
    "PAGE_OFFLINE_MAPCOUNT_VALUE": ("PGTY_offline", "PG_offline"),
    "PAGE_SLAB_MAPCOUNT_VALUE": ("PGTY_slab", "PG_slab"),
    "PAGE_HUGETLB_MAPCOUNT_VALUE": ("PGTY_hugetlb", "PG_hugetlb"),
    "PAGE_UNACCEPTED_MAPCOUNT_VALUE": ("PGTY_unaccepted", None),
}
_TOP_BYTE = 24

KEYS = (
    *(f"SYMBOL({name})" for name in _SYMBOLS),
    *(f"SIZE({name})" for name in _SIZES),
    *(f"OFFSET({struct}.{member})" for struct, members in _OFFSETS.items() for member in members.split()),
    "OFFSET(atomic_long_t.counter)",
    *(f"LENGTH({name})" for name in _LENGTHS),
    *(f"NUMBER({name})" for name in (*_ENUMERATORS, "PG_head_mask", *_PAGE_TYPES)),
)
"""Every fact that npdump may ask for and that a kernel's symbols and types may tell."""


def release_of(banner: str | None) -> str | None:
    """Return the release in a kernel's banner, ``Linux version RELEASE (...``."""
    match = re.match(r"Linux version (\S+)", banner or "")
    return match[1] if match else None


def from_types(symbols: Mapping[str, int], types: Types, release: str | None, origin: str) -> Facts:
    """Work out what VMCOREINFO would say.

    Parameters
    ----------
    symbols : mapping of str to int
    types : Types
    release : str or None
        Only for what no type tells: the page types that were macros before Linux 6.10.
    origin : str
        Where these come from, for messages.

    Returns
    -------
    Facts
        In the order of `KEYS`.
    """
    values: dict[str, Fact] = {}
    known = dict(page_type_macros(release).items()) if types.enums else {}
    for key in KEYS:
        kind, _, name = key.removesuffix(")").partition("(")
        value = _VALUE_OF[kind](name, symbols, types)
        if value is not None:
            values[key] = Fact(value, origin)
        elif key in known:
            values[key] = known[key]
    texts = {f"SRCFILE({name})": path for name, path in types.files.items()}
    return Facts(values, texts | {"OSRELEASE": release} if release else texts)


def _symbol(name: str, symbols: Mapping[str, int], types: Types) -> int | None:
    return symbols.get(name)


def _size(name: str, symbols: Mapping[str, int], types: Types) -> int | None:
    if name in types.structs:
        return types.structs[name].nbytes
    return types.enum_nbytes.get(name) or types.sizes.get(name)


def _offset(name: str, symbols: Mapping[str, int], types: Types) -> int | None:
    struct, _, member = name.partition(".")
    if struct == "atomic_long_t":
        return 0 if "prb" in symbols else None  # its counter is all it has; wanted for the lockless log only
    found = types.structs.get(struct)
    return found.members[member].offset if found and member in found.members else None


def _length(name: str, symbols: Mapping[str, int], types: Types) -> int | None:
    struct, _, member = name.partition(".")
    if not member:
        return types.arrays.get(name) or None
    found = types.structs.get(struct)
    return found.members[member].n_elements or None if found and member in found.members else None


def _number(name: str, symbols: Mapping[str, int], types: Types) -> int | None:
    if name == "PG_head_mask":
        bit = types.enumerator("pageflags", "PG_head")
        # No word has another one: 1 << 2**31 would take 256 MiB.
        return 1 << bit if bit is not None and 0 <= bit < 64 else None
    if name in _ENUMERATORS:
        return types.enumerator(_ENUMERATORS[name], name)
    byte, flag = (name and types.enumerator("pagetype", name) for name in _PAGE_TYPES[name])
    if isinstance(byte, int):
        # Linux 4ffca5a96678, v6.12: the type is the top byte.
        return _signed(byte << _TOP_BYTE)
    # Before, each type was a bit that is clear in page_type when a page is of the type.
    return _signed(~flag) if isinstance(flag, int) else None


def _signed(value: int) -> int:
    """Return 32 bits as the signed number that the kernel prints."""
    return ((value & 0xFFFFFFFF) ^ 1 << 31) - (1 << 31)


_VALUE_OF = {"SYMBOL": _symbol, "SIZE": _size, "OFFSET": _offset, "LENGTH": _length, "NUMBER": _number}


def page_type_macros(release: str | None) -> Facts:
    """Return the page types that were macros in a kernel's release, which no debug information tells."""
    version = Facts({}, {"OSRELEASE": release} if release else {}).version
    for first, stop, values in _MACROS:
        if first <= version < stop:
            origin = f"the known value in Linux {release}"
            return Facts({f"NUMBER({name})": Fact(value, origin) for name, value in values.items()}, {})
    return Facts({}, {})


_MACROS = (
    # Linux 5f24ce5fd34c, v2.6.38, and ef2b4b95a63a, v2.6.39.
    ((2, 6, 38), (2, 6, 39), {"PAGE_BUDDY_MAPCOUNT_VALUE": -2}),
    ((2, 6, 39), (4, 18, 0), {"PAGE_BUDDY_MAPCOUNT_VALUE": -128}),
    # Linux 6e292b9be7f4, v4.18 (buddy); e04b742f74c2, v5.1 (offline); v6.9 (hugetlb). Enumerators since v6.10.
    ((4, 18, 0), (5, 1, 0), {"PAGE_BUDDY_MAPCOUNT_VALUE": ~0x80}),
    ((5, 1, 0), (6, 9, 0), {"PAGE_BUDDY_MAPCOUNT_VALUE": ~0x80, "PAGE_OFFLINE_MAPCOUNT_VALUE": ~0x100}),
    (
        (6, 9, 0),
        (6, 10, 0),
        {
            "PAGE_BUDDY_MAPCOUNT_VALUE": ~0x80,
            "PAGE_OFFLINE_MAPCOUNT_VALUE": ~0x100,
            "PAGE_HUGETLB_MAPCOUNT_VALUE": ~0x800,
        },
    ),
)
"""First release, release after the last one, values."""

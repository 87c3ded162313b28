# SPDX-License-Identifier: GPL-2.0-or-later
"""s390x: virtual addresses that equal physical ones, and since Linux v6.10 those that don't.

References
----------
IBM z/Architecture Principles of Operation, chapter 3 (dynamic address translation); Linux
``arch/s390/include/asm/os_info.h``, ``asm/lowcore.h`` and ``arch/s390/boot/startup.c``.
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
    from npdump.sources import Source

__all__ = ["ARCH", "paging"]

_INVALID = 0x20
_TABLE_TYPE = 0x0C
_LARGE = 0x400
_PAGE_INVALID = 0x400

_OS_INFO_POINTER = 0xE18
"""Absolute address of the lowcore's pointer to struct os_info."""
_OS_INFO_MAGIC = 0x4F53494E464F535A
"""``OSINFOSZ``."""
_OS_INFO_NBYTES = 4096
_OS_INFO = np.dtype(
    {
        "names": ["magic", "entries"],
        "formats": [">u8", ([("value", ">u8"), ("size", ">u8"), ("csum", ">u4")], (10,))],
        "offsets": [0, 32],
        "itemsize": _OS_INFO_NBYTES,
    }
)
_IDENTITY_BASE, _IMAGE_START, _IMAGE_PHYS, _VMEMMAP, _AMODE31_START, _AMODE31_END = 4, 5, 6, 7, 8, 9
"""Which entry of struct os_info holds what (Linux enum os_info_entry, OS_INFO_*)."""

_LOWCORE_NBYTES = 0x2000
_MAX_IMAGE_NBYTES = 1 << 30
_HIGHEST = (1 << 64) - 1


def paging(n_levels: int) -> Paging:
    """Return the form of the page tables: 2 levels (segment table on top) to 5 (region first table on top)."""
    table_address = (AddressBits(_HIGHEST & ~0xFFF),)
    page_table_address = (AddressBits(_HIGHEST & ~0x7FF),)

    def region(name: str, shift: int, table_type: int, is_large: bool) -> Level:
        mask = _INVALID | _TABLE_TYPE
        large = (Entry(mask | _LARGE, table_type | _LARGE, table_address, shift),) if is_large else ()
        return Level(name, shift, 11, (*large, Entry(mask, table_type, table_address)))

    segment = _INVALID | _TABLE_TYPE
    levels = (
        region("region first", 53, 0x0C, False),
        region("region second", 42, 0x08, False),
        region("region third", 31, 0x04, True),
        Level(
            "segment",
            20,
            11,
            (Entry(segment | _LARGE, _LARGE, table_address, 20), Entry(segment, 0, page_table_address)),
        ),
        Level("page", 12, 8, (Entry(_PAGE_INVALID, 0, table_address, 12),)),
    )
    return Paging(levels[-n_levels:], np.dtype(">u8"))


def _n_levels(source: Source, root: int) -> int:
    """Tell the number of levels from the type that the entries of the top table name."""
    entries = source.view(root, 2048 * 8).view(">u8")
    used = entries[(entries != 0) & ((entries & np.uint64(_INVALID)) == 0)]
    if not len(used):
        raise FactError("the kernel's top page table is empty: the dump or its VMCOREINFO is damaged")
    return 2 + (int(used[0]) & _TABLE_TYPE) // 4


def _os_info(source: Source) -> list[int] | None:
    """Return the values of struct os_info's entries, None if this kernel has none."""
    try:
        at = int(source.view(_OS_INFO_POINTER, 8).view(">u8")[0])
        # The pointer may be 0 on a kernel that has the structure at absolute 0.
        info = source.view(at, _OS_INFO_NBYTES).view(_OS_INFO)[0]
    except AddressError:
        return None
    if info["magic"] != _OS_INFO_MAGIC:
        return None
    return [int(entry["value"]) for entry in info["entries"]]


def _regions(source: Source) -> tuple[tuple[Region, ...], Region, Region | None]:
    """Return all linear mappings, which of them is the direct map, and where the kernel image is if not there."""
    ram_stop = source.max_mapnr * source.page_size
    info = _os_info(source)
    if info is None or not info[_IMAGE_START]:
        everything = Region(0, ram_stop, 0)
        return (everything,), everything, None
    # Linux v6.10 uncoupled physical and virtual addresses.
    identity, image, vmemmap = info[_IDENTITY_BASE], info[_IMAGE_START], info[_VMEMMAP]
    fixed = [Region(0, _LOWCORE_NBYTES, 0), Region(info[_AMODE31_START], info[_AMODE31_END], info[_AMODE31_START])]
    direct_map = Region(identity, min(vmemmap, identity + ram_stop), 0)
    # What overlaps is cut off: the first rule that fits an address holds.
    ranges = [*fixed, direct_map, Region(image, _HIGHEST, info[_IMAGE_PHYS])]
    regions: list[Region] = []
    for start, stop, paddr in ranges:
        for taken in sorted(regions):
            if start < taken.stop and taken.start < stop:
                if start < taken.start:
                    regions.append(Region(start, taken.start, paddr))
                start, paddr = taken.stop, paddr + taken.stop - start
        if start < stop:
            regions.append(Region(start, stop, paddr))
    return tuple(sorted(regions)), direct_map, Region(image, image + _MAX_IMAGE_NBYTES, info[_IMAGE_PHYS])


def _space(source: Source, facts: Facts) -> AddressSpace:
    regions, direct_map, image = _regions(source)
    swapper = facts.need("SYMBOL(swapper_pg_dir)", "to find the page tables")
    root = next((r.paddr + swapper - r.start for r in regions if r.start <= swapper < r.stop), None)
    if root is None:
        raise FactError(f"VMCOREINFO puts the page tables at {swapper:#x}, outside the kernel image: it is damaged")
    return AddressSpace(">", regions, paging(_n_levels(source, root)), root, direct_map=direct_map, image=image)


def _max_physmem_bits(facts: Facts) -> int:
    # Kernels for 42 bits have as many roots of mem_section as make 2**14 sections; later ones are for 46 bits.
    return 42 if (facts.get("LENGTH(mem_section)") or 0) <= 1 << 14 - 7 else 46


ARCH = Arch(
    machine=machine_of(EM.S390, 64),
    space=_space,
    section_size_bits=lambda facts: 28,
    max_physmem_bits=_max_physmem_bits,
    stack_register=17,  # Linux arch/s390/include/uapi/asm/ptrace.h, s390_regs: r15 after the PSW of two words
)

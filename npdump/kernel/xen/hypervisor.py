# SPDX-License-Identifier: GPL-2.0-or-later
"""The hypervisor as a kernel: its memory, its domains, and what it knows of each page frame of the machine.

References
----------
Xen ``xen/arch/x86/include/asm/config.h`` (addresses), ``asm/mm.h`` (struct page_info) and ``xen/common/domain.c``;
makedumpfile 1.7.9 for what differs among versions.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arch._paging import AddressSpace, Region
from npdump.arch.x86_64 import paging
from npdump.errors import FactError
from npdump.kernel.kernel import Kernel
from npdump.kernel.memory import VirtualMemory
from npdump.kernel.xen.crash_info import CrashInfo, read_crash_info
from npdump.layouts.machine import EM

if TYPE_CHECKING:
    from npdump.arch import Arch
    from npdump.arrays import U64, Bool, Records
    from npdump.facts import Facts
    from npdump.sources import Source

__all__ = ["Domain", "Hypervisor", "PageInfos", "open_hypervisor"]

_LOWEST, _STOP = 0xFFFF800000000000, 0xFFFF880000000000
"""HYPERVISOR_VIRT_START and _END."""

_DIRECT_MAP = 0xFFFF830000000000
_DIRECT_MAP_STOP_BEFORE_4 = 0xFFFF840000000000
_IMAGE_NBYTES = 1 << 30
"""Xen's image is in one GiB of virtual memory, aligned to that."""

_FRAME_TABLE, _FRAME_TABLE_BEFORE_4_3 = 0xFFFF82E000000000, 0xFFFF82F600000000
MAX_DOMAINS = 1 << 15
"""Xen DOMID_FIRST_RESERVED is 0x7ff0."""


class Domain(NamedTuple):
    """A domain: its number, and what the frames that it owns have in ``page_info._domain``."""

    number: int
    pickled: int


class PageInfos(NamedTuple):
    """What Xen knows of some page frames.

    Attributes
    ----------
    records : ndarray of shape (n,)
        ``count_info`` and ``owner`` of each; 0 where there is none.
    exists : ndarray of shape (n,), dtype bool
        False where Xen has mapped no page_info: it doesn't manage that frame.
    is_lost : ndarray of shape (n,), dtype bool
        True where it is mapped, and isn't in the dump.
    """

    records: Records
    exists: Bool
    is_lost: Bool


def _space(facts: Facts, info: CrashInfo, phys_start: int) -> AddressSpace:
    symbol = facts.need("SYMBOL(domain_list)", "to find Xen's memory")
    start = symbol & ~(_IMAGE_NBYTES - 1)
    if not _LOWEST <= start < _DIRECT_MAP:
        raise FactError(f"VMCOREINFO_XEN puts domain_list at {symbol:#x}, where Xen never is: it is damaged")
    root = facts.need("SYMBOL(pgd_l4)", "to find Xen's page tables")
    if not start <= root < start + _IMAGE_NBYTES:
        raise FactError(f"VMCOREINFO_XEN puts the page tables at {root:#x}, outside Xen's image: it is damaged")
    return AddressSpace(
        byte_order="<",
        regions=(
            Region(start, start + _IMAGE_NBYTES, phys_start),
            Region(_DIRECT_MAP, _STOP if info.major >= 4 else _DIRECT_MAP_STOP_BEFORE_4, 0),
        ),
        paging=paging(4),
        root=root - start + phys_start,
        lowest_vaddr=_LOWEST,
    )


def open_hypervisor(source: Source, arch: Arch, facts: Facts, phys_start: int | None = None) -> Hypervisor:
    """Find the hypervisor in a dump of its host.

    Parameters
    ----------
    source : Source
    arch : Arch
    facts : Facts
        See `npdump.kernel.xen.facts.load_facts`.
    phys_start : int, optional
        Machine address of Xen's image; by default what its note says.

    Raises
    ------
    FactError
        If it isn't told where Xen is, or the machine's Xen isn't known.
    """
    info = read_crash_info(source)
    if info is None:
        raise FactError(f"{source.path}: is not of a Xen host, or its note about Xen is damaged")
    if arch.machine.number != EM.X86_64:
        raise FactError(f"{source.path}: which pages are whose is told of Xen on x86_64 only, not on {arch.name}")
    start = info.phys_start if phys_start is None else phys_start
    if start is None:
        raise FactError(f"{source.path}: doesn't tell where Xen is in memory: give --xen_phys_start ADDRESS")
    xen_arch = arch._replace(space=lambda source, facts: _space(facts, info, start))
    memory = VirtualMemory(source, xen_arch, facts)
    return Hypervisor(source, Kernel(facts, xen_arch, memory, source.page_size), info)


@dataclass(frozen=True)
class Hypervisor:
    """An opened hypervisor; reading raises FactError or AddressError where its tables are damaged.

    Attributes
    ----------
    source : Source
        The machine's memory.
    kernel : Kernel
    info : CrashInfo
    """

    source: Source
    kernel: Kernel
    info: CrashInfo

    @property
    def has_states(self) -> bool:
        """Whether page_info tells what is free (Xen 4.0); before, a bitmap does."""
        return self.info.major >= 4

    @cached_property
    def listed_domains(self) -> tuple[Domain, ...]:
        """The domains on Xen's list."""
        found = tuple(self._domain(vaddr) for vaddr in self._listed())
        if not any(domain.number == 0 for domain in found):
            raise FactError(f"{self.source.path}: Xen's list of domains has no dom0: it or VMCOREINFO_XEN is damaged")
        return found

    @cached_property
    def domains(self) -> tuple[Domain, ...]:
        """The domains on Xen's list, and those for memory of Xen's own and of devices."""
        found = list(self.listed_domains)
        for name in ("dom_xen", "dom_io"):
            symbol = self.kernel.facts.get(f"SYMBOL({name})")
            vaddr = self.kernel.memory.read_word(symbol) if symbol else 0
            found += [self._domain(vaddr)] if vaddr else []
        return tuple(found)

    def _listed(self) -> list[int]:
        memory, facts = self.kernel.memory, self.kernel.facts
        next_at = facts.need("OFFSET(domain.next_in_list)", "to follow Xen's list of domains")
        vaddr = memory.read_word(facts.need("SYMBOL(domain_list)", "to find Xen's domains"))
        found: dict[int, None] = {}
        while vaddr:
            if vaddr in found or len(found) >= MAX_DOMAINS or not _LOWEST <= vaddr < _STOP:
                raise FactError(f"{self.source.path}: Xen's list of domains is damaged at {vaddr:#x}")
            found[vaddr] = None
            vaddr = memory.read_word(vaddr + next_at)
        return list(found)

    def _domain(self, vaddr: int) -> Domain:
        offset = self.kernel.facts.get("OFFSET(domain.domain_id)", 0) or 0
        number = int(self.kernel.memory.read_array(vaddr + offset, np.dtype("<u2"), 1)[0])
        # Since Xen 3.4 it is a number of pages (Xen changeset 0858f961c77a).
        is_frame = (self.info.major, self.info.minor) >= (3, 4)
        pickled = vaddr - _DIRECT_MAP >> self.source.page_size.bit_length() - 1 if is_frame else vaddr
        return Domain(number, pickled & 0xFFFFFFFF)

    @cached_property
    def frame_table(self) -> int:
        """Address of the page_info of page frame 0."""
        symbol = self.kernel.facts.get("SYMBOL(frame_table)")
        if symbol is not None:
            return self.kernel.memory.read_word(symbol)
        return _FRAME_TABLE if (self.info.major, self.info.minor) >= (4, 3) else _FRAME_TABLE_BEFORE_4_3

    @cached_property
    def _page_info(self) -> np.dtype[np.void]:
        counts = "u8" if self.has_states else "u4"
        fields = {"count_info": (counts, "OFFSET(page_info.count_info)"), "owner": ("u4", "OFFSET(page_info._domain)")}
        return self.kernel.struct("page_info", fields, fields)

    def page_infos(self, mfn_start: int, mfn_stop: int) -> PageInfos:
        """Return what Xen knows of page frames."""
        dtype, memory = self._page_info, self.kernel.memory
        vaddr = self.frame_table + mfn_start * dtype.itemsize
        nbytes = (mfn_stop - mfn_start) * dtype.itemsize
        if not _LOWEST <= vaddr < _STOP - nbytes:
            raise FactError(f"{self.source.path}: Xen's frame table at {self.frame_table:#x} is none: it is damaged")
        raw, gaps = memory.read_lossy(vaddr, nbytes)
        exists = np.ones(mfn_stop - mfn_start, np.bool_)
        is_lost = np.zeros(len(exists), np.bool_)
        if len(gaps):
            for start, stop in gaps.tolist():
                is_lost[start // dtype.itemsize : -(-stop // dtype.itemsize)] = True
            for extent in memory.extents(vaddr, nbytes):
                if extent.paddr is None:
                    at = extent.vaddr - vaddr
                    exists[at // dtype.itemsize : -(-(at + extent.nbytes) // dtype.itemsize)] = False
        return PageInfos(raw.view(dtype), exists, is_lost & exists)

    @cached_property
    def heap_mfn_stop(self) -> int:
        """Where the heap ends that Xen before 4.0 has at the start of memory (page frame)."""
        symbol = self.kernel.facts.need("SYMBOL(xenheap_phys_end)", "to find the heap of Xen before 4.0")
        return self.kernel.memory.read_word(symbol) // self.source.page_size

    @cached_property
    def _alloc_bitmap(self) -> int:
        symbol = self.kernel.facts.need("SYMBOL(alloc_bitmap)", "to tell what is allocated in Xen before 4.0")
        return self.kernel.memory.read_word(symbol)

    def are_allocated(self, mfn_start: int, mfn_stop: int) -> Bool:
        """Return which page frames are allocated, by the bitmap of Xen before 4.0; what isn't in the dump is."""
        first = mfn_start // 64 * 8
        nbytes = -(-mfn_stop // 64) * 8 - first
        raw, gaps = self.kernel.memory.read_lossy(self._alloc_bitmap + first, nbytes)
        for start, stop in gaps.tolist():
            raw[start:stop] = 0xFF
        bits = np.unpackbits(raw, bitorder="little").view(np.bool_)
        return bits[mfn_start - first * 8 : mfn_stop - first * 8]

    @cached_property
    def owners(self) -> U64:
        """What the frames of dom0 have in ``page_info._domain``."""
        return np.array([domain.pickled for domain in self.listed_domains if domain.number == 0], np.uint64)

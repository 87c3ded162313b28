# SPDX-License-Identifier: GPL-2.0-or-later
"""Free pages that a CPU keeps to itself: they are in no block of the buddy system, and nothing marks them.

References
----------
Linux ``include/linux/mmzone.h`` (struct per_cpu_pages), ``mm/page_alloc.c`` (order_to_pindex()).
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arrays import join
from npdump.errors import AddressError, FactError
from npdump.kernel.nodes import zones
from npdump.kernel.percpu import read_offsets
from npdump.kernel.vmalloc import pfns_of

if TYPE_CHECKING:
    from npdump.arrays import Runs
    from npdump.kernel.kernel import Kernel, MemMap
    from npdump.kernel.own import Own
    from npdump.pages.struct_page import StructPage

__all__ = ["PerCpuLists", "PerCpuPage"]

MAX_STEPS = 1 << 14
"""A list has some hundreds of entries, some thousands on large machines."""

MAX_LISTED = 1 << 20
"""Entries of a list that is read from its head; more is damage."""

COSTLY_ORDER = 3
"""Linux PAGE_ALLOC_COSTLY_ORDER: up to here there are lists for each order, and one of huge pages after them."""


class PerCpuPage(NamedTuple):
    """What is found of a page, in words, and the order of the block that the CPU has."""

    text: str
    order: int


class PerCpuLists:
    """Looks for pages in the lists of the CPUs.

    Parameters
    ----------
    kernel : Kernel
    memmap : MemMap
    page : StructPage
    own : Own
    """

    def __init__(self, kernel: Kernel, memmap: MemMap, page: StructPage, own: Own) -> None:
        self._kernel, self._memmap, self._page, self._own = kernel, memmap, page, own

    @cached_property
    def _lists(self) -> list[tuple[int, int, str]]:
        """Where the lists of each CPU and zone are: first address, the one after the last, and whose they are."""
        own, memory = self._own, self._kernel.memory
        lists = own.types.structs["per_cpu_pages"].members["lists"]
        pageset = own.offset("zone", "per_cpu_pageset")
        offsets = read_offsets(memory, own.symbol("nr_cpu_ids"), own.symbol("__per_cpu_offset"))
        mask = (1 << self._kernel.arch.bits) - 1
        found = []
        for zone in zones(self._kernel):
            base = memory.read_word(zone.vaddr + pageset)
            for cpu, offset in enumerate(offsets):
                at = (base + offset & mask) + lists.offset
                found.append((at, at + lists.nbytes, f"free, kept by CPU {cpu}"))
        return found

    def runs(self) -> Runs:
        """Return the page frames of all that CPUs keep to themselves; shape (n, 2), ascending.

        Raises
        ------
        FactError, AddressError
            If the kernel does not tell where the lists are, or one of them is damaged.
        """
        if not self._own.has("per_cpu_pages", "lists"):
            raise FactError("the kernel does not tell where the lists of free pages of its CPUs are")
        fields, nbytes = self._page.dtype.fields, self._page.nbytes
        if fields is None or "next" not in fields:
            raise FactError("the kernel does not tell where struct page has its links")
        lru, step = fields["next"][1], 2 * self._kernel.memory.word.itemsize
        found = [(0, 0)]
        for start, stop, whose in self._lists:
            for head in range(start, stop, step):
                entries = np.array(list(self._own.follow(head, MAX_LISTED)), np.uint64)
                pfns = pfns_of(self._memmap, nbytes, entries - np.uint64(lru))
                if (pfns < 0).any():
                    raise FactError(f"what is {whose} leads to what is no page: the dump is damaged")
                npages = 1 << self._order_of_list((head - start) // step)
                found += [(pfn, pfn + npages) for pfn in pfns.tolist()]
        return join(np.array(sorted(found), np.int64))

    def _order_of_list(self, index: int) -> int:
        order = self._order(index)
        if order is not None:
            return order
        # Huge pages have lists of their own, the last ones.
        if not (n_types := self._own.types.enumerator("migratetype", "MIGRATE_PCPTYPES")) or index < n_types:
            raise FactError("the kernel does not tell of which order the pages in lists of its CPUs are")
        paging = self._kernel.memory.space.paging
        if paging is None:
            raise FactError("nothing tells how large a huge page is")
        return paging.levels[-2].shift - (self._kernel.page_size.bit_length() - 1)

    def find(self, pfn: int) -> PerCpuPage | None:
        """Return what is known of a page that nobody has a reference to, None if it is in no list of a CPU's.

        Its own links are followed to the head of the list that it is in. Of larger blocks only the first page is
        linked.

        Raises
        ------
        FactError, AddressError
            If the kernel does not tell where the lists are.
        """
        if not self._own.has("per_cpu_pages", "lists") or not self._lists:
            return None
        for order in range(COSTLY_ORDER + 1):
            first = pfn >> order << order
            if order and first == pfn:
                continue
            found = self._listed(first)
            if found is not None and first + (1 << found.order) > pfn:
                return found
        return None

    def _listed(self, pfn: int) -> PerCpuPage | None:
        head = self._head(pfn)
        if head is None:
            return None
        for start, stop, whose in self._lists:
            if start <= head < stop:
                order = self._order((head - start) // (2 * self._kernel.memory.word.itemsize))
                return None if order is None else PerCpuPage(f"{whose} (in no block of the buddy system)", order)
        return None

    def _order(self, index: int) -> int | None:
        n_types = self._own.types.enumerator("migratetype", "MIGRATE_PCPTYPES")
        if not n_types:
            return None
        order = index // n_types
        return order if order <= COSTLY_ORDER else None

    def _head(self, pfn: int) -> int | None:
        """Follow the links of a page to what is no struct page: the head of its list; None if there is none."""
        nbytes = self._page.nbytes
        own, fields = self._memmap.struct_vaddr(pfn, nbytes), self._page.dtype.fields
        if own is None or fields is None or "next" not in fields:
            return None
        lru = fields["next"][1]
        vaddr = self._kernel.memory.read_word(own + lru)
        for _ in range(MAX_STEPS):
            if vaddr == own + lru or not self._kernel.memory.is_kernel_vaddr(vaddr):
                return None  # in no list, or in one without a head
            if pfns_of(self._memmap, nbytes, np.array([vaddr - lru], np.uint64))[0] < 0:
                return vaddr
            try:
                vaddr = self._kernel.memory.read_word(vaddr)
            except AddressError:
                return None
        return None

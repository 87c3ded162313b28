# SPDX-License-Identifier: GPL-2.0-or-later
"""Free pages by the lists of the buddy system, for kernels that don't tell how else to know them.

Where neither a page type nor a page flag marks them, as far as is known (before Linux v2.6.38, unless a vmlinux was
given), the lists are followed from the zones on, block by block: some 30,000 blocks a second.

References
----------
Linux ``include/linux/mmzone.h`` (struct zone, struct free_area) and ``mm/page_alloc.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.errors import AddressError, FactError
from npdump.kernel.nodes import zones
from npdump.pages.policy import Trait

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import I64, U8, U16
    from npdump.kernel.kernel import Kernel, MemMap
    from npdump.observer import Observer
    from npdump.pages.struct_page import StructPage

__all__ = ["FreeBlocks", "count_isolated", "read_free_lists"]

MAX_ORDERS = 32

_OFFSETS = (
    "pglist_data.node_zones",
    "pglist_data.nr_zones",
    "zone.free_area",
    "zone.spanned_pages",
    "free_area.free_list",
    "list_head.next",
    "list_head.prev",
    "page.lru",
)
_SIZES = ("zone", "free_area", "list_head")
_NEEDED = (*(f"OFFSET({name})" for name in _OFFSETS), *(f"SIZE({name})" for name in _SIZES))
_MAX_ORDER = 11
"""Linux MAX_ORDER, where LENGTH(zone.free_area) isn't told."""


class FreeBlocks(NamedTuple):
    """First page frames (int64, ascending) and orders (uint8) of the free blocks."""

    pfns: I64
    orders: U8

    def mark(self, traits: U16, orders: U8, pfn_start: int) -> None:
        """Note those that begin in a batch from ``pfn_start`` on in its traits and orders."""
        first, last = np.searchsorted(self.pfns, (pfn_start, pfn_start + len(traits)))
        rows = self.pfns[first:last] - pfn_start
        traits[rows] |= np.uint16(Trait.FREE)
        orders[rows] = self.orders[first:last]


def read_free_lists(kernel: Kernel, memmap: MemMap, page: StructPage, observer: Observer) -> FreeBlocks | None:
    """Follow the free lists of all zones.

    Parameters
    ----------
    kernel : Kernel
    memmap : MemMap
    page : StructPage
    observer : Observer
        Hears of lists that are damaged: what follows in them is kept.

    Returns
    -------
    FreeBlocks or None
        None if struct page itself tells what is free, or nothing tells where the lists are.
    """
    if page.tells_free or not all(key in kernel.facts for key in _NEEDED):
        return None
    lists = _Lists(kernel, memmap, page.nbytes)
    blocks: dict[int, int] = {}
    n_broken = 0
    try:
        heads = list(lists.heads())
    except (FactError, AddressError) as error:
        observer.warn(f"{error}: free pages are kept")
        return None
    for order, head in heads:
        try:
            for pfn in lists.follow(head):
                if pfn in blocks or pfn & (1 << order) - 1:
                    raise AddressError(f"page frame {pfn:#x} can't be in the free list of order {order}")
                blocks[pfn] = order
        except AddressError:
            n_broken += 1
    if n_broken:
        observer.warn(f"{n_broken} free lists are damaged: the pages that follow in them are kept")
    pfns = np.array(sorted(blocks), np.int64)
    return FreeBlocks(pfns, np.array([blocks[pfn] for pfn in pfns.tolist()], np.uint8))


def count_isolated(kernel: Kernel, memmap: MemMap) -> int:
    """Return how many free pages are on the lists of the last migrate type, which is that of isolated blocks.

    On kernels that do not isolate blocks (without CONFIG_MEMORY_ISOLATION), the last type is another one.

    Raises
    ------
    FactError, AddressError
        If the lists cannot be found. What follows in a damaged list is not counted.
    """
    lists = _Lists(kernel, memmap, kernel.facts.need("SIZE(page)", "to follow the free lists"))
    n_lists = max(kernel.facts.get("LENGTH(free_area.free_list)") or 1, 1)
    n_isolated = 0
    for order, head in list(lists.heads())[n_lists - 1 :: n_lists]:
        try:
            for _ in lists.follow(head):
                n_isolated += 1 << order
        except AddressError:
            continue
    return n_isolated


class _Lists:
    def __init__(self, kernel: Kernel, memmap: MemMap, struct_nbytes: int) -> None:
        self._kernel, self._memory = kernel, kernel.memory
        self._at = {name: kernel.facts.need(f"OFFSET({name})", "to follow the free lists") for name in _OFFSETS}
        self._nbytes = {name: kernel.facts.need(f"SIZE({name})", "to follow the free lists") for name in _SIZES}
        self._struct_nbytes = struct_nbytes
        by_vaddr = np.argsort(memmap.vaddrs)
        self._vaddrs = memmap.vaddrs[by_vaddr]
        self._pfn_starts, self._pfn_stops = memmap.pfn_starts[by_vaddr], memmap.pfn_stops[by_vaddr]

    def heads(self) -> Iterator[tuple[int, int]]:
        """Yield the order and the address of each list; zones that can't be read have none."""
        facts, memory, at, nbytes = self._kernel.facts, self._memory, self._at, self._nbytes
        n_orders = min(facts.get("LENGTH(zone.free_area)") or _MAX_ORDER, MAX_ORDERS)
        # Linux b2a0ac8875a0, v2.6.24: a list for each migrate type.
        n_lists = facts.get("LENGTH(free_area.free_list)") or 1
        for zone in zones(self._kernel):
            if not memory.read_word(zone.vaddr + at["zone.spanned_pages"]):
                continue
            for order in range(n_orders):
                area = zone.vaddr + at["zone.free_area"] + order * nbytes["free_area"] + at["free_area.free_list"]
                for kind in range(n_lists):
                    yield order, area + kind * nbytes["list_head"]

    def follow(self, head: int) -> Iterator[int]:
        """Yield the page frames on a list.

        Raises
        ------
        AddressError
            Where it's damaged. Each entry points back to the one before it, so that no list goes round in a circle.
        """
        next_at, prev_at = self._at["list_head.next"], self._at["list_head.prev"]
        before, entry = head, self._memory.read_word(head + next_at)
        while entry != head:
            if self._memory.read_word(entry + prev_at) != before:
                raise AddressError(f"the free list at {head:#x} is damaged at {entry:#x}")
            yield self._pfn_of(entry - self._at["page.lru"])
            before, entry = entry, self._memory.read_word(entry + next_at)

    def _pfn_of(self, vaddr: int) -> int:
        run = int(np.searchsorted(self._vaddrs, vaddr, side="right")) - 1
        index, rest = divmod(vaddr - int(self._vaddrs[run]), self._struct_nbytes)
        pfn = int(self._pfn_starts[run]) + index
        if run < 0 or rest or pfn >= self._pfn_stops[run]:
            raise AddressError(f"{vaddr:#x} is no struct page")
        return pfn

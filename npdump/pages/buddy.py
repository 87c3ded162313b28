# SPDX-License-Identifier: GPL-2.0-or-later
"""The free blocks of the buddy system by order and migrate type.

References
----------
Linux ``include/linux/mmzone.h`` (struct free_area, enum migratetype) and ``mm/page_alloc.c``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from npdump.errors import AddressError, FactError
from npdump.kernel.nodes import zones
from npdump.pages.policy import Trait

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from npdump.arrays import I64, U8, U64
    from npdump.kernel.kernel import Kernel, MemMap
    from npdump.pages.chunk import Chunk

__all__ = ["UNKNOWN_TYPE", "FreeArea", "find_free_area"]

UNKNOWN_TYPE = "not known"

MAX_TYPES = 16
"""Linux has up to 6 migrate types."""


@dataclass(frozen=True)
class FreeArea:
    """The free blocks.

    Attributes
    ----------
    pfns : ndarray of shape (n,), dtype int64
        First page frame of each block, ascending.
    orders : ndarray of shape (n,), dtype uint8
        ``1 << order`` pages are in a block.
    types : ndarray of shape (n,), dtype uint8
        Index into ``names``.
    names : tuple of str
        Migrate types; the last one is that of blocks whose list could not be found out.
    n_orders : int
        Orders that this kernel has.
    """

    pfns: I64
    orders: U8
    types: U8
    names: tuple[str, ...]
    n_orders: int

    def table(self) -> npt.NDArray[np.int64]:
        """Return the number of blocks; shape (n_orders, len(names))."""
        flat = self.orders.astype(np.int64) * len(self.names) + self.types
        return np.bincount(flat, minlength=self.n_orders * len(self.names)).reshape(-1, len(self.names))

    def npages(self) -> int:
        """Return how many pages are free."""
        return int((np.int64(1) << self.orders.astype(np.int64)).sum())

    def unusable(self) -> npt.NDArray[np.float64]:
        """Return which share of the free memory is in blocks too small for an allocation of each order.

        Returns
        -------
        ndarray of shape (n_orders,), dtype float64
            0 where all free memory is usable, 1 where none is; as ``/sys/kernel/debug/extfrag/unusable_index``.
        """
        npages = self.table().sum(axis=1) << np.arange(self.n_orders)
        total = int(npages.sum())
        if not total:
            return np.ones(self.n_orders)
        return (np.cumsum(npages) - npages) / total


def find_free_area(
    chunks: Iterable[Chunk], kernel: Kernel, memmap: MemMap, n_orders: int, enums: Mapping[str, Mapping[str, int]]
) -> FreeArea:
    """Find the free blocks, and the lists that they are on.

    Parameters
    ----------
    chunks : iterable of Chunk
    kernel : Kernel
    memmap : MemMap
    n_orders : int
    enums : mapping
        The kernel's own enumerators, to name the migrate types.
    """
    next_at = (kernel.facts.get("OFFSET(page.lru)") or 0) + (kernel.facts.get("OFFSET(list_head.next)") or 0)
    has_lists = "OFFSET(page.lru)" in kernel.facts
    word = kernel.memory.word
    pfns, orders, nexts = [np.empty(0, np.int64)], [np.empty(0, np.uint8)], [np.empty(0, np.uint64)]
    for chunk in chunks:
        free = np.flatnonzero(chunk.has(Trait.FREE) & chunk.is_ram)
        pfns.append(free + chunk.pfn_start)
        orders.append(chunk.orders[free])
        nbytes = chunk.records.dtype.itemsize
        if has_lists and next_at + word.itemsize <= nbytes:
            raw = np.ascontiguousarray(chunk.records[free]).view(np.uint8).reshape(-1, nbytes)
            pointers = np.ascontiguousarray(raw[:, next_at : next_at + word.itemsize]).view(word)
            nexts.append(pointers.ravel().astype(np.uint64))
    all_pfns, all_orders = np.concatenate(pfns), np.concatenate(orders)
    all_nexts = np.concatenate(nexts)
    names: tuple[str, ...] = ()
    types = np.zeros(len(all_pfns), np.uint8)
    if len(all_nexts) == len(all_pfns):
        try:
            heads, head_types, n_types = _list_heads(kernel)
        except (FactError, AddressError):
            pass
        else:
            names = _type_names(enums.get("migratetype", {}), n_types)
            nodes = _vaddrs(memmap, all_pfns, kernel.facts.get("SIZE(page)") or 0)
            nodes += np.uint64(kernel.facts.get("OFFSET(page.lru)") or 0)
            types = _types(nodes, all_nexts, heads, head_types, n_types)
    return FreeArea(all_pfns, all_orders, types, (*names, UNKNOWN_TYPE), n_orders)


def _list_heads(kernel: Kernel) -> tuple[U64, U8, int]:
    """Return the address and the migrate type of each free list, and the number of types."""
    facts, why = kernel.facts, "to find the free lists"
    first = facts.need("OFFSET(zone.free_area)", why) + facts.need("OFFSET(free_area.free_list)", why)
    area_nbytes, list_nbytes = facts.need("SIZE(free_area)", why), facts.need("SIZE(list_head)", why)
    n_areas = facts.need("LENGTH(zone.free_area)", why)
    n_types = facts.need("LENGTH(free_area.free_list)", why)
    if not (0 < n_types <= MAX_TYPES and 0 < n_areas <= 32):
        raise FactError(f"VMCOREINFO says that there are {n_types} migrate types, {n_areas} orders: it is damaged")
    offsets = first + np.arange(n_areas)[:, None] * area_nbytes + np.arange(n_types) * list_nbytes
    found = [np.uint64(zone.vaddr) + offsets.ravel().astype(np.uint64) for zone in zones(kernel)]
    heads = np.concatenate(found) if found else np.empty(0, np.uint64)
    return heads, np.tile(np.arange(n_types, dtype=np.uint8), len(heads) // n_types), n_types


def _vaddrs(memmap: MemMap, pfns: I64, struct_nbytes: int) -> U64:
    run = np.searchsorted(memmap.pfn_stops, pfns, side="right")
    return memmap.vaddrs[run] + ((pfns - memmap.pfn_starts[run]) * struct_nbytes).astype(np.uint64)


def _types(nodes: U64, nexts: U64, heads: U64, head_types: U8, unknown: int) -> U8:
    """Follow all lists at once: each round doubles how far each entry has been followed.

    Lists are circles through their heads; a head is made to point to itself, and what is damaged, too.
    """
    places = np.concatenate((nodes, heads))
    order = np.argsort(places)
    at = np.searchsorted(places[order], nexts)
    at = np.minimum(at, len(places) - 1)
    is_known = places[order][at] == nexts if len(places) else np.zeros(0, np.bool_)
    target = np.arange(len(places))
    target[: len(nodes)] = np.where(is_known, order[at], target[: len(nodes)])
    for _ in range(max(len(nodes).bit_length(), 1)):
        target = target[target]
    ends = target[: len(nodes)]
    types = np.full(len(nodes), unknown, np.uint8)
    is_head = ends >= len(nodes)
    types[is_head] = head_types[ends[is_head] - len(nodes)]
    return types


def _type_names(enum: Mapping[str, int], n_types: int) -> tuple[str, ...]:
    """Name the migrate types as ``/proc/pagetypeinfo`` does.

    Linux 0aaa29a56e4f, v4.4, has HighAtomic in the place of the reserve; the types after it depend on the
    configuration.
    """
    # Later names of one number are the better ones: MIGRATE_PCPTYPES, a count, comes before MIGRATE_HIGHATOMIC.
    # MIGRATE_PCPTYPES and MIGRATE_TYPES are counts.
    types = {name.removeprefix("MIGRATE_").lower(): value for name, value in enum.items() if not name.endswith("TYPES")}
    names = {value: name for name, value in types.items()}
    if not names:
        names = dict(enumerate(("unmovable", "movable", "reclaimable", "highatomic")))
    return tuple(names.get(number, f"type {number}") for number in range(n_types))

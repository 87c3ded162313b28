# SPDX-License-Identifier: GPL-2.0-or-later
"""What pages are used for, finer than the classes that a dump level knows: for tables and pictures."""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.pages.policy import PageClass, Trait
from npdump.pages.struct_page import TypeTest

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from npdump.arrays import I64, U8
    from npdump.facts import Facts
    from npdump.pages.areas import Area
    from npdump.pages.chunk import Chunk

__all__ = ["KIND_OF_CLASS", "KindCounts", "PageKind", "Tests", "count_kinds", "kinds_of", "tests_of"]

_N_ORDERS = 32


class PageKind(IntEnum):
    """What a page frame is used for; ABSENT is no memory."""

    ABSENT = 0
    KERNEL = 1
    SLAB = 2
    PAGE_TABLE = 3
    RESERVED = 4
    CACHE = 5
    CACHE_PRIVATE = 6
    USER = 7
    HUGETLB = 8
    FREE = 9
    OFFLINE = 10
    HWPOISON = 11
    UNACCEPTED = 12


KIND_OF_CLASS = {
    PageClass.KEPT: PageKind.KERNEL,
    PageClass.CACHE: PageKind.CACHE,
    PageClass.CACHE_PRIVATE: PageKind.CACHE_PRIVATE,
    PageClass.USER: PageKind.USER,
    PageClass.FREE: PageKind.FREE,
    PageClass.HWPOISON: PageKind.HWPOISON,
    PageClass.OFFLINE: PageKind.OFFLINE,
    PageClass.UNACCEPTED: PageKind.UNACCEPTED,
    PageClass.GUEST: PageKind.OFFLINE,
    PageClass.MEMMAP: PageKind.KERNEL,
}
"""What a page of a class is, as far as its class alone says it."""

_OF_CLASS = np.zeros(len(PageClass), np.uint8)
for _class, _kind in KIND_OF_CLASS.items():
    _OF_CLASS[_class] = _kind


class Tests(NamedTuple):
    """How to tell kinds of kernel pages: a mask for ``flags``, 0 if it is not known, and page types."""

    reserved: int
    slab: int
    slab_type: TypeTest | None
    table_type: TypeTest | None


def tests_of(facts: Facts, slab: int, slab_type: TypeTest | None, enums: Mapping[str, Mapping[str, int]]) -> Tests:
    """Work out how kernel pages are told apart.

    Parameters
    ----------
    facts : Facts
    slab : int
        Mask for ``flags``.
    slab_type : TypeTest or None
    enums : mapping
        The kernel's own enumerators by the enum's tag; empty if they are not known.
    """
    reserved = enums.get("pageflags", {}).get("PG_reserved")
    table = enums.get("pagetype", {}).get("PGTY_table")
    value: int | None = None
    if table is not None:
        value = table << 24
    elif (4, 18) <= facts.version[:2] < (5, 11):
        value = ~0x400  # Linux 1d40a5ea01d5, v4.18
    elif (5, 11) <= facts.version[:2] < (6, 10):
        value = ~0x200  # Linux 18b2db3b0385, v5.11, took the bit of kmemcg pages away
    return Tests(
        1 << reserved if reserved is not None and 0 <= reserved < 64 else 0, slab, slab_type, TypeTest.of(value)
    )


def kinds_of(chunk: Chunk, tests: Tests) -> U8:
    """Return the `PageKind` of each page; shape (n,), dtype uint8.

    The tails of a compound page are of its head's kind, as far as the head is in the chunk.
    """
    kinds = _OF_CLASS[chunk.classes]
    kinds[(kinds == PageKind.USER) & _spread(chunk, chunk.has(Trait.HUGETLB))] = PageKind.HUGETLB
    flags = chunk.column("flags")
    is_kernel = kinds == PageKind.KERNEL
    if tests.reserved:
        kinds[is_kernel & ((flags & np.uint64(tests.reserved)) != 0)] = PageKind.RESERVED
    is_slab = (flags & np.uint64(tests.slab)) != 0
    if "mapcount" in (chunk.records.dtype.names or ()):
        mapcount = chunk.records["mapcount"].astype(np.uint32)
        if tests.slab_type is not None:
            is_slab = (mapcount & np.uint32(tests.slab_type.mask)) == tests.slab_type.value
        if tests.table_type is not None:
            is_table = (mapcount & np.uint32(tests.table_type.mask)) == tests.table_type.value
            kinds[is_kernel & is_table] = PageKind.PAGE_TABLE
    kinds[is_kernel & _spread(chunk, is_slab)] = PageKind.SLAB
    kinds[~chunk.is_ram] = PageKind.ABSENT
    return kinds


def _spread(chunk: Chunk, is_head: np.ndarray) -> np.ndarray:
    """Return which pages are in a block whose first page is marked."""
    heads = np.flatnonzero(is_head & (chunk.orders > 0))
    spread = is_head.copy()
    for order in set(chunk.orders[heads].tolist()):
        starts = heads[chunk.orders[heads] == order]
        rows = (starts[:, None] + np.arange(1 << order)).ravel()
        spread[rows[rows < len(spread)]] = True
    return spread


@dataclass(frozen=True)
class KindCounts:
    """Pages of each kind, part by part.

    Attributes
    ----------
    names : tuple of str
        The parts: areas, or orders of blocks.
    counts : ndarray of shape (len(names), len(PageKind)), dtype int64
        Pages; of page frames without memory there are none.
    page_size : int
        Bytes.
    """

    names: tuple[str, ...]
    counts: I64
    page_size: int

    def totals(self) -> dict[PageKind, int]:
        """Return the pages of each kind in all parts, without kinds that there are none of."""
        sums = self.counts.sum(axis=0)
        return {kind: int(sums[kind]) for kind in PageKind if sums[kind]}


def count_kinds(
    pieces: Iterable[tuple[Chunk, U8]], areas: Sequence[Area], page_size: int, *, by_order: bool = False
) -> KindCounts:
    """Count the pages of each kind.

    Parameters
    ----------
    pieces : iterable of (Chunk, ndarray of shape (n,), dtype uint8)
        With the `PageKind` of each page.
    areas : sequence of Area
        What to count apart; a page that is in two of these counts in the first.
    page_size : int
        Bytes.
    by_order : bool
        Count by the order of the block that a page is in instead; single pages have order 0.
    """
    counts = np.zeros((_N_ORDERS if by_order else len(areas), len(PageKind)), np.int64)
    for chunk, kinds in pieces:
        if by_order:
            flat = _orders_of(chunk).astype(np.int64) * len(PageKind) + kinds
            counts += np.bincount(flat, minlength=counts.size).reshape(counts.shape)
            continue
        is_left = np.ones(len(chunk), np.bool_)
        for i, area in enumerate(areas):
            first, stop = max(area.pfn_start, chunk.pfn_start), min(area.pfn_stop, chunk.pfn_stop)
            if first < stop:
                rows = slice(first - chunk.pfn_start, stop - chunk.pfn_start)
                counts[i] += np.bincount(kinds[rows][is_left[rows]], minlength=len(PageKind))
                is_left[rows] = False
    counts[:, PageKind.ABSENT] = 0
    if not by_order:
        used = counts.sum(axis=1) > 0
        return KindCounts(
            tuple(area.name for area, use in zip(areas, used.tolist(), strict=True) if use), counts[used], page_size
        )
    n_orders = int(np.flatnonzero(counts.any(axis=1)).max(initial=0)) + 1
    return KindCounts(tuple(f"order {order}" for order in range(n_orders)), counts[:n_orders], page_size)


def _orders_of(chunk: Chunk) -> U8:
    """Return the order of the block that each page is in."""
    orders = np.zeros(len(chunk), np.uint8)
    for order in sorted(set(chunk.orders[chunk.orders > 0].tolist())):
        starts = np.flatnonzero(chunk.orders == order)
        rows = (starts[:, None] + np.arange(1 << order)).ravel()
        orders[rows[rows < len(orders)]] = order
    return orders

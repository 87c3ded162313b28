# SPDX-License-Identifier: GPL-2.0-or-later
"""From struct pages to traits: what the fields say, without regard to the dump level."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.pages.policy import Trait

if TYPE_CHECKING:
    from npdump.arrays import U8, U16, U32, Bool, Index, Records
    from npdump.pages.struct_page import StructPage, TypeTest

__all__ = ["MAX_BLOCK_NBYTES", "are_largest_free_blocks", "traits_and_orders"]

MAX_BLOCK_NBYTES = 1 << 34
"""No machine has larger huge pages than 16 GiB (ppc64); an order beyond that is damage."""

ANON = 1
"""Bit of ``mapping`` (Linux PAGE_MAPPING_ANON)."""

TAIL = 1
"""Bit of ``compound_head`` and ``compound_info``."""


def _is_type(mapcount: U32 | None, test: TypeTest | None) -> Bool | None:
    if mapcount is None or test is None:
        return None
    return (mapcount & np.uint32(test.mask)) == test.value


def are_largest_free_blocks(records: Records, page: StructPage) -> bool:
    """Tell whether pages are nothing but free blocks of the largest order; False where that isn't plain to see.

    Parameters
    ----------
    records : ndarray of shape (n,), dtype page.dtype
        Struct pages of consecutive page frames from a multiple of the largest block on.
    page : StructPage

    Notes
    -----
    That can be told by one struct page in a thousand.
    """
    max_order = page.max_buddy_order - 1
    stride = 1 << max_order
    names = records.dtype.names or ()
    if len(records) % stride or "private" not in names or "mapcount" not in names:
        return False
    heads = records[::stride]
    is_free = _is_type(heads["mapcount"].astype(np.uint32), page.buddy)
    if is_free is None or not is_free.all() or (heads["private"] != max_order).any():
        return False
    if "refcount" in names and heads["refcount"].any():
        return False
    return not (heads["flags"].astype(np.uint64) & np.uint64(page.slab)).any()


def traits_and_orders(records: Records, pfn_start: int, page: StructPage, page_size: int) -> tuple[U16, U8]:
    """Return the traits of pages, and the order of the blocks that begin with them.

    Parameters
    ----------
    records : ndarray of shape (n,), dtype page.dtype
        Struct pages of consecutive page frames. A compound page of which only the first one is here counts as one
        page; that never happens where n is even and ``pfn_start`` a multiple of it.
    pfn_start : int
        Page frame of the first record.
    page : StructPage
    page_size : int
        Bytes.

    Returns
    -------
    traits : ndarray of shape (n,), dtype uint16
        Combinations of `Trait`.
    orders : ndarray of shape (n,), dtype uint8
        ``1 << order`` pages go together with this one; 0 for tails.
    """
    columns = _Columns(records, page)
    traits = _own_traits(columns, page)
    orders = np.zeros(len(records), np.uint8)

    if page.head:
        heads = np.flatnonzero(columns.has(page.head))
        if len(heads):
            is_huge, head_orders = _compound(records, heads, pfn_start, page, page_size, columns)
            orders[heads] = head_orders
            traits[heads[is_huge]] |= np.uint16(Trait.HUGETLB)

    is_unaccepted = columns.is_type(page.unaccepted)
    if is_unaccepted is not None and is_unaccepted.any():
        traits |= is_unaccepted.astype(np.uint16) * np.uint16(Trait.UNACCEPTED)
        orders[is_unaccepted] = page.max_buddy_order - 1

    is_free = columns.has(page.buddy_flag) if page.buddy_flag else columns.is_type(page.buddy)
    if is_free is not None and "private" in columns.names:
        free = np.flatnonzero(is_free & ~columns.is_slab)
        free_orders = records["private"][free].astype(np.uint64)
        is_bad = free_orders >= page.max_buddy_order
        traits[free] |= np.where(is_bad, np.uint16(Trait.BAD_ORDER), np.uint16(Trait.FREE))
        orders[free] = np.where(is_bad, 0, free_orders)
    return traits, orders


class _Columns:
    """Columns of struct pages, copied once: a strided one touches a cache line per element in every operation."""

    def __init__(self, records: Records, page: StructPage) -> None:
        self.names = records.dtype.names or ()
        self.flags = records["flags"].astype(np.uint64)
        self.mapping = records["mapping"].astype(np.uint64)
        self.mapcount = records["mapcount"].astype(np.uint32) if "mapcount" in self.names else None
        is_slab = self.is_type(page.slab_type)
        self.is_slab = self.has(page.slab) if is_slab is None else is_slab
        self.is_tail: Bool | None = None
        if "compound" in self.names:
            self.is_tail = (records["compound"].astype(np.uint64) & np.uint64(TAIL)) != 0

    def has(self, mask: int) -> Bool:
        """Return which have any of these flags."""
        return (self.flags & np.uint64(mask)) != 0

    def is_type(self, test: TypeTest | None) -> Bool | None:
        """Return which are of a page type; None if that can't be told."""
        return _is_type(self.mapcount, test)


def _own_traits(columns: _Columns, page: StructPage) -> U16:
    """Return the traits that pages have by their own flags, mapping and type."""
    traits = np.zeros(len(columns.flags), np.uint16)

    def add(trait: Trait, mask: Bool | None) -> None:
        if mask is not None:
            np.bitwise_or(traits, mask.astype(np.uint16) * np.uint16(trait), out=traits)

    add(Trait.TAIL, columns.is_tail)
    is_swapcache = columns.has(page.swapcache)
    if page.swapbacked:
        # Linux 6326fec1122c, v4.10: PG_swapcache shares its bit with PG_owner_priv_1, unless PG_swapbacked is set.
        is_swapcache &= columns.has(page.swapbacked)
    add(Trait.CACHE, columns.has(page.lru) | is_swapcache)
    add(Trait.PRIVATE, columns.has(page.private))
    # Slab pages keep other data where mapping is (seen since v6.2): they are never anonymous.
    add(Trait.ANON, ((columns.mapping & np.uint64(ANON)) != 0) & ~columns.is_slab)
    if page.hwpoison:
        add(Trait.HWPOISON, columns.has(page.hwpoison))
    is_offline = columns.is_type(page.offline)
    if is_offline is not None:
        add(Trait.OFFLINE, is_offline & ~columns.is_slab)
    return traits


def _compound(
    records: Records,
    heads: Index,
    pfn_start: int,
    page: StructPage,
    page_size: int,
    columns: _Columns,
) -> tuple[Bool, U8]:
    """Return, for each head of a compound page, whether it's hugetlb, and its order.

    An order that can't be (too large, or the block isn't aligned to it, or no tail follows) counts as 0, so that the
    pages after the head stand for themselves: the heads that HVO (Linux v5.14) makes appear in the memory map of a
    hugetlb page are of this kind.
    """
    n = len(records)
    seconds = np.minimum(heads + 1, n - 1)
    has_second = heads + 1 < n
    if columns.is_tail is not None:
        has_second &= columns.is_tail[seconds]

    is_huge = np.zeros(len(heads), np.bool_)
    huge_type = _is_type(columns.mapcount[heads] if columns.mapcount is not None else None, page.hugetlb_type)
    if huge_type is not None:
        is_huge = huge_type
    elif page.hugetlb_flag:
        is_huge = has_second & ((records["flags"][seconds].astype(np.uint64) & np.uint64(page.hugetlb_flag)) != 0)
    elif page.hugetlb_dtor is not None:
        is_huge = has_second & (records["dtor"][seconds] == page.hugetlb_dtor)

    if "order" not in columns.names:
        return is_huge, np.zeros(len(heads), np.uint8)
    orders = records["order"][seconds].astype(np.uint64) & np.uint64(page.order_mask)
    max_order = np.uint64((MAX_BLOCK_NBYTES // page_size).bit_length() - 1)
    bounded = np.minimum(orders, max_order)
    is_aligned = ((heads.astype(np.uint64) + np.uint64(pfn_start)) & ((np.uint64(1) << bounded) - np.uint64(1))) == 0
    is_good = has_second & (orders <= max_order) & is_aligned
    return is_huge, np.where(is_good, orders, 0).astype(np.uint8)

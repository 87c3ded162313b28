# SPDX-License-Identifier: GPL-2.0-or-later
"""From struct pages to traits: what the fields say, without regard to the dump level."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.pages.columns import Columns
from npdump.pages.policy import Trait

if TYPE_CHECKING:
    from npdump.arrays import U8, U16, Bool, Index, Records
    from npdump.pages.struct_page import StructPage

__all__ = ["MAX_BLOCK_NBYTES", "are_largest_free_blocks", "traits_and_orders"]

MAX_BLOCK_NBYTES = 1 << 34
"""No machine has larger huge pages than 16 GiB (ppc64); an order beyond that is damage."""

ANON = 1
"""Bit of ``mapping`` (Linux PAGE_MAPPING_ANON)."""


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
    heads = Columns(records[::stride], page)
    is_free = heads.is_type(page.buddy)
    if len(records) % stride or "private" not in heads.names or is_free is None:
        return False
    is_plain = is_free.all() and not (heads.column("private") != max_order).any()
    return bool(is_plain and not heads.is_used.any() and not heads.has_flag(page.slab).any())


def traits_and_orders(columns: Columns, pfn_start: int, page_size: int) -> tuple[U16, U8]:
    """Return the traits of pages, and the order of the blocks that begin with them.

    Parameters
    ----------
    columns : Columns
        Of the struct pages of n consecutive page frames. A compound page of which only the first one is here counts as
        one page; that never happens where n is even and ``pfn_start`` a multiple of it.
    pfn_start : int
        Page frame of the first one.
    page_size : int
        Bytes.

    Returns
    -------
    traits : ndarray of shape (n,), dtype uint16
        Combinations of `Trait`.
    orders : ndarray of shape (n,), dtype uint8
        ``1 << order`` pages go together with this one; 0 for tails.
    """
    page = columns.page
    traits = _own_traits(columns)
    orders = np.zeros(len(columns), np.uint8)

    heads = np.flatnonzero(columns.has_flag(page.head))
    if len(heads):
        is_huge, orders[heads] = _compound(columns, heads, pfn_start, page_size)
        traits[heads[is_huge]] |= np.uint16(Trait.HUGETLB)

    is_unaccepted = columns.is_type(page.unaccepted)
    if is_unaccepted is not None and is_unaccepted.any():
        traits[is_unaccepted] |= np.uint16(Trait.UNACCEPTED)
        orders[is_unaccepted] = page.max_buddy_order - 1

    is_free = columns.has_flag(page.buddy_flag) if page.buddy_flag else columns.is_type(page.buddy)
    if is_free is not None and "private" in columns.names:
        free = np.flatnonzero(is_free & ~columns.is_slab)
        free_orders = columns.of(free).column("private")
        is_bad = free_orders >= page.max_buddy_order
        traits[free] |= np.where(is_bad, np.uint16(Trait.BAD_ORDER), np.uint16(Trait.FREE))
        orders[free] = np.where(is_bad, 0, free_orders)
    return traits, orders


def _own_traits(columns: Columns) -> U16:
    """Return the traits that pages have by their own flags, mapping and type."""
    page = columns.page
    traits = np.zeros(len(columns), np.uint16)

    def add(trait: Trait, mask: Bool | None) -> None:
        if mask is not None and mask.any():
            np.bitwise_or(traits, mask * np.uint16(trait), out=traits)

    add(Trait.TAIL, columns.is_tail)
    is_swapcache = columns.has_flag(page.swapcache)
    if page.swapbacked:
        # Linux 6326fec1122c, v4.10: PG_swapcache shares its bit with PG_owner_priv_1, unless PG_swapbacked is set.
        is_swapcache &= columns.has_flag(page.swapbacked)
    add(Trait.CACHE, columns.has_flag(page.lru) | is_swapcache)
    add(Trait.PRIVATE, columns.has_flag(page.private))
    # Slab pages keep other data where mapping is (seen since v6.2): they are never anonymous.
    add(Trait.ANON, (columns.mapping_flags & np.uint8(ANON)).view(np.bool_) & ~columns.is_slab)
    add(Trait.HWPOISON, columns.has_flag(page.hwpoison))
    is_offline = columns.is_type(page.offline)
    if is_offline is not None:
        add(Trait.OFFLINE, is_offline & ~columns.is_slab)
    return traits


def _compound(columns: Columns, heads: Index, pfn_start: int, page_size: int) -> tuple[Bool, U8]:
    """Return, for each head of a compound page, whether it's hugetlb, and its order.

    An order that can't be (too large, or the block isn't aligned to it, or no tail follows) counts as 0, so that the
    pages after the head stand for themselves: the heads that HVO (Linux v5.14) makes appear in the memory map of a
    hugetlb page are of this kind.
    """
    page, n = columns.page, len(columns)
    has_second = heads + 1 < n
    second_rows = np.minimum(heads + 1, n - 1)
    seconds = columns.of(second_rows)
    if columns.is_tail is not None:
        has_second &= columns.is_tail[second_rows]

    is_huge = columns.of(heads).is_type(page.hugetlb_type)
    if is_huge is None:
        is_huge = np.zeros(len(heads), np.bool_)
        if page.hugetlb_flag:
            is_huge = has_second & ((seconds.column("flags") & np.uint64(page.hugetlb_flag)) != 0)
        elif page.hugetlb_dtor is not None:
            is_huge = has_second & (seconds.column("dtor") == page.hugetlb_dtor)

    if "order" not in columns.names:
        return is_huge, np.zeros(len(heads), np.uint8)
    orders = seconds.column("order") & np.uint64(page.order_mask)
    max_order = np.uint64((MAX_BLOCK_NBYTES // page_size).bit_length() - 1)
    bounded = np.minimum(orders, max_order)
    is_aligned = ((heads.astype(np.uint64) + np.uint64(pfn_start)) & ((np.uint64(1) << bounded) - np.uint64(1))) == 0
    is_good = has_second & (orders <= max_order) & is_aligned
    return is_huge, np.where(is_good, orders, 0).astype(np.uint8)

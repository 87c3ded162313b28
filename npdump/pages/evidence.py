# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether what else a struct page holds contradicts its class: such a page is kept.

A class comes from one or two fields. If a fact about those is wrong, pages of another kind get it, and what they hold
elsewhere in their struct pages gives them away. Each rule below holds for every page of the class, whatever the
workload.

References
----------
Linux ``include/linux/mm_types.h``, ``include/linux/page-flags.h``, ``mm/page_alloc.c``, ``include/linux/poison.h``.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.pages.policy import DumpLevel, PageClass, Trait

if TYPE_CHECKING:
    from npdump.arrays import U8, U16, U32, U64, Bool, Records
    from npdump.pages.struct_page import StructPage

__all__ = ["Evidence"]

_U32_MINUS_1 = np.uint32(0xFFFFFFFF)
_TYPED = np.uint32(1 << 31)
"""A ``_mapcount`` with this bit, other than -1, is a page type."""

_MAPPING_FLAGS = np.uint64(3)
"""Bits of ``mapping`` that aren't of the address (Linux PAGE_MAPPING_FLAGS)."""

MAX_LOCKS = 256
"""Half-open bound on how often a page is locked into memory; no address ends in so small a number."""

MIN_PAGE_NBYTES = 4096
"""No machine has smaller pages; nothing of the kernel's lies in the first of its addresses."""

_LOWER_HALF = np.uint64(0xFFFFFFFF)

MAX_OFFLINE_USERS = 2
"""The balloon's or the driver's own reference, and one of who looks at the page just then."""


class Evidence(NamedTuple):
    """What to hold struct pages against: the lowest address of the kernel's, and the dump level."""

    page: StructPage
    lowest_vaddr: int
    level: int

    def against_firsts(self, records: Records, traits: U16, orders: U8, classes: U8) -> Bool:
        """Return which pages cannot be of the class that their own fields give them.

        Parameters
        ----------
        records : ndarray of shape (n,), dtype page.dtype
        traits : ndarray of shape (n,), dtype uint16
        orders : ndarray of shape (n,), dtype uint8
            Of the blocks that begin with them.
        classes : ndarray of shape (n,), dtype uint8
            `PageClass` of each page.

        Returns
        -------
        ndarray of shape (n,), dtype bool
        """
        columns = _Columns(records, self.page, self.lowest_vaddr)
        is_bad = np.zeros(len(classes), np.bool_)
        is_free = (classes == PageClass.FREE) | (classes == PageClass.UNACCEPTED)
        if is_free.any():
            is_bad |= is_free & _is_not_free(columns)
        is_cache = (classes == PageClass.CACHE) | (classes == PageClass.CACHE_PRIVATE)
        if is_cache.any():
            is_bad |= is_cache & _is_not_cache(columns, traits)
            if self.level & (DumpLevel.CACHE | DumpLevel.CACHE_PRIVATE) == DumpLevel.CACHE:
                is_bad |= is_cache & _has_private_data(columns)
        is_user = classes == PageClass.USER
        if is_user.any():
            is_bad |= is_user & _is_not_user(columns, traits, orders)
        is_offline = classes == PageClass.OFFLINE
        if is_offline.any():
            is_bad |= is_offline & _is_not_offline(columns)
        return is_bad

    def against_inner(self, records: Records, classes: U8, is_inner: Bool, pfn_start: int) -> Bool:
        """Return which pages cannot be in the block that they have their class from.

        Parameters
        ----------
        records : ndarray of shape (n,), dtype page.dtype
            Struct pages of consecutive page frames.
        classes : ndarray of shape (n,), dtype uint8
            `PageClass` of each page.
        is_inner : ndarray of shape (n,), dtype bool
            Whether a page has its class from the first page of its block, which is another page.
        pfn_start : int
            Page frame of the first record.

        Returns
        -------
        ndarray of shape (n,), dtype bool
        """
        is_bad = np.zeros(len(classes), np.bool_)
        if not is_inner.any():
            return is_bad
        columns = _Columns(records, self.page, self.lowest_vaddr)
        is_free = (classes == PageClass.FREE) | (classes == PageClass.UNACCEPTED)
        is_bad |= is_free & is_inner & columns.is_used
        if "compound" in columns.names:
            is_compound = (classes != PageClass.KEPT) & ~is_free & is_inner
            is_bad |= is_compound & columns.are_no_tails(pfn_start)
        return is_bad


class _Columns:
    """Fields of struct pages, each copied at most once."""

    def __init__(self, records: Records, page: StructPage, lowest_vaddr: int) -> None:
        self.records, self.page, self._lowest = records, page, np.uint64(lowest_vaddr)
        self.names = frozenset(records.dtype.names or ())

    def has_flag(self, mask: int) -> Bool:
        return (self.flags & np.uint64(mask)) != 0

    @cached_property
    def flags(self) -> U64:
        return self.records["flags"].astype(np.uint64)

    @cached_property
    def pointer(self) -> U64:
        """``mapping`` without its flags."""
        return self.records["mapping"].astype(np.uint64) & ~_MAPPING_FLAGS

    @cached_property
    def is_used(self) -> Bool:
        """Whether anybody is known to have a reference to the page."""
        return self.records["refcount"] != 0 if "refcount" in self.names else np.zeros(len(self.records), np.bool_)

    @cached_property
    def mapcount(self) -> U32:
        """``_mapcount``, -1 where that isn't known."""
        if "mapcount" not in self.names:
            return np.full(len(self.records), _U32_MINUS_1)
        return self.records["mapcount"].astype(np.uint32)

    @cached_property
    def is_typed(self) -> Bool:
        """Whether the page has a page type."""
        return (self.mapcount >= _TYPED) & (self.mapcount != _U32_MINUS_1)

    @cached_property
    def is_mapped(self) -> Bool:
        """Whether page tables of users map the page."""
        return self.mapcount < _TYPED

    @cached_property
    def is_alone(self) -> Bool:
        """Whether both links lead to the same place, as those of a page that is in no list, and so linked to itself."""
        if not self.names.issuperset(("next", "prev")):
            return np.zeros(len(self.records), np.bool_)
        return (self.records["next"] == self.records["prev"]) & (self.records["next"] != 0)

    def are_no_tails(self, pfn_start: int) -> Bool:
        """Return which pages aren't tails of a compound page; what HVO (Linux v5.14) shows every 64 is the head."""
        is_not = (self.records["compound"] & 1) == 0
        per_page = max(MIN_PAGE_NBYTES // self.records.dtype.itemsize, 1)
        rows = np.arange(-pfn_start % per_page, len(is_not), per_page)
        is_not[rows] &= ~self.has_flag(self.page.head)[rows]
        return is_not

    def is_kernel(self, words: U64) -> Bool:
        """Return which words can be addresses of the kernel's structures."""
        return (words >= np.maximum(self._lowest, np.uint64(MIN_PAGE_NBYTES))) & ((words & np.uint64(3)) == 0)

    @cached_property
    def is_unlinked(self) -> Bool:
        """Whether the page can't be in a list."""
        if not self.names.issuperset(("next", "prev")):
            return np.zeros(len(self.records), np.bool_)
        nexts, prevs = (self.records[name].astype(np.uint64) for name in ("next", "prev"))
        # A kernel without lists has none: words that were never written tell nothing.
        return ~(self.is_kernel(nexts) & self.is_kernel(prevs)) & ((nexts | prevs) != 0)

    @cached_property
    def is_locked(self) -> Bool:
        """Whether the second link may count how often the page is locked (Linux 07ca76067308, v5.18)."""
        if "prev" not in self.names:
            return np.ones(len(self.records), np.bool_)
        return (self.records["prev"].astype(np.uint64) & _LOWER_HALF) < MAX_LOCKS


def _is_not_free(columns: _Columns) -> Bool:
    """Return which pages do not begin a free block.

    Nobody has a reference to a free page (``__free_pages_core()``, ``free_pages_prepare()``), it belongs to nothing,
    and the first of a block is in a free list.
    """
    is_listed = columns.has_flag(columns.page.lru)
    return columns.is_used | columns.is_unlinked | is_listed | (columns.pointer != 0)


def _is_not_cache(columns: _Columns, traits: U16) -> Bool:
    """Return which pages are not of the page cache.

    A page on an LRU list is linked to it, unless it is locked into memory; it has no page type and is not huge. It
    belongs to a file; once that was truncated, nobody maps the page any longer.
    """
    is_listed = columns.has_flag(columns.page.lru)
    mapping = columns.records["mapping"].astype(np.uint64)
    is_huge = (traits & np.uint16(Trait.HUGETLB)) != 0
    is_elsewhere = (mapping != 0) & ~columns.is_kernel(mapping)
    is_nowhere = (mapping == 0) & (columns.is_mapped | (is_listed & columns.is_alone))
    is_unlisted = is_listed & columns.is_unlinked & ~columns.is_locked
    is_bad = columns.is_typed | is_huge | is_elsewhere | is_nowhere | is_unlisted
    is_in_swap_cache_alone = columns.has_flag(columns.page.swapcache) & ~is_listed
    if is_in_swap_cache_alone.any():
        is_bad |= is_in_swap_cache_alone & _is_not_swapped(columns)
    return is_bad


def _is_not_swapped(columns: _Columns) -> Bool:
    """Return which pages are not in the swap cache alone, on no list.

    Such a page has its swap entry in ``private`` (``folio.swap`` of Linux cfeed8ffe55b, v6.6, is the same word), and
    that is never 0, since a swap area begins with its header. The swap cache has a reference to it, and it belongs to
    no file: what shmem writes out leaves its file at once.
    """
    is_not: Bool = columns.records["mapping"] != 0
    if "private" in columns.names:
        is_not = is_not | (columns.records["private"] == 0)
    if "refcount" in columns.names:
        is_not = is_not | ~columns.is_used
    return is_not


def _has_private_data(columns: _Columns) -> Bool:
    """Return which pages have a file system's data, as PG_private marks (``attach_page_private()``), or seem to."""
    if "private" not in columns.names:
        return np.zeros(len(columns.records), np.bool_)
    return (columns.records["private"] != 0) & ~columns.has_flag(columns.page.swapcache)


def _is_not_user(columns: _Columns, traits: U16, orders: U8) -> Bool:
    """Return which pages are not of users.

    An anonymous page points to its anon_vma, or to KSM's node, and has no page type; a huge page has several pages.
    """
    is_huge = (traits & np.uint16(Trait.HUGETLB)) != 0
    return np.where(is_huge, orders == 0, columns.is_typed | ~columns.is_kernel(columns.pointer))


def _is_not_offline(columns: _Columns) -> Bool:
    """Return which pages were not given away: such are on no LRU list, and hardly anybody has a reference to them."""
    is_listed = columns.has_flag(columns.page.lru)
    if "refcount" not in columns.names:
        return is_listed
    return is_listed | (columns.records["refcount"].astype(np.uint32) > MAX_OFFLINE_USERS)

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

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.pages.policy import DumpLevel, PageClass, Trait

if TYPE_CHECKING:
    from npdump.arrays import U8, U16, U64, Bool, Index
    from npdump.pages.columns import Columns

__all__ = ["Evidence"]

MAX_LOCKS = 256
"""Half-open bound on how often a page is locked into memory; no address ends in so small a number."""

MIN_PAGE_NBYTES = 4096
"""No machine has smaller pages; nothing of the kernel's lies in the first of its addresses."""

_LOWER_HALF = np.uint64(0xFFFFFFFF)
_UNALIGNED = np.uint64(3)

MAX_OFFLINE_USERS = 2
"""The balloon's or the driver's own reference, and one of who looks at the page just then."""


class Evidence(NamedTuple):
    """What to hold struct pages against: the lowest address of the kernel's, and the dump level."""

    lowest_vaddr: int
    level: int

    def against_firsts(self, columns: Columns, traits: U16, orders: U8, classes: U8) -> Index:
        """Return which pages cannot be of the class that their own fields give them.

        Parameters
        ----------
        columns : Columns
            Of n struct pages.
        traits : ndarray of shape (n,), dtype uint16
        orders : ndarray of shape (n,), dtype uint8
            Of the blocks that begin with them.
        classes : ndarray of shape (n,), dtype uint8
            `PageClass` of each page.

        Returns
        -------
        ndarray of shape (k,), dtype intp
            Rows, in no order.
        """
        doubtful = self._doubtful(columns, traits, classes)
        if not len(doubtful):
            return doubtful
        is_bad = np.zeros(len(doubtful), np.bool_)
        of_doubtful = classes[doubtful]
        for group, contradicts in (
            ((PageClass.FREE, PageClass.UNACCEPTED), self._is_not_free),
            ((PageClass.CACHE, PageClass.CACHE_PRIVATE), self._is_not_cache),
            ((PageClass.USER,), self._is_not_user),
            ((PageClass.OFFLINE,), self._is_not_offline),
        ):
            at = np.flatnonzero(_is_one_of(of_doubtful, group))
            if len(at):
                rows = doubtful[at]
                is_huge = (traits[rows] & np.uint16(Trait.HUGETLB)) != 0
                is_bad[at] = contradicts(_Suspects(columns.of(rows), is_huge, orders[rows]))
        return doubtful[is_bad]

    def against_inner(self, columns: Columns, classes: U8, inner: Index, pfn_start: int) -> Index:
        """Return which pages cannot be in the block that they have their class from.

        Parameters
        ----------
        columns : Columns
            Of the struct pages of n consecutive page frames.
        classes : ndarray of shape (n,), dtype uint8
            `PageClass` of each page.
        inner : ndarray of shape (m,), dtype intp
            Rows of pages that have their class from the first page of their block, which is another page.
        pfn_start : int
            Page frame of the first struct page.

        Returns
        -------
        ndarray of shape (k,), dtype intp
            Rows, in no order.
        """
        if not len(inner):
            return inner
        of_block, pages = classes[inner], columns.of(inner)
        is_free = _is_one_of(of_block, (PageClass.FREE, PageClass.UNACCEPTED))
        is_bad = is_free & pages.is_used
        is_compound = ~is_free & (of_block != 0)
        if pages.is_tail is not None and is_compound.any():
            # What HVO (Linux v5.14) shows every 64 is the head.
            per_page = max(MIN_PAGE_NBYTES // columns.page.nbytes, 1)
            is_alias = ((inner + pfn_start) % per_page == 0) & pages.has_flag(columns.page.head)
            is_bad |= is_compound & ~pages.is_tail & ~is_alias
        return inner[is_bad]

    @property
    def _lowest(self) -> np.uint64:
        return np.uint64(max(self.lowest_vaddr, MIN_PAGE_NBYTES))

    @property
    def _keeps_private(self) -> bool:
        """Whether pages of the page cache with data of a file system stay, and others go."""
        return self.level & (DumpLevel.CACHE | DumpLevel.CACHE_PRIVATE) == DumpLevel.CACHE

    def _doubtful(self, columns: Columns, traits: U16, classes: U8) -> Index:
        """Return which pages go and aren't, at a first look, what nearly all pages of users and of the page cache are.

        That look is the rules below in their simplest case, for all pages at once: no page type, a pointer, and list
        links for what is on an LRU list. What it lets pass, none of the rules would stop.
        """
        is_plain = columns.mapping >= self._lowest + _UNALIGNED
        is_plain &= ~columns.is_typed
        if traits.max() >= int(Trait.HUGETLB):
            is_plain &= (traits & np.uint16(Trait.HUGETLB)) == 0
        is_certain = is_plain & _is_one_of(classes, (PageClass.USER,))
        is_cache = is_plain & _is_one_of(classes, (PageClass.CACHE, PageClass.CACHE_PRIVATE))
        is_cache &= columns.has_flag(columns.page.lru) & (columns.mapping_flags == 0)
        if is_cache.any() and not self._keeps_private:
            is_certain |= is_cache & ~self._is_unlinked(columns)
        return np.flatnonzero((classes != 0) & ~is_certain)

    def _is_kernel(self, words: U64) -> Bool:
        """Return which words can be addresses of the kernel's structures."""
        return (words >= self._lowest) & ((words & _UNALIGNED) == 0)

    def _is_unlinked(self, columns: Columns) -> Bool:
        """Return which pages can't be in a list."""
        if columns.links is None:
            return columns.constant(False)
        nexts, prevs = columns.links
        either = nexts | prevs
        # A kernel without lists has none: words that were never written tell nothing.
        return ((np.minimum(nexts, prevs) < self._lowest) | ((either & _UNALIGNED) != 0)) & (either != 0)

    def _is_not_free(self, pages: _Suspects) -> Bool:
        """Return which pages do not begin a free block.

        Nobody has a reference to a free page (``__free_pages_core()``, ``free_pages_prepare()``), it belongs to
        nothing, and the first of a block is in a free list.
        """
        columns = pages.columns
        is_listed = columns.has_flag(columns.page.lru)
        has_pointer = (columns.mapping & ~_UNALIGNED) != 0
        return columns.is_used | self._is_unlinked(columns) | is_listed | has_pointer

    def _is_not_cache(self, pages: _Suspects) -> Bool:
        """Return which pages are not of the page cache.

        A page on an LRU list is linked to it, unless it is locked into memory; it has no page type and is not huge. It
        belongs to a file; once that was truncated, nobody maps the page any longer.
        """
        columns = pages.columns
        is_listed, mapping = columns.has_flag(columns.page.lru), columns.mapping
        is_elsewhere = (mapping != 0) & ~self._is_kernel(mapping)
        is_nowhere = (mapping == 0) & (columns.is_mapped | (is_listed & _is_alone(columns)))
        is_unlisted = is_listed & self._is_unlinked(columns) & ~_is_locked(columns)
        is_swapped = columns.has_flag(columns.page.swapcache) & ~is_listed
        is_bad = columns.is_typed | pages.is_huge | is_elsewhere | is_nowhere | is_unlisted
        is_bad |= is_swapped & _is_not_swapped(columns)
        return is_bad | _has_private_data(columns) if self._keeps_private else is_bad

    def _is_not_user(self, pages: _Suspects) -> Bool:
        """Return which pages are not of users.

        An anonymous page points to its anon_vma, or to KSM's node, and has no page type; a huge page has several pages.
        """
        columns = pages.columns
        points = self._is_kernel(columns.mapping & ~_UNALIGNED)
        return np.where(pages.is_huge, pages.orders == 0, columns.is_typed | ~points)

    def _is_not_offline(self, pages: _Suspects) -> Bool:
        """Return which pages were not given away: those are on no LRU list, and hardly anybody has a reference."""
        columns = pages.columns
        is_listed = columns.has_flag(columns.page.lru)
        if "refcount" not in columns.names:
            return is_listed
        return is_listed | (columns.column("refcount", np.uint32) > MAX_OFFLINE_USERS)


class _Suspects(NamedTuple):
    """Pages to be looked at closely: their fields, whether they are hugetlb, and the orders of their blocks."""

    columns: Columns
    is_huge: Bool
    orders: U8


def _is_one_of(classes: U8, group: tuple[PageClass, ...]) -> Bool:
    first, *others = map(int, group)  # NumPy takes five times as long to compare with a member of an enum
    is_one = classes == first
    for page_class in others:
        is_one |= classes == page_class
    return is_one


def _is_alone(columns: Columns) -> Bool:
    """Return whether both links lead to the same place, as those of a page in no list, which is linked to itself."""
    if columns.links is None:
        return columns.constant(False)
    nexts, prevs = columns.links
    return (nexts == prevs) & (nexts != 0)


def _is_locked(columns: Columns) -> Bool:
    """Return whether the second link may count how often the page is locked (Linux 07ca76067308, v5.18)."""
    if "prev" not in columns.names:
        return columns.constant(True)
    return (columns.column("prev") & _LOWER_HALF) < MAX_LOCKS


def _is_not_swapped(columns: Columns) -> Bool:
    """Return which pages are not in the swap cache alone, on no list.

    Such a page has its swap entry in ``private`` (``folio.swap`` of Linux cfeed8ffe55b, v6.6, is the same word), and
    that is never 0, since a swap area begins with its header. The swap cache has a reference to it, and it belongs to
    no file: what shmem writes out leaves its file at once.
    """
    is_not = columns.mapping != 0
    if "private" in columns.names:
        is_not = is_not | (columns.column("private") == 0)
    if "refcount" in columns.names:
        is_not = is_not | ~columns.is_used
    return is_not


def _has_private_data(columns: Columns) -> Bool:
    """Return which pages have a file system's data, as PG_private marks (``attach_page_private()``), or seem to."""
    if "private" not in columns.names:
        return columns.constant(False)
    return (columns.column("private") != 0) & ~columns.has_flag(columns.page.swapcache)

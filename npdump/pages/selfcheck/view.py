# SPDX-License-Identifier: GPL-2.0-or-later
"""A sample of the struct pages, by named columns."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arrays import I64, U8, U16, U32, U64, Bool, Index, Records, mask_of, unique
from npdump.pages.blocks import NO_CARRY, cover
from npdump.pages.columns import Columns
from npdump.pages.policy import Trait
from npdump.pages.traits import traits_and_orders

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.kernel.kernel import Kernel
    from npdump.pages.records import StructPages
    from npdump.pages.struct_page import StructPage
    from npdump.sources import Source

__all__ = ["View", "views"]

PIECE_NPAGES = 1 << 10
MIN_PIECES = 16
MAX_NPAGES = 1 << 16
"""Every second piece of so many struct pages is looked at, all if there are few; in all not more than the last."""

BATCH_NPAGES = 1 << 15
"""Struct pages looked at together."""

HVO_ALIAS_NPAGES = 64
"""Page frames whose struct pages fill a page; fewer with larger pages, which doesn't matter here."""

_U32_MINUS_1 = 0xFFFFFFFF
_TYPED = 1 << 31
"""A ``_mapcount`` with this bit, other than -1, is a page type: no user's page has one."""


class _Sample(NamedTuple):
    """Struct pages from several places: pieces of ``piece_npages``, one after the other.

    ``pfns`` are their page frames, ``is_ram`` tells which of them memory stands behind.
    """

    records: Records
    pfns: I64
    is_ram: Bool
    piece_npages: int


class View:
    """A sample of the struct pages, by named columns.

    Attributes
    ----------
    records : ndarray of shape (n,)
        Struct pages, of pieces of memory one after the other.
    pfns : ndarray of shape (n,), dtype int64
    is_ram : ndarray of shape (n,), dtype bool
        Whether there is memory.
    traits, orders : ndarray of shape (n,)
        See `npdump.pages.traits.traits_and_orders`.
    columns : frozenset of str
        Fields of struct page that are known.
    """

    def __init__(self, sample: _Sample, page: StructPage, kernel: Kernel) -> None:
        self.records, self.pfns, self.is_ram, self._piece_npages = sample
        self.page, self._kernel = page, kernel
        self.columns = frozenset(self.records.dtype.names or ())
        # The pieces aren't neighbours, but each begins at a multiple of its length, here as in memory.
        traits, orders = traits_and_orders(Columns(self.records, page), 0, kernel.page_size)
        self.traits: U16 = traits
        self.orders: U8 = orders

    def has_trait(self, trait: Trait) -> Bool:
        """Return which pages have a trait."""
        return (self.traits & np.uint16(trait)) != 0

    def has_flag(self, mask: int) -> Bool:
        """Return which pages have one of the flags."""
        return (self.flags & np.uint64(mask)) != 0

    def are_kernel_vaddrs(self, vaddrs: U64) -> Bool:
        """Return which words can be addresses of the kernel's."""
        asked = unique(vaddrs)
        verdicts = np.fromiter(map(self._kernel.memory.is_kernel_vaddr, asked.tolist()), np.bool_, len(asked))
        return verdicts[np.searchsorted(asked, vaddrs)]

    @cached_property
    def flags(self) -> U64:
        """``page.flags``."""
        return self.records["flags"].astype(np.uint64)

    @cached_property
    def mapcount(self) -> U32:
        """``page._mapcount``."""
        return self.records["mapcount"].astype(np.uint32)

    @cached_property
    def is_typed(self) -> Bool:
        """Pages with a page type."""
        return (self.mapcount >= _TYPED) & (self.mapcount != _U32_MINUS_1)

    @cached_property
    def is_mapcount_set(self) -> Bool:
        """Pages that are mapped, or have a page type."""
        return self.mapcount != _U32_MINUS_1

    @cached_property
    def is_unused(self) -> Bool:
        """Pages to which nobody has a reference."""
        return self.records["refcount"] == 0

    @cached_property
    def is_tail(self) -> Bool:
        """Pages of a compound page but its first."""
        return self.has_trait(Trait.TAIL)

    @cached_property
    def is_free(self) -> Bool:
        """First pages of free blocks."""
        return self.has_trait(Trait.FREE) & self.is_ram & ~self.is_tail

    @cached_property
    def is_hugetlb(self) -> Bool:
        """First pages of huge pages, and what HVO makes look like them."""
        return self.has_trait(Trait.HUGETLB) & self.is_ram & ~self.is_tail

    @cached_property
    def is_hvo_alias(self) -> Bool:
        """Pages that may only look like the first of a huge page: HVO (Linux v5.14) shows that one every 64 pages."""
        return (self.orders == 0) & ((self.pfns & HVO_ALIAS_NPAGES - 1) == 0)

    @cached_property
    def is_other(self) -> Bool:
        """Pages that are neither tails, nor free, nor huge.

        What follows the first page of a free block, or of a huge page, says nothing, or what it said before.
        """
        is_first = self.is_free | (self.has_trait(Trait.UNACCEPTED) & self.is_ram)
        covered, _, _ = cover(is_first.astype(np.uint8), self.orders, 0, NO_CARRY)
        return self.is_ram & ~self.is_tail & ~self.has_trait(Trait.HUGETLB) & (covered == 0)

    @cached_property
    def is_lru(self) -> Bool:
        """Pages on LRU lists."""
        return self.has_flag(self.page.lru) & self.is_other

    @cached_property
    def is_anon(self) -> Bool:
        """Anonymous pages."""
        return self.has_trait(Trait.ANON) & self.is_other

    @cached_property
    def heads(self) -> Index:
        """Rows of first pages of compound pages that a row follows."""
        heads = np.flatnonzero(self.has_flag(self.page.head) & self.is_other)
        return heads[heads + 1 < len(self.records)]

    @cached_property
    def lasts(self) -> Index:
        """Rows of the last pages of those compound pages of ``heads`` that are wholly here."""
        heads = self.heads
        lasts = heads + (np.int64(1) << self.orders[heads].astype(np.int64)) - 1
        return lasts[(lasts > heads) & (lasts // self._piece_npages == heads // self._piece_npages)]


def views(source: Source, struct_pages: StructPages, page: StructPage, kernel: Kernel) -> Iterator[View]:
    """Yield samples of the struct pages, at most 65,536 in all."""
    piece_npages = max(PIECE_NPAGES, min(1 << page.max_buddy_order - 1, BATCH_NPAGES))
    starts = _pieces(source, piece_npages)
    n_together = max(1, BATCH_NPAGES // piece_npages)
    for first in range(0, len(starts), n_together):
        sample = _read(struct_pages, source, starts[first : first + n_together], piece_npages)
        if sample is not None:
            yield View(sample, page, kernel)


def _pieces(source: Source, npages: int) -> list[int]:
    """Return the first page frames of pieces of memory: every second one, or fewer if there are many."""
    starts: set[int] = set()
    for start, stop in source.ram_runs.tolist():
        starts.update(range(start // npages * npages, stop, npages))
    ordered = sorted(starts)
    most = max(1, MAX_NPAGES // npages)
    return ordered[:: max(2, -(-len(ordered) // most)) if len(ordered) > MIN_PIECES else 1]


def _read(struct_pages: StructPages, source: Source, starts: list[int], npages: int) -> _Sample | None:
    records, pfns = [], []
    for start in starts:
        n_lost = struct_pages.n_unreadable
        piece = struct_pages.read(start, start + npages)
        if piece is not None and struct_pages.n_unreadable == n_lost:
            records.append(piece)
            pfns.append(np.arange(start, start + npages))
    if not records:
        return None
    is_ram = [mask_of(source.ram_runs, int(piece[0]), int(piece[0]) + npages) for piece in pfns]
    return _Sample(np.concatenate(records), np.concatenate(pfns), np.concatenate(is_ram), npages)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether struct pages are what they are taken for: what is left out is held against what else the kernel says of it.

A kernel may change what its struct pages mean, and its VMCOREINFO may not say so: makedumpfile had to be repaired some
thirty times, mostly after dumps had lost what they should have kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arrays import I64, U8, U16, U64, Bool, Records, mask_of, unique
from npdump.kernel.kernel import struct_dtype
from npdump.kernel.memmap import find
from npdump.pages.blocks import NO_CARRY, cover
from npdump.pages.policy import DumpLevel, Trait
from npdump.pages.records import StructPages
from npdump.pages.traits import traits_and_orders

if TYPE_CHECKING:
    from npdump.kernel.kernel import Kernel, MemMap
    from npdump.pages.struct_page import StructPage
    from npdump.sources import Source

__all__ = ["CHECKED", "Doubt", "survey"]

CACHE = DumpLevel.CACHE | DumpLevel.CACHE_PRIVATE
CHECKED = CACHE | DumpLevel.USER | DumpLevel.FREE
"""Bits of a dump level that depend on what struct pages mean."""

ALL = CHECKED | 1 << 5
"""Those, and broken and offline pages, which have no bit in a dump level: no struct page is to be believed."""

MANY = 3
"""Doubts of so many kinds are doubt about all."""

PIECE_NPAGES = 1 << 10
MIN_PIECES = 16
MAX_NPAGES = 1 << 16
"""Every second piece of so many struct pages is looked at, all if there are few; in all not more than the last."""

BATCH_NPAGES = 1 << 15
"""Struct pages looked at together."""

MIN_SAMPLE = 32
"""Fewer pages of a kind prove nothing."""

MIN_HUGETLB_ORDER = 4
"""The smallest huge page of any machine is 64 KiB (arm64, contiguous entries)."""

MIRAGE_NPAGES = 64
"""Page frames whose struct pages fill a page; fewer with larger pages, which doesn't matter here."""

MAX_LINKS = 128
LINK_STRIDE = 4
"""Pages whose neighbours in their LRU list are looked at, and how many cache pages there are for each."""

MAX_LOCKS = 256
"""Half-open bound on how often a page is locked into memory; no address ends in so small a number."""

_LOWER_HALF = np.uint64(0xFFFFFFFF)

_U32_MINUS_1 = 0xFFFFFFFF
_TYPED = 1 << 31
"""A ``_mapcount`` with this bit, other than -1, is a page type: no user's page has one."""


class Doubt(NamedTuple):
    """The bits of the dump level that aren't to be trusted, why, and the fact to be forgotten for that, if it's one."""

    level: int
    why: str
    forget: str | None = None


class _Test(NamedTuple):
    """A statement that holds for nearly all pages of a kind; ``limit`` is the share of them that may break it."""

    level: int
    limit: float
    words: str
    forget: str | None = None
    n_enough: int = MIN_SAMPLE


_TESTS = {
    "free_in_use": _Test(DumpLevel.FREE, 0.02, "free pages have users"),
    "free_unaligned": _Test(DumpLevel.FREE, 0.01, "free blocks aren't aligned to their size"),
    "lru_unused": _Test(CACHE | DumpLevel.USER, 0.05, "pages of the page cache or of users have no user"),
    "lru_typed": _Test(CACHE | DumpLevel.USER, 0.02, "pages of the page cache or of users have a page type"),
    "lru_unlinked": _Test(CACHE | DumpLevel.USER, 0.1, "pages on LRU lists aren't linked to them"),
    "anon_pointer": _Test(DumpLevel.USER, 0.05, "anonymous pages have no anon_vma"),
    "anon_typed": _Test(DumpLevel.USER, 0.01, "anonymous pages have a page type"),
    "anon_unbacked": _Test(DumpLevel.USER, 0.3, "anonymous pages on LRU lists aren't backed by swap"),
    "hugetlb_listed": _Test(DumpLevel.USER, 0.02, "huge pages are on LRU lists, where only ordinary ones are"),
    "head_alone": _Test(CACHE | DumpLevel.USER, 0.1, "heads of compound pages have no tail after them"),
    "order_wrong": _Test(CACHE | DumpLevel.USER, 0.02, "compound pages reach beyond their last tail"),
    "hugetlb_small": _Test(DumpLevel.USER, 0.02, "huge pages are smaller than any machine has", n_enough=2),
    "mapcount_set": _Test(int(CHECKED), 0.999, "pages are in use by page tables, or have a page type"),
    "poisoned": _Test(0, 0.01, "pages are marked as broken memory", "NUMBER(PG_hwpoison)"),
    "flags_pointer": _Test(ALL, 0.01, "page flags look like addresses"),
}


class _Tally:
    """How many pages of a kind were seen, and how many of them break a statement."""

    def __init__(self) -> None:
        self.seen = dict.fromkeys(_TESTS, 0)
        self.broken = dict.fromkeys(_TESTS, 0)

    def add(self, name: str, is_broken: Bool) -> None:
        self.seen[name] += len(is_broken)
        self.broken[name] += int(is_broken.sum())

    def doubts(self) -> list[Doubt]:
        found = []
        for name, test in _TESTS.items():
            seen, broken = self.seen[name], self.broken[name]
            if seen >= test.n_enough and broken > test.limit * seen:
                found.append(Doubt(test.level, f"{broken} of {seen} {test.words}", test.forget))
        if len(found) >= MANY:
            found.append(Doubt(ALL, "so many things don't fit that no struct page is to be believed"))
        return found


def survey(source: Source, kernel: Kernel, page: StructPage) -> list[Doubt]:
    """Look at a sample of the struct pages.

    Raises
    ------
    FactError, AddressError, MemmapError
        If there are none that can be read.
    """
    memmap = find(kernel, page.nbytes, source.max_mapnr)
    struct_pages = StructPages(source, kernel.memory, memmap, _with_more_fields(page, kernel))
    tally, links = _Tally(), _Links(kernel, memmap, page.nbytes)
    piece_npages = max(PIECE_NPAGES, 1 << page.max_buddy_order - 1)
    starts = _pieces(source, piece_npages)
    n_together = max(1, BATCH_NPAGES // piece_npages)
    for first in range(0, len(starts), n_together):
        sample = _read(struct_pages, source, starts[first : first + n_together], piece_npages)
        if sample is not None:
            # The pieces aren't neighbours, but each begins at a multiple of its length, here as in memory.
            traits, orders = traits_and_orders(sample.records, 0, page, source.page_size)
            _judge(tally, sample, traits, orders, page, kernel)
            links.take(sample, traits)
    tally.add("lru_unlinked", links.are_broken())
    doubts = tally.doubts()
    if "compound" not in (page.dtype.names or ()) and "OFFSET(page._refcount)" in kernel.facts and page.head:
        # Linux 1d798ca3f164, v4.4, marks tails in a word of their own, _refcount came with v4.6.
        doubts.append(Doubt(CACHE | DumpLevel.USER, "the kernel doesn't tell how it marks the tails of compound pages"))
    return doubts


def _with_more_fields(page: StructPage, kernel: Kernel) -> np.dtype:
    """Return the dtype of struct page with the fields that only checks need."""
    fields = {name: (page.dtype[name], field[1]) for name, field in (page.dtype.fields or {}).items()}
    refcount = kernel.facts.first(("OFFSET(page._refcount)", "OFFSET(page._count)"))
    places = {"refcount": (kernel.memory.dtype("u4"), refcount)}
    lru, word = kernel.facts.get("OFFSET(page.lru)"), kernel.memory.word
    if lru is not None:
        places |= {"next": (word, lru), "prev": (word, lru + word.itemsize)}
    fields |= {
        name: (kind, offset)
        for name, (kind, offset) in places.items()
        if offset is not None and 0 <= offset <= page.nbytes - kind.itemsize
    }
    return struct_dtype("page", page.nbytes, fields, kernel.memory.space.byte_order)


class _Sample(NamedTuple):
    """Struct pages from several places: pieces of ``piece_npages``, one after the other.

    ``pfns`` are their page frames, ``is_ram`` tells which of them memory stands behind.
    """

    records: Records
    pfns: I64
    is_ram: Bool
    piece_npages: int


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


def _judge(
    tally: _Tally,
    sample: _Sample,
    traits: U16,
    orders: U8,
    page: StructPage,
    kernel: Kernel,
) -> None:
    records, is_ram = sample.records, sample.is_ram
    names = records.dtype.names or ()
    flags = records["flags"].astype(np.uint64)
    is_tail = (traits & Trait.TAIL) != 0
    is_free = ((traits & Trait.FREE) != 0) & is_ram & ~is_tail
    # What follows the first page of a free block, or of a hugetlb page, says nothing (or what it said before).
    is_other = is_ram & ~is_tail & ((traits & Trait.HUGETLB) == 0) & ~_in_free_blocks(is_free, orders)
    is_lru = ((flags & np.uint64(page.lru)) != 0) & is_other
    is_anon = ((traits & Trait.ANON) != 0) & is_other
    if kernel.arch.bits == 64:
        # The node and the zone stand in the upper bits, and are small numbers.
        tally.add("flags_pointer", (flags[is_ram] >> np.uint64(48)) == 0xFFFF)
    block_mask = (np.int64(1) << orders[is_free].astype(np.int64)) - 1
    tally.add("free_unaligned", (sample.pfns[is_free] & block_mask) != 0)
    if "refcount" in names:
        is_unused = records["refcount"] == 0
        tally.add("free_in_use", ~is_unused[is_free])
        tally.add("lru_unused", is_unused[is_lru])
    if "mapcount" in names:
        mapcount = records["mapcount"].astype(np.uint32)
        is_typed = (mapcount >= _TYPED) & (mapcount != _U32_MINUS_1)
        tally.add("mapcount_set", mapcount[is_ram] != _U32_MINUS_1)
        tally.add("lru_typed", is_typed[is_lru])
        tally.add("anon_typed", is_typed[is_anon])
    is_huge = ((traits & Trait.HUGETLB) != 0) & is_ram & ~is_tail
    tally.add("hugetlb_listed", (flags[is_huge] & np.uint64(page.lru)) != 0)
    # Those that HVO makes appear within a huge page (Linux v5.14) have no size, and come every 64 pages.
    is_mirage = (orders == 0) & ((sample.pfns & MIRAGE_NPAGES - 1) == 0)
    tally.add("hugetlb_small", orders[is_huge & ~is_mirage] < MIN_HUGETLB_ORDER)
    tally.add("poisoned", ((traits & Trait.HWPOISON) != 0)[is_ram])
    pointers = records["mapping"][is_anon].astype(np.uint64) & ~np.uint64(3)
    tally.add("anon_pointer", ~_are_kernel(pointers, kernel))
    if page.swapbacked:
        is_backed = (flags & np.uint64(page.swapbacked)) != 0
        tally.add("anon_unbacked", ~is_backed[is_anon & is_lru])
    if page.head and "compound" in names:
        heads = np.flatnonzero(((flags & np.uint64(page.head)) != 0) & is_other)
        heads = heads[heads + 1 < len(records)]
        tally.add("head_alone", ~is_tail[heads + 1])
        lasts = heads + (np.int64(1) << orders[heads].astype(np.int64)) - 1
        inside = (lasts > heads) & (lasts // sample.piece_npages == heads // sample.piece_npages)
        tally.add("order_wrong", ~is_tail[lasts[inside]])


def _in_free_blocks(is_free: Bool, orders: U8) -> Bool:
    covered, _ = cover(is_free.astype(np.uint8), orders, 0, NO_CARRY)
    return covered != 0


def _are_kernel(vaddrs: U64, kernel: Kernel) -> Bool:
    asked = unique(vaddrs)
    verdicts = np.fromiter(map(kernel.memory.is_kernel_vaddr, asked.tolist()), np.bool_, len(asked))
    return verdicts[np.searchsorted(asked, vaddrs)]


class _Links:
    """Some pages on LRU lists: whether the next page in the list knows of them."""

    def __init__(self, kernel: Kernel, memmap: MemMap, struct_nbytes: int) -> None:
        self._memory = kernel.memory
        self._memmap = memmap
        self._struct_nbytes = np.uint64(struct_nbytes)
        self._offset = np.uint64(kernel.facts.get("OFFSET(page.lru)") or 0)
        self._owns: list[U64] = []
        self._nexts: list[U64] = []

    def take(self, sample: _Sample, traits: U16) -> None:
        """Add pages of a sample, as many as belong to its share of all cache pages."""
        records = sample.records
        if "next" not in (records.dtype.names or ()):
            return
        is_cache = ((traits & Trait.CACHE) != 0) & ((traits & Trait.TAIL) == 0) & sample.is_ram
        rows = np.flatnonzero(is_cache)[::LINK_STRIDE]
        if records.dtype["prev"].itemsize == 8:
            # Linux 07ca76067308, v5.18: the lower half of the second link of pages that can't be evicted, which are on
            # no list, says how often they are locked.
            rows = rows[(records["prev"][rows].astype(np.uint64) & _LOWER_HALF) >= MAX_LOCKS]
        pfns = sample.pfns[rows]
        runs = np.searchsorted(self._memmap.pfn_stops, pfns, side="right")
        within = (pfns - self._memmap.pfn_starts[runs]).astype(np.uint64)
        self._owns.append(self._memmap.vaddrs[runs] + within * self._struct_nbytes + self._offset)
        self._nexts.append(records["next"][rows].astype(np.uint64))

    def are_broken(self) -> Bool:
        """Return, for each page that was looked at, whether the next one doesn't know of it."""
        if not self._owns:
            return np.zeros(0, np.bool_)
        owns, nexts = np.concatenate(self._owns), np.concatenate(self._nexts)
        thin = slice(None, None, -(-len(owns) // MAX_LINKS) or 1)
        owns, nexts = owns[thin], nexts[thin]
        if not nexts.any():
            return np.zeros(0, np.bool_)  # a kernel without lists
        words, found = self._memory.read_words(nexts + np.uint64(self._memory.word.itemsize))
        # A page that is linked to itself is on no list.
        return (nexts == owns) | ~found | (words != owns)

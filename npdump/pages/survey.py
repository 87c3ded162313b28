"""Whether struct pages are what they are taken for: what is left out is held against what else the kernel says of it.

A kernel may change what its struct pages mean, and its VMCOREINFO may not say so: makedumpfile had to be repaired some
thirty times, mostly after dumps had lost what they should have kept.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from npdump.bitmap import mask_of
from npdump.errors import AddressError
from npdump.memmap import Kernel, MemMap, find
from npdump.pages.blocks import NO_CARRY, cover
from npdump.pages.policy import DumpLevel, Trait
from npdump.pages.records import StructPages
from npdump.pages.struct_page import StructPage, describe
from npdump.pages.traits import traits_and_orders
from npdump.sources import Source

__all__ = ["CHECKED", "Doubt", "survey"]

CACHE = DumpLevel.CACHE | DumpLevel.CACHE_PRIVATE
CHECKED = CACHE | DumpLevel.USER | DumpLevel.FREE
"""Bits of a dump level that depend on what struct pages mean."""

ALL = CHECKED | 1 << 5
"""Those, and broken and offline pages, which have no bit in a dump level: no struct page is to be believed."""

MANY = 3
"""Doubts of so many kinds are doubt about all."""

MAX_BATCHES = 32
BATCH_NPAGES = 1 << 15
"""A million struct pages are looked at, at most, spread over all of memory."""

MIN_SAMPLE = 32
"""Fewer pages of a kind prove nothing."""

MIN_HUGETLB_ORDER = 4
"""The smallest huge page of any machine is 64 KiB (arm64, contiguous entries)."""

MIRAGE_NPAGES = 64
"""Page frames whose struct pages fill a page; fewer with larger pages, which doesn't matter here."""

MAX_LINKS = 256
"""Pages whose neighbours in their LRU list are looked at."""

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
    "lru_unlinked": _Test(CACHE | DumpLevel.USER, 0.25, "pages on LRU lists aren't linked to them"),
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

    def add(self, name: str, is_broken: npt.NDArray[np.bool_]) -> None:
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


def survey(source: Source, kernel: Kernel) -> list[Doubt]:
    """Look at a sample of the struct pages.

    Raises
    ------
    FactError, AddressError, MemmapError
        If there are none that can be read.
    """
    page = describe(kernel.facts, kernel.memory.space.byte_order, kernel.arch.bits)
    memmap = find(kernel, page.nbytes, source.max_mapnr)
    struct_pages = StructPages(source, kernel.memory, memmap, _with_more_fields(page, kernel))
    tally = _Tally()
    n_links = 0
    for start in _batches(source):
        stop = min(start + BATCH_NPAGES, source.max_mapnr)
        n_lost = struct_pages.n_unreadable
        records = struct_pages.read(start, stop)
        if records is None or struct_pages.n_unreadable != n_lost:
            continue
        kept = mask_of(source.ram_runs, start, stop)
        traits, orders = traits_and_orders(records, start, page, source.page_size)
        _judge(tally, records, traits, orders, start, page, kernel, kept)
        if n_links < MAX_LINKS and "lru" in (records.dtype.names or ()):
            n_links += _follow_lists(tally, records, traits, kept, kernel, memmap, start)
    doubts = tally.doubts()
    if "compound" not in (page.dtype.names or ()) and "OFFSET(page._refcount)" in kernel.facts and page.head:
        # Linux 1d798ca3f164, v4.4, marks tails in a word of their own, _refcount came with v4.6.
        doubts.append(Doubt(CACHE | DumpLevel.USER, "the kernel doesn't tell how it marks the tails of compound pages"))
    return doubts


def _with_more_fields(page: StructPage, kernel: Kernel) -> np.dtype:
    """Return the dtype of struct page with the fields that only checks need."""
    order = kernel.memory.word.byteorder
    fields = {name: (page.dtype[name], field[1]) for name, field in (page.dtype.fields or {}).items()}
    more = {
        "refcount": (np.dtype("u4").newbyteorder(order), ("OFFSET(page._refcount)", "OFFSET(page._count)")),
        "lru": (kernel.memory.word, ("OFFSET(page.lru)",)),
    }
    for name, (kind, keys) in more.items():
        offset = kernel.facts.first(keys)
        if offset is not None and 0 <= offset <= page.nbytes - kind.itemsize:
            fields[name] = (kind, offset)
    return np.dtype(
        {
            "names": list(fields),
            "formats": [kind for kind, _ in fields.values()],
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": page.nbytes,
        }
    )


def _batches(source: Source) -> list[int]:
    starts: set[int] = set()
    for start, stop in source.ram_runs.tolist():
        starts.update(range(start // BATCH_NPAGES * BATCH_NPAGES, stop, BATCH_NPAGES))
    ordered = sorted(starts)
    step = -(-len(ordered) // MAX_BATCHES) or 1
    return ordered[::step]


def _judge(
    tally: _Tally,
    records: npt.NDArray[np.void],
    traits: npt.NDArray[np.uint16],
    orders: npt.NDArray[np.uint8],
    start: int,
    page: StructPage,
    kernel: Kernel,
    is_ram: npt.NDArray[np.bool_],
) -> None:
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
    pfns = np.flatnonzero(is_free)
    block_mask = (np.int64(1) << orders[pfns].astype(np.int64)) - 1
    tally.add("free_unaligned", ((pfns + start) & block_mask) != 0)
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
    is_mirage = (orders == 0) & ((np.arange(start, start + len(records)) & MIRAGE_NPAGES - 1) == 0)
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
        inside = (lasts > heads) & (lasts < len(records))
        tally.add("order_wrong", ~is_tail[lasts[inside]])


def _in_free_blocks(is_free: npt.NDArray[np.bool_], orders: npt.NDArray[np.uint8]) -> npt.NDArray[np.bool_]:
    covered, _ = cover(is_free.astype(np.uint8), orders, 0, NO_CARRY)
    return covered != 0


def _are_kernel(vaddrs: npt.NDArray[np.uint64], kernel: Kernel) -> npt.NDArray[np.bool_]:
    # As np.unique(), which would import numpy.ma: a tenth of the time that npdump takes to start.
    order = np.argsort(vaddrs)
    is_first = np.append(True, np.diff(vaddrs[order]) != 0)[: len(vaddrs)]
    distinct = vaddrs[order[is_first]]
    verdicts = np.fromiter(map(kernel.memory.is_kernel_vaddr, distinct.tolist()), np.bool_, len(distinct))
    answer = np.empty(len(vaddrs), np.bool_)
    answer[order] = verdicts[np.cumsum(is_first) - 1]
    return answer


def _follow_lists(
    tally: _Tally,
    records: npt.NDArray[np.void],
    traits: npt.NDArray[np.uint16],
    is_ram: npt.NDArray[np.bool_],
    kernel: Kernel,
    memmap: MemMap,
    start: int,
) -> int:
    """See whether the next page in the LRU list of some pages knows of them; return how many were looked at."""
    lru_offset = kernel.facts.need("OFFSET(page.lru)", "to follow LRU lists")
    is_cache = ((traits & Trait.CACHE) != 0) & ((traits & Trait.TAIL) == 0) & is_ram
    taken = np.flatnonzero(is_cache)
    if not records["lru"][taken].any():
        return 0
    taken = taken[:: max(1, len(taken) // 32)][:32]
    word_nbytes = kernel.memory.word.itemsize
    broken = []
    for i in taken.tolist():
        run = int(np.searchsorted(memmap.pfn_stops, start + i, side="right"))
        own = int(memmap.vaddrs[run]) + (start + i - int(memmap.pfn_starts[run])) * records.dtype.itemsize + lru_offset
        following = int(records["lru"][i])
        try:
            # A page that is linked to itself is on no list.
            broken.append(following == own or kernel.memory.read_word(following + word_nbytes) != own)
        except (AddressError, OverflowError):
            broken.append(True)
    tally.add("lru_unlinked", np.array(broken, np.bool_))
    return len(taken)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether struct pages are what they are taken for: what is left out is held against what else the kernel says of it.

Each check is a statement that no workload can break; a few pages may, which the kernel was working on when it crashed.
To add one, write a function that returns, for each page of a kind, whether it breaks the statement.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.kernel.memmap import find
from npdump.layouts.page_flag import STATUS_EXCLUDED_VMEMMAP
from npdump.pages.policy import DumpLevel, Trait
from npdump.pages.records import StructPages
from npdump.pages.selfcheck.findings import ALL, CACHE, CHECKED, Finding
from npdump.pages.selfcheck.links import LruLinks
from npdump.pages.selfcheck.view import View, views

if TYPE_CHECKING:
    from npdump.arrays import U64, Bool
    from npdump.kernel.kernel import Kernel
    from npdump.pages.struct_page import StructPage
    from npdump.sources import Source

__all__ = ["check_struct_pages"]

MANY = 3
"""Findings of so many kinds are doubt about all."""

MIN_SAMPLE = 32
"""Fewer pages of a kind prove nothing."""

MIN_HUGETLB_ORDER = 4
"""The smallest huge page of any machine is 64 KiB (arm64, contiguous entries)."""

_MIN_UNREADABLE = 1 << 13
"""Fewer may be those of holes beside the memory of a small machine."""

_MAX_UNLINKED = 0.1
"""Share of the pages on LRU lists that may be in the midst of being moved."""

USER, FREE = DumpLevel.USER, DumpLevel.FREE
Breaks = Callable[[View], "Bool"]


class _Check(NamedTuple):
    """A statement that holds for nearly all pages of a kind; ``limit`` is the share of them that may break it."""

    breaks: Breaks
    level: int
    limit: float
    says: str
    needs: tuple[str, ...]
    ignored_fact: str | None
    min_sample: int


_CHECKS: list[_Check] = []


def _check(
    level: int,
    *,
    limit: float,
    says: str,
    needs: tuple[str, ...] = (),
    ignored_fact: str | None = None,
    min_sample: int = MIN_SAMPLE,
) -> Callable[[Breaks], Breaks]:
    """Register a check.

    Parameters
    ----------
    level : int
        Bits of the dump level that are in doubt if it fails.
    limit : float
        Share of the pages looked at that may break the statement.
    says : str
        What is wrong with those that do, as in "7 of 70 anonymous pages have a page type".
    needs : tuple of str
        Columns without which it can't be made.
    ignored_fact : str, optional
        Key of the fact that isn't to be used if it fails.
    min_sample : int
        Fewer pages prove nothing.
    """

    def register(breaks: Breaks) -> Breaks:
        _CHECKS.append(_Check(breaks, level, limit, says, needs, ignored_fact, min_sample))
        return breaks

    return register


@_check(FREE, limit=0.02, says="free pages have users", needs=("refcount",))
def _free_in_use(view: View) -> Bool:
    return ~view.is_unused[view.is_free]


@_check(FREE, limit=0.01, says="free blocks aren't aligned to their size")
def _free_unaligned(view: View) -> Bool:
    block_mask = (np.int64(1) << view.orders[view.is_free].astype(np.int64)) - 1
    return (view.pfns[view.is_free] & block_mask) != 0


@_check(CACHE | USER, limit=0.05, says="pages of the page cache or of users have no user", needs=("refcount",))
def _lru_unused(view: View) -> Bool:
    return view.is_unused[view.is_lru]


@_check(CACHE | USER, limit=0.02, says="pages of the page cache or of users have a page type", needs=("mapcount",))
def _lru_typed(view: View) -> Bool:
    return view.is_typed[view.is_lru]


@_check(CACHE | USER, limit=0.05, says="anonymous pages have no anon_vma")
def _anon_pointer(view: View) -> Bool:
    pointers: U64 = view.records["mapping"][view.is_anon].astype(np.uint64) & ~np.uint64(3)
    return ~view.are_kernel_vaddrs(pointers)


@_check(CACHE | USER, limit=0.01, says="anonymous pages have a page type", needs=("mapcount",))
def _anon_typed(view: View) -> Bool:
    return view.is_typed[view.is_anon]


@_check(CACHE, limit=0.05, says="pages of the page cache belong to what can be no file")
def _cache_pointer(view: View) -> Bool:
    # Those that were truncated, and are about to be freed, belong to none (Linux mm/truncate.c).
    pointers: U64 = view.records["mapping"][view.is_lru & ~view.is_anon].astype(np.uint64)
    return (pointers != 0) & ~view.are_kernel_vaddrs(pointers)


@_check(USER, limit=0.02, says="huge pages are on LRU lists, where only ordinary ones are")
def _hugetlb_listed(view: View) -> Bool:
    return view.has_flag(view.page.lru)[view.is_hugetlb]


@_check(USER, limit=0.02, says="huge pages are smaller than any machine has", min_sample=2)
def _hugetlb_small(view: View) -> Bool:
    return view.orders[view.is_hugetlb & ~view.is_hvo_alias] < MIN_HUGETLB_ORDER


@_check(CACHE | USER, limit=0.1, says="heads of compound pages have no tail after them", needs=("compound",))
def _head_alone(view: View) -> Bool:
    return ~view.is_tail[view.heads + 1]


@_check(CACHE | USER, limit=0.02, says="compound pages reach beyond their last tail", needs=("compound",))
def _order_wrong(view: View) -> Bool:
    return ~view.is_tail[view.lasts]


@_check(CHECKED, limit=0.999, says="pages are in use by page tables, or have a page type", needs=("mapcount",))
def _mapcount_set(view: View) -> Bool:
    return view.is_mapcount_set[view.is_ram]


@_check(0, limit=0.01, says="pages are marked as broken memory", ignored_fact="NUMBER(PG_hwpoison)")
def _poisoned(view: View) -> Bool:
    return view.has_trait(Trait.HWPOISON)[view.is_ram]


@_check(ALL, limit=0.01, says="page flags look like addresses")
def _flags_pointer(view: View) -> Bool:
    # The node and the zone are in the upper bits, and are small numbers.
    is_looked_at = view.is_ram if view.records["flags"].dtype.itemsize == 8 else np.zeros_like(view.is_ram)
    return (view.flags[is_looked_at] >> np.uint64(48)) == 0xFFFF


class _Counts:
    """How many pages of a kind were seen, and how many of them break a statement."""

    def __init__(self) -> None:
        self._seen = [0] * len(_CHECKS)
        self._broken = [0] * len(_CHECKS)

    def add(self, view: View) -> None:
        for i, check in enumerate(_CHECKS):
            if view.columns.issuperset(check.needs):
                is_broken = check.breaks(view)
                self._seen[i] += len(is_broken)
                self._broken[i] += int(np.count_nonzero(is_broken))

    def findings(self) -> list[Finding]:
        return [
            Finding(check.level, f"{broken} of {seen} {check.says}", check.ignored_fact)
            for check, seen, broken in zip(_CHECKS, self._seen, self._broken, strict=True)
            if seen >= check.min_sample and broken > check.limit * seen
        ]


def check_struct_pages(source: Source, kernel: Kernel, page: StructPage) -> list[Finding]:
    """Look at a sample of the struct pages.

    Parameters
    ----------
    source : Source
    kernel : Kernel
    page : StructPage

    Raises
    ------
    FactError, AddressError, MemmapError
        If there are none that can be read.
    """
    memmap = find(kernel, page.nbytes, source.max_mapnr)
    struct_pages = StructPages(kernel.memory, memmap, page.dtype)
    counts, links = _Counts(), LruLinks(kernel, memmap, page.dtype)
    n_read = 0
    for view in views(source, struct_pages, page, kernel):
        n_read += len(view.orders)
        counts.add(view)
        links.take(view)
    findings = [*counts.findings(), *_links_finding(links)]
    if not source.history.status & STATUS_EXCLUDED_VMEMMAP:
        findings += _unreadable_finding(struct_pages.n_unreadable, n_read)
    if len(findings) >= MANY:
        findings.append(Finding(ALL, "so many things don't fit that no struct page is to be believed"))
    if "compound" not in (page.dtype.names or ()) and "OFFSET(page._refcount)" in kernel.facts and page.head:
        # Linux 1d798ca3f164, v4.4, marks tails in a word of their own, _refcount came with v4.6.
        findings.append(Finding(CACHE | USER, "the kernel doesn't tell how it marks the tails of compound pages"))
    return findings


def _unreadable_finding(n_unreadable: int, n_read: int) -> list[Finding]:
    """Doubt all where most are missing: with a wrong page size those that are read are those of other pages."""
    if n_unreadable < _MIN_UNREADABLE or n_unreadable <= n_read:
        return []
    return [Finding(ALL, f"{n_unreadable} of {n_unreadable + n_read} struct pages can't be read")]


def _links_finding(links: LruLinks) -> list[Finding]:
    is_broken = links.are_broken()
    n_broken = int(np.count_nonzero(is_broken))
    if len(is_broken) < MIN_SAMPLE or n_broken <= _MAX_UNLINKED * len(is_broken):
        return []
    return [Finding(CACHE | USER, f"{n_broken} of {len(is_broken)} pages on LRU lists aren't linked to them")]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages a dump level drops: one page frame after the other, in plain Python.

It knows struct pages only through VMCOREINFO keys and raw bytes, so that it can judge built and real dumps alike.
Written from the rules that makedumpfile and the kernel define; `Rules` says where npdump deliberately differs from
makedumpfile.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

ZERO, NON_PRIVATE, CACHE, USER, FREE = 1, 2, 4, 8, 16
CLASSES = ("kept", "free", "cache", "cache_private", "user", "hwpoison", "offline")
KEPT = 0

Keys = dict[str, int | str]


@dataclass(frozen=True)
class Rules:
    """The deliberate differences.

    Parameters
    ----------
    poison_by_page
        PG_hwpoison counts on every page, tails of compound pages too, and drops this page alone unless it heads a
        hugetlb page. makedumpfile looks at heads only and drops their whole compound page, so that poisoned tails are
        read.
    slab_default_bit
        Take bit 7 for PG_slab on kernels that export neither its number nor another one (makedumpfile, also where slab
        is a page type).
    keeps_used
        Pages of a free block that somebody has a reference to are kept: the block's order is damaged.
    """

    poison_by_page: bool = True
    slab_default_bit: bool = False
    keeps_used: bool = True


NPDUMP = Rules()
MAKEDUMPFILE = Rules(poison_by_page=False, slab_default_bit=True, keeps_used=False)


@dataclass(frozen=True)
class Page:
    """The words of one struct page that matter."""

    flags: int
    mapping: int
    private: int
    mapcount: int
    compound: int


class Facts:
    """Numbers out of VMCOREINFO, with the defaults for old kernels."""

    def __init__(self, keys: Keys, rules: Rules) -> None:
        def number(name: str, default: int | None = None) -> int | None:
            value = keys.get(f"NUMBER({name})")
            return default if value is None else int(value)

        def mapcount(name: str) -> int | None:
            value = number(f"PAGE_{name}_MAPCOUNT_VALUE")
            return None if value is None else value & 0xFFFFFFFF

        def offset(name: str) -> int | None:
            value = keys.get(f"OFFSET({name})")
            return None if value is None else int(value)

        self.page_nbytes = int(keys["SIZE(page)"])
        self.at_flags, self.at_mapping = offset("page.flags"), offset("page.mapping")
        self.at_private, self.at_mapcount = offset("page.private"), offset("page._mapcount")
        self.at_refcount = offset("page._refcount")
        self.at_compound = offset("page.compound_head")
        if self.at_compound is None:
            self.at_compound = offset("page.compound_info")
        self.buddy, self.slab, self.offline = mapcount("BUDDY"), mapcount("SLAB"), mapcount("OFFLINE")
        self.hugetlb, self.unaccepted = mapcount("HUGETLB"), mapcount("UNACCEPTED")
        self.lru = 1 << number("PG_lru", 5)
        self.private = 1 << number("PG_private", 11)
        self.swapcache = 1 << number("PG_swapcache", 15)
        swapbacked, hwpoison = number("PG_swapbacked"), number("PG_hwpoison")
        if swapbacked is None and self.swapcache < self.private:
            swapbacked = self.private.bit_length() - 1 + 6
        self.swapbacked = None if swapbacked is None else 1 << swapbacked
        self.hwpoison = 0 if hwpoison is None else 1 << hwpoison
        default_slab = 7 if self.slab is None or rules.slab_default_bit else None
        slab_bit = number("PG_slab", default_slab)
        self.slab_flag = 0 if slab_bit is None else 1 << slab_bit
        self.head_mask = number("PG_head_mask", 1 << 14)
        hugetlb_flag = number("PG_hugetlb")
        self.hugetlb_flag = None if hugetlb_flag is None else 1 << hugetlb_flag
        folio_order, folio_dtor = offset("folio._folio_order"), offset("folio._folio_dtor")
        if folio_order is not None:
            self.at_order, self.at_dtor = folio_order - self.page_nbytes, folio_dtor - self.page_nbytes
        else:
            self.at_order, self.at_dtor = offset("page.compound_order"), offset("page.compound_dtor")
        self.hugetlb_dtor = number("HUGETLB_PAGE_DTOR")
        self.n_free_area = int(keys["LENGTH(zone.free_area)"])

    def scans(self, level: int) -> bool:
        """Whether struct pages are looked at: poisoned and offline pages go at every level where they are."""
        return bool(level & (NON_PRIVATE | CACHE | USER | FREE) or self.hwpoison)


class Oracle:
    """The classes of a dump's pages.

    Parameters
    ----------
    keys
        VMCOREINFO.
    struct_pages
        Raw struct pages [first, stop) by page frame number.
    sections
        Runs (first, stop) of page frames that have struct pages, ascending.
    present
        Which page frames the dump has; bool, (max_mapnr,).
    """

    def __init__(
        self,
        keys: Keys,
        struct_pages: Callable[[int, int], bytes],
        sections: Iterable[tuple[int, int]],
        present: np.ndarray,
        rules: Rules = NPDUMP,
    ) -> None:
        self.facts, self.rules = Facts(keys, rules), rules
        self.sections, self.present = list(sections), present
        self._raw = lru_cache(4)(struct_pages)
        self._base = 0
        self._chunk = memoryview(b"")

    def _struct(self, pfn: int) -> memoryview:
        """Raw struct page out of the section being looked at."""
        start = (pfn - self._base) * self.facts.page_nbytes
        return self._chunk[start : start + self.facts.page_nbytes]

    def page(self, pfn: int) -> Page:
        """Decode one struct page."""
        raw, facts = self._struct(pfn), self.facts
        offsets = (facts.at_flags, facts.at_mapping, facts.at_private, facts.at_compound)
        flags, mapping, private, compound = (struct.unpack_from("<Q", raw, at)[0] for at in offsets)
        return Page(flags, mapping, private, struct.unpack_from("<I", raw, facts.at_mapcount)[0], compound)

    def compound(self, pfn: int, page: Page, stop: int) -> tuple[int, bool]:
        """Order and hugetlb verdict of a head page; (0, False) for any other."""
        facts = self.facts
        if not page.flags & facts.head_mask or pfn + 1 >= stop:
            return 0, False
        second = self._struct(pfn + 1)
        (second_flags,) = struct.unpack_from("<Q", second, facts.at_flags)
        if facts.hugetlb is not None:
            order, hugetlb = second_flags & 0xFF, page.mapcount == facts.hugetlb
        elif facts.hugetlb_flag is not None:
            order, hugetlb = second_flags & 0xFF, bool(second_flags & facts.hugetlb_flag)
        elif facts.at_order is not None:
            order, hugetlb = second[facts.at_order], second[facts.at_dtor] == facts.hugetlb_dtor
        else:
            return 0, False
        if order >= 64 or pfn & (1 << order) - 1:
            order = 0
        return order, hugetlb

    def judge(self, pfn: int, page: Page, stop: int, level: int) -> tuple[str, int]:
        """Class of the page at `pfn` and how many pages from there on go with it."""
        facts, rules = self.facts, self.rules
        poisoned = bool(page.flags & facts.hwpoison)
        order, hugetlb = self.compound(pfn, page, stop)
        n_pages = 1 << order
        if page.compound & 1:
            return ("hwpoison", 1) if poisoned and rules.poison_by_page else ("kept", 1)
        slab = page.mapcount == facts.slab or bool(page.flags & facts.slab_flag)
        anon = bool(page.mapping & 1) and not slab
        swapcache = page.flags & facts.swapcache and (facts.swapbacked is None or page.flags & facts.swapbacked)
        cache = bool(page.flags & facts.lru or swapcache)
        if level & FREE and not slab and page.mapcount == facts.buddy:
            if page.private >= facts.n_free_area:
                return "kept", 1
            return "free", 1 << page.private
        if level & FREE and facts.unaccepted is not None and page.mapcount == facts.unaccepted:
            return "free", 1 << facts.n_free_area - 1
        private = bool(page.flags & facts.private)
        if level & (NON_PRIVATE | CACHE) and cache and not private and not anon:
            return "cache", n_pages
        if level & CACHE and cache and not anon:
            return "cache_private", n_pages
        if level & USER and (anon or hugetlb):
            return "user", n_pages
        if poisoned:
            return "hwpoison", n_pages if hugetlb or not rules.poison_by_page else 1
        if facts.offline is not None and not slab and page.mapcount == facts.offline:
            return "offline", n_pages
        return "kept", 1

    def _verdict(self, verdicts: dict, raw: bytes, pfn: int, stop: int, level: int) -> tuple[str, int]:
        page = self.page(pfn)
        verdict = self.judge(pfn, page, stop, level)
        if not page.flags & self.facts.head_mask:
            verdicts[raw] = verdict
        return verdict

    def classify(self, level: int) -> np.ndarray:
        """Index into CLASSES of every page; uint8, (max_mapnr,). Pages that the dump doesn't have are "kept"."""
        classes = np.zeros(len(self.present), np.uint8)
        if not self.facts.scans(level):
            return classes
        next_pfn = 0
        verdicts: dict[bytes, tuple[str, int]] = {}  # of pages that aren't heads: their own bytes decide
        for first, stop in self.sections:
            self._base, self._chunk = first, memoryview(self._raw(first, stop))
            pfn = max(first, next_pfn)
            present = self.present[first:stop].tolist()
            stop = first + len(present)
            while pfn < stop:
                if not present[pfn - first]:
                    pfn += 1
                    continue
                raw = bytes(self._struct(pfn))
                name, n_pages = verdicts.get(raw) or self._verdict(verdicts, raw, pfn, stop, level)
                if name != "kept":
                    classes[pfn : pfn + n_pages] = CLASSES.index(name)
                pfn += n_pages
            next_pfn = pfn
        if self.rules.keeps_used:
            self._keep_used(classes)
        classes[~self.present] = KEPT
        return classes

    def _keep_used(self, classes: np.ndarray) -> None:
        """Nobody has a reference to a free page: where somebody has one, the block's order is damaged."""
        for first, stop in self.sections:
            of_section = classes[first:stop]
            words = np.frombuffer(self._raw(first, stop), "<u4").reshape(-1, self.facts.page_nbytes // 4)
            is_used = words[: len(of_section), self.facts.at_refcount // 4] != 0
            of_section[is_used & (of_section == CLASSES.index("free"))] = KEPT

    def kept(self, level: int, has_data: np.ndarray | None = None) -> np.ndarray:
        """Whether a dump of `level` has the page; bool, (max_mapnr,)."""
        present = self.present if has_data is None else has_data
        return present & (self.classify(level) == KEPT)


def of(dump, rules: Rules = NPDUMP) -> Oracle:
    """The oracle of a built vmcore."""
    per_section = 1 << 15
    return Oracle(
        dump.keys,
        lambda first, stop: bytes(dump.pages.section(first // per_section)),
        [(number * per_section, (number + 1) * per_section) for number in dump.sections],
        dump.bitmap1,
        rules,
    )

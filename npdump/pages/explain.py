# SPDX-License-Identifier: GPL-2.0-or-later
"""Why one page is what it is: the same rules as for arrays of pages, with the reasons put into words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npdump.arrays import contains
from npdump.pages.policy import PageClass, Trait, decide
from npdump.pages.scan import needs_struct_pages
from npdump.pages.traits import MAX_BLOCK_NBYTES, traits_and_orders

if TYPE_CHECKING:
    from npdump.pages.free_lists import FreeBlocks
    from npdump.pages.records import StructPages
    from npdump.pages.struct_page import StructPage
    from npdump.sources import Source

__all__ = ["PageExplanation", "explain"]

ALL_LEVELS = range(32)


class PageExplanation(NamedTuple):
    """What is to be told of a page.

    Attributes
    ----------
    fields : dict of str to int
        Of its struct page; empty if that isn't there.
    traits : dict of str to str
        What the fields say, each with the reason.
    head : int
        First page frame of the block that it goes or stays with; its own, if that block has one page.
    order : int
        ``1 << order`` pages are in that block.
    class_by_level : dict of int to PageClass
        What it's left out as, at the levels at which it's left out for what its struct page says.
    """

    fields: dict[str, int]
    traits: dict[str, str]
    head: int
    order: int
    class_by_level: dict[int, PageClass]


def explain(
    source: Source, page: StructPage, struct_pages: StructPages, pfn: int, free_blocks: FreeBlocks | None = None
) -> PageExplanation:
    """Tell what a page is.

    Parameters
    ----------
    source : Source
    page : StructPage
    struct_pages : StructPages
    pfn : int
        A page frame below ``source.max_mapnr``.
    free_blocks : FreeBlocks, optional
        The free blocks, where their struct pages don't tell them.
    """
    own = _pair(source, struct_pages, pfn)
    if own is None:
        return PageExplanation({}, {}, pfn, 0, {})
    traits, own_order = _judge(own, pfn, page, source, free_blocks)
    fields = {name: int(own[0][name]) for name in own.dtype.names or () if name not in ("order", "dtor")}
    head, order, classes = pfn, 0, {}
    # Blocks are aligned to their size, so that the first page of one that this page is in is one of these.
    for candidate in range((MAX_BLOCK_NBYTES // source.page_size).bit_length() - 1, -1, -1):
        first = pfn >> candidate << candidate
        records = _pair(source, struct_pages, first) if first != pfn or not candidate else None
        if records is None or not contains(source.ram_runs, first):
            continue
        first_traits, first_order = _judge(records, first, page, source, free_blocks)
        for level in ALL_LEVELS:
            if not needs_struct_pages(page, level, free_blocks is not None):
                continue
            page_class = decide(first_traits, level)
            is_alone = page_class == PageClass.HWPOISON and not first_traits & Trait.HUGETLB
            n = 1 if is_alone else 1 << first_order
            if page_class and first + n > pfn and level not in classes:
                classes[level] = page_class
                if n > 1 and first_order > order:
                    head, order = first, first_order
    return PageExplanation(
        fields, _reasons(traits, fields, page, own_order), head, order, dict(sorted(classes.items()))
    )


def _pair(source: Source, struct_pages: StructPages, pfn: int) -> Any:
    """Return the struct page of a page frame and the one after it, None if the first isn't there."""
    n_before = struct_pages.n_unreadable
    records = struct_pages.read(pfn, pfn + 2)
    if records is None or struct_pages.n_unreadable - n_before > 1:
        return None
    return records


def _judge(records: Any, pfn: int, page: StructPage, source: Source, free_blocks: FreeBlocks | None) -> tuple[int, int]:
    traits, orders = traits_and_orders(records, pfn, page, source.page_size)
    if free_blocks is not None:
        free_blocks.mark(traits, orders, pfn)
    return int(traits[0]), int(orders[0])


def _reasons(traits: int, fields: dict[str, int], page: StructPage, order: int) -> dict[str, str]:
    flags = fields["flags"]
    on_lru = bool(flags & page.lru)
    is_free = "it is on a free list"
    if page.tells_free:
        is_free = (
            "PG_buddy is set" if page.buddy_flag else f"_mapcount is {fields.get('mapcount', 0):#x}, as in free blocks"
        )
    mapcount = f"_mapcount is {fields['mapcount']:#x}" if "mapcount" in fields else ""
    words = {
        Trait.TAIL: f"compound_head is {fields.get('compound', 0):#x}, bit 0 is set",
        Trait.FREE: f"{is_free}; its order is {order}",
        Trait.BAD_ORDER: f"{mapcount}, that of a free block, but private, its order, is {fields.get('private', 0):#x}",
        Trait.UNACCEPTED: mapcount,
        Trait.CACHE: "PG_lru is set" if on_lru else "PG_swapcache is set",
        Trait.PRIVATE: "PG_private is set",
        Trait.ANON: f"mapping is {fields['mapping']:#x}, bit 0 is set",
        Trait.HUGETLB: mapcount if page.hugetlb_type else "the second page of the block says so",
        Trait.HWPOISON: "PG_hwpoison is set",
        Trait.OFFLINE: mapcount,
    }
    return {trait.name: words[trait] for trait in Trait if traits & trait}


def flag_names(flags: int, enum: dict[str, int], n_flags: int) -> list[str]:
    """Name the set bits of ``flags`` below ``n_flags``; one without a name is ``bit N``.

    Several names may stand for one bit (PG_owner_priv_1 and PG_checked): the first is that of general use.
    """
    names: dict[int, str] = {}
    for name, bit in enum.items():
        names.setdefault(bit, name)
    return [names.get(bit, f"bit {bit}") for bit in range(n_flags) if np.uint64(flags) >> np.uint64(bit) & np.uint64(1)]

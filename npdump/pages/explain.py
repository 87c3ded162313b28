# SPDX-License-Identifier: GPL-2.0-or-later
"""Why one page is what it is: the same rules as for arrays of pages, with the reasons put into words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npdump.arrays import contains
from npdump.errors import AddressError, FactError
from npdump.kernel.memmap import find
from npdump.kernel.probe import embedded_types
from npdump.pages.evidence import Evidence
from npdump.pages.free_lists import read_free_lists
from npdump.pages.html import facts_table
from npdump.pages.policy import MAX_DUMP_LEVEL, DumpLevel, PageClass, Trait, decide
from npdump.pages.records import StructPages
from npdump.pages.scan import needs_struct_pages
from npdump.pages.struct_page import describe
from npdump.pages.traits import MAX_BLOCK_NBYTES, traits_and_orders

if TYPE_CHECKING:
    from collections.abc import Mapping

    from npdump.facts import Facts
    from npdump.kernel.facts.types import Types
    from npdump.kernel.kernel import Kernel
    from npdump.observer import Observer
    from npdump.pages.free_lists import FreeBlocks
    from npdump.pages.selfcheck import Verdict
    from npdump.pages.struct_page import StructPage
    from npdump.sources import Source

__all__ = ["PageExplanation", "explain_page", "page_flags"]

ALL_LEVELS = range(32)

ORDER_IN_FLAGS = 0xFF
"""Bits of the second page's flags that hold the order of a compound page (Linux ebc1baf5c9b4, v6.6)."""


_MAX_FLAGS = 64
"""Bits of the word that has them."""

_WITHOUT_ENUM = 22
"""Bits of ``flags`` that are flags, where the kernel's own list isn't known; the rest are zone, node and section."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageExplanation:
    """What a page is, by which fields, and at which levels it is left out.

    Attributes
    ----------
    pfn : int
    paddr : int
        Physical address of the page.
    is_memory : bool
        Whether the dump had the page before any filter left it out.
    is_dumped : bool
        Whether its contents are in the dump.
    struct_page : int or None
        Kernel address of its struct page.
    fields : dict of str to int
        Of its struct page; empty if that is not there.
    flags : tuple of str
        Names of the page flags that are set.
    traits : dict of str to str
        What the fields say, each with the reason.
    block_pfn : int
        First page frame of the block that the page goes or stays with; its own, if that block has one page.
    block_npages : int
    class_by_level : dict of int to str
        What it is left out as, a name of `PageClass` or ``ZERO``, at the levels at which it is left out.
    """

    pfn: int
    paddr: int
    is_memory: bool
    is_dumped: bool
    struct_page: int | None
    fields: dict[str, int]
    flags: tuple[str, ...]
    traits: dict[str, str]
    block_pfn: int
    block_npages: int
    class_by_level: dict[int, str]

    def _repr_html_(self) -> str:
        levels: dict[str, list[str]] = {}
        for level, name in self.class_by_level.items():
            levels.setdefault(name, []).append(str(level))
        return facts_table(
            {
                "page frame": f"{self.pfn:#x}, at {self.paddr:#x}",
                "content": "is in the dump" if self.is_dumped else "is not in the dump",
                "flags": " ".join(self.flags) or "none",
                **{f"is {name}": why for name, why in self.traits.items()},
                **{name: f"{value:#x}" for name, value in self.fields.items()},
                **{f"left out as {name}": f"at levels {', '.join(numbers)}" for name, numbers in levels.items()},
            }
        )


def explain_page(
    source: Source,
    kernel: Kernel,
    pfn: int,
    flag_bits: Mapping[str, int],
    observer: Observer,
    *,
    verdict: Verdict | None = None,
) -> PageExplanation:
    """Return what a page is.

    Parameters
    ----------
    source : Source
    kernel : Kernel
    pfn : int
        A page frame below ``source.max_mapnr``.
    flag_bits : mapping of str to int
        Bit numbers of the page flags; see `page_flags`.
    observer : Observer
        Hears which facts are missing.
    verdict : Verdict, optional
        Of the self-check at all levels: a kind of page that is in doubt is left out at no level, as in a dump.

    Raises
    ------
    FactError, AddressError, MemmapError
        If the struct pages cannot be found.
    """
    page = describe(kernel.facts, kernel.memory.space.byte_order, kernel.arch.bits)
    memmap = find(kernel, page.nbytes, source.max_mapnr)
    free_blocks = read_free_lists(kernel, memmap, page, observer)
    struct_pages = StructPages(source, kernel.memory, memmap, page.dtype)
    lowest_vaddr = kernel.memory.space.lowest_vaddr
    judged = _explain(source, page, struct_pages, pfn, free_blocks, lowest_vaddr)
    run = int(np.searchsorted(memmap.pfn_stops, pfn, side="right"))
    has_struct = run < len(memmap.pfn_starts) and int(memmap.pfn_starts[run]) <= pfn
    n_flags = flag_bits.get("__NR_PAGEFLAGS", max(flag_bits.values(), default=_WITHOUT_ENUM - 1) + 1)
    is_dumped = contains(source.data_runs, pfn)
    levels = _levels(judged.class_by_level, verdict)
    if is_dumped and not source.view(pfn * source.page_size, source.page_size).any():
        levels |= {level: levels.get(level, "ZERO") for level in ALL_LEVELS if level & DumpLevel.ZERO}
    return PageExplanation(
        pfn=pfn,
        paddr=pfn * source.page_size,
        is_memory=contains(source.ram_runs, pfn),
        is_dumped=is_dumped,
        struct_page=int(memmap.vaddrs[run]) + (pfn - int(memmap.pfn_starts[run])) * page.nbytes if has_struct else None,
        fields=judged.fields,
        flags=tuple(flag_names(_own_flags(judged, page), flag_bits, n_flags)),
        traits=judged.traits,
        block_pfn=judged.head,
        block_npages=1 << judged.order,
        class_by_level=dict(sorted(levels.items())),
    )


def _levels(class_by_level: Mapping[int, PageClass], verdict: Verdict | None) -> dict[int, str]:
    """Return the names of the classes at the levels at which the page is left out, without what is in doubt."""
    if verdict is not None and verdict.kernel is None:
        return {}
    trusted = MAX_DUMP_LEVEL if verdict is None else verdict.level
    return {level: class_by_level[level & trusted].name for level in ALL_LEVELS if level & trusted in class_by_level}


def _own_flags(judged: _Judged, page: StructPage) -> int:
    """Return the flags that are the page's own: the lowest ones of a tail may be the order of the whole."""
    flags = judged.fields.get("flags", 0)
    is_order_there = Trait.TAIL.name in judged.traits and page.order_mask == ORDER_IN_FLAGS
    return flags & ~ORDER_IN_FLAGS if is_order_there else flags


def page_flags(kernel: Kernel, types: Types | None, observer: Observer) -> Mapping[str, int]:
    """Return the bit numbers of the page flags by name, from the best source that there is.

    Parameters
    ----------
    kernel : Kernel
    types : Types or None
        Of the kernel's debug information, if it was given.
    observer : Observer
        Hears why some flags have no names.
    """
    if types is not None:
        return types.enums.get("pageflags", {})
    try:
        own = embedded_types(kernel)
    except (FactError, AddressError) as error:
        observer.warn(f"{error}: some flags have no names")
        own = None
    if own is not None and "pageflags" in own[1].enums:
        return own[1].enums["pageflags"]
    return _exported_flags(kernel.facts)


def _exported_flags(facts: Facts) -> dict[str, int]:
    names = {key[7:-1]: fact.value for key, fact in facts.items() if key.startswith("NUMBER(PG_")}
    head = names.pop("PG_head_mask", 0)
    if head > 0:
        names["PG_head"] = head.bit_length() - 1
    return names


class _Judged(NamedTuple):
    """What the struct pages say, as in `PageExplanation`; ``1 << order`` pages are in the block from ``head`` on."""

    fields: dict[str, int]
    traits: dict[str, str]
    head: int
    order: int
    class_by_level: dict[int, PageClass]


def _explain(
    source: Source,
    page: StructPage,
    struct_pages: StructPages,
    pfn: int,
    free_blocks: FreeBlocks | None,
    lowest_vaddr: int,
) -> _Judged:
    own = _pair(source, struct_pages, pfn)
    if own is None:
        return _Judged({}, {}, pfn, 0, {})
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
            if page_class and _is_contradicted(
                Evidence(page, lowest_vaddr, level), records, (first_traits, first_order), page_class, own, pfn - first
            ):
                continue
            is_alone = page_class == PageClass.HWPOISON and not first_traits & Trait.HUGETLB
            n = 1 if is_alone else 1 << first_order
            if page_class and first + n > pfn and level not in classes:
                classes[level] = page_class
                if n > 1 and first_order > order:
                    head, order = first, first_order
    return _Judged(fields, _reasons(traits, fields, page, own_order), head, order, classes)


def _is_contradicted(
    evidence: Evidence, first: Any, judged: tuple[int, int], page_class: PageClass, own: Any, index: int
) -> bool:
    """Return whether the first page of a block, or the page ``index`` pages after it, cannot be of a class."""
    traits, orders = np.array(judged[:1], np.uint16), np.array(judged[1:], np.uint8)
    classes = np.array([page_class], np.uint8)
    if evidence.against_firsts(first[:1], traits, orders, classes)[0]:
        return True
    return bool(index and evidence.against_inner(own[:1], classes, np.ones(1, np.bool_), index)[0])


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
    if traits & Trait.TAIL:
        # The other words of tails hold the order, map counts and pins of the whole (Linux include/linux/mm_types.h).
        traits &= Trait.TAIL | Trait.HWPOISON
    elif traits & Trait.ANON:
        traits &= ~(Trait.CACHE | Trait.PRIVATE)
    return {trait.name: words[trait] for trait in Trait if traits & trait}


def flag_names(flags: int, enum: Mapping[str, int], n_flags: int) -> list[str]:
    """Name the set bits of ``flags`` below ``n_flags``; one without a name is ``bit N``.

    Several names may stand for one bit (PG_owner_priv_1 and PG_checked): the first is that of general use.
    """
    names: dict[int, str] = {}
    for name, bit in enum.items():
        names.setdefault(bit, name)
    return [names.get(bit, f"bit {bit}") for bit in range(min(n_flags, _MAX_FLAGS)) if flags >> bit & 1]

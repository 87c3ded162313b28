# SPDX-License-Identifier: GPL-2.0-or-later
"""Why one page is what it is: the same rules as for arrays of pages, with the reasons put into words."""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npdump.arrays import contains
from npdump.kernel.memmap import find
from npdump.kernel.own import Own
from npdump.kernel.vmalloc import pfns_of
from npdump.pages.columns import Columns
from npdump.pages.evidence import Evidence
from npdump.pages.explanation import PageExplanation
from npdump.pages.free_lists import read_free_lists
from npdump.pages.policy import MAX_DUMP_LEVEL, DumpLevel, PageClass, Trait, decide
from npdump.pages.reasons import fields_of, flag_names, meanings, page_flags, reasons
from npdump.pages.records import StructPages
from npdump.pages.scan_context import needs_struct_pages
from npdump.pages.struct_page import describe
from npdump.pages.traits import MAX_BLOCK_NBYTES, traits_and_orders
from npdump.pages.uses import Block, Uses

if TYPE_CHECKING:
    from collections.abc import Mapping

    from npdump.kernel.facts.types import Types
    from npdump.kernel.kernel import Kernel
    from npdump.observer import Observer
    from npdump.pages.selfcheck import Verdict
    from npdump.sources import Source

__all__ = ["Explainer", "PageExplanation"]

ALL_LEVELS = range(32)


class _Judged(NamedTuple):
    """At which levels a page is left out as what, and the block it goes with: ``1 << order`` pages from ``head`` on."""

    head: int
    order: int
    class_by_level: dict[int, PageClass]


class Explainer:
    """Explains single pages; what is looked up for one serves the next.

    Parameters
    ----------
    source : Source
    kernel : Kernel
    observer : Observer
        Hears which facts are missing.
    verdict : Verdict, optional
        Of the self-check at all levels: a kind of page that is in doubt is left out at no level, as in a dump.
    types : Types, optional
        Of a vmlinux.

    Raises
    ------
    FactError, AddressError, MemmapError
        If the struct pages cannot be found.

    Notes
    -----
    For one page some struct pages are read: its own, and the first of each block that it may be in. A slab's cache
    takes one more look at memory. Only for kernel pages that no flag or page type explains, all vmalloc areas and tasks
    are gone through, once.
    """

    def __init__(
        self,
        source: Source,
        kernel: Kernel,
        observer: Observer,
        *,
        verdict: Verdict | None = None,
        types: Types | None = None,
    ) -> None:
        self._source, self._kernel, self._observer = source, kernel, observer
        self._verdict, self._types = verdict, types
        self._page = describe(kernel.facts, kernel.memory.space.byte_order, kernel.arch.bits)
        self._memmap = find(kernel, self._page.nbytes, source.max_mapnr)
        self._free_blocks = read_free_lists(kernel, self._memmap, self._page, observer)
        self._struct_pages = StructPages(kernel.memory, self._memmap, self._page.dtype)

    @cached_property
    def _flag_bits(self) -> Mapping[str, int]:
        return page_flags(self._kernel, self._types, self._observer)

    @cached_property
    def _uses(self) -> Uses:
        return Uses(self._kernel, self._memmap, self._page, Own(self._kernel, self._types))

    def explain(self, pfn: int) -> PageExplanation:
        """Return what a page is.

        Parameters
        ----------
        pfn : int
            A page frame below ``source.max_mapnr``.
        """
        source = self._source
        judged = self._judge_levels(pfn)
        is_dumped = contains(source.data_runs, pfn)
        levels = _trusted(judged.class_by_level, self._verdict)
        if is_dumped and not source.view(pfn * source.page_size, source.page_size).any():
            levels |= {level: levels.get(level, "ZERO") for level in ALL_LEVELS if level & DumpLevel.ZERO}
        return PageExplanation(
            pfn=pfn,
            paddr=pfn * source.page_size,
            is_memory=contains(source.ram_runs, pfn),
            is_dumped=is_dumped,
            struct_page=self._memmap.struct_vaddr(pfn, self._page.nbytes),
            block_pfn=judged.head,
            block_npages=1 << judged.order,
            class_by_level=dict(sorted(levels.items())),
            **self._what(pfn, judged),
        )

    def _what(self, pfn: int, judged: _Judged) -> dict[str, Any]:
        """Return the entries of `PageExplanation` that tell what the page is."""
        own, vaddr = self._pair(pfn), self._memmap.struct_vaddr(pfn, self._page.nbytes)
        if own is None or vaddr is None:
            return {"fields": {}, "flags": (), "traits": {}}
        traits, order = self._judge(own, pfn)
        fields = fields_of(own[0], traits)
        head = self._head_of(pfn, fields) if traits & Trait.TAIL else None
        block = Block(pfn, vaddr, fields, traits, order) if head is None else self._block(head)
        if block is None or (head is not None and head + (1 << block.order) <= pfn):
            head, block = None, Block(pfn, vaddr, fields, traits, order)
        is_inner_free = PageClass.FREE in judged.class_by_level.values() and judged.head != pfn
        use = None if is_inner_free else self._uses.of(pfn, block)
        what = {
            "fields": fields,
            "flags": flag_names(fields["flags"], traits, self._page, self._flag_bits),
            "traits": reasons(traits, fields, self._page, order),
            "meanings": meanings(
                traits,
                fields,
                self._page,
                is_slab=self._uses.is_slab(block),
                is_table=self._uses.is_table(block),
            ),
            "place": self._uses.place(pfn, fields["flags"]),
            "use": use[0] if use else None,
            "order": max(block.order, use[1] if use else 0),
            "head_pfn": pfn if block.order and head is None else head,
        }
        if is_inner_free:
            head = judged.head
            block = self._block(head) or block
            what |= {"order": judged.order, "head_pfn": head}
        if head not in (None, pfn):
            what["head_traits"] = reasons(block.traits, block.fields, self._page, block.order)
        return what

    def _block(self, pfn: int) -> Block | None:
        """Return what the struct page of the first page of a block says, None if it is not there."""
        records, vaddr = self._pair(pfn), self._memmap.struct_vaddr(pfn, self._page.nbytes)
        if records is None or vaddr is None:
            return None
        traits, order = self._judge(records, pfn)
        return Block(pfn, vaddr, fields_of(records[0], traits), traits, order)

    def _head_of(self, pfn: int, fields: Mapping[str, int]) -> int | None:
        """Return the first page of the compound page that a tail is in; None if its word leads to no struct page.

        The word is the address of the head's struct page plus 1, or (Linux v7.1, compound_info) a mask for the address
        of the tail's own.
        """
        word, own = fields.get("compound", 0), self._memmap.struct_vaddr(pfn, self._page.nbytes) or 0
        mask = (1 << self._kernel.arch.bits) - 1
        candidates = np.array([word & ~1 & mask, own & word & mask], np.uint64)
        heads = pfns_of(self._memmap, self._page.nbytes, candidates)
        return next((int(head) for head in heads if 0 <= head < pfn), None)

    def _judge_levels(self, pfn: int) -> _Judged:
        """Find the block that decides about a page, and what it decides at each level."""
        source, page = self._source, self._page
        own = self._pair(pfn)
        if own is None:
            return _Judged(pfn, 0, {})
        head, order, classes = pfn, 0, dict[int, PageClass]()
        # Blocks are aligned to their size, so that the first page of one that this page is in is one of these.
        for candidate in range((MAX_BLOCK_NBYTES // source.page_size).bit_length() - 1, -1, -1):
            first = pfn >> candidate << candidate
            records = self._pair(first) if first != pfn or not candidate else None
            if records is None or not contains(source.ram_runs, first):
                continue
            traits, first_order = self._judge(records, first)
            for level in ALL_LEVELS:
                if level in classes or not needs_struct_pages(page, level, self._free_blocks is not None):
                    continue
                page_class = decide(traits, level)
                is_alone = page_class == PageClass.HWPOISON and not traits & Trait.HUGETLB
                n = 1 if is_alone else 1 << first_order
                if not page_class or first + n <= pfn:
                    continue
                evidence = Evidence(self._kernel.memory.space.lowest_vaddr, level)
                heads, pages = Columns(records[:1], page), Columns(own[:1], page)
                if _is_contradicted(evidence, heads, (traits, first_order), page_class, pages, pfn - first):
                    continue
                classes[level] = page_class
                if n > 1 and first_order > order:
                    head, order = first, first_order
        return _Judged(head, order, classes)

    def _pair(self, pfn: int) -> Any:
        """Return the struct page of a page frame and the one after it, None if the first isn't there."""
        n_before = self._struct_pages.n_unreadable
        records = self._struct_pages.read(pfn, pfn + 2)
        if records is None or self._struct_pages.n_unreadable - n_before > 1:
            return None
        return records

    def _judge(self, records: Any, pfn: int) -> tuple[int, int]:
        traits, orders = traits_and_orders(Columns(records, self._page), pfn, self._source.page_size)
        if self._free_blocks is not None:
            self._free_blocks.mark(traits, orders, pfn)
        return int(traits[0]), int(orders[0])


def _trusted(class_by_level: Mapping[int, PageClass], verdict: Verdict | None) -> dict[int, str]:
    """Return the names of the classes at the levels at which the page is left out, without what is in doubt."""
    if verdict is not None and verdict.kernel is None:
        return {}
    trusted = MAX_DUMP_LEVEL if verdict is None else verdict.level
    return {level: class_by_level[level & trusted].name for level in ALL_LEVELS if level & trusted in class_by_level}


def _is_contradicted(
    evidence: Evidence, head: Columns, judged: tuple[int, int], page_class: PageClass, own: Columns, index: int
) -> bool:
    """Return whether the first page of a block, or the page ``index`` pages after it, cannot be of a class."""
    traits, orders = np.array(judged[:1], np.uint16), np.array(judged[1:], np.uint8)
    classes = np.array([page_class], np.uint8)
    if len(evidence.against_firsts(head, traits, orders, classes)):
        return True
    return bool(index and len(evidence.against_inner(own, classes, np.zeros(1, np.intp), index)))

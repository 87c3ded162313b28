# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory map as a table: the struct pages of a dump as arrays, and what each dump level makes of them.

A scan (`npdump.pages.scan`) says which pages stay at one level. This says what every page is, and what each of the 32
levels would keep, in one pass over the struct pages; physical memory itself is read only where zero pages are asked
for.
"""

from __future__ import annotations

from functools import cache, cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arrays import U8, Bool, Records, count, mask_of
from npdump.kernel.memmap import find
from npdump.pages import areas as areas_of
from npdump.pages.blocks import NO_CARRY, Carry
from npdump.pages.buddy import FreeArea, find_free_area
from npdump.pages.chunk import Chunk
from npdump.pages.classes import Classifier
from npdump.pages.columns import Columns
from npdump.pages.free_lists import FreeBlocks, read_free_lists
from npdump.pages.kinds import KindCounts, Tests, count_kinds, kinds_of, tests_of
from npdump.pages.levels import N_LEVELS, LevelCounts, count_levels
from npdump.pages.mosaic import Mosaic, make_mosaic, stretches
from npdump.pages.policy import DumpLevel, PageClass, Trait, table
from npdump.pages.records import StructPages
from npdump.pages.scan_context import needs_struct_pages
from npdump.pages.struct_page import StructPage, describe
from npdump.pages.traits import MAX_BLOCK_NBYTES, traits_and_orders
from npdump.pages.window import BATCH_NPAGES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from npdump.kernel.facts.types import Types
    from npdump.kernel.kernel import Kernel, MemMap
    from npdump.observer import Observer
    from npdump.pages.areas import Area
    from npdump.sources import Source

__all__ = ["ALL_LEVELS", "EVERY_KIND", "PageTable"]

ALL_LEVELS = tuple(range(32))

EVERY_KIND = 31 & ~DumpLevel.ZERO
"""The level at which each page that any level leaves out for what it is has its class."""

_KEEPS_ALL = -1

_table = cache(table)


class _Context(NamedTuple):
    """What is needed to read struct pages and to understand them."""

    page: StructPage
    struct_pages: StructPages
    memmap: MemMap
    free_blocks: FreeBlocks | None
    max_mapnr: int


class PageTable:
    """The memory map of a dump.

    Parameters
    ----------
    source : Source
    find_kernel : callable
        Returns the kernel, and the bits of the dump level whose pages can be told apart: pages that only others would
        leave out count as kept. Called once, when the table is first read.
    observer : Observer
        Hears of what can not be told, and of progress.
    find_types : callable
        Returns the kernel's C types, None if nothing tells them; asked for the names of things.

    Raises
    ------
    FactError, AddressError, MemmapError
        When the table is first read, if the kernel does not tell where its struct pages are.

    Notes
    -----
    Rows are made when they are asked for, `npdump.pages.window.BATCH_NPAGES` at a time: a table of any size takes a few
    megabytes.
    """

    def __init__(
        self,
        source: Source,
        find_kernel: Callable[[], tuple[Kernel, int]],
        observer: Observer,
        *,
        find_types: Callable[[], Types | None] = lambda: None,
    ) -> None:
        self._source = source
        self._find_kernel = find_kernel
        self._classifiers: dict[int, Classifier] = {}
        self._find_types = find_types
        self._observer = observer

    @cached_property
    def _kernel_and_level(self) -> tuple[Kernel, int]:
        return self._find_kernel()

    @property
    def _kernel(self) -> Kernel:
        return self._kernel_and_level[0]

    @property
    def _trusted(self) -> int:
        return self._kernel_and_level[1]

    @property
    def _every_kind(self) -> int:
        return EVERY_KIND & self._trusted

    @cached_property
    def _context(self) -> _Context:
        kernel, source = self._kernel, self._source
        page = describe(kernel.facts, kernel.memory.space.byte_order, kernel.arch.bits)
        memmap = find(kernel, page.nbytes, source.max_mapnr)
        free_blocks = read_free_lists(kernel, memmap, page, self._observer)
        struct_pages = StructPages(kernel.memory, memmap, page.dtype)
        return _Context(page, struct_pages, memmap, free_blocks, min(source.max_mapnr, int(memmap.pfn_stops[-1])))

    @property
    def page(self) -> StructPage:
        """The layout of struct page."""
        return self._context.page

    @property
    def memmap(self) -> MemMap:
        """Where the struct pages are."""
        return self._context.memmap

    @property
    def dtype(self) -> np.dtype:
        """Of one struct page; names the fields that this kernel has."""
        return self._context.page.dtype

    @property
    def n_memory(self) -> int:
        """How many page frames of the table are memory."""
        return count(np.minimum(self._source.ram_runs, self.max_mapnr))

    @property
    def max_mapnr(self) -> int:
        """One more than the highest page frame of the table."""
        return self._context.max_mapnr

    def chunks(self, pfn_start: int = 0, pfn_stop: int | None = None, npages: int = BATCH_NPAGES) -> Iterator[Chunk]:
        """Yield the table in pieces, ascending; pieces without any memory are passed over.

        Parameters
        ----------
        pfn_start, pfn_stop : int, optional
            Page frames; by default all.
        npages : int
            At most so many page frames are in a piece.

        Yields
        ------
        Chunk
        """
        for chunk, _ in self._classified((), pfn_start, pfn_stop, npages):
            yield chunk

    def read(self, pfn_start: int, pfn_stop: int) -> Chunk:
        """Return the rows ``[pfn_start, pfn_stop)`` in one piece, memory or not.

        Raises
        ------
        IndexError
            If the table has no such rows.
        """
        if not 0 <= pfn_start < pfn_stop <= self.max_mapnr:
            raise IndexError(f"the table has the page frames 0 to {self.max_mapnr:#x}, not {pfn_start} to {pfn_stop}")
        chunk, _ = self._chunk(pfn_start, pfn_stop, {self._every_kind: self._carry(pfn_start, self._every_kind)})
        return chunk

    def block(self, pfn: int) -> tuple[int, int, Records]:
        """Return the pages that go together with one: the first page frame, their order, and that one's struct page.

        Returns
        -------
        pfn : int
        order : int
        record : ndarray of shape (1,), structured
        """
        page, struct_pages = self._context.page, self._context.struct_pages
        for order in range((MAX_BLOCK_NBYTES // self._source.page_size).bit_length()):
            first = pfn >> order << order
            records = struct_pages.read(first, first + 2) if not order or first != pfn else None
            if records is None:
                continue
            _, orders = traits_and_orders(Columns(records, page), first, self._source.page_size)
            if int(orders[0]) >= max(order, 1):
                return first, int(orders[0]), records[:1]
        records = struct_pages.read(pfn, pfn + 1)
        return pfn, 0, np.zeros(1, page.dtype) if records is None else records

    def classes(self, pfn_start: int, pfn_stop: int) -> U8:
        """Return the `PageClass` of each page frame of a range; KEPT for those that no level leaves out."""
        stop = min(pfn_stop, self.max_mapnr)
        classes = np.zeros(pfn_stop - pfn_start, np.uint8)
        if pfn_start < stop:
            classes[: stop - pfn_start] = self.read(pfn_start, stop).classes
        return classes

    @cached_property
    def types(self) -> Types | None:
        """The kernel's C types; None if nothing tells them."""
        return self._find_types()

    @property
    def flags(self) -> Mapping[str, int]:
        """The bit number of each page flag by name, as ``PG_lru``; empty if nothing tells them."""
        flags = self._enums.get("pageflags", {})
        return {name: bit for name, bit in flags.items() if name.startswith("PG_")}

    @property
    def _enums(self) -> Mapping[str, Mapping[str, int]]:
        return self.types.enums if self.types is not None else {}

    @cached_property
    def _tests(self) -> Tests:
        return tests_of(self._kernel.facts, self.page.slab, self.page.slab_type, self._enums)

    def kinds(self, pfn_start: int = 0, pfn_stop: int | None = None) -> Iterator[tuple[Chunk, U8]]:
        """Yield the table in pieces as `chunks` does, each with the `PageKind` of its pages."""
        for chunk in self.chunks(pfn_start, pfn_stop):
            yield chunk, kinds_of(chunk, self._tests)

    def areas(self, by: str) -> list[Area]:
        """Return the parts of physical memory that have a name.

        Parameters
        ----------
        by : {"all", "node", "zone", "section"}

        Raises
        ------
        ValueError
            If it is none of these.
        FactError, AddressError
            If the kernel does not tell.
        """
        if by == "all":
            return [areas_of.Area("memory", 0, self.max_mapnr)]
        if by == "node":
            return areas_of.node_areas(self._kernel)
        if by == "zone":
            return areas_of.zone_areas(self._kernel, self.types)
        if by == "section":
            facts = self._kernel.facts
            shift = facts.get("NUMBER(SECTION_SIZE_BITS)") or self._kernel.arch.section_size_bits(facts)
            return areas_of.section_areas(self.max_mapnr, (1 << shift) // self._source.page_size)
        raise ValueError(f"{by}: there are all, node, zone and section")

    def counts(self, by: str = "all") -> KindCounts:
        """Count the pages of each kind; see `areas` for ``by`` and what is raised, or ``"order"``."""
        areas = self.areas("all" if by == "order" else by)
        return count_kinds(self.kinds(), areas, self._source.page_size, by_order=by == "order")

    def mosaic(self, n_tiles: int = 1 << 18, pfn_start: int = 0, pfn_stop: int | None = None) -> Mosaic:
        """Reduce physical memory to at most ``n_tiles`` tiles.

        Parameters
        ----------
        n_tiles : int
        pfn_start, pfn_stop : int, optional
            Page frames to show; by default all.
        """
        stop = self.max_mapnr if pfn_stop is None else min(pfn_stop, self.max_mapnr)
        shown = stretches(self._source.ram_runs, pfn_start, stop)
        pieces = ((chunk.pfn_start, kinds) for chunk, kinds in self.kinds(pfn_start, stop))
        return make_mosaic(shown, pieces, n_tiles, self._source.page_size)

    def free_area(self) -> FreeArea:
        """Return the free blocks by order and migrate type."""
        n_orders = min(self.page.max_buddy_order, 32)
        return find_free_area(self.chunks(), self._kernel, self._context.memmap, n_orders, self._enums)

    def levels(self) -> LevelCounts:
        """Count what each of the 32 dump levels would keep of this dump, in one pass."""
        page, has_lists = self.page, self._context.free_blocks is not None
        # Zero pages are in the file at every level; of the rest, a level that asks for nothing keeps all.
        levels_of = {}
        for level in range(N_LEVELS):
            asked = level & self._trusted & ~DumpLevel.ZERO
            levels_of[level] = asked if needs_struct_pages(page, level & self._trusted, has_lists) else _KEEPS_ALL
        wanted = sorted(set(levels_of.values()) - {_KEEPS_ALL})

        def pieces() -> Iterator[tuple[Bool, dict[int, U8]]]:
            for chunk, classes in self._classified(wanted, 0, None, BATCH_NPAGES):
                yield chunk.is_dumped, classes | {_KEEPS_ALL: np.zeros(len(chunk), np.uint8)}

        return count_levels(self._source.page_size, self.n_memory, pieces(), levels_of)

    def classes_at(self, level: int, pfn_start: int = 0, pfn_stop: int | None = None) -> Iterator[U8]:
        """Yield the class of each page at a dump level, in the pieces of `chunks`."""
        asked = level & self._trusted & ~DumpLevel.ZERO
        is_asked = needs_struct_pages(self.page, level & self._trusted, self._context.free_blocks is not None)
        for chunk, classes in self._classified((asked,), pfn_start, pfn_stop, BATCH_NPAGES):
            yield classes[asked] if is_asked else np.zeros(len(chunk), np.uint8)

    def _classified(
        self, levels: Sequence[int], pfn_start: int, pfn_stop: int | None, npages: int
    ) -> Iterator[tuple[Chunk, dict[int, U8]]]:
        """Yield pieces of the table, with the class of each page at each of ``levels``."""
        stop = self.max_mapnr if pfn_stop is None else min(pfn_stop, self.max_mapnr)
        carries = {level: self._carry(pfn_start, level) for level in {*levels, self._every_kind}}
        ram = self._source.ram_runs
        at = pfn_start
        for run_start, run_stop in ram[ram[:, 1] > pfn_start].tolist():
            at = max(at, run_start // npages * npages)
            while at < min(run_stop, stop):
                end = min((at // npages + 1) * npages, stop)
                yield self._chunk(at, end, carries)
                self._observer.progress("Reading struct pages", end, stop)
                at = end

    def _chunk(self, pfn_start: int, pfn_stop: int, carries: dict[int, Carry]) -> tuple[Chunk, dict[int, U8]]:
        """Read some rows and classify them at the levels of ``carries``, which go on with the next."""
        source, (page, struct_pages, _, free_blocks, _) = self._source, self._context
        records = struct_pages.read(pfn_start, pfn_stop)
        if records is None:
            records = np.zeros(pfn_stop - pfn_start, page.dtype)
        columns = Columns(records, page)
        traits, orders = traits_and_orders(columns, pfn_start, source.page_size)
        if free_blocks is not None:
            free_blocks.mark(traits, orders, pfn_start)
        is_ram = mask_of(source.ram_runs, pfn_start, pfn_stop)
        classes = {}
        for level, carry in carries.items():
            classifier = self._classifier(level)
            classes[level], carries[level] = classifier.classify(columns, traits, orders, is_ram, pfn_start, carry)
        is_dumped = mask_of(source.data_runs, pfn_start, pfn_stop) & is_ram
        chunk = Chunk(
            pfn_start, pfn_stop, source.page_size, is_ram, is_dumped, records, traits, orders, classes[self._every_kind]
        )
        return chunk, classes

    def _classifier(self, level: int) -> Classifier:
        if level not in self._classifiers:
            lowest_vaddr = self._kernel.memory.space.lowest_vaddr
            self._classifiers[level] = Classifier(level, lowest_vaddr)
        return self._classifiers[level]

    def _carry(self, pfn: int, level: int) -> Carry:
        """Return the block that begins before ``pfn`` and that it is in, at a level."""
        source, (page, struct_pages, _, free_blocks, _) = self._source, self._context
        best = NO_CARRY
        # Blocks are aligned to their size.
        for order in range(1, (MAX_BLOCK_NBYTES // source.page_size).bit_length()):
            first = pfn >> order << order
            records = struct_pages.read(first, first + 2) if first != pfn else None
            if records is None:
                continue
            traits, orders = traits_and_orders(Columns(records, page), first, source.page_size)
            if free_blocks is not None:
                free_blocks.mark(traits, orders, first)
            if not mask_of(source.ram_runs, first, first + 1)[0]:
                continue
            page_class = int(_table(level)[traits[0]])
            is_alone = page_class == PageClass.HWPOISON and not traits[0] & Trait.HUGETLB
            if page_class and not is_alone and int(orders[0]) >= order:
                # The largest one wins: a block that begins within another is not looked at.
                best = Carry(page_class, first + (1 << int(orders[0])))
        return best

# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scan looks at: the image, its struct pages and free lists, the guard, and rules of others."""

from __future__ import annotations

from functools import cache, partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

from npdump.kernel.memmap import find
from npdump.pages.free_lists import FreeBlocks, read_free_lists
from npdump.pages.policy import DumpLevel
from npdump.pages.records import StructPages
from npdump.pages.struct_page import StructPage, describe
from npdump.pages.unmapped import unmapped_runs

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from npdump.arrays import U8, Bool, Records
    from npdump.kernel.kernel import Kernel, MemMap
    from npdump.observer import Observer
    from npdump.pages.vital import Guard
    from npdump.sources import Source

__all__ = ["Decide", "ScanContext", "needs_struct_pages", "with_struct_pages"]


class Decide(Protocol):
    """Somebody else's rule about which pages stay."""

    def __call__(self, pfn_start: int, classes: U8, is_ram: Bool, has_data: Bool, records: Records | None) -> U8:
        """Return the classes of pages from ``pfn_start`` on, in place of those that the dump level gives them.

        Parameters
        ----------
        pfn_start : int
        classes : ndarray of shape (n,), dtype uint8
            `PageClass` of each; not to be written to. It is returned where nothing changes.
        is_ram, has_data : ndarray of shape (n,), dtype bool
            See `ClassBatch`.
        records : ndarray of shape (n,), or None
            Their struct pages; None if they are not looked at, or are not there.
        """


class ScanContext(NamedTuple):
    """What a scan looks at.

    Attributes
    ----------
    source : Source
    max_mapnr : int
        One more than the highest page frame to look at.
    level : int
        Dump level, 0 to 31; bit 0 (zero pages) is not looked at by a scan.
    page : StructPage or None
    struct_pages : StructPages or None
        None for both keeps all pages that the input has.
    free_blocks : FreeBlocks or None
        The free blocks, where their struct pages don't tell them.
    lowest_vaddr : int
        Lowest address of the kernel's.
    drops_unaccepted : bool
        Leave out memory that the guest has not accepted even where the level keeps free pages.
    edges : sequence of int
        Page frames, ascending, before and after which totals are kept apart.
    all_struct_pages : StructPages or None
        As ``struct_pages``, whether the level needs them or not.
    find_guard : callable or None
        Finds what keeps pages that a debugger cannot start without; more than once it is not looked for.
    deciders : tuple of Decide
        Have the last word about classes, one after the other; asked once more for each pass over the pages.
    """

    source: Source
    max_mapnr: int
    level: int
    page: StructPage | None = None
    struct_pages: StructPages | None = None
    free_blocks: FreeBlocks | None = None
    lowest_vaddr: int = 1
    drops_unaccepted: bool = False
    edges: Sequence[int] = ()
    all_struct_pages: StructPages | None = None
    find_guard: Callable[[], Guard] | None = None
    deciders: tuple[Decide, ...] = ()


def needs_struct_pages(page: StructPage, level: int, has_free_lists: bool = False) -> bool:
    """Return whether pages can be left out at ``level`` for what their struct pages say.

    Broken and offline pages go at every level on kernels that name PG_hwpoison, as with makedumpfile.
    """
    return bool(level & 0b01110 or page.hwpoison or (level & 0b10000 and (page.tells_free or has_free_lists)))


def with_struct_pages(context: ScanContext, kernel: Kernel, observer: Observer) -> ScanContext:
    """Return what a scan of a kernel's memory looks at.

    Raises
    ------
    FactError, AddressError, MemmapError
        If the kernel does not tell where its struct pages are, or what is in them.
    """
    source, level = context.source, context.level
    page = describe(kernel.facts, kernel.memory.space.byte_order, kernel.arch.bits)
    memmap = find(kernel, page.nbytes, source.max_mapnr)
    unmapped = unmapped_runs(source, kernel, memmap)
    last_unmapped = int(unmapped[-1, 1]) if len(unmapped) else 0
    context = context._replace(
        max_mapnr=min(source.max_mapnr, max(int(memmap.pfn_stops[-1]), last_unmapped)),
        page=page,
        lowest_vaddr=kernel.memory.space.lowest_vaddr,
    )
    if level & DumpLevel.FREE:
        context = context._replace(free_blocks=read_free_lists(kernel, memmap, page, observer))
    struct_pages = StructPages(kernel.memory, memmap, page.dtype)
    context = context._replace(all_struct_pages=struct_pages)
    if kernel.p2m is None:
        # Page tables of a Xen domain have page frames of the machine, struct pages those of the domain.
        context = context._replace(
            find_guard=cache(partial(_find_guard, kernel, source, memmap, page.nbytes, observer))
        )
    drops_unaccepted = context.drops_unaccepted and page.unaccepted is not None
    if not drops_unaccepted and not needs_struct_pages(page, level, context.free_blocks is not None):
        return context
    for gap in page.missing(level & ~DumpLevel.FREE if context.free_blocks else level):
        observer.warn(f"VMCOREINFO lacks {gap}")
    return context._replace(struct_pages=struct_pages)


def _find_guard(kernel: Kernel, source: Source, memmap: MemMap, struct_nbytes: int, observer: Observer) -> Guard:
    from npdump.pages.vital import find_vital  # for what looks at single pages, the start is all the time it takes

    return find_vital(kernel, source, memmap, struct_nbytes, observer)

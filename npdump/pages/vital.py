# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that a debugger cannot start without: they stay, whatever their struct pages say, and are written first.

Struct pages may be wrong: overwritten by what crashed the kernel, or of a kernel that uses them in a new way (crash
does not open a dump that lacks ``idt_table``). Where such pages are follows from facts that do not depend on them:
symbols, page tables, registers. What of these cannot be told, or is not plausible, makes the guard cover less, and
nothing else.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from npdump.arrays import Runs, count, intersect, join, runs_of_numbers, subtract, unique
from npdump.errors import AddressError, CodecError, FactError, SourceError
from npdump.kernel import dmesg
from npdump.kernel.image import (
    code_areas,
    constant_areas,
    data_areas,
    dynamic_per_cpu_areas,
    find_symbols,
    per_cpu_areas,
    per_cpu_offsets,
    section_areas,
)
from npdump.kernel.page_tables import table_runs
from npdump.kernel.processes import process_runs
from npdump.kernel.stacks import task_areas
from npdump.pages.policy import UNSAFE, PageClass

if TYPE_CHECKING:
    from collections.abc import Callable

    from npdump.kernel.image import Area
    from npdump.kernel.kernel import Kernel, MemMap
    from npdump.observer import Observer
    from npdump.pages.window import ClassBatch
    from npdump.sources import Source

__all__ = ["Guard", "Vital", "find_vital"]

_FEW_TABLES, _MAX_TABLES = 1 << 12, 1 << 22
"""Page tables of a small machine, and 16 GiB of them."""

_RAM_PER_TABLES = 16
"""No kernel has more page tables of its own than this part of memory; half a percent is what it takes to map all."""

_FEW_PAGES = 64
"""Larger areas are translated each by itself."""

_GROUP_NBYTES = 128 << 20
"""Virtual memory whose translation is looked up at once."""

_MAX_LOOKED_UP, _MAX_PIECES = 1 << 14, 1 << 18
"""Struct pages of 128 TiB, and 1 GiB of struct pages of which each page is somewhere else (HVO): what is more is taken
for no longer than that."""

_MISSING = (FactError, AddressError, SourceError, CodecError)

_IS_LEFT_OUT = ~np.isin(np.arange(len(PageClass)), (PageClass.KEPT, *UNSAFE))

_T = TypeVar("_T")

_NONE: Runs = np.empty((0, 2), np.int64)


class Vital(IntEnum):
    """What pages are vital for, the most needed ones first."""

    PAGE_TABLES = 0
    LOG = 1
    DATA = 2
    """Variables of the kernel's, with VMCOREINFO and init_task."""
    PER_CPU = 3
    TASKS = 4
    """What each CPU was running, and its stack."""
    SECTIONS = 5
    """What leads to the struct pages."""
    DYNAMIC_PER_CPU = 6
    PROCESSES = 7
    """All tasks, and what they lead to."""
    CODE = 8
    CONSTANTS = 9
    STRUCT_PAGES = 10


_ORDER = (
    (Vital.PAGE_TABLES, Vital.LOG, Vital.DATA, Vital.PER_CPU, Vital.TASKS, Vital.SECTIONS, Vital.DYNAMIC_PER_CPU),
    (Vital.PROCESSES,),
    (Vital.CODE,),
    (Vital.CONSTANTS,),
    (Vital.STRUCT_PAGES,),
)


class Guard(NamedTuple):
    """Keeps pages, and says which ones to write first.

    Attributes
    ----------
    by_kind : dict of Vital to ndarray of shape (k, 2), dtype int64
        Page frames; ascending and disjoint for each kind, but kinds may overlap.
    runs : ndarray of shape (k, 2), dtype int64
        All of them.
    find_more : callable
        Finds what is to be written early, too, as ``by_kind``. It may be found where it is not, and is not guarded.
    """

    by_kind: dict[Vital, Runs]
    runs: Runs
    find_more: Callable[[], dict[Vital, Runs]]

    def in_order(self) -> list[Runs]:
        """Return in which order to write pages; no page frame is in two of the arrays."""
        by_kind = self.by_kind | self.find_more()
        groups, taken = [], _NONE
        for kinds in _ORDER:
            runs = subtract(_sorted([by_kind[kind] for kind in kinds if kind in by_kind]), taken)
            taken = _sorted([taken, runs])
            groups.append(runs)
        return groups

    def keep(self, batch: ClassBatch) -> ClassBatch:
        """Return a batch of which no page is left out that is to be kept, and was not among those not to be read."""
        start, stop = batch.pfn_start, batch.pfn_stop
        first, last = self.runs[:, 1].searchsorted(start, side="right"), self.runs[:, 0].searchsorted(stop)
        if first >= last:
            return batch
        rows = (self.runs[first:last].clip(start, stop) - start).tolist()
        kept = [at + np.flatnonzero(_IS_LEFT_OUT[batch.classes[at:end]]) for at, end in rows]
        found = np.concatenate(kept)
        if not len(found):
            return batch
        classes = batch.classes.copy()
        classes[found] = PageClass.KEPT
        return batch._replace(classes=classes, n_guarded=int(np.count_nonzero(batch.has_data[found])))


def find_vital(kernel: Kernel, source: Source, memmap: MemMap, struct_nbytes: int, observer: Observer) -> Guard:
    """Find the pages that stay.

    Parameters
    ----------
    kernel : Kernel
    source : Source
    memmap : MemMap
    struct_nbytes : int
        Size of struct page.
    observer : Observer
        Hears, as debugging messages, what cannot be found.
    """
    search = _Search(kernel, source, observer)
    n_ram = count(source.ram_runs)
    max_tables = min(max(_FEW_TABLES, n_ram // _RAM_PER_TABLES), _MAX_TABLES)
    no_symbols: dict[str, int] = {}
    no_cpus: list[int] = []
    symbols = search.found(Vital.DATA, lambda: find_symbols(kernel), no_symbols)
    cpus = search.found(Vital.PER_CPU, lambda: per_cpu_offsets(kernel, symbols), no_cpus)
    areas: dict[Vital, Callable[[], list[Area]]] = {
        Vital.LOG: lambda: dmesg.areas(kernel),
        Vital.DATA: lambda: data_areas(kernel, symbols),
        Vital.PER_CPU: lambda: per_cpu_areas(kernel, symbols, cpus),
        Vital.TASKS: lambda: task_areas(kernel, source, symbols, cpus),
        Vital.CODE: lambda: code_areas(symbols),
        Vital.CONSTANTS: lambda: constant_areas(symbols),
    }
    by_kind = search.runs(
        areas,
        {
            Vital.PAGE_TABLES: lambda: table_runs(kernel.memory, max_tables),
            Vital.STRUCT_PAGES: lambda: _struct_pages(kernel, source, memmap, struct_nbytes),
        },
    )

    def find_more() -> dict[Vital, Runs]:
        namespace = symbols.get("init_pid_ns")
        processes = {} if namespace is None else {Vital.PROCESSES: lambda: process_runs(kernel, namespace)}
        areas: dict[Vital, Callable[[], list[Area]]] = {
            Vital.SECTIONS: lambda: section_areas(kernel),
            Vital.DYNAMIC_PER_CPU: lambda: dynamic_per_cpu_areas(kernel, symbols, cpus),
        }
        return search.runs(areas, processes)

    return Guard(by_kind, _sorted(list(by_kind.values())), find_more)


class _Search:
    """Looks for pages, and says what it does not find."""

    def __init__(self, kernel: Kernel, source: Source, observer: Observer) -> None:
        self._kernel, self._source, self._observer = kernel, source, observer

    def found(self, kind: Vital, find: Callable[[], _T], instead: _T) -> _T:
        """Return what is found, or something else."""
        try:
            return find()
        except _MISSING as error:
            self._observer.debug(f"vital pages, {_word(kind)}: {error}")
            return instead

    def runs(
        self, areas: dict[Vital, Callable[[], list[Area]]], others: dict[Vital, Callable[[], Runs]]
    ) -> dict[Vital, Runs]:
        """Return the page frames of areas of the kernel's memory, and of what is found as such."""
        no_areas: list[Area] = []
        nowhere: dict[Vital, Runs] = {}
        found = {kind: self.found(kind, find, no_areas) for kind, find in areas.items()}
        n_ram = count(self._source.ram_runs)
        by_kind = self.found(next(iter(areas)), lambda: _frames(self._kernel, found, n_ram), nowhere)
        by_kind |= {kind: self.found(kind, find, _NONE) for kind, find in others.items()}
        by_kind = {kind: intersect(runs, self._source.data_runs) for kind, runs in by_kind.items()}
        numbers = ", ".join(f"{count(runs)} {_word(kind)}" for kind, runs in by_kind.items())
        self._observer.debug(f"vital pages: {numbers}")
        return by_kind


def _word(kind: Vital) -> str:
    return kind.name.lower().replace("_", " ")


def _sorted(pieces: list[Runs]) -> Runs:
    runs = np.concatenate([_NONE, *pieces])
    return join(runs[np.argsort(runs[:, 0], kind="stable")])


def _frames(kernel: Kernel, areas: dict[Vital, list[Area]], max_npages: int) -> dict[Vital, Runs]:
    """Return the page frames of some of the kernel's memory, as far as it is mapped, and not more than there is."""
    page_size, image = kernel.page_size, kernel.memory.space.image
    highest = 1 << kernel.memory.word.itemsize * 8
    pieces: dict[Vital, list[Runs]] = {kind: [] for kind in areas}
    vaddrs: list[int] = []
    kinds: list[int] = []
    for kind, (vaddr, nbytes) in ((kind, area) for kind, these in areas.items() for area in these):
        stop = vaddr + nbytes
        if stop > highest or nbytes > max_npages * page_size:
            continue
        if kind is not Vital.TASKS and image is not None and image.start <= vaddr and stop <= image.stop:
            # Symbols are of what is there; registers may hold anything.
            offset = image.paddr - image.start
            pieces[kind].append(_pages(page_size, [(offset + vaddr, offset + stop)]))
        elif nbytes > _FEW_PAGES * page_size:
            pieces[kind].append(_frames_of(kernel, vaddr, nbytes))
        else:
            pages = range(vaddr // page_size * page_size, stop, page_size)
            vaddrs += pages
            kinds += [kind] * len(pages)
    # To look up many addresses at once takes hardly longer than one.
    paddrs, is_mapped = kernel.memory.paddrs(np.array(vaddrs, np.uint64))
    pfns, of = (paddrs[is_mapped] // np.uint64(page_size)).astype(np.int64), np.array(kinds, np.intp)[is_mapped]
    for kind in pieces:
        pieces[kind].append(runs_of_numbers(unique(pfns[of == kind])))
    return {kind: _sorted(pieces[kind]) for kind in pieces}


def _frames_of(kernel: Kernel, vaddr: int, nbytes: int) -> Runs:
    extents = kernel.memory.extents(vaddr, nbytes)
    return _pages(kernel.page_size, [(e.paddr, e.paddr + e.nbytes) for e in extents if e.paddr is not None])


def _pages(page_size: int, paddrs: list[tuple[int, int]]) -> Runs:
    """Return the page frames of physical addresses ``[start, stop)``."""
    runs = [(start // page_size, -(-stop // page_size)) for start, stop in paddrs if 0 <= start < stop < 1 << 62]
    return np.array(runs, np.int64).reshape(-1, 2)


def _struct_pages(kernel: Kernel, source: Source, memmap: MemMap, struct_nbytes: int) -> Runs:
    """Return the page frames that hold struct pages of memory; those of holes may have been given away."""
    page_size = kernel.page_size
    found: list[Runs] = []
    n_looked_up = n_pieces = 0
    pieces = (memmap.pfn_starts.tolist(), memmap.pfn_stops.tolist(), memmap.vaddrs.tolist())
    for start, stop, vaddr in zip(*pieces, strict=True):
        base = vaddr // page_size * page_size
        own = (intersect(np.array([[start, stop]], np.int64), source.ram_runs) - start) * struct_nbytes + (vaddr - base)
        wanted = join(np.column_stack((own[:, 0] // page_size, -(-own[:, 1] // page_size))))
        end = vaddr + (stop - start) * struct_nbytes
        for at in range(base, end if len(wanted) else base, _GROUP_NBYTES):
            for extent in kernel.memory.extents(at, min(_GROUP_NBYTES, end - at)):
                if extent.paddr is None:
                    continue
                first = (extent.vaddr - base) // page_size
                near = intersect(np.array([[first, first - (-extent.nbytes // page_size)]], np.int64), wanted)
                found.append(near + (extent.paddr // page_size - first))
                n_pieces += 1 + len(near)
            n_looked_up += 1
            if n_looked_up > _MAX_LOOKED_UP or n_pieces > _MAX_PIECES:
                return _sorted(found)
    return _sorted(found)

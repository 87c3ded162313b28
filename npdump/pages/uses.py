# SPDX-License-Identifier: GPL-2.0-or-later
"""What the kernel uses a page for, as its own structures say it: slab caches, stacks, vmalloc areas, the memory map.

Each answer is looked for only in what can have it, and what is read for one page serves the next. What the kernel does
not tell, or a structure that is damaged, is no answer; none is guessed.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

from npdump.errors import AddressError, FactError
from npdump.kernel.percpu import Unit, read_units
from npdump.kernel.tasks import Task, tasks
from npdump.kernel.vmalloc import Areas, read_areas
from npdump.pages.areas import Area, zone_areas
from npdump.pages.backing import Backing
from npdump.pages.kinds import tests_of
from npdump.pages.pcp import PerCpuLists
from npdump.pages.policy import Trait
from npdump.pages.reasons import matches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from npdump.kernel.kernel import Kernel, MemMap
    from npdump.kernel.own import Own
    from npdump.pages.struct_page import StructPage

__all__ = ["Block", "Uses"]

MAX_SYMBOLS_NAMED = 3
_PARTS = (
    ("text", "_stext", "_etext"),
    ("read-only data", "__start_rodata", "__end_rodata"),
    ("data", "_sdata", "_edata"),
    ("zeroed data", "__bss_start", "__bss_stop"),
)
"""Parts of the kernel's image, and the symbols around them (Linux include/asm-generic/sections.h)."""

_STACK_ENDS = (("__start_init_stack", "__end_init_stack"), ("__start_init_task", "__end_init_task"))
"""Symbols around the first task's stack, which is as large as all others (include/asm-generic/vmlinux.lds.h)."""


class Block(NamedTuple):
    """A page, or the first of the compound page that it is in: what its struct page says."""

    pfn: int
    vaddr: int
    fields: Mapping[str, int]
    traits: int
    order: int


class Uses:
    """Finds out what pages are used for.

    Parameters
    ----------
    kernel : Kernel
    memmap : MemMap
    page : StructPage
    own : Own
        What the kernel carries of its own symbols and types.
    """

    def __init__(self, kernel: Kernel, memmap: MemMap, page: StructPage, own: Own) -> None:
        self._kernel, self._memmap, self._page, self._own = kernel, memmap, page, own
        self._tests = tests_of(kernel.facts, page.slab, page.slab_type, own.types.enums)

    def is_slab(self, block: Block) -> bool:
        """Return whether a block is slab memory."""
        if self._page.slab_type is not None:
            return "mapcount" in block.fields and matches(block.fields["mapcount"], self._page.slab_type)
        return bool(block.fields["flags"] & self._page.slab)

    def is_table(self, block: Block) -> bool:
        """Return whether a block is a page table, on kernels that mark these (Linux 1d40a5ea01d5, v4.18)."""
        return "mapcount" in block.fields and matches(block.fields["mapcount"], self._tests.table_type)

    def place(self, pfn: int, flags: int) -> str | None:
        """Return the node and zone of a page, None if that cannot be told.

        Where zones overlap, the word ``flags`` tells, if its upper bits are in the usual order and name one of them.
        """
        found = [area for area in self._zones if area.pfn_start <= pfn < area.pfn_stop]
        if len(found) > 1:
            said = self._zone_in(flags)
            found = [area for area in found if area.name.lower() == said]
        return found[0].name if len(found) == 1 else None

    @cached_property
    def _zones(self) -> list[Area]:
        try:
            return zone_areas(self._kernel, self._own.types)
        except (FactError, AddressError):
            return []

    def _zone_in(self, flags: int) -> str | None:
        """Return what ``flags`` says of node and zone, with the layout of SPARSEMEM_VMEMMAP and NUMA.

        References
        ----------
        Linux ``include/linux/page-flags-layout.h``, ``include/linux/mm.h`` (NODES_PGSHIFT, ZONES_PGSHIFT).
        """
        zones = {value: name for name, value in self._own.types.enums.get("zone_type", {}).items()}
        n_zones = self._own.types.enumerator("zone_type", "__MAX_NR_ZONES")
        n_nodes = self._kernel.facts.get("LENGTH(node_data)")
        if not n_zones or not n_nodes:
            return None
        node_width, zone_width = n_nodes.bit_length() - 1, (n_zones - 1).bit_length()
        node_shift = self._kernel.arch.bits - node_width
        zone = zones.get(flags >> node_shift - zone_width & (1 << zone_width) - 1, "")
        return f"node {flags >> node_shift} {zone.removeprefix('ZONE_').lower()}"

    def of(self, pfn: int, block: Block) -> tuple[str, int] | None:
        """Return what a page is used for, and the order of the block that tells it; None if nothing tells."""
        try:
            return self._of(pfn, block)
        except (AddressError, FactError):
            return None

    def _of(self, pfn: int, block: Block) -> tuple[str, int] | None:
        if block.traits & (Trait.FREE | Trait.UNACCEPTED | Trait.OFFLINE | Trait.HUGETLB):
            return None
        if self.is_slab(block):
            return self._slab(block), block.order
        if self.is_table(block):
            return "page table", block.order
        if block.traits & (Trait.CACHE | Trait.ANON):
            return None
        if self._tests.reserved and block.fields["flags"] & self._tests.reserved:
            use = self._image(pfn) or self._struct_pages_in(pfn) or self._per_cpu(pfn)
            return use or "reserved since the kernel booted", block.order
        if block.fields.get("refcount") == 0 and (found := self._listed.find(pfn)) is not None:
            return found.text, found.order
        text = self._mapped(pfn) or self._stack_at(pfn) or self._struct_pages_in(pfn) or self._per_cpu(pfn)
        return (text, block.order) if text is not None else None

    def _slab(self, block: Block) -> str:
        """Name the slab cache (Linux d122019bf061, v5.17, gave slabs a struct of their own)."""
        struct = "slab" if self._own.has("slab", "slab_cache") else "page"
        try:
            (cache,) = self._own.read(block.vaddr, struct, "slab_cache")
            name, nbytes = self._own.read(cache, "kmem_cache", "name", "object_size")
            return f"slab of cache {self._own.text(name)}, objects of {nbytes} bytes"
        except (AddressError, FactError):
            return "slab"

    def _image(self, pfn: int) -> str | None:
        """Say which part of the kernel's image a page is, and the symbols in it."""
        start = next((at for name in ("_text", "_stext") if (at := self._symbol(name)) is not None), None)
        end = self._symbol("_end")
        if start is None or end is None:
            return None
        (first,) = self._own.memory.extents(start, 1)
        if first.paddr is None:
            return None
        page_size = self._kernel.page_size
        vaddr = start + pfn * page_size - first.paddr
        if not start <= vaddr < end:
            return None
        (extent,) = self._own.memory.extents(vaddr, 1)
        if extent.paddr != pfn * page_size:
            return None  # the image is not in one piece
        part = next((name for name, *ends in _PARTS if self._is_between(vaddr, *ends)), "image")
        return f"kernel {part} at {vaddr:#x}{self._symbols_in(vaddr, vaddr + page_size)}"

    def _symbols_in(self, start: int, stop: int) -> str:
        names = self._own.symbols_in(start, stop)
        more = f" and {len(names) - MAX_SYMBOLS_NAMED} more" if len(names) > MAX_SYMBOLS_NAMED else ""
        return f": {', '.join(names[:MAX_SYMBOLS_NAMED])}{more}" if names else ""

    def _symbol(self, name: str) -> int | None:
        try:
            return self._own.symbol(name)
        except FactError:
            return None

    def _is_between(self, vaddr: int, start: str, stop: str) -> bool:
        first, last = self._symbol(start), self._symbol(stop)
        return first is not None and last is not None and first <= vaddr < last

    @cached_property
    def _listed(self) -> PerCpuLists:
        return PerCpuLists(self._kernel, self._memmap, self._page, self._own)

    @cached_property
    def _areas(self) -> Areas | None:
        try:
            return read_areas(self._own, self._memmap, self._page.nbytes)
        except (AddressError, FactError):
            return None

    def _mapped(self, pfn: int) -> str | None:
        """Say which vmalloc area a page is mapped in, and whose stack that is."""
        found = self._areas.find(pfn) if self._areas is not None else None
        if found is None:
            return None
        area, index = found
        vaddr = area.vaddr + index * self._kernel.page_size
        for task in self._tasks:
            if area.vaddr <= task.stack < area.vaddr + area.nbytes:
                return f"kernel stack of {task.comm}, PID {task.pid}, at {vaddr:#x}"
        caller = self._own.place(area.caller) if area.caller else None
        return f"vmalloc area of {area.nbytes} bytes, at {vaddr:#x}{f', for {caller}' if caller else ''}"

    @cached_property
    def _tasks(self) -> list[Task]:
        try:
            return list(tasks(self._own))
        except (AddressError, FactError):
            return []

    def _stack_at(self, pfn: int) -> str | None:
        """Say whose stack a page is, where stacks are in the direct map."""
        task = self._stacks.get(pfn)
        return None if task is None else f"kernel stack of {task.comm}, PID {task.pid}"

    @cached_property
    def _stacks(self) -> dict[int, Task]:
        """The tasks by the page frames of their stacks, as far as these are not vmalloc areas."""
        ends = next((pair for pair in _STACK_ENDS if None not in map(self._symbol, pair)), None)
        if ends is None:
            return {}
        nbytes, page_size = self._own.symbol(ends[1]) - self._own.symbol(ends[0]), self._kernel.page_size
        found: dict[int, Task] = {}
        for task in self._tasks:
            try:
                extents = self._own.memory.extents(task.stack, nbytes)
            except AddressError:
                continue
            for extent in extents:
                if extent.paddr is not None:
                    first = extent.paddr // page_size
                    found |= dict.fromkeys(range(first, first - (-extent.nbytes // page_size)), task)
        return found

    @cached_property
    def _struct_pages(self) -> Backing:
        memmap = self._memmap
        lengths = (memmap.pfn_stops - memmap.pfn_starts) * self._page.nbytes
        return Backing(self._own.memory, zip(memmap.vaddrs.tolist(), lengths.tolist(), strict=True))

    def _struct_pages_in(self, pfn: int) -> str | None:
        """Say of which pages a page holds the struct pages."""
        found = self._struct_pages.find(pfn)
        if found is None:
            return None
        number, vaddr = found
        start, stop = int(self._memmap.pfn_starts[number]), int(self._memmap.pfn_stops[number])
        within = vaddr - int(self._memmap.vaddrs[number])
        first = start + max(within, 0) // self._page.nbytes
        last = min(start + (within + self._kernel.page_size - 1) // self._page.nbytes, stop - 1)
        return f"memory map: struct pages of pages {first:#x} to {last:#x}"

    @cached_property
    def _units(self) -> tuple[list[Unit], Backing]:
        try:
            units = read_units(self._own)
        except (AddressError, FactError):
            units = []
        return units, Backing(self._own.memory, ((unit.vaddr, unit.nbytes) for unit in units))

    def _per_cpu(self, pfn: int) -> str | None:
        """Say whose per-CPU memory a page is, and which variables of the kernel's image are in it."""
        units, backing = self._units
        found = backing.find(pfn)
        if found is None:
            return None
        unit, vaddr = units[found[0]], found[1]
        start, stop = self._symbol("__per_cpu_start"), self._symbol("__per_cpu_end")
        symbols = ""
        if unit.is_first and start is not None and stop is not None:
            first = start + vaddr - unit.vaddr
            symbols = self._symbols_in(first, min(first + self._kernel.page_size, stop)) if first < stop else ""
        return f"per-CPU memory of CPU {unit.cpu}, at {vaddr:#x}{symbols}"

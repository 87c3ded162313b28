# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's vmalloc areas and the pages that are mapped there (what /proc/vmallocinfo shows).

References
----------
Linux ``mm/vmalloc.c``, ``include/linux/vmalloc.h``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.errors import AddressError, FactError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import I64, U64
    from npdump.kernel.kernel import MemMap
    from npdump.kernel.own import Own

__all__ = ["Area", "Areas", "pfns_of", "read_areas"]

MAX_AREAS = 1 << 20
MAX_AREA_NPAGES = 1 << 24
MAX_NODES = 1 << 12
_MEMBERS = ("addr", "size", "pages", "nr_pages", "caller")


class Area(NamedTuple):
    """A vmalloc area: kernel addresses ``[vaddr, vaddr + nbytes)``, and the address of the code that asked for it."""

    vaddr: int
    nbytes: int
    caller: int


class Areas(NamedTuple):
    """Areas, and for each page that is mapped in one: its frame (ascending), the area, and which page of it it is."""

    areas: list[Area]
    pfns: I64
    numbers: I64
    indices: I64

    def find(self, pfn: int) -> tuple[Area, int] | None:
        """Return the area that a page frame is mapped in, and the address there; None if it is in none."""
        i = int(np.searchsorted(self.pfns, pfn))
        if i == len(self.pfns) or self.pfns[i] != pfn:
            return None
        return self.areas[int(self.numbers[i])], int(self.indices[i])


def pfns_of(memmap: MemMap, struct_nbytes: int, vaddrs: U64) -> I64:
    """Return the page frames of struct pages by their addresses, -1 for what is none."""
    by_vaddr = np.argsort(memmap.vaddrs)
    starts = memmap.vaddrs[by_vaddr]
    runs = np.searchsorted(starts, vaddrs, side="right") - 1
    inside = (vaddrs - starts[runs]).astype(np.uint64)
    pfns = memmap.pfn_starts[by_vaddr][runs] + (inside // np.uint64(struct_nbytes)).astype(np.int64)
    is_good = (runs >= 0) & (inside % np.uint64(struct_nbytes) == 0) & (pfns < memmap.pfn_stops[by_vaddr][runs])
    return np.where(is_good, pfns, -1)


def read_areas(own: Own, memmap: MemMap, struct_nbytes: int) -> Areas:
    """Read all areas; some milliseconds for each hundred.

    Raises
    ------
    FactError, AddressError
        If the kernel does not tell where they are, or they are not in the dump. Areas whose pages cannot be read have
        none.
    """
    areas: list[Area] = []
    pfns, numbers, indices = [], [], []
    for entry in _entries(own):
        (vm,) = own.read(entry - own.offset("vmap_area", "list"), "vmap_area", "vm")
        if not own.memory.is_kernel_vaddr(vm):
            continue
        try:
            vaddr, nbytes, pages, n_pages, caller = own.read(vm, "vm_struct", *_MEMBERS)
            if not pages or not 0 < n_pages <= MAX_AREA_NPAGES:
                continue
            words = own.memory.read_array(pages, own.memory.word, n_pages).astype(np.uint64)
        except AddressError:
            continue
        pfns.append(pfns_of(memmap, struct_nbytes, words))
        numbers.append(np.full(n_pages, len(areas), np.int64))
        indices.append(np.arange(n_pages, dtype=np.int64))
        areas.append(Area(vaddr, nbytes, caller))
    none = [np.zeros(0, np.int64)]
    frames = np.concatenate(pfns or none)
    order = np.argsort(frames, kind="stable")
    order = order[frames[order] >= 0]
    return Areas(areas, frames[order], np.concatenate(numbers or none)[order], np.concatenate(indices or none)[order])


def _entries(own: Own) -> Iterator[int]:
    """Yield the list entries of all areas that are in use."""
    try:
        table = own.symbol("vmap_nodes")
    except FactError:
        yield from own.follow(own.symbol("vmap_area_list"), MAX_AREAS)
        return
    # Linux d093602919ad, v6.9: several nodes instead of one list.
    nodes, count = own.memory.read_word(table), own.memory.read_u32(own.symbol("nr_vmap_nodes"))
    if not 0 < count <= MAX_NODES:
        raise FactError(f"the kernel would have {count} nodes of vmalloc areas: the dump is damaged")
    head = own.offset("vmap_node", "busy") + own.offset("rb_list", "head")
    for i in range(count):
        yield from own.follow(nodes + i * own.nbytes("vmap_node") + head, MAX_AREAS)

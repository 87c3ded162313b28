# SPDX-License-Identifier: GPL-2.0-or-later
"""Vmcores of x86_64 kernels before 4.4: every memory model, every way to tell free pages, and the logs of their time.

    dump = build(path, OldKernel("2.6.24", model="discontiguous", free_by="lists"))

The layouts are those of include/linux/mm_types.h and mmzone.h in those releases, their padding aside.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from . import notes as note
from .elf import Load, write_core
from .memory import PAGE_SIZE, Memory
from .paging import PageTables

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MIB = 1 << 20
KERNEL_MAP = 0xFFFFFFFF80000000
PAGE_OFFSET = 0xFFFF810000000000
VMEMMAP = 0xFFFFE20000000000
KERNEL_PADDR = 16 * MIB
#: Bytes of RAM by node; the second begins in the second section.
NODES = ((MIB, 96 * MIB), (128 * MIB, 160 * MIB))
SECTION_NPAGES = 1 << 15
FREE_HUGE_PAGE = KERNEL_MAP + KERNEL_PADDR + 0x1234

#: Offsets in struct page, and its size under "".
PAGE_2_6_24 = {"flags": 0, "_count": 8, "_mapcount": 12, "private": 16, "mapping": 24, "lru": 40, "": 56}
PAGE_3_2 = {"flags": 0, "mapping": 8, "_mapcount": 24, "_count": 28, "lru": 32, "private": 48, "": 64}
SWAP_ENTRY = 0x1234  # of the first swap area
LRU, SLAB, PRIVATE, COMPOUND, SWAPCACHE, BUDDY, BUDDY_OF_2_6_38, BUDDY_OF_3_2 = 5, 7, 11, 14, 15, 19, -2, -128

ZONE_NBYTES, FREE_AREA, FREE_AREA_NBYTES, VM_STAT, SPANNED, N_ORDERS, N_TYPES = 1536, 64, 88, 1040, 1400, 11, 5
NR_ZONES, NODE_MEM_MAP, NODE_START_PFN, NODE_SPANNED, NODE_NBYTES = 6144, 6152, 6160, 6176, 6208
ZONES = ((0, 4096), (4096, 1 << 20))

#: Kind of block, order, how many of them, and the dump level bits that leave it out.
KINDS = (
    ("free", 0, 40, 16),
    ("free", 3, 9, 16),
    ("free", 10, 2, 16),
    ("cache", 0, 70, 2 | 4),
    ("private", 0, 50, 4),
    ("anon", 0, 90, 8),
    ("shmem_swapcache", 0, 4, 2 | 4),
    ("slab", 0, 20, 0),
    ("compound", 3, 4, 0),
    ("hugetlb", 9, 2, 8),
    ("thp", 9, 2, 8),
    ("kernel", 0, 30, 0),
)


@dataclass(frozen=True)
class OldKernel:
    """A kernel.

    Parameters
    ----------
    model : {"flat", "discontiguous", "static", "extreme", "vmemmap"}
    free_by : {"lists", "flag", "mapcount"}
        What its VMCOREINFO lets a reader tell free pages by.
    extra : callable
        Adds to the image; it may set `Image.keys`.
    first_node_npages
        What the first node says it spans; 0: as it is.
    spoils_free_list
        One page in a free list doesn't point back.
    """

    release: str
    model: str = "vmemmap"
    free_by: str = "lists"
    page: dict[str, int] = field(default_factory=lambda: PAGE_2_6_24)
    buddy_mapcount: int | None = None
    physmem_bits: int = 40
    keys: dict[str, int | str] = field(default_factory=dict)
    extra: Callable[[Image], None] = lambda image: None
    first_node_npages: int = 0
    spoils_free_list: bool = False


class Image:
    """The kernel's own memory: frames from `KERNEL_PADDR` on, and VMCOREINFO's keys."""

    def __init__(self) -> None:
        self.memory, self.next = Memory(), KERNEL_PADDR
        self.keys: dict[str, int | str] = {}

    def allocate(self, nbytes: int, alignment: int = PAGE_SIZE) -> int:
        """Physical address of fresh memory."""
        paddr = -(-self.next // alignment) * alignment
        self.next = paddr + nbytes
        return paddr

    def variable(self, name: str, data: bytes) -> int:
        """Put a variable into the kernel image and export its symbol; returns its address."""
        paddr = self.allocate(-(-len(data) // 8) * 8, 8)
        self.memory.write(paddr, data)
        self.keys[f"SYMBOL({name})"] = KERNEL_MAP + paddr
        return KERNEL_MAP + paddr


@dataclass
class OldVmcore:
    """The dump at `path`: `dropped_by` are the dump level bits that leave out each page; -1 where there is no RAM."""

    path: Path
    keys: dict[str, int | str]
    dropped_by: np.ndarray

    def kept(self, level: int) -> np.ndarray:
        """Bool by page frame."""
        return (self.dropped_by >= 0) & ((self.dropped_by & level) == 0)


def _blocks() -> list[tuple[str, int, int, int]]:
    """Kind, order, first page frame and dump level bits of each block, from 32 MiB and from 130 MiB on."""
    found = []
    for at in (32 * MIB // PAGE_SIZE, 130 * MIB // PAGE_SIZE):
        pfn = at
        for kind, order, count, bits in KINDS:
            for _ in range(count):
                pfn = -(-pfn >> order) << order
                found.append((kind, order, pfn, bits))
                pfn += 1 << order
    return found


class _Pages:
    def __init__(self, kernel: OldKernel, n_pages: int) -> None:
        self.at, self.nbytes = kernel.page, kernel.page[""]
        self.raw = bytearray(n_pages * self.nbytes)
        self.spoiled = -1
        for pfn in range(n_pages):
            self.put(pfn, _mapcount=-1, _count=1)

    def put(self, pfn: int, **fields: int) -> None:
        for name, value in fields.items():
            name, _, link = name.partition("__")
            code, nbytes = ("<i", 4) if name in ("_count", "_mapcount") else ("<Q", 8)
            value = value if nbytes == 4 else value & (1 << 64) - 1
            struct.pack_into(code, self.raw, pfn * self.nbytes + self.at[name] + (8 if link == "prev" else 0), value)

    def fill(self, kind: str, order: int, pfn: int, kernel: OldKernel) -> None:
        anon = PAGE_OFFSET + 0x4560 | 1
        simple = {
            "cache": {"flags": 1 << LRU, "mapping": PAGE_OFFSET + 0x7000},
            "private": {"flags": 1 << LRU | 1 << PRIVATE, "mapping": PAGE_OFFSET + 0x7000},
            "anon": {"flags": 1 << LRU, "mapping": anon, "_mapcount": 0},
            "shmem_swapcache": {"flags": 1 << SWAPCACHE, "private": SWAP_ENTRY},
            "slab": {"flags": 1 << SLAB},
            "compound": {"flags": 1 << COMPOUND},
            "hugetlb": {"flags": 1 << COMPOUND},
            "thp": {"flags": 1 << LRU | 1 << COMPOUND, "mapping": anon, "_mapcount": 0},
            "kernel": {},
        }
        if kind == "free":
            for free in range(pfn, pfn + (1 << order)):
                self.put(free, _count=0)
            self.put(pfn, private=order, flags=1 << BUDDY if kernel.free_by == "flag" else 0)
            if kernel.buddy_mapcount is not None:
                self.put(pfn, _mapcount=kernel.buddy_mapcount)
            return
        self.put(pfn, **simple[kind])
        if order:
            # Linux set_compound_page_dtor() and set_compound_order() before v4.1.
            self.put(pfn + 1, lru__next=FREE_HUGE_PAGE if kind == "hugetlb" else 0x1111, lru__prev=order)


def _link(image: Image, pages: _Pages, vaddr_of: Callable[[int], int], zone: int, blocks: list, number: int) -> int:
    """Chain the free blocks of a zone into its lists; returns how many pages they have."""
    first, stop = ZONES[number]
    lists: dict[tuple[int, int], list[int]] = {
        (order, kind): [] for order in range(N_ORDERS) for kind in range(N_TYPES)
    }
    for kind, order, pfn, _ in blocks:
        if kind == "free" and first <= pfn < stop:
            lists[order, pfn % N_TYPES].append(pfn)
    for (order, kind), pfns in lists.items():
        at = zone + FREE_AREA + order * FREE_AREA_NBYTES + kind * 16
        chain = [KERNEL_MAP + at, *(vaddr_of(pfn) + pages.at["lru"] for pfn in pfns)]
        for i, pfn in enumerate(pfns, 1):
            pages.put(pfn, lru__next=chain[(i + 1) % len(chain)], lru__prev=chain[i - 1] if pfn != pages.spoiled else 0)
        image.memory.write(at, struct.pack("<QQ", chain[1 % len(chain)], chain[-1]))
    return sum(len(pfns) << order for (order, _), pfns in lists.items())


def _write_nodes(image: Image, pages: _Pages, vaddr_of: Callable[[int], int], kernel: OldKernel) -> list[int]:
    """Write the nodes with their zones; returns their addresses."""
    nodes = []
    ranges = [(0, NODES[-1][1])] if kernel.model == "flat" else NODES
    for start, stop in ranges:
        node = image.allocate(NODE_NBYTES)
        blocks = [block for block in _blocks() if start <= block[2] * PAGE_SIZE < stop]
        for number, (zone_start, zone_stop) in enumerate(ZONES):
            zone = node + number * ZONE_NBYTES
            n_free = _link(image, pages, vaddr_of, zone, blocks, number)
            spanned = max(0, min(zone_stop, stop // PAGE_SIZE) - max(zone_start, start // PAGE_SIZE))
            image.memory.write(zone + SPANNED, struct.pack("<Q", spanned))
            image.memory.write(zone + VM_STAT, struct.pack("<Q", n_free))
        first, n_pages = start // PAGE_SIZE, (stop - start) // PAGE_SIZE
        n_pages = n_pages if nodes else kernel.first_node_npages or n_pages
        image.memory.write(node + NR_ZONES, struct.pack("<i", len(ZONES)))
        image.memory.write(node + NODE_MEM_MAP, struct.pack("<QQQQ", vaddr_of(first), first, n_pages, n_pages))
        nodes.append(KERNEL_MAP + node)
    return nodes


def _model_keys(image: Image, kernel: OldKernel, nodes: list[int], vaddr_of: Callable[[int], int]) -> None:
    n_sections = 1 << kernel.physmem_bits - 27
    keys = image.keys
    if kernel.model == "flat":
        image.variable("mem_map", struct.pack("<Q", vaddr_of(0)))
        keys["SYMBOL(contig_page_data)"] = nodes[0]
    else:
        image.variable("node_data", struct.pack("<64Q", *nodes, *[0] * (64 - len(nodes))))
        keys["LENGTH(node_data)"] = 64
    if kernel.model in ("flat", "discontiguous"):
        keys["OFFSET(pglist_data.node_mem_map)"] = NODE_MEM_MAP
        return
    encoded = [vaddr_of(i * SECTION_NPAGES) - i * SECTION_NPAGES * kernel.page[""] for i in range(2)]
    entries = b"".join(struct.pack("<QQ", word % (1 << 64) | 3, 0) for word in encoded)
    keys |= {"SIZE(mem_section)": 16, "OFFSET(mem_section.section_mem_map)": 0}
    if kernel.model == "static":
        image.variable("mem_section", entries)
        keys["LENGTH(mem_section)"] = n_sections
        return
    root = image.allocate(PAGE_SIZE)
    image.memory.write(root, entries)
    image.variable("mem_section", struct.pack("<Q", KERNEL_MAP + root).ljust(n_sections // 256 * 8, b"\0"))
    keys["LENGTH(mem_section)"] = n_sections // 256


def build(path: Path, kernel: OldKernel) -> OldVmcore:
    """Write the vmcore."""
    image, keys = Image(), {}
    n_pages = NODES[-1][1] // PAGE_SIZE
    pages = _Pages(kernel, n_pages)
    dropped_by = np.full(n_pages, -1)
    for start, stop in NODES:
        dropped_by[start // PAGE_SIZE : stop // PAGE_SIZE] = 0
    for kind, order, pfn, bits in _blocks():
        pages.fill(kind, order, pfn, kernel)
        dropped_by[pfn : pfn + (1 << order)] = bits

    root = image.allocate(PAGE_SIZE)
    tables = PageTables(image.memory, lambda: image.allocate(PAGE_SIZE), root, 4)
    memmap = image.allocate(len(pages.raw), 2 * MIB)
    base = VMEMMAP if kernel.model == "vmemmap" else PAGE_OFFSET + memmap

    def vaddr_of(pfn: int) -> int:
        return base + pfn * pages.nbytes

    if kernel.spoils_free_list:
        pages.spoiled = next(pfn for kind, order, pfn, _ in _blocks() if kind == "free" and not order) + 5
    nodes = _write_nodes(image, pages, vaddr_of, kernel)
    _model_keys(image, kernel, nodes, vaddr_of)
    image.memory.write(memmap, bytes(pages.raw))
    names = ("Linux", "synthetic", kernel.release, "#1 SMP", "x86_64", "(none)")
    image.variable("init_uts_ns", bytes(4) + b"".join(name.encode().ljust(65, b"\0") for name in names) + bytes(64))
    image.variable("node_online_map", struct.pack("<8Q", (1 << len(nodes)) - 1, *[0] * 7))
    image.keys |= {"SYMBOL(init_level4_pgt)": KERNEL_MAP + root, "SYMBOL(_stext)": KERNEL_MAP + KERNEL_PADDR}
    image.keys["SYMBOL(swapper_pg_dir)"] = KERNEL_MAP + root
    kernel.extra(image)

    stop = NODES[-1][1]
    tables.map_range(PAGE_OFFSET, 0, stop, 2 * MIB)
    tables.map_range(KERNEL_MAP, 0, 32 * MIB, 2 * MIB)
    if kernel.model == "vmemmap":
        tables.map_range(VMEMMAP, memmap, -(-len(pages.raw) // (2 * MIB)) * 2 * MIB, 2 * MIB)
    assert image.next <= 32 * MIB

    layout = {f"OFFSET(page.{name})": at for name, at in kernel.page.items() if name}
    if kernel.free_by == "lists":
        # Neither was exported by kernels that had no page type for it.
        del layout["OFFSET(page._mapcount)"], layout["OFFSET(page.private)"]
    keys = {"OSRELEASE": kernel.release, "PAGESIZE": PAGE_SIZE, "SIZE(page)": pages.nbytes, **layout}
    keys |= {"SIZE(pglist_data)": NODE_NBYTES, "SIZE(zone)": ZONE_NBYTES, "SIZE(free_area)": FREE_AREA_NBYTES}
    keys |= {"SIZE(list_head)": 16, "SIZE(nodemask_t)": 64, "OFFSET(list_head.next)": 0, "OFFSET(list_head.prev)": 8}
    keys |= {"OFFSET(pglist_data.node_zones)": 0, "OFFSET(pglist_data.nr_zones)": NR_ZONES}
    keys |= {"OFFSET(pglist_data.node_start_pfn)": NODE_START_PFN}
    keys |= {"OFFSET(pglist_data.node_spanned_pages)": NODE_SPANNED, "OFFSET(zone.free_area)": FREE_AREA}
    keys |= {"OFFSET(zone.vm_stat)": VM_STAT, "OFFSET(zone.spanned_pages)": SPANNED}
    keys |= {"OFFSET(free_area.free_list)": 0, "LENGTH(zone.free_area)": N_ORDERS}
    keys |= {"LENGTH(free_area.free_list)": N_TYPES, "NUMBER(NR_FREE_PAGES)": 0, "NUMBER(PG_lru)": LRU}
    keys |= {"NUMBER(PG_private)": PRIVATE, "NUMBER(PG_swapcache)": SWAPCACHE}
    keys |= {"SYMBOL(free_huge_page)": FREE_HUGE_PAGE}
    if kernel.free_by == "flag":
        keys["NUMBER(PG_buddy)"] = BUDDY
    keys |= image.keys | kernel.keys
    loads = [Load(KERNEL_PADDR, 32 * MIB, KERNEL_MAP + KERNEL_PADDR)]
    loads += [Load(start, end, PAGE_OFFSET + start) for start, end in NODES]
    write_core(path, image.memory, loads, note.prstatus(1) + note.vmcoreinfo(keys))
    return OldVmcore(path, keys, dropped_by)

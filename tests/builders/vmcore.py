# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole synthetic x86_64 vmcore from a short description, and the model of what is in it.

    dump = build(path, Description(kernel=KERNELS["6.12"], ram=[(0, 1 << 28)], blocks=[Block(0x4000, "free", 10,
    count=8)]))

The struct page array is real: it lies in the dumped memory and is reached through page tables, mem_section and
VMCOREINFO, as in a kernel. Sections of equal content share their frames, so that a machine of any size is small on
disk.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass, field
from itertools import groupby
from typing import TYPE_CHECKING

from . import notes as note
from .elf import KERNEL_SHAPE, FileShape, Load, write_core
from .kernels import (
    KERNELS,
    MEM_SECTION_NBYTES,
    PAGE_SIZE,
    PAGES_PER_SECTION,
    SECTION_SIZE_BITS,
    STRUCT_PAGE_NBYTES,
    Kernel,
)
from .memory import Memory
from .model import Vmcore
from .pages import Block, StructPages
from .paging import PageTables

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence
    from pathlib import Path

KERNEL_MAP = 0xFFFFFFFF80000000
SECTION_NBYTES = 1 << SECTION_SIZE_BITS
MEMMAP_NBYTES = PAGES_PER_SECTION * STRUCT_PAGE_NBYTES  # of one section: 2 MiB
SECTIONS_PER_ROOT = PAGE_SIZE // MEM_SECTION_NBYTES
LEAVES = {"4K": 1 << 12, "2M": 1 << 21, "1G": 1 << 30}
SECTION_FLAGS = 0b1111  # present, has a memmap, online, early


@dataclass(frozen=True)
class Layout:
    """Where the kernel's address spaces begin (as KASLR chose them) and how many levels its page tables have."""

    levels: int = 4
    page_offset: int = 0xFFFF888000000000
    vmemmap: int = 0xFFFFEA0000000000
    kaslr_offset: int = 0
    max_physmem_bits: int = 46


PLAIN = Layout()
KERNEL_PAGE = Block(0, "kernel")
KASLR = Layout(page_offset=0xFFFF8B02C0000000, vmemmap=0xFFFFF9B140000000, kaslr_offset=0x17600000)
LA57 = Layout(5, 0xFF11000000000000, 0xFFD4000000000000, 0x32C00000, 52)


@dataclass(frozen=True)
class Description:
    """What to build. Addresses are physical bytes; ranges are half open.

    Parameters
    ----------
    ram
        Ranges of RAM, ascending. Sections that none touches are absent from mem_section.
    blocks, background
        What the pages are; pages that no block names are `background`.
    kernel_paddr
        Where the kernel image and everything that describes the pages lie: 2 MiB aligned, in RAM, room for 1/64 of the
        RAM and more; with a leaf of 1 GiB, up to what that's aligned to as well.
    loads
        PT_LOADs by a function of the default ones (kernel image, then each RAM range by the direct map).
    mem_section
        "static", "extreme" (symbol is the array of roots) or "pointer" (symbol points at that array).
    leaf
        "4K", "2M" or "1G": size of the mappings of the struct page array.
    memmap_holes
        Section numbers that are present but whose struct pages are not mapped.
    keys
        VMCOREINFO keys to set, or with None to leave out.
    fill
        One page in `fill` has content of its own; 0: none.
    """

    ram: list[tuple[int, int]]
    kernel: Kernel = KERNELS["6.12"]
    blocks: Iterable[Block] = ()
    background: Block | Sequence[Block] = KERNEL_PAGE
    layout: Layout = PLAIN
    kernel_paddr: int = 0x1000000
    loads: Callable[[list[Load]], list[Load]] = lambda loads: loads
    shape: FileShape = KERNEL_SHAPE
    mem_section: str = "extreme"
    leaf: str = "2M"
    memmap_holes: frozenset[int] = frozenset()
    n_cpus: int = 1
    notes: Callable[[list[bytes]], list[bytes]] = lambda parts: parts
    keys: dict[str, int | str | None] = field(default_factory=dict)
    fill: int = 16
    spoil: Callable[[Memory, PageTables], None] = lambda memory, tables: None


class _Image:
    """The kernel image region: a bump allocator of frames for tables, struct pages and variables."""

    def __init__(self, memory: Memory, paddr: int, layout: Layout) -> None:
        self.memory, self.start, self.next, self.layout = memory, paddr, paddr, layout
        # The image is linked at KERNEL_MAP + 16 MiB.
        self.phys_base = paddr - 0x1000000 - layout.kaslr_offset

    def allocate(self, nbytes: int, align: int = PAGE_SIZE) -> int:
        """Physical address of fresh zeroed memory."""
        paddr = -(-self.next // align) * align
        self.next = paddr + nbytes
        return paddr

    def vaddr(self, paddr: int) -> int:
        """Address in the mapping of the kernel image."""
        return KERNEL_MAP + paddr - self.phys_base


def _map_struct_pages(
    want: Description, image: _Image, tables: PageTables, pages: StructPages, sections: list[int]
) -> None:
    """Put the struct pages into memory and map them at vmemmap; equal content shares frames."""
    leaf = LEAVES[want.leaf]
    frames: dict[bytes, int] = {}
    known: dict[int, list[int]] = {}  # the frames of a buffer that sections share
    # Of a mapping of 1 GiB only the part that holds struct pages has to be RAM.
    whole = image.allocate((sections[-1] + 1) * MEMMAP_NBYTES, leaf) if leaf > MEMMAP_NBYTES else 0
    if whole:
        tables.map(want.layout.vmemmap & -leaf, whole, leaf)
    for number in sections:
        data = pages.section(number)
        vaddr = want.layout.vmemmap + number * MEMMAP_NBYTES
        if number in want.memmap_holes:
            continue
        if whole:
            if vaddr - (vaddr & -leaf) != vaddr - (want.layout.vmemmap & -leaf):
                raise ValueError("a 1 GiB mapping holds the struct pages of 64 GiB at most")
            image.memory.write(whole + vaddr % leaf, data)
            continue
        if id(data) not in known:
            parts = [bytes(data[offset : offset + leaf]) for offset in range(0, MEMMAP_NBYTES, leaf)]
            for part in parts:
                if part not in frames:
                    frames[part] = image.allocate(leaf, leaf)
                    image.memory.write(frames[part], part)
            known[id(data)] = [frames[part] for part in parts]
        for index, frame in enumerate(known[id(data)]):
            tables.map(vaddr + index * leaf, frame, leaf)


def _write_mem_section(want: Description, image: _Image, sections: list[int]) -> int:
    """Write mem_section and its roots; returns SYMBOL(mem_section)."""
    n_sections = 1 << (want.layout.max_physmem_bits - SECTION_SIZE_BITS)
    entries = dict.fromkeys(sections, want.layout.vmemmap | SECTION_FLAGS)
    if want.mem_section == "static":
        array = image.allocate((max(sections) + 1) * MEM_SECTION_NBYTES)
        for number, value in entries.items():
            image.memory.write(array + number * MEM_SECTION_NBYTES, struct.pack("<Q", value))
        return image.vaddr(array)
    array = image.allocate(8 * (n_sections // SECTIONS_PER_ROOT))
    for root, numbers in groupby(sections, lambda number: number // SECTIONS_PER_ROOT):
        table = image.allocate(PAGE_SIZE)
        image.memory.write(array + 8 * root, struct.pack("<Q", image.vaddr(table)))
        for number in numbers:
            image.memory.write(
                table + number % SECTIONS_PER_ROOT * MEM_SECTION_NBYTES, struct.pack("<Q", entries[number])
            )
    if want.mem_section == "extreme":
        return image.vaddr(array)
    pointer = image.allocate(PAGE_SIZE)
    image.memory.write(pointer, struct.pack("<Q", image.vaddr(array)))
    return image.vaddr(pointer)


def _write_names(image: _Image, release: str) -> tuple[int, int]:
    """init_uts_ns (six names of 65 bytes) and node_online_map with one node; returns their addresses."""
    uts, nodes = image.allocate(PAGE_SIZE), image.allocate(PAGE_SIZE)
    for index, name in enumerate(("Linux", "synthetic", release, "#1 SMP", "x86_64", "(none)")):
        image.memory.write(uts + 65 * index, name.encode())
    image.memory.write(nodes, struct.pack("<Q", 1))
    return image.vaddr(uts), image.vaddr(nodes)


def _vmcoreinfo(want: Description, image: _Image, symbols: dict[str, int]) -> dict[str, int | str]:
    layout = want.layout
    n_sections = 1 << (layout.max_physmem_bits - SECTION_SIZE_BITS)
    keys: dict[str, int | str | None] = {
        "OSRELEASE": want.kernel.release,
        "BUILD-ID": "0123456789abcdef0123456789abcdef01234567",
        "PAGESIZE": PAGE_SIZE,
        **{f"SYMBOL({name})": value for name, value in symbols.items()},
        "OFFSET(uts_namespace.name)": 0,
        "LENGTH(mem_section)": n_sections if want.mem_section == "static" else n_sections // SECTIONS_PER_ROOT,
        "NUMBER(SECTION_SIZE_BITS)": SECTION_SIZE_BITS,
        "NUMBER(MAX_PHYSMEM_BITS)": layout.max_physmem_bits,
        **want.kernel.vmcoreinfo(),
        "NUMBER(phys_base)": image.phys_base,
        "NUMBER(pgtable_l5_enabled)": int(layout.levels == 5),
        "KERNELOFFSET": layout.kaslr_offset,
        "NUMBER(KERNEL_IMAGE_SIZE)": 1 << 30,
        "NUMBER(sme_mask)": 0,
        "CRASHTIME": 1700000000,
    }
    return {key: value for key, value in (keys | want.keys).items() if value is not None}


def _fill(memory: Memory, ram: list[tuple[int, int]], every: int) -> None:
    """Give one page in `every` content of its own: text that compresses, or noise that doesn't."""
    for start, stop in ram:
        first = -(-start // PAGE_SIZE)
        for pfn in range(first + (5 - first) % every, stop // PAGE_SIZE, every):
            if pfn not in memory.pages:
                n_noise = PAGE_SIZE if pfn % 3 == 0 else 64
                noise = random.Random(pfn).randbytes(n_noise) * (PAGE_SIZE // n_noise)
                memory.write(pfn * PAGE_SIZE, (b"page %012x; " % pfn + noise)[:PAGE_SIZE])


def build(path: Path, want: Description) -> Vmcore:
    """Write the vmcore that `want` describes and return its model."""
    layout, memory = want.layout, Memory()
    image = _Image(memory, want.kernel_paddr, layout)
    sections = sorted(
        {n for start, stop in want.ram for n in range(start // SECTION_NBYTES, -(-stop // SECTION_NBYTES))}
    )
    pages = StructPages(want.kernel, layout.vmemmap, want.blocks, want.background)
    root = image.allocate(PAGE_SIZE)
    tables = PageTables(memory, lambda: image.allocate(PAGE_SIZE), root, layout.levels)
    uts, nodes = _write_names(image, want.kernel.release)
    symbols = {
        "init_uts_ns": uts,
        "node_online_map": nodes,
        "swapper_pg_dir": image.vaddr(root),
        "_stext": image.vaddr(image.start),
        "mem_section": _write_mem_section(want, image, sections),
        "init_top_pgt": image.vaddr(root),
    }
    _map_struct_pages(want, image, tables, pages, sections)
    for start, stop in want.ram:
        first = start & -LEAVES["1G"]
        tables.map_range(layout.page_offset + first, first, stop - first, LEAVES["1G"])
    image_start = image.start & -LEAVES["2M"]
    tables.map_range(image.vaddr(image_start), image_start, image.next + LEAVES["2M"] - image_start, LEAVES["2M"])
    want.spoil(memory, tables)
    if want.fill:
        _fill(memory, want.ram, want.fill)

    keys = _vmcoreinfo(want, image, symbols)
    image_stop = -(-image.next // LEAVES["2M"]) * LEAVES["2M"]
    loads = [Load(image.start, image_stop, image.vaddr(image.start))]
    loads += [Load(start, stop, layout.page_offset + start) for start, stop in want.ram]
    loads = want.loads(loads)
    cpu_notes = [note.prstatus(pid) for pid in range(1, want.n_cpus + 1)]
    note_area = b"".join(want.notes([*cpu_notes, note.vmcoreinfo(keys)]))
    write_core(path, memory, loads, note_area, want.shape)
    return Vmcore(
        path, keys, note_area, loads, memory, pages, [n for n in sections if n not in want.memmap_holes], image_stop
    )

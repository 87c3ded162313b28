# SPDX-License-Identifier: GPL-2.0-or-later
"""A small vmcore of any machine: both word sizes and byte orders, page tables of any form, a flat memory map.

The memory map lies scattered in physical memory and is reached as on the machine: through page tables that are built
here entry by entry, or through what `Spec.extra` writes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from .memory import Memory

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

N_PAGES = 2048
N_KERNEL_PAGES = 256
KINDS = ("kernel", "free", "anon", "cache", "private")
#: Dump level bits that leave each kind out.
DROPPED_BY = {"kernel": 0, "free": 16, "anon": 8, "cache": 2 | 4, "private": 4}
LRU, PRIVATE, SLAB, HEAD, SWAPBACKED = 4, 13, 9, 16, 19
BUDDY = -129
ANON = 1
#: utsname's machine by word size, and whether it's an i386: readers tell the layout of dump files by it.
WORD_OF = {(64, False): "synthetic", (32, False): "ppc", (32, True): "i686"}


@dataclass(frozen=True)
class Tables:
    """The form of page tables: (shift, bits) of each level from the top, and what their entries look like.

    `to_table` gets the physical address of the table below, and how many levels there are below this one.
    """

    levels: tuple[tuple[int, int], ...]
    entry: str
    to_table: Callable[[int, int], int]
    to_page: Callable[[int], int]
    alignment: int = 0


@dataclass(frozen=True)
class Spec:
    """A machine: `image_offset` is the virtual minus the physical address of what the kernel image holds.

    `map_from_zero`: mem_map is where the struct page of physical address 0 would be, not that of the first page of RAM.
    """

    machine: int
    bits: int
    order: str
    page_size: int
    image_offset: int
    memmap_vaddr: int
    tables: Tables | None = None
    ram_start: int = 0
    map_from_zero: bool = False
    release: str = "6.1.0"
    stext: int | None = None
    load_offset: int | None = None
    keys: dict[str, int | str] = field(default_factory=dict)
    extra: Callable[[Image], None] = lambda image: None
    elf_bits: int = 0
    elf_order: str = ""


class Image:
    """The memory of a `Spec`, as it's filled."""

    def __init__(self, spec: Spec) -> None:
        self.spec, self.memory = spec, Memory()
        self.next_paddr = spec.ram_start + max(spec.page_size, 0x4000)
        self.keys: dict[str, int | str] = {}
        self.frames: list[int] = []

    def allocate(self, nbytes: int, alignment: int = 0) -> int:
        """Physical address of fresh memory, in whole pages."""
        alignment = max(alignment, self.spec.page_size)
        paddr = -(-self.next_paddr // alignment) * alignment
        self.next_paddr = paddr + -(-nbytes // self.spec.page_size) * self.spec.page_size
        assert self.next_paddr <= self.spec.ram_start + N_KERNEL_PAGES * self.spec.page_size
        return paddr

    def pack(self, code: str, *values: int) -> bytes:
        """In the machine's byte order."""
        return struct.pack(self.spec.order + code, *values)

    def symbol(self, name: str, paddr: int) -> None:
        """Export a symbol of the kernel image."""
        self.keys[f"SYMBOL({name})"] = f"{paddr + self.spec.image_offset & (1 << self.spec.bits) - 1:x}"


def _kind(pfn: int) -> str:
    return KINDS[pfn % len(KINDS)] if pfn >= N_KERNEL_PAGES else "kernel"


def _struct_page(spec: Spec, kind: str) -> bytes:
    order = spec.order
    flags = {"cache": 1 << LRU, "private": 1 << LRU | 1 << PRIVATE, "anon": 1 << LRU | 1 << SWAPBACKED}.get(kind, 0)
    anon_vma = spec.ram_start + spec.image_offset + 0x4560 & (1 << spec.bits) - 1
    mapping = anon_vma | ANON if kind == "anon" else 0
    mapcount, refcount = (BUDDY, 0) if kind == "free" else (-1, 1)
    if spec.bits == 64:
        return struct.pack(order + "QQQQQQiiQ", flags, 0, 0, mapping, 0, 0, mapcount, refcount, 0)
    return struct.pack(order + "IIIIIIii4x", flags, 0, 0, mapping, 0, 0, mapcount, refcount)


_LAYOUT = {
    64: {"": 64, "flags": 0, "lru": 8, "compound_head": 8, "mapping": 24, "private": 40, "_mapcount": 48}
    | {"_refcount": 52},
    32: {"": 36, "flags": 0, "lru": 4, "compound_head": 4, "mapping": 12, "private": 20, "_mapcount": 24}
    | {"_refcount": 28},
}


def _build_tables(image: Image, root: int, mappings: list[tuple[int, int]]) -> None:
    form = image.spec.tables
    assert form is not None
    nbytes = struct.calcsize(form.entry)
    tables: dict[tuple[int, ...], int] = {(): root}
    for vaddr, paddr in mappings:
        path: tuple[int, ...] = ()
        for number, (shift, bits) in enumerate(form.levels):
            index = vaddr >> shift & (1 << bits) - 1
            at = tables[path] + index * nbytes
            path = (*path, index)
            if number == len(form.levels) - 1:
                image.memory.write(at, struct.pack(form.entry, form.to_page(paddr)))
            elif path not in tables:
                tables[path] = image.allocate(nbytes << form.levels[number + 1][1], form.alignment)
                word = form.to_table(tables[path], len(form.levels) - 1 - number)
                image.memory.write(at, struct.pack(form.entry, word))


def _write_elf(path: Path, image: Image, notes: bytes) -> None:
    spec = image.spec
    bits, order = spec.elf_bits or spec.bits, spec.elf_order or spec.order
    header_nbytes, phdr_nbytes = (64, 56) if bits == 64 else (52, 32)
    note_offset = header_nbytes + 2 * phdr_nbytes
    data_offset = -(-(note_offset + len(notes)) // 4096) * 4096
    nbytes = N_PAGES * spec.page_size
    vaddr = 0 if spec.load_offset is None else spec.ram_start + spec.load_offset & (1 << bits) - 1
    ident = b"\x7fELF" + bytes((bits // 32, 1 if order == "<" else 2, 1)) + bytes(9)
    word = "Q" if bits == 64 else "I"
    codes = f"{order}HHI{word}{word}{word}IHHHHHH"
    ehdr = struct.pack(codes, 4, spec.machine, 1, 0, header_nbytes, 0, 0, header_nbytes, phdr_nbytes, 2, 0, 0, 0)

    def phdr(kind: int, offset: int, vaddr: int, paddr: int, size: int) -> bytes:
        if bits == 64:
            return struct.pack(order + "IIQQQQQQ", kind, 7, offset, vaddr, paddr, size, size, 0)
        return struct.pack(order + "IIIIIIII", kind, offset, vaddr, paddr, size, size, 7, 0)

    with open(path, "wb") as file:
        file.write(ident + ehdr + phdr(4, note_offset, 0, 0, len(notes)))
        file.write(phdr(1, data_offset, vaddr, spec.ram_start, nbytes) + notes)
        file.truncate(data_offset + nbytes)
        for start, stop in image.memory.runs():
            file.seek(data_offset + start * 4096 - spec.ram_start)
            file.write(image.memory.read(start * 4096, (stop - start) * 4096))


def build(path: Path, spec: Spec) -> np.ndarray:
    """Write the vmcore; returns, as a bool array of shape (32, pages), which pages each dump level keeps."""
    image = Image(spec)
    keys = image.keys
    variables = image.allocate(spec.page_size)
    for index, name in enumerate(
        ("Linux", "synthetic", spec.release, "#1", WORD_OF[spec.bits, spec.machine == 3], "(none)")
    ):
        image.memory.write(variables + 1024 + 65 * index, name.encode())
    first_pfn = spec.ram_start // spec.page_size if spec.map_from_zero else 0
    mem_map = spec.memmap_vaddr - first_pfn * _LAYOUT[spec.bits][""]
    image.memory.write(variables, image.pack("Q" if spec.bits == 64 else "I", mem_map))
    image.symbol("mem_map", variables)
    image.symbol("init_uts_ns", variables + 1024)
    image.symbol("_stext", spec.ram_start)
    if spec.stext is not None:
        keys["SYMBOL(_stext)"] = f"{spec.stext:x}"

    records = b"".join(_struct_page(spec, _kind(pfn)) for pfn in range(N_PAGES))
    n_frames = -(-len(records) // spec.page_size)
    image.frames = [image.allocate(spec.page_size) for _ in range(n_frames)]
    if spec.memmap_vaddr - spec.image_offset != image.frames[0]:
        image.frames.reverse()
    for number, frame in enumerate(image.frames):
        image.memory.write(frame, records[number * spec.page_size :][: spec.page_size])
    if spec.tables is not None:
        nbytes = struct.calcsize(spec.tables.entry) << spec.tables.levels[0][1]
        root = image.allocate(max(nbytes, 1 << 16), max(spec.tables.alignment, 1 << 14))
        image.symbol("swapper_pg_dir", root)
        vaddrs = [spec.memmap_vaddr + number * spec.page_size for number in range(n_frames)]
        # The kernel image is mapped as well, for machines that have no other way to it.
        image_vaddr = variables + spec.image_offset & (1 << spec.bits) - 1
        _build_tables(image, root, [(image_vaddr, variables), *zip(vaddrs, image.frames, strict=True)])
    spec.extra(image)

    layout = dict(_LAYOUT[spec.bits])
    keys |= {"SIZE(page)": layout.pop(""), **{f"OFFSET(page.{name})": at for name, at in layout.items()}}
    keys |= {"NUMBER(PG_lru)": LRU, "NUMBER(PG_private)": PRIVATE, "NUMBER(PG_slab)": SLAB}
    keys |= {"NUMBER(PG_swapcache)": 10, "NUMBER(PG_swapbacked)": SWAPBACKED, "NUMBER(PG_head_mask)": 1 << HEAD}
    keys |= {"NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)": BUDDY, "LENGTH(zone.free_area)": 11, "OFFSET(uts_namespace.name)": 0}
    keys |= spec.keys
    lines = {"OSRELEASE": spec.release, "PAGESIZE": spec.page_size} | keys
    text = "".join(f"{key}={value}\n" for key, value in lines.items()).encode()
    order = spec.elf_order or spec.order
    note = struct.pack(order + "III", 11, len(text), 0) + b"VMCOREINFO\0\0" + text + bytes(-len(text) % 4)
    _write_elf(path, image, note)
    kinds = np.array([DROPPED_BY[_kind(pfn)] for pfn in range(N_PAGES)])
    return np.array([(kinds & level) == 0 for level in range(32)])

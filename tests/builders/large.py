# SPDX-License-Identifier: GPL-2.0-or-later
"""A vmcore of a freshly booted machine with any amount of memory, a few dozen MiB on disk.

    python -m tests.builders.large --size 1T FILE

Nearly all of the memory is free, in blocks of the largest order. All struct pages can be read through the page tables,
as on a real machine; sections of equal content share their frames. What a filter has to find is told by the scalar
oracle, which looks at each distinct section once.
"""

from __future__ import annotations

import argparse
import json
import random
import struct
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from . import oracle
from .elf import Load
from .kernels import KERNELS, PAGE_SIZE, PAGES_PER_SECTION, Kernel
from .pages import Block, StructPages
from .vmcore import Description, Layout, build

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from .memory import Memory
    from .paging import PageTables

MIB, GIB = 1 << 20, 1 << 30
LAYOUT = Layout()
MAX_NBYTES = 1 << LAYOUT.max_physmem_bits
MIN_NBYTES = 8 * GIB
FREE = Block(0, "free", 10)
_WHOLE = np.ones(PAGES_PER_SECTION, bool)

#: Where a struct pglist_data lies; the numbers are those of Debian's 6.1.
NODE_PADDR = 14 * MIB
NODE_DATA_PADDR = NODE_PADDR - 2 * PAGE_SIZE
NODE_KEYS: dict[str, int] = {
    "SYMBOL(node_data)": LAYOUT.page_offset + NODE_DATA_PADDR,
    "LENGTH(node_data)": 1024,
    "SIZE(pglist_data)": 174208,
    "SIZE(zone)": 1536,
    "SIZE(free_area)": 88,
    "OFFSET(pglist_data.node_zones)": 0,
    "OFFSET(pglist_data.nr_zones)": 171552,
    "OFFSET(pglist_data.node_start_pfn)": 171560,
    "OFFSET(pglist_data.node_spanned_pages)": 171576,
    "OFFSET(pglist_data.node_id)": 171584,
    "OFFSET(zone.free_area)": 256,
    "OFFSET(zone.vm_stat)": 1344,
    "OFFSET(zone.spanned_pages)": 144,
    "OFFSET(free_area.free_list)": 0,
    "LENGTH(free_area.free_list)": 5,
    "NUMBER(NR_FREE_PAGES)": 0,
}


def _ram(size_nbytes: int, hole: tuple[int, int] | None) -> list[tuple[int, int]]:
    """RAM up to `size_nbytes`, with the holes of a PC, below 1 MiB and for devices below 4 GiB, and one more."""
    low = [(PAGE_SIZE, 0x9F000), (MIB, 3 * GIB)]
    return [*low, (4 * GIB, size_nbytes)] if hole is None else [*low, (4 * GIB, hole[0]), (hole[1], size_nbytes)]


def _blocks(size_nbytes: int, has_memmap: bool) -> list[Block]:
    """What isn't free: the kernel, what a system needs to boot, and 1/64 of the memory for the struct pages."""
    blocks = [Block(0, "kernel", count=0x8000)]
    if has_memmap:
        blocks.append(Block(0x100000, "kernel", count=size_nbytes // 64 // PAGE_SIZE))
    pfn = 0x8000
    for kind, order, count in [
        ("slab", 0, 9000),
        ("slab", 3, 900),
        ("lru", 0, 60000),
        ("lru", 4, 50),
        ("private", 0, 5000),
        ("tmpfs", 0, 3000),
        ("anon", 0, 30000),
        ("anon", 9, 20),
        ("ksm", 0, 10),
        ("hugetlb", 9, 8),
        ("offline", 0, 512),
        ("kernel", 0, 20001),
        *(("free", order, 3) for order in range(10)),
    ]:
        pfn = -(-pfn >> order) << order
        blocks.append(Block(pfn, kind, order, count, stale=kind == "free"))
        pfn += count << order
    return blocks


def mixed() -> list[Block]:
    """A section as of a machine that has run for long: short runs of pages of users and of caches, and free blocks.

    There are few pages of the kernel in it, so that it takes longer to tell what the pages are than to copy those.
    """
    kinds = ["anon"] * 100 + ["lru"] * 50 + ["private"] * 25 + ["tmpfs"] * 25 + ["kernel"]
    draw = random.Random(1)
    blocks, n = [], 0
    while n < PAGES_PER_SECTION:
        order = draw.randrange(7)
        if n % (1 << order) == 0 and draw.random() < 0.2:
            blocks.append(Block(0, "free", order))
        else:
            blocks.append(Block(0, draw.choice(kinds), count=min(draw.randint(1, 48), PAGES_PER_SECTION - n)))
        n += blocks[-1].n_pages
    return blocks


def classify(
    pages: StructPages, kernel: Kernel, loads: list[Load], level: int
) -> Iterator[tuple[int, np.ndarray, np.ndarray]]:
    """Each section's number, the pages of it that the dump has (bool), and their classes in `oracle.CLASSES` (uint8).

    Arrays of sections that are alike are the same objects. No block may leave its section.
    """
    known: dict[tuple[int, bytes], tuple[np.ndarray, np.ndarray]] = {}
    ranges = sorted((load.start // PAGE_SIZE, load.stop // PAGE_SIZE) for load in loads)
    for number in range(-(-ranges[-1][1] // PAGES_PER_SECTION)):
        first = number * PAGES_PER_SECTION
        present = _WHOLE
        if not any(start <= first and first + PAGES_PER_SECTION <= stop for start, stop in ranges):
            present = np.zeros(PAGES_PER_SECTION, bool)
            for start, stop in ranges:
                present[max(start - first, 0) : max(stop - first, 0)] = True
        data = pages.section(number)
        key = id(data), b"" if present is _WHOLE else present.tobytes()
        if key not in known:
            judge = oracle.Oracle(kernel.vmcoreinfo(), lambda *_, data=data: data, [(0, PAGES_PER_SECTION)], present)
            known[key] = present, judge.classify(level)
        yield number, *known[key]


def count_classes(pages: StructPages, kernel: Kernel, loads: list[Load], level: int) -> Counter[str]:
    """Pages of each class of `oracle.CLASSES` at a dump level, of those that the dump has."""
    counts: Counter[str] = Counter()
    known: dict[tuple[int, int], dict[str, int]] = {}
    for _, present, classes in classify(pages, kernel, loads, level):
        key = id(present), id(classes)
        if key not in known:
            numbers = np.bincount(classes[present], minlength=len(oracle.CLASSES)).tolist()
            known[key] = dict(zip(oracle.CLASSES, numbers, strict=True))
        counts.update(known[key])
    return counts


def describe(
    size_nbytes: int,
    has_memmap: bool = True,
    kernel: Kernel = KERNELS["6.1"],
    background: Block | Sequence[Block] = FREE,
    hole: tuple[int, int] | None = None,
) -> Description:
    """The machine whose RAM ends at `size_nbytes`; its kernel counts its free pages.

    `has_memmap` sets memory aside for the struct pages, which nothing is written to: they share other frames. All other
    memory is as `StructPages` takes it from `background`. At the addresses of `hole` there is none.
    """
    if not MIN_NBYTES <= size_nbytes <= MAX_NBYTES or size_nbytes % GIB:
        raise ValueError(f"{size_nbytes:#x} isn't a number of GiB from {MIN_NBYTES >> 30} to {MAX_NBYTES >> 30}")
    ram, blocks = _ram(size_nbytes, hole), _blocks(size_nbytes, has_memmap)
    pages = StructPages(kernel, LAYOUT.vmemmap, blocks, background)
    n_free = count_classes(pages, kernel, [Load(*bounds) for bounds in ram], oracle.FREE)["free"]

    def add_node(memory: Memory, tables: PageTables) -> None:
        at = {key: NODE_PADDR + value for key, value in NODE_KEYS.items() if key.startswith("OFFSET(pglist_data.")}
        memory.write(NODE_DATA_PADDR, struct.pack("<Q", LAYOUT.page_offset + NODE_PADDR))
        memory.write(NODE_PADDR + NODE_KEYS["OFFSET(zone.vm_stat)"], struct.pack("<q", n_free))
        memory.write(NODE_PADDR + NODE_KEYS["OFFSET(zone.spanned_pages)"], struct.pack("<Q", size_nbytes // PAGE_SIZE))
        memory.write(at["OFFSET(pglist_data.nr_zones)"], struct.pack("<I", 1))
        memory.write(at["OFFSET(pglist_data.node_spanned_pages)"], struct.pack("<Q", size_nbytes // PAGE_SIZE))

    return Description(
        kernel=kernel,
        ram=ram,
        blocks=blocks,
        background=background,
        layout=LAYOUT,
        fill=0,
        keys=NODE_KEYS,
        spoil=add_node,
    )


def parse_size(text: str) -> int:
    """Bytes from a number with the suffix G or T."""
    shift = {"G": 30, "T": 40}.get(text[-1:].upper())
    if shift is None or not text[:-1].isdecimal():
        raise argparse.ArgumentTypeError(f"{text!r} isn't a number of GiB or TiB, as 16G or 1T")
    return int(text[:-1]) << shift


def main() -> None:
    """Build a vmcore and print what a filter has to find in it, as JSON."""
    parser = argparse.ArgumentParser(prog="python -m tests.builders.large", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--size", type=parse_size, default="1T", help="where the RAM ends: 8G to 64T (default: 1T)")
    parser.add_argument("--without-memmap", action="store_true", help="no memory is set aside for the struct pages")
    parser.add_argument("--mixed", action="store_true", help="memory in use for everything, instead of free memory")
    parser.add_argument("--level", type=int, default=30, help="dump level of the page counts (default: 30)")
    parser.add_argument("file", type=Path, metavar="FILE")
    arguments = parser.parse_args()
    try:
        background = mixed() if arguments.mixed else FREE
        vmcore = build(arguments.file, describe(arguments.size, not arguments.without_memmap, background=background))
    except (OSError, ValueError) as error:
        arguments.file.unlink(missing_ok=True)
        parser.error(str(error))
    counts = count_classes(vmcore.pages, KERNELS["6.1"], vmcore.loads[1:], arguments.level)
    on_disk = arguments.file.stat().st_blocks * 512
    json.dump({"max_mapnr": vmcore.max_mapnr, "on_disk_nbytes": on_disk, **counts}, sys.stdout, indent=2)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()

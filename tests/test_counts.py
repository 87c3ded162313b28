# SPDX-License-Identifier: GPL-2.0-or-later
"""The self-check against what else the kernel says of its memory: its resources, its zones, its count of broken pages.

The dumps are of small machines whose kernel carries the tables that these are read from.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests import harness
from tests.builders.elf import Load
from tests.builders.kernels import KERNELS, SECTION_SIZE_BITS
from tests.builders.own import TABLES, isolated_list, write_node, write_own
from tests.builders.pages import POINTER, Block
from tests.builders.vmcore import PLAIN, Description, build
from tests.scanning import opened

if TYPE_CHECKING:
    from pathlib import Path

    from tests.builders.memory import Memory

SECTION = 1 << SECTION_SIZE_BITS
BASE = PLAIN.page_offset
STEXT = 0xFFFFFFFF81000000
RESOURCE = {name: (8 * i, 8) for i, name in enumerate(("start", "end", "name", "flags", "parent", "sibling", "child"))}
SYSTEM_RAM, MAY_BE_ADDED = 0x81000200, 0x09000200
KERNEL = KERNELS["7.2"]
FREE = [Block(0x2000, "free", 10, 4)]


def with_resources(memory: Memory, resources: list[tuple[int, int, int]]) -> dict[str, int]:
    """Write a tree of resources ``(start, stop, flags)``, all of them siblings below the root."""
    root = TABLES + 0x10000
    for i, (start, stop, flags) in enumerate([(0, 1 << 46, 0x200), *resources]):
        sibling = BASE + root + 64 * (i + 1) if 0 < i < len(resources) else 0
        child = BASE + root + 64 if i == 0 else 0
        memory.write(root + 64 * i, struct.pack("<7Q", start, stop - 1, 0, flags, 0, sibling, child))
    symbols = {"_stext": STEXT, "iomem_resource": BASE + root}
    return write_own(memory, TABLES, BASE, symbols, {"resource": (64, RESOURCE)})


def with_unnamed_resources(memory: Memory, resources: list[tuple[int, int, int]]) -> dict[str, int]:
    """The same in the image of a kernel that names neither symbols nor types, after words that begin as a root does.

    They follow init_uts_ns, in its page.
    """
    vaddr, name = STEXT - (16 << 20), 0x1001800
    copy, root = name + 0x40, name + 0x80
    memory.write(name, b"PCI mem\0")
    for at in (copy, root):
        memory.write(at, struct.pack("<8Q", 0, (1 << 46) - 1, vaddr + name, 0x200, 0, 0, 0, vaddr + root + 64))
    for i, (start, stop, flags) in enumerate(resources, 1):
        sibling = vaddr + root + 64 * (i + 1) if i < len(resources) else 0
        words = (start, stop - 1, 0, flags, 0, vaddr + root, sibling, 0)
        memory.write(root + 64 * i, struct.pack("<8Q", *words))
    return {}


def make(path: Path, ram: list[tuple[int, int]], blocks: list[Block], *writers, **more) -> Path:
    """Build a dump; each writer writes into its memory, and returns keys of VMCOREINFO."""
    keys: dict[str, int | str | None] = {}
    # The keys are put together after the memory was written.
    build(
        path,
        Description(
            ram=ram,
            kernel=KERNEL,
            blocks=blocks,
            fill=0,
            spoil=lambda memory, _: [keys.update(write(memory)) for write in writers] and None,
            keys=keys,
            **more,
        ),
    )
    return path


REST = (3 * SECTION, 4 * SECTION, SYSTEM_RAM)
TREES = {
    "pluggable": ([(0, 2 * SECTION, SYSTEM_RAM), (2 * SECTION, 3 * SECTION, MAY_BE_ADDED), REST], True),
    "gone": ([(0, 2 * SECTION, SYSTEM_RAM), REST], True),
    "ram": ([(0, 3 * SECTION, SYSTEM_RAM), REST], False),
    # A tree that doesn't know of most of what has struct pages isn't one to believe.
    "of another machine": ([(16 * SECTION, 20 * SECTION, SYSTEM_RAM)], False),
    "without RAM": ([(0, 4 * SECTION, 0x200)], False),
}


@pytest.mark.parametrize("write", [with_resources, with_unnamed_resources])
@pytest.mark.parametrize(("resources", "is_known"), TREES.values(), ids=TREES)
def test_memory_that_was_taken_away_is_no_doubt(tmp_path, resources, is_known, write) -> None:
    """The third section has no struct pages; whether it's the kernel's memory is for the resources to say."""

    path = make(
        tmp_path / "vmcore",
        [(1 << 20, 2 * SECTION), (3 * SECTION, 4 * SECTION)],
        FREE,
        lambda memory: write(memory, resources),
        lambda memory: write_node(memory, BASE, [(0x100, 4 * SECTION >> 12, 4096)]),
        loads=lambda loads: [*loads, Load(2 * SECTION, 3 * SECTION, BASE + 2 * SECTION)],
    )
    result = harness.run("-l", "-d31", "--strict", "--show-stats", path, tmp_path / "out")
    if is_known:
        assert result.returncode == 0, result.stderr
        assert "removed memory        : 0x0000000000008000" in result.stdout
    else:
        assert result.returncode == 1
        assert "32768 pages of memory, the first at 0x10000000" in result.stderr
        # Without --strict they are kept.
        assert "they are kept" in harness.run_ok("-l", "-d31", path, tmp_path / "out").stderr


ZONES = [(0x100, 0x1000), (0x1000, 0x4000), (0x4000, 0x8000)]
"""Zones of a machine of 128 MiB."""
N_FREE = (0, 0, 8192)
BLOCKS = [Block(0x4000, "free", 10, 8)]


@pytest.mark.parametrize("back", [16, 8], ids=["since 3.9", "before"])
@pytest.mark.parametrize(
    ("counts", "said"),
    [
        ((0, 0, 8192), None),
        # As many in all, but not where they are.
        ((0, 8192, 0), "8192 pages from page frame 0x4000 on were found to be free, but the kernel counts 0"),
        ((0, 0, 4096), "counts 4096: free pages are kept"),
        ((0, 4096, 8192), "0 pages from page frame 0x1000 on were found to be free, but the kernel counts 4096"),
    ],
    ids=["right", "elsewhere", "too many", "too few"],
)
def test_each_zone_has_its_free_pages(tmp_path, counts, said, back) -> None:
    zones = [(start, stop, n) for (start, stop), n in zip(ZONES, counts, strict=True)]
    path = make(tmp_path / "vmcore", [(1 << 20, 1 << 27)], BLOCKS, lambda memory: write_node(memory, BASE, zones, back))
    with opened(path) as scanner:
        scan = scanner.scan(31)
    warnings = "\n".join(scanner.said)
    assert (said is None) == (warnings == ""), warnings
    assert said is None or said in warnings
    is_kept = said is not None and "from page frame 0x1000" not in said
    assert scan.kept[0x4000:0x6000].all() == is_kept
    assert scan.kept[0x4000:0x6000].any() == is_kept


def test_isolated_blocks_are_free_and_not_counted(tmp_path) -> None:
    """Linux: account_freepages() passes over MIGRATE_ISOLATE; half of the free blocks are on its list."""
    zones = [(0x100, 0x8000, 4096)]
    head = isolated_list(0, 10)
    pfns = [0x4000, 0x4400, 0x4800, 0x4C00]
    links = [BASE + head, *(PLAIN.vmemmap + 64 * pfn + 8 for pfn in pfns), BASE + head]
    isolated = [
        Block(pfn, "free", 10, fields={"compound": links[i + 2], "prev": links[i]}) for i, pfn in enumerate(pfns)
    ]

    def write(memory: Memory) -> dict[str, int]:
        keys = write_node(memory, BASE, zones)
        memory.write(head, struct.pack("<2Q", links[1], links[-2]))
        return keys

    path = make(tmp_path / "vmcore", [(1 << 20, 1 << 27)], [*isolated, Block(0x5000, "free", 10, 4)], write)
    with opened(path) as scanner:
        assert not scanner.scan(31).kept[0x4000:0x6000].any()
    assert not scanner.said


def test_lazily_freed_memory_is_users(tmp_path) -> None:
    """MADV_FREE takes PG_swapbacked from anonymous pages (Linux 802a3a92ad7a, v4.12); all of a machine's may be so."""
    lazy = [Block(0x3000, "lru", count=4096, fields={"mapping": POINTER | 1})]
    path = make(tmp_path / "vmcore", [(1 << 20, 1 << 27)], lazy)
    with opened(path) as scanner:
        result = scanner.scan(31)
    assert not scanner.said
    assert not result.kept[0x3000:0x4000].any() and result.counts["USER"] == 4096


@pytest.mark.parametrize("counts", [(8192, 0), (4096, 4096)])
def test_zones_that_overlap_are_counted_together(tmp_path, counts) -> None:
    """ZONE_MOVABLE may lie within another; which of the two a page is in isn't told by its number."""
    zones = [(0x100, 0x8000, counts[0]), (0x4000, 0x8000, counts[1])]
    path = make(tmp_path / "vmcore", [(1 << 20, 1 << 27)], BLOCKS, lambda memory: write_node(memory, BASE, zones))
    with opened(path) as scanner:
        scanner.scan(31)
    assert not scanner.said


def test_a_zone_that_is_not_whole_may_have_more(tmp_path) -> None:
    """The upper half of the last zone isn't in the dump: what is free there can't be found."""
    zones = [(0x100, 0x4000, 0), (0x4000, 0xC000, 8192 + 16000)]
    path = make(tmp_path / "vmcore", [(1 << 20, 1 << 27)], BLOCKS, lambda memory: write_node(memory, BASE, zones))
    with opened(path) as scanner:
        assert not scanner.scan(31).kept[0x4000:0x6000].any()
    assert not scanner.said


def test_unaccepted_memory_counts_as_free(tmp_path) -> None:
    """Linux dcdfdd40fa82, v6.5: the kernel counts it in NR_FREE_PAGES; it is left out, and never read."""
    blocks = [Block(0x4000, "free", 10, 4), Block(0x5000, "unaccepted", 10, 4)]
    zones = [(0x100, 0x8000, 8192)]
    path = make(tmp_path / "vmcore", [(1 << 20, 1 << 27)], blocks, lambda memory: write_node(memory, BASE, zones))
    with opened(path) as scanner:
        kept = scanner.scan(31).kept
    assert not scanner.said
    assert not kept[0x4000:0x6000].any() and kept[0x6000:0x8000].all()


@pytest.mark.parametrize(("n_counted", "is_known"), [(60, True), (100, True), (58, False), (0, False)])
def test_no_more_pages_are_broken_than_the_kernel_counts(tmp_path, n_counted, is_known) -> None:
    """One more may be marked than is counted: memory_failure() marks a page before it counts it."""
    blocks = [Block(0x3000, "kernel", 0, 60, poison=(0,)), *FREE]

    def with_count(memory: Memory) -> dict[str, int]:
        at = TABLES + 0x10000
        memory.write(at, struct.pack("<q", n_counted))
        return write_own(memory, TABLES, BASE, {"_stext": STEXT, "num_poisoned_pages": BASE + at})

    path = make(tmp_path / "vmcore", [(1 << 20, 1 << 27)], blocks, with_count)
    with opened(path) as scanner:
        kept = scanner.scan(31).kept
    if is_known:
        assert not scanner.said and not kept[0x3000:0x303C].any()
    else:
        assert f"60 pages are marked as broken memory, but the kernel counts {n_counted}" in "\n".join(scanner.said)
        assert kept[0x3000:0x303C].all()
    assert not kept[0x2000:0x3000].any()


def test_marks_of_huge_pages_are_not_counted(tmp_path) -> None:
    """One mark stands for the whole of a huge page, and HVO shows it every 64 pages."""
    blocks = [Block(0x3000, "hugetlb", 9, 1, poison=(0,), hvo=True)]

    def with_count(memory: Memory) -> dict[str, int]:
        at = TABLES + 0x10000
        memory.write(at, struct.pack("<q", 1))
        return write_own(memory, TABLES, BASE, {"_stext": STEXT, "num_poisoned_pages": BASE + at})

    path = make(tmp_path / "vmcore", [(1 << 20, 1 << 27)], blocks, with_count)
    with opened(path) as scanner:
        scan = scanner.scan(16)
    assert not scanner.said
    assert np.count_nonzero(~scan.kept[0x3000:0x3200]) == 512

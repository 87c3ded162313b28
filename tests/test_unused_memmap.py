# SPDX-License-Identifier: GPL-2.0-or-later
"""``-e``: struct pages of pages that are left out are left out, too."""

from __future__ import annotations

import numpy as np
import pytest

import npdump
from npdump.kernel.memmap import find
from tests.builders.pages import Block
from tests.builders.vmcore import Description, build
from tests.harness import run, run_ok
from tests.readers import KdumpFile
from tests.readers.compare import pfn_digest

#: What makedumpfile head (b7587f1) keeps with ``-e --work-dir``: number of pages, and the digest of their PFNs; without
#: the page at 0x9f of x86_64-6.1, of which the vmcore has a part: --work-dir alone makes it count.
REFERENCES = {
    ("x86_64-5.10", 31): (16570, "37ec78f3769848e5"),
    ("x86_64-5.10", 8): (26538, "20454e7b9e0f0f2c"),
    ("x86_64-6.1", 31): (18543, "534c13dc4e78e728"),
    ("x86_64-6.1", 16): (36449, "400e0a640e90bdb9"),
    ("x86_64-7.2", 31): (19647, "4bdfb8bd1b1e3739"),
    ("x86_64-7.2", 16): (43025, "c1df3e32ade1d1ef"),
}
#: Machines whose memory map is mapped by page tables, by a linear mapping, or is one array.
#: With five levels of page tables makedumpfile takes other pages for the memory map.
OTHERS = ["machines/arm64-6.1", "machines/riscv64-6.12", "machines/i386-6.1-pae", "x86_64-6.1-la57"]


@pytest.mark.parametrize(("name", "level"), REFERENCES)
def test_the_same_pages_go_as_with_makedumpfile(name, level, distilled):
    n_pages, digest = REFERENCES[name, level]
    with npdump.open(distilled(name)) as dump:
        kept = np.flatnonzero(dump.scan(level, drop_memmap=True).kept)
    assert len(kept) == n_pages
    assert pfn_digest(kept).startswith(digest)


def needed_frames(dump, pfns) -> set[int]:
    """Where the struct pages of page frames are."""
    kernel = dump.kernel
    page_size, nbytes = kernel.page_size, kernel.facts.get("SIZE(page)")
    memmap = find(kernel, nbytes, dump.source.max_mapnr)
    found = set()
    for start, stop, vaddr in zip(memmap.pfn_starts, memmap.pfn_stops, memmap.vaddrs.tolist(), strict=True):
        own = pfns[(pfns >= start) & (pfns < stop)]
        for pfn in own.tolist():
            first = vaddr + (pfn - int(start)) * nbytes
            found |= {first // page_size, (first + nbytes - 1) // page_size}
    extents = [extent for page in found for extent in kernel.memory.extents(page * page_size, page_size)]
    return {extent.paddr // page_size for extent in extents if extent.paddr is not None}


@pytest.mark.parametrize("name", OTHERS)
def test_on_other_machines_only_struct_pages_go(name, distilled):
    with npdump.open(distilled(name)) as dump:
        plain, less = dump.scan(31), dump.scan(31, drop_memmap=True)
        gone = np.flatnonzero(plain.kept & ~less.kept)
        assert len(gone) == less.counts["MEMMAP"] > 0
        assert not needed_frames(dump, np.flatnonzero(plain.kept)) & set(gone.tolist())
        assert set(gone.tolist()) <= needed_frames(dump, np.flatnonzero(plain.ram & ~plain.kept))


def test_the_file_says_so_and_is_filtered_again(distilled, tmp_path):
    run_ok("-e", "-l", "-d", "31", distilled("x86_64-7.2"), tmp_path / "first")
    dump = KdumpFile(tmp_path / "first")
    assert dump.status & 0x10
    assert "the page structs of pages that were left out" in run_ok("info", tmp_path / "first").stdout

    again = run_ok("-l", "-d", "31", tmp_path / "first", tmp_path / "second", "--message-level", "4")
    assert again.stderr == ""
    second = KdumpFile(tmp_path / "second")
    assert second.status & 0x10
    assert second.kept.tolist() == dump.kept.tolist()


def test_bitmaps_in_parts_and_in_files_give_the_same(distilled, tmp_path):
    vmcore = distilled("x86_64-7.2")
    run_ok("-e", "--work-dir", tmp_path, "--cyclic-buffer", "1", "-l", "-d", "31", vmcore, tmp_path / "dump")
    n_pages, digest = REFERENCES["x86_64-7.2", 31]
    kept = KdumpFile(tmp_path / "dump").kept
    assert len(kept) == n_pages
    assert pfn_digest(kept).startswith(digest)


@pytest.mark.parametrize("leaf", ["4K", "2M"])
def test_a_page_that_struct_pages_of_others_share_stays(leaf, tmp_path):
    """With HVO the struct pages of a huge page share one page, and equal ones share theirs in what is built here."""
    free = [Block(pfn, "free", 10) for pfn in range(0x10000, 0x14000, 1 << 10)]
    huge = [Block(pfn, "hugetlb", 9, hvo=leaf == "4K") for pfn in range(0x14000, 0x16000, 1 << 9)]
    build(tmp_path / "vmcore", Description([(0, 512 << 20)], blocks=[*free, *huge], leaf=leaf))
    with npdump.open(tmp_path / "vmcore") as dump:
        plain, less = dump.scan(24), dump.scan(24, drop_memmap=True)
        gone = set(np.flatnonzero(plain.kept & ~less.kept).tolist())
        assert gone
        assert not needed_frames(dump, np.flatnonzero(plain.kept)) & gone


def test_it_needs_to_know_the_kernel(distilled, tmp_path):
    refused = run("-e", "-d", "1", distilled("machines/x86_64-6.1-xen"), tmp_path / "dump")
    assert refused.returncode == 1
    assert "-e is for kernels that run on the machine itself" in refused.stderr
    assert not (tmp_path / "dump").exists()

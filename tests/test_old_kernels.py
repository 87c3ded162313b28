# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernels before 4.4, of which no real dump can be had here: built by the tests' own builder, by layout."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest

from tests import harness, peers
from tests.builders.old import PAGE_3_2, OldKernel, build
from tests.readers import open_dump
from tests.readers.compare import difference

#: Page cache and user memory go at the one, page cache with buffers and free memory at the other.
LEVELS = (10, 20)
KERNELS = {
    "2.6.24 discontiguous": OldKernel("2.6.24", "discontiguous"),
    "2.6.24 static sections": OldKernel("2.6.24", "static"),
    "2.6.24 sections": OldKernel("2.6.24", "extreme"),
    "2.6.27 flat": OldKernel("2.6.27.1", "flat"),
    "2.6.30 vmemmap": OldKernel("2.6.30", "vmemmap", physmem_bits=44),
    "2.6.32 PG_buddy": OldKernel("2.6.32-5-amd64", "vmemmap", "flag", physmem_bits=46),
    "2.6.38": OldKernel("2.6.38", "vmemmap", "mapcount", buddy_mapcount=-2, physmem_bits=46),
    "3.2": OldKernel("3.2.0-4-amd64", "vmemmap", "mapcount", PAGE_3_2, buddy_mapcount=-128, physmem_bits=46),
    "3.16 tells": OldKernel(
        "3.16.0-4-amd64",
        "vmemmap",
        "mapcount",
        PAGE_3_2,
        buddy_mapcount=-128,
        physmem_bits=46,
        keys={"NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)": -128, "NUMBER(PG_slab)": 7, "NUMBER(PG_head_mask)": 1 << 14},
    ),
}


@pytest.fixture(scope="module", params=KERNELS)
def vmcore(request, tmp_path_factory):
    return build(tmp_path_factory.mktemp("old") / "vmcore", KERNELS[request.param])


def test_pages_by_level(vmcore, tmp_path):
    for level in LEVELS:
        result = harness.run_ok("-l", "-d", str(level), vmcore.path, tmp_path / f"{level}")
        assert difference(open_dump(tmp_path / f"{level}").bitmap2, vmcore.kept(level)) == "", f"level {level}"
        assert "warning" not in result.stderr


def test_makedumpfile_says_the_same(vmcore, tmp_path):
    makedumpfile = peers.makedumpfile_for(vmcore.keys["OSRELEASE"])
    for level in LEVELS:
        peers.run_makedumpfile(makedumpfile, "-l", "-d", str(level), vmcore.path, tmp_path / f"{level}")
        assert difference(open_dump(tmp_path / f"{level}").bitmap2, vmcore.kept(level)) == "", f"level {level}"


def test_a_damaged_free_list_keeps_its_pages(tmp_path):
    """The rest of the list behind the damage is kept, and nothing else."""
    kernel = KERNELS["2.6.24 discontiguous"]
    whole = build(tmp_path / "whole", kernel)
    broken = build(tmp_path / "broken", replace(kernel, spoils_free_list=True))
    result = harness.run_ok("-l", "-d16", broken.path, tmp_path / "dump")
    kept = open_dump(tmp_path / "dump").bitmap2
    assert "1 free lists are damaged" in result.stderr
    assert not (whole.kept(16) & ~kept).any()
    assert 0 < (kept & ~whole.kept(16)).sum() < 20


def test_nodes_that_overlap(tmp_path):
    """Pages that two nodes claim are kept; those of one are told apart as ever."""
    vmcore = build(tmp_path / "vmcore", replace(KERNELS["2.6.24 discontiguous"], first_node_npages=(132 << 20) // 4096))
    result = harness.run_ok("-l", "-d8", vmcore.path, tmp_path / "dump")
    wanted = vmcore.kept(8)
    both = slice((128 << 20) // 4096, (132 << 20) // 4096 + 256)
    wanted[both] = vmcore.dropped_by[both] >= 0
    assert difference(open_dump(tmp_path / "dump").bitmap2, wanted) == ""
    assert "no plausible memory map" in result.stderr


def test_explain_knows_of_free_lists(tmp_path):
    vmcore = build(tmp_path / "vmcore", KERNELS["2.6.24 static sections"])
    pfn = int(np.flatnonzero(vmcore.dropped_by == 16)[-1])
    story = json.loads(harness.run_ok("explain", "--json", vmcore.path, f"pfn:{pfn}").stdout)
    free_at = sorted(int(level) for level, name in story["class_by_level"].items() if name == "FREE")
    assert free_at == list(range(16, 32))
    assert story["block_npages"] == 1024

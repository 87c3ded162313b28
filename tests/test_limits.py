# SPDX-License-Identifier: GPL-2.0-or-later
"""Outputs with too little room: a dump ends after the last whole page that fits, and says that it's incomplete."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests import harness
from tests.builders.kernels import KERNELS
from tests.builders.vmcore import Description, build
from tests.readers import ElfDump, KdumpFile
from tests.readers.elf import PAGE_SIZE
from tests.readers.kdump import INCOMPLETE
from tests.readers.validate import problems

if TYPE_CHECKING:
    from pathlib import Path

MIB = 1 << 20


@pytest.fixture(scope="module")
def vmcore(tmp_path_factory):
    """Two dozen batches of pages, none of which is like another."""
    path = tmp_path_factory.mktemp("limits") / "vmcore"
    build(path, Description(kernel=KERNELS["6.12"], ram=[(MIB, 48 * MIB)], fill=1))
    return path


@pytest.fixture(scope="module")
def real():
    """A real vmcore, with zero pages and pages that are alike."""
    return harness.distilled_vmcore("x86_64-6.1")


def limited(limit_nbytes: int, *args) -> Path:
    """Run npdump with -L, which has to be reached, and pages in order; the last argument is the output."""
    result = harness.run("-f", "--no-vital-first", "-L", str(limit_nbytes), *args)
    assert result.returncode == 1
    assert "(-L) is reached" in result.stderr
    return args[-1]


def assert_first_pages(path: Path, whole: KdumpFile, limit_nbytes: int) -> None:
    """The file has those pages of the whole dump that come before the first that doesn't fit, and no other byte."""
    stops = whole.descriptors["offset"] + whole.descriptors["size"]
    n = int(np.argmax(stops > limit_nbytes))
    assert 0 < n < len(stops)
    cut = KdumpFile(path)
    assert cut.status == whole.status | INCOMPLETE
    assert not problems(path, complete=False)
    assert (cut.bitmap2 == whole.bitmap2).all()
    assert (cut.descriptors[:n] == whole.descriptors[:n]).all()
    assert not cut.descriptors[n:].view(np.uint8).any()
    assert len(cut.data) == max(stops[:n].max(), whole.data_offset)
    assert cut.data[whole.data_offset :] == whole.data[whole.data_offset : len(cut.data)]


def limits_of(whole: KdumpFile) -> list[int]:
    """One byte less than the end of a page of the first batch, the end of one in the middle, a byte more at the end."""
    stops = np.unique(whole.descriptors["offset"] + whole.descriptors["size"])
    stops = stops[stops > whole.data_offset].tolist()
    return [stops[int(len(stops) * share)] + more for share, more in ((0.005, -1), (0.6, 0), (0.99, 1))]


@pytest.mark.parametrize("n_workers", ["1", "3"])
@pytest.mark.parametrize("options", [("-d", "0"), ("-l", "-d", "1"), ("-z", "-d", "31", "--no-share")])
def test_every_page_that_fits_is_there(options, n_workers, vmcore, real, tmp_path):
    options = (*options, "--num-threads", n_workers, vmcore if "0" in options else real)
    harness.run_ok(*options, tmp_path / "whole")
    whole = KdumpFile(tmp_path / "whole")
    for limit in limits_of(whole):
        assert_first_pages(limited(limit, *options, tmp_path / "cut"), whole, limit)


@pytest.mark.parametrize("codec", ["-l", "-z"])
def test_copied_pages_too(codec, real, tmp_path):
    """From a dump that is compressed already: the same as it was, or another way."""
    harness.run_ok("-l", "-d", "0", real, tmp_path / "first")
    options = (codec, "-d", "31", tmp_path / "first")
    harness.run_ok(*options, tmp_path / "whole")
    whole = KdumpFile(tmp_path / "whole")
    for limit in limits_of(whole):
        assert_first_pages(limited(limit, *options, tmp_path / "cut"), whole, limit)


def test_the_system_s_limit_does_as_l(vmcore, tmp_path):
    limit = 20 * MIB + 1234
    expected = limited(limit, "-d", "0", vmcore, tmp_path / "limited").read_bytes()
    for n_workers in ("1", "3"):
        path = tmp_path / f"system{n_workers}"
        result = harness.run("-d", "0", "--num-threads", n_workers, vmcore, path, file_nbytes=limit)
        assert result.returncode == 1
        assert path.read_bytes() == expected


@pytest.mark.parametrize("n_workers", ["1", "3"])
def test_a_full_disk_is_full(n_workers, vmcore, small_disk, tmp_path):
    """Room that one batch doesn't get is not lost to what another wrote behind it."""
    disk = small_disk(20)
    dump = disk / "dump"
    result = harness.run("-d", "0", "--num-threads", n_workers, vmcore, dump)
    assert result.returncode == 1
    assert "space" in result.stderr
    harness.run_ok("-d", "0", vmcore, tmp_path / "whole")
    whole = KdumpFile(tmp_path / "whole")
    # The file's holes take no room: what fits is known only by what is there.
    assert_first_pages(dump, whole, dump.stat().st_size)
    status = os.statvfs(disk)
    assert status.f_bfree * status.f_bsize < 2 * PAGE_SIZE
    assert dump.stat().st_blocks * 512 > 19 * MIB


@pytest.mark.parametrize("level", ["0", "1"])
def test_no_room_for_any_page(level, real, tmp_path):
    """A limit that the tables alone pass leaves no file, nor one that is larger than the limit."""
    harness.run_ok("-l", "-d", level, real, tmp_path / "whole")
    whole = KdumpFile(tmp_path / "whole")
    for limit in (1, 5000, whole.descriptors_offset + 100, whole.data_offset - 1):
        result = harness.run("-l", "-d", level, "-L", str(limit), real, tmp_path / "cut")
        assert result.returncode == 1
        assert "(-L) is reached" in result.stderr
        assert not (tmp_path / "cut").exists()


@pytest.mark.parametrize(("level", "share"), [("0", 0.5), ("31", 0.02), ("31", 0.97)])
def test_elf(level, share, real, tmp_path):
    harness.run_ok("-E", "-d", level, real, tmp_path / "whole")
    whole = ElfDump(tmp_path / "whole")
    limit = int(len(whole.data) * share)
    for more in (0, 4095):
        path = limited(limit + more, "-E", "-d", level, real, tmp_path / "cut")
        cut = ElfDump(path)
        assert cut.flags & 1
        assert limit + more - PAGE_SIZE < len(cut.data) <= limit + more
        assert cut.data[cut.headers_end :] == whole.data[cut.headers_end : len(cut.data)]
        ends = [load.offset + load.filesz for load in cut.loads if load.filesz]
        assert max(ends) == len(cut.data)
        assert [load for load in cut.loads if (load.paddr + load.filesz) % PAGE_SIZE] == []
        shorter = [(ours, theirs) for ours, theirs in zip(cut.loads, whole.loads, strict=True) if ours != theirs]
        for ours, theirs in shorter:
            assert ours == theirs._replace(filesz=ours.filesz, offset=theirs.offset if ours.filesz else 0)
        assert all(theirs.offset + theirs.filesz > len(cut.data) for _, theirs in shorter)

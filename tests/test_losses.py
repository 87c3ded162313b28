# SPDX-License-Identifier: GPL-2.0-or-later
"""One page that can't be had: it is lost, counted and said, and all others are in the dump."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests import harness
from tests.builders.kernels import KERNELS
from tests.builders.pages import Block
from tests.builders.vmcore import Description, build
from tests.readers import open_dump

if TYPE_CHECKING:
    from pathlib import Path

KDUMP_INCOMPLETE, ELF_INCOMPLETE = 8, 1


@pytest.fixture(scope="module")
def vmcore(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("losses") / "vmcore"
    blocks = [Block(0x800, "free", 9, 2)]
    build(path, Description(ram=[(1 << 20, 16 << 20)], kernel=KERNELS["6.12"], blocks=blocks, fill=2))
    return path


@pytest.fixture
def damaged(vmcore, tmp_path) -> tuple[Path, int]:
    """A dump with one stored page that doesn't uncompress, and which page that is."""
    path = tmp_path / "damaged"
    harness.run_ok("-c", "-d1", vmcore, path)
    dump = open_dump(path)
    # The first one that is compressed: nothing of the kernel's is there, and no other page shares it.
    at = next(index for index, entry in enumerate(dump.descriptors) if entry["flags"])
    assert [int(entry["offset"]) for entry in dump.descriptors].count(int(dump.descriptors[at]["offset"])) == 1
    offset, nbytes = (int(dump.descriptors[at][name]) for name in ("offset", "size"))
    data = bytearray(path.read_bytes())
    data[offset : offset + nbytes] = b"\xff" * nbytes
    path.write_bytes(data)
    return path, int(dump.pfns[at])


@pytest.mark.parametrize("options", [("-c", "-d31"), ("-c", "-d1"), ("-l", "-d31")])
def test_a_page_that_does_not_uncompress(options, damaged, vmcore, tmp_path) -> None:
    path, lost = damaged
    result = harness.run_ok(*options, path, tmp_path / "out")
    assert f"page {lost:#x}" in result.stderr
    assert "1 pages could not be had" in result.stderr
    harness.run_ok(*options, vmcore, tmp_path / "wanted")
    dump, wanted = open_dump(tmp_path / "out"), open_dump(tmp_path / "wanted")
    assert dump.status & KDUMP_INCOMPLETE
    assert dump.pfns.tolist() == wanted.pfns.tolist()
    assert [pfn for pfn in dump.pfns.tolist() if dump.is_lost(pfn)] == [lost]
    assert all(dump.page(pfn) == wanted.page(pfn) for pfn in dump.pfns.tolist() if pfn != lost)
    # The next filter says it as well.
    assert "1 pages were lost" in harness.run_ok("-l", "-d31", tmp_path / "out", tmp_path / "again").stderr


@pytest.mark.parametrize("options", [("-c", "-d1"), ("-l", "-d0"), ("-E", "-d0")])
def test_pages_that_are_stored_once_are_counted_each(options, damaged, tmp_path) -> None:
    """The descriptors of two pages lead to the damaged one: one of the next page, and one far behind."""
    path, lost = damaged
    dump = open_dump(path)
    first = dump.pfns.tolist().index(lost)
    entry = dump.descriptors[first].tobytes()
    with open(path, "r+b") as file:
        for at in (first + 1, first + 3000):
            file.seek(dump.descriptors_offset + at * dump.descriptors.itemsize)
            file.write(entry)
    result = harness.run_ok(*options, path, tmp_path / "out")
    assert "3 pages could not be had" in result.stderr
    if "-E" not in options:
        made = open_dump(tmp_path / "out")
        assert sum(made.is_lost(pfn) for pfn in made.pfns.tolist()) == 3


def test_a_page_that_does_not_uncompress_in_elf(damaged, tmp_path) -> None:
    path, lost = damaged
    assert f"page {lost:#x}" in harness.run_ok("-E", "-d31", path, tmp_path / "out").stderr
    dump = open_dump(tmp_path / "out")
    assert dump.status & ELF_INCOMPLETE
    assert not any(dump.page(lost))


def test_a_stream_with_a_lost_page_has_no_end(damaged, tmp_path) -> None:
    path, _ = damaged
    with open(tmp_path / "flat", "wb") as flat:
        result = harness.run("-F", "-c", "-d31", path, stdout=flat)
    assert result.returncode == 1
    with open(tmp_path / "flat", "rb") as flat:
        command = [*harness.npdump_command(), "-R", tmp_path / "out"]
        subprocess.run(command, stdin=flat, check=False, capture_output=True, cwd=harness.REPOSITORY)
    assert open_dump(tmp_path / "out").status & KDUMP_INCOMPLETE


def test_without_verifying_it_is_copied(damaged, tmp_path) -> None:
    path, lost = damaged
    harness.run_ok("-c", "-d31", "--no-verify", path, tmp_path / "out")
    dump = open_dump(tmp_path / "out")
    assert not dump.status & KDUMP_INCOMPLETE
    assert not dump.is_lost(lost)


@pytest.mark.skipif(shutil.which("strace") is None, reason="strace(1) makes a system call fail")
@pytest.mark.parametrize("form", ["-l", "-E"])
def test_a_page_that_can_not_be_read(form, vmcore, tmp_path) -> None:
    """From the 60th read on a whole run of them fails: pages are lost, and it's a failure."""
    inject = ["strace", "-f", "-qq", "-o", tmp_path / "trace", "-P", vmcore, "-e", "trace=preadv,preadv2,pread64"]
    inject += ["-e", "inject=preadv,preadv2,pread64:error=EIO:when=60..62"]
    command = [*inject, *harness.npdump_command(), "--non-mmap", form, "-d1", vmcore, tmp_path / "out"]
    result = subprocess.run(command, capture_output=True, text=True, check=False, cwd=harness.REPOSITORY)
    if "(INJECTED)" not in (tmp_path / "trace").read_text():
        pytest.fail("no read failed")
    dump = open_dump(tmp_path / "out")
    if result.returncode:
        assert "could not be had" in result.stderr
        assert dump.status & (KDUMP_INCOMPLETE if form == "-l" else ELF_INCOMPLETE)
    else:
        # All of them were read at the second try.
        assert not dump.status & (KDUMP_INCOMPLETE if form == "-l" else ELF_INCOMPLETE)

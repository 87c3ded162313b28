# SPDX-License-Identifier: GPL-2.0-or-later
"""Fujitsu's stand-alone dumps: what is made of them is what is made of the same memory in an ELF file."""

import datetime
import json
import shutil
import struct

import numpy as np
import pytest

from tests import harness
from tests.builders.sadump import BLOCK, Machine, write_sadump
from tests.readers import notes
from tests.readers.elf import ElfDump
from tests.readers.kdump import KdumpFile

REGISTERS = {"rip": 0xFFFFFFFF81000010, "rsp": 0xFFFFC90000001000, "r12": 12, "rdi": 5, "rflags": 0x46, "cs": 0x10}
N_DISKS = 3


@pytest.fixture(scope="module")
def expected(tmp_path_factory):
    """The ELF file's dumps, by level."""
    made = {level: tmp_path_factory.mktemp("elf") / f"{level}" for level in (1, 31)}
    for level, path in made.items():
        harness.run_ok("-d", str(level), harness.distilled_vmcore("x86_64-6.1"), path)
    return {level: KdumpFile(path) for level, path in made.items()}


@pytest.fixture(scope="module")
def machine(expected):
    vmcore = ElfDump(harness.distilled_vmcore("x86_64-6.1"))
    # Pages of which the ELF file has a part alone are no memory to the firmware.
    pages = {int(pfn): vmcore.read(int(pfn) * BLOCK, BLOCK) for pfn in np.flatnonzero(expected[1].bitmap1)}
    return Machine(sorted(pages), pages.__getitem__, [REGISTERS, {}], (2026, 3, 1, 12, 30, 15, -60))


@pytest.fixture(scope="module")
def dumps(machine, tmp_path_factory):
    """A dump on a partition without blocks for zero pages, on a set of disks, and on a medium; by name, the files."""
    folder = tmp_path_factory.mktemp("sadump")
    made = {
        "partition": [folder / "partition"],
        "set": [folder / f"disk{number}" for number in range(1, N_DISKS + 1)],
        "medium": [folder / "medium"],
    }
    write_sadump(made["partition"], machine, drops=lambda page: not any(page))
    write_sadump(made["set"], machine)
    write_sadump(made["medium"], machine, medium=True)
    return made


@pytest.mark.parametrize("name", ["partition", "set", "medium"])
@pytest.mark.parametrize("level", [1, 31])
def test_pages_are_those_of_the_elf_file(name, level, dumps, expected, tmp_path):
    # Disks in any order; two of the three ways to name them.
    inputs = [*reversed(dumps[name])] if level == 1 else [f"--diskset={path}" for path in dumps[name]]
    harness.run_ok("-d", str(level), *(inputs if name == "set" else dumps[name]), tmp_path / "dump")
    made = KdumpFile(tmp_path / "dump")
    assert np.array_equal(made.kept, expected[level].kept)
    assert np.array_equal(made.bitmap1, expected[level].bitmap1)
    assert all(made.page(pfn) == expected[level].page(pfn) for pfn in made.kept[::7])


def test_registers_and_time_are_carried_over(dumps, tmp_path):
    harness.run_ok("-d", "31", *dumps["partition"], tmp_path / "dump")
    made = KdumpFile(tmp_path / "dump")
    states = [note.desc for note in notes.iter_notes(made.notes) if note.n_type == 1]
    assert [len(state) for state in states] == [336, 336]
    # struct elf_prstatus: registers from byte 112 on, in the order of struct user_regs_struct.
    registers = struct.unpack_from("<27Q", states[0], 112)
    at = {"r12": 3, "rdi": 14, "rip": 16, "cs": 17, "rflags": 18, "rsp": 19}
    assert {name: registers[i] for name, i in at.items()} == {name: REGISTERS[name] for name in at}
    local = datetime.datetime(2026, 3, 1, 12, 30, 15, tzinfo=datetime.UTC)
    assert made.fields["tv_sec"] == int(local.timestamp()) - 60 * 60
    assert made.fields["dump_level"] == 31


def test_info_knows_its_kernel(dumps):
    info = json.loads(harness.run_ok("info", "--json", *dumps["set"]).stdout)
    assert info["release"] == "6.1.0-56-cloud-amd64"
    assert info["format"].startswith("sadump, on a set of 3 disks,")


def test_zero_pages_without_a_block_read_as_zeros(dumps, tmp_path):
    harness.run_ok("-E", *dumps["partition"], tmp_path / "core")
    vmcore, core = ElfDump(harness.distilled_vmcore("x86_64-6.1")), ElfDump(tmp_path / "core")
    zero = next(int(pfn) for pfn in vmcore.kept if not any(vmcore.read(int(pfn) * BLOCK, BLOCK)))
    assert core.read(zero * BLOCK, BLOCK) == bytes(BLOCK)


def refused(*args):
    result = harness.run("-d", "1", *args, "none")
    assert result.returncode == 1
    line = result.stderr.splitlines()[0]
    assert "Traceback" not in result.stderr
    return line


def test_sets_that_are_not_whole_are_refused_by_name(dumps):
    one, two, three = dumps["set"]
    assert "is disk 2 of a set" in refused(two)
    assert "a set of 3 disks, and 1 are given" in refused(one)
    assert "disk 2 is missing" in refused(one, three)
    assert "disk 2 is given twice" in refused(one, two, two)
    assert "is a dump on one partition: give it alone" in refused(*dumps["partition"], two)
    assert "--diskset with --split" in refused("--split", f"--diskset={one}", "part")


def damaged(path, tmp_path, offset, data):
    copy = tmp_path / path.name
    shutil.copyfile(path, copy)
    with open(copy, "r+b") as file:
        file.seek(offset)
        file.write(data)
    return copy


DAMAGE = {
    "pattern": (0xA8 + 40, b"\1\2\3\4", "its test pattern is wrong"),
    "no header": (BLOCK, b"nothing!", "has no sadump header"),
    "block size": (BLOCK + 0x28, struct.pack("<I", 7), "has no sadump header"),
    "max_mapnr": (BLOCK + 0x58, struct.pack("<Q", 1 << 60), "don't fit into bitmaps"),
    "sub header": (BLOCK + 0x30, struct.pack("<I", 1 << 31), "before the end of its bitmaps"),
}


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_headers_get_one_line(kind, dumps, tmp_path):
    offset, data, words = DAMAGE[kind]
    assert words in refused(damaged(dumps["partition"][0], tmp_path, offset, data))


def test_another_set_s_disk_is_refused(dumps, tmp_path):
    one, two, three = dumps["set"]
    assert "is of another disk set" in refused(one, damaged(two, tmp_path, 0x58, b"\xff"), three)
    assert "it has another volume id" in refused(one, two, damaged(three, tmp_path, 0x78, b"\xff"))


def test_a_dump_that_was_cut_is_read_as_far_as_it_goes(dumps, tmp_path):
    cut = tmp_path / "cut"
    shutil.copyfile(dumps["medium"][0], cut)
    nbytes = cut.stat().st_size
    with open(cut, "r+b") as file:
        file.truncate(nbytes - 1000 * BLOCK - 1)
    result = harness.run_ok("-d", "0", cut, tmp_path / "dump")
    assert "is incomplete: 1001 pages were lost" in result.stderr
    made = KdumpFile(tmp_path / "dump")
    assert len(made.kept) == np.count_nonzero(made.bitmap1) - 1001

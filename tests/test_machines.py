# SPDX-License-Identifier: GPL-2.0-or-later
"""Real vmcores of other machines than x86_64: big-endian, 32-bit and 64 KiB-page ones among them.

The references are those of makedumpfile on the machine itself, from the whole vmcores.
"""

from __future__ import annotations

import re
import struct

import pytest

from tests.harness import reference, run, run_ok, sparse_copy
from tests.judging import check_all_levels, check_level
from tests.readers import ElfDump, open_dump
from tests.readers.validate import Machine

#: What each one's dump file says of the machine, by fixture; the vmcores of the corpus are the same ones, whole.
MACHINES = {
    "arm64-6.1": Machine("aarch64", 4096),
    "i386-6.1-pae": Machine("i686", 4096),
    "loongarch64-7.2-qemu": Machine("loongarch64", 16384),
    "ppc64el-6.1": Machine("ppc64le", 65536),
    "riscv64-6.12": Machine("riscv64", 4096),
    "s390x-6.1-qemu": Machine("s390x", 4096, ">"),
}
CORPUS = {
    "arm64-6.1": "arm64-6.1-512M",
    "i386-6.1-pae": "i386-pae-1G",
    "loongarch64-7.2-qemu": "loong64-7.2-1G-qmp",
    "ppc64el-6.1": "ppc64el-6.1-768M",
    "riscv64-6.12": "riscv64-6.12-512M",
    "s390x-6.1-qemu": "s390x-6.1-512M-qmp",
}


@pytest.mark.parametrize("name", MACHINES)
def test_all_levels_keep_what_the_reference_keeps(name, distilled):
    check_all_levels(distilled(f"machines/{name}"), reference(f"machines/{name}"))


@pytest.mark.parametrize("level", [0, 31])
@pytest.mark.parametrize("name", MACHINES)
def test_dumps_are_the_references(name, level, distilled, tmp_path):
    check_level(distilled(f"machines/{name}"), reference(f"machines/{name}"), level, tmp_path, machine=MACHINES[name])


@pytest.mark.parametrize("level", [1, 31])
@pytest.mark.parametrize("name", MACHINES)
def test_dumps_of_the_whole_vmcore_are_the_references(name, level, corpus, tmp_path):
    vmcore = corpus(CORPUS[name])
    wanted = reference(CORPUS[name])
    assert "content" in wanted.levels[level]
    check_level(vmcore, wanted, level, tmp_path, machine=MACHINES[name])


@pytest.mark.parametrize(("machine", "words"), [(15, "parisc"), (0x9026, "alpha"), (0x7777, "e_machine 30583")])
def test_a_machine_that_is_not_known_is_named(machine, words, distilled, tmp_path):
    e_machine = {18: struct.pack(MACHINES["ppc64el-6.1"].order + "H", machine)}
    vmcore = sparse_copy(distilled("machines/ppc64el-6.1"), tmp_path / "vmcore", e_machine)
    refused = run("-d", "31", vmcore, tmp_path / "dump")
    assert refused.returncode == 1
    assert words in refused.stderr
    assert "only dump levels 0 and 1" in refused.stderr
    assert not (tmp_path / "dump").exists()
    if words == "parisc":
        run_ok("-d", "1", vmcore, tmp_path / "dump")
        kept = reference("machines/ppc64el-6.1").kept(0).nonzero()[0]
        assert open_dump(tmp_path / "dump").pfns.tolist() == kept.tolist()


@pytest.mark.parametrize(
    ("name", "release"),
    [("s390x-6.1-qemu", "6.1.0-50-s390x"), ("loongarch64-7.2-qemu", "7.2.13+deb14-loong64")],
)
def test_vmcoreinfo_of_memory_becomes_a_note_of_the_dump(name, release, distilled, tmp_path):
    vmcore = distilled(f"machines/{name}")
    with open(vmcore, "rb") as file:
        assert b"VMCOREINFO" not in file.read(4096)
    run_ok("-d", "31", vmcore, tmp_path / "dump")
    dump = open_dump(tmp_path / "dump")
    assert dump.vmcoreinfo.startswith(f"OSRELEASE={release}\n".encode())
    assert dump.vmcoreinfo.endswith(b"\n")
    assert dump.utsname["release"] == release


def test_without_vmcoreinfo_in_memory_only_zero_pages_go(distilled, tmp_path):
    true = distilled("machines/s390x-6.1-qemu")
    texts = re.finditer(b"OSRELEASE=", ElfDump(true).data)
    vmcore = sparse_copy(true, tmp_path / "vmcore", {text.start(): b"osrelease=" for text in texts})
    refused = run("-d", "31", vmcore, tmp_path / "dump")
    assert refused.returncode == 1
    assert "VMCOREINFO" in refused.stderr
    run_ok("-d", "1", vmcore, tmp_path / "dump")
    assert (
        open_dump(tmp_path / "dump").pfns.tolist() == reference("machines/s390x-6.1-qemu").kept(0).nonzero()[0].tolist()
    )


@pytest.mark.parametrize("name", [name for name in MACHINES if not name.startswith("loongarch64")])  # it knows none
def test_libkdumpfile_reads_the_pages(name, corpus, tmp_path):
    drgn = pytest.importorskip("drgn", reason="drgn reads dump files through libkdumpfile")
    run_ok("-d", "31", corpus(CORPUS[name]), tmp_path / "dump")
    dump = open_dump(tmp_path / "dump")
    program = drgn.Program()
    program.set_core_dump(tmp_path / "dump")
    assert bool(program.platform.flags & drgn.PlatformFlags.IS_LITTLE_ENDIAN) == (dump.order == "<")
    assert bool(program.platform.flags & drgn.PlatformFlags.IS_64_BIT) == (dump.bits == 64)
    for pfn in dump.pfns[:: len(dump.pfns) // 50].tolist():
        assert program.read(pfn * dump.block_size, dump.block_size, physical=True) == dump.page(pfn)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Input that is wrong in some way: one clear line, exit 1, nothing lost, nothing left that looks whole."""

import os
import struct
import subprocess
from pathlib import Path

import pytest

from tests.builders import oracle
from tests.builders.kernels import KERNELS
from tests.builders.pages import Block
from tests.builders.vmcore import PLAIN, Description, build
from tests.readers import open_dump
from tests.readers.kdump import INCOMPLETE

MIB = 1 << 20
MEMORY_NBYTES = 2 << 30
SECONDS = 60


def small(**changes):
    kernel = KERNELS["6.12"]
    blocks = [Block(0x2000, "free", 10, 2), Block(0x3000, "lru", 0, 50), Block(0x3100, "anon", 0, 50)]
    return Description(**{"ram": [(MIB, 64 * MIB)], "kernel": kernel, "blocks": blocks} | changes)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A good vmcore of 64 MiB, read-only for the tests."""
    return build(tmp_path_factory.mktemp("whole") / "vmcore", small())


@pytest.fixture
def spoiled(whole, tmp_path):
    """A copy of it with some bytes changed: spoiled({offset: bytes}) or spoiled(size=n)."""

    def make(changes=(), size=None):
        path = tmp_path / "vmcore"
        subprocess.run(["cp", "--sparse=always", whole.path, path], check=True)
        with open(path, "r+b") as file:
            for offset, data in dict(changes).items():
                file.seek(offset)
                file.write(data)
            if size is not None:
                file.truncate(size)
        return path

    return make


def assert_one_line(result):
    """One line on stderr that a user can read; no traceback anywhere."""
    said = result.stdout + result.stderr
    assert result.returncode == 1, f"exit {result.returncode}: {said}"
    assert "Traceback" not in said
    lines = [line for line in result.stderr.splitlines() if line and line != "npdump Failed."]
    lines = [line for line in lines if "%]" not in line and "warning:" not in line]
    assert len(lines) == 1, result.stderr
    assert lines[0].startswith("npdump: ")
    assert len(lines[0]) > 20


def assert_refused(result, output):
    """As `assert_one_line`, and no file was made."""
    assert_one_line(result)
    assert not output.exists()


def refuse(npdump, vmcore, tmp_path, *options, level=31):
    output = tmp_path / "dump"
    result = npdump("-l", "-d", str(level), *options, vmcore, output, timeout=SECONDS, memory_nbytes=MEMORY_NBYTES)
    assert_refused(result, output)
    return result.stderr


@pytest.mark.parametrize("size", [0, 1, 3, 4, 16, 20, 63, 64, 65, 100, 119, 176, 200, 300, 500, 700, 1000, 1500, 2000])
def test_cut_in_the_headers(size, npdump, spoiled, tmp_path):
    refuse(npdump, spoiled(size=size), tmp_path)


HEADER_CHANGES = {
    "magic": {0: b"\x7fELG"},
    "32-bit": {4: b"\x01"},
    "no class": {4: b"\x07"},
    "big-endian": {5: b"\x02"},
    "no data encoding": {5: b"\x00"},
    "an executable": {16: b"\x02\x00"},
    "another machine": {18: b"\xf3\x00"},
    "an unknown machine": {18: b"\xff\xff"},
    "program headers far away": {32: struct.pack("<Q", 1 << 60)},
    "program headers at the end of addresses": {32: struct.pack("<Q", (1 << 64) - 8)},
    "program headers over the ELF header": {32: struct.pack("<Q", 0)},
    "no program headers": {56: b"\x00\x00"},
    "PN_XNUM and a wild section header": {40: struct.pack("<Q", 1 << 50), 56: b"\xff\xff"},
    "size of program headers 0": {54: b"\x00\x00"},
    "size of program headers 7": {54: b"\x07\x00"},
    "no PT_NOTE": {64: struct.pack("<I", 0)},
    "notes of 1 EiB": {64 + 32: struct.pack("<QQ", 1 << 60, 1 << 60)},
}


SEGMENT_CHANGES = {
    "16 EiB": ({32: struct.pack("<QQ", (1 << 64) - 1, (1 << 64) - 1)}, True),
    "more in the file than in memory": ({40: struct.pack("<Q", 4096)}, True),
    "at the end of addresses": ({24: struct.pack("<Q", (1 << 64) - 4096)}, False),
    "at 2^62": ({24: struct.pack("<Q", 1 << 62)}, False),
}


@pytest.mark.parametrize("name", SEGMENT_CHANGES)
def test_one_segment_that_no_machine_has_costs_no_other(name, npdump, whole, spoiled, tmp_path):
    changes, keeps_all = SEGMENT_CHANGES[name]
    out = tmp_path / "out"
    vmcore = spoiled({64 + 56 * 2 + at: value for at, value in changes.items()})
    result = npdump("-E", "-d0", vmcore, out)
    assert result.returncode == 0
    assert "warning" in result.stderr and "corrupt program header" in result.stderr
    dump, wanted = open_dump(out), open_dump(whole.path)
    if keeps_all:
        assert dict(dump.contents()) == dict(wanted.contents())
    else:
        assert dump.status & 1
        kept = dict(dump.contents())
        assert kept and kept.items() <= dict(wanted.contents()).items()


@pytest.mark.parametrize("name", HEADER_CHANGES)
def test_flipped_header_fields(name, npdump, spoiled, tmp_path):
    refuse(npdump, spoiled(HEADER_CHANGES[name]), tmp_path)


LIES = {
    "SIZE(page) is 0": {"SIZE(page)": 0},
    "SIZE(page) is huge": {"SIZE(page)": 1 << 40},
    "SIZE(page) is negative": {"SIZE(page)": -64},
    "SIZE(page) is text": {"SIZE(page)": "many"},
    "page.flags lies outside": {"OFFSET(page.flags)": 4096},
    "page.mapping is missing": {"OFFSET(page.mapping)": None},
    "SIZE(mem_section) is 0": {"SIZE(mem_section)": 0},
    "SIZE(mem_section) is huge": {"SIZE(mem_section)": 1 << 50},
    "mem_section is missing": {"SYMBOL(mem_section)": None},
    "mem_section is wild": {"SYMBOL(mem_section)": 0xFFFFDEADBEEF0000},
    "mem_section is 0": {"SYMBOL(mem_section)": 0},
    "the page tables are elsewhere": {"SYMBOL(init_top_pgt)": 0xFFFFFFFF83000000},
    "the page tables are outside": {"SYMBOL(init_top_pgt)": 0xFFFFFFFFBFFFF000, "SYMBOL(swapper_pg_dir)": None},
    "five levels that are four": {"NUMBER(pgtable_l5_enabled)": 1},
}


@pytest.mark.parametrize("name", LIES)
def test_vmcoreinfo_that_lies(name, npdump, tmp_path):
    vmcore = build(tmp_path / "vmcore", small(keys=LIES[name], fill=0))
    refuse(npdump, vmcore.path, tmp_path)


#: Values that npdump does without, and how many pages stay that would go with the right one; it loses nothing by them.
DOUBTS: dict[str, tuple[dict[str, int | str], int]] = {
    "SECTION_SIZE_BITS is 0": ({"NUMBER(SECTION_SIZE_BITS)": 0}, 0),
    "phys_base is text": ({"NUMBER(phys_base)": "0xnothing"}, 0),
    "PG_lru is 70": ({"NUMBER(PG_lru)": 70}, 50),
    "PG_lru is negative": ({"NUMBER(PG_lru)": -1}, 50),
    "SECTION_SIZE_BITS is 200": ({"NUMBER(SECTION_SIZE_BITS)": 200}, 0),
    "MAX_PHYSMEM_BITS is 4": ({"NUMBER(MAX_PHYSMEM_BITS)": 4}, 0),
    "MAX_PHYSMEM_BITS is 4000": ({"NUMBER(MAX_PHYSMEM_BITS)": 4000}, 0),
    "LENGTH(mem_section) is 0": ({"LENGTH(mem_section)": 0}, 0),
    "LENGTH(mem_section) is negative": ({"LENGTH(mem_section)": -1}, 0),
    "LENGTH(mem_section) is huge": ({"LENGTH(mem_section)": (1 << 63) - 1}, 0),
    "PAGESIZE is 0": ({"PAGESIZE": 0}, 0),
    "PAGESIZE is 3": ({"PAGESIZE": 3}, 0),
    "PAGESIZE is 2^40": ({"PAGESIZE": 1 << 40}, 0),
    "page._mapcount is negative": ({"OFFSET(page._mapcount)": -8}, 2098),
    "phys_base is wild": ({"NUMBER(phys_base)": 1 << 62}, 0),
}


@pytest.mark.parametrize("name", DOUBTS)
def test_vmcoreinfo_that_is_doubtful(name, npdump, tmp_path):
    keys, n_more = DOUBTS[name]
    vmcore, output = build(tmp_path / "vmcore", small(keys=keys, fill=0)), tmp_path / "dump"
    result = npdump("-l", "-d", "31", vmcore.path, output, timeout=SECONDS, memory_nbytes=MEMORY_NBYTES)
    assert result.returncode == 0, result.stderr
    ((key, value),) = keys.items()
    assert f"{key}={value}" in result.stderr
    vmcore.keys = build(tmp_path / "right", small(fill=0)).keys
    wanted, kept = oracle.of(vmcore).kept(31), open_dump(output).bitmap2
    assert (wanted & ~kept).nonzero()[0].tolist() == []
    assert int((kept & ~wanted).sum()) == n_more


def test_no_vmcoreinfo(npdump, tmp_path):
    vmcore = build(tmp_path / "vmcore", small(notes=lambda parts: parts[:-1], fill=0))
    assert "VMCOREINFO" in refuse(npdump, vmcore.path, tmp_path)


def _top_entry_leads_to_itself(memory, tables):
    at = tables.entry_paddr(PLAIN.vmemmap, 4)
    memory.write(at, struct.pack("<Q", tables.root_paddr | 0x63))


def _lower_entry_leads_up(memory, tables):
    at = tables.entry_paddr(PLAIN.vmemmap, 2)
    memory.write(at, struct.pack("<Q", tables.root_paddr | 0x63))


def _struct_pages_outside_memory(memory, tables):
    at = tables.entry_paddr(PLAIN.vmemmap, 2)
    memory.write(at, struct.pack("<Q", 1 << 45 | 0xE3))


@pytest.mark.parametrize("spoil", [_top_entry_leads_to_itself, _lower_entry_leads_up, _struct_pages_outside_memory])
def test_page_tables_that_lead_nowhere(spoil, npdump, tmp_path):
    """Struct pages none of which can be read are no reason to lose their pages, nor to hang: all are kept, and said."""
    vmcore, output = build(tmp_path / "vmcore", small(spoil=spoil, fill=0)), tmp_path / "dump"
    result = npdump("-l", "-d", "30", vmcore.path, output, timeout=SECONDS, memory_nbytes=MEMORY_NBYTES)
    assert result.returncode == 0, result.stderr
    assert "struct pages can't be read" in result.stderr
    assert "free pages" in result.stderr
    dump = open_dump(output)
    assert (dump.bitmap2 == dump.bitmap1).all()
    assert "struct pages can't be read" in refuse(npdump, vmcore.path, tmp_path / "none", "--strict")


def test_other_kinds_of_input(npdump, tmp_path):
    text = tmp_path / "text"
    text.write_text("not a vmcore\n" * 1000)
    for path in (tmp_path, text, tmp_path / "missing", Path("/dev/null")):
        refuse(npdump, path, tmp_path)


def test_no_read_permission(npdump, spoiled, tmp_path):
    path = spoiled()
    path.chmod(0)
    result = npdump("-d", "31", path, tmp_path / "dump", unprivileged=True)
    assert_refused(result, tmp_path / "dump")
    assert "ermission" in result.stderr


def test_existing_output_needs_force(npdump, whole, tmp_path):
    output = tmp_path / "dump"
    output.write_text("precious")
    assert_one_line(npdump("-d", "31", whole.path, output))
    assert output.read_text() == "precious"
    assert npdump("-f", "-d", "31", whole.path, output).returncode == 0
    assert open_dump(output).kind == "kdump"
    assert output.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("how", ["same path", "hard link", "symbolic link"])
def test_output_is_the_input(how, npdump, spoiled, tmp_path):
    path = spoiled()
    output = path if how == "same path" else tmp_path / "other"
    if how == "hard link":
        output.hardlink_to(path)
    elif how == "symbolic link":
        output.symlink_to(path)
    before = (path.stat().st_size, path.stat().st_mtime_ns)
    assert_one_line(npdump("-f", "-d", "31", path, output))
    assert (path.stat().st_size, path.stat().st_mtime_ns) == before


@pytest.mark.parametrize("output", ["missing/dump", "", "file/dump", "dangling", "loop", "pipe"])
@pytest.mark.parametrize("force", [(), ("-f",)])
def test_output_where_none_can_be(force, output, npdump, whole, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "dangling").symlink_to("target")
    (tmp_path / "loop").symlink_to("loop")
    os.mkfifo(tmp_path / "pipe")
    assert_one_line(npdump(*force, "-d", "31", whole.path, tmp_path / output, timeout=SECONDS))
    assert not (tmp_path / "target").exists()


def assert_incomplete(path, whole):
    """What was written is marked as cut, and its pages that are there are right."""
    dump = open_dump(path)
    assert dump.status & INCOMPLETE
    there = [pfn for pfn in dump.kept.tolist() if not dump.is_lost(pfn)]
    assert there
    assert [pfn for pfn in there if dump.page(pfn) != whole.page(pfn)] == []
    assert any(dump.is_lost(pfn) for pfn in dump.kept.tolist())


def test_file_size_limit(npdump, whole, tmp_path):
    result = npdump("-d", "0", whole.path, tmp_path / "dump", file_nbytes=2 * MIB)
    assert_one_line(result)
    assert_incomplete(tmp_path / "dump", whole)


def test_full_disk(npdump, whole, small_disk):
    disk = small_disk(2)
    result = npdump("-d", "0", whole.path, disk / "dump")
    assert_one_line(result)
    assert "space" in result.stderr
    assert_incomplete(disk / "dump", whole)


def test_elf_on_a_full_disk_is_marked(npdump, whole, tmp_path):
    assert_one_line(npdump("-E", "-d", "0", whole.path, tmp_path / "dump", file_nbytes=8 * MIB))
    assert open_dump(tmp_path / "dump").status & 1


def test_input_is_never_changed(npdump, whole, tmp_path):
    before = whole.path.stat()
    assert npdump("-l", "-d", "31", whole.path, tmp_path / "dump").returncode == 0
    after = whole.path.stat()
    assert (after.st_size, after.st_mtime_ns) == (before.st_size, before.st_mtime_ns)

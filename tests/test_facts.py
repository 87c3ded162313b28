# SPDX-License-Identifier: GPL-2.0-or-later
"""Kernel facts from VMCOREINFO, BTF, kallsyms, DWARF and -i files: they must agree, and belong to the dump."""

from __future__ import annotations

import re
import struct
import subprocess
from contextlib import closing

import numpy as np
import pytest

from npdump.arch import by_machine
from npdump.errors import FactError
from npdump.facts import Fact, Facts
from npdump.kernel.facts import btf, kallsyms, vmcoreinfo, vmcoreinfo_keys
from npdump.kernel.probe import find_kernel
from npdump.observer import Recorder
from npdump.sources import open_source
from npdump.storage.file import FileStorage
from tests import harness
from tests.readers import open_dump

STEXT = 0xFFFFFFFF81000000


def facts_of(text):
    return vmcoreinfo.parse(text.encode())


def test_facts_keep_their_origin_and_report_conflicts():
    here = facts_of("SIZE(page)=64\nSYMBOL(a)=ffffffff91000000\nOFFSET(page.flags)=0\n")
    values = {"SIZE(page)": 56, "SYMBOL(a)": STEXT, "SIZE(zone)": 9}
    other = Facts({key: Fact(value, "DWARF") for key, value in values.items()}, {})
    merged, conflicts = here.completed_by(other, kaslr_offset=0x10000000)
    assert dict(merged.items())["SIZE(page)"] == Fact(64, "VMCOREINFO")
    assert dict(merged.items())["SIZE(zone)"] == Fact(9, "DWARF")
    assert conflicts == [("SIZE(page)", "SIZE(page) is 0x40 by VMCOREINFO, 0x38 by DWARF")]


class Symbols:
    """A kernel's kallsyms tables, laid out in memory as scripts/kallsyms.c does."""

    BASE = 0xFFFFFFFF82000000

    def __init__(self, scheme, symbols):
        self.symbols = symbols
        tokens = [bytes([i]) for i in range(256)]
        tokens[1] = b"Tsys_"  # one that stands for more than a letter
        table, index = b"", []
        for token in tokens:
            index.append(len(table))
            table += token + b"\0"
        names = b""
        for name, _ in symbols:
            coded = (b"T" + name.encode()).replace(b"Tsys_", b"\1")
            n = len(coded)
            names += (bytes([n]) if n < 128 else bytes([n & 0x7F | 0x80, n >> 7])) + coded
        at = {"num_syms": self.BASE, "names": self.BASE + 8}
        at["token_table"] = at["names"] + len(names)
        at["token_index"] = at["token_table"] + len(table)
        at["offsets"] = at["token_index"] + 512
        at["relative_base"] = at["offsets"] + 4 * len(symbols)
        base = STEXT
        addresses = [address for _, address in symbols]
        if scheme == "absolute_percpu":
            offsets = [a if a < 1 << 31 else base - 1 - a for a in addresses]
        elif scheme == "relative":
            offsets = [a - base for a in addresses]
        else:
            offsets = [a - (at["offsets"] + 4 * i) for i, a in enumerate(addresses)]
            del at["relative_base"]
        self.memory = struct.pack("<II", len(symbols), 0) + names + table + struct.pack("<256H", *index)
        self.memory += struct.pack(f"<{len(symbols)}i", *offsets) + struct.pack("<Q", base) + bytes(4096)
        keys = {f"SYMBOL(kallsyms_{name})": value for name, value in at.items()} | {"SYMBOL(_stext)": STEXT}
        self.facts = facts_of("".join(f"{key}={value:x}\n" for key, value in keys.items()))

    def read(self, vaddr, nbytes):
        assert vaddr >= self.BASE and vaddr + nbytes <= self.BASE + len(self.memory)
        return self.memory[vaddr - self.BASE :][:nbytes]


TABLE = [("_stext", STEXT), ("sys_read", STEXT + 0x40), ("n" * 300, STEXT + 0x80), ("last", STEXT + 0x7000000)]


@pytest.mark.parametrize("scheme", ["absolute_percpu", "relative", "place_relative"])
def test_kallsyms_schemes(scheme):
    symbols = TABLE + [("cpu_number", 0x1234)] * (scheme == "absolute_percpu")
    kernel = Symbols(scheme, symbols)
    assert kallsyms.read(kernel.facts, kernel.read, np.dtype("<u8")) == dict(symbols)


def test_kallsyms_of_another_form_are_refused():
    kernel = Symbols("relative", [("_stext", STEXT + 4), ("x", STEXT + 8)])
    with pytest.raises(FactError, match="_stext"):
        kallsyms.read(kernel.facts, kernel.read, np.dtype("<u8"))


@pytest.mark.parametrize("cut", range(0, 36, 7))
def test_damaged_btf_is_an_error(cut):
    head = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, 24, 24, 6)
    types = struct.pack("<III", 1, 4 << 24 | 1, 8) + struct.pack("<III", 1, 1, 0)
    raw = head + types + b"\0page\0"
    with pytest.raises(FactError):
        btf.parse((raw[:cut] + b"\xff" * 8)[: max(cut, 8)], "<", 8)


def corpus_kernels():
    return [name for name in harness.corpus_names() if "6.1" in name or "7.2" in name]


@pytest.mark.parametrize("name", corpus_kernels() or [pytest.param("none", marks=pytest.mark.skip("no corpus"))])
def test_the_kernels_own_types_agree_with_vmcoreinfo(name):
    """Every fact that both tell, for a real kernel; mem_section is the one that VMCOREINFO gives by value."""
    with closing(FileStorage(str(harness.corpus_vmcore(name)))) as storage:
        source = open_source(storage)
        heard = Recorder()
        kernel = find_kernel(source, by_machine(source.header), required=True, observer=heard)
        symbols = kallsyms.read(kernel.facts, kernel.memory.read, kernel.memory.word)
        start, stop = symbols["__start_BTF"], symbols["__stop_BTF"]
        types = btf.parse(kernel.memory.read(start, stop - start), "<", 8)
    assert heard.warnings == []
    own = vmcoreinfo_keys.from_types(symbols, types, kernel.facts.release, "BTF")
    _, conflicts = kernel.facts.completed_by(own)
    assert [key for key, _ in conflicts] == ["SYMBOL(mem_section)"]
    shared = [key for key, _ in own.items() if key in kernel.facts]
    assert len(shared) > 60
    for key in ("SIZE(page)", "OFFSET(page._mapcount)", "NUMBER(PG_lru)", "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)"):
        assert key in shared


def vmcoreinfo_file(vmcore, path, change=lambda text: text):
    path.write_bytes(change(open_dump(vmcore).vmcoreinfo))
    return path


def without_note(vmcore, path):
    """A copy of a dump in which neither the note nor the kernel's own copies of it can be recognised."""
    data = bytearray(vmcore.read_bytes())
    at = data.find(b"VMCOREINFO\0")
    data[at : at + 10] = b"SOMETHING!"
    while (at := data.find(b"OSRELEASE=")) >= 0:
        data[at : at + 10] = b"NO RELEASE"
    path.write_bytes(data)
    return path


def test_facts_of_a_file_stand_in_for_the_note(distilled, tmp_path):
    vmcore = distilled("x86_64-6.1")
    info = vmcoreinfo_file(vmcore, tmp_path / "info")
    bare = without_note(vmcore, tmp_path / "bare")
    assert harness.run("-l", "-d31", bare, tmp_path / "none").returncode == 1
    harness.run_ok("-l", "-d31", "-i", info, bare, tmp_path / "given")
    harness.run_ok("-l", "-d31", vmcore, tmp_path / "own")
    given, own = open_dump(tmp_path / "given"), open_dump(tmp_path / "own")
    assert np.array_equal(given.bitmap1, own.bitmap1)
    assert np.array_equal(given.bitmap2, own.bitmap2)


@pytest.mark.parametrize("key", ["OSRELEASE", "BUILD-ID"])
def test_facts_of_another_kernel_are_refused(distilled, tmp_path, key):
    vmcore = distilled("x86_64-6.1")
    line = key.encode() + b"="
    info = vmcoreinfo_file(vmcore, tmp_path / "info", lambda text: re.sub(rb"(?m)^" + line + b".", line + b"0", text))
    if key == "OSRELEASE":
        info.write_bytes(re.sub(rb"(?m)^BUILD-ID=.*\n", b"", info.read_bytes()))
    result = harness.run("-l", "-d31", "-i", info, vmcore, tmp_path / "out")
    assert result.returncode == 2
    assert "another kernel" in result.stderr
    assert not (tmp_path / "out").exists()


def test_conflicts_are_reported_and_the_dump_is_believed(distilled, tmp_path):
    vmcore = distilled("x86_64-6.1")
    info = vmcoreinfo_file(
        vmcore, tmp_path / "info", lambda text: text.replace(b"OFFSET(page.mapping)=24", b"OFFSET(page.mapping)=32")
    )
    result = harness.run_ok("-l", "-d31", "-i", info, vmcore, tmp_path / "given")
    assert "OFFSET(page.mapping) is 0x18 by VMCOREINFO, 0x20 by" in result.stderr
    harness.run_ok("-l", "-d31", vmcore, tmp_path / "own")
    assert (tmp_path / "given").read_bytes() == (tmp_path / "own").read_bytes()


@pytest.mark.parametrize(
    "content", [b"", b"\x7fELF", b"\x7fELF\x02\x01\x01" + bytes(57), b"(\xb5/\xfd junk", b"\x1f\x8b junk"]
)
def test_what_is_no_vmlinux(distilled, tmp_path, content):
    path = tmp_path / "vmlinux"
    path.write_bytes(content)
    result = harness.run("-l", "-d31", "-x", path, distilled("x86_64-6.1"), tmp_path / "out")
    assert result.returncode == 1
    assert str(path) in result.stderr and "Traceback" not in result.stderr


SOURCE = """
typedef unsigned long word;
enum pageflags { PG_locked, PG_lru = 5, PG_head = 6, __NR_PAGEFLAGS = 23 };
enum pagetype { PGTY_buddy = 0xf0, PGTY_slab = 0xf5 };
enum zone_stat_item { NR_FREE_PAGES = 3 };
struct list_head { struct list_head *next, *prev; };
struct page { word flags; union { struct { struct list_head lru; void *mapping; word private; }; word compound_head; };
              union { unsigned int page_type; int _mapcount; }; int _refcount; };
struct free_area { struct list_head free_list[6]; word nr_free; };
struct zone { word vm_stat[4]; struct free_area free_area[11]; };
struct mem_section { word section_mem_map; word usage; };
struct mem_section *mem_section[2048];
const char linux_banner[] = "Linux version 6.99.0-test (someone) #1";
struct zone zone; struct page page; enum pageflags f; enum pagetype t; enum zone_stat_item z;
void _stext(void) {}
int get_page_from_freelist(struct page *page) { return page->_refcount; }
"""
WANTED = {
    "OSRELEASE": "6.99.0-test",
    "SIZE(page)": "48",
    "SIZE(zone)": str(32 + 11 * 104),
    "OFFSET(page.flags)": "0",
    "OFFSET(page.lru)": "8",
    "OFFSET(page.mapping)": "24",
    "OFFSET(page.private)": "32",
    "OFFSET(page.compound_head)": "8",
    "OFFSET(page._mapcount)": "40",
    "OFFSET(page._refcount)": "44",
    "LENGTH(mem_section)": "2048",
    "LENGTH(zone.free_area)": "11",
    "LENGTH(free_area.free_list)": "6",
    "NUMBER(NR_FREE_PAGES)": "3",
    "NUMBER(PG_lru)": "5",
    "NUMBER(PG_head_mask)": "64",
    "NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)": str((0xF0 << 24) - (1 << 32)),
    "NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)": str((0xF5 << 24) - (1 << 32)),
}


@pytest.mark.parametrize("dwarf", ["-gdwarf-4", "-gdwarf-5"])
@pytest.mark.parametrize("packed", ["", "gz", "xz"])
def test_vmcoreinfo_from_debug_information(tool, tmp_path, dwarf, packed):
    """A small kernel of our own, whose sizes and offsets the C language fixes; the second run is from the cache."""
    (tmp_path / "kernel.c").write_text(SOURCE)
    vmlinux = tmp_path / "vmlinux"
    command = [tool("gcc"), dwarf, "-nostdlib", "-static", "-Wl,-e,_stext", "-Wl,--build-id=sha1", "-o", vmlinux]
    subprocess.run([*command, tmp_path / "kernel.c"], check=True)
    symbols = subprocess.run([tool("nm"), vmlinux], capture_output=True, text=True, check=True).stdout
    if packed:
        name = {"gz": "gzip", "xz": "xz"}[packed]
        subprocess.run([tool(name), vmlinux], check=True)
        vmlinux = tmp_path / f"vmlinux.{packed}"
    for output in ("first", "again"):
        harness.run_ok("-g", tmp_path / output, "-x", vmlinux, env={"XDG_CACHE_HOME": str(tmp_path)})
    text = (tmp_path / "first").read_text()
    assert (tmp_path / "again").read_text() == text
    found = dict(line.split("=", 1) for line in text.splitlines())
    assert {key: found.get(key) for key in WANTED} == WANTED
    (address,) = re.findall(r"(?m)^([0-9a-f]+) . mem_section$", symbols)
    assert int(found["SYMBOL(mem_section)"], 16) == int(address, 16)
    assert list((tmp_path / "npdump").glob("kernel-*.json"))

# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that debuggers cannot start without stay, whatever their struct pages say."""

from __future__ import annotations

import json
import re
import struct
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

import npdump
from npdump.errors import OutOfTime
from npdump.kernel.facts import kallsyms
from npdump.kernel.memmap import find
from npdump.sinks.file import open_files
from tests import harness, peers
from tests.builders.kernels import KERNELS
from tests.builders.own import TABLES, write_own
from tests.builders.pages import Block
from tests.builders.vmcore import PLAIN, Description, build
from tests.readers import open_dump
from tests.readers.elf import ElfDump
from tests.readers.flattened import unflatten
from tests.readers.validate import problems

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.builders.memory import Memory
    from tests.builders.paging import PageTables

INCOMPLETE = 0x8
BASE = PLAIN.page_offset
STEXT = 0xFFFFFFFF81000000
IMAGE_PFN = 0x1000
PER_CPU = 0x3000000
STACK = 0xFFFFC90000010000
STACK_PFNS, TASK_PFN = [0x5100, 0x5203, 0x5105, 0x5307], 0x5400
NEVER_CPU = 0x4100
SECTIONS = {
    "_stext": 0,
    "_etext": 0x20_800,
    "__start_rodata": 0x40_000,
    "__end_rodata": 0x50_000,
    "_sdata": 0x60_000,
    "_edata": 0x70_000,
    "__init_begin": 0x80_000,
    "__init_end": 0xA0_000,
    "__smp_locks": 0xA0_000,
    "__smp_locks_end": 0xA2_000,
    "__bss_start": 0xB0_000,
    "__bss_stop": 0xC0_000,
}
"""An image as x86_64 has it; what is between ``_etext`` and rodata, and rodata and data, and init, was given back."""

VITAL = {
    "text": range(0x21),
    "constants": range(0x40, 0x50),
    "data": range(0x60, 0x80),
    "uninitialised data": [*range(0xA2, 0xC0)],
}
GIVEN_BACK = [*range(0x21, 0x40), *range(0x50, 0x60), *range(0x80, 0xA2)]


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def forged_machine(path: Path, spoil: Callable[[Memory, PageTables], None] = lambda memory, tables: None):
    """A machine whose image, per-CPU variables, page tables, stack and task are free or anonymous by struct page."""
    keys: dict[str, int | str | None] = {}

    def write(memory: Memory, tables: PageTables) -> None:
        at = TABLES + 0x40000
        symbols = {name: STEXT + offset for name, offset in SECTIONS.items()}
        symbols |= {"__per_cpu_start": 0, "__per_cpu_end": 0x3000, "current_task": 0x100}
        symbols |= {"__per_cpu_offset": BASE + at, "__cpu_possible_mask": BASE + at + 64, "nr_cpu_ids": BASE + at + 128}
        # The second of three CPUs cannot be, and its offset leads to what is free.
        memory.write(at, words(BASE + PER_CPU, BASE + NEVER_CPU * 4096, BASE + PER_CPU + 0x100000))
        memory.write(at + 64, words(0b101))
        memory.write(at + 128, struct.pack("<I", 3))
        memory.write(PER_CPU + 0x100, words(BASE + TASK_PFN * 4096 + 0x40))
        keys.update(write_own(memory, TABLES, BASE, symbols))
        for i, pfn in enumerate(STACK_PFNS):
            tables.map(STACK + i * 4096, pfn * 4096, 4096)
        spoil(memory, tables)

    return build(
        path,
        Description(
            ram=[(1 << 20, 1 << 27)],
            kernel=KERNELS["6.1"],
            blocks=[
                Block(IMAGE_PFN, "free", 10, 2),
                Block(PER_CPU >> 12, "anon", 3),
                Block((PER_CPU >> 12) + 0x100, "lru", 3),
                Block(NEVER_CPU, "free", 4),
                *(Block(pfn, "anon") for pfn in STACK_PFNS),
                Block(TASK_PFN, "free", 2),
            ],
            fill=8,
            spoil=write,
            keys=keys,
            notes=lambda parts: [with_stack_pointer(parts[0], STACK + 0x1234), *parts[1:]],
        ),
    )


def with_stack_pointer(note: bytes, rsp: int) -> bytes:
    """The twentieth of the registers, which begin 112 bytes after the note's header and name."""
    at = 12 + 8 + 112 + 8 * 19
    return note[:at] + struct.pack("<Q", rsp) + note[at + 8 :]


@pytest.fixture(scope="module")
def forged(tmp_path_factory):
    return forged_machine(tmp_path_factory.mktemp("forged") / "vmcore")


@pytest.fixture(scope="module")
def kept(forged, tmp_path_factory):
    path = tmp_path_factory.mktemp("kept") / "dump"
    result = harness.run_ok("-d", "30", "--show-stats", "--json", forged.path, path)
    return open_dump(path).bitmap2, result.stdout


@pytest.mark.parametrize("part", VITAL)
def test_the_image_stays(part, kept) -> None:
    assert [page for page in VITAL[part] if not kept[0][IMAGE_PFN + page]] == []


def test_what_the_kernel_gave_back_goes(kept) -> None:
    assert [page for page in GIVEN_BACK if kept[0][IMAGE_PFN + page]] == []


def test_page_tables_stay(forged, kept) -> None:
    """All of them are reached from the top one here, by this walk of their 512 entries each."""
    tables = walk(forged.memory, forged.keys["SYMBOL(init_top_pgt)"] - STEXT + (IMAGE_PFN << 12), 4)
    assert len(tables) > 5
    assert [paddr for paddr in tables if not kept[0][paddr >> 12]] == []


def walk(memory: Memory, table: int, level: int) -> list[int]:
    """Physical addresses of a page table and all below it."""
    entries = struct.unpack("<512Q", memory.read(table, 4096))
    below = [entry & 0xFFFFFFFFFF000 for entry in entries if entry & 1 and not entry & 0x80] if level > 1 else []
    return [table, *(paddr for entry in below for paddr in walk(memory, entry, level - 1))]


def test_struct_pages_stay(forged, kept) -> None:
    """Those of memory, which begins at 1 MiB; the builder maps those of its only section by one large page."""
    memory, at = forged.memory, PLAIN.vmemmap
    table = forged.keys["SYMBOL(init_top_pgt)"] - STEXT + (IMAGE_PFN << 12)
    for shift in (39, 30, 21):
        entry = struct.unpack("<Q", memory.read(table + 8 * (at >> shift & 511), 8))[0]
        table = entry & 0xFFFFFFFFFF000
    frames = range(table >> 12, (table >> 12) + 512)
    assert IMAGE_PFN <= frames[0] < IMAGE_PFN + 0x800
    assert [pfn for pfn in frames if not kept[0][pfn]] == [*frames[: 256 * 64 // 4096]]


def test_what_cpus_run_stays(kept) -> None:
    bitmap = kept[0]
    assert all(bitmap[pfn] for pfn in STACK_PFNS)
    assert bitmap[TASK_PFN : TASK_PFN + 3].tolist() == [True, True, False]
    assert bitmap[PER_CPU >> 12 :][:4].tolist() == [True, True, True, False]
    assert bitmap[(PER_CPU >> 12) + 0x100 :][:4].tolist() == [True, True, True, False]


def test_a_cpu_that_cannot_be_has_no_variables(kept) -> None:
    assert not kept[0][NEVER_CPU : NEVER_CPU + 16].any()


def test_they_are_counted(forged, kept, tmp_path) -> None:
    """All pages that are kept are guarded or of the kernel by their struct pages."""
    n_guarded = json.loads(kept[1])["n_guarded"]
    expected = sum(map(len, VITAL.values()))
    assert n_guarded >= expected + len(STACK_PFNS) + 2 + 6
    said = harness.run_ok("-d", "30", "--show-stats", forged.path, tmp_path / "dump").stdout
    assert f"Pages that debuggers need      : 0x{n_guarded:016x}" in said


def test_nothing_is_counted_where_struct_pages_are_right(tmp_path) -> None:
    path = build(tmp_path / "vmcore", Description(ram=[(1 << 20, 1 << 27)], kernel=KERNELS["6.1"], fill=0)).path
    result = harness.run_ok("-d", "31", "--show-stats", path, tmp_path / "dump")
    assert "debuggers need" not in result.stdout


def test_hostile_page_tables_keep_no_dump_whole(tmp_path) -> None:
    """Entries that lead everywhere are taken for no tables: free memory goes."""

    def spoil(memory: Memory, tables: PageTables) -> None:
        first = tables.table_for(0xFFFF900000000000, 3)[0]
        for i in range(400):
            memory.write(first + 8 * i, words((0x6000 + i) << 12 | 0x63))
            memory.write((0x6000 + i) << 12, words(*((0x6000 + j % 0x2000) << 12 | 0x63 for j in range(512))))

    forged = forged_machine(tmp_path / "vmcore", spoil)
    harness.run_ok("-d", "30", forged.path, tmp_path / "dump")
    bitmap = open_dump(tmp_path / "dump").bitmap2
    assert not bitmap[NEVER_CPU : NEVER_CPU + 16].any()
    assert bitmap[IMAGE_PFN]


@pytest.mark.parametrize("key", ["SYMBOL(init_top_pgt)", "SYMBOL(kallsyms_names)", "SYMBOL(kallsyms_num_syms)"])
def test_damage_makes_it_cover_less_and_no_more(key, forged, tmp_path) -> None:
    text = forged.vmcoreinfo
    damaged = re.sub(rf"(?m)^{re.escape(key)}=.*$".encode(), f"{key}={0xFFFFFFFFA0000000:x}".encode(), text)
    assert damaged != text
    path = harness.sparse_copy(forged.path, tmp_path / "vmcore", {})
    whole = path.read_bytes()
    path.write_bytes(whole.replace(text, damaged.ljust(len(text), b"\n")[: len(text)]))
    result = harness.run("-d", "31", path, tmp_path / "dump")
    assert "Traceback" not in result.stderr
    assert result.returncode in (0, 1)


CORPUS = harness.corpus_names()


@pytest.mark.parametrize("name", CORPUS or [pytest.param("", marks=pytest.mark.skip(reason="no further vmcores"))])
def test_symbols_are_found_as_they_are_read(name) -> None:
    """A few looked up, and all read: two ways through the kernel's compressed table."""
    with npdump.open(harness.corpus_vmcore(name)) as dump:
        kernel = dump.kernel
        memory = kernel.memory
        every = kallsyms.read(kernel.facts, memory.read, memory.word)
        wanted = [*list(every)[:: len(every) // 40], "_stext", "no such symbol"]
        found = kallsyms.find(kernel.facts, memory.read, memory.word, wanted)
    assert len(found) > 30
    assert found == {symbol: every[symbol] for symbol in wanted if symbol in every}


IN_THE_IMAGE = ("idt_table", "init_task", "__log_buf", "linux_banner", "init_top_pgt", "__per_cpu_offset", "_text")


@pytest.fixture(scope="module")
def forged_real(tool, tmp_path_factory):
    """A real vmcore of whose vital pages some are anonymous memory by struct page; these, and its vmlinux."""
    name = next((name for name in CORPUS if "-6.1-" in name), None)
    if name is None:
        pytest.skip("no whole vmcore of Linux 6.1 in a directory of further vmcores (NPDUMP_CORPUS)")
    path = harness.corpus_vmcore(name)
    info = ElfDump(path).vmcoreinfo
    vmlinux = peers.vmlinux_of(re.search(rb"OSRELEASE=(\S+)", info)[1].decode())
    numbers = {key: int(value) for key, value in re.findall(r"NUMBER\((\w+)\)=(-?\d+)\n", info.decode())}
    moved = int(re.search(rb"KERNELOFFSET=(\w+)", info)[1], 16)
    listed = subprocess.run([tool("nm"), vmlinux], capture_output=True, text=True, check=True).stdout
    at = {name: int(vaddr, 16) + moved for vaddr, name in re.findall(r"^(\w+) \w (\w+)$", listed, re.MULTILINE)}
    offset = numbers["phys_base"] - 0xFFFFFFFF80000000
    pfns = [at[name] + offset >> 12 for name in IN_THE_IMAGE]
    real = ElfDump(path)
    with npdump.open(path) as dump:
        kernel, memory = dump.kernel, dump.kernel.memory
        memmap = find(kernel, 64, dump.source.max_mapnr)
        stack = struct.unpack_from("<Q", real.notes, 20 + 112 + 8 * 19)[0]
        per_cpu = struct.unpack("<Q", real.read(at["__per_cpu_offset"] + offset, 8))[0]
        pfns += [memory.extents(vaddr, 1)[0].paddr >> 12 for vaddr in (stack, per_cpu)]
        places = {pfn: memory.extents(memmap.struct_vaddr(pfn, 64), 64)[0].paddr for pfn in pfns}
    changes = {}
    for paddr in places.values():
        fields = list(struct.unpack("<6Qii8x", real.read(paddr, 64)))
        fields[0] = fields[0] >> 24 << 24 | 1 << numbers["PG_lru"] | 1 << numbers["PG_swapbacked"]
        fields[1:8] = 0xFFFF888001234560, 0xFFFF888001234560, 0xFFFF888001234560 | 1, 0, 0, 0, 1
        load = next(load for load in real.loads if load.paddr <= paddr < load.paddr + load.filesz)
        changes[load.offset + paddr - load.paddr] = struct.pack("<6Qii8x", *fields)
    forged = harness.sparse_copy(path, tmp_path_factory.mktemp("forged") / "vmcore", changes)
    return forged, pfns, vmlinux


def test_crash_opens_what_forged_struct_pages_would_have_cost(forged_real, tool, tmp_path) -> None:
    """The forged ones stay, and are counted; crash has its tables, the log, and the panicked task's backtrace."""
    forged, pfns, vmlinux = forged_real
    result = harness.run_ok("-l", "-d", "31", "--show-stats", "--json", forged, tmp_path / "dump")
    assert json.loads(result.stdout)["n_guarded"] == len(pfns)
    assert open_dump(tmp_path / "dump").bitmap2[pfns].all()
    script = tmp_path / "commands"
    script.write_text("log\nbt\nrd idt_table 2\nquit\n")
    argv = [tool("crash"), "-s", "-i", script, vmlinux, tmp_path / "dump"]
    said = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=300, check=False
    )
    assert said.returncode == 0, said.stdout[-1000:] + said.stderr
    assert "Kernel panic - not syncing" in said.stdout
    assert re.search(r"^ *#\d+ \[[0-9a-f]+\] panic at ", said.stdout, re.MULTILINE)
    assert "excluded" not in said.stdout + said.stderr


@pytest.fixture(scope="module")
def in_both_orders(forged, tmp_path_factory):
    """Dumps of the forged machine, in the order of page frames and with vital pages first, in batches of 512 pages."""
    folder = tmp_path_factory.mktemp("orders")
    paths = {option: folder / option.strip("-") for option in ("--no-vital-first", "--vital-first")}
    for option, path in paths.items():
        harness.run_ok("-c", "-d", "16", option, "--no-share", forged.path, path)
    return paths


def test_the_order_changes_places_and_nothing_else(in_both_orders) -> None:
    plain, vital = (open_dump(in_both_orders[option]) for option in ("--no-vital-first", "--vital-first"))
    assert problems(in_both_orders["--vital-first"]) == []
    assert (plain.bitmap2 == vital.bitmap2).all()
    assert [pfn for pfn in plain.kept.tolist() if plain.page(pfn) != vital.page(pfn)] == []
    assert (np.diff(plain.descriptors["offset"][plain.descriptors["size"] != 4096].astype(np.int64)) >= 0).all()
    assert (np.diff(vital.descriptors["offset"].astype(np.int64)) < 0).any()


@pytest.mark.parametrize("n_threads", ["1", "3"])
def test_any_number_of_threads_makes_the_same_file(n_threads, forged, in_both_orders, tmp_path) -> None:
    argv = ("-c", "-d", "16", "--vital-first", "--no-share", "--num-threads", n_threads)
    harness.run_ok(*argv, forged.path, tmp_path / "dump")
    assert (tmp_path / "dump").read_bytes() == in_both_orders["--vital-first"].read_bytes()


def test_split_and_flattened_dumps_have_the_same_pages(forged, in_both_orders, tmp_path) -> None:
    whole = open_dump(in_both_orders["--vital-first"])
    parts = [tmp_path / "1", tmp_path / "2"]
    harness.run_ok("-c", "-d", "16", "--vital-first", "--split", forged.path, *parts)
    harness.run_ok("--reassemble", *parts, tmp_path / "joined")
    with open(tmp_path / "stream", "wb") as stream:
        harness.run_ok("-F", "-c", "-d", "16", "--vital-first", "--no-share", forged.path, stdout=stream)
    for path in (tmp_path / "joined", unflatten(tmp_path / "stream", tmp_path / "flat")):
        dump = open_dump(path)
        assert [pfn for pfn in whole.kept.tolist() if dump.page(pfn) != whole.page(pfn)] == []


@pytest.mark.parametrize("percent", [20, 40, 60, 80])
def test_a_dump_that_was_cut_has_what_is_vital(percent, forged, in_both_orders, tmp_path) -> None:
    """Page tables, data, per-CPU variables, stacks and code come first; the file says that it is incomplete."""
    path = in_both_orders["--vital-first"]
    before = open_dump(path).data_offset
    limit = before + (path.stat().st_size - before) * percent // 100
    result = harness.run("-c", "-d", "16", "--no-share", "-L", str(limit), forged.path, tmp_path / "dump")
    assert result.returncode == 1 and "cut short" in result.stderr
    assert (tmp_path / "dump").stat().st_size <= limit
    assert problems(tmp_path / "dump", complete=False) == []
    dump, whole = open_dump(tmp_path / "dump"), open_dump(in_both_orders["--no-vital-first"])
    assert dump.status & INCOMPLETE
    tables = walk(forged.memory, forged.keys["SYMBOL(init_top_pgt)"] - STEXT + (IMAGE_PFN << 12), 4)
    first = [paddr >> 12 for paddr in tables] + STACK_PFNS + [TASK_PFN, PER_CPU >> 12]
    first += [IMAGE_PFN + page for part in ("data", "text") for page in VITAL[part]]
    assert [pfn for pfn in first if dump.is_lost(pfn) or dump.page(pfn) != whole.page(pfn)] == []
    there = [pfn for pfn in dump.kept.tolist() if not dump.is_lost(pfn)]
    assert len(first) < len(there) < len(dump.kept)
    assert [pfn for pfn in there[::37] if dump.page(pfn) != whole.page(pfn)] == []


def test_a_deadline_cuts_it_after_what_is_first(forged, tmp_path) -> None:
    """One that is over when writing begins: some pages are there all the same, and the file says what it is."""
    path = tmp_path / "dump"
    with npdump.open(forged.path) as dump, pytest.raises(OutOfTime, match="cut short, and marked so") as raised:
        dump.write_to(
            lambda: open_files([str(path)], False, dump.storages),
            level=16,
            codec="zlib",
            vital_first=True,
            deadline=time.monotonic() - 1,
        )
    assert 0 < raised.value.n_done < raised.value.n_pages
    cut = open_dump(path)
    assert cut.status & INCOMPLETE
    assert not any(cut.is_lost(pfn) for pfn in STACK_PFNS)
    with npdump.open(path) as again:
        assert again.source.history.n_lost == raised.value.n_pages - raised.value.n_done


def test_a_deadline_that_is_met_changes_nothing(forged, in_both_orders, tmp_path) -> None:
    harness.run_ok("-c", "-d", "16", "--no-share", "--deadline", "3600", forged.path, tmp_path / "dump")
    assert (tmp_path / "dump").read_bytes() == in_both_orders["--vital-first"].read_bytes()


DRGN = """
import json, sys
import drgn
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.printk import get_dmesg
program = drgn.Program()
program.set_core_dump(sys.argv[1])
program.load_debug_info([sys.argv[2]])
tasks = sorted((task.pid.value_(), task.comm.string_().decode()) for task in for_each_task(program))
trace = [frame.name for frame in program.crashed_thread().stack_trace()]
print(json.dumps([tasks, trace, get_dmesg(program).decode(errors="replace")]))
"""


@pytest.mark.parametrize("percent", [20, 60])
def test_drgn_has_tasks_log_and_backtrace_of_a_dump_that_was_cut(percent, forged_real, tool, tmp_path) -> None:
    """All that it has of the whole one, with a fifth of the bytes of level 31 as with more."""
    pytest.importorskip("drgn")
    forged, _, vmlinux = forged_real
    harness.run_ok("-l", "-d", "31", forged, tmp_path / "whole")
    limit = (tmp_path / "whole").stat().st_size * percent // 100
    assert harness.run("-l", "-d", "31", "-L", str(limit), forged, tmp_path / "cut").returncode == 1
    argv = [sys.executable, "-c", DRGN]
    whole, cut = (
        json.loads(subprocess.run([*argv, tmp_path / name, vmlinux], capture_output=True, text=True, check=True).stdout)
        for name in ("whole", "cut")
    )
    assert cut == whole
    assert len(whole[0]) > 20 and "panic" in whole[1] and "Kernel panic - not syncing" in whole[2]


def test_crash_needs_no_more_of_a_dump_that_was_cut(forged_real, tool, tmp_path) -> None:
    """Two fifths of level 1 do; it says of the file what npdump does."""
    forged, _, vmlinux = forged_real
    harness.run_ok("-l", "-d", "1", forged, tmp_path / "whole")
    limit = (tmp_path / "whole").stat().st_size * 2 // 5
    assert harness.run("-l", "-d", "1", "-L", str(limit), forged, tmp_path / "cut").returncode == 1
    script = tmp_path / "commands"
    script.write_text("log\nbt\nps\nquit\n")
    argv = [tool("crash"), "-s", "-i", script, vmlinux, tmp_path / "cut"]
    said = subprocess.run(
        argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace", timeout=300, check=False
    )
    assert said.returncode == 0, said.stdout[-1000:] + said.stderr
    assert "This dumpfile is incomplete." in said.stdout
    assert "Kernel panic - not syncing" in said.stdout
    assert re.search(r"^ *#\d+ \[[0-9a-f]+\] panic at ", said.stdout, re.MULTILINE)
    assert re.search(r"^> +\d+ +\d+ +\d+ +[0-9a-f]{16} +RU .* init$", said.stdout, re.MULTILINE)

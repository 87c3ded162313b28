# SPDX-License-Identifier: GPL-2.0-or-later
"""What explain says of pages that stay: whose they are, by the kernel's own structures, and what it must not say.

Of built machines everything is known. Of real kernels drgn tells it, by their DWARF; npdump reads their BTF.
"""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest

import npdump
from npdump.observer import Recorder
from tests import harness, peers
from tests.builders.kernels import KERNELS, STRUCT_PAGE_NBYTES
from tests.builders.own import NODE, SPANNED, TABLES, ZONE_NBYTES, write_node, write_own
from tests.builders.pages import POINTER, Block
from tests.builders.vmcore import PLAIN, Description, build

if TYPE_CHECKING:
    from pathlib import Path

    from tests.builders.memory import Memory

BASE = PLAIN.page_offset
STEXT = 0xFFFFFFFF81000000
RESERVED = 1 << 13
TABLE_TYPE = (0xF2 << 24) - (1 << 32)

CACHE, NAMES, AREAS, TASKS, PER_CPU, CHUNKS = (TABLES + 0x40000 + 0x1000 * i for i in range(6))
STACK, MODULE = 0xFFFFC90000010000, 0xFFFFC90000020000
STACK_PFNS, MODULE_PFNS = [0x4100, 0x4123], [0x4200]
LISTED = 0x4300
#: First pages of the units of CPU 0 and 1 in the first chunk of per-CPU memory and in another one, each of two pages.
UNIT_PFNS = {"first": (0x5800, 0x5810), "another": (0x5900, 0x5910)}

STRUCTS = {
    "slab": (64, {"slab_cache": (8, 8)}),
    "kmem_cache": (64, {"name": (0, 8), "object_size": (8, 4)}),
    "vmap_area": (64, {"va_start": (0, 8), "vm": (8, 8), "list": (16, 16)}),
    "vm_struct": (64, {"addr": (0, 8), "size": (8, 8), "pages": (16, 8), "nr_pages": (24, 4), "caller": (32, 8)}),
    "task_struct": (
        128,
        {
            "tasks": (0, 16),
            "thread_node": (16, 16),
            "signal": (32, 8),
            "stack": (40, 8),
            "pid": (48, 4),
            "comm": (56, 16),
        },
    ),
    "signal_struct": (16, {"thread_head": (0, 16)}),
    "per_cpu_pages": (512, {"lists": (64, 16 * 12)}),
    "pcpu_chunk": (64, {"list": (8, 16), "base_addr": (24, 8)}),
    "zone": (
        ZONE_NBYTES,
        {
            "per_cpu_pageset": (0, 8),
            "name": (8, 8),
            "zone_start_pfn": (SPANNED - 16, 8),
            "spanned_pages": (SPANNED, 8),
        },
    ),
}
ENUMS = {
    "pageflags": {"PG_referenced": 2, "PG_lru": 5, "PG_head": 6, "PG_writeback": 1, "PG_reserved": 13},
    "pagetype": {"PGTY_table": 0xF2},
    "migratetype": {"MIGRATE_PCPTYPES": 3},
}
SYMBOLS = {
    "_stext": STEXT,
    "_etext": STEXT + 0x3000,
    "do_something": STEXT + 0x1010,
    "do_more": STEXT + 0x1F00,
    "_end": STEXT + 0x200000,
    "vmap_area_list": BASE + AREAS,
    "init_task": BASE + TASKS,
    "__per_cpu_offset": BASE + PER_CPU,
    "nr_cpu_ids": BASE + PER_CPU + 64,
    "pcpu_unit_size": BASE + CHUNKS,
    "pcpu_nr_slots": BASE + CHUNKS + 4,
    "pcpu_base_addr": BASE + CHUNKS + 8,
    "pcpu_unit_offsets": BASE + CHUNKS + 16,
    "pcpu_chunk_lists": BASE + CHUNKS + 24,
    "__per_cpu_start": 0,
    "runqueues": 0x40,
    "__per_cpu_end": 0x800,
}


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)


def write_kernel(memory: Memory) -> dict[str, int]:
    """Write what a kernel knows of its pages."""
    memory.write(CACHE, words(BASE + NAMES) + struct.pack("<I", 192))
    memory.write(NAMES, b"dentry\0".ljust(64, b"\0") + b"Normal\0")
    areas = [(STACK, STACK_PFNS, STEXT + 0x1F04), (MODULE, MODULE_PFNS, STEXT + 0x1F04)]
    at = [AREAS + 0x100 * (i + 1) for i in range(len(areas))]
    lists = [AREAS, *(place + 16 for place in at), AREAS]
    for i, (vaddr, pfns, caller) in enumerate(areas):
        place, vm, pages = at[i], at[i] + 0x40, at[i] + 0x80
        memory.write(place, words(vaddr, BASE + vm))
        memory.write(vm, words(vaddr, 0x1000 * (len(pfns) + 1), BASE + pages, len(pfns), caller))
        memory.write(pages, words(*(PLAIN.vmemmap + STRUCT_PAGE_NBYTES * pfn for pfn in pfns)))
    for entry, after in pairwise(lists):
        memory.write(entry, words(BASE + after))
    task, signal = TASKS + 0x100, TASKS + 0x200
    memory.write(TASKS, words(BASE + task))
    memory.write(task, words(BASE + TASKS, 0, BASE + signal, 0, BASE + signal, STACK, 4711) + b"some daemon\0")
    memory.write(signal, words(BASE + task + 16))
    # CPU 1 keeps one block of order 1 in the second list of that order.
    memory.write(PER_CPU, words(0x100000, 0x200000) + bytes(48) + struct.pack("<I", 2))
    write_chunks(memory)
    node = write_node(memory, BASE, [(0x100, 0x8000, 4096)])
    zone = TABLES + 0x20000
    memory.write(zone, words(BASE + PER_CPU + 0x100 - 0x200000, BASE + NAMES + 64))
    memory.write(TABLES + 0x20000 + NODE["node_spanned_pages"] + 64, struct.pack("<I", 0))
    return node | {"OFFSET(pglist_data.node_id)": NODE["node_spanned_pages"] + 64}


def write_chunks(memory: Memory) -> None:
    """Two chunks of per-CPU memory, in the second of three lists; the first begins after the image's variables."""
    offsets, lists, chunks = CHUNKS + 0x100, CHUNKS + 0x200, (CHUNKS + 0x300, CHUNKS + 0x400)
    (first, second), (another, _) = UNIT_PFNS["first"], UNIT_PFNS["another"]
    memory.write(CHUNKS, struct.pack("<II", 0x2000, 3) + words(*(BASE + at for at in (first << 12, offsets, lists))))
    memory.write(offsets, words(0, (second - first) << 12))
    heads = [BASE + lists + 16 * i for i in range(3)]
    links = [BASE + chunk + 8 for chunk in chunks]
    memory.write(lists, words(heads[0], heads[0], links[0], links[1], heads[2], heads[2]))
    for chunk, after, base in zip(chunks, (links[1], heads[1]), ((first << 12) + 0x800, another << 12), strict=True):
        memory.write(chunk + 8, words(after, 0, BASE + base))


HEAD_OF_LIST = BASE + PER_CPU + 0x100 + 64 + 16 * 4
BLOCKS = [
    Block(0x2000, "free", 10, 4),
    Block(0x4000, "slab", 2, fields={"compound": BASE + CACHE}),
    Block(0x4004, "kernel", fields={"mapcount": TABLE_TYPE}),
    Block(0x4010, "lru", 4),
    Block(0x4020, "anon", 4),
    Block(0x4030, "anon_swapcache"),
    Block(0x4031, "ksm"),
    Block(0x4032, "private", fields={"private": POINTER}),
    Block(0x4033, "kernel", fields={"refcount": 7}),
    Block(0x1001, "kernel", fields={"flags": RESERVED}),
    Block(0x5000, "kernel", fields={"flags": RESERVED}),
    Block(UNIT_PFNS["first"][0], "kernel", fields={"flags": RESERVED}),
    Block(LISTED, "kernel", fields={"refcount": 0, "compound": HEAD_OF_LIST}),
    Block(LISTED + 1, "kernel", fields={"refcount": 0, "compound": 0}),
    Block(LISTED + 2, "kernel", fields={"refcount": 0, "compound": 0}),
    Block(0x4400, "hugetlb", 9),
]


def make(path: Path, with_types: bool, generation: str = "7.2") -> Path:
    keys: dict[str, int | str | None] = {}

    def write(memory: Memory, _: object) -> None:
        keys.update(write_kernel(memory))
        if with_types:
            keys.update(write_own(memory, TABLES, BASE, SYMBOLS, STRUCTS, ENUMS))

    build(
        path,
        Description(
            ram=[(1 << 20, 1 << 27)], kernel=KERNELS[generation], blocks=BLOCKS, fill=0, spoil=write, keys=keys
        ),
    )
    return path


@pytest.fixture(scope="module")
def dump(tmp_path_factory):
    recorder = Recorder()
    with npdump.open(make(tmp_path_factory.mktemp("explain") / "vmcore", True), observer=recorder) as opened:
        opened.page(0x100)
        assert not recorder.warnings
        yield opened


@pytest.mark.parametrize("pfn", [0x4000, 0x4001, 0x4003])
def test_slabs_have_the_name_of_their_cache(dump, pfn) -> None:
    page = dump.page(pfn)
    assert page.use == "slab of cache dentry, objects of 192 bytes"
    assert (page.head_pfn, page.order) == (0x4000, 2)
    assert set(page.class_by_level.values()) <= {"ZERO"}
    # From Linux v6.2 on the word at mapping is the slab's, and its bit 0 means nothing.
    assert "ANON" not in page.traits and "ANON" not in page.head_traits


def test_page_tables(dump) -> None:
    page = dump.page(0x4004)
    assert page.use == "page table"
    assert page.meanings["mapcount"] == "a page type"


def test_the_kernels_image_has_symbols(dump) -> None:
    assert dump.page(0x1001).use == f"kernel text at {STEXT + 0x1000:#x}: _stext, do_something, do_more"
    assert dump.page(0x5000).use == "reserved since the kernel booted"


def test_vmalloc_areas_and_stacks(dump) -> None:
    uses = [dump.page(pfn).use for pfn in (*STACK_PFNS, *MODULE_PFNS)]
    assert uses == [
        f"kernel stack of some daemon, PID 4711, at {STACK:#x}",
        f"kernel stack of some daemon, PID 4711, at {STACK + 0x1000:#x}",
        f"vmalloc area of 8192 bytes, at {MODULE:#x}, for do_more+0x4",
    ]


def test_per_cpu_memory(dump) -> None:
    for name, pfns in UNIT_PFNS.items():
        for cpu, pfn in enumerate(pfns):
            symbols = ": __per_cpu_start, runqueues" if name == "first" else ""
            use = f"per-CPU memory of CPU {cpu}, at {BASE + (pfn << 12):#x}"
            assert [dump.page(pfn + i).use for i in (-1, 0, 2)] == [None, use + symbols, None]
            assert dump.page(pfn + 1).use == f"per-CPU memory of CPU {cpu}, at {BASE + (pfn + 1 << 12):#x}"


def test_struct_pages(dump) -> None:
    """64 of them fill a page."""
    paddr = dump.translate(dump.page(0x4101).struct_page).paddr
    assert dump.page(paddr >> 12).use == "memory map: struct pages of pages 0x4100 to 0x413f"


def test_pages_that_a_cpu_keeps(dump) -> None:
    pages = [dump.page(LISTED + i) for i in range(3)]
    assert [page.use for page in pages] == ["free, kept by CPU 1 (in no block of the buddy system)"] * 2 + [None]
    assert [page.order for page in pages] == [1, 1, 0]


def test_zones(dump) -> None:
    assert dump.page(0x4000).place == "node 0 Normal"
    assert dump.page(0x10).place is None


@pytest.mark.parametrize(
    ("pfn", "trait"), [(0x4011, "CACHE"), (0x401F, "CACHE"), (0x4021, "ANON"), (0x4401, "HUGETLB")]
)
def test_tails_say_nothing_by_words_that_are_of_the_whole(dump, pfn, trait) -> None:
    """The second page's flags hold the order, 4 or 9: as flags they would be PG_referenced, or PG_locked and others."""
    page = dump.page(pfn)
    assert page.flags == ()
    # Huge pages that are not of a file are anonymous too.
    assert set(page.traits) == {"TAIL"} and set(page.head_traits) in ({trait}, {trait, "ANON"})
    assert page.head_pfn is not None and page.head_pfn < pfn < page.head_pfn + (1 << page.order)
    assert page.meanings["mapping"] == "the whole block's, not the page's"
    assert page.use is None


def test_words_that_kinds_share(dump) -> None:
    def meanings(pfn: int) -> dict[str, str]:
        return dump.page(pfn).meanings

    assert meanings(0x4010) == {"mapping": "address_space"}
    assert meanings(0x4020) == {"mapping": "anon_vma, with bit 0 set"}
    assert meanings(0x4030) == {"mapping": "anon_vma, with bit 0 set", "private": "a swap entry"}
    assert meanings(0x4031) == {"mapping": "a node of KSM's tree"}
    assert meanings(0x4032) == {"mapping": "address_space", "private": "the file system's own"}
    assert meanings(0x2000) == {"mapcount": "a page type", "private": "the order"}
    assert set(dump.page(0x4020).traits) == {"ANON"}


def test_pages_within_free_blocks(dump) -> None:
    page = dump.page(0x2C01)
    assert (page.head_pfn, page.order, page.use) == (0x2C00, 10, None)
    assert list(page.head_traits) == ["FREE"]


def test_what_nothing_tells_is_not_said(dump) -> None:
    page = dump.page(0x4033)
    assert (page.use, page.fields["refcount"], page.traits) == (None, 7, {})


def test_without_types_less_is_said(tmp_path) -> None:
    """Where the kernel carries no types, what its struct pages say is all."""
    recorder = Recorder()
    with npdump.open(make(tmp_path / "vmcore", False), observer=recorder) as opened:
        uses = {pfn: opened.page(pfn).use for pfn in (0x4000, 0x4004, 0x1001, *STACK_PFNS, LISTED, 0x4033)}
        assert opened.page(0x4000).place is None
        assert opened.page(0x4001).head_pfn == 0x4000
    assert uses.pop(0x4000) == "slab"
    assert set(uses.values()) == {None}
    assert not recorder.warnings


def test_the_command_says_it(dump, tmp_path) -> None:
    text = harness.run_ok("explain", dump.path, "pfn:0x4001", "pfn:0x4010").stdout
    assert "used for        slab of cache dentry, objects of 192 bytes" in text
    assert "it is           page 1 of 4 pages from 0x4000, order 2" in text
    assert "left out        as page cache without private data at every level with 2 or 4" in text
    story = json.loads(harness.run_ok("explain", "--json", dump.path, "pfn:0x4001").stdout)
    assert (story["use"][:4], story["place"], story["order"]) == ("slab", "node 0 Normal", 2)


WITH_DRGN = """
import json, sys
import drgn
from drgn.helpers.linux.mm import compound_order, for_each_vmap_area, page_to_pfn, pfn_to_page
from drgn.helpers.linux.pid import for_each_task
from drgn.helpers.linux.mmzone import for_each_online_pgdat
program = drgn.Program()
program.set_core_dump(sys.argv[1])
program.load_debug_info([sys.argv[2]])
slab = 1 << program["PG_slab"].value_()
areas, zones, stacks = {}, [], {}
for area in for_each_vmap_area(program):
    vm = area.vm
    if vm and vm.pages:
        for i in range(vm.nr_pages.value_()):
            areas[page_to_pfn(vm.pages[i]).value_()] = (vm.addr.value_() + i * 4096, vm.addr.value_(), vm.size.value_())
for task in for_each_task(program):
    stacks[task.stack.value_()] = (task.comm.string_().decode(), task.pid.value_())
for node in for_each_online_pgdat(program):
    for i in range(node.nr_zones.value_()):
        zone = node.node_zones[i]
        start = zone.zone_start_pfn.value_()
        name = f"node {node.node_id.value_()} {zone.name.string_().decode()}"
        zones.append((start, start + zone.spanned_pages.value_(), name))
answers = {}
for pfn in json.loads(sys.argv[3]):
    page = pfn_to_page(program, pfn)
    head = page.compound_head.value_()
    head = drgn.Object(program, "struct page *", head - 1) if head & 1 else page
    answer = {"refcount": page._refcount.counter.value_(), "head": page_to_pfn(head).value_()}
    answer["order"] = compound_order(head).value_()
    answer["place"] = next((name for start, stop, name in zones if start <= pfn < stop), None)
    if head.flags.value_() & slab:
        cache = drgn.cast("struct slab *", head).slab_cache
        answer["slab"] = [cache.name.string_().decode(), cache.object_size.value_()]
    elif pfn in areas:
        vaddr, start, nbytes = areas[pfn]
        task = next((task for stack, task in stacks.items() if start <= stack < start + nbytes), None)
        answer["stack" if task else "vmalloc"] = [vaddr, *(task or [nbytes])]
    answers[pfn] = answer
print(json.dumps(answers))
"""

N_SAMPLE = 600


@pytest.mark.xdist_group("drgn")
def test_drgn_says_the_same_of_a_real_kernel(corpus) -> None:
    """Of a sample of the pages that level 31 keeps: cache, area, stack, zone, order and refcount."""
    vmcore = corpus("x86_64-6.1-256M")
    pytest.importorskip("drgn")
    vmlinux = peers.vmlinux_of("6.1.0-56-cloud-amd64")
    with npdump.open(vmcore) as opened:
        kept = np.flatnonzero(opened.scan(31).kept)
        pfns = np.random.default_rng(7).choice(kept, N_SAMPLE, replace=False).tolist()
        pages = {pfn: opened.page(pfn) for pfn in pfns}
    command = [sys.executable, "-c", WITH_DRGN, str(vmcore), str(vmlinux), json.dumps(pfns)]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    answers = {int(pfn): answer for pfn, answer in json.loads(result.stdout).items()}
    n_named = 0
    for pfn, answer in answers.items():
        page, use = pages[pfn], pages[pfn].use or ""
        assert page.fields["refcount"] == answer["refcount"] & 0xFFFFFFFF
        assert page.place == answer["place"]
        if "TAIL" in page.traits or page.head_pfn == pfn:
            assert (page.head_pfn, page.order) == (answer["head"], answer["order"]), hex(pfn)
        if "slab" in answer:
            name, nbytes = answer["slab"]
            assert use == f"slab of cache {name}, objects of {nbytes} bytes"
        elif "stack" in answer:
            vaddr, comm, pid = answer["stack"]
            assert use == f"kernel stack of {comm}, PID {pid}, at {vaddr:#x}"
        elif "vmalloc" in answer:
            vaddr, nbytes = answer["vmalloc"]
            assert use.startswith(f"vmalloc area of {nbytes} bytes, at {vaddr:#x}")
        else:
            assert not use.startswith(("slab", "vmalloc", "kernel stack")), hex(pfn)
        n_named += bool(answer.keys() & {"slab", "stack", "vmalloc"})
    assert n_named > N_SAMPLE // 5

# SPDX-License-Identifier: GPL-2.0-or-later
"""Every fact that npdump asks for, by where it can be learnt, in real kernels: the sources must agree.

V is the dump's VMCOREINFO as the tests' own reader sees it, D the DWARF of the kernel's vmlinux, B the BTF and kallsyms
that the dump holds. drgn reads the same DWARF and pahole the same BTF.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from contextlib import closing
from functools import cache

import numpy as np
import pytest

from npdump.arch import by_machine
from npdump.kernel.facts import btf, kallsyms, vmcoreinfo_keys
from npdump.kernel.probe import find_kernel
from npdump.observer import Recorder
from npdump.sources import open_source
from npdump.storage.file import FileStorage
from tests import harness, peers
from tests.readers import open_dump

KERNELS = {"6.1": "x86_64-6.1-256M", "7.2": "x86_64-7.2-512M", "riscv64": "riscv64-6.12-512M"}

#: Who tells what, by kernel; "-" if none does.
NEEDED = """
LENGTH(mem_section)                     V    V    V
LENGTH(node_data)                       VD   V    -
LENGTH(zone.free_area)                  VDB  VB   VB
NUMBER(HUGETLB_PAGE_DTOR)               VDB  -    -
NUMBER(KERNEL_IMAGE_SIZE)               V    V    -
NUMBER(KERNEL_LINK_ADDR)                -    -    V
NUMBER(MAX_PHYSMEM_BITS)                V    V    V
NUMBER(MODULES_VADDR)                   -    -    V
NUMBER(NR_FREE_PAGES)                   VDB  VB   VB
NUMBER(PAGE_BUDDY_MAPCOUNT_VALUE)       VDB  VB   VB
NUMBER(PAGE_HUGETLB_MAPCOUNT_VALUE)     -    VB   VB
NUMBER(PAGE_OFFLINE_MAPCOUNT_VALUE)     VDB  VB   VB
NUMBER(PAGE_OFFSET)                     -    -    V
NUMBER(PAGE_SLAB_MAPCOUNT_VALUE)        -    VB   VB
NUMBER(PAGE_UNACCEPTED_MAPCOUNT_VALUE)  -    VB   B
NUMBER(PG_head_mask)                    VDB  VB   VB
NUMBER(PG_hwpoison)                     -    VB   -
NUMBER(PG_lru)                          VDB  VB   VB
NUMBER(PG_private)                      VDB  VB   VB
NUMBER(PG_slab)                         VDB  -    -
NUMBER(PG_swapbacked)                   VDB  VB   VB
NUMBER(PG_swapcache)                    VDB  VB   VB
NUMBER(SECTION_SIZE_BITS)               V    V    V
NUMBER(VA_BITS)                         -    -    V
NUMBER(VMALLOC_START)                   -    V    V
NUMBER(pgtable_l5_enabled)              V    V    -
NUMBER(phys_base)                       V    V    -
NUMBER(phys_ram_base)                   -    -    V
NUMBER(sme_mask)                        V    V    -
NUMBER(va_kernel_pa_offset)             -    -    V
OFFSET(folio._folio_dtor)               DB   -    -
OFFSET(folio._folio_order)              DB   -    -
OFFSET(free_area.free_list)             VDB  VB   VB
OFFSET(latched_seq.val)                 VDB  VB   VB
OFFSET(list_head.next)                  VDB  VB   VB
OFFSET(list_head.prev)                  VDB  VB   VB
OFFSET(mem_section.section_mem_map)     VDB  VB   VB
OFFSET(page._mapcount)                  VDB  VB   VB
OFFSET(page._refcount)                  VDB  VB   VB
OFFSET(page.compound_dtor)              VDB  -    -
OFFSET(page.compound_head)              VDB  -    VB
OFFSET(page.compound_info)              -    VB   -
OFFSET(page.compound_order)             VDB  -    -
OFFSET(page.flags)                      VDB  VB   VB
OFFSET(page.lru)                        VDB  VB   VB
OFFSET(page.mapping)                    VDB  VB   VB
OFFSET(page.private)                    VDB  VB   VB
OFFSET(pglist_data.node_id)             VDB  VB   VB
OFFSET(pglist_data.node_spanned_pages)  VDB  VB   VB
OFFSET(pglist_data.node_start_pfn)      VDB  VB   VB
OFFSET(pglist_data.node_zones)          VDB  VB   VB
OFFSET(pglist_data.nr_zones)            VDB  VB   VB
OFFSET(prb_data_blk_lpos.begin)         VDB  VB   VB
OFFSET(prb_data_blk_lpos.next)          VDB  VB   VB
OFFSET(prb_data_ring.data)              VDB  VB   VB
OFFSET(prb_data_ring.size_bits)         VDB  VB   VB
OFFSET(prb_desc.state_var)              VDB  VB   VB
OFFSET(prb_desc.text_blk_lpos)          VDB  VB   VB
OFFSET(prb_desc_ring.count_bits)        VDB  VB   VB
OFFSET(prb_desc_ring.descs)             VDB  VB   VB
OFFSET(prb_desc_ring.head_id)           VDB  VB   VB
OFFSET(prb_desc_ring.infos)             VDB  VB   VB
OFFSET(prb_desc_ring.tail_id)           VDB  VB   VB
OFFSET(printk_info.caller_id)           VDB  VB   VB
OFFSET(printk_info.seq)                 VDB  VB   VB
OFFSET(printk_info.text_len)            VDB  VB   VB
OFFSET(printk_info.ts_nsec)             VDB  VB   VB
OFFSET(printk_ringbuffer.desc_ring)     VDB  VB   VB
OFFSET(printk_ringbuffer.text_data_ring) VDB VB   VB
OFFSET(uts_namespace.name)              VDB  VB   VB
OFFSET(zone.free_area)                  VDB  VB   VB
OFFSET(zone.spanned_pages)              VDB  VB   VB
OFFSET(zone.vm_stat)                    VDB  VB   VB
SIZE(free_area)                         VDB  VB   VB
SIZE(latched_seq)                       VDB  VB   VB
SIZE(list_head)                         VDB  VB   VB
SIZE(mem_section)                       VDB  VB   VB
SIZE(page)                              VDB  VB   VB
SIZE(pglist_data)                       VDB  VB   VB
SIZE(prb_desc)                          VDB  VB   VB
SIZE(printk_info)                       VDB  VB   VB
SIZE(printk_ringbuffer)                 VDB  VB   VB
SIZE(zone)                              VDB  VB   VB
SYMBOL(_stext)                          VDB  VB   VB
SYMBOL(clear_seq)                       VDB  VB   VB
SYMBOL(init_top_pgt)                    VDB  VB   -
SYMBOL(init_uts_ns)                     VDB  VB   VB
SYMBOL(kallsyms_names)                  V    V    V
SYMBOL(kallsyms_num_syms)               V    V    V
SYMBOL(kallsyms_offsets)                V    V    V
SYMBOL(kallsyms_relative_base)          V    -    V
SYMBOL(kallsyms_token_index)            V    V    V
SYMBOL(kallsyms_token_table)            V    V    V
SYMBOL(log_buf)                         DB   B    B
SYMBOL(log_buf_len)                     DB   B    B
SYMBOL(mem_section)                     VDB  VB   VB
SYMBOL(node_data)                       VDB  VB   B
SYMBOL(prb)                             VDB  VB   VB
SYMBOL(swapper_pg_dir)                  V    V    VB
"""
TABLE = {words[0]: dict(zip(KERNELS, words[1:], strict=True)) for words in map(str.split, NEEDED.split("\n")[1:-1])}
KEY = r"(?:SYMBOL|SIZE|OFFSET|LENGTH|NUMBER)\([\w.]+\)"
#: Facts of machines, memory models and logs that these kernels don't have.
ELSEWHERE = re.compile(
    r"(NUMBER\((PHYS_OFFSET|RADIX_MMU|TCR_EL1_T1SZ|kimage_voffset|PG_hugetlb|PG_buddy)|OFFSET\((page\._count)"
    r"|SYMBOL\((clear_idx|contig_page_data|pgdat_list|init_level4_pgt|kallsyms_addresses|log_end|log_first_idx"
    r"|log_next_idx|mem_map|free_huge_page|vmap_area_list)|SIZE\(printk_log|.*(mmu_|vmemmap_|pgdat_next|node_mem_map"
    r"|LENGTH\(pgdat_list|LENGTH\(free_area))"
)


def number(key, text):
    """A value as VMCOREINFO and files for -i spell it."""
    return int(text, 16 if key.startswith("SYMBOL") or text.lower().startswith("0x") else 10)


def keys_of(text):
    pairs = (line.split("=", 1) for line in text.splitlines() if "=" in line)
    return {key: number(key, value) for key, value in pairs if re.fullmatch(KEY, key)}


def vmcore_of(name):
    if KERNELS[name] not in harness.corpus_names(""):
        pytest.skip(f"no whole vmcore {KERNELS[name]} in a directory of further vmcores (NPDUMP_CORPUS)")
    return harness.corpus_vmcore(KERNELS[name])


@cache
def release_of(name):
    return re.search(rb"OSRELEASE=(\S+)", open_dump(vmcore_of(name)).vmcoreinfo)[1].decode()


@cache
def own_facts(name):
    """By BTF and kallsyms, and the BTF itself."""
    with closing(FileStorage(str(vmcore_of(name)))) as storage:
        source = open_source(storage)
        heard = Recorder()
        kernel = find_kernel(source, by_machine(source.header), required=True, observer=heard)
        symbols = kallsyms.read(kernel.facts, kernel.memory.read, kernel.memory.word)
        start, stop = symbols["__start_BTF"], symbols["__stop_BTF"]
        raw = kernel.memory.read(start, stop - start)
    assert heard.warnings == []
    facts = vmcoreinfo_keys.from_types(symbols, btf.parse(raw, "<", 8), release_of(name), "BTF")
    return {key: fact.value for key, fact in facts.items()}, raw


@pytest.fixture(scope="module")
def from_vmlinux(tmp_path_factory):
    """What -g makes of the vmlinux of Linux 6.1."""
    path = tmp_path_factory.mktemp("vmlinux") / "info"
    vmlinux = peers.vmlinux_of(release_of("6.1"))
    harness.run_ok("-g", path, "-x", vmlinux, env={"XDG_CACHE_HOME": str(path.parent)})
    return path, vmlinux


#: Of keys as such: the catalogue, what each may be, and which show of what machine a dump is.
ABOUT_KEYS = ("vmcoreinfo_keys.py", "gate.py", "machine.py")


def test_the_table_has_all_that_npdump_asks_for():
    asked = set()
    for path in (harness.REPOSITORY / "npdump").rglob("*.py"):
        # Xen's hypervisor has keys of its own.
        if path.name not in ABOUT_KEYS and path.parent.name != "xen":
            asked |= set(re.findall(f'"({KEY})"', path.read_text()))
    assert sorted(key for key in asked - set(TABLE) if not ELSEWHERE.match(key)) == []


@pytest.mark.parametrize("name", KERNELS)
def test_sources_agree(name, request):
    vmcoreinfo = keys_of(open_dump(vmcore_of(name)).vmcoreinfo.decode())
    sources = {"V": vmcoreinfo, "B": own_facts(name)[0]}
    if name == "6.1":
        sources["D"] = keys_of(request.getfixturevalue("from_vmlinux")[0].read_text())
        moved = vmcoreinfo["SYMBOL(_stext)"] - sources["D"]["SYMBOL(_stext)"]
        sources["D"] |= {key: at + moved for key, at in sources["D"].items() if key.startswith("SYMBOL")}
    for key, column in TABLE.items():
        told = {source: facts[key] for source, facts in sources.items() if key in facts}
        assert set(told) == set(column[name]) - {"-"}, key
        if key == "SYMBOL(mem_section)":
            del told["V"]  # the value of the pointer, the others give its address
        assert len(set(told.values())) <= 1, f"{key}: {told}"


@pytest.mark.parametrize("name", KERNELS)
def test_pahole_sees_the_same_structs(name, tool, tmp_path):
    facts, raw = own_facts(name)
    (tmp_path / "btf").write_bytes(raw)
    structs = {re.split(r"[(.)]", key)[1] for key in facts if key.startswith(("OFFSET(", "SIZE("))}
    argv = [tool("pahole"), "-F", "btf", "-C", ",".join(sorted(structs)), tmp_path / "btf"]
    said = subprocess.run(argv, capture_output=True, text=True, check=False).stdout
    n_compared = 0
    for struct, body in re.findall(r"^struct (\w+) \{\n(.*?)^\};", said, re.MULTILINE | re.DOTALL):
        members = re.findall(r"(\w+)(?:\[\w*\])*; +/\* +(\d+) +\d+ \*/", body)
        wanted = {f"OFFSET({struct}.{member})": int(offset) for member, offset in reversed(members)}
        wanted[f"SIZE({struct})"] = int(re.search(r"/\* size: (\d+)", body)[1])
        shared = wanted.keys() & facts.keys()
        assert {key: facts[key] for key in shared} == {key: wanted[key] for key in shared}
        n_compared += len(shared)
    assert n_compared >= 45


def test_drgn_sees_the_same_types(from_vmlinux):
    pytest.importorskip("drgn")
    path, vmlinux = from_vmlinux
    facts = {key: value for key, value in keys_of(path.read_text()).items() if key[:5] in ("SIZE(", "OFFSE", "NUMBE")}
    script = """
import re, sys
import drgn
program = drgn.Program()
program.set_core_dump(sys.argv[1])
program.load_debug_info([sys.argv[2]])
for key in sys.argv[3:]:
    kind, struct, member = re.fullmatch(r"(\\w+)\\((\\w+)(?:\\.(\\w+))?\\)", key).groups()
    try:
        if kind == "NUMBER":
            value = program.constant("PG_head" if struct == "PG_head_mask" else struct).value_()
        else:
            type = program.type(struct if struct.endswith("_t") else "struct " + struct)
            value = drgn.sizeof(type) if kind == "SIZE" else drgn.offsetof(type, member)
    except LookupError:
        continue
    print(f"{key}={1 << value if struct == 'PG_head_mask' else value}")
"""
    argv = [sys.executable, "-c", script, vmcore_of("6.1"), vmlinux, *facts]
    wanted = keys_of(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    assert len(wanted) > 60
    assert {key: facts[key] for key in wanted} == wanted


def test_dash_g_is_makedumpfiles(from_vmlinux):
    """Key by key, where makedumpfile (1.7.9 and later, at b7587f1) writes the key."""
    path, _ = from_vmlinux
    expected = harness.TESTS / "fixtures" / "facts" / f"{release_of('6.1')}.makedumpfile-g"
    wanted, got = (dict(line.split("=", 1) for line in file.read_text().splitlines()) for file in (expected, path))
    # It takes the array's bound for its length and gets that wrong; the kernel has 1 << CONFIG_NODES_SHIFT of them.
    assert wanted.pop("LENGTH(node_data)") == str((1 << 63) - 2)
    assert got["LENGTH(node_data)"] == "1024"
    assert {key: got.get(key) for key in wanted} == wanted


def without_note(vmcore, path):
    """A copy of a dump in which neither the note nor the kernel's own copies of it can be recognised."""
    data = np.fromfile(vmcore, np.uint8)
    raw = data.tobytes()
    for text, other in ((b"VMCOREINFO\0", b"SOMETHING!\0"), (b"OSRELEASE=", b"NO RELEASE")):
        for match in re.finditer(re.escape(text), raw):
            data[match.start() : match.end()] = np.frombuffer(other, np.uint8)
    data.tofile(path)
    return path


def test_vmlinux_and_files_stand_in_for_the_note(from_vmlinux, tmp_path):
    """The same pages with the same bytes; and makedumpfile, given npdump's file, keeps what it keeps without."""
    info, vmlinux = from_vmlinux
    vmcore = vmcore_of("6.1")
    bare = without_note(vmcore, tmp_path / "bare")
    cache = {"XDG_CACHE_HOME": str(info.parent)}
    harness.run_ok("-l", "-d31", vmcore, tmp_path / "own")
    own = open_dump(tmp_path / "own")
    for options in (("-x", vmlinux), ("-i", info)):
        harness.run_ok("-l", "-d31", *options, bare, tmp_path / "given", "-f", env=cache)
        given = open_dump(tmp_path / "given")
        assert np.array_equal(given.bitmap1, own.bitmap1) and np.array_equal(given.bitmap2, own.bitmap2)
        for pfn in own.kept.tolist()[::50]:
            assert given.page(pfn).replace(b"NO RELEASE", b"OSRELEASE=") == own.page(pfn)
        os.unlink(tmp_path / "given")
    makedumpfile = peers.makedumpfile_for(release_of("6.1"))
    peers.run_makedumpfile(makedumpfile, "-l", "-d31", "-i", info, vmcore, tmp_path / "theirs")
    assert np.array_equal(open_dump(tmp_path / "theirs").bitmap2, own.bitmap2)

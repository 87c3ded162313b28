# SPDX-License-Identifier: GPL-2.0-or-later
"""Hosts that ran Xen: a real one, whole in its distilled form, and built ones of several versions of Xen."""

from __future__ import annotations

import struct
import subprocess
from dataclasses import replace

import numpy as np
import pytest

import npdump
from npdump.errors import FactError
from npdump.kernel.xen import XenFiles
from npdump.kernel.xen.domain import find_p2m
from npdump.kernel.xen.hypervisor import Hypervisor
from tests.builders.xen import DIRECT_MAP, N_FRAMES, PHYS_START, Host, build
from tests.harness import reference, run, run_ok
from tests.judging import check_all_levels, check_level
from tests.readers import ElfDump, open_dump
from tests.readers.compare import content_digest, difference
from tests.scanning import opened

XEN = "machines/x86_64-6.1-xen"
#: By version: the note grew, symbols came and went, domains were numbered in another way.
HOSTS = {
    "3.0": Host(
        (3, 0), 0xFFFF828C80000000, 9, 0xFFFF82F600000000, page_info=40, count_at=16, owner_at=24, has_note=False
    ),
    "3.0 with a note": Host((3, 0), 0xFFFF828C80000000, 9, 0xFFFF82F600000000, page_info=40, count_at=16, owner_at=24),
    "3.1": Host((3, 1), 0xFFFF828C80000000, 10, 0xFFFF82F600000000, page_info=64, count_at=16, owner_at=24),
    "3.4": Host((3, 4), 0xFFFF828C80000000, 10, 0xFFFF82F600000000, count_at=16, keys={"SYMBOL(frame_table)": None}),
    "4.0": Host((4, 0), 0xFFFF82C480000000, 10, 0xFFFF82F600000000, has_symbol=False),
    "4.3": Host((4, 3), has_symbol=False),
    "4.17": Host(),
    "moved": Host(frame_table=0xFFFF82E123400000, page_info=64, count_at=32, owner_at=48, next_at=64),
}


@pytest.fixture(scope="module")
def host(tmp_path_factory):
    """The vmcore of a `Host`, what was built, and the options that it needs."""
    folder = tmp_path_factory.mktemp("xen")

    def make(name):
        path = folder / name
        built = build(path, HOSTS[name])
        options = []
        if HOSTS[name].n_words < 10:
            options += ["--xen_phys_start", hex(PHYS_START)]
        if not HOSTS[name].has_note:
            (folder / f"{name}.txt").write_bytes(built.text())
            options += ["--xen-vmcoreinfo", folder / f"{name}.txt"]
        return path, built, options

    return make


def kept(path):
    return open_dump(path).kept.tolist()


# A real host


def test_all_levels_keep_what_the_reference_keeps(distilled):
    check_all_levels(distilled(XEN), reference(XEN))


def test_without_user_domains_levels_keep_what_the_reference_keeps(distilled):
    wanted = reference(f"{XEN}-X")
    with opened(distilled(XEN)) as scanner:
        for level in (0, 1, 2, 4, 8, 16, 31):
            scanned = scanner.dump.scan(level, drop_guests=True)
            assert difference(scanned.kept, wanted.kept(level)) == "", f"level {level}"
        assert scanner.said == []
        counts = scanner.dump.scan(31, drop_guests=True).counts
    assert counts["GUEST"] == 160


def test_a_dump_is_the_reference(distilled, tmp_path):
    check_level(distilled(XEN), reference(XEN), 31, tmp_path)


@pytest.mark.parametrize("options", [("-E", "-X"), ("-X", "-l", "--cyclic-buffer", "4")])
def test_dumps_without_user_domains_have_the_references_bytes(options, distilled, tmp_path):
    wanted = reference(f"{XEN}-X")
    run_ok(*options, "-d", "31", distilled(XEN), tmp_path / "dump")
    dump = open_dump(tmp_path / "dump")
    if isinstance(dump, ElfDump):
        pages = wanted.kept(31).nonzero()[0].tolist()
        assert content_digest((pfn, dump.page(pfn)) for pfn in pages) == wanted.levels[31]["content"]
    else:
        assert difference(dump.bitmap2, wanted.kept(31)) == ""
        assert content_digest(dump.contents()) == wanted.levels[31]["content"]


def test_a_dump_of_a_host_is_filtered_again(distilled, tmp_path):
    run_ok("-l", "-d", "1", distilled(XEN), tmp_path / "first")
    run_ok("-X", "-l", "-d", "31", tmp_path / "first", tmp_path / "second")
    assert kept(tmp_path / "second") == reference(f"{XEN}-X").kept(31).nonzero()[0].tolist()


def test_info_names_the_hypervisor_and_its_domains(distilled):
    text = run_ok("info", distilled(XEN)).stdout
    assert "hypervisor      Xen 4.17.5" in text
    assert "domains         0\n" in text
    assert "release         6.1.0-50-amd64" in text
    assert "Xen crash info" in text


def test_the_log_of_dom0_is_read(distilled):
    assert "Kernel panic - not syncing: sysrq triggered crash" in run_ok("--dump-dmesg", distilled(XEN)).stdout


def test_kinds_are_counted_among_the_pages_of_dom0(distilled):
    assert run_ok("stats", distilled(XEN)).stdout.splitlines()[-1].split() == [
        "memory",
        "512",
        "MiB",
        "131072",
        "pages",
    ]


def test_pages_are_explained_by_their_owner(distilled):
    with npdump.open(distilled(XEN)) as dump:
        own, firmware, xen = (dump.page(mfn) for mfn in (0x3F810, 5, 0x3FFD0))
    assert own.owner == "dom0, which counts it as page frame 0x8128"
    assert own.traits.keys() == {"CACHE", "PRIVATE"}
    assert firmware.owner.startswith("domain 32753 (dom_io")
    assert xen.owner == "Xen itself"
    assert run_ok("explain", distilled(XEN), "0x3f810").stdout.count("owner           dom0") == 1


def test_pages_that_differ_are_not_taken_for_dom0s(distilled, tmp_path):
    run_ok("-X", "-l", "-d", "31", distilled(XEN), tmp_path / "dump")
    told = run("compare", distilled(XEN), tmp_path / "dump").stdout.lower()
    assert "lost" in told
    assert "cache" not in told


# Built ones


@pytest.mark.parametrize("name", HOSTS)
def test_every_layout_of_xen_is_read(name, host, tmp_path):
    vmcore, built, options = host(name)
    run_ok("-X", *options, vmcore, tmp_path / "dump")
    assert kept(tmp_path / "dump") == built.expected
    assert 0 < len(built.expected) < N_FRAMES


@pytest.mark.parametrize("name", HOSTS)
def test_makedumpfile_keeps_the_same(name, host, tool, tmp_path):
    vmcore, built, options = host(name)
    if "--xen-vmcoreinfo" in options:
        pytest.skip("makedumpfile closes that file before it reads it")
    subprocess.run([tool("makedumpfile"), "-X", *options, vmcore, tmp_path / "dump"], check=True, capture_output=True)
    assert kept(tmp_path / "dump") == built.expected


def test_without_x_everything_stays(host, tmp_path):
    vmcore, _, _ = host("4.17")
    run_ok(vmcore, tmp_path / "dump")
    assert kept(tmp_path / "dump") == list(range(N_FRAMES))


def test_xen_syms_tells_what_the_note_does_not(host, tool, tmp_path):
    source = """
        struct page_info { unsigned long a, count_info, b; union { struct { unsigned _domain; } inuse; } v; };
        struct domain { short domain_id; struct { int domain_id, x; } inner; char c[116]; void *next_in_list; };
        struct page_info frames[2]; struct domain *domain_list, *dom_xen, *dom_io; long max_page, idle_pg_table;
        int main(void) { return domain_list->domain_id + frames[0].v.inuse._domain + max_page + idle_pg_table; }
    """
    (tmp_path / "xen.c").write_text(source)
    subprocess.run([tool("cc"), "-g", "-no-pie", "-o", tmp_path / "xen-syms", tmp_path / "xen.c"], check=True)
    run_ok("-g", tmp_path / "text", "--xen-syms", tmp_path / "xen-syms")
    lines = (tmp_path / "text").read_text().splitlines()
    assert {"SIZE(page_info)=32", "OFFSET(page_info.count_info)=8", "OFFSET(page_info._domain)=24"} <= set(lines)
    assert {"OFFSET(domain.domain_id)=0", "OFFSET(domain.next_in_list)=128", "PAGESIZE=4096"} <= set(lines)
    names = {line.partition("=")[0] for line in lines}
    assert {"SYMBOL(domain_list)", "SYMBOL(dom_xen)", "SYMBOL(dom_io)", "SYMBOL(max_page)", "SYMBOL(pgd_l4)"} <= names

    vmcore, _, _ = host("4.17")
    refused = run("-X", "--xen-syms", tmp_path / "xen-syms", vmcore, tmp_path / "dump")
    assert refused.returncode == 1
    assert "where Xen never is" in refused.stderr  # the symbols are those of a process

    # As Debian's package of debug symbols has it.
    subprocess.run([tool("objcopy"), "--strip-debug", tmp_path / "xen-syms"], check=True)
    refused = run("-g", tmp_path / "text2", "--xen-syms", tmp_path / "xen-syms")
    assert refused.returncode == 1
    assert "has symbols and no debug information of Xen's structures" in refused.stderr
    assert not (tmp_path / "text2").exists()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["-X"], "--xen_phys_start ADDRESS"),
        (["-X", "--xen_phys_start", "0x400000"], "--xen-syms FILE or --xen-vmcoreinfo FILE"),
    ],
)
def test_what_is_not_told_is_asked_for(options, words, host, tmp_path):
    vmcore, built, _ = host("3.0")
    text = tmp_path / "text"
    text.write_bytes(built.text())
    more = ["--xen-vmcoreinfo", text] if options == ["-X"] else []
    refused = run(*options, *more, vmcore, tmp_path / "dump")
    assert refused.returncode == 1
    assert words in refused.stderr
    assert not (tmp_path / "dump").exists()


def test_x_is_for_hosts_only(distilled, tmp_path):
    refused = run("-X", distilled("x86_64-6.12"), tmp_path / "dump")
    assert refused.returncode == 1
    assert "is not of a Xen host" in refused.stderr


def test_options_of_xen_contradict_each_other():
    refused = run("-X", "--xen-syms", "a", "--xen-vmcoreinfo", "b", "vmcore", "dump")
    assert refused.returncode == 1
    assert "--xen-syms with --xen-vmcoreinfo" in refused.stderr


# Damage


def _owners(built):
    for number in (0, 3, 5):
        built.put(built.domains[number], number + 1, "<H")


#: What is damaged, and the words that name it; nothing is left out then.
DAMAGE = {
    "a list without an end": (lambda b: b.put(b.domains[5] + b.host.next_at, b.domains[3]), "domains is damaged at"),
    "a list out of memory": (lambda b: b.put(b.domains[3] + b.host.next_at, DIRECT_MAP + (1 << 40)), "in the dump"),
    "a list that leaves Xen": (lambda b: b.put(b.domains[3] + b.host.next_at, 8), "domains is damaged at 0x8"),
    "no domain": (lambda b: b.put(b.symbols["domain_list"], 0), "has no dom0"),
    "no dom0": (_owners, "has no dom0"),
    "a frame table elsewhere": (lambda b: b.put(b.symbols["frame_table"], 0xFFFF82E800000000), "table isn't where"),
    "a frame table of no Xen": (lambda b: b.put(b.symbols["frame_table"], 0x1000), "frame table at 0x1000 is none"),
    "no page tables": (lambda b: b.memory.write(b.tables.root_paddr, bytes(4096)), "frame table isn't where"),
}


@pytest.mark.parametrize("what", DAMAGE)
def test_damaged_tables_leave_nothing_out(what, tmp_path):
    spoil, words = DAMAGE[what]
    build(tmp_path / "vmcore", Host(spoil=spoil))
    done = run_ok("-X", tmp_path / "vmcore", tmp_path / "dump", "--message-level", "4", timeout=30)
    assert words in done.stderr
    assert "pages of user domains are kept" in done.stderr
    assert kept(tmp_path / "dump") == list(range(N_FRAMES))
    strict = run("-X", "--strict", tmp_path / "vmcore", tmp_path / "strict")
    assert strict.returncode == 1
    assert not (tmp_path / "strict").exists()


#: Facts that no Xen has, and the words that name them; what isn't told isn't guessed.
FALSE_FACTS = {
    "SYMBOL(domain_list)": (0x1000, "where Xen never is"),
    "SYMBOL(pgd_l4)": (DIRECT_MAP, "outside Xen's image"),
    "SIZE(page_info)": (1 << 30, "SIZE(page_info)=1073741824"),
    "OFFSET(page_info._domain)": (64, "puts owner at byte 64"),
    "OFFSET(page_info.count_info)": (None, "count_info"),
    "OFFSET(domain.next_in_list)": (None, "OFFSET(domain.next_in_list)"),
}


@pytest.mark.parametrize("key", FALSE_FACTS)
def test_facts_that_cannot_be_lose_no_page(key, tmp_path):
    value, words = FALSE_FACTS[key]
    build(tmp_path / "vmcore", Host(keys={key: value}))
    done = run("-X", tmp_path / "vmcore", tmp_path / "dump", timeout=30)
    assert words in done.stderr
    assert "Traceback" not in done.stderr
    if done.returncode == 0:
        assert kept(tmp_path / "dump") == list(range(N_FRAMES))
    else:
        assert not (tmp_path / "dump").exists()


LISTS = 900


def _table(built, tables=(902, 903), entries=None):
    """dom0's table of page frames: a list of lists, a list, and tables of 512 entries."""
    mfns = [mfn for mfn, kind in enumerate(built.kinds) if kind == "dom0"]
    words = [mfns[i % len(mfns)] if i < len(mfns) else 1 << 63 for i in range(1024)] if entries is None else entries
    for frame, content in ((LISTS, [901]), (901, list(tables)), (902, words[:512]), (903, words[512:])):
        built.memory.write(frame * 4096, struct.pack(f"<{len(content)}Q", *content).ljust(4096, b"\0"))


def test_the_table_of_dom0s_frames_is_read(tmp_path):
    built = build(tmp_path / "vmcore", Host(frame_list_list=LISTS, spoil=_table))
    mfns = [mfn for mfn, kind in enumerate(built.kinds) if kind == "dom0"]
    with npdump.open(tmp_path / "vmcore") as dump:
        p2m = find_p2m(dump.source)
        assert p2m.mfns[: len(mfns)].tolist() == mfns
        assert (p2m.mfns[len(mfns) :] == -1).all()
        assert p2m.pfn_of(mfns[3]) == 3
        assert p2m.pfn_of(1) is None
        assert p2m.frames.view(3 * 4096, 8).tobytes() == dump.physical.read(mfns[3] * 4096, 8)


#: What is damaged, and the words that name it.
TABLES = {
    "no list": ({"frame_list_list": 0}, "doesn't say which page frames"),
    "a list beyond memory": ({"frame_list_list": 1 << 40}, "doesn't say which page frames"),
    "an empty list": ({"frame_list_list": 1000}, "empty or damaged"),
    "a table beyond memory": ({"spoil": lambda built: _table(built, (902, 1 << 30))}, "none of the machine's"),
    "a list that holds itself": ({"spoil": lambda built: _table(built, (901, LISTS) * 256)}, None),
    "frames beyond memory": ({"spoil": lambda built: _table(built, entries=[1 << 40] * 1024)}, "empty or damaged"),
}


@pytest.mark.parametrize("what", TABLES)
def test_a_damaged_table_of_dom0s_frames_is_named(what, tmp_path):
    changes, words = TABLES[what]
    build(tmp_path / "vmcore", replace(Host(frame_list_list=LISTS, spoil=_table), **changes))
    with npdump.open(tmp_path / "vmcore") as dump:
        if words is None:
            assert set(find_p2m(dump.source).mfns.tolist()) == {0, LISTS, 901}
        else:
            with pytest.raises(FactError, match=words):
                find_p2m(dump.source)
    run_ok("-X", tmp_path / "vmcore", tmp_path / "dump")
    assert len(kept(tmp_path / "dump")) < N_FRAMES


def test_a_note_cut_short_is_no_note(host, tmp_path):
    build(tmp_path / "vmcore", replace(HOSTS["4.17"], n_words=8))
    refused = run("-X", tmp_path / "vmcore", tmp_path / "dump")
    assert "--xen_phys_start" in refused.stderr
    run_ok("-X", "--xen_phys_start", hex(PHYS_START), tmp_path / "vmcore", tmp_path / "dump")
    assert len(kept(tmp_path / "dump")) < N_FRAMES


def test_the_library_takes_what_the_command_takes(host):
    vmcore, built, options = host("3.0")
    xen = XenFiles(vmcoreinfo=str(options[3]), phys_start=PHYS_START)
    with npdump.open(vmcore, xen=xen) as dump:
        assert np.flatnonzero(dump.scan(0, drop_guests=True).kept).tolist() == built.expected
        assert [domain.number for domain in dump.hypervisor.listed_domains] == [0, 3, 5]


def test_memory_that_is_not_in_the_file_is_not_asked_about(tmp_path, monkeypatch):
    """Headers may name a terabyte: Xen's table of frames is read where the file has pages."""
    path = tmp_path / "vmcore"
    build(path, HOSTS["4.17"])
    with open(path, "r+b") as file:
        headers = file.read(64 + 2 * 56)
        at = next(at for at in (64, 120) if struct.unpack_from("<I", headers, at)[0] == 1)
        file.seek(at + 40)
        file.write(struct.pack("<Q", 1 << 40))
    asked = []
    page_infos = Hypervisor.page_infos

    def counted(self, mfn_start, mfn_stop):
        asked.append(mfn_start)
        return page_infos(self, mfn_start, mfn_stop)

    monkeypatch.setattr(Hypervisor, "page_infos", counted)
    with npdump.open(path) as dump:
        counts = dump.scan(1, drop_guests=True).counts
    assert counts["GUEST"] > 0
    assert 0 < len(asked) < 100

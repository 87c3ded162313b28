# SPDX-License-Identifier: GPL-2.0-or-later
"""Cores of Xen domains, as ``xl dump-core`` writes them: a guest's memory in sections of an ELF file."""

from __future__ import annotations

import struct

import numpy as np
import pytest

import npdump
from npdump.kernel.xen.domain import find_p2m
from tests.harness import reference, run, run_ok
from tests.readers import ElfDump, open_dump

PAGE = 4096


def write_core(path, pages, *, table=b".xen_pfn", entries=None):
    """`pages` are (PFN, bytes); the table follows them, as the section header string table does.

    Of a paravirtual domain the PFN is a pair: the domain's, and the machine's.
    """
    names = [b"", b".note.Xen", b".xen_pages", table, b".shstrtab"]
    strings = b"\0".join([*names, b""])
    with open(path, "wb") as file:
        file.write(b"\x7fELF\2\1\1".ljust(16, b"\0"))
        file.write(struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 0, 64, 0, 64, 56, 0, 64, len(names), len(names) - 1))
        note = struct.pack("<III4sQQQQ", 4, 32, 0x2000001, b"Xen", 0xF00FEBEE, 1, len(pages), PAGE)
        note += struct.pack("<III4sQQ16s", 4, 32, 0x2000002, b"Xen", 4, 17, b".5")
        offset = PAGE
        ends = offset + len(pages) * PAGE
        numbers = np.array([pfn for pfn, _ in pages], "<u8").tobytes() if entries is None else entries
        places = [(0, 0, 0), (7, 1024, len(note)), (1, offset, len(pages) * PAGE)]
        places += [(1, ends, len(numbers)), (3, ends + len(numbers), len(strings))]
        for name, (kind, at, nbytes) in zip(names, places, strict=True):
            start = strings.index(b"\0" + name) + 1 if name else 0
            section = struct.pack("<IIQQQQIIQQ", start, kind, 0, 0, at, nbytes, 0, 0, 1, 0)
            file.write(section)
        file.seek(1024)
        file.write(note)
        for i, (_, page) in enumerate(pages):
            if page != bytes(PAGE):
                file.seek(offset + i * PAGE)
                file.write(page)
        file.seek(ends)
        file.write(numbers + strings)
    return path


def test_a_guest_is_filtered_like_its_vmcore(distilled, tmp_path):
    source = ElfDump(distilled("x86_64-6.12"))
    pfns = reference("x86_64-6.12").bitmap1.nonzero()[0]
    late = np.random.default_rng(1).permutation(len(pfns))[:64]
    ordered = [*np.delete(pfns, late).tolist(), *pfns[late].tolist()]
    pages = [(pfn, bytes(source.page(pfn))) for pfn in ordered]
    core = write_core(tmp_path / "core", pages)
    run_ok("-l", "-d", "31", core, tmp_path / "dump")
    kept = set(open_dump(tmp_path / "dump").kept.tolist())
    wanted = set(reference("x86_64-6.12").kept(31).nonzero()[0].tolist())
    assert kept == wanted
    assert "Xen domain core" in run_ok("info", core).stdout


SMALL = [(3, b"a" * PAGE), (4, b"b" * PAGE), (9, b"c" * PAGE), (2, b"d" * PAGE)]


def test_pages_come_from_where_the_table_says(tmp_path):
    run_ok(write_core(tmp_path / "core", SMALL), tmp_path / "dump")
    assert dict(open_dump(tmp_path / "dump").contents()) == dict(sorted(SMALL))


def test_pages_without_a_frame_are_passed_over(tmp_path):
    pages = [*SMALL, ((1 << 64) - 1, b"e" * PAGE)]
    run_ok(write_core(tmp_path / "core", pages), tmp_path / "dump")
    assert dict(open_dump(tmp_path / "dump").contents()) == dict(sorted(SMALL))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"table": b".xen_other"}, "doesn't say which page frame"),
        ({"table": b".xen_p2m", "entries": struct.pack("<2Q", 1 << 30, 5)}, "says 0x40000000, which no machine has"),
        ({"table": b".xen_p2m", "entries": struct.pack("<2Q", 5, 1 << 41)}, "says 0x20000000000, which no machine has"),
        ({"table": b".xen_p2m", "entries": struct.pack("<2Q", 5, (1 << 64) - 1)}, "has no page of memory"),
        ({"table": b".xen_p2m", "entries": struct.pack("<2Q", (1 << 64) - 1, 5)}, "has no page of memory"),
        ({"table": b".xen_p2m", "entries": b""}, "has no page of memory"),
        ({"entries": struct.pack("<4Q", 1, 2, 1 << 50, 3)}, "says 0x4000000000000, which no machine has"),
        ({"entries": struct.pack("<Q", (1 << 64) - 1)}, "has no page of memory"),
    ],
)
def test_what_can_not_be_read_is_named(options, words, tmp_path):
    refused = run(write_core(tmp_path / "core", SMALL, **options), tmp_path / "dump")
    assert refused.returncode == 1
    assert words in refused.stderr
    assert not (tmp_path / "dump").exists()


def test_a_core_that_was_cut_short(tmp_path):
    core = write_core(tmp_path / "core", SMALL)
    data = core.read_bytes()
    core.write_bytes(data[: PAGE + 100])
    refused = run(core, tmp_path / "dump")
    assert refused.returncode == 1
    assert "ends at byte 4196" in refused.stderr or "no memory was dumped" in refused.stderr


def test_pages_that_are_no_place_of_a_file(tmp_path):
    core = write_core(tmp_path / "core", SMALL)
    with open(core, "r+b") as file:
        file.seek(64 + 2 * 64 + 24)
        file.write(b"\xff" * 8)
    refused = run(core, tmp_path / "dump")
    assert refused.returncode == 1
    assert "before its pages: copy it again" in refused.stderr


XEN = "machines/x86_64-6.1-xen"


def dom0_frames(host):
    """Page frames of the machine by those of dom0, whose table the note of a host's dump leads to."""
    area = host.notes
    at = area.index(struct.pack("<III4s", 4, 80, 0x1000001, b"Xen"))
    (top,) = struct.unpack_from("<Q", area, at + 16 + 72)

    def words(mfn):
        return np.frombuffer(host.page(int(mfn)), "<u8")

    # Linux has one list, and one table, for all that has no memory.
    tables = np.concatenate([words(mfn) for mfn in words(top)])
    known = {mfn: words(mfn) for mfn in np.unique(tables).tolist() if mfn}
    in_use = [mfn for mfn, table in known.items() if (table < 1 << 40).any()]
    last = np.flatnonzero(np.isin(tables, np.array(in_use, "<u8")))[-1]
    return np.concatenate([known[mfn] for mfn in tables[: last + 1].tolist()])


@pytest.fixture(scope="module")
def paravirtual(distilled, tmp_path_factory):
    """The core of a real paravirtual Linux, which was dom0 of a host, and the machine's page frames of it."""
    host = ElfDump(distilled(XEN))
    frames = dom0_frames(host)
    there = reference(XEN).bitmap1
    pfns = [pfn for pfn, mfn in enumerate(frames.tolist()) if mfn < len(there) and there[mfn]]
    pages = [((pfn, int(frames[pfn])), bytes(host.page(int(frames[pfn])))) for pfn in pfns]
    path = tmp_path_factory.mktemp("paravirtual") / "core"
    return write_core(path, pages, table=b".xen_p2m"), set(frames[pfns].tolist())


def test_a_paravirtual_guest_is_filtered_like_its_host(paravirtual, tmp_path):
    core, frames = paravirtual
    run_ok("-l", "-d", "31", core, tmp_path / "dump")
    kept = set(open_dump(tmp_path / "dump").kept.tolist())
    assert kept & frames == set(reference(XEN).kept(31).nonzero()[0].tolist()) & frames
    # Behind memory is the table of page frames: a list of lists, one list, and tables of 512.
    assert sorted(kept - frames) == list(range(max(frames) + 1, max(kept) + 1))
    assert len(kept - frames) <= 3 + len(frames) // 512 + 64
    run_ok("-l", "-d", "1", core, tmp_path / "first")
    run_ok("-l", "-d", "31", tmp_path / "first", tmp_path / "second")
    assert dict(open_dump(tmp_path / "second").contents()) == dict(open_dump(tmp_path / "dump").contents())
    told = run_ok("info", tmp_path / "dump").stdout
    assert "release         6.1.0-50-amd64" in told
    assert "hypervisor      Xen 4.17" in told


#: Pairs of page frames for the pages of `SMALL`.
PAIRS = [((0, 3), b"a" * PAGE), ((1, 4), b"b" * PAGE), ((2, 9), b"c" * PAGE), ((700, 2), b"d" * PAGE)]


def test_pages_of_a_paravirtual_guest_are_where_the_machine_had_them(tmp_path):
    run_ok(write_core(tmp_path / "core", PAIRS, table=b".xen_p2m"), tmp_path / "dump")
    dump = open_dump(tmp_path / "dump")
    found = dict(dump.contents())
    assert {mfn: found[mfn] for mfn in (3, 4, 9, 2)} == dict(SMALL)
    # A list of lists at 10, a list, the table of what has no memory, and those of page frames 0 to 2 and of 700.
    (lists, leaves, none, first, second) = (np.frombuffer(found[mfn], "<u8") for mfn in range(10, 15))
    assert lists[:2].tolist() == [11, 0]
    assert leaves[:3].tolist() == [13, 14, 0]
    assert (none == 2**64 - 1).all()
    assert first[:4].tolist() == [3, 4, 9, 2**64 - 1]
    assert (second[700 - 512], (second != 2**64 - 1).sum()) == (2, 1)


@pytest.mark.parametrize("table", [b".xen_pfn", b".xen_p2m"])
def test_tables_that_lie_lose_no_page(table, tmp_path):
    pages = [(pfn, page) for ((_, pfn), page) in PAIRS]
    numbers = [3, 4, 9, 2, 7, 8] if table == b".xen_pfn" else [0, 3, 1, 4, 2, 9, 700, 2, 4, 7, 5, 8]
    longer = run_ok(
        write_core(tmp_path / "longer", pages, table=table, entries=np.array(numbers, "<u8").tobytes()),
        tmp_path / "dump",
    )
    assert "has 4 pages and a table of 6" in longer.stderr
    assert {pfn: page for pfn, page in open_dump(tmp_path / "dump").contents() if pfn < 10} == dict(pages)
    numbers = [3, 4, 4, 2] if table == b".xen_pfn" else [0, 3, 1, 4, 2, 4, 700, 2]
    twice = run_ok(
        write_core(tmp_path / "twice", pages, table=table, entries=np.array(numbers, "<u8").tobytes()),
        tmp_path / "second",
    )
    assert "has 1 page frames twice" in twice.stderr
    found = dict(open_dump(tmp_path / "second").contents())
    assert (found[3], found[4], found[2]) == (b"a" * PAGE, b"b" * PAGE, b"d" * PAGE)


def test_a_page_frame_far_beyond_the_guest_costs_no_memory(tmp_path):
    far = [((0, 3), b"a" * PAGE), (((1 << 27) - 1, 4), b"b" * PAGE)]
    core = write_core(tmp_path / "core", far, table=b".xen_p2m")
    with npdump.open(core) as dump:
        assert len(find_p2m(dump.source).mfns) == 512
    run_ok("-d", "1", core, tmp_path / "dump")
    found = dict(open_dump(tmp_path / "dump").contents())
    assert (found[3], found[4]) == (b"a" * PAGE, b"b" * PAGE)

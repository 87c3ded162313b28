# SPDX-License-Identifier: GPL-2.0-or-later
"""Inputs that are damaged or cut short, or whose headers claim what cannot be: what is there is read, and no more."""

from __future__ import annotations

import gzip
import os
import struct
import subprocess
import sys

import numpy as np
import pytest

import npdump
from npdump.sources._vmcoreinfo_scan import find_vmcoreinfo_texts
from tests.builders import kdump
from tests.builders import notes as note
from tests.builders.kernels import KERNELS
from tests.builders.pages import Block
from tests.builders.vmcore import Description, build
from tests.harness import run, run_ok
from tests.readers import open_dump
from tests.readers.kdump import INCOMPLETE

MIB = 1 << 20
PAGE = 4096
PHDR_NBYTES, PT_LOAD = 56, 1


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A good vmcore of 64 MiB, read-only for the tests."""
    blocks = [Block(0x2000, "free", 10, 2), Block(0x3000, "lru", 0, 50), Block(0x3100, "anon", 0, 50)]
    want = Description(ram=[(MIB, 64 * MIB)], kernel=KERNELS["6.12"], blocks=blocks, fill=4)
    return build(tmp_path_factory.mktemp("whole") / "vmcore", want)


@pytest.fixture(scope="module")
def contents(whole, tmp_path_factory):
    """All its pages, by page frame."""
    path = tmp_path_factory.mktemp("all") / "dump"
    run_ok("-d", "0", whole.path, path)
    return dict(open_dump(path).contents())


def pages_in(path, nbytes):
    """The page frames that the first `nbytes` of an ELF64 file hold, by its program headers."""
    with open(path, "rb") as file:
        raw = file.read(65536)
    phoff, count = struct.unpack_from("<Q", raw, 32)[0], struct.unpack_from("<H", raw, 56)[0]
    found = set()
    for i in range(count):
        kind, _, offset, _, paddr, filesz, _, _ = struct.unpack_from("<IIQQQQQQ", raw, phoff + i * PHDR_NBYTES)
        if kind == PT_LOAD:
            there = min(filesz, max(nbytes - offset, 0))
            found |= set(range(-(-paddr // PAGE), (paddr + there) // PAGE))
    return found


def cut(whole, tmp_path, share):
    path = tmp_path / "cut"
    subprocess.run(["cp", "--sparse=always", whole.path, path], check=True)
    nbytes = int(whole.path.stat().st_size * share) | 1
    with open(path, "r+b") as file:
        file.truncate(nbytes)
    return path, nbytes


@pytest.mark.parametrize("share", [0.05, 0.4, 0.99])
def test_a_cut_vmcore_is_read_as_far_as_it_goes(share, whole, contents, tmp_path):
    path, nbytes = cut(whole, tmp_path, share)
    result = run("-l", "-d", "0", path, tmp_path / "dump")
    assert result.returncode == 0, result.stderr
    dump = open_dump(tmp_path / "dump")
    expected = pages_in(whole.path, nbytes)
    assert set(dump.pfns.tolist()) == expected
    assert all(contents[pfn] == page for pfn, page in dump.contents())
    assert dump.status & INCOMPLETE
    assert f"is incomplete: {len(contents) - len(expected)} pages were lost" in result.stderr


@pytest.mark.parametrize("share", [0.05, 0.4, 0.99])
def test_a_cut_vmcore_loses_nothing_more_at_level_31(share, whole, tmp_path):
    path, nbytes = cut(whole, tmp_path, share)
    run_ok("-l", "-d", "31", whole.path, tmp_path / "expected")
    run_ok("-l", "-d", "31", path, tmp_path / "dump")
    expected = set(open_dump(tmp_path / "expected").pfns.tolist()) & pages_in(whole.path, nbytes)
    assert expected <= set(open_dump(tmp_path / "dump").pfns.tolist())


def test_a_cut_elf_dump_is_marked(whole, tmp_path):
    path, _ = cut(whole, tmp_path, 0.7)
    run_ok("-E", "-d", "0", path, tmp_path / "dump")
    assert open_dump(tmp_path / "dump").flags & 1
    assert "pages, which were lost" in run_ok("info", path).stdout


def test_a_cut_gz_gives_all_that_came_before_the_cut(whole, contents, tmp_path):
    packed = gzip.compress(whole.path.read_bytes(), 1)
    (tmp_path / "cut.gz").write_bytes(packed[: len(packed) * 2 // 3])
    run_ok("-d", "0", tmp_path / "cut.gz", tmp_path / "dump")
    plain = gunzipped_nbytes(packed[: len(packed) * 2 // 3])
    dump = open_dump(tmp_path / "dump")
    # The last piece that a decoder gives before the end may be incomplete.
    assert set(dump.pfns.tolist()) >= pages_in(whole.path, plain - (64 << 10))
    assert all(contents[pfn] == page for pfn, page in dump.contents())


def gunzipped_nbytes(packed):
    import zlib

    return len(zlib.decompressobj(31).decompress(packed))


CPU = note.prstatus(1)
BROKEN = struct.pack("<3I", 5, 0x7FFFFFFF, 1) + CPU[12:]
NOTES = {
    "a note that claims too much": lambda area: BROKEN + area,
    "zeros up to a page": lambda area: CPU.ljust(PAGE, b"\0") + area,
    "padding of 8 bytes": lambda area: CPU.ljust(len(CPU) + 8, b"\0") + area,
    "padding of 20 bytes": lambda area: CPU.ljust(len(CPU) + 20, b"\0") + area,
    "padding of 2 bytes": lambda area: CPU.ljust(len(CPU) + 2, b"\0") + area,
    "no padding": lambda area: note.note(b"LINUX", 0x700, b"x" * 44 + b"abc")[:-1] + area,
    "noise": lambda area: bytes(range(1, 200)) + area,
}


@pytest.mark.parametrize("name", NOTES)
def test_what_follows_a_bad_note_is_found(name, tmp_path):
    def spoil(notes):
        return [NOTES[name](b"".join(notes))]

    vmcore = build(tmp_path / "vmcore", Description(ram=[(MIB, 32 * MIB)], kernel=KERNELS["6.12"], notes=spoil))
    with npdump.open(vmcore.path) as dump:
        assert dump.source.notes.vmcoreinfo == vmcore.vmcoreinfo
    run_ok("-l", "-d", "31", vmcore.path, tmp_path / "dump")
    assert open_dump(tmp_path / "dump").vmcoreinfo == vmcore.vmcoreinfo


def with_text_in_memory(tmp_path, notes=lambda notes: notes[:1]):
    """A vmcore whose VMCOREINFO is in a page of memory alone; and the text."""
    text = b""

    def spoil(memory, _tables):
        memory.write(0x3F00 * PAGE, text + b"\0")

    want = Description(ram=[(MIB, 64 * MIB)], kernel=KERNELS["6.12"], spoil=spoil, notes=notes)
    text = build(tmp_path / "vmcore", want).vmcoreinfo
    return build(tmp_path / "vmcore", want).path, text


@pytest.mark.parametrize(
    "notes",
    [lambda notes: [], lambda notes: notes[:1], lambda notes: [BROKEN], lambda notes: [notes[0], note.vmcoreinfo({})]],
    ids=["no notes", "none", "damaged", "empty"],
)
@pytest.mark.parametrize("form", ["elf", "kdump", "flattened"])
def test_a_text_in_memory_is_found_in_every_form(form, notes, tmp_path):
    path, text = with_text_in_memory(tmp_path, notes)
    if form != "elf":
        # Without the note in it: what npdump itself found and added is taken out again.
        run_ok("-l", "-d", "0", path, tmp_path / "kdump")
        data = bytearray((tmp_path / "kdump").read_bytes())
        struct.pack_into("<QQQQ", data, PAGE + 32, 0, 0, 0, 0)
        path = tmp_path / "input"
        path.write_bytes(kdump.flatten([(0, bytes(data))]) if form == "flattened" else data)
    with npdump.open(path) as dump:
        assert dump.source.notes.vmcoreinfo == text
    run_ok("-l", "-d", "31", path, tmp_path / "out")
    out = open_dump(tmp_path / "out")
    assert out.vmcoreinfo == text
    with npdump.open(tmp_path / "out") as again:
        assert again.source.notes.vmcoreinfo == text


def test_all_texts_are_named(tmp_path):
    path, text = with_text_in_memory(tmp_path, lambda notes: notes)
    with npdump.open(path) as dump:
        found = list(npdump.sources.find_vmcoreinfo_texts(dump.source))
    assert [(entry.text, entry.paddr) for entry in found] == [(text, None), (text, 0x3F00 * PAGE)]


def test_what_is_within_a_text_is_no_text(tmp_path):
    """Pages that begin as a text does, of one text without an end: 64 KiB are one, and not sixteen."""
    text = b"OSRELEASE=6.1.0\nPAGESIZE=4096\nSYMBOL(init_uts_ns)=ffffffff82000000\n"
    path = elf_of(tmp_path, [(16 * PAGE, 0, 64 * PAGE, 64 * PAGE)], nbytes=80 * PAGE)
    with open(path, "r+b") as file:
        file.seek(16 * PAGE)
        file.write(text.ljust(PAGE, b"\n") * 64)
    with npdump.open(path) as dump:
        found = [text.paddr for text in find_vmcoreinfo_texts(dump.source) if text.paddr is not None]
    assert found == [0, 16 * PAGE, 32 * PAGE, 48 * PAGE]


def elf_of(tmp_path, loads, nbytes=8192):
    """An ELF64 file with these PT_LOADs: (offset, paddr, filesz, memsz)."""
    text = note.note(b"VMCOREINFO", 0, b"OSRELEASE=6.1.0\nPAGESIZE=4096\n")
    offset = 64 + PHDR_NBYTES * (1 + len(loads))
    raw = b"\x7fELF\2\1\1".ljust(16, b"\0")
    raw += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1 + len(loads), 0, 0, 0)
    raw += struct.pack("<IIQQQQQQ", 4, 0, offset, 0, 0, len(text), len(text), 0)
    for at, paddr, filesz, memsz in loads:
        raw += struct.pack("<IIQQQQQQ", 1, 7, at, 0, paddr, filesz, memsz, 0)
    path = tmp_path / "vmcore"
    path.write_bytes((raw + text).ljust(nbytes, b"x"))
    return path


@pytest.mark.parametrize(
    ("memsz", "filesz"), [(1 << 42, PAGE), (1 << 50, PAGE), (1 << 50, 1 << 50), ((1 << 56) - PAGE, (1 << 56) - PAGE)]
)
def test_work_is_bounded_by_what_is_in_the_file(memsz, filesz, tmp_path):
    path = elf_of(tmp_path, [(PAGE, 0, min(filesz, memsz), memsz), (PAGE, 1 << 30, PAGE, PAGE)])
    for options in (["-d", "0"], ["-d", "1"], ["-E", "-d", "0"]):
        output = tmp_path / f"out{len(options)}{options[-1]}"
        result = run("-f", *options, path, output, timeout=60, memory_nbytes=1 << 30)
        assert result.returncode == 0, result.stderr
        assert "taken for no memory" in result.stderr
        assert set(open_dump(output).kept.tolist()) >= {0, 1 << 18}
        assert output.stat().st_blocks * 512 < MIB
    assert "taken for no memory" in run_ok("info", path, timeout=60, memory_nbytes=1 << 30).stdout


def test_bytes_of_a_file_are_not_any_number_of_segments_data(tmp_path):
    """Of 300 program headers for the same 32 KiB of the file, 14 are as much as four times the file."""
    loads = [(20 * PAGE, 16 * number * PAGE, 8 * PAGE, 8 * PAGE) for number in range(300)]
    path = elf_of(tmp_path, loads, nbytes=28 * PAGE)
    for options in (["-d", "0"], ["-E", "-d", "0"]):
        output = tmp_path / f"out{len(options)}"
        result = run(*options, path, output)
        assert result.returncode == 0, result.stderr
        assert "9830400 bytes of memory can't be in the file of 114688 bytes: 286 of 300" in result.stderr
        dump = open_dump(output)
        assert dump.status & (1 if dump.kind == "elf" else INCOMPLETE)
        assert dict(dump.contents()) == {16 * n + k: b"x" * PAGE for n in range(14) for k in range(8)}


def test_bytes_of_a_file_are_not_any_number_of_notes(tmp_path):
    """600 program headers say that the same MiB is notes."""
    path = elf_of(tmp_path, [(MIB, 0, PAGE, PAGE)] + [(0, 0, 0, 0)] * 600, nbytes=2 * MIB)
    with open(path, "r+b") as file:
        file.seek(64 + 2 * PHDR_NBYTES)
        file.write(struct.pack("<IIQQQQQQ", 4, 0, MIB, 0, 0, MIB - PAGE, MIB - PAGE, 0) * 600)
    result = run_ok("info", path, memory_nbytes=1 << 29)
    assert "notes are more than the file: some are not read" in result.stdout


@pytest.mark.parametrize("stride", [7, -7])
def test_pages_of_many_parts(stride, tmp_path):
    """Segments of a few bytes, that begin anywhere and lie over one another: the first in the file wins."""
    data = np.random.default_rng(1).integers(1, 256, 8 * PAGE, np.uint8)
    n = 1200
    memory = np.zeros(4 * PAGE, np.uint8)
    loads = []
    for i in range(n):
        at, paddr, nbytes = 20 * PAGE + (i * 31) % (7 * PAGE), PAGE + (i * stride) % (2 * PAGE), 5 + i % 9
        loads.append((at, paddr, nbytes, nbytes))
    for at, paddr, nbytes, _ in reversed(loads):
        memory[paddr : paddr + nbytes] = data[at - 20 * PAGE : at - 20 * PAGE + nbytes]
    path = elf_of(tmp_path, loads, nbytes=28 * PAGE)
    with open(path, "r+b") as file:
        file.seek(20 * PAGE)
        file.write(data)
    with npdump.open(path) as dump:
        for pfn in (1, 2):
            whole = dump.source.view(pfn * PAGE, PAGE)
            assert bytes(whole) == bytes(memory[pfn * PAGE : (pfn + 1) * PAGE])
            for at, nbytes in ((0, 1), (5, 7), (100, 3000), (PAGE - 3, 3)):
                assert bytes(dump.source.view(pfn * PAGE + at, nbytes)) == bytes(whole[at : at + nbytes])
    run_ok("-E", "-d", "0", path, tmp_path / "out")
    assert open_dump(tmp_path / "out").read(PAGE, 2 * PAGE) == bytes(memory[PAGE : 3 * PAGE])


@pytest.mark.parametrize(("paddr", "filesz"), [(1 << 38, 0), (1 << 46, MIB), (1 << 51, MIB)])
def test_memory_above_what_the_kernel_can_have(paddr, filesz, tmp_path):
    """A device's memory at the top of the address space, as QEMU dumps it."""
    blocks = [Block(0x2000, "free", 10, 2)]
    want = Description(ram=[(MIB, 64 * MIB)], kernel=KERNELS["6.12"], blocks=blocks, fill=0)
    plain = build(tmp_path / "plain", want)
    data = bytearray(plain.path.read_bytes())
    phoff, count = struct.unpack_from("<Q", data, 32)[0], struct.unpack_from("<H", data, 56)[0]
    # The last program header's memory comes first in the file once more, at the new address.
    at = phoff + count * PHDR_NBYTES
    offset = struct.unpack_from("<Q", data, phoff + (count - 1) * PHDR_NBYTES + 8)[0]
    notes_at, notes_nbytes = struct.unpack_from("<Q", data, phoff + 8)[0], struct.unpack_from("<Q", data, phoff + 32)[0]
    notes = bytes(data[notes_at : notes_at + notes_nbytes])
    data[at : at + PHDR_NBYTES] = struct.pack("<IIQQQQQQ", 1, 7, offset, 0, paddr, filesz, MIB, 0)
    struct.pack_into("<Q", data, phoff + 8, len(data))
    struct.pack_into("<H", data, 56, count + 1)
    (tmp_path / "far").write_bytes(bytes(data) + notes)
    run_ok("-l", "-d", "31", plain.path, tmp_path / "expected")
    run_ok("-l", "-d", "31", tmp_path / "far", tmp_path / "dump")
    kept = open_dump(tmp_path / "dump").pfns
    assert np.array_equal(kept[kept < paddr // PAGE], open_dump(tmp_path / "expected").pfns)


def test_a_flattened_file_with_one_far_record(tmp_path):
    good = bytearray(kdump.build({1: b"a" * PAGE, 5: b"b" * PAGE}, kdump.Form()))
    n_blocks, max_mapnr = 1 << 24, (1 << 24) * PAGE * 4
    struct.pack_into("<I", good, 424 + 12, n_blocks)
    struct.pack_into("<I", good, 424 + 16, (1 << 32) - 1)
    struct.pack_into("<Q", good, PAGE + 96, max_mapnr)
    for far, name in ((1 << 52, "f1"), (1 << 60, "f2")):
        path = tmp_path / name
        path.write_bytes(kdump.flatten([(0, bytes(good[: 3 * PAGE])), (far, b"x")]))
        for command in (["info", path], ["-d", "0", path, tmp_path / "out"]):
            result = run(*command, timeout=60, memory_nbytes=1 << 30)
            assert result.returncode in (0, 1), result.stderr
            assert "Traceback" not in result.stderr


SHRINKS = """
import os, sys
import numpy as np
import npdump
from npdump.errors import LostPage

path = sys.argv[1]
with npdump.open(path) as dump:
    source = dump.source
    (start, stop), *_ = source.data_runs.tolist()
    size = source.page_size
    before = source.view(start * size, 512 * size)
    os.truncate(path, 8192)
    before.sum()
    pages = np.empty((512, size), np.uint8)
    losses = source.gather(np.array([[start, start + 512]]), pages)
    print(len(losses), losses[0].error.pfn == start, not pages.any())
    try:
        source.view(start * size, 512 * size)
    except LostPage as error:
        print("lost", error.path == path)
"""


def test_a_file_that_shrinks_while_it_is_read(whole, tmp_path):
    """A mapping of it would end the process with SIGBUS."""
    path = tmp_path / "vmcore"
    subprocess.run(["cp", "--sparse=always", whole.path, path], check=True)
    result = run("-c", SHRINKS, path, command=[sys.executable])
    assert (result.returncode, result.stdout) == (0, "512 True True\nlost True\n"), result.stderr


def test_a_work_dir_without_room(whole, small_disk, tmp_path):
    """The bitmaps are mapped: a page that gets no room on its first write would end the process with SIGBUS."""
    disk = small_disk(1)
    stat = os.statvfs(disk)
    (disk / "filler").write_bytes(bytes(stat.f_bavail * stat.f_frsize))
    result = run("-l", "-d", "31", "--work-dir", disk, whole.path, tmp_path / "dump")
    assert result.returncode == 1, result.stderr
    assert "can't hold the temporary bitmaps: No space left on device" in result.stderr


@pytest.fixture(scope="module")
def damaged(whole, tmp_path_factory):
    """By codec: a dump of level 1 with one compressed page overwritten, its page frame, and what the others hold."""
    made = {}
    for option, codec in (("-c", "zlib"), ("-l", "lzo"), ("-p", "snappy"), ("-z", "zstd")):
        path = tmp_path_factory.mktemp(codec) / "dump"
        run_ok(option, "-d", "1", whole.path, path)
        dump = open_dump(path)
        contents = dict(dump.contents())
        pfn, at, size = next(
            (int(dump.pfns[i]), int(desc["offset"]), int(desc["size"]))
            for i, desc in enumerate(dump.descriptors)
            if desc["flags"] and i > len(dump.pfns) // 2
        )
        with open(path, "r+b") as file:
            file.seek(at)
            file.write(b"\xff" * size)
        del contents[pfn]
        made[option] = path, pfn, contents
    return made


def read_back(path):
    """What an independent reader reads, and which pages it finds lost."""
    dump = open_dump(path)
    lost = {pfn for pfn in dump.pfns.tolist() if dump.is_lost(pfn)}
    return {pfn: dump.page(pfn) for pfn in dump.pfns.tolist() if pfn not in lost}, lost


@pytest.mark.parametrize("option", ["-c", "-l", "-p", "-z"])
def test_a_damaged_page_costs_that_page_alone(option, damaged, tmp_path):
    """With the codec that the input has, its pages are copied as they are; with another they are uncompressed."""
    path, pfn, contents = damaged[option]
    for other in {option, "-c"}:
        output = tmp_path / f"out{other}"
        result = run(other, "-d", "1", path, output)
        # As with pages that the input had lost before.
        assert result.returncode == 0, result.stderr
        assert f"physical page {pfn:#x}" in result.stderr
        assert "could not be had" in result.stderr
        assert read_back(output) == (contents, {pfn})
        assert open_dump(output).status & INCOMPLETE


def test_no_page_may_be_lost(damaged, tmp_path):
    path, _, _ = damaged["-c"]
    result = run("-c", "-d", "1", "--max-lost", "0", path, tmp_path / "out")
    assert result.returncode == 1
    assert "more than --max-lost 0 allows" in result.stderr
    assert open_dump(tmp_path / "out").status & INCOMPLETE
    run_ok("-c", "-d", "1", "--max-lost", "1", path, tmp_path / "one")


def test_damage_in_the_middle_is_found(damaged, tmp_path):
    path, pfn, contents = damaged["-c"]
    spoiled = tmp_path / "spoiled"
    data = bytearray(path.read_bytes())
    dump = open_dump(path)
    i = next(i for i, desc in enumerate(dump.descriptors) if desc["flags"] and int(dump.pfns[i]) != pfn)
    at, size = int(dump.descriptors[i]["offset"]), int(dump.descriptors[i]["size"])
    data[at + 2 : at + size] = bytes(size - 2)
    spoiled.write_bytes(data)
    run_ok("-c", "-d", "1", spoiled, tmp_path / "out")
    other = int(dump.pfns[i])
    assert read_back(tmp_path / "out") == ({n: page for n, page in contents.items() if n != other}, {pfn, other})

# SPDX-License-Identifier: GPL-2.0-or-later
"""Cores of Xen domains, as ``xl dump-core`` writes them: a guest's memory in sections of an ELF file."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from tests.harness import reference, run, run_ok
from tests.readers import ElfDump, open_dump

PAGE = 4096


def write_core(path, pages, *, table=b".xen_pfn", entries=None):
    """`pages` are (PFN, bytes); the table follows them, as the section header string table does."""
    names = [b"", b".note.Xen", b".xen_pages", table, b".shstrtab"]
    strings = b"\0".join([*names, b""])
    with open(path, "wb") as file:
        file.write(b"\x7fELF\2\1\1".ljust(16, b"\0"))
        file.write(struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 0, 64, 0, 64, 56, 0, 64, len(names), len(names) - 1))
        note = struct.pack("<III4sQQQQ", 4, 32, 0x2000001, b"Xen", 0xF00FEBEE, 1, len(pages), PAGE)
        offset = PAGE
        ends = offset + len(pages) * PAGE
        numbers = struct.pack(f"<{len(pages)}Q", *(pfn for pfn, _ in pages)) if entries is None else entries
        places = [(0, 0, 0), (7, 1024, len(note)), (1, offset, len(pages) * PAGE)]
        places += [(1, ends, len(numbers)), (3, ends + len(numbers), len(strings))]
        for name, (kind, at, nbytes) in zip(names, places, strict=True):
            start = strings.index(b"\0" + name) + 1 if name else 0
            section = struct.pack("<IIQQQQIIQQ", start, kind, 0, 0, at, nbytes, 0, 0, 1, 0)
            file.write(section)
        file.seek(1024)
        file.write(note)
        for i, (_, page) in enumerate(pages):
            if any(page):
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
        ({"table": b".xen_p2m"}, "paravirtual Xen domain"),
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

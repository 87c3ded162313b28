# SPDX-License-Identifier: GPL-2.0-or-later
"""Every form of dump as input: files made by `builders.kdump`, which shares no code with npdump."""

from __future__ import annotations

import gzip
import itertools
import lzma
import os
import random
import struct
import tracemalloc
from contextlib import ExitStack

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from npdump.errors import AddressError, CorruptDump, NpdumpError, SourceError, TruncatedDump
from npdump.layouts.page_flag import STATUS_INCOMPLETE
from npdump.observer import SILENT
from npdump.sources import open_source
from npdump.storage import ReadOptions, open_storage
from tests.builders.kdump import BLOCK, Form, build, flatten

WORD_FORMS = [(64, "<", False), (64, ">", False), (32, "<", False), (32, "<", True), (32, ">", False)]
NO_PAGE = AddressError


def some_pages() -> dict[int, bytes]:
    """Compressible, random and zero pages with holes between them, also past a multiple of 64."""
    noise = random.Random(1)
    pages = {pfn: bytes([pfn]) * BLOCK for pfn in (1, 2, 3, 70, 71, 200)}
    pages |= {pfn: noise.randbytes(BLOCK) for pfn in (4, 64, 255)}
    return pages | {pfn: bytes(BLOCK) for pfn in (5, 130)}


@pytest.fixture
def opened(tmp_path):
    """Open a source of these files' bytes."""
    numbers = itertools.count()
    with ExitStack() as stack:

        def opened(*files: bytes):
            storages = []
            for data in files:
                path = tmp_path / f"dump{next(numbers)}"
                path.write_bytes(data)
                storages.append(open_storage(str(path), ReadOptions(work_dir=str(tmp_path)), SILENT, stack))
            return open_source(*storages)

        yield opened


def contents(source) -> dict[int, bytes]:
    """All pages of a source, read in one go, and checked to be the same read one by one."""
    n = int((source.data_runs[:, 1] - source.data_runs[:, 0]).sum())
    out = np.empty((n, source.page_size), np.uint8)
    source.gather(source.data_runs, out)
    pfns = [pfn for start, stop in source.data_runs.tolist() for pfn in range(start, stop)]
    for pfn, page in zip(pfns, out, strict=True):
        assert np.array_equal(source.view(pfn * source.page_size, source.page_size), page)
    return {pfn: page.tobytes() for pfn, page in zip(pfns, out, strict=True)}


def ram(source) -> list[int]:
    """Page frames of memory."""
    return [pfn for start, stop in source.ram_runs.tolist() for pfn in range(start, stop)]


@pytest.mark.parametrize("version", range(7))
@pytest.mark.parametrize(("bits", "order", "packed"), WORD_FORMS)
def test_versions_word_sizes_and_byte_orders(version, bits, order, packed, opened):
    pages = some_pages()
    form = Form(version=version, bits=bits, order=order, packed=packed, level=1)
    source = opened(build(pages, form))
    assert contents(source) == pages
    assert ram(source) == sorted(pages)
    assert (source.header.byte_order, source.max_mapnr, source.page_size) == (order, 256, BLOCK)
    assert source.history.level == (1 if version >= 1 else 0)
    assert source.history.utsname[:3] == (b"Linux", b"node", b"6.1.0")


@pytest.mark.parametrize("version", [3, 4, 5, 6])
@pytest.mark.parametrize(("bits", "order", "packed"), WORD_FORMS)
def test_vmcoreinfo_with_and_without_notes(version, bits, order, packed, opened):
    form = Form(version=version, bits=bits, order=order, packed=packed, vmcoreinfo=b"OSRELEASE=6.1.0\nPAGESIZE=4096\n")
    source = opened(build(some_pages(), form))
    assert source.notes.vmcoreinfo == form.vmcoreinfo
    assert source.notes.area[source.notes.offset :][: len(form.vmcoreinfo)] == form.vmcoreinfo


def test_old_diskdump(opened):
    pages = some_pages()
    source = opened(build(pages, Form(version=1, signature=b"DISKDUMP", status=8, level=0)))
    assert contents(source) == pages
    assert source.history.level == 0


def test_uncompressed_and_zero_pages_stored_alone(opened):
    pages = some_pages()
    source = opened(build(pages, Form(compress=False, level=0, status=0)))
    assert contents(source) == pages


def test_excluded_and_lost_pages_are_told_apart(opened):
    pages = some_pages()
    source = opened(build(pages, Form(excluded={2, 64}, lost={71, 255}, status=1 | STATUS_INCOMPLETE, level=31)))
    assert contents(source) == {pfn: page for pfn, page in pages.items() if pfn not in {2, 64, 71, 255}}
    assert ram(source) == sorted(pages)
    assert source.history.n_lost == 2
    assert source.history.status & STATUS_INCOMPLETE
    for pfn in (2, 71):
        with pytest.raises(NO_PAGE):
            source.view(pfn * BLOCK, 8)


def test_erase_information(opened):
    assert opened(build(some_pages(), Form(eraseinfo=b"erase x size 8\n"))).history.eraseinfo == b"erase x size 8\n"


@pytest.mark.parametrize("cuts", [(0, 64, 256), (0, 64, 128, 256), (0, 2, 3, 4, 256)])
def test_split(cuts, opened):
    pages = some_pages()
    parts = [build(pages, Form(part=part)) for part in itertools.pairwise(cuts)]
    source = opened(*reversed(parts))
    assert contents(source) == pages
    assert source.history.missing is None
    alone = opened(parts[1])
    assert contents(alone) == {pfn: page for pfn, page in pages.items() if cuts[1] <= pfn < cuts[2]}
    assert alone.history.missing == (0, cuts[1])


def test_split_parts_that_do_not_fit(opened):
    pages = some_pages()
    low, high = (build(pages, Form(part=part)) for part in ((0, 64), (64, 256)))
    with pytest.raises(CorruptDump, match="another part holds too"):
        opened(low, low, high)
    with pytest.raises(CorruptDump, match="isn't a part"):
        opened(low, build(pages, Form()))
    other = build(pages | {99: bytes(BLOCK)}, Form(part=(64, 256)))
    with pytest.raises(CorruptDump, match="bitmaps differ"):
        opened(low, other)
    with pytest.raises(CorruptDump, match="headers differ"):
        opened(low, build(pages, Form(part=(64, 256), max_mapnr=300)))


@pytest.mark.parametrize("seed", range(3))
def test_flattened_in_any_order_later_records_win(seed, opened):
    pages = some_pages()
    whole = build(pages, Form())
    order = random.Random(seed)
    sizes = [order.choice((1, 16, 777, 5000)) for _ in range(200)]
    edges = sorted({0, len(whole), *(edge for edge in itertools.accumulate(sizes) if edge < len(whole))})
    pieces = [(start, whole[start:stop]) for start, stop in itertools.pairwise(edges)]
    order.shuffle(pieces)
    stale = [(offset + 3, b"\xee" * (len(data) + 5)) for offset, data in pieces[:20]]
    stale = [(offset, data) for offset, data in stale if offset + len(data) <= len(whole)]
    assert contents(opened(flatten([*stale, *pieces]) + b"behind the end")) == pages


def test_truncated_flattened_dump_is_salvaged(opened):
    pages = some_pages()
    whole = build(pages, Form(compress=False))
    data_at = len(whole) - 4 * BLOCK
    pieces = [(0, whole[:data_at]), (data_at, whole[data_at : data_at + BLOCK])]
    source = opened(flatten(pieces, end=False) + struct.pack(">qq", data_at + BLOCK, BLOCK) + bytes(100))
    assert source.history.n_lost == 3
    assert source.history.status & STATUS_INCOMPLETE
    found = contents(source)
    assert len(found) == len(pages) - 3
    assert all(pages[pfn] == page for pfn, page in found.items())


def test_truncated_file_is_salvaged_but_not_without_its_bitmaps(opened):
    pages = some_pages()
    whole = build(pages, Form())
    source = opened(whole[:-BLOCK])
    found = contents(source)
    assert 0 < source.history.n_lost == len(pages) - len(found)
    assert all(pages[pfn] == page for pfn, page in found.items())
    with pytest.raises(TruncatedDump):
        opened(whole[: 4 * BLOCK - 1])


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress, "zstandard", "lz4.frame"])
def test_wrapped(compress, opened):
    if isinstance(compress, str):
        compress = pytest.importorskip(compress).compress
    whole = build(some_pages(), Form())
    assert contents(opened(compress(whole))) == some_pages()
    flat = flatten([(0, whole)])
    assert contents(opened(compress(compress(flat)))) == some_pages()


def test_damaged_wrapping(opened):
    packed = bytearray(gzip.compress(random.Random(2).randbytes(100_000)))
    packed[5000:5100] = bytes(100)
    with pytest.raises(SourceError, match="can't be unpacked"):
        opened(bytes(packed))


def damage(whole: bytes, hurts: list[tuple[float, int]], length: float) -> bytes:
    """Some bytes of a file changed, most of them in its tables, and its end cut."""
    data = bytearray(whole)
    for place, value in hurts:
        data[int(place * place * (len(data) - 1))] = value
    return bytes(data[: int(length * len(data))])


KDUMP = build(some_pages(), Form(vmcoreinfo=b"OSRELEASE=6.1.0\n", level=1))
N_EXAMPLES = int(os.environ.get("NPDUMP_FUZZ_EXAMPLES", "100"))
"""Of each kind of file; more take longer and find more, and then they aren't the same in each run."""


def elf_core() -> bytes:
    """An ELF core with two segments, one of them half left out."""
    notes = struct.pack("<3I", 11, 16, 0) + b"VMCOREINFO\0\0" + b"OSRELEASE=6.1.0\n"
    loads = [(1 << 20, 2, 2), (1 << 21, 1, 3)]
    offset = 64 + 56 * (1 + len(loads)) + len(notes)
    data = b"\x7fELF\x02\x01\x01".ljust(16, b"\0")
    data += struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1 + len(loads), 0, 0, 0)
    data += struct.pack("<IIQQQQQQ", 4, 0, offset - len(notes), 0, 0, len(notes), len(notes), 0)
    for paddr, n_filled, n in loads:
        vaddr = 0xFFFF888000000000 + paddr
        data += struct.pack("<IIQQQQQQ", 1, 7, offset, vaddr, paddr, n_filled * BLOCK, n * BLOCK, 0)
        offset += n_filled * BLOCK
    return data + notes + b"".join(bytes([number]) * BLOCK for number in range(1, 4))


def flattened() -> bytes:
    """A flattened dump in several records."""
    return flatten([(0, KDUMP[:5000]), (9000, KDUMP[9000:]), (5000, KDUMP[5000:9000])])


FUZZED = {
    "kdump": lambda: KDUMP,
    "kdump, 32 bits": lambda: build(some_pages(), Form(bits=32, order=">", level=1, vmcoreinfo=b"OSRELEASE=6.1.0\n")),
    "kdump, version 1": lambda: build(some_pages(), Form(version=1, compress=False)),
    "part": lambda: build(some_pages(), Form(part=(64, 256))),
    "elf": elf_core,
    "flattened": flattened,
    "gzip": lambda: gzip.compress(KDUMP, mtime=0),
    "xz": lambda: lzma.compress(flattened()),
    "lz4": lambda: pytest.importorskip("lz4.frame").compress(KDUMP),
    "zstd": lambda: pytest.importorskip("zstandard").compress(KDUMP),
}


@pytest.mark.parametrize("kind", FUZZED)
@settings(
    max_examples=N_EXAMPLES,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    derandomize="NPDUMP_FUZZ_EXAMPLES" not in os.environ,
)
@given(
    hurts=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), min_size=1, max_size=12),
    spots=st.lists(
        st.tuples(st.integers(0, 4900), st.sampled_from([0, 1, (1 << 31) - 1, 1 << 31, 1 << 63, (1 << 64) - 1])),
        max_size=4,
    ),
    length=st.one_of(st.just(1.0), st.floats(0.01, 1)),
)
def test_damaged_files_are_read_or_refused(kind, hurts, spots, length, tmp_path_factory):
    """Single bytes changed, whole words set to what breaks sums, the end cut: what is read is read in bounds."""
    whole = bytearray(FUZZED[kind]())
    for at, value in spots:
        if at + 8 <= len(whole):
            struct.pack_into("<Q", whole, at // 4 * 4, value)
    path = tmp_path_factory.getbasetemp() / "damaged"
    path.write_bytes(damage(bytes(whole), hurts, length))
    said: list[str] = []
    tracemalloc.start()
    try:
        with ExitStack() as stack:
            source = open_source(open_storage(str(path), ReadOptions(), SILENT, stack))
            out = np.empty((1, source.page_size), np.uint8)
            for start, stop in source.data_runs.tolist():
                for pfn in range(start, min(stop, start + 300)):
                    try:
                        source.gather(np.array([[pfn, pfn + 1]]), out)
                    except NpdumpError as error:
                        said.append(str(error))
    except NpdumpError as error:
        said.append(str(error))
    finally:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    assert peak < 128 << 20
    assert not any("\n" in text for text in said)

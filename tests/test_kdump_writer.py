# SPDX-License-Identifier: GPL-2.0-or-later
"""Which bytes of a kdump-compressed file stand where, and which stored pages are copied as they are.

Where the fields are is what a compiler makes of makedumpfile's ``diskdump_mod.h``, on machines of 64 and of 32 bits.
"""

from __future__ import annotations

import struct
import zlib
from itertools import product
from types import SimpleNamespace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pytest

from npdump.bitmap import Bitmap
from npdump.layouts.page_flag import PageFlag
from npdump.writers._kdump_layout import KdumpLayout
from npdump.writers._kdump_pages import ZERO_RATIO, _StoredWorker

if TYPE_CHECKING:
    from typing import Any

HEADER = {
    64: {"tv_sec": (408, "Q"), "status": (424, "I"), "block_size": (428, "i"), "sub_hdr_size": (432, "i"),
         "bitmap_blocks": (436, "I"), "max_mapnr": (440, "I"), "nr_cpus": (460, "i")},
    32: {"tv_sec": (404, "I"), "status": (412, "I"), "block_size": (416, "i"), "sub_hdr_size": (420, "i"),
         "bitmap_blocks": (424, "I"), "max_mapnr": (428, "I"), "nr_cpus": (448, "i")},
}  # fmt: skip
SUB_FIELDS = ("phys_base", "dump_level", "split", "start_pfn", "end_pfn", "offset_vmcoreinfo", "size_vmcoreinfo",
              "offset_note", "size_note", "offset_eraseinfo", "size_eraseinfo", "start_pfn_64", "end_pfn_64",
              "max_mapnr_64")  # fmt: skip
SUB_OFFSETS = {
    "64": (0, 8, 12, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88, 96),
    "pad": (0, 4, 8, 12, 16, 24, 32, 40, 48, 56, 64, 72, 80, 88),
    "pack": (0, 4, 8, 12, 16, 20, 28, 32, 40, 44, 52, 56, 64, 72),
}
SUB_NBYTES = {"64": 104, "pad": 96, "pack": 80}
LONGS = {"phys_base", "start_pfn", "end_pfn", "size_vmcoreinfo", "size_note", "size_eraseinfo"}
TEXT = b"OSRELEASE=6.1\n"


class Case(NamedTuple):
    """A file: `abi` says how its sub header is aligned."""

    abi: str = "64"
    order: str = "<"
    block: int = 4096
    max_mapnr: int = 100_003
    n_kept: int = 1000
    note_nbytes: int = 400
    erased: bytes = b""
    level: int = 31
    first_pfn: int = 0
    part: tuple[int, int] | None = None

    @property
    def bits(self) -> int:
        """Word size of the dumped machine."""
        return 64 if self.abi == "64" else 32


CASES = [
    Case(),
    Case(level=30, n_kept=0),
    Case(order=">", block=1 << 16),
    Case(abi="pack", level=0),
    Case(abi="pad", order=">", max_mapnr=1 << 20),
    Case(abi="pad", first_pfn=0x60000, max_mapnr=0x70000),
    # As many processors as fill the sub header's blocks to the last byte, and one byte more.
    Case(note_nbytes=3 * 4096 - 104),
    Case(note_nbytes=3 * 4096 - 104 + 1),
    Case(note_nbytes=0),
    Case(erased=b"erased"),
    Case(max_mapnr=8 * 4096),
    Case(max_mapnr=8 * 4096 + 1),
    Case(part=(0x4000, 0x8000)),
    Case(abi="pack", part=(0x4000, 0x8000)),
    # More page frames than the fields of 32 bits hold.
    Case(max_mapnr=(1 << 32) + 8, part=(1 << 31, (1 << 32) + 8)),
]


def layout_of(case: Case) -> KdumpLayout:
    notes = SimpleNamespace(
        area=bytes(case.note_nbytes), vmcoreinfo=TEXT if case.note_nbytes else b"", offset=24, n_cpus=3
    )
    source = SimpleNamespace(
        page_size=case.block,
        notes=notes,
        header=SimpleNamespace(byte_order=case.order),
        history=SimpleNamespace(status=0, eraseinfo=case.erased),
    )
    dump: Any = SimpleNamespace(
        source=source,
        scan=SimpleNamespace(max_mapnr=case.max_mapnr),
        first_pfn=case.first_pfn,
        drops_memmap=False,
        bits=case.bits,
        byte_order=case.order,
        aligns_u64=case.abi != "pack",
        level=case.level,
        drops_zero=bool(case.level & 1),
        utsname=(b"Linux", b"host", b"6.1", b"#1", b"machine", b"(none)"),
        phys_base=0x1000,
        timestamp=1_700_000_000,
        part=case.part,
    )
    return KdumpLayout(dump, PageFlag.LZO, case.n_kept)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def read(data: bytes, case: Case, at: int, kind: str) -> int:
    [value] = struct.unpack_from(case.order + kind, data, at)
    return value


@pytest.mark.parametrize("case", CASES, ids=str)
def test_where_everything_stands(case: Case) -> None:
    layout = layout_of(case)
    block, n_mapped = case.block, case.max_mapnr - case.first_pfn
    n_sub = ceil_div(SUB_NBYTES[case.abi] + case.note_nbytes + len(case.erased), block)
    bitmap_nbytes = ceil_div(ceil_div(n_mapped, 8), block) * block
    descriptors_at = (1 + n_sub) * block + 2 * bitmap_nbytes
    zero_at = descriptors_at + 24 * case.n_kept

    placed = dict(layout.head(complete=True))
    header, sub = placed[0], placed[block]
    assert len(header) == block
    assert header.startswith(b"KDUMP   " + struct.pack(f"{case.order}i", 6) + b"Linux".ljust(65, b"\0") + b"host\0")
    fields = {name: read(header, case, at, kind) for name, (at, kind) in HEADER[case.bits].items()}
    assert fields == {
        "tv_sec": 1_700_000_000,
        "status": 0x2,
        "block_size": block,
        "sub_hdr_size": n_sub,
        "bitmap_blocks": 2 * bitmap_nbytes // block,
        "max_mapnr": min(n_mapped, 0xFFFFFFFF),
        "nr_cpus": 3,
    }
    assert len(sub) == n_sub * block
    assert layout.descriptor_area(case.n_kept) == (descriptors_at, 24 * case.n_kept)
    assert layout.data_offset == zero_at + (block if case.level & 1 else 0)
    assert (zero_at in placed) == bool(case.level & 1)
    assert not any(placed.get(zero_at, b""))


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_sub_header(case: Case) -> None:
    sub = dict(layout_of(case).head(complete=True))[case.block]
    notes_at = case.block + SUB_NBYTES[case.abi]
    start, stop = case.part or (0, 0)
    word_max = (1 << case.bits) - 1
    wanted = {
        "phys_base": 0x1000,
        "dump_level": case.level,
        "split": int(case.part is not None),
        "start_pfn": min(start, word_max),
        "end_pfn": min(stop, word_max),
        "offset_vmcoreinfo": notes_at + 24 if case.note_nbytes else 0,
        "size_vmcoreinfo": len(TEXT) if case.note_nbytes else 0,
        "offset_note": notes_at if case.note_nbytes else 0,
        "size_note": case.note_nbytes,
        "offset_eraseinfo": notes_at + case.note_nbytes if case.erased else 0,
        "size_eraseinfo": len(case.erased),
        "start_pfn_64": start,
        "end_pfn_64": stop,
        "max_mapnr_64": case.max_mapnr - case.first_pfn,
    }
    long = "Q" if case.bits == 64 else "I"
    kinds = {"dump_level": "i", "split": "i", **dict.fromkeys(LONGS, long)}
    places = dict(zip(SUB_FIELDS, SUB_OFFSETS[case.abi], strict=True))
    assert {name: read(sub, case, at, kinds.get(name, "q")) for name, at in places.items()} == wanted
    assert sub[SUB_NBYTES[case.abi] + case.note_nbytes :].rstrip(b"\0") == case.erased


def test_an_incomplete_file_says_so() -> None:
    _, header = layout_of(Case()).disk_header(complete=False)
    assert read(bytes(header), Case(), 424, "I") == 0x2 | 0x8


@pytest.mark.parametrize("case", [CASES[0], CASES[2], CASES[5]], ids=str)
def test_bitmaps_and_descriptors(case: Case) -> None:
    """The first bitmap is of RAM, least significant bit first; a descriptor is 24 bytes at its page's rank."""
    layout = layout_of(case)
    ram, kept = Bitmap(case.first_pfn, case.max_mapnr), Bitmap(case.first_pfn, case.max_mapnr)
    bits = np.zeros(case.max_mapnr - case.first_pfn, bool)
    bits[[0, 9, 0x8000]] = True
    ram.put(case.first_pfn, bits)
    kept.put(case.first_pfn, np.roll(bits, 1))
    descriptors_at, _ = layout.descriptor_area(0)
    bitmap_nbytes = ceil_div(ceil_div(len(bits), 8), case.block) * case.block
    ram_at = descriptors_at - 2 * bitmap_nbytes
    file = bytearray(layout.data_offset)
    for at, data in layout.bitmaps(ram, kept):
        file[at : at + len(data)] = bytes(data)
    set_bytes = {at: byte for at, byte in enumerate(file) if byte}
    assert set_bytes == {
        **{ram_at + pfn // 8: 1 << pfn % 8 for pfn in (0, 9, 0x8000)},
        **{ram_at + bitmap_nbytes + pfn // 8: 1 << pfn % 8 for pfn in (1, 10, 0x8001)},
    }
    words = layout.words(np.array([77], np.uint32), np.array([0x2], np.uint32))
    at, desc = layout.descriptors(5, np.array([[1 << 33, int(words[0]), 0]], np.int64))
    assert at == descriptors_at + 5 * 24
    assert bytes(desc) == struct.pack(f"{case.order}qIIQ", 1 << 33, 77, 0x2, 0)


PAGE_NBYTES = 4096
CODECS = (PageFlag.RAW, PageFlag.ZLIB, PageFlag.LZO, PageFlag.ZSTD)
STORED_NBYTES = (1, PAGE_NBYTES // 16, PAGE_NBYTES // 16 + 1, PAGE_NBYTES - 1)


def is_as_it_would_become(flag: int, nbytes: int, codec: int, before: int, drops_zero: bool, looked: bool) -> bool:
    """Whether compressing a page once more would change nothing; `before` is the codec of the file it comes from."""
    if drops_zero and not looked and (flag == 0 or nbytes <= PAGE_NBYTES // 16):
        return False  # it may be a zero page
    if flag != 0:
        return flag == codec
    return codec in (0, before)  # no compression is wanted, or the one that made it no smaller


@pytest.mark.parametrize("codec", CODECS)
def test_stored_pages_that_stay(codec: PageFlag) -> None:
    stored = [(flag, nbytes) for flag in CODECS for nbytes in ((PAGE_NBYTES,) if flag == 0 else STORED_NBYTES)]
    flags, sizes = (np.array(column, np.uint32) for column in zip(*stored, strict=True))
    for before, drops_zero, level in product(CODECS, (False, True), (30, 31)):
        worker: Any = worker_of(codec, before, drops_zero, level)
        wanted = [is_as_it_would_become(*page, codec, before, drops_zero, bool(level & 1)) for page in stored]
        assert _StoredWorker._stays(worker, sizes, flags).tolist() == wanted, (before, drops_zero, level)
    worker = worker_of(codec, PageFlag.RAW, True, 0, copies=True)
    assert _StoredWorker._stays(worker, sizes, flags).all()


def worker_of(codec: int, before: int, drops_zero: bool, level: int, copies: bool = False) -> SimpleNamespace:
    source = SimpleNamespace(history=SimpleNamespace(codec_flag=before, level=level))
    job = SimpleNamespace(
        dump=SimpleNamespace(source=source), codec_flag=codec, options=SimpleNamespace(copy_compressed=copies)
    )
    return SimpleNamespace(_job=job, _drops_zero=drops_zero, _page_size=PAGE_NBYTES)


@pytest.mark.parametrize("page_nbytes", [4096, 1 << 16])
def test_a_zero_page_is_never_taken_for_one_that_stays(page_nbytes: int) -> None:
    """However it was compressed, it is smaller than what is copied without a look."""
    page = bytes(page_nbytes)
    stored = [zlib.compress(page, level) for level in (1, 6, 9)]
    lzo = pytest.importorskip("lzo")
    stored += [lzo.compress(page, 1, False)]
    stored += [bytes(pytest.importorskip("cramjam").snappy.compress_raw(page))]
    stored += [pytest.importorskip("zstandard").compress(page)]
    assert max(map(len, stored)) <= page_nbytes // ZERO_RATIO

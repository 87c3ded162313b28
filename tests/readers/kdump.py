# SPDX-License-Identifier: GPL-2.0-or-later
"""kdump-compressed files, header version 6: both byte orders, 64-bit and the two 32-bit layouts."""

from __future__ import annotations

import mmap
import struct
from functools import cached_property
from pathlib import Path

import numpy as np

from . import codecs

DESCRIPTOR = np.dtype([("offset", "<i8"), ("size", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")])
INCOMPLETE, EXCLUDED_VMEMMAP = 0x8, 0x10
#: Bytes of a bitmap that are looked at in one step.
CHUNK = 1 << 24
COMPRESSION = codecs.ZLIB | codecs.LZO | codecs.SNAPPY | codecs.ZSTD

#: Offset of tv_sec by word size; the other fields follow.
TIME_OFFSETS = {64: 408, 32: 404}
HEADER_FIELDS = {
    "status": ("I", 0),
    "block_size": ("i", 4),
    "sub_hdr_size": ("i", 8),
    "bitmap_blocks": ("I", 12),
    "max_mapnr_32": ("I", 16),
    "total_ram_blocks": ("I", 20),
    "device_blocks": ("I", 24),
    "written_blocks": ("I", 28),
    "current_cpu": ("I", 32),
    "nr_cpus": ("i", 36),
}
SUB_HEADER_FIELDS = (
    "phys_base",
    "dump_level",
    "split",
    "start_pfn",
    "end_pfn",
    "offset_vmcoreinfo",
    "size_vmcoreinfo",
    "offset_note",
    "size_note",
    "offset_eraseinfo",
    "size_eraseinfo",
    "start_pfn_64",
    "end_pfn_64",
    "max_mapnr",
)
#: By the layout's name: struct's codes of the fields, the sub header's size, the word size.
LAYOUTS = {
    "64": ("qiiQQqQqQqQQQQ", 104, 64),
    "32 padded": ("iiiII4xqI4xqI4xqI4xQQQ", 96, 32),
    "32 packed": ("iiiIIqIqIqIQQQ", 80, 32),
}
#: Which 32-bit machines pack: those whose ABI aligns 64-bit numbers to 4 bytes.
PACKED = ("i386", "i486", "i586", "i686")
WORD_32 = (*PACKED, "armv7l", "ppc", "mips")
UTSNAME = ("sysname", "nodename", "release", "version", "machine", "domainname")


class KdumpFile:
    """A file's header fields (`fields`, `utsname`), bitmaps (bool arrays) and pages."""

    kind = "kdump"

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with open(path, "rb") as file:
            self.data = data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if data[:8] != b"KDUMP   ":
            raise ValueError(f"{path}: not a kdump-compressed file: {data[:8]!r}")
        self.order = "<" if data[8] == 6 else ">"
        (self.version,) = struct.unpack_from(self.order + "i", data, 8)
        self.utsname = {
            name: data[12 + 65 * i : 77 + 65 * i].split(b"\0")[0].decode(errors="replace")
            for i, name in enumerate(UTSNAME)
        }
        machine = self.utsname["machine"]
        layout = ("32 packed" if machine in PACKED else "32 padded") if machine in WORD_32 else "64"
        codes, self.sub_header_nbytes, self.bits = LAYOUTS[layout]
        word, at = {64: ("q", 8), 32: ("i", 4)}[self.bits]
        times = struct.unpack_from(f"{self.order}2{word}", data, TIME_OFFSETS[self.bits])
        self.fields = dict(zip(("tv_sec", "tv_usec"), times, strict=True))
        self.header_nbytes = TIME_OFFSETS[self.bits] + 2 * at + 40
        for name, (code, offset) in HEADER_FIELDS.items():
            start = TIME_OFFSETS[self.bits] + 2 * at + offset
            self.fields[name] = struct.unpack_from(self.order + code, data, start)[0]
        self.block_size = self.fields["block_size"]
        values = struct.unpack_from(self.order + codes, data, self.block_size)
        self.fields |= dict(zip(SUB_HEADER_FIELDS, values, strict=True))
        self.status, self.max_mapnr = self.fields["status"], self.fields["max_mapnr"]
        self.bitmap_offset = (1 + self.fields["sub_hdr_size"]) * self.block_size
        bitmaps_nbytes = self.fields["bitmap_blocks"] * self.block_size
        self.bitmap_nbytes = bitmaps_nbytes // 2
        self.descriptors_offset = self.bitmap_offset + bitmaps_nbytes
        self.pfns = self._set_bits(self.bitmap_offset + self.bitmap_nbytes)
        self.data_offset = self.descriptors_offset + len(self.pfns) * DESCRIPTOR.itemsize
        if self.fields["split"]:
            start, stop = self.fields["start_pfn_64"], self.fields["end_pfn_64"]
            self.pfns = self.pfns[(self.pfns >= start) & (self.pfns < stop)]
        descriptor = DESCRIPTOR.newbyteorder(self.order)
        self.descriptors = np.frombuffer(data, descriptor, len(self.pfns), self.descriptors_offset)

    def _set_bits(self, offset: int) -> np.ndarray:
        """The page frames of a bitmap, which may speak of a memory that is mostly a hole."""
        packed = np.frombuffer(self.data, np.uint8, self.bitmap_nbytes, offset)
        pieces = [np.flatnonzero(packed[at : at + CHUNK]) + at for at in range(0, len(packed), CHUNK)]
        used = np.concatenate([np.empty(0, np.intp), *pieces])
        bits = np.unpackbits(packed[used], bitorder="little").reshape(-1, 8)
        pfns = (8 * used[:, None] + np.arange(8))[bits > 0]
        return pfns[pfns < self.max_mapnr]

    def _bits(self, offset: int) -> np.ndarray:
        packed = np.frombuffer(self.data, np.uint8, self.bitmap_nbytes, offset)
        return np.unpackbits(packed, bitorder="little").view(bool)

    @cached_property
    def raw_bitmap1(self) -> np.ndarray:
        """Pages of RAM, and what stands behind them up to the end of the block."""
        return self._bits(self.bitmap_offset)

    @cached_property
    def raw_bitmap2(self) -> np.ndarray:
        """Pages that are in the file, and what stands behind them up to the end of the block."""
        return self._bits(self.bitmap_offset + self.bitmap_nbytes)

    @property
    def bitmap1(self) -> np.ndarray:
        """Pages of RAM; bool by page frame number."""
        return self.raw_bitmap1[: self.max_mapnr]

    @property
    def bitmap2(self) -> np.ndarray:
        """Pages that are in the file; bool by page frame number."""
        return self.raw_bitmap2[: self.max_mapnr]

    @property
    def notes(self) -> bytes:
        """The whole note area."""
        return self.data[self.fields["offset_note"] : self.fields["offset_note"] + self.fields["size_note"]]

    @property
    def vmcoreinfo(self) -> bytes:
        """VMCOREINFO's text, where the sub header says."""
        start = self.fields["offset_vmcoreinfo"]
        return self.data[start : start + self.fields["size_vmcoreinfo"]]

    @property
    def kept(self) -> np.ndarray:
        """Page frames in the file, ascending."""
        return self.pfns

    def is_lost(self, pfn: int) -> bool:
        """Whether the file was cut before this page's data."""
        return self.descriptors[self._rank(pfn)]["offset"] == 0

    def page(self, pfn: int) -> bytes:
        """One page's bytes, decompressed. KeyError if the file doesn't have it, BadPage if it can't be read."""
        return self._decode(self._rank(pfn))

    def stored(self, pfn: int) -> bytes:
        """One page's bytes as they are in the file."""
        offset, size, _, _ = self.descriptors[self._rank(pfn)].item()
        return self.data[offset : offset + size]

    def contents(self):
        """(pfn, bytes) of every page in the file, ascending."""
        for index, pfn in enumerate(self.pfns.tolist()):
            yield pfn, self._decode(index)

    def _rank(self, pfn: int) -> int:
        index = int(np.searchsorted(self.pfns, pfn))
        if index == len(self.pfns) or self.pfns[index] != pfn:
            raise KeyError(pfn)
        return index

    def _decode(self, index: int) -> bytes:
        offset, size, flags, _ = self.descriptors[index].item()
        stored = self.data[offset : offset + size]
        if offset == 0 or len(stored) != size:
            raise codecs.BadPage(f"page {self.pfns[index]:#x}: descriptor {offset:#x}+{size} leads out of the file")
        if flags:
            return codecs.decoder(flags & COMPRESSION)(stored, self.block_size)
        if size != self.block_size:
            raise codecs.BadPage(f"page {self.pfns[index]:#x}: {size} raw bytes")
        return stored

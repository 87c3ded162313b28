"""kdump-compressed files: 64-bit, little-endian, header version 6."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path

import numpy as np

from . import codecs

DESCRIPTOR = np.dtype([("offset", "<i8"), ("size", "<u4"), ("flags", "<u4"), ("page_flags", "<u8")])
SUB_HEADER_NBYTES = 104
INCOMPLETE, EXCLUDED_VMEMMAP = 0x8, 0x10
COMPRESSION = codecs.ZLIB | codecs.LZO | codecs.SNAPPY | codecs.ZSTD

HEADER_FIELDS = {
    "tv_sec": ("<q", 408),
    "tv_usec": ("<q", 416),
    "status": ("<I", 424),
    "block_size": ("<i", 428),
    "sub_hdr_size": ("<i", 432),
    "bitmap_blocks": ("<I", 436),
    "max_mapnr_32": ("<I", 440),
    "total_ram_blocks": ("<I", 444),
    "device_blocks": ("<I", 448),
    "written_blocks": ("<I", 452),
    "current_cpu": ("<I", 456),
    "nr_cpus": ("<i", 460),
}
SUB_HEADER_FIELDS = {
    "phys_base": ("<q", 0),
    "dump_level": ("<i", 8),
    "split": ("<i", 12),
    "start_pfn": ("<Q", 16),
    "end_pfn": ("<Q", 24),
    "offset_vmcoreinfo": ("<q", 32),
    "size_vmcoreinfo": ("<Q", 40),
    "offset_note": ("<q", 48),
    "size_note": ("<Q", 56),
    "offset_eraseinfo": ("<q", 64),
    "size_eraseinfo": ("<Q", 72),
    "start_pfn_64": ("<Q", 80),
    "end_pfn_64": ("<Q", 88),
    "max_mapnr": ("<Q", 96),
}
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
        (self.version,) = struct.unpack_from("<i", data, 8)
        self.utsname = {
            name: data[12 + 65 * i : 77 + 65 * i].split(b"\0")[0].decode() for i, name in enumerate(UTSNAME)
        }
        self.fields = {name: struct.unpack_from(code, data, at)[0] for name, (code, at) in HEADER_FIELDS.items()}
        self.block_size = self.fields["block_size"]
        for name, (code, at) in SUB_HEADER_FIELDS.items():
            self.fields[name] = struct.unpack_from(code, data, self.block_size + at)[0]
        self.status, self.max_mapnr = self.fields["status"], self.fields["max_mapnr"]
        self.bitmap_offset = (1 + self.fields["sub_hdr_size"]) * self.block_size
        bitmaps_nbytes = self.fields["bitmap_blocks"] * self.block_size
        self.bitmap_nbytes = bitmaps_nbytes // 2
        self.descriptors_offset = self.bitmap_offset + bitmaps_nbytes
        self.raw_bitmap1 = self._bits(self.bitmap_offset)
        self.raw_bitmap2 = self._bits(self.bitmap_offset + self.bitmap_nbytes)
        self.bitmap1, self.bitmap2 = self.raw_bitmap1[: self.max_mapnr], self.raw_bitmap2[: self.max_mapnr]
        self.pfns = np.flatnonzero(self.bitmap2)
        self.descriptors = np.frombuffer(data, DESCRIPTOR, len(self.pfns), self.descriptors_offset)
        self.data_offset = self.descriptors_offset + self.descriptors.nbytes

    def _bits(self, offset: int) -> np.ndarray:
        packed = np.frombuffer(self.data, np.uint8, self.bitmap_nbytes, offset)
        return np.unpackbits(packed, bitorder="little").view(bool)

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

# SPDX-License-Identifier: GPL-2.0-or-later
"""What stands where in a kdump-compressed file, header version 6.

References
----------
makedumpfile ``IMPLEMENTATION`` and ``diskdump_mod.h``; what crash and libkdumpfile check when they open a file.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from npdump.layouts import kdump
from npdump.layouts.page_flag import STATUS_EXCLUDED_VMEMMAP, STATUS_INCOMPLETE, PageFlag
from npdump.sources._notes import with_byte_order

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import I64, U8, U32
    from npdump.bitmap import Bitmap
    from npdump.sinks import Placement
    from npdump.writers import DumpPlan

__all__ = ["KdumpLayout", "ceil_div"]

_U32_MAX = 0xFFFFFFFF
_HOST_ORDER = "<" if sys.byteorder == "little" else ">"


class KdumpLayout:
    """Says which bytes of a kdump-compressed file stand where.

    Parameters
    ----------
    dump : DumpPlan
    codec_flag : PageFlag
        The file's codec.
    n_kept : int
        Pages in the file, zero pages included: it fixes where the page data begin.

    Attributes
    ----------
    size_shift : {0, 32}
        Which half of `words` is a page's size.
    data_offset : int
        Where the first stored page goes; what comes before has the same size whatever the pages hold.
    """

    def __init__(self, dump: DumpPlan, codec_flag: PageFlag, n_kept: int) -> None:
        self._dump = dump
        self._status = int(codec_flag) | dump.source.history.status | STATUS_EXCLUDED_VMEMMAP * dump.drops_memmap
        self._byte_order = dump.byte_order
        self._max_mapnr = dump.scan.max_mapnr - dump.first_pfn
        self._page_size = block = dump.source.page_size
        sub_header = kdump.sub_header_dtype(dump.bits, self._byte_order, dump.aligns_u64)
        self._note_offset = block + sub_header.itemsize
        self._eraseinfo = dump.source.history.eraseinfo
        extra_nbytes = len(dump.source.notes.area) + len(self._eraseinfo)
        self._sub_hdr_size = ceil_div(sub_header.itemsize + extra_nbytes, block)
        self._bitmap_nbytes = ceil_div(ceil_div(self._max_mapnr, 8), block) * block
        self._bitmap_offset = (1 + self._sub_hdr_size) * block
        self._desc_nbytes = kdump.PAGE_DESC.itemsize
        self._desc_offset = self._bitmap_offset + 2 * self._bitmap_nbytes
        self.zero_offset = self._desc_offset + n_kept * self._desc_nbytes
        self.data_offset = self.zero_offset + block * dump.drops_zero
        self.size_shift = 32 * (self._byte_order == ">")
        self._zero_place = self.zero_offset, block << self.size_shift, 0
        self._zero_places: I64 = np.empty((0, 3), np.int64)

    def disk_header(self, complete: bool) -> Placement:
        """Return block 0.

        It's written first as that of an incomplete file and last as it should be, where it can be written twice, so
        that a dump whose writer was killed doesn't look whole.
        """
        dump = self._dump
        disk = np.zeros(1, kdump.header_dtype(dump.bits, self._byte_order))
        disk["signature"] = kdump.SIGNATURE
        disk["header_version"] = kdump.HEADER_VERSION
        for name, value in zip(kdump.UTSNAME_FIELDS, dump.utsname, strict=True):
            disk["utsname"][name] = value
        disk["tv_sec"] = dump.timestamp & (1 << dump.bits) - 1
        disk["status"] = self._status | (0 if complete else STATUS_INCOMPLETE)
        disk["block_size"] = self._page_size
        disk["sub_hdr_size"] = self._sub_hdr_size
        disk["bitmap_blocks"] = 2 * self._bitmap_nbytes // self._page_size
        disk["max_mapnr"] = min(self._max_mapnr, _U32_MAX)
        disk["nr_cpus"] = dump.source.notes.n_cpus
        return 0, disk.tobytes().ljust(self._page_size, b"\0")

    def head(self, complete: bool) -> Iterator[Placement]:
        """Yield all that comes before the bitmaps, and the zero page."""
        dump = self._dump
        # QEMU's notes of a little-endian POWER guest are big-endian; who reads this file takes them for the kernel's.
        notes = with_byte_order(dump.source.notes.area, dump.source.header.byte_order, self._byte_order)
        yield self.disk_header(complete)
        sub = np.zeros(1, kdump.sub_header_dtype(dump.bits, self._byte_order, dump.aligns_u64))
        sub["phys_base"] = dump.phys_base & (1 << dump.bits) - 1
        sub["dump_level"] = dump.level
        if notes:
            sub["offset_note"] = self._note_offset
            sub["size_note"] = len(notes)
        if dump.source.notes.vmcoreinfo:
            sub["offset_vmcoreinfo"] = self._note_offset + dump.source.notes.offset
            sub["size_vmcoreinfo"] = len(dump.source.notes.vmcoreinfo)
        if self._eraseinfo:
            # makedumpfile appends it to the file; readers go by the offset. Here it's known before the pages are.
            sub["offset_eraseinfo"] = self._note_offset + len(notes)
            sub["size_eraseinfo"] = len(self._eraseinfo)
        if dump.part:
            sub["split"] = 1
            part = [max(pfn - dump.first_pfn, 0) for pfn in dump.part]
            sub["start_pfn_64"], sub["end_pfn_64"] = part
            word_max = (1 << dump.bits) - 1
            sub["start_pfn"], sub["end_pfn"] = (min(pfn, word_max) for pfn in part)
        sub["max_mapnr_64"] = self._max_mapnr
        blocks = sub.tobytes() + notes + self._eraseinfo
        yield self._page_size, blocks.ljust(self._sub_hdr_size * self._page_size, b"\0")
        if dump.drops_zero:
            yield self.zero_offset, bytes(self._page_size)

    def bitmaps(self, ram: Bitmap, kept: Bitmap) -> Iterator[Placement]:
        """Yield the part of both bitmaps that belongs to a window; what is all zero stays a hole in the file."""
        for number, bitmap in enumerate((ram, kept)):
            start = (bitmap.pfn_start - self._dump.first_pfn) // 8
            offset = self._bitmap_offset + number * self._bitmap_nbytes + max(start, 0)
            yield from _without_holes(offset, bitmap.packed[max(-start, 0) :])
        is_last = kept.pfn_stop == self._dump.scan.max_mapnr
        if is_last and self._bitmap_offset + 2 * self._bitmap_nbytes == self.data_offset:
            # An empty dump ends with its bitmaps: the file must be as long as the header says.
            yield self.data_offset - 1, b"\0"

    def descriptor_area(self, n_pages: int) -> tuple[int, int]:
        """Return where the page descriptors begin, and their bytes; a part of a split dump has only its own pages'."""
        return self._desc_offset, n_pages * self._desc_nbytes

    def words(self, sizes: U32, flags: U32) -> I64:
        """Return the second words of the descriptors of stored pages; the first are their offsets."""
        # The size comes first: in a big-endian word that is the upper half.
        return sizes * np.int64(1 << self.size_shift) | flags * np.int64(1 << (32 - self.size_shift))

    def zero_places(self, n: int) -> I64:
        """Return those of ``n`` zero pages, which share one; shape (n, 3), as descriptors."""
        if n > len(self._zero_places):
            self._zero_places = np.tile(np.array([self._zero_place], np.int64), (n, 1))
        return self._zero_places[:n].copy()

    def descriptors(self, rank: int, places: I64) -> Placement:
        """Return page descriptors.

        Parameters
        ----------
        rank : int
            Number of kept pages before the first of these.
        places : ndarray of shape (n, 3), dtype int64
            Their offsets, `words`, and flags of which there are none.
        """
        desc = places if self._byte_order == _HOST_ORDER else places.byteswap()
        return self._desc_offset + rank * self._desc_nbytes, desc.view(np.uint8).reshape(-1)


def ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _without_holes(offset: int, packed: U8) -> Iterator[Placement]:
    step = 1 << 16
    for at in range(0, len(packed), step):
        piece = packed[at : at + step]
        if piece.any():
            yield offset + at, piece

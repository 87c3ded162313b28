"""The kdump-compressed format, header version 6.

References
----------
makedumpfile ``IMPLEMENTATION`` and ``diskdump_mod.h``; what crash and libkdumpfile check when they open a file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from npdump import pool
from npdump.bitmap import Bitmap
from npdump.job import Done, Job
from npdump.layouts import kdump
from npdump.layouts.page_flag import STATUS_INCOMPLETE, PageFlag
from npdump.sinks import Placement, Sink
from npdump.sources import OffersStored
from npdump.sources.notes import reordered
from npdump.storage import ByteArray
from npdump.stream import PageBatch, batches
from npdump.writers import Dump, How
from npdump.writers.kdump_pages import PageJob, StoredJob

__all__ = ["WRITER", "KdumpLayout"]

_U32_MAX = 0xFFFFFFFF

COPIED_PER_COMPRESSED = 4
"""How many times more pages a batch has whose pages are only copied."""


class KdumpLayout:
    """Says which bytes of a kdump-compressed file stand where.

    Parameters
    ----------
    dump : Dump
    codec_flag : PageFlag
        The file's codec.
    n_kept : int
        Pages in the file, zero pages included: it fixes where the page data begin.

    Attributes
    ----------
    data_offset : int
        Where the first stored page goes; what comes before has the same size whatever the pages hold.
    """

    def __init__(self, dump: Dump, codec_flag: PageFlag, n_kept: int) -> None:
        self._dump = dump
        self._status = int(codec_flag) | dump.source.history.status
        self._byte_order = dump.byte_order
        self._max_mapnr = dump.scan.max_mapnr - dump.first_pfn
        self._page_size = block = dump.source.page_size
        sub_header = kdump.sub_header_dtype(dump.bits, self._byte_order, dump.aligns_u64)
        self._note_offset = block + sub_header.itemsize
        self._eraseinfo = dump.source.history.eraseinfo
        extra_nbytes = len(dump.source.notes) + len(self._eraseinfo)
        self._sub_hdr_size = _ceil_div(sub_header.itemsize + extra_nbytes, block)
        self._bitmap_nbytes = _ceil_div(_ceil_div(self._max_mapnr, 8), block) * block
        self._bitmap_offset = (1 + self._sub_hdr_size) * block
        self._desc = kdump.PAGE_DESC.newbyteorder(self._byte_order)
        self._desc_offset = self._bitmap_offset + 2 * self._bitmap_nbytes
        self._zero_offset = self._desc_offset + n_kept * self._desc.itemsize
        self.data_offset = self._zero_offset + block * dump.drops_zero

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
        disk["tv_sec"] = dump.timestamp
        disk["status"] = self._status | (0 if complete else STATUS_INCOMPLETE)
        disk["block_size"] = self._page_size
        disk["sub_hdr_size"] = self._sub_hdr_size
        disk["bitmap_blocks"] = 2 * self._bitmap_nbytes // self._page_size
        disk["max_mapnr"] = min(self._max_mapnr, _U32_MAX)
        disk["nr_cpus"] = dump.source.n_cpus
        return 0, disk.tobytes().ljust(self._page_size, b"\0")

    def head(self, complete: bool) -> Iterator[Placement]:
        """Yield all that comes before the bitmaps, and the zero page."""
        dump = self._dump
        # QEMU's notes of a little-endian POWER guest are big-endian; who reads this file takes them for the kernel's.
        notes = reordered(dump.source.notes, dump.source.byte_order, self._byte_order)
        yield self.disk_header(complete)
        sub = np.zeros(1, kdump.sub_header_dtype(dump.bits, self._byte_order, dump.aligns_u64))
        sub["phys_base"] = dump.phys_base & (1 << dump.bits) - 1
        sub["dump_level"] = dump.level
        if notes:
            sub["offset_note"] = self._note_offset
            sub["size_note"] = len(notes)
        if dump.source.vmcoreinfo:
            sub["offset_vmcoreinfo"] = self._note_offset + dump.source.vmcoreinfo_offset
            sub["size_vmcoreinfo"] = len(dump.source.vmcoreinfo)
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
            yield self._zero_offset, bytes(self._page_size)

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
        return self._desc_offset, n_pages * self._desc.itemsize

    def descriptors(self, rank: int, places: npt.NDArray[np.void]) -> Placement:
        """Return page descriptors.

        Parameters
        ----------
        rank : int
            Number of kept pages before the first of these.
        places : ndarray of shape (n,), dtype PLACE
            Where the pages stand; those of no size are zero pages.
        """
        desc = np.zeros(len(places), self._desc)
        is_zero = places["size"] == 0
        desc["offset"] = np.where(is_zero, self._zero_offset, places["offset"])
        desc["size"] = np.where(is_zero, self._page_size, places["size"])
        desc["flags"] = places["flags"]
        return self._desc_offset + rank * self._desc.itemsize, desc.view(np.uint8)


def _only_copies(dump: Dump, how: How) -> bool:
    """Tell whether nearly all pages are stored already as they will be."""
    is_same = dump.source.history.codec_flag == how.codec.flag
    return isinstance(dump.source, OffersStored) and (how.as_stored or is_same)


def _for_copying(how: How) -> How:
    """Return what suits copies of compressed pages: larger batches, and no workers where nothing is compressed."""
    return replace(
        how,
        batch_npages=how.batch_npages * COPIED_PER_COMPRESSED,
        n_workers=1 if how.n_workers is None else how.n_workers,
    )


def _ceil_div(a: int, b: int) -> int:
    return -(-a // b)


def _without_holes(offset: int, packed: ByteArray) -> Iterator[Placement]:
    step = 1 << 16
    for at in range(0, len(packed), step):
        piece = packed[at : at + step]
        if piece.any():
            yield offset + at, piece


class KdumpWriter:
    """See `npdump.writers.Writer`."""

    n_left_out = None

    def __init__(self, dump: Dump, how: How) -> None:
        self._dump = dump
        self._how = _for_copying(how) if _only_copies(dump, how) else how
        self.n_zero = self.n_shared = 0
        self._part = dump.part or (0, dump.scan.max_mapnr)
        n_kept = self.n_pages = 0
        for window in dump.scan.windows():
            n_kept += window.kept.count()
            self.n_pages += window.kept.part(*self._part).count()
        self._layout = KdumpLayout(dump, how.codec.flag, n_kept)

    def begin(self, sink: Sink) -> int:
        """See `npdump.writers.Writer.begin`."""
        sink.place(self._layout.head(complete=not sink.can_rewrite))
        for window in self._dump.scan.windows():
            sink.place(self._layout.bitmaps(window.ram, window.kept))
        # Descriptors are written after what they point to, which may have taken the last room.
        sink.reserve(*self._layout.descriptor_area(self.n_pages))
        return self._layout.data_offset

    def write(self, sink: Sink) -> Iterator[Done]:
        """See `npdump.writers.Writer.write`."""
        n_batches = _ceil_div(self.n_pages, self._how.batch_npages)
        n_workers = self._how.n_workers
        if n_workers is None:
            batch_nbytes = self._how.batch_npages * self._dump.source.page_size
            n_workers = pool.default_workers(n_batches, batch_nbytes)
        n_workers = min(n_workers, n_batches)
        job: Job
        if isinstance(self._dump.source, OffersStored):
            job = StoredJob(self._dump, self._how, sink, self._layout.descriptors, self.n_pages)
        else:
            job = PageJob(self._dump, self._how, sink, self._layout.descriptors, self.n_pages, n_workers)
        for done in pool.run(job, self._batches(), self._layout.data_offset, n_workers, self._how.warn):
            self.n_zero += done.n_zero
            self.n_shared += done.n_shared
            yield done

    def _batches(self) -> Iterator[PageBatch]:
        rank = 0
        for window in self._dump.scan.windows():
            for batch in batches(window.kept.part(*self._part), rank, self._how.batch_npages):
                rank += batch.npages
                yield batch

    def end(self, sink: Sink) -> None:
        """See `npdump.writers.Writer.end`."""
        if sink.can_rewrite:
            sink.place([self._layout.disk_header(complete=True)])

    def cut_short(self, sink: Sink) -> None:
        """See `npdump.writers.Writer.cut_short`: the header says so already, and lost pages have no descriptor."""


WRITER = KdumpWriter

# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF core files, in which a long run of left-out pages is a segment's tail without data (p_filesz < p_memsz).

References
----------
System V gABI; makedumpfile ``write_elf_pages_cyclic()`` for the shape, crash ``netdump.c`` for what it takes for a
kdump ELF file (PT_NOTE first, then only PT_LOAD, p_align 0).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import Index, Records, Runs, count, group_edges, runs_of
from npdump.encode.batches import batches, is_zero, read_pages
from npdump.encode.job import Done
from npdump.errors import FactError, NoSpace, SinkError
from npdump.kernel.segments import NO_VADDR, with_kernel_vaddrs
from npdump.layouts import elf
from npdump.layouts.page_flag import STATUS_INCOMPLETE
from npdump.sources import SEGMENT
from npdump.sources._notes import find_eraseinfo, make_note
from npdump.storage.file import page_buffer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.pages.scan import Window
    from npdump.sinks import Sink
    from npdump.writers import DumpPlan, WriteOptions

__all__ = ["WRITER"]

MIN_GAP_NPAGES = 256
"""Shorter runs of left-out pages are written all the same, so that the program headers stay few (as makedumpfile)."""

COPY_NBYTES = 1 << 20
"""Bytes copied at a time."""


class _Joiner:
    """Joins runs of kept pages across short gaps of pages that may be read as well.

    Parameters
    ----------
    data_runs : ndarray of shape (k, 2), dtype int64
        Page frames that the input has.
    """

    def __init__(self, data_runs: Runs) -> None:
        self._hole_starts = data_runs[:, 1]
        self._unsafe_starts = np.empty(0, np.int64)
        self._last: Runs = np.empty((0, 2), np.int64)
        self._finished: list[Runs] = []

    def add(self, window: Window) -> None:
        """Take the kept pages of the next window."""
        unsafe_starts = [runs[:, 0] for runs in window.unsafe.runs()]
        blockers = np.sort(np.concatenate((self._hole_starts, self._unsafe_starts, *unsafe_starts)))
        for runs in window.kept.runs():
            runs = np.concatenate((self._last, runs))
            gap_starts, gap_stops = runs[:-1, 1], runs[1:, 0]
            # A gap begins behind a kept page, so that what blocks it begins inside it.
            is_blocked = np.searchsorted(blockers, gap_starts) < np.searchsorted(blockers, gap_stops)
            firsts, lasts = group_edges(is_blocked | (gap_stops - gap_starts >= MIN_GAP_NPAGES))
            joined = np.column_stack((runs[firsts, 0], runs[lasts, 1]))
            self._finished.append(joined[:-1])
            self._last = joined[-1:]
        behind_last = self._last[0, 1] if len(self._last) else 0
        self._unsafe_starts = blockers[blockers >= behind_last]

    def runs(self) -> Runs:
        """Return all joined runs, ascending."""
        return np.concatenate((*self._finished, self._last))


def _drop_zero_pages(dump: DumpPlan, options: WriteOptions, window: Window) -> int:
    """Take zero pages out of a window's kept ones; return how many they are."""
    buffer = page_buffer(options.batch_npages, dump.source.page_size)
    n_zero = 0
    for batch in batches(window.kept, 0, options.batch_npages):
        rows, pages = read_pages(dump.source, batch, buffer)
        is_left_out = np.ones(batch.npages, np.bool_)
        is_left_out[rows] = is_zero(pages)
        zero_runs = runs_of(is_left_out)
        pfns = batch.pfns
        for start, stop in zero_runs.tolist():
            window.kept.clear(pfns[start:stop])
        n_zero += count(zero_runs)
    return n_zero


def _cut(segment: np.void, runs: Runs, page_shift: int, has_vaddrs: bool) -> Records:
    """Return the segments of the output that stand for one of the input.

    Together they have its memory; each has the data of one run of pages, if any, and the left-out pages behind it.
    """
    paddr, vaddr, stop = int(segment["paddr"]), int(segment["vaddr"]), int(segment["paddr"] + segment["memsz"])
    data_stop = paddr + int(segment["filesz"])
    first = np.searchsorted(runs[:, 1] << page_shift, paddr, side="right")
    last = np.searchsorted(runs[:, 0] << page_shift, data_stop, side="left")
    starts = np.maximum(runs[first:last, 0] << page_shift, paddr)
    stops = np.minimum(runs[first:last, 1] << page_shift, data_stop)
    if not len(starts) or starts[0] > paddr:
        starts, stops = np.append(paddr, starts), np.append(paddr, stops)
    cut = np.zeros(len(starts), SEGMENT)
    cut["paddr"] = starts
    cut["filesz"] = stops - starts
    cut["memsz"] = np.append(starts[1:], stop) - starts
    cut["flags"] = segment["flags"]
    is_known = has_vaddrs and vaddr != NO_VADDR
    cut["vaddr"] = np.uint64(vaddr) + (starts - paddr).astype(np.uint64) if is_known else vaddr
    return cut


def _homes(segments: Records) -> Index:
    """Tell which segment has the data of each: the image of the kernel is in the direct map's segments as well."""
    start, nbytes = segments["paddr"].astype(np.int64), segments["filesz"].astype(np.int64)
    stop = start + nbytes
    # Of those that begin before or with a segment, the one that ends last; the longest of equals comes first.
    order = np.lexsort((-nbytes, start))
    reach = np.maximum.accumulate(stop[order])
    is_home = np.append(True, stop[order][1:] > reach[:-1])[: len(order)]
    home = np.empty(len(segments), np.intp)
    home[order] = order[is_home][np.cumsum(is_home) - 1]
    return home


def _with_vaddrs(dump: DumpPlan, options: WriteOptions) -> Records:
    """Return the segments to be written, with kernel addresses if they can be told."""
    segments = dump.source.segments
    # QEMU writes physical addresses, or zeros.
    if segments["vaddr"].any() and (segments["vaddr"] != segments["paddr"]).any():
        return segments
    why = "the dump doesn't tell about its kernel"
    try:
        if dump.kernel is not None:
            return with_kernel_vaddrs(dump.source, dump.kernel.memory)
    except FactError as error:
        why = str(error)
    options.warn(f"{dump.source.path}: {why}: the ELF dump has no kernel addresses (p_vaddr): gdb can't read it")
    return segments


class ElfWriter:
    """See `npdump.writers.Writer`."""

    def __init__(self, dump: DumpPlan, options: WriteOptions) -> None:
        source = dump.source
        self._source = source
        self._page_shift = source.page_size.bit_length() - 1
        self._notes = source.notes
        if source.history.eraseinfo and not find_eraseinfo(source.notes, source.byte_order):
            self._notes += make_note(b"ERASEINFO", source.history.eraseinfo, source.byte_order)
        self.n_zero = self.n_shared = 0
        joiner = _Joiner(source.data_runs)
        for window in dump.scan.windows():
            if dump.drops_zero:
                self.n_zero += _drop_zero_pages(dump, options, window)
            joiner.add(window)
        runs = joiner.runs()
        self.n_left_out: int | None = dump.scan.n_ram - count(runs)
        segments = _with_vaddrs(dump, options)
        has_vaddrs = bool(segments["vaddr"].any())
        self._segments = np.concatenate([_cut(seg, runs, self._page_shift, has_vaddrs) for seg in segments])
        self._n_headers = 1 + len(self._segments)
        if self._n_headers >= elf.PN_XNUM and source.bits == 32:
            raise SinkError(f"the dump would need {self._n_headers} program headers: ELF32 has room for fewer; omit -E")
        self._place_data()

    def _place_data(self) -> None:
        source = self._source
        self._shdr_offset = elf.EHDR[source.bits].itemsize + self._n_headers * elf.PHDR[source.bits].itemsize
        needs_section = self._n_headers >= elf.PN_XNUM
        self._note_offset = self._shdr_offset + needs_section * elf.SHDR[source.bits].itemsize
        self._data_offset = self._note_offset + len(self._notes)
        home = _homes(self._segments)
        has_own = (home == np.arange(len(home))) & (self._segments["filesz"] > 0)
        self._with_data = np.flatnonzero(has_own)
        nbytes = np.where(has_own, self._segments["filesz"], 0)
        offsets = np.cumsum(nbytes) - nbytes + np.uint64(self._data_offset)
        offsets = offsets[home] + self._segments["paddr"] - self._segments["paddr"][home]
        self._segments["offset"] = np.where(self._segments["filesz"] > 0, offsets, 0)
        self.n_pages = int((-(-nbytes.astype(np.int64) >> self._page_shift)).sum())
        self._written_stop = self._data_offset

    def _headers(self, complete: bool) -> bytes:
        """Return the ELF header and program headers; those of an incomplete file own up to what was written."""
        source, n_headers = self._source, self._n_headers
        ehdr = np.zeros(1, elf.EHDR[source.bits].newbyteorder(source.byte_order))
        ident = elf.MAGIC + bytes((elf.CLASSES[source.bits], elf.DATAS[source.byte_order], elf.EV_CURRENT))
        ehdr["e_ident"] = ident.ljust(16, b"\0")
        ehdr["e_type"] = elf.ET_CORE
        ehdr["e_machine"] = source.machine
        ehdr["e_version"] = elf.EV_CURRENT
        ehdr["e_phoff"] = ehdr["e_ehsize"] = ehdr.itemsize
        is_whole = complete and not source.history.status & STATUS_INCOMPLETE
        ehdr["e_flags"] = source.e_flags | (0 if is_whole else elf.DUMP_ELF_INCOMPLETE)
        ehdr["e_phentsize"] = elf.PHDR[source.bits].itemsize
        ehdr["e_phnum"] = min(n_headers, elf.PN_XNUM)
        section = b""
        if n_headers >= elf.PN_XNUM:
            shdr = np.zeros(1, elf.SHDR[source.bits].newbyteorder(source.byte_order))
            shdr["sh_size"] = ehdr["e_shnum"] = 1
            shdr["sh_info"] = n_headers
            ehdr["e_shoff"] = self._shdr_offset
            ehdr["e_shentsize"] = shdr.itemsize
            section = shdr.tobytes()
        phdrs = np.zeros(n_headers, elf.PHDR[source.bits].newbyteorder(source.byte_order))
        phdrs[0]["p_type"] = elf.PT_NOTE
        phdrs[0]["p_offset"] = self._note_offset
        phdrs[0]["p_filesz"] = phdrs[0]["p_memsz"] = len(self._notes)
        loads = phdrs[1:]
        loads["p_type"] = elf.PT_LOAD
        for name in SEGMENT.names or ():
            loads[f"p_{name}"] = self._segments[name]
        if not complete:
            written = self._written_stop - self._segments["offset"].astype(np.int64)
            loads["p_filesz"] = np.clip(written, 0, self._segments["filesz"].astype(np.int64))
            # crash takes a place behind the file's end for damage, even that of no bytes.
            loads["p_offset"][loads["p_filesz"] == 0] = 0
        return ehdr.tobytes() + phdrs.tobytes() + section

    def begin(self, sink: Sink) -> int:
        """See `npdump.writers.Writer.begin`."""
        sink.write_all([(0, self._headers(complete=not sink.can_rewrite)), (self._note_offset, self._notes)])
        return self._data_offset

    def write(self, sink: Sink) -> Iterator[Done]:
        """See `npdump.writers.Writer.write`."""
        page_size = self._source.page_size
        buffer = page_buffer(COPY_NBYTES // page_size, page_size)
        for segment in self._segments[self._with_data]:
            start, nbytes, offset = (int(segment[name]) for name in ("paddr", "filesz", "offset"))
            at, stop = start, start + nbytes
            while at < stop:
                # Whole pages are copied together, the parts of a page with which a segment may begin and end alone.
                n = min(stop - at >> self._page_shift, len(buffer)) if at % page_size == 0 else 0
                if n:
                    pfn, data = at >> self._page_shift, buffer[:n].reshape(-1)
                    self._source.gather(np.array([[pfn, pfn + n]]), buffer[:n])
                else:
                    data = self._source.view(at, min(page_size - at % page_size, stop - at))
                try:
                    sink.write(offset + at - start, data)
                except NoSpace as error:
                    # A page that is cut is no page.
                    self._written_stop = offset + at - start + min(error.n_written // page_size, n) * page_size
                    raise
                at += len(data)
                self._written_stop = offset + at - start
                yield Done(max(n, 1), 0, 0, len(data))

    def end(self, sink: Sink) -> None:
        """See `npdump.writers.Writer.end`."""
        if sink.can_rewrite:
            sink.write_all([(0, self._headers(complete=True))])

    def mark_incomplete(self, sink: Sink) -> None:
        """See `npdump.writers.Writer.mark_incomplete`."""
        if sink.can_rewrite:
            sink.truncate(self._written_stop)
            sink.write_all([(0, self._headers(complete=False))])


WRITER = ElfWriter

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

from npdump.encode.batches import batches
from npdump.encode.resources import default_threads
from npdump.encode.threads import run
from npdump.errors import FactError, SinkError
from npdump.kernel.segments import with_kernel_vaddrs
from npdump.layouts import elf
from npdump.layouts.page_flag import STATUS_INCOMPLETE
from npdump.sources import SEGMENT
from npdump.sources._notes import find_eraseinfo, make_note
from npdump.writers._elf_layout import RunJoiner, cut_segment, homes
from npdump.writers._elf_pages import COPY_NBYTES, CopyJob, NonzeroJob, pieces

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import Records, Runs
    from npdump.encode.job import Done
    from npdump.pages.window import Window
    from npdump.sinks import Sink
    from npdump.writers import DumpPlan, WriteOptions

__all__ = ["WRITER"]


def _nonzero_runs(dump: DumpPlan, options: WriteOptions, window: Window) -> Iterator[Runs]:
    """Yield the runs of a window's kept pages that are not filled with zeros."""
    job = NonzeroJob(dump.source, options.batch_npages)
    n_batches = -(-window.kept.count() // options.batch_npages)
    n_threads = _n_threads(options, n_batches, options.batch_npages * dump.source.page_size)
    for _ in run(job, batches(window.kept, 0, options.batch_npages), 0, n_threads):
        if len(job.runs):
            yield job.runs


def _n_threads(options: WriteOptions, n_batches: int, batch_nbytes: int) -> int:
    if options.n_threads is not None:
        return min(options.n_threads, n_batches)
    return default_threads(n_batches, batch_nbytes, options.codec.min_batches_per_thread)


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
    why = f"{dump.source.path}: {why}"
    options.observer.warn(f"{why}: the ELF dump has no kernel addresses (p_vaddr): gdb can't read it")
    return segments


class ElfWriter:
    """See `npdump.writers.Writer`."""

    def __init__(self, dump: DumpPlan, options: WriteOptions) -> None:
        source = dump.source
        self._source = source
        self._machine = dump.machine
        self._page_shift = source.page_size.bit_length() - 1
        self._notes = source.notes.area
        if source.history.eraseinfo and not find_eraseinfo(self._notes, source.header.byte_order):
            self._notes += make_note(b"ERASEINFO", source.history.eraseinfo, source.header.byte_order)
        self._options = options
        self.n_shared = self.n_lost = self.n_unreadable = 0
        joiner = RunJoiner(source.data_runs)
        n_kept = 0
        for window in dump.scan.windows():
            n_kept += window.kept.count()
            kept = _nonzero_runs(dump, options, window) if dump.drops_zero else window.kept.runs()
            joiner.add(kept, window.unsafe)
        runs = joiner.runs()
        self.n_zero = n_kept - joiner.n_pages
        self.n_left_out: int | None = dump.scan.totals().n_ram - int((runs[:, 1] - runs[:, 0]).sum())
        segments = _with_vaddrs(dump, options)
        has_vaddrs = bool(segments["vaddr"].any())
        self._segments = np.concatenate([cut_segment(seg, runs, self._page_shift, has_vaddrs) for seg in segments])
        self._n_headers = 1 + len(self._segments)
        if self._n_headers >= elf.PN_XNUM and source.header.bits == 32:
            raise SinkError(f"the dump would need {self._n_headers} program headers: ELF32 has room for fewer; omit -E")
        self._place_data()

    def _place_data(self) -> None:
        source = self._source
        self._shdr_offset = (
            elf.EHDR[source.header.bits].itemsize + self._n_headers * elf.PHDR[source.header.bits].itemsize
        )
        needs_section = self._n_headers >= elf.PN_XNUM
        self._note_offset = self._shdr_offset + needs_section * elf.SHDR[source.header.bits].itemsize
        self._data_offset = self._note_offset + len(self._notes)
        home = homes(self._segments)
        has_own = (home == np.arange(len(home))) & (self._segments["filesz"] > 0)
        self._with_data = np.flatnonzero(has_own)
        nbytes = np.where(has_own, self._segments["filesz"], 0)
        offsets = np.cumsum(nbytes) - nbytes + np.uint64(self._data_offset)
        offsets = offsets[home] + self._segments["paddr"] - self._segments["paddr"][home]
        self._segments["offset"] = np.where(self._segments["filesz"] > 0, offsets, 0)
        self.n_pages = int((-(-nbytes.astype(np.int64) >> self._page_shift)).sum())
        self._written_stop = self._data_offset

    def _headers(self, complete: bool) -> bytes:
        """Return the ELF header and program headers; for an incomplete file, sizes are limited to what was written."""
        source, n_headers = self._source, self._n_headers
        ehdr = np.zeros(1, elf.EHDR[source.header.bits].newbyteorder(source.header.byte_order))
        ident = elf.MAGIC + bytes(
            (elf.CLASSES[source.header.bits], elf.DATAS[source.header.byte_order], elf.EV_CURRENT)
        )
        ehdr["e_ident"] = ident.ljust(16, b"\0")
        ehdr["e_type"] = elf.ET_CORE
        ehdr["e_machine"] = self._machine
        ehdr["e_version"] = elf.EV_CURRENT
        ehdr["e_phoff"] = ehdr["e_ehsize"] = ehdr.itemsize
        is_whole = complete and not (self.n_lost or source.history.status & STATUS_INCOMPLETE)
        ehdr["e_flags"] = source.header.e_flags | (0 if is_whole else elf.DUMP_ELF_INCOMPLETE)
        ehdr["e_phentsize"] = elf.PHDR[source.header.bits].itemsize
        ehdr["e_phnum"] = min(n_headers, elf.PN_XNUM)
        section = b""
        if n_headers >= elf.PN_XNUM:
            shdr = np.zeros(1, elf.SHDR[source.header.bits].newbyteorder(source.header.byte_order))
            shdr["sh_size"] = ehdr["e_shnum"] = 1
            shdr["sh_info"] = n_headers
            ehdr["e_shoff"] = self._shdr_offset
            ehdr["e_shentsize"] = shdr.itemsize
            section = shdr.tobytes()
        phdrs = np.zeros(n_headers, elf.PHDR[source.header.bits].newbyteorder(source.header.byte_order))
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
        job = CopyJob(self._source, sink, self._data_offset)
        with_data = self._segments[self._with_data]
        n_threads = _n_threads(self._options, int(with_data["filesz"].sum()) // COPY_NBYTES, COPY_NBYTES)
        try:
            for done in run(job, pieces(with_data, self._source.page_size), self._data_offset, n_threads):
                self.n_lost += len(done.losses)
                self.n_unreadable += sum(loss.error.is_unreadable for loss in done.losses)
                yield done
        finally:
            self._written_stop = job.written_stop

    def end(self, sink: Sink) -> None:
        """See `npdump.writers.Writer.end`."""
        sink.flush()
        if sink.can_rewrite:
            sink.write_all([(0, self._headers(complete=True))])
            sink.flush()

    def mark_incomplete(self, sink: Sink) -> None:
        """See `npdump.writers.Writer.mark_incomplete`."""
        if sink.can_rewrite:
            sink.truncate(self._written_stop)
            sink.write_all([(0, self._headers(complete=False))])


WRITER = ElfWriter

# SPDX-License-Identifier: GPL-2.0-or-later
"""The kdump-compressed format: what comes when."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump.encode.batches import PageBatch, batches
from npdump.encode.order import batches_in_order
from npdump.encode.resources import default_threads
from npdump.encode.threads import run
from npdump.writers._kdump_layout import KdumpLayout, ceil_div
from npdump.writers._kdump_pages import PageJob, StoredJob

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.encode.job import Done, Job
    from npdump.sinks import Sink
    from npdump.writers import DumpPlan, WriteOptions

__all__ = ["WRITER"]

COPIED_PER_COMPRESSED = 4
"""How many times more pages a batch has whose pages are only copied."""


def _only_copies(dump: DumpPlan, options: WriteOptions) -> bool:
    """Return whether nearly all pages are stored already as they will be."""
    is_same = dump.source.history.codec_flag == options.codec.flag
    return dump.source.compressed is not None and (options.copy_compressed or is_same)


def _for_copying(options: WriteOptions) -> WriteOptions:
    """Return what suits copies of compressed pages: larger batches, and no threads where they aren't even looked at."""
    is_blind = options.copy_compressed or not options.verify
    return options._replace(
        batch_npages=options.batch_npages * COPIED_PER_COMPRESSED,
        n_threads=1 if options.n_threads is None and is_blind else options.n_threads,
    )


class KdumpWriter:
    """See `npdump.writers.Writer`."""

    n_left_out = None

    def __init__(self, dump: DumpPlan, options: WriteOptions) -> None:
        self._dump = dump
        self._options = _for_copying(options) if _only_copies(dump, options) else options
        self.n_zero = self.n_shared = self.n_lost = self.n_unreadable = 0
        self._part = dump.part or (0, dump.scan.max_mapnr)
        n_kept = self.n_pages = 0
        for window in dump.scan.windows():
            n_kept += window.kept.count()
            self.n_pages += window.kept.part(*self._part).count()
        self._layout = KdumpLayout(dump, options.codec.flag, n_kept)
        # With several windows, to go over them once more for the first pages would take a scan.
        self._first = dump.find_first() if dump.find_first is not None and dump.scan.has_one_window else ()

    def begin(self, sink: Sink) -> int:
        """See `npdump.writers.Writer.begin`."""
        sink.write_all(self._layout.head(complete=not sink.can_rewrite))
        for window in self._dump.scan.windows():
            sink.write_all(self._layout.bitmaps(window.ram, window.kept))
        # Descriptors are written after what they point to, which may have taken the last room.
        sink.reserve(*self._layout.descriptor_area(self.n_pages))
        return self._layout.data_offset

    def write(self, sink: Sink) -> Iterator[Done]:
        """See `npdump.writers.Writer.write`."""
        n_batches = ceil_div(self.n_pages, self._options.batch_npages)
        n_threads = self._options.n_threads
        if n_threads is None:
            batch_nbytes = self._options.batch_npages * self._dump.source.page_size
            n_threads = default_threads(n_batches, batch_nbytes, self._options.codec.min_batches_per_thread)
        n_threads = min(n_threads, n_batches)
        job: Job
        if self._dump.source.compressed is not None:
            job = StoredJob(self._dump, self._options, sink, self._layout, self.n_pages)
        else:
            job = PageJob(self._dump, self._options, sink, self._layout, self.n_pages)
        for done in run(job, self._batches(), self._layout.data_offset, n_threads):
            self.n_zero += done.n_zero
            self.n_shared += done.n_shared
            self.n_lost += len(done.losses)
            self.n_unreadable += sum(loss.error.is_unreadable for loss in done.losses)
            yield done

    def _batches(self) -> Iterator[PageBatch]:
        scan, npages = self._dump.scan, self._options.batch_npages
        if self._first:
            for window in scan.windows():
                yield from batches_in_order(window.kept.part(*self._part), self._first, npages)
            return
        rank = 0
        for window in scan.windows():
            for batch in batches(window.kept.part(*self._part), rank, npages):
                rank += batch.npages
                yield batch

    def end(self, sink: Sink) -> None:
        """See `npdump.writers.Writer.end`."""
        sink.flush()
        if sink.can_rewrite:
            sink.write_all([self._layout.disk_header(complete=not self.n_lost)])
            sink.flush()

    def mark_incomplete(self, sink: Sink) -> None:
        """See `npdump.writers.Writer.mark_incomplete`: the header says so already, but for one that was ended."""
        if sink.can_rewrite:
            sink.write_all([self._layout.disk_header(complete=False)])


WRITER = KdumpWriter

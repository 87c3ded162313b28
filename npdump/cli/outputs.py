# SPDX-License-Identifier: GPL-2.0-or-later
"""Where a dump goes: a file, several files, the standard output, or nowhere."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import UsageError
from npdump.sinks.file import FileSink
from npdump.sinks.flattened import FlattenedSink
from npdump.sinks.null import NullSink
from npdump.storage.lz4 import Frame

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npdump.arrays import I64
    from npdump.cli.options import Options
    from npdump.pages.scan import PageScan
    from npdump.sinks import Sink
    from npdump.storage.file import Storage

__all__ = ["open_sinks", "split_npages", "split_ranges"]

SPLIT_NPAGES = 64
"""The parts of a split dump begin at multiples of this: crash counts the pages before them in words of bitmap 2."""


def open_sinks(options: Options, inputs: Sequence[Storage]) -> list[Sink]:
    """Make the outputs that a command line names; all of them or, with an error, none.

    Raises
    ------
    SinkError, MissingDependency
    """
    if options.dry_run:
        return [NullSink() for _ in options.dumpfiles or [None]]
    if options.flatten:
        return [FlattenedSink(options.limit_nbytes, Frame() if options.lz4 else None)]
    sinks: list[FileSink] = []
    try:
        for path in options.dumpfiles:
            sinks.append(FileSink(path, options.force, inputs, options.limit_nbytes, sinks))
    except BaseException:
        for sink in sinks:
            sink.discard()
        raise
    return list(sinks)


def split_npages(options: Options, page_size: int) -> int:
    """Return in what steps of pages a dump is split.

    Raises
    ------
    UsageError
        If ``--splitblock-size`` isn't a multiple of `SPLIT_NPAGES` pages.
    """
    if options.splitblock_kib is None:
        return SPLIT_NPAGES
    unit_kib = SPLIT_NPAGES * page_size // 1024
    if options.splitblock_kib % unit_kib:
        raise UsageError(
            f"--splitblock-size {options.splitblock_kib}: isn't a multiple of {unit_kib} KiB, which is {SPLIT_NPAGES} "
            "pages: crash could not read the parts"
        )
    return options.splitblock_kib * 1024 // page_size


def split_ranges(scan: PageScan, n_parts: int, block_npages: int) -> list[tuple[int, int]]:
    """Divide the page frames so that the parts have about the same number of kept pages.

    Parameters
    ----------
    scan : PageScan
    n_parts : int
    block_npages : int
        Parts begin at multiples of this, which is a multiple of `SPLIT_NPAGES`.

    Returns
    -------
    list of tuple of two int
        Page frames ``[start, stop)``; together they are all up to ``max_mapnr``.

    Raises
    ------
    UsageError
        If there are fewer blocks than parts.
    """
    n_blocks = -(-scan.max_mapnr // block_npages)
    if n_blocks < n_parts:
        raise UsageError(
            f"--split into {n_parts} files: memory has {n_blocks} blocks of {block_npages} pages: name fewer files, or "
            "a smaller --splitblock-size"
        )
    counts = np.zeros(n_blocks, np.int64)
    for window in scan.windows():
        for runs in window.kept.runs():
            _add(counts, runs[:, 0], runs[:, 1], block_npages)
    totals = np.cumsum(counts)
    wanted = np.arange(1, n_parts) * totals[-1] / n_parts
    # Each part has a block at least.
    order = np.arange(n_parts - 1)
    edges = np.maximum.accumulate(np.searchsorted(totals, wanted) - order)
    edges = np.minimum(edges, n_blocks - n_parts) + order + 1
    pfns = [0, *(edges * block_npages).tolist(), scan.max_mapnr]
    return list(pairwise(pfns))


def _add(counts: I64, starts: I64, stops: I64, block_npages: int) -> None:
    """Add the pages of runs to the counts of their blocks."""
    first, last = starts // block_npages, (stops - 1) // block_npages
    np.add.at(counts, first, np.minimum(stops, (first + 1) * block_npages) - starts)
    crossing = last > first
    np.add.at(counts, last[crossing], stops[crossing] - last[crossing] * block_npages)
    for start, stop in zip(first[last - first > 1], last[last - first > 1], strict=True):
        counts[start + 1 : stop] += block_npages

# SPDX-License-Identifier: GPL-2.0-or-later
"""How large a dump would become, and how long that would take, without making it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump import arrays
from npdump.answers._sampling import EQUAL, SPREADS, Sample, Stratum, read_sample
from npdump.codecs import out_nbytes
from npdump.encode.batches import batches
from npdump.encode.dedup import are_equal, digests
from npdump.layouts import kdump
from npdump.pages.policy import DumpLevel

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from npdump.arrays import I64, U8
    from npdump.pages.scan import PageScan
    from npdump.sources import Source
    from npdump.writers import WriteOptions

__all__ = ["READ_SHARE", "Estimate", "estimate"]

READ_SHARE = 0.03
"""How much of memory is read at most, struct pages included."""

MIN_SAMPLED = 4
_PIECE_NPAGES = 64
_STEP_NPAGES = 1 << 16

_N_PASSES = 5
"""How often a page's bytes are gone through beside the codec's work: read, digested, written."""


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a kdump-compressed dump would be.

    Attributes
    ----------
    dump_level : int
    codec : str
    n_kept, n_zero, n_shared : int
        Pages that stay, and among them, estimated, those of zeros and those stored once for several.
    nbytes : int
        The size of the file.
    error_nbytes : int
        Two standard errors of it: the size is within these in 19 of 20 cases.
    cpu_seconds : float
        What one thread would take, by the pace of this sample on this machine, beside starting.
    read_nbytes : int
        Bytes of memory that were read for this, struct pages included.
    """

    dump_level: int
    codec: str
    n_kept: int
    n_zero: int
    n_shared: int
    nbytes: int
    error_nbytes: int
    cpu_seconds: float
    read_nbytes: int


class _Part(NamedTuple):
    """What a sample says of all pages of its stratum."""

    n_stored: float
    n_zero: float
    nbytes: float
    variance: float
    seconds: float


def estimate(source: Source, scan: PageScan, level: int, options: WriteOptions, struct_nbytes: int) -> Estimate:
    """Estimate what writing a dump would give.

    Parameters
    ----------
    source : Source
    scan : PageScan
        At the level's bits other than `DumpLevel.ZERO`.
    level : int
        Dump level, 0 to 31.
    options : WriteOptions
    struct_nbytes : int
        Bytes of a struct page that the scan reads, 0 if it reads none.

    Returns
    -------
    Estimate
    """
    start = time.thread_time()
    n_kept = sum(window.kept.count() for window in scan.windows())
    scanned = time.thread_time() - start
    sample = Sample(source, n_kept, bool(level & DumpLevel.ZERO))
    for window in scan.windows():
        for batch in batches(window.kept, 0, _STEP_NPAGES):
            sample.add(batch.runs)
    n_ram = arrays.count(source.ram_runs)
    read_nbytes = n_ram * struct_nbytes + sample.read_nbytes
    weigher = _Weigher(source, options, bool(level & DumpLevel.ZERO))
    strata = sample.strata()
    n_wanted = _sizes(strata, int(READ_SHARE * n_ram) - read_nbytes // source.page_size)
    parts = [weigher.weigh(i, stratum, n) for i, (stratum, n) in enumerate(zip(strata, n_wanted, strict=True))]
    n_stored, n_zero, data_nbytes, variance, seconds = (sum(column) for column in zip(*parts, strict=True))
    n_zero += sample.n_holes
    return Estimate(
        dump_level=level,
        codec=options.codec.name,
        n_kept=n_kept,
        n_zero=round(n_zero),
        n_shared=round(max(n_kept - n_zero - n_stored, 0)) if options.share else 0,
        nbytes=round(data_nbytes) + _frame_nbytes(source, scan.max_mapnr, n_kept),
        error_nbytes=round(2 * variance**0.5),
        cpu_seconds=scanned + seconds,
        read_nbytes=read_nbytes + weigher.read_nbytes,
    )


def _sizes(strata: Sequence[Stratum], n_all: int) -> list[int]:
    """Return how many pages of each stratum to read, by how many and how different they are; a pair counts twice."""
    spreads = [stratum.npages * spread for stratum, spread in zip(strata, SPREADS, strict=True)]
    total = spreads[EQUAL] + sum(spreads) or 1
    return [
        min(max(int(n_all * spread / total), MIN_SAMPLED), len(stratum.pfns))
        for stratum, spread in zip(strata, spreads, strict=True)
    ]


def _frame_nbytes(source: Source, max_mapnr: int, n_kept: int) -> int:
    """Return the bytes of a dump beside its pages: headers, notes, two bitmaps, descriptors, and the zero page."""
    block = source.page_size
    bitmap_nbytes = -(-max_mapnr // 8 // block) * block
    notes_nbytes = -(-len(source.notes.area) // block) * block
    return 3 * block + notes_nbytes + 2 * bitmap_nbytes + n_kept * kdump.PAGE_DESC.itemsize


class _Weigher:
    """Reads the pages of a sample and makes of them what a dump would."""

    def __init__(self, source: Source, options: WriteOptions, drops_zero: bool) -> None:
        self._source, self._options, self._drops_zero = source, options, drops_zero
        self._encode = options.codec.encoder(source.page_size, options.engine, options.codec_level)
        self._room = np.empty(out_nbytes(_PIECE_NPAGES, source.page_size), np.uint8)
        self.read_nbytes = 0

    def weigh(self, number: int, stratum: Stratum, n: int) -> _Part:
        """Judge a stratum by ``n`` of its pages."""
        npages, sizes, is_zero, seconds = stratum.npages, np.zeros(n), np.zeros(n, np.bool_), 0.0
        if not n:
            return _Part(0, 0, 0, 0, 0)
        for at in range(0, n, _PIECE_NPAGES):
            piece = slice(at, min(at + _PIECE_NPAGES, n))
            pages = self._read(stratum.pfns[piece])
            is_equal = np.zeros(len(pages), np.bool_)
            if number == EQUAL and self._options.share:
                others, rows = self._read(stratum.originals[piece]), np.arange(len(pages))
                is_equal = are_equal(pages, rows, others, rows)
            start = time.thread_time()
            is_zero[piece], sizes[piece] = self._weigh(pages, is_equal)
            seconds += time.thread_time() - start
        variance = npages**2 * float(sizes.var(ddof=1) if n > 1 else 0) / n * (1 - n / npages)
        n_stored, share = npages * float((sizes > 0).mean()), npages / n
        return _Part(
            n_stored,
            npages * float(is_zero.mean()) * self._drops_zero,
            float(sizes.sum()) * share,
            variance,
            seconds * share,
        )

    def _read(self, pfns: I64) -> U8:
        self.read_nbytes += len(pfns) * self._source.page_size
        return read_sample(self._source, pfns)

    def _weigh(
        self, pages: U8, is_equal: npt.NDArray[np.bool_]
    ) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.uint32]]:
        """Return which pages are zero, and the bytes that each takes in the file."""
        for _ in range(_N_PASSES - 1):
            pages.copy()
        zero = digests(pages) == 0
        sizes = np.zeros(len(pages), np.uint32)
        rows = np.flatnonzero(~is_equal & ~zero if self._drops_zero else ~is_equal)
        stored = np.empty(len(rows), np.uint32)
        self._encode(pages, rows, self._room, stored)
        sizes[rows] = stored
        return zero, sizes

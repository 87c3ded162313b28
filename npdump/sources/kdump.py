# SPDX-License-Identifier: GPL-2.0-or-later
"""kdump-compressed dumps, whole or split, and the older diskdump files."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import CorruptDump
from npdump.layouts import kdump
from npdump.layouts.elf import PF_RWX
from npdump.layouts.page_flag import STATUS_INCOMPLETE
from npdump.sources import SEGMENT, History, Source, Stored
from npdump.sources._kdump_header import EM_ARM, incomplete_mark, read_header
from npdump.sources._kdump_pages import PageTable, Part, read_bitmap

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npdump.arrays import U8, Runs
    from npdump.storage.file import Storage

__all__ = ["FORMAT"]

_CACHE_NBYTES = 4 << 20
_SMALL_NPAGES = 8
"""Reads of at most so many pages go through the cache; larger ones, of struct pages, aren't done twice."""


class KdumpSource:
    """See `npdump.sources.Source`.

    Parameters
    ----------
    storages : sequence of Storage
        The dump, or all parts of a split one, in any order.
    """

    def __init__(self, storages: Sequence[Storage]) -> None:
        parts = [Part(storage, read_header(storage)) for storage in storages]
        parts.sort(key=lambda part: part.header.start_pfn)
        _check_parts(parts)
        storage, header = parts[0]
        self.path = storage.path
        self.format_name = "kdump-compressed" if len(parts) == 1 else f"kdump-compressed, in {len(parts)} parts"
        # As an ELF file of it would be: 32-bit kernels may have more memory than ELF32 can address.
        is_large = header.max_mapnr * header.page_size > 1 << 32
        self.bits = 64 if is_large else header.bits
        self.byte_order = header.byte_order
        self.machine, self.e_flags = header.machine, 0
        self.page_size = header.page_size
        self.notes, self.n_cpus = header.notes, header.n_cpus
        self.vmcoreinfo, self.vmcoreinfo_offset = header.vmcoreinfo, header.vmcoreinfo_offset
        # Page frames in files of ARM count from the start of memory (makedumpfile, ARCH_PFN_OFFSET).
        self._first_pfn = header.phys_base // header.page_size if header.machine == EM_ARM else 0
        self.max_mapnr = header.max_mapnr + self._first_pfn
        self._shift = header.page_size.bit_length() - 1
        self._table = PageTable(parts)
        self.joined, self.buffers, self.decode = self._table.joined, self._table.buffers, self._table.decode
        self._cache: dict[int, U8] = {}
        self.data_runs: Runs = self._table.data_runs + self._first_pfn
        is_one_bitmap = header.kept_offset == header.ram_offset
        self.ram_runs: Runs = (
            self.data_runs
            if is_one_bitmap
            else read_bitmap(storage, header.ram_offset, header.max_mapnr) + self._first_pfn
        )
        if not len(self.ram_runs):
            raise CorruptDump(f"{self.path}: its bitmaps are empty: no memory was dumped")
        self.segments = np.zeros(len(self.ram_runs), SEGMENT)
        self.segments["paddr"] = self.ram_runs[:, 0] << self._shift
        self.segments["flags"] = PF_RWX
        self.segments["filesz"] = self.segments["memsz"] = (self.ram_runs[:, 1] - self.ram_runs[:, 0]) << self._shift
        status = STATUS_INCOMPLETE if self._table.n_lost else 0
        for part in parts:
            status |= part.header.status
        self.history = History(
            level=header.level,
            codec_flag=header.codec_flag,
            status=status,
            n_lost=self._table.n_lost,
            missing=self._table.missing,
            n_elsewhere=self._table.n_elsewhere,
            utsname=header.utsname,
            phys_base=header.phys_base,
            timestamp=header.timestamp,
            eraseinfo=b"".join(part.header.eraseinfo for part in parts),
        )

    def view(self, paddr: int, nbytes: int) -> U8:
        """See `npdump.sources.Source.view`."""
        first, stop = paddr >> self._shift, -(-(paddr + nbytes) >> self._shift)
        skip = paddr - (first << self._shift)
        if first >= stop:
            return np.empty(0, np.uint8)
        if stop - first > _SMALL_NPAGES:
            pages = np.empty((stop - first, self.page_size), np.uint8)
            self.gather(np.array([[first, stop]], np.int64), pages)
            return pages.reshape(-1)[skip : skip + nbytes]
        found = [self._cached(pfn) for pfn in range(first, stop)]
        return (found[0] if len(found) == 1 else np.concatenate(found))[skip : skip + nbytes]

    def _cached(self, pfn: int) -> U8:
        page = self._cache.get(pfn)
        if page is None:
            page = np.empty(self.page_size, np.uint8)
            self.gather(np.array([[pfn, pfn + 1]], np.int64), page.reshape(1, -1))
            if len(self._cache) * self.page_size >= _CACHE_NBYTES:
                self._cache.pop(next(iter(self._cache)))
            self._cache[pfn] = page
        return page

    def maybe_nonzero(self, runs: Runs) -> Runs:
        """See `npdump.sources.Source.maybe_nonzero`: the file's writer may have kept zero pages."""
        return runs

    def gather(self, runs: Runs, out: U8) -> None:
        """See `npdump.sources.Source.gather`."""
        self.decode(self.stored(runs), out)

    def stored(self, runs: Runs) -> Stored:
        """See `npdump.sources.OffersStored.stored`."""
        return self._table.stored(runs - self._first_pfn)


def _check_parts(parts: Sequence[Part]) -> None:
    """Raise if the files aren't parts of one split dump, or not all of it."""
    if len(parts) == 1:
        return
    first = parts[0]
    for part in parts:
        path = part.storage.path
        if not part.header.is_split:
            raise CorruptDump(f"{path}: isn't a part of a split dump: several files must be the parts of one")
        if part.header.identity != first.header.identity:
            raise CorruptDump(f"{path}: is of another dump than {first.storage.path}: their headers differ")
    at = 0
    for part in parts:
        start, stop = part.header.start_pfn, part.header.end_pfn
        if start < at or stop < start:
            raise CorruptDump(f"{part.storage.path}: holds page frames that another part holds too, from {start:#x} on")
        at = stop
    for part in parts[1:]:
        _check_same_bitmaps(first, part)


def _check_same_bitmaps(one: Part, other: Part) -> None:
    start, stop = one.header.ram_offset, one.header.desc_offset
    if other.header.desc_offset != stop or other.header.ram_offset != start:
        raise CorruptDump(f"{other.storage.path}: is of another dump than {one.storage.path}: their bitmaps differ")
    step = 1 << 20
    for at in range(start, stop, step):
        nbytes = min(step, stop - at)
        if not np.array_equal(one.storage.view(at, nbytes), other.storage.view(at, nbytes)):
            raise CorruptDump(f"{other.storage.path}: is of another dump than {one.storage.path}: their bitmaps differ")


class KdumpFormat:
    """Recognised by its signature."""

    name = "kdump"

    def sniff(self, head: bytes) -> bool:
        """See `npdump.sources.Format.sniff`."""
        return head.startswith((kdump.SIGNATURE, kdump.OLD_SIGNATURE))

    def open(self, storage: Storage) -> Source:
        """See `npdump.sources.Format.open`."""
        return KdumpSource([storage])

    def incomplete_mark(self, storage: Storage) -> tuple[int, bytes]:
        """See `npdump.sources.Format.incomplete_mark`."""
        return incomplete_mark(storage)

    def join(self, storages: Sequence[Storage]) -> Source:
        """See `npdump.sources.Joinable.join`."""
        return KdumpSource(storages)


FORMAT = KdumpFormat()

# SPDX-License-Identifier: GPL-2.0-or-later
"""kdump-compressed dumps, whole or split, and the older diskdump files."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import CorruptDump
from npdump.layouts import kdump
from npdump.layouts.machine import COUNTS_FROM_RAM_BASE, Machine
from npdump.layouts.page_flag import STATUS_INCOMPLETE
from npdump.sources import Header, History, Source, refuse
from npdump.sources._image import Image, segments_of
from npdump.sources._kdump_header import incomplete_mark, read_header
from npdump.sources._kdump_pages import PageTable, Part, read_bitmap
from npdump.sources._machine import tell_machine
from npdump.sources._vmcoreinfo_scan import complete

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npdump.arrays import U8, Runs
    from npdump.storage import Storage

__all__ = ["FORMAT"]

_CACHE_NBYTES = 4 << 20
_SMALL_NPAGES = 8
"""Reads of at most so many pages go through the cache; larger ones, of struct pages, aren't done twice."""


class _CachedPages:
    """Pages of a `PageTable`, of which those that were looked at last are kept.

    Parameters
    ----------
    table : PageTable
    page_size : int
        Bytes.
    """

    def __init__(self, table: PageTable, page_size: int) -> None:
        self._table = table
        self._page_size = page_size
        self._shift = page_size.bit_length() - 1
        self._cache: dict[int, U8] = {}
        self.gather = table.gather

    def view(self, paddr: int, nbytes: int) -> U8:
        """See `npdump.sources.Source.view`."""
        first, stop = paddr >> self._shift, -(-(paddr + nbytes) >> self._shift)
        skip = paddr - (first << self._shift)
        if first >= stop:
            return np.empty(0, np.uint8)
        if stop - first > _SMALL_NPAGES:
            return self._read(first, stop).reshape(-1)[skip : skip + nbytes]
        found = [self._cached(pfn) for pfn in range(first, stop)]
        return (found[0] if len(found) == 1 else np.concatenate(found))[skip : skip + nbytes]

    def _read(self, pfn: int, pfn_stop: int) -> U8:
        pages = np.empty((pfn_stop - pfn, self._page_size), np.uint8)
        refuse(self._table.gather(np.array([[pfn, pfn_stop]], np.int64), pages))
        return pages

    def _cached(self, pfn: int) -> U8:
        page = self._cache.get(pfn)
        if page is None:
            page = self._read(pfn, pfn + 1)[0]
            if len(self._cache) * self._page_size >= _CACHE_NBYTES:
                self._cache.pop(next(iter(self._cache)))
            self._cache[pfn] = page
        return page

    def maybe_nonzero(self, runs: Runs) -> Runs:
        """See `npdump.sources.Source.maybe_nonzero`: the file's writer may have kept zero pages."""
        return runs


def _open(storages: Sequence[Storage], machine: Machine | None = None) -> Image:
    """Open a dump, or all parts of a split one, in any order; what ``machine`` says of it is the last word."""
    parts = [Part(storage, read_header(storage, machine)) for storage in storages]
    parts.sort(key=lambda part: part.header.start_pfn)
    _check_parts(parts)
    header = parts[0].header
    if machine is not None:
        return _image(parts, machine)
    machine = tell_machine(header.bits, header.byte_order, header.uname, header.notes)
    image = _image(parts, machine)
    # The text may have been found in memory.
    told = tell_machine(header.bits, header.byte_order, header.uname, image.notes)
    return image if told is None or told == machine else _image(parts, told)


def _image(parts: Sequence[Part], machine: Machine | None) -> Image:
    storage, header = parts[0]
    number = machine.number if machine else 0
    first_pfn = header.phys_base // header.page_size if number in COUNTS_FROM_RAM_BASE else 0
    table = PageTable(parts, first_pfn)
    ram_runs = table.data_runs
    if header.kept_offset != header.ram_offset:
        ram_runs = read_bitmap(storage, header.ram_offset, header.max_mapnr) + first_pfn
    if not len(ram_runs):
        raise CorruptDump(f"{storage.path}: its bitmaps are empty: no memory was dumped", path=storage.path)
    # As an ELF file of it would be: 32-bit kernels may have more memory than ELF32 can address.
    is_large = header.max_mapnr * header.page_size > 1 << 32
    image = Image(
        path=storage.path,
        format_name="kdump-compressed" if len(parts) == 1 else f"kdump-compressed, in {len(parts)} parts",
        header=Header(
            64 if is_large else header.bits,
            header.byte_order,
            number,
            uname=machine.name if machine else header.uname,
        ),
        page_size=header.page_size,
        notes=header.notes,
        segments=segments_of(ram_runs, header.page_size),
        max_mapnr=header.max_mapnr + first_pfn,
        ram_runs=ram_runs,
        data_runs=table.data_runs,
        history=_history(parts, table),
        pages=_CachedPages(table, header.page_size),
        compressed=table,
        with_machine=partial(_open, [part.storage for part in parts]),
    )
    return complete(image)


def _history(parts: Sequence[Part], table: PageTable) -> History:
    header = parts[0].header
    status = STATUS_INCOMPLETE if table.n_lost else 0
    for part in parts:
        status |= part.header.status
    return History(
        level=header.level,
        codec_flag=header.codec_flag,
        status=status,
        n_lost=table.n_lost,
        missing=table.missing,
        n_elsewhere=table.n_elsewhere,
        utsname=header.utsname,
        phys_base=header.phys_base,
        timestamp=header.timestamp,
        # Each part that npdump makes has the whole text, makedumpfile's have their own part of it.
        eraseinfo=b"".join(dict.fromkeys(part.header.eraseinfo for part in parts)),
    )


def _check_parts(parts: Sequence[Part]) -> None:
    """Raise if the files aren't parts of one split dump, or not all of it."""
    if len(parts) == 1:
        return
    first = parts[0]
    for part in parts:
        path = part.storage.path
        if not part.header.is_split:
            raise CorruptDump(
                f"{path}: isn't a part of a split dump: several files must be the parts of one", path=path
            )
        if part.header.identity != first.header.identity:
            raise CorruptDump(f"{path}: is of another dump than {first.storage.path}: their headers differ", path=path)
    at = 0
    for part in parts:
        start, stop = part.header.start_pfn, part.header.end_pfn
        if start < at or stop < start:
            raise CorruptDump(
                f"{part.storage.path}: holds page frames that another part holds too, from {start:#x} on",
                path=part.storage.path,
            )
        at = stop
    for part in parts[1:]:
        _check_same_bitmaps(first, part)


def _check_same_bitmaps(one: Part, other: Part) -> None:
    start, stop = one.header.ram_offset, one.header.desc_offset
    if other.header.desc_offset != stop or other.header.ram_offset != start:
        raise CorruptDump(
            f"{other.storage.path}: is of another dump than {one.storage.path}: their bitmaps differ",
            path=other.storage.path,
        )
    step = 1 << 20
    for at in range(start, stop, step):
        nbytes = min(step, stop - at)
        if not np.array_equal(one.storage.view(at, nbytes), other.storage.view(at, nbytes)):
            raise CorruptDump(
                f"{other.storage.path}: is of another dump than {one.storage.path}: their bitmaps differ",
                path=other.storage.path,
            )


class KdumpFormat:
    """Recognised by its signature."""

    name = "kdump"

    def sniff(self, head: bytes) -> bool:
        """See `npdump.sources.Format.sniff`."""
        return head.startswith((kdump.SIGNATURE, kdump.OLD_SIGNATURE))

    def open(self, storage: Storage) -> Source:
        """See `npdump.sources.Format.open`."""
        return _open([storage])

    def incomplete_mark(self, head: bytes) -> tuple[int, bytes]:
        """See `npdump.sources.Format.incomplete_mark`."""
        return incomplete_mark(head)

    def join(self, storages: Sequence[Storage]) -> Source:
        """See `npdump.sources.Joinable.join`."""
        return _open(storages)


FORMAT = KdumpFormat()

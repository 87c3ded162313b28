# SPDX-License-Identifier: GPL-2.0-or-later
"""Fujitsu's stand-alone dumps (sadump) of x86 machines: one partition, a set of disks, or a backup medium.

They have no notes: the registers come from what the firmware saved, VMCOREINFO from memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump.arrays import count, intersect, subtract
from npdump.errors import CorruptDump, UnknownFormat
from npdump.layouts.machine import EM
from npdump.layouts.page_flag import STATUS_INCOMPLETE
from npdump.sources import Header, History, Source
from npdump.sources._image import Image, segments_of
from npdump.sources._kdump_pages import read_bitmap
from npdump.sources._notes import note_area
from npdump.sources._sadump_header import (
    Disk,
    DumpHeader,
    is_partition,
    read_cpu_states,
    read_disk,
    read_dump_header,
    timestamp_of,
)
from npdump.sources._sadump_notes import machine_of_states, prstatus_notes
from npdump.sources._sadump_pages import BlockPages, Stretch
from npdump.sources._vmcoreinfo_scan import complete

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npdump.storage import Storage

__all__ = ["FORMAT"]

_ZEROS_ARE_LEFT_OUT = 1
"""Memory without a block is zero: the dump is one of level 1."""


def _open(storages: Sequence[Storage]) -> Image:
    disks = sorted(map(read_disk, storages), key=lambda disk: disk.number)
    first = disks[0]
    if first.number > 1:
        text = f"{first.storage.path}: is disk {first.number} of a set: give all its disks (--diskset=), disk 1 too"
        raise UnknownFormat(text, path=first.storage.path)
    header = read_dump_header(first)
    _check_set(disks, header)
    storage, block = first.storage, header.block_size
    ram_runs = read_bitmap(storage, header.ram_offset, header.max_mapnr, bitorder="big")
    if not len(ram_runs):
        raise CorruptDump(f"{storage.path}: its bitmaps are empty: no memory was dumped", path=storage.path)
    dumpable_runs = intersect(read_bitmap(storage, header.dumpable_offset, header.max_mapnr, bitorder="big"), ram_runs)
    stretches = [_stretch(disk, header.data_offset if disk is first else disk.start + block, block) for disk in disks]
    pages = BlockPages(storage.path, stretches, ram_runs, dumpable_runs, block)
    lost_runs = subtract(dumpable_runs, pages.present_runs)
    states = read_cpu_states(storage, header)
    machine = machine_of_states(states)
    n_lost = count(lost_runs)
    return complete(
        Image(
            path=storage.path,
            format_name=_format_name(disks),
            header=Header(64, "<", machine, uname="x86_64" if machine == EM.X86_64 else "i686"),
            page_size=block,
            notes=note_area(prstatus_notes(states, machine), "<"),
            segments=segments_of(ram_runs, block),
            max_mapnr=int(ram_runs[-1, 1]),
            ram_runs=ram_runs,
            data_runs=subtract(ram_runs, lost_runs),
            history=History(
                level=_ZEROS_ARE_LEFT_OUT,
                status=STATUS_INCOMPLETE if n_lost else 0,
                n_lost=n_lost,
                timestamp=timestamp_of(first.partition["time_stamp"]) or timestamp_of(header.record["timestamp"]),
            ),
            pages=pages,
        )
    )


def _format_name(disks: Sequence[Disk]) -> str:
    if disks[0].start:
        return "sadump, on backup media"
    return f"sadump, on a set of {len(disks)} disks" if disks[0].number else "sadump"


def _check_set(disks: Sequence[Disk], header: DumpHeader) -> None:
    """Raise if the files are not the disks of one set, all of them."""
    first, path = disks[0], disks[0].storage.path
    if not first.number:
        if len(disks) > 1:
            raise UnknownFormat(f"{path}: is a dump on one partition: give it alone", path=path)
        return
    for disk, number in zip(disks, range(1, header.n_disks + 1), strict=False):
        if disk.identity != first.identity:
            text = f"{disk.storage.path}: is of another disk set than {path}: their headers differ"
            raise CorruptDump(text, path=disk.storage.path)
        if disk.number != number:
            what = f"disk {number} is missing" if disk.number > number else f"disk {disk.number} is given twice"
            raise UnknownFormat(f"{path}: is a set of {header.n_disks} disks, and {what}: give each once", path=path)
        if number > 1 and disk.partition["vol_id"].tobytes() != header.volume_ids[number - 2]:
            text = f"{disk.storage.path}: isn't disk {number} of {path}: it has another volume id"
            raise CorruptDump(text, path=disk.storage.path)
    if len(disks) != header.n_disks:
        text = f"{path}: is a set of {header.n_disks} disks, and {len(disks)} are given: give each once (--diskset=)"
        raise UnknownFormat(text, path=path)


def _stretch(disk: Disk, offset: int, block: int) -> Stretch:
    return Stretch(disk.storage, offset, max(disk.used_stop - offset, 0) // block)


class SadumpFormat:
    """Recognised by the magic of the partition header, which backup media have after another header."""

    name = "sadump"

    def sniff(self, head: bytes) -> bool:
        """See `npdump.sources.Format.sniff`."""
        return is_partition(head)

    def open(self, storage: Storage) -> Source:
        """See `npdump.sources.Format.open`."""
        return _open([storage])

    def incomplete_mark(self, head: bytes) -> tuple[int, bytes]:
        """See `npdump.sources.Format.incomplete_mark`: npdump writes none of these."""
        raise CorruptDump("a sadump can't be marked as incomplete")

    def join(self, storages: Sequence[Storage]) -> Source:
        """See `npdump.sources.Joinable.join`."""
        return _open(storages)


FORMAT = SadumpFormat()

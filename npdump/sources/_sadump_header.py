# SPDX-License-Identifier: GPL-2.0-or-later
"""The headers of a sadump: of which of several disks a file is the dump, and where its bitmaps and pages begin."""

from __future__ import annotations

import calendar
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.errors import CorruptDump, TruncatedDump, UnknownFormat
from npdump.layouts import sadump

if TYPE_CHECKING:
    from npdump.arrays import Records
    from npdump.storage import Storage

__all__ = ["Disk", "DumpHeader", "is_partition", "read_disk", "read_dump_header", "timestamp_of"]

_BLOCK_SIZES = tuple(1 << shift for shift in range(12, 17))
_MAX_CPUS = 1 << 16


class Disk(NamedTuple):
    """One file: a partition, a disk of a set, or a backup medium.

    Attributes
    ----------
    storage : Storage
    number : int
        Which disk of a set, from 1 on; 0 is a partition by itself.
    partition : np.void
        Its header, `npdump.layouts.sadump.PARTITION`.
    start : int
        Where that is in the file: backup media have one more header before it.
    """

    storage: Storage
    number: int
    partition: np.void
    start: int

    @property
    def identity(self) -> tuple[bytes, bytes]:
        """What all disks of a set have in common."""
        return self.partition["sadump_id"].tobytes(), self.partition["disk_set_id"].tobytes()

    @property
    def used_stop(self) -> int:
        """Where the file's data end, in bytes; of a medium the file itself tells."""
        return self.storage.nbytes if self.start else min(int(self.partition["used_device"]), self.storage.nbytes)

    @property
    def is_cut(self) -> bool:
        """Whether the file is shorter than its header says."""
        return not self.start and int(self.partition["used_device"]) > self.storage.nbytes


class DumpHeader(NamedTuple):
    """What the dump header says.

    Attributes
    ----------
    record : np.void
        `npdump.layouts.sadump.DUMP_HEADER`.
    block_size : int
        Bytes of a block, which is a page.
    cpus_offset, ram_offset, dumpable_offset, data_offset : int
        File offsets of the sub header, of both bitmaps, and of the first page.
    max_mapnr : int
    volume_ids : list of bytes
        Those of the other disks of a set.
    """

    record: np.void
    block_size: int
    cpus_offset: int
    ram_offset: int
    dumpable_offset: int
    data_offset: int
    max_mapnr: int
    volume_ids: list[bytes]

    @property
    def n_disks(self) -> int:
        """How many disks the set has; 1 without one."""
        return 1 + len(self.volume_ids)


def is_partition(head: bytes) -> bool:
    """Return whether a file begins as a sadump does; for backup media, what comes after their first header."""
    magic = sadump.MAGIC
    return head.startswith(magic) or head[sadump.HEADER_NBYTES : sadump.HEADER_NBYTES + len(magic)] == magic


def _read(storage: Storage, dtype: np.dtype, offset: int, what: str) -> np.void:
    if offset + dtype.itemsize > storage.nbytes:
        raise TruncatedDump(
            f"{storage.path}: ends at byte {storage.nbytes}, before the end of {what}: copy it again",
            path=storage.path,
            offset=storage.nbytes,
        )
    record: np.void = np.frombuffer(storage.read(offset, dtype.itemsize), dtype)[0]
    return record


def read_disk(storage: Storage) -> Disk:
    """Read the partition header of a file.

    Raises
    ------
    TruncatedDump
    CorruptDump
        If it is none.
    """
    is_medium = storage.read(0, 8) != sadump.MAGIC
    start = sadump.HEADER_NBYTES if is_medium else 0
    partition = _read(storage, sadump.PARTITION, start, "its sadump partition header")
    if not sadump.pattern_is_right(partition["pattern"]):
        raise CorruptDump(
            f"{storage.path}: corrupt sadump partition header: its test pattern is wrong",
            path=storage.path,
            offset=start,
        )
    if is_medium:
        medium = _read(storage, sadump.MEDIA, 0, "its sadump media header")
        if medium["sequential_num"] > 1:
            raise UnknownFormat(
                f"{storage.path}: is volume {medium['sequential_num']} of several backup media: join them to one file",
                path=storage.path,
            )
    return Disk(storage, int(partition["set_disk_set"]), partition, start)


def read_dump_header(disk: Disk) -> DumpHeader:
    """Read the dump header, which the first disk has.

    Raises
    ------
    TruncatedDump
    CorruptDump
        If there is none, or if it is damaged.
    """
    storage = disk.storage
    for block_size in _BLOCK_SIZES:
        offset = disk.start + block_size
        volume_ids: list[bytes] = []
        if disk.number:
            disk_set = _read(storage, sadump.DISK_SET, offset, "its sadump disk set header")
            n_others = int(disk_set["n_disks"]) - 1
            if not 0 <= n_others < sadump.MAX_DISKS:
                continue
            volume_ids = [volume["vol_id"].tobytes() for volume in disk_set["volumes"][:n_others]]
            offset += int(disk_set["n_blocks"]) * block_size
            if offset + sadump.DUMP_HEADER.itemsize > storage.nbytes:
                continue
        record = _read(storage, sadump.DUMP_HEADER, offset, "its sadump header")
        if record["magic"].tobytes() == sadump.MAGIC and record["block_size"] == block_size:
            return _placed(storage, record, offset, volume_ids)
    raise CorruptDump(f"{storage.path}: has no sadump header where one should be", path=storage.path)


def _placed(storage: Storage, record: np.void, offset: int, volume_ids: list[bytes]) -> DumpHeader:
    block = int(record["block_size"])
    cpus_offset = offset + block
    ram_offset = cpus_offset + int(record["sub_hdr_size"]) * block
    dumpable_offset = ram_offset + int(record["bitmap_blocks"]) * block
    data_offset = dumpable_offset + int(record["dumpable_bitmap_blocks"]) * block
    max_mapnr = int(record["max_mapnr_64"]) if record["version"] else int(record["max_mapnr"])
    for name in ("bitmap_blocks", "dumpable_bitmap_blocks"):
        if max_mapnr > int(record[name]) * block * 8:
            raise CorruptDump(
                f"{storage.path}: corrupt sadump header: {max_mapnr} page frames don't fit into bitmaps of "
                f"{record[name]} blocks",
                path=storage.path,
                offset=offset,
            )
    if data_offset > storage.nbytes:
        raise TruncatedDump(
            f"{storage.path}: ends at byte {storage.nbytes}, before the end of its bitmaps: copy it again",
            path=storage.path,
            offset=storage.nbytes,
        )
    return DumpHeader(record, block, cpus_offset, ram_offset, dumpable_offset, data_offset, max_mapnr, volume_ids)


def read_cpu_states(storage: Storage, header: DumpHeader) -> Records:
    """Return the states of the CPUs, `npdump.layouts.sadump.CPU_STATE`; none if the sub header makes no sense."""
    none = np.empty(0, sadump.CPU_STATE)
    n_cpus = int(header.record["nr_cpus"])
    room = header.ram_offset - header.cpus_offset
    if not 0 < n_cpus <= _MAX_CPUS or room < 4:
        return none
    total = int.from_bytes(storage.read(header.cpus_offset, 4), "little")
    stride, offset = total // n_cpus, header.cpus_offset + 4 + n_cpus * sadump.APIC_NBYTES
    if stride < sadump.CPU_STATE.itemsize or offset + stride * n_cpus > header.ram_offset:
        return none
    raw = storage.read(offset, stride * n_cpus)
    return np.ndarray(n_cpus, sadump.CPU_STATE, raw, strides=(stride,)).copy()


def timestamp_of(time: np.void) -> int:
    """Return an EFI_TIME in seconds since 1970, 0 if it is none; one without a time zone is taken for UTC's."""
    year, month, day, hour, minute, second, zone = (int(time[name]) for name in sadump.EFI_TIME.names or ())
    if not (1970 <= year <= 9999 and 1 <= month <= 12 and 1 <= day <= 31 and hour < 24 and minute < 60 and second < 60):
        return 0
    # The zone is in minutes from local time to UTC (UEFI specification, EFI_TIME).
    shift = 0 if zone == sadump.NO_TIMEZONE or abs(zone) > 1440 else zone * 60
    return max(calendar.timegm((year, month, day, hour, minute, second)) + shift, 0)

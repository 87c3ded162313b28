# SPDX-License-Identifier: GPL-2.0-or-later
"""The headers of kdump-compressed files: versions 0 to 6, any word size and byte order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import CorruptDump, TruncatedDump
from npdump.layouts import ByteOrder, kdump
from npdump.layouts.elf import BYTE_ORDERS
from npdump.layouts.machine import Machine, machine_named
from npdump.layouts.page_flag import STATUS_EXCLUDED_VMEMMAP, STATUS_INCOMPLETE
from npdump.sources._notes import make_note, note_area

if TYPE_CHECKING:
    from npdump.sources import NoteArea
    from npdump.storage import Storage

__all__ = ["KdumpHeader", "incomplete_mark", "read_header"]

BLOCK_SIZES = tuple(1 << shift for shift in range(12, 19))
"""4 KiB to 256 KiB, as libkdumpfile."""

MAX_NBYTES = 1 << 28
"""Bound on what is read as headers, notes or erase information."""

_HEAD_NBYTES = 464
_LINUX, _SHIFTED_LINUX = b"Linux", b"x\0"


@dataclass(frozen=True)
class KdumpHeader:
    """What the first blocks of a kdump-compressed file say.

    Attributes
    ----------
    identity : bytes
        What the parts of a split dump have in common: ``disk_dump_header`` without time and mark of incompleteness.
    bits : {32, 64}
    byte_order : {"<", ">"}
    uname : str
        The machine's name by ``utsname``.
    page_size : int
        Bytes; also of a block.
    level : int
        Dump level that the file was made with.
    codec_flag : int
        Compression that was chosen for the file.
    status : int
        Marks to be handed on: incomplete, excluded page structs.
    start_pfn, end_pfn : int
        Page frames that the file holds pages of; those of a part of a split dump aren't all.
    ram_offset, kept_offset, desc_offset : int
        Where bitmap 1, bitmap 2 and the page descriptors begin.
    notes : NoteArea
    eraseinfo : bytes
    """

    identity: bytes
    bits: int
    byte_order: ByteOrder
    uname: str
    utsname: tuple[bytes, ...]
    timestamp: int
    page_size: int
    max_mapnr: int
    phys_base: int
    level: int
    codec_flag: int
    status: int
    is_split: bool
    start_pfn: int
    end_pfn: int
    ram_offset: int
    kept_offset: int
    desc_offset: int
    notes: NoteArea
    eraseinfo: bytes


def read_header(storage: Storage, machine: Machine | None = None) -> KdumpHeader:
    """Read the headers of a kdump-compressed or diskdump file.

    Parameters
    ----------
    storage : Storage
    machine : Machine, optional
        What the dump is of, if that is known better than the header says.

    Raises
    ------
    CorruptDump, TruncatedDump
    """
    bits, byte_order, disk = _disk_header(storage.read(0, min(storage.nbytes, _HEAD_NBYTES)), storage.path, machine)
    is_old = disk["signature"] == kdump.OLD_SIGNATURE
    block = int(disk["block_size"])
    n_sub_blocks, n_bitmap_blocks = int(disk["sub_hdr_size"]), int(disk["bitmap_blocks"])
    sub = _sub_header(storage, bits, byte_order, -1 if is_old else int(disk["header_version"]), block, n_sub_blocks)
    max_mapnr = sub["max_mapnr_64"] or int(disk["max_mapnr"])
    ram_offset = (1 + n_sub_blocks) * block
    kept_offset, desc_offset = _after_bitmap_1(storage, ram_offset, block, n_bitmap_blocks, max_mapnr)
    notes = _notes(storage, sub, byte_order)
    is_split = bool(sub["split"])
    utsname = _utsname(disk)
    status = 0 if is_old else int(disk["status"])
    identity = disk.copy()
    identity["status"] = int(disk["status"]) & ~STATUS_INCOMPLETE
    identity["tv_sec"] = identity["tv_usec"] = 0
    return KdumpHeader(
        identity=identity.tobytes(),
        bits=bits,
        byte_order=byte_order,
        uname=utsname[4].decode("ascii", "replace"),
        utsname=utsname,
        timestamp=int(disk["tv_sec"]),
        page_size=block,
        max_mapnr=max_mapnr,
        phys_base=sub["phys_base"],
        level=sub["dump_level"] & 0b11111,
        codec_flag=status & ~(STATUS_INCOMPLETE | STATUS_EXCLUDED_VMEMMAP),
        status=status & (STATUS_INCOMPLETE | STATUS_EXCLUDED_VMEMMAP),
        is_split=is_split,
        start_pfn=min(sub["start_pfn_64"] or sub["start_pfn"], max_mapnr) if is_split else 0,
        end_pfn=min(sub["end_pfn_64"] or sub["end_pfn"], max_mapnr) if is_split else max_mapnr,
        ram_offset=ram_offset,
        kept_offset=kept_offset,
        desc_offset=desc_offset,
        notes=notes._replace(n_cpus=notes.n_cpus or max(int(disk["nr_cpus"]), 0)),
        eraseinfo=_extra(storage, sub, "eraseinfo"),
    )


def _after_bitmap_1(storage: Storage, at: int, block: int, n_blocks: int, max_mapnr: int) -> tuple[int, int]:
    """Return where bitmap 2 and the page descriptors begin; raises if the file can't have them there."""
    nbytes = n_blocks * block
    if not 0 < max_mapnr <= nbytes * 8:
        text = f"{storage.path}: corrupt header: {max_mapnr} page frames, bitmaps of {nbytes} bytes"
        raise CorruptDump(text, path=storage.path)
    if at + nbytes > storage.nbytes:
        raise TruncatedDump(
            f"{storage.path}: ends at byte {storage.nbytes}, before the end of its bitmaps at {at + nbytes}: "
            "it was cut short; copy it again",
            path=storage.path,
            offset=storage.nbytes,
        )
    # Old writers left out bitmap 1.
    needed_nbytes = -(-max_mapnr // 8)
    has_both = n_blocks >= 2 * -(-needed_nbytes // block)
    return at + nbytes // 2 if has_both else at, at + nbytes


def incomplete_mark(head: bytes) -> tuple[int, bytes]:
    """See `npdump.sources.Format.incomplete_mark`."""
    if len(head) < _HEAD_NBYTES:
        raise CorruptDump("corrupt header: there is only a part of it")
    _, _, disk = _disk_header(head, "the head of the file")
    fields = disk.dtype.fields
    assert fields is not None
    kind, offset = fields["status"][:2]
    return offset, np.array(int(disk["status"]) | STATUS_INCOMPLETE, kind).tobytes()


def _disk_header(head: bytes, path: str, machine: Machine | None = None) -> tuple[int, ByteOrder, np.void]:
    """Find out the word size and byte order, which nothing states; return them and the header."""
    head = head.ljust(_HEAD_NBYTES, b"\0")
    plausible = []
    for bits in (32, 64):
        for byte_order in BYTE_ORDERS.values():
            disk = np.frombuffer(head, kdump.header_dtype(bits, byte_order), 1)[0]
            if (
                0 <= disk["header_version"] < 1 << 16
                and int(disk["block_size"]) in BLOCK_SIZES
                and 0 <= int(disk["sub_hdr_size"]) * int(disk["block_size"]) <= MAX_NBYTES
                and int(disk["bitmap_blocks"]) * int(disk["block_size"]) * 8 >= int(disk["max_mapnr"]) > 0
            ):
                plausible.append((bits, byte_order, disk))
    if not plausible:
        raise CorruptDump(f"{path}: corrupt header: no word size or byte order makes sense of it", path=path)
    machine = machine or machine_named(_utsname(plausible[0][2])[4].decode("ascii", "replace"))
    fitting = [found for found in plausible if machine and machine.bits == found[0]]
    return (fitting or plausible)[0]


def _utsname(disk: np.void) -> tuple[bytes, ...]:
    """Return the six names; those that were taken 4 bytes too late are put right.

    makedumpfile up to 1.6.8 took them so of kernels from 5.11 on (Linux 9a56493f6942, v5.11, moved the reference count
    that came before them).
    """
    raw = disk["utsname"].tobytes()
    if raw.startswith(_SHIFTED_LINUX):
        raw = _LINUX[: -len(_SHIFTED_LINUX) + 1] + raw[: -len(_LINUX) + 1]
    n = kdump.UTSNAME_FIELD_NBYTES
    return tuple(raw[i : i + n].partition(b"\0")[0] for i in range(0, len(raw), n))


def _sub_header(
    storage: Storage, bits: int, byte_order: ByteOrder, version: int, block: int, n_blocks: int
) -> dict[str, int]:
    """Return the fields of the sub header; those that the version doesn't have are 0, and all of them for -1."""
    dtype = kdump.sub_header_dtype(bits, byte_order)
    names = ("phys_base", *kdump.FIRST_VERSIONS)
    if version < 0 or not n_blocks:
        return dict.fromkeys(names, 0)
    raw = storage.read(block, min(dtype.itemsize, max(storage.nbytes - block, 0))).ljust(dtype.itemsize, b"\0")
    if bits == 32:
        # libkdumpfile's rule: QEMU packs the structure for every 32-bit machine, as i386 does.
        packed = np.frombuffer(raw, kdump.sub_header_dtype(bits, byte_order, padded=False), 1)[0]
        offset, nbytes = int(packed["offset_vmcoreinfo"]), int(packed["size_vmcoreinfo"])
        if (offset == 0 and nbytes == 0) or (offset > block and offset + nbytes <= block * (1 + n_blocks)):
            dtype = packed.dtype
    sub = np.frombuffer(raw, dtype, 1)[0]
    return {name: int(sub[name]) if version >= kdump.FIRST_VERSIONS.get(name, 0) else 0 for name in names}


def _extra(storage: Storage, sub: dict[str, int], name: str) -> bytes:
    """Return the bytes that the sub header points to."""
    offset, nbytes = sub[f"offset_{name}"], sub[f"size_{name}"]
    if not nbytes or offset <= 0:
        return b""
    if nbytes > MAX_NBYTES:
        text = f"{storage.path}: corrupt sub header: {name} of {nbytes} bytes"
        raise CorruptDump(text, path=storage.path)
    if offset + nbytes > storage.nbytes:
        # What is appended to the end is lost with it; the rest may be whole.
        return b""
    return storage.read(offset, nbytes)


def _notes(storage: Storage, sub: dict[str, int], byte_order: ByteOrder) -> NoteArea:
    """Return the note area.

    A file of version 3 has VMCOREINFO without notes: it gets one, so that VMCOREINFO isn't lost in other formats.
    """
    notes = note_area(_extra(storage, sub, "note"), byte_order)
    text = _extra(storage, sub, "vmcoreinfo")
    if notes.vmcoreinfo or not text:
        return notes
    area = notes.area.ljust(-(-len(notes.area) // 4) * 4, b"\0") + make_note(b"VMCOREINFO", text, byte_order)
    return note_area(area, byte_order)

# SPDX-License-Identifier: GPL-2.0-or-later
"""kdump-compressed files of every header version, word size and byte order, and the flattened format, with `struct`.

References: formats of makedumpfile's IMPLEMENTATION; libkdumpfile's tables of the 32-bit sub headers.
"""

from __future__ import annotations

import struct
import zlib
from dataclasses import dataclass, field

BLOCK = 4096
N_UTSNAME = 65
MACHINES = {(64, "<"): b"x86_64", (64, ">"): b"s390x", (32, "<"): b"i686", (32, ">"): b"ppc"}
FIELDS = (
    ("phys_base", "L", 0),
    ("dump_level", "i", 1),
    ("split", "i", 2),
    ("start_pfn", "L", 2),
    ("end_pfn", "L", 2),
    ("offset_vmcoreinfo", "q", 3),
    ("size_vmcoreinfo", "L", 3),
    ("offset_note", "q", 4),
    ("size_note", "L", 4),
    ("offset_eraseinfo", "q", 5),
    ("size_eraseinfo", "L", 5),
    ("start_pfn_64", "q", 6),
    ("end_pfn_64", "q", 6),
    ("max_mapnr_64", "q", 6),
)


@dataclass
class Form:
    """How a file is laid out; `lost` pages have no data, `excluded` ones are memory without a descriptor."""

    version: int = 6
    bits: int = 64
    order: str = "<"
    packed: bool = False
    compress: bool = True
    level: int = 1
    status: int = 1
    signature: bytes = b"KDUMP   "
    part: tuple[int, int] | None = None
    max_mapnr: int = 256
    vmcoreinfo: bytes = b""
    eraseinfo: bytes = b""
    lost: set[int] = field(default_factory=set)
    excluded: set[int] = field(default_factory=set)


def build(pages: dict[int, bytes], form: Form) -> bytes:
    """A file with these pages, by page frame number."""
    o, word = form.order, "q" if form.bits == 64 else "i"
    disk = form.signature + struct.pack(f"{o}i", form.version)
    names = (b"Linux", b"node", b"6.1.0", b"#1 SMP", MACHINES[form.bits, o], b"(none)")
    disk += b"".join(name.ljust(N_UTSNAME, b"\0") for name in names)
    disk += bytes(-len(disk) % (8 if form.bits == 64 else 4)) + struct.pack(f"{o}2{word}", 1234567890, 0)
    n_bitmap_blocks = 2
    disk += struct.pack(f"{o}IiiIIIIIIi", form.status, BLOCK, 1, n_bitmap_blocks, form.max_mapnr, 0, 0, 0, 0, 1)
    note = b""
    if form.vmcoreinfo and form.version >= 4:
        text = form.vmcoreinfo.ljust(-(-len(form.vmcoreinfo) // 4) * 4, b"\0")
        note = struct.pack(f"{o}3I", 11, len(form.vmcoreinfo), 0) + b"VMCOREINFO\0\0" + text
    elif form.vmcoreinfo:
        note = form.vmcoreinfo
    sub = _sub_header(form, len(note))
    kept = sorted(set(pages) - form.excluded)
    bitmaps = _bitmap(pages) + _bitmap(kept)
    start, stop = form.part or (0, form.max_mapnr)
    mine = [pfn for pfn in kept if start <= pfn < stop]
    table_offset = (2 + n_bitmap_blocks) * BLOCK
    zero_offset = table_offset + 24 * len(kept)
    data = bytes(BLOCK) if form.level & 1 else b""
    table = b""
    for pfn in mine:
        page, flags = pages[pfn], 0
        stored = zlib.compress(page, 1) if form.compress else page
        if len(stored) < BLOCK:
            flags = 1
        else:
            stored = page
        if pfn in form.lost:
            table += bytes(24)
        elif form.level & 1 and not any(page):
            table += struct.pack(f"{o}qIIQ", zero_offset, BLOCK, 0, 0)
        else:
            table += struct.pack(f"{o}qIIQ", zero_offset + len(data), len(stored), flags, 0)
            data += stored
    return (
        disk.ljust(BLOCK, b"\0")
        + (sub + note + form.eraseinfo).ljust(BLOCK, b"\0")
        + bitmaps
        + table.ljust(24 * len(kept), b"\0")
        + data
    )


def _sub_header(form: Form, note_nbytes: int) -> bytes:
    values = dict.fromkeys((name for name, _, _ in FIELDS), 0)
    values["dump_level"] = form.level
    size = len(_pack(form, values))
    notes = "note" if form.version >= 4 else "vmcoreinfo"
    if note_nbytes:
        values[f"offset_{notes}"], values[f"size_{notes}"] = BLOCK + size, note_nbytes
    if form.vmcoreinfo and form.version >= 4:
        values["offset_vmcoreinfo"], values["size_vmcoreinfo"] = BLOCK + size + 24, len(form.vmcoreinfo)
    if form.eraseinfo:
        values["offset_eraseinfo"], values["size_eraseinfo"] = BLOCK + size + note_nbytes, len(form.eraseinfo)
    if form.part:
        values["split"] = 1
        values["start_pfn"], values["end_pfn"] = values["start_pfn_64"], values["end_pfn_64"] = form.part
    values["max_mapnr_64"] = form.max_mapnr
    packed = _pack(form, values)
    # What an old writer had there is no header: readers must not look.
    known = _pack(form, values, form.version)
    return known + b"\xa5" * (len(packed) - len(known)) if not note_nbytes and not form.eraseinfo else packed


def _pack(form: Form, values: dict[str, int], version: int = 6) -> bytes:
    raw = b""
    for name, kind, since in FIELDS:
        if since > version:
            break
        code = kind if kind != "L" else "Q" if form.bits == 64 else "I"
        size = struct.calcsize(f"={code}")
        raw += bytes(-len(raw) % (4 if form.packed else size)) + struct.pack(f"{form.order}{code}", values[name])
    return raw


def _bitmap(pfns) -> bytes:
    bits = bytearray(BLOCK)
    for pfn in pfns:
        bits[pfn >> 3] |= 1 << (pfn & 7)
    return bytes(bits)


def flatten(pieces: list[tuple[int, bytes]], end: bool = True) -> bytes:
    """The flattened format, with a record for each piece."""
    raw = (b"makedumpfile".ljust(16, b"\0") + struct.pack(">qq", 1, 1)).ljust(BLOCK, b"\0")
    for offset, data in pieces:
        raw += struct.pack(">qq", offset, len(data)) + data
    return raw + struct.pack(">qq", -1, -1) * end

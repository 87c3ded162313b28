# SPDX-License-Identifier: GPL-2.0-or-later
"""The kdump-compressed format, as of header version 6; earlier versions lack fields at the end of the sub header.

References
----------
makedumpfile ``diskdump_mod.h`` and ``IMPLEMENTATION``; libkdumpfile ``diskdump.c``, whose two tables for 32-bit
targets differ in whether 64-bit members are aligned to 8 bytes (``pad``: ARM, MIPS, PowerPC) or 4 (``pack``: i386).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from npdump.layouts import ByteOrder

SIGNATURE = b"KDUMP   "
OLD_SIGNATURE = b"DISKDUMP"
"""Of the diskdump driver (Linux 2.6-era distributions): the same blocks, without a kdump sub header."""

HEADER_VERSION = 6
UTSNAME_FIELDS = ("sysname", "nodename", "release", "version", "machine", "domainname")
UTSNAME_FIELD_NBYTES = 65


def header_dtype(bits: int, byte_order: ByteOrder) -> np.dtype:
    """Return the dtype of ``disk_dump_header`` for a dumped machine of ``bits`` bits and ``"<"`` or ``">"`` order."""
    word = f"i{bits // 8}"
    fields = [
        ("signature", "S8"),
        ("header_version", "i4"),
        ("utsname", [(name, f"S{UTSNAME_FIELD_NBYTES}") for name in UTSNAME_FIELDS]),
        ("pad", "V6" if bits == 64 else "V2"),
        ("tv_sec", f"u{bits // 8}"),
        ("tv_usec", word),
        ("status", "u4"),
        ("block_size", "i4"),
        ("sub_hdr_size", "i4"),
        ("bitmap_blocks", "u4"),
        ("max_mapnr", "u4"),
        ("total_ram_blocks", "u4"),
        ("device_blocks", "u4"),
        ("written_blocks", "u4"),
        ("current_cpu", "u4"),
        ("nr_cpus", "i4"),
    ]
    return np.dtype(fields).newbyteorder(byte_order)


def sub_header_dtype(bits: int, byte_order: ByteOrder, padded: bool = True) -> np.dtype:
    """Return the dtype of ``kdump_sub_header`` version 6.

    Parameters
    ----------
    bits : {32, 64}
        Word size of the dumped machine.
    byte_order : {"<", ">"}
    padded : bool
        For 32 bits, whether the machine's ABI aligns 64-bit members to 8 bytes (i386 does not).
    """
    word = f"u{bits // 8}"
    pad = [("pad", "V4")] if bits == 32 and padded else []
    fields = [
        ("phys_base", word),
        ("dump_level", "i4"),
        ("split", "i4"),
        ("start_pfn", word),
        ("end_pfn", word),
        *[(f"{name}0", kind) for name, kind in pad],
        ("offset_vmcoreinfo", "i8"),
        ("size_vmcoreinfo", word),
        *[(f"{name}1", kind) for name, kind in pad],
        ("offset_note", "i8"),
        ("size_note", word),
        *[(f"{name}2", kind) for name, kind in pad],
        ("offset_eraseinfo", "i8"),
        ("size_eraseinfo", word),
        *[(f"{name}3", kind) for name, kind in pad],
        ("start_pfn_64", "u8"),
        ("end_pfn_64", "u8"),
        ("max_mapnr_64", "u8"),
    ]
    return np.dtype(fields).newbyteorder(byte_order)


FIRST_VERSIONS = {
    "dump_level": 1,
    "split": 2,
    "start_pfn": 2,
    "end_pfn": 2,
    "offset_vmcoreinfo": 3,
    "size_vmcoreinfo": 3,
    "offset_note": 4,
    "size_note": 4,
    "offset_eraseinfo": 5,
    "size_eraseinfo": 5,
    "start_pfn_64": 6,
    "end_pfn_64": 6,
    "max_mapnr_64": 6,
}
"""Header version that brought each field of the sub header; in older files its bytes mean nothing."""

PAGE_DESC = np.dtype([("offset", "i8"), ("size", "u4"), ("flags", "u4"), ("page_flags", "u8")])
"""``page_desc``: 24 bytes on every machine; use ``.newbyteorder()`` for the dumped machine's order."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""Fujitsu's stand-alone dump (sadump): what its firmware writes to partitions, disk sets and backup media.

All of it is little-endian; bitmaps have the lowest page frame in the highest bit of a byte.

References
----------
makedumpfile ``sadump_mod.h``, crash ``sadump.h``, libkdumpfile ``sadump.c``; UEFI specification, EFI_TIME and EFI_GUID.
"""

from __future__ import annotations

import numpy as np

MAGIC = b"sadump\0\0"
"""Of the partition header, and of the dump header."""

HEADER_NBYTES = 4096
"""Of the partition and media headers, whatever the block size."""

MAX_DISKS = 16

EFI_TIME = np.dtype(
    {
        "names": ["year", "month", "day", "hour", "minute", "second", "timezone"],
        "formats": ["<u2", "u1", "u1", "u1", "u1", "u1", "<i2"],
        "offsets": [0, 2, 3, 4, 5, 6, 12],
        "itemsize": 16,
    }
)
NO_TIMEZONE = 2047

PARTITION = np.dtype(
    {
        "names": [
            "magic",
            "sadump_id",
            "disk_set_id",
            "vol_id",
            "time_stamp",
            "set_disk_set",
            "used_device",
            "pattern",
        ],
        "formats": ["V8", "V16", "V16", "V16", EFI_TIME, "<u4", "<u8", ("<u4", 982)],
        "offsets": [0, 0x58, 0x68, 0x78, 0x88, 0x98, 0xA0, 0xA8],
        "itemsize": HEADER_NBYTES,
    }
)

DUMP_HEADER = np.dtype(
    {
        "names": [
            "magic", "version", "timestamp", "status", "block_size", "extra_hdr_size", "sub_hdr_size", "bitmap_blocks",
            "dumpable_bitmap_blocks", "max_mapnr", "nr_cpus", "max_mapnr_64",
        ],
        "formats": ["V8", "<u4", EFI_TIME, "<u4", "<u4", "<u4", "<u4", "<u4", "<u4", "<u4", "<u4", "<u8"],
        "offsets": [0, 8, 0x10, 0x20, 0x28, 0x2C, 0x30, 0x34, 0x38, 0x3C, 0x50, 0x58],
        "itemsize": 0x78,
    }
)  # fmt: skip

MEDIA = np.dtype(
    {
        "names": ["sadump_id", "disk_set_id", "sequential_num"],
        "formats": ["V16", "V16", "u1"],
        "offsets": [0, 0x10, 0x30],
        "itemsize": HEADER_NBYTES,
    }
)

VOLUME = np.dtype(
    {"names": ["vol_id", "nbytes"], "formats": ["V16", "<u8"], "offsets": [0, 0x10], "itemsize": 32},
)
DISK_SET = np.dtype(
    {
        "names": ["n_blocks", "n_disks", "volumes"],
        "formats": ["<u4", "<u4", (VOLUME, MAX_DISKS - 1)],
        "offsets": [0, 4, 0x10],
        "itemsize": 0x10 + 32 * (MAX_DISKS - 1),
    }
)

APIC_NBYTES = 16
"""Of each CPU in the sub header, before the CPUs' states."""

GENERAL_REGISTERS = (
    "r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "bx", "sp", "bp", "si", "di",
)  # fmt: skip
SEGMENT_REGISTERS = ("es", "cs", "ss", "ds", "fs", "gs")
_OTHER_REGISTERS = {"ip": 0x3D8, "efer": 0x3E0, "flags": 0x3E8}
CPU_STATE = np.dtype(
    {
        "names": [*GENERAL_REGISTERS, *SEGMENT_REGISTERS, *_OTHER_REGISTERS],
        "formats": ["<u8"] * len(GENERAL_REGISTERS) + ["<u4"] * len(SEGMENT_REGISTERS) + ["<u8"] * 3,
        "offsets": [
            *(0x31C + 8 * i for i in range(len(GENERAL_REGISTERS))),
            *(0x3A8 + 4 * i for i in range(len(SEGMENT_REGISTERS))),
            *_OTHER_REGISTERS.values(),
        ],
        "itemsize": 1024,
    }
)
"""What system management mode saved of a CPU (Intel SDM volume 3, state save area)."""

EFER_LMA = 1 << 10
"""Long mode is active: a 64-bit kernel (Intel SDM volume 4, IA32_EFER)."""


def pattern_is_right(pattern: np.ndarray) -> bool:
    """Return whether numbers are those of a sadump partition: each is the one before, plus 7, times 11."""
    numbers = pattern.astype(np.uint32)
    return bool((numbers[1:] == (numbers[:-1] + np.uint32(7)) * np.uint32(11)).all())

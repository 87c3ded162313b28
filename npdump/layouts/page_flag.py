# SPDX-License-Identifier: GPL-2.0-or-later
"""How a page is stored in a kdump-compressed file; importable without NumPy."""

from __future__ import annotations

from enum import IntFlag

__all__ = ["STATUS_EXCLUDED_VMEMMAP", "STATUS_INCOMPLETE", "PageFlag"]


class PageFlag(IntFlag):
    """Codec of one page (``page_desc.flags``); also, as a hint, of the file (``disk_dump_header.status``)."""

    RAW = 0x00
    ZLIB = 0x01
    LZO = 0x02
    SNAPPY = 0x04
    ZSTD = 0x20


STATUS_INCOMPLETE = 0x08
"""Bit of ``disk_dump_header.status``: the file was cut short."""

STATUS_EXCLUDED_VMEMMAP = 0x10
"""Bit of ``disk_dump_header.status``: page structs of excluded pages were left out (makedumpfile -e)."""

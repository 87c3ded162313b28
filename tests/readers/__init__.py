# SPDX-License-Identifier: GPL-2.0-or-later
"""Readers of npdump's output that share no code with npdump: what is written must be what others read."""

from .elf import ElfDump
from .kdump import KdumpFile

__all__ = ["ElfDump", "KdumpFile", "open_dump"]


def open_dump(path):
    """Open a filtered dump of either format, by content."""
    with open(path, "rb") as file:
        magic = file.read(8)
    return (KdumpFile if magic == b"KDUMP   " else ElfDump)(path)

# SPDX-License-Identifier: GPL-2.0-or-later
"""What Xen's own ELF note says of the hypervisor, and the text in which it describes itself.

References
----------
Xen ``xen/include/public/elfnote.h`` (XEN_ELFNOTE_CRASH_INFO) and ``xen/include/xen/elfcore.h`` (crash_xen_info_t).
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.errors import AddressError
from npdump.layouts.elf import NT_XEN_CRASH_INFO
from npdump.sources._notes import parse_notes

if TYPE_CHECKING:
    from npdump.sources import Source

__all__ = ["CrashInfo", "hypervisor_text", "read_crash_info", "version_of"]

_N_WORDS = 8
"""Of the first form. Later ones have one more, dom0's list; then two more, where Xen is and dom0's list."""

_TEXT_NBYTES = 64


class CrashInfo(NamedTuple):
    """The contents of the note.

    Attributes
    ----------
    major, minor : int
        Xen's version.
    extra : int
        Machine address of the rest of its version.
    phys_start : int or None
        Where Xen's image is in memory; None if an old Xen does not say.
    frame_list_list : int or None
        Page frame with dom0's list of lists of page frames that hold its table of page frames.
    """

    major: int
    minor: int
    extra: int = 0
    phys_start: int | None = None
    frame_list_list: int | None = None


def read_crash_info(source: Source) -> CrashInfo | None:
    """Return what the note says, None if there is none or only a part of one."""
    area, order = source.notes.area, source.header.byte_order
    dtype = np.dtype(f"u{source.header.bits // 8}").newbyteorder(order)
    for note in parse_notes(area, order):
        n_words = note.desc_nbytes // dtype.itemsize
        if note.name != b"Xen" or note.type != NT_XEN_CRASH_INFO or n_words < _N_WORDS:
            continue
        words = np.frombuffer(area, dtype, n_words, note.desc_offset).tolist()
        rest = words[_N_WORDS:]
        phys_start = rest[0] if len(rest) >= 2 else None
        frame_list_list = rest[1] if len(rest) >= 2 else rest[0] if rest else None
        return CrashInfo(words[0], words[1], words[2], phys_start, frame_list_list)
    return None


def hypervisor_text(source: Source) -> bytes | None:
    """Return the text of the VMCOREINFO_XEN note, None if there is none."""
    for note in parse_notes(source.notes.area, source.header.byte_order):
        if note.name == b"VMCOREINFO_XEN":
            return source.notes.area[note.desc_offset : note.desc_offset + note.desc_nbytes]
    return None


def version_of(source: Source, info: CrashInfo) -> str:
    """Return Xen's version in words, with the rest of it where that is in the dump."""
    try:
        raw = source.view(info.extra, _TEXT_NBYTES).tobytes() if info.extra else b""
    except AddressError:
        raw = b""
    extra = re.match(rb"[\x20-\x7e]*", raw)
    return f"Xen {info.major}.{info.minor}{extra[0].decode() if extra else ''}"

# SPDX-License-Identifier: GPL-2.0-or-later
"""VMCOREINFO in memory: the kernel keeps it in a page of its own, in dumps whose producer knew of no note as well."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from npdump.arrays import Records
    from npdump.storage import Storage

__all__ = ["find_in_memory"]

_BEGINNING = b"OSRELEASE="
_MIN_PAGE_SIZE = 4096
_MAX_NBYTES = 1 << 16
"""The kernel's buffer is one page (Linux VMCOREINFO_BYTES)."""

_STEP_NBYTES = 4 << 20
_COMPLETE = re.compile(rb"(?:^|\n)PAGESIZE=\d+\n(?:.*\n)*SYMBOL\(\w+\)=", re.ASCII)
_TEXT = re.compile(rb"[\n\x20-\x7e]+")


def find_in_memory(storage: Storage, segments: Records) -> bytes | None:
    """Search memory for a page that begins as VMCOREINFO does.

    Parameters
    ----------
    storage : Storage
    segments : ndarray of dtype npdump.sources.SEGMENT

    Returns
    -------
    bytes or None
        The text, up to the NUL behind it. Pages with something else that begins in the same way are passed over.
    """
    beginning = np.frombuffer(_BEGINNING[:8], np.uint64)[0]
    for segment in segments:
        paddr, filesz, offset = (int(segment[name]) for name in ("paddr", "filesz", "offset"))
        skip = -paddr % _MIN_PAGE_SIZE
        for at in range(skip, filesz, _STEP_NBYTES):
            nbytes = min(_STEP_NBYTES, filesz - at) // _MIN_PAGE_SIZE * _MIN_PAGE_SIZE
            # One word of each page: most of the dump isn't touched.
            first_words = np.ndarray(
                nbytes // _MIN_PAGE_SIZE, np.uint64, storage.view(offset + at, nbytes), strides=(_MIN_PAGE_SIZE,)
            )
            for page in np.flatnonzero(first_words == beginning).tolist():
                start = at + page * _MIN_PAGE_SIZE
                text = storage.read(offset + start, min(_MAX_NBYTES, filesz - start)).partition(b"\0")[0]
                if text.startswith(_BEGINNING) and _TEXT.fullmatch(text) and _COMPLETE.search(text):
                    return text
    return None

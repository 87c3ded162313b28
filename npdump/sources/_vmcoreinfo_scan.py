# SPDX-License-Identifier: GPL-2.0-or-later
"""VMCOREINFO, wherever a dump has its text: in its notes, or in the page in which the kernel keeps it.

Dumps of hypervisors have the page, and no note. There may be several texts: that of a capture kernel, of the kernel
before a kexec, of a file in the page cache.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import AddressError
from npdump.layouts.page_flag import PageFlag
from npdump.sources import VmcoreinfoText
from npdump.sources._notes import MAX_VMCOREINFO_NBYTES, find_vmcoreinfos, parse_notes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import I64, U8, Runs
    from npdump.sources import NoteArea, Source
    from npdump.sources._image import Image

__all__ = ["complete", "find_vmcoreinfo_texts", "has_text"]

_BEGINNING = b"OSRELEASE="
_MIN_PAGE_SIZE = 4096
_MAX_NBYTES = 1 << 16
"""The kernel's buffer is one page (Linux VMCOREINFO_BYTES)."""

_STEP_NPAGES = 1024
_MIN_STORED_RATIO = 16
"""No compression makes a page with such a text so many times smaller: most of it are addresses."""

_COMPLETE = re.compile(rb"(?:^|\n)PAGESIZE=\d+\n(?:.*\n)*SYMBOL\(\w+\)=", re.ASCII)
_CRASHED = re.compile(rb"^CRASHTIME=\d", re.MULTILINE)
_TEXT = re.compile(rb"[\n\x20-\x7e]+")


def find_vmcoreinfo_texts(source: Source) -> Iterator[VmcoreinfoText]:
    """Yield the texts of VMCOREINFO that a dump has: those of its notes, then those in memory, as they are found.

    Parameters
    ----------
    source : Source

    Yields
    ------
    VmcoreinfoText
        Complete ones: with a page size and symbols. Others that begin in the same way are passed over.
    """
    area = source.notes.area
    for number, note in enumerate(find_vmcoreinfos(parse_notes(area, source.header.byte_order)), 1):
        text = area[note.desc_offset : note.desc_offset + note.desc_nbytes]
        if _COMPLETE.search(text):
            yield VmcoreinfoText(text, f"VMCOREINFO note {number}", note.desc_offset, None)
    stop = 0
    for paddr in _pages_that_begin_so(source):
        if paddr < stop:
            continue  # a part of the one before
        found = _read_text(source, paddr)
        stop = paddr + len(found)
        if found.startswith(_BEGINNING) and _TEXT.fullmatch(found) and _COMPLETE.search(found):
            yield VmcoreinfoText(found, f"memory at {paddr:#x}", None, paddr)


def has_text(notes: NoteArea) -> bool:
    """Return whether the notes have a VMCOREINFO text that is of any use."""
    return notes.vmcoreinfo is not None and _COMPLETE.search(notes.vmcoreinfo) is not None


def complete(image: Image) -> Image:
    """Return an image with the VMCOREINFO that memory has, if its notes have none of any use.

    The first text with the time of a crash is taken: a capture kernel that was running then has none.
    """
    if has_text(image.notes):
        return image
    first: VmcoreinfoText | None = None
    for text in find_vmcoreinfo_texts(image):
        if _CRASHED.search(text.text):
            return image.with_vmcoreinfo(text)
        first = first or text
    return image.with_vmcoreinfo(first) if first else image


def _pages_that_begin_so(source: Source) -> Iterator[int]:
    """Yield the physical addresses, multiples of 4 KiB, at which memory begins as a VMCOREINFO text does."""
    beginning = np.frombuffer(_BEGINNING[:8], np.uint64)[0]
    for paddr, data in _chunks(source):
        # One word of each page: most of the dump isn't touched.
        words = np.ndarray(len(data) // _MIN_PAGE_SIZE, np.uint64, data, strides=(_MIN_PAGE_SIZE,))
        for page in np.flatnonzero(words == beginning).tolist():
            yield paddr + page * _MIN_PAGE_SIZE


def _chunks(source: Source) -> Iterator[tuple[int, U8]]:
    """Yield pieces of memory, and where they begin; what is known to hold nothing of interest is passed over."""
    page_size = source.page_size
    buffer = np.empty((_STEP_NPAGES, page_size), np.uint8)
    for pfn, pfn_stop in _steps(source.data_runs):
        runs = source.maybe_nonzero(np.array([[pfn, pfn_stop]], np.int64))
        if source.compressed is not None:
            yield from _uncompressed(source, runs, buffer)
            continue
        for start, stop in runs.tolist():
            try:
                yield start * page_size, source.view(start * page_size, (stop - start) * page_size)
            except AddressError:
                source.gather(np.array([[start, stop]], np.int64), buffer)
                yield start * page_size, buffer[: stop - start].reshape(-1)


def _uncompressed(source: Source, runs: Runs, buffer: U8) -> Iterator[tuple[int, U8]]:
    assert source.compressed is not None
    found = source.compressed.locate(runs)
    is_large = found.nbytes >= source.page_size // _MIN_STORED_RATIO
    rows = np.flatnonzero(~found.is_zero & (is_large | (found.flags == PageFlag.RAW)))
    pages = buffer[: len(rows)]
    source.compressed.decode(found[rows], pages)
    pfns: I64 = found.pfns[rows]
    for pfn, page in zip(pfns.tolist(), pages, strict=True):
        yield pfn * source.page_size, page


def _steps(runs: Runs) -> Iterator[tuple[int, int]]:
    for start, stop in runs.tolist():
        for pfn in range(start, stop, _STEP_NPAGES):
            yield pfn, min(pfn + _STEP_NPAGES, stop)


def _read_text(source: Source, paddr: int) -> bytes:
    """Return what is at ``paddr``, up to a NUL."""
    text = b""
    while b"\0" not in text and len(text) < min(_MAX_NBYTES, MAX_VMCOREINFO_NBYTES):
        try:
            text += source.view(paddr + len(text), _MIN_PAGE_SIZE).tobytes()
        except AddressError:
            break
    return text.partition(b"\0")[0]

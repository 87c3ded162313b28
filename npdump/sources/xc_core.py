# SPDX-License-Identifier: GPL-2.0-or-later
"""Cores of Xen's domains, by ``xl dump-core``: ELF files without program headers, whose sections hold the pages.

Those of domains that have page frames of their own (HVM, PVH) are read: a section tells the page frame of each page.
Page tables of a paravirtual domain hold page frames of the machine, of which such a file has no map that a dump could
carry on.

References
----------
Xen ``docs/misc/dump-core-format.txt`` and ``xen/include/public/elfnote.h``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import group_edges
from npdump.errors import CorruptDump, TruncatedDump, UnknownFormat
from npdump.layouts import elf, machine
from npdump.sources import SEGMENT, Header, History, NoteArea, Source
from npdump.sources._extents import PageExtents
from npdump.sources._image import Image
from npdump.sources._segments import memory_of
from npdump.sources._vmcoreinfo_scan import complete

if TYPE_CHECKING:
    from npdump.arrays import I64, Records
    from npdump.storage import Storage

__all__ = ["FORMAT"]

_BITS = 64
_MAX_SECTIONS = 64
_MAX_NAMES_NBYTES = 1 << 16
_MAX_PADDR = 1 << 52
"""No x86_64 machine has more address bits."""

_NO_PFN = (1 << 64) - 1


def _sections(storage: Storage) -> dict[str, tuple[int, int]]:
    """Return where sections are, and their bytes, by name."""
    ehdr = np.frombuffer(storage.read(0, elf.EHDR[_BITS].itemsize), elf.EHDR[_BITS].newbyteorder("<"))[0]
    dtype = elf.SHDR[_BITS].newbyteorder("<")
    count, shoff, names_at = (int(ehdr[name]) for name in ("e_shnum", "e_shoff", "e_shstrndx"))
    is_sane = names_at < count <= _MAX_SECTIONS and int(ehdr["e_shentsize"]) == dtype.itemsize
    if not is_sane or shoff + count * dtype.itemsize > storage.nbytes:
        raise CorruptDump(f"{storage.path}: has no program headers: no memory was dumped", path=storage.path)
    table = np.frombuffer(storage.read(shoff, count * dtype.itemsize), dtype)
    offset, nbytes = (int(table[names_at][name]) for name in ("sh_offset", "sh_size"))
    names = storage.read(min(offset, storage.nbytes), min(nbytes, _MAX_NAMES_NBYTES, max(storage.nbytes - offset, 0)))
    return {
        names[int(section["sh_name"]) :].partition(b"\0")[0].decode("ascii", "replace"): (
            int(section["sh_offset"]),
            int(section["sh_size"]),
        )
        for section in table
    }


def _pfns(storage: Storage, sections: dict[str, tuple[int, int]]) -> I64:
    """Return the page frame of each page, in their order in the file; -1 where a page has none."""
    offset, nbytes = sections[".xen_pfn"]
    if offset + nbytes > storage.nbytes:
        raise TruncatedDump(
            f"{storage.path}: ends at byte {storage.nbytes}, before the table of its page frames: copy it again",
            path=storage.path,
            offset=storage.nbytes,
        )
    pfns = np.frombuffer(storage.read(offset, nbytes // 8 * 8), "<u8")
    too_high = (pfns >= _MAX_PADDR // machine.page_size_of(machine.EM.X86_64, None)) & (pfns != _NO_PFN)
    if too_high.any():
        raise CorruptDump(
            f"{storage.path}: its table of page frames says {int(pfns[too_high][0]):#x}, which no machine has: it is "
            "damaged",
            path=storage.path,
        )
    return pfns.astype(np.int64)


def _segments(pfns: I64, pages_offset: int, page_size: int) -> Records:
    """Return the runs of pages that are together in memory and in the file."""
    rows = np.flatnonzero(pfns >= 0)
    if not len(rows):
        return np.empty(0, SEGMENT)
    used = pfns[rows]
    firsts, lasts = group_edges((np.diff(used) != 1) | (np.diff(rows) != 1))
    segments = np.zeros(len(firsts), SEGMENT)
    segments["paddr"] = used[firsts] * page_size
    segments["filesz"] = segments["memsz"] = (used[lasts] - used[firsts] + 1) * page_size
    segments["offset"] = pages_offset + rows[firsts] * page_size
    segments["flags"] = elf.PF_RWX
    return segments


class XcCoreFormat:
    """Recognised by an ELF header of a core that has sections and no program headers."""

    name = "xc_core"

    def sniff(self, head: bytes) -> bool:
        """See `npdump.sources.Format.sniff`."""
        return elf.has_sections_only(head)

    def open(self, storage: Storage) -> Source:
        """See `npdump.sources.Format.open`."""
        sections = _sections(storage)
        if ".xen_pages" not in sections:
            raise CorruptDump(f"{storage.path}: has no program headers: no memory was dumped", path=storage.path)
        if ".xen_pfn" not in sections:
            raise UnknownFormat(
                f"{storage.path}: is the core of a paravirtual Xen domain, by xl dump-core: crash reads it, npdump "
                "doesn't",
                path=storage.path,
            )
        page_size = machine.page_size_of(machine.EM.X86_64, None)
        pfns = _pfns(storage, sections)
        offset, nbytes = sections[".xen_pages"]
        if offset >= storage.nbytes:
            raise TruncatedDump(
                f"{storage.path}: ends at byte {storage.nbytes}, before its pages: copy it again",
                path=storage.path,
                offset=storage.nbytes,
            )
        segments = _segments(pfns[: nbytes // page_size], offset, page_size)
        if not len(segments):
            raise CorruptDump(f"{storage.path}: has no page of memory", path=storage.path)
        memory = memory_of(storage, segments, page_size)
        return complete(
            Image(
                path=storage.path,
                format_name="Xen domain core",
                header=Header(_BITS, "<", machine.EM.X86_64),
                page_size=page_size,
                notes=NoteArea(),
                segments=segments,
                max_mapnr=memory.max_mapnr,
                ram_runs=memory.ram_runs,
                data_runs=memory.data_runs,
                history=History(n_lost=memory.n_lost),
                pages=PageExtents(storage, memory.paddr, memory.nbytes, memory.offset, page_size),
            )
        )

    def incomplete_mark(self, head: bytes) -> tuple[int, bytes]:
        """See `npdump.sources.Format.incomplete_mark`: npdump writes no such file."""
        raise CorruptDump("is the core of a Xen domain")


FORMAT = XcCoreFormat()

# SPDX-License-Identifier: GPL-2.0-or-later
"""Cores of Xen's domains, by ``xl dump-core``: ELF files without program headers, whose sections hold the pages.

Of domains that have page frames of their own (HVM, PVH) a section tells the page frame of each page. Page tables of a
paravirtual domain hold page frames of the machine: its memory is taken by these, as in the dump of a host. A section
says which of them each of its own is; that table is put behind memory in the form that the dump of a host has it in,
and a note of the hypervisor leads there.

References
----------
Xen ``docs/misc/dump-core-format.txt`` and ``xen/include/public/elfnote.h``.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

import numpy as np

from npdump.arrays import group_edges, unique
from npdump.errors import CorruptDump, TruncatedDump, UnknownFormat
from npdump.layouts import elf, machine
from npdump.sources import SEGMENT, Header, History, NoteArea, Source, _xen_frames
from npdump.sources._extents import PageExtents
from npdump.sources._image import Image
from npdump.sources._notes import note_area, parse_notes
from npdump.sources._segments import memory_of
from npdump.sources._vmcoreinfo_scan import complete
from npdump.storage._appended import Appended

if TYPE_CHECKING:
    import numpy.typing as npt

    from npdump.arrays import I64, U64, Records
    from npdump.storage import Storage

__all__ = ["FORMAT"]

_BITS = 64
_MAX_SECTIONS = 64
_MAX_NAMES_NBYTES = _MAX_NOTES_NBYTES = 1 << 16
_MAX_PADDR = 1 << 52
"""No x86_64 machine has more address bits."""

_NO_PFN = (1 << 64) - 1
_PAGE_SIZE = machine.page_size_of(machine.EM.X86_64, None)
_MAX_FRAME = _MAX_PADDR // _PAGE_SIZE
_P2M = np.dtype([("pfn", "<u8"), ("gmfn", "<u8")])
_NT_XEN_VERSION = 0x2000002
"""XEN_ELFNOTE_DUMPCORE_XEN_VERSION, which begins with the two numbers of the version."""

_VERSION = struct.Struct("<QQ")
_NO_NOTES = NoteArea()


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


def _table(storage: Storage, place: tuple[int, int], dtype: np.dtype) -> npt.NDArray[Any]:
    """Return what the table in a section says of each page, in their order in the file."""
    offset, nbytes = place
    if offset + nbytes > storage.nbytes:
        raise TruncatedDump(
            f"{storage.path}: ends at byte {storage.nbytes}, before the table of its page frames: copy it again",
            path=storage.path,
            offset=storage.nbytes,
        )
    return np.frombuffer(storage.read(offset, nbytes // dtype.itemsize * dtype.itemsize), dtype)


def _frames(storage: Storage, numbers: U64, stop: int) -> I64:
    """Return page frames, -1 where a page has none."""
    too_high = (numbers >= stop) & (numbers != _NO_PFN)
    if too_high.any():
        raise CorruptDump(
            f"{storage.path}: its table of page frames says {int(numbers[too_high][0]):#x}, which no machine has: it "
            "is damaged",
            path=storage.path,
        )
    return numbers.astype(np.int64)


def _segments(storage: Storage, frames: I64, place: tuple[int, int]) -> Records:
    """Return the runs of pages that are together in memory and in the file."""
    offset, nbytes = place
    if offset >= storage.nbytes:
        raise TruncatedDump(
            f"{storage.path}: ends at byte {storage.nbytes}, before its pages: copy it again",
            path=storage.path,
            offset=storage.nbytes,
        )
    frames = frames[: nbytes // _PAGE_SIZE]
    rows = np.flatnonzero(frames >= 0)
    if not len(rows):
        raise CorruptDump(f"{storage.path}: has no page of memory", path=storage.path)
    used = frames[rows]
    firsts, lasts = group_edges((np.diff(used) != 1) | (np.diff(rows) != 1))
    segments = np.zeros(len(firsts), SEGMENT)
    segments["paddr"] = used[firsts] * _PAGE_SIZE
    segments["filesz"] = segments["memsz"] = (used[lasts] - used[firsts] + 1) * _PAGE_SIZE
    segments["offset"] = offset + rows[firsts] * _PAGE_SIZE
    segments["flags"] = elf.PF_RWX
    return segments


def _doubts(storage: Storage, frames: I64, place: tuple[int, int]) -> tuple[str, ...]:
    """Return what the file contradicts itself in."""
    n_pages = place[1] // _PAGE_SIZE
    doubts = []
    if n_pages != len(frames):
        doubts.append(f"{storage.path}: has {n_pages} pages and a table of {len(frames)}: what is in both is taken")
    used = frames[frames >= 0]
    n_twice = len(used) - len(unique(used))
    if n_twice:
        doubts.append(f"{storage.path}: its table has {n_twice} page frames twice: the first page of each is taken")
    return tuple(doubts)


def _image(storage: Storage, segments: Records, doubts: tuple[str, ...], notes: NoteArea = _NO_NOTES) -> Image:
    memory = memory_of(storage, segments, _PAGE_SIZE)
    return Image(
        path=storage.path,
        format_name="Xen domain core",
        header=Header(_BITS, "<", machine.EM.X86_64),
        page_size=_PAGE_SIZE,
        notes=notes,
        segments=segments,
        max_mapnr=memory.max_mapnr,
        ram_runs=memory.ram_runs,
        data_runs=memory.data_runs,
        history=History(n_lost=memory.n_lost, doubts=doubts),
        pages=PageExtents(storage, memory.paddr, memory.nbytes, memory.offset, _PAGE_SIZE),
    )


def _paravirtual(storage: Storage, sections: dict[str, tuple[int, int]]) -> Image:
    """Return the image of a domain whose page tables hold the machine's page frames."""
    place = sections[".xen_pages"]
    table = _table(storage, sections[".xen_p2m"], _P2M)
    pfns = _frames(storage, table["pfn"], _xen_frames.MAX_PFN)
    mfns = _frames(storage, table["gmfn"], _MAX_FRAME - _xen_frames.MAX_NPAGES)
    mfns[pfns < 0] = -1
    segments = _segments(storage, mfns, place)
    has_page = mfns >= 0
    first_mfn = int(mfns.max()) + 1
    tables = _xen_frames.frame_tables(pfns[has_page], mfns[has_page], first_mfn)
    # Behind a gap in the file, so that no run of pages is in both.
    start = (storage.nbytes // _PAGE_SIZE + 2) * _PAGE_SIZE
    tail = np.zeros(1, SEGMENT)
    tail["paddr"], tail["offset"], tail["flags"] = first_mfn * _PAGE_SIZE, start, elf.PF_RWX
    tail["filesz"] = tail["memsz"] = len(tables)
    notes = _xen_frames.crash_info(_version(storage, sections), first_mfn)
    return _image(
        Appended(storage, start, tables),
        np.concatenate((segments, tail)),
        _doubts(storage, mfns, place),
        note_area(notes, "<"),
    )


def _version(storage: Storage, sections: dict[str, tuple[int, int]]) -> tuple[int, int]:
    """Return the hypervisor's version, zeros if the file doesn't say it."""
    offset, nbytes = sections.get(".note.Xen", (0, 0))
    if offset + nbytes <= storage.nbytes and nbytes <= _MAX_NOTES_NBYTES:
        area = storage.read(offset, nbytes)
        for note in parse_notes(area, "<"):
            if note.name == b"Xen" and note.type == _NT_XEN_VERSION and note.desc_nbytes >= _VERSION.size:
                major, minor = _VERSION.unpack_from(area, note.desc_offset)
                return major, minor
    return 0, 0


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
        if ".xen_pfn" in sections:
            place = sections[".xen_pages"]
            pfns = _frames(storage, _table(storage, sections[".xen_pfn"], np.dtype("<u8")), _MAX_FRAME)
            return complete(_image(storage, _segments(storage, pfns, place), _doubts(storage, pfns, place)))
        if ".xen_p2m" in sections:
            return complete(_paravirtual(storage, sections))
        raise UnknownFormat(
            f"{storage.path}: is the core of a Xen domain that doesn't say which page frame each of its pages is "
            "(.xen_pfn or .xen_p2m): make it with xl dump-core",
            path=storage.path,
        )

    def incomplete_mark(self, head: bytes) -> tuple[int, bytes]:
        """See `npdump.sources.Format.incomplete_mark`: npdump writes no such file."""
        raise CorruptDump("is the core of a Xen domain")


FORMAT = XcCoreFormat()

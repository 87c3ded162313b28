# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF vmcores: ``/proc/vmcore`` of kdump, QEMU's ``dump-guest-memory``, and ELF dumps that were filtered before."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import CorruptDump, TruncatedDump, UnknownFormat
from npdump.layouts import elf, machine
from npdump.layouts.page_flag import STATUS_INCOMPLETE
from npdump.sources import SEGMENT, Header, History, Source
from npdump.sources._extents import PageExtents
from npdump.sources._image import Image
from npdump.sources._notes import find_eraseinfo, has_xen_info, note_area, page_size_of, parse_notes
from npdump.sources._segments import bound_claims, memory_of, possible
from npdump.sources._vmcoreinfo_scan import complete, has_text

if TYPE_CHECKING:
    from npdump.arrays import Records
    from npdump.storage import Storage

__all__ = ["FORMAT"]

MAX_NOTES_NBYTES = 1 << 28
"""Bound on what is read as notes; device dumps (NT_VMCOREDD, Linux 4.18) may take megabytes."""

_ALL_ONES = {32: (1 << 32) - 1, 64: (1 << 64) - 1}
_NT_AUXV = 6


class _ElfFile:
    """An ELF file that is being opened: its headers and notes."""

    def __init__(self, storage: Storage) -> None:
        self.storage = storage
        self._path = storage.path
        ident = storage.read(0, min(storage.nbytes, 16)).ljust(16, b"\0")
        try:
            self.bits, self.byte_order = elf.CLASS_BITS[ident[4]], elf.BYTE_ORDERS[ident[5]]
        except KeyError as error:
            text = f"{self._path}: corrupt ELF header: class {ident[4]}, byte order {ident[5]}"
            raise CorruptDump(text, path=self._path) from error
        self.header = self._read_array(elf.EHDR[self.bits], 0, 1, "the ELF header")[0]
        if self.header["e_type"] != elf.ET_CORE:
            raise UnknownFormat(
                f"{self._path}: is an ELF file of type {self.header['e_type']}, not a core: give the vmcore, not the "
                "kernel",
                path=self._path,
            )
        headers = self._read_program_headers()
        segments, doubts = self._segments(headers[headers["p_type"] == elf.PT_LOAD])
        self.segments, more_doubts = bound_claims(storage, segments)
        self.n_left_out += int(np.count_nonzero((segments["filesz"] > 0) & (self.segments["memsz"] == 0)))
        self.doubts = (*doubts, *more_doubts)
        self.notes = note_area(self._read_notes(headers[headers["p_type"] == elf.PT_NOTE]), self.byte_order)

    def _corrupt(self, what: str) -> CorruptDump:
        return CorruptDump(f"{self._path}: {what}", path=self._path)

    def _truncated(self, what: str) -> TruncatedDump:
        nbytes = self.storage.nbytes
        text = f"{self._path}: ends at byte {nbytes}, before the end of {what}: copy it again"
        return TruncatedDump(text, path=self._path, offset=nbytes)

    def _read_array(self, dtype: np.dtype, offset: int, count: int, what: str) -> Records:
        dtype = dtype.newbyteorder(self.byte_order)
        if offset + count * dtype.itemsize > self.storage.nbytes:
            raise self._truncated(what)
        return np.frombuffer(self.storage.read(offset, count * dtype.itemsize), dtype)

    def _read_program_headers(self) -> Records:
        dtype, header = elf.PHDR[self.bits], self.header
        count, stride, phoff, shoff = (int(header[name]) for name in ("e_phnum", "e_phentsize", "e_phoff", "e_shoff"))
        if count == elf.PN_XNUM and shoff:
            # The true number is in section header 0 (System V gABI, e_phnum).
            count = int(self._read_array(elf.SHDR[self.bits], shoff, 1, "section header 0")[0]["sh_info"])
        if not count:
            raise self._corrupt("has no program headers: no memory was dumped")
        if stride < dtype.itemsize:
            raise self._corrupt(f"corrupt ELF header: program headers of {stride} bytes")
        raw = self._read_array(np.dtype((np.void, stride)), phoff, count, f"its {count} program headers")
        headers = np.ndarray(count, dtype.newbyteorder(self.byte_order), raw, strides=(stride,))
        kind, offset = headers["p_type"], headers["p_offset"]
        has_data = ((kind == elf.PT_LOAD) | (kind == elf.PT_NOTE)) & (headers["p_filesz"] > 0)
        if (has_data & (offset >= phoff) & (offset < phoff + count * stride)).any():
            raise self._corrupt(f"corrupt ELF header: its {count} program headers would run into the data")
        return headers

    def _read_notes(self, headers: Records) -> bytes:
        areas = []
        n_left = self.storage.nbytes
        for header in headers:
            offset, nbytes = int(header["p_offset"]), int(header["p_filesz"])
            if nbytes > MAX_NOTES_NBYTES:
                raise self._corrupt(f"corrupt program header: notes of {nbytes} bytes")
            nbytes = min(nbytes, max(self.storage.nbytes - offset, 0))
            n_left -= nbytes
            if n_left < 0:
                # Any number of headers may name the same bytes.
                self.doubts += (
                    f"{self._path}: corrupt program header: notes are more than the file: some are not read",
                )
                break
            areas.append(self.storage.read(offset, nbytes))
        return b"".join(areas)

    def _segments(self, headers: Records) -> tuple[Records, tuple[str, ...]]:
        # /proc/kcore marks what has no physical address (vmalloc, modules) with all ones.
        headers = headers[headers["p_paddr"] != _ALL_ONES[self.bits]]
        segments = np.empty(len(headers), SEGMENT)
        for name in SEGMENT.names or ():
            segments[name] = headers[f"p_{name}"]
        if not segments["memsz"].any() and not segments["filesz"].any():
            raise self._corrupt("has no PT_LOAD program header: no memory was dumped")
        possible_segments, doubts = possible(self.storage, segments)
        if not possible_segments["memsz"].any():
            raise CorruptDump(doubts[-1], path=self._path)
        self.n_left_out = len(segments) - len(possible_segments)
        return possible_segments, doubts


def _open(storage: Storage) -> Image:
    file = _ElfFile(storage)
    notes = list(parse_notes(file.notes.area, file.byte_order))
    if not has_text(file.notes) and any(note.name == b"CORE" and note.type == _NT_AUXV for note in notes):
        text = f"{storage.path}: is the core of a user-space process, not of a kernel"
        raise UnknownFormat(text, path=storage.path)
    number = int(file.header["e_machine"])
    image = complete(_image(file, machine.page_size_of(number, page_size_of(file.notes.vmcoreinfo))))
    if not len(image.data_runs):
        raise TruncatedDump(
            f"{storage.path}: ends at byte {storage.nbytes}, and no page of memory is in it: it was cut short; copy it "
            "again",
            path=storage.path,
            offset=storage.nbytes,
        )
    return image


def _image(file: _ElfFile, page_size: int) -> Image:
    # As makedumpfile 1.7.9: of a Xen host, a page counts of which a range holds only the head.
    memory = memory_of(file.storage, file.segments, page_size, has_xen_info(file.notes.area, file.byte_order))
    e_flags = int(file.header["e_flags"])
    is_incomplete = memory.n_lost or file.n_left_out or e_flags & elf.DUMP_ELF_INCOMPLETE
    return Image(
        path=file.storage.path,
        format_name="ELF",
        header=Header(file.bits, file.byte_order, int(file.header["e_machine"]), e_flags & ~elf.DUMP_ELF_INCOMPLETE),
        page_size=page_size,
        notes=file.notes,
        segments=file.segments,
        max_mapnr=memory.max_mapnr,
        ram_runs=memory.ram_runs,
        data_runs=memory.data_runs,
        history=History(
            status=STATUS_INCOMPLETE if is_incomplete else 0,
            n_lost=memory.n_lost,
            eraseinfo=find_eraseinfo(file.notes.area, file.byte_order),
            doubts=file.doubts,
        ),
        pages=PageExtents(file.storage, memory.paddr, memory.nbytes, memory.offset, page_size),
        with_page_size=partial(_image, file),
    )


class ElfFormat:
    """Recognised by the ELF magic; whether it's a core of a kernel is told when it's opened.

    Cores that have sections only are another format (`npdump.sources.xc_core`).
    """

    name = "elf"

    def sniff(self, head: bytes) -> bool:
        """See `npdump.sources.Format.sniff`."""
        return head.startswith(elf.MAGIC) and not elf.has_sections_only(head)

    def open(self, storage: Storage) -> Source:
        """See `npdump.sources.Format.open`."""
        return _open(storage)

    def incomplete_mark(self, head: bytes) -> tuple[int, bytes]:
        """See `npdump.sources.Format.incomplete_mark`."""
        elf_class, data = (*head[4:6], 0, 0)[:2]
        if elf_class not in elf.CLASS_BITS or data not in elf.BYTE_ORDERS:
            raise CorruptDump("corrupt ELF header: no such word size or byte order")
        dtype = elf.EHDR[elf.CLASS_BITS[elf_class]].newbyteorder(elf.BYTE_ORDERS[data])
        if len(head) < dtype.itemsize:
            raise CorruptDump("corrupt ELF header: there is only a part of it")
        ehdr = np.frombuffer(head, dtype, 1)[0]
        assert dtype.fields is not None
        field, offset = dtype.fields["e_flags"][:2]
        return offset, np.array(int(ehdr["e_flags"]) | elf.DUMP_ELF_INCOMPLETE, field).tobytes()


FORMAT = ElfFormat()

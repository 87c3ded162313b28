# SPDX-License-Identifier: GPL-2.0-or-later
"""The ELF64 core file around a sparse physical memory."""

from __future__ import annotations

import os
import struct
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .memory import PAGE_SIZE, Memory

if TYPE_CHECKING:
    from pathlib import Path

EM_X86_64 = 62
PN_XNUM = 0xFFFF
EHDR_NBYTES, PHDR_NBYTES, SHDR_NBYTES = 64, 56, 64


@dataclass(frozen=True)
class Load:
    """PT_LOAD: bytes [start, stop) of physical memory at `vaddr`, of which `filesz` are in the file (None: all)."""

    start: int
    stop: int
    vaddr: int = 0
    filesz: int | None = None

    @property
    def n_present(self) -> int:
        """Bytes that the file holds."""
        return self.stop - self.start if self.filesz is None else self.filesz


@dataclass(frozen=True)
class FileShape:
    """Where things lie in the file: `phoff` (None: right behind the header, or behind section header 0),
    `data_align` and `data_shift` (of the first PT_LOAD's offset), `p_align`. `packed`: each PT_LOAD's bytes follow the
    last one's at once, as QEMU has it; otherwise in whole pages, as in /proc/vmcore."""

    phoff: int | None = None
    data_align: int = PAGE_SIZE
    data_shift: int = 0
    packed: bool = False
    p_align: int = 0
    ehsize: int = EHDR_NBYTES


#: As the kernel's own /proc/vmcore.
KERNEL_SHAPE = FileShape()


def write_core(
    path: Path, memory: Memory, loads: list[Load], notes: bytes, shape: FileShape = KERNEL_SHAPE
) -> list[int]:
    """Write the file, sparse where nothing was written to `memory`; returns each PT_LOAD's file offset."""
    n_headers = 1 + len(loads)
    extended = n_headers >= PN_XNUM
    phoff = EHDR_NBYTES if shape.phoff is None else shape.phoff
    phdrs_end = phoff + n_headers * PHDR_NBYTES
    # QEMU puts the section header first where it can; the kernel has none unless it is needed.
    shoff = phdrs_end if extended else 0
    notes_offset = phdrs_end + (SHDR_NBYTES if extended else 0)
    offset = -(-(notes_offset + len(notes)) // shape.data_align) * shape.data_align + shape.data_shift
    headers = [struct.pack("<IIQQQQQQ", 4, 0, notes_offset, 0, 0, len(notes), len(notes), shape.p_align)]
    offsets = []
    for load in loads:
        if not shape.packed:
            offset += (load.start - offset + shape.data_shift) % PAGE_SIZE
        headers.append(
            struct.pack(
                "<IIQQQQQQ", 1, 7, offset, load.vaddr, load.start, load.n_present, load.stop - load.start, shape.p_align
            )
        )
        offsets.append(offset)
        offset += load.n_present
    ident = b"\x7fELF" + bytes((2, 1, 1)) + bytes(9)
    ehdr = ident + struct.pack(
        "<HHIQQQIHHHHHH",
        4,
        EM_X86_64,
        1,
        0,
        phoff,
        shoff,
        0,
        shape.ehsize,
        PHDR_NBYTES,
        PN_XNUM if extended else n_headers,
        SHDR_NBYTES if extended else 0,
        1 if extended else 0,
        0,
    )
    with open(path, "wb") as file:
        file.write(ehdr)
        file.seek(phoff)
        file.write(b"".join(headers))
        if extended:
            file.write(struct.pack("<IIQQQQIIQQ", 0, 0, 0, 0, 0, 1, 0, n_headers, 0, 0))
        file.write(notes)
        file.truncate(offset)
        _write_memory(file.fileno(), memory, loads, offsets)
    return offsets


def _write_memory(fd: int, memory: Memory, loads: list[Load], offsets: list[int]) -> None:
    """Put every written run of memory into each PT_LOAD that covers part of it."""
    runs = list(memory.runs())
    order = sorted(range(len(loads)), key=lambda index: loads[index].start)
    first = 0
    for index in order:
        load, offset = loads[index], offsets[index]
        stop = load.start + load.n_present
        while first < len(runs) and runs[first][1] * PAGE_SIZE <= load.start:
            first += 1
        for run_start, run_stop in runs[first:]:
            if run_start * PAGE_SIZE >= stop:
                break
            begin, end = max(run_start * PAGE_SIZE, load.start), min(run_stop * PAGE_SIZE, stop)
            for paddr in range(begin, end, 1 << 24):
                data = memory.read(paddr, min(end - paddr, 1 << 24))
                os.pwrite(fd, data, offset + paddr - load.start)

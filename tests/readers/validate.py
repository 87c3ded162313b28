# SPDX-License-Identifier: GPL-2.0-or-later
"""What the strictest reader of each format demands of a file: `problems(path)` lists what is wrong with it."""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from . import notes, open_dump
from .elf import PT_LOAD, PT_NOTE, ElfDump
from .kdump import COMPRESSION, EXCLUDED_VMEMMAP, INCOMPLETE, KdumpFile

if TYPE_CHECKING:
    from pathlib import Path

ZERO_LEVEL = 1


class Machine(NamedTuple):
    """What a kdump-compressed file says of the machine: utsname's machine, page size and byte order."""

    name: str = "x86_64"
    page_size: int = 4096
    order: str = "<"


X86_64 = Machine()


class _Findings(list):
    def expect(self, holds: bool, message: str) -> None:
        if not holds:
            self.append(message)


def problems(path: Path, complete: bool = True, machine: Machine = X86_64) -> list[str]:
    """Everything that a strict reader would object to; `complete` says whether the dump has to be whole.

    ELF files are checked for x86_64 only.
    """
    found = _Findings()
    mode = stat.S_IMODE(os.stat(path).st_mode)
    found.expect(mode == 0o600, f"mode is {mode:o}: a dump holds secrets, 600 is right")
    dump = open_dump(path)
    if dump.kind == "kdump":
        _check_kdump(dump, found, complete, machine)
    else:
        _check_elf(dump, found, complete)
    return list(found)


def _check_kdump(dump: KdumpFile, found: _Findings, complete: bool, machine: Machine) -> None:
    fields, size = dump.fields, len(dump.data)
    found.expect(dump.version == 6, f"header version {dump.version}")
    found.expect(fields["tv_usec"] == 0, "tv_usec is set: libkdumpfile could take the file for a 32-bit one")
    found.expect(dump.block_size == machine.page_size, f"block size {dump.block_size}")
    found.expect(dump.order == machine.order, f"byte order {dump.order}")
    found.expect(dump.utsname["machine"] == machine.name, f"machine {dump.utsname['machine']!r}")
    known = COMPRESSION | INCOMPLETE | EXCLUDED_VMEMMAP
    found.expect(dump.status & ~known == 0, f"unknown status bits in {dump.status:#x}")
    found.expect((dump.status & COMPRESSION).bit_count() <= 1, f"status {dump.status:#x} names two compressions")
    found.expect(bool(dump.status & INCOMPLETE) != complete, f"status {dump.status:#x}, complete: {complete}")
    for name in ("total_ram_blocks", "device_blocks", "written_blocks", "current_cpu", "split"):
        found.expect(fields[name] == 0, f"{name} is {fields[name]}")
    found.expect(not any(dump.data[dump.header_nbytes : dump.block_size]), "rest of block 0 is not zero")
    found.expect(fields["max_mapnr_32"] == min(dump.max_mapnr, 0xFFFFFFFF), "the two max_mapnr differ")
    one_bitmap = -(-dump.max_mapnr // (8 * dump.block_size))
    found.expect(fields["bitmap_blocks"] == 2 * one_bitmap, f"{fields['bitmap_blocks']} bitmap blocks")
    found.expect(size >= dump.descriptors_offset, "file ends within the bitmaps")
    found.expect(not dump.raw_bitmap1[dump.max_mapnr :].any(), "bitmap 1 has bits beyond max_mapnr")
    found.expect(not dump.raw_bitmap2[dump.max_mapnr :].any(), "bitmap 2 has bits beyond max_mapnr")
    found.expect(not (dump.bitmap2 & ~dump.bitmap1).any(), "bitmap 2 has pages that bitmap 1 has not")
    _check_kdump_notes(dump, found)
    _check_descriptors(dump, found, complete)


def _check_kdump_notes(dump: KdumpFile, found: _Findings) -> None:
    fields = dump.fields
    needed = -(-(dump.sub_header_nbytes + fields["size_note"]) // dump.block_size)
    found.expect(fields["sub_hdr_size"] == needed, f"sub_hdr_size {fields['sub_hdr_size']}, {needed} needed")
    found.expect(0 <= fields["dump_level"] <= 31, f"dump level {fields['dump_level']}")
    for name in ("start_pfn", "end_pfn", "start_pfn_64", "end_pfn_64", "offset_eraseinfo", "size_eraseinfo"):
        found.expect(fields[name] == 0, f"{name} is {fields[name]}")
    if not fields["size_note"]:
        found.expect(fields["size_vmcoreinfo"] == 0, "VMCOREINFO without notes")
        return
    behind_sub_header = dump.block_size + dump.sub_header_nbytes
    found.expect(fields["offset_note"] == behind_sub_header, f"offset_note {fields['offset_note']:#x}")
    found.expect(fields["nr_cpus"] == notes.count_prstatus(dump.notes, dump.order), f"nr_cpus {fields['nr_cpus']}")
    note = notes.find(dump.notes, "VMCOREINFO", dump.order)
    if note is None:
        found.expect(fields["offset_vmcoreinfo"] == fields["size_vmcoreinfo"] == 0, "VMCOREINFO from nowhere")
    else:
        at = fields["offset_note"] + note.offset
        found.expect(fields["offset_vmcoreinfo"] == at, "offset_vmcoreinfo is not that of the note")
        found.expect(fields["size_vmcoreinfo"] == len(note.desc), "size_vmcoreinfo is not that of the note")


def _check_descriptors(dump: KdumpFile, found: _Findings, complete: bool) -> None:
    table = dump.descriptors
    lost = (table["offset"] == 0) & (table["size"] == 0) & (table["flags"] == 0)
    found.expect(not (complete and lost.any()), f"{lost.sum()} pages without data in a complete dump")
    there = table[~lost]
    ends = there["offset"] + there["size"].astype(np.int64)
    found.expect(bool((there["offset"] >= dump.data_offset).all()), "page data within the headers")
    found.expect(bool((ends <= len(dump.data)).all()), "page data beyond the end of the file")
    found.expect(not table["page_flags"].any(), "page_flags is set")
    raw, packed = there[there["flags"] == 0], there[there["flags"] != 0]
    found.expect(bool((raw["size"] == dump.block_size).all()), "a raw page is not one block")
    found.expect(bool((packed["size"] < dump.block_size).all()), "a compressed page is not smaller than the page")
    found.expect(bool((packed["size"] > 0).all()), "a compressed page of no bytes")
    compression = dump.status & COMPRESSION
    found.expect(bool((packed["flags"] == compression).all()), "a page's compression is not the header's")
    unique = np.unique(there["offset"])
    found.expect(len(np.unique(there)) == len(unique), "pages that stand at one place differ in size or flags")
    if dump.fields["dump_level"] & ZERO_LEVEL:
        if len(there):
            zero = dump.data[dump.data_offset : dump.data_offset + dump.block_size]
            found.expect(not any(zero), "the data area doesn't begin with the zero page")
        at_zero = there[there["offset"] == dump.data_offset]
        found.expect(bool((at_zero["flags"] == 0).all()), "the zero page is flagged as compressed")
    order = np.sort(there["offset"])
    used = dump.data_offset + (dump.block_size if dump.fields["dump_level"] & ZERO_LEVEL else 0)
    if complete and len(order):
        end = max(int(ends.max()), used)
        found.expect(end == len(dump.data), f"the file has {len(dump.data) - end} bytes after the last page")


def _check_elf(dump: ElfDump, found: _Findings, complete: bool) -> None:
    size = len(dump.data)
    found.expect(dump.e_type == 4, f"e_type {dump.e_type}")
    found.expect(dump.machine == 62, f"e_machine {dump.machine}")
    found.expect(dump.phoff == 64, f"program headers at {dump.phoff}: makedumpfile takes 64 for granted")
    found.expect(len(dump.headers) >= 2, "fewer than two program headers")
    found.expect(dump.headers[0].p_type == PT_NOTE, "PT_NOTE is not the first program header")
    found.expect((dump.flags & 1 == 0) == complete, f"e_flags {dump.flags:#x}, complete: {complete}")
    kinds = {header.p_type for header in dump.headers[1:]}
    found.expect(kinds <= ({PT_LOAD} if complete else {PT_LOAD, 0}), f"program headers of types {kinds}")
    for load in dump.loads:
        found.expect(load.filesz <= load.memsz, f"PT_LOAD at {load.paddr:#x}: p_filesz > p_memsz")
        found.expect(load.offset + load.filesz <= size, f"PT_LOAD at {load.paddr:#x} ends beyond the file")
        found.expect(not load.filesz or load.offset >= dump.headers_end, f"PT_LOAD at {load.paddr:#x} in the headers")
    if dump.loads:
        first = dump.loads[0]
        found.expect(bool(first.offset % 4096) or first.align == 0, "crash would take the file for a netdump")

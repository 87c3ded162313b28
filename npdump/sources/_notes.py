# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF notes: what of them a dump filter needs to know."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.layouts import ByteOrder, elf
from npdump.sources import NoteArea

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "Note",
    "count_cpus",
    "find_eraseinfo",
    "find_vmcoreinfo",
    "make_note",
    "note_area",
    "page_size_of",
    "parse_notes",
    "with_byte_order",
]


class Note(NamedTuple):
    """One note; ``offset`` says where it stands in the note area, the rest where its description does."""

    name: bytes
    type: int
    desc_offset: int
    desc_nbytes: int
    offset: int


def parse_notes(area: bytes, byte_order: ByteOrder) -> Iterator[Note]:
    """Yield the notes of a note area; one that runs over the end ends it.

    All-zero headers, which old kernels leave as terminators, are skipped.
    """
    header = elf.NHDR.newbyteorder(byte_order)
    at = 0
    while at + header.itemsize <= len(area):
        namesz, descsz, note_type = (int(word) for word in np.frombuffer(area, header, 1, at)[0].item())
        offset, name_offset = at, at + header.itemsize
        desc_offset = name_offset + (namesz + 3 & ~3)
        at = desc_offset + (descsz + 3 & ~3)
        if desc_offset + descsz > len(area):
            return
        if namesz or descsz:
            name = area[name_offset : name_offset + namesz].rstrip(b"\0")
            yield Note(name, note_type, desc_offset, descsz, offset)


def with_byte_order(area: bytes, byte_order: ByteOrder, wanted: ByteOrder) -> bytes:
    """Return a note area with the headers of its notes in another byte order; the descriptions stay as they are."""
    if byte_order == wanted:
        return area
    copy = bytearray(area)
    header = elf.NHDR.newbyteorder(byte_order)
    for note in parse_notes(area, byte_order):
        raw = np.frombuffer(area, header, 1, note.offset).astype(elf.NHDR.newbyteorder(wanted)).tobytes()
        copy[note.offset : note.offset + len(raw)] = raw
    return bytes(copy)


def find_vmcoreinfo(notes: list[Note]) -> Note | None:
    """Return the first VMCOREINFO note."""
    return next((note for note in notes if note.name == b"VMCOREINFO"), None)


def find_eraseinfo(area: bytes, byte_order: ByteOrder) -> bytes:
    """Return the text of the ERASEINFO note, empty if there is none."""
    for note in parse_notes(area, byte_order):
        if note.name == b"ERASEINFO":
            return area[note.desc_offset : note.desc_offset + note.desc_nbytes].rstrip(b"\0")
    return b""


def make_note(name: bytes, desc: bytes, byte_order: ByteOrder) -> bytes:
    """Return a note of type 0."""
    header = np.array([(len(name) + 1, len(desc), 0)], elf.NHDR.newbyteorder(byte_order)).tobytes()
    return header + _padded(name + b"\0") + _padded(desc)


def _padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // 4) * 4, b"\0")


def note_area(area: bytes, byte_order: ByteOrder) -> NoteArea:
    """Return what is in a note area."""
    notes = list(parse_notes(area, byte_order))
    note = find_vmcoreinfo(notes)
    if note is None:
        return NoteArea(area, n_cpus=count_cpus(notes))
    text = area[note.desc_offset : note.desc_offset + note.desc_nbytes]
    return NoteArea(area, text, note.desc_offset, count_cpus(notes))


def count_cpus(notes: list[Note]) -> int:
    """Return the number of CPUs whose registers are there."""
    return sum(note.name == b"CORE" and note.type == elf.NT_PRSTATUS for note in notes)


def page_size_of(vmcoreinfo: bytes | None) -> int | None:
    """Return the PAGESIZE that VMCOREINFO states, None where it states none."""
    match = re.search(rb"^PAGESIZE=(\d{1,19})\s*$", vmcoreinfo or b"", re.MULTILINE)
    return int(match[1]) if match else None

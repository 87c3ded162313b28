# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF notes: what of them a dump filter needs to know."""

from __future__ import annotations

import re
import struct
from typing import TYPE_CHECKING, NamedTuple

from npdump.layouts import ByteOrder, elf
from npdump.sources import NoteArea, VmcoreinfoText

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = [
    "MAX_VMCOREINFO_NBYTES",
    "Note",
    "count_cpus",
    "cpu_pids",
    "cpu_registers",
    "find_eraseinfo",
    "find_vmcoreinfos",
    "has_xen_info",
    "make_note",
    "note_area",
    "page_size_of",
    "parse_notes",
    "with_byte_order",
    "with_text",
    "without_eraseinfo",
]


MAX_VMCOREINFO_NBYTES = 1 << 20
"""The kernel's buffer is a page (Linux VMCOREINFO_BYTES), of 64 KiB at most."""

_MAX_NAME_NBYTES = 15
"""Names of notes are words; makedumpfile takes none that is longer."""

_NHDR: dict[ByteOrder, struct.Struct] = {"<": struct.Struct("<3I"), ">": struct.Struct(">3I")}
"""`npdump.layouts.elf.NHDR`, of which there may be a hundred thousand."""

_NONZERO = re.compile(rb"[^\0]")
_KNOWN_NAMES = re.compile(rb"(?:CORE|LINUX|VMCOREINFO|VMCOREINFO_XEN|ERASEINFO|QEMU|Xen|SNAP|GNU)\0")


class Note(NamedTuple):
    """One note; ``offset`` says where it is in the note area, the rest where its description is."""

    name: bytes
    type: int
    desc_offset: int
    desc_nbytes: int
    offset: int


def cpu_pids(notes: NoteArea, bits: int, byte_order: ByteOrder) -> list[int]:
    """Return the PID of the task that each CPU ran, in the order of their NT_PRSTATUS notes.

    References
    ----------
    Linux include/linux/elfcore.h, struct elf_prstatus: ``pr_pid`` comes after siginfo, cursig and two words of signals.
    """
    at = 32 if bits == 64 else 24
    return [
        struct.unpack_from(f"{byte_order}i", notes.area, note.desc_offset + at)[0]
        for note in parse_notes(notes.area, byte_order)
        if note.name == b"CORE" and note.type == elf.NT_PRSTATUS and note.desc_nbytes >= at + 4
    ]


def cpu_registers(notes: NoteArea, bits: int, byte_order: ByteOrder, kernel_order: ByteOrder) -> list[tuple[int, ...]]:
    """Return what is from the registers of each CPU on, as words, in the order of their NT_PRSTATUS notes.

    References
    ----------
    Linux include/linux/elfcore.h, struct elf_prstatus: ``pr_reg`` comes after four PIDs and four times.
    """
    at, word = (112, "Q") if bits == 64 else (72, "I")
    return [
        struct.unpack_from(
            f"{kernel_order}{(note.desc_nbytes - at) * 8 // bits}{word}", notes.area, note.desc_offset + at
        )
        for note in parse_notes(notes.area, byte_order)
        if note.name == b"CORE" and note.type == elf.NT_PRSTATUS and note.desc_nbytes > at
    ]


def parse_notes(area: bytes, byte_order: ByteOrder) -> Iterator[Note]:
    """Yield the notes of a note area.

    Zeros between notes are skipped, however many there are: old kernels leave all-zero headers as terminators, other
    writers fill up to a page. Where no note can begin (one that was not saved properly claims more than there is),
    the next one with a name that dumps are known to have is looked for.
    """
    header = _NHDR[byte_order]
    at = 0
    while at + header.size <= len(area):
        note, stop = _note_at(area, at, header)
        if note is not None and not note.name and not note.desc_nbytes:
            at = _skip_zeros(area, at, byte_order)
            continue
        if note is None:
            at = _find_known(area, at + 1, header)
            continue
        yield note
        at = stop
        if at + header.size > len(area) or _is_note(area, at, header):
            continue
        # The description may not have been filled up to a multiple of 4 bytes, or to one of 8.
        unpadded = note.desc_offset + note.desc_nbytes
        at = next((end for end in (unpadded, unpadded + 7 & ~7) if _is_note(area, end, header)), at)


def _note_at(area: bytes, at: int, header: struct.Struct) -> tuple[Note | None, int]:
    """Return the note that begins at ``at`` and where the next one does; None if none can."""
    namesz, descsz, note_type = header.unpack_from(area, at)
    name_offset = at + header.size
    desc_offset = name_offset + (namesz + 3 & ~3)
    if desc_offset + descsz > len(area):
        return None, at
    name = area[name_offset : name_offset + namesz].rstrip(b"\0")
    return Note(name, note_type, desc_offset, descsz, at), desc_offset + (descsz + 3 & ~3)


def _is_note(area: bytes, at: int, header: struct.Struct) -> bool:
    """Return whether a note begins at ``at`` whose name is a word."""
    if at + header.size > len(area):
        return False
    note, _ = _note_at(area, at, header)
    return note is not None and 0 < len(note.name) <= _MAX_NAME_NBYTES and note.name.isascii()


def _skip_zeros(area: bytes, at: int, byte_order: ByteOrder) -> int:
    """Return where the next note may begin, after zeros from ``at`` on."""
    found = _NONZERO.search(area, at)
    if found is None:
        return len(area)
    # The first byte that isn't 0 is the lowest of the name's size.
    return max(found.start() - (3 if byte_order == ">" else 0), at + 1)


def _find_known(area: bytes, at: int, header: struct.Struct) -> int:
    """Return where the next note begins that has a name that dumps are known to have."""
    for found in _KNOWN_NAMES.finditer(area, at + header.size):
        start = found.start() - header.size
        if start >= at and header.unpack_from(area, start)[0] in (len(found[0]), len(found[0]) - 1):
            note, _ = _note_at(area, start, header)
            if note is not None:
                return start
    return len(area)


def with_byte_order(area: bytes, byte_order: ByteOrder, wanted: ByteOrder) -> bytes:
    """Return a note area with the headers of its notes in another byte order; the descriptions stay as they are."""
    if byte_order == wanted:
        return area
    copy = bytearray(area)
    header = _NHDR[byte_order]
    for note in parse_notes(area, byte_order):
        raw = _NHDR[wanted].pack(*header.unpack_from(area, note.offset))
        copy[note.offset : note.offset + len(raw)] = raw
    return bytes(copy)


def find_vmcoreinfos(notes: Iterable[Note]) -> Iterator[Note]:
    """Yield the VMCOREINFO notes; those that are too long for one are passed over."""
    return (note for note in notes if note.name == b"VMCOREINFO" and note.desc_nbytes <= MAX_VMCOREINFO_NBYTES)


def find_eraseinfo(area: bytes, byte_order: ByteOrder) -> bytes:
    """Return the text of the ERASEINFO note, empty if there is none."""
    for note in parse_notes(area, byte_order):
        if note.name == b"ERASEINFO":
            return area[note.desc_offset : note.desc_offset + note.desc_nbytes].rstrip(b"\0")
    return b""


def without_eraseinfo(notes: NoteArea, byte_order: ByteOrder) -> NoteArea:
    """Return notes without the one that says what was erased."""
    for note in parse_notes(notes.area, byte_order):
        if note.name == b"ERASEINFO":
            stop = note.desc_offset + (note.desc_nbytes + 3 & ~3)
            area = notes.area[: note.offset] + notes.area[stop:]
            is_moved = notes.vmcoreinfo is not None and notes.offset > note.offset
            return notes._replace(area=area, offset=notes.offset - (stop - note.offset) * is_moved)
    return notes


def has_xen_info(area: bytes, byte_order: ByteOrder) -> bool:
    """Return whether a dump is of a machine that ran Xen: the hypervisor adds a note about itself."""
    return b"Xen\0" in area and any(
        note.name == b"Xen" and note.type == elf.NT_XEN_CRASH_INFO for note in parse_notes(area, byte_order)
    )


def make_note(name: bytes, desc: bytes, byte_order: ByteOrder, kind: int = 0) -> bytes:
    """Return a note, of type 0 by default."""
    header = _NHDR[byte_order].pack(len(name) + 1, len(desc), kind)
    return header + _padded(name + b"\0") + _padded(desc)


def with_text(notes: NoteArea, text: VmcoreinfoText, byte_order: ByteOrder) -> NoteArea:
    """Return notes whose VMCOREINFO is another text; one that is not among them is added."""
    if text.note_offset is not None:
        return notes._replace(vmcoreinfo=text.text, offset=text.note_offset)
    note = make_note(b"VMCOREINFO", text.text, byte_order)
    area = notes.area + bytes(-len(notes.area) % 4)
    stops = [note.desc_offset + (note.desc_nbytes + 3 & ~3) for note in parse_notes(area, byte_order)]
    # After notes that are damaged other readers would not find it.
    is_clean = not area or (bool(stops) and stops[-1] == len(area))
    offset = (len(area) if is_clean else 0) + note.index(text.text)
    area = area + note if is_clean else note + area
    return notes._replace(area=area, vmcoreinfo=text.text, offset=offset, is_completed=True)


def _padded(data: bytes) -> bytes:
    return data.ljust(-(-len(data) // 4) * 4, b"\0")


def note_area(area: bytes, byte_order: ByteOrder) -> NoteArea:
    """Return what is in a note area; of several VMCOREINFO notes, the first that says which kernel it is of."""
    notes = list(parse_notes(area, byte_order))
    texts = [
        (area[note.desc_offset : note.desc_offset + note.desc_nbytes], note.desc_offset)
        for note in find_vmcoreinfos(notes)
    ]
    if not texts:
        return NoteArea(area, n_cpus=count_cpus(notes))
    text, offset = max(texts, key=lambda found: _n_sections(found[0]))
    return NoteArea(area, text, offset, count_cpus(notes))


def _n_sections(text: bytes) -> int:
    """Return how many of the things that every VMCOREINFO has are in a text."""
    return sum(
        re.search(rb"^" + key, text, re.MULTILINE) is not None
        for key in (rb"OSRELEASE=", rb"PAGESIZE=\d", rb"SYMBOL\(")
    )


def count_cpus(notes: list[Note]) -> int:
    """Return the number of CPUs whose registers are there."""
    return sum(note.name == b"CORE" and note.type == elf.NT_PRSTATUS for note in notes)


def page_size_of(vmcoreinfo: bytes | None) -> int | None:
    """Return the PAGESIZE that VMCOREINFO states, None where it states none."""
    match = re.search(rb"^PAGESIZE=(\d{1,19})\s*$", vmcoreinfo or b"", re.MULTILINE)
    return int(match[1]) if match else None

# SPDX-License-Identifier: GPL-2.0-or-later
"""The real dumps that come with the project, and copies of them whose VMCOREINFO can be changed."""

from __future__ import annotations

import re
import struct
from functools import cache
from typing import TYPE_CHECKING

from tests import harness
from tests.readers.elf import PT_NOTE, ElfDump

if TYPE_CHECKING:
    from pathlib import Path

    from tests.sweep.changes import Change

_LONGEST_TEXT = 1 << 13


def names() -> list[str]:
    """Names of the distilled vmcores."""
    root = harness.FIXTURES
    found = [*root.glob("*.distilled"), *root.glob("*/*.distilled")]
    return sorted(str(path.relative_to(root).with_suffix("")) for path in found)


@cache
def _texts_in(path: Path) -> list[tuple[int, str]]:
    """Where in the file there are texts of VMCOREINFO, in its note and in the memory of the kernel."""
    data = ElfDump(path).data
    found = []
    for match in re.finditer(rb"OSRELEASE=[^\0\n]+\n", data):
        text = data[match.start() : match.start() + _LONGEST_TEXT].split(b"\0")[0]
        if b"\nSYMBOL(" in text and text.endswith(b"\n"):
            found.append((match.start(), text.decode()))
    return found


@cache
def vmcoreinfo_of(path: Path) -> str:
    """The VMCOREINFO of a dump: that of its note, or else the one in memory."""
    dump = ElfDump(path)
    note = dump.vmcoreinfo.rstrip(b"\0").decode()
    return note or max((text for _, text in _texts_in(path)), key=len)


class Altered:
    """A copy of a dump, of whose VMCOREINFO one value can be changed: in its note, and in the kernel's memory.

    The notes move to the end of the file, where they may be of any length.
    """

    def __init__(self, vmcore: Path, directory: Path) -> None:
        self.path = harness.sparse_copy(vmcore, directory / "altered.vmcore")
        dump = ElfDump(vmcore)
        self.text = vmcoreinfo_of(vmcore)
        self._order, self._notes = dump.order, dump.notes
        self._note_text = dump.vmcoreinfo.rstrip(b"\0").decode()
        self._end = vmcore.stat().st_size
        index = next(index for index, header in enumerate(dump.headers) if header.p_type == PT_NOTE)
        notes_at = dump.headers[index].offset
        in_notes = range(notes_at, notes_at + len(self._notes))
        self._in_memory = [(at, text) for at, text in _texts_in(vmcore) if at not in in_notes]
        # p_offset, p_vaddr, p_paddr and p_filesz of the notes' program header.
        is_64_bit = dump.data[4] == 2
        self._header_at = dump.phoff + index * (56 if is_64_bit else 32) + (8 if is_64_bit else 4)
        self._header = struct.Struct(f"{dump.order}4{'Q' if is_64_bit else 'I'}")

    def change(self, change: Change | None) -> None:
        """Make one change to the true texts, or none."""
        with open(self.path, "r+b") as file:
            for at, text in self._in_memory:
                file.seek(at)
                file.write(_changed(text, change).ljust(len(text), b"\0"))
            if self._note_text:
                notes = self._with_text(_changed(self._note_text, change))
                file.truncate(self._end)
                file.seek(self._end)
                file.write(notes)
                file.seek(self._header_at)
                file.write(self._header.pack(self._end, 0, 0, len(notes)))

    def _with_text(self, text: bytes) -> bytes:
        start = self._notes.index(b"VMCOREINFO\0") - 12
        name_nbytes, desc_nbytes, n_type = struct.unpack_from(f"{self._order}3I", self._notes, start)
        name_end = start + 12 + -(-name_nbytes // 4) * 4
        head = struct.pack(f"{self._order}3I", name_nbytes, len(text), n_type) + self._notes[start + 12 : name_end]
        rest = self._notes[name_end + -(-desc_nbytes // 4) * 4 :]
        return self._notes[:start] + head + text.ljust(-(-len(text) // 4) * 4, b"\0") + rest


def _changed(text: str, change: Change | None) -> bytes:
    return (text if change is None else change.apply(text)).encode()

# SPDX-License-Identifier: GPL-2.0-or-later
"""What an ELF file says of the kernel in it without debug information: symbols, build id, banner.

References
----------
ELF gABI, chapters on symbol tables and notes; Linux ``scripts/link-vmlinux.sh``.
"""

from __future__ import annotations

import io
import os
from contextlib import contextmanager
from typing import IO, TYPE_CHECKING, Any

import numpy as np
from elftools.dwarf.dwarfinfo import DebugSectionDescriptor
from elftools.elf.elffile import ELFFile

from npdump.errors import FactError
from npdump.layouts.elf import SYM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.layouts import ByteOrder

__all__ = [
    "banner",
    "build_id",
    "byte_order",
    "contents",
    "damage_as_fact_error",
    "has_dwarf",
    "open_elf",
    "section",
    "symbols",
]

_BANNER_NBYTES = 512
_WINDOW_NBYTES = 1 << 16
_UNREAD_SECTIONS = (".debug_loc", ".debug_ranges", ".debug_rnglists", ".debug_frame", ".debug_pub", ".eh_frame")
"""Beginnings of the names of debug sections that say nothing of types."""


@contextmanager
def damage_as_fact_error(what: str) -> Iterator[None]:
    """Turn whatever a damaged file makes the ELF library raise into a FactError.

    The library trusts every offset, size and form that a file states: a damaged one shows as any built-in error.
    What npdump raises itself passes through, and so does an operating system's error of reading.
    """
    try:
        yield
    except (FactError, MemoryError, OSError):
        raise
    except Exception as error:
        reason = str(error) or type(error).__name__
        raise FactError(f"{what}: {reason}") from error


def open_elf(file: IO[bytes]) -> ELFFile:
    """Open an ELF file.

    Raises
    ------
    FactError
        If it is not one, or its headers are damaged.
    """
    with damage_as_fact_error("isn't an ELF file, or is damaged"):
        bounded: Any = _BoundedFile(file)
        return _Elf(bounded)


class _BoundedFile:
    """A file that is asked for no more than it has: the room for what is read is made before it is read."""

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self._nbytes = file.seek(0, os.SEEK_END)
        self.seek, self.tell = file.seek, file.tell

    def read(self, nbytes: int = -1) -> bytes:
        left = max(self._nbytes - self._file.tell(), 0)
        return self._file.read(left if nbytes < 0 else min(nbytes, left))


class _Elf(ELFFile):
    """An ELF file whose debug information stays in the file: of a kernel's, there are hundreds of megabytes.

    The library copies all debug sections into memory, twice while it does so. Compressed ones are still unpacked there,
    but for those that nothing here reads.
    """

    def _read_dwarf_section(self, section: Any, relocate_dwarf_sections: bool) -> DebugSectionDescriptor:
        is_unread = section.name.startswith(_UNREAD_SECTIONS)
        if not is_unread and (section.compressed or relocate_dwarf_sections or self.has_phantom_bytes()):
            return super()._read_dwarf_section(section, relocate_dwarf_sections)
        nbytes = 0 if is_unread else section.data_size
        window = _Window(self.stream, section["sh_offset"], nbytes)
        stream: Any = io.BufferedReader(window, _WINDOW_NBYTES)
        return DebugSectionDescriptor(stream, section.name, section["sh_offset"], nbytes, section["sh_addr"])


def contents(section: DebugSectionDescriptor) -> bytes:
    """Return all of a debug section."""
    section.stream.seek(0)
    return bytes(section.stream.read())


class _Window(io.RawIOBase):
    """A range of a file as a file of its own."""

    def __init__(self, file: Any, start: int, nbytes: int) -> None:
        self._file, self._start, self._nbytes, self._at = file, start, nbytes, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._nbytes}[whence]
        return self._at

    def readinto(self, buffer: Any) -> int:
        self._file.seek(self._start + self._at)
        data = self._file.read(max(min(len(buffer), self._nbytes - self._at), 0))
        buffer[: len(data)] = data
        self._at += len(data)
        return len(data)


def byte_order(elf: ELFFile) -> ByteOrder:
    """Return the byte order of an ELF file."""
    return "<" if elf.little_endian else ">"


def build_id(elf: ELFFile) -> str | None:
    """Return the build id in hexadecimal, None if there is none.

    Raises
    ------
    FactError
        If the notes or what leads to them are damaged.
    """
    section: Any
    with damage_as_fact_error("its notes are damaged"):
        for section in elf.iter_sections("SHT_NOTE"):
            for note in section.iter_notes():
                if note["n_name"] == "GNU" and note["n_type"] == "NT_GNU_BUILD_ID":
                    return str(note["n_desc"])
    return None


def section(elf: ELFFile, name: str) -> bytes | None:
    """Return the contents of a section, None if the file has no such section.

    Raises
    ------
    FactError
        If the section or what leads to it is damaged.
    """
    with damage_as_fact_error(f"its section {name} is damaged"):
        found = elf.get_section_by_name(name)
        return None if found is None else bytes(found.data())


def has_dwarf(elf: ELFFile) -> bool:
    """Return whether a file has debug information in its own sections."""
    with damage_as_fact_error("its section headers are damaged"):
        return bool(elf.has_dwarf_info(strict=True))


def symbols(elf: ELFFile) -> dict[str, int]:
    """Return the addresses of all symbols that are defined; of two of a name, the first.

    Raises
    ------
    FactError
        If the symbol table or what leads to it is damaged.
    """
    with damage_as_fact_error("its symbol table is damaged"):
        section = elf.get_section_by_name(".symtab")
        if section is None or section["sh_type"] == "SHT_NOBITS":
            return {}
        names = elf.get_section(section["sh_link"]).data()
        raw = section.data()
        dtype = SYM[elf.elfclass].newbyteorder(byte_order(elf))
        table = np.frombuffer(raw, dtype, len(raw) // dtype.itemsize)
        table = table[(table["name"] != 0) & (table["shndx"] != 0) & (table["info"] & 0xF < 3)]
        found: dict[str, int] = {}
        for at, value in zip(table["name"].tolist(), table["value"].tolist(), strict=True):
            found.setdefault(names[at : names.index(b"\0", at)].decode("ascii", "replace"), value)
        return found


def banner(elf: ELFFile, vaddr: int | None) -> str | None:
    """Return the text of ``linux_banner``, which is at ``vaddr``; None if there is none.

    Raises
    ------
    FactError
        If the section headers are damaged.
    """
    if vaddr is None:
        return None
    with damage_as_fact_error("its section headers are damaged"):
        for section in elf.iter_sections():
            start, nbytes = section["sh_addr"], section["sh_size"]
            if section["sh_type"] != "SHT_NOBITS" and start <= vaddr < start + nbytes:
                elf.stream.seek(section["sh_offset"] + vaddr - start)
                raw: bytes = elf.stream.read(_BANNER_NBYTES)
                text = raw.partition(b"\0")[0].decode("ascii", "replace")
                return text if text.startswith("Linux version ") else None
    return None

# SPDX-License-Identifier: GPL-2.0-or-later
"""What sources say of a dump, as values: its header, notes, history, memory, and where compressed pages are."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npdump.arrays import I64, U8, U32, Bool, Index, Runs
    from npdump.errors import LostPage
    from npdump.layouts import ByteOrder

__all__ = ["SEGMENT", "CompressedPages", "Header", "History", "Loss", "NoteArea", "PageLocations", "VmcoreinfoText"]

SEGMENT = np.dtype(
    [("paddr", "u8"), ("vaddr", "u8"), ("filesz", "u8"), ("memsz", "u8"), ("offset", "u8"), ("flags", "u4")]
)
"""A stretch of physical memory: ``memsz`` bytes from ``paddr``, of which the first ``filesz`` are in the dump.

``vaddr`` is the kernel virtual address of ``paddr`` as the dump's producer saw it, 0 where it didn't say.
"""


class History(NamedTuple):
    """What an earlier dump filter left in its file, to be carried over into the next.

    Attributes
    ----------
    level : int
        Dump level of the file.
    codec_flag : int
        `PageFlag` of the compression that was chosen for it; single pages may differ.
    status : int
        ``STATUS_*`` bits.
    n_lost : int
        Pages that should be in the file and aren't.
    missing : tuple of two int, or None
        The first page frames ``[start, stop)`` whose pages are in parts of a split dump that weren't given.
    n_elsewhere : int
        Pages in all such parts.
    utsname : tuple of six bytes, or None
    phys_base, timestamp : int
        As in the dump file's headers.
    eraseinfo : bytes
        Text about kernel data that was erased.
    doubts : tuple of str
        Lines about what its headers say and cannot be.
    """

    level: int = 0
    codec_flag: int = 0
    status: int = 0
    n_lost: int = 0
    missing: tuple[int, int] | None = None
    n_elsewhere: int = 0
    utsname: tuple[bytes, ...] | None = None
    phys_base: int = 0
    timestamp: int = 0
    eraseinfo: bytes = b""
    doubts: tuple[str, ...] = ()


class Header(NamedTuple):
    """What the file's headers say of the machine.

    Attributes
    ----------
    bits : {32, 64}
        Word size of the container (not of the kernel: 32-bit PAE kernels come in ELF64).
    byte_order : {"<", ">"}
    machine : int
        ELF ``e_machine``; 0 if the file names a machine that Linux is not known to run on.
    e_flags : int
        As in an ELF header, without the mark of an incomplete dump.
    uname : str
        What ``uname -m`` prints on the machine, where the file says it; empty in ELF files.
    """

    bits: int
    byte_order: ByteOrder
    machine: int
    e_flags: int = 0
    uname: str = ""


class NoteArea(NamedTuple):
    """The ELF notes of a dump.

    Attributes
    ----------
    area : bytes
        All of them, to be carried over byte for byte.
    vmcoreinfo : bytes or None
        The text of VMCOREINFO.
    offset : int
        Where ``vmcoreinfo`` is in ``area``.
    n_cpus : int
        Number of NT_PRSTATUS notes.
    is_completed : bool
        Whether ``vmcoreinfo`` was no note, but found in memory.
    """

    area: bytes = b""
    vmcoreinfo: bytes | None = None
    offset: int = 0
    n_cpus: int = 0
    is_completed: bool = False


class VmcoreinfoText(NamedTuple):
    """A text of VMCOREINFO, and where it was found.

    Attributes
    ----------
    text : bytes
    origin : str
        In words.
    note_offset : int or None
        Where it is in the note area.
    paddr : int or None
        Where it is in memory.
    """

    text: bytes
    origin: str
    note_offset: int | None
    paddr: int | None


class Loss(NamedTuple):
    """A page that should be in the dump and can't be had, and why; ``row`` says which of those asked for."""

    row: int
    error: LostPage


_FILE_SHIFT = 56
"""No file has so large an offset."""


@dataclass(frozen=True)
class PageLocations:
    """Where pages are stored in a file, in the order in which they were asked for.

    Attributes
    ----------
    pfns : ndarray of shape (n,), dtype int64
    numbers : ndarray of shape (n,), dtype intp
        Which file of several.
    offsets, nbytes : ndarray of shape (n,), dtype int64
    flags : ndarray of shape (n,), dtype uint32
        `PageFlag` of each page.
    is_zero : ndarray of shape (n,), dtype bool
        Pages that are known to be nothing but zeros, since they share one; others may be, too.
    """

    pfns: I64
    numbers: Index
    offsets: I64
    nbytes: I64
    flags: U32
    is_zero: Bool

    def __len__(self) -> int:
        return len(self.offsets)

    @property
    def places(self) -> I64:
        """One number for each place, file and offset: equal for pages that share one; shape (n,), dtype int64."""
        return self.offsets + (self.numbers.astype(np.int64) << _FILE_SHIFT)

    def __getitem__(self, rows: Index) -> PageLocations:
        return PageLocations(
            self.pfns[rows],
            self.numbers[rows],
            self.offsets[rows],
            self.nbytes[rows],
            self.flags[rows],
            self.is_zero[rows],
        )


class CompressedPages(Protocol):
    """The pages of a source whose file holds them compressed: they may be copied as they are."""

    def locate(self, runs: Runs) -> PageLocations:
        """Look up the pages of ``runs`` (shape (k, 2), page frames).

        Raises
        ------
        AddressError
            If a page is not in the dump.
        """

    def joined(self, locations: PageLocations) -> Any:
        """Return a buffer with pages as stored, back to back.

        Raises
        ------
        ReadError
        """

    def buffers(self, locations: PageLocations) -> list[memoryview]:
        """Return a buffer for each of some pages as stored; raises as `joined` does."""

    def decode(self, locations: PageLocations, out: U8) -> Sequence[Loss]:
        """Uncompress pages into ``out`` of shape (n, page_size); otherwise as `Source.gather`."""

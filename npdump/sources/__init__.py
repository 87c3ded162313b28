"""Input formats, one file each: physical memory images, uninterpreted.

A source knows which page frames a dump holds and hands out their bytes; it doesn't know what a kernel is. To add a
format, add a module with a ``SOURCE`` object: nothing else needs an edit.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import Protocol

import numpy as np
import numpy.typing as npt

from npdump.bitmap import Runs
from npdump.errors import UnknownFormat
from npdump.layouts import ByteOrder
from npdump.storage import ByteArray, Storage

__all__ = ["SEGMENT", "Format", "Source", "open_source"]

SEGMENT = np.dtype(
    [("paddr", "u8"), ("vaddr", "u8"), ("filesz", "u8"), ("memsz", "u8"), ("offset", "u8"), ("flags", "u4")]
)
"""A stretch of physical memory: ``memsz`` bytes from ``paddr``, of which the first ``filesz`` are in the dump.

``vaddr`` is the kernel virtual address of ``paddr`` as the dump's producer saw it, 0 where it didn't say.
"""


class Source(Protocol):
    """A physical memory image.

    Attributes
    ----------
    path : str
    format_name : str
        The input format in words.
    bits : {32, 64}
        Word size of the container (not of the kernel: 32-bit PAE kernels come in ELF64).
    byte_order : {"<", ">"}
    machine, e_flags : int
        As in an ELF header.
    page_size : int
        Bytes.
    notes : bytes
        The whole ELF note area, to be carried over byte for byte.
    vmcoreinfo : bytes or None
    vmcoreinfo_offset : int
        Where ``vmcoreinfo`` stands in ``notes``.
    n_cpus : int
        Number of NT_PRSTATUS notes.
    segments : ndarray of dtype SEGMENT
        In file order; they may overlap and begin or end inside a page.
    max_mapnr : int
        One more than the highest page frame.
    ram_runs : ndarray of shape (k, 2), dtype int64
        Page frames that the image holds, or held before it was filtered; disjoint, ascending.
    data_runs : ndarray of shape (k, 2), dtype int64
        Page frames of which any byte is in the file.
    """

    path: str
    format_name: str
    bits: int
    byte_order: ByteOrder
    machine: int
    e_flags: int
    page_size: int
    notes: bytes
    vmcoreinfo: bytes | None
    vmcoreinfo_offset: int
    n_cpus: int
    segments: npt.NDArray[np.void]
    max_mapnr: int
    ram_runs: Runs
    data_runs: Runs

    def view(self, paddr: int, nbytes: int) -> ByteArray:
        """Return the bytes ``[paddr, paddr + nbytes)``, without a copy where they stand together in the file.

        Raises
        ------
        AddressError
            If a page of that range isn't in the dump. Bytes of a partly dumped page that no segment covers are 0.
        """

    def gather(self, runs: Runs, out: ByteArray) -> None:
        """Copy the pages of ``runs`` (shape (k, 2), page frames) into ``out`` of shape (n, page_size), in order."""


class Format(Protocol):
    """What a module of this package offers as ``SOURCE``."""

    name: str

    def sniff(self, head: bytes) -> bool:
        """Tell from the first bytes whether a file is of this format; never raises."""

    def open(self, storage: Storage) -> Source:
        """Open a file that `sniff` accepted.

        Raises
        ------
        SourceError
            If it's damaged or truncated.
        """


_NOT_READ = {
    b"KDUMP   ": "a kdump-compressed dump, which npdump doesn't read yet",
    b"DISKDUMP": "an old diskdump file, which npdump doesn't read yet",
    b"makedumpfile\0\0\0\0": "a dump in the flattened format: rearrange it first (makedumpfile -R DUMPFILE < FILE)",
    b"PAGEDUMP": "a Windows crash dump, not a Linux one",
    b"PAGEDU64": "a Windows crash dump, not a Linux one",
    b"QEVM": "a QEMU migration stream: use dump-guest-memory to make a vmcore",
    b"\x28\xb5\x2f\xfd": "compressed with zstd: unpack it first (zstd -d FILE)",
    b"\x1f\x8b": "compressed with gzip: unpack it first (gzip -d FILE)",
    b"\xfd7zXZ\0": "compressed with xz: unpack it first (xz -d FILE)",
    b"\x04\x22\x4d\x18": "compressed with lz4: unpack it first (lz4 -d FILE)",
}

_HEAD_NBYTES = 4096 + 8


def open_source(storage: Storage) -> Source:
    """Recognise the format of ``storage`` by its content and open it.

    Raises
    ------
    UnknownFormat
        If no format fits; formats that npdump knows of but doesn't read are named.
    SourceError
        If the file is damaged or truncated.
    """
    if not storage.nbytes:
        raise UnknownFormat(f"{storage.path}: is empty: no dump was written to it")
    head = storage.read(0, min(storage.nbytes, _HEAD_NBYTES))
    for info in pkgutil.iter_modules(__path__):
        source_format: Format | None = getattr(importlib.import_module(f"{__name__}.{info.name}"), "SOURCE", None)
        if source_format is not None and source_format.sniff(head):
            return source_format.open(storage)
    for magic, words in _NOT_READ.items():
        if head.startswith(magic):
            raise UnknownFormat(f"{storage.path}: is {words}")
    raise UnknownFormat(f"{storage.path}: isn't a vmcore: it begins with {head[:8].hex(' ')}, not with an ELF header")

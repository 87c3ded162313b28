"""ELF64 core files: the input as well as `-E` output."""

from __future__ import annotations

import mmap
import struct
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import notes

PAGE_SIZE = 4096
PT_NULL, PT_LOAD, PT_NOTE = 0, 1, 4
INCOMPLETE = 1


class Segment(NamedTuple):
    """A program header."""

    p_type: int
    flags: int
    offset: int
    vaddr: int
    paddr: int
    filesz: int
    memsz: int
    align: int


class ElfDump:
    """A file's program headers, notes and pages."""

    kind = "elf"
    block_size = PAGE_SIZE

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with open(path, "rb") as file:
            self.data = data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if data[:6] != b"\x7fELF\x02\x01":
            raise ValueError(f"{path}: not a 64-bit little-endian ELF file: {data[:8]!r}")
        self.e_type, self.machine = struct.unpack_from("<HH", data, 16)
        self.phoff, self.shoff, self.flags = struct.unpack_from("<QQI", data, 32)
        phentsize, phnum = struct.unpack_from("<HH", data, 54)
        if phnum == 0xFFFF and self.shoff:
            (phnum,) = struct.unpack_from("<I", data, self.shoff + 44)
        starts = range(self.phoff, self.phoff + phnum * phentsize, phentsize)
        self.headers = [Segment(*struct.unpack_from("<IIQQQQQQ", data, start)) for start in starts]
        self.loads = [header for header in self.headers if header.p_type == PT_LOAD]
        self.headers_end = self.phoff + phnum * phentsize

    @property
    def notes(self) -> bytes:
        """The whole note area."""
        header = next(header for header in self.headers if header.p_type == PT_NOTE)
        return self.data[header.offset : header.offset + header.filesz]

    @property
    def vmcoreinfo(self) -> bytes:
        """Text of the VMCOREINFO note; empty if there is none."""
        found = notes.find(self.notes, "VMCOREINFO")
        return found.desc if found else b""

    @property
    def status(self) -> int:
        """e_flags, whose bit 0 says that the dump was cut."""
        return self.flags

    def _touched(self, sizes: str) -> np.ndarray:
        """Pages that the first `sizes` ("filesz" or "memsz") bytes of any PT_LOAD touch; bool."""
        end = max((load.paddr + load.memsz for load in self.loads), default=0)
        bits = np.zeros(-(-end // PAGE_SIZE), bool)
        for load in self.loads:
            n = getattr(load, sizes)
            if n:
                bits[load.paddr // PAGE_SIZE : -(-(load.paddr + n) // PAGE_SIZE)] = True
        return bits

    @property
    def bitmap1(self) -> np.ndarray:
        """Pages of RAM."""
        return self._touched("memsz")

    @property
    def kept(self) -> np.ndarray:
        """Page frames with bytes in the file, ascending."""
        return np.flatnonzero(self._touched("filesz"))

    def read(self, paddr: int, nbytes: int) -> bytes:
        """Physical memory; the first PT_LOAD with data wins, zeros where none has."""
        out = bytearray(nbytes)
        for load in reversed(self.loads):
            begin, end = max(load.paddr, paddr), min(load.paddr + load.filesz, paddr + nbytes)
            if begin < end:
                at = load.offset + begin - load.paddr
                out[begin - paddr : end - paddr] = self.data[at : at + end - begin]
        return bytes(out)

    def page(self, pfn: int) -> bytes:
        """One page's bytes."""
        return self.read(pfn * PAGE_SIZE, PAGE_SIZE)

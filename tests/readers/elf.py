# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF core files: the input as well as `-E` output."""

from __future__ import annotations

import mmap
import re
import struct
from functools import cached_property
from pathlib import Path
from typing import NamedTuple

import numpy as np

from . import notes

PAGE_SIZE = 4096
WORDS = {1: "I", 2: "Q"}
ORDERS = {1: "<", 2: ">"}
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

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        with open(path, "rb") as file:
            self.data = data = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        if data[:4] != b"\x7fELF" or data[4] not in WORDS or data[5] not in ORDERS:
            raise ValueError(f"{path}: not an ELF file: {data[:8]!r}")
        self.order, word = ORDERS[data[5]], WORDS[data[4]]
        self.e_type, self.machine = struct.unpack_from(f"{self.order}HH", data, 16)
        header = struct.unpack_from(f"{self.order}3{word}I6H", data, 24)
        _, self.phoff, self.shoff, self.flags, _, phentsize, phnum, *_ = header
        if phnum == 0xFFFF and self.shoff:
            (phnum,) = struct.unpack_from(f"{self.order}I", data, self.shoff + 44)
        starts = range(self.phoff, self.phoff + phnum * phentsize, phentsize)
        self.headers = [self._segment(start, word) for start in starts]
        self.loads = [header for header in self.headers if header.p_type == PT_LOAD]
        self.headers_end = self.phoff + phnum * phentsize
        found = re.search(rb"^PAGESIZE=(\d+)$", self.vmcoreinfo, re.MULTILINE)
        stated = int(found[1]) if found else 0
        self.block_size = stated if stated in (1 << shift for shift in range(9, 22)) else PAGE_SIZE

    def _segment(self, start: int, word: str) -> Segment:
        if word == "Q":
            return Segment(*struct.unpack_from(f"{self.order}2I6Q", self.data, start))
        p_type, offset, vaddr, paddr, filesz, memsz, flags, align = struct.unpack_from(
            f"{self.order}8I", self.data, start
        )
        return Segment(p_type, flags, offset, vaddr, paddr, filesz, memsz, align)

    @property
    def notes(self) -> bytes:
        """The whole note area."""
        header = next(header for header in self.headers if header.p_type == PT_NOTE)
        return self.data[header.offset : header.offset + header.filesz]

    @property
    def vmcoreinfo(self) -> bytes:
        """Text of the VMCOREINFO note; empty if there is none."""
        found = notes.find(self.notes, "VMCOREINFO", self.order)
        return found.desc if found else b""

    @property
    def status(self) -> int:
        """e_flags, whose bit 0 says that the dump was cut."""
        return self.flags

    def _touched(self, sizes: str) -> np.ndarray:
        """Pages that the first `sizes` ("filesz" or "memsz") bytes of any PT_LOAD touch; bool."""
        end = max((load.paddr + load.memsz for load in self.loads), default=0)
        bits = np.zeros(-(-end // self.block_size), bool)
        for load in self.loads:
            n = getattr(load, sizes)
            if n:
                bits[load.paddr // self.block_size : -(-(load.paddr + n) // self.block_size)] = True
        return bits

    @property
    def bitmap1(self) -> np.ndarray:
        """Pages of RAM."""
        return self._touched("memsz")

    @property
    def kept(self) -> np.ndarray:
        """Page frames with bytes in the file, ascending."""
        ends = sorted(
            (load.paddr // self.block_size, -(-(load.paddr + load.filesz) // self.block_size))
            for load in self.loads
            if load.filesz
        )
        return np.unique(np.concatenate([np.empty(0, int), *(np.arange(start, stop) for start, stop in ends)]))

    def read(self, paddr: int, nbytes: int) -> bytes:
        """Physical memory; the first PT_LOAD with data wins, zeros where none has."""
        out = bytearray(nbytes)
        for load in reversed(self.loads):
            begin, end = max(load.paddr, paddr), min(load.paddr + load.filesz, paddr + nbytes)
            if begin < end:
                at = load.offset + begin - load.paddr
                out[begin - paddr : end - paddr] = self.data[at : at + end - begin]
        return bytes(out)

    @cached_property
    def _offsets(self) -> dict[int, int]:
        """Where in the file the pages are that the first PT_LOAD with data of them has whole."""
        size: int = self.block_size
        at: dict[int, int] = {}
        for load in reversed(self.loads):
            first, end = load.paddr // size, -(-(load.paddr + load.filesz) // size)
            for pfn in {first, end - 1}:  # what is begun here may be another's as well
                at.pop(pfn, None)
            first, end = -(-load.paddr // size), (load.paddr + load.filesz) // size
            start = load.offset + first * size - load.paddr
            at |= zip(range(first, end), range(start, start + (end - first) * size, size), strict=True)
        return at

    def contents(self):
        """(pfn, bytes) of every page with bytes in the file, ascending."""
        for pfn in self.kept.tolist():
            yield pfn, self.page(pfn)

    def page(self, pfn: int) -> bytes:
        """One page's bytes."""
        start = self._offsets.get(pfn)
        if start is None:
            return self.read(pfn * self.block_size, self.block_size)
        return self.data[start : start + self.block_size]

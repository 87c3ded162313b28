# SPDX-License-Identifier: GPL-2.0-or-later
"""What a synthetic vmcore holds: the expectation that tests compare with."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from .kernels import PAGE_SIZE
from .notes import vmcoreinfo_text

if TYPE_CHECKING:
    from pathlib import Path

    from .elf import Load
    from .memory import Memory
    from .pages import StructPages


@dataclass
class Vmcore:
    """The dump at `path`.

    `keys` is its VMCOREINFO, `notes` the whole note area, `sections` the sections whose struct pages can be read,
    `image_stop` the first physical byte that is free for tests.
    """

    path: Path
    keys: dict[str, int | str]
    notes: bytes
    loads: list[Load]
    memory: Memory
    pages: StructPages
    sections: list[int]
    image_stop: int

    @property
    def max_mapnr(self) -> int:
        """Pages up to the end of the highest PT_LOAD."""
        return -(-max(load.stop for load in self.loads) // PAGE_SIZE)

    @property
    def vmcoreinfo(self) -> bytes:
        """Text of the VMCOREINFO note."""
        return vmcoreinfo_text(self.keys)

    @cached_property
    def bitmap1(self) -> np.ndarray:
        """The pages that are there, excluded by an earlier filter or not; bool, (max_mapnr,).

        A page that a PT_LOAD only begins is not: no kernel uses it.
        """
        bits = np.zeros(self.max_mapnr, bool)
        for load in self.loads:
            bits[load.start // PAGE_SIZE : load.stop // PAGE_SIZE] = True
        return bits

    @cached_property
    def only_begun(self) -> np.ndarray:
        """Pages that a PT_LOAD begins and none completes: makedumpfile has them or not, as its cycles fall."""
        bits = np.zeros(self.max_mapnr, bool)
        bits[[load.stop // PAGE_SIZE for load in self.loads if load.stop % PAGE_SIZE]] = True
        return bits & ~self.bitmap1

    @cached_property
    def has_data(self) -> np.ndarray:
        """`bitmap1` less the pages between p_filesz and p_memsz of any PT_LOAD."""
        bits = self.bitmap1.copy()
        for load in self.loads:
            if load.n_present < load.stop - load.start:
                bits[-(-(load.start + load.n_present) // PAGE_SIZE) : -(-load.stop // PAGE_SIZE)] = False
        return bits

    @cached_property
    def _extents(self) -> tuple[np.ndarray, np.ndarray]:
        starts = np.array([load.start for load in self.loads])
        return starts, starts + [load.n_present for load in self.loads]

    def page(self, pfn: int) -> bytes:
        """The page's bytes as the file has them: zeros where no PT_LOAD has data."""
        data = self.memory.read(pfn * PAGE_SIZE, PAGE_SIZE)
        base = pfn * PAGE_SIZE
        present = bytearray(PAGE_SIZE)
        starts, stops = self._extents
        for index in np.flatnonzero((starts < base + PAGE_SIZE) & (stops > base)):
            begin, end = max(int(starts[index]) - base, 0), min(int(stops[index]) - base, PAGE_SIZE)
            present[begin:end] = data[begin:end]
        return bytes(present)

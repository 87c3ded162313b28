# SPDX-License-Identifier: GPL-2.0-or-later
"""A built machine whose memory holds what a real one's does, for work that takes longer than a program's start."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np

from tests.builders import large
from tests.builders.kernels import PAGE_SIZE, PAGES_PER_SECTION
from tests.builders.pages import Block
from tests.builders.vmcore import build

if TYPE_CHECKING:
    from pathlib import Path

__all__ = ["build_filled"]

RUN_NPAGES = 64
"""Pages of the kernel and of user space alternate in runs of so many."""
_CHUNK_NPAGES = 1024


def build_filled(path: Path, nbytes: int, vmcore: str) -> None:
    """Build a vmcore of which so many bytes are pages that aren't zero: those of a real vmcore, no two alike.

    Half of them are the kernel's, which stay at every dump level.
    """
    runs = [Block(0, "kernel", count=RUN_NPAGES), Block(0, "anon", count=RUN_NPAGES)]
    background = runs * (PAGES_PER_SECTION // (2 * RUN_NPAGES))
    size = max(large.MIN_NBYTES, -(-2 * nbytes // large.GIB) * large.GIB)
    build(path, large.describe(size, has_memmap=False, background=background))
    left, n_written = nbytes // PAGE_SIZE, 0
    with path.open("r+b") as file:
        for start, stop in _holes(file.fileno()):
            n = min((stop - start) // PAGE_SIZE, left)
            _fill(file.fileno(), start, n, n_written, vmcore)
            left, n_written = left - n, n_written + n


def _holes(fd: int) -> list[tuple[int, int]]:
    """Return the ranges of a file that were not written."""
    start, stop = 0, os.lseek(fd, 0, os.SEEK_END)
    found = []
    while start < stop:
        hole = os.lseek(fd, start, os.SEEK_HOLE)
        try:
            start = os.lseek(fd, hole, os.SEEK_DATA)
        except OSError:
            start = stop
        found.append((hole, start))
    return found


def _fill(fd: int, offset: int, npages: int, n_before: int, vmcore: str) -> None:
    data = np.memmap(vmcore, np.uint8, "r")
    pages = data[: len(data) // PAGE_SIZE * PAGE_SIZE].reshape(-1, PAGE_SIZE)
    n_done = 0
    while n_done < npages:
        at = (n_before + n_done) % (len(pages) - _CHUNK_NPAGES)
        chunk = pages[at : at + min(_CHUNK_NPAGES, npages - n_done)].copy()
        chunk.view(np.uint64)[:, 0] = np.arange(len(chunk)) + n_before + n_done + 1
        os.pwrite(fd, chunk, offset + n_done * PAGE_SIZE)
        n_done += len(chunk)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Sparse physical memory: what was written is there, everything else reads as zeros."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE_SIZE = 4096


class Memory:
    """Pages by page frame number; only those that were written exist."""

    def __init__(self) -> None:
        self.pages: dict[int, bytearray] = {}

    def write(self, paddr: int, data: bytes) -> None:
        """Store `data` at a physical address, over page borders if need be."""
        done = 0
        while done < len(data):
            pfn, start = divmod(paddr + done, PAGE_SIZE)
            n = min(PAGE_SIZE - start, len(data) - done)
            page = self.pages.setdefault(pfn, bytearray(PAGE_SIZE))
            page[start : start + n] = data[done : done + n]
            done += n

    def read(self, paddr: int, nbytes: int) -> bytes:
        """Bytes at a physical address; zeros where nothing was written."""
        parts = []
        while nbytes:
            pfn, start = divmod(paddr, PAGE_SIZE)
            n = min(PAGE_SIZE - start, nbytes)
            page = self.pages.get(pfn)
            parts.append(bytes(page[start : start + n]) if page is not None else bytes(n))
            paddr, nbytes = paddr + n, nbytes - n
        return b"".join(parts)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Runs [start, stop) of written pages, ascending."""
        start = stop = -1
        for pfn in sorted(self.pages):
            if pfn != stop:
                if start >= 0:
                    yield start, stop
                start = pfn
            stop = pfn + 1
        if start >= 0:
            yield start, stop

"""The crashed kernel's virtual memory, over the physical memory of a source."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from npdump.arch import Arch
from npdump.errors import AddressError
from npdump.kernel import Facts
from npdump.paging import Addresses, walk
from npdump.sources import Source
from npdump.storage import ByteArray

__all__ = ["Extent", "VirtualMemory"]

_MAX_CACHED_TABLES = 1024
_TABLE_NBYTES = 4096


class Extent(NamedTuple):
    """``nbytes`` bytes of virtual memory from ``vaddr`` that stand together at ``paddr``; None where unmapped."""

    vaddr: int
    nbytes: int
    paddr: int | None


class VirtualMemory:
    """Reads kernel virtual addresses through the kernel's own page tables.

    Parameters
    ----------
    source : Source
    arch : Arch
    facts : Facts

    Attributes
    ----------
    word : dtype
        An unsigned long of the dumped kernel.

    Raises
    ------
    FactError
        If the facts don't tell where the page tables are.
    """

    def __init__(self, source: Source, arch: Arch, facts: Facts) -> None:
        self._source = source
        self._paging = arch.paging(facts)
        self._root = arch.root(facts)
        self.word = np.dtype(f"u{arch.bits // 8}").newbyteorder(source.byte_order)
        self._entry = np.dtype(np.uint64).newbyteorder(source.byte_order)
        self._tables: dict[int, Addresses] = {}

    def _table(self, paddr: int) -> Addresses:
        table = self._tables.get(paddr)
        if table is None:
            try:
                # A copy: the view may keep a whole window of the dump mapped.
                table = self._source.view(paddr, _TABLE_NBYTES).view(self._entry).astype(np.uint64)
            except AddressError:
                table = np.zeros(_TABLE_NBYTES // 8, np.uint64)
            if len(self._tables) >= _MAX_CACHED_TABLES:
                self._tables.clear()
            self._tables[paddr] = table
        return table

    def _read_words(self, paddrs: Addresses) -> Addresses:
        inside = np.uint64(_TABLE_NBYTES - 1)
        frames = paddrs & ~inside
        index = (paddrs & inside) >> np.uint64(3)
        words = np.empty(len(paddrs), np.uint64)
        order = np.argsort(frames, kind="stable")
        edges = np.flatnonzero(np.diff(frames[order])) + 1
        for rows in np.split(order, edges):
            if len(rows):
                words[rows] = self._table(int(frames[rows[0]]))[index[rows]]
        return words

    def extents(self, vaddr: int, nbytes: int) -> list[Extent]:
        """Translate the range ``[vaddr, vaddr + nbytes)``.

        Returns
        -------
        list of Extent
            Together they are the range, in order; physically contiguous neighbours are one.
        """
        stop = vaddr + nbytes
        fine, coarse = (level.shift for level in reversed(self._paging.levels[-2:]))
        starts = np.arange(vaddr >> coarse, -(-stop >> coarse), dtype=np.uint64) << np.uint64(coarse)
        starts[:1] = vaddr
        at = walk(self._read_words, self._root, starts, self._paging)
        if (at.shifts < coarse).any():
            # Some of it is mapped by single pages: translate all of those.
            small = starts[at.shifts < coarse] & ~np.uint64((1 << coarse) - 1)
            pages = (small[:, None] + (np.arange(1 << coarse - fine, dtype=np.uint64) << np.uint64(fine))).ravel()
            pages = pages[(pages >= vaddr >> fine << fine) & (pages < stop)]
            starts = np.sort(np.concatenate((starts[at.shifts >= coarse], np.maximum(pages, np.uint64(vaddr)))))
            at = walk(self._read_words, self._root, starts, self._paging)
        ends = np.append(starts[1:], np.uint64(stop))
        return _merge(starts, ends, at.paddrs, at.mapped)

    def read(self, vaddr: int, nbytes: int) -> bytes:
        """Copy the bytes ``[vaddr, vaddr + nbytes)``.

        Raises
        ------
        AddressError
            If any of it is unmapped, or not in the dump.
        """
        return b"".join(self._view(extent).tobytes() for extent in self.extents(vaddr, nbytes))

    def read_word(self, vaddr: int) -> int:
        """Return the unsigned long at ``vaddr``; raises as `read` does."""
        return int(np.frombuffer(self.read(vaddr, self.word.itemsize), self.word)[0])

    def _view(self, extent: Extent) -> ByteArray:
        if extent.paddr is None:
            raise AddressError(f"kernel address {extent.vaddr:#x} isn't mapped in the dump's page tables")
        return self._source.view(extent.paddr, extent.nbytes)


def _merge(starts: Addresses, ends: Addresses, paddrs: Addresses, mapped: npt.NDArray[np.bool_]) -> list[Extent]:
    joined = mapped[1:] == mapped[:-1]
    joined &= ~mapped[1:] | (paddrs[1:] - paddrs[:-1] == starts[1:] - starts[:-1])
    fresh = np.append(True, ~joined)[: len(starts)]
    firsts = np.flatnonzero(fresh)
    lasts = np.append(firsts[1:] - 1, len(starts) - 1)
    return [
        Extent(start, end - start, paddr if is_mapped else None)
        for start, end, paddr, is_mapped in zip(
            starts[firsts].tolist(),
            ends[lasts].tolist(),
            paddrs[firsts].tolist(),
            mapped[firsts].tolist(),
            strict=True,
        )
    ]

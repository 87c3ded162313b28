# SPDX-License-Identifier: GPL-2.0-or-later
"""The crashed kernel's virtual memory, over the physical memory of a source."""

from __future__ import annotations

import bisect
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arch._paging import Paging, Translation, walk
from npdump.arrays import count, group_edges
from npdump.errors import AddressError, CodecError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arch import Arch
    from npdump.arrays import U8, U64, Bool, Runs
    from npdump.facts import Facts
    from npdump.sources import Source

__all__ = ["Extent", "VirtualMemory"]

_MAX_CACHED_TABLES = 1024
_TABLE_NBYTES = 4096
_U64_MAX = (1 << 64) - 1


class Extent(NamedTuple):
    """``nbytes`` bytes of virtual memory from ``vaddr`` that are together at ``paddr``; None where unmapped."""

    vaddr: int
    nbytes: int
    paddr: int | None


class VirtualMemory:
    """Reads kernel virtual addresses as the kernel's own linear mappings and page tables say.

    Parameters
    ----------
    source : Source
    arch : Arch
    facts : Facts

    Attributes
    ----------
    word : dtype
        An unsigned long of the dumped kernel.
    space : AddressSpace

    Raises
    ------
    FactError, AddressError
        If it cannot be told how addresses are translated.
    """

    def __init__(self, source: Source, arch: Arch, facts: Facts) -> None:
        self._source = source
        self.space = arch.space(source, facts)
        self.word = self.dtype(f"u{arch.bits // 8}")
        self._max_vaddr = (1 << arch.bits) - 1
        self._regions = sorted(self.space.regions)
        self._region_starts = [region.start for region in self._regions]
        self._tables: dict[int, U64] = {}
        self._pages: dict[tuple[int, int], int] = {}  # physical addresses by shift and number of the page

    def is_kernel_vaddr(self, vaddr: int) -> bool:
        """Return whether an address can be one of the kernel's."""
        return self.space.lowest_vaddr <= vaddr <= self._max_vaddr

    def _table(self, paddr: int, dtype: np.dtype) -> U64:
        table = self._tables.get(paddr)
        if table is None:
            try:
                # A copy: the view may keep a whole window of the dump mapped.
                table = self._source.view(paddr, _TABLE_NBYTES).view(dtype).astype(np.uint64)
            except AddressError:
                table = np.zeros(_TABLE_NBYTES // dtype.itemsize, np.uint64)
            if len(self._tables) >= _MAX_CACHED_TABLES:
                self._tables.clear()
            self._tables[paddr] = table
        return table

    def _walk(self, paging: Paging, vaddrs: U64, root: int | None = None) -> Translation:
        inside = np.uint64(_TABLE_NBYTES - 1)
        entry_shift = np.uint64(paging.dtype.itemsize.bit_length() - 1)

        def read_words(paddrs: U64) -> U64:
            frames = paddrs & ~inside
            index = (paddrs & inside) >> entry_shift
            words = np.empty(len(paddrs), np.uint64)
            order = np.argsort(frames, kind="stable")
            edges = np.flatnonzero(np.diff(frames[order])) + 1
            for rows in np.split(order, edges):
                if len(rows):
                    words[rows] = self._table(int(frames[rows[0]]), paging.dtype)[index[rows]]
            return words

        return walk(read_words, (self.space.root if root is None else root) & _U64_MAX, vaddrs, paging)

    def extents(self, vaddr: int, nbytes: int) -> list[Extent]:
        """Translate the range ``[vaddr, vaddr + nbytes)``.

        Returns
        -------
        list of Extent
            Together they are the range, in order; neighbours that the page tables map contiguously are one.

        Raises
        ------
        AddressError
            If the machine has no such addresses.
        """
        at, stop = vaddr, vaddr + nbytes
        if not 0 <= vaddr <= stop <= self._max_vaddr:
            raise AddressError(f"{nbytes} bytes at {vaddr:#x} are beyond the address space of the kernel")
        extents: list[Extent] = []
        while at < stop:
            i = bisect.bisect_right(self._region_starts, at)
            region = self._regions[i - 1] if i else None
            if region is not None and at < region.stop:
                end = min(stop, region.stop)
                extents.append(Extent(at, end - at, region.paddr + at - region.start & _U64_MAX))
            else:
                end = min([stop, *self._region_starts[i : i + 1]])
                extents += self.mapped(at, end)
            at = end
        return extents

    @property
    def page_size(self) -> int:
        """Bytes of a page."""
        return self._source.page_size

    def view_physical(self, paddr: int, nbytes: int) -> U8:
        """Return the bytes at an address that `extents` gave; see `npdump.sources.Source.view`."""
        return self._source.view(paddr, nbytes)

    def translate(self, vaddrs: U64) -> Translation:
        """Translate single addresses by the page tables, which the machine must have."""
        assert self.space.paging is not None
        return self._walk(self.space.paging, vaddrs)

    def mapped(self, vaddr: int, stop: int) -> list[Extent]:
        """Translate ``[vaddr, stop)`` by the page tables alone; otherwise as `extents`."""
        paging = self.space.paging
        if paging is None:
            return [Extent(vaddr, stop - vaddr, None)]
        fine, coarse = (level.shift for level in reversed(paging.levels[-2:]))
        # Single words of one structure are asked for one after the other, and a walk is 150 calls of NumPy.
        for shift in (coarse, fine):
            page = self._pages.get((shift, vaddr >> shift))
            if page is not None and (stop - 1) >> shift == vaddr >> shift:
                return [Extent(vaddr, stop - vaddr, page + (vaddr & (1 << shift) - 1))]
        starts = np.arange(vaddr >> coarse, -(-stop >> coarse), dtype=np.uint64) << np.uint64(coarse)
        starts[:1] = vaddr
        at = self._walk(paging, starts)
        if (at.shifts < coarse).any():
            # Some of it is mapped by single pages: translate all of those.
            small = starts[at.shifts < coarse] & ~np.uint64((1 << coarse) - 1)
            pages = (small[:, None] + (np.arange(1 << coarse - fine, dtype=np.uint64) << np.uint64(fine))).ravel()
            pages = pages[(pages >= vaddr >> fine << fine) & (pages < stop)]
            starts = np.sort(np.concatenate((starts[at.shifts >= coarse], np.maximum(pages, np.uint64(vaddr)))))
            at = self._walk(paging, starts)
        if len(starts) == 1 and at.mapped[0]:
            shift = coarse if at.shifts[0] >= coarse else fine
            if len(self._pages) >= _MAX_CACHED_TABLES:
                self._pages.clear()
            self._pages[shift, vaddr >> shift] = int(at.paddrs[0]) - (vaddr & (1 << shift) - 1)
        ends = np.append(starts[1:], np.uint64(stop))
        return _merge(starts, ends, at.paddrs, at.mapped)

    def user_extents(self, root: int, start: int, stop: int) -> list[tuple[int, int]]:
        """Return the physical address and bytes of what page tables other than the kernel's map of ``[start, stop)``.

        Only tables that are there are looked at: of most addresses nothing is mapped.

        Parameters
        ----------
        root : int
            Physical address of the top table.
        start, stop : int
            Virtual addresses.
        """
        paging = self.space.paging
        assert paging is not None
        # Addresses whose table at the level before leads on; at first all of the top table's.
        tops = np.array([start], np.uint64)
        found: list[tuple[int, int]] = []
        shift_before = paging.levels[0].shift + paging.levels[0].bits
        for level in paging.levels:
            step = np.uint64(1 << level.shift)
            inside = np.arange(1 << max(shift_before - level.shift, 0), dtype=np.uint64) * step
            vaddrs = ((tops & ~np.uint64((1 << shift_before) - 1))[:, None] + inside).ravel()
            vaddrs = vaddrs[(vaddrs + step > start) & (vaddrs < stop)]
            at = self._walk(paging, vaddrs, root)
            is_here = at.mapped & (at.shifts >= level.shift)
            for vaddr, paddr in zip(vaddrs[is_here].tolist(), at.paddrs[is_here].tolist(), strict=True):
                skip = max(start - vaddr, 0)
                found.append((paddr + skip, min(vaddr + (1 << level.shift), stop) - vaddr - skip))
            tops, shift_before = vaddrs[at.shifts < level.shift], level.shift
            if not len(tops):
                break
        return found

    def read(self, vaddr: int, nbytes: int) -> bytes:
        """Copy the bytes ``[vaddr, vaddr + nbytes)``.

        Raises
        ------
        AddressError
            If any of it is unmapped, or not in the dump.
        """
        return b"".join(self._view(extent).tobytes() for extent in self.extents(vaddr, nbytes))

    def dtype(self, kind: str) -> np.dtype:
        """Return the dtype of a number, such as ``"u4"``, in the byte order of the kernel."""
        return np.dtype(kind).newbyteorder(self.space.byte_order)

    def read_array(self, vaddr: int, dtype: np.dtype, n: int) -> np.ndarray:
        """Copy ``n`` elements of ``dtype`` that follow each other from ``vaddr`` on; raises as `read` does."""
        return np.frombuffer(self.read(vaddr, n * dtype.itemsize), dtype)

    def _read_number(self, vaddr: int, dtype: np.dtype) -> int:
        return int(self.read_array(vaddr, dtype, 1)[0])

    def read_word(self, vaddr: int) -> int:
        """Return the unsigned long at ``vaddr``; raises as `read` does."""
        return self._read_number(vaddr, self.word)

    def read_long(self, vaddr: int) -> int:
        """Return the signed long at ``vaddr``; raises as `read` does."""
        return self._read_number(vaddr, self.dtype(f"i{self.word.itemsize}"))

    def read_u32(self, vaddr: int) -> int:
        """Return the ``u32`` at ``vaddr``; raises as `read` does."""
        return self._read_number(vaddr, self.dtype("u4"))

    def read_u64(self, vaddr: int) -> int:
        """Return the ``u64`` at ``vaddr``; raises as `read` does."""
        return self._read_number(vaddr, self.dtype("u8"))

    def paddrs(self, vaddrs: U64) -> tuple[U64, Bool]:
        """Return the physical addresses of single ones, and which of them are mapped at all; each of shape (n,)."""
        paddrs, found = np.zeros(len(vaddrs), np.uint64), np.zeros(len(vaddrs), np.bool_)
        for region in self._regions:
            inside = (vaddrs >= region.start) & (vaddrs < region.stop)
            paddrs[inside] = vaddrs[inside] - np.uint64(region.start) + np.uint64(region.paddr & _U64_MAX)
            found |= inside
        rest = np.flatnonzero(~found)
        if self.space.paging is not None and len(rest):
            at = self._walk(self.space.paging, vaddrs[rest])
            paddrs[rest], found[rest] = at.paddrs, at.mapped
        return paddrs, found

    def read_words(self, vaddrs: U64) -> tuple[U64, Bool]:
        """Read many unsigned longs at once.

        Parameters
        ----------
        vaddrs : ndarray of shape (n,), dtype uint64

        Returns
        -------
        words : ndarray of shape (n,), dtype uint64
            0 where there is none.
        found : ndarray of shape (n,), dtype bool
            Whether the address is mapped, and what it is mapped to is in the dump.
        """
        paddrs, found = self.paddrs(vaddrs)
        words = np.zeros(len(vaddrs), np.uint64)
        for i in np.flatnonzero(found).tolist():
            try:
                words[i] = self._source.view(int(paddrs[i]), self.word.itemsize).view(self.word)[0]
            except AddressError:
                found[i] = False
        return words, found

    @property
    def data_nbytes(self) -> int:
        """Bytes of physical memory that are in the dump."""
        return count(self._source.data_runs) * self._source.page_size

    def read_lossy(self, vaddr: int, nbytes: int) -> tuple[U8, Runs]:
        """Copy what is there of the bytes ``[vaddr, vaddr + nbytes)``; memory is used for that alone.

        Returns
        -------
        raw : ndarray of shape (nbytes,), dtype uint8
            0 where nothing is mapped, or what is mapped is not in the dump.
        lost : ndarray of shape (k, 2), dtype int64
            The ranges of ``raw`` that are not there, half open and ascending.

        Raises
        ------
        AddressError
            If the machine has no such addresses.
        """
        raw = np.zeros(nbytes, np.uint8)
        edges = [0]
        for extent in self.extents(vaddr, nbytes):
            for at, piece in self._present(extent):
                start = extent.vaddr - vaddr + at
                raw[start : start + len(piece)] = piece
                edges += [start, start + len(piece)]
        gaps = np.array([*edges, nbytes], np.int64).reshape(-1, 2)
        return raw, gaps[gaps[:, 0] < gaps[:, 1]]

    def _present(self, extent: Extent) -> Iterator[tuple[int, U8]]:
        """Yield the pieces of an extent that are in the dump, page by page, with their distances from its start."""
        if extent.paddr is None:
            return
        page_size, runs = self._source.page_size, self._source.data_runs
        stop = extent.paddr + extent.nbytes
        first = int(np.searchsorted(runs[:, 1], extent.paddr // page_size, side="right"))
        for run_start, run_stop in (runs[first:] * page_size).tolist():
            if run_start >= stop:
                return
            at = max(run_start, extent.paddr)
            while at < min(run_stop, stop):
                nbytes = min(page_size - at % page_size, min(run_stop, stop) - at)
                with suppress(AddressError, SourceError, CodecError):
                    yield at - extent.paddr, self._source.view(at, nbytes)
                at += nbytes

    def _view(self, extent: Extent) -> U8:
        if extent.paddr is None:
            raise AddressError(f"kernel address {extent.vaddr:#x} isn't mapped in the dump's page tables")
        return self._source.view(extent.paddr, extent.nbytes)


def _merge(starts: U64, ends: U64, paddrs: U64, mapped: Bool) -> list[Extent]:
    if not len(starts):
        return []
    joined = mapped[1:] == mapped[:-1]
    joined &= ~mapped[1:] | (paddrs[1:] - paddrs[:-1] == starts[1:] - starts[:-1])
    firsts, lasts = group_edges(~joined)
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

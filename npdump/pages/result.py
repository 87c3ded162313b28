# SPDX-License-Identifier: GPL-2.0-or-later
"""What a scan found, as counts and as arrays over page frames."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from npdump.pages.colors import human
from npdump.pages.html import facts_table
from npdump.pages.policy import PageClass

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import U8, Bool
    from npdump.bitmap import Bitmap
    from npdump.pages.scan import PageScan

__all__ = ["ScanChunk", "ScanResult"]


def _pages(n: int, page_size: int) -> str:
    return f"{human(n * page_size)}, {n} pages"


@dataclass(frozen=True, slots=True)
class ScanChunk:
    """The page frames ``[pfn_start, pfn_start + n)``.

    Attributes
    ----------
    pfn_start : int
    ram : ndarray of shape (n,), dtype bool
        Pages that the dump has, or had before it was filtered.
    kept : ndarray of shape (n,), dtype bool
        Pages that stay.
    classes : ndarray of shape (n,), dtype uint8
        `PageClass` of each page; read-only where all are of one.
    """

    pfn_start: int
    ram: Bool
    kept: Bool
    classes: U8


@dataclass(frozen=True, slots=True)
class ScanResult:
    """What each page of a dump is at a dump level; pages filled with zeros are not looked for.

    Attributes
    ----------
    level : int
        The dump level that was asked for.
    trusted_level : int
        The dump level without what is in doubt: pages of those kinds are kept.
    page_size : int
        Bytes.
    max_mapnr : int
        One more than the highest page frame that was looked at.
    n_ram : int
        Pages that the dump has, or had before it was filtered.
    counts : dict of str to int
        Pages left out, by the name of their `PageClass`.
    doubts : tuple of str
        What was said about facts that are missing or in doubt.
    """

    level: int
    trusted_level: int
    page_size: int
    max_mapnr: int
    n_ram: int
    counts: dict[str, int]
    doubts: tuple[str, ...]
    _scan: PageScan = field(repr=False, compare=False)

    @classmethod
    def of(cls, scan: PageScan, page_size: int, level: int, trusted_level: int, doubts: tuple[str, ...]) -> ScanResult:
        """Go over all pages; a scan that holds all of memory at once does so a single time."""
        totals = scan.totals()
        counts = {page_class.name: int(totals.counts[page_class]) for page_class in PageClass if page_class}
        return cls(level, trusted_level, page_size, scan.max_mapnr, totals.n_ram, counts, doubts, scan)

    def chunks(self) -> Iterator[ScanChunk]:
        """Yield the page frames in ascending order, at most 32,768 at a time; where there is no memory, none.

        Each call goes over the struct pages again.

        Yields
        ------
        ScanChunk
        """
        for batch in self._scan.batches():
            kept = batch.has_data & (batch.classes == PageClass.KEPT)
            yield ScanChunk(batch.pfn_start, batch.is_ram, kept, batch.classes)

    @property
    def ram(self) -> Bool:
        """Pages that the dump has, or had before it was filtered: ndarray of shape (max_mapnr,), dtype bool."""
        return self._whole("ram")

    @property
    def kept(self) -> Bool:
        """Pages that stay: ndarray of shape (max_mapnr,), dtype bool."""
        return self._whole("kept")

    def _repr_html_(self) -> str:
        shown = {f"left out as {name}": _pages(n, self.page_size) for name, n in self.counts.items() if n}
        memory = {"level": self.level, "memory": _pages(self.n_ram, self.page_size)}
        return facts_table(memory | shown | ({"in doubt": "; ".join(self.doubts)} if self.doubts else {}))

    def _whole(self, name: str) -> Bool:
        whole = np.zeros(self.max_mapnr, np.bool_)
        for window in self._scan.windows():
            bitmap: Bitmap = getattr(window, name)
            whole[window.pfn_start : window.pfn_stop] = bitmap.get(window.pfn_start, window.pfn_stop)
        return whole

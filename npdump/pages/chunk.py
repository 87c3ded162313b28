# SPDX-License-Identifier: GPL-2.0-or-later
"""A piece of the table of struct pages."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import numpy.typing as npt

    from npdump.arrays import I64, U8, U16, Bool, Records
    from npdump.pages.policy import Trait

__all__ = ["Chunk"]


@dataclass(frozen=True)
class Chunk:
    """Consecutive page frames ``[pfn_start, pfn_stop)`` and what their struct pages say.

    Attributes
    ----------
    pfn_start, pfn_stop : int
    page_size : int
        Bytes.
    is_ram : ndarray of shape (n,), dtype bool
        The dump holds the page, or held it before it was filtered.
    is_dumped : ndarray of shape (n,), dtype bool
        Some of the page's bytes are in the file.
    records : ndarray of shape (n,), structured
        The struct pages, in the byte order of the dump; all zero where there is none.
    traits : ndarray of shape (n,), dtype uint16
        Bits of `npdump.pages.policy.Trait`.
    orders : ndarray of shape (n,), dtype uint8
        ``1 << order`` pages go together from this one on; 0 for single pages and for tails.
    classes : ndarray of shape (n,), dtype uint8
        The `PageClass` of each page at a level that leaves out every kind but zero pages.
    """

    pfn_start: int
    pfn_stop: int
    page_size: int
    is_ram: Bool
    is_dumped: Bool
    records: Records
    traits: U16
    orders: U8
    classes: U8

    def __len__(self) -> int:
        return self.pfn_stop - self.pfn_start

    @property
    def pfns(self) -> I64:
        """Page frame of each row; shape (n,), dtype int64."""
        return np.arange(self.pfn_start, self.pfn_stop)

    def column(self, name: str) -> npt.NDArray[np.uint64]:
        """Return a field of struct page in this machine's byte order.

        Parameters
        ----------
        name : str
            ``flags``, ``mapping``, ``private``, ``mapcount``, ``compound``: those of ``records.dtype``.

        Raises
        ------
        KeyError
            If the kernel has no such field, or does not tell where it is.
        """
        if name not in (self.records.dtype.names or ()):
            raise KeyError(name)
        return self.records[name].astype(np.uint64)

    def has(self, trait: Trait) -> Bool:
        """Return which pages have a trait; shape (n,), dtype bool."""
        return (self.traits & np.uint16(trait)) != 0

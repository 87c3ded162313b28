# SPDX-License-Identifier: GPL-2.0-or-later
"""What the pages of a dump, or of the running kernel, are used for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from npdump import arrays
from npdump.bitmap import Allocate, in_memory
from npdump.encode.batches import BATCH_NBYTES, batches, is_zero, read_pages
from npdump.errors import LostPage
from npdump.pages.policy import PageClass
from npdump.pages.selfcheck import checked_scan
from npdump.storage.file import page_buffer

if TYPE_CHECKING:
    from collections.abc import Iterable

    from npdump.kernel.kernel import Kernel
    from npdump.observer import Observer
    from npdump.pages.scan import PageScan
    from npdump.sources import Source

__all__ = ["MemoryUsage", "memory_usage"]

_ALL_KINDS = 31
_STAGE = "Counting pages"


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryUsage:
    """How many pages are used for what; each counts once, as the kind that would leave it out at level 31.

    Attributes
    ----------
    page_size : int
        Bytes.
    n_zero, n_cache, n_cache_private, n_user, n_free, n_unsafe : int
        Pages; those that are broken or offline are ``n_unsafe``.
    n_kernel : int
        Pages that stay at level 31.
    n_ram, n_data : int
        Pages of memory, and those that are in the dump.
    """

    page_size: int
    n_zero: int
    n_cache: int
    n_cache_private: int
    n_user: int
    n_free: int
    n_unsafe: int
    n_ram: int
    n_data: int

    @property
    def n_kernel(self) -> int:
        """Pages that stay at level 31."""
        n_excludable = self.n_zero + self.n_cache + self.n_cache_private + self.n_user + self.n_free + self.n_unsafe
        return self.n_data - n_excludable


def memory_usage(
    source: Source,
    kernel: Kernel,
    observer: Observer,
    *,
    without: Iterable[tuple[int, int]] = (),
    allocate: Allocate = in_memory,
) -> MemoryUsage:
    """Count the pages of a dump by what they are used for.

    Parameters
    ----------
    source : Source
    kernel : Kernel
    observer : Observer
    without : iterable of tuple of two int
        Physical addresses ``[start, stop)`` of memory that does not count.
    allocate : callable
        Makes room for the bitmaps.

    Raises
    ------
    FactError, AddressError, MemmapError
        If the pages cannot be told apart.
    """
    for start, stop in without:
        source = source.without(start // source.page_size, stop // source.page_size)
    scan = checked_scan(source, kernel, _ALL_KINDS, observer, allocate=allocate).scan
    n_zero = _count_zero(source, scan, partial(observer.progress, _STAGE))
    counts = scan.totals().counts
    count = {page_class: int(counts[page_class]) for page_class in PageClass}
    return MemoryUsage(
        page_size=source.page_size,
        n_zero=n_zero,
        n_cache=count[PageClass.CACHE],
        n_cache_private=count[PageClass.CACHE_PRIVATE],
        n_user=count[PageClass.USER],
        n_free=count[PageClass.FREE] + count[PageClass.UNACCEPTED],
        n_unsafe=count[PageClass.HWPOISON] + count[PageClass.OFFLINE],
        n_ram=arrays.count(source.ram_runs),
        n_data=arrays.count(source.data_runs),
    )


def _count_zero(source: Source, scan: PageScan, progress: partial[None]) -> int:
    """Count the pages of zeros among those that the scan keeps."""
    n_zero = 0
    npages = BATCH_NBYTES // source.page_size
    buffer = page_buffer(npages, source.page_size)
    for window in scan.windows():
        for batch in batches(window.kept, 0, npages):
            try:
                rows, pages = read_pages(source, batch, buffer)
            except LostPage:
                continue  # a running kernel may have taken the memory away meanwhile
            n_zero += batch.npages - len(rows) + int(is_zero(pages).sum())
            progress(int(batch.runs[-1, 1]), scan.max_mapnr)
    return n_zero

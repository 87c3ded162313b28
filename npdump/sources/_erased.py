# SPDX-License-Identifier: GPL-2.0-or-later
"""A physical memory image of which some bytes are overwritten on their way out, however it stores its pages."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from npdump.arrays import Runs, expand, intersect, join, runs_of_numbers, subtract
from npdump.sources import PageLocations

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from npdump.arrays import U8, Bool
    from npdump.sources import CompressedPages, Loss
    from npdump.sources._image import Pages
    from npdump.storage.file import FileRange

__all__ = ["FILL", "ErasePlan", "ErasedCompressedPages", "ErasedPages", "byte_runs"]

FILL = ord("X")
"""What erased bytes become, as with makedumpfile."""

NO_FLAG = 0xFFFFFFFF
"""In a page descriptor: no compression has it, so that the page is not copied as it is stored."""

_SHORT_NBYTES = 256
"""Ranges of so many bytes at most are overwritten all at once."""


def byte_runs(ranges: Iterable[tuple[int, int]]) -> Runs:
    """Return ``(paddr, nbytes)`` pairs in any order as disjoint, ascending runs of physical addresses.

    Examples
    --------
    >>> byte_runs([(8, 4), (0, 2), (10, 6)]).tolist()
    [[0, 2], [8, 16]]
    """
    runs = np.array(list(ranges), np.int64).reshape(-1, 2)
    runs[:, 1] += runs[:, 0]
    return join(runs[np.argsort(runs[:, 0], kind="stable")])


@dataclass(frozen=True, eq=False)
class ErasePlan:
    """Bytes of physical memory that a dump must not have.

    Attributes
    ----------
    filled : ndarray of shape (n, 2), dtype int64
        Physical addresses of bytes that become `FILL`; half open, ascending, disjoint.
    zeroed : ndarray of shape (m, 2), dtype int64
        Of those that become 0, whether they are in ``filled`` or not.
    text : bytes
        What the dump says about it: a line for each object.
    """

    filled: Runs
    zeroed: Runs
    text: bytes = b""

    def pfn_runs(self, page_size: int) -> Runs:
        """Return the page frames that have such bytes, as disjoint, ascending runs."""
        runs = np.concatenate((self.filled, self.zeroed))
        runs = np.column_stack((runs[:, 0] // page_size, -(-runs[:, 1] // page_size)))
        return join(runs[np.argsort(runs[:, 0], kind="stable")])

    @cached_property
    def _parts(self) -> tuple[tuple[Runs, int], ...]:
        return (subtract(self.filled, self.zeroed), FILL), (self.zeroed, 0)

    def overwrite(self, held: Runs, flat: U8) -> None:
        """Overwrite what is to be erased in a copy of memory.

        Parameters
        ----------
        held : ndarray of shape (k, 2), dtype int64
            Physical addresses.
        flat : ndarray of shape (n,), dtype uint8
            Their bytes, in order.
        """
        for erased, value in self._parts:
            _overwrite(flat, held, erased, value)

    def meets(self, held: Runs) -> bool:
        """Return whether any of these physical addresses is to be erased."""
        return any(len(intersect(held, erased)) for erased, _ in self._parts)


def _overwrite(flat: U8, held: Runs, erased: Runs, value: int) -> None:
    """Set bytes of an array that holds the bytes of some runs of addresses, one run after the other."""
    if not len(held) or not len(erased):
        return
    # As a rule a batch has nothing of it: what is out of reach is dropped first.
    first = int(np.searchsorted(erased[:, 1], held[0, 0], side="right"))
    met = intersect(held, erased[first : int(np.searchsorted(erased[:, 0], held[-1, 1], side="left"))])
    if not len(met):
        return
    lengths = held[:, 1] - held[:, 0]
    owner = np.searchsorted(held[:, 0], met[:, 0], side="right") - 1
    starts = met[:, 0] - held[owner, 0] + (np.cumsum(lengths) - lengths)[owner]
    nbytes = met[:, 1] - met[:, 0]
    is_short = nbytes <= _SHORT_NBYTES
    flat[expand(starts[is_short], nbytes[is_short])] = value
    for start, n in zip(starts[~is_short].tolist(), nbytes[~is_short].tolist(), strict=True):
        flat[start : start + n] = value


class ErasedPages:
    """Pages with bytes erased; see `npdump.sources._image.Pages`."""

    def __init__(self, pages: Pages, plan: ErasePlan, page_size: int) -> None:
        self._pages = pages
        self._plan = plan
        self._pfn_runs = plan.pfn_runs(page_size)
        self._page_size = page_size

    def view(self, paddr: int, nbytes: int) -> U8:
        """See `npdump.sources.Source.view`."""
        raw = self._pages.view(paddr, nbytes)
        held = np.array([[paddr, paddr + nbytes]], np.int64)
        if self._plan.meets(held):
            raw = raw.copy()
            self._plan.overwrite(held, raw)
        return raw

    def maybe_nonzero(self, runs: Runs) -> Runs:
        """See `npdump.sources.Source.maybe_nonzero`: a page that is erased is not zero any more."""
        found = self._pages.maybe_nonzero(runs)
        if found is runs:
            return runs
        both = np.concatenate((found, intersect(runs, self._pfn_runs)))
        return join(both[np.argsort(both[:, 0], kind="stable")])

    def file_range(self, pfn_start: int, pfn_stop: int) -> FileRange | None:
        """See `npdump.sources.Source.file_range`: what is erased stands nowhere as it is to be."""
        if len(intersect(np.array([[pfn_start, pfn_stop]], np.int64), self._pfn_runs)):
            return None
        find = getattr(self._pages, "file_range", None)
        found: FileRange | None = find and find(pfn_start, pfn_stop)
        return found

    def gather(self, runs: Runs, out: U8) -> Sequence[Loss]:
        """See `npdump.sources.Source.gather`."""
        losses = self._pages.gather(runs, out)
        self._plan.overwrite(runs * self._page_size, out.reshape(-1))
        return losses


class ErasedCompressedPages:
    """Pages as they are stored, but for those that have erased bytes; see `npdump.sources.CompressedPages`.

    Those look like pages of a compression that nobody has, each at a place of its own: so they are neither copied as
    they are stored nor taken for equal to others that share their place in the file.
    """

    def __init__(self, pages: CompressedPages, plan: ErasePlan, page_size: int) -> None:
        self._pages = pages
        self._plan = plan
        self._pfn_runs = plan.pfn_runs(page_size)

    def _are_erased(self, locations: PageLocations) -> Bool:
        pfns = locations.pfns
        if not len(pfns) or not len(self._pfn_runs):
            return np.zeros(len(pfns), np.bool_)
        i = np.searchsorted(self._pfn_runs[:, 0], pfns, side="right") - 1
        return (i >= 0) & (pfns < self._pfn_runs[i, 1])

    def locate(self, runs: Runs) -> PageLocations:
        """See `npdump.sources.CompressedPages.locate`."""
        found = self._pages.locate(runs)
        erased = self._are_erased(found)
        if not erased.any():
            return found
        return PageLocations(
            found.pfns,
            found.numbers,
            np.where(erased, -1 - found.pfns, found.offsets),
            found.nbytes,
            np.where(erased, np.uint32(NO_FLAG), found.flags),
            found.is_zero & ~erased,
        )

    def joined(self, locations: PageLocations) -> Any:
        """See `npdump.sources.CompressedPages.joined`."""
        return self._pages.joined(locations)

    def buffers(self, locations: PageLocations) -> list[memoryview]:
        """See `npdump.sources.CompressedPages.buffers`."""
        return self._pages.buffers(locations)

    def decode(self, locations: PageLocations, out: U8) -> Sequence[Loss]:
        """See `npdump.sources.CompressedPages.decode`."""
        rows = np.flatnonzero(self._are_erased(locations))
        if not len(rows):
            return self._pages.decode(locations, out)
        runs = runs_of_numbers(locations.pfns)
        losses = self._pages.decode(self._pages.locate(runs), out)
        self._plan.overwrite(runs * out.shape[1], out.reshape(-1))
        return losses

# SPDX-License-Identifier: GPL-2.0-or-later
"""Linux in a domain of Xen: it counts page frames of its own, and a table of its says which of the machine's they are.

Page tables of a paravirtual domain hold page frames of the machine, so that kernel memory is read as ever once the top
table is found; struct pages are those of the domain's own frames.

References
----------
Linux ``arch/x86/xen/p2m.c``; Xen ``xen/include/public/arch-x86/xen.h`` (pfn_to_mfn_frame_list_list).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from npdump.arrays import Runs, expand, runs_of, runs_of_numbers, unique
from npdump.errors import AddressError, FactError
from npdump.kernel.xen.crash_info import read_crash_info

if TYPE_CHECKING:
    from collections.abc import Callable

    from npdump.arch import Arch
    from npdump.arch._paging import AddressSpace
    from npdump.arrays import I64, U8, U64, Bool
    from npdump.facts import Facts
    from npdump.sources import Loss, Source

__all__ = ["NO_MFN", "PhysToMachine", "find_p2m", "in_domain"]

NO_MFN = -1

_MIN_PFNS, _PFNS_PER_MFN = 1 << 20, 16
"""A domain's page frames may have gaps, but not so many for each of the machine's."""


@dataclass(frozen=True)
class PhysToMachine:
    """A domain's table of page frames.

    Attributes
    ----------
    source : Source
        The machine's memory.
    mfns : ndarray of shape (n,), dtype int64
        The machine's page frame of each of the domain's; `NO_MFN` where it has none that is memory of the machine:
        memory that was given back, of another domain, of a device.
    """

    source: Source
    mfns: I64

    def translate(self, paddr: int) -> int:
        """Return the machine address of an address of the domain's.

        Raises
        ------
        AddressError
            If there is none.
        """
        shift = self.source.page_size.bit_length() - 1
        pfn = paddr >> shift
        mfn = int(self.mfns[pfn]) if 0 <= pfn < len(self.mfns) else NO_MFN
        if mfn == NO_MFN:
            raise AddressError(f"page frame {pfn:#x} of the domain has none of the machine's")
        return mfn << shift | paddr & (1 << shift) - 1

    @cached_property
    def frames(self) -> Source:
        """The domain's memory by its own page frames."""
        return cast("Source", DomainFrames(self))

    @cached_property
    def pfn_by_mfn(self) -> tuple[I64, I64]:
        """The machine's page frames in ascending order, and the domain's of each."""
        pfns = np.flatnonzero(self.mfns != NO_MFN)
        order = np.argsort(self.mfns[pfns], kind="stable")
        return self.mfns[pfns][order], pfns[order]

    def pfn_of(self, mfn: int) -> int | None:
        """Return the domain's page frame of one of the machine's, None if it is not the domain's."""
        mfns, pfns = self.pfn_by_mfn
        at = int(np.searchsorted(mfns, mfn))
        return int(pfns[at]) if at < len(mfns) and mfns[at] == mfn else None


class DomainFrames:
    """The memory of a domain as a source whose page frames and addresses are the domain's; see `Source`.

    What it doesn't have itself is as in the machine's source.
    """

    compressed = None

    def __init__(self, p2m: PhysToMachine) -> None:
        self._source, self._p2m = p2m.source, p2m
        self.max_mapnr = len(p2m.mfns)
        self.ram_runs: Runs = runs_of(p2m.mfns != NO_MFN)
        self.data_runs: Runs = runs_of(_are_in(self._source.data_runs, p2m.mfns))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)

    def view(self, paddr: int, nbytes: int) -> U8:
        """See `Source.view`."""
        page_size, pieces = self._source.page_size, []
        while nbytes:
            n = min(nbytes, page_size - paddr % page_size)
            pieces.append(self._source.view(self._p2m.translate(paddr), n))
            paddr, nbytes = paddr + n, nbytes - n
        return pieces[0] if len(pieces) == 1 else np.concatenate(pieces or [np.empty(0, np.uint8)])

    def maybe_nonzero(self, runs: Runs) -> Runs:
        """See `Source.maybe_nonzero`."""
        return runs

    def gather(self, runs: Runs, out: U8) -> list[Loss]:
        """See `Source.gather`."""
        mfns = self._p2m.mfns[expand(runs[:, 0], runs[:, 1] - runs[:, 0])]
        ordered = unique(mfns)
        pages = np.empty((len(ordered), self._source.page_size), np.uint8)
        at = np.searchsorted(ordered, mfns)
        losses = self._source.gather(runs_of_numbers(ordered), pages)
        out[:] = pages[at]
        return [loss._replace(row=row) for loss in losses for row in np.flatnonzero(at == loss.row).tolist()]

    def without(self, pfn_start: int, pfn_stop: int) -> DomainFrames:
        """See `Source.without`."""
        mfns = self._p2m.mfns.copy()
        mfns[pfn_start:pfn_stop] = NO_MFN
        return DomainFrames(PhysToMachine(self._source, mfns))


def in_domain(arch: Arch, find: Callable[[], PhysToMachine]) -> Arch:
    """Return the machine as a kernel in a paravirtual domain sees it; ``find`` is asked where its page frames are."""

    def space(source: Source, facts: Facts) -> AddressSpace:
        own = arch.space(source, facts)
        return own._replace(root=find().translate(own.root), regions=(), direct_map=None, image=None)

    return arch._replace(space=space)


def _are_in(runs: Runs, numbers: I64) -> Bool:
    """Return which numbers are in runs."""
    if not len(runs):
        return np.zeros(len(numbers), np.bool_)
    at = np.searchsorted(runs[:, 0], numbers, side="right") - 1
    return (at >= 0) & (numbers < runs[np.maximum(at, 0), 1])


def find_p2m(source: Source) -> PhysToMachine:
    """Find dom0's table of page frames in a dump of a Xen host.

    Raises
    ------
    FactError
        If the note doesn't say where it is (an old Xen, or a dom0 that isn't paravirtual), or it is damaged.
    """
    info = read_crash_info(source)
    if info is None or not info.frame_list_list or info.frame_list_list >= source.max_mapnr:
        raise FactError(
            f"{source.path}: Xen's note doesn't say which page frames of the machine are dom0's: only dump levels 0 "
            "and 1 are possible, and -X"
        )
    try:
        lists = _leading(_frame(source, info.frame_list_list))
        tables = np.concatenate([_leading(_frame(source, int(mfn))) for mfn in lists] or [lists])
        mfns = _read_tables(source, tables)
    except AddressError as error:
        raise FactError(f"{source.path}: dom0's table of page frames is damaged: {error}") from error
    if not (mfns != NO_MFN).any():
        raise FactError(f"{source.path}: dom0's table of page frames is empty or damaged")
    return PhysToMachine(source, mfns)


def _frame(source: Source, mfn: int) -> U64:
    if mfn >= source.max_mapnr:
        raise AddressError(f"page frame {mfn:#x} is none of the machine's")
    return source.view(mfn * source.page_size, source.page_size).view("<u8")


def _leading(words: U64) -> U64:
    """Return the words before the first 0."""
    zeros = np.flatnonzero(words == 0)
    return words[: zeros[0]] if len(zeros) else words


def _read_tables(source: Source, tables: U64) -> I64:
    """Return the page frames that tables hold one after the other, those without memory at the end left out.

    Linux has one table for all stretches without memory: each is read once.
    """
    found: dict[int, I64] = {}
    for mfn in unique(tables).tolist():
        words = _frame(source, mfn)
        mfns = np.where(words < source.max_mapnr, words, 0).astype(np.int64)
        # 0 is the machine's as well; marks of foreign and identity frames (the highest bits) are beyond it.
        mfns[(words >= source.max_mapnr) | ~_are_in(source.ram_runs, mfns)] = NO_MFN
        if (mfns != NO_MFN).any():
            found[mfn] = mfns
    used = [(i, found[mfn]) for i, mfn in enumerate(tables.tolist()) if mfn in found]
    # What a damaged list puts far beyond all memory belongs to nobody then, and stays.
    per_table = source.page_size // 8
    max_tables = max(_MIN_PFNS, _PFNS_PER_MFN * source.max_mapnr) // per_table
    used = [(i, table) for i, table in used if i < max_tables]
    mfns = np.full((used[-1][0] + 1 if used else 0) * per_table, NO_MFN, np.int64)
    for i, table in used:
        mfns[i * per_table : (i + 1) * per_table] = table
    return mfns

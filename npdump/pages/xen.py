# SPDX-License-Identifier: GPL-2.0-or-later
"""Which pages of a Xen host stay: dom0's by its struct pages, all others by what the hypervisor knows of them.

References
----------
makedumpfile 1.7.9, exclude_xen3_user_domain() and exclude_xen4_user_domain(): the same rule, but that pages of which
nothing can be read, though they should be known, are kept.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import FactError
from npdump.pages.policy import PageClass

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from npdump.arrays import I64, U8, U64, Bool, Records
    from npdump.kernel.xen.domain import PhysToMachine
    from npdump.kernel.xen.hypervisor import Hypervisor
    from npdump.pages.scan import PageScan
    from npdump.pages.window import ClassBatch
    from npdump.sources import Source

__all__ = ["DomainPages", "UserDomains", "machine_scan"]

_ALLOCATED, _XEN_HEAP, _BROKEN = np.uint64(1 << 63), np.uint64(1 << 62), np.uint64(1 << 57)
_STATE_SHIFT, _STATE_MASK = np.uint64(55), np.uint64(3)
_OFFLINED, _FREE = 2, 3
"""``page_info.count_info`` since Xen 4.0 (PGC_allocated, PGC_xen_heap, PGC_broken, PGC_state)."""

_COUNT_MASK = 0xFFFF
"""References to a page, in ``page_info.count_info`` before Xen 4.0."""

_N_SAMPLES, _SAMPLE_NPAGES = 64, 1024


class UserDomains:
    """Leaves out what belongs to neither Xen nor dom0, and what is free; see `npdump.pages.scan_context.Decide`.

    Parameters
    ----------
    hypervisor : Hypervisor

    Raises
    ------
    FactError, AddressError
        If what Xen knows of pages makes no sense.
    """

    def __init__(self, hypervisor: Hypervisor) -> None:
        self._hypervisor = hypervisor
        self._owners = hypervisor.owners
        self._check()

    def _check(self) -> None:
        """Look at a sample of the pages: most that have an owner must have one that is on the list of domains."""
        known = np.array([domain.pickled for domain in self._hypervisor.domains], np.uint64)
        path = self._hypervisor.source.path
        n_there = n_owned = n_unknown = n_own = 0
        for start, stop in self._samples():
            infos = self._hypervisor.page_infos(start, stop)
            counts, owners = infos.records["count_info"].astype(np.uint64), infos.records["owner"]
            n_there += int(np.count_nonzero(infos.exists & ~infos.is_lost))
            is_owned = infos.exists & (owners != 0)
            if self._hypervisor.has_states:
                is_owned &= counts & (_ALLOCATED | _XEN_HEAP) == _ALLOCATED
                is_owned &= counts >> _STATE_SHIFT & _STATE_MASK < _OFFLINED
            else:
                is_owned &= (counts & np.uint64(_COUNT_MASK) != 0) & self._hypervisor.are_allocated(start, stop)
            n_owned += int(np.count_nonzero(is_owned))
            n_unknown += int(np.count_nonzero(is_owned & ~np.isin(owners, known)))
            n_own += int(np.count_nonzero(is_owned & np.isin(owners, self._owners)))
        if not n_there:
            raise FactError(f"{path}: Xen's frame table isn't where VMCOREINFO_XEN and the page tables say")
        if n_unknown * 2 > n_owned or (n_owned and not n_own):
            raise FactError(f"{path}: of {n_owned} pages with an owner, {n_own} are dom0's, {n_unknown} of no domain")

    def _samples(self) -> Iterator[tuple[int, int]]:
        runs = self._hypervisor.source.ram_runs
        sizes = runs[:, 1] - runs[:, 0]
        ends = np.cumsum(sizes)
        step = max(int(ends[-1]) // _N_SAMPLES, _SAMPLE_NPAGES) if len(ends) else 1
        for at in range(0, int(ends[-1]) if len(ends) else 0, step):
            i = int(np.searchsorted(ends, at, side="right"))
            start = int(runs[i, 1]) - int(ends[i]) + at
            yield start, min(start + _SAMPLE_NPAGES, int(runs[i, 1]))

    def __call__(self, pfn_start: int, classes: U8, is_ram: Bool, has_data: Bool, records: Records | None) -> U8:
        """See `npdump.pages.scan_context.Decide`."""
        if not has_data.any():
            return classes  # headers may name a terabyte of which the file has nothing
        infos = self._hypervisor.page_infos(pfn_start, pfn_start + len(classes))
        counts, owners = infos.records["count_info"], infos.records["owner"]
        if self._hypervisor.has_states:
            found = self._by_state(counts, owners)
        else:
            found = self._by_bitmap(counts, owners, pfn_start)
        found[~infos.exists & (found != PageClass.FREE)] = PageClass.GUEST
        found[infos.is_lost] = PageClass.KEPT
        return np.where(classes == PageClass.KEPT, found, classes)

    def class_of(self, mfn: int) -> PageClass:
        """Return what one page frame is left out as."""
        known = np.ones(1, np.bool_)
        return PageClass(int(self(mfn, np.zeros(1, np.uint8), known, known, None)[0]))

    def _is_dom0(self, owners: U64) -> Bool:
        return (owners == 0) | np.isin(owners, self._owners)

    def _by_state(self, counts: U64, owners: U64) -> U8:
        state = counts >> _STATE_SHIFT & _STATE_MASK
        found = np.zeros(len(counts), np.uint8)
        found[(counts & _ALLOCATED != 0) & ~self._is_dom0(owners)] = PageClass.GUEST
        found[state == _FREE] = PageClass.FREE
        found[(state == _OFFLINED) | (counts & _BROKEN != 0)] = PageClass.HWPOISON
        found[counts & _XEN_HEAP != 0] = PageClass.KEPT
        return found

    def _by_bitmap(self, counts: U64, owners: U64, pfn_start: int) -> U8:
        pfns = np.arange(pfn_start, pfn_start + len(counts))
        is_own = (owners == 0) | (pfns < self._hypervisor.heap_mfn_stop)
        is_own |= (counts & _COUNT_MASK != 0) & self._is_dom0(owners)
        found = np.where(is_own, PageClass.KEPT, PageClass.GUEST).astype(np.uint8)
        found[~self._hypervisor.are_allocated(pfn_start, pfn_start + len(counts))] = PageClass.FREE
        return found


class DomainPages:
    """Leaves out pages of the machine that are pages of a domain, by a scan of that domain.

    Parameters
    ----------
    batches : iterable of ClassBatch
        Of the domain's own page frames.
    p2m : PhysToMachine
    """

    def __init__(self, batches: Iterable[ClassBatch], p2m: PhysToMachine) -> None:
        mfns: list[I64] = []
        classes: list[U8] = []
        for batch in batches:
            rows = np.flatnonzero((batch.classes != PageClass.KEPT) & batch.is_ram)
            mfns.append(p2m.mfns[batch.pfn_start + rows])
            classes.append(batch.classes[rows])
        order = np.argsort(np.concatenate(mfns or [np.empty(0, np.int64)]), kind="stable")
        self._mfns = np.concatenate(mfns or [np.empty(0, np.int64)])[order]
        self._classes = np.concatenate(classes or [np.empty(0, np.uint8)])[order]

    def __call__(self, pfn_start: int, classes: U8, is_ram: Bool, has_data: Bool, records: Records | None) -> U8:
        """See `npdump.pages.scan_context.Decide`."""
        first, last = np.searchsorted(self._mfns, (pfn_start, pfn_start + len(classes)))
        if first == last:
            return classes
        classes = classes.copy()
        classes[self._mfns[first:last] - pfn_start] = self._classes[first:last]
        return classes


def machine_scan(scan: PageScan, p2m: PhysToMachine, source: Source) -> PageScan:
    """Return the scan of a whole machine's memory: of one domain, as ``scan`` says, and all else is kept."""
    return scan.of_source(source).followed_by(DomainPages(scan.batches(), p2m))

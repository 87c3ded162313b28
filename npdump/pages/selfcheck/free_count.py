# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether as many pages were found free as the kernel's zones count, each of them.

More may only be found by as many as are in isolated blocks, which the kernel doesn't count. Fewer may be found for good
reasons: memory that isn't in the dump (added after the capture kernel was loaded, ``crashkernel=...,cma``, a part that
was asked for), and memory that a confidential guest hasn't accepted, which the kernel counts as free.

References
----------
Linux ``mm/page_alloc.c`` (account_freepages(), __free_unaccepted()), ``mm/page_isolation.c``, ``mm/vmstat.c`` (the
counts of each CPU), ``include/linux/mmzone.h``.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import count, intersect
from npdump.errors import AddressError, FactError
from npdump.kernel.memmap import find
from npdump.pages.free_lists import count_isolated
from npdump.pages.policy import DumpLevel, PageClass
from npdump.pages.selfcheck.findings import Finding

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npdump.kernel.kernel import Kernel
    from npdump.kernel.nodes import ZoneSpan
    from npdump.pages.window import Totals
    from npdump.sources import Source

__all__ = ["check_free_count", "edges_of"]

_SLACK = 0.02
_SLACK_NPAGES = 64
_SLACK_PER_CPU = 125 * 4
"""A CPU keeps up to 125 pages of each zone's count to itself (Linux ``mm/vmstat.c``), and doesn't stop at once."""


def check_free_count(totals: Totals, zones: Sequence[ZoneSpan], kernel: Kernel, source: Source) -> list[Finding]:
    """Hold the free pages that were found against those that the kernel's zones count, zone by zone.

    Parameters
    ----------
    totals : Totals
        Of a scan that leaves out free pages, kept apart at `edges_of` the zones.
    zones : sequence of ZoneSpan
    kernel : Kernel
    source : Source
    """
    edges = edges_of(zones)
    findings: list[Finding] = []
    for zone in zones:
        counts = totals.by_part[bisect_right(edges, zone.pfn_start)]
        n_found, n_counted = int(counts[PageClass.FREE]), zone.n_free
        slack = max(int(_SLACK * n_counted), _SLACK_NPAGES + _SLACK_PER_CPU * source.notes.n_cpus)
        where = f" from page frame {zone.pfn_start:#x} on" if len(zones) > 1 else ""
        reason = f"{n_found} pages{where} were found to be free, but the kernel counts {n_counted}"
        if n_found > n_counted + slack and n_found > n_counted + slack + _n_isolated(kernel, source):
            return [Finding(DumpLevel.FREE, reason)]
        # Where less of a zone is in the dump than is present, that may be free as well.
        n_dumped = count(intersect(source.data_runs, np.array([[zone.pfn_start, zone.pfn_stop]], np.int64)))
        n_absent = max(zone.n_present - n_dumped, 0) + int(counts[PageClass.UNACCEPTED])
        if n_found + n_absent + slack < n_counted:
            findings.append(Finding(0, reason, pages="the others"))
    return findings[:1]


def edges_of(zones: Sequence[ZoneSpan]) -> list[int]:
    """Return the page frames at which totals are to be kept apart."""
    return [edge for zone in zones for edge in (zone.pfn_start, zone.pfn_stop)]


def _n_isolated(kernel: Kernel, source: Source) -> int:
    """Return how many free pages are in isolated blocks; as many as there can be where that cannot be told."""
    try:
        memmap = find(kernel, kernel.facts.need("SIZE(page)", "to follow the free lists"), source.max_mapnr)
        return count_isolated(kernel, memmap)
    except (FactError, AddressError):
        return source.max_mapnr

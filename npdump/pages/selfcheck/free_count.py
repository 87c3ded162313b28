# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether as many pages were found free as the kernel's zones count.

More may only be found by as many as are in isolated blocks, which the kernel doesn't count. Fewer may be found for good
reasons: memory that isn't in the dump (added after the capture kernel was loaded, ``crashkernel=...,cma``, a part that
was asked for), and memory that a confidential guest hasn't accepted, which the kernel counts as free.

References
----------
Linux ``mm/page_alloc.c`` (account_freepages(), __free_unaccepted()), ``mm/page_isolation.c``, ``mm/vmstat.c`` (the
counts of each CPU), ``include/linux/mmzone.h``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump.arrays import count
from npdump.errors import AddressError, FactError
from npdump.kernel.memmap import find
from npdump.kernel.nodes import count_free, zones
from npdump.pages.free_lists import count_isolated
from npdump.pages.policy import DumpLevel, PageClass
from npdump.pages.selfcheck.findings import Finding

if TYPE_CHECKING:
    from npdump.kernel.kernel import Kernel
    from npdump.pages.window import Totals
    from npdump.sources import Source

__all__ = ["check_free_count"]

_SLACK = 0.02
_SLACK_NPAGES = 64
_SLACK_PER_CPU = 125 * 4
"""A CPU keeps up to 125 pages of each zone's count to itself (Linux ``mm/vmstat.c``), and doesn't stop at once."""


def check_free_count(totals: Totals, kernel: Kernel, source: Source) -> list[Finding]:
    """Hold the free pages that were found against those that the kernel's zones count.

    Parameters
    ----------
    totals : Totals
        Of a scan that leaves out free pages.
    kernel : Kernel
    source : Source
    """
    n_counted = count_free(kernel)
    if n_counted is None:
        return []
    n_found = int(totals.counts[PageClass.FREE])
    slack = max(int(_SLACK * n_counted), _SLACK_NPAGES + _SLACK_PER_CPU * source.notes.n_cpus)
    reason = f"{n_found} pages were found to be free, but the kernel counts {n_counted}"
    if n_found > n_counted + slack and n_found > n_counted + slack + _n_isolated(kernel, source):
        return [Finding(DumpLevel.FREE, reason)]
    n_present = _n_present(kernel)
    if n_present is None:
        return []
    n_absent = max(n_present - count(source.data_runs), 0) + int(totals.counts[PageClass.UNACCEPTED])
    if n_found + n_absent + slack < n_counted:
        return [Finding(0, reason, pages="the others")]
    return []


def _n_isolated(kernel: Kernel, source: Source) -> int:
    """Return how many free pages are in isolated blocks; as many as there can be where that cannot be told."""
    try:
        memmap = find(kernel, kernel.facts.need("SIZE(page)", "to follow the free lists"), source.max_mapnr)
        return count_isolated(kernel, memmap)
    except (FactError, AddressError):
        return source.max_mapnr


def _n_present(kernel: Kernel) -> int | None:
    """Return how many pages of memory the zones have, None if that cannot be told.

    ``present_pages`` has always followed ``spanned_pages`` (struct zone, since Linux v2.6).
    """
    try:
        offset = kernel.facts.need("OFFSET(zone.spanned_pages)", "to count the pages") + kernel.memory.word.itemsize
        return sum(kernel.memory.read_word(zone.vaddr + offset) for zone in zones(kernel))
    except (FactError, AddressError):
        return None

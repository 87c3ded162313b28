# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether as many pages were found free as the kernel counts.

References
----------
Linux ``mm/vmstat.c`` (the counts of each CPU), ``mm/page_alloc.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump.kernel.nodes import count_free
from npdump.pages.policy import DumpLevel, PageClass
from npdump.pages.selfcheck.findings import Finding

if TYPE_CHECKING:
    from npdump.kernel.kernel import Kernel
    from npdump.pages.scan import Totals

__all__ = ["check_free_count"]

_SLACK = 0.02
_SLACK_NPAGES = 64
_SLACK_PER_CPU = 125 * 4
"""A CPU keeps up to 125 pages of each zone's count to itself (Linux ``mm/vmstat.c``), and doesn't stop at once."""


def check_free_count(totals: Totals, kernel: Kernel, n_cpus: int) -> list[Finding]:
    """Hold the free pages that were found against those that the kernel's zones count.

    Parameters
    ----------
    totals : Totals
        Of a scan that leaves out free pages.
    kernel : Kernel
    n_cpus : int
    """
    n_counted = count_free(kernel)
    n_found = int(totals.counts[PageClass.FREE])
    if n_counted is None:
        return []
    slack = max(_SLACK * n_counted, _SLACK_NPAGES + _SLACK_PER_CPU * n_cpus)
    if abs(n_found - n_counted) <= slack:
        return []
    return [Finding(DumpLevel.FREE, f"{n_found} pages were found to be free, but the kernel counts {n_counted}")]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether all of the kernel's memory has struct pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump.arrays import count
from npdump.kernel.memmap import find
from npdump.pages.selfcheck.findings import Finding
from npdump.pages.unmapped import unmapped_runs

if TYPE_CHECKING:
    from npdump.kernel.kernel import Kernel
    from npdump.pages.struct_page import StructPage
    from npdump.sources import Source

__all__ = ["check_coverage"]


def check_coverage(source: Source, kernel: Kernel, page: StructPage) -> list[Finding]:
    """Look for memory that the memory map tells nothing about.

    Parameters
    ----------
    source : Source
    kernel : Kernel
    page : StructPage

    Raises
    ------
    FactError, AddressError, MemmapError
        If there is no memory map.
    """
    memmap = find(kernel, page.nbytes, source.max_mapnr)
    runs = unmapped_runs(source, kernel, memmap)
    findings = []
    if len(runs):
        first = int(runs[0, 0]) * source.page_size
        reason = f"{count(runs)} pages of memory, the first at {first:#x}, have no struct page in any memory section"
        findings.append(Finding(0, reason, pages="they"))
    if memmap.n_damaged:
        reason = f"{memmap.n_damaged} memory sections have no plausible memory map"
        findings.append(Finding(0, reason, pages="their pages"))
    return findings

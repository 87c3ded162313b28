# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether all of the kernel's memory has struct pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arrays import Runs, count, intersect, subtract
from npdump.kernel.memmap import find
from npdump.kernel.resources import system_ram
from npdump.pages.selfcheck.findings import Finding
from npdump.pages.unmapped import unmapped_runs

if TYPE_CHECKING:
    from npdump.kernel.kernel import Kernel, MemMap
    from npdump.pages.struct_page import StructPage
    from npdump.sources import Source

__all__ = ["Coverage", "check_coverage"]


class Coverage(NamedTuple):
    """What was found, and how many pages of the dump the kernel had given away before it crashed."""

    findings: list[Finding]
    n_removed: int


def check_coverage(source: Source, kernel: Kernel, page: StructPage) -> Coverage:
    """Look for memory that the memory map tells nothing about.

    Memory that was taken away after the capture kernel was loaded is no reason for doubt (virtio-mem, a DIMM): it has
    no struct pages because it is not the kernel's any longer. That its section is empty does not prove it, as with a
    wrong size of sections all may seem to be; the kernel's tree of resources does.

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
    unmapped = unmapped_runs(source, kernel, memmap)
    lost = _of_the_kernel(unmapped, source, kernel, memmap)
    findings = []
    if len(lost):
        first = int(lost[0, 0]) * source.page_size
        reason = f"{count(lost)} pages of memory, the first at {first:#x}, have no struct page in any memory section"
        findings.append(Finding(0, reason, pages="they"))
    if memmap.n_damaged:
        reason = f"{memmap.n_damaged} memory sections have no plausible memory map"
        findings.append(Finding(0, reason, pages="their pages"))
    return Coverage(findings, count(unmapped) - count(lost))


def _of_the_kernel(unmapped: Runs, source: Source, kernel: Kernel, memmap: MemMap) -> Runs:
    """Return which of some memory is RAM for the kernel; all of it, where that cannot be told."""
    if not len(unmapped):
        return unmapped
    ram = system_ram(kernel)
    if ram is None:
        return unmapped
    # A tree that does not know of the memory which has struct pages tells nothing of the rest.
    mapped = intersect(source.ram_runs, np.column_stack((memmap.pfn_starts, memmap.pfn_stops)))
    if 2 * count(intersect(mapped, ram)) <= count(mapped):
        return unmapped
    return subtract(unmapped, subtract(unmapped, ram))

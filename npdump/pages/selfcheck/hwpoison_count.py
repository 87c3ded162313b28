# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether as many pages are marked as broken memory as the kernel counts.

The kernel may count more: one mark stands for several broken pages of a huge page, and not all memory is in the dump.

References
----------
Linux ``mm/memory-failure.c`` (num_poisoned_pages, memory_failure(), soft_offline_page()).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import AddressError, FactError
from npdump.kernel.facts import kallsyms
from npdump.kernel.memmap import find
from npdump.pages.policy import PageClass
from npdump.pages.records import StructPages
from npdump.pages.selfcheck.findings import Finding
from npdump.pages.struct_page import describe

if TYPE_CHECKING:
    from npdump.kernel.kernel import Kernel
    from npdump.pages.scan import PageScan
    from npdump.sources import Source

__all__ = ["check_hwpoison_count"]

COUNT = "num_poisoned_pages"
_SLACK_NPAGES = 1
"""memory_failure() marks a page before it counts it, one at a time (mf_mutex)."""


def check_hwpoison_count(scan: PageScan, kernel: Kernel, source: Source) -> list[Finding]:
    """Hold the pages that are marked as broken against the kernel's own count, where that can be read.

    Parameters
    ----------
    scan : PageScan
    kernel : Kernel
    source : Source
    """
    n_left_out = int(scan.totals().counts[PageClass.HWPOISON])
    n_counted = _counted(kernel)
    if n_counted is None or n_left_out <= n_counted + _SLACK_NPAGES:
        return []
    n_marked = _count_marked(scan, kernel, source)
    if n_marked <= n_counted + _SLACK_NPAGES:
        return []
    reason = f"{n_marked} pages are marked as broken memory, but the kernel counts {n_counted}"
    return [Finding(0, reason, "NUMBER(PG_hwpoison)")]


def _counted(kernel: Kernel) -> int | None:
    """Return the kernel's count, None if it cannot be read."""
    memory = kernel.memory
    try:
        vaddr = kernel.facts.get(f"SYMBOL({COUNT})")
        if vaddr is None and kallsyms.is_there(kernel.facts):
            vaddr = kallsyms.read(kernel.facts, memory.read, memory.word).get(COUNT)
        return None if vaddr is None else memory.read_long(vaddr)
    except (FactError, AddressError):
        return None


def _count_marked(scan: PageScan, kernel: Kernel, source: Source) -> int:
    """Count the marked pages that are left out, without heads: a huge page goes whole, and HVO shows its head again."""
    page = describe(kernel.facts, kernel.memory.space.byte_order, kernel.arch.bits)
    struct_pages = StructPages(kernel.memory, find(kernel, page.nbytes, source.max_mapnr), page.dtype)
    n_marked = 0
    for batch in scan.batches():
        is_left_out = batch.classes == PageClass.HWPOISON
        records = struct_pages.read(batch.pfn_start, batch.pfn_stop) if is_left_out.any() else None
        if records is not None:
            flags = records["flags"].astype(np.uint64)
            is_marked = ((flags & np.uint64(page.hwpoison)) != 0) & ((flags & np.uint64(page.head)) == 0)
            n_marked += int(np.count_nonzero(is_marked & is_left_out))
    return n_marked

# SPDX-License-Identifier: GPL-2.0-or-later
"""Memory of the kernel's that has no struct pages."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import Runs, intersect, subtract
from npdump.errors import FactError
from npdump.kernel.nodes import MAX_PFN, node_spans

if TYPE_CHECKING:
    from npdump.kernel.kernel import Kernel, MemMap
    from npdump.sources import Source

__all__ = ["unmapped_runs"]

FIRMWARE_END = 1 << 32
"""Where the firmware's ROM of x86 machines ends."""


def unmapped_runs(source: Source, kernel: Kernel, memmap: MemMap) -> Runs:
    """Return the memory of the kernel's that has no struct pages.

    What lies above the kernel's nodes is no memory of the kernel's: QEMU dumps the firmware's ROM below 4 GiB, and with
    mem= the kernel doesn't use all that there is. makedumpfile leaves it out as well. Nor is what lies above the
    highest physical address that the machine's kernels take: hypervisors put the memory of devices there.

    Returns
    -------
    ndarray of shape (k, 2), dtype int64
        Page frames.
    """
    unmapped = subtract(source.ram_runs, np.column_stack((memmap.pfn_starts, memmap.pfn_stops)))
    # Firmware of x86 machines with memory above 4 GiB is within what a node spans.
    unmapped = unmapped[unmapped[:, 1] * source.page_size != FIRMWARE_END]
    if not len(unmapped):
        return unmapped
    spans = node_spans(kernel)
    if not len(spans):
        spans = np.array([[0, _pfn_limit(kernel)]], np.int64)
    return intersect(unmapped, spans)


def _pfn_limit(kernel: Kernel) -> int:
    """Return the first page frame that no kernel of the machine can have, whichever source says the most."""
    try:
        known = kernel.arch.max_physmem_bits(kernel.facts)
    except FactError:
        return MAX_PFN
    bits = max(known, kernel.facts.get("NUMBER(MAX_PHYSMEM_BITS)") or 0)
    return min((1 << bits) // kernel.page_size, MAX_PFN)

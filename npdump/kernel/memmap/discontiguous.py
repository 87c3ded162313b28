# SPDX-License-Identifier: GPL-2.0-or-later
"""DISCONTIGMEM: each NUMA node has an array of struct pages of its own (until Linux v5.14; FLATMEM with NUMA as well).

References
----------
Linux ``include/linux/mmzone.h`` (struct pglist_data) and ``include/asm-generic/memory_model.h`` in v2.6.24 to v5.13.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import AddressError, MemmapError
from npdump.kernel.kernel import Kernel, MemMap
from npdump.kernel.nodes import NODE_TABLES, nodes

if TYPE_CHECKING:
    from npdump.facts import Facts

__all__ = ["MODEL"]

_MEMBERS = ("node_start_pfn", "node_spanned_pages", "node_mem_map")


class Discontiguous:
    """See `npdump.kernel.memmap.Model`."""

    def applies(self, facts: Facts) -> bool:
        """See `npdump.kernel.memmap.Model.applies`."""
        has_nodes = any(f"SYMBOL({name})" in facts and f"LENGTH({name})" in facts for name in NODE_TABLES)
        has_maps = all(f"OFFSET(pglist_data.{name})" in facts for name in _MEMBERS)
        return has_nodes and has_maps and "SYMBOL(mem_section)" not in facts

    def find(self, kernel: Kernel, struct_nbytes: int, max_mapnr: int) -> MemMap:
        """See `npdump.kernel.memmap.Model.find`."""
        why = "to find the struct pages"
        offsets = [kernel.facts.need(f"OFFSET(pglist_data.{name})", why) for name in _MEMBERS]
        found, n_damaged = [], 0
        for node in nodes(kernel):
            try:
                start, npages, vaddr = (kernel.memory.read_word(node + offset) for offset in offsets)
            except AddressError:
                n_damaged += 1
                continue
            if not npages or start >= max_mapnr:
                continue
            if not kernel.memory.is_kernel_vaddr(vaddr):
                n_damaged += 1
                continue
            found.append((start, min(start + npages, max_mapnr), vaddr))
        found.sort()
        starts = np.array([start for start, _, _ in found], np.int64)
        stops = np.array([stop for _, stop, _ in found], np.int64)
        vaddrs = np.array([vaddr for _, _, vaddr in found], np.uint64)
        # Where nodes overlap, it can't be told which of the two struct pages is the right one: neither is used.
        firsts = np.maximum(starts, np.maximum.accumulate(np.append(0, stops))[:-1])
        lasts = np.minimum(stops, np.append(starts[1:], max_mapnr))
        good = firsts < lasts
        n_damaged += int(((firsts > starts) | (lasts < stops)).sum())
        if not good.any():
            raise MemmapError(
                "none of the kernel's nodes has a plausible memory map: the dump or its VMCOREINFO is damaged; "
                "only dump levels 0 and 1 are possible"
            )
        vaddrs += (firsts - starts).astype(np.uint64) * np.uint64(struct_nbytes)
        return MemMap(firsts[good], lasts[good], vaddrs[good], n_damaged)


MODEL = Discontiguous()

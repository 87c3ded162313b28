# SPDX-License-Identifier: GPL-2.0-or-later
"""FLATMEM: one array of struct pages for all of memory.

References
----------
Linux ``include/asm-generic/memory_model.h``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import MemmapError
from npdump.kernel.kernel import Kernel, MemMap

if TYPE_CHECKING:
    from npdump.facts import Facts

__all__ = ["MODEL"]


class Flat:
    """See `npdump.kernel.memmap.Model`."""

    def applies(self, facts: Facts) -> bool:
        """See `npdump.kernel.memmap.Model.applies`."""
        return "SYMBOL(mem_map)" in facts and "SYMBOL(mem_section)" not in facts

    def find(self, kernel: Kernel, struct_nbytes: int, max_mapnr: int) -> MemMap:
        """See `npdump.kernel.memmap.Model.find`."""
        vaddr = kernel.memory.read_word(kernel.facts.need("SYMBOL(mem_map)", "to find the struct pages"))
        if not kernel.memory.is_kernel_vaddr(vaddr):
            raise MemmapError(f"mem_map is {vaddr:#x}, which isn't a kernel address: the dump or VMCOREINFO is damaged")
        # ARCH_PFN_OFFSET: the map of a machine whose memory starts high up has nothing for what lies below.
        first_pfn = kernel.memory.space.ram_base // kernel.page_size
        return MemMap(np.array([first_pfn]), np.array([max_mapnr]), np.array([vaddr], np.uint64))


MODEL = Flat()

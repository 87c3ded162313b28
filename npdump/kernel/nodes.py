# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's NUMA nodes, as its own tables name them.

References
----------
Linux ``include/linux/mmzone.h`` (struct pglist_data) and ``kernel/crash_core.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from npdump.facts import Facts
    from npdump.kernel.memory import VirtualMemory

__all__ = ["NODE_TABLES", "find_nodes"]

NODE_TABLES = ("node_data", "pgdat_list")
"""Arrays of pointers to struct pglist_data; ia64 had the latter."""

MAX_NODES = 1 << 16


def find_nodes(facts: Facts, memory: VirtualMemory) -> list[int]:
    """Return the addresses of the nodes' struct pglist_data; none if the kernel doesn't tell.

    Raises
    ------
    AddressError
        If the table isn't in the dump.
    """
    for name in NODE_TABLES:
        table, length = facts.get(f"SYMBOL({name})"), facts.get(f"LENGTH({name})")
        if table is not None and length and 0 < length <= MAX_NODES:
            raw = memory.read(table, length * memory.word.itemsize)
            return [node for node in np.frombuffer(raw, memory.word).tolist() if node]
    single = facts.get("SYMBOL(contig_page_data)")
    return [single] if single is not None else []

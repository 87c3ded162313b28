# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's own count of its free pages, zone by zone.

References
----------
Linux ``include/linux/mmzone.h`` (struct pglist_data, struct zone) and ``mm/vmstat.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import AddressError
from npdump.kernel.nodes import find_nodes

if TYPE_CHECKING:
    from npdump.kernel.kernel import Kernel

__all__ = ["count_free"]

MAX_ZONES = 16


def count_free(kernel: Kernel) -> int | None:
    """Return how many free pages the kernel's zones count, None if that can't be told.

    References
    ----------
    Linux ``include/linux/mmzone.h`` (struct zone, vm_stat), ``mm/vmstat.c``.
    """
    facts, memory = kernel.facts, kernel.memory
    keys = (
        "OFFSET(pglist_data.node_zones)",
        "OFFSET(pglist_data.nr_zones)",
        "SIZE(zone)",
        "OFFSET(zone.vm_stat)",
        "NUMBER(NR_FREE_PAGES)",
    )
    values = [facts.get(key) for key in keys]
    if any(value is None for value in values):
        return None
    zones, nr_zones, zone_nbytes, vm_stat, which = (int(value or 0) for value in values)
    u4 = np.dtype("u4").newbyteorder(memory.word.byteorder)
    n_free = 0
    try:
        nodes = find_nodes(facts, memory)
        if not nodes:
            return None
        for node in nodes:
            count = int(np.frombuffer(memory.read(node + nr_zones, 4), u4)[0])
            if count > MAX_ZONES:
                return None
            for i in range(count):
                at = node + zones + i * zone_nbytes + vm_stat + which * memory.word.itemsize
                # A signed long: it may be a little below 0.
                value = memory.read_word(at)
                n_free += value - (1 << kernel.arch.bits) if value >> (kernel.arch.bits - 1) else value
    except AddressError:
        return None
    return n_free

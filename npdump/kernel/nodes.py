# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's NUMA nodes and their zones, as its own tables name them.

References
----------
Linux ``include/linux/mmzone.h`` (struct pglist_data, struct zone), ``kernel/crash_core.c`` and ``mm/vmstat.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from npdump.errors import AddressError, FactError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.kernel.kernel import Kernel

__all__ = ["NODE_TABLES", "Zone", "count_free", "nodes", "zones"]

NODE_TABLES = ("node_data", "pgdat_list")
"""Arrays of pointers to struct pglist_data; ia64 had the latter."""

MAX_NODES = 1 << 16

MAX_ZONES = 16
"""Linux has up to 6 (enum zone_type)."""


class Zone(NamedTuple):
    """A zone: ``vaddr`` is the address of its struct zone, ``node_vaddr`` that of its node's struct pglist_data."""

    vaddr: int
    node_vaddr: int


def nodes(kernel: Kernel) -> list[int]:
    """Return the addresses of the nodes' struct pglist_data; none if the kernel does not tell.

    Raises
    ------
    AddressError
        If the table is not in the dump.
    """
    facts, memory = kernel.facts, kernel.memory
    for name in NODE_TABLES:
        table, length = facts.get(f"SYMBOL({name})"), facts.get(f"LENGTH({name})")
        if table is not None and length and 0 < length <= MAX_NODES:
            return [node for node in memory.read_array(table, memory.word, length).tolist() if node]
    single = facts.get("SYMBOL(contig_page_data)")
    return [single] if single is not None else []


def zones(kernel: Kernel) -> Iterator[Zone]:
    """Yield the zones of all nodes, those without memory too.

    Raises
    ------
    FactError
        If the kernel does not tell where a node has its zones, or a node has more than any kernel.
    AddressError
        If a node is not in the dump.
    """
    facts, why = kernel.facts, "to find the zones"
    first = facts.need("OFFSET(pglist_data.node_zones)", why)
    nr_zones = facts.need("OFFSET(pglist_data.nr_zones)", why)
    nbytes = facts.need("SIZE(zone)", why)
    for node in nodes(kernel):
        n_zones = kernel.memory.read_u32(node + nr_zones)
        if n_zones > MAX_ZONES:
            raise FactError(f"the node at {node:#x} would have {n_zones} zones: the dump or its VMCOREINFO is damaged")
        for i in range(n_zones):
            yield Zone(node + first + i * nbytes, node)


def count_free(kernel: Kernel) -> int | None:
    """Return how many free pages the kernel's zones count, None if that cannot be told.

    A zone's count is a signed long, which may be a little below 0.
    """
    word = kernel.memory.word
    try:
        vm_stat = kernel.facts.need("OFFSET(zone.vm_stat)", "to count the free pages")
        offset = vm_stat + kernel.facts.need("NUMBER(NR_FREE_PAGES)", "to count the free pages") * word.itemsize
        counts = [kernel.memory.read_long(zone.vaddr + offset) for zone in zones(kernel)]
    except (FactError, AddressError):
        return None
    return sum(counts) if counts else None

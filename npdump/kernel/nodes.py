# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's NUMA nodes and their zones, as its own tables name them.

References
----------
Linux ``include/linux/mmzone.h`` (struct pglist_data, struct zone), ``kernel/crash_core.c`` and ``mm/vmstat.c``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arrays import join
from npdump.errors import AddressError, FactError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import Runs
    from npdump.kernel.kernel import Kernel

__all__ = ["NODE_TABLES", "Zone", "ZoneSpan", "node_spans", "nodes", "zone_spans", "zones"]

NODE_TABLES = ("node_data", "pgdat_list")
"""Arrays of pointers to struct pglist_data; ia64 had the latter."""

MAX_NODES = 1 << 16

MAX_PFN = 1 << 52
"""Half-open bound: no machine addresses more, in pages of 4 KiB."""

MAX_ZONES = 16
"""Linux has up to 6 (enum zone_type)."""


class Zone(NamedTuple):
    """A zone: ``vaddr`` is the address of its struct zone, ``node_vaddr`` that of its node's struct pglist_data."""

    vaddr: int
    node_vaddr: int


class ZoneSpan(NamedTuple):
    """The page frames ``[pfn_start, pfn_stop)``, holes included, of one or more zones, and how many of them there are.

    ``n_present`` are memory, ``n_free`` are free by the kernel's own count.
    """

    pfn_start: int
    pfn_stop: int
    n_present: int
    n_free: int


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


def node_spans(kernel: Kernel) -> Runs:
    """Return the page frames that the nodes span, holes included; none if the kernel does not tell, or not plausibly.

    Returns
    -------
    ndarray of shape (k, 2), dtype int64
        Disjoint, ascending.
    """
    facts, why = kernel.facts, "to find what the nodes span"
    try:
        start = facts.need("OFFSET(pglist_data.node_start_pfn)", why)
        spanned = facts.need("OFFSET(pglist_data.node_spanned_pages)", why)
        found = [
            (kernel.memory.read_word(node + start), kernel.memory.read_word(node + spanned)) for node in nodes(kernel)
        ]
    except (FactError, AddressError):
        return np.empty((0, 2), np.int64)
    if any(first + npages >= MAX_PFN for first, npages in found):
        return np.empty((0, 2), np.int64)
    return join(np.array(sorted((first, first + npages) for first, npages in found if npages), np.int64).reshape(-1, 2))


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


def zone_spans(kernel: Kernel) -> list[ZoneSpan] | None:
    """Return what the zones span and count, ascending, None if it cannot be told.

    Zones that overlap (ZONE_MOVABLE may be within another) are taken together. Where zones begin is not exported; it
    precedes ``spanned_pages`` (with ``managed_pages`` between since Linux 9feedc9d831e, v3.9), and is believed if the
    zones begin and end with their nodes. Otherwise all zones are one span.

    A zone's count of free pages is a signed long, which may be a little below 0.
    """
    memory, nbytes = kernel.memory, kernel.memory.word.itemsize
    why = "to count the free pages"
    try:
        spanned = kernel.facts.need("OFFSET(zone.spanned_pages)", why)
        vm_stat = kernel.facts.need("OFFSET(zone.vm_stat)", why)
        n_free = vm_stat + kernel.facts.need("NUMBER(NR_FREE_PAGES)", why) * nbytes
        populated = [zone for zone in zones(kernel) if memory.read_word(zone.vaddr + spanned)]
        # present_pages has always followed spanned_pages (struct zone, since Linux v2.6).
        counts = [
            (memory.read_word(zone.vaddr + spanned + nbytes), memory.read_long(zone.vaddr + n_free))
            for zone in populated
        ]
        bounds = next(
            (found for back in (2, 1) if (found := _bounds(kernel, populated, spanned, back * nbytes))),
            [(0, MAX_PFN)] * len(populated),
        )
    except (FactError, AddressError):
        return None
    spans: list[ZoneSpan] = []
    for (start, stop), (present, free) in sorted(zip(bounds, counts, strict=True)):
        if spans and start < spans[-1].pfn_stop:
            last = spans.pop()
            start, stop = last.pfn_start, max(stop, last.pfn_stop)
            present, free = present + last.n_present, free + last.n_free
        spans.append(ZoneSpan(start, stop, present, free))
    return spans or None


def _bounds(kernel: Kernel, populated: list[Zone], spanned: int, back: int) -> list[tuple[int, int]] | None:
    """Return the page frames of zones that begin as the word ``back`` bytes before ``spanned_pages`` says, if so."""
    memory, why = kernel.memory, "to tell the zones apart"
    node_start, node_spanned = (
        kernel.facts.need(f"OFFSET(pglist_data.{name})", why) for name in ("node_start_pfn", "node_spanned_pages")
    )
    bounds = []
    by_node: dict[int, list[tuple[int, int]]] = {}
    for zone in populated:
        start = memory.read_word(zone.vaddr + spanned - back)
        bounds.append((start, start + memory.read_word(zone.vaddr + spanned)))
        by_node.setdefault(zone.node_vaddr, []).append(bounds[-1])
    for node, spans in by_node.items():
        first = memory.read_word(node + node_start)
        stop = first + memory.read_word(node + node_spanned)
        if min(spans)[0] != first or max(end for _, end in spans) != stop or stop > MAX_PFN:
            return None
    return bounds

# SPDX-License-Identifier: GPL-2.0-or-later
"""Parts of physical memory that have a name: nodes, zones, sections.

References
----------
Linux ``include/linux/mmzone.h`` (struct pglist_data, struct zone).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from npdump.errors import AddressError, FactError
from npdump.kernel.nodes import nodes, zones

if TYPE_CHECKING:
    from npdump.kernel.facts.types import Types
    from npdump.kernel.kernel import Kernel

__all__ = ["Area", "node_areas", "section_areas", "zone_areas"]

_NAME_NBYTES = 16
"""Room for the longest name of a zone, and more."""


class Area(NamedTuple):
    """The page frames ``[pfn_start, pfn_stop)``, as the kernel names them; not all of them need be memory."""

    name: str
    pfn_start: int
    pfn_stop: int


def node_areas(kernel: Kernel) -> list[Area]:
    """Return the nodes.

    Raises
    ------
    FactError, AddressError
        If the kernel does not tell where they are, or they are not in the dump.
    """
    why = "to tell the nodes apart"
    start, spanned, number = (
        kernel.facts.need(f"OFFSET(pglist_data.{name})", why)
        for name in ("node_start_pfn", "node_spanned_pages", "node_id")
    )
    found = []
    for node in nodes(kernel):
        first = kernel.memory.read_word(node + start)
        found.append(
            Area(
                f"node {kernel.memory.read_u32(node + number)}",
                first,
                first + kernel.memory.read_word(node + spanned),
            )
        )
    if not found:
        raise FactError("VMCOREINFO does not tell where the nodes are: neither node_data nor contig_page_data is there")
    return found


def zone_areas(kernel: Kernel, types: Types | None) -> list[Area]:
    """Return the zones that span any pages.

    Raises
    ------
    FactError, AddressError
        If the kernel does not tell where they are, or they are not in the dump.
    """
    zone = types.structs.get("zone") if types is not None else None
    if zone is None or not {"zone_start_pfn", "spanned_pages", "name"} <= zone.members.keys():
        raise FactError("the kernel has no types of its own that tell where zones begin: give -x VMLINUX")
    start, spanned, name = (zone.members[key].offset for key in ("zone_start_pfn", "spanned_pages", "name"))
    number = kernel.facts.get("OFFSET(pglist_data.node_id)")
    memory = kernel.memory
    found = []
    for vaddr, node in zones(kernel):
        npages = memory.read_word(vaddr + spanned)
        if npages:
            first = memory.read_word(vaddr + start)
            node_id = memory.read_u32(node + number) if number is not None else 0
            found.append(Area(f"node {node_id} {_name(kernel, vaddr + name)}", first, first + npages))
    if not found:
        raise FactError("VMCOREINFO does not tell where the zones are: neither node_data nor contig_page_data is there")
    return found


def _name(kernel: Kernel, pointer: int) -> str:
    try:
        raw = kernel.memory.read(kernel.memory.read_word(pointer), _NAME_NBYTES)
    except AddressError:
        return "zone"
    text = raw.partition(b"\0")[0].decode("ascii", "replace")
    return text if text.isprintable() and text else "zone"


def section_areas(max_mapnr: int, section_npages: int) -> list[Area]:
    """Return the sections of sparse memory below a page frame."""
    return [
        Area(f"section {start // section_npages}", start, min(start + section_npages, max_mapnr))
        for start in range(0, max_mapnr, section_npages)
    ]

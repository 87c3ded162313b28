# SPDX-License-Identifier: GPL-2.0-or-later
"""What physical memory is RAM for the kernel, as its own tree of resources says (what /proc/iomem shows).

Memory that is taken away while the kernel runs (virtio-mem, a DIMM) leaves that tree (``try_remove_memory()``), as its
struct pages go. The program headers of a dump may still have it: they are made when the capture kernel is loaded.

References
----------
Linux ``kernel/resource.c``, ``include/linux/ioport.h``, ``mm/memory_hotplug.c`` and ``mm/sparse.c``
(section_deactivate()).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arrays import join
from npdump.errors import AddressError, FactError
from npdump.kernel.probe import embedded_types

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import Runs
    from npdump.kernel.facts.types import Types
    from npdump.kernel.kernel import Kernel

__all__ = ["system_ram"]

SYSTEM_RAM = 0x81000000
"""Flags in ``resource.flags`` (Linux IORESOURCE_SYSRAM, 9babd5c8caa6, v4.6, and IORESOURCE_BUSY), as
walk_system_ram_range() looks for. Without the latter it is a range that virtio-mem may add memory in."""

MAX_RESOURCES = 1 << 14
"""Machines have some hundreds to thousands."""

_MEMBERS = ("start", "end", "flags", "sibling", "child")


class _Resource(NamedTuple):
    """A struct resource; ``end`` is its last byte."""

    start: int
    end: int
    flags: int
    sibling: int
    child: int


def system_ram(kernel: Kernel) -> Runs | None:
    """Return the page frames that are RAM for the kernel, None if it cannot be told.

    Parameters
    ----------
    kernel : Kernel

    Returns
    -------
    ndarray of shape (k, 2), dtype int64
        Disjoint, ascending; frames of which only a part is RAM are among them.
    """
    try:
        own = embedded_types(kernel)
        if own is None or "iomem_resource" not in own[0]:
            return None
        found = [
            (resource.start // kernel.page_size, resource.end // kernel.page_size + 1)
            for resource in _resources(kernel, own[0]["iomem_resource"], own[1])
            if resource.flags & SYSTEM_RAM == SYSTEM_RAM and resource.start <= resource.end < 1 << 63
        ]
    except (FactError, AddressError):
        return None
    return join(np.array(sorted(found), np.int64).reshape(-1, 2))


def _resources(kernel: Kernel, root: int, types: Types) -> Iterator[_Resource]:
    """Yield a resource and all that are within it; raises FactError or AddressError if the tree is damaged."""
    struct = types.structs.get("resource")
    if struct is None or not struct.members.keys() >= set(_MEMBERS):
        raise FactError("the kernel's own types lack struct resource")
    members = [struct.members[name] for name in _MEMBERS]
    order = "big" if kernel.memory.word.byteorder == ">" else "little"
    waiting, seen = [root], set[int]()
    while waiting:
        vaddr = waiting.pop()
        if vaddr in seen or len(seen) >= MAX_RESOURCES:
            raise FactError(f"the kernel's resources go round in a circle at {vaddr:#x}")
        seen.add(vaddr)
        raw = kernel.memory.read(vaddr, struct.nbytes)
        resource = _Resource(
            *(int.from_bytes(raw[at.offset : at.offset + at.nbytes], order) for at in members)  # type: ignore[arg-type]
        )
        waiting += [link for link in (resource.sibling, resource.child) if link]
        yield resource

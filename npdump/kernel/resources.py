# SPDX-License-Identifier: GPL-2.0-or-later
"""What physical memory is RAM for the kernel, as its own tree of resources says (what /proc/iomem shows).

Memory that is taken away while the kernel runs (virtio-mem, a DIMM) leaves that tree (``try_remove_memory()``), as its
struct pages go. The program headers of a dump may still have it: they are made when the capture kernel is loaded.

Kernels that carry their own symbols and types (v6.0 on, BTF and the symbols of data) say where the tree is. In others
its root is looked for in the kernel's data, near a variable that VMCOREINFO names: no other words there are like it.

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
    from npdump.kernel.kernel import Kernel

__all__ = ["system_ram"]

SYSTEM_RAM = 0x81000000
"""Flags in ``resource.flags`` (Linux IORESOURCE_SYSRAM, 9babd5c8caa6, v4.6, and IORESOURCE_BUSY), as
walk_system_ram_range() looks for. Without the latter it is a range that virtio-mem may add memory in."""

MAX_RESOURCES = 1 << 14
"""Machines have some hundreds to thousands."""

_MEMBERS = ("start", "end", "flags", "sibling", "child")
_WORD_NBYTES = 8
_STRUCT_NWORDS = 8
_PLACES = tuple((word * _WORD_NBYTES, _WORD_NBYTES) for word in (0, 1, 3, 6, 7))
"""Where `_MEMBERS` are in struct resource on 64-bit machines, and their sizes, from Linux 43ee493bde78, v4.6, on."""

_ROOT_NAME = b"PCI mem\0"
_ROOT_FLAGS = 0x200
"""Linux IORESOURCE_MEM."""

_MIN_ROOT_END = (1 << 32) - 1
"""The root ends where physical addresses do, which is one less than a power of 2."""

_SEARCH_NBYTES = 1 << 20
_N_SEARCHES = 64
"""The data of a kernel's image is some MiB; one piece of memory after the other is looked at, the nearest first."""


class _Resource(NamedTuple):
    """A struct resource; ``end`` is its last byte."""

    start: int
    end: int
    flags: int
    sibling: int
    child: int


class _Tree(NamedTuple):
    """Where the tree begins, and the offset and size of each of `_MEMBERS` in a struct of ``nbytes``."""

    root: int
    nbytes: int
    places: tuple[tuple[int, int], ...]


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
        tree = _named_tree(kernel) or _searched_tree(kernel)
        if tree is None:
            return None
        found = [
            (resource.start // kernel.page_size, resource.end // kernel.page_size + 1)
            for resource in _resources(kernel, tree)
            if resource.flags & SYSTEM_RAM == SYSTEM_RAM and resource.start <= resource.end < 1 << 63
        ]
    except (FactError, AddressError):
        return None
    return join(np.array(sorted(found), np.int64).reshape(-1, 2))


def _named_tree(kernel: Kernel) -> _Tree | None:
    """Return the tree that the kernel's own symbols name, None if they don't."""
    own = embedded_types(kernel)
    if own is None or "iomem_resource" not in own[0]:
        return None
    struct = own[1].structs.get("resource")
    if struct is None or not struct.members.keys() >= set(_MEMBERS):
        raise FactError("the kernel's own types lack struct resource")
    members = [struct.members[name] for name in _MEMBERS]
    return _Tree(own[0]["iomem_resource"], struct.nbytes, tuple((at.offset, at.nbytes) for at in members))


def _searched_tree(kernel: Kernel) -> _Tree | None:
    """Return the tree whose root is found in the kernel's data, None if there is none there."""
    near = kernel.facts.get("SYMBOL(init_uts_ns)")
    if near is None or kernel.arch.bits != 8 * _WORD_NBYTES:
        return None
    for i in range(_N_SEARCHES):
        # 0, -1, 1, -2, … pieces away; each overlaps the next by a struct.
        piece = near // _SEARCH_NBYTES + (i // 2 if i % 2 == 0 else -(i // 2) - 1)
        try:
            root = _root_in(kernel, piece * _SEARCH_NBYTES, _SEARCH_NBYTES + _STRUCT_NWORDS * _WORD_NBYTES)
        except AddressError:
            continue
        if root is not None:
            return _Tree(root, _STRUCT_NWORDS * _WORD_NBYTES, _PLACES)
    return None


def _root_in(kernel: Kernel, vaddr: int, nbytes: int) -> int | None:
    """Return the address of the root of the tree, if it is in a piece of the kernel's memory."""
    memory = kernel.memory
    words = memory.read_lossy(vaddr, nbytes)[0].view(memory.word).astype(np.uint64)
    start, end, name, flags, desc, parent, sibling, child = (
        words[i : len(words) - _STRUCT_NWORDS + 1 + i] for i in range(_STRUCT_NWORDS)
    )
    is_like = (start == 0) & (flags == _ROOT_FLAGS) & (end >= _MIN_ROOT_END) & ((end & (end + np.uint64(1))) == 0)
    is_like &= ((desc | parent | sibling) == 0) & (name != 0) & (child != 0)
    for row in np.flatnonzero(is_like).tolist():
        root = vaddr + row * _WORD_NBYTES
        try:
            is_named = memory.read(int(name[row]), len(_ROOT_NAME)) == _ROOT_NAME
            if is_named and memory.read_word(int(child[row]) + 5 * _WORD_NBYTES) == root:
                return root
        except AddressError:
            continue
    return None


def _resources(kernel: Kernel, tree: _Tree) -> Iterator[_Resource]:
    """Yield a resource and all that are within it; raises FactError or AddressError if the tree is damaged."""
    order = "big" if kernel.memory.word.byteorder == ">" else "little"
    waiting, seen = [tree.root], set[int]()
    while waiting:
        vaddr = waiting.pop()
        if vaddr in seen or len(seen) >= MAX_RESOURCES:
            raise FactError(f"the kernel's resources go round in a circle at {vaddr:#x}")
        seen.add(vaddr)
        raw = kernel.memory.read(vaddr, tree.nbytes)
        resource = _Resource(
            *(int.from_bytes(raw[at : at + nbytes], order) for at, nbytes in tree.places)  # type: ignore[arg-type]
        )
        waiting += [link for link in (resource.sibling, resource.child) if link]
        yield resource

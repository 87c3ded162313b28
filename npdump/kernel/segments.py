# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's addresses of physical memory, for dumps whose producer did not tell them.

ELF dumps of kdump name them: a segment for the kernel's image, where it is not in the direct map, then the direct map
(Linux ``kernel/crash_core.c``, crash_prepare_elf64_headers()). gdb reads nothing without them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arch._paging import Region
from npdump.errors import FactError

if TYPE_CHECKING:
    from npdump.arrays import U64, Records
    from npdump.kernel.memory import VirtualMemory
    from npdump.sources import Source

__all__ = ["NO_VADDR", "with_kernel_vaddrs"]

NO_VADDR = (1 << 64) - 1
"""Stands for the address of memory that the kernel does not map all the time (i386 highmem)."""

_U64 = 1 << 64
_MAX_PADDR = 1 << 62
_N_SAMPLES = 64


def with_kernel_vaddrs(source: Source, memory: VirtualMemory) -> Records:
    """Return a source's segments with the kernel's addresses.

    Parameters
    ----------
    source : Source
    memory : VirtualMemory

    Returns
    -------
    ndarray of dtype npdump.sources.SEGMENT
        The kernel's image, if it has addresses of its own, and then all memory, cut where the direct map ends.

    Raises
    ------
    FactError
        If the direct map cannot be found.
    """
    direct_map = memory.space.direct_map or _find_direct_map(source, memory)
    image = _find_image(memory)
    segments = source.segments
    low, high = _paddrs(direct_map)
    inside = _clipped(segments, low, high)
    inside["vaddr"] = inside["paddr"] + np.uint64((direct_map.start - direct_map.paddr) % _U64)
    outside = np.concatenate((_clipped(segments, 0, low), _clipped(segments, high, _MAX_PADDR)))
    outside["vaddr"] = NO_VADDR
    ram = np.concatenate((inside, outside))
    ram = ram[np.argsort(ram["paddr"], kind="stable")]
    if image is None:
        return ram
    text = _clipped(segments, *_paddrs(image))
    text["vaddr"] = text["paddr"] + np.uint64((image.start - image.paddr) % _U64)
    return np.concatenate((text, ram))


def _paddrs(region: Region) -> tuple[int, int]:
    """Return the physical addresses ``[low, high)`` of a region; those that it would put below 0 do not count."""
    low = region.paddr % _U64
    if low >= _MAX_PADDR:
        low -= _U64
    return max(low, 0), min(max(low + region.stop - region.start, 0), _MAX_PADDR)


def _clipped(segments: Records, low: int, high: int) -> Records:
    """Return the parts of segments that are in ``[low, high)``."""
    paddr, filesz, memsz = (segments[name].astype(np.int64) for name in ("paddr", "filesz", "memsz"))
    start, stop = np.maximum(paddr, low), np.minimum(paddr + memsz, high)
    used = start < stop
    clipped = segments[used]
    clipped["paddr"], clipped["memsz"] = start[used], (stop - start)[used]
    clipped["filesz"] = np.clip(np.minimum(paddr + filesz, high) - start, 0, None)[used]
    clipped["offset"] += (start - paddr)[used].astype(np.uint64)
    return clipped


def _find_image(memory: VirtualMemory) -> Region | None:
    """Return what the page tables map of the kernel's image."""
    image = memory.space.image
    if image is None or memory.space.paging is None:
        return image
    found = [
        extent
        for extent in memory.mapped(image.start, image.stop)
        if extent.paddr is not None and (extent.paddr - image.paddr - extent.vaddr + image.start) % _U64 == 0
    ]
    if not found:
        return None
    # Holes are what the kernel gave back after it had started; kdump names the image as a whole, too.
    start, stop = found[0].vaddr, found[-1].vaddr + found[-1].nbytes
    return Region(start, stop, (image.paddr + start - image.start) % _U64)


def _find_direct_map(source: Source, memory: VirtualMemory) -> Region:
    """Find the direct map in the page tables: on x86 and ARM, nothing of the kernel has lower addresses."""
    start = _lowest_mapped(memory)
    paddr = None if start is None else memory.mapped(start, start + 1)[0].paddr
    if start is None or paddr is None:
        raise FactError("the page tables map no memory, so that its kernel addresses can't be told")
    stop_paddr = source.max_mapnr * source.page_size
    if memory.word.itemsize == 4:
        return Region(start, _linear_stop(memory, start, paddr), paddr)
    offset = start - paddr
    direct_map = Region(start, offset + stop_paddr, paddr)
    segments = source.segments[:: -(-len(source.segments) // _N_SAMPLES)]
    edges = np.concatenate((segments["paddr"], segments["paddr"] + segments["memsz"] - np.uint64(1)))
    for edge in edges.tolist():
        found = memory.mapped(offset + edge, offset + edge + 1)[0].paddr if edge >= paddr else None
        if found not in (None, edge):
            raise FactError(f"the page tables map memory from {start:#x} on, but not in one piece: where is it from?")
    return direct_map


def _linear_stop(memory: VirtualMemory, start: int, paddr: int) -> int:
    """Return the end of the direct map of a 32-bit kernel: highmem, after it, has no addresses."""
    stop = start
    for extent in memory.mapped(start, (1 << 32) - 1):
        if extent.paddr is None:
            continue
        if extent.paddr - paddr != extent.vaddr - start:
            break
        stop = extent.vaddr + extent.nbytes
    return stop


def _lowest_mapped(memory: VirtualMemory) -> int | None:
    """Return the kernel's lowest address that the page tables map."""
    paging, n_bits = memory.space.paging, memory.word.itemsize * 8
    if paging is None:
        return None
    top = paging.levels[0]
    # Addresses of 64-bit kernels are sign-extended: the lower half of the top table isn't theirs.
    lowest = _U64 - (1 << top.shift + top.bits - 1) if n_bits == 64 else 0
    return _lowest_in(memory, 0, max(memory.space.lowest_vaddr, lowest), 1 << n_bits)


def _lowest_in(memory: VirtualMemory, depth: int, start: int, stop: int) -> int | None:
    paging = memory.space.paging
    assert paging is not None
    shift = paging.levels[depth].shift
    vaddrs: U64 = np.arange(start >> shift, -(-stop >> shift), dtype=np.uint64) << np.uint64(shift)
    found = memory.translate(vaddrs)
    for i in np.flatnonzero(found.mapped | (found.shifts < shift)).tolist():
        if found.mapped[i]:
            return int(vaddrs[i])
        lower = _lowest_in(memory, depth + 1, int(vaddrs[i]), int(vaddrs[i]) + (1 << shift))
        if lower is not None:
            return lower
    return None

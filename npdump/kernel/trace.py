# SPDX-License-Identifier: GPL-2.0-or-later
"""What is said of a dump and its kernel to who looks for a fault, in makedumpfile's words.

kdump-save of openSUSE reads OSRELEASE and CRASHTIME out of them (``--message-level 8 --dump-dmesg``).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from npdump.kernel.kernel import Kernel
    from npdump.sources import Source

__all__ = ["of_kernel", "of_source"]

_MAX_SEGMENTS = 256
_MAX_VMCOREINFO_NBYTES = 1 << 16
_U64_MASK = (1 << 64) - 1


def of_source(source: Source) -> str:
    """Return a dump's segments and its VMCOREINFO.

    References
    ----------
    makedumpfile 1.7.9: elf_info.c, get_pt_load(); makedumpfile.c, read_vmcoreinfo_basic_info().
    """
    lines = [f"{'phys_start':>25} {'phys_end':>16} {'virt_start':>16} {'virt_end':>16}"]
    for i, segment in enumerate(source.segments[:_MAX_SEGMENTS]):
        paddr, vaddr, memsz = (int(segment[name]) for name in ("paddr", "vaddr", "memsz"))
        ends = (paddr + memsz & _U64_MASK, vaddr, vaddr + memsz & _U64_MASK)
        lines.append(f"LOAD[{i:2}] {paddr:16x} {' '.join(f'{end:16x}' for end in ends)}")
    if len(source.segments) > _MAX_SEGMENTS:
        lines.append(f"and {len(source.segments) - _MAX_SEGMENTS} more")
    if source.notes.vmcoreinfo is not None:
        text = bytes(source.notes.vmcoreinfo[:_MAX_VMCOREINFO_NBYTES]).decode("ascii", "backslashreplace")
        lines += ["VMCOREINFO   :", *(f"  {line}" for line in text.rstrip("\n\0").split("\n"))]
    return "\n".join(lines)


def of_kernel(source: Source, kernel: Kernel) -> str:
    """Return where the kernel's image and its map of all memory begin."""
    lines = [f"phys_base    : {kernel.arch.phys_base(source, kernel.facts) & _U64_MASK:x}"]
    page_offset = _page_offset(source, kernel)
    if page_offset is not None:
        lines.append(f"page_offset  : {page_offset & (1 << kernel.arch.bits) - 1:x}")
    lines.append(f"max_mapnr    : {source.max_mapnr:x}")
    return "\n".join(lines)


def _page_offset(source: Source, kernel: Kernel) -> int | None:
    """Return the kernel address of physical address 0."""
    space = kernel.memory.space
    if space.direct_map is not None:
        return space.direct_map.start - space.direct_map.paddr
    # Where only the page tables know it, segments do as well; the kernel's image is mapped above all memory.
    offsets = [
        int(segment["vaddr"]) - int(segment["paddr"])
        for segment in source.segments[:_MAX_SEGMENTS]
        if segment["vaddr"] >= space.lowest_vaddr
    ]
    return min(offsets, default=None)

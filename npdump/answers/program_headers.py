# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether the program headers of an ELF file are right where npdump does not need them, and other programs do."""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import NpdumpError
from npdump.kernel.segments import NO_VADDR
from npdump.layouts import elf

if TYPE_CHECKING:
    from npdump.arrays import Records
    from npdump.kernel.kernel import Kernel
    from npdump.sources import Source
    from npdump.storage import Storage

__all__ = ["are_beyond_the_file", "program_headers", "segments_disagree", "vaddrs_disagree"]

_BATCH_NBYTES = 1 << 20


def program_headers(source: Source, storage: Storage) -> Records:
    """Return the program headers as the file has them; none if they are not of the usual size and number."""
    ehdr_dtype = elf.EHDR[source.header.bits].newbyteorder(source.header.byte_order)
    ehdr = np.frombuffer(storage.read(0, ehdr_dtype.itemsize), ehdr_dtype)[0]
    dtype = elf.PHDR[source.header.bits].newbyteorder(source.header.byte_order)
    n, at, stride = (int(ehdr[name]) for name in ("e_phnum", "e_phoff", "e_phentsize"))
    if n == elf.PN_XNUM or stride != dtype.itemsize:
        return np.empty(0, dtype)
    return np.frombuffer(storage.read(at, n * stride), dtype)


def are_beyond_the_file(source: Source, storage: Storage) -> bool:
    """Return whether a segment names bytes that are not in the file, or more of them than it has of memory."""
    headers = program_headers(source, storage)
    stops = headers["p_offset"].astype(object) + headers["p_filesz"].astype(object)
    is_more = (headers["p_filesz"] > headers["p_memsz"]) & (headers["p_memsz"] > 0)
    return bool((stops > storage.nbytes).any() or is_more.any())


def segments_disagree(source: Source, storage: Storage) -> bool:
    """Return whether segments that share memory, as that of the kernel's image and the direct map do, differ there."""
    loads = program_headers(source, storage)
    loads = loads[(loads["p_type"] == elf.PT_LOAD) & (loads["p_filesz"] > 0)]
    loads = loads[np.argsort(loads["p_paddr"], kind="stable")]
    starts, nbytes = loads["p_paddr"].tolist(), loads["p_filesz"].tolist()
    stops = [start + n for start, n in zip(starts, nbytes, strict=True)]
    before = [0, *accumulate(stops, max)]
    n_left = 2 * storage.nbytes  # damaged headers may claim the same bytes many times
    for i, offset in enumerate(loads["p_offset"].tolist()):
        if starts[i] >= before[i] and (i + 1 == len(starts) or starts[i + 1] >= stops[i]):
            continue
        for at in range(0, min(nbytes[i], n_left), _BATCH_NBYTES):
            n = min(_BATCH_NBYTES, nbytes[i] - at)
            try:
                if not np.array_equal(storage.view(offset + at, n), source.view(starts[i] + at, n)):
                    return True
            except NpdumpError:
                continue  # that is for others to say
        n_left -= min(nbytes[i], n_left)
    return False


def vaddrs_disagree(source: Source, storage: Storage, kernel: Kernel) -> bool:
    """Return whether some segments have other kernel addresses than the page tables; if most do, they mean nothing."""
    n_right = n_wrong = 0
    for header in program_headers(source, storage):
        vaddr, paddr = int(header["p_vaddr"]), int(header["p_paddr"])
        if header["p_type"] != elf.PT_LOAD or not kernel.memory.is_kernel_vaddr(vaddr) or vaddr == NO_VADDR:
            continue
        try:
            mapped = kernel.memory.extents(vaddr, 1)[0].paddr
        except NpdumpError:
            continue
        # Some of the direct map may be unmapped, as for the capture kernel's memory on arm64.
        n_right += mapped == paddr
        n_wrong += mapped not in (None, paddr)
    return 0 < n_wrong < n_right

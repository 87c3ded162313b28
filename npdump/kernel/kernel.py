# SPDX-License-Identifier: GPL-2.0-or-later
"""The crashed kernel as one value, and where its struct pages are."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arrays import group_edges
from npdump.errors import FactError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    import numpy.typing as npt

    from npdump.arch import Arch
    from npdump.arrays import I64, U64
    from npdump.facts import Facts
    from npdump.kernel.memory import VirtualMemory
    from npdump.kernel.xen.domain import PhysToMachine
    from npdump.layouts import ByteOrder

__all__ = ["Kernel", "MemMap", "struct_dtype"]

MAX_STRUCT_NBYTES = 1 << 16
"""No struct that npdump looks into has so many."""


def struct_dtype(
    name: str, nbytes: int, fields: Mapping[str, tuple[npt.DTypeLike, int]], byte_order: ByteOrder
) -> np.dtype[np.void]:
    """Return the dtype of a struct of the kernel, made of facts: the one gate between what a dump says and NumPy.

    Parameters
    ----------
    name : str
        The kernel's name of the struct.
    nbytes : int
        Its size.
    fields : mapping of str to (dtype, int)
        By name: format and offset in bytes.
    byte_order : {"<", ">"}

    Raises
    ------
    FactError
        If the size is none that a struct has, or a field is not inside. NumPy's own test overflows: an offset of
        2**31 - 1 passes it.

    Examples
    --------
    >>> struct_dtype("list_head", 16, {"next": ("u8", 0), "prev": ("u8", 8)}, "<").names
    ('next', 'prev')
    >>> struct_dtype("list_head", 16, {"next": ("u8", 2**31 - 1)}, "<")
    Traceback (most recent call last):
    npdump.errors.FactError: VMCOREINFO puts next at byte 2147483647 of a struct list_head of 16: it is damaged
    """
    if not 0 < nbytes <= MAX_STRUCT_NBYTES:
        raise FactError(f"VMCOREINFO says SIZE({name})={nbytes}, which no kernel has: it is damaged")
    formats = {key: np.dtype(kind).newbyteorder(byte_order) for key, (kind, _) in fields.items()}
    for key, (_, offset) in fields.items():
        if not 0 <= offset <= nbytes - formats[key].itemsize:
            raise FactError(f"VMCOREINFO puts {key} at byte {offset} of a struct {name} of {nbytes}: it is damaged")
    return np.dtype(
        {
            "names": list(fields),
            "formats": list(formats.values()),
            "offsets": [offset for _, offset in fields.values()],
            "itemsize": nbytes,
        }
    )


class Kernel(NamedTuple):
    """What a memory model needs to look at: the crashed kernel's facts, machine, memory and page size (bytes).

    ``memmap`` is its memory map, once that was found: `find` then returns it. ``p2m`` is its table of page frames, if
    it ran in a domain of Xen: its own aren't the machine's then.
    """

    facts: Facts
    arch: Arch
    memory: VirtualMemory
    page_size: int
    memmap: MemMap | None = None
    p2m: PhysToMachine | None = None

    def struct(
        self, name: str, fields: Mapping[str, tuple[npt.DTypeLike, str | int | None]], needs: Iterable[str] = ()
    ) -> np.dtype[np.void]:
        """Return the dtype of one of the kernel's structs.

        Parameters
        ----------
        name : str
            As in the key of its size, ``SIZE(name)``.
        fields : mapping of str to (dtype, str or int)
            By name: the format, and the offset in bytes or the key of the fact that tells it. Fields whose offset is
            not known are left out.
        needs : iterable of str
            Fields that must be known.

        Raises
        ------
        FactError
            If the size or a needed field is not known, or is not plausible.
        """
        nbytes = self.facts.need(f"SIZE({name})", f"to read struct {name}")
        places = {key: self.facts.get(at) if isinstance(at, str) else at for key, (_, at) in fields.items()}
        for missing in (key for key in needs if places[key] is None):
            raise FactError(f"VMCOREINFO lacks the offset of {missing} in struct {name}, which is needed to read it")
        known = {key: (fields[key][0], offset) for key, offset in places.items() if offset is not None}
        return struct_dtype(name, nbytes, known, self.memory.space.byte_order)


class MemMap(NamedTuple):
    """Runs of page frames whose struct pages are together in virtual memory.

    Attributes
    ----------
    pfn_starts, pfn_stops : ndarray of shape (n,), dtype int64
        Half-open, ascending, disjoint.
    vaddrs : ndarray of shape (n,), dtype uint64
        Address of the struct page of each run's first page frame.
    n_damaged : int
        Pieces of the memory map that were not plausible and were left out; their pages are kept.
    """

    pfn_starts: I64
    pfn_stops: I64
    vaddrs: U64
    n_damaged: int = 0

    def struct_vaddr(self, pfn: int, struct_nbytes: int) -> int | None:
        """Return the address of a page's struct page, None if it has none."""
        run = int(np.searchsorted(self.pfn_stops, pfn, side="right"))
        if run == len(self.pfn_starts) or int(self.pfn_starts[run]) > pfn:
            return None
        return int(self.vaddrs[run]) + (pfn - int(self.pfn_starts[run])) * struct_nbytes

    def joined(self, struct_nbytes: int) -> MemMap:
        """Return the same map with runs joined that are neighbours in page frames and in virtual memory.

        With SPARSEMEM_VMEMMAP this makes one run of all sections without a hole between them.
        """
        nbytes = (self.pfn_stops - self.pfn_starts).astype(np.uint64) * np.uint64(struct_nbytes)
        firsts, lasts = group_edges(
            (self.pfn_starts[1:] != self.pfn_stops[:-1]) | (self.vaddrs[1:] != (self.vaddrs + nbytes)[:-1])
        )
        return MemMap(self.pfn_starts[firsts], self.pfn_stops[lasts], self.vaddrs[firsts], self.n_damaged)

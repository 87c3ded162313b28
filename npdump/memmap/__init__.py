"""Where the struct pages are, one memory model per file.

To add a memory model, add a module with a ``MODEL`` object: nothing else needs an edit.
"""

from __future__ import annotations

import importlib
import pkgutil
from typing import NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from npdump.arch import Arch
from npdump.errors import MemmapError
from npdump.kernel import Facts
from npdump.memory import VirtualMemory

__all__ = ["Kernel", "MemMap", "find"]


class Kernel(NamedTuple):
    """What a memory model needs to look at: the crashed kernel's facts, machine, memory and page size (bytes).

    ``memmap`` is its memory map, once that was found: `find` then returns it.
    """

    facts: Facts
    arch: Arch
    memory: VirtualMemory
    page_size: int
    memmap: MemMap | None = None


class MemMap(NamedTuple):
    """Runs of page frames whose struct pages stand together in virtual memory.

    Attributes
    ----------
    pfn_starts, pfn_stops : ndarray of shape (n,), dtype int64
        Half-open, ascending, disjoint.
    vaddrs : ndarray of shape (n,), dtype uint64
        Address of the struct page of each run's first page frame.
    n_damaged : int
        Pieces of the memory map that weren't plausible and were left out; their pages are kept.
    """

    pfn_starts: npt.NDArray[np.int64]
    pfn_stops: npt.NDArray[np.int64]
    vaddrs: npt.NDArray[np.uint64]
    n_damaged: int = 0

    def joined(self, struct_nbytes: int) -> MemMap:
        """Return the same map with runs joined that are neighbours in page frames and in virtual memory.

        With SPARSEMEM_VMEMMAP this makes one run of all sections without a hole between them.
        """
        nbytes = (self.pfn_stops - self.pfn_starts).astype(np.uint64) * np.uint64(struct_nbytes)
        fresh = np.append(
            True, (self.pfn_starts[1:] != self.pfn_stops[:-1]) | (self.vaddrs[1:] != (self.vaddrs + nbytes)[:-1])
        )
        firsts = np.flatnonzero(fresh)
        lasts = np.append(firsts[1:] - 1, len(fresh) - 1)
        return MemMap(self.pfn_starts[firsts], self.pfn_stops[lasts], self.vaddrs[firsts], self.n_damaged)


class Model(Protocol):
    """What a module of this package offers as ``MODEL``."""

    def applies(self, facts: Facts) -> bool:
        """Tell whether the kernel was built with this memory model."""

    def find(self, kernel: Kernel, struct_nbytes: int, max_mapnr: int) -> MemMap:
        """Return the memory map of the page frames below ``max_mapnr``.

        Raises
        ------
        FactError, AddressError, MemmapError
            If it can't be found or isn't plausible.
        """


def find(kernel: Kernel, struct_nbytes: int, max_mapnr: int) -> MemMap:
    """Find the kernel's struct pages.

    Parameters
    ----------
    kernel : Kernel
    struct_nbytes : int
        Size of struct page.
    max_mapnr : int
        One more than the highest page frame of interest.

    Raises
    ------
    FactError, AddressError, MemmapError
    """
    if kernel.memmap is not None:
        return kernel.memmap
    for info in pkgutil.iter_modules(__path__):
        model: Model = importlib.import_module(f"{__name__}.{info.name}").MODEL
        if model.applies(kernel.facts):
            return model.find(kernel, struct_nbytes, max_mapnr).joined(struct_nbytes)
    raise MemmapError(
        "VMCOREINFO has neither SYMBOL(mem_section) nor SYMBOL(mem_map): the kernel's memory model can't be told; "
        "only dump levels 0 and 1 are possible"
    )

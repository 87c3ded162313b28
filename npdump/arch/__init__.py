"""Machines, one file each: declarations of what differs between them.

To add a machine, add a module with an ``ARCH`` object: nothing else needs an edit.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from npdump.errors import FactError
from npdump.kernel import Facts
from npdump.paging import Paging

__all__ = ["Arch", "by_machine"]


@dataclass(frozen=True)
class Arch:
    """A machine.

    Attributes
    ----------
    name : str
        As ``uname -m`` prints it.
    machine : int
        ELF ``e_machine``.
    bits : {32, 64}
        Word size of its kernel.
    section_size_bits, max_physmem_bits : callable
        Of Facts, for kernels whose VMCOREINFO doesn't say: log2 of bytes in a memory section, and of the highest
        physical address.
    phys_base : callable
        Of Facts: physical address of the kernel image's virtual base, as the dump file's header wants it.
    paging : callable
        Of Facts: the form of the page tables in force.
    root : callable
        Of Facts: physical address of the kernel's top page table.
    is_kernel_vaddr : callable
        Of an address: whether it can be one of the kernel's.
    locate : callable, optional
        Of a dump's segments and the address that the kernel was linked at (None if not known): Facts about where the
        kernel runs, for dumps without VMCOREINFO.
    """

    name: str
    machine: int
    bits: int
    section_size_bits: Callable[[Facts], int]
    max_physmem_bits: Callable[[Facts], int]
    phys_base: Callable[[Facts], int]
    paging: Callable[[Facts], Paging]
    root: Callable[[Facts], int]
    is_kernel_vaddr: Callable[[int], bool]
    locate: Callable[[npt.NDArray[np.void], int | None], Facts] | None = None


def by_machine(machine: int) -> Arch:
    """Return the machine with an ELF ``e_machine``.

    Raises
    ------
    FactError
        If npdump doesn't know it.
    """
    known = []
    for info in pkgutil.iter_modules(__path__):
        arch: Arch = importlib.import_module(f"{__name__}.{info.name}").ARCH
        if arch.machine == machine:
            return arch
        known.append(arch.name)
    raise FactError(
        f"the dump is of a machine that npdump doesn't know (ELF e_machine {machine}): it knows {', '.join(known)}"
    )

# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the struct pages are, one memory model per file.

To add a memory model, add a module with a ``MODEL`` object: nothing else needs an edit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from npdump import plugins
from npdump.errors import MemmapError

if TYPE_CHECKING:
    from npdump.facts import Facts
    from npdump.kernel.kernel import Kernel, MemMap

__all__ = ["Model", "find"]


class Model(Protocol):
    """What a module of this package offers as ``MODEL``."""

    def applies(self, facts: Facts) -> bool:
        """Return whether the kernel was built with this memory model."""

    def find(self, kernel: Kernel, struct_nbytes: int, max_mapnr: int) -> MemMap:
        """Return the memory map of the page frames below ``max_mapnr``.

        Raises
        ------
        FactError, AddressError, MemmapError
            If it cannot be found or is not plausible.
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
    model: Model
    for model in plugins.each(__name__, "MODEL"):
        if model.applies(kernel.facts):
            return model.find(kernel, struct_nbytes, max_mapnr).joined(struct_nbytes)
    raise MemmapError(
        "VMCOREINFO has neither SYMBOL(mem_section) nor SYMBOL(mem_map): the kernel's memory model can't be told; "
        "only dump levels 0 and 1 are possible"
    )

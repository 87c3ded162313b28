# SPDX-License-Identifier: GPL-2.0-or-later
"""drgn on a dump of any form: npdump gives it the memory, whatever holds the pages."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npdump.errors import AddressError, FactError
from npdump.extras import require

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npdump.kernel.kernel import Kernel
    from npdump.sources import Source

__all__ = ["drgn_program"]

_ARCHITECTURES = {
    "x86_64": "X86_64",
    "i686": "I386",
    "aarch64": "AARCH64",
    "armv7l": "ARM",
    "ppc64": "PPC64",
    "riscv64": "RISCV64",
    "s390x": "S390X",
}
"""By npdump's name of the machine, drgn's."""


def drgn_program(source: Source, kernel: Kernel, vmlinux: Sequence[str] = ()) -> Any:
    """Make a drgn program that reads a dump through npdump.

    Parameters
    ----------
    source : Source
    kernel : Kernel
    vmlinux : sequence of str
        Files with debugging information: the kernel's, and those of its modules.

    Returns
    -------
    drgn.Program
        Its addresses are the kernel's virtual ones; physical ones are for ``read(…, physical=True)``.

    Raises
    ------
    MissingDependency
        If drgn is not installed.
    FactError
        If drgn does not know the machine, or the dump has no VMCOREINFO.

    References
    ----------
    drgn 0.3: ``Program.set_linux_kernel_custom()``, ``Program.add_memory_segment()``.
    """
    drgn = require("drgn", "drgn", "drgn programs")
    name = _ARCHITECTURES.get(kernel.arch.name)
    if name is None:
        raise FactError(f"drgn does not know the machine {kernel.arch.name}")
    if source.notes.vmcoreinfo is None:
        raise FactError(f"{source.path}: has no VMCOREINFO, which drgn needs")
    flags = drgn.PlatformFlags(0)
    if kernel.arch.bits == 64:
        flags |= drgn.PlatformFlags.IS_64_BIT
    if kernel.memory.space.byte_order == "<":
        flags |= drgn.PlatformFlags.IS_LITTLE_ENDIAN
    platform = drgn.Platform(getattr(drgn.Architecture, name), flags)
    program = drgn.Program(platform)

    def read(paddr: int, count: int, offset: int, physical: bool) -> bytes:
        try:
            return source.view(paddr, count).tobytes()
        except AddressError as error:
            raise drgn.FaultError(str(error), paddr) from error

    program.add_memory_segment(0, source.max_mapnr * source.page_size, read, True)
    program.set_linux_kernel_custom(source.notes.vmcoreinfo.rstrip(b"\0"), False)
    if vmlinux:
        program.load_debug_info(list(vmlinux))
    return program

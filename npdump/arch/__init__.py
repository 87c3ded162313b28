# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines, one file each: declarations of what differs between them.

To add a machine, add a module with an ``ARCH`` object: nothing else needs an edit.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

from npdump import plugins
from npdump.errors import FactError

if TYPE_CHECKING:
    from collections.abc import Callable

    from npdump.arch._paging import AddressSpace
    from npdump.arrays import Records
    from npdump.facts import Facts
    from npdump.sources import Source

__all__ = ["Arch", "by_machine"]


def _no_bits(facts: Facts) -> int:
    raise FactError("VMCOREINFO lacks NUMBER(SECTION_SIZE_BITS), which is needed to find the struct pages")


def _no_phys_base(source: Source, facts: Facts) -> int:
    return 0


class Arch(NamedTuple):
    """A machine.

    Attributes
    ----------
    name : str
        As ``uname -m`` prints it.
    machine : int
        ELF ``e_machine``.
    bits : {32, 64}
        Word size of its kernel.
    space : callable
        Of a Source and Facts: how the kernel's addresses are translated. Raises FactError if that can't be told,
        AddressError if what would tell isn't in the dump.
    section_size_bits, max_physmem_bits : callable
        Of Facts, for kernels whose VMCOREINFO doesn't say: log2 of bytes in a memory section, and of the highest
        physical address.
    phys_base : callable
        Of a Source and Facts: what the dump file's header calls so. Physical address that the kernel image's virtual
        base corresponds to on x86_64, start of memory on ARM, 0 elsewhere.
    aligns_u64 : bool
        Whether the ABI aligns 64-bit members of structures to 8 bytes.
    counts_from_ram_base : bool
        Whether page frame 0 of a dump file is where memory starts (32-bit ARM), not physical address 0.
    elf_bits : tuple of int
        Word sizes of ELF files that dumps of this machine come in.
    locate : callable, optional
        Of a dump's segments and the address that the kernel was linked at (None if not known): Facts about where the
        kernel runs, for dumps without VMCOREINFO.
    """

    name: str
    machine: int
    bits: int
    space: Callable[[Source, Facts], AddressSpace]
    section_size_bits: Callable[[Facts], int] = _no_bits
    max_physmem_bits: Callable[[Facts], int] = _no_bits
    phys_base: Callable[[Source, Facts], int] = _no_phys_base
    aligns_u64: bool = True
    counts_from_ram_base: bool = False
    elf_bits: tuple[int, ...] = (64,)
    locate: Callable[[Records, int | None], Facts] | None = None


UNSUPPORTED_MACHINES = {
    2: "sparc",
    3: "i386",
    4: "m68k",
    8: "mips",
    15: "parisc",
    42: "sh",
    92: "openrisc",
    93: "arc",
    94: "xtensa",
    113: "nios2",
    164: "hexagon",
    189: "microblaze",
    195: "arc",
    243: "riscv",
    252: "csky",
    258: "loongarch",
    0x9026: "alpha",
}
"""ELF ``e_machine`` of machines that Linux runs on and npdump doesn't know, or not in each word size."""


def by_machine(machine: int, bits: int) -> Arch:
    """Return the machine of a dump.

    Parameters
    ----------
    machine : int
        ELF ``e_machine``.
    bits : {32, 64}
        Of the ELF file.

    Returns
    -------
    Arch
        For a machine that npdump doesn't know, one whose ``space`` says so: its pages can be copied all the same.
    """
    known = []
    # Most dumps are of machines like this one; importing all of them takes as long as the smallest dumps do.
    arch: Arch
    for arch in plugins.each(__name__, "ARCH", first=os.uname().machine):
        if arch.machine == machine and bits in arch.elf_bits:
            return arch
        known.append(arch.name)
    name = (
        f"{bits}-bit {UNSUPPORTED_MACHINES[machine]}"
        if machine in UNSUPPORTED_MACHINES
        else f"unknown machine (ELF e_machine {machine})"
    )

    def space(source: Source, facts: Facts) -> AddressSpace:
        raise FactError(
            f"{source.path}: is of a machine that npdump doesn't know, {name}; only dump levels 0 and 1 are possible "
            f"(it knows {', '.join(known)})"
        )

    return Arch(UNSUPPORTED_MACHINES.get(machine, "unknown"), machine, bits, space, elf_bits=(bits,))

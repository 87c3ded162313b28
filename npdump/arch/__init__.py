# SPDX-License-Identifier: GPL-2.0-or-later
"""Machines, one file each: declarations of what differs between them.

To add a machine, add a module with an ``ARCH`` object: nothing else needs an edit.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from npdump import plugins
from npdump.errors import FactError
from npdump.layouts.machine import COUNTS_FROM_RAM_BASE, Machine, machine_of

if TYPE_CHECKING:
    from collections.abc import Callable

    from npdump.arch._paging import AddressSpace
    from npdump.arrays import Records
    from npdump.facts import Facts
    from npdump.sources import Header, Source

__all__ = ["Arch", "by_machine"]


def _no_bits(facts: Facts) -> int:
    raise FactError("VMCOREINFO lacks NUMBER(SECTION_SIZE_BITS), which is needed to find the struct pages")


def _no_phys_base(source: Source, facts: Facts) -> int:
    return 0


class Arch(NamedTuple):
    """A machine.

    Attributes
    ----------
    machine : Machine
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
    elf_bits : tuple of int
        Word sizes of ELF files that dumps of this machine come in.
    locate : callable, optional
        Of a dump's segments and the address that the kernel was linked at (None if not known): Facts about where the
        kernel runs, for dumps without VMCOREINFO.
    stack_register : int or None
        Which of the registers of a CPU in its NT_PRSTATUS note is the stack pointer.
    """

    machine: Machine
    space: Callable[[Source, Facts], AddressSpace]
    section_size_bits: Callable[[Facts], int] = _no_bits
    max_physmem_bits: Callable[[Facts], int] = _no_bits
    phys_base: Callable[[Source, Facts], int] = _no_phys_base
    aligns_u64: bool = True
    elf_bits: tuple[int, ...] = (64,)
    locate: Callable[[Records, int | None], Facts] | None = None
    stack_register: int | None = None

    @property
    def name(self) -> str:
        """The machine's name, as ``uname -m`` prints it."""
        return self.machine.name

    @property
    def bits(self) -> int:
        """Word size of its kernel."""
        return self.machine.bits

    @property
    def counts_from_ram_base(self) -> bool:
        """Whether page frame 0 of a dump file is where memory starts, not physical address 0."""
        return self.machine.number in COUNTS_FROM_RAM_BASE

    def reads(self, header: Header) -> bool:
        """Return whether a dump with such a header is of this machine."""
        if not header.machine:
            return bool(header.uname) and self.machine.is_called(header.uname)
        return header.machine == self.machine.number and header.bits in self.elf_bits


def by_machine(header: Header) -> Arch:
    """Return the machine of a dump.

    Parameters
    ----------
    header : npdump.sources.Header

    Returns
    -------
    Arch
        For a machine that npdump does not know, one whose ``space`` says so: its pages can be copied all the same.
    """
    known = []
    # Most dumps are of machines like this one; importing all of them takes as long as the smallest dumps do.
    arch: Arch
    for arch in plugins.each(__name__, "ARCH", first=os.uname().machine):
        if arch.reads(header):
            return arch
        known.append(arch.name)
    return _unsupported(header, known)


def _unsupported(header: Header, known: list[str]) -> Arch:
    """Return what stands in for a machine that npdump does not know."""
    machine = Machine(header.machine, header.bits, header.uname or "unknown")
    name = f"ELF e_machine {header.machine}" if header.machine else repr(header.uname)
    name = f"unknown machine ({name})"
    with suppress(KeyError):
        machine = machine_of(header.machine, header.bits)
        name = f"{machine.bits}-bit {machine.name}"

    def space(source: Source, facts: Facts) -> AddressSpace:
        raise FactError(
            f"{source.path}: is of a machine that npdump doesn't know, {name}; only dump levels 0 and 1 are possible "
            f"(it knows {', '.join(known)})"
        )

    return Arch(machine, space, elf_bits=(header.bits,))

# SPDX-License-Identifier: GPL-2.0-or-later
"""The machines that Linux runs on: what dump files call them, and what in a file tells one from another.

A machine that a distribution adds from outside brings a `Machine` of its own: nothing here needs an edit for it.

References
----------
System V gABI and Linux ``include/uapi/linux/elf-em.h`` for the numbers, ``UTS_MACHINE`` of each ``arch/*/Makefile``
for the names, ``struct elf_prstatus`` of each ABI for the sizes, and ``arch/*/kernel/*{crash_core,vmcore_info}*.c`` for
the keys of VMCOREINFO.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

__all__ = ["COUNTS_FROM_RAM_BASE", "EM", "MACHINES", "Machine", "machine_named", "machine_of", "page_size_of"]


class EM(IntEnum):
    """ELF ``e_machine``."""

    SPARC = 2
    I386 = 3
    M68K = 4
    MIPS = 8
    PARISC = 15
    PPC = 20
    PPC64 = 21
    S390 = 22
    ARM = 40
    SH = 42
    SPARCV9 = 43
    IA_64 = 50
    X86_64 = 62
    OPENRISC = 92
    ARC_COMPACT = 93
    XTENSA = 94
    NIOS2 = 113
    HEXAGON = 164
    AARCH64 = 183
    MICROBLAZE = 189
    ARC_V2 = 195
    RISCV = 243
    CSKY = 252
    LOONGARCH = 258
    ALPHA = 0x9026


_ANY_PAGE = (12, 13, 14, 15, 16)
"""Of machines that npdump does not know well enough to doubt what a dump says."""


class Machine(NamedTuple):
    """A machine in one word size.

    Attributes
    ----------
    number : int
        ELF ``e_machine``.
    bits : {32, 64}
        Word size of its kernel.
    name : str
        As ``uname -m`` prints it.
    other_names : tuple of str
        What ``uname -m`` prints on some of them, and what other writers of dumps say; a trailing ``*`` is for any rest.
    prstatus_nbytes : int
        Size of ``struct elf_prstatus``, the description of an NT_PRSTATUS note; 0 where it is not known.
    keys : tuple of str
        Keys of VMCOREINFO that kernels of this machine have, and of no other.
    byte_orders : str
        ``"<"``, ``">"`` or both: those that its kernels run in.
    top_byte : int or None
        Highest byte of the kernel image's addresses, where no other machine's have it.
    page_shifts : tuple of int
        log2 of the bytes of a page, as kernels of this machine may be built (Linux ``arch/*/Kconfig``).
    """

    number: int
    bits: int
    name: str
    other_names: tuple[str, ...] = ()
    prstatus_nbytes: int = 0
    keys: tuple[str, ...] = ()
    byte_orders: str = "<>"
    top_byte: int | None = None
    page_shifts: tuple[int, ...] = (12,)

    def is_called(self, name: str) -> bool:
        """Return whether ``name`` is one of the machine's.

        Examples
        --------
        >>> machine_named("armv5tel").is_called("armv7l")
        True
        """
        if name == self.name:
            return True
        return any(name.startswith(other[:-1]) if other[-1] == "*" else name == other for other in self.other_names)


MACHINES = (
    Machine(
        EM.X86_64,
        64,
        "x86_64",
        ("amd64",),
        336,
        ("SYMBOL(init_top_pgt)", "SYMBOL(init_level4_pgt)", "NUMBER(pgtable_l5_enabled)", "NUMBER(sme_mask)"),
        "<",
    ),
    Machine(EM.I386, 32, "i686", ("i386", "i486", "i586"), 144, ("CONFIG_X86_PAE",), "<"),
    Machine(
        EM.AARCH64,
        64,
        "aarch64",
        ("aarch64_be", "arm64"),
        392,
        ("NUMBER(kimage_voffset)", "NUMBER(TCR_EL1_T1SZ)", "NUMBER(KERNELPACMASK)"),
        page_shifts=(12, 14, 16),
    ),
    Machine(EM.ARM, 32, "armv7l", ("arm", "armeb", "armv*"), 148, ("CONFIG_ARM_LPAE",)),
    Machine(
        EM.PPC64,
        64,
        "ppc64",
        ("ppc64le",),
        504,
        ("SYMBOL(vmemmap_list)", "SYMBOL(mmu_vmemmap_psize)", "SIZE(vmemmap_backing)", "NUMBER(RADIX_MMU)"),
        "<>",
        0xC0,
        page_shifts=(12, 16),
    ),
    Machine(EM.PPC, 32, "ppc", ("ppcle",), 268, page_shifts=(12, 14, 16)),
    Machine(
        EM.S390,
        64,
        "s390x",
        ("S390X",),
        336,
        ("SYMBOL(lowcore_ptr)", "LENGTH(lowcore_ptr)", "SAMODE31", "IDENTITYBASE"),
        ">",
    ),
    Machine(EM.S390, 32, "s390"),
    Machine(
        EM.RISCV,
        64,
        "riscv64",
        (),
        376,
        ("NUMBER(KERNEL_LINK_ADDR)", "NUMBER(va_kernel_pa_offset)", "NUMBER(phys_ram_base)", "NUMBER(satp)"),
        "<",
    ),
    Machine(EM.RISCV, 32, "riscv32", ("riscv",), 204, (), "<"),
    Machine(EM.LOONGARCH, 64, "loongarch64", (), 480, (), "<", 0x90, (12, 14, 16)),
    Machine(EM.LOONGARCH, 32, "loongarch32", ("loongarch",), page_shifts=_ANY_PAGE),
    Machine(EM.MIPS, 64, "mips64", ("mips64el",), 480, page_shifts=(12, 13, 14, 15, 16)),
    Machine(EM.MIPS, 32, "mips", ("mipsel",), page_shifts=_ANY_PAGE),
    Machine(
        EM.IA_64,
        64,
        "ia64",
        (),
        1024 + 112 + 8,
        ("CONFIG_PGTABLE_3", "CONFIG_PGTABLE_4", "SYMBOL(pgdat_list)"),
        "<",
        page_shifts=(12, 13, 14, 16),
    ),
    Machine(EM.SPARCV9, 64, "sparc64", page_shifts=(13,)),
    Machine(EM.SPARC, 32, "sparc", page_shifts=_ANY_PAGE),
    Machine(EM.ALPHA, 64, "alpha", page_shifts=_ANY_PAGE),
    Machine(EM.ARC_COMPACT, 32, "arc", page_shifts=_ANY_PAGE),
    Machine(EM.ARC_V2, 32, "arc", page_shifts=_ANY_PAGE),
    Machine(EM.CSKY, 32, "csky", page_shifts=_ANY_PAGE),
    Machine(EM.HEXAGON, 32, "hexagon", page_shifts=_ANY_PAGE),
    Machine(EM.M68K, 32, "m68k", page_shifts=_ANY_PAGE),
    Machine(EM.MICROBLAZE, 32, "microblaze", ("microblazeel",), page_shifts=_ANY_PAGE),
    Machine(EM.NIOS2, 32, "nios2", page_shifts=_ANY_PAGE),
    Machine(EM.OPENRISC, 32, "openrisc", page_shifts=_ANY_PAGE),
    Machine(EM.PARISC, 64, "parisc64", page_shifts=_ANY_PAGE),
    Machine(EM.PARISC, 32, "parisc", page_shifts=_ANY_PAGE),
    Machine(EM.SH, 32, "sh", ("sh2*", "sh3*", "sh4*"), page_shifts=_ANY_PAGE),
    Machine(EM.XTENSA, 32, "xtensa", page_shifts=_ANY_PAGE),
)

COUNTS_FROM_RAM_BASE = frozenset({int(EM.ARM)})
"""Machines whose kdump-compressed files count page frames from the start of memory (makedumpfile, ARCH_PFN_OFFSET)."""


_BY_NUMBER = {(int(machine.number), machine.bits): machine for machine in MACHINES}


def machine_of(number: int, bits: int) -> Machine:
    """Return the machine of an ELF ``e_machine``.

    Raises
    ------
    KeyError
        If Linux runs on no such machine.

    Examples
    --------
    >>> machine_of(EM.RISCV, 32).name
    'riscv32'
    """
    return _BY_NUMBER[number, bits]


def machine_named(name: str) -> Machine | None:
    """Return the machine that ``uname -m`` names so, None if Linux runs on no such one.

    Examples
    --------
    >>> machine_named("aarch64_be").name
    'aarch64'
    """
    return next((machine for machine in MACHINES if machine.is_called(name)), None)


def page_size_of(number: int, stated: int | None) -> int:
    """Return the bytes of a page of a dumped machine.

    Parameters
    ----------
    number : int
        ELF ``e_machine``.
    stated : int or None
        What VMCOREINFO says. If the machine has no such pages, the only size or the smallest that it has is returned.

    Examples
    --------
    >>> page_size_of(EM.AARCH64, 65536), page_size_of(EM.I386, 8192), page_size_of(EM.SPARCV9, None)
    (65536, 4096, 8192)
    """
    shifts = {shift for machine in MACHINES if machine.number == number for shift in machine.page_shifts}
    possible = [1 << shift for shift in sorted(shifts or _ANY_PAGE)]
    return stated if stated in possible else possible[0]

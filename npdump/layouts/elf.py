# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF core files: headers, program headers and notes, for both classes and byte orders.

References
----------
System V gABI, chapters 4 and 5 (object files, program header); Linux ``include/uapi/linux/elf.h``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from npdump.layouts import ByteOrder

MAGIC = b"\x7fELF"
CLASS_BITS = {1: 32, 2: 64}
BYTE_ORDERS: dict[int, ByteOrder] = {1: "<", 2: ">"}
CLASSES = {bits: value for value, bits in CLASS_BITS.items()}
DATAS = {order: value for value, order in BYTE_ORDERS.items()}
EV_CURRENT = 1

ET_CORE = 4
PT_LOAD = 1
PT_NOTE = 4
PF_RWX = 7
"""``p_flags`` of memory that may be read, written and executed, as those of kdump's PT_LOADs."""

PN_XNUM = 0xFFFF
"""``e_phnum`` when the number of program headers stands in ``sh_info`` of section header 0."""

DUMP_ELF_INCOMPLETE = 0x1
"""``e_flags`` bit of a filtered dump that was cut short (makedumpfile, crash)."""

NT_PRSTATUS = 1
NT_XEN_CRASH_INFO = 0x1000001
NT_XEN_CRASH_REGS = 0x1000002
"""Notes whose owner is Xen (Xen ``xen/include/public/elfnote.h``)."""

EHDR = {
    bits: np.dtype(
        [
            ("e_ident", "V16"),
            ("e_type", "u2"),
            ("e_machine", "u2"),
            ("e_version", "u4"),
            ("e_entry", word),
            ("e_phoff", word),
            ("e_shoff", word),
            ("e_flags", "u4"),
            ("e_ehsize", "u2"),
            ("e_phentsize", "u2"),
            ("e_phnum", "u2"),
            ("e_shentsize", "u2"),
            ("e_shnum", "u2"),
            ("e_shstrndx", "u2"),
        ]
    )
    for bits, word in ((32, "u4"), (64, "u8"))
}

PHDR = {
    32: np.dtype(
        [
            ("p_type", "u4"),
            ("p_offset", "u4"),
            ("p_vaddr", "u4"),
            ("p_paddr", "u4"),
            ("p_filesz", "u4"),
            ("p_memsz", "u4"),
            ("p_flags", "u4"),
            ("p_align", "u4"),
        ]
    ),
    64: np.dtype(
        [
            ("p_type", "u4"),
            ("p_flags", "u4"),
            ("p_offset", "u8"),
            ("p_vaddr", "u8"),
            ("p_paddr", "u8"),
            ("p_filesz", "u8"),
            ("p_memsz", "u8"),
            ("p_align", "u8"),
        ]
    ),
}

SHDR = {
    bits: np.dtype(
        [
            ("sh_name", "u4"),
            ("sh_type", "u4"),
            ("sh_flags", word),
            ("sh_addr", word),
            ("sh_offset", word),
            ("sh_size", word),
            ("sh_link", "u4"),
            ("sh_info", "u4"),
            ("sh_addralign", word),
            ("sh_entsize", word),
        ]
    )
    for bits, word in ((32, "u4"), (64, "u8"))
}


def has_sections_only(head: bytes) -> bool:
    """Return whether a file begins as a little-endian 64-bit core that has sections and no program headers."""
    if not head.startswith(MAGIC + b"\2\1") or len(head) < EHDR[64].itemsize:
        return False
    ehdr = np.frombuffer(head, EHDR[64].newbyteorder("<"), 1)[0]
    return bool(ehdr["e_type"] == ET_CORE and not ehdr["e_phnum"] and ehdr["e_shnum"])


NHDR = np.dtype([("namesz", "u4"), ("descsz", "u4"), ("type", "u4")])
"""Note header, the same in ELF32 and ELF64 core files."""

SYM = {
    64: np.dtype([("name", "u4"), ("info", "u1"), ("other", "u1"), ("shndx", "u2"), ("value", "u8"), ("size", "u8")]),
    32: np.dtype([("name", "u4"), ("value", "u4"), ("size", "u4"), ("info", "u1"), ("other", "u1"), ("shndx", "u2")]),
}
"""An entry of a symbol table."""

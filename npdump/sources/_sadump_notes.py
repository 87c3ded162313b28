# SPDX-License-Identifier: GPL-2.0-or-later
"""The registers that sadump's firmware saved, as the notes that a kernel would have left."""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from npdump.layouts import elf, sadump
from npdump.layouts.machine import EM

if TYPE_CHECKING:
    import numpy as np

    from npdump.arrays import Records

__all__ = ["machine_of_states", "prstatus_notes"]

# Linux ``arch/x86/include/asm/user_64.h`` and ``user_32.h``, struct user_regs_struct; ``include/linux/elfcore.h``,
# struct elf_prstatus, whose other members before and after are 0.
_REGISTERS_64 = (
    "r15", "r14", "r13", "r12", "bp", "bx", "r11", "r10", "r9", "r8", "ax", "cx", "dx", "si", "di", "orig_ax", "ip",
    "cs", "flags", "sp", "ss", "fs_base", "gs_base", "ds", "es", "fs", "gs",
)  # fmt: skip
_REGISTERS_32 = (
    "bx", "cx", "dx", "si", "di", "bp", "ax", "ds", "es", "fs", "gs", "orig_ax", "ip", "cs", "flags", "sp", "ss",
)  # fmt: skip
_BEFORE_64, _AFTER_64 = 112, 8
_BEFORE_32, _AFTER_32 = 72, 4


def machine_of_states(states: Records) -> int:
    """Return the ELF ``e_machine`` of the kernel that the CPUs ran; x86_64 if none tells."""
    if not len(states) or (states["efer"] & sadump.EFER_LMA).any():
        return EM.X86_64
    return EM.I386


def prstatus_notes(states: Records, machine: int) -> bytes:
    """Return an NT_PRSTATUS note for each CPU."""
    return b"".join(_note(state, machine) for state in states)


def _note(state: np.void, machine: int) -> bytes:
    is_64 = machine == EM.X86_64
    names = state.dtype.names or ()
    wanted = _REGISTERS_64 if is_64 else _REGISTERS_32
    mask = (1 << 64) - 1 if is_64 else (1 << 32) - 1
    values = [int(state[name]) & mask if name in names else 0 for name in wanted]
    before, after = (_BEFORE_64, _AFTER_64) if is_64 else (_BEFORE_32, _AFTER_32)
    desc = bytes(before) + struct.pack(f"<{len(values)}{'Q' if is_64 else 'I'}", *values) + bytes(after)
    return struct.pack("<3I8s", 5, len(desc), elf.NT_PRSTATUS, b"CORE\0") + desc

# SPDX-License-Identifier: GPL-2.0-or-later
"""Which machine a dump is of, by all that tells it: headers name it wrongly, or not at all.

QEMU writes "Unknown", makedumpfile up to 1.6.8 shifted the names by 4 bytes for kernels from 5.11 on.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from npdump.layouts import elf
from npdump.layouts.machine import MACHINES, Machine, machine_named
from npdump.sources._notes import parse_notes

if TYPE_CHECKING:
    from npdump.layouts import ByteOrder
    from npdump.sources import NoteArea

__all__ = ["tell_machine"]

_NO_NAMES = ("", "Unknown")
_SYMBOL = re.compile(rb"^SYMBOL\((?:_stext|swapper_pg_dir|init_uts_ns)\)=([0-9a-f]{16})$", re.MULTILINE)


def tell_machine(bits: int, byte_order: ByteOrder, uname: str, notes: NoteArea) -> Machine | None:
    """Return the machine of a dump, None if it can't be told.

    Parameters
    ----------
    bits : {32, 64}
        Word size of its headers.
    byte_order : {"<", ">"}
        Of its headers.
    uname : str
        What they call the machine.
    notes : NoteArea
        VMCOREINFO is the kernel's own word; then comes the name, then the size of the CPUs' registers.
    """
    told = _by_keys(bits, notes.vmcoreinfo or b"")
    if told is not None:
        return told
    named = machine_named(uname)
    if named is not None or uname not in _NO_NAMES:
        return named
    fitting = [
        machine
        for machine in MACHINES
        if machine.bits == bits and byte_order in machine.byte_orders and machine.prstatus_nbytes
    ]
    sizes = {
        note.desc_nbytes
        for note in parse_notes(notes.area, byte_order)
        if note.name == b"CORE" and note.type == elf.NT_PRSTATUS
    }
    by_size = [machine for machine in fitting if machine.prstatus_nbytes in sizes]
    return by_size[0] if len(by_size) == 1 else None


def _by_keys(bits: int, vmcoreinfo: bytes) -> Machine | None:
    keys = {line.partition(b"=")[0].decode("latin-1") for line in vmcoreinfo.split(b"\n")}
    told = [machine for machine in MACHINES if machine.bits == bits and not keys.isdisjoint(machine.keys)]
    if not told:
        tops = {int(value[:2], 16) for value in _SYMBOL.findall(vmcoreinfo)}
        told = [machine for machine in MACHINES if machine.bits == bits and tops == {machine.top_byte}]
    # Keys of several machines are damage: they tell nothing.
    return told[0] if len(told) == 1 else None

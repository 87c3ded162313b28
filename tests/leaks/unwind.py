# SPDX-License-Identifier: GPL-2.0-or-later
"""A thread of a dump as a core file, so that gdb shows what it was doing: its registers and its stack.

References
----------
Linux ``struct elf_prstatus`` and ``struct pt_regs`` of x86_64: the first 21 words of the registers are the same.
"""

from __future__ import annotations

import struct
import subprocess
from typing import TYPE_CHECKING

from npdump.errors import AddressError
from npdump.kernel.objects import Crashed

if TYPE_CHECKING:
    from pathlib import Path

    from npdump.dump import Dump
    from npdump.kernel.objects import Object

N_REGISTERS = 21
SP = 19
PAGE_SIZE = 4096
MAX_PAGES = 64


def backtrace(dump: Dump, task: Object, program: Path, core: Path) -> str:
    """Return gdb's backtrace of a thread, with the program's own file for what is not in the dump."""
    make_core(dump, task, core)
    command = ["gdb", "-batch", "-nx", "-ex", "bt", program, core]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def make_core(dump: Dump, task: Object, core: Path) -> None:
    """Write a core file with the registers of a thread and the pages of its stack."""
    kernel = Crashed(dump.names)
    nbytes = kernel.names.record("pt_regs").nbytes
    raw = kernel.memory.read(int(task.stack) + kernel.stack_nbytes() - nbytes, nbytes)
    registers = struct.unpack(f"<{N_REGISTERS}Q", raw)
    pages = []
    for i in range(MAX_PAGES):
        vaddr = (registers[SP] & -PAGE_SIZE) + i * PAGE_SIZE
        places = kernel.user_ranges(task.mm, vaddr, vaddr + PAGE_SIZE)
        try:
            pages += [(vaddr, dump.physical.read(*place)) for place in places]
        except AddressError:
            continue  # not in the dump
    status = (
        struct.pack(
            "<112x",
        )
        + struct.pack("<27Q", *registers, *(0,) * 6)
        + bytes(8)
    )
    note = struct.pack("<3I8s", 5, len(status), 1, b"CORE\0") + status
    headers = 64 + 56 * (1 + len(pages))
    data = headers + len(note) + (-len(note) - headers) % PAGE_SIZE
    with core.open("wb") as file:
        ident = b"\x7fELF\2\1\1".ljust(16, b"\0")
        file.write(ident + struct.pack("<HHIQQQIHHHHHH", 4, 62, 1, 0, 64, 0, 0, 64, 56, 1 + len(pages), 0, 0, 0))
        file.write(struct.pack("<IIQQQQQQ", 4, 0, headers, 0, 0, len(note), 0, 1))
        for i, (vaddr, _) in enumerate(pages):
            at = data + i * PAGE_SIZE
            file.write(struct.pack("<IIQQQQQQ", 1, 6, at, vaddr, 0, PAGE_SIZE, PAGE_SIZE, PAGE_SIZE))
        file.write(note)
        file.seek(data)
        file.writelines(page for _, page in pages)

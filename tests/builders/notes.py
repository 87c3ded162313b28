# SPDX-License-Identifier: GPL-2.0-or-later
"""ELF notes of a vmcore: registers per CPU, VMCOREINFO, and what others add."""

from __future__ import annotations

import struct

TERMINATOR = bytes(12)


def note(name: bytes, n_type: int, desc: bytes) -> bytes:
    """One note; `name` gets its NUL here."""
    name += b"\0"
    return (
        struct.pack("<III", len(name), len(desc), n_type) + name + bytes(-len(name) % 4) + desc + bytes(-len(desc) % 4)
    )


def prstatus(pid: int, rip: int = 0xFFFFFFFF81000000, rsp: int = 0xFFFFFFFF82000000) -> bytes:
    """NT_PRSTATUS of x86_64: pr_pid at 32, 27 registers at 112, of which rip is the 17th and rsp the 20th."""
    desc = bytearray(336)
    struct.pack_into("<i", desc, 32, pid)
    struct.pack_into("<Q", desc, 112 + 8 * 16, rip)
    struct.pack_into("<Q", desc, 112 + 8 * 19, rsp)
    return note(b"CORE", 1, bytes(desc))


def qemu_cpu(cr3: int) -> bytes:
    """QEMUCPUState of x86: version, size, 18 registers, 10 segments of 24 bytes, cr0 to cr4, kernel_gs_base."""
    desc = bytearray(440)
    struct.pack_into("<II", desc, 0, 1, len(desc))
    struct.pack_into("<Q", desc, 8 + 18 * 8 + 10 * 24 + 3 * 8, cr3)
    return note(b"QEMU", 0, bytes(desc))


def device_dump(nbytes: int) -> bytes:
    """NT_VMCOREDD, which drivers add: a 44-byte device name, then their data."""
    return note(b"LINUX", 0x700, b"mlx5_core".ljust(44, b"\0") + bytes(i * 7 & 255 for i in range(nbytes)))


def vmcoreinfo_text(keys: dict[str, int | str]) -> bytes:
    """KEY=value lines; SYMBOL values and KERNELOFFSET are hexadecimal without 0x, as the kernel writes them."""
    lines = []
    for key, value in keys.items():
        if isinstance(value, int) and (key.startswith("SYMBOL") or key == "KERNELOFFSET"):
            value = f"{value:x}"
        lines.append(f"{key}={value}\n")
    return "".join(lines).encode()


def vmcoreinfo(keys: dict[str, int | str]) -> bytes:
    """The VMCOREINFO note."""
    return note(b"VMCOREINFO", 0, vmcoreinfo_text(keys))

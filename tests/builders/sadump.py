# SPDX-License-Identifier: GPL-2.0-or-later
"""Fujitsu's stand-alone dumps, as the firmware would write them of a memory: a partition, a set of disks, a medium."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

BLOCK = 4096
SMRAM_NBYTES = 1024
LONG_MODE = 1 << 10
#: Where the state of a CPU has its registers: eight bytes each, in this order from 0x31c on.
PAIRS = ("r15", "r14", "r13", "r12", "r11", "r10", "r9", "r8", "rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi")
OTHERS = {"rip": 0x3D8, "efer": 0x3E0, "rflags": 0x3E8, "cr3": 0x3F0, "cr0": 0x3F8}


@dataclass
class Machine:
    """What is dumped: which page frames are memory, what they hold, and the registers of each CPU."""

    ram: Sequence[int]
    page: Callable[[int], bytes]
    cpus: Sequence[dict[str, int]] = field(default_factory=lambda: [{}])
    #: year, month, day, hour, minute, second; minutes to UTC.
    time: tuple[int, int, int, int, int, int, int] = (2026, 3, 1, 12, 30, 15, 2047)


def efi_time(time: tuple[int, ...]) -> bytes:
    year, month, day, hour, minute, second, zone = time
    return struct.pack("<H6B I h 2B", year, month, day, hour, minute, second, 0, 0, zone, 0, 0)


def guid(number: int) -> bytes:
    return struct.pack("<4I", number, 0x11111111, 0x22222222, 0x33333333)


def partition_header(number: int, used: int, time: tuple[int, ...], identity: int = 1) -> bytes:
    pattern = [0x1234]
    while len(pattern) < 982:
        pattern.append((pattern[-1] + 7) * 11 & 0xFFFFFFFF)
    head = struct.pack("<6I64x", 0x75646173, 0x0000706D, 1, 0, 0, 0)
    ids = guid(identity) + guid(identity + 1) + guid(100 + number)
    assert len(head + ids) == 0x88
    rest = efi_time(time) + struct.pack("<I4xQ", number, used) + struct.pack("<982I", *pattern)
    return (head + ids + rest).ljust(BLOCK, b"\0")


def cpu_state(registers: dict[str, int]) -> bytes:
    state = bytearray(SMRAM_NBYTES)
    for i, name in enumerate(PAIRS):
        struct.pack_into("<Q", state, 0x31C + 8 * i, registers.get(name, 0))
    for name, offset in OTHERS.items():
        struct.pack_into("<Q", state, offset, registers.get(name, LONG_MODE if name == "efer" else 0))
    for i, name in enumerate(("es", "cs", "ss", "ds", "fs", "gs")):
        struct.pack_into("<I", state, 0x3A8 + 4 * i, registers.get(name, 0))
    idt = registers.get("idt", 0)
    struct.pack_into("<I", state, 0x1D8, idt >> 32)
    struct.pack_into("<I", state, 0x294, idt & 0xFFFFFFFF)
    struct.pack_into("<I", state, 0x240, registers.get("cr4", 0))
    return bytes(state)


def bitmap(pfns: Sequence[int], n: int) -> bytes:
    """The lowest page frame is in the highest bit of a byte; whole blocks."""
    packed = bytearray(-(-n // 8 // BLOCK) * BLOCK)
    for pfn in pfns:
        packed[pfn >> 3] |= 0x80 >> (pfn & 7)
    return bytes(packed)


def dump_header(machine: Machine, n: int, sub_blocks: int, bitmap_blocks: int, n_written: int) -> bytes:
    head = struct.pack("<8sI4x", b"sadump\0\0", 1) + efi_time(machine.time)
    head += struct.pack("<II", 0, 0) + struct.pack("<IIIII", BLOCK, 0, sub_blocks, bitmap_blocks, bitmap_blocks)
    head += struct.pack("<IIIIII", n & 0xFFFFFFFF, len(machine.ram), 0, n_written, 0, len(machine.cpus))
    head = head.ljust(0x58, b"\0") + struct.pack("<QQQQ", n, len(machine.ram), 0, n_written)
    return head.ljust(BLOCK, b"\0")


def write_sadump(
    paths: Sequence[Path],
    machine: Machine,
    *,
    medium: bool = False,
    drops: Callable[[bytes], bool] = lambda page: False,
) -> None:
    """Write a dump to one file, or to several disks; pages that `drops` says get no block, as zero pages."""
    n = max(machine.ram) + 1
    stored = [pfn for pfn in machine.ram if not drops(machine.page(pfn))]
    states = b"".join(cpu_state(registers) for registers in machine.cpus)
    apic = b"".join(struct.pack("<QQ", number, 0) for number in range(len(machine.cpus)))
    sub = struct.pack("<I", len(states)) + apic + states
    sub = sub.ljust(-(-len(sub) // BLOCK) * BLOCK, b"\0")
    ram, dumpable = bitmap(machine.ram, n), bitmap(stored, n)
    dump = dump_header(machine, n, len(sub) // BLOCK, len(ram) // BLOCK, len(stored)) + sub + ram + dumpable
    is_set = len(paths) > 1
    volumes = b"".join(guid(100 + number) + struct.pack("<QII", 0, 0, 0) for number in range(2, len(paths) + 1))
    disk_set = struct.pack("<IIQ", 1, len(paths), 0) + volumes
    start = (disk_set.ljust(BLOCK, b"\0") if is_set else b"") + dump
    share = -(-len(stored) // len(paths))
    for number, path in enumerate(paths, 1):
        mine = stored[(number - 1) * share : number * share]
        before = start if number == 1 else b""
        used = BLOCK + len(before) + len(mine) * BLOCK
        with open(path, "wb") as file:
            if medium:
                file.write((guid(1) + guid(2) + efi_time(machine.time) + bytes((1, 0, 0, 1))).ljust(BLOCK, b"\0"))
            file.write(partition_header(number if is_set else 0, used, machine.time))
            file.write(before)
            file.writelines(machine.page(pfn) for pfn in mine)

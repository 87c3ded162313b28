# SPDX-License-Identifier: GPL-2.0-or-later
"""Erases what kernel stacks hold beyond the frames that are in use, and the stacks of threads that have ended.

Within the frames that are in use, words stay that are addresses of the kernel or small numbers.

A thread that sleeps has its stack pointer saved. One that was running has it among the registers that the crash saved:
what is below the lowest of them that points into the stack is not in use. What tells of an overrun at the stack's end
stays.

References
----------
Linux ``include/linux/sched/task_stack.h`` (end_of_stack()), ``kernel/fork.c`` (cached_stacks).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import runs_of_numbers
from npdump.errors import AddressError, FactError
from npdump.sources._notes import cpu_registers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import U64, Bool, Runs
    from npdump.kernel.memory import VirtualMemory
    from npdump.kernel.objects import Object
    from npdump.redact import Ground

WHAT = "unused parts of kernel stacks"

SMALL = 1 << 20
"""Below that, a half of a word is a number and no part of a secret."""

MAX_PADDING_NBYTES = 16
"""Behind the registers of user mode: x86_64 kernels with FRED leave some (Linux TOP_OF_KERNEL_STACK_PADDING)."""

SAVED_IN = (("sp",), ("cpu_context", "sp"))
"""Where ``task_struct.thread`` has the stack pointer: x86 and riscv64, arm64."""


def erase(ground: Ground) -> Iterator[Runs | tuple[int, int]]:
    """Yield what is not in use of the stacks of all threads, and stacks that wait for a new thread."""
    kernel = ground.kernel
    nbytes, word_nbytes = kernel.stack_nbytes(), kernel.memory.word.itemsize
    task_struct = kernel.names.record("task_struct")
    # Linux c65eacbe290b, v4.9: before, struct thread_info was at the end of each stack.
    below = 0 if "thread_info" in task_struct.members else kernel.names.record("thread_info").nbytes
    registers = _registers(ground)
    top = nbytes - kernel.names.record("pt_regs").nbytes - MAX_PADDING_NBYTES
    for task in kernel.tasks():
        with ground.missing("threads"):
            stack = int(task.stack)
            pointer = _pointer(task, stack, nbytes, registers)
            if pointer is not None:
                edges = below + word_nbytes, pointer - stack, top
                yield _unused(kernel.memory, stack, nbytes, edges)
    yield from _waiting(ground, nbytes)


def _unused(memory: VirtualMemory, stack: int, nbytes: int, edges: tuple[int, int, int]) -> Runs:
    """Return physical addresses of what is not in use.

    Parameters
    ----------
    memory : VirtualMemory
    stack, nbytes : int
    edges : tuple of (int, int, int)
        Where what is not in use begins, the frames, and the registers of user mode.
    """
    pieces = [(extent.paddr, extent.nbytes) for extent in memory.extents(stack, nbytes) if extent.paddr is not None]
    if sum(n for _, n in pieces) != nbytes:
        raise AddressError(f"the stack at {stack:#x} isn't mapped")
    itemsize = memory.word.itemsize
    words = np.frombuffer(memory.read(stack, nbytes), memory.word).astype(np.uint64)
    at = np.arange(0, nbytes, itemsize)
    is_unused = (at >= edges[0]) & (at < edges[2]) & ((at < edges[1]) | _is_foreign(words, memory))
    paddrs = np.concatenate([np.arange(paddr, paddr + n, itemsize) for paddr, n in pieces])
    return runs_of_numbers(np.sort(paddrs[is_unused]) // itemsize) * itemsize


def _is_foreign(words: U64, memory: VirtualMemory) -> Bool:
    """Return which words of a frame are neither mapped addresses of the kernel nor small numbers.

    Frames have gaps, in which stands what the stack held before; whatever else is in a frame and looks so may as well
    be a part of a secret.
    """
    small, low = np.uint64(SMALL), np.uint64((1 << 32) - 1)
    halves = [words & low, words >> np.uint64(32)]
    is_small = np.ones(len(words), np.bool_)
    for half in halves:
        is_small &= (half < small) | (half > low - small)
    # A random word may look like an address: one that is mapped leads somewhere.
    is_address = words >= np.uint64(memory.space.lowest_vaddr)
    is_address[is_address] = memory.paddrs(words[is_address])[1]
    return ~is_small & ~is_address


def _pointer(task: Object, stack: int, nbytes: int, registers: U64) -> int | None:
    """Return the stack pointer of a thread, None if its stack is wholly in use or that can't be told."""
    if "on_cpu" in task.type_.members and int(task.on_cpu):
        inside = registers[(registers >= stack) & (registers < stack + nbytes)]
        return int(inside.min()) & ~15 if len(inside) else None
    for path in SAVED_IN:
        found = task.thread
        if path[0] not in found.type_.members:
            continue
        for name in path:
            found = getattr(found, name)
        pointer = int(found)
        return pointer if stack <= pointer <= stack + nbytes else None
    raise FactError("nothing tells where this machine's stack pointers are saved")


def _registers(ground: Ground) -> U64:
    """Return all words of the registers that the CPUs had when the kernel crashed."""
    source, kernel_order = ground.source, ground.kernel.memory.space.byte_order
    of_cpus = cpu_registers(source.notes, ground.kernel.names.kernel.arch.bits, source.header.byte_order, kernel_order)
    return np.array([register for registers in of_cpus for register in registers], np.uint64)


def _waiting(ground: Ground, nbytes: int) -> Iterator[tuple[int, int]]:
    """Yield the stacks that CPUs keep for new threads."""
    kernel = ground.kernel
    variable = ground.optional("cached_stacks")
    if variable is None:
        return
    word_nbytes = kernel.memory.word.itemsize
    for at in kernel.per_cpu(variable):
        for i in range(2):
            area = kernel.memory.read_word(at + i * word_nbytes)
            if area:
                yield int(kernel.at(area, "vm_struct").addr), nbytes

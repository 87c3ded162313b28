# SPDX-License-Identifier: GPL-2.0-or-later
"""What the CPUs were running when the kernel crashed, by their registers and per-CPU variables.

References
----------
Linux ``arch/x86/include/asm/current.h``: ``pcpu_hot`` (e57ef2ed97c1, v6.2) has the task, the top of its stack, and that
of the interrupt stack; before it, and in later kernels again, these are variables of their own.
``arch/arm64/kernel/process.c``: ``__entry_task``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.kernel.percpu import MAX_CPUS
from npdump.sources._notes import cpu_registers

if TYPE_CHECKING:
    from npdump.kernel.image import Area
    from npdump.kernel.kernel import Kernel
    from npdump.sources import Source

__all__ = ["task_areas"]

_TASKS = ("current_task", "__entry_task")
_STACK_TOPS = ("cpu_current_top_of_stack", "hardirq_stack_ptr")
_PCPU_HOT_NWORDS = 8
"""A line of the CPU's cache; what of it is no pointer is mapped nowhere."""

_TASK_NBYTES = 1 << 12
"""The first bytes of a struct task_struct; it is larger, but how much is not told without its type."""


def stack_nbytes(kernel: Kernel) -> int:
    """Return what all stacks have at least, and are aligned to (Linux THREAD_SIZE of the machine without KASAN)."""
    return 1 << (13 if kernel.memory.word.itemsize == 4 else 14)


def task_areas(kernel: Kernel, source: Source, symbols: dict[str, int], offsets: list[int]) -> list[Area]:
    """Return where the stacks that the CPUs were on, and the tasks that they ran, are.

    Parameters
    ----------
    kernel : Kernel
    source : Source
    symbols : dict of str to int
    offsets : list of int
        What each CPU adds to the address of a per-CPU variable.
    """
    word = kernel.memory.word.itemsize
    hot = [symbols["pcpu_hot"] + i * word for i in range(_PCPU_HOT_NWORDS)] if "pcpu_hot" in symbols else []
    tasks = _words(kernel, [symbols[name] for name in _TASKS if name in symbols] + hot, offsets)
    tops = _words(kernel, [symbols[name] for name in _STACK_TOPS if name in symbols] + hot, offsets)
    pointers = [*_stack_pointers(kernel, source), *(top - 1 for top in tops)]
    nbytes = stack_nbytes(kernel)
    areas = {(at // nbytes * nbytes, nbytes) for at in pointers} | {(task, _TASK_NBYTES) for task in tasks}
    is_kernel = kernel.memory.is_kernel_vaddr
    return sorted(area for area in areas if is_kernel(area[0]) and is_kernel(sum(area)))


def _stack_pointers(kernel: Kernel, source: Source) -> list[int]:
    register = kernel.arch.stack_register
    if register is None:
        return []
    orders = source.header.byte_order, kernel.memory.space.byte_order
    found = cpu_registers(source.notes, kernel.arch.bits, *orders)
    return [registers[register] for registers in found[:MAX_CPUS] if len(registers) > register]


def _words(kernel: Kernel, variables: list[int], offsets: list[int]) -> list[int]:
    """Return the words of per-CPU variables, of all CPUs."""
    mask = (1 << kernel.memory.word.itemsize * 8) - 1
    vaddrs = np.array([variable + offset & mask for variable in variables for offset in offsets], np.uint64)
    return kernel.memory.read_words(vaddrs)[0].tolist()

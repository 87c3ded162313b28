# SPDX-License-Identifier: GPL-2.0-or-later
"""Keeps the stacks of all user threads at any dump level, so that what they were doing can be seen.

Of a thread's stack that is what is in use: from its stack pointer, as it was saved when it entered the kernel, up to
the start of the main thread's stack, or `MAX_NBYTES` of another thread's.

References
----------
Linux ``task_pt_regs()`` of x86_64, arm64 and riscv64: the registers are at the end of the kernel stack.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from npdump.errors import AddressError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import Runs
    from npdump.kernel.objects import Crashed, Object

MAX_NBYTES = 64 << 10
MAX_MAIN_NBYTES = 8 << 20
RED_ZONE_NBYTES = 128
"""Below the stack pointer, where functions that call none keep data (x86_64 psABI)."""

PADDINGS = (0, 16)
"""Bytes behind the registers: x86_64 kernels with FRED leave some (Linux TOP_OF_KERNEL_STACK_PADDING)."""


def keep(kernel: Crashed) -> Iterator[Runs]:
    """Yield the page frames of the stacks."""
    stack_nbytes = kernel.stack_nbytes()
    for task in kernel.tasks():
        with suppress(AddressError):
            if not task.mm:
                continue
            start, top = _stack_pointer(kernel, task, stack_nbytes), int(task.mm.start_stack)
            is_main = int(task.pid) == int(task.tgid)
            stop = min(top, start + MAX_MAIN_NBYTES) if is_main else start + MAX_NBYTES
            if start < stop:
                yield kernel.user_pages(task.mm, max(start - RED_ZONE_NBYTES, 0), stop + kernel.page_size)


def _stack_pointer(kernel: Crashed, task: Object, stack_nbytes: int) -> int:
    """Return the user stack pointer of a thread: the one that leads to memory of its process."""
    regs = kernel.names.record("pt_regs")
    end = int(task.stack) + stack_nbytes - regs.nbytes
    for padding in PADDINGS:
        found = kernel.memory.read_word(end - padding + regs.members["sp"].offset)
        if kernel.user_ranges(task.mm, found, found + 1):
            return found
    raise AddressError(f"{task!r} has no user stack")

# SPDX-License-Identifier: GPL-2.0-or-later
"""Erases the saved vector registers of all threads: copying and encrypting leave secrets in them.

The general registers, which a backtrace needs, stay.

References
----------
Linux ``arch/x86/include/asm/fpu/types.h`` (struct fpstate since v5.16), ``arch/arm64/include/asm/processor.h``,
``arch/riscv/include/asm/processor.h``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump.errors import FactError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from npdump.kernel.objects import Object
    from npdump.redact import Ground

WHAT = "saved vector registers of threads"

MAX_STATE_NBYTES = 1 << 16
"""x86's with AMX has 11 KiB."""


def erase(ground: Ground) -> Iterator[Object | tuple[int, int]]:
    """Yield the registers."""
    find = _finder(ground)
    for task in ground.kernel.tasks():
        with ground.missing("threads"):
            yield from find(ground, task)


def _finder(ground: Ground) -> Callable[[Ground, Object], Iterator[Object | tuple[int, int]]]:
    thread = ground.kernel.names.record("thread_struct").members
    if ground.kernel.names.find_record("fpstate") is not None:
        return _of_x86
    if "fpu" in thread:
        return _of_older_x86
    for path in (("uw", "fpsimd_state"), ("fstate",)):
        if path[0] in thread:
            return lambda ground, task: _at(task, *path)
    raise FactError("nothing tells where this machine's vector registers are saved")


def _at(task: Object, *path: str) -> Iterator[Object]:
    found = task.thread
    for name in path:
        found = getattr(found, name)
    yield found


def _of_older_x86(ground: Ground, task: Object) -> Iterator[Object]:
    yield task.thread.fpu.state


def _of_x86(ground: Ground, task: Object) -> Iterator[tuple[int, int]]:
    """Yield the registers of ``struct fpu``, which is in the thread, or behind it in newer kernels."""
    fpu = ground.kernel.names.record("fpu")
    if "fpu" in task.thread.type_.members and task.thread.fpu.type_.is_record:
        at = task.thread.fpu.address_
    else:
        at = task.address_ + task.nbytes_
    state = int(ground.kernel.at(at, "fpu").fpstate)
    if at + task.nbytes_ == state or not ground.kernel.memory.is_kernel_vaddr(state):
        return  # a thread of the kernel, which has none
    found = ground.kernel.at(state, "fpstate")
    nbytes = int(found.size)
    if state == at + fpu.members["__fpstate"].offset or 0 < nbytes <= MAX_STATE_NBYTES:
        yield found.regs.address_, min(nbytes, MAX_STATE_NBYTES)

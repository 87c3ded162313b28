# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel's threads and their stacks.

References
----------
Linux ``include/linux/sched.h`` (struct task_struct), ``include/linux/sched/signal.h`` (for_each_process_thread()).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from npdump.errors import AddressError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.kernel.own import Own

__all__ = ["Task", "tasks"]

MAX_TASKS = 1 << 20
_COMM_NBYTES = 16


class Task(NamedTuple):
    """A thread: ``stack`` is the lowest address of its kernel stack."""

    pid: int
    comm: str
    stack: int


def tasks(own: Own) -> Iterator[Task]:
    """Yield all threads but the idle ones of the CPUs.

    Raises
    ------
    FactError, AddressError
        If the kernel does not tell where they are, or the list is damaged. Threads that are not in the dump are passed
        over.
    """
    link, node = own.offset("task_struct", "tasks"), own.offset("task_struct", "thread_node")
    threads = own.offset("signal_struct", "thread_head")
    for entry in own.follow(own.symbol("init_task") + link, MAX_TASKS):
        (signal,) = own.read(entry - link, "task_struct", "signal")
        for thread in own.follow(signal + threads, MAX_TASKS):
            try:
                pid, comm, stack = own.read(thread - node, "task_struct", "pid", "comm", "stack")
            except AddressError:
                continue
            yield Task(pid, _comm(own, comm), stack)


def _comm(own: Own, number: int) -> str:
    order = "big" if own.memory.space.byte_order == ">" else "little"
    raw = number.to_bytes(_COMM_NBYTES, order)  # type: ignore[arg-type]
    return raw.partition(b"\0")[0].decode("ascii", "backslashreplace")

# SPDX-License-Identifier: GPL-2.0-or-later
"""What a debugger reads to list all tasks, without the kernel's types: from ``init_pid_ns`` on, pointer by pointer.

References
----------
Linux ``include/linux/pid_namespace.h`` (the IDs are in an IDR since 95846ecf9dac, v4.15), ``include/linux/xarray.h``:
what an XArray's node leads to is another node if the lower two bits are 0b10; ``include/linux/pid.h``: struct pid has
the heads of lists of tasks. No place in these structs is needed: all their words are looked at, and those that are no
pointers lead nowhere.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import runs_of_numbers, unique
from npdump.errors import AddressError, CodecError, SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import U64, Runs
    from npdump.kernel.kernel import Kernel

__all__ = ["process_runs"]

MAX_NODES, MAX_PIDS = 1 << 12, 1 << 15
MAX_TASK_PAGES = 1 << 13
"""Pages of tasks of which is looked at what they lead to; of others the tasks themselves are enough."""

MAX_LED_TO = 1 << 17
"""Pages: what is looked up at once takes some ten megabytes then."""

_TOGETHER = 1 << 9
"""Objects whose words are looked at together."""

_NAMESPACE_NBYTES, _NODE_NBYTES, _PID_NBYTES = 256, 576, 128
_TASK_REACH_NBYTES = 8 << 10
"""How far from where a list is linked in a task it may begin or end."""

_TAG_MASK, _NODE_TAG = np.uint64(0b11), np.uint64(0b10)


def process_runs(kernel: Kernel, init_pid_ns: int) -> Runs:
    """Return the page frames of all tasks, of what leads to them, and of what they lead to.

    Parameters
    ----------
    kernel : Kernel
    init_pid_ns : int
        Address of the first namespace of PIDs.

    Returns
    -------
    ndarray of shape (k, 2), dtype int64
        Ascending, disjoint.
    """
    page_size = np.uint64(kernel.page_size)
    nodes, pids = _walk(kernel, init_pid_ns)
    # Lists of tasks are linked in the tasks, at a place that is not known: what is around it is taken.
    reach = np.arange(-_TASK_REACH_NBYTES, _TASK_REACH_NBYTES + 1, kernel.page_size, dtype=np.int64).astype(np.uint64)
    links = _led_to(kernel, pids[:MAX_PIDS], _PID_NBYTES)
    tasks = unique((links[:, None] + reach).ravel() // page_size)
    led_to = _led_to(kernel, tasks[:MAX_TASK_PAGES] * page_size, kernel.page_size) // page_size
    ends = (nodes + np.uint64(_NODE_NBYTES - 1)) // page_size
    found = np.concatenate([nodes // page_size, ends, pids // page_size, tasks, unique(led_to)[:MAX_LED_TO]])
    paddrs, is_mapped = kernel.memory.paddrs(unique(found) * page_size)
    return runs_of_numbers(unique((paddrs[is_mapped] // page_size).astype(np.int64)))


def _led_to(kernel: Kernel, vaddrs: U64, nbytes: int) -> U64:
    """Return the addresses of the kernel's that are in some objects."""
    parts = [vaddrs[at : at + _TOGETHER] for at in range(0, len(vaddrs), _TOGETHER)]
    return np.concatenate([vaddrs[:0], *(_pointers(kernel, _words(kernel, part, nbytes)) for part in parts)])


def _walk(kernel: Kernel, init_pid_ns: int) -> tuple[U64, U64]:
    """Return the addresses of the nodes of the tree of PIDs, and what its leaves lead to."""
    words = _words(kernel, np.array([init_pid_ns], np.uint64), _NAMESPACE_NBYTES)
    nodes: U64 = np.empty(0, np.uint64)
    leaves = [nodes]
    while True:
        found = np.setdiff1d(_pointers(kernel, words[words & _TAG_MASK == _NODE_TAG] - _NODE_TAG), nodes)
        if not len(found) or len(nodes) + len(found) > MAX_NODES:
            return nodes, unique(np.concatenate(leaves))
        nodes = np.concatenate((nodes, found))
        words = _words(kernel, found, _NODE_NBYTES)
        leaves.append(_pointers(kernel, words[words & _TAG_MASK == 0]))


def _pointers(kernel: Kernel, words: U64) -> U64:
    """Return the words that are addresses of the kernel's, each once."""
    return unique(words[words >= np.uint64(kernel.memory.space.lowest_vaddr)])


def _words(kernel: Kernel, vaddrs: U64, nbytes: int) -> U64:
    """Return the words of objects; none of those that are not in the dump."""
    return np.concatenate([np.empty(0, np.uint64), *_each(kernel, vaddrs, nbytes)])


def _each(kernel: Kernel, vaddrs: U64, nbytes: int) -> Iterator[U64]:
    page_size, memory = kernel.page_size, kernel.memory
    paddrs, is_mapped = memory.paddrs(vaddrs)
    for paddr in paddrs[is_mapped].tolist():
        # What goes on in the next page is mapped elsewhere, if it is not in the direct map: it is passed over.
        n = min(nbytes, page_size - paddr % page_size) // memory.word.itemsize * memory.word.itemsize
        try:
            yield memory.view_physical(paddr, n).view(memory.word).astype(np.uint64)
        except (AddressError, SourceError, CodecError):
            continue

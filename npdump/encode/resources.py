# SPDX-License-Identifier: GPL-2.0-or-later
"""What this process may use of the machine: CPUs and memory."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["available_nbytes", "default_threads", "usable_cpus"]

THREAD_NBYTES = 1 << 20
"""Memory that a thread takes beside its buffers: its stack, and a compressor's state."""
BUFFERS_PER_THREAD = 4
"""Of the pages in a batch: what is read, what was read before, and what it became, twice."""


_CGROUPS = "/sys/fs/cgroup"
_PROC = "/proc"


def usable_cpus(proc: str = _PROC, cgroups: str = _CGROUPS) -> int:
    """Return how many CPUs' time this process may use: those it may run on, or fewer by its control groups' quota.

    References
    ----------
    Linux ``Documentation/admin-guide/cgroup-v2.rst``: cpu.max is "MAX PERIOD" in microseconds, or "max PERIOD".
    """
    n_cpus = len(os.sched_getaffinity(0))
    for directory in _groups(proc, cgroups):
        quota, _, period = _read(f"{directory}/cpu.max").strip().partition(" ")
        if quota.isdecimal() and period.isdecimal() and int(period):
            n_cpus = min(n_cpus, max(int(quota) // int(period), 1))
    return n_cpus


def available_nbytes(proc: str = _PROC, cgroups: str = _CGROUPS) -> int | None:
    """Return how much memory this process may still take without swapping; None if the system doesn't say.

    References
    ----------
    Linux ``Documentation/filesystems/proc.rst``: MemAvailable (since 3.14) in KiB; ``cgroup-v2.rst``: memory.max and
    memory.current in bytes. The page cache counts as current but can be given back, so that it's taken off.
    """
    lines = _read(f"{proc}/meminfo").splitlines()
    found = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    for directory in _groups(proc, cgroups):
        limit, current = _read(f"{directory}/memory.max").strip(), _read(f"{directory}/memory.current").strip()
        if limit.isdecimal() and current.isdecimal():
            found.append(max(int(limit) - int(current) + _file_nbytes(directory), 0))
    return min(found, default=None)


def _file_nbytes(directory: str) -> int:
    for line in _read(f"{directory}/memory.stat").splitlines():
        name, _, value = line.partition(" ")
        if name == "file" and value.isdecimal():
            return int(value)
    return 0


def _groups(proc: str, cgroups: str) -> Iterator[str]:
    for line in _read(f"{proc}/self/cgroup").splitlines():
        # Version 2 has one hierarchy, whose number is 0.
        if line.startswith("0::/"):
            group = line.removeprefix("0::/")
            while group:
                yield f"{cgroups}/{group}"
                group = group.rpartition("/")[0]
            # In a container the root is the container's own group.
            yield cgroups


def _read(path: str) -> str:
    try:
        with open(path, encoding="ascii", errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def default_threads(n_batches: int, batch_nbytes: int, n_enough: int) -> int:
    """Return how many threads pay: no more than there are CPUs, memory and work for.

    Parameters
    ----------
    n_batches : int
    batch_nbytes : int
        Bytes of the pages in a batch.
    n_enough : int
        How many batches pay for a thread; `npdump.codecs.Codec.min_batches_per_thread`.
    """
    n_threads = min(usable_cpus(), n_batches // n_enough)
    if n_threads > 1 and (nbytes := available_nbytes()) is not None:
        n_threads = min(n_threads, nbytes // (THREAD_NBYTES + BUFFERS_PER_THREAD * batch_nbytes))
    return max(n_threads, 1)

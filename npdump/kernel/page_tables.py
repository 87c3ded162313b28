# SPDX-License-Identifier: GPL-2.0-or-later
"""The memory that the kernel's own page tables are in."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arch._paging import leads_to
from npdump.arrays import runs_of_numbers, unique
from npdump.errors import AddressError, CodecError, SourceError

if TYPE_CHECKING:
    from npdump.arch._paging import Level
    from npdump.arrays import I64, U64, Runs
    from npdump.kernel.memory import VirtualMemory

__all__ = ["table_runs"]


def table_runs(memory: VirtualMemory, max_tables: int) -> Runs:
    """Return the page frames of the kernel's page tables, level by level from the top as far as the limit allows.

    Only the tables above the last level are read: of those it is enough to know where they are.

    Parameters
    ----------
    memory : VirtualMemory
    max_tables : int
        A level that would make it more tables is left out, with all that follow: entries may be damaged, and lead
        anywhere.

    Returns
    -------
    ndarray of shape (k, 2), dtype int64
        Empty if the machine has no page tables that can be read.
    """
    paging, root = memory.space.paging, memory.space.root
    if paging is None:
        return np.empty((0, 2), np.int64)
    page_size = memory.page_size
    tables: U64 = np.array([root & (1 << 64) - 1], np.uint64)
    frames: list[I64] = []
    n_tables = 0
    for level in paging.levels:
        n_tables += len(tables)
        if n_tables > max_tables:
            break
        nbytes = paging.dtype.itemsize << level.bits
        # A table may be smaller than a page, or take several.
        inside = np.arange(0, nbytes, page_size, dtype=np.uint64)
        frames.append(((tables[:, None] + inside) // np.uint64(page_size)).astype(np.int64).ravel())
        if level is not paging.levels[-1]:
            tables = _next_tables(memory, level, tables, nbytes, max_tables - n_tables)
    return runs_of_numbers(unique(np.concatenate(frames))) if frames else np.empty((0, 2), np.int64)


def _next_tables(memory: VirtualMemory, level: Level, tables: U64, nbytes: int, limit: int) -> U64:
    """Return where the tables are that some tables lead to, each once; a few more than ``limit`` at most."""
    assert memory.space.paging is not None
    found: U64 = np.empty(0, np.uint64)
    for paddr in tables.tolist():
        try:
            words = memory.view_physical(paddr, nbytes).view(memory.space.paging.dtype).astype(np.uint64)
        except (AddressError, SourceError, CodecError):
            continue
        found = np.concatenate((found, leads_to(words, level)))
        if len(found) > limit:
            found = unique(found)
            if len(found) > limit:
                break
    return unique(found)

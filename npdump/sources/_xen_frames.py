# SPDX-License-Identifier: GPL-2.0-or-later
"""A domain's table of page frames, as a dump of a Xen host has it in memory.

References
----------
Linux ``arch/x86/xen/p2m.c``: a list of lists of tables, each a page of 8-byte words that 0 ends.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import unique
from npdump.layouts import elf
from npdump.sources._notes import make_note

if TYPE_CHECKING:
    from npdump.arrays import I64, U8

__all__ = ["MAX_NPAGES", "MAX_PFN", "crash_info", "frame_tables"]

_PAGE_NBYTES = 4096
_N_WORDS = _PAGE_NBYTES // 8
MAX_PFN = _N_WORDS**3
"""As many page frames as three levels name: those of 512 GiB, more than Xen gives to a paravirtual domain."""

MAX_NPAGES = 2 + _N_WORDS + _N_WORDS**2
"""As many pages as `frame_tables` returns."""

_NO_FRAME = np.uint64((1 << 64) - 1)
_CRASH_INFO_WORDS = 10


def frame_tables(pfns: I64, mfns: I64, first_mfn: int) -> U8:
    """Return the pages of the table, of which the first is the list of lists.

    Parameters
    ----------
    pfns, mfns : ndarray of shape (n,), dtype int64
        Page frames of the domain, below `MAX_PFN`, and the machine's of each.
    first_mfn : int
        The machine's page frame of the first page; the others follow.

    Returns
    -------
    ndarray of shape (n * 4096,), dtype uint8
    """
    n_tables = int(pfns.max()) // _N_WORDS + 1
    n_lists = -(-n_tables // _N_WORDS)
    used, row = unique(pfns // _N_WORDS), pfns // _N_WORDS
    # All stretches without memory have one table, the first, as in Linux: a word of 0 would end a list.
    tables = np.full((1 + len(used), _N_WORDS), _NO_FRAME, "<u8")
    tables[1 + used.searchsorted(row), pfns % _N_WORDS] = mfns
    lists = np.zeros((1 + n_lists, _N_WORDS), "<u8")
    lists[0, :n_lists] = first_mfn + 1 + np.arange(n_lists)
    first_table = first_mfn + 1 + n_lists
    leaves = lists[1:].reshape(-1)
    leaves[:n_tables] = first_table
    leaves[used] = first_table + 1 + np.arange(len(used))
    return np.concatenate((lists, tables)).reshape(-1).view(np.uint8)


def crash_info(version: tuple[int, int], frame_list_list: int) -> bytes:
    """Return the note that a Xen host's dump has of its hypervisor, with what is known of a domain's."""
    words = np.zeros(_CRASH_INFO_WORDS, "<u8")
    words[:2] = version
    words[-1] = frame_list_list
    return make_note(b"Xen", words.tobytes(), "<", elf.NT_XEN_CRASH_INFO)

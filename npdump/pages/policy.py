# SPDX-License-Identifier: GPL-2.0-or-later
"""The policy: which pages a dump level leaves out, as one chain of ordinary ifs.

`decide` is the rule that makedumpfile applies to one page (``__exclude_unnecessary_pages()``), in the same order.
It's evaluated once for every combination of traits; the resulting table is applied to arrays of pages.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from npdump.arrays import U8

__all__ = ["MAX_DUMP_LEVEL", "DumpLevel", "PageClass", "Trait", "decide", "table"]


MAX_DUMP_LEVEL = 31


class DumpLevel(IntEnum):
    """Bits of a dump level: what to leave out (makedumpfile(8), option ``-d``)."""

    ZERO = 1
    CACHE = 2
    CACHE_PRIVATE = 4
    USER = 8
    FREE = 16


class Trait(IntEnum):
    """Bits that say what the fields of a struct page tell about its page; several may hold at once."""

    TAIL = 1 << 0
    """In a compound page, but not its first."""
    FREE = 1 << 1
    """First page of a free block in the buddy system."""
    BAD_ORDER = 1 << 2
    """As FREE, but the block is larger than the buddy system allows."""
    UNACCEPTED = 1 << 3
    """Memory that a confidential guest hasn't accepted yet; touching it may be fatal."""
    CACHE = 1 << 4
    """On an LRU list, or in the swap cache."""
    PRIVATE = 1 << 5
    """PG_private: a file system attached data of its own (buffer heads)."""
    ANON = 1 << 6
    """Mapped as anonymous memory."""
    HUGETLB = 1 << 7
    HWPOISON = 1 << 8
    """A machine check reported the memory as broken; reading it may raise another."""
    OFFLINE = 1 << 9
    """ExternalFacts back to the hypervisor or taken away (balloon, virtio-mem, Hyper-V)."""


class PageClass(IntEnum):
    """Why a page is left out, 0 for kept."""

    KEPT = 0
    CACHE = 1
    CACHE_PRIVATE = 2
    USER = 3
    FREE = 4
    HWPOISON = 5
    OFFLINE = 6
    UNACCEPTED = 7
    EXTENSION = 8
    """Left out by a rule of the user's own (`npdump.extensions`)."""
    GUEST = 9
    """Of another domain than Xen's and dom0's (``-X``)."""
    MEMMAP = 10
    """Struct pages of pages that are left out (``-e``)."""


UNSAFE = (PageClass.HWPOISON, PageClass.OFFLINE, PageClass.UNACCEPTED)
"""Classes whose memory must never be read."""


def decide(traits: int, level: int) -> PageClass:
    """Return the class of a page at a dump level.

    Parameters
    ----------
    traits : int
        Bits of `Trait`.
    level : int
        Bits of `DumpLevel`.

    References
    ----------
    makedumpfile ``__exclude_unnecessary_pages()`` at 1.7.9, with one deviation: there, a tail is never looked at, so
    that a poisoned tail of a kept compound page is read (and may take the capture kernel down).
    """
    if traits & Trait.TAIL:
        return PageClass.HWPOISON if traits & Trait.HWPOISON else PageClass.KEPT

    if level & DumpLevel.FREE:
        if traits & Trait.BAD_ORDER:
            return PageClass.KEPT
        if traits & Trait.FREE:
            return PageClass.FREE
        if traits & Trait.UNACCEPTED:
            return PageClass.UNACCEPTED

    if level & DumpLevel.CACHE and traits & Trait.CACHE and not traits & (Trait.PRIVATE | Trait.ANON):
        return PageClass.CACHE

    if level & DumpLevel.CACHE_PRIVATE and traits & Trait.CACHE and not traits & Trait.ANON:
        return PageClass.CACHE_PRIVATE if traits & Trait.PRIVATE else PageClass.CACHE

    if level & DumpLevel.USER and traits & (Trait.ANON | Trait.HUGETLB):
        return PageClass.USER

    if traits & Trait.HWPOISON:
        return PageClass.HWPOISON

    if traits & Trait.OFFLINE:
        return PageClass.OFFLINE

    return PageClass.KEPT


def table(level: int, drops_unaccepted: bool = False) -> U8:
    """Return `decide` for every combination of traits.

    Parameters
    ----------
    level : int
        Dump level, 0 to 31.
    drops_unaccepted : bool
        Leave out memory that the guest has not accepted even where the level keeps free pages.

    Returns
    -------
    ndarray of shape (1024,), dtype uint8
        The `PageClass`, indexed by the traits.
    """
    n_combinations = 1 << len(Trait)
    classes = np.array([decide(traits, level) for traits in range(n_combinations)], np.uint8)
    if drops_unaccepted:
        traits = np.arange(n_combinations)
        is_unaccepted = (traits & Trait.UNACCEPTED != 0) & (traits & Trait.TAIL == 0) & (classes == PageClass.KEPT)
        classes[is_unaccepted] = PageClass.UNACCEPTED
    return classes

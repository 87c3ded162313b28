# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that equal an earlier one, whose place in the dump file they can share.

Up to a quarter of the non-zero pages of small machines equal another one: files are in the page cache and, once more,
in what was read to unpack them. Where free pages are poisoned, three quarters do.

The compiled core and NumPy compute the same digests, so that the same pages are found whichever is there.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.core import CORE

if TYPE_CHECKING:
    from npdump.arrays import I64, U8, U64, Bool, Index

__all__ = [
    "NO_SLOT",
    "PLACE_WORDS",
    "Found",
    "PageIndex",
    "PlacedRows",
    "Settled",
    "are_equal",
    "digests",
    "keys_of",
    "settle",
]

MAX_SLOTS_SHIFT = 19
"""Half a million pages are remembered at most, in 16 MiB."""

_LOAD_SHIFT = 2
NO_SLOT = -1
"""Of pages that are not remembered; page frames that are none are -1, too."""

PLACE_WORDS = 3
"""Words of a place: an offset, another that is noted with it, and one that nothing is noted in."""

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio, whose powers spread like random numbers."""
_LANES = 8


class Found(NamedTuple):
    """What is known of some pages.

    Attributes
    ----------
    slots : ndarray of shape (n,), dtype int64
        Where the page is remembered, or the page that it may equal; -1 if it isn't.
    originals : ndarray of shape (n,), dtype int64
        The earlier page with the same key; -1 where there is none.
    n_found : int
        How many have one.
    """

    slots: Index
    originals: I64
    n_found: int

    @classmethod
    def nothing(cls, n: int) -> Found:
        """Return that nothing is known of ``n`` pages."""
        none = np.full((2, n), NO_SLOT, np.int64)
        return cls(none[0], none[1], 0)


class Settled(NamedTuple):
    """What is to be done with some pages.

    Attributes
    ----------
    rows : ndarray of shape (m,), dtype int64
        Those that are to be stored.
    slots : ndarray of shape (n,), dtype int64
        As those of `Found`; -1 also for pages that have nothing but the key of an earlier one.
    shared : ndarray of shape (n,), dtype bool
        Those that equal an earlier one.
    """

    rows: Index
    slots: Index
    shared: Bool


class PlacedRows(NamedTuple):
    """Pages that get a place in the file, or share one, in the order of their bytes; all of shape (m,).

    Attributes
    ----------
    rows, slots : ndarray of dtype int64
        Their rows among the places, and where `PageIndex` has them or, if they share, the page that they equal.
    shared : ndarray of dtype bool
        Whether they equal an earlier page.
    words : ndarray of dtype int64
        The second word of a place; 32 bits of it are how many bytes of its own the page has.
    """

    rows: Index
    slots: Index
    shared: Bool
    words: I64


class PageIndex:
    """A direct-mapped table of pages by a key of what they hold, without eviction.

    A page has one slot that it can be in, which the first one keeps. So the answers depend on the order of the pages
    alone, and a slot can be referred to before its page has a place in the file.

    Parameters
    ----------
    n_pages : int
        How many pages there may be.
    """

    def __init__(self, n_pages: int) -> None:
        shift = min(max((n_pages << _LOAD_SHIFT).bit_length(), 1), MAX_SLOTS_SHIFT)
        self._key_shift = np.uint64(64 - shift)
        # Key, page frame and place of a page, in one line of the CPU's cache; only what is used becomes memory.
        self._slots: I64 = np.zeros((1 << shift, 4), np.int64)

    def look_up(self, keys: U64, pfns: I64) -> Found:
        """Look pages up, and remember those that are new.

        Parameters
        ----------
        keys : ndarray of shape (n,), dtype uint64
            Equal for pages that hold the same, and evenly spread; 0 for pages to leave alone.
        pfns : ndarray of shape (n,), dtype int64
            Which pages they are; no two of all are the same.
        """
        if CORE is not None:
            slots, originals = np.empty(len(keys), np.int64), np.empty(len(keys), np.int64)
            return Found(slots, originals, CORE.look_up(keys, pfns, self._slots, slots, originals))
        index_keys, index_pfns = self._slots[:, 0].view(np.uint64), self._slots[:, 1]
        slots = (keys >> self._key_shift).astype(np.int64)
        # Of several that want a slot the first gets it: it's written last.
        fresh = np.flatnonzero((index_keys[slots] == 0) & (keys != 0))[::-1]
        index_keys[slots[fresh]] = keys[fresh]
        index_pfns[slots[fresh]] = pfns[fresh]
        originals = index_pfns[slots]
        has_slot = (index_keys[slots] == keys) & (keys != 0)
        is_found = has_slot & (originals != pfns)
        slots[~has_slot] = originals[~is_found] = NO_SLOT
        return Found(slots, originals, int(np.count_nonzero(is_found)))

    def place(self, offset: int, pages: PlacedRows, size_shift: int, places: I64) -> int:
        """Note where pages are in the file, and return where the last one ends.

        Parameters
        ----------
        offset : int
            Where the first one is that has bytes.
        pages : PlacedRows
        size_shift : {0, 32}
            Which half of a page's word is its size.
        places : ndarray of shape (n, 3), dtype int64
            Where to note it; what has no bytes and shares none stays as it is.
        """
        rows, slots, shared, words = pages
        if CORE is not None:
            stop: int = CORE.place(offset, size_shift, words, rows, slots, shared, self._slots, places)
            return stop
        sizes = (words >> size_shift) & 0xFFFFFFFF
        used = np.flatnonzero(sizes)
        stops = np.cumsum(sizes) + offset
        places[rows[used], 0] = (stops - sizes)[used]
        places[rows[used], 1] = words[used]
        has_slot = (slots != NO_SLOT) & ~shared
        self._slots[slots[has_slot], 2:] = places[rows[has_slot], :2]
        places[rows[shared], :2] = self._slots[slots[shared], 2:]
        return int(stops[-1]) if len(stops) else offset


def digests(pages: U8) -> U64:
    """Return a digest of each page.

    Parameters
    ----------
    pages : ndarray of shape (n, page_size), dtype uint8

    Returns
    -------
    ndarray of shape (n,), dtype uint64
        0 for pages of zeros alone, and for no others.

    Examples
    --------
    >>> pages = np.zeros((3, 4096), np.uint8)
    >>> pages[1:, 100] = 1
    >>> key, other, same = digests(pages).tolist()
    >>> key == 0 and other == same != 0
    True
    """
    if CORE is not None:
        keys = np.empty(len(pages), np.uint64)
        CORE.digests(pages.shape[1], pages, keys)
        return keys
    words = pages.view(np.uint64)
    keys = words @ _factors(words.shape[1])
    suspects = np.flatnonzero(keys == 0)
    keys[suspects] = words[suspects].any(axis=1)
    return keys


@cache
def _factors(n_words: int) -> U64:
    """Return what the digest multiplies the words of a page by: powers of one number, the last words' the lowest."""
    powers = np.cumprod(np.append(np.uint64(1), np.full(n_words - 1, _MULTIPLIER)), dtype=np.uint64)
    return np.ascontiguousarray(powers.reshape(-1, _LANES)[::-1]).reshape(-1)


def are_equal(pages: U8, rows: Index, others: U8, other_rows: Index) -> Bool:
    """Compare pages, byte for byte.

    Parameters
    ----------
    pages, others : ndarray of shape (n, page_size) and (m, page_size), dtype uint8
    rows, other_rows : ndarray of shape (k,), dtype intp
        Which of them.

    Returns
    -------
    ndarray of shape (k,), dtype bool
    """
    return (pages.view(np.uint64)[rows] == others.view(np.uint64)[other_rows]).all(axis=1)


def settle(pages: U8, pfns: I64, keys: U64, found: Found, others: U8, other_pfns: I64) -> Settled:
    """Compare pages with the earlier ones that they may equal, byte for byte.

    Parameters
    ----------
    pages : ndarray of shape (n, page_size), dtype uint8
    pfns, keys : ndarray of shape (n,), dtype int64 and uint64
        Their page frames, ascending, and what was looked up; those whose key is 0 are not to be stored.
    found : Found
        What is known of them; it is used up.
    others : ndarray of shape (m, page_size), dtype uint8
        The earlier pages that are none of ``pages``.
    other_pfns : ndarray of shape (m,), dtype int64
        Their page frames, ascending.
    """
    slots, originals, _ = found
    if CORE is not None:
        rows = np.empty(len(pages), np.int64)
        n = CORE.settle(pages.shape[1], pages, pfns, keys, others, other_pfns, slots, originals, rows)
        return Settled(rows[:n], slots, originals >= 0)
    shared = np.zeros(len(pages), np.bool_)
    suspects = np.flatnonzero(originals != NO_SLOT)
    for some, some_pfns in ((pages, pfns), (others, other_pfns)):
        rows = suspects[np.isin(originals[suspects], some_pfns)]
        shared[rows] = are_equal(pages, rows, some, some_pfns.searchsorted(originals[rows]))
    slots[suspects[~shared[suspects]]] = NO_SLOT
    return Settled(np.flatnonzero((keys != 0) & ~shared), slots, shared)


def keys_of(words: U64) -> U64:
    """Return keys of words that identify what pages hold.

    Parameters
    ----------
    words : ndarray of shape (n,), dtype uint64

    Returns
    -------
    ndarray of shape (n,), dtype uint64
        0 where the word is.
    """
    keys: U64 = words * _MULTIPLIER
    return keys

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
    from npdump.arrays import I64, U8, U32, U64, Bool, Index

__all__ = ["NO_SLOT", "PLACE_WORDS", "Found", "PageIndex", "PlacedRows", "are_equal", "digests", "keys_of"]

MAX_SLOTS_SHIFT = 19
"""Half a million pages are remembered at most, in 16 MiB."""

_LOAD_SHIFT = 2
NO_SLOT = -1
PLACE_WORDS = 3
"""Words of a place: an offset, another that is noted with it, and one that nothing is noted in."""

_NONE: Index = np.empty(0, np.int64)

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio, whose powers spread like random numbers."""
_LANES = 8


class Found(NamedTuple):
    """What is known of some pages.

    Attributes
    ----------
    slots : ndarray of shape (n,), dtype intp
        Where the page is remembered, or the page that it may equal; -1 if it isn't.
    duplicates : ndarray of shape (k,), dtype intp
        Those that have the key of an earlier page.
    pfns : ndarray of shape (k,), dtype int64
        The earlier pages.
    """

    slots: Index
    duplicates: Index
    pfns: I64


class PlacedRows(NamedTuple):
    """Pages that get a place in the file, or share one, in the order of their bytes; all of shape (m,).

    Attributes
    ----------
    rows, slots : ndarray of dtype int64
        Their rows among the places, and where `PageIndex` has them or, if they share, the page that they equal.
    shared : ndarray of dtype bool
        Whether they equal an earlier page.
    sizes : ndarray of dtype uint32
        How many bytes of their own they have.
    words : ndarray of dtype int64
        The second word of a place.
    """

    rows: Index
    slots: Index
    shared: Bool
    sizes: U32
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
        self._keys: U64 = np.zeros(1 << shift, np.uint64)
        self._pfns: I64 = np.empty(1 << shift, np.int64)
        self._places = np.empty((1 << shift, 2), np.int64)

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
            if not CORE.look_up(keys, pfns, self._keys, self._pfns, slots, originals):
                return Found(slots, _NONE, _NONE)
            duplicates = (originals >= 0).nonzero()[0]
            return Found(slots, duplicates, originals[duplicates])
        slots = (keys >> self._key_shift).astype(np.intp)
        # Of several that want a slot the first gets it: it's written last.
        fresh = np.flatnonzero((self._keys[slots] == 0) & (keys != 0))[::-1]
        self._keys[slots[fresh]] = keys[fresh]
        self._pfns[slots[fresh]] = pfns[fresh]
        known = self._pfns[slots]
        has_slot = (self._keys[slots] == keys) & (keys != 0)
        duplicates = np.flatnonzero(has_slot & (known != pfns))
        slots[~has_slot] = NO_SLOT
        return Found(slots, duplicates, known[duplicates])

    def place(self, offset: int, pages: PlacedRows, places: I64) -> None:
        """Note where pages are in the file.

        Parameters
        ----------
        offset : int
            Where the first one is that has bytes.
        pages : PlacedRows
        places : ndarray of shape (n, 3), dtype int64
            Where to note it; what has no bytes and shares none stays as it is.
        """
        rows, slots, shared, sizes, words = pages
        if CORE is not None:
            CORE.place(offset, sizes, words, rows, slots, shared, self._places, places)
            return
        used = np.flatnonzero(sizes)
        places[rows[used], 0] = (np.cumsum(sizes, dtype=np.int64) - sizes + offset)[used]
        places[rows[used], 1] = words[used]
        has_slot = (slots != NO_SLOT) & ~shared
        self._places[slots[has_slot]] = places[rows[has_slot], :2]
        places[rows[shared], :2] = self._places[slots[shared]]


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
    if CORE is not None:
        equal = np.empty(len(rows), np.bool_)
        CORE.equal(pages.shape[1], pages, rows, others, other_rows, equal)
        return equal
    return (pages.view(np.uint64)[rows] == others.view(np.uint64)[other_rows]).all(axis=1)


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

# SPDX-License-Identifier: GPL-2.0-or-later
"""Pages that equal an earlier one, whose place in the dump file they can share.

Up to a quarter of the non-zero pages of small machines equal another one: files are in the page cache and, once more,
in what was read to unpack them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from npdump.arrays import I64, U64, Index

__all__ = ["NO_SLOT", "Found", "PageIndex", "keys_of"]


MAX_SLOTS_SHIFT = 19
"""Half a million pages are remembered at most, in 16 MiB."""

_LOAD_SHIFT = 2
NO_SLOT = -1

_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""2**64 over the golden ratio, whose powers spread like random numbers."""


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


class PageIndex:
    """Remembers pages by a key of what they hold, as long as there is room; nothing is ever forgotten.

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

    def place(self, slots: Index, places: I64) -> None:
        """Say where pages stand in the file, in two words each; what has no slot is passed over."""
        used = slots != NO_SLOT
        self._places[slots[used]] = places[used]

    def places(self, slots: Index) -> I64:
        """Return where pages stand; shape (n, 2), dtype int64."""
        return self._places[slots]


def keys_of(words: U64) -> U64:
    """Make keys of words that stand for what pages hold.

    Parameters
    ----------
    words : ndarray of shape (n, k), dtype uint64

    Returns
    -------
    ndarray of shape (n,), dtype uint64
        0 where all words are.
    """
    # The value at a fixed point of the polynomial that has the words as coefficients.
    factors = np.cumprod(np.full(words.shape[1], _MULTIPLIER), dtype=np.uint64)
    keys: U64 = words @ factors
    return keys

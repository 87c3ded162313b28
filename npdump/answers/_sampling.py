# SPDX-License-Identifier: GPL-2.0-or-later
"""A sample of the pages that a dump would keep, apart by how much they are likely to weigh.

Pages that are stored once for several cannot be seen in a sample of pages: of two equal ones a small sample hardly ever
has both. So a few words of every page are looked at, which tell pages that may be equal; and whole pages of the sample
tell how many of these are, and how small the rest becomes.

References
----------
M. Charikar et al., Towards estimation error guarantees for distinct values, PODS 2000: no sample of pages alone gives
a bound. P. Efraimidis, P. Spirakis, Weighted random sampling with a reservoir, 2006: the lowest keys are a sample.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arrays import I64, U8, U64, count, expand, runs_of_numbers
from npdump.encode.dedup import NO_SLOT, PageIndex, keys_of

if TYPE_CHECKING:
    from npdump.arrays import Runs
    from npdump.sources import Source

__all__ = ["EQUAL", "SPREADS", "Sample", "Stratum", "read_sample"]

_ZERO, EQUAL = 0, 1
"""Strata of pages whose words are zero, and of those whose words an earlier page has; the rest go by their weight."""
_N_WEIGHTS = 4
_N_STRATA = 2 + _N_WEIGHTS
SPREADS = (0.5, 1, 0.5, 1, 1, 1)
"""How much the sizes of pages differ inside each stratum, roughly: it says how many to read, and biases nothing."""

_PEEKS = (0x5F8, 0xBF8)
"""Where in 4 KiB the words are: not where structures, strings and files begin."""
_PEEK_WORDS = 2

MAX_SAMPLED = 1 << 14
"""Pages of a stratum that are remembered: they make the size known to a percent or two."""

_FACTORS = np.cumprod(np.full(_PEEK_WORDS * len(_PEEKS), 0x9E3779B97F4A7C15, np.uint64), dtype=np.uint64)


class Stratum(NamedTuple):
    """Pages of a kind, and a sample of them.

    Attributes
    ----------
    npages : int
        How many there are.
    pfns, originals : ndarray of shape (n,), dtype int64
        The sampled ones, in random order; and the earlier page that each may equal.
    """

    npages: int
    pfns: I64
    originals: I64


class Sample:
    """What is remembered of pages as they come by; bounded, however many there are.

    Parameters
    ----------
    source : Source
    n_pages : int
        How many will come.
    drops_zero : bool
        Whether pages that are known to be zero need no look.
    """

    def __init__(self, source: Source, n_pages: int, drops_zero: bool) -> None:
        self._source = source
        self._drops_zero = drops_zero
        self._index = PageIndex(n_pages)
        self._npages = np.zeros(_N_STRATA, np.int64)
        empty = np.empty((0, 3), np.int64)
        self._chosen = [empty] * _N_STRATA
        self.n_holes = 0
        self.read_nbytes = 0

    def add(self, runs: Runs) -> None:
        """Look at the pages of ``runs``, shape (k, 2): page frames, ascending."""
        if self._drops_zero:
            n_all = count(runs)
            runs = self._source.maybe_nonzero(runs)
            self.n_holes += n_all - count(runs)
        pfns = expand(runs[:, 0], runs[:, 1] - runs[:, 0])
        if not len(pfns):
            return
        keys, weights = self._stored_words(runs) if self._source.compressed else self._peek(runs)
        found = self._index.look_up(keys, pfns)
        strata = np.where(keys == 0, _ZERO, weights)
        originals = found.originals
        strata[originals != NO_SLOT] = EQUAL
        # The order of a hash of the page frame is as good as a random one, and the same each time.
        ranks = (keys_of(pfns.view(np.uint64) + np.uint64(1)) >> np.uint64(1)).view(np.int64)
        for stratum in range(_N_STRATA):
            mine = np.flatnonzero(strata == stratum)
            self._npages[stratum] += len(mine)
            rows = np.column_stack((ranks[mine], pfns[mine], originals[mine]))
            both = np.concatenate((self._chosen[stratum], rows))
            self._chosen[stratum] = both[np.argsort(both[:, 0], kind="stable")[:MAX_SAMPLED]]

    def strata(self) -> list[Stratum]:
        """Return all strata."""
        return [
            Stratum(int(npages), chosen[:, 1], chosen[:, 2])
            for npages, chosen in zip(self._npages, self._chosen, strict=True)
        ]

    def _peek(self, runs: Runs) -> tuple[U64, I64]:
        """Return keys of what pages hold by a few words of each, 0 where these are, and strata by how many are not."""
        page_size = self._source.page_size
        words = np.empty((count(runs), _PEEK_WORDS * len(_PEEKS)), np.uint64)
        row = 0
        for pfn, pfn_stop in runs.tolist():
            n = pfn_stop - pfn
            pages = self._source.view(pfn * page_size, n * page_size).reshape(n, page_size)
            for i, at in enumerate(_PEEKS):
                at = at * page_size // 4096
                piece = np.ascontiguousarray(pages[:, at : at + 8 * _PEEK_WORDS])
                words[row : row + n, i * _PEEK_WORDS : (i + 1) * _PEEK_WORDS] = piece.view(np.uint64)
            row += n
        self.read_nbytes += words.nbytes
        used = (words != 0).sum(axis=1)
        keys = words @ _FACTORS
        keys[(keys == 0) & (used > 0)] = 1
        return keys, 1 + used

    def _stored_words(self, runs: Runs) -> tuple[U64, I64]:
        """Do as `_peek` by where pages are stored, and in how many bytes: pages that share a place are equal."""
        assert self._source.compressed is not None
        stored = self._source.compressed.locate(runs)
        keys = keys_of(stored.places.view(np.uint64))
        keys[stored.is_zero] = 0
        weights = np.minimum(stored.nbytes * _N_WEIGHTS // self._source.page_size, _N_WEIGHTS - 1)
        return keys, 2 + weights


def read_sample(source: Source, pfns: I64) -> U8:
    """Return pages in any order, shape (n, page_size); those that can't be had are zero."""
    distinct, rows = np.unique(pfns, return_inverse=True)
    pages = np.empty((len(distinct), source.page_size), np.uint8)
    source.gather(runs_of_numbers(distinct), pages)
    return pages[rows]

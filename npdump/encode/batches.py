# SPDX-License-Identifier: GPL-2.0-or-later
"""Kept pages in the order of their page frames, in batches."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np

from npdump.arrays import I64, U8, U64, Bool, Index, Runs, expand
from npdump.core import CORE
from npdump.encode.dedup import digests
from npdump.sources import refuse

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from npdump.sources import Loss, Source

__all__ = ["BATCH_NBYTES", "PageBatch", "ReadPages", "batches", "is_zero", "read_pages", "read_what_is_there"]

BATCH_NBYTES = 2 << 20
"""Bytes of pages in a batch: enough that NumPy's cost per call vanishes, few enough to stay in the CPU's cache."""


class PageBatch(NamedTuple):
    """Pages that are worked on together.

    ``rank`` is the number of kept pages before the first of these; ``runs`` (shape (k, 2), int64) are their page
    frames, ascending, and ``npages`` is how many they are. Where kept pages between them are in another batch,
    ``breaks`` has the row and the rank of the page that follows.
    """

    rank: int
    runs: Runs
    npages: int
    breaks: tuple[tuple[int, int], ...] = ()

    @property
    def pfns(self) -> I64:
        """Page frame of each page; shape (npages,), dtype int64."""
        return expand(self.runs[:, 0], self.runs[:, 1] - self.runs[:, 0])


class HasRuns(Protocol):
    """A bitmap, or a part of one."""

    def runs(self) -> Iterator[Runs]:
        """Yield the runs of set bits, ascending, in pieces."""


def batches(kept: HasRuns, rank: int, npages: int) -> Iterator[PageBatch]:
    """Cut the set bits of a bitmap into batches.

    Parameters
    ----------
    kept : Bitmap
    rank : int
        Number of kept pages before this bitmap.
    npages : int
        Pages in a batch; only the last one has fewer.
    """
    waiting: list[Runs] = []
    first_rank, next_rank = rank, rank
    for runs in kept.runs():
        lengths = runs[:, 1] - runs[:, 0]
        ranks = np.cumsum(lengths) - lengths + next_rank
        end_rank = int(ranks[-1] + lengths[-1])
        # Cut the runs where a batch ends.
        cuts = np.arange(first_rank + npages, end_rank, npages)
        owner = np.searchsorted(ranks, cuts, side="right") - 1
        inside = ranks[owner] != cuts
        cuts, owner = cuts[inside], owner[inside]
        starts = np.sort(np.concatenate((runs[:, 0], runs[owner, 0] + cuts - ranks[owner])))
        ranks = np.sort(np.concatenate((ranks, cuts)))
        stops = starts + np.diff(np.append(ranks, end_rank))
        pieces = np.column_stack((starts, stops))
        next_rank = end_rank
        edges = np.searchsorted(ranks, np.arange(first_rank + npages, end_rank + 1, npages))
        at = 0
        for edge in edges.tolist():
            yield PageBatch(first_rank, np.concatenate([*waiting, pieces[at:edge]]), npages)
            waiting = []
            first_rank += npages
            at = edge
        if at < len(pieces):
            waiting.append(pieces[at:])
    if waiting:
        yield PageBatch(first_rank, np.concatenate(waiting), next_rank - first_rank)


class ReadPages(NamedTuple):
    """Pages of a batch that were read.

    Attributes
    ----------
    rows : ndarray of shape (m,), dtype intp
        Which of the batch's pages.
    pfns : ndarray of shape (m,), dtype int64
    pages : ndarray of shape (m, page_size), dtype uint8
    losses : sequence of Loss
        Those of ``pages`` that can't be had.
    keys : ndarray of shape (m,), dtype uint64
        Their `npdump.encode.dedup.digests`, if these were asked for.
    """

    rows: Index
    pfns: I64
    pages: U8
    losses: Sequence[Loss]
    keys: U64


def read_pages(source: Source, batch: PageBatch, room: U8, drops_zero: bool = True) -> tuple[Index, U8]:
    """Read the pages of a batch, all of them, and return their rows and themselves.

    The parameters are those of `read_what_is_there`.

    Raises
    ------
    LostPage
        If one can't be had.
    """
    read = read_what_is_there(source, batch, room, drops_zero)
    refuse(read.losses)
    return read.rows, read.pages


def read_what_is_there(
    source: Source, batch: PageBatch, room: U8, drops_zero: bool, wants_keys: bool = False
) -> ReadPages:
    """Read the pages of a batch.

    Parameters
    ----------
    source : Source
    batch : PageBatch
    room : ndarray of shape (n, page_size), dtype uint8
        Where to put them; n is at least ``batch.npages``.
    drops_zero : bool
        Leave out those that are known to be zero without being read.
    wants_keys : bool

    Returns
    -------
    ReadPages
        Its ``pages`` are a view of ``room``.
    """
    pfns = batch.pfns
    runs = source.maybe_nonzero(batch.runs) if drops_zero else batch.runs
    if runs is batch.runs:
        rows = np.arange(len(pfns))
    else:
        all_pfns, pfns = pfns, expand(runs[:, 0], runs[:, 1] - runs[:, 0])
        rows = all_pfns.searchsorted(pfns)
    pages, keys = room[: len(rows)], np.empty(len(rows) * wants_keys, np.uint64)
    if wants_keys and _read_with_keys(source, runs, pages, keys):
        return ReadPages(rows, pfns, pages, (), keys)
    losses = source.gather(runs, pages)
    return ReadPages(rows, pfns, pages, losses, digests(pages) if wants_keys else keys)


def _read_with_keys(source: Source, runs: Runs, pages: U8, keys: U64) -> bool:
    """Read pages that stand in a file as they are, with their digests; return whether that could be done, for all."""
    find = getattr(source, "file_range", None)
    if CORE is None or find is None or not len(runs):
        return False
    first, page_size = int(runs[0, 0]), source.page_size
    where = find(first, int(runs[-1, 1]))
    if where is None:
        return False
    offsets = (runs[:, 0] - first) * page_size + where.offset
    nbytes = (runs[:, 1] - runs[:, 0]) * page_size
    n_read: int = CORE.read_ranges(where.fd, offsets, nbytes, pages.reshape(-1), page_size, keys)
    return n_read == len(runs)


_N_SAMPLES = 8
"""Words, spread over a page, that are looked at first."""


_WORTH_COPYING = 2
"""To copy a page costs twice as much as to see that it's all zero."""


def is_zero(pages: U8) -> Bool:
    """Return which pages hold nothing but zeros.

    Parameters
    ----------
    pages : ndarray of shape (n, page_size), dtype uint8

    Returns
    -------
    ndarray of shape (n,), dtype bool

    Notes
    -----
    Most pages that aren't zero show it in a few words spread over the page, so that only the others are read whole.
    """
    words = pages.view(np.uint64)
    zero: Bool = np.logical_not(words[:, 3 :: words.shape[1] // _N_SAMPLES].any(axis=1))
    suspects = np.flatnonzero(zero)
    if len(suspects):
        first, stop = int(suspects[0]), int(suspects[-1]) + 1
        if stop - first < _WORTH_COPYING * len(suspects):
            zero[suspects] = (np.bitwise_or.reduce(words[first:stop], axis=1) == 0)[suspects - first]
        else:
            zero[suspects] = np.bitwise_or.reduce(words[suspects], axis=1) == 0
    return zero

# SPDX-License-Identifier: GPL-2.0-or-later
"""Array types, and the algebra of runs: half-open ranges ``[start, stop)`` of whole numbers, mostly page frames."""

from __future__ import annotations

import heapq
from itertools import pairwise
from typing import Any

import numpy as np

__all__ = [
    "I64",
    "U8",
    "U16",
    "U32",
    "U64",
    "Bool",
    "Index",
    "Records",
    "Runs",
    "contains",
    "count",
    "expand",
    "group_edges",
    "intersect",
    "is_within",
    "join",
    "mask_of",
    "resolve_overlaps",
    "runs_of",
    "runs_of_numbers",
    "subtract",
    "unique",
]

# What numpy.typing.NDArray stands for; the module itself is 1 % of the time that npdump takes to start.
U8 = np.ndarray[Any, np.dtype[np.uint8]]
U16 = np.ndarray[Any, np.dtype[np.uint16]]
U32 = np.ndarray[Any, np.dtype[np.uint32]]
U64 = np.ndarray[Any, np.dtype[np.uint64]]
I64 = np.ndarray[Any, np.dtype[np.int64]]
Bool = np.ndarray[Any, np.dtype[np.bool_]]
Index = np.ndarray[Any, np.dtype[np.intp]]
"""Positions in another array."""

Records = np.ndarray[Any, np.dtype[np.void]]
"""Records of a structured dtype."""

Runs = np.ndarray[Any, np.dtype[np.int64]]
"""Shape (n, 2): half-open ranges. Unless it is said otherwise, they are ascending and disjoint."""


def runs_of(mask: Bool) -> Runs:
    """Return the runs of True in ``mask`` as half-open ranges.

    Parameters
    ----------
    mask : ndarray of shape (n,), dtype bool

    Returns
    -------
    ndarray of shape (k, 2), dtype int64
        ``[start, stop)`` of each run, ascending.

    Examples
    --------
    >>> runs_of(np.array([True, True, False, True])).tolist()
    [[0, 2], [3, 4]]
    """
    edges = np.diff(mask.view(np.int8), prepend=np.int8(0), append=np.int8(0))
    return np.flatnonzero(edges).reshape(-1, 2).astype(np.int64, copy=False)


def runs_of_numbers(numbers: I64) -> Runs:
    """Return the runs of ascending numbers; the reverse of `expand`.

    Parameters
    ----------
    numbers : ndarray of shape (n,), dtype int64

    Examples
    --------
    >>> runs_of_numbers(np.array([3, 4, 8])).tolist()
    [[3, 5], [8, 9]]
    """
    if not len(numbers):
        return np.empty((0, 2), np.int64)
    firsts, lasts = group_edges(numbers[1:] - numbers[:-1] != 1)
    return np.column_stack((numbers[firsts], numbers[lasts] + 1))


def mask_of(runs: Runs, start: int, stop: int) -> Bool:
    """Return which numbers of ``[start, stop)`` are in ``runs``; the reverse of `runs_of`.

    Parameters
    ----------
    runs : ndarray of shape (k, 2), dtype int64
    start, stop : int

    Returns
    -------
    ndarray of shape (stop - start,), dtype bool

    Examples
    --------
    >>> mask_of(np.array([[0, 2], [3, 9]]), 1, 5).tolist()
    [True, False, True, True]
    """
    mask = np.zeros(stop - start, np.bool_)
    first = np.searchsorted(runs[:, 1], start, side="right")
    last = np.searchsorted(runs[:, 0], stop, side="left")
    for run_start, run_stop in runs[first:last].tolist():
        mask[max(run_start - start, 0) : run_stop - start] = True
    return mask


def count(runs: Runs) -> int:
    """Return how many numbers are in ``runs``.

    Examples
    --------
    >>> count(np.array([[0, 2], [3, 9]]))
    8
    """
    return int((runs[:, 1] - runs[:, 0]).sum())


def contains(runs: Runs, number: int) -> bool:
    """Return whether a number is in ``runs``.

    Examples
    --------
    >>> contains(np.array([[0, 2], [3, 9]]), 2)
    False
    """
    return is_within(runs, number, number + 1)


def is_within(runs: Runs, start: int, stop: int) -> bool:
    """Return whether one of ``runs`` has all of ``[start, stop)``.

    Examples
    --------
    >>> is_within(np.array([[0, 2], [3, 9]]), 4, 9)
    True
    """
    i = int(runs[:, 0].searchsorted(start, side="right")) - 1
    return i >= 0 and int(runs[i, 1]) >= stop


def group_edges(is_first: Bool) -> tuple[Index, Index]:
    """Return the first and the last row of each group of neighbouring rows.

    Parameters
    ----------
    is_first : ndarray of shape (n - 1,), dtype bool
        Whether the second row, the third, … begins a group; the first row always does.

    Returns
    -------
    firsts, lasts : ndarray of shape (k,), dtype intp

    Notes
    -----
    No rows and one row give the same empty ``is_first``: who may have no rows at all asks for that before.

    Examples
    --------
    >>> firsts, lasts = group_edges(np.array([False, True, False]))
    >>> firsts.tolist(), lasts.tolist()
    ([0, 2], [1, 3])
    """
    edges = np.flatnonzero(is_first)
    return np.append(0, edges + 1), np.append(edges, len(is_first))


def join(runs: Runs) -> Runs:
    """Join runs that touch or overlap.

    Parameters
    ----------
    runs : ndarray of shape (n, 2), dtype int64
        Ascending by their starts; they may overlap.

    Returns
    -------
    ndarray of shape (k, 2), dtype int64

    Examples
    --------
    >>> join(np.array([[0, 2], [2, 9], [4, 5], [10, 11]])).tolist()
    [[0, 9], [10, 11]]
    """
    if not len(runs):
        return runs
    reach = np.maximum.accumulate(runs[:, 1])
    firsts, lasts = group_edges(runs[1:, 0] > reach[:-1])
    return np.column_stack((runs[firsts, 0], reach[lasts]))


def intersect(one: Runs, other: Runs) -> Runs:
    """Return what is in both.

    Parameters
    ----------
    one, other : ndarray of shape (n, 2), dtype int64

    Returns
    -------
    ndarray of shape (k, 2), dtype int64

    Examples
    --------
    >>> intersect(np.array([[0, 4], [6, 9]]), np.array([[2, 7]])).tolist()
    [[2, 4], [6, 7]]
    """
    if len(one) == 1:
        start, stop = one[0]
        met = other[other[:, 1].searchsorted(start, side="right") : other[:, 0].searchsorted(stop)]
        return met.clip(start, stop)
    first = np.searchsorted(other[:, 1], one[:, 0], side="right")
    n_met = np.maximum(np.searchsorted(other[:, 0], one[:, 1], side="left") - first, 0)
    met, of = other[expand(first, n_met)], np.repeat(one, n_met, axis=0)
    return np.column_stack((np.maximum(met[:, 0], of[:, 0]), np.minimum(met[:, 1], of[:, 1])))


def subtract(runs: Runs, others: Runs) -> Runs:
    """Return what is in ``runs`` and not in ``others``.

    Parameters
    ----------
    runs, others : ndarray of shape (n, 2), dtype int64

    Returns
    -------
    ndarray of shape (k, 2), dtype int64

    Examples
    --------
    >>> subtract(np.array([[0, 4], [6, 9]]), np.array([[2, 7]])).tolist()
    [[0, 2], [7, 9]]
    """
    limits = np.iinfo(np.int64)
    starts, stops = np.append(limits.min, others[:, 1]), np.append(others[:, 0], limits.max)
    gaps = np.column_stack((starts, stops))
    return intersect(runs, gaps[starts < stops])


def expand(starts: I64 | Index, lengths: I64 | Index) -> I64:
    """Return the numbers of all ranges, one after the other.

    Parameters
    ----------
    starts, lengths : ndarray of shape (k,), dtype int64

    Returns
    -------
    ndarray of shape (sum of lengths,), dtype int64

    Examples
    --------
    >>> expand(np.array([5, 1]), np.array([2, 3])).tolist()
    [5, 6, 1, 2, 3]
    """
    if len(starts) == 1:
        return np.arange(int(starts[0]), int(starts[0]) + int(lengths[0]))
    stops = lengths.cumsum()
    return (starts - stops + lengths).repeat(lengths) + np.arange(int(stops[-1]) if len(stops) else 0)


def unique(numbers: np.ndarray) -> np.ndarray:
    """Return numbers in ascending order, each once.

    As `numpy.unique`, which would import numpy.ma: a tenth of the time that npdump takes to start.

    Examples
    --------
    >>> unique(np.array([3, 1, 3])).tolist()
    [1, 3]
    """
    ordered = np.sort(numbers)
    return ordered[np.append(True, ordered[1:] != ordered[:-1])[: len(ordered)]]


def resolve_overlaps(start: I64, stop: I64, offset: I64) -> tuple[I64, I64, I64]:
    """Cut overlapping ranges so that each number belongs to the range that comes first.

    Parameters
    ----------
    start, stop, offset : ndarray of shape (n,), dtype int64
        Half-open ranges, and something that grows with them (a file offset).

    Returns
    -------
    start, stop, offset : ndarray of shape (k,), dtype int64
        Disjoint and ascending.

    Examples
    --------
    >>> start, stop, offset = resolve_overlaps(np.array([4, 0]), np.array([6, 9]), np.array([100, 200]))
    >>> start.tolist(), stop.tolist(), offset.tolist()
    ([0, 4, 6], [4, 6, 9], [200, 100, 206])
    """
    order = np.argsort(start, kind="stable")
    if (start[order][1:] >= stop[order][:-1]).all():
        return start[order], stop[order], offset[order]
    cuts = sorted({*start.tolist(), *stop.tolist()})
    starts, stops, offsets = start.tolist(), stop.tolist(), offset.tolist()
    waiting = order.tolist()
    waiting.reverse()
    active: list[int] = []
    pieces: list[tuple[int, int, int]] = []
    for cut, next_cut in pairwise(cuts):
        while waiting and starts[waiting[-1]] == cut:
            heapq.heappush(active, waiting.pop())
        while active and stops[active[0]] <= cut:
            heapq.heappop(active)
        if active:
            owner = active[0]
            pieces.append((cut, next_cut, offsets[owner] + cut - starts[owner]))
    columns = np.array(pieces, np.int64).reshape(-1, 3)
    return columns[:, 0], columns[:, 1], columns[:, 2]

# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocks of pages: a free block or a compound page goes, or stays, as a whole."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from npdump.arrays import I64, U8, Bool, Index, expand

__all__ = ["NO_CARRY", "Carry", "cover"]


class Carry(NamedTuple):
    """The class of a block that reaches beyond its batch, and the first page frame after it."""

    page_class: int
    pfn_stop: int


NO_CARRY = Carry(0, 0)


def _met(starts: Index, stops: I64, floor: int) -> Bool:
    """Tell which blocks a sequential scan meets that, after each block, goes on behind it."""
    reach = np.maximum.accumulate(np.append(floor, stops[:-1]))
    met = starts >= reach
    if not (~met & (stops > reach)).any():
        return met
    # Only damaged memory maps have blocks that overlap without nesting; there the order of the scan decides.
    at = floor
    for i, (start, stop) in enumerate(zip(starts.tolist(), stops.tolist(), strict=True)):
        met[i] = start >= at
        if met[i]:
            at = stop
    return met


def cover(classes: U8, orders: U8, pfn_start: int, carry: Carry) -> tuple[U8, Index, Carry]:
    """Spread the class of each block's first page over the block.

    Parameters
    ----------
    classes : ndarray of shape (n,), dtype uint8
        Class of each page by its own traits, 0 for kept.
    orders : ndarray of shape (n,), dtype uint8
        ``1 << order`` pages are in the block that begins here; not looked at where the class is 0.
    pfn_start : int
        Page frame of the first one.
    carry : Carry
        Of the batch before.

    Returns
    -------
    covered : ndarray of shape (n,), dtype uint8
        Class of each page. A block that begins within another is not looked at, as in makedumpfile, whose loop goes
        on behind an excluded block.
    inner : ndarray of shape (k,), dtype intp
        Rows of pages that have their class from the first page of their block, which is another page.
    carry : Carry
        For the next batch.
    """
    n = len(classes)
    floor = min(max(carry.pfn_stop - pfn_start, 0), n)
    # Single pages have their own class, unless a block covers them.
    covered = classes.copy()
    covered[:floor] = carry.page_class
    inner = np.arange(floor if carry.page_class else 0)
    if carry.pfn_stop >= pfn_start + n:
        return covered, inner, carry
    starts = np.flatnonzero(np.logical_and(classes, orders))
    if not len(starts):
        return covered, inner, NO_CARRY
    stops = starts + (np.int64(1) << orders[starts].astype(np.int64))
    met = _met(starts, stops, floor)
    starts, stops = starts[met], stops[met]
    if not len(starts):
        return covered, inner, NO_CARRY
    last_class, last_stop = int(classes[starts[-1]]), int(stops[-1])
    n_inner = np.minimum(stops, n) - starts - 1
    pages = expand(starts + 1, n_inner)
    covered[pages] = classes[starts].repeat(n_inner)
    inner = np.concatenate((inner, pages))
    return covered, inner, Carry(last_class, pfn_start + last_stop) if last_stop > n else NO_CARRY

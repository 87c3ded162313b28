# SPDX-License-Identifier: GPL-2.0-or-later
"""Blocks of pages: the closed form against the loop that makedumpfile makes over page frames."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npdump.pages.blocks import NO_CARRY, Carry, cover

Pages = list[tuple[int, int]]
#: (class, order) of each page; most are kept.
PAGES = st.lists(
    st.one_of(
        st.just((0, 0)), st.tuples(st.integers(0, 7), st.integers(0, 5)), st.tuples(st.just(4), st.integers(0, 3))
    ),
    max_size=120,
)


def walk(pages: Pages) -> list[int]:
    """Page by page: the class of a block goes to all of its pages, and the walk goes on after it."""
    covered = [0] * len(pages)
    pfn = 0
    while pfn < len(pages):
        page_class, order = pages[pfn]
        n_pages = 1 << order if page_class else 1
        for number in range(pfn, min(pfn + n_pages, len(pages))):
            covered[number] = page_class
        pfn += n_pages
    return covered


def covered_in_batches(pages: Pages, edges: list[int], pfn_start: int) -> list[int]:
    """The same by `cover`, cut into batches."""
    covered: list[int] = []
    carry = NO_CARRY
    cuts = [0, *sorted({edge % (len(pages) + 1) for edge in edges}), len(pages)]
    for start, stop in pairwise(cuts):
        classes, orders = np.array(pages[start:stop], np.uint8).reshape(-1, 2).T
        part, _, carry = cover(classes.copy(), orders.copy(), pfn_start + start, carry)
        assert len(part) == stop - start
        covered += part.tolist()
    return covered


@given(pages=PAGES, edges=st.lists(st.integers(0, 200), max_size=6), pfn_start=st.integers(0, 1 << 40))
def test_cover_is_the_loop(pages: Pages, edges: list[int], pfn_start: int) -> None:
    """However the pages are cut into batches, overlapping blocks included."""
    assert covered_in_batches(pages, edges, pfn_start) == walk(pages)


@given(pages=PAGES, pfn_start=st.integers(0, 1 << 40))
def test_the_carry_is_what_reaches_beyond(pages: Pages, pfn_start: int) -> None:
    classes, orders = np.array(pages, np.uint8).reshape(-1, 2).T
    _, _, carry = cover(classes.copy(), orders.copy(), pfn_start, NO_CARRY)
    longer = walk([*pages, *[(0, 0)] * 32])[len(pages) :]
    n_more = next((number for number, page_class in enumerate(longer) if not page_class), len(longer))
    if n_more:
        assert carry == Carry(longer[0], pfn_start + len(pages) + n_more)
    else:
        assert carry == NO_CARRY


def test_a_block_of_the_largest_order_passes_whole_batches() -> None:
    classes, orders = np.array([4, 0], np.uint8), np.array([20, 0], np.uint8)
    covered, _, carry = cover(classes, orders, 0, NO_CARRY)
    assert (covered.tolist(), carry) == ([4, 4], Carry(4, 1 << 20))
    nothing = np.zeros(1 << 19, np.uint8)
    covered, _, carry = cover(nothing, nothing, 2, carry)
    assert covered.all() and carry == Carry(4, 1 << 20)
    covered, _, carry = cover(nothing, nothing, 2 + (1 << 19), carry)
    assert (int((covered == 4).sum()), carry) == ((1 << 19) - 2, NO_CARRY)

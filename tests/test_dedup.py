# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of pages that were seen, against a dictionary of slots."""

from __future__ import annotations

from itertools import count

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from npdump.encode.dedup import NO_SLOT, PageIndex, keys_of

#: Few different pages, so that many are seen again, and keys whose upper bits meet in a slot.
KEYS = st.one_of(st.just(0), st.integers(1, 4), st.integers(0, 7).map(lambda top: top << 60 | 5))
N_SLOTS = 32
N_PAGES = 4
"""A table for so many pages has 32 slots: its index is a key's upper 5 bits."""


@given(st.lists(st.lists(KEYS, max_size=12), max_size=6))
def test_the_first_page_keeps_its_slot(calls: list[list[int]]) -> None:
    """Whatever the pages are asked in: the answers depend on their order alone."""
    index, model, pfns = PageIndex(N_PAGES), {}, count(100)
    for keys in calls:
        numbers = [next(pfns) for _ in keys]
        found = index.look_up(np.array(keys, np.uint64), np.array(numbers, np.int64))
        slots, duplicates = [], []
        for row, (key, pfn) in enumerate(zip(keys, numbers, strict=True)):
            slot = key >> 59
            if key and slot not in model:
                model[slot] = key, pfn
            known = model.get(slot) if key else None
            if known is None or known[0] != key:
                slots.append(NO_SLOT)
                continue
            slots.append(slot)
            if known[1] != pfn:
                duplicates.append((row, known[1]))
        assert found.slots.tolist() == slots
        assert list(zip(found.duplicates.tolist(), found.pfns.tolist(), strict=True)) == duplicates


def test_places_are_those_of_the_slots() -> None:
    index = PageIndex(N_PAGES)
    keys = np.array([1 << 60, 2 << 60, 0], np.uint64)
    slots = index.look_up(keys, np.array([7, 8, 9])).slots
    index.place(slots, np.array([[10, 11], [20, 21], [30, 31]]))
    again = index.look_up(keys[:2], np.array([17, 18]))
    assert (again.duplicates.tolist(), again.pfns.tolist()) == ([0, 1], [7, 8])
    assert index.places(again.slots).tolist() == [[10, 11], [20, 21]]


def test_a_full_table_forgets_nothing() -> None:
    index = PageIndex(N_PAGES)
    keys = np.arange(N_SLOTS, dtype=np.uint64) << np.uint64(59) | np.uint64(1)
    assert len(index.look_up(keys, np.arange(N_SLOTS)).duplicates) == 0
    assert (index.look_up(keys + np.uint64(1), np.arange(100, 100 + N_SLOTS)).slots == NO_SLOT).all()
    assert index.look_up(keys, np.arange(200, 200 + N_SLOTS)).pfns.tolist() == list(range(N_SLOTS))


@given(st.lists(st.lists(st.integers(0, (1 << 64) - 1), min_size=3, max_size=3), min_size=1, max_size=8))
def test_keys_are_a_polynomial_modulo_2_64(rows: list[list[int]]) -> None:
    multiplier = 0x9E3779B97F4A7C15
    wanted = [sum(word * multiplier ** (i + 1) for i, word in enumerate(row)) % (1 << 64) for row in rows]
    assert keys_of(np.array(rows, np.uint64)).tolist() == wanted

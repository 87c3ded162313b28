# SPDX-License-Identifier: GPL-2.0-or-later
"""The table of pages that were seen, against a dictionary of slots."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npdump.core import CORE
from npdump.encode import dedup
from npdump.encode.dedup import NO_SLOT, Found, PageIndex, PlacedRows, are_equal, digests, settle

#: Few different pages, so that many are seen again, and keys whose upper bits meet in a slot.
KEYS = st.one_of(st.just(0), st.integers(1, 4), st.integers(0, 7).map(lambda top: top << 60 | 5))
N_SLOTS = 32
N_PAGES = 4
"""A table for so many pages has 32 slots: its index is a key's upper 5 bits."""


@pytest.fixture(autouse=True, params=["core", "numpy"])
def core(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test is done by the compiled core and by NumPy."""
    if request.param == "numpy":
        monkeypatch.setattr(dedup, "CORE", None)
    elif CORE is None:
        pytest.skip("there is no compiled core")


@given(st.lists(st.lists(KEYS, max_size=12), max_size=6))
def test_the_first_page_keeps_its_slot(calls: list[list[int]]) -> None:
    """Whatever the pages are asked in: the answers depend on their order alone."""
    index, model, pfns = PageIndex(N_PAGES), {}, count(100)
    for keys in calls:
        numbers = [next(pfns) for _ in keys]
        found = index.look_up(np.array(keys, np.uint64), np.array(numbers, np.int64))
        slots, originals = [], []
        for key, pfn in zip(keys, numbers, strict=True):
            slot = key >> 59
            if key and slot not in model:
                model[slot] = key, pfn
            known = model.get(slot) if key else None
            if known is None or known[0] != key:
                known, slot = (0, pfn), NO_SLOT
            slots.append(slot)
            originals.append(known[1] if known[1] != pfn else NO_SLOT)
        assert found.slots.tolist() == slots
        assert found.originals.tolist() == originals
        assert found.n_found == len(originals) - originals.count(NO_SLOT)


def test_places_are_those_of_the_slots() -> None:
    index = PageIndex(N_PAGES)
    keys = np.array([1 << 60, 2 << 60, 0], np.uint64)
    found = index.look_up(keys, np.array([7, 8, 9]))
    own = np.zeros(3, np.bool_)
    places = np.zeros((4, 3), np.int64)
    words = np.array([1 << 40 | 10, 1 << 41, 5])
    assert index.place(1000, PlacedRows(np.array([0, 1, 3]), found.slots, own, words), 0, places) == 1015
    first, last = [1000, 1 << 40 | 10, 0], [1010, 5, 0]
    assert places.tolist() == [first, [0, 0, 0], [0, 0, 0], last], "no bytes: the place it has"
    again = index.look_up(keys[:2], np.array([17, 18]))
    assert again.originals.tolist() == [7, 8]
    later = np.full((3, 3), -1, np.int64)
    shared = PlacedRows(
        np.array([0, 1, 2]),
        np.array([again.slots[1], NO_SLOT, again.slots[0]]),
        np.array([True, False, True]),
        np.array([0, 7 << 32 | 4, 0]),
    )
    assert index.place(2000, shared, 32, later) == 2007
    assert later.tolist() == [[0, 0, -1], [2000, 7 << 32 | 4, -1], [*first[:2], -1]]
    assert index.place(7, PlacedRows(*(array[:0] for array in shared)), 32, later) == 7


def test_a_full_table_forgets_nothing() -> None:
    index = PageIndex(N_PAGES)
    keys = np.arange(N_SLOTS, dtype=np.uint64) << np.uint64(59) | np.uint64(1)
    assert index.look_up(keys, np.arange(N_SLOTS)).n_found == 0
    assert (index.look_up(keys + np.uint64(1), np.arange(100, 100 + N_SLOTS)).slots == NO_SLOT).all()
    assert index.look_up(keys, np.arange(200, 200 + N_SLOTS)).originals.tolist() == list(range(N_SLOTS))


@given(st.lists(st.dictionaries(st.integers(0, 511), st.integers(0, (1 << 64) - 1)), min_size=1, max_size=4))
def test_digests_are_a_polynomial_modulo_2_64(pages: list[dict[int, int]]) -> None:
    """Of lanes of every eighth word; and 0 for zero pages alone."""
    multiplier = 0x9E3779B97F4A7C15
    words = np.zeros((len(pages), 512), np.uint64)
    wanted = []
    for row, page in enumerate(pages):
        for at, word in page.items():
            words[row, at] = word
        value = sum(word * multiplier ** (8 * (63 - at // 8) + at % 8) for at, word in page.items()) % (1 << 64)
        wanted.append(value or int(any(page.values())))
    assert digests(words.view(np.uint8)).tolist() == wanted


def test_a_page_whose_digest_would_be_0_is_no_zero_page() -> None:
    multiplier = 0x9E3779B97F4A7C15
    page = np.zeros((1, 512), np.uint64)
    page[0, 504], page[0, 505] = (-multiplier) % (1 << 64), 1
    assert digests(page.view(np.uint8)).tolist() == [1]


def test_pages_are_compared_to_the_last_byte() -> None:
    pages = np.zeros((3, 4096), np.uint8)
    pages[1, 4095] = 1
    others = pages[1:].copy()
    rows, other_rows = np.array([0, 1, 2, 1]), np.array([0, 0, 1, 1])
    assert are_equal(pages, rows, others, other_rows).tolist() == [False, True, True, False]


@given(st.data())
def test_pages_are_stored_but_those_that_equal_their_original(data: st.DataObject) -> None:
    """Those of the same batch or of others, which hold one of three things; a page without a key is not stored."""
    n, n_others = data.draw(st.integers(1, 6)), data.draw(st.integers(0, 3))
    numbers = data.draw(st.lists(st.integers(0, 50), min_size=n + n_others, max_size=n + n_others, unique=True))
    content = {pfn: data.draw(st.integers(0, 2)) for pfn in numbers}
    ours, others = sorted(numbers[:n]), sorted(numbers[n:])
    keys = np.array([data.draw(st.integers(0, 1)) for _ in ours], np.uint64)
    originals = [data.draw(st.sampled_from([NO_SLOT, *numbers])) if key else NO_SLOT for key in keys]

    def pages_of(pfns: list[int]) -> np.ndarray:
        pages = np.zeros((len(pfns), 512), np.uint8)
        pages[:, -1] = [content[pfn] for pfn in pfns]
        return pages

    found = Found(np.arange(n), np.array(originals), n - originals.count(NO_SLOT))
    settled = settle(pages_of(ours), np.array(ours), keys, found, pages_of(others), np.array(others, np.int64))
    shared = [
        original != NO_SLOT and content[original] == content[pfn] for original, pfn in zip(originals, ours, strict=True)
    ]
    assert settled.shared.tolist() == shared
    assert settled.rows.tolist() == [row for row in range(n) if keys[row] and not shared[row]]
    differ = [original != NO_SLOT and not same for original, same in zip(originals, shared, strict=True)]
    assert settled.slots.tolist() == [NO_SLOT if differ[row] else row for row in range(n)]

# SPDX-License-Identifier: GPL-2.0-or-later
"""The algebra of runs against sets of numbers."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npdump import arrays

SPACE = 80
NUMBERS = st.sets(st.integers(0, SPACE - 1))
RANGES = st.lists(st.tuples(st.integers(0, SPACE), st.integers(0, 12)), max_size=12)


def runs_of_set(numbers: set[int]) -> list[list[int]]:
    """Maximal half-open ranges, one number at a time."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number:
            runs[-1][1] += 1
        else:
            runs.append([number, number + 1])
    return runs


def as_runs(numbers: set[int]) -> arrays.Runs:
    return np.array(runs_of_set(numbers), np.int64).reshape(-1, 2)


def in_pieces(numbers: set[int], cuts: set[int]) -> arrays.Runs:
    """Ascending, disjoint runs that touch where they are cut."""
    runs: list[list[int]] = []
    for number in sorted(numbers):
        if runs and runs[-1][1] == number and number not in cuts:
            runs[-1][1] += 1
        else:
            runs.append([number, number + 1])
    return np.array(runs, np.int64).reshape(-1, 2)


def members(runs: arrays.Runs) -> list[int]:
    return [number for start, stop in runs.tolist() for number in range(start, stop)]


@given(NUMBERS)
def test_runs_masks_and_numbers_are_each_others_reverse(numbers: set[int]) -> None:
    mask = np.array([number in numbers for number in range(SPACE)])
    runs = arrays.runs_of(mask)
    assert runs.tolist() == runs_of_set(numbers)
    assert arrays.runs_of_numbers(np.array(sorted(numbers), np.int64)).tolist() == runs.tolist()
    assert arrays.expand(runs[:, 0], runs[:, 1] - runs[:, 0]).tolist() == sorted(numbers)
    assert arrays.count(runs) == len(numbers)


@given(NUMBERS, NUMBERS, st.integers(0, SPACE), st.integers(0, SPACE))
def test_mask_of_a_part(numbers: set[int], cuts: set[int], start: int, nbytes: int) -> None:
    mask = arrays.mask_of(in_pieces(numbers, cuts), start, start + nbytes)
    assert mask.tolist() == [number in numbers for number in range(start, start + nbytes)]


@given(NUMBERS, NUMBERS)
def test_contains_and_is_within(numbers: set[int], cuts: set[int]) -> None:
    runs = in_pieces(numbers, cuts)
    assert [arrays.contains(runs, number) for number in range(SPACE)] == [n in numbers for n in range(SPACE)]
    for start in range(0, SPACE, 7):
        for stop in range(start + 1, SPACE, 5):
            wanted = any(first <= start and stop <= last for first, last in runs.tolist())
            assert arrays.is_within(runs, start, stop) == wanted


@given(NUMBERS, NUMBERS, NUMBERS, NUMBERS)
def test_intersect_and_subtract(one: set[int], other: set[int], cuts: set[int], other_cuts: set[int]) -> None:
    """Of runs that touch as well; what comes out is ascending and disjoint."""
    left, right = in_pieces(one, cuts), in_pieces(other, other_cuts)
    assert members(arrays.intersect(left, right)) == sorted(one & other)
    assert members(arrays.subtract(left, right)) == sorted(one - other)
    for runs in (arrays.intersect(left, right), arrays.subtract(left, right)):
        assert (runs[:, 0] < runs[:, 1]).all()


@given(RANGES)
def test_join(ranges: list[tuple[int, int]]) -> None:
    """Overlapping, touching and nested runs, ascending by their starts."""
    runs = np.array(sorted((start, start + length) for start, length in ranges if length), np.int64).reshape(-1, 2)
    assert arrays.join(runs).tolist() == runs_of_set(set(members(runs)))


@given(st.lists(st.tuples(st.integers(-50, 50), st.integers(0, 5)), max_size=10))
def test_expand(ranges: list[tuple[int, int]]) -> None:
    starts, lengths = np.array(ranges, np.int64).reshape(-1, 2).T
    wanted = [number for start, length in ranges for number in range(start, start + length)]
    assert arrays.expand(starts, lengths).tolist() == wanted


@given(st.lists(st.integers(0, 20)))
def test_unique(numbers: list[int]) -> None:
    assert arrays.unique(np.array(numbers, np.int64)).tolist() == sorted(set(numbers))


@given(st.lists(st.booleans()))
def test_group_edges(is_first: list[bool]) -> None:
    firsts, lasts = arrays.group_edges(np.array(is_first, np.bool_))
    rows = [0, *(row for row, begins in enumerate(is_first, 1) if begins), len(is_first) + 1]
    assert firsts.tolist() == rows[:-1]
    assert lasts.tolist() == [row - 1 for row in rows[1:]]


@given(RANGES)
def test_of_overlapping_ranges_the_first_wins(ranges: list[tuple[int, int]]) -> None:
    start, length = np.array(ranges, np.int64).reshape(-1, 2).T
    offset = np.arange(len(ranges)) * 1000
    owner: dict[int, int] = {}
    for number, (first, n) in enumerate(ranges):
        for value in range(first, first + n):
            owner.setdefault(value, number * 1000 + value - first)
    starts, stops, offsets = arrays.resolve_overlaps(start, start + length, offset)
    found = {
        value: at + value - first
        for first, stop, at in zip(starts.tolist(), stops.tolist(), offsets.tolist(), strict=True)
        for value in range(first, stop)
    }
    assert found == owner
    assert (starts[1:] >= stops[:-1]).all()


def test_runs_reach_to_the_end_of_numbers() -> None:
    limits = np.iinfo(np.int64)
    far = np.array([[limits.max - 2, limits.max]])
    assert arrays.subtract(far, np.empty((0, 2), np.int64)).tolist() == far.tolist()
    assert arrays.subtract(far, np.array([[0, limits.max - 1]])).tolist() == [[limits.max - 1, limits.max]]
    assert arrays.intersect(far, np.array([[0, limits.max]])).tolist() == far.tolist()


@pytest.mark.parametrize("name", ["join", "count"])
def test_no_runs(name: str) -> None:
    assert not np.any(getattr(arrays, name)(np.empty((0, 2), np.int64)))

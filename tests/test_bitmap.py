# SPDX-License-Identifier: GPL-2.0-or-later
"""Bitmaps against sets of page frames, and their cutting into batches."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npdump.bitmap import Bitmap, in_file
from npdump.encode.batches import batches
from npdump.errors import SinkError

if TYPE_CHECKING:
    from npdump.arrays import Runs

N = 300
START = 1 << 16
PFNS = st.sets(st.integers(START, START + N - 1))
#: Bitmap.runs() goes in pieces of so many page frames.
PIECE = 1 << 16


def bitmap_of(pfns: set[int], start: int = START, n: int = N) -> Bitmap:
    bitmap = Bitmap(start, start + n)
    bitmap.put(start, np.isin(np.arange(start, start + n), list(pfns)))
    return bitmap


def members(runs: Runs) -> list[int]:
    return [pfn for start, stop in runs.tolist() for pfn in range(start, stop)]


@given(PFNS)
def test_bits_are_packed_least_significant_first(pfns: set[int]) -> None:
    packed = bytearray(-(-N // 8))
    for pfn in pfns:
        packed[(pfn - START) // 8] |= 1 << (pfn - START) % 8
    bitmap = bitmap_of(pfns)
    assert bitmap.packed.tobytes() == bytes(packed)
    assert bitmap.count() == len(pfns)
    assert [pfn for runs in bitmap.runs() for pfn in members(runs)] == sorted(pfns)


@given(PFNS, st.integers(0, N // 8), st.integers(0, N))
def test_get_a_part(pfns: set[int], first: int, n: int) -> None:
    start = START + 8 * first
    stop = min(start + n, START + N)
    bits = bitmap_of(pfns).get(start, max(stop, start))
    assert bits.tolist() == [pfn in pfns for pfn in range(start, stop)]


@given(PFNS, PFNS)
def test_clear(pfns: set[int], cleared: set[int]) -> None:
    bitmap = bitmap_of(pfns)
    bitmap.clear(np.array(sorted(cleared), np.int64))
    assert bitmap.packed.tobytes() == bitmap_of(pfns - cleared).packed.tobytes()


@given(PFNS, st.integers(0, N // 8), st.integers(0, N // 8))
def test_fill(pfns: set[int], first: int, last: int) -> None:
    bitmap = bitmap_of(pfns)
    bitmap.fill(START + 8 * first, START + 8 * last)
    filled = set(range(START + 8 * first, START + 8 * last))
    assert bitmap.packed.tobytes() == bitmap_of(pfns | filled).packed.tobytes()


@given(PFNS, st.integers(-2, N // 8 + 2), st.integers(-2, N // 8 + 2))
def test_part_is_a_view(pfns: set[int], first: int, last: int) -> None:
    whole = bitmap_of(pfns)
    start, stop = START + 8 * first, START + 8 * max(first, last)
    part = whole.part(start, stop)
    assert [pfn for runs in part.runs() for pfn in members(runs)] == sorted(p for p in pfns if start <= p < stop)
    if len(part.packed):
        part.packed[:] = 0
        assert whole.count() == len([pfn for pfn in pfns if not start <= pfn < stop])


def test_runs_across_pieces_come_as_several() -> None:
    bitmap = Bitmap(0, 3 * PIECE)
    bitmap.fill(PIECE - 8, 2 * PIECE + 8)
    assert [runs.tolist() for runs in bitmap.runs()] == [
        [[PIECE - 8, PIECE]],
        [[PIECE, 2 * PIECE]],
        [[2 * PIECE, 2 * PIECE + 8]],
    ]


@pytest.mark.parametrize(("start", "stop"), [(1, 8), (8, 0)])
def test_what_no_bitmap_can_hold(start: int, stop: int) -> None:
    with pytest.raises(ValueError, match="can't hold"):
        Bitmap(start, stop)


def test_a_directory_that_takes_no_file_is_an_error(tmp_path) -> None:
    assert not in_file(str(tmp_path))(100).any()
    with pytest.raises(SinkError, match="--work-dir"):
        in_file(str(tmp_path / "missing"))(100)


@given(
    near=st.sets(st.integers(0, 40)),
    far=st.sets(st.integers(PIECE - 20, PIECE + 20)),
    npages=st.integers(1, 20),
    rank=st.integers(0, 1 << 40),
)
def test_batches_are_the_kept_pages_in_order(near: set[int], far: set[int], npages: int, rank: int) -> None:
    """Each has so many pages, the last one what is left; ranks count on, also where the bitmap's pieces meet."""
    kept = sorted(near | far)
    cut = [kept[at : at + npages] for at in range(0, len(kept), npages)]
    found = list(batches(bitmap_of(near | far, 0, 2 * PIECE), rank, npages))
    assert [batch.pfns.tolist() for batch in found] == cut
    assert [batch.npages for batch in found] == [len(pfns) for pfns in cut]
    assert [batch.rank for batch in found] == list(range(rank, rank + len(kept), npages))
    for batch in found:
        assert members(batch.runs) == batch.pfns.tolist()

# SPDX-License-Identifier: GPL-2.0-or-later
"""Dividing a dump among files: as evenly as blocks allow, and nothing twice."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from npdump.bitmap import Bitmap
from npdump.errors import UsageError
from npdump.writers._split import Split

STEP = 64
PAGE = 4096


def scan_of(kept: list[int], max_mapnr: int, window_npages: int) -> Any:
    """What a split asks of a scan: windows of kept pages."""
    windows = []
    for start in range(0, max_mapnr, window_npages):
        stop = min(start + window_npages, max_mapnr)
        bitmap = Bitmap(start, stop)
        bitmap.put(start, np.isin(np.arange(start, stop), kept))
        windows.append(SimpleNamespace(kept=bitmap))
    return SimpleNamespace(max_mapnr=max_mapnr, windows=lambda: iter(windows))


@given(
    runs=st.lists(st.tuples(st.integers(0, 2000), st.integers(1, 600)), max_size=8),
    max_mapnr=st.integers(1, 2200),
    n_parts=st.integers(1, 6),
    window=st.sampled_from([256, 1024, 1 << 20]),
)
def test_parts_are_all_page_frames_and_about_even(
    runs: list[tuple[int, int]], max_mapnr: int, n_parts: int, window: int
) -> None:
    kept = sorted({pfn for start, n in runs for pfn in range(start, start + n) if pfn < max_mapnr})
    n_blocks = -(-max_mapnr // STEP)
    if n_blocks < n_parts:
        with pytest.raises(UsageError, match="--split into"):
            Split(n_parts).ranges(scan_of(kept, max_mapnr, window), PAGE)
        return
    ranges = Split(n_parts).ranges(scan_of(kept, max_mapnr, window), PAGE)
    assert [start for start, _ in ranges] == [0, *(stop for _, stop in ranges[:-1])]
    assert ranges[-1][1] == max_mapnr
    assert all(start < stop for start, stop in ranges)
    assert all(start % STEP == 0 for start, _ in ranges)
    # No edge is more than a block from where it ought to be, unless each part's block of its own pushes it on.
    for number, (_, stop) in enumerate(ranges[:-1], 1):
        n_before = sum(pfn < stop for pfn in kept)
        n_block_less = sum(pfn < stop - STEP for pfn in kept)
        ideal = number * len(kept) / n_parts
        at_floor = stop == number * STEP
        at_ceiling = stop == (n_blocks - n_parts + number) * STEP
        follows = number > 1 and stop == ranges[number - 1][0] + STEP
        assert n_before >= ideal or at_ceiling
        assert n_block_less < ideal or at_floor or follows


def test_memory_that_is_not_there_takes_no_room() -> None:
    """Some pages at the bottom and some at 2**50, as of a device: a count for each block would be 128 TiB."""
    far = 1 << 50
    windows = []
    for start in (0, far):
        bitmap = Bitmap(start, start + 4 * STEP)
        bitmap.put(start, np.ones(4 * STEP, bool))
        windows.append(SimpleNamespace(kept=bitmap))
    scan: Any = SimpleNamespace(max_mapnr=far + 4 * STEP, windows=lambda: iter(windows))
    assert Split(2).ranges(scan, PAGE) == [(0, 4 * STEP), (4 * STEP, far + 4 * STEP)]
    assert Split(4).ranges(scan, PAGE)[2] == (4 * STEP, far + 2 * STEP)


@pytest.mark.parametrize(("kib", "page_size", "npages"), [(None, 4096, 64), (256, 4096, 64), (4096, 65536, 64)])
def test_block_sizes(kib: int | None, page_size: int, npages: int) -> None:
    assert Split(2, kib).block_npages(page_size) == npages


@pytest.mark.parametrize(("kib", "page_size"), [(1, 4096), (255, 4096), (257, 4096), (256, 65536)])
def test_block_sizes_that_crash_could_not_read(kib: int, page_size: int) -> None:
    with pytest.raises(UsageError, match=f"multiple of {64 * page_size // 1024} KiB"):
        Split(2, kib).block_npages(page_size)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Counts canaries in a dump, read by the tests' own readers: npdump itself has no part in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from tests.readers import open_dump

if TYPE_CHECKING:
    from pathlib import Path

PLACES = (
    "user heap",
    "page cache",
    "tmpfs",
    "pipe",
    "terminal",
    "socket buffer",
    "keyring",
    "dm-crypt key",
    "freed slab object",
    "environment",
    "kernel stack",
)
N = 1000
"""In each place; see canaries.c."""

_U64 = (1 << 64) - 1
_FILTER_BITS = 24
_CHUNK_NPAGES = 4096


def _mix(x: int) -> int:
    x = (x + 0x9E3779B97F4A7C15) & _U64
    x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 & _U64
    x = (x ^ x >> 27) * 0x94D049BB133111EB & _U64
    return x ^ x >> 31


def halves(seed: int) -> np.ndarray:
    """Return the canaries of a seed, each as two words of 8 bytes; shape (places, N, 2), dtype uint64."""
    found = np.empty((len(PLACES), N, 2), np.uint64)
    for place in range(len(PLACES)):
        for number in range(N):
            for half in range(2):
                found[place, number, half] = _mix(seed ^ _mix(place << 32 | number << 1 | half))
    raw = found.view(np.uint8)
    raw[raw == 0] = 0x5A
    return found


def survivors(dump: Path, seed: int) -> dict[str, int]:
    """Count the canaries of each place of which at least 8 bytes in a row are left, at whatever address they are."""
    words = halves(seed).reshape(-1)
    order = np.argsort(words)
    words = words[order]
    mask = np.uint64((1 << _FILTER_BITS) - 1)
    may_be = np.zeros(1 << _FILTER_BITS, np.bool_)
    may_be[(words & mask).astype(np.int64)] = True
    is_left = np.zeros(len(words), np.bool_)
    opened = open_dump(dump)
    pfns = opened.kept.tolist()
    tail = b""
    for at in range(0, len(pfns), _CHUNK_NPAGES):
        # What crosses the end of a page counts where the next one follows: pages that don't may make no canary.
        raw = tail + b"".join(opened.page(pfn) for pfn in pfns[at : at + _CHUNK_NPAGES])
        tail = raw[-7:]
        for shift in range(8):
            seen = np.frombuffer(raw, "<u8", (len(raw) - shift) // 8, shift)
            seen = seen[may_be[(seen & mask).astype(np.int64)]]
            found = np.searchsorted(words, seen)
            found[found == len(words)] = 0
            is_left[found[words[found] == seen]] = True
    left = np.zeros(len(words), np.bool_)
    left[order] = is_left
    counts = left.reshape(len(PLACES), N, 2).any(axis=2).sum(axis=1)
    return dict(zip(PLACES, counts.tolist(), strict=True))

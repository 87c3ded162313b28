# SPDX-License-Identifier: GPL-2.0-or-later
"""Digests and comparisons of dumps."""

from __future__ import annotations

import hashlib
import struct
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable


def pfn_digest(pfns: np.ndarray) -> str:
    """sha256 over page frame numbers as little-endian u64, as the reference files have it."""
    return hashlib.sha256(np.asarray(pfns).astype("<u8").tobytes()).hexdigest()


def content_digest(pages: Iterable[tuple[int, bytes]]) -> str:
    """sha256 over (page frame number, page bytes) of every page."""
    digest = hashlib.sha256()
    for pfn, page in pages:
        digest.update(struct.pack("<Q", pfn))
        digest.update(page)
    return digest.hexdigest()


def difference(got: np.ndarray, wanted: np.ndarray) -> str:
    """How two bool arrays by page frame number differ, in words; empty if they don't."""
    n = max(len(got), len(wanted))
    got, wanted = np.pad(got, (0, n - len(got))), np.pad(wanted, (0, n - len(wanted)))
    lost, extra = np.flatnonzero(wanted & ~got), np.flatnonzero(got & ~wanted)
    words = []
    if len(lost):
        words.append(f"{len(lost)} lost, first {lost[0]:#x}")
    if len(extra):
        words.append(f"{len(extra)} too many, first {extra[0]:#x}")
    return "; ".join(words)

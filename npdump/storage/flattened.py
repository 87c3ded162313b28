# SPDX-License-Identifier: GPL-2.0-or-later
"""Dumps in the flattened format, read where they are: no rearranged copy is made."""

from __future__ import annotations

from array import array
from typing import TYPE_CHECKING

import numpy as np

from npdump.arrays import I64, U8, Bool, Runs, intersect, join, resolve_overlaps
from npdump.errors import CorruptDump, TruncatedDump
from npdump.layouts.flattened import HEADER_NBYTES, RECORD, SIGNATURE
from npdump.storage._inside import Inside

if TYPE_CHECKING:
    from npdump.storage import Storage

__all__ = ["FlattenedStorage", "is_flattened"]


def is_flattened(head: bytes) -> bool:
    """Tell from the first bytes whether a file is flattened."""
    return head.startswith(SIGNATURE)


class FlattenedStorage(Inside):
    """The file that a flattened one is made of; see `npdump.storage.Storage`.

    Records come in any order; of two for the same bytes the later one holds; what no record has is 0.

    Parameters
    ----------
    inner : Storage
        The flattened file.

    Attributes
    ----------
    path, nbytes, may_have_holes
        See `npdump.storage.Storage`.
    is_truncated : bool
        The end mark is missing.

    Raises
    ------
    CorruptDump
        If a record can't be one.
    """

    def __init__(self, inner: Storage) -> None:
        super().__init__(inner)
        offsets, sizes, places, self.is_truncated = _read_records(inner)
        if not len(offsets):
            raise TruncatedDump(
                f"{inner.path}: is flattened, but no record is whole: it was cut short; copy it again", path=inner.path
            )
        self._starts, self._stops, self._places = _later_wins(offsets, offsets + sizes, places)
        self.nbytes = int(self._stops.max())
        # Joined stretches of records: what no record has is a hole.
        self._stretches = join(np.column_stack((self._starts, self._stops)))
        self.may_have_holes = len(self._stretches) > 1 or self._stretches[0, 0] > 0

    def view(self, offset: int, nbytes: int) -> U8:
        """See `npdump.storage.Storage.view`; what crosses a record's end is copied."""
        self._check(offset, nbytes)
        stop = offset + nbytes
        first = int(np.searchsorted(self._stops, offset, side="right"))
        last = int(np.searchsorted(self._starts, stop, side="left"))
        if last - first == 1 and self._starts[first] <= offset and stop <= self._stops[first]:
            return self._inner.view(int(self._places[first]) + offset - int(self._starts[first]), nbytes)
        out = np.zeros(nbytes, np.uint8)
        for start, end, place in zip(
            self._starts[first:last].tolist(),
            self._stops[first:last].tolist(),
            self._places[first:last].tolist(),
            strict=True,
        ):
            low, high = max(start, offset), min(end, stop)
            out[low - offset : high - offset] = self._inner.view(place + low - start, high - low)
        return out

    def covers(self, offset: I64, nbytes: I64) -> Bool:
        """See `npdump.storage.Storage.covers`; in a truncated file, what no record has is missing."""
        inside = (offset >= 0) & (nbytes >= 0) & (offset <= self.nbytes - nbytes)
        if not self.is_truncated:
            return inside
        i = np.searchsorted(self._stretches[:, 0], offset, side="right") - 1
        return inside & (i >= 0) & (offset + nbytes <= self._stretches[i, 1])

    def present(self, start: int, stop: int) -> Runs:
        """See `npdump.storage.Storage.present`; in a truncated file, what no record has is missing."""
        whole = self._stretches if self.is_truncated else np.array([[0, self.nbytes]], np.int64)
        return intersect(whole, np.array([[start, stop]], np.int64))

    def gather(self, offsets: I64, nbytes: I64, out: U8) -> None:
        """See `npdump.storage.Storage.gather`."""
        at = 0
        for offset, n in zip(offsets.tolist(), nbytes.tolist(), strict=True):
            out[at : at + n] = self.view(offset, n)
            at += n

    def data_ranges(self, start: int, stop: int) -> I64:
        """See `npdump.storage.Storage.data_ranges`: what no record has is a hole."""
        return intersect(self._stretches, np.array([[start, stop]]))

    def _check(self, offset: int, nbytes: int) -> None:
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise TruncatedDump(
                f"{self.path}: ends at byte {self.nbytes}, but {nbytes} bytes at byte {offset} are needed: "
                "it was cut short; copy it again",
                path=self.path,
                offset=offset,
            )


def _read_records(inner: Storage) -> tuple[I64, I64, I64, bool]:
    """Return offset, size and place in the flattened file of each whole record, and whether the end mark is missing."""
    offsets, sizes, places = array("q"), array("q"), array("q")
    at = HEADER_NBYTES
    is_truncated = True
    while at + RECORD.size <= inner.nbytes:
        offset, size = RECORD.unpack(inner.read(at, RECORD.size))
        at += RECORD.size
        if offset == size == -1:
            is_truncated = False
            break
        if offset < 0 or size <= 0 or offset + size > 1 << 62:
            raise CorruptDump(
                f"{inner.path}: corrupt record at byte {at}: offset {offset}, size {size}", path=inner.path, offset=at
            )
        if at + size > inner.nbytes:
            break
        offsets.append(offset)
        sizes.append(size)
        places.append(at)
        at += size
    return np.array(offsets, np.int64), np.array(sizes, np.int64), np.array(places, np.int64), is_truncated


def _later_wins(starts: I64, stops: I64, places: I64) -> tuple[I64, I64, I64]:
    """Sort the records by offset, and cut those that later ones write over."""
    order = np.argsort(starts, kind="stable")
    if (starts[order][1:] >= stops[order][:-1]).all():
        return starts[order], stops[order], places[order]
    # That one lets the first win.
    return resolve_overlaps(starts[::-1], stops[::-1], places[::-1])

# SPDX-License-Identifier: GPL-2.0-or-later
"""A file with bytes behind it that it doesn't have itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.storage._inside import Inside

if TYPE_CHECKING:
    from npdump.arrays import I64, U8, Bool, Runs
    from npdump.storage import Storage
    from npdump.storage.file import FileRange

__all__ = ["Appended"]


class Appended(Inside):
    """Random access to the bytes of a file and to some more; see `npdump.storage.Storage`.

    Parameters
    ----------
    inner : Storage
    start : int
        Where the others begin: at the end of ``inner`` or behind it; what is between them is not there.
    tail : ndarray of dtype uint8
        The others.
    """

    def __init__(self, inner: Storage, start: int, tail: U8) -> None:
        super().__init__(inner)
        self._start, self._tail = start, tail
        self.may_have_holes = inner.may_have_holes
        self.nbytes = start + len(tail)

    def view(self, offset: int, nbytes: int) -> U8:
        """See `npdump.storage.Storage.view`; nothing is read that is in both."""
        at = offset - self._start
        if 0 <= at <= len(self._tail) - nbytes:
            return self._tail[at : at + nbytes]
        return self._inner.view(offset, nbytes)

    def covers(self, offset: I64, nbytes: I64) -> Bool:
        """See `npdump.storage.Storage.covers`."""
        in_tail = (offset >= self._start) & (nbytes >= 0) & (offset <= self.nbytes - nbytes)
        return self._inner.covers(offset, nbytes) | in_tail

    def present(self, start: int, stop: int) -> Runs:
        """See `npdump.storage.Storage.present`."""
        low, high = max(start, self._start), min(stop, self.nbytes)
        tail = np.array([[low, high]], np.int64)[: low < high]
        return np.concatenate((self._inner.present(start, min(stop, self._start)), tail))

    def gather(self, offsets: I64, nbytes: I64, out: U8) -> None:
        """See `npdump.storage.Storage.gather`."""
        if (offsets + nbytes <= self._start).all():
            self._inner.gather(offsets, nbytes, out)
            return
        at = 0
        for offset, n in zip(offsets.tolist(), nbytes.tolist(), strict=True):
            out[at : at + n] = self.view(offset, n)
            at += n

    def data_ranges(self, start: int, stop: int) -> I64:
        """See `npdump.storage.Storage.data_ranges`."""
        return self._inner.data_ranges(start, stop) if stop <= self._start else np.array([[start, stop]])

    def file_range(self, offset: int, nbytes: int) -> FileRange | None:
        """Return where in an open file some bytes are, if they are in one."""
        find = getattr(self._inner, "file_range", None)
        if find is None or offset + nbytes > self._start:
            return None
        found: FileRange | None = find(offset, nbytes)
        return found

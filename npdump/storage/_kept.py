# SPDX-License-Identifier: GPL-2.0-or-later
"""What was read of a file that is far away, so that it is not fetched twice: struct pages are looked at several times.

They stay among the pages that a dump keeps, too: of a vmcore of 512 MiB, 17 % of what was fetched had been fetched
before.
"""

from __future__ import annotations

import os
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.arrays import expand, join, subtract

if TYPE_CHECKING:
    from npdump.arrays import I64, U8, Bool, Index, Runs

__all__ = ["Kept", "Pieces"]

_MAX_NBYTES = 1 << 30
"""The struct pages of a machine of 64 GiB."""

_MAX_NBYTES_IN_MEMORY = 1 << 26


class Pieces(NamedTuple):
    """Ranges, each wholly there or not at all; all of shape (n,).

    Attributes
    ----------
    owner : ndarray of dtype intp
        Which range each is of.
    starts, stops : ndarray of dtype int64
    is_there : ndarray of dtype bool
    """

    owner: Index
    starts: I64
    stops: I64
    is_there: Bool


class Kept:
    """Ranges of bytes in a temporary file that has no name; threads share it.

    Where no such file can be made, a few of them are in memory.

    Parameters
    ----------
    directory : str or None
        Where the file goes; None for TMPDIR or its default.
    """

    def __init__(self, directory: str | None) -> None:
        import tempfile  # half of npdump's own start-up time, and seldom needed

        self._max_nbytes = _MAX_NBYTES
        try:
            with tempfile.TemporaryFile(dir=directory) as file:
                self._fd = os.dup(file.fileno())
        except OSError:
            self._max_nbytes = _MAX_NBYTES_IN_MEMORY
            self._fd = os.memfd_create("npdump", os.MFD_CLOEXEC)
        self._nbytes = 0
        self._lock = threading.Lock()
        self._runs: Runs = np.empty((0, 2), np.int64)

    def close(self) -> None:
        """Give the file back; a second call does nothing."""
        with self._lock:
            self._runs = self._runs[:0]
            fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)

    def missing(self, wanted: Runs) -> Runs:
        """Return what of some ranges is not there."""
        return subtract(wanted, self._runs)

    def split(self, starts: I64, stops: I64) -> Pieces:
        """Cut ranges, which may overlap, into those that are there and those that are not."""
        edges = self._runs.ravel()
        first, last = edges.searchsorted(starts, side="right"), edges.searchsorted(stops, side="left")
        n_edges_before = expand(first, last - first + 1)
        owner = np.repeat(np.arange(len(starts)), last - first + 1)
        limits = np.iinfo(np.int64)
        bounds = np.concatenate(([limits.min], edges, [limits.max]))
        return Pieces(
            owner,
            np.maximum(bounds[n_edges_before], starts[owner]),
            np.minimum(bounds[n_edges_before + 1], stops[owner]),
            n_edges_before % 2 == 1,
        )

    def put(self, start: int, data: U8, share: float = 1.0) -> None:
        """Keep some bytes, if there is room in such a share of it all."""
        n = len(data)
        with self._lock:
            if self._fd < 0 or self._nbytes + n > share * self._max_nbytes:
                return
            # A full disk is no reason to stop.
            with suppress(OSError):
                if os.pwrite(self._fd, data.data, start) == n:
                    self._nbytes += n
                    runs = np.concatenate((self._runs, [[start, start + n]]))
                    self._runs = join(runs[runs[:, 0].argsort(kind="stable")])

    def read_into(self, start: int, out: U8) -> None:
        """Copy bytes that are there.

        Raises
        ------
        OSError
            If the temporary file can't be read.
        """
        if os.preadv(self._fd, [out.data], start) != len(out):
            raise OSError("the temporary file was cut short")

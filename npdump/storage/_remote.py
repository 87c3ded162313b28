# SPDX-License-Identifier: GPL-2.0-or-later
"""Objects in a store or behind a web server, read by ranges."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from itertools import groupby
from typing import TYPE_CHECKING, BinaryIO

import numpy as np

from npdump.arrays import subtract
from npdump.errors import TruncatedDump
from npdump.storage._kept import Kept
from npdump.storage._stores import explained, locate, obstore

if TYPE_CHECKING:
    import os

    from npdump.arrays import I64, U8, Bool, Index, Runs

__all__ = ["RemoteStorage", "stream"]

BLOCK_NBYTES = 1 << 18
"""Reads, and small views, fetch so much at a time, at multiples of it."""

STREAM_NBYTES = 8 << 20
_N_BLOCKS = 128
_SMALL_NBYTES = 1 << 16
"""Larger views are of struct pages and bitmaps: they are in no block, but in the temporary file."""

MAX_GAP_SHARE = 0.01
"""How much of what is asked for may be read in vain, so that fewer requests are made."""

_PAGES_SHARE = 0.25
"""How much of the room for what is read again is for pages: those that another one equals are."""


class RemoteStorage:
    """Random access to the bytes of an object; see `npdump.storage.Storage`.

    Parameters
    ----------
    url : str
    work_dir : str, optional
        Directory for a temporary file with what is read more than once; by default TMPDIR or its default.

    Attributes
    ----------
    path, nbytes, may_have_holes
        See `npdump.storage.Storage`.

    Raises
    ------
    SourceError
        If there is no such object.
    """

    may_have_holes = False

    def __init__(self, url: str, work_dir: str | None = None) -> None:
        self._place = locate(url)
        self.path = self._place.url
        self._obstore = obstore()
        with explained(self.path, "can't be opened"):
            self.nbytes = int(self._obstore.head(self._place.store, self._place.key)["size"])
        self._blocks: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()
        self._kept = Kept(work_dir)

    def close(self) -> None:
        """Forget what was read."""
        self._blocks.clear()
        self._kept.close()

    def same_file(self, other: os.stat_result) -> bool:
        """See `npdump.storage.Storage.same_file`: it is none of this machine's."""
        return False

    def read(self, offset: int, nbytes: int) -> bytes:
        """See `npdump.storage.Storage.read`; blocks are kept for a while, as what is near is often read next."""
        self._check(offset, nbytes)
        first, last = offset // BLOCK_NBYTES, (offset + max(nbytes, 1) - 1) // BLOCK_NBYTES
        with self._lock:
            blocks = self._blocks_of(range(first, last + 1))
        start = offset - first * BLOCK_NBYTES
        return b"".join(blocks)[start : start + nbytes]

    def view(self, offset: int, nbytes: int) -> U8:
        """See `npdump.storage.Storage.view`."""
        self._check(offset, nbytes)
        if nbytes <= _SMALL_NBYTES:
            return np.frombuffer(self.read(offset, nbytes), np.uint8)
        view = self._fetch(offset, nbytes)
        view.flags.writeable = False
        return view

    def covers(self, offset: I64, nbytes: I64) -> Bool:
        """See `npdump.storage.Storage.covers`."""
        return (offset >= 0) & (nbytes >= 0) & (offset <= self.nbytes - nbytes)

    def present(self, start: int, stop: int) -> Runs:
        """See `npdump.storage.Storage.present`."""
        return np.array([[start, min(stop, self.nbytes)]], np.int64)[: start < self.nbytes]

    def data_ranges(self, start: int, stop: int) -> I64:
        """See `npdump.storage.Storage.data_ranges`: a store has no holes."""
        return np.array([[start, stop]])

    def gather(self, offsets: I64, nbytes: I64, out: U8) -> None:
        """See `npdump.storage.Storage.gather`; ranges that are near each other are asked for together."""
        self._check(0, int((offsets + nbytes).max(initial=0)))
        if not len(offsets):
            return
        owner, starts, stops, is_kept = self._kept.split(offsets, offsets + nbytes)
        places = (np.cumsum(nbytes) - nbytes)[owner] + starts - offsets[owner]
        for start, stop, place in zip(
            starts[is_kept].tolist(), stops[is_kept].tolist(), places[is_kept].tolist(), strict=True
        ):
            out[place : place + stop - start] = self._fetch(start, stop - start)
        order = np.argsort(starts, kind="stable")
        order = order[~is_kept[order]]
        if len(order):
            self._gather(starts[order], stops[order], places[order], out)

    def _gather(self, starts: I64, stops: I64, places: I64, out: U8) -> None:
        """Fetch ranges, which ascend, in as few requests as may be."""
        firsts = requests(starts, stops)
        fetched = starts[firsts]
        ends = np.maximum.accumulate(stops)[np.append(firsts[1:], len(starts)) - 1]
        with explained(self.path, f"can't be read at byte {starts[0]}", int(starts[0])):
            answers = self._obstore.get_ranges(
                self._place.store, self._place.key, starts=fetched.tolist(), ends=ends.tolist(), coalesce=0
            )
        arrays: list[U8] = [np.frombuffer(data, np.uint8) for data in answers]
        for start, array in zip(fetched.tolist(), arrays, strict=True):
            self._kept.put(start, array, _PAGES_SHARE)
        owner = np.searchsorted(firsts, np.arange(len(starts)), side="right") - 1
        within = starts - fetched[owner]
        for i, at, place, n in zip(
            owner.tolist(), within.tolist(), places.tolist(), (stops - starts).tolist(), strict=True
        ):
            out[place : place + n] = arrays[i][at : at + n]

    def _blocks_of(self, numbers: range) -> list[bytes]:
        """Return blocks, those that are missing fetched in as few requests as may be."""
        missing = [number for number in numbers if number not in self._blocks]
        for _, group in groupby(enumerate(missing), lambda item: item[1] - item[0]):
            run = [number for _, number in group]
            start = run[0] * BLOCK_NBYTES
            data = self._fetch(start, min(len(run) * BLOCK_NBYTES, self.nbytes - start))
            for i, number in enumerate(run):
                self._blocks[number] = data[i * BLOCK_NBYTES : (i + 1) * BLOCK_NBYTES].tobytes()
        blocks = [self._blocks[number] for number in numbers]
        for number in numbers:
            self._blocks.move_to_end(number)
        while len(self._blocks) > _N_BLOCKS:
            self._blocks.popitem(last=False)
        return blocks

    def _fetch(self, offset: int, nbytes: int) -> U8:
        """Return bytes, of which those that were not read yet are fetched, and kept for another time."""
        out = np.empty(nbytes, np.uint8)
        wanted = np.array([[offset, offset + nbytes]])
        with explained(self.path, f"can't be read at byte {offset}", offset):
            missing = self._kept.missing(wanted)
            for start, stop in missing.tolist():
                data = self._obstore.get_range(self._place.store, self._place.key, start=start, end=stop)
                piece = out[start - offset : stop - offset]
                piece[:] = np.frombuffer(data, np.uint8)
                self._kept.put(start, piece)
            for start, stop in subtract(wanted, missing).tolist():
                self._kept.read_into(start, out[start - offset : stop - offset])
        return out

    def _check(self, offset: int, nbytes: int) -> None:
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise TruncatedDump(
                f"{self.path}: ends at byte {self.nbytes}, but bytes {offset} to {offset + nbytes} are needed: "
                "it was cut short; copy it again",
                path=self.path,
                offset=offset,
            )


class _Stream(io.RawIOBase):
    """An object from its beginning to its end."""

    def __init__(self, storage: RemoteStorage) -> None:
        self._storage = storage
        self._at = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        n = min(len(buffer), self._storage.nbytes - self._at)
        buffer[:n] = self._storage.view(self._at, n).data
        self._at += n
        return n


def stream(storage: RemoteStorage) -> BinaryIO:
    """Return an object as a stream, read in large ranges."""
    return io.BufferedReader(_Stream(storage), STREAM_NBYTES)


def requests(starts: I64, stops: I64) -> Index:
    """Return which of some ranges begin a request of their own: gaps are read too, as long as they are few bytes.

    Parameters
    ----------
    starts, stops : ndarray of shape (n,), dtype int64
        Ascending; ranges may overlap.

    Examples
    --------
    >>> requests(np.array([0, 1000, 101000]), np.array([1000, 101000, 102000])).tolist()
    [0]
    >>> requests(np.array([0, 100_100, 300_000]), np.array([100_000, 200_000, 400_000])).tolist()
    [0, 2]
    """
    gaps = np.maximum(starts[1:] - np.maximum.accumulate(stops)[:-1], 0)
    ascending = np.sort(gaps)
    budget = int((stops - starts).sum() * MAX_GAP_SHARE)
    n_bridged = int(np.searchsorted(np.cumsum(ascending), budget, side="right"))
    limit = int(ascending[n_bridged - 1]) if n_bridged else -1
    # Gaps of the same size as the last one that fits would all go in: they may be one too many.
    if n_bridged < len(ascending) and ascending[n_bridged] == limit:
        limit -= 1
    return np.flatnonzero(np.append(True, gaps > limit))

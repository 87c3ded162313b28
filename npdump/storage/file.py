# SPDX-License-Identifier: GPL-2.0-or-later
"""Bytes in: a file, block device or ``/proc/vmcore``, read without knowing what the bytes mean.

Files and devices are read with pread(2): a page of a mapping whose sector can't be read, or whose file was cut
meanwhile, ends the process with SIGBUS, and no line says why. ``/proc/vmcore`` can't be cut, and looking at it through
windows of mmap(2) is one to two orders of magnitude faster (HATAYAMA Daisuke, "kdump, vmcore: support mmap() on
/proc/vmcore", Linux 3.11). Its pages are mapped by mmap(2) itself (remap_pfn_range()), so that no access to them
faults; s390 alone reads some when they are touched, and answers with SIGBUS where it can't (Linux 9cb218131de1, v3.12,
mmap_vmcore_fault()): there pread(2) is taken. One window is mapped at a time and given back when the next is asked
for, so that the dump is never resident as a whole. Where mmap fails (some regions of ``/proc/vmcore``) the same bytes
come from pread(2).
"""

from __future__ import annotations

import errno
import mmap
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.core import CORE
from npdump.errors import ReadError, SourceError, TruncatedDump

if TYPE_CHECKING:
    from npdump.arrays import I64, U8, U64, Bool, Runs

__all__ = ["FileRange", "FileStorage", "is_in_proc", "page_buffer"]


WINDOW_NBYTES = 4 << 20
"""Bytes mapped at a time; larger windows gained nothing in measurements and cost resident memory."""

_PAGE_BUFFER_NBYTES = 1 << 16
"""Smaller copies go where the allocator has room."""

PREAD_MAX_NBYTES = 1 << 14
"""The first so small view of an area is read with pread(2): a new window costs as much as ten such reads."""


_FAULTS_WHEN_MAPPED = ("s390x",)
"""Machines whose ``/proc/vmcore`` is not mapped; see above."""

_NO_WINDOW: U8 = np.empty(0, np.uint8)

_NO_KEYS: U64 = np.empty(0, np.uint64)

_BLOCK_NBYTES = 512
"""Unit of ``st_blocks`` (stat(3type))."""


def page_buffer(npages: int, page_size: int) -> U8:
    """Return an array to read pages into, of shape (npages, page_size), page aligned.

    Pages begin where the memory's do. What the allocator returns is 16 bytes off, and AMD's processors copy three and a
    half times slower where the target's address is a few bytes ahead of the source's, modulo 4096. It is of the
    allocator's all the same: what was used before is given out again, and new memory takes up to 2 µs for each page.
    """
    raw = np.empty(npages * page_size + mmap.PAGESIZE, np.uint8)
    skip = -raw.ctypes.data % mmap.PAGESIZE
    return raw[skip : skip + npages * page_size].reshape(npages, page_size)


def is_in_proc(path: str) -> bool:
    """Return whether a path leads into ``/proc``, as that of the crashed kernel's memory does."""
    try:
        return os.stat(path).st_dev == os.stat("/proc").st_dev
    except OSError:
        return False


class FileRange(NamedTuple):
    """Bytes of an open file, that the system can copy into another by itself."""

    fd: int
    offset: int
    nbytes: int


class FileStorage:
    """Random access to the bytes of one file; see `npdump.storage.Storage`.

    Parameters
    ----------
    path : str
        A regular file, a block device or a file in ``/proc``.
    use_mmap : bool
        False reads files in ``/proc`` through pread(2) too.

    Attributes
    ----------
    path, nbytes, may_have_holes
        See `npdump.storage.Storage`.

    Raises
    ------
    SourceError
        If the path can't be opened or isn't something that one can read at any offset.

    Notes
    -----
    All reads name their offset, and what is remembered is replaced in one assignment: threads may share an instance.
    """

    def __init__(self, path: str, use_mmap: bool = True) -> None:
        self.path = path
        self._data = 0, 0
        self._window: tuple[U8, int] | None = None
        self._last_miss = -1
        try:
            self._fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise SourceError(f"{path}: can't be opened: {error.strerror}", path=path) from error
        self._status = status = os.fstat(self._fd)
        mode = status.st_mode
        is_in_proc = status.st_dev == os.stat("/proc").st_dev
        self._is_mapped = use_mmap and is_in_proc and os.uname().machine not in _FAULTS_WHEN_MAPPED
        if not (stat.S_ISREG(mode) or stat.S_ISBLK(mode)):
            self.close()
            kind = "directory" if stat.S_ISDIR(mode) else "pipe, socket or character device"
            raise SourceError(f"{path}: is a {kind}: a vmcore must be a file or a block device", path=path)
        # Block devices report st_size 0.
        self.nbytes = os.lseek(self._fd, 0, os.SEEK_END)
        # /proc/vmcore and /proc/kcore are regular files of no blocks, and have no holes.
        is_short = status.st_blocks * _BLOCK_NBYTES < self.nbytes
        self.may_have_holes = stat.S_ISREG(mode) and is_short and not is_in_proc

    def close(self) -> None:
        """Give the window and the file descriptor back; a second call does nothing."""
        self._window = None
        fd, self._fd = self._fd, -1
        if fd >= 0:
            # Nothing was written: an error of the file system's costs nothing any more.
            with suppress(OSError):
                os.close(fd)

    def same_file(self, other: os.stat_result) -> bool:
        """See `npdump.storage.Storage.same_file`."""
        return os.path.samestat(self._status, other)

    def read(self, offset: int, nbytes: int) -> bytes:
        """See `npdump.storage.Storage.read`."""
        self._check(offset, nbytes)
        return self._pread(offset, nbytes)

    def view(self, offset: int, nbytes: int) -> U8:
        """See `npdump.storage.Storage.view`; nothing is copied of a file in ``/proc``, where mmap works."""
        if not self._is_mapped:
            self._check(offset, nbytes)
            return self._copy(offset, nbytes)
        window, start = self._window or (_NO_WINDOW, 0)
        if offset < start or offset + nbytes > start + len(window):
            area = offset // WINDOW_NBYTES
            if nbytes <= PREAD_MAX_NBYTES and area != self._last_miss:
                self._last_miss = area
                self._check(offset, nbytes)
                return np.frombuffer(self._pread(offset, nbytes), np.uint8)
            window, start = self._map(offset, nbytes)
        return window[offset - start : offset - start + nbytes]

    def covers(self, offset: I64, nbytes: I64) -> Bool:
        """See `npdump.storage.Storage.covers`."""
        return (offset >= 0) & (nbytes >= 0) & (offset <= self.nbytes - nbytes)

    def present(self, start: int, stop: int) -> Runs:
        """See `npdump.storage.Storage.present`."""
        return np.array([[start, min(stop, self.nbytes)]], np.int64)[: start < self.nbytes]

    def gather(self, offsets: I64, nbytes: I64, out: U8) -> None:
        """See `npdump.storage.Storage.gather`."""
        at = 0
        if CORE is not None and not self._is_mapped:
            # What it could not read, whole, is read again here, to say why.
            n_read = CORE.read_ranges(self._fd, offsets, nbytes, out, mmap.PAGESIZE, _NO_KEYS)
            if n_read == len(offsets):
                return
            at = int(nbytes[:n_read].sum())
            offsets, nbytes = offsets[n_read:], nbytes[n_read:]
        self._check(0, int((offsets + nbytes).max(initial=0)))
        if self._is_mapped:
            for offset, n in zip(offsets.tolist(), nbytes.tolist(), strict=True):
                out[at : at + n] = self.view(offset, n)
                at += n
            return
        room = out.data
        for offset, n in zip(offsets.tolist(), nbytes.tolist(), strict=True):
            self._read_into(room[at : at + n], offset)
            at += n

    def file_range(self, offset: int, nbytes: int) -> FileRange | None:
        """Return where bytes are, None of a file in ``/proc``: the system knows no other way to copy that."""
        return None if self._is_mapped else FileRange(self._fd, offset, nbytes)

    def data_ranges(self, start: int, stop: int) -> I64:
        """See `npdump.storage.Storage.data_ranges`; by lseek(2) with SEEK_DATA (Linux 3.1)."""
        if not self.may_have_holes or self._data[0] <= start <= stop <= self._data[1]:
            return np.array([[start, stop]])
        found = []
        at = start
        while at < stop:
            # What is remembered saves the walk through a long range's extents, which SEEK_HOLE would do each time.
            data_start, data_stop = self._data
            if not data_start <= at < data_stop:
                self._data = data_start, data_stop = self._next_data(at)
            if data_start >= stop:
                break
            found.append((max(at, data_start), min(data_stop, stop)))
            at = data_stop
        return np.array(found, np.int64).reshape(-1, 2)

    def _next_data(self, at: int) -> tuple[int, int]:
        """Return where the next range that isn't a hole begins and ends; at the file's end if there is none."""
        try:
            start = os.lseek(self._fd, at, os.SEEK_DATA)
            return start, os.lseek(self._fd, start, os.SEEK_HOLE)
        except OSError as error:
            # ENXIO: the rest is a hole. Else the file system can't tell: all of it may be data.
            return (self.nbytes if error.errno == errno.ENXIO else at), self.nbytes

    def _check(self, offset: int, nbytes: int) -> None:
        if offset < 0 or nbytes < 0 or offset + nbytes > self.nbytes:
            raise TruncatedDump(
                f"{self.path}: ends at byte {self.nbytes}, but {nbytes} bytes at byte {offset} are needed: "
                "the file was cut short; copy it again",
                path=self.path,
                offset=offset,
            )

    def _map(self, offset: int, nbytes: int) -> tuple[U8, int]:
        self._check(offset, nbytes)
        # Dropping the last reference unmaps the old window before the new one is mapped.
        self._window = None
        start = offset - offset % mmap.ALLOCATIONGRANULARITY
        stop = min(max(offset + nbytes, start + WINDOW_NBYTES), self.nbytes)
        try:
            mapped = mmap.mmap(self._fd, stop - start, mmap.MAP_SHARED, mmap.PROT_READ, offset=start)
        except (OSError, ValueError):
            return np.frombuffer(self._pread(offset, nbytes), np.uint8), offset
        window = np.frombuffer(mapped, np.uint8)
        self._window = window, start
        return window, start

    def _copy(self, offset: int, nbytes: int) -> U8:
        """Return bytes in memory of their own; see `page_buffer` for where it begins."""
        if nbytes < _PAGE_BUFFER_NBYTES:
            return np.frombuffer(self._pread(offset, nbytes), np.uint8)
        out = page_buffer(1, nbytes)[0]
        self._read_into(out.data, offset)
        out.flags.writeable = False
        return out

    def _read_into(self, room: memoryview, offset: int) -> None:
        try:
            n_read = os.preadv(self._fd, [room], offset)
        except OSError as error:
            raise self._unreadable(offset, error) from error
        if n_read < len(room):
            room[n_read:] = self._pread(offset + n_read, len(room) - n_read)

    def _pread(self, offset: int, nbytes: int) -> bytes:
        try:
            data = os.pread(self._fd, nbytes, offset)
            while len(data) < nbytes:
                more = os.pread(self._fd, nbytes - len(data), offset + len(data))
                if not more:
                    at = offset + len(data)
                    raise ReadError(f"{self.path}: ended at byte {at} while it was read", path=self.path, offset=at)
                data += more
        except OSError as error:
            raise self._unreadable(offset, error) from error
        return data

    def _unreadable(self, offset: int, error: OSError) -> ReadError:
        text = f"{self.path}: can't be read at byte {offset}: {error.strerror}"
        return ReadError(text, path=self.path, offset=offset)

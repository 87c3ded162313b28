# SPDX-License-Identifier: GPL-2.0-or-later
"""A new file, readable by its owner alone."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from npdump.errors import NoSpace, SinkError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from npdump.sinks import Placement
    from npdump.storage import Storage

__all__ = ["FileSink", "open_files"]

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}


class FileSink:
    """See `npdump.sinks.Sink`.

    Parameters
    ----------
    path : str
    force : bool
        Overwrite what is there.
    inputs : iterable of Storage
        Files that must not be overwritten.
    siblings : iterable of FileSink
        Outputs that are being written too.
    limit_nbytes : int or None
        Let the file grow no larger than this.

    Raises
    ------
    SinkError
        If the file exists and ``force`` is false, if it's one of ``inputs`` or ``siblings``, or if it can't be created.
    """

    can_rewrite = True

    def __init__(
        self,
        path: str,
        force: bool,
        inputs: Iterable[Storage] = (),
        limit_nbytes: int | None = None,
        siblings: Iterable[FileSink] = (),
    ) -> None:
        self.path = path
        self._limit_nbytes = limit_nbytes
        self._fd = -1
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC
        try:
            self._fd = os.open(path, flags | os.O_EXCL, 0o600)
            self._is_new = True
        except FileExistsError:
            self._check_existing(inputs, siblings)
            if not force:
                raise SinkError(f"{path}: exists already: give -f to overwrite it, or another name") from None
            self._is_new = False
        except OSError as error:
            raise SinkError(f"{path}: can't be created: {error.strerror}") from None
        if not self._is_new:
            self._open_existing(flags)

    def _check_existing(self, inputs: Iterable[Storage], siblings: Iterable[FileSink]) -> None:
        try:
            status = os.stat(self.path)
        except OSError as error:
            why = f"{self.path}: is a symbolic link that leads nowhere: {error.strerror}"
            raise SinkError(f"{why}: remove it, or give another name for the output") from None
        if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
            raise SinkError(f"{self.path}: is a pipe or socket: only a stream (-F, to the standard output) goes there")
        if any(storage.same_file(status) for storage in inputs):
            raise SinkError(f"{self.path}: is the input itself: give another name for the output")
        if any(os.path.samestat(os.fstat(sibling._fd), status) for sibling in siblings):
            raise SinkError(f"{self.path}: is the file of another part: give each part a name of its own")

    def _open_existing(self, flags: int) -> None:
        try:
            self._fd = os.open(self.path, flags, 0o600)
            if stat.S_ISREG(os.fstat(self._fd).st_mode):
                os.ftruncate(self._fd, 0)
                os.fchmod(self._fd, 0o600)
        except OSError as error:
            raise SinkError(f"{self.path}: can't be overwritten: {error.strerror}") from None

    def write(self, offset: int, data: Any) -> None:
        """See `npdump.sinks.Sink.write`."""
        whole = memoryview(data).cast("B")
        rest = whole[: self._room(offset, len(whole))]
        at = offset
        try:
            while rest:
                written = os.pwrite(self._fd, rest, at)
                rest = rest[written:]
                at += written
        except OSError as error:
            if error.errno in _FULL:
                raise self._full(at - offset, f"can't grow beyond byte {at}: {error.strerror}") from None
            raise SinkError(f"{self.path}: can't be written at byte {at}: {error.strerror}") from None
        if at < offset + len(whole):
            raise self._full(at - offset, f"the limit of {self._limit_nbytes} bytes (-L) is reached")

    def _room(self, offset: int, nbytes: int) -> int:
        """Return how many of some bytes the limit lets in."""
        return nbytes if self._limit_nbytes is None else min(max(self._limit_nbytes - offset, 0), nbytes)

    def _full(self, n_written: int, why: str) -> NoSpace:
        error = NoSpace(f"{self.path}: {why}")
        error.n_written = n_written
        return error

    def write_all(self, placements: Iterable[Placement]) -> None:
        """See `npdump.sinks.Sink.write_all`."""
        for offset, data in placements:
            self.write(offset, data)

    def reserve(self, offset: int, nbytes: int) -> None:
        """See `npdump.sinks.Sink.reserve`."""
        if not nbytes:
            return
        if self._room(offset, nbytes) < nbytes:
            raise self._full(0, f"the limit of {self._limit_nbytes} bytes (-L) is reached")
        try:
            os.posix_fallocate(self._fd, offset, nbytes)
        except OSError as error:
            # Others say that this file system, or a device, can't.
            if error.errno in _FULL:
                raise self._full(0, f"has no room for {nbytes} bytes at {offset}: {error.strerror}") from None

    def truncate(self, offset: int) -> None:
        """See `npdump.sinks.Sink.truncate`."""
        # A device has no end that could be moved.
        with suppress(OSError):
            os.ftruncate(self._fd, min(offset, os.fstat(self._fd).st_size))

    def close(self) -> None:
        """See `npdump.sinks.Sink.close`."""
        fd, self._fd = self._fd, -1
        try:
            if fd >= 0:
                os.close(fd)
        except OSError as error:
            kind = NoSpace if error.errno in _FULL else SinkError
            raise kind(f"{self.path}: couldn't be written to the end: {error.strerror}") from None

    def discard(self) -> None:
        """Close the file and, if it wasn't there before, remove it."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
            if self._is_new:
                os.unlink(self.path)


def open_files(
    paths: Iterable[str], force: bool, inputs: Sequence[Storage], limit_nbytes: int | None = None
) -> list[FileSink]:
    """Make several files: all of them or, with an error, none; the parameters are those of `FileSink`.

    Raises
    ------
    SinkError
    """
    sinks: list[FileSink] = []
    try:
        for path in paths:
            sinks.append(FileSink(path, force, inputs, limit_nbytes, sinks))
    except BaseException:
        for sink in sinks:
            sink.discard()
        raise
    return sinks

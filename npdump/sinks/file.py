# SPDX-License-Identifier: GPL-2.0-or-later
"""A new file, readable by its owner alone; see `npdump.sinks._target` for where it is while it is being written."""

from __future__ import annotations

import errno
import os
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from npdump.errors import NoSpace, SinkError
from npdump.sinks._target import is_at, open_target
from npdump.storage import is_url

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from npdump.sinks import Placement, Sink
    from npdump.storage import Storage
    from npdump.storage.file import FileRange

__all__ = ["FileSink", "open_files"]

_NO_ROOM = {errno.ENOSPC, errno.EDQUOT}
_FULL = {*_NO_ROOM, errno.EFBIG}


class FileSink:
    """See `npdump.sinks.Sink`.

    Parameters
    ----------
    path : str
    force : bool
        Replace what is there.
    inputs : iterable of Storage
        Files that must not be replaced.
    siblings : iterable of FileSink
        Outputs that are being written too.
    limit_nbytes : int or None
        Let the file grow no larger than this.
    keep_away : bool
        Keep the name free until the file is whole: for files that can't say that they aren't.
    sync : bool
        Wait for the disk: for the bytes before the file says that it is whole, then for what says so, and for its name.
        Without, the system writes them in its own time and order, and what a power cut leaves may look whole.

    Raises
    ------
    SinkError
        If the file exists and ``force`` is false, if it's one of ``inputs`` or ``siblings``, if another run is writing
        it, or if it can't be created.
    """

    can_rewrite = True
    is_all_or_nothing = False

    def __init__(
        self,
        path: str,
        force: bool,
        inputs: Iterable[Storage] = (),
        limit_nbytes: int | None = None,
        siblings: Iterable[FileSink] = (),
        keep_away: bool = False,
        sync: bool = False,
    ) -> None:
        self.path = path
        self._sync = sync
        self._limit_nbytes = limit_nbytes
        self._fd = -1

        def check(status: os.stat_result) -> None:
            self._check_existing(status, inputs, siblings)

        self._fd, self._place, self._part, self._replaced = open_target(path, force, keep_away, check)
        self._is_file = True
        try:
            self._status = os.fstat(self._fd)
            self._is_file = stat.S_ISREG(self._status.st_mode)
        except OSError as error:
            self.discard()
            raise SinkError(f"{path}: can't be created: {error.strerror}") from error

    def _check_existing(self, status: os.stat_result, inputs: Iterable[Storage], siblings: Iterable[FileSink]) -> None:
        if stat.S_ISFIFO(status.st_mode) or stat.S_ISSOCK(status.st_mode):
            raise SinkError(f"{self.path}: is a pipe or socket: only a stream (-F, to the standard output) goes there")
        if any(storage.same_file(status) for storage in inputs):
            raise SinkError(f"{self.path}: is the input itself: give another name for the output")
        if any(sibling.is_or_replaces(status) for sibling in siblings):
            raise SinkError(f"{self.path}: is the file of another part: give each part a name of its own")

    def is_or_replaces(self, status: os.stat_result) -> bool:
        """Return whether a file is this one, or the one that this one is to replace."""
        replaced = self._replaced
        return os.path.samestat(self._status, status) or (replaced is not None and os.path.samestat(replaced, status))

    def write(self, offset: int, data: Any) -> None:
        """See `npdump.sinks.Sink.write`."""
        whole = memoryview(data).cast("B")
        rest = whole[: self._room(offset, len(whole))]
        at = offset
        while rest:
            try:
                written = os.pwrite(self._fd, rest, at)
            except OSError as error:
                if error.errno in _NO_ROOM and self._take_place():
                    continue
                if error.errno in _FULL:
                    raise self._full(at - offset, f"can't grow beyond byte {at}: {error.strerror}") from error
                raise SinkError(f"{self.path}: can't be written at byte {at}: {error.strerror}") from error
            if not written:
                raise SinkError(
                    f"{self.path}: can't be written at byte {at}: the system takes no more and doesn't say why"
                )
            rest = rest[written:]
            at += written
        if at < offset + len(whole):
            raise self._full(at - offset, f"the limit of {self._limit_nbytes} bytes (-L) is reached")

    def copy_range(self, offset: int, source: FileRange) -> int:
        """See `npdump.sinks.Sink.copy_range`; by copy_file_range(2), which copies once what else is copied twice."""
        if self._room(offset, source.nbytes) < source.nbytes:
            return 0
        n_done = 0
        # What hinders it, pwrite(2) will say again; these file systems may not be able to.
        with suppress(OSError):
            while n_done < source.nbytes:
                left = source.nbytes - n_done
                n = os.copy_file_range(source.fd, self._fd, left, source.offset + n_done, offset + n_done)
                if not n:
                    break
                n_done += n
        return n_done

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
            if error.errno in _NO_ROOM and self._take_place():
                self.reserve(offset, nbytes)
            # Others say that this file system, or a device, can't.
            elif error.errno in _FULL:
                raise self._full(0, f"has no room for {nbytes} bytes at {offset}: {error.strerror}") from error

    def truncate(self, offset: int) -> None:
        """See `npdump.sinks.Sink.truncate`."""
        # A device has no end that could be moved.
        with suppress(OSError):
            os.ftruncate(self._fd, min(offset, os.fstat(self._fd).st_size))

    def flush(self) -> None:
        """See `npdump.sinks.Sink.flush`."""
        # NFS tells what became of earlier writes when a descriptor is closed (nfs(5), "Close-to-open").
        with self._told_at_the_end():
            if self._sync:
                _sync(self._fd)
            else:
                os.close(os.dup(self._fd))

    def close(self) -> None:
        """See `npdump.sinks.Sink.close`."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            self._settle(fd)
            if self._sync and self._is_file:
                self._sync_name()
        finally:
            with self._told_at_the_end():
                os.close(fd)

    def _name_of(self, fd: int) -> str | None:
        """Return where the file is, None if somebody took it away; a worker may have given it its name."""
        return next((name for name in (self._part, self._place) if name and is_at(fd, name)), None)

    def _sync_name(self) -> None:
        """Have the disk know the file by its name."""
        with self._told_at_the_end():
            try:
                directory = os.open(os.path.dirname(self._place) or ".", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except PermissionError:
                return  # one may make files where one may not look
            try:
                _sync(directory)
            finally:
                os.close(directory)

    def _settle(self, fd: int) -> None:
        """Give the file its name, if it hasn't got it; it is an error if it's no longer there."""
        name = self._name_of(fd)
        if name is None and self._is_file:
            raise SinkError(
                f"{self.path}: was removed or replaced while it was being written: what was written is lost"
            )
        if name is not None and name == self._part:
            try:
                os.replace(name, self._place)
            except OSError as error:
                raise SinkError(f"{self.path}: can't be replaced: {error.strerror}: {name} has the new file") from error

    def _take_place(self) -> bool:
        """Replace the old file early, for its room; return whether there was one."""
        if self._part is None:
            return False
        part, self._part = self._part, None
        # Another process may have done it.
        with suppress(OSError):
            os.replace(part, self._place)
        return True

    @contextmanager
    def _told_at_the_end(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = NoSpace if error.errno in _FULL else SinkError
            raise kind(f"{self.path}: couldn't be written to the end: {error.strerror}") from error

    def discard(self) -> None:
        """Close the file and remove it; what was there before stays, if its room wasn't needed."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        name = self._name_of(fd) if self._is_file else None
        with suppress(OSError):
            if name is not None:
                os.unlink(name)
        with suppress(OSError):
            os.close(fd)


def _sync(fd: int) -> None:
    """Wait until the disk has what was written to a file or directory; some devices and file systems know no such."""
    try:
        os.fsync(fd)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP, errno.ENOSYS):
            raise


def open_files(
    paths: Iterable[str],
    force: bool,
    inputs: Sequence[Storage],
    limit_nbytes: int | None = None,
    sync: bool = False,
) -> list[Sink]:
    """Make several files or objects: all of them or, with an error, none; the parameters are those of `FileSink`.

    Raises
    ------
    SinkError
    """
    sinks: list[Sink] = []
    files: list[FileSink] = []
    try:
        for path in paths:
            if is_url(path):
                from npdump.sinks._remote import RemoteSink

                max_nbytes = sum(storage.nbytes for storage in inputs)
                sinks.append(RemoteSink(path, force, max_nbytes, limit_nbytes))
            else:
                files.append(FileSink(path, force, inputs, limit_nbytes, files, sync=sync))
                sinks.append(files[-1])
    except BaseException:
        for sink in sinks:
            sink.discard()
        raise
    return sinks

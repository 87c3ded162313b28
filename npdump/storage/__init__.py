# SPDX-License-Identifier: GPL-2.0-or-later
"""From the path of an input to random access: what is compressed as a whole, piped or flattened is taken apart.

One file for each compression. To add one, add a module with a ``CONTAINER`` object: nothing else needs an edit.
"""

from __future__ import annotations

import io
import os
import stat
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, BinaryIO, Protocol, cast, runtime_checkable

from npdump import plugins
from npdump.errors import SourceError
from npdump.storage.file import FileStorage
from npdump.storage.flattened import FlattenedStorage, is_flattened
from npdump.storage.spool import Counted, Spooled, peek, spool

if TYPE_CHECKING:
    from contextlib import ExitStack

    from npdump.arrays import I64, U8, Bool, Runs
    from npdump.observer import Observer

__all__ = ["Container", "Locked", "ReadOptions", "Storage", "detect", "is_url", "open_storage", "unpacked"]

_HEAD_NBYTES = 4096
_MAX_DEPTH = 4
_STDIN = "-"
_MIN_UNPACKED_NBYTES = 1 << 30
_MAX_UNPACKED_RATIO = 2048
"""A machine of 64 GiB that has just started is some 100 times larger than its dump, packed as a whole."""


class Storage(Protocol):
    """Random access to the bytes of an input, whose meaning it does not know.

    Attributes
    ----------
    path : str
        What messages call it.
    nbytes : int
        Size of what can be read.
    may_have_holes : bool
        Whether some of its bytes may be zeros that no disk has.
    """

    path: str
    nbytes: int
    may_have_holes: bool

    def close(self) -> None:
        """Give what is open back; a second call does nothing."""

    def same_file(self, other: os.stat_result) -> bool:
        """Return whether ``other`` is the very file or device that the bytes come from."""

    def read(self, offset: int, nbytes: int) -> bytes:
        """Copy ``nbytes`` bytes from ``offset``; for small reads here and there.

        Raises
        ------
        TruncatedDump
            If the input ends before.
        ReadError
            If they can't be read.
        """

    def view(self, offset: int, nbytes: int) -> U8:
        """Return ``nbytes`` bytes from ``offset`` as a read-only array, without a copy where that can be.

        Raises as `read` does.
        """

    def covers(self, offset: I64, nbytes: I64) -> Bool:
        """Return which of the ranges ``[offset, offset + nbytes)`` are wholly there; offsets may be negative."""

    def present(self, start: int, stop: int) -> Runs:
        """Return what of ``[start, stop)`` is there: less than all of it where the input was cut short."""

    def gather(self, offsets: I64, nbytes: I64, out: U8) -> None:
        """Copy several ranges, one after the other, into an array of as many bytes; raises as `read` does."""

    def data_ranges(self, start: int, stop: int) -> I64:
        """Return what of ``[start, stop)`` is not a hole, which reads as zeros; disjoint, ascending, shape (n, 2)."""


class Container(Protocol):
    """What a module of this package offers as ``CONTAINER``."""

    name: str
    magics: tuple[bytes, ...]

    @property
    def errors(self) -> tuple[type[Exception], ...]:
        """What reading raises for damaged data; EOFError is what it raises if the data end too early."""

    def open(self, stream: BinaryIO) -> BinaryIO:
        """Return a stream of what is inside.

        Raises
        ------
        MissingDependency
        """


@runtime_checkable
class Locked(Protocol):
    """A container that takes a key to open."""

    def unlocked(self, identity: str | None) -> Container:
        """Return the container with a key: the path of a file that has it, None if there is none."""


def detect(head: bytes) -> Container | None:
    """Return the container that begins with these bytes, None if it's none."""
    container: Container
    for container in plugins.each(__name__, "CONTAINER"):
        if head.startswith(container.magics):
            return container
    return None


def unpacked(container: Container, stream: BinaryIO, identity: str | None) -> BinaryIO:
    """Return a stream of what is inside of another, opened with a key if it takes one; raises as `Container.open`."""
    if isinstance(container, Locked):
        container = container.unlocked(identity)
    return container.open(stream)


@dataclass(frozen=True, slots=True)
class ReadOptions:
    """How an input is read.

    Attributes
    ----------
    use_mmap : bool
        See `npdump.storage.file.FileStorage`.
    work_dir : str or None
        Directory for a temporary file, if one is needed; None for TMPDIR or its default.
    max_unpacked_nbytes : int or None
        How many bytes a file that is compressed as a whole may unpack to; None for 1 GiB and 2048 times its own size.
    identity : str or None
        File with the private key for an input that is encrypted.
    """

    use_mmap: bool = True
    work_dir: str | None = None
    max_unpacked_nbytes: int | None = None
    identity: str | None = None


def is_url(path: str) -> bool:
    """Return whether a path is the URL of an object: ``./a://b`` is a file in a folder ``a:``.

    Examples
    --------
    >>> is_url("s3://bucket/vmcore"), is_url("./s3://bucket/vmcore")
    (True, False)
    """
    return path.partition("://")[0].isalnum() and "://" in path


def open_storage(path: str, options: ReadOptions, observer: Observer, stack: ExitStack) -> Storage:
    """Open an input for random access.

    Parameters
    ----------
    path : str
        A file, a device, a pipe, ``-`` for the standard input, or the URL of an object.
    options : ReadOptions
    observer : Observer
        Hears what was unpacked, and where to.
    stack : ExitStack
        Closes what was opened.

    Raises
    ------
    SourceError, SinkError, MissingDependency
    """
    storage = _open(path, options, observer, stack)
    if not is_flattened(storage.read(0, min(storage.nbytes, _HEAD_NBYTES))):
        return storage
    flattened = FlattenedStorage(storage)
    if flattened.is_truncated:
        observer.message(f"{path}: is flattened and was cut short: what is there is used")
    return flattened


def _open(path: str, options: ReadOptions, observer: Observer, stack: ExitStack) -> Storage:
    if path == _STDIN and sys.stdin is None:
        raise SourceError(f"{path}: can't be read: the standard input is closed")
    if is_url(path):
        from npdump.storage._remote import RemoteStorage, stream

        remote = RemoteStorage(path, options.work_dir)
        stack.callback(remote.close)
        if detect(remote.read(0, min(remote.nbytes, _HEAD_NBYTES))) is None:
            return remote
        return _spooled(stream(remote), remote.path, options, observer, stack, None)
    try:
        status = os.fstat(sys.stdin.fileno()) if path == _STDIN else os.stat(path)
        is_stream = path == _STDIN or stat.S_ISFIFO(status.st_mode)
        if not is_stream:
            storage = FileStorage(path, options.use_mmap)
            stack.callback(storage.close)
            if detect(storage.read(0, min(storage.nbytes, _HEAD_NBYTES))) is None:
                return storage
        raw: BinaryIO = sys.stdin.buffer if path == _STDIN else stack.enter_context(open(path, "rb"))  # noqa: SIM115
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise SourceError(f"{path}: can't be opened: {why}", path=path) from error
    return _spooled(raw, path, options, observer, stack, status)


def _spooled(
    raw: BinaryIO,
    path: str,
    options: ReadOptions,
    observer: Observer,
    stack: ExitStack,
    origin: os.stat_result | None,
) -> Storage:
    """Return what a stream holds, out of what compresses it as a whole, in a temporary file."""
    counted = Counted(raw)
    stream = cast("BinaryIO", io.BufferedReader(counted))
    errors: tuple[type[Exception], ...] = ()
    for _ in range(_MAX_DEPTH):
        head, stream = peek(stream, _HEAD_NBYTES, path, errors)
        container = detect(head)
        if container is None:
            break
        stream = unpacked(container, stream, options.identity)
        errors += container.errors
    if errors:
        observer.message(f"{path}: is compressed as a whole: it is unpacked to a temporary file first")
    spooled: Spooled = spool(
        stream,
        path,
        options.work_dir,
        errors,
        options.use_mmap,
        origin,
        lambda: _max_unpacked_nbytes(options, counted.nbytes),
    )
    stack.callback(spooled.close)
    observer.message(spooled.note)
    return spooled


def _max_unpacked_nbytes(options: ReadOptions, packed_nbytes: int) -> int:
    """Return how much a stream may unpack to of which so many bytes were read."""
    if options.max_unpacked_nbytes is not None:
        return options.max_unpacked_nbytes
    return _MIN_UNPACKED_NBYTES + _MAX_UNPACKED_RATIO * packed_nbytes

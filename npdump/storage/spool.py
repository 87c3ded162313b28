# SPDX-License-Identifier: GPL-2.0-or-later
"""A stream, kept in a temporary file that has no name and no blocks for zeros."""

from __future__ import annotations

import io
import os
from typing import TYPE_CHECKING, BinaryIO, cast

from npdump.errors import SinkError, SourceError
from npdump.storage.file import FileStorage

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Counted", "Spooled", "peek", "spool"]

_CHUNK_NBYTES = 1 << 20
_HOLE_NBYTES = 1 << 16
_ZEROS = bytes(_HOLE_NBYTES)
_MIB = 1 << 20


class Spooled(FileStorage):
    """A temporary file.

    Attributes
    ----------
    note : str
        What was unpacked, where, and how much room it takes.
    """

    def __init__(self, file: BinaryIO, path: str, use_mmap: bool, origin: os.stat_result | None, note: str) -> None:
        super().__init__(f"/proc/self/fd/{file.fileno()}", use_mmap)
        self.path = path
        self.note = note
        self._origin = origin

    def same_file(self, other: os.stat_result) -> bool:
        """Tell whether ``other`` is the file that this one was made of."""
        return self._origin is not None and os.path.samestat(self._origin, other)


class Counted(io.RawIOBase):
    """A stream that says how many bytes were read of it; see ``nbytes``."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.nbytes = 0

    def readable(self) -> bool:
        """Return True."""
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Read into a buffer, and count."""
        data = getattr(self._stream, "read1", self._stream.read)(len(buffer))
        buffer[: len(data)] = data
        self.nbytes += len(data)
        return len(data)


class _Headed(io.RawIOBase):
    """A stream of which the first bytes were read already."""

    def __init__(self, head: bytes, rest: BinaryIO) -> None:
        self._head = head
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        if self._head:
            n = min(len(buffer), len(self._head))
            buffer[:n], self._head = self._head[:n], self._head[n:]
            return n
        # What a decoder has ready comes before what it says of a stream that was cut.
        data = getattr(self._rest, "read1", self._rest.read)(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def peek(stream: BinaryIO, nbytes: int, path: str, errors: tuple[type[Exception], ...]) -> tuple[bytes, BinaryIO]:
    """Return the first bytes of a stream, and a stream of all its bytes.

    Raises
    ------
    SourceError
        If it can't be read.
    """
    head = b""
    failures: tuple[type[Exception], ...] = (EOFError, OSError, *errors)
    try:
        while len(head) < nbytes and (more := stream.read(nbytes - len(head))):
            head += more
    except failures as error:
        raise SourceError(f"{path}: can't be unpacked: {error}: it is damaged; copy it again", path=path) from error
    return head, cast("BinaryIO", io.BufferedReader(_Headed(head, stream), _CHUNK_NBYTES))


def spool(
    stream: BinaryIO,
    path: str,
    directory: str | None,
    errors: tuple[type[Exception], ...],
    use_mmap: bool,
    origin: os.stat_result | None,
    max_nbytes: Callable[[], int],
) -> Spooled:
    """Copy a stream into a temporary file.

    Parameters
    ----------
    stream : file object
    path : str
        What messages call it.
    directory : str or None
        Where the file goes; None for TMPDIR or its default.
    errors : tuple of exception types
        What reading raises for damaged data.
    use_mmap : bool
    origin : stat_result or None
        Of the file that the stream comes from, if it is one.
    max_nbytes : callable
        How many bytes there may be, as far as it was read.

    Raises
    ------
    SourceError
        If the stream is damaged, or unpacks to too much.
    SinkError
        If there is no room.
    """
    import tempfile  # half of npdump's own start-up time, and seldom needed

    try:
        directory = directory or tempfile.gettempdir()
    except OSError as error:
        raise SinkError(
            f"{path}: must be unpacked to a temporary file: {error.strerror}: give a directory with --work-dir"
        ) from error
    try:
        with tempfile.TemporaryFile(dir=directory) as file:
            is_whole = _copy(stream, cast("BinaryIO", file), path, errors, max_nbytes)
            status = os.fstat(file.fileno())
            note = (
                f"{path}: unpacked to a temporary file in {directory}: {_mib(status.st_size)} MiB, of which "
                f"{_mib(status.st_blocks * 512)} MiB take room"
            )
            if not is_whole:
                note += "; it was cut short: what is there is used"
            return Spooled(cast("BinaryIO", file), path, use_mmap, origin, note)
    except OSError as error:
        raise SinkError(
            f"{directory}: can't hold {path} unpacked: {error.strerror}: give another --work-dir"
        ) from error


def _copy(
    stream: BinaryIO, file: BinaryIO, path: str, errors: tuple[type[Exception], ...], max_nbytes: Callable[[], int]
) -> bool:
    """Copy all bytes, zeros as holes; return False if the stream ended too early."""
    nbytes = 0
    is_whole = True
    failures: tuple[type[Exception], ...] = (OSError, *errors)
    read = getattr(stream, "read1", stream.read)
    while True:
        try:
            chunk = read(_CHUNK_NBYTES)
        except EOFError:
            is_whole, chunk = False, b""
        except failures as error:
            raise SourceError(f"{path}: can't be unpacked: {error}: it is damaged; copy it again", path=path) from error
        if not chunk:
            break
        for at in range(0, len(chunk), _HOLE_NBYTES):
            piece = chunk[at : at + _HOLE_NBYTES]
            if piece != _ZEROS[: len(piece)]:
                file.seek(nbytes + at)
                file.write(piece)
        nbytes += len(chunk)
        if nbytes > max_nbytes():
            raise SourceError(
                f"{path}: unpacks to more than {_mib(max_nbytes())} MiB, far more than dumps do: if it is one, give "
                "--max-unpacked SIZE",
                path=path,
            )
    file.truncate(nbytes)
    file.flush()
    return is_whole


def _mib(nbytes: int) -> int:
    return -(-nbytes // _MIB)

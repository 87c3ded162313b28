# SPDX-License-Identifier: GPL-2.0-or-later
"""The standard output, in the flattened format."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Any

from npdump.errors import NoSpace, SinkError
from npdump.layouts.flattened import END_MARK, HEADER, RECORD
from npdump.sinks._stream import Stream

if TYPE_CHECKING:
    from npdump.storage.lz4 import Frame

__all__ = ["FlattenedSink"]

_STDOUT = 1


class FlattenedSink(Stream):
    """See `npdump.sinks.Sink`.

    One thread writes all records, so that none is inside another.

    Parameters
    ----------
    limit_nbytes : int or None
        Write no more than this.
    frame : Frame or None
        What to compress the stream with.

    Raises
    ------
    SinkError
        If the standard output is a terminal or can't be written.
    """

    can_rewrite = False
    is_all_or_nothing = False

    def __init__(self, limit_nbytes: int | None = None, frame: Frame | None = None) -> None:
        if os.isatty(_STDOUT):
            raise SinkError("standard output: is a terminal: -F writes a dump to it; redirect it to a file or a pipe")
        self._limit_nbytes = limit_nbytes
        self._frame = frame
        self._n_written = 0
        self._write([*([frame.beginning] if frame else []), *self._packed([HEADER])])

    def write(self, offset: int, data: Any) -> None:
        """See `npdump.sinks.Sink.write`."""
        body = memoryview(data).cast("B")
        if body.nbytes:
            self._write(self._packed([RECORD.pack(offset, body.nbytes), body]))

    def _packed(self, buffers: list[Any]) -> list[Any]:
        return [self._frame.piece(b"".join(buffers))] if self._frame else buffers

    def _write(self, buffers: list[Any]) -> None:
        nbytes = sum(len(buffer) for buffer in buffers)
        if self._limit_nbytes is not None and self._n_written + nbytes > self._limit_nbytes:
            raise NoSpace(f"standard output: the limit of {self._limit_nbytes} bytes (-L) is reached")
        try:
            for buffer in buffers:
                rest = memoryview(buffer)
                while rest:
                    rest = rest[_write_some(rest) :]
        except OSError as error:
            raise SinkError(f"standard output: can't be written: {error.strerror}") from error
        self._n_written += nbytes

    def close(self) -> None:
        """Write the end mark."""
        self._write([*self._packed([END_MARK]), *([self._frame.end] if self._frame else [])])

    def discard(self) -> None:
        """Leave the stream without its end mark."""


def _write_some(data: memoryview) -> int:
    """Write what goes, and wait until something does: whoever else has the pipe may have made it non-blocking."""
    while True:
        try:
            n = os.write(_STDOUT, data)
        except BlockingIOError:
            waiting = select.poll()
            waiting.register(_STDOUT, select.POLLOUT)
            waiting.poll()
        else:
            if not n:
                raise SinkError("standard output: can't be written: the system takes no more and doesn't say why")
            return n

# SPDX-License-Identifier: GPL-2.0-or-later
"""The standard output, in the flattened format."""

from __future__ import annotations

import os
import select
from typing import TYPE_CHECKING, Any

from npdump.errors import NoSpace, SinkError
from npdump.sinks._stream import Records

if TYPE_CHECKING:
    from npdump.storage.lz4 import Frame

__all__ = ["FlattenedSink", "StandardOutput"]

_STDOUT = 1


class StandardOutput:
    """The standard output, for whoever writes to it from the beginning to the end.

    Parameters
    ----------
    limit_nbytes : int or None
        Write no more than this.

    Raises
    ------
    SinkError
        If it is a terminal.
    """

    can_rewrite = False

    def __init__(self, limit_nbytes: int | None = None) -> None:
        if os.isatty(_STDOUT):
            raise SinkError("standard output: is a terminal: -F writes a dump to it; redirect it to a file or a pipe")
        self._limit_nbytes = limit_nbytes
        self._n_written = 0

    def write(self, offset: int, data: Any) -> None:
        """Write bytes, which come after those before; raises NoSpace or SinkError."""
        self.write_all([data])

    def write_all(self, buffers: list[Any]) -> None:
        """Write several buffers; raises as `write`."""
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

    def flush(self) -> None:
        """Do nothing: nothing is held back."""

    def close(self) -> None:
        """Do nothing: it is the process's."""

    def discard(self) -> None:
        """Do nothing: what was written can't be taken back."""


class FlattenedSink(Records):
    """See `npdump.sinks.Sink`.

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

    is_all_or_nothing = False

    def __init__(self, limit_nbytes: int | None = None, frame: Frame | None = None) -> None:
        self._out = StandardOutput(limit_nbytes)
        super().__init__(frame)

    def _send(self, buffers: list[Any]) -> None:
        self._out.write_all(buffers)


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

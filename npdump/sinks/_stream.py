# SPDX-License-Identifier: GPL-2.0-or-later
"""What outputs that are written from the beginning to the end have in common; the flattened format's records."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from npdump.layouts.flattened import END_MARK, HEADER, RECORD

if TYPE_CHECKING:
    from collections.abc import Iterable

    from npdump.sinks import Placement
    from npdump.storage.file import FileRange
    from npdump.storage.lz4 import Frame

__all__ = ["Records", "Stream"]


class Stream:
    """The methods of `npdump.sinks.Sink` that are of places, for an output that has none."""

    def write(self, offset: int, data: Any) -> None:
        """See `npdump.sinks.Sink.write`."""
        raise NotImplementedError

    def copy_range(self, offset: int, source: FileRange) -> int:
        """Copy nothing: each piece of a stream has a header."""
        return 0

    def write_all(self, placements: Iterable[Placement]) -> None:
        """See `npdump.sinks.Sink.write_all`."""
        for offset, data in placements:
            self.write(offset, data)

    def reserve(self, offset: int, nbytes: int) -> None:
        """Do nothing: a stream has no places."""

    def truncate(self, offset: int) -> None:
        """Do nothing: what went down a stream cannot be taken back."""

    def flush(self) -> None:
        """Do nothing: a stream holds nothing back."""


class Records(Stream):
    """The records of the flattened format, one after the other; what they go to is for a subclass to say.

    One thread writes all of them, so that none is inside another.

    Parameters
    ----------
    frame : Frame or None
        What to compress them with.
    """

    can_rewrite = False

    def __init__(self, frame: Frame | None = None) -> None:
        self._frame = frame
        self._send([*([frame.beginning] if frame else []), *self._packed([HEADER])])

    def _send(self, buffers: list[Any]) -> None:
        """Pass some bytes on."""
        raise NotImplementedError

    def write(self, offset: int, data: Any) -> None:
        """See `npdump.sinks.Sink.write`."""
        body = memoryview(data).cast("B")
        if body.nbytes:
            self._send(self._packed([RECORD.pack(offset, body.nbytes), body]))

    def _packed(self, buffers: list[Any]) -> list[Any]:
        return [self._frame.piece(b"".join(buffers))] if self._frame else buffers

    def close(self) -> None:
        """Write the end mark."""
        self._send([*self._packed([END_MARK]), *([self._frame.end] if self._frame else [])])

    def discard(self) -> None:
        """Leave the stream without its end mark."""

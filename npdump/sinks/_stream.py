# SPDX-License-Identifier: GPL-2.0-or-later
"""What outputs have in common that are written from the beginning to the end."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from npdump.sinks import Placement
    from npdump.storage.file import FileRange

__all__ = ["Stream"]


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

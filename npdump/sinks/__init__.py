# SPDX-License-Identifier: GPL-2.0-or-later
"""Where the bytes of a dump file go."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable

    from npdump.storage.file import FileRange

__all__ = ["Placement", "Sink"]

Placement = tuple[int, Any]
"""A file offset, and a buffer to be placed there."""


class Sink(Protocol):
    """Takes placements in any order. Every write names its offset; threads share a sink that can rewrite.

    Attributes
    ----------
    can_rewrite : bool
        Whether what was placed may be replaced. Where it can't be, every byte must be placed once, and a file that
        was cut short is known by its missing end.
    is_all_or_nothing : bool
        Whether there is nothing to be seen of an output until it is closed, so that one that was cut short need not be.
    """

    can_rewrite: bool
    is_all_or_nothing: bool

    def write(self, offset: int, data: Any) -> None:
        """Place the bytes of a buffer at ``offset``.

        Raises
        ------
        NoSpace
            If the file system is full: as much is written as fits.
        SinkError
            If it can't be written for another reason.
        """

    def copy_range(self, offset: int, source: FileRange) -> int:
        """Let the system copy bytes of a file to ``offset``.

        Returns
        -------
        int
            How many it copied. The others are to be written; that says why it did not, if there is a reason.
        """

    def write_all(self, placements: Iterable[Placement]) -> None:
        """Write several placements."""

    def reserve(self, offset: int, nbytes: int) -> None:
        """Make sure, where that's possible, that bytes can be placed there however full the file system gets.

        Raises
        ------
        NoSpace
        """

    def truncate(self, offset: int) -> None:
        """Take back, where that's possible, what was placed at ``offset`` and behind it."""

    def flush(self) -> None:
        """Bring errors to light that the system held back, before the file is said to be whole.

        Raises
        ------
        NoSpace, SinkError
        """

    def close(self) -> None:
        """End the output, and give it its name.

        Raises
        ------
        SinkError
            If it isn't there any more, among others.
        """

    def discard(self) -> None:
        """End the output and remove it; what was there before stays as far as possible."""

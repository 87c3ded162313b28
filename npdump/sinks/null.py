# SPDX-License-Identifier: GPL-2.0-or-later
"""Nowhere: for a dry run."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from npdump.sinks import Placement
    from npdump.storage.file import FileRange

__all__ = ["NullSink"]


class NullSink:
    """See `npdump.sinks.Sink`."""

    can_rewrite = True
    is_all_or_nothing = False

    def write(self, offset: int, data: Any) -> None:
        """Forget the bytes."""

    def copy_range(self, offset: int, source: FileRange) -> int:
        """Copy nothing, so that what can't be read is found."""
        return 0

    def write_all(self, placements: Iterable[Placement]) -> None:
        """Compute the placements, and forget them."""
        for _ in placements:
            pass

    def reserve(self, offset: int, nbytes: int) -> None:
        """Do nothing."""

    def truncate(self, offset: int) -> None:
        """Do nothing."""

    def flush(self) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def discard(self) -> None:
        """Do nothing."""

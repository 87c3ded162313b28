"""Nowhere: for a dry run."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from npdump.sinks import Placement

__all__ = ["NullSink"]


class NullSink:
    """See `npdump.sinks.Sink`."""

    can_rewrite = True

    def write(self, offset: int, data: Any) -> None:
        """Forget the bytes."""

    def write_all(self, placements: Iterable[Placement]) -> None:
        """Compute the placements, and forget them."""
        for _ in placements:
            pass

    def reserve(self, offset: int, nbytes: int) -> None:
        """Do nothing."""

    def truncate(self, offset: int) -> None:
        """Do nothing."""

    def close(self) -> None:
        """Do nothing."""

    def discard(self) -> None:
        """Do nothing."""

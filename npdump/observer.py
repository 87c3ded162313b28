# SPDX-License-Identifier: GPL-2.0-or-later
"""What a long piece of work tells while it goes on, and to whom: the one way in which anything below says something."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from contextlib import AbstractContextManager

__all__ = ["SILENT", "Observer", "Silent"]


class Observer(Protocol):
    """Hears of doubts, details, progress and times; the command line prints them, a notebook may draw them."""

    def warn(self, text: str) -> None:
        """Take a line about something that the user should know: what is in doubt, lost or kept."""

    def debug(self, text: str) -> None:
        """Take a line for who looks for a fault."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """Hear that ``done`` of ``total`` units of a stage are done; called for each batch."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """Return a context that measures the wall-clock seconds of a stage; one that is entered again adds to it."""

    def took(self, name: str, seconds: float) -> None:
        """Note seconds that a step took and that were measured elsewhere."""


class Silent:
    """An `Observer` that says nothing.

    Examples
    --------
    >>> with SILENT.stage("Copying data"):
    ...     SILENT.warn("nobody hears this")
    """

    def warn(self, text: str) -> None:
        """See `Observer.warn`."""

    def debug(self, text: str) -> None:
        """See `Observer.debug`."""

    def progress(self, stage: str, done: int, total: int) -> None:
        """See `Observer.progress`."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """See `Observer.stage`."""
        return nullcontext()

    def took(self, name: str, seconds: float) -> None:
        """See `Observer.took`."""


SILENT = Silent()

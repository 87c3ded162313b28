# SPDX-License-Identifier: GPL-2.0-or-later
"""What a long piece of work tells while it goes on, and to whom: the one way in which anything below says something."""

from __future__ import annotations

import time
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator
    from contextlib import AbstractContextManager

__all__ = ["SILENT", "Observer", "Recorder", "Silent"]


class Observer(Protocol):
    """Hears of doubts, details, progress and times; the command line prints them, a notebook may draw them."""

    def warn(self, text: str) -> None:
        """Take a line about something that the user should know: what is in doubt, lost or kept."""

    def message(self, text: str) -> None:
        """Take a line about what was done, which nobody has to act on."""

    def debug(self, text: str) -> None:
        """Take a line for who looks for a fault."""

    def progress(self, stage: str, done: int, total: int, nbytes: int = 0) -> None:
        """Hear that ``done`` of ``total`` units of a stage are done, ``nbytes`` of memory; called for each batch."""

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

    def message(self, text: str) -> None:
        """See `Observer.message`."""

    def debug(self, text: str) -> None:
        """See `Observer.debug`."""

    def progress(self, stage: str, done: int, total: int, nbytes: int = 0) -> None:
        """See `Observer.progress`."""

    def stage(self, name: str) -> AbstractContextManager[None]:
        """See `Observer.stage`."""
        return nullcontext()

    def took(self, name: str, seconds: float) -> None:
        """See `Observer.took`."""


SILENT = Silent()


class Recorder:
    """An `Observer` that remembers warnings and times, and passes everything on to another.

    Parameters
    ----------
    observer : Observer

    Attributes
    ----------
    warnings : list of str
        In the order in which they came.
    seconds_by_stage : dict of str to float
        Wall-clock seconds, in order of first use.

    Examples
    --------
    >>> recorder = Recorder()
    >>> recorder.warn("3 pages are lost")
    >>> recorder.warnings
    ['3 pages are lost']
    >>> recorder.took("Writing", 0.5)
    >>> recorder.took("Writing", 0.25)
    >>> recorder.seconds_by_stage
    {'Writing': 0.75}
    """

    def __init__(self, observer: Observer = SILENT) -> None:
        self._observer = observer
        self.warnings: list[str] = []
        self.seconds_by_stage: dict[str, float] = {}

    def warn(self, text: str) -> None:
        """See `Observer.warn`."""
        self.warnings.append(text)
        self._observer.warn(text)

    def message(self, text: str) -> None:
        """See `Observer.message`."""
        self._observer.message(text)

    def debug(self, text: str) -> None:
        """See `Observer.debug`."""
        self._observer.debug(text)

    def progress(self, stage: str, done: int, total: int, nbytes: int = 0) -> None:
        """See `Observer.progress`."""
        self._observer.progress(stage, done, total, nbytes)

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """See `Observer.stage`."""
        start = time.monotonic()
        try:
            with self._observer.stage(name):
                yield
        finally:
            self._add(name, time.monotonic() - start)

    def took(self, name: str, seconds: float) -> None:
        """See `Observer.took`."""
        self._observer.took(name, seconds)
        self._add(name, seconds)

    def _add(self, name: str, seconds: float) -> None:
        self.seconds_by_stage[name] = self.seconds_by_stage.get(name, 0.0) + seconds

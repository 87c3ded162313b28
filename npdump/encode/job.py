# SPDX-License-Identifier: GPL-2.0-or-later
"""The work on a batch of pages, in steps that several processes share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from npdump.encode.batches import PageBatch
    from npdump.encode.encoder import Encoded

__all__ = ["Done", "Job", "Prepared", "Seconds"]


class Seconds(NamedTuple):
    """How long the steps took, by the clock; those of workers overlap."""

    read: float = 0.0
    compress: float = 0.0
    write: float = 0.0

    def plus(self, other: Seconds) -> Seconds:
        """Return the sums."""
        return Seconds(self.read + other.read, self.compress + other.compress, self.write + other.write)


class Done(NamedTuple):
    """A batch that is in the file: its pages, the zero pages and those that equal another among them, and its bytes."""

    npages: int
    n_zero: int
    n_shared: int
    nbytes: int
    seconds: Seconds = Seconds()


class Prepared(Protocol):
    """A batch that is ready for the workers.

    Attributes
    ----------
    order : object
        What a worker needs of it; it can be pickled.
    """

    @property
    def order(self) -> Any:
        """What a worker needs of it."""


class Job(Protocol):
    """The work on a batch, in steps.

    Attributes
    ----------
    is_repeatable : bool
        Whether `write` may be done again after a worker died in the middle of it.
    """

    @property
    def is_repeatable(self) -> bool:
        """Whether `write` may be done again."""

    def prepare(self, batch: PageBatch) -> Prepared:
        """Do the first step, in the calling process, for one batch after the other."""

    def make_encoder(self) -> Callable[[Any], Encoded]:
        """Return the second step, which takes an order; each worker makes its own."""

    def write(self, data: Any, offset: int) -> None:
        """Do the third step: write the data of a batch at ``offset``."""

    def release(self, prepared: Any) -> None:
        """Do the fourth step: the data are in the file, so what they were made of isn't needed any more."""

    def finish(self, prepared: Any, encoded: Encoded, offset: int) -> Done:
        """Do the last step, for one batch after the other: write what points to the data."""

    def finish_what_fits(self, prepared: Any, encoded: Encoded, offset: int, n_written: int) -> Done:
        """Do the last step for the first pages of a batch, of which ``n_written`` bytes are in the file."""

    def truncate(self, offset: int) -> None:
        """Take back what was written at ``offset`` and behind it."""

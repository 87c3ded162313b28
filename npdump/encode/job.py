# SPDX-License-Identifier: GPL-2.0-or-later
"""The work on a batch of pages, in steps that several threads share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from npdump.arrays import U8
    from npdump.sources import Loss

__all__ = ["Done", "Encoded", "Job", "Seconds", "Worker"]


class Seconds(NamedTuple):
    """How long the steps took, by the clock; those of several threads overlap."""

    read: float = 0.0
    compress: float = 0.0
    write: float = 0.0

    def plus(self, other: Seconds) -> Seconds:
        """Return the sums."""
        return Seconds(self.read + other.read, self.compress + other.compress, self.write + other.write)


class Done(NamedTuple):
    """A batch that is in the file.

    Attributes
    ----------
    npages, n_zero, n_shared : int
        Its pages, and among them the zero pages and those that equal another.
    nbytes : int
    seconds : Seconds
    losses : sequence of Loss
        Its pages that can't be had: the file lacks them.
    """

    npages: int
    n_zero: int
    n_shared: int
    nbytes: int
    seconds: Seconds = Seconds()
    losses: Sequence[Loss] = ()


class Encoded(NamedTuple):
    """What a batch became.

    Attributes
    ----------
    data : buffer
        The bytes that go into the file, back to back.
    batch : object
        What the job's last step needs to know.
    """

    data: Any
    batch: Any


class Worker(Protocol):
    """What one thread has for itself: buffers, and a compressor's state. It does a batch's first steps, one by one."""

    def read(self, batch: Any, room: U8) -> None:
        """Do the first step: read what is in the batch; ``room`` is what `Job.make_room` made."""

    def look_up(self) -> None:
        """Do the second step, for one batch after the other: what depends on the batches before."""

    def encode(self, room: U8) -> Encoded:
        """Do the third step. The data may be in ``room``; the next batch's steps leave it alone."""


class Job(Protocol):
    """The work on all batches.

    Attributes
    ----------
    can_rewrite : bool
        Whether what was written may be written again, or taken back.
    """

    @property
    def can_rewrite(self) -> bool:
        """Whether what was written may be written again."""

    def make_worker(self) -> Worker:
        """Return what a thread needs for itself."""

    def make_room(self) -> U8:
        """Return room for what one batch becomes."""

    def write(self, data: Any, offset: int) -> None:
        """Do the fourth step: write the data of a batch at ``offset``."""

    def finish(self, batch: Any, offset: int) -> Done:
        """Do the last step, for one batch after the other: write what points to the data."""

    def finish_partial(self, batch: Any, offset: int, n_written: int) -> Done:
        """Do the last step for the first pages of a batch, of which ``n_written`` bytes are in the file."""

    def truncate(self, offset: int) -> None:
        """Take back what was written from ``offset`` on."""

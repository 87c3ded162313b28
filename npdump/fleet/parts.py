# SPDX-License-Identifier: GPL-2.0-or-later
"""One dump by several workers: each makes some of the parts of a split dump, and reads what it needs itself."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from npdump.fleet.child import Call, Limits, dumps
from npdump.fleet.run import FleetError, outcomes
from npdump.observer import SILENT, Observer, Recorder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from npdump.fleet.run import Workers
    from npdump.summary import Summary

__all__ = ["STAGE", "PartWork", "make_parts"]

STAGE = "Parts"
"""What observers hear that the progress is called."""

_SUMS = ("n_zero", "n_shared", "n_lost", "n_unreadable", "written_nbytes")
"""What of a summary belongs to one part; the rest is of the whole dump."""


@dataclass(frozen=True, slots=True)
class PartWork:
    """How the parts are made; called with the number of one, it makes that.

    Every worker tells all pages apart, as each part has the bitmaps of the whole dump; which of them are its own
    follows from these, so that no page frame travels.

    Attributes
    ----------
    paths : tuple of str
    outputs : tuple of str
        One for each part.
    block_kib : int or None
        See `npdump.writers._split.Split`.
    opening : mapping
        Further arguments of `npdump.open`.
    writing : mapping
        Further arguments of `Dump.write_to`.
    sync : bool
        Whether to wait until the disk has them.
    """

    paths: tuple[str, ...]
    outputs: tuple[str, ...]
    block_kib: int | None = None
    opening: Mapping[str, Any] = field(default_factory=dict)
    writing: Mapping[str, Any] = field(default_factory=dict)
    sync: bool = False

    def __call__(self, number: int) -> Summary:
        """Make one part."""
        import npdump
        from npdump.sinks.file import open_files
        from npdump.writers._split import Split

        split = Split(len(self.outputs), self.block_kib, only=number)
        with npdump.open(*self.paths, observer=Recorder(), **self.opening) as dump:
            # That nothing else was in the way was seen before this was handed out.
            sinks = partial(open_files, [self.outputs[number]], True, dump.storages, sync=self.sync)
            return dump.write_to(sinks, split=split, **self.writing)


def make_parts(work: PartWork, workers: Workers, observer: Observer = SILENT, limits: Limits | None = None) -> Summary:
    """Have all parts made.

    Parameters
    ----------
    work : PartWork
    workers : Workers
    observer : Observer
        Hears of progress, and what is in doubt.
    limits : Limits, optional
        What one part may take.

    Returns
    -------
    Summary
        Of the whole dump.

    Raises
    ------
    FleetError
        If a part could not be made; those that were whole by then stay.
    """
    n_parts = len(work.outputs)
    summaries: list[Summary] = []
    observer.progress(STAGE, 0, n_parts)
    for number, outcome in outcomes(workers, Call(dumps(work), limits or Limits()), range(n_parts)):
        if outcome.failure is not None:
            raise FleetError(f"{work.outputs[number]}: {outcome.failure.text}")
        summaries.append(outcome.value)
        observer.progress(STAGE, len(summaries), n_parts)
    for text in dict.fromkeys(text for summary in summaries for text in summary.warnings):
        observer.warn(text)
    return _joined(summaries)


def _joined(summaries: Sequence[Summary]) -> Summary:
    sums = {name: sum(getattr(summary, name) for summary in summaries) for name in _SUMS}
    return replace(summaries[0], **sums)

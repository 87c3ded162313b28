# SPDX-License-Identifier: GPL-2.0-or-later
"""A whole fleet: what is left to do is handed out, and what comes back is written into the catalogue."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from npdump.errors import NoSpace
from npdump.fleet.child import Call, Failure, Limits, Outcome, dumps
from npdump.fleet.run import FleetError, outcomes
from npdump.fleet.work import Task
from npdump.storage import is_url

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from npdump.fleet.catalogue import Catalogue
    from npdump.fleet.find import Found
    from npdump.fleet.run import Workers
    from npdump.fleet.work import Row, Work
    from npdump.observer import Observer

__all__ = ["STAGE", "Tally", "run_fleet"]

STAGE = "Dumps"
"""What observers hear that a fleet's progress is called."""


@dataclass(slots=True)
class Tally:
    """How far a fleet is.

    Attributes
    ----------
    n_dumps : int
        All that were found.
    n_known, n_failed_before : int
        Those whose answer was in the catalogue already, and of them those that failed.
    n_done, n_failed, n_other : int
        Those of this run; ``n_other`` are files in folders that are no dumps.
    nbytes : int
        Sizes of the files of this run.
    """

    n_dumps: int = 0
    n_known: int = 0
    n_failed_before: int = 0
    n_done: int = 0
    n_failed: int = 0
    n_other: int = 0
    nbytes: int = 0

    @property
    def n_ended(self) -> int:
        """Dumps of this run that are ended, well or not."""
        return self.n_done + self.n_failed + self.n_other


def run_fleet(
    found: Sequence[Found],
    work: Work,
    workers: Workers,
    catalogue: Catalogue,
    observer: Observer,
    *,
    outputs: Mapping[str, str] | None = None,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    force: bool = False,
    again: bool = False,
) -> Tally:
    """Do what is left to do of a fleet.

    Parameters
    ----------
    found : sequence of Found
    work : Work
    workers : Workers
    catalogue : Catalogue
        Dumps whose answer to the same ``work`` it has, and that are as they were, are not begun again.
    observer : Observer
        Hears of progress, and a line for each dump that failed.
    outputs : mapping, optional
        Where the output of each dump goes, by path.
    limits : Limits
    force : bool
        Overwrite outputs that are not this fleet's.
    again : bool
        Begin those again that failed.

    Returns
    -------
    Tally

    Raises
    ------
    FleetError
        If there is no room for an output, or the scheduler is lost.
    NoSpace, SinkError
        If the catalogue can not be written.
    """
    run = _Run(work.words, outputs or {}, catalogue, observer, Tally(len(found)))
    left = run.left_of(found, force, again)
    call = Call(dumps(work), limits)
    for task, outcome in outcomes(workers, call, run.handed_out(left)):
        if outcome.failure is not None and outcome.failure.kind == NoSpace.__name__:
            raise FleetError(f"{outcome.failure.text}: the fleet stops; make room, and start it again: it goes on here")
        run.note(left[task.path], outcome)
        observer.progress(STAGE, run.tally.n_ended, len(left), run.tally.nbytes)
    return run.tally


@dataclass(slots=True)
class _Run:
    """What `run_fleet` goes on with."""

    asked: str
    outputs: Mapping[str, str]
    catalogue: Catalogue
    observer: Observer
    tally: Tally
    may_replace: Collection[str] | None = None

    def left_of(self, found: Sequence[Found], force: bool, again: bool) -> dict[str, Found]:
        """Return the dumps whose answer isn't in the catalogue, by path."""
        states = self.catalogue.states(self.asked)
        # Outputs of dumps that were begun are ours.
        self.may_replace = None if force else states
        left = {}
        for one in found:
            state, *identity = states.get(one.path, ("", None, None))
            is_same = identity == [one.nbytes, one.mtime_ns]
            if is_same and (state in ("done", "other") or (state == "failed" and not again)):
                self.tally.n_known += 1
                self.tally.n_failed_before += state == "failed"
            else:
                left[one.path] = one
        if self.tally.n_known:
            self.observer.message(
                f"{self.catalogue.path}: has {self.tally.n_known} of {len(found)} dumps already, of which "
                f"{self.tally.n_failed_before} failed (--again begins these again)"
            )
        return left

    def handed_out(self, left: Mapping[str, Found]) -> Iterator[Task]:
        for path, one in left.items():
            output = self.outputs.get(path)
            if output is not None and self._is_in_the_way(path, output):
                reason = Failure("SinkError", f"{output}: exists already: give -f to overwrite it, or another --to")
                self.note(one, Outcome(failure=reason))
                continue
            self.catalogue.begin(one, self.asked, output)
            yield Task(path, output, one.is_named)

    def _is_in_the_way(self, path: str, output: str) -> bool:
        if self.may_replace is None or path in self.may_replace:
            return False
        if is_url(output):
            from npdump.storage._stores import exists

            return exists(output)
        return os.path.lexists(output)

    def note(self, one: Found, outcome: Outcome) -> None:
        """Write down what became of a dump, and say so if it failed."""
        row: Row = {"seconds": round(outcome.seconds, 3), "worker_nbytes": outcome.memory_nbytes}
        if outcome.failure is None:
            row |= outcome.value
        else:
            row |= {"state": "failed", "error_kind": outcome.failure.kind, "error": outcome.failure.text}
        self.catalogue.end(one, self.asked, row)
        tally = self.tally
        tally.n_done += row["state"] == "done"
        tally.n_other += row["state"] == "other"
        tally.n_failed += row["state"] == "failed"
        tally.nbytes += one.nbytes or 0
        if row["state"] == "failed":
            text = row["error"]
            self.observer.warn(text if text.startswith(one.path) else f"{one.path}: {text}")

# SPDX-License-Identifier: GPL-2.0-or-later
"""What is asked of each dump, and its answer as one row of the catalogue."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from npdump.errors import NoSpace, NpdumpError, UnknownFormat
from npdump.observer import Recorder
from npdump.storage import is_url

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from npdump.dump import Dump

__all__ = ["ASKED", "Row", "Task", "Work"]

Row = dict[str, Any]
"""Values by the names of the catalogue's columns."""

_MAX_WARNINGS = 20


@dataclass(frozen=True, slots=True)
class Task:
    """One dump; what goes to a worker is this, and never an array.

    Attributes
    ----------
    path : str
        Or a URL.
    output : str or None
        Where its output goes.
    is_named : bool
        See `npdump.fleet.find.Found`.
    """

    path: str
    output: str | None = None
    is_named: bool = True


@dataclass(frozen=True, slots=True)
class Work:
    """What is done with each dump; called with a `Task`, it does it.

    Attributes
    ----------
    asked : tuple of str
        Of `ASKED`, in its order.
    level : int
        Dump level.
    codec : str
    format : str
    opening : mapping
        Further arguments of `npdump.open`.
    writing : mapping
        Further arguments of `Dump.write`.
    """

    asked: tuple[str, ...]
    level: int = 31
    codec: str = "raw"
    format: str = "kdump"
    opening: Mapping[str, Any] = field(default_factory=dict)
    writing: Mapping[str, Any] = field(default_factory=dict)

    @property
    def words(self) -> str:
        """What was asked, for the catalogue: a row that has it need not be made again."""
        return " ".join(name if name != "filter" else self._of_filter for name in self.asked)

    @property
    def _of_filter(self) -> str:
        return f"filter:{self.level}:{self.codec}:{self.format}"

    def __call__(self, task: Task) -> Row:
        """Return the row of a dump; what could not be answered is its ``error``.

        Raises
        ------
        NpdumpError
            If it can not be opened; `NoSpace` if there is no room for its output.
        """
        import npdump

        recorder = Recorder()
        row: Row = {}
        failures = []
        with npdump.open(task.path, observer=recorder, **self.opening) as dump:
            try:
                dump.source  # noqa: B018  # what is no dump at all has one reason, not one for each question
            except UnknownFormat as error:
                if task.is_named or not any(storage.nbytes for storage in dump.storages):
                    raise
                return {"state": "other", "error": str(error)}
            for name in self.asked:
                try:
                    row |= self._filter(dump, task) if name == "filter" else QUESTIONS[name](dump)
                except NoSpace:
                    raise
                except NpdumpError as error:
                    failures.append((type(error).__name__, f"{name}: {error}"))
        row["state"] = "failed" if failures else "done"
        if failures:
            row["error_kind"], row["error"] = failures[0][0], "; ".join(text for _, text in failures)
        row["warnings"] = "\n".join(recorder.warnings[:_MAX_WARNINGS]) or None
        return row

    def _filter(self, dump: Dump, task: Task) -> Row:
        assert task.output is not None
        is_remote = is_url(task.output)
        if not is_remote:
            os.makedirs(os.path.dirname(task.output) or ".", mode=0o700, exist_ok=True)
        # Whether there was anything that must not be replaced was looked at before the task was handed out.
        summary = dump.write(
            task.output,
            level=self.level,
            codec=self.codec,
            format=self.format,
            force=True,
            n_threads=1,
            **self.writing,
        )
        page_size = dump.source.page_size
        return {
            "output": task.output,
            "output_nbytes": summary.written_nbytes if is_remote else os.stat(task.output).st_blocks * 512,
            "dump_level": summary.dump_level,
            "codec": summary.codec,
            "kept_nbytes": summary.n_remaining * page_size,
            "left_out_nbytes": summary.n_excluded * page_size,
        }


def _info(dump: Dump) -> Row:
    info = dump.info
    names = ("format", "machine", "release", "build_id", "node", "crash_time", "uptime_seconds", "panic")
    row: Row = {name: getattr(info, name) for name in names}
    row |= {name: getattr(info, name) for name in ("n_cpus", "page_size", "memory_nbytes", "n_lost")}
    row["data_nbytes"] = info.n_data * info.page_size
    row["missing"] = "\n".join(info.missing) or None
    return row


def _stats(dump: Dump) -> Row:
    from npdump.pages.kinds import PageKind

    counts = dump.pages.counts()
    totals = counts.totals()
    kinds = [kind for kind in PageKind if kind != PageKind.ABSENT]
    return {f"{kind.name.lower()}_nbytes": totals.get(kind, 0) * counts.page_size for kind in kinds}


def _signature(dump: Dump) -> Row:
    from npdump.answers.crash import find_crash

    log = dump.log()
    records = [text for record in log.records for text in record.text.split(b"\n")]
    crash = find_crash(records or log.characters.split(b"\n"))
    if crash is None:
        return {"signature": None, "reason": None, "trace": None}
    return {"signature": crash.signature, "reason": crash.reason, "trace": "\n".join(crash.frames) or None}


QUESTIONS: dict[str, Callable[[Dump], Row]] = {"info": _info, "stats": _stats, "signature": _signature}

ASKED = (*QUESTIONS, "filter")
"""What ``--do`` takes, in the order in which it is done."""

# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump fleet``: the same for many dumps, into a catalogue; ``npdump fleet report``: a page about it."""

from __future__ import annotations

import json
import os
import signal
import time
from dataclasses import asdict
from typing import TYPE_CHECKING

from npdump.cli.files import whole_file
from npdump.cli.workers import limits_of, opening_of, whole_path, workers_of
from npdump.errors import UsageError
from npdump.fleet.catalogue import Catalogue, columns_of, read_rows
from npdump.fleet.find import find_dumps, output_names
from npdump.fleet.fleet import Tally, run_fleet
from npdump.fleet.page import make_page
from npdump.fleet.work import ASKED, Work
from npdump.storage import is_url

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]

_CATALOGUE = "fleet.sqlite"
_REPORT = "report"
_PARQUET = ".parquet"


def run(options: Options, report: Reporter) -> int:
    """Do what is left to do of a fleet; return 1 if a dump failed, now or before."""
    # What is sent to a process that was killed meanwhile is lost, and no reason to end.
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    if options.vmcores[0] == _REPORT:
        _report(options, report)
        return 0
    folder = options.output_folder
    found = find_dumps(options.vmcores, avoid=folder)
    work = Work(
        options.asked or tuple(name for name in ASKED if name != "filter" or folder is not None),
        options.dump_level,
        options.codec,
        options.format,
        opening_of(options),
        {"codec_level": options.codec_level, "strict": options.strict},
    )
    outputs = {}
    if folder is not None:
        outputs = {path: os.path.join(whole_path(folder), name) for path, name in output_names(found).items()}
        if not is_url(folder):
            os.makedirs(folder, mode=0o700, exist_ok=True)
    start = time.monotonic()
    with (
        Catalogue(_catalogue(options)) as catalogue,
        workers_of(options) as workers,
    ):
        report.message(f"{len(found)} files, {workers.words}, catalogue {catalogue.path}")
        tally = run_fleet(
            found,
            work,
            workers,
            catalogue,
            report,
            outputs=outputs,
            limits=limits_of(options),
            force=options.force,
            again=options.again,
        )
    if options.json:
        report.answer(json.dumps(asdict(tally), indent=1))
    report.message(_words(tally, time.monotonic() - start))
    return 1 if tally.n_failed or tally.n_failed_before else 0


def _catalogue(options: Options) -> str:
    folder = options.output_folder
    beside = folder if folder is not None and not is_url(folder) else ""
    return options.catalogue or os.path.join(beside, _CATALOGUE)


def _words(tally: Tally, seconds: float) -> str:
    counts = {"done": tally.n_done, "failed": tally.n_failed, "no dumps": tally.n_other, "known before": tally.n_known}
    parts = ", ".join(f"{n} {name}" for name, n in counts.items() if n or name == "done")
    rate = f", {tally.n_ended / seconds:.1f} a second" if tally.n_ended else ""
    return f"{tally.n_dumps} files: {parts}; {seconds:.1f} s{rate}"


def _report(options: Options, report: Reporter) -> None:
    """Write a page or a table about a catalogue."""
    if len(options.vmcores) != 3:
        raise UsageError("fleet report: a catalogue and the file to make are needed; see npdump fleet --help")
    _, catalogue, path = options.vmcores
    rows = read_rows(catalogue)
    if path.endswith(_PARQUET):
        from npdump.extras.arrow_table import parquet

        data = parquet(columns_of(rows))
    else:
        data = make_page(rows, os.path.basename(catalogue)).encode("utf-8", "backslashreplace")
    with whole_file(path, options.force) as sink:
        sink.write(0, data)
    report.message(f"The report is saved to {path}.")

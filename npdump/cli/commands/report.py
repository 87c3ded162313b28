# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump report``: a crash on one page of HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump.cli.inputs import open_dump
from npdump.report import make_report
from npdump.sinks.file import FileSink

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]


def run(options: Options, report: Reporter) -> None:
    """Write the page to a file, which only its owner can read: it quotes the log."""
    (path,) = options.dumpfiles
    with open_dump(options, report) as dump:
        sink = FileSink(path, options.force, dump.storages)
        try:
            sink.write(0, make_report(dump).encode("utf-8", "backslashreplace"))
            sink.close()
        except BaseException:
            sink.discard()
            raise
    report.message(f"The report is saved to {path}.")

# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump report``: a crash on one page of HTML."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump.cli.files import whole_file
from npdump.cli.inputs import open_dump
from npdump.report import make_report

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]


def run(options: Options, report: Reporter) -> None:
    """Write the page to a file, which only its owner can read: it quotes the log."""
    (path,) = options.dumpfiles
    with open_dump(options, report) as dump, whole_file(path, options.force, dump.storages) as sink:
        sink.write(0, make_report(dump).encode("utf-8", "backslashreplace"))
    report.message(f"The report is saved to {path}.")

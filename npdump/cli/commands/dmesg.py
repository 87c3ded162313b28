# SPDX-License-Identifier: GPL-2.0-or-later
"""``--dump-dmesg`` and ``--partial-dmesg``: the kernel log, alone."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from npdump.cli.files import whole_file
from npdump.cli.inputs import holds_dump, open_dump
from npdump.kernel import dmesg

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]


def run(options: Options, report: Reporter) -> None:
    """Write the log to the output file, or print it."""
    vmcores, path = options.vmcores, options.dumpfiles[0] if options.dumpfiles else None
    if path is not None and holds_dump(path):
        # The last part of a split dump, most likely: a log never overwrites it.
        vmcores, path = (*vmcores, path), None
    if path is None or path == "-":
        report.keep_stdout()
    with open_dump(options._replace(vmcores=vmcores), report) as dump:
        log = dump.log(options.partial_dmesg)
        for doubt in log.doubts:
            report.warn(doubt)
        text = _as_json(log) if options.json else dmesg.as_text(log)
        if path is None or path == "-":
            if text:
                report.answer(text)
            return
        with whole_file(path, options.force, dump.storages, keep_away=True) as sink:
            sink.write(0, text.encode("utf-8", "surrogateescape"))
    report.message(f"The dmesg log is saved to {path}.\n\nnpdump Completed.")


def _as_json(log: dmesg.Log) -> str:
    records = [
        {
            "nanoseconds": record.nanoseconds,
            "caller": record.caller,
            "sequence": record.sequence,
            "text": record.text.decode("utf-8", "backslashreplace"),
        }
        for record in log.records
    ]
    return json.dumps({"generation": log.generation, "doubts": log.doubts, "records": records}, indent=1)

# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump redact``: a dump without what nobody wants to give away, and a report about it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from npdump.cli import outputs
from npdump.cli.inputs import open_dump
from npdump.redact import LEVEL

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter
    from npdump.summary import Summary

__all__ = ["run"]

_NOT_ZERO = LEVEL & ~1


def run(options: Options, report: Reporter) -> int:
    """Make the dump, and print what each rule erased; return the exit code."""
    optional = ("log",) if options.erase_log else ()
    with open_dump(options, report) as dump:
        redaction = dump.redaction(strict=options.strict, optional=optional)
        rows = redaction.report(dump.source, redaction.plan())
        summary = outputs.make(options._replace(dump_level=LEVEL), dump, redaction)
    if summary.dump_level & _NOT_ZERO != _NOT_ZERO:
        report.warn(
            f"dump level {LEVEL} could not be carried out, but level {summary.dump_level}: user memory, the page cache "
            "or free pages may be in the dump"
        )
    if options.json:
        report.answer(json.dumps({"rules": rows, "dump": asdict(summary)}, indent=1))
    else:
        _tell(rows, summary, options, report)
    return 1 if summary.n_unreadable else 0


def _tell(rows: list[dict[str, Any]], summary: Summary, options: Options, report: Reporter) -> None:
    n_left_out = summary.n_cache + summary.n_cache_private + summary.n_user + summary.n_free
    report.message(f"Left out: {n_left_out} pages of user memory, the page cache and free memory. Erased:")
    for row in rows:
        not_wholly = "" if row["is_applied"] else "; NOT WHOLLY, see above"
        report.message(f"  {row['rule']:<14}{row['erased_nbytes']:>11} bytes  {row['what']}{not_wholly}")
    if not options.dry_run:
        report.message(f"\nThe dumpfile is saved to {', '.join(options.dumpfiles) or 'the standard output'}.")
    report.message("\nnpdump Completed.")

# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump estimate``: how large would a dump become, and how long would it take."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from npdump.cli.inputs import open_dump
from npdump.pages.colors import human

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]


def run(options: Options, report: Reporter) -> None:
    """Print the estimate; raises as `npdump.dump.Dump.estimate`."""
    with open_dump(options, report) as dump:
        found = dump.estimate(
            options.dump_level,
            codec=options.codec,
            engine=options.zlib_engine,
            codec_level=options.codec_level,
            share=options.share,
        )
        page_size = dump.source.page_size
    if options.json:
        report.answer(json.dumps(asdict(found), indent=1))
        return
    error = found.error_nbytes / found.nbytes
    rows = (
        ("size", f"{human(found.nbytes)}, give or take {error:.0%} ({found.nbytes} bytes)"),
        ("pages kept", f"{found.n_kept} ({human(found.n_kept * page_size)})"),
        ("of zeros", f"{found.n_zero}" if found.dump_level & 1 else "not left out"),
        ("stored once", f"{found.n_shared} equal an earlier page"),
        ("CPU time", f"{found.cpu_seconds:.1f} s, with one thread"),
        ("read for this", human(found.read_nbytes)),
    )
    report.answer("\n".join(f"{name:<15}{text}" for name, text in rows))

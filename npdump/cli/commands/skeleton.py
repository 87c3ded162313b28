# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump skeleton``: counts and digests of a dump, as a reference to compare later dumps with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump.answers.skeleton import make_skeleton
from npdump.cli.inputs import open_dump

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]


def run(options: Options, report: Reporter) -> None:
    """Print the skeleton as JSON; raises as `npdump.answers.skeleton.make_skeleton`."""
    with open_dump(options, report) as dump:
        report.answer(make_skeleton(dump.source).as_json())

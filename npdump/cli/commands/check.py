# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump check``: is a dump sound, and which programs will open it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from npdump.answers.soundness import check_soundness
from npdump.cli.inputs import open_dump

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]

UNSOUND = 1
_OF_THE_DUMP = ("file", "headers", "pages", "kernel")


def run(options: Options, report: Reporter) -> int:
    """Print a line for each question.

    Returns
    -------
    int
        0 if the dump itself is sound, whoever reads it; else 1.
    """
    with open_dump(options, report) as dump:
        answers = check_soundness(dump, report)
    if options.json:
        report.answer(json.dumps([asdict(answer) for answer in answers], indent=1))
    else:
        report.answer(
            "\n".join(f"{answer.subject:<14}{'yes' if answer.is_good else 'no':<5}{answer.text}" for answer in answers)
        )
    return 0 if all(answer.is_good for answer in answers if answer.subject in _OF_THE_DUMP) else UNSOUND

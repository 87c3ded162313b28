# SPDX-License-Identifier: GPL-2.0-or-later
"""``--check-config``: what a configuration would erase, command by command."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, NamedTuple

from npdump.cli.inputs import open_dump

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter
    from npdump.erase import Outcome

__all__ = ["run"]

FINDS_NOTHING = 1


class _Row(NamedTuple):
    """A command: its line, what it erases in words, how many objects and bytes that are, and what is wrong."""

    line: int
    what: str
    n_objects: int
    erased_nbytes: int
    problems: list[str]


def run(options: Options, report: Reporter) -> int:
    """Print a line for each command.

    Returns
    -------
    int
        0 if each erases something, else 1.
    """
    assert options.config is not None
    with open_dump(options, report) as dump:
        outcome = dump.erasing(options.config)
    rows = _rows(outcome)
    if options.json:
        report.answer(json.dumps([row._asdict() for row in rows], indent=1))
    else:
        for row in rows:
            report.answer(f"{options.config}:{row.line}: {_in_words(row)}")
        for module in outcome.absent:
            report.answer(f"{options.config}: module {module} is not loaded: its section is passed over")
        total = sum(row.erased_nbytes for row in rows)
        report.answer(f"{sum(row.n_objects for row in rows)} objects, {total} bytes")
    return FINDS_NOTHING if any(row.problems for row in rows) else 0


def _rows(outcome: Outcome) -> list[_Row]:
    rows: dict[int, _Row] = {}
    for found in outcome.found:
        row = rows.setdefault(found.line, _Row(found.line, found.text.split()[1], 0, 0, []))
        n, nbytes = row.n_objects + 1, row.erased_nbytes + found.nbytes
        rows[found.line] = row._replace(n_objects=n, erased_nbytes=nbytes)
    for problem, n in outcome.problems.items():
        row = rows.setdefault(problem.line, _Row(problem.line, "", 0, 0, []))
        row.problems.append(problem.why + (f" ({n} times)" if n > 1 else ""))
    return [rows[line] for line in sorted(rows)]


def _in_words(row: _Row) -> str:
    parts = [f"{row.what}: {row.n_objects} of them, {row.erased_nbytes} bytes"] if row.n_objects else []
    return "; ".join(parts + row.problems)

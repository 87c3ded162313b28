# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump stats``: what the pages of a dump are used for, in all or part by part."""

from __future__ import annotations

import csv
import io
import json
from typing import TYPE_CHECKING

from npdump.cli.inputs import open_dump
from npdump.pages.colors import NAMES, human
from npdump.pages.kinds import PageKind
from npdump.pages.policy import PageClass

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter
    from npdump.pages.kinds import KindCounts
    from npdump.pages.levels import LevelCounts

__all__ = ["run"]


def run(options: Options, report: Reporter) -> None:
    """Count the pages and print the table; raises as `npdump.pages.table.PageTable.counts`."""
    by = options.by or "all"
    with open_dump(options, report) as dump:
        if by == "level":
            rows = _of_levels(dump.pages.levels())
        else:
            counts = dump.pages.counts(by)
            rows = _of_kinds(counts)
        page_size = dump.source.page_size
    if options.json:
        report.answer(json.dumps({"page_size": page_size, "by": by, "rows": rows}, indent=1))
    elif options.csv:
        report.answer(_csv(rows))
    elif by == "all":
        report.answer(_whole(counts))
    else:
        report.answer(_table(rows, page_size))


Row = dict[str, int | str]


def _of_kinds(counts: KindCounts) -> list[Row]:
    kinds = list(counts.totals())
    return [
        {"name": name, **{kind.name.lower(): int(counts.counts[i, kind]) for kind in kinds}}
        for i, name in enumerate(counts.names)
    ]


def _of_levels(levels: LevelCounts) -> list[Row]:
    classes = [kind for kind in PageClass if levels.left_out[:, kind].any()]
    return [
        {
            "name": f"level {level}",
            "kept": int(levels.kept[level]),
            **{kind.name.lower(): int(levels.left_out[level, kind]) for kind in classes},
        }
        for level in range(len(levels.kept))
    ]


def _csv(rows: list[Row]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]) if rows else ["name"], lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _whole(counts: KindCounts) -> str:
    totals = sorted(counts.totals().items(), key=lambda item: -item[1])
    n_all = sum(npages for _, npages in totals) or 1
    lines = [
        f"{NAMES[kind]:<16}{human(npages * counts.page_size):>10}{npages / n_all:>7.1%}{npages:>12} pages"
        for kind, npages in totals
    ]
    return "\n".join([*lines, f"{'memory':<16}{human(n_all * counts.page_size):>10}{'':7}{n_all:>12} pages"])


def _table(rows: list[Row], page_size: int) -> str:
    columns = list(rows[0])[1:] if rows else []
    titles = {kind.name.lower(): NAMES[kind] for kind in PageKind}
    heads = [titles.get(column, column) for column in columns]
    widths = [max(len(head), 9) + 2 for head in heads]
    first = max([len(str(row["name"])) for row in rows] + [4])
    lines = [" " * first + "".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))]
    for row in rows:
        cells = "".join(
            f"{human(int(row[column]) * page_size) if row[column] else '-':>{width}}"
            for column, width in zip(columns, widths, strict=True)
        )
        lines.append(f"{row['name']:<{first}}{cells}")
    return "\n".join(lines)

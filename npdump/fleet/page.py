# SPDX-License-Identifier: GPL-2.0-or-later
"""A catalogue on one page of HTML: equal crashes, their kernels, sizes, what was saved, what failed."""

from __future__ import annotations

from collections import Counter, defaultdict
from typing import TYPE_CHECKING

from npdump.pages.colors import COLORS, NAMES, human
from npdump.pages.html import document, escape
from npdump.pages.kinds import PageKind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from npdump.fleet.work import Row

__all__ = ["make_page"]

_MAX_ROWS = 500
_N_EXAMPLES = 3
_N_FRAMES = 8


def make_page(rows: Sequence[Row], name: str) -> str:
    """Return the page.

    Parameters
    ----------
    rows : sequence of Row
        Of a catalogue.
    name : str
        What the page calls it.

    Examples
    --------
    >>> page = make_page([], "fleet.sqlite")
    >>> page.startswith("<!DOCTYPE html>"), "<script" in page
    (True, False)
    """
    dumps = [row for row in rows if row["state"] != "other"]
    states = Counter(row["state"] for row in rows)
    words = {"done": "done", "failed": "failed", "begun": "begun and not ended", "other": "files that are no dumps"}
    counts = ", ".join(f"{states[state]} {text}" for state, text in words.items() if states[state]) or "no dumps"
    sections = (
        ("crashes", "Crashes", _crashes(dumps)),
        ("kernels", "Kernels", _kernels(dumps)),
        ("memory", "Memory", _memory(dumps)),
        ("sizes", "Sizes and savings", _sizes(dumps)),
        ("failures", "Failures", _failures(dumps)),
    )
    return document(f"{len(dumps)} dumps", f'<p class="faint">{escape(name)}: {counts}</p>', sections)


def _crashes(rows: Sequence[Row]) -> str:
    """Return the crashes by signature, the most frequent first."""
    groups = _grouped(rows, lambda row: row["signature"])
    cells = []
    for signature, same in groups:
        releases = Counter(row["release"] for row in same if row["release"])
        times = sorted(row["crash_time"] for row in same if row["crash_time"])
        frames = (same[0]["trace"] or "").split("\n")[:_N_FRAMES]
        kernels = ", ".join(f"{release} ({n})" for release, n in releases.most_common(_N_EXAMPLES))
        examples = ", ".join(str(row["dump"]) for row in same[:_N_EXAMPLES])
        cells.append(
            (
                str(len(same)),
                f"<code>{escape(signature)}</code>",
                f'<b>{escape(same[0]["reason"])}</b><br><span class="faint">{escape(" ← ".join(frames))}</span>',
                escape(kernels),
                escape(" to ".join(dict.fromkeys((times[0], times[-1]))) if times else ""),
                f'<span class="faint">{escape(examples)}</span>',
            )
        )
    return _table(("dumps", "signature", "reason and trace", "kernels", "when", "such as"), cells)


def _kernels(rows: Sequence[Row]) -> str:
    cells = [
        (
            str(len(same)),
            escape(release),
            escape(", ".join(sorted({row["machine"] for row in same if row["machine"]}))),
            str(len({row["build_id"] for row in same if row["build_id"]})),
            str(len({row["signature"] for row in same if row["signature"]})),
            human(_sum(same, "memory_nbytes")),
        )
        for release, same in _grouped(rows, lambda row: row["release"])
    ]
    return _table(("dumps", "release", "machine", "builds", "crashes", "memory"), cells)


def _memory(rows: Sequence[Row]) -> str:
    """Return what the memory of all dumps is used for."""
    totals = {kind: _sum(rows, f"{kind.name.lower()}_nbytes") for kind in PageKind if kind != PageKind.ABSENT}
    n_all = sum(totals.values())
    if not n_all:
        return ""
    bar = "".join(
        f'<i title="{NAMES[kind]}" style="width:{nbytes / n_all:.2%};background:{COLORS[kind]}"></i>'
        for kind, nbytes in totals.items()
    )
    cells = [
        (NAMES[kind], human(nbytes), f"{nbytes / n_all:.1%}")
        for kind, nbytes in sorted(totals.items(), key=lambda item: -item[1])
        if nbytes
    ]
    return f'<div class="bar">{bar}</div>{_table(("kind of page", "bytes", "share"), cells)}'


def _sizes(rows: Sequence[Row]) -> str:
    made = [row for row in rows if row["output_nbytes"] is not None]
    file_nbytes = _sum(rows, "file_nbytes")
    lines = [("files", str(len(rows)), human(file_nbytes))]
    if made:
        before, after = _sum(made, "file_nbytes"), _sum(made, "output_nbytes")
        lines += [
            ("filtered", str(len(made)), human(before)),
            ("small dumps", str(len(made)), human(after)),
            ("saved", f"{1 - after / before:.1%}" if before else "", human(max(before - after, 0))),
        ]
    seconds = sum(row["seconds"] or 0 for row in rows)
    lines.append(("work", f"{seconds:.0f} s of processes", f"{human(file_nbytes / seconds)}/s" if seconds else ""))
    return _table(("", "", ""), [tuple(map(escape, line)) for line in lines])


def _failures(rows: Sequence[Row]) -> str:
    failed = [row for row in rows if row["state"] == "failed"]
    kinds = Counter(row["error_kind"] for row in failed)
    words = ", ".join(f"{n} {kind}" for kind, n in kinds.most_common())
    cells = [(escape(row["dump"]), escape(row["error_kind"]), escape(row["error"])) for row in failed]
    return (cells and f'<p class="faint">{escape(words)}</p>{_table(("dump", "error", "why"), cells)}') or ""


def _grouped(rows: Iterable[Row], key: Callable[[Row], str | None]) -> list[tuple[str, list[Row]]]:
    """Return rows by a key, the largest groups first; those without one are left out."""
    groups: Mapping[str, list[Row]] = defaultdict(list)
    for row in rows:
        name = key(row)
        if name is not None:
            groups[name].append(row)
    return sorted(groups.items(), key=lambda item: (-len(item[1]), item[0]))


def _sum(rows: Iterable[Row], name: str) -> int:
    return sum(row[name] or 0 for row in rows)


def _table(heads: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    """Return a table of cells that are HTML already."""
    if not cells:
        return ""
    head = "".join(f"<th>{name}</th>" for name in heads)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in line)}</tr>" for line in cells[:_MAX_ROWS])
    more = f'<p class="faint">… and {len(cells) - _MAX_ROWS} more</p>' if len(cells) > _MAX_ROWS else ""
    return f'<div class="scroll"><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>{more}'

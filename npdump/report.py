# SPDX-License-Identifier: GPL-2.0-or-later
"""A crash on one page of HTML: what happened, the log, memory, the machine. It needs no network and no script."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

from npdump.answers.crash import Crash, find_crash
from npdump.errors import AddressError, FactError, MemmapError
from npdump.pages.colors import COLORS, NAMES, human
from npdump.pages.html import document, escape, facts_table, kinds_table, png_tag
from npdump.pages.kinds import KIND_OF_CLASS, PageKind
from npdump.pages.mosaic import hilbert_image
from npdump.pages.policy import PageClass

if TYPE_CHECKING:
    from npdump.answers.info import DumpInfo
    from npdump.dump import Dump
    from npdump.kernel.dmesg import Log
    from npdump.pages.levels import LevelCounts

__all__ = ["make_report"]

_N_TILES = 1 << 17
_N_LINES_BEFORE = 10
_N_LINES = 160


def make_report(dump: Dump) -> str:
    """Return the page; what can not be found out is named at its end.

    Parameters
    ----------
    dump : Dump

    Raises
    ------
    SourceError
        If it is no dump.
    """
    info = dump.info
    missing = list(info.missing)
    try:
        log: Log | None = dump.log()
    except (FactError, AddressError):
        log = None  # the reason is in ``missing``
    lines = _lines(log)
    crash = find_crash([text for _, text in lines])
    memory = _memory(dump, missing)
    title = f"Linux {info.release} crashed" if crash else f"Linux {info.release or 'of unknown release'}"
    sections = (
        ("crash", "What happened", _crash(crash)),
        ("log", "The kernel's log", _log(lines, crash)),
        ("memory", "Memory", memory),
        ("machine", "The machine", _machine(info)),
        ("dump", "The dump", _dump(info, missing)),
    )
    reason = f'<p class="reason">{escape(crash.reason)}</p>' if crash else ""
    where = ", ".join(escape(part) for part in (info.node, info.machine, info.crash_time) if part)
    return document(title, f'{reason}<p class="faint">{where}</p>', sections)


def _lines(log: Log | None) -> list[tuple[str, bytes]]:
    """Return the log line by line: its time as ``dmesg`` prints it, and the text."""
    if log is None:
        return []
    if not log.records:
        return [("", line) for line in log.characters.split(b"\n")]
    return [
        (f"[{record.nanoseconds / 1e9:12.6f}] ", part) for record in log.records for part in record.text.split(b"\n")
    ]


def _crash(crash: Crash | None) -> str:
    if crash is None:
        return '<p class="faint">Nothing in the log tells of a crash.</p>'
    frames = "".join(f"<li>{escape(name)}</li>" for name in crash.frames)
    trace = f'<ol class="frames">{frames}</ol>' if frames else '<p class="faint">The log has no call trace.</p>'
    return (
        f'<div class="card"><p>Signature <code>{crash.signature}</code> <span class="faint">— the same for this crash '
        f"on another boot, another CPU, at other addresses.</span></p>{trace}</div>"
    )


def _log(lines: list[tuple[str, bytes]], crash: Crash | None) -> str:
    if not lines:
        return ""
    start = max((crash.reason_line if crash else len(lines)) - _N_LINES_BEFORE, 0)
    if not crash:
        start = max(len(lines) - _N_LINES, 0)
    shown = []
    for i in range(start, min(start + _N_LINES, len(lines))):
        time, text = lines[i]
        body = escape(time + text.decode("utf-8", "backslashreplace"))
        if crash and i == crash.reason_line:
            body = f'<mark class="why">{body}</mark>'
        elif crash and i in crash.trace_lines:
            body = f"<mark>{body}</mark>"
        shown.append(body)
    words = f"Lines {start + 1} to {start + len(shown)} of {len(lines)}; the reason and its call trace are marked."
    page = "\n".join(shown)
    return f'<p class="faint">{words}</p><pre tabindex="0" role="region" aria-label="kernel log">{page}</pre>'


def _memory(dump: Dump, missing: list[str]) -> str:
    """Return the tables and the map, or nothing where the struct pages can not be found."""
    try:
        counts = dump.pages.counts()
        mosaic = dump.pages.mosaic(_N_TILES)
        levels = dump.pages.levels()
    except (FactError, AddressError, MemmapError) as error:
        missing.append(f"what the pages are: {error}")
        return ""
    tile = human(mosaic.tile_npages * mosaic.page_size)
    words = f"Map of physical memory; each point is {tile}"
    picture = png_tag(hilbert_image(mosaic), words, ["map"])
    return (
        f'{picture}<p class="faint">{words}. Addresses ascend along a Hilbert curve: what is near in memory is near '
        f'here.</p><div class="side"><div>{kinds_table(counts)}</div><div>{_levels(levels)}</div></div>'
    )


def _levels(levels: LevelCounts) -> str:
    """Return what some levels keep, as bars."""
    rows = []
    for level in (0, 16, 30):  # the next one keeps the same: pages of zeros share one place
        width = 100 / max(levels.n_dumped, 1)
        parts = [f'<i style="width:{levels.kept[level] * width:.2f}%;background:{COLORS[PageKind.KERNEL]}"></i>']
        parts += [
            f'<i title="{NAMES[kind]}" style="width:{levels.left_out[level, page_class] * width:.2f}%;'
            f'background:{COLORS[kind]};opacity:.45"></i>'
            for page_class, kind in KIND_OF_CLASS.items()
            if page_class != PageClass.KEPT and levels.left_out[level, page_class]
        ]
        size = human(int(levels.kept[level]) * levels.page_size)
        rows.append(
            f'<tr><th scope="row">-d {level}, {level + 1}</th><td style="white-space:nowrap">{size}</td>'
            f'<td style="width:100%"><div class="bar">{"".join(parts)}</div></td></tr>'
        )
    return (
        f'<div class="scroll"><table>{"".join(rows)}</table></div>'
        '<p class="faint">What a dump of a level keeps (dark), before compression, and what it leaves out (pale).</p>'
    )


def _machine(info: DumpInfo) -> str:
    uptime = None if info.uptime_seconds is None else _duration(info.uptime_seconds)
    facts = {
        "release": info.release,
        "version": info.version,
        "machine": info.machine,
        "node": info.node,
        "crashed at": info.crash_time,
        "up for": uptime,
        "CPUs": info.n_cpus,
        "memory": human(info.memory_nbytes),
        "page size": human(info.page_size),
        "KASLR": None if info.kaslr_offset is None else f"{info.kaslr_offset:#x}",
        "build ID": info.build_id,
        "command line": info.command_line,
    }
    return f'<div class="card scroll">{facts_table(facts)}</div>'


def _duration(seconds: float) -> str:
    days, rest = divmod(int(seconds), 86400)
    hours, rest = divmod(rest, 3600)
    minutes, rest = divmod(rest, 60)
    if days:
        return f"{days} d {hours} h"
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def _dump(info: DumpInfo, missing: list[str]) -> str:
    facts = {
        "file": os.path.basename(info.file),
        "format": info.format,
        "size": human(info.file_nbytes or info.unpacked_nbytes),
        "pages": f"{info.n_data} of {info.n_ram}",
        "dump level": info.dump_level,
        "codec": info.codec,
    }
    notes: dict[str, int] = {}
    for note in info.notes:
        name = f"{note.name} of type {note.type:#x}, {note.nbytes} bytes"
        notes[name] = notes.get(name, 0) + 1
    noted = "".join(f"<li>{escape(name)}{f', {n} times' if n > 1 else ''}</li>" for name, n in notes.items())
    lacking = "".join(f"<li>{escape(text)}</li>" for text in missing)
    return (
        f'<div class="card scroll">{facts_table(facts)}</div><h3>Notes</h3><ul>{noted}</ul>'
        f"<h3>What is missing</h3>{f'<ul>{lacking}</ul>' if lacking else '<p>Nothing that npdump knows of.</p>'}"
    )

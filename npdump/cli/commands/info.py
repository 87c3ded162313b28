# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump info``: what is this file, of which kernel, and what is missing from it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from npdump.cli.inputs import open_dump

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter

__all__ = ["run"]


def run(options: Options, report: Reporter) -> None:
    """Print what is known of a dump; what can't be found out is listed as missing, and is no failure."""
    with open_dump(options, report) as dump:
        facts = asdict(dump.info)
    facts["memory"] = [{"start": start, "stop": stop} for start, stop in facts["memory"]]
    report.answer(json.dumps(facts, indent=1) if options.json else as_text(facts))


def as_text(facts: dict[str, Any]) -> str:
    """Lay the facts out for reading; what isn't known is left out."""
    lines = []
    for name, value in facts.items():
        if name == "memory":
            ranges = [f"{run['start']:#014x} to {run['stop']:#014x}" for run in value]
            lines += _block("memory", ranges)
        elif name == "notes":
            lines += _block("notes", _counted([f"{note['name']} type {note['type']:#x}" for note in value]))
        elif name == "missing":
            lines += _block("missing", value or ["nothing that npdump knows of"])
        elif name == "kaslr_offset" and value is not None:
            lines.append(_entry(name, f"{value:#x}"))
        elif value is not None:
            lines.append(_entry(name, str(value)))
    return "\n".join(line.rstrip() for line in lines)


def _entry(name: str, text: str) -> str:
    shown = "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)
    return f"{name.replace('_', ' '):<16}{shown}"


def _block(name: str, texts: list[str]) -> list[str]:
    return [_entry(name if i == 0 else "", text) for i, text in enumerate(texts)]


def _counted(texts: list[str]) -> list[str]:
    """Say how often, instead of saying it again."""
    counts = {text: texts.count(text) for text in dict.fromkeys(texts)}
    return [text if count == 1 else f"{text}, {count} times" for text, count in counts.items()]

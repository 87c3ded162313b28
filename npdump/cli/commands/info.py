# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump info``: what is this file, of which kernel, and what is missing from it."""

from __future__ import annotations

import json
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from npdump import codecs
from npdump.arch import by_machine
from npdump.arrays import count
from npdump.cli.inputs import load_external, open_storages
from npdump.errors import AddressError, FactError
from npdump.kernel import dmesg
from npdump.kernel.probe import find_kernel, utsname
from npdump.layouts.page_flag import STATUS_EXCLUDED_VMEMMAP, STATUS_INCOMPLETE
from npdump.sources import History, OffersStored, Source, open_source
from npdump.sources._notes import parse_notes

if TYPE_CHECKING:
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter
    from npdump.kernel.facts.external import ExternalFacts
    from npdump.kernel.kernel import Kernel

__all__ = ["run"]

_PANIC_STARTS = (
    b"Kernel panic - not syncing",
    b"BUG: ",
    b"kernel BUG at ",
    b"Unable to handle kernel ",
    b"Internal error: ",
    b"Oops: ",
    b"general protection fault",
    b"Kernel BUG",
    b"sysrq: Trigger a crash",
    b"sysrq: SysRq : Trigger a crash",
    b"SysRq : Trigger a crash",
)
_COMMAND_LINE_STARTS = (b"Kernel command line: ", b"Command line: ")
_DMESG_IS_ENOUGH = 1 << 20
"""Characters of an old log that are looked at."""


def run(options: Options, report: Reporter) -> None:
    """Print what is known of a dump; what can't be found out is listed as missing, and is no failure."""
    with ExitStack() as stack:
        storages = open_storages(options, report, stack)
        source = open_source(*storages)
        facts = describe(source, sum(storage.nbytes for storage in storages), load_external(options))
    report.answer(json.dumps(facts, indent=1) if options.json else as_text(facts))


def describe(source: Source, file_nbytes: int, given: ExternalFacts | None) -> dict[str, Any]:
    """Collect what `run` prints, in the order in which it's printed."""
    missing: list[str] = []
    facts: dict[str, Any] = {
        "file": source.path,
        "format": f"{source.format_name}, {source.bits} bits, {_byte_order(source)}",
        "file_nbytes": file_nbytes,
    }
    arch = by_machine(source.machine, source.bits)
    facts["machine"] = arch.name
    kernel = find_kernel(source, arch, 0, missing.append, given)
    if kernel is not None:
        facts |= _of_kernel(kernel, utsname(kernel, arch), missing)
    facts |= _of_memory(source, missing)
    facts["missing"] = missing
    return facts


def _byte_order(source: Source) -> str:
    return {"<": "little-endian", ">": "big-endian"}[source.byte_order]


def _of_kernel(kernel: Kernel, names: tuple[bytes, ...], missing: list[str]) -> dict[str, Any]:
    _, node, release, version, *_ = (name.decode("utf-8", "replace") for name in names)
    seconds = kernel.facts.get("CRASHTIME")
    try:
        log = dmesg.read(kernel)
    except (FactError, AddressError) as error:
        missing.append(f"the kernel log: {error}")
        log = dmesg.Log("characters")
    missing += [f"of the kernel log, {doubt}" for doubt in log.doubts]
    lines = [record.text for record in log.records] or log.characters[-_DMESG_IS_ENOUGH:].split(b"\n")
    uptime = log.records[-1].nanoseconds / 1e9 if log.records else None
    return {
        "release": kernel.facts.release or release or None,
        "version": version or None,
        "node": node or None,
        "build_id": kernel.facts.text("BUILD-ID"),
        "crash_time": datetime.fromtimestamp(seconds, UTC).isoformat() if seconds and 0 < seconds < 1 << 36 else None,
        "uptime_seconds": uptime,
        "command_line": _after(lines, _COMMAND_LINE_STARTS),
        "panic": _panic(lines),
        "kaslr_offset": kernel.facts.get("KERNELOFFSET"),
    }


def _after(lines: list[bytes], starts: tuple[bytes, ...]) -> str | None:
    """Return what follows one of ``starts`` in the first line that has it."""
    for line in lines:
        for start in starts:
            if start in line:
                return line.partition(start)[2].decode("utf-8", "replace").strip()
    return None


def _panic(lines: list[bytes]) -> str | None:
    """Return the last panic message, or else the last line that tells of a fatal error."""
    for starts in (_PANIC_STARTS[:1], _PANIC_STARTS[1:]):
        for line in reversed(lines):
            at = min((line.find(start) for start in starts if start in line), default=-1)
            if at >= 0:
                return line[at:].partition(b"\n")[0].decode("utf-8", "replace").strip()
    return None


def _of_memory(source: Source, missing: list[str]) -> dict[str, Any]:
    n_ram, n_data = count(source.ram_runs), count(source.data_runs)
    history = source.history
    n_excluded = n_ram - n_data - history.n_lost - history.n_elsewhere
    if n_excluded:
        missing.append(f"{n_excluded} of {n_ram} pages, which a filter left out")
    missing += _lost(history)
    is_kdump = isinstance(source, OffersStored)  # an ELF file doesn't tell
    codec = codecs.by_flag(source.history.codec_flag)
    notes = parse_notes(source.notes, source.byte_order)
    return {
        "cpus": source.n_cpus,
        "page_size": source.page_size,
        "max_mapnr": source.max_mapnr,
        "pages": n_ram,
        "pages_in_file": n_data,
        "pages_lost": history.n_lost or None,
        "pages_in_other_parts": history.n_elsewhere or None,
        "memory": [
            {"start": start * source.page_size, "stop": stop * source.page_size}
            for start, stop in source.ram_runs.tolist()
        ],
        "dump_level": source.history.level if is_kdump else None,
        "codec": codec.name if codec and is_kdump else None,
        "notes": [
            {"name": note.name.decode("ascii", "replace"), "type": note.type, "nbytes": note.desc_nbytes}
            for note in notes
        ],
    }


def _lost(history: History) -> list[str]:
    """Say what isn't in a dump although its filter kept it."""
    missing = []
    if history.missing:
        start, stop = history.missing
        missing.append(
            f"{history.n_elsewhere} pages in other parts of this split dump, the first for the page frames {start:#x} "
            f"to {stop:#x}"
        )
    if history.n_lost:
        missing.append(f"{history.n_lost} pages, which were lost when the dump was made, or with the file's end")
    elif history.status & STATUS_INCOMPLETE:
        missing.append("its end: the dump is marked as incomplete")
    if history.status & STATUS_EXCLUDED_VMEMMAP:
        missing.append("the page structs of pages that were left out")
    return missing


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

# SPDX-License-Identifier: GPL-2.0-or-later
"""``npdump info``: what is this file, of which kernel, and what is missing from it."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from npdump.cli.inputs import open_dump
from npdump.cli.report import human_nbytes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.answers.info import DumpInfo, Note, Segment
    from npdump.cli.options import Options
    from npdump.cli.report import Reporter
    from npdump.kernel.texts import KernelText

__all__ = ["run"]


def run(options: Options, report: Reporter) -> None:
    """Print what is known of a dump; what can't be found out is listed as missing, and is no failure."""
    with open_dump(options, report) as dump:
        info = dump.info
        texts = dump.vmcoreinfo_texts() if options.verbose else None
    report.answer(json.dumps(as_json(info, texts), indent=1) if options.json else as_text(info, texts))


def as_json(info: DumpInfo, texts: list[KernelText] | None = None) -> dict[str, Any]:
    """Return an object for JSON: numbers are decimal, addresses are texts in hexadecimal."""
    entries = asdict(info)
    if info.kaslr_offset is not None:
        entries["kaslr_offset"] = hex(info.kaslr_offset)
    entries["memory"] = [{"start": hex(start), "stop": hex(stop)} for start, stop in info.memory]
    for segment in entries["segments"]:
        segment |= {"paddr": hex(segment["paddr"]), "vaddr": hex(segment["vaddr"])}
    if texts is not None:
        entries["vmcoreinfo_texts"] = list(map(asdict, texts))
    return entries


def as_text(info: DumpInfo, vmcoreinfo_texts: list[KernelText] | None = None) -> str:
    """Lay out what is known for reading; what isn't known is left out."""
    lines = []
    for name, texts in _entries(info, vmcoreinfo_texts):
        for i, text in enumerate(texts):
            shown = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
            lines.append(f"{'' if i else name:<16}{shown}".rstrip())
    return "\n".join(lines)


def _entries(info: DumpInfo, vmcoreinfo_texts: list[KernelText] | None) -> Iterator[tuple[str, list[str]]]:
    """Yield names, and what is printed after them, line by line."""
    yield "file", [info.file]
    yield "format", [", ".join((info.format, *info.wrapping))]
    if info.file_nbytes is not None:
        yield "size", [_size(info.file_nbytes)]
    if info.unpacked_nbytes != info.file_nbytes:
        yield "unpacked", [_size(info.unpacked_nbytes)]
    yield "machine", [info.machine]
    for name in ("release", "version", "node", "build_id", "crash_time"):
        yield name.replace("_", " "), _one(getattr(info, name))
    yield "uptime", _one(_uptime(info))
    for name in ("command_line", "panic", "panic_task"):
        yield name.replace("_", " "), _one(getattr(info, name))
    yield "tasks", _one(info.n_tasks)
    yield "hypervisor", _one(info.hypervisor)
    yield "domains", _one(", ".join(map(str, info.domains)) or None)
    yield "kaslr offset", [] if info.kaslr_offset is None else [hex(info.kaslr_offset)]
    yield "cpus", [str(info.n_cpus)]
    yield "page size", [str(info.page_size)]
    yield "memory", [f"{_size(info.memory_nbytes)}, {info.n_ram} pages up to page frame {info.max_mapnr:#x}"]
    yield "pages in file", [f"{info.n_data}, {human_nbytes(info.n_data * info.page_size)}"]
    yield "pages lost", _one(info.n_lost or None)
    yield "in other parts", _one(info.n_elsewhere or None)
    yield "ranges", [f"{start:#014x} to {stop:#014x}" for start, stop in info.memory]
    if vmcoreinfo_texts is not None:
        yield "segments", list(map(_segment, info.segments))
        yield "vmcoreinfo", list(map(_kernel_text, vmcoreinfo_texts))
    yield "dump level", _one(info.dump_level)
    yield "codec", _one(info.codec)
    yield "notes", _counted(list(map(_note, info.notes)))
    yield "missing", list(info.missing) or ["nothing that npdump knows of"]


def _segment(one: Segment) -> str:
    sizes = f"{_size(one.memory_nbytes)}, of which {one.file_nbytes} bytes are in the file"
    return f"{one.paddr:#014x} at {one.vaddr:#018x}: {sizes}"


def _kernel_text(text: KernelText) -> str:
    told = f"{text.number}: {text.where}, of {text.release or 'an unknown release'}"
    return f"{told}, {'leads to a kernel' if text.fits else 'leads to no kernel'}"


def _note(note: Note) -> str:
    if note.kind is None and not note.type and note.name not in ("CORE", "LINUX"):
        return note.name
    return f"{note.name} {note.kind or f'type {note.type:#x}'}"


def _one(value: object) -> list[str]:
    return [] if value is None else [str(value)]


def _size(nbytes: int) -> str:
    return f"{human_nbytes(nbytes)} ({nbytes} bytes)"


def _uptime(info: DumpInfo) -> str | None:
    if info.uptime_seconds is not None:
        return _time(info.uptime_seconds)
    if info.log_seconds is not None:
        return f"at least {_time(info.log_seconds)}, by the last line of the log"
    return None


def _time(seconds: float) -> str:
    minutes, whole = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    clock = f"{hours:02}:{minutes:02}:{whole:02}"
    return f"{f'{days} days ' if days else ''}{clock} ({seconds:.2f} s)" if seconds >= 60 else f"{seconds:.2f} s"


def _counted(texts: list[str]) -> list[str]:
    """Say how often, instead of saying it again."""
    counts = {text: texts.count(text) for text in dict.fromkeys(texts)}
    return [text if count == 1 else f"{text}, {count} times" for text, count in counts.items()]

# SPDX-License-Identifier: GPL-2.0-or-later
"""What a dump is of, when and why its kernel crashed, and what is missing from it."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from npdump import codecs
from npdump.arrays import count
from npdump.errors import AddressError, FactError
from npdump.kernel import dmesg
from npdump.kernel.probe import utsname
from npdump.layouts.page_flag import STATUS_EXCLUDED_VMEMMAP, STATUS_INCOMPLETE
from npdump.sources._notes import parse_notes

if TYPE_CHECKING:
    from npdump.arch import Arch
    from npdump.kernel.kernel import Kernel
    from npdump.sources import History, Source

__all__ = ["DumpInfo", "Note", "describe"]

PANIC_STARTS = (
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


@dataclass(frozen=True, slots=True)
class Note:
    """An ELF note of a dump.

    Attributes
    ----------
    name : str
    type : int
    nbytes : int
        Of its contents.
    """

    name: str
    type: int
    nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpInfo:
    """What is known of a dump; None for what cannot be found out.

    Attributes
    ----------
    file : str
        Its path.
    format : str
        In words.
    file_nbytes : int
        Size of its files, unpacked.
    machine : str
        As ``uname -m`` prints it.
    release, version, node : str or None
        Of the crashed kernel and its host, as ``uname`` prints them.
    build_id : str or None
        Of the kernel, in hexadecimal digits.
    crash_time : str or None
        In ISO 8601, UTC.
    uptime_seconds : float or None
    command_line : str or None
        Of the kernel, from its log.
    panic : str or None
        The log's line that says why the kernel crashed.
    kaslr_offset : int or None
        Bytes by which the kernel's image was moved.
    cpus : int
        Number of CPUs whose registers are in the dump.
    page_size : int
        Bytes.
    max_mapnr : int
        One more than the highest page frame.
    pages, pages_in_file : int
        Pages of memory, and those whose contents are in the file.
    pages_lost, pages_in_other_parts : int or None
    memory : tuple of (int, int)
        Physical addresses ``[start, stop)``.
    dump_level : int or None
        At which the file was made; None if its format does not tell.
    codec : str or None
        Page compression of the file.
    notes : tuple of Note
    missing : tuple of str
        What is not there, or could not be found out, and why.
    """

    file: str
    format: str
    file_nbytes: int
    machine: str
    release: str | None = None
    version: str | None = None
    node: str | None = None
    build_id: str | None = None
    crash_time: str | None = None
    uptime_seconds: float | None = None
    command_line: str | None = None
    panic: str | None = None
    kaslr_offset: int | None = None
    cpus: int
    page_size: int
    max_mapnr: int
    pages: int
    pages_in_file: int
    pages_lost: int | None
    pages_in_other_parts: int | None
    memory: tuple[tuple[int, int], ...]
    dump_level: int | None
    codec: str | None
    notes: tuple[Note, ...]
    missing: tuple[str, ...]


def describe(source: Source, arch: Arch, kernel: Kernel | None, file_nbytes: int, doubts: list[str]) -> DumpInfo:
    """Collect what is known of a dump.

    Parameters
    ----------
    source : Source
    arch : Arch
    kernel : Kernel or None
        None if it isn't known.
    file_nbytes : int
    doubts : list of str
        What was said while the kernel was looked for.
    """
    missing = list(doubts)
    names = utsname(kernel, arch, source.history.utsname)
    of_kernel = _of_kernel(kernel, names, missing) if kernel else _of_header(source.history)
    of_memory = _of_memory(source, missing)
    byte_order = {"<": "little-endian", ">": "big-endian"}[source.header.byte_order]
    return DumpInfo(
        file=source.path,
        format=f"{source.format_name}, {source.header.bits} bits, {byte_order}",
        file_nbytes=file_nbytes,
        machine=arch.name,
        **of_kernel,
        **of_memory,
        missing=tuple(missing),
    )


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
    return {
        "release": kernel.facts.release or release or None,
        "version": version or None,
        "node": node or None,
        "build_id": kernel.facts.text("BUILD-ID"),
        "crash_time": _utc(seconds),
        "uptime_seconds": log.records[-1].nanoseconds / 1e9 if log.records else None,
        "command_line": _after(lines, _COMMAND_LINE_STARTS),
        "panic": _panic(lines),
        "kaslr_offset": kernel.facts.get("KERNELOFFSET"),
    }


def _of_header(history: History) -> dict[str, Any]:
    """Return what the headers of the file say of a kernel that nothing else is known of."""
    _, node, release, version, *_ = (name.decode("utf-8", "replace") for name in history.utsname or (b"",) * 6)
    return {
        "release": release or None,
        "version": version or None,
        "node": node or None,
        "crash_time": _utc(history.timestamp),
    }


def _utc(seconds: int | None) -> str | None:
    return datetime.fromtimestamp(seconds, UTC).isoformat() if seconds and 0 < seconds < 1 << 36 else None


def _after(lines: list[bytes], starts: tuple[bytes, ...]) -> str | None:
    """Return what follows one of ``starts`` in the first line that has it."""
    for line in lines:
        for start in starts:
            if start in line:
                return line.partition(start)[2].decode("utf-8", "replace").strip()
    return None


def _panic(lines: list[bytes]) -> str | None:
    """Return the last panic message, or else the last line that tells of a fatal error."""
    for starts in (PANIC_STARTS[:1], PANIC_STARTS[1:]):
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
    is_kdump = source.compressed is not None  # an ELF file doesn't tell
    codec = codecs.by_flag(source.history.codec_flag)
    notes = parse_notes(source.notes.area, source.header.byte_order)
    return {
        "cpus": source.notes.n_cpus,
        "page_size": source.page_size,
        "max_mapnr": source.max_mapnr,
        "pages": n_ram,
        "pages_in_file": n_data,
        "pages_lost": history.n_lost or None,
        "pages_in_other_parts": history.n_elsewhere or None,
        "memory": tuple(map(tuple, (source.ram_runs * source.page_size).tolist())),
        "dump_level": source.history.level if is_kdump else None,
        "codec": codec.name if codec and is_kdump else None,
        "notes": tuple(Note(note.name.decode("ascii", "replace"), note.type, note.desc_nbytes) for note in notes),
    }


def _lost(history: History) -> list[str]:
    """Say what isn't in a dump although its filter kept it."""
    missing = list(history.doubts)
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

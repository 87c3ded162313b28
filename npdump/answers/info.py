# SPDX-License-Identifier: GPL-2.0-or-later
"""What a dump is of, when and why its kernel crashed, and what is missing from it."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from npdump import codecs, storage
from npdump.arrays import count
from npdump.errors import AddressError, FactError
from npdump.kernel.crash import of_header, of_kernel
from npdump.layouts.elf import NT_XEN_CRASH_INFO, NT_XEN_CRASH_REGS
from npdump.layouts.page_flag import STATUS_EXCLUDED_VMEMMAP, STATUS_INCOMPLETE
from npdump.sources._notes import cpu_pids, has_xen_info, parse_notes
from npdump.storage.flattened import FlattenedStorage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from npdump.arch import Arch
    from npdump.kernel.kernel import Kernel
    from npdump.sources import History, Source
    from npdump.storage import Storage

__all__ = ["DumpInfo", "Note", "Segment", "describe"]

_NOTE_TYPES = {
    (b"CORE", 1): "NT_PRSTATUS",
    (b"CORE", 2): "NT_PRFPREG",
    (b"CORE", 3): "NT_PRPSINFO",
    (b"CORE", 4): "NT_TASKSTRUCT",
    (b"CORE", 6): "NT_AUXV",
    (b"LINUX", 0x100): "NT_PPC_VMX",
    (b"LINUX", 0x102): "NT_PPC_VSX",
    (b"LINUX", 0x202): "NT_X86_XSTATE",
    (b"LINUX", 0x300): "NT_S390_HIGH_GPRS",
    (b"LINUX", 0x301): "NT_S390_TIMER",
    (b"LINUX", 0x302): "NT_S390_TODCMP",
    (b"LINUX", 0x303): "NT_S390_TODPREG",
    (b"LINUX", 0x304): "NT_S390_CTRS",
    (b"LINUX", 0x305): "NT_S390_PREFIX",
    (b"LINUX", 0x309): "NT_S390_VXRS_LOW",
    (b"LINUX", 0x30A): "NT_S390_VXRS_HIGH",
    (b"LINUX", 0x30B): "NT_S390_GS_CB",
    (b"LINUX", 0x401): "NT_ARM_TLS",
    (b"Xen", NT_XEN_CRASH_INFO): "crash info",
    (b"Xen", NT_XEN_CRASH_REGS): "crash registers",
}
"""Names by owner and type (Linux include/uapi/linux/elf.h); VMCOREINFO, QEMU and such are named by their owner."""


@dataclass(frozen=True, slots=True)
class Note:
    """An ELF note of a dump.

    Attributes
    ----------
    name : str
        Of its owner, such as CORE or VMCOREINFO.
    type : int
    kind : str or None
        What the type is called, such as NT_PRSTATUS.
    nbytes : int
        Of its contents.
    """

    name: str
    type: int
    kind: str | None
    nbytes: int


@dataclass(frozen=True, slots=True)
class Segment:
    """A stretch of physical memory as the dump lists it (PT_LOAD).

    Attributes
    ----------
    paddr, vaddr : int
    memory_nbytes : int
    file_nbytes : int
        How many of them are in the dump.
    """

    paddr: int
    vaddr: int
    memory_nbytes: int
    file_nbytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class DumpInfo:
    """What is known of a dump; None for what cannot be found out.

    Attributes
    ----------
    file : str
        Its path.
    format : str
        In words.
    wrapping : tuple of str
        How the file is compressed or flattened as a whole, from the outside in; ``("gzip", "flattened")``.
    file_nbytes : int or None
        Size of its files; None for a stream.
    unpacked_nbytes : int
        The same, without what wraps them.
    machine : str
        As ``uname -m`` prints it.
    release, version, node : str or None
        Of the crashed kernel and its host, as ``uname`` prints them.
    build_id : str or None
        Of the kernel, in hexadecimal digits.
    crash_time : str or None
        In ISO 8601, UTC.
    uptime_seconds : float or None
        By the kernel's own clock.
    log_seconds : float or None
        By the last line of the log, which may be much earlier.
    command_line : str or None
        Of the kernel, from its log.
    panic : str or None
        The log's line that says why the kernel crashed.
    panic_task : str or None
        The log's words on who was running then, and where.
    n_tasks : int or None
        Threads that there were.
    hypervisor : str or None
        Xen's version, of a host that ran it.
    domains : tuple of int
        Numbers of the domains that it ran.
    kaslr_offset : int or None
        Bytes by which the kernel's image was moved.
    n_cpus : int
        CPUs whose registers are in the dump.
    page_size : int
        Bytes.
    max_mapnr : int
        One more than the highest page frame.
    n_ram, n_data : int
        Pages of memory, and those whose contents are in the file.
    n_lost, n_elsewhere : int
        Pages that were lost when the dump was made, or are in other parts of a split dump.
    memory_nbytes : int
        Size of memory.
    memory : tuple of (int, int)
        Physical addresses ``[start, stop)``.
    segments : tuple of Segment
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
    wrapping: tuple[str, ...] = ()
    file_nbytes: int | None
    unpacked_nbytes: int
    machine: str
    release: str | None = None
    version: str | None = None
    node: str | None = None
    build_id: str | None = None
    crash_time: str | None = None
    uptime_seconds: float | None = None
    log_seconds: float | None = None
    command_line: str | None = None
    panic: str | None = None
    panic_task: str | None = None
    n_tasks: int | None = None
    hypervisor: str | None = None
    domains: tuple[int, ...] = ()
    kaslr_offset: int | None = None
    n_cpus: int
    page_size: int
    max_mapnr: int
    n_ram: int
    n_data: int
    n_lost: int
    n_elsewhere: int
    memory_nbytes: int
    memory: tuple[tuple[int, int], ...]
    segments: tuple[Segment, ...]
    dump_level: int | None
    codec: str | None
    notes: tuple[Note, ...]
    missing: tuple[str, ...]


def describe(
    source: Source,
    arch: Arch,
    kernel: Kernel | None,
    storages: Sequence[Storage],
    doubts: list[str],
    domains: Callable[[], list[int]] = list,
) -> DumpInfo:
    """Collect what is known of a dump.

    Parameters
    ----------
    source : Source
    arch : Arch
    kernel : Kernel or None
        None if it isn't known.
    storages : sequence of Storage
        The files.
    doubts : list of str
        What was said while the kernel was looked for.
    domains : callable
        Returns the numbers of the domains of a Xen host; raises where these can't be told.
    """
    missing = list(doubts)
    history = source.history
    told_by_kernel = (
        of_kernel(
            kernel, history.utsname, missing, cpu_pids(source.notes, source.header.bits, source.header.byte_order)
        )
        if kernel
        else of_header(history)
    )
    of_memory = _of_memory(source, missing)
    byte_order = {"<": "little-endian", ">": "big-endian"}[source.header.byte_order]
    return DumpInfo(
        file=source.path,
        format=f"{source.format_name}, {source.header.bits} bits, {byte_order}",
        wrapping=_wrapping(storages[0]),
        file_nbytes=_file_nbytes(storages),
        unpacked_nbytes=sum(storage.nbytes for storage in storages),
        machine=arch.name,
        **told_by_kernel,
        **_of_xen(source, domains, missing),
        **of_memory,
        missing=tuple(missing),
    )


def _of_xen(source: Source, domains: Callable[[], list[int]], missing: list[str]) -> dict[str, Any]:
    if not has_xen_info(source.notes.area, source.header.byte_order):
        return {}
    from npdump.kernel.xen.crash_info import read_crash_info, version_of  # few dumps are of Xen

    info = read_crash_info(source)
    known: dict[str, Any] = {"hypervisor": "Xen" if info is None else version_of(source, info)}
    try:
        known["domains"] = tuple(domains())
    except (FactError, AddressError) as error:
        missing.append(f"Xen's domains: {error}")
    return known


def _file_nbytes(storages: Sequence[Storage]) -> int | None:
    """Return the size of files, None if one is none."""
    nbytes = 0
    for one in storages:
        try:
            status = os.stat(one.path)
        except OSError:
            return None
        if not stat.S_ISREG(status.st_mode):
            return None
        nbytes += status.st_size
    return nbytes


def _wrapping(one: Storage) -> tuple[str, ...]:
    """Return how a file is compressed or flattened, as far as it can be looked at again."""
    names: list[str] = []
    try:
        if stat.S_ISREG(os.stat(one.path).st_mode):
            with open(one.path, "rb") as file:
                container = storage.detect(file.read(16) or b"")
            names += [container.name] if container else []
    except OSError:
        pass
    return (*names, "flattened") if isinstance(one, FlattenedStorage) else tuple(names)


def _of_memory(source: Source, missing: list[str]) -> dict[str, Any]:
    n_ram, n_data = count(source.ram_runs), count(source.data_runs)
    history = source.history
    n_excluded = n_ram - n_data - history.n_lost - history.n_elsewhere
    if n_excluded:
        missing.append(f"{n_excluded} of {n_ram} pages, which a filter left out")
    missing += _lost(history)
    is_kdump = source.compressed is not None  # an ELF file doesn't tell
    codec = codecs.by_flag(source.history.codec_flag)
    return {
        "n_cpus": source.notes.n_cpus,
        "page_size": source.page_size,
        "max_mapnr": source.max_mapnr,
        "n_ram": n_ram,
        "n_data": n_data,
        "n_lost": history.n_lost,
        "n_elsewhere": history.n_elsewhere,
        "memory_nbytes": n_ram * source.page_size,
        "memory": tuple(map(tuple, (source.ram_runs * source.page_size).tolist())),
        "segments": tuple(
            Segment(*(int(segment[name]) for name in ("paddr", "vaddr", "memsz", "filesz")))
            for segment in source.segments
        ),
        "dump_level": source.history.level if is_kdump else None,
        "codec": codec.name if codec and is_kdump else None,
        "notes": tuple(
            Note(note.name.decode("ascii", "replace"), note.type, _note_kind(note.name, note.type), note.desc_nbytes)
            for note in parse_notes(source.notes.area, source.header.byte_order)
        ),
    }


def _note_kind(owner: bytes, number: int) -> str | None:
    return _NOTE_TYPES.get((owner, number))


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

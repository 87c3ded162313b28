# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a dump is whole and consistent, and which programs will open it.

A program is said to open a dump only where all that npdump can check is right: a "no" may be too careful, a "yes" is
meant to hold.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from npdump.answers.program_headers import (
    are_beyond_the_file,
    program_headers,
    segments_disagree,
    vaddrs_disagree,
)
from npdump.arrays import count, subtract
from npdump.compare._pages import cut
from npdump.errors import NpdumpError
from npdump.kernel import dmesg
from npdump.kernel.memmap import find
from npdump.kernel.nodes import zones
from npdump.kernel.probe import read_utsname
from npdump.layouts import elf
from npdump.layouts.kdump import header_dtype
from npdump.layouts.page_flag import STATUS_EXCLUDED_VMEMMAP, STATUS_INCOMPLETE
from npdump.pages.selfcheck import check
from npdump.pages.struct_page import describe
from npdump.sources._notes import parse_notes
from npdump.storage.file import page_buffer
from npdump.storage.flattened import FlattenedStorage

if TYPE_CHECKING:
    from collections.abc import Callable

    from npdump.kernel.kernel import Kernel
    from npdump.observer import Observer
    from npdump.opened import Opened
    from npdump.sources import Source
    from npdump.storage import Storage

__all__ = ["Answer", "check_soundness"]

_BATCH_NBYTES = 1 << 20
_EVERY_KIND = 31

_HOST = platform.machine()
"""As `npdump.arch` names machines."""

_LIBKDUMPFILE_MACHINES = ("x86_64", "i686", "aarch64", "armv7l", "ppc64", "s390x", "riscv64", "ia64")
_DRGN_MACHINES = ("x86_64", "i686", "aarch64", "armv7l", "ppc64", "s390x", "riscv64")
_DRGN_KEYS = ("OSRELEASE", "PAGESIZE", "SYMBOL(swapper_pg_dir)", "SYMBOL(_stext)")


_LINE = re.compile(
    rb"(SYMBOL|OFFSET|SIZE|LENGTH)\([\w.]+\)=(0x)?[0-9a-f]+|NUMBER\(\w+\)=-?(0x)?[0-9a-f]+|OSRELEASE=[!-~]+|"
    rb"BUILD-ID=([0-9a-f]{2})+|(PAGESIZE|CRASHTIME)=\d+|(?!BUILD|PAGE|CRASH|OS)[A-Z]\w*=[!-~]*|"
)
"""A line of VMCOREINFO (Linux ``include/linux/vmcore_info.h``)."""


@dataclass(frozen=True, slots=True)
class Answer:
    """The answer to one question about a dump.

    Attributes
    ----------
    subject : str
        ``file``, ``headers``, ``pages``, ``kernel``, or the name of a program.
    is_good : bool
    text : str
        Why, or what there is.
    """

    subject: str
    is_good: bool
    text: str


def check_soundness(dump: Opened, observer: Observer) -> list[Answer]:
    """Look at every page and at what leads to them.

    Parameters
    ----------
    dump : Opened
    observer : Observer
        Hears of progress.

    Returns
    -------
    list of Answer
        Of the file, its headers, its pages and its kernel, then of each program.

    Raises
    ------
    SourceError
        If the file can not be opened at all.
    """
    source = dump.source
    answers = [
        _answer("file", _file_troubles(source, dump.storages), f"{source.format_name}, complete"),
        _answer("headers", _header_troubles(source, dump.storages, dump.arch.bits), "headers, bitmaps and notes agree"),
        _answer("pages", _page_troubles(source, observer), f"all {count(source.data_runs)} pages can be read"),
    ]
    kernel, troubles = _kernel_troubles(dump)
    release = kernel.facts.release if kernel is not None else None
    answers.append(_answer("kernel", troubles, f"Linux {release}: its memory map, zones and log are there"))
    bad = [answer.subject for answer in answers if not answer.is_good]
    for program, test in _PROGRAMS.items():
        reasons = [f"not sure to: see {', '.join(bad)}"]
        if not bad and kernel is not None:
            reasons = list(test(source, dump.storages, kernel))
        answers.append(_answer(program, reasons, _YES.get(program, "will open it")))
    return answers


def _answer(subject: str, troubles: list[str], good: str) -> Answer:
    return Answer(subject, not troubles, "; ".join(troubles) or good)


def _file_troubles(source: Source, storages: tuple[Storage, ...]) -> list[str]:
    history = source.history
    found = []
    if history.status & STATUS_INCOMPLETE:
        found.append("is marked as incomplete")
    if history.n_lost:
        found.append(f"{history.n_lost} pages were lost when it was made, or with its end")
    if history.missing:
        found.append(f"{history.n_elsewhere} pages are in parts that were not given")
    if history.status & STATUS_EXCLUDED_VMEMMAP:
        found.append("page structs were left out")
    if any(getattr(storage, "is_truncated", False) for storage in storages):
        found.append("is flattened and was cut short")
    return found


def _header_troubles(source: Source, storages: tuple[Storage, ...], bits: int) -> list[str]:
    found = []
    if source.compressed is not None:
        block = storages[0].read(0, source.page_size)
        dtype = header_dtype(bits, source.header.byte_order)
        # libkdumpfile takes a file with microseconds for one of a 32-bit machine.
        if np.frombuffer(block, dtype, 1)[0]["tv_usec"] or any(block[dtype.itemsize :]):
            found.append("its first block has bytes where none belong")
    else:
        if are_beyond_the_file(source, storages[0]):
            # Another segment may have the same pages, and then npdump has them; who reads by address misses them.
            found.append("a program header names bytes that are not in the file")
        elif segments_disagree(source, storages[0]):
            found.append("two program headers have different bytes for the same memory")
    beyond = subtract(source.data_runs, source.ram_runs)
    if len(beyond):
        found.append(f"{count(beyond)} pages are in it that are no memory, from page frame {int(beyond[0, 0]):#x} on")
    if not count(source.data_runs):
        found.append("it has no pages")
    area, byte_order = source.notes.area, source.header.byte_order
    end = max((note.desc_offset + note.desc_nbytes for note in parse_notes(area, byte_order)), default=0)
    if area[end:].strip(b"\0"):
        found.append("notes that are not understood")
    text = source.notes.vmcoreinfo
    if text is None:
        return [*found, "no VMCOREINFO"]
    lines = text.rstrip(b"\0\n").split(b"\n")
    odd = [line for line in lines if not _LINE.fullmatch(line)]
    if odd or not any(line.startswith(b"OSRELEASE=") for line in lines):
        shown = odd[0][:40].decode("ascii", "backslashreplace") if odd else "no OSRELEASE"
        found.append(f"VMCOREINFO is damaged: {shown}")
    page_size = re.search(rb"^PAGESIZE=(\d{1,9})$", text, re.MULTILINE)
    if page_size is None or int(page_size[1]) != source.page_size:
        found.append(f"VMCOREINFO's PAGESIZE is not the header's {source.page_size}")
    if not source.notes.n_cpus:
        found.append("no registers of any CPU")
    return found


def _page_troubles(source: Source, observer: Observer) -> list[str]:
    """Read and uncompress every page."""
    npages = max(_BATCH_NBYTES // source.page_size, 1)
    room = page_buffer(npages, source.page_size)
    n_bad, n_done, n_all, first = 0, 0, count(source.data_runs), ""
    for runs in cut(source.data_runs, npages):
        n = count(runs)
        try:
            losses = source.gather(runs, room[:n])
        except NpdumpError as error:
            n_bad += n
            first = first or str(error)
        else:
            n_bad += len(losses)
            if losses and not first:
                first = str(losses[0].error)
        n_done += n
        observer.progress("Reading pages", n_done, n_all)
    return [f"{n_bad} of {n_all} pages can not be had, the first: {first}"] if n_bad else []


def _kernel_troubles(dump: Opened) -> tuple[Kernel | None, list[str]]:
    """Look for what crash and drgn read first; a kernel is returned only if nothing is wrong."""
    source = dump.source
    try:
        kernel = dump.kernel
        names = read_utsname(kernel) or (b"",) * 6
        verdict = check(kernel, source, _EVERY_KIND & ~source.history.level)
        page = describe(kernel.facts, kernel.memory.space.byte_order, kernel.arch.bits)
        n_damaged = find(kernel, page.nbytes, source.max_mapnr).n_damaged
        for zone in zones(kernel):
            kernel.memory.read_word(zone.vaddr)
        log = dmesg.read(kernel)
    except NpdumpError as error:
        return None, [str(error)]
    found = [finding.reason for finding in verdict.findings] + list(log.doubts)
    release = kernel.facts.release or ""
    if names[0] != b"Linux" or names[2].decode("ascii", "replace") != release:
        found.append("the release in memory is not VMCOREINFO's")
    header = source.history.utsname
    if header is not None and tuple(header) != tuple(names):
        found.append("the names in its header are not those in its memory")
    if dump.noted_vmcoreinfo not in (None, source.notes.vmcoreinfo):
        found.append("the VMCOREINFO among its notes is damaged, or of another kernel: others do not look elsewhere")
    if n_damaged:
        found.append(f"{n_damaged} sections have no plausible memory map")
    if source.compressed is None and vaddrs_disagree(source, dump.storages[0], kernel):
        found.append("a program header's kernel address is not that of its memory")
    if not (log.records or log.characters):
        found.append("its log is empty")
    return (None if found else kernel), found


Test = Iterator[str]


def _gdb(source: Source, storages: tuple[Storage, ...], kernel: Kernel) -> Test:
    if source.compressed is not None:
        yield f"reads ELF cores only, and this is {source.format_name}: npdump -E makes one"
    else:
        headers = program_headers(source, storages[0])
        if (headers["p_align"] & (headers["p_align"] - 1)).any() or (headers["p_align"] >> 32).any():
            yield "does not take the alignment in its program headers"
    yield from _plain_file(storages)
    yield from _knows_no_domain(kernel)
    if kernel.arch.name != _HOST:
        yield f"needs to be built for {kernel.arch.name} too, as gdb-multiarch is"


def _libkdumpfile(source: Source, storages: tuple[Storage, ...], kernel: Kernel) -> Test:
    if not re.match(r"\d+\.\d+\.\d+", kernel.facts.release or ""):
        yield f"does not understand the release {kernel.facts.release}: it wants three numbers"
    if kernel.arch.name not in _LIBKDUMPFILE_MACHINES:
        yield f"does not know the machine {kernel.arch.name}"
    yield from _own_vmcoreinfo(source, storages)
    if len(storages) > 1:
        yield "is given one file here, not parts: npdump --reassemble joins them"


def _drgn(source: Source, storages: tuple[Storage, ...], kernel: Kernel) -> Test:
    yield from _plain_file(storages)
    yield from _knows_no_domain(kernel)
    if kernel.arch.name not in _DRGN_MACHINES:
        yield f"does not know the machine {kernel.arch.name}"
    lacking = [key for key in _DRGN_KEYS if key not in kernel.facts]
    if lacking:
        yield f"needs {', '.join(lacking)} in VMCOREINFO"
    if source.compressed is not None:
        yield from _libkdumpfile(source, storages, kernel)  # which it reads such files through
    else:
        yield from _own_vmcoreinfo(source, storages)


def _crash(source: Source, storages: tuple[Storage, ...], kernel: Kernel) -> Test:
    if kernel.arch.name != _HOST:
        yield f"needs to be built for {kernel.arch.name}"
    if source.compressed is None:
        yield from _own_vmcoreinfo(source, storages)
        yield from _elf_for_crash(source, storages)


def _knows_no_domain(kernel: Kernel) -> Test:
    if kernel.p2m is not None:
        yield "does not know which page frames of a Xen host are dom0's"


def _plain_file(storages: tuple[Storage, ...]) -> Test:
    if any(isinstance(storage, FlattenedStorage) for storage in storages):
        yield "does not read flattened files: npdump -R makes it plain"


def _own_vmcoreinfo(source: Source, storages: tuple[Storage, ...]) -> Test:
    """Say so if npdump found VMCOREINFO in memory, where others do not look."""
    if source.compressed is not None:
        return
    for header in program_headers(source, storages[0]):
        if header["p_type"] == elf.PT_NOTE:
            area = storages[0].read(int(header["p_offset"]), int(header["p_filesz"]))
            if any(note.name == b"VMCOREINFO" for note in parse_notes(area, source.header.byte_order)):
                return
    yield "needs VMCOREINFO among the notes, and it is in memory only: npdump -E adds the note"


def _elf_for_crash(source: Source, storages: tuple[Storage, ...]) -> Test:
    """Say what of an ELF file's headers crash does not take: the notes come first, and only memory after them."""
    headers = program_headers(source, storages[0])
    if len(headers) < 2:
        yield "wants from 2 to 65534 program headers of the usual size"
    elif headers["p_type"][0] != elf.PT_NOTE or (headers["p_type"][1:] != elf.PT_LOAD).any():
        yield "wants the notes to be the first program header, and nothing but memory after them"
    elif headers["p_offset"][1] % 4096 == 0 and headers["p_align"][1]:
        yield "would take it for a netdump, for where its first memory is"


_PROGRAMS: dict[str, Callable[[Source, tuple[Storage, ...], Kernel], Test]] = {
    "crash": _crash,
    "drgn": _drgn,
    "gdb": _gdb,
    "libkdumpfile": _libkdumpfile,
}
_YES = {
    "crash": "will open it, with this kernel's vmlinux, if it is new enough to know the release",
    "drgn": "will open it",
}

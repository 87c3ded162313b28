# SPDX-License-Identifier: GPL-2.0-or-later
"""The crashed kernel as a dump shows it: its facts, its memory, and what only its memory can tell."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, overload

from npdump.errors import AddressError, CodecError, FactError, SourceError, VersionMismatch
from npdump.facts import Facts
from npdump.kernel import trace
from npdump.kernel.facts import btf, kallsyms, uname, vmcoreinfo, vmcoreinfo_keys
from npdump.kernel.facts.external import ExternalFacts, merge
from npdump.kernel.facts.gate import pass_gate
from npdump.kernel.kernel import Kernel
from npdump.kernel.memory import VirtualMemory

if TYPE_CHECKING:
    from npdump.arch import Arch
    from npdump.kernel.facts.types import Types
    from npdump.observer import Observer
    from npdump.sources import Source

__all__ = ["embedded_types", "find_kernel", "read_utsname", "utsname"]

MAX_CONFLICTS_SHOWN = 5

MAX_BTF_NBYTES = 1 << 28
"""Kernels have some megabytes of it."""


@overload
def find_kernel(
    source: Source,
    arch: Arch,
    *,
    required: Literal[True],
    observer: Observer,
    external: ExternalFacts | None = None,
) -> Kernel: ...


@overload
def find_kernel(
    source: Source, arch: Arch, *, required: bool, observer: Observer, external: ExternalFacts | None = None
) -> Kernel | None: ...


def find_kernel(
    source: Source, arch: Arch, *, required: bool, observer: Observer, external: ExternalFacts | None = None
) -> Kernel | None:
    """Find the kernel whose memory a dump holds.

    Parameters
    ----------
    source : Source
    arch : Arch
    required : bool
        Whether it is an error if the dump does not tell. Dump levels 0 and 1 need no knowledge of the kernel.
    observer : Observer
        Hears what is not known, or is contradicted.
    external : ExternalFacts, optional
        What a file beside the dump tells.

    Returns
    -------
    Kernel or None
        None if the dump does not tell, and it is not required.

    Raises
    ------
    FactError, AddressError
        If the dump does not tell, and it is required.
    VersionMismatch
        If the file is of another kernel.
    """
    observer.debug(trace.of_source(source))
    try:
        facts = _facts(source, arch, external, observer)
        stated = facts.get("PAGESIZE")
        if stated not in (None, source.page_size):
            _check_page_size(source, arch, stated, observer)
        kernel = Kernel(facts, arch, VirtualMemory(source, arch, facts), source.page_size)
        if external is not None and (external.overrides or source.notes.vmcoreinfo is None):
            _check_release(kernel, external)
        observer.debug(trace.of_kernel(source, kernel))
        return kernel
    except (FactError, AddressError) as error:
        if required:
            raise
        observer.warn(f"{error}: pages are kept whatever their kind")
        return None


def _check_page_size(source: Source, arch: Arch, stated: int | None, observer: Observer) -> None:
    """Say that a stated page size isn't used; where the machine has several, an ELF file doesn't tell which it is."""
    is_guessed = source.compressed is None and len(arch.machine.page_shifts) > 1
    if is_guessed and source.notes.vmcoreinfo is not None and source.page_size != stated:
        what = "lacks PAGESIZE" if stated is None else f"says PAGESIZE={stated}, which no {arch.name} has"
        raise FactError(f"VMCOREINFO {what}: how large pages are can't be told")
    if stated is not None:
        observer.warn(f"VMCOREINFO says PAGESIZE={stated}, but pages of {source.page_size} bytes are used")


def _facts(source: Source, arch: Arch, external: ExternalFacts | None, observer: Observer) -> Facts:
    if source.notes.vmcoreinfo is not None:
        facts = pass_gate(vmcoreinfo.parse(source.notes.vmcoreinfo), arch.bits)
    elif external is None:
        raise FactError(
            f"{source.path}: has no VMCOREINFO; only dump levels 0 and 1 are possible without -x VMLINUX or -i FILE"
        )
    else:
        facts = arch.locate(source.segments, external.link_base) if arch.locate else Facts({}, {})
    if external is not None:
        external = external._replace(facts=pass_gate(external.facts, arch.bits))
        facts, conflicts = merge(facts, external)
        for conflict in conflicts[:MAX_CONFLICTS_SHOWN]:
            observer.warn(f"{external.path}: {conflict}: the former is used")
        if len(conflicts) > MAX_CONFLICTS_SHOWN:
            n = len(conflicts)
            observer.warn(f"{external.path}: contradicts the dump about {n} facts in all: is it of this kernel?")
    _warn_of_rejected(facts, observer)
    return facts.completed_by(vmcoreinfo_keys.page_type_macros(facts.release))[0]


def _warn_of_rejected(facts: Facts, observer: Observer) -> None:
    reasons = list(facts.rejected.values())
    for reason in reasons[:MAX_CONFLICTS_SHOWN]:
        observer.warn(f"{reason}: it is not used, and what cannot be told without it is kept")
    if len(reasons) > MAX_CONFLICTS_SHOWN:
        observer.warn(f"{len(reasons)} facts in all are none that a kernel has: is the VMCOREINFO damaged?")


def _check_release(kernel: Kernel, external: ExternalFacts) -> None:
    """Compare with what the kernel says of itself, where the dump's notes say nothing."""
    fields = read_utsname(kernel)
    if fields is None:
        raise VersionMismatch(f"{external.path}: doesn't fit the dump: there is no kernel where it should be")
    external.check(fields[2].decode("ascii", "replace"), None)


def read_utsname(kernel: Kernel) -> tuple[bytes, ...] | None:
    """Return what the kernel's memory says that it is, as `utsname`; None if nothing sensible is there."""
    symbol = kernel.facts.get("SYMBOL(init_uts_ns)")
    offset = kernel.facts.get("OFFSET(uts_namespace.name)")
    if symbol is None:
        return None
    try:
        # Where the offset isn't exported, the name follows a reference count of 4 bytes.
        raw = kernel.memory.read(symbol + (4 if offset is None else offset), uname.FIELDS_NBYTES)
    except (AddressError, SourceError, CodecError):
        return None
    fields = uname.parse(raw)
    return fields if fields[0] == b"Linux" else None


def utsname(kernel: Kernel | None, arch: Arch, stated: tuple[bytes, ...] | None = None) -> tuple[bytes, ...]:
    """Return sysname, nodename, release, version, machine and domainname, as far as they are known.

    Parameters
    ----------
    kernel : Kernel or None
        What its memory says comes first.
    arch : Arch
    stated : tuple of six bytes, optional
        What the dump's headers say; QEMU leaves all but the machine empty, and calls that "Unknown".
    """
    read = read_utsname(kernel) if kernel else None
    if read is not None:
        return read
    if stated is None or not stated[0]:
        return uname.from_facts(kernel.facts if kernel else None, arch.name)
    is_right = not arch.machine.number or arch.machine.is_called(stated[4].decode("ascii", "replace"))
    return stated if is_right else (*stated[:4], arch.name.encode(), stated[5])


def embedded_types(kernel: Kernel) -> tuple[dict[str, int], Types] | None:
    """Return the symbols and types that a kernel carries itself, None if it carries none that can be found.

    Raises
    ------
    FactError, AddressError
        If they should be there, and are not or are damaged.
    """
    if not kallsyms.is_there(kernel.facts):
        return None
    memory = kernel.memory
    symbols = kallsyms.read(kernel.facts, memory.read, memory.word)
    start, stop = symbols.get("__start_BTF", 0), symbols.get("__stop_BTF", 0)
    if not 0 < stop - start <= MAX_BTF_NBYTES:
        return None
    order = ">" if memory.word.byteorder == ">" else "<"
    return symbols, btf.parse(memory.read(start, stop - start), order, memory.word.itemsize)

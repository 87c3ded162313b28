"""The crashed kernel as a dump shows it: its facts, its memory, and what only its memory can tell."""

from __future__ import annotations

from collections.abc import Callable

from npdump.arch import Arch
from npdump.errors import AddressError, FactError
from npdump.kernel import uname, vmcoreinfo
from npdump.memmap import Kernel
from npdump.memory import VirtualMemory
from npdump.sources import Source

__all__ = ["find_kernel", "utsname"]


def find_kernel(source: Source, arch: Arch, level: int, warn: Callable[[str], None]) -> Kernel | None:
    """Find the kernel whose memory a dump holds.

    Parameters
    ----------
    source : Source
    arch : Arch
    level : int
        Dump level; 0 and 1 need no knowledge of the kernel.
    warn : callable
        Takes a line about what isn't known.

    Returns
    -------
    Kernel or None
        None if the dump doesn't tell, and the level doesn't ask.

    Raises
    ------
    FactError, AddressError
        If the dump doesn't tell what the level asks for.
    """
    try:
        if source.vmcoreinfo is None:
            raise FactError(f"{source.path}: has no VMCOREINFO; only dump levels 0 and 1 are possible")
        facts = vmcoreinfo.parse(source.vmcoreinfo)
        return Kernel(facts, arch, VirtualMemory(source, arch, facts), source.page_size)
    except (FactError, AddressError) as error:
        if level > 1:
            raise
        warn(f"{error}: pages are kept whatever their kind")
        return None


def utsname(kernel: Kernel | None, arch: Arch) -> tuple[bytes, ...]:
    """Return sysname, nodename, release, version, machine and domainname, as far as they are known."""
    if kernel is None:
        return uname.from_facts(None, arch.name)
    symbol = kernel.facts.get("SYMBOL(init_uts_ns)")
    offset = kernel.facts.get("OFFSET(uts_namespace.name)")
    if symbol is not None:
        try:
            # Where the offset isn't exported, the name follows a reference count of 4 bytes.
            raw = kernel.memory.read(symbol + (4 if offset is None else offset), uname.FIELDS_NBYTES)
        except AddressError:
            pass
        else:
            fields = uname.parse(raw)
            if fields[0] == b"Linux":
                return fields
    return uname.from_facts(kernel.facts, arch.name)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Which of the VMCOREINFO texts in a dump is that of the crashed kernel.

There may be several: a useless note of the dump's producer, the page of a capture kernel that was running already, that
of the kernel before a kexec, a file in the page cache. The right one leads to a kernel: the ``init_uts_ns`` that is
read through its page tables says the same release.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from npdump.errors import AddressError, CodecError, FactError, SourceError, UsageError
from npdump.kernel.facts import vmcoreinfo
from npdump.kernel.facts.gate import pass_gate
from npdump.kernel.kernel import Kernel
from npdump.kernel.memory import VirtualMemory
from npdump.kernel.probe import read_utsname
from npdump.sources import find_vmcoreinfo_texts

if TYPE_CHECKING:
    from npdump.arch import Arch
    from npdump.observer import Observer
    from npdump.sources import Source, VmcoreinfoText

__all__ = ["KernelText", "choose", "list_texts"]

_MIN_PADDR = 4096
"""Smaller numbers are those of texts, in the order in which they are found."""


@dataclass(frozen=True, slots=True)
class KernelText:
    """A VMCOREINFO text in a dump.

    Attributes
    ----------
    number : int
        From 1 on, in the order in which they are found: those in notes, then those in memory.
    where : str
        In words.
    release : str or None
        Of the kernel that it says it is of.
    has_crashed : bool
        Whether it has the time of a crash.
    fits : bool
        Whether it leads to a kernel of that release.
    """

    number: int
    where: str
    release: str | None
    has_crashed: bool
    fits: bool


def list_texts(source: Source, arch: Arch) -> list[KernelText]:
    """Return all texts that a dump has; all of its memory is looked through."""
    return [_described(source, arch, number, text) for number, text in enumerate(find_vmcoreinfo_texts(source), 1)]


def choose(source: Source, arch: Arch, observer: Observer, at: int | None = None) -> Source:
    """Return the image with the text of the crashed kernel for its VMCOREINFO.

    Parameters
    ----------
    source : Source
    arch : Arch
    observer : Observer
        Hears if it is not the one that the image has now.
    at : int, optional
        Which one is to be used: its number, or its physical address.

    Raises
    ------
    UsageError
        If there is none at ``at``.
    """
    if at is not None:
        return source.with_vmcoreinfo(_named(source, at))
    own = source.notes.vmcoreinfo
    if own is None or _fits(source, arch):
        return source
    texts = [text for text in find_vmcoreinfo_texts(source) if text.text != own]
    fitting = [text for text in texts if _fits(source.with_vmcoreinfo(text), arch)]
    # A capture kernel that runs has no time of a crash.
    fitting.sort(key=lambda text: not _described(source, arch, 0, text).has_crashed)
    if not fitting:
        return source
    best = fitting[0]
    observer.warn(
        f"{source.path}: its VMCOREINFO leads to no kernel in its memory: that of {best.origin} does, and is used"
    )
    for other in fitting[1:]:
        if _timeless(other) != _timeless(best):
            observer.warn(f"{source.path}: that of {other.origin} leads to a kernel, too: --vmcoreinfo-at chooses it")
    return source.with_vmcoreinfo(best)


def _timeless(text: VmcoreinfoText) -> list[bytes]:
    """Return the lines that are the same before and after the crash: a kernel has a copy with its time."""
    return [line for line in text.text.rstrip(b"\0").split(b"\n") if line and not line.startswith(b"CRASHTIME=")]


def _named(source: Source, at: int) -> VmcoreinfoText:
    found = []
    for text in find_vmcoreinfo_texts(source):
        found.append(text)
        if at in (len(found), text.paddr):
            return text
    what = f"number {at}" if at < _MIN_PADDR else f"at {at:#x}"
    known = ", ".join(f"{number} {text.origin}" for number, text in enumerate(found, 1)) or "none"
    raise UsageError(f"{source.path}: has no VMCOREINFO {what}; found were: {known}")


def _described(source: Source, arch: Arch, number: int, text: VmcoreinfoText) -> KernelText:
    facts = vmcoreinfo.parse(text.text)
    fits = _fits(source.with_vmcoreinfo(text), arch)
    return KernelText(number, text.origin, facts.release, "CRASHTIME" in facts, fits)


def _fits(source: Source, arch: Arch) -> bool:
    facts = pass_gate(vmcoreinfo.parse(source.notes.vmcoreinfo or b""), arch.bits)
    try:
        kernel = Kernel(facts, arch, VirtualMemory(source, arch, facts), source.page_size)
        fields = read_utsname(kernel)
    except (FactError, AddressError, SourceError, CodecError):
        return False
    return fields is not None and fields[2].decode("utf-8", "replace") == facts.release

# SPDX-License-Identifier: GPL-2.0-or-later
"""Whether a machine is ready to have its crash dumps made by npdump, as ``npdump collector check`` says it."""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from npdump import codecs, core
from npdump.errors import MissingDependency

if TYPE_CHECKING:
    from npdump.cli.capture import Files

__all__ = ["Finding", "look"]

MIB = 1 << 20

USED_MIB = {"from the real root": 80, "in an initramfs": 124}
"""The most memory that capture kernels of virtual machines used while npdump saved (docs/capture.rst)."""

KERNEL_MIB = 52
"""What of ``crashkernel=`` those kernels had not to give: their own image and the initramfs as a file."""

CONFIGURATION = Path("/etc/npdump/collector.conf")
DROP_IN = Path("/etc/systemd/system/kdump-tools-dump.service.d/npdump.conf")
RESERVED = Path("/sys/kernel/kexec_crash_size")
LOADED = Path("/sys/kernel/kexec_crash_loaded")


class Finding(NamedTuple):
    """One thing that was looked at.

    Attributes
    ----------
    what : str
    text : str
        What was found.
    is_needed : bool
        Whether npdump makes no dump because of it.
    """

    what: str
    text: str
    is_needed: bool = False

    @property
    def line(self) -> str:
        """As it is printed."""
        return f"{self.what:<14}{'MISSING: ' if self.is_needed else ''}{self.text}"


def look(files: Files) -> list[Finding]:
    """Look at libraries, programs, the kernel and the configuration.

    Parameters
    ----------
    files : Files
        Those that a run opens.
    """
    n_bytes = sum(path.stat().st_size for path in files.paths)
    return [
        _core(),
        *(_codec(codec) for codec in codecs.all_codecs()),
        Finding("files", f"{len(files.paths)} files, {n_bytes / MIB:.0f} MiB, for an initramfs; none for a real root"),
        _second(),
        _reserved(),
        _loaded(),
        _configuration(),
    ]


def _core() -> Finding:
    if core.failure():
        return Finding("core", f"it is there and can't be used: {core.failure()}", is_needed=True)
    return Finding("core", core.description())


def _codec(codec: codecs.Codec) -> Finding:
    try:
        codec.encoder(4096)
    except MissingDependency as error:
        return Finding(codec.name, str(error), is_needed=codec.name == "lzo")
    return Finding(codec.name, codec.engines()[0])


def _second() -> Finding:
    """Look for what takes over if npdump fails."""
    path = shutil.which("makedumpfile", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        return Finding("makedumpfile", "isn't installed: only cp takes over if npdump fails")
    return Finding("makedumpfile", f"{path} takes over if npdump fails")


def _at_least(used_mib: int) -> int:
    """Return what to reserve, in MiB: a multiple of 32, as people write it."""
    return -(-(used_mib + KERNEL_MIB) // 32) * 32


def _reserved() -> Finding:
    least = {where: _at_least(used_mib) for where, used_mib in USED_MIB.items()}
    advice = f"crashkernel={', '.join(f'{mib}M {where}' for where, mib in least.items())} at least; drivers need more"
    try:
        reserved_mib = int(RESERVED.read_text()) // MIB
    except (OSError, ValueError):
        return Finding("reserved", f"unknown: {RESERVED} can't be read: the kernel has no kexec; {advice}")
    if not reserved_mib:
        return Finding("reserved", f"no memory, so no dump: boot with {advice}", is_needed=True)
    too_little = [f"{where} ({mib} MiB)" for where, mib in least.items() if reserved_mib < mib]
    if too_little:
        return Finding("reserved", f"{reserved_mib} MiB, too little to save {' and '.join(too_little)}: {advice}")
    return Finding("reserved", f"{reserved_mib} MiB; enough in a virtual machine: {advice}")


def _loaded() -> Finding:
    try:
        is_loaded = LOADED.read_text().strip() == "1"
    except OSError:
        return Finding("kdump", f"unknown: {LOADED} can't be read")
    if is_loaded:
        return Finding("kdump", "a capture kernel is loaded")
    return Finding("kdump", "no capture kernel is loaded: kdump-config load, or systemctl start kdump", is_needed=True)


def _configuration() -> Finding:
    texts = [f"{CONFIGURATION} {'is there' if CONFIGURATION.exists() else 'is not there: defaults are used'}"]
    if Path("/usr/sbin/kdump-config").exists():
        texts.append(f"{DROP_IN} {'is there' if DROP_IN.exists() else 'is not there: kdump-tools runs makedumpfile'}")
    return Finding("configuration", "; ".join(texts))

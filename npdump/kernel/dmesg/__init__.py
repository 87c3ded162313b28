# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel log, out of a crashed kernel's memory.

Three generations: the lockless ring of Linux 5.10 on, the ring of records of 3.5 to 5.9, and before that a plain ring
of characters. The exported symbols, not the version, select the reader.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump.kernel.dmesg import lockless, older
from npdump.kernel.dmesg.log import Log, Record

if TYPE_CHECKING:
    from npdump.kernel.kernel import Kernel

__all__ = ["Log", "Record", "areas", "as_text", "read"]

CALLER_WIDTH = 8
_SHOWN = [chr(byte) if 0x20 <= byte < 0x7F or byte in b"\t\n" else f"\\x{byte:02x}" for byte in range(256)]
"""What is shown of each byte: no control character reaches a terminal but tab and line feed."""


def read(kernel: Kernel, partial: bool = False) -> Log:
    """Read the log.

    Parameters
    ----------
    kernel : Kernel
    partial : bool
        Only what came after the log was last cleared (``dmesg --clear``).

    Raises
    ------
    FactError
        If the kernel does not tell where its log is.
    AddressError
        If the log, or what leads to it, is not in the dump.
    """
    if "SYMBOL(prb)" in kernel.facts:
        return lockless.read(kernel, partial)
    if "SYMBOL(log_first_idx)" in kernel.facts:
        return older.read_records(kernel, partial)
    return older.read_characters(kernel)


def areas(kernel: Kernel) -> list[tuple[int, int]]:
    """Return the address and the bytes of each piece of memory that the log is in; raises as `read` does."""
    return lockless.areas(kernel) if "SYMBOL(prb)" in kernel.facts else [older.area(kernel)]


def as_text(log: Log) -> str:
    r"""Return the log as text, laid out as ``dmesg`` and makedumpfile do.

    Every byte that is neither printable ASCII nor a tab or line feed becomes ``\xNN``, so that nothing that a
    crashed kernel logged can steer a terminal.

    Examples
    --------
    >>> as_text(Log("records", (Record(1_500_000_000, b"bell \x07"),)))
    '[    1.500000] bell \\x07\n'
    """
    if log.generation == "characters":
        return _shown(log.characters)
    return "".join(map(_line, log.records))


def _shown(text: bytes) -> str:
    return "".join([_SHOWN[byte] for byte in text])


def _line(record: Record) -> str:
    microseconds = record.nanoseconds // 1000
    prefix = f"[{microseconds // 1_000_000:5d}.{microseconds % 1_000_000:06d}] "
    if record.caller is not None:
        prefix += f"[{record.caller:>{CALLER_WIDTH}}] "
    return prefix + _shown(record.text).replace("\n", "\n" + " " * len(prefix)) + "\n"

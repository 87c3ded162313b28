# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel log, out of a crashed kernel's memory.

Three generations: the lockless ring of Linux 5.10 on, the ring of records of 3.5 to 5.9, and before that a plain ring
of characters. Which one it is is told by the symbols that the kernel exports, not by its version.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING

from npdump.kernel.dmesg import lockless, older
from npdump.kernel.dmesg.log import Log, Record

if TYPE_CHECKING:
    from npdump.kernel.kernel import Kernel

__all__ = ["Log", "Record", "as_text", "read"]

CALLER_WIDTH = 8
_PLAIN = {ord(character) for character in string.printable}


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
        If the kernel doesn't tell where its log is.
    AddressError
        If the log, or what leads to it, isn't in the dump.
    """
    if "SYMBOL(prb)" in kernel.facts:
        return lockless.read(kernel, partial)
    if "SYMBOL(log_first_idx)" in kernel.facts:
        return older.read_records(kernel, partial)
    return older.read_characters(kernel)


def as_text(log: Log) -> str:
    r"""Lay the log out as ``dmesg`` and makedumpfile do; bytes that no terminal can show become ``\\xNN``."""
    if log.generation == "characters":
        return log.characters.decode("utf-8", "surrogateescape")
    return "".join(map(_line, log.records))


def _line(record: Record) -> str:
    microseconds = record.nanoseconds // 1000
    prefix = f"[{microseconds // 1_000_000:5d}.{microseconds % 1_000_000:06d}] "
    if record.caller is not None:
        prefix += f"[{record.caller:>{CALLER_WIDTH}}] "
    shown = "".join(chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in record.text)
    return prefix + shown.replace("\n", "\n" + " " * len(prefix)) + "\n"

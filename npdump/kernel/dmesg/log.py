# SPDX-License-Identifier: GPL-2.0-or-later
"""What all generations of the kernel log have in common."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from npdump.arrays import count
from npdump.errors import AddressError

if TYPE_CHECKING:
    from npdump.arrays import U8, Runs
    from npdump.kernel.kernel import Kernel

__all__ = ["MAX_LOG_NBYTES", "Log", "Record", "caller_name", "read_lossy"]

MAX_LOG_NBYTES = 1 << 31
"""Largest buffer that a kernel accepts (Linux LOG_BUF_LEN_MAX)."""

CALLER_IS_CPU = 1 << 31
"""Bit of a caller id: the rest is the number of a CPU, else of a task (Linux printk_caller_id(), v5.1)."""

_PLAUSIBLE_NBYTES = 64 << 20
"""A table of the log may have so many bytes, or as many as there are in the dump."""


@dataclass(frozen=True, slots=True)
class Record:
    """One message of the kernel log.

    Attributes
    ----------
    nanoseconds : int
        Since boot.
    text : bytes
        As the kernel keeps it: it may hold any byte.
    caller : str or None
        ``T`` and the number of a task or ``C`` and that of a CPU, where the kernel keeps it.
    sequence : int or None
        Number of the message since boot, where the kernel keeps it.
    """

    nanoseconds: int
    text: bytes
    caller: str | None = None
    sequence: int | None = None


@dataclass(frozen=True, slots=True)
class Log:
    """What is left of the kernel log.

    Attributes
    ----------
    generation : {"lockless", "records", "characters"}
    records : tuple of Record
        Oldest first.
    characters : bytes
        The whole log, where the kernel keeps no records.
    doubts : tuple of str
        What of the log is damaged, in words.
    """

    generation: str
    records: tuple[Record, ...] = ()
    characters: bytes = b""
    doubts: tuple[str, ...] = ()


def caller_name(number: int) -> str:
    """Return a caller as the kernel prints it: ``C`` and a CPU, or ``T`` and a task.

    Examples
    --------
    >>> caller_name(1), caller_name(1 << 31 | 3)
    ('T1', 'C3')
    """
    return f"{'C' if number & CALLER_IS_CPU else 'T'}{number & ~CALLER_IS_CPU}"


def read_lossy(kernel: Kernel, vaddr: int, nbytes: int, what: str, doubts: list[str]) -> tuple[U8, Runs]:
    """Read one of the log's tables, of which some may not be in the dump.

    Parameters
    ----------
    kernel : Kernel
    vaddr, nbytes : int
    what : str
        The table in words.
    doubts : list of str
        Takes a line if some of it is not there.

    Returns
    -------
    raw : ndarray of shape (nbytes,), dtype uint8
        0 where it is not in the dump.
    lost : ndarray of shape (k, 2), dtype int64
        The ranges of ``raw`` that are not in the dump.

    Raises
    ------
    AddressError
        If nothing of it is in the dump, or it is larger than the dump.
    """
    if nbytes > max(_PLAUSIBLE_NBYTES, kernel.memory.data_nbytes):
        raise AddressError(f"{what} at {vaddr:#x} would have {nbytes} bytes, more than the dump: it is damaged")
    raw, lost = kernel.memory.read_lossy(vaddr, nbytes)
    n_lost = count(lost)
    if n_lost == nbytes:
        raise AddressError(f"{what} at {vaddr:#x} isn't in the dump: there is no kernel log to be had")
    if n_lost:
        doubts.append(f"{n_lost} of {nbytes} bytes of {what} aren't in the dump: some of the log is lost")
    return raw, lost

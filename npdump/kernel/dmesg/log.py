# SPDX-License-Identifier: GPL-2.0-or-later
"""What all generations of the kernel log have in common."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from npdump.errors import AddressError, FactError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from npdump.kernel.kernel import Kernel

__all__ = ["MAX_LOG_NBYTES", "Log", "Record", "caller_name", "need_fields", "read_lossy", "read_u32", "struct_dtype"]

MAX_LOG_NBYTES = 1 << 31
"""Largest buffer that a kernel accepts (Linux LOG_BUF_LEN_MAX)."""

CALLER_IS_CPU = 1 << 31
"""Bit of a caller id: the rest is the number of a CPU, else of a task (Linux printk_caller_id(), v5.1)."""


class Record(NamedTuple):
    """One message; ``nanoseconds`` since boot, ``caller`` as ``T123`` or ``C4`` where the kernel keeps it."""

    nanoseconds: int
    text: bytes
    caller: str | None = None
    sequence: int | None = None


@dataclass
class Log:
    """What is left of the log.

    Attributes
    ----------
    generation : {"lockless", "records", "characters"}
    records : list of Record
    characters : bytes
        The whole log, where the kernel keeps no records.
    doubts : list of str
        What of the log is damaged, in words.
    """

    generation: str
    records: list[Record] = field(default_factory=list)
    characters: bytes = b""
    doubts: list[str] = field(default_factory=list)


def caller_name(number: int) -> str:
    """Return a caller as the kernel prints it: ``C`` and a CPU, or ``T`` and a task."""
    return f"{'C' if number & CALLER_IS_CPU else 'T'}{number & ~CALLER_IS_CPU}"


def struct_dtype(kernel: Kernel, name: str, size_key: str, fields: Mapping[str, tuple[str, str]]) -> np.dtype:
    """Make the dtype of a structure from its size and the offsets of some members.

    Parameters
    ----------
    fields : dict
        By name: the format without byte order, and the key of the offset. Members that the kernel lacks are left out.
    """
    nbytes = kernel.facts.need(size_key, f"to read {name}")
    known = {key: (kind, kernel.facts.get(offset_key)) for key, (kind, offset_key) in fields.items()}
    names = [key for key, (_, offset) in known.items() if offset is not None]
    order = kernel.memory.word.byteorder
    layout: Any = {
        "names": names,
        "formats": [np.dtype(known[key][0]).newbyteorder(order) for key in names],
        "offsets": [known[key][1] for key in names],
        "itemsize": nbytes,
    }
    try:
        return np.dtype(layout)
    except (ValueError, OverflowError):
        raise FactError(f"VMCOREINFO's description of {name} can't be right: it is damaged") from None


def need_fields(dtype: np.dtype, name: str, fields: tuple[str, ...]) -> None:
    """Raise FactError if a structure lacks one of these members."""
    for missing in set(fields) - set(dtype.names or ()):
        raise FactError(f"VMCOREINFO lacks the offset of {missing} in {name}, which is needed to read the kernel log")


def read_u32(kernel: Kernel, vaddr: int) -> int:
    """Return the ``u32`` at a kernel address."""
    raw = kernel.memory.read(vaddr, 4)
    return int(np.frombuffer(raw, np.dtype("u4").newbyteorder(kernel.memory.word.byteorder))[0])


def read_lossy(kernel: Kernel, vaddr: int, nbytes: int, what: str, doubts: list[str]) -> bytes:
    """Read a range; what isn't in the dump reads as 0."""
    try:
        return kernel.memory.read(vaddr, nbytes)
    except AddressError:
        pass
    pieces, n_lost, at = [], 0, vaddr
    while at < vaddr + nbytes:
        piece = min(kernel.page_size - at % kernel.page_size, vaddr + nbytes - at)
        try:
            pieces.append(kernel.memory.read(at, piece))
        except AddressError:
            pieces.append(bytes(piece))
            n_lost += piece
        at += piece
    if n_lost == nbytes:
        raise AddressError(f"{what} at {vaddr:#x} isn't in the dump: there is no kernel log to be had")
    doubts.append(f"{n_lost} of {nbytes} bytes of {what} aren't in the dump: some of the log is lost")
    return b"".join(pieces)

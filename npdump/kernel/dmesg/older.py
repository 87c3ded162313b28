# SPDX-License-Identifier: GPL-2.0-or-later
"""The logs before Linux 5.10: a ring of records (3.5 on), and a ring of characters.

References
----------
Linux ``kernel/printk/printk.c`` (``kernel/printk.c`` before 3.11) in those releases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from npdump.errors import AddressError, FactError
from npdump.kernel.dmesg.log import MAX_LOG_NBYTES, Log, Record, caller_name, read_lossy

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

    from npdump.arrays import U8, Runs
    from npdump.kernel.kernel import Kernel

__all__ = ["area", "read_characters", "read_records"]

_WHY = "to read the kernel log"


def area(kernel: Kernel) -> tuple[int, int]:
    """Return the address and the bytes of the log buffer of a kernel before 5.10."""
    at = kernel.memory.read_word(kernel.facts.need("SYMBOL(log_buf)", _WHY))
    nbytes = kernel.memory.read_u32(kernel.facts.need("SYMBOL(log_buf_len)", _WHY))
    if not 0 < nbytes <= MAX_LOG_NBYTES:
        raise AddressError(f"the kernel log at {at:#x} would have {nbytes} bytes: the dump is damaged")
    return at, nbytes


def _buffer(kernel: Kernel, doubts: list[str]) -> tuple[U8, Runs]:
    """Return the log buffer, and the ranges of it that are not in the dump."""
    at, nbytes = area(kernel)
    return read_lossy(kernel, at, nbytes, "its text", doubts)


def read_records(kernel: Kernel, partial: bool) -> Log:
    """Read the log of Linux 7ff9554bb578, v3.5, to v5.9."""
    facts, memory = kernel.facts, kernel.memory
    doubts: list[str] = []
    # Linux 62e32ac3505a, v3.11: struct log became printk_log.
    name = "printk_log" if "SIZE(printk_log)" in facts else "log"
    formats = {"ts_nsec": "u8", "len": "u2", "text_len": "u2", "caller_id": "u4"}
    fields = {field: (kind, f"OFFSET({name}.{field})") for field, kind in formats.items()}
    header = kernel.struct(name, fields, ("ts_nsec", "len", "text_len"))
    first = facts.need("SYMBOL(log_first_idx)", _WHY)
    if partial:
        first = facts.get("SYMBOL(clear_idx)") or first
    start, stop = memory.read_u32(first), memory.read_u32(facts.need("SYMBOL(log_next_idx)", _WHY))
    text, _ = _buffer(kernel, doubts)
    records = []
    for index in _indices(text, header, start, stop, doubts):
        body = index + header.itemsize
        fields_of_it = text[index:body].view(header)[0]
        records.append(
            Record(
                nanoseconds=int(fields_of_it["ts_nsec"]),
                text=text[body : body + int(fields_of_it["text_len"])].tobytes(),
                caller=caller_name(int(fields_of_it["caller_id"])) if "caller_id" in (header.names or ()) else None,
            )
        )
    return Log("records", tuple(records), doubts=tuple(doubts))


def _indices(text: U8, header: np.dtype[np.void], start: int, stop: int, doubts: list[str]) -> Iterator[int]:
    """Yield where the records of a ring begin; stops at the first that cannot be right or comes a second time."""
    seen: set[int] = set()
    index = start
    while index != stop:
        if index + header.itemsize > len(text):
            doubts.append(f"a record would begin at {index:#x}, outside of its {len(text):#x} bytes: it ends here")
            return
        nbytes = int(text[index : index + header.itemsize].view(header)[0]["len"])
        if not nbytes and index:
            index = 0  # a record of length 0 says that the ring goes on at its start
            continue
        if index in seen or nbytes < header.itemsize:
            doubts.append(f"the record at {index:#x} is damaged, or leads back into the log: it ends here")
            return
        seen.add(index)
        yield index
        index += nbytes


def read_characters(kernel: Kernel) -> Log:
    """Read the log of a kernel before Linux v3.5."""
    end = kernel.facts.get("SYMBOL(log_end)")
    if end is None:
        raise FactError("VMCOREINFO has none of SYMBOL(prb), SYMBOL(log_first_idx), SYMBOL(log_end): no kernel log")
    # An unsigned long up to 2.6.24, an unsigned int since; the lower half is enough, since both wrap.
    wide = kernel.memory.word.itemsize == 8 and kernel.memory.word.byteorder == ">"
    before_2_6_25 = (kernel.facts.release or "").startswith("2.6.24")
    position = kernel.memory.read_u32(end + 4 if wide and before_2_6_25 else end)
    doubts: list[str] = []
    text, lost = _buffer(kernel, doubts)
    if position < len(text):
        characters = _present(text, lost, 0, position)
    else:
        at = position % len(text)
        characters = _present(text, lost, at, len(text)) + _present(text, lost, 0, at)
    return Log("characters", characters=characters, doubts=tuple(doubts))


def _present(text: U8, lost: Runs, start: int, stop: int) -> bytes:
    """Return the bytes ``[start, stop)`` that are in the dump."""
    pieces, at = [], start
    for lost_start, lost_stop in lost.tolist():
        if lost_stop > at and lost_start < stop:
            pieces.append(text[at : max(lost_start, at)].tobytes())
            at = min(lost_stop, stop)
    return b"".join([*pieces, text[at:stop].tobytes()])

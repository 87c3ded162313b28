# SPDX-License-Identifier: GPL-2.0-or-later
"""The logs before Linux 5.10: a ring of records (3.5 on), and a ring of characters.

References
----------
Linux ``kernel/printk/printk.c`` (``kernel/printk.c`` before 3.11) in those releases.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import AddressError, FactError
from npdump.kernel.dmesg.log import (
    MAX_LOG_NBYTES,
    Log,
    Record,
    caller_name,
    need_fields,
    read_lossy,
    read_u32,
    struct_dtype,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.facts import Facts
    from npdump.kernel.kernel import Kernel

__all__ = ["read_characters", "read_records"]


def _record_keys(facts: Facts) -> str:
    # Linux 62e32ac3505a, v3.11: struct log became printk_log.
    return "printk_log" if "SIZE(printk_log)" in facts else "log"


def _buffer(kernel: Kernel, doubts: list[str]) -> bytes:
    """Return the log buffer of a kernel before 5.10."""
    why = "to read the kernel log"
    at = kernel.memory.read_word(kernel.facts.need("SYMBOL(log_buf)", why))
    nbytes = read_u32(kernel, kernel.facts.need("SYMBOL(log_buf_len)", why))
    if not 0 < nbytes <= MAX_LOG_NBYTES:
        raise AddressError(f"the kernel log at {at:#x} would have {nbytes} bytes: the dump is damaged")
    return read_lossy(kernel, at, nbytes, "its text", doubts)


def read_records(kernel: Kernel, partial: bool) -> Log:
    """Linux 7ff9554bb578, v3.5, to v5.9."""
    log, facts = Log("records"), kernel.facts
    why = "to read the kernel log"
    struct = _record_keys(facts)
    header = struct_dtype(
        kernel,
        struct,
        f"SIZE({struct})",
        {
            "ts_nsec": ("u8", f"OFFSET({struct}.ts_nsec)"),
            "len": ("u2", f"OFFSET({struct}.len)"),
            "text_len": ("u2", f"OFFSET({struct}.text_len)"),
            "caller_id": ("u4", f"OFFSET({struct}.caller_id)"),
        },
    )
    need_fields(header, struct, ("ts_nsec", "len", "text_len"))
    first = facts.need("SYMBOL(log_first_idx)", why)
    if partial:
        first = facts.get("SYMBOL(clear_idx)") or first
    start = read_u32(kernel, first)
    stop = read_u32(kernel, facts.need("SYMBOL(log_next_idx)", why))
    text = _buffer(kernel, log.doubts)
    for index in _indices(text, header, start, stop, log.doubts):
        fields = np.frombuffer(text, header, 1, index)[0]
        body = index + header.itemsize
        log.records.append(
            Record(
                nanoseconds=int(fields["ts_nsec"]),
                text=text[body : body + int(fields["text_len"])],
                caller=caller_name(int(fields["caller_id"])) if "caller_id" in (header.names or ()) else None,
            )
        )
    return log


def _indices(text: bytes, header: np.dtype, start: int, stop: int, doubts: list[str]) -> Iterator[int]:
    """Yield where the records of a ring begin; stops at the first that can't be right or comes a second time."""
    seen: set[int] = set()
    index = start
    while index != stop:
        if index + header.itemsize > len(text):
            doubts.append(f"a record would begin at {index:#x}, outside of its {len(text):#x} bytes: it ends here")
            return
        nbytes = int(np.frombuffer(text, header, 1, index)[0]["len"])
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
    """Before Linux v3.5."""
    log = Log("characters")
    end = kernel.facts.get("SYMBOL(log_end)")
    if end is None:
        raise FactError("VMCOREINFO has none of SYMBOL(prb), SYMBOL(log_first_idx), SYMBOL(log_end): no kernel log")
    # An unsigned long up to 2.6.24, an unsigned int since; the lower half is enough, since both wrap.
    wide = kernel.memory.word.itemsize == 8 and kernel.memory.word.byteorder == ">"
    before_2_6_25 = (kernel.facts.release or "").startswith("2.6.24")
    position = read_u32(kernel, end + 4 if wide and before_2_6_25 else end)
    text = _buffer(kernel, log.doubts)
    if position < len(text):
        log.characters = text[:position]
    else:
        at = position % len(text)
        log.characters = text[at:] + text[:at]
    return log

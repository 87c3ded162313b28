# SPDX-License-Identifier: GPL-2.0-or-later
"""The lockless ring of Linux 5.10 on.

References
----------
Linux ``kernel/printk/printk_ringbuffer.h`` and ``Documentation/admin-guide/kdump/gdbmacros.txt``.
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
    from npdump.kernel.kernel import Kernel

__all__ = ["read"]

MAX_COUNT_BITS = 26
"""A descriptor stands for 32 bytes of text or more (Linux PRB_AVGBITS)."""

COMMITTED, FINALIZED = 1, 2
"""States of a descriptor that has a record (Linux enum desc_state)."""

NO_LPOS = 3
"""Positions of a record without text: an empty line (Linux EMPTY_LINE_LPOS, NO_LPOS before); 1 is a failed one."""


def read(kernel: Kernel, partial: bool) -> Log:
    """Linux 896fbe20b4e2, v5.10, and later."""
    log, facts, memory = Log("lockless"), kernel.facts, kernel.memory
    why = "to read the kernel log"
    word, word_nbytes = memory.word, memory.word.itemsize
    prb = memory.read_word(facts.need("SYMBOL(prb)", why))
    desc_ring = prb + facts.need("OFFSET(printk_ringbuffer.desc_ring)", why)
    data_ring = prb + facts.need("OFFSET(printk_ringbuffer.text_data_ring)", why)
    count_bits = read_u32(kernel, desc_ring + facts.need("OFFSET(prb_desc_ring.count_bits)", why))
    size_bits = read_u32(kernel, data_ring + facts.need("OFFSET(prb_data_ring.size_bits)", why))
    if count_bits > MAX_COUNT_BITS or size_bits >= MAX_LOG_NBYTES.bit_length():
        raise AddressError(f"the kernel log at {prb:#x} would have 2^{count_bits} records: the dump is damaged")

    def ring_word(key: str) -> int:
        return memory.read_word(desc_ring + facts.need(f"OFFSET(prb_desc_ring.{key})", why))

    lpos = facts.need("OFFSET(prb_desc.text_blk_lpos)", why)
    block_begin = facts.need("OFFSET(prb_data_blk_lpos.begin)", why)
    block_next = facts.need("OFFSET(prb_data_blk_lpos.next)", why)
    desc_nbytes = facts.need("SIZE(prb_desc)", why)
    count, size = 1 << count_bits, 1 << size_bits
    raw = read_lossy(kernel, ring_word("descs"), count * desc_nbytes, "its descriptors", log.doubts)

    def column(offset: int) -> np.ndarray:
        if not 0 <= offset <= desc_nbytes - word_nbytes:
            raise FactError(f"VMCOREINFO puts a member of prb_desc at byte {offset} of {desc_nbytes}: it is damaged")
        return np.ndarray(count, word, raw, offset, (desc_nbytes,))

    states = column(facts.need("OFFSET(prb_desc.state_var)", why))
    begins, nexts = column(lpos + block_begin), column(lpos + block_next)
    info_type = struct_dtype(
        kernel,
        "printk_info",
        "SIZE(printk_info)",
        {
            "seq": ("u8", "OFFSET(printk_info.seq)"),
            "ts_nsec": ("u8", "OFFSET(printk_info.ts_nsec)"),
            "text_len": ("u2", "OFFSET(printk_info.text_len)"),
            "caller_id": ("u4", "OFFSET(printk_info.caller_id)"),
        },
    )
    need_fields(info_type, "printk_info", ("ts_nsec", "text_len"))
    names = info_type.names or ()
    infos = np.frombuffer(
        read_lossy(kernel, ring_word("infos"), count * info_type.itemsize, "its infos", log.doubts), info_type
    )
    data_at = memory.read_word(data_ring + facts.need("OFFSET(prb_data_ring.data)", why))
    text = read_lossy(kernel, data_at, size, "its text", log.doubts)

    id_bits = word_nbytes * 8 - 2
    id_mask = (1 << id_bits) - 1
    # An atomic_long_t holds its counter and nothing else.
    head, tail = ring_word("head_id"), ring_word("tail_id")
    n_records = ((head - tail) & id_mask) + 1
    if n_records > count:
        log.doubts.append(f"its ends, {tail:#x} and {head:#x}, can't be right: the whole ring is read")
        n_records = count
        tail = (head - count + 1) & id_mask
    clear_seq = _clear_seq(kernel) if partial else None
    if clear_seq is not None and "seq" not in names:
        # As makedumpfile does, where the kernel doesn't export the offset of the sequence number.
        tail = (head - head % count + clear_seq % count) & id_mask
        n_records = ((head - tail) & id_mask) + 1 if (head - tail) & id_mask < count else 0
    n_bad = 0
    for identifier in ((tail + i) & id_mask for i in range(n_records)):
        i = identifier % count
        state = int(states[i])
        if state & id_mask != identifier or state >> id_bits not in (COMMITTED, FINALIZED):
            continue
        info = infos[i]
        if clear_seq is not None and "seq" in names and int(info["seq"]) < clear_seq:
            continue
        message = _text_of(text, int(begins[i]), int(nexts[i]), int(info["text_len"]), word_nbytes)
        if message is None:
            n_bad += 1
            continue
        log.records.append(
            Record(
                nanoseconds=int(info["ts_nsec"]),
                text=message,
                caller=caller_name(int(info["caller_id"])) if "caller_id" in names else None,
                sequence=int(info["seq"]) if "seq" in names else None,
            )
        )
    if n_bad:
        log.doubts.append(f"{n_bad} records have no text that can be right: they are left out")
    return log


def _text_of(text: bytes, begin: int, following: int, nbytes: int, word_nbytes: int) -> bytes | None:
    """Return the text of a record between two logical positions, None if it has none or it can't be right."""
    size = len(text)
    if begin == following and begin & 1:
        return b"" if begin == NO_LPOS else None
    begin, following = begin % size, following % size
    if begin > following:
        begin = 0  # a block that would cross the end of the buffer stands at its start
    begin += word_nbytes  # the identifier of the descriptor comes first
    if begin > following:
        return None
    return text[begin : min(begin + nbytes, following)]


def _clear_seq(kernel: Kernel) -> int | None:
    """Return the sequence number of the first record after the log was cleared."""
    at = kernel.facts.get("SYMBOL(clear_seq)")
    if at is None:
        return None
    number = np.dtype("u8").newbyteorder(kernel.memory.word.byteorder)
    if "SIZE(latched_seq)" in kernel.facts:
        # Linux 7d7a23a91c91, v5.13: two copies, the last bit of the counter before them says which one holds.
        latch = read_u32(kernel, at) & 1
        at += kernel.facts.need("OFFSET(latched_seq.val)", "to read the kernel log") + latch * number.itemsize
    return int(np.frombuffer(kernel.memory.read(at, number.itemsize), number)[0])

# SPDX-License-Identifier: GPL-2.0-or-later
"""The kernel log of each generation, put into the memory of a built vmcore (`old.Image`).

References: kernel/printk.c in Linux 2.6.32 and 3.5, kernel/printk/printk.c in 5.4, printk_ringbuffer.h in 5.13.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

from .old import KERNEL_MAP, Image

CPU = 1 << 31


@dataclass(frozen=True)
class Message:
    """One message: `caller` is the number of a task, or CPU | the number of a CPU."""

    text: bytes
    nanoseconds: int = 0
    caller: int = 0


def _pointer(image: Image, name: str, data: bytes) -> int:
    """A variable that points to `data`; returns where that is, physically."""
    paddr = image.allocate(len(data))
    image.memory.write(paddr, data)
    image.variable(name, struct.pack("<Q", KERNEL_MAP + paddr))
    return paddr


def characters(image: Image, text: bytes, nbytes: int) -> None:
    """Linux 2.6.25 to 3.4: a ring of `nbytes` characters that all of `text` went through."""
    ring = bytearray(nbytes)
    for at, byte in enumerate(text):
        ring[at % nbytes] = byte
    _pointer(image, "log_buf", bytes(ring))
    image.variable("log_buf_len", struct.pack("<i", nbytes))
    image.variable("log_end", struct.pack("<I", len(text)))


def _record(message: Message, has_caller: bool) -> bytes:
    header = struct.pack("<QHHHBB", message.nanoseconds, 0, len(message.text), 0, 0, 0)
    header += struct.pack("<I", message.caller) if has_caller else b""
    body = header + message.text
    body += bytes(-len(body) % 4)
    return body[:8] + struct.pack("<H", len(body)) + body[10:]


def records(
    image: Image, messages: list[Message], nbytes: int, name: str, has_caller: bool = False, n_cleared: int = 0
) -> list[int]:
    """Linux 3.5 to 5.9: records in a ring of `nbytes`, which those at its start are overwritten in; returns where
    each begins (-1 for those that are lost). A record that doesn't fit before the end stands at the start."""
    ring, places, at, first = bytearray(nbytes), [], 0, 0
    for message in messages:
        record = _record(message, has_caller)
        # The kernel wants room for one more header, which marks the end by its length of 0.
        if at + len(record) + 16 > nbytes:
            ring[at : at + 16] = bytes(min(16, nbytes - at))
            places = [place if place < at else -1 for place in places]
            at = 0
        stop = at + len(record)
        places = [place if place < at or place >= stop + 16 else -1 for place in places]
        ring[at:stop] = record
        places.append(at)
        at = stop
    last_lost = max((index for index, place in enumerate(places) if place < 0), default=-1)
    places[: last_lost + 1] = [-1] * (last_lost + 1)
    first = places[last_lost + 1]
    _pointer(image, "log_buf", bytes(ring))
    image.variable("log_buf_len", struct.pack("<I", nbytes))
    image.variable("log_first_idx", struct.pack("<I", first))
    image.variable("log_next_idx", struct.pack("<I", at))
    image.variable("clear_idx", struct.pack("<I", places[n_cleared] if n_cleared < len(places) else at))
    image.keys |= {f"SIZE({name})": 20 if has_caller else 16, f"OFFSET({name}.ts_nsec)": 0, f"OFFSET({name}.len)": 8}
    image.keys |= {f"OFFSET({name}.text_len)": 10, f"OFFSET({name}.dict_len)": 12}
    if has_caller:
        image.keys[f"OFFSET({name}.caller_id)"] = 16
    return places


ID_MASK = (1 << 62) - 1
RESERVED, COMMITTED, FINALIZED, REUSABLE = range(4)
FAILED_LPOS, NO_LPOS = 1, 3
DESC, INFO = struct.Struct("<QQQ"), struct.Struct("<QQHBBI64x")


@dataclass(frozen=True)
class Entry:
    """A record of the lockless ring; `lpos` stands in place of a block of text."""

    message: Message
    state: int = FINALIZED
    lpos: int | None = None


def lockless(
    image: Image, entries: list[Entry], count_bits: int, size_bits: int, first_id: int = 0, clear_seq: int = 0
) -> None:
    """Linux 5.13 on: `entries` with the identifiers from `first_id` on, in rings of 2^bits records and bytes."""
    count, size = 1 << count_bits, 1 << size_bits
    ring = bytearray(size)
    descs, infos = [bytes(DESC.size)] * count, [bytes(INFO.size)] * count
    lpos = 0
    for sequence, entry in enumerate(entries):
        identifier = first_id + sequence & ID_MASK
        text = entry.message.text
        if entry.lpos is not None:
            begin = following = entry.lpos
        else:
            nbytes = 8 + len(text) + -len(text) % 8
            begin, following = lpos, lpos + nbytes
            at = begin % size
            if (following - 1) // size != begin // size:
                # A block that would cross the end stands at the start; the identifier is at the end as well.
                ring[at : at + 8] = struct.pack("<Q", identifier)
                following = -(-begin // size) * size + nbytes
                at = 0
            ring[at : at + nbytes] = (struct.pack("<Q", identifier) + text).ljust(nbytes, b"\0")
            lpos = following
        at = identifier % count
        descs[at] = DESC.pack(entry.state << 62 | identifier, begin, following)
        infos[at] = INFO.pack(sequence, entry.message.nanoseconds, len(text), 0, 0, entry.message.caller)
    places = []
    for data in (b"".join(descs), b"".join(infos), bytes(ring)):
        paddr = image.allocate(len(data))
        image.memory.write(paddr, data)
        places.append(KERNEL_MAP + paddr)
    head = first_id + len(entries) - 1
    tail = max(head - count + 1, first_id)
    desc_ring = struct.pack("<IxxxxQQQQ", count_bits, places[0], places[1], head & ID_MASK, tail & ID_MASK)
    data_ring = struct.pack("<IxxxxQQQ", size_bits, places[2], lpos, 0)
    paddr = image.allocate(256)
    image.memory.write(paddr, desc_ring + bytes(8) + data_ring)
    image.variable("prb", struct.pack("<Q", KERNEL_MAP + paddr))
    # The latch says that the second of the two copies holds.
    image.variable("clear_seq", struct.pack("<IxxxxQQ", 1, 999, clear_seq))
    image.keys |= {"SIZE(printk_ringbuffer)": 88, "OFFSET(printk_ringbuffer.desc_ring)": 0}
    image.keys |= {"OFFSET(printk_ringbuffer.text_data_ring)": 48, "OFFSET(prb_desc_ring.count_bits)": 0}
    image.keys |= {"OFFSET(prb_desc_ring.descs)": 8, "OFFSET(prb_desc_ring.infos)": 16}
    image.keys |= {"OFFSET(prb_desc_ring.head_id)": 24, "OFFSET(prb_desc_ring.tail_id)": 32}
    image.keys |= {"SIZE(prb_desc)": DESC.size, "OFFSET(prb_desc.state_var)": 0, "OFFSET(prb_desc.text_blk_lpos)": 8}
    image.keys |= {"OFFSET(prb_data_blk_lpos.begin)": 0, "OFFSET(prb_data_blk_lpos.next)": 8}
    image.keys |= {"OFFSET(prb_data_ring.size_bits)": 0, "OFFSET(prb_data_ring.data)": 8}
    image.keys |= {"SIZE(printk_info)": INFO.size, "OFFSET(printk_info.seq)": 0, "OFFSET(printk_info.ts_nsec)": 8}
    image.keys |= {"OFFSET(printk_info.text_len)": 16, "OFFSET(printk_info.caller_id)": 20}
    image.keys |= {"SIZE(latched_seq)": 24, "OFFSET(latched_seq.val)": 8, "OFFSET(atomic_long_t.counter)": 0}

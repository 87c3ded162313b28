# SPDX-License-Identifier: GPL-2.0-or-later
"""The lockless ring of Linux 5.10 on.

References
----------
Linux ``kernel/printk/printk_ringbuffer.h`` and ``Documentation/admin-guide/kdump/gdbmacros.txt``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.errors import AddressError
from npdump.kernel.dmesg.log import MAX_LOG_NBYTES, Log, Record, caller_name, read_lossy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import U8, Records
    from npdump.kernel.kernel import Kernel

__all__ = ["areas", "read"]

MAX_COUNT_BITS = 26
MAX_TEXT_BITS = 9
"""There is one descriptor for each 32 bytes of text in every kernel (Linux PRB_AVGBITS, 5); this is bound enough."""

COMMITTED, FINALIZED = 1, 2
"""States of a descriptor that has a record (Linux enum desc_state)."""

NO_LPOS = 3
"""Positions of a record without text: an empty line (Linux EMPTY_LINE_LPOS, NO_LPOS before); 1 is a failed one."""

_WHY = "to read the kernel log"
_CHUNK = 1 << 16
"""Descriptors that are looked at together."""


class _Ring(NamedTuple):
    """The tables of the ring, as they are in memory.

    Attributes
    ----------
    descs, infos : structured ndarray
        Descriptors (``state``, ``begin``, ``next``) and what is said of each record beside its text.
    text : ndarray of uint8
    tail, head : int
        Identifiers of the oldest and of the newest record.
    word_nbytes : {4, 8}
        Bytes of an identifier, which precedes each text.
    """

    descs: Records
    infos: Records
    text: U8
    tail: int
    head: int
    word_nbytes: int

    @property
    def id_bits(self) -> int:
        """Bits of an identifier; the two above them are the state of a descriptor."""
        return self.word_nbytes * 8 - 2

    @property
    def id_mask(self) -> int:
        """The bits of an identifier."""
        return (1 << self.id_bits) - 1


def read(kernel: Kernel, partial: bool) -> Log:
    """Read the log of Linux 896fbe20b4e2, v5.10, and later."""
    doubts: list[str] = []
    ring = _open(kernel, doubts)
    count = len(ring.descs)
    tail, n_records = ring.tail, ((ring.head - ring.tail) & ring.id_mask) + 1
    if n_records > count:
        doubts.append(f"its ends, {tail:#x} and {ring.head:#x}, can't be right: the whole ring is read")
        n_records = count
        tail = (ring.head - count + 1) & ring.id_mask
    clear_seq = _clear_seq(kernel) if partial else None
    if clear_seq is not None and "seq" not in (ring.infos.dtype.names or ()):
        # As makedumpfile does, where the kernel doesn't export the offset of the sequence number.
        tail = (ring.head - ring.head % count + clear_seq % count) & ring.id_mask
        n_records = ((ring.head - tail) & ring.id_mask) + 1 if (ring.head - tail) & ring.id_mask < count else 0
        clear_seq = None
    found = list(_records(ring, tail, n_records))
    records = (record for record in found if record is not None)
    if clear_seq is not None:
        records = (record for record in records if record.sequence is not None and record.sequence >= clear_seq)
    if None in found:
        doubts.append(f"{found.count(None)} records have no text that can be right: they are left out")
    return Log("lockless", tuple(records), doubts=tuple(doubts))


class _Places(NamedTuple):
    """Where the ring is: ``desc_ring`` is the struct that leads to ``descs`` and ``infos``, the rest as in `_Ring`."""

    desc_ring: int
    count_bits: int
    descs: int
    infos: int
    text: int
    text_nbytes: int


def _places(kernel: Kernel) -> _Places:
    facts, memory = kernel.facts, kernel.memory
    prb = memory.read_word(facts.need("SYMBOL(prb)", _WHY))
    desc_ring = prb + facts.need("OFFSET(printk_ringbuffer.desc_ring)", _WHY)
    data_ring = prb + facts.need("OFFSET(printk_ringbuffer.text_data_ring)", _WHY)
    count_bits = memory.read_u32(desc_ring + facts.need("OFFSET(prb_desc_ring.count_bits)", _WHY))
    size_bits = memory.read_u32(data_ring + facts.need("OFFSET(prb_data_ring.size_bits)", _WHY))
    if count_bits > MAX_COUNT_BITS or size_bits >= MAX_LOG_NBYTES.bit_length():
        raise AddressError(f"the kernel log at {prb:#x} would have 2^{count_bits} records: the dump is damaged")
    if size_bits > count_bits + MAX_TEXT_BITS:
        raise AddressError(
            f"the kernel log at {prb:#x} would have 2^{count_bits} records in 2^{size_bits} bytes: the dump is damaged"
        )
    return _Places(
        desc_ring,
        count_bits,
        memory.read_word(desc_ring + facts.need("OFFSET(prb_desc_ring.descs)", _WHY)),
        memory.read_word(desc_ring + facts.need("OFFSET(prb_desc_ring.infos)", _WHY)),
        memory.read_word(data_ring + facts.need("OFFSET(prb_data_ring.data)", _WHY)),
        1 << size_bits,
    )


def areas(kernel: Kernel) -> list[tuple[int, int]]:
    """Return the address and the bytes of each table of the ring."""
    places, need = _places(kernel), kernel.facts.need
    return [
        (places.descs, need("SIZE(prb_desc)", _WHY) << places.count_bits),
        (places.infos, need("SIZE(printk_info)", _WHY) << places.count_bits),
        (places.text, places.text_nbytes),
    ]


def _open(kernel: Kernel, doubts: list[str]) -> _Ring:
    facts, memory, word = kernel.facts, kernel.memory, kernel.memory.word
    places = _places(kernel)

    def ring_word(key: str) -> int:
        return memory.read_word(places.desc_ring + facts.need(f"OFFSET(prb_desc_ring.{key})", _WHY))

    def table(vaddr: int, dtype: np.dtype[np.void], what: str) -> Records:
        return read_lossy(kernel, vaddr, dtype.itemsize << places.count_bits, what, doubts)[0].view(dtype)

    blocks = facts.need("OFFSET(prb_desc.text_blk_lpos)", _WHY)
    desc = {
        "state": (word, facts.need("OFFSET(prb_desc.state_var)", _WHY)),
        "begin": (word, blocks + facts.need("OFFSET(prb_data_blk_lpos.begin)", _WHY)),
        "next": (word, blocks + facts.need("OFFSET(prb_data_blk_lpos.next)", _WHY)),
    }
    info = {
        "seq": ("u8", "OFFSET(printk_info.seq)"),
        "ts_nsec": ("u8", "OFFSET(printk_info.ts_nsec)"),
        "text_len": ("u2", "OFFSET(printk_info.text_len)"),
        "caller_id": ("u4", "OFFSET(printk_info.caller_id)"),
    }
    return _Ring(
        descs=table(places.descs, kernel.struct("prb_desc", desc), "its descriptors"),
        infos=table(places.infos, kernel.struct("printk_info", info, ("ts_nsec", "text_len")), "its infos"),
        text=read_lossy(kernel, places.text, places.text_nbytes, "its text", doubts)[0],
        # An atomic_long_t holds its counter and nothing else.
        tail=ring_word("tail_id"),
        head=ring_word("head_id"),
        word_nbytes=word.itemsize,
    )


def _records(ring: _Ring, tail: int, count: int) -> Iterator[Record | None]:
    """Yield the records of the ``count`` identifiers from ``tail`` on; None for one whose text cannot be right."""
    names = ring.infos.dtype.names or ()
    for start in range(0, count, _CHUNK):
        ids = np.arange(start, min(start + _CHUNK, count), dtype=np.uint64) + np.uint64(tail) & np.uint64(ring.id_mask)
        rows = (ids % np.uint64(len(ring.descs))).astype(np.intp)
        states = ring.descs["state"][rows].astype(np.uint64)
        kinds = states >> np.uint64(ring.id_bits)
        has_record = (states & np.uint64(ring.id_mask) == ids) & ((kinds == COMMITTED) | (kinds == FINALIZED))
        for row in rows[has_record].tolist():
            desc, info = ring.descs[row], ring.infos[row]
            text = _text_of(ring, int(desc["begin"]), int(desc["next"]), int(info["text_len"]))
            yield (
                None
                if text is None
                else Record(
                    nanoseconds=int(info["ts_nsec"]),
                    text=text,
                    caller=caller_name(int(info["caller_id"])) if "caller_id" in names else None,
                    sequence=int(info["seq"]) if "seq" in names else None,
                )
            )


def _text_of(ring: _Ring, begin: int, following: int, nbytes: int) -> bytes | None:
    """Return the text of a record between two logical positions, None if it has none or it cannot be right."""
    size = len(ring.text)
    if begin == following and begin & 1:
        return b"" if begin == NO_LPOS else None
    begin, following = begin % size, following % size
    if begin > following:
        begin = 0  # a block that would cross the end of the buffer is at its start
    begin += ring.word_nbytes  # the identifier of the descriptor comes first
    if begin > following:
        return None
    return ring.text[begin : min(begin + nbytes, following)].tobytes()


def _clear_seq(kernel: Kernel) -> int | None:
    """Return the sequence number of the first record after the log was cleared."""
    at = kernel.facts.get("SYMBOL(clear_seq)")
    if at is None:
        return None
    if "SIZE(latched_seq)" in kernel.facts:
        # Linux 7d7a23a91c91, v5.13: two copies, the last bit of the counter before them says which one holds.
        at += kernel.facts.need("OFFSET(latched_seq.val)", _WHY) + (kernel.memory.read_u32(at) & 1) * 8
    return kernel.memory.read_u64(at)

# SPDX-License-Identifier: GPL-2.0-or-later
"""Erases the text of the kernel's log; the records stay, with their times. On request alone.

References
----------
Linux ``kernel/printk/printk_ringbuffer.h``, v5.10.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import FactError
from npdump.kernel.kernel import struct_dtype

if TYPE_CHECKING:
    from collections.abc import Iterator

    from npdump.arrays import U64
    from npdump.kernel.objects import Crashed
    from npdump.redact import Ground

WHAT = "text of the kernel log"
IS_OPTIONAL = True

MAX_SIZE_BITS = 31
COMMITTED, FINALIZED = 1, 2
"""States of a descriptor, in its two highest bits."""


def erase(ground: Ground) -> Iterator[tuple[int, int]]:
    """Yield the text of each record, and what is left of older ones between the last and the first."""
    kernel = ground.kernel
    if kernel.names.find_record("printk_ringbuffer") is None:
        raise FactError("this kernel's log is none of those since Linux 5.10")
    ring = kernel.at(kernel.memory.read_word(kernel.symbol("prb")), "printk_ringbuffer")
    descriptors, texts = ring.desc_ring, ring.text_data_ring
    bits, count_bits = int(texts.size_bits), int(descriptors.count_bits)
    if not (0 < bits <= MAX_SIZE_BITS and 0 < count_bits <= MAX_SIZE_BITS):
        raise FactError(f"the log would have 2**{bits} bytes: the dump is damaged")
    size, data, word_nbytes = 1 << bits, int(texts.data), kernel.memory.word.itemsize
    state, begin, stop = _descriptors(kernel, int(descriptors.descs), 1 << count_bits)
    is_used = np.isin(state >> np.uint64(8 * word_nbytes - 2), (COMMITTED, FINALIZED)) & (begin & np.uint64(1) == 0)
    for first, end in zip(begin[is_used].tolist(), stop[is_used].tolist(), strict=True):
        first, end = first % size, end % size
        if first < end:
            yield data + first + word_nbytes, end - first - word_nbytes
        elif first != end:  # its text did not fit in at the end, and is at the beginning
            yield data + first + word_nbytes, size - first - word_nbytes
            yield data + word_nbytes, end - word_nbytes
    head, tail = (kernel.memory.read_word(getattr(texts, name).address_) for name in ("head_lpos", "tail_lpos"))
    left, at = size - (head - tail) % (1 << 8 * word_nbytes), head % size
    if 0 < left <= size:
        yield data + at, min(left, size - at)
        yield data, max(left - (size - at), 0)


def _descriptors(kernel: Crashed, vaddr: int, n: int) -> tuple[U64, U64, U64]:
    """Return state, and where the text begins and ends, of all descriptors."""
    record = kernel.names.record("prb_desc")
    block, word = record.members["text_blk_lpos"], kernel.memory.word
    dtype = struct_dtype(
        "prb_desc",
        record.nbytes,
        {
            "state": (word, record.members["state_var"].offset),
            "begin": (word, block.offset + block.type.members["begin"].offset),
            "next": (word, block.offset + block.type.members["next"].offset),
        },
        kernel.memory.space.byte_order,
    )
    found = kernel.memory.read_array(vaddr, dtype, n)
    return tuple(found[name].astype(np.uint64) for name in ("state", "begin", "next"))  # type: ignore[return-value]

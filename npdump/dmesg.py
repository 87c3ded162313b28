"""The kernel log, out of a crashed kernel's memory.

Three generations: the lockless ring of Linux 5.10 on, the ring of records of 3.5 to 5.9, and before that a plain ring
of characters. Which one it is is told by the symbols that the kernel exports, not by its version.

References
----------
Linux ``kernel/printk/printk_ringbuffer.h`` (v5.10 on), ``kernel/printk/printk.c`` (before);
``Documentation/admin-guide/kdump/gdbmacros.txt``.
"""

from __future__ import annotations

import string
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from npdump.errors import AddressError, FactError
from npdump.kernel import Facts
from npdump.memmap import Kernel

__all__ = ["Log", "Record", "as_text", "read"]

MAX_LOG_NBYTES = 1 << 31
"""Largest buffer that a kernel accepts (Linux LOG_BUF_LEN_MAX)."""

MAX_COUNT_BITS = 26
"""A descriptor stands for 32 bytes of text or more (Linux PRB_AVGBITS)."""

COMMITTED, FINALIZED = 1, 2
"""States of a descriptor that has a record (Linux enum desc_state)."""

NO_LPOS = 3
"""Positions of a record without text: an empty line (Linux EMPTY_LINE_LPOS, NO_LPOS before); 1 is a failed one."""

CALLER_IS_CPU = 1 << 31
"""Bit of a caller id: the rest is the number of a CPU, else of a task (Linux printk_caller_id(), v5.1)."""

CALLER_WIDTH = 8
_PLAIN = {ord(character) for character in string.printable}


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
        return _read_lockless(kernel, partial)
    if "SYMBOL(log_first_idx)" in kernel.facts:
        return _read_records(kernel, partial)
    return _read_characters(kernel)


def as_text(log: Log) -> str:
    """Lay the log out as ``dmesg`` and makedumpfile do; bytes that no terminal can show become ``\\xNN``."""
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


def _caller(number: int) -> str:
    return f"{'C' if number & CALLER_IS_CPU else 'T'}{number & ~CALLER_IS_CPU}"


def _struct(kernel: Kernel, name: str, size_key: str, fields: dict[str, tuple[str, str]]) -> np.dtype:
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
    try:
        return np.dtype(
            {
                "names": names,
                "formats": [np.dtype(known[key][0]).newbyteorder(order) for key in names],
                "offsets": [known[key][1] for key in names],
                "itemsize": nbytes,
            }
        )
    except (ValueError, OverflowError):
        raise FactError(f"VMCOREINFO's description of {name} can't be right: it is damaged") from None


def _need_fields(dtype: np.dtype, name: str, fields: tuple[str, ...]) -> None:
    for missing in set(fields) - set(dtype.names or ()):
        raise FactError(f"VMCOREINFO lacks the offset of {missing} in {name}, which is needed to read the kernel log")


def _read_u32(kernel: Kernel, vaddr: int) -> int:
    raw = kernel.memory.read(vaddr, 4)
    return int(np.frombuffer(raw, np.dtype("u4").newbyteorder(kernel.memory.word.byteorder))[0])


def _read_lossy(kernel: Kernel, vaddr: int, nbytes: int, what: str, doubts: list[str]) -> bytes:
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


def _read_lockless(kernel: Kernel, partial: bool) -> Log:
    """Linux 896fbe20b4e2, v5.10, and later."""
    log, facts, memory = Log("lockless"), kernel.facts, kernel.memory
    why = "to read the kernel log"
    word, word_nbytes = memory.word, memory.word.itemsize
    prb = memory.read_word(facts.need("SYMBOL(prb)", why))
    desc_ring = prb + facts.need("OFFSET(printk_ringbuffer.desc_ring)", why)
    data_ring = prb + facts.need("OFFSET(printk_ringbuffer.text_data_ring)", why)
    count_bits = _read_u32(kernel, desc_ring + facts.need("OFFSET(prb_desc_ring.count_bits)", why))
    size_bits = _read_u32(kernel, data_ring + facts.need("OFFSET(prb_data_ring.size_bits)", why))
    if count_bits > MAX_COUNT_BITS or size_bits >= MAX_LOG_NBYTES.bit_length():
        raise AddressError(f"the kernel log at {prb:#x} would have 2^{count_bits} records: the dump is damaged")

    def ring_word(key: str) -> int:
        return memory.read_word(desc_ring + facts.need(f"OFFSET(prb_desc_ring.{key})", why))

    lpos = facts.need("OFFSET(prb_desc.text_blk_lpos)", why)
    block_begin = facts.need("OFFSET(prb_data_blk_lpos.begin)", why)
    block_next = facts.need("OFFSET(prb_data_blk_lpos.next)", why)
    desc_nbytes = facts.need("SIZE(prb_desc)", why)
    count, size = 1 << count_bits, 1 << size_bits
    raw = _read_lossy(kernel, ring_word("descs"), count * desc_nbytes, "its descriptors", log.doubts)

    def column(offset: int) -> np.ndarray:
        if not 0 <= offset <= desc_nbytes - word_nbytes:
            raise FactError(f"VMCOREINFO puts a member of prb_desc at byte {offset} of {desc_nbytes}: it is damaged")
        return np.ndarray(count, word, raw, offset, (desc_nbytes,))

    states = column(facts.need("OFFSET(prb_desc.state_var)", why))
    begins, nexts = column(lpos + block_begin), column(lpos + block_next)
    info_type = _struct(
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
    _need_fields(info_type, "printk_info", ("ts_nsec", "text_len"))
    names = info_type.names or ()
    infos = np.frombuffer(
        _read_lossy(kernel, ring_word("infos"), count * info_type.itemsize, "its infos", log.doubts), info_type
    )
    data_at = memory.read_word(data_ring + facts.need("OFFSET(prb_data_ring.data)", why))
    text = _read_lossy(kernel, data_at, size, "its text", log.doubts)

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
                caller=_caller(int(info["caller_id"])) if "caller_id" in names else None,
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
        latch = _read_u32(kernel, at) & 1
        at += kernel.facts.need("OFFSET(latched_seq.val)", "to read the kernel log") + latch * number.itemsize
    return int(np.frombuffer(kernel.memory.read(at, number.itemsize), number)[0])


def _record_keys(facts: Facts) -> str:
    # Linux 62e32ac3505a, v3.11: struct log became printk_log.
    return "printk_log" if "SIZE(printk_log)" in facts else "log"


def _buffer(kernel: Kernel, doubts: list[str]) -> bytes:
    """Return the log buffer of a kernel before 5.10."""
    why = "to read the kernel log"
    at = kernel.memory.read_word(kernel.facts.need("SYMBOL(log_buf)", why))
    nbytes = _read_u32(kernel, kernel.facts.need("SYMBOL(log_buf_len)", why))
    if not 0 < nbytes <= MAX_LOG_NBYTES:
        raise AddressError(f"the kernel log at {at:#x} would have {nbytes} bytes: the dump is damaged")
    return _read_lossy(kernel, at, nbytes, "its text", doubts)


def _read_records(kernel: Kernel, partial: bool) -> Log:
    """Linux 7ff9554bb578, v3.5, to v5.9."""
    log, facts = Log("records"), kernel.facts
    why = "to read the kernel log"
    struct = _record_keys(facts)
    header = _struct(
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
    _need_fields(header, struct, ("ts_nsec", "len", "text_len"))
    first = facts.need("SYMBOL(log_first_idx)", why)
    if partial:
        first = facts.get("SYMBOL(clear_idx)") or first
    start = _read_u32(kernel, first)
    stop = _read_u32(kernel, facts.need("SYMBOL(log_next_idx)", why))
    text = _buffer(kernel, log.doubts)
    for index in _indices(text, header, start, stop, log.doubts):
        fields = np.frombuffer(text, header, 1, index)[0]
        body = index + header.itemsize
        log.records.append(
            Record(
                nanoseconds=int(fields["ts_nsec"]),
                text=text[body : body + int(fields["text_len"])],
                caller=_caller(int(fields["caller_id"])) if "caller_id" in (header.names or ()) else None,
            )
        )
    return log


def _indices(text: bytes, header: np.dtype, start: int, stop: int, doubts: list[str]) -> Iterator[int]:
    """Yield where the records of a ring begin; stops at the first that can't be right or comes a second time."""
    seen: set[int] = set()
    index = start
    while index != stop:
        if index + header.itemsize > len(text):
            doubts.append(f"a record would begin at {index:#x}, outside of the log's {len(text):#x} bytes: it ends here")
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


def _read_characters(kernel: Kernel) -> Log:
    """Before Linux v3.5."""
    log = Log("characters")
    end = kernel.facts.get("SYMBOL(log_end)")
    if end is None:
        raise FactError("VMCOREINFO has none of SYMBOL(prb), SYMBOL(log_first_idx), SYMBOL(log_end): no kernel log")
    # An unsigned long up to 2.6.24, an unsigned int since; the lower half is enough, since both wrap.
    wide = kernel.memory.word.itemsize == 8 and kernel.memory.word.byteorder == ">"
    before_2_6_25 = (kernel.facts.release or "").startswith("2.6.24")
    position = _read_u32(kernel, end + 4 if wide and before_2_6_25 else end)
    text = _buffer(kernel, log.doubts)
    if position < len(text):
        log.characters = text[:position]
    else:
        at = position % len(text)
        log.characters = text[at:] + text[:at]
    return log

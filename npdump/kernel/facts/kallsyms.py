# SPDX-License-Identifier: GPL-2.0-or-later
"""kallsyms: the kernel's own table of its symbols, in its memory.

References
----------
Linux ``scripts/kallsyms.c`` (which writes the table) and ``kernel/kallsyms.c`` (which reads it).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np

from npdump.errors import FactError

if TYPE_CHECKING:
    from npdump.arrays import U64
    from npdump.facts import Facts

__all__ = ["is_there", "read"]

MAX_SYMBOLS = 1 << 22
"""Kernels have some hundreds of thousands."""

MAX_NAME_NBYTES = 512
"""Linux KSYM_NAME_LEN, v6.1; the compressed form is shorter."""

_TABLES = ("names", "num_syms", "token_table", "token_index")

Read = Callable[[int, int], bytes]


def is_there(facts: Facts) -> bool:
    """Return whether VMCOREINFO names the tables (Linux 5fd8fea935a1, v6.0)."""
    return all(f"SYMBOL(kallsyms_{name})" in facts for name in _TABLES)


def read(facts: Facts, memory: Read, word: np.dtype) -> dict[str, int]:
    """Read the addresses of all symbols, where the kernel runs.

    Parameters
    ----------
    facts : Facts
    memory : callable
        Of address and length: reads the kernel's virtual memory.
    word : dtype
        An unsigned long of the kernel.

    Raises
    ------
    FactError
        If the tables are not exported, or do not agree with the address of ``_stext``.
    AddressError
        If they are not in the dump.
    """
    why = "to read the kernel's symbols"
    u4 = np.dtype("u4").newbyteorder(word.byteorder)
    u2 = np.dtype("u2").newbyteorder(word.byteorder)
    at = {name: facts.need(f"SYMBOL(kallsyms_{name})", why) for name in _TABLES}
    count = int(np.frombuffer(memory(at["num_syms"], 4), u4)[0])
    if not 0 < count <= MAX_SYMBOLS:
        raise FactError(f"the kernel's symbol table would have {count} entries: the dump is damaged")
    index = np.frombuffer(memory(at["token_index"], 512), u2).tolist()
    tokens = _tokens(memory(at["token_table"], max(index) + MAX_NAME_NBYTES), index)
    # The tables follow each other, so that the end of the names is the start of the next one.
    following = [value for value in at.values() if value > at["names"]]
    nbytes = min(following, default=at["names"] + count * MAX_NAME_NBYTES) - at["names"]
    names = [name[1:] for name in _names(memory(at["names"], nbytes), count, tokens)]
    if len(names) != count:
        raise FactError("the kernel's symbol table is damaged")
    stext = facts.need("SYMBOL(_stext)", why)
    for addresses in _addresses(facts, memory, word, count):
        found: dict[str, int] = {}
        for name, address in zip(names, addresses.tolist(), strict=True):
            found.setdefault(name, address)
        if found.get("_stext") == stext:
            return found
    raise FactError("the kernel's symbol table doesn't agree with SYMBOL(_stext): its form isn't one that npdump knows")


def _tokens(table: bytes, index: list[int]) -> list[str]:
    return [table[at : table.index(b"\0", at)].decode("ascii", "replace") for at in index]


def _names(raw: bytes, count: int, tokens: list[str]) -> Iterator[str]:
    at = 0
    for _ in range(count):
        if at + 2 > len(raw):
            return
        length = raw[at]
        at += 1
        if length & 0x80:
            # Linux 73bbb94466fd, v6.1: two bytes for names of 128 tokens or more.
            length = length & 0x7F | raw[at] << 7
            at += 1
        yield "".join([tokens[byte] for byte in raw[at : at + length]])
        at += length


def _addresses(facts: Facts, memory: Read, word: np.dtype, count: int) -> Iterator[U64]:
    """Yield the addresses by each of the forms that they may have."""
    plain = facts.get("SYMBOL(kallsyms_addresses)")
    if plain is not None:
        yield np.frombuffer(memory(plain, count * word.itemsize), word).astype(np.uint64)
    table = facts.get("SYMBOL(kallsyms_offsets)")
    if table is None:
        return
    offsets = np.frombuffer(memory(table, count * 4), np.dtype("i4").newbyteorder(word.byteorder)).astype(np.int64)
    unsigned = (offsets & 0xFFFFFFFF).astype(np.uint64)
    at_base = facts.get("SYMBOL(kallsyms_relative_base)")
    if at_base is not None:
        base = np.frombuffer(memory(at_base, word.itemsize), word).astype(np.uint64)[0]
        # Linux 2213e9a66bb8, v4.6: what isn't negative is absolute (per CPU), the rest counts down from the base.
        negative = base - np.uint64(1) - offsets.astype(np.uint64)
        yield np.where(offsets >= 0, unsigned, negative)
        yield base + unsigned
    # The newest kernels have no base: an offset counts from its own place.
    yield np.uint64(table) + np.arange(count, dtype=np.uint64) * np.uint64(4) + offsets.astype(np.uint64)

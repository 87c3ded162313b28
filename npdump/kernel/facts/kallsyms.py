# SPDX-License-Identifier: GPL-2.0-or-later
"""kallsyms: the kernel's own table of its symbols, in its memory.

References
----------
Linux ``scripts/kallsyms.c`` (which writes the table) and ``kernel/kallsyms.c`` (which reads it).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from npdump.errors import FactError

if TYPE_CHECKING:
    import numpy.typing as npt

    from npdump.arrays import I64, U8, U64
    from npdump.facts import Facts

    I32 = npt.NDArray[np.int32]

__all__ = ["find", "is_there", "read"]

MAX_SYMBOLS = 1 << 22
"""Kernels have some hundreds of thousands."""

MAX_NAME_NBYTES = 512
"""Linux KSYM_NAME_LEN, v6.1; the compressed form is shorter."""

_TABLES = ("names", "num_syms", "token_table", "token_index")

_UNKNOWN_FORM = "the kernel's symbol table doesn't agree with SYMBOL(_stext): its form isn't one that npdump knows"

_LONG = 0x80
"""Linux 73bbb94466fd, v6.1: the length of a name of so many tokens or more takes two bytes."""

_MARKED = 256
"""Of so many names the place of the first is noted (Linux kallsyms_markers, right after the names)."""

_MAX_MISSED = 4
"""A quarter of the lanes may have long names; of a table that isn't one of markers, most miss."""

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
    table = _open(facts, memory, word)
    names = [name[1:] for name in _names(table.names, table.n_names, table.tokens)]
    if len(names) != table.n_names:
        raise FactError("the kernel's symbol table is damaged")
    for addresses in _addresses(facts, memory, word, table.n_names):
        found: dict[str, int] = {}
        for name, address in zip(names, addresses.tolist(), strict=True):
            found.setdefault(name, address)
        if found.get("_stext") == table.stext:
            return found
    raise FactError(_UNKNOWN_FORM)


def find(facts: Facts, memory: Read, word: np.dtype, names: Collection[str]) -> dict[str, int]:
    """Read the addresses of a few symbols (63 at most), a hundred times as fast as `read`; those it lacks are left out.

    The other parameters, and what is raised, are those of `read`.
    """
    table = _open(facts, memory, word)
    wanted = ["_stext", *names]
    raw, starts = np.frombuffer(table.names, np.uint8), _starts(table.names, table.n_names, word)
    lengths = raw[starts]
    # What begins, ends or is as long otherwise than the wanted names needs no look at what is between.
    begins, ends, of_length = _fitting(table.tokens, wanted)
    fits = ends[raw.take(starts + lengths, mode="clip")]
    rows = np.flatnonzero((fits != 0) & (lengths < _LONG))
    pairs = raw.take(starts[rows] + 1).astype(np.int32) << 8 | raw.take(starts[rows] + 2, mode="clip")
    fits = fits[rows] & begins[pairs]
    rows, fits = rows[fits != 0], fits[fits != 0]
    rows = rows[fits & of_length[_name_lengths(raw, starts[rows], table.tokens)] != 0]
    distinct = set(wanted)
    found: dict[str, int] = {}  # rows
    for row, at, length in zip(rows.tolist(), starts[rows].tolist(), lengths[rows].tolist(), strict=True):
        name = "".join(map(table.tokens.__getitem__, table.names[at + 1 : at + 1 + length]))[1:]
        if name in distinct:
            found.setdefault(name, row)
    for addresses in _addresses(facts, memory, word, table.n_names, list(found.values())):
        known = dict(zip(found, addresses.tolist(), strict=True))
        if known.get("_stext") == table.stext:
            return known
    raise FactError(_UNKNOWN_FORM)


class _Table(NamedTuple):
    """The names as they are stored: each a number of tokens, and the tokens."""

    names: bytes
    n_names: int
    tokens: list[str]
    stext: int


def _open(facts: Facts, memory: Read, word: np.dtype) -> _Table:
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
    return _Table(memory(at["names"], nbytes), count, tokens, facts.need("SYMBOL(_stext)", why))


def _tokens(table: bytes, index: list[int]) -> list[str]:
    return [table[at : table.index(b"\0", at)].decode("ascii", "replace") for at in index]


def _names(raw: bytes, count: int, tokens: list[str]) -> Iterator[str]:
    at = 0
    for _ in range(count):
        if at + 2 > len(raw):
            return
        length = raw[at]
        at += 1
        if length >= _LONG:
            length = length - _LONG | raw[at] << 7
            at += 1
        yield "".join([tokens[byte] for byte in raw[at : at + length]])
        at += length


def _fitting(tokens: list[str], wanted: list[str]) -> tuple[U64, U64, U64]:
    """Return which of the wanted names may begin with two tokens, end with one, and have a length, as bits.

    Returns
    -------
    begins : ndarray of shape (65536,), dtype uint64
        By the first token, times 256, and the second one, which does not count where the first is all of a name.
    ends : ndarray of shape (256,), dtype uint64
    of_length : ndarray of shape (MAX_NAME_NBYTES,), dtype uint64
        By the letters of the name and of its type.
    """
    codes = {token: code for code, token in enumerate(tokens) if token}
    # Before each name stands a letter for its type.
    after_letter: dict[str, list[int]] = {}
    for token, code in codes.items():
        if token[0].isalpha():
            after_letter.setdefault(token[1:], []).append(code)
    begins, ends = np.zeros((256, 256), np.uint64), np.zeros(256, np.uint64)
    of_length, every = np.zeros(MAX_NAME_NBYTES, np.uint64), np.arange(256)
    for i, name in enumerate(wanted):
        bit, stops = np.uint64(1 << i), range(len(name) + 1)
        of_length[len(name) + 1] |= bit
        for n, firsts in ((n, after_letter[name[:n]]) for n in stops if name[:n] in after_letter):
            seconds = [codes[name[n:stop]] for stop in stops[n + 1 :] if name[n:stop] in codes]
            begins[np.array(firsts)[:, None], np.array(seconds, np.intp) if n < len(name) else every] |= bit
        ends[after_letter.get(name, [])] |= bit
        ends[[codes[name[n:]] for n in stops[:-1] if name[n:] in codes]] |= bit
    return begins.reshape(-1), ends, of_length


def _name_lengths(raw: U8, starts: I32, tokens: list[str]) -> I64:
    """Return how many letters some names have, those of their types counted, as indices into `_fitting`'s table."""
    if not len(starts):
        return np.empty(0, np.int64)
    lengths = raw[starts].astype(np.int64)
    ends = np.cumsum(lengths)
    at = np.arange(ends[-1]) + np.repeat(starts + 1 - (ends - lengths), lengths)
    letters = np.cumsum(np.array([len(token) for token in tokens])[raw.take(at, mode="clip")])
    return np.diff(letters[ends - 1], prepend=0).clip(max=MAX_NAME_NBYTES - 1)


def _starts(names: bytes, count: int, word: np.dtype) -> I32:
    """Return where each name begins."""
    u4 = np.dtype("u4").newbyteorder(word.byteorder)
    n_lanes = -(-count // _MARKED)
    # Kernels since v6.2 (Linux 60443c88f3a8) have three bytes for each name between markers and tokens.
    n_behind = -(-3 * count // word.itemsize) * word.itemsize
    for n_after in (behind + padding for behind in (n_behind, 0) for padding in range(0, word.itemsize, 4)):
        stop = len(names) - n_after
        markers = np.frombuffer(names[max(stop - 4 * n_lanes, 0) : stop], u4).astype(np.int64)
        starts = _starts_by_lanes(names, markers)
        if starts is not None:
            return starts[:count]
    return np.fromiter(_each_start(names, 0, count), np.int32)


def _starts_by_lanes(names: bytes, markers: I64) -> I32 | None:
    """Return where names begin, by going on from all markers at once; None if these are none."""
    if not len(markers) or markers[0] != 0 or (np.diff(markers) <= 0).any() or markers[-1] >= len(names):
        return None
    # As if no name were long: for the few that are, their lanes are gone along once more.
    lengths = np.frombuffer(names, np.uint8)
    starts, at = np.empty((_MARKED, len(markers)), np.int32), markers.copy()
    for row in starts:
        row[:] = at
        at += lengths.take(at, mode="clip")
        at += 1
    missed = np.flatnonzero(at[:-1] != markers[1:]).tolist()
    if len(missed) > len(markers) // _MAX_MISSED + 1:
        return None
    for lane in missed:
        *lane_starts, stop = _each_start(names, int(markers[lane]), _MARKED + 1)
        if stop != markers[lane + 1]:
            return None
        starts[:, lane] = lane_starts
    return starts.T.reshape(-1)


def _each_start(names: bytes, at: int, count: int) -> Iterator[int]:
    for _ in range(count):
        if at + 2 > len(names):
            raise FactError("the kernel's symbol table is damaged")
        yield at
        length = names[at]
        at += 1 + (length if length < _LONG else 1 + (length - _LONG | names[at + 1] << 7))


def _addresses(
    facts: Facts, memory: Read, word: np.dtype, count: int, rows: list[int] | slice = slice(None)
) -> Iterator[U64]:
    """Yield the addresses, or some of them, by each of the forms that they may have."""
    plain = facts.get("SYMBOL(kallsyms_addresses)")
    if plain is not None:
        yield np.frombuffer(memory(plain, count * word.itemsize), word)[rows].astype(np.uint64)
    table = facts.get("SYMBOL(kallsyms_offsets)")
    if table is None:
        return
    stored = np.frombuffer(memory(table, count * 4), np.dtype("i4").newbyteorder(word.byteorder))
    offsets = stored[rows].astype(np.int64)
    unsigned = (offsets & 0xFFFFFFFF).astype(np.uint64)
    at_base = facts.get("SYMBOL(kallsyms_relative_base)")
    if at_base is not None:
        base = np.frombuffer(memory(at_base, word.itemsize), word).astype(np.uint64)[0]
        # Linux 2213e9a66bb8, v4.6: what isn't negative is absolute (per CPU), the rest counts down from the base.
        negative = base - np.uint64(1) - offsets.astype(np.uint64)
        yield np.where(offsets >= 0, unsigned, negative)
        yield base + unsigned
    # The newest kernels have no base: an offset counts from its own place.
    yield np.uint64(table) + np.arange(count, dtype=np.uint64)[rows] * np.uint64(4) + offsets.astype(np.uint64)

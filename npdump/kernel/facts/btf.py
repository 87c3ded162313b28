# SPDX-License-Identifier: GPL-2.0-or-later
"""BTF: the kernel's types in the form that a kernel carries for its own use (Linux 5.2 on, CONFIG_DEBUG_INFO_BTF).

References
----------
Linux ``Documentation/bpf/btf.rst`` and ``include/uapi/linux/btf.h``.
"""

from __future__ import annotations

import struct
from contextlib import contextmanager
from typing import TYPE_CHECKING

from npdump.errors import FactError
from npdump.kernel.facts.types import WANTED, Member, Struct, Types, TypesBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["damage_as_fact_error", "parse", "read_index"]

MAGIC = 0xEB9F
HEADER_NBYTES = 24
MAX_NESTING = 32
"""Bound on typedefs of typedefs and structs in structs; a loop is damage."""

INT, PTR, ARRAY, STRUCT, UNION, ENUM, FWD, TYPEDEF = range(1, 9)
VOLATILE, CONST, RESTRICT, FUNC, FUNC_PROTO, VAR, DATASEC, FLOAT, DECL_TAG, TYPE_TAG, ENUM64 = range(9, 20)
_EXTRA_NBYTES = {INT: 4, ARRAY: 12, VAR: 4, DECL_TAG: 4}
_EXTRA_NBYTES_EACH = {STRUCT: 12, UNION: 12, ENUM: 8, FUNC_PROTO: 8, DATASEC: 12, ENUM64: 12}
ALIASES = {TYPEDEF, VOLATILE, CONST, RESTRICT, TYPE_TAG}


def parse(raw: bytes, byte_order: str, word_nbytes: int) -> Types:
    """Read the types that a dump filter wants.

    Parameters
    ----------
    raw : bytes
        The whole of the ``.BTF`` section.
    byte_order : {"<", ">"}
    word_nbytes : {4, 8}
        Bytes of a pointer.

    Raises
    ------
    FactError
        If it is not BTF, or is damaged.
    """
    with damage_as_fact_error():
        return _Reader(raw, byte_order, word_nbytes).types()


@contextmanager
def damage_as_fact_error() -> Iterator[None]:
    """Turn what reading damaged BTF raises into a FactError."""
    try:
        yield
    except (struct.error, IndexError, ValueError, RecursionError) as error:
        raise FactError(f"the kernel's BTF is damaged: {error}") from error


def read_index(raw: bytes, byte_order: str) -> tuple[list[int], bytes]:
    """Return the offset of each type, of which number 0 is void, and the strings; damage raises as it comes."""
    header = struct.unpack_from(byte_order + "HBBIIIII", raw)
    magic, _, _, header_nbytes, type_off, type_len, str_off, str_len = header
    if magic != MAGIC or header_nbytes < HEADER_NBYTES:
        raise FactError("the kernel's BTF isn't where its symbols say")
    strings = raw[header_nbytes + str_off : header_nbytes + str_off + str_len]
    offsets = [0]
    append, unpack = offsets.append, struct.Struct(byte_order + "II").unpack_from
    extra = [_EXTRA_NBYTES.get(kind, 0) + 12 for kind in range(32)]
    each = [_EXTRA_NBYTES_EACH.get(kind, 0) for kind in range(32)]
    at, stop = header_nbytes + type_off, header_nbytes + type_off + type_len
    while at < stop:
        append(at)
        info = unpack(raw, at)[1]
        kind = info >> 24 & 31
        at += extra[kind] + each[kind] * (info & 0xFFFF)
    return offsets, strings


class _Reader:
    def __init__(self, raw: bytes, byte_order: str, word_nbytes: int) -> None:
        self._raw = raw
        self._order = byte_order
        self._word_nbytes = word_nbytes
        self._at, self._strings = read_index(raw, byte_order)

    def _name(self, offset: int) -> str:
        return self._strings[offset : self._strings.index(b"\0", offset)].decode("ascii", "replace") if offset else ""

    def _type(self, number: int) -> tuple[int, int, int, int, int]:
        """Return offset, name's offset, kind, number of parts, size or type, of a type that is not an alias."""
        for _ in range(MAX_NESTING):
            if not number:
                return 0, 0, 0, 0, 0
            name, info, size = struct.unpack_from(self._order + "III", self._raw, self._at[number])
            kind = info >> 24 & 31
            if kind not in ALIASES:
                return self._at[number], name, kind, info & 0xFFFF, size
            number = size
        raise IndexError("types go round in a circle")

    def _size(self, number: int, depth: int = 0) -> tuple[int, int]:
        """Return the bytes of a type, and its elements if it is an array, else 0."""
        at, _, kind, _, size = self._type(number)
        if kind == PTR:
            return self._word_nbytes, 0
        if kind == ARRAY and depth < MAX_NESTING:
            element, _, count = struct.unpack_from(self._order + "III", self._raw, at + 12)
            return self._size(element, depth + 1)[0] * count, count
        return (size if kind in (INT, STRUCT, UNION, ENUM, ENUM64, FLOAT) else 0), 0

    def _members(self, number: int, base: int, found: dict[str, Member], depth: int = 0) -> None:
        at, _, _, count, _ = self._type(number)
        (info,) = struct.unpack_from(self._order + "I", self._raw, at + 4)
        for i in range(count):
            name, member, bits = struct.unpack_from(self._order + "III", self._raw, at + 12 + 12 * i)
            offset = base + ((bits & 0xFFFFFF if info >> 31 else bits) >> 3)
            if name:
                found.setdefault(self._name(name), Member(offset, *self._size(member)))
            elif depth < MAX_NESTING:
                self._members(member, offset, found, depth + 1)

    def types(self) -> Types:
        builder = TypesBuilder()
        offsets = {self._offset_of(name): name for name in WANTED}
        unpack = struct.Struct(self._order + "III").unpack_from
        for number in range(1, len(self._at)):
            name_offset, info, _ = unpack(self._raw, self._at[number])
            name = offsets.get(name_offset) if name_offset else None
            if name is not None:
                self._take(number, name, info >> 24 & 31, builder)
        return builder.types

    def _take(self, number: int, name: str, kind: int, builder: TypesBuilder) -> None:
        if kind in (STRUCT, UNION):
            builder.struct(name, lambda: self._struct(number))
        elif kind == ENUM:
            builder.enum(name, lambda: self._enum(number))
        elif kind == TYPEDEF:
            builder.typedef(name, lambda: self._size(number)[0], lambda: None)

    def _struct(self, number: int) -> Struct:
        members: dict[str, Member] = {}
        self._members(number, 0, members)
        return Struct(self._type(number)[4], members)

    def _enum(self, number: int) -> tuple[int, dict[str, int]]:
        at, _, _, count, nbytes = self._type(number)
        (info,) = struct.unpack_from(self._order + "I", self._raw, at + 4)
        form = self._order + "I" + ("i" if info >> 31 else "I")
        pairs = struct.iter_unpack(form, self._raw[at + 12 :][: 8 * count])
        return nbytes, {self._name(offset): value for offset, value in pairs}

    def _offset_of(self, name: str) -> int:
        """Return the offset of a string, 0 if it is not there. Strings of BTF are unique, though ends may be shared."""
        at = self._strings.find(b"\0" + name.encode() + b"\0")
        return at + 1

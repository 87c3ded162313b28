# SPDX-License-Identifier: GPL-2.0-or-later
"""The graph of all types out of BTF: that of a kernel, or of one of its modules, which builds on the kernel's.

References
----------
Linux ``Documentation/bpf/btf.rst`` and ``include/uapi/linux/btf.h``.
"""

from __future__ import annotations

import struct
from functools import cached_property
from typing import TYPE_CHECKING

from npdump.errors import FactError
from npdump.kernel.facts import btf
from npdump.kernel.facts.graph import VOID, CType, Field, Kind

if TYPE_CHECKING:
    from npdump.layouts import ByteOrder

__all__ = ["BtfGraph"]

_KINDS = {btf.INT: Kind.INT, btf.FLOAT: Kind.OTHER, btf.ENUM: Kind.ENUM, btf.ENUM64: Kind.ENUM}
_RECORDS = {btf.STRUCT: Kind.STRUCT, btf.UNION: Kind.UNION}
_SIGNED = 1
_NAMED = (btf.STRUCT, btf.UNION, btf.TYPEDEF)


class BtfGraph:
    """See `npdump.kernel.facts.graph.TypeGraph`.

    Parameters
    ----------
    raw : bytes
        A whole ``.BTF`` section.
    byte_order : {"<", ">"}
    word_nbytes : {4, 8}
        Bytes of a pointer.
    base : BtfGraph, optional
        The kernel's, for the BTF of a module: its types and strings go on where those end.

    Raises
    ------
    FactError
        If it is not BTF, or is damaged; also later, when a type is asked for.
    """

    origin = "BTF"

    def __init__(self, raw: bytes, byte_order: ByteOrder, word_nbytes: int, base: BtfGraph | None = None) -> None:
        self._raw, self._order, self._word_nbytes, self._base = raw, byte_order, word_nbytes, base
        with btf.damage_as_fact_error():
            self._at, self._strings = btf.read_index(raw, byte_order)
        if base is not None:
            del self._at[0]  # void is the kernel's
        self._first = base.n_types if base is not None else 0
        self._first_string = base.strings_stop if base is not None else 0
        self._made: dict[int, CType] = {}

    @property
    def n_types(self) -> int:
        """How many types there are, with those of the base."""
        return self._first + len(self._at)

    @property
    def strings_stop(self) -> int:
        """One more than the last offset of a string."""
        return self._first_string + len(self._strings)

    def _name(self, offset: int) -> str:
        if self._base is not None and offset < self._first_string:
            return self._base._name(offset)
        at = offset - self._first_string
        return self._strings[at : self._strings.index(b"\0", at)].decode("ascii", "replace") if offset else ""

    @cached_property
    def _by_name(self) -> dict[str, list[tuple[int, int]]]:
        """Kinds and numbers of the structs, unions and typedefs that are here, by name."""
        found: dict[str, list[tuple[int, int]]] = {}
        unpack = struct.Struct(self._order + "II").unpack_from
        for number, at in enumerate(self._at, self._first):
            name, info = unpack(self._raw, at)
            kind = info >> 24 & 31
            if name and kind in _NAMED:
                found.setdefault(self._name(name), []).append((kind, number))
        return found

    def record(self, name: str) -> CType | None:
        """See `npdump.kernel.facts.graph.TypeGraph.record`."""
        with btf.damage_as_fact_error():
            for _, number in sorted(self._by_name.get(name, ())):
                made = self._type(number)
                if made.is_record:
                    return made
        return self._base.record(name) if self._base is not None else None

    def variable(self, name: str, vaddr: int | None) -> CType | None:
        """Return None: of variables BTF has only those that each CPU has for itself."""
        return None

    def _type(self, number: int, depth: int = 0) -> CType:
        if number < self._first:
            assert self._base is not None
            return self._base._type(number)
        if not number:
            return VOID
        made = self._made.get(number)
        if made is None:
            if depth > btf.MAX_NESTING:
                raise FactError("the kernel's BTF is damaged: types go round in a circle")
            made = self._made[number] = self._make(number, depth)
        return made

    def _make(self, number: int, depth: int) -> CType:
        at = self._at[number - self._first]
        name, info, size = struct.unpack_from(self._order + "III", self._raw, at)
        kind = info >> 24 & 31
        if kind in btf.ALIASES:
            return self._type(size, depth + 1)
        if kind == btf.PTR:
            return CType(Kind.POINTER, nbytes=self._word_nbytes, find_target=lambda: self._safe(size))
        if kind == btf.ARRAY:
            element, _, count = struct.unpack_from(self._order + "III", self._raw, at + 12)
            of = self._type(element, depth + 1)
            return CType(Kind.ARRAY, nbytes=of.nbytes * count, n_elements=count, find_target=lambda: of)
        if kind in _RECORDS:
            return CType(_RECORDS[kind], self._name(name), size, find_members=lambda: self._members(at))
        if kind == btf.FWD:
            # Only declared here; the flag says that it is a union.
            forward = self._name(name)
            declared = Kind.UNION if info >> 31 else Kind.STRUCT
            return CType(declared, forward, find_members=lambda: self._declared(forward))
        if kind in _KINDS:
            signed = struct.unpack_from(self._order + "I", self._raw, at + 12)[0] >> 24 & _SIGNED
            return CType(_KINDS[kind], self._name(name), size, is_signed=kind == btf.INT and bool(signed))
        return CType(Kind.OTHER, self._name(name))

    def _safe(self, number: int) -> CType:
        with btf.damage_as_fact_error():
            return self._type(number)

    def _declared(self, name: str) -> list[tuple[str, Field]]:
        found = self.record(name)
        return list(found.members.items()) if found is not None else []

    def _members(self, at: int) -> list[tuple[str, Field]]:
        found = []
        with btf.damage_as_fact_error():
            (info,) = struct.unpack_from(self._order + "I", self._raw, at + 4)
            for i in range(info & 0xFFFF):
                name, number, bits = struct.unpack_from(self._order + "III", self._raw, at + 12 + 12 * i)
                n_bits = bits >> 24 if info >> 31 else 0
                offset = (bits & 0xFFFFFF if info >> 31 else bits) >> 3
                found.append((self._name(name), Field(offset, self._type(number), bool(n_bits))))
        return found

# SPDX-License-Identifier: GPL-2.0-or-later
"""The graph of all types out of DWARF, without reading the debug information from end to end.

A variable's entry holds its address, a struct's the offset of its name. So these are looked for in the hundreds of
megabytes as bytes, and only what is around the places where they are is read as DWARF: it is an entry if its fields are
where they were found, and the entries that belong to it end where it says.

References
----------
DWARF 5, sections 2, 3 and 7.
"""

from __future__ import annotations

import bisect
import re
from functools import cached_property
from io import BytesIO
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
from elftools.dwarf.die import DIE

from npdump.errors import FactError
from npdump.kernel.facts.dwarf import (
    ALIASES,
    LANG_RUST,
    MAX_NESTING,
    RECORDS,
    children,
    member_offset,
    name_of,
    number_of,
    subrange_count,
)
from npdump.kernel.facts.elf_symbols import byte_order, contents, damage_as_fact_error
from npdump.kernel.facts.graph import VOID, CType, Field, Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from elftools.elf.elffile import ELFFile

__all__ = ["DwarfGraph"]

_DAMAGED = "its debug information is damaged"
_MAX_CODE_NBYTES = 3
"""Of the number of an entry's form, which stands before its attributes."""
_MAX_FIELDS_NBYTES = 48
"""Of a variable's entry, before its address."""
_MAX_ENTRY_NBYTES = 4096
_MAX_STRINGS = 3
"""Strings that end in a name, of which one is it: the one that most entries have."""
_CHUNK_NBYTES = 16 << 20
_MAX_PLACES = 2048
"""Places of one name that are looked at."""

_ENCODING_SIGNED = (5, 6)
"""DW_ATE_signed, DW_ATE_signed_char."""
_OP_ADDR = 3
"""DW_OP_addr."""


class DwarfGraph:
    """See `npdump.kernel.facts.graph.TypeGraph`.

    Parameters
    ----------
    elf : ELFFile
        With debug information; its file stays open as long as this is used.

    Raises
    ------
    FactError
        If the debug information is damaged; also later, when a type is asked for.
    """

    origin = "DWARF"

    def __init__(self, elf: ELFFile) -> None:
        with damage_as_fact_error(_DAMAGED):
            info: Any = elf.get_dwarf_info(relocate_dwarf_sections=elf["e_type"] == "ET_REL")
            self._raw = contents(info.debug_info_sec)
            strings = info.debug_str_sec
            self._strings = b"" if strings is None else contents(strings)
            self._info = info
        self._order = byte_order(elf)
        self._word_nbytes = elf.elfclass // 8
        self._made: dict[int, CType] = {}

    @cached_property
    def _unit_starts(self) -> list[int]:
        """Offsets of the compile units, of which only the lengths are looked at."""
        starts, at = [], 0
        order: Any = "little" if self._order == "<" else "big"
        while at + 4 <= len(self._raw):
            starts.append(at)
            nbytes = int.from_bytes(self._raw[at : at + 4], order)
            if nbytes >= 0xFFFFFFF0:
                raise FactError(f"{_DAMAGED}, or in the 64-bit form of DWARF, which npdump does not read")
            at += 4 + nbytes
        return starts

    def _near(self, offset: int) -> Any:
        return _Near(self._raw, offset)

    def _places(self, wanted: bytes) -> Iterator[int]:
        """Yield where some bytes are."""
        at = self._raw.find(wanted)
        while at >= 0:
            yield at
            at = self._raw.find(wanted, at + 1)

    def _entry(self, offset: int, key: str, key_at: int) -> Any:
        """Return the entry that begins at an offset and has an attribute at ``key_at``, None if none does."""
        i = bisect.bisect_right(self._unit_starts, offset) - 1
        if i < 0:
            return None
        try:
            unit: Any = self._info.get_CU_at(self._unit_starts[i])
            # Not by the unit, which keeps what it has read: this may be no entry at all.
            entry: Any = DIE(cu=unit, stream=self._near(offset), offset=offset)
            attribute = entry.attributes.get(key)
            is_c = number_of(unit.get_top_DIE(), "DW_AT_language") != LANG_RUST
        except Exception:  # bytes that are no entry make the library raise anything
            return None
        return entry if is_c and attribute is not None and attribute.offset == key_at else None

    def record(self, name: str) -> CType | None:
        """See `npdump.kernel.facts.graph.TypeGraph.record`."""
        with damage_as_fact_error(_DAMAGED):
            for at in self._name_places(name):
                for nbytes in range(1, _MAX_CODE_NBYTES + 1):
                    entry = self._defined(self._entry(at - nbytes, "DW_AT_name", at), name)
                    if entry is not None:
                        return self._type(entry)
        return None

    def _name_places(self, name: str) -> Iterator[int]:
        """Yield where there may be an entry's name."""
        encoded = name.encode() + b"\0"
        # The linker lets a string be the end of another; all that have one name share one string, though.
        offsets = np.array([found.start() for found in re.finditer(re.escape(encoded), self._strings)], np.uint32)
        is_wanted = np.zeros(len(self._strings) + 1, np.bool_)
        is_wanted[offsets] = True
        places, values = [np.empty(0, np.int64)], [np.empty(0, np.uint32)]
        for start in range(0, len(self._raw) - 3, _CHUNK_NBYTES):
            for skip in range(4):
                n = (min(start + _CHUNK_NBYTES + 3, len(self._raw)) - start - skip) // 4
                words = np.frombuffer(self._raw, np.dtype("u4").newbyteorder(self._order), n, start + skip)
                found = np.flatnonzero(is_wanted[np.minimum(words, len(self._strings))])
                places.append(start + skip + 4 * found)
                values.append(words[found].astype(np.uint32))
        place, value = np.concatenate(places), np.concatenate(values)
        counts = [(int(np.count_nonzero(value == offset)), int(offset)) for offset in offsets.tolist()]
        for _, offset in sorted(counts, reverse=True)[:_MAX_STRINGS]:
            yield from np.sort(place[value == offset])[:_MAX_PLACES].tolist()
        yield from islice(self._places(encoded), _MAX_PLACES)

    def _defined(self, entry: Any, name: str) -> Any:
        """Return the struct or union that an entry defines, or gives a name to; None if it is something else."""
        if entry is not None and entry.tag == "DW_TAG_typedef":
            try:
                entry = entry.get_DIE_from_attribute("DW_AT_type")
                # Bytes that are no entry may pass for a typedef, but hardly for one of a struct that is called so.
                if name_of(entry) not in (None, name, name.removesuffix("_t")):
                    return None
            except Exception:  # bytes that are no entry make the library raise anything
                return None
        return entry if entry is not None and entry.tag in RECORDS and self._is_whole(entry) else None

    def _is_whole(self, entry: Any) -> bool:
        """Return whether what follows an entry is its members, up to the place that it says."""
        sibling = number_of(entry, "DW_AT_sibling")
        try:
            at, depth, unit = entry.offset + entry.size, 1, entry.cu
            while depth and at < unit.cu_offset + unit.size:
                child: Any = DIE(cu=unit, stream=self._near(at), offset=at)
                depth += -1 if child.tag is None else child.has_children
                at += child.size
        except Exception:  # as above
            return False
        return bool(entry.has_children) and not depth and sibling == at - unit.cu_offset

    def variable(self, name: str, vaddr: int | None) -> CType | None:
        """See `npdump.kernel.facts.graph.TypeGraph.variable`."""
        if vaddr is None:
            return None
        order: Any = "little" if self._order == "<" else "big"
        location = bytes((1 + self._word_nbytes, _OP_ADDR)) + vaddr.to_bytes(self._word_nbytes, order)
        with damage_as_fact_error(_DAMAGED):
            for at in islice(self._places(location), _MAX_PLACES):
                for offset in range(at - 2, at - _MAX_FIELDS_NBYTES, -1):
                    entry = self._entry(offset, "DW_AT_location", at)
                    made = self._variable_type(entry, name) if entry is not None else None
                    if made is not None:
                        return made
        return None

    def _variable_type(self, entry: Any, name: str) -> CType | None:
        """Return the type of a variable, None if it isn't the one of that name."""
        if entry.tag != "DW_TAG_variable":
            return None
        declared = entry
        try:
            if "DW_AT_specification" in entry.attributes:
                # What was declared in a header has its name there, and mostly its type.
                declared = entry.get_DIE_from_attribute("DW_AT_specification")
            if name_of(declared) != name:
                return None
        except Exception:  # bytes that are no entry make the library raise anything
            return None
        return self._type_of(entry if "DW_AT_type" in entry.attributes else declared)

    def _type_of(self, entry: Any, depth: int = 0) -> CType:
        if "DW_AT_type" not in entry.attributes:
            return VOID
        return self._type(entry.get_DIE_from_attribute("DW_AT_type"), depth + 1)

    def _type(self, entry: Any, depth: int = 0) -> CType:
        made = self._made.get(entry.offset)
        if made is None:
            if depth > MAX_NESTING:
                raise FactError(f"{_DAMAGED}: types go round in a circle")
            made = self._made[entry.offset] = self._make(entry, depth)
        return made

    def _make(self, entry: Any, depth: int) -> CType:
        tag, name, nbytes = entry.tag, name_of(entry) or "", number_of(entry, "DW_AT_byte_size") or 0
        if tag in ALIASES:
            return self._type_of(entry, depth)
        if tag == "DW_TAG_pointer_type":
            return CType(Kind.POINTER, nbytes=self._word_nbytes, find_target=lambda: self._safe_target(entry))
        if tag == "DW_TAG_array_type":
            counts = [subrange_count(child) for child in children(entry) if child.tag == "DW_TAG_subrange_type"]
            return _array(self._type_of(entry, depth), counts or [0])
        if tag in RECORDS:
            if "DW_AT_declaration" in entry.attributes:
                return CType(RECORDS[tag], name, find_members=lambda: self._declared(name))
            return CType(RECORDS[tag], name, nbytes, find_members=lambda: self._members(entry))
        if tag == "DW_TAG_base_type":
            is_signed = number_of(entry, "DW_AT_encoding") in _ENCODING_SIGNED
            return CType(Kind.INT, name, nbytes, is_signed=is_signed)
        return CType(Kind.ENUM if tag == "DW_TAG_enumeration_type" else Kind.OTHER, name, nbytes)

    def _safe_target(self, entry: Any) -> CType:
        """Return what a pointer points to; of a struct that is only declared in this unit, the whole of it."""
        with damage_as_fact_error(_DAMAGED):
            made = self._type_of(entry)
            if made.is_record and not made.nbytes and made.name:
                return self.record(made.name) or made
            return made

    def _declared(self, name: str) -> list[tuple[str, Field]]:
        found = self.record(name) if name else None
        return found.find_members() if found is not None and found.find_members is not None else []

    def _members(self, entry: Any) -> list[tuple[str, Field]]:
        found = []
        with damage_as_fact_error(_DAMAGED):
            for child in children(entry):
                if child.tag == "DW_TAG_member":
                    is_bitfield = "DW_AT_bit_size" in child.attributes
                    field = Field(member_offset(child), self._type_of(child), is_bitfield)
                    found.append((name_of(child) or "", field))
        return found


class _Near:
    """The bytes around an entry as a stream: what is no entry may claim to have millions, which are not there."""

    def __init__(self, raw: bytes, start: int) -> None:
        self._stream = BytesIO(raw[start : start + _MAX_ENTRY_NBYTES])
        self._start = start
        self.read = self._stream.read

    def seek(self, offset: int, whence: int = 0) -> int:
        return self._stream.seek(max(offset - self._start, 0) if whence == 0 else offset, whence) + self._start

    def tell(self) -> int:
        return self._stream.tell() + self._start


def _array(element: CType, counts: list[int]) -> CType:
    """Return the type of an array of arrays of …; ``counts`` are their lengths, the outermost first."""
    for count in reversed(counts):
        of = element
        element = CType(
            Kind.ARRAY,
            nbytes=of.nbytes * count,
            n_elements=count,
            find_target=lambda of=of: of,  # type: ignore[misc]
        )
    return element

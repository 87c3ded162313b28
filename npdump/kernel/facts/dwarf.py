# SPDX-License-Identifier: GPL-2.0-or-later
"""DWARF: a kernel's types out of the debug information of its vmlinux.

Of the hundreds of megabytes only a few compile units are read: those that hold a function of which it is known that
its source file sees the wanted types.

References
----------
DWARF 5, sections 2 and 7.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

import numpy as np

from npdump.errors import FactError
from npdump.kernel.facts.elf_symbols import damage_as_fact_error
from npdump.kernel.facts.graph import Kind
from npdump.kernel.facts.types import Member, Struct, Types, TypesBuilder

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from elftools.elf.elffile import ELFFile

__all__ = [
    "children",
    "member_offset",
    "name_of",
    "number_of",
    "read_structs",
    "read_types",
    "subrange_count",
]

# A function (or the first of them that there is) of each source file whose types are wanted.
_FUNCTIONS = (
    ("get_page_from_freelist", "__alloc_pages", "__alloc_pages_nodemask", "free_pages"),  # mm/page_alloc.c
    ("sparse_init", "sparse_add_one_section", "memory_present"),  # mm/sparse.c
    ("register_console", "vprintk_emit"),  # kernel/printk/printk.c
    ("vmalloc", "vfree"),  # mm/vmalloc.c
    ("free_uts_ns", "copy_utsname"),  # kernel/utsname.c
    ("x86_numa_init", "numa_add_cpu", "arch_numa_init", "numa_clear_node"),  # where node_data is defined
)
ALIASES = {"DW_TAG_typedef", "DW_TAG_const_type", "DW_TAG_volatile_type", "DW_TAG_atomic_type", "DW_TAG_restrict_type"}
RECORDS = {"DW_TAG_structure_type": Kind.STRUCT, "DW_TAG_union_type": Kind.UNION}
MAX_NESTING = 32
LANG_RUST = 0x1C
_LOWEST, _HIGHEST = -(1 << 63), (1 << 64) - 1


def read_types(elf: ELFFile, symbols: dict[str, int]) -> Types:
    """Read the wanted types.

    Parameters
    ----------
    elf : ELFFile
    symbols : dict of str to int
        Addresses of its symbols, as linked.

    Raises
    ------
    FactError
        If the debug information is damaged.
    """
    with damage_as_fact_error("its debug information is damaged"):
        if not elf.has_dwarf_info(strict=True):
            return Types.none()
        return _Dwarf(elf, symbols).types()


def read_structs(elf: ELFFile, names: Collection[str]) -> dict[str, Struct]:
    """Read structs wherever they are, with the members of all that is inside them as their own.

    All of the debug information is looked through: this is for files that are smaller than a kernel's.

    Parameters
    ----------
    elf : ELFFile
    names : collection of str

    Raises
    ------
    FactError
        If the debug information is damaged.
    """
    found: dict[str, Struct] = {}
    with damage_as_fact_error("its debug information is damaged"):
        if not elf.has_dwarf_info(strict=True):
            return found
        dwarf = _Dwarf(elf, {}, enters_named=True)
        for unit in dwarf.all_units():
            for die in children(unit.get_top_DIE()):
                name = name_of(die) if die.tag in RECORDS else None
                if name in names and name not in found and "DW_AT_declaration" not in die.attributes:
                    found[str(name)] = dwarf.struct(die)
            if len(found) == len(names):
                break
    return found


class _Dwarf:
    """Reads the top level of a few compile units."""

    def __init__(self, elf: ELFFile, symbols: dict[str, int], enters_named: bool = False) -> None:
        self._enters_named = enters_named
        self._info = elf.get_dwarf_info(relocate_dwarf_sections=False)
        self._symbols = symbols
        self._word_nbytes = elf.elfclass // 8

    def types(self) -> Types:
        builder = TypesBuilder()
        for unit in self._units():
            top = unit.get_top_DIE()
            if number_of(top, "DW_AT_language") == LANG_RUST:
                continue
            for die in children(top):
                self._take(die, builder)
        return builder.types

    def _file(self, die: Any) -> str | None:
        """Return the source file that a DIE is declared in, as a path from the top of the kernel's sources."""
        number = number_of(die, "DW_AT_decl_file")
        program = self._info.line_program_for_CU(die.cu)
        if number is None or program is None:
            return None
        directories = [os.fsdecode(name) for name in program.header["include_directory"]]
        files = program.header["file_entry"]
        if program.header["version"] < 5:
            # Both are counted from 1; directory 0 is the one that the compiler ran in.
            directories.insert(0, "")
            number -= 1
        if not 0 <= number < len(files) or not 0 <= files[number].dir_index < len(directories):
            return None
        return os.path.normpath(os.path.join(directories[files[number].dir_index], os.fsdecode(files[number].name)))

    def all_units(self) -> Iterator[Any]:
        """Yield every compile unit."""
        return iter(self._info.iter_CUs())

    def _units(self) -> Iterator[Any]:
        aranges = self._info.get_aranges()
        seen = set()
        for names in _FUNCTIONS:
            address = next((self._symbols[name] for name in names if name in self._symbols), None)
            if address is None:
                continue
            offset = aranges.cu_offset_at_addr(address) if aranges else None
            unit = self._info.get_CU_at(offset) if offset is not None else self._unit_of(address)
            if unit is not None and unit.cu_offset not in seen:
                seen.add(unit.cu_offset)
                yield unit

    def _unit_of(self, address: int) -> Any:
        """Look for a unit by its bounds, where the compiler wrote no table of them (clang)."""
        for unit in self._info.iter_CUs():
            top = unit.get_top_DIE()
            low, high = top.attributes.get("DW_AT_low_pc"), top.attributes.get("DW_AT_high_pc")
            if low is not None and high is not None:
                stop = high.value if high.form == "DW_FORM_addr" else low.value + high.value
                if low.value <= address < stop:
                    return unit
        return None

    def _take(self, die: Any, builder: TypesBuilder) -> None:
        # A variable that was declared in a header has its name there only.
        is_named_elsewhere = "DW_AT_specification" in die.attributes
        name = name_of(die.get_DIE_from_attribute("DW_AT_specification") if is_named_elsewhere else die)
        if name is None or "DW_AT_declaration" in die.attributes:
            return
        if die.tag in RECORDS:
            builder.struct(name, lambda: self.struct(die))
        elif die.tag == "DW_TAG_enumeration_type":
            builder.enum(name, lambda: (number_of(die, "DW_AT_byte_size") or 0, _enumerators(die)))
        elif die.tag == "DW_TAG_typedef":
            builder.typedef(name, lambda: self._size(die)[0], lambda: self._file(die))
        elif die.tag == "DW_TAG_variable":
            builder.variable(name, lambda: self._size(die)[1])

    def struct(self, die: Any) -> Struct:
        """Return a struct with all its members."""
        members: dict[str, Member] = {}
        self._members(die, 0, members)
        return Struct(number_of(die, "DW_AT_byte_size") or 0, members)

    def _type(self, die: Any) -> Any:
        """Return the type of a DIE without typedefs and qualifiers, None for void."""
        for _ in range(MAX_NESTING):
            if "DW_AT_type" not in die.attributes:
                return None
            die = die.get_DIE_from_attribute("DW_AT_type")
            if die.tag not in ALIASES:
                return die
        raise FactError("its debug information is damaged: types go round in a circle")

    def _size(self, die: Any, depth: int = 0) -> tuple[int, int]:
        """Return the bytes of a DIE's type, and its elements if it's an array, else 0."""
        of = self._type(die)
        if of is None or depth > MAX_NESTING:
            return 0, 0
        if of.tag == "DW_TAG_pointer_type":
            return self._word_nbytes, 0
        if of.tag != "DW_TAG_array_type":
            return number_of(of, "DW_AT_byte_size") or 0, 0
        counts = [subrange_count(child) for child in children(of) if child.tag == "DW_TAG_subrange_type"]
        element, _ = self._size(of, depth + 1)
        return element * int(np.prod(counts, dtype=object)), counts[0] if counts else 0

    def _members(self, die: Any, base: int, found: dict[str, Member], depth: int = 0) -> None:
        entered = []
        for child in children(die):
            if child.tag != "DW_TAG_member":
                continue
            offset = base + member_offset(child)
            name = name_of(child)
            if name is not None:
                found.setdefault(name, Member(offset, *self._size(child)))
            if name is None or self._enters_named:
                entered.append((child, offset))
        for child, offset in entered if depth < MAX_NESTING else ():
            inner = self._type(child)
            if inner is not None and inner.tag in RECORDS:
                self._members(inner, offset, found, depth + 1)


def children(die: Any) -> Iterator[Any]:
    """Yield the children of a DIE.

    Raises
    ------
    FactError
        If one leads back to an earlier one, where the library goes round for ever.
    """
    last = die.offset
    for child in die.iter_children():
        if child.offset <= last:
            raise FactError("its debug information is damaged: entries go round in a circle")
        last = child.offset
        yield child


def name_of(die: Any) -> str | None:
    """Return the name of a DIE."""
    attribute = die.attributes.get("DW_AT_name")
    return os.fsdecode(attribute.value) if attribute is not None else None


def number_of(die: Any, key: str) -> int | None:
    """Return an attribute that is a number of 64 bits; LEB128, if it's damaged, may go on for megabytes."""
    attribute = die.attributes.get(key)
    value = attribute.value if attribute is not None else None
    return value if isinstance(value, int) and _LOWEST <= value <= _HIGHEST else None


def _enumerators(die: Any) -> dict[str, int]:
    return {str(name_of(child)): number_of(child, "DW_AT_const_value") or 0 for child in children(die)}


def subrange_count(subrange: Any) -> int:
    """Return how many elements an array has; 0 if that is not said."""
    count = number_of(subrange, "DW_AT_count")
    if count is not None:
        return count
    upper = number_of(subrange, "DW_AT_upper_bound")
    return 0 if upper is None else upper + 1


def member_offset(die: Any) -> int:
    """Return where a member is in its struct, in bytes."""
    bits = number_of(die, "DW_AT_data_bit_offset")
    if bits is not None:
        return bits // 8
    attribute = die.attributes.get("DW_AT_data_member_location")
    if attribute is None:
        return 0  # a member of a union
    if isinstance(attribute.value, int):
        return min(max(attribute.value, _LOWEST), _HIGHEST)
    # DWARF 2: the expression DW_OP_plus_uconst N.
    value = shift = 0
    for byte in attribute.value[1:11]:
        value |= (byte & 0x7F) << shift
        shift += 7
    return min(value, _HIGHEST)

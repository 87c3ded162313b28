# SPDX-License-Identifier: GPL-2.0-or-later
"""The modules that a kernel has loaded, with their symbols and types, all out of its memory.

References
----------
Linux ``include/linux/module.h``, and ``struct btf_module`` in ``kernel/bpf/btf.c`` (36e68442d1af, v5.11).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from npdump.errors import FactError
from npdump.layouts import elf

if TYPE_CHECKING:
    from npdump.kernel.facts.graph import CType
    from npdump.kernel.memory import VirtualMemory

__all__ = ["Module", "find_modules", "symbols_of"]

MAX_MODULES = 1 << 16
MAX_SYMBOLS = 1 << 20
"""Of a module; large ones have some ten thousand."""
MAX_NAMES_NBYTES = 1 << 26
_MAX_NAME_NBYTES = 256
_TABLES = (("kallsyms",), ("core_kallsyms",), ())
"""Where a struct module has its symbols: behind a pointer (Linux 8244062ef1e5, v4.5), or itself before."""


class Module(NamedTuple):
    """A loaded module: its name, the addresses and sizes of its symbols' tables, and of its BTF (0 if it has none)."""

    name: str
    symtab: int
    n_symbols: int
    strtab: int
    btf: int = 0
    btf_nbytes: int = 0


def find_modules(
    memory: VirtualMemory, head: int, record: CType, btf_head: int | None, btf_record: CType | None
) -> dict[str, Module]:
    """Return the loaded modules by name.

    Parameters
    ----------
    memory : VirtualMemory
    head : int
        Address of the list ``modules``.
    record : CType
        ``struct module``.
    btf_head, btf_record : int, CType or None
        Of the list ``btf_modules``, and ``struct btf_module``.

    Raises
    ------
    FactError, AddressError
        If the list is damaged, or not in the dump.
    """
    found = {}
    for vaddr in _entries(memory, head, record, "list"):
        name = _text(memory, vaddr + _offset(record, "name"))
        found[name] = Module(name, *_symbol_tables(memory, vaddr, record))
    if btf_head is None or btf_record is None:
        return found
    for vaddr in _entries(memory, btf_head, btf_record, "list"):
        name = _text(memory, memory.read_word(vaddr + _offset(btf_record, "module")) + _offset(record, "name"))
        at = memory.read_word(vaddr + _offset(btf_record, "btf"))
        btf = btf_record.members["btf"].type.target
        if name in found and at:
            data = memory.read_word(at + _offset(btf, "data"))
            nbytes = memory.read_u32(at + _offset(btf, "data_size"))
            found[name] = found[name]._replace(btf=data, btf_nbytes=nbytes)
    return found


def symbols_of(memory: VirtualMemory, module: Module) -> dict[str, int]:
    """Return the addresses of a module's symbols; of two of a name, the first.

    Raises
    ------
    FactError, AddressError
        If its tables are damaged, or not in the dump.
    """
    if not 0 < module.n_symbols <= MAX_SYMBOLS:
        raise FactError(f"module {module.name}: would have {module.n_symbols} symbols: its tables are damaged")
    dtype = elf.SYM[memory.word.itemsize * 8].newbyteorder(memory.space.byte_order)
    table = memory.read_array(module.symtab, dtype, module.n_symbols)
    table = table[(table["name"] != 0) & (table["shndx"] != 0)]
    if not len(table):
        return {}
    nbytes = int(table["name"].max()) + _MAX_NAME_NBYTES
    if nbytes > MAX_NAMES_NBYTES:
        raise FactError(f"module {module.name}: its symbols' names are damaged")
    names = memory.read_lossy(module.strtab, nbytes)[0].tobytes()
    found: dict[str, int] = {}
    for at, value in zip(table["name"].tolist(), table["value"].tolist(), strict=True):
        found.setdefault(names[at : names.find(b"\0", at)].decode("ascii", "replace"), value)
    return found


def _symbol_tables(memory: VirtualMemory, vaddr: int, record: CType) -> tuple[int, int, int]:
    """Return symtab, num_symtab and strtab of a module; zeros if it has none."""
    for path in _TABLES:
        at, of = vaddr, record
        for member in path:
            field = record.members.get(member)
            if field is None:
                break
            is_pointer = not field.type.is_record
            at = memory.read_word(vaddr + field.offset) if is_pointer else vaddr + field.offset
            of = field.type.target if is_pointer else field.type
        if at and "num_symtab" in of.members and "symtab" in of.members and "strtab" in of.members:
            symtab, strtab = (memory.read_word(at + _offset(of, name)) for name in ("symtab", "strtab"))
            return symtab, memory.read_u32(at + _offset(of, "num_symtab")), strtab
    return 0, 0, 0


def _entries(memory: VirtualMemory, head: int, record: CType, member: str) -> list[int]:
    """Return the addresses of the structs on a list."""
    offset = _offset(record, member)
    found: list[int] = []
    at = memory.read_word(head)
    while at != head:
        if not at or len(found) >= MAX_MODULES:
            raise FactError("the kernel's list of modules is damaged")
        found.append(at - offset)
        at = memory.read_word(at)
    return found


def _offset(record: CType, member: str) -> int:
    field = record.members.get(member)
    if field is None:
        raise FactError(f"{record} has no member {member}: the modules of this kernel can't be found")
    return field.offset


def _text(memory: VirtualMemory, vaddr: int) -> str:
    return memory.read_lossy(vaddr, 64)[0].tobytes().partition(b"\0")[0].decode("ascii", "replace")
